//! Messages of a client while options are haggled over.

use super::{
    MAX_QUERIES, OPTION_MAGIC, Violation,
    bytes::{Cursor, text},
};

/// What a client answers to the greeting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClientFlags {
    /// It speaks fixed newstyle.
    pub fixed_newstyle: bool,
    /// It wants no 124 zero bytes after `EXPORT_NAME`.
    pub no_zeroes: bool,
}

/// Bytes of the client's flags.
pub(crate) const CLIENT_FLAGS_SIZE: usize = 4;
/// Bytes of an option's header.
pub(crate) const OPTION_HEADER_SIZE: usize = 16;

/// The client's flags; `None` when there are fewer than four bytes yet.
///
/// # Errors
/// A flag that the protocol does not know: the connection must be closed.
pub fn parse_client_flags(bytes: &[u8]) -> Result<Option<ClientFlags>, Violation> {
    let Some((head, _)) = bytes.split_first_chunk::<CLIENT_FLAGS_SIZE>() else { return Ok(None) };
    let flags = u32::from_be_bytes(*head);
    if flags & !3 != 0 {
        return Err(Violation::Malformed("the client sent handshake flags that this server did not offer"));
    }
    Ok(Some(ClientFlags { fixed_newstyle: flags & 1 != 0, no_zeroes: flags & 2 != 0 }))
}

/// Header of an option.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OptionHeader {
    /// Which option (`OPT_*`).
    pub option: u32,
    /// Bytes of data that follow.
    pub length: u32,
}

/// The next option's header; `None` when there are fewer than 16 bytes yet.
///
/// # Errors
/// The magic number is wrong: the stream has lost its place, and the connection must be closed.
pub fn parse_option_header(bytes: &[u8]) -> Result<Option<OptionHeader>, Violation> {
    let Some((head, _)) = bytes.split_first_chunk::<OPTION_HEADER_SIZE>() else { return Ok(None) };
    let mut cursor = Cursor::new(head);
    if cursor.u64()? != OPTION_MAGIC {
        return Err(Violation::Malformed("an option does not start with IHAVEOPT"));
    }
    Ok(Some(OptionHeader { option: cursor.u32()?, length: cursor.u32()? }))
}

/// The name in `EXPORT_NAME`: the whole of its data.
///
/// # Errors
/// The name is not a string of the protocol.
pub fn parse_export_name(data: &[u8]) -> Result<&str, Violation> {
    text(data)
}

/// Data of `INFO` and `GO`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InfoRequest<'a> {
    /// The export; empty for the default one.
    pub name: &'a str,
    /// Items asked for (`INFO_*`), known or not.
    pub items: Vec<u16>,
}

/// Reads the data of `INFO` or `GO`.
///
/// # Errors
/// Lengths that do not add up, or a name that is not a string of the protocol.
pub fn parse_info_request(data: &[u8]) -> Result<InfoRequest<'_>, Violation> {
    let mut cursor = Cursor::new(data);
    let name = cursor.string()?;
    let count = cursor.u16()?;
    if cursor.left() != usize::from(count) * 2 {
        return Err(Violation::Malformed("the number of information requests does not fit the option's length"));
    }
    let items = (0..count).map(|_| cursor.u16()).collect::<Result<_, _>>()?;
    Ok(InfoRequest { name, items })
}

/// Data of `LIST_META_CONTEXT` and `SET_META_CONTEXT`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MetaRequest<'a> {
    /// The export; empty for the default one.
    pub name: &'a str,
    /// The queries, at most [`MAX_QUERIES`].
    pub queries: Vec<&'a str>,
}

/// Reads the data of `LIST_META_CONTEXT` or `SET_META_CONTEXT`.
///
/// # Errors
/// Lengths that do not add up, strings that are none, or too many queries.
pub fn parse_meta_request(data: &[u8]) -> Result<MetaRequest<'_>, Violation> {
    let mut cursor = Cursor::new(data);
    let name = cursor.string()?;
    let count = cursor.u32()?;
    if count > MAX_QUERIES {
        return Err(Violation::TooBig("more than 256 metadata queries in one option"));
    }
    let queries = (0..count).map(|_| cursor.string()).collect::<Result<_, _>>()?;
    cursor.end()?;
    Ok(MetaRequest { name, queries })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn string(text: &str) -> Vec<u8> {
        let mut out = (text.len() as u32).to_be_bytes().to_vec();
        out.extend_from_slice(text.as_bytes());
        out
    }

    #[test]
    fn client_flags_are_complete_known_or_refused() {
        assert_eq!(parse_client_flags(&[0, 0, 0]), Ok(None));
        let flags = parse_client_flags(&[0, 0, 0, 3]).unwrap().unwrap();
        assert!(flags.fixed_newstyle && flags.no_zeroes);
        assert!(parse_client_flags(&[0, 0, 0, 4]).is_err());
        assert!(parse_client_flags(&[0x80, 0, 0, 1]).is_err());
    }

    #[test]
    fn option_header_needs_its_magic() {
        let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
        bytes.extend_from_slice(&[0, 0, 0, 7, 0, 0, 1, 0]);
        assert_eq!(parse_option_header(&bytes), Ok(Some(OptionHeader { option: 7, length: 256 })));
        assert_eq!(parse_option_header(&bytes[..15]), Ok(None));
        bytes[0] ^= 1;
        assert!(parse_option_header(&bytes).is_err());
    }

    #[test]
    fn info_request_counts_must_fit() {
        let mut data = string("vol@snap");
        data.extend_from_slice(&[0, 2, 0, 1, 0, 3]);
        let request = parse_info_request(&data).unwrap();
        assert_eq!((request.name, request.items), ("vol@snap", vec![1, 3]));
        assert!(parse_info_request(&data[..data.len() - 1]).is_err());
        data.push(0);
        assert!(parse_info_request(&data).is_err());
        assert!(parse_info_request(&u32::MAX.to_be_bytes()).is_err());
    }

    #[test]
    fn meta_request_never_trusts_its_counts() {
        let mut data = string("vol");
        data.extend_from_slice(&2u32.to_be_bytes());
        data.extend(string("base:"));
        data.extend(string("cairn:changed-since=a"));
        assert_eq!(parse_meta_request(&data).unwrap().queries, ["base:", "cairn:changed-since=a"]);
        let mut huge = string("vol");
        huge.extend_from_slice(&u32::MAX.to_be_bytes());
        assert!(matches!(parse_meta_request(&huge), Err(Violation::TooBig(_))));
        let mut short = string("vol");
        short.extend_from_slice(&9u32.to_be_bytes());
        assert!(matches!(parse_meta_request(&short), Err(Violation::Malformed(_))));
    }

    #[test]
    fn strings_are_utf8_without_nul_and_bounded() {
        assert!(parse_export_name(b"a\0b").is_err());
        assert!(parse_export_name(&[0xff]).is_err());
        assert!(matches!(parse_export_name(&[b'a'; 4097]), Err(Violation::TooBig(_))));
        assert_eq!(parse_export_name(&[b'a'; 4096]).map(str::len), Ok(4096));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            parse_client_flags(&bytes).ok();
            parse_option_header(&bytes).ok();
            parse_export_name(&bytes).ok();
            if let Ok(request) = parse_info_request(&bytes) {
                prop_assert!(request.items.len() * 2 <= bytes.len());
            }
            if let Ok(request) = parse_meta_request(&bytes) {
                prop_assert!(request.queries.len() * 4 <= bytes.len());
            }
        }
    }
}
