//! Fixed newstyle negotiation: structured replies if the server has them, then `GO`.

use cairn_engine::{Error, ErrorKind, Result};

use super::{connection::Connection, protocol};

const NBDMAGIC: u64 = 0x4e42_444d_4147_4943;
const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;

const FIXED_NEWSTYLE: u16 = 1;
const NO_ZEROES: u16 = 2;

const OPT_GO: u32 = 7;
const OPT_STRUCTURED_REPLY: u32 = 8;

const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const REP_ERROR: u32 = 1 << 31;
const REP_ERR_POLICY: u32 = REP_ERROR + 2;
const REP_ERR_TLS_REQD: u32 = REP_ERROR + 5;
const REP_ERR_UNKNOWN: u32 = REP_ERROR + 6;

const INFO_EXPORT: u16 = 0;
const INFO_BLOCK_SIZE: u16 = 3;

const HAS_FLAGS: u16 = 1;
const READ_ONLY: u16 = 1 << 1;
const SEND_FLUSH: u16 = 1 << 2;

pub(crate) const CMD_DISC: u16 = 2;

/// Longest answer to an option that is read.
const MAX_ANSWER: u32 = 64 << 10;
/// Largest request that any server must take.
const MAX_REQUEST: u32 = 32 << 20;

/// What the server says of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Export {
    pub(crate) size: u64,
    flags: u16,
    /// Unit of offsets and lengths.
    pub(crate) minimum: u32,
    /// Longest request.
    pub(crate) maximum: u32,
    /// Whether replies are structured.
    pub(crate) structured: bool,
}

impl Export {
    pub(crate) fn is_read_only(&self) -> bool {
        self.flags & (HAS_FLAGS | READ_ONLY) == HAS_FLAGS | READ_ONLY
    }

    pub(crate) fn can_flush(&self) -> bool {
        self.flags & (HAS_FLAGS | SEND_FLUSH) == HAS_FLAGS | SEND_FLUSH
    }
}

/// Negotiates up to transmission.
pub(crate) fn enter(connection: &mut Connection, name: &str) -> Result<Export> {
    let greeting: [u64; 2] = [u64::from_be_bytes(connection.receive()?), u64::from_be_bytes(connection.receive()?)];
    if greeting[0] != NBDMAGIC {
        return Err(protocol("it is no NBD server"));
    }
    let flags = u16::from_be_bytes(connection.receive()?);
    if greeting[1] != IHAVEOPT || flags & FIXED_NEWSTYLE == 0 {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "the server speaks an old style of NBD: it needs the fixed newstyle",
        ));
    }
    connection.send(&u32::from(flags & (FIXED_NEWSTYLE | NO_ZEROES)).to_be_bytes())?;
    option(connection, OPT_STRUCTURED_REPLY, &[])?;
    let structured = match answer(connection, OPT_STRUCTURED_REPLY)? {
        (REP_ACK, _) => true,
        (REP_ERR_TLS_REQD, text) => return Err(refused(REP_ERR_TLS_REQD, &text, name)),
        _ => false,
    };
    go(connection, name, structured)
}

fn go(connection: &mut Connection, name: &str, structured: bool) -> Result<Export> {
    let length = u32::try_from(name.len()).unwrap_or(u32::MAX);
    let data = [&length.to_be_bytes(), name.as_bytes(), &1u16.to_be_bytes(), &INFO_BLOCK_SIZE.to_be_bytes()].concat();
    option(connection, OPT_GO, &data)?;
    let mut export = None;
    let (mut minimum, mut maximum) = (1, MAX_REQUEST);
    loop {
        match answer(connection, OPT_GO)? {
            (REP_ACK, _) => break,
            (REP_INFO, data) => match information(&data)? {
                Information::Export { size, flags } => export = Some((size, flags)),
                Information::Block { smallest, largest } => {
                    minimum = smallest;
                    maximum = largest.min(MAX_REQUEST);
                }
                Information::Other => {}
            },
            (kind, text) if kind & REP_ERROR != 0 => return Err(refused(kind, &text, name)),
            (kind, _) => return Err(protocol(format!("answer {kind} to GO"))),
        }
    }
    let (size, flags) = export.ok_or_else(|| protocol("no size of the export"))?;
    Ok(Export { size, flags, minimum, maximum, structured })
}

enum Information {
    Export { size: u64, flags: u16 },
    Block { smallest: u32, largest: u32 },
    Other,
}

fn information(data: &[u8]) -> Result<Information> {
    let short = || protocol("a short item of information");
    let (kind, rest) = data.split_first_chunk().ok_or_else(short)?;
    Ok(match u16::from_be_bytes(*kind) {
        INFO_EXPORT => {
            let (size, rest) = rest.split_first_chunk().ok_or_else(short)?;
            let (flags, _) = rest.split_first_chunk().ok_or_else(short)?;
            Information::Export { size: u64::from_be_bytes(*size), flags: u16::from_be_bytes(*flags) }
        }
        INFO_BLOCK_SIZE => {
            let (smallest, rest) = rest.split_first_chunk().ok_or_else(short)?;
            let largest = rest.last_chunk().ok_or_else(short)?;
            Information::Block { smallest: u32::from_be_bytes(*smallest), largest: u32::from_be_bytes(*largest) }
        }
        _ => Information::Other,
    })
}

fn option(connection: &mut Connection, option: u32, data: &[u8]) -> Result<()> {
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let bytes = [&IHAVEOPT.to_be_bytes()[..], &option.to_be_bytes(), &length.to_be_bytes(), data].concat();
    connection.send(&bytes)
}

/// An answer to an option: its kind and its bytes.
fn answer(connection: &mut Connection, option: u32) -> Result<(u32, Vec<u8>)> {
    if u64::from_be_bytes(connection.receive()?) != OPTION_REPLY {
        return Err(protocol("no answer to an option"));
    }
    if u32::from_be_bytes(connection.receive()?) != option {
        return Err(protocol("an answer to another option"));
    }
    let kind = u32::from_be_bytes(connection.receive()?);
    let length = u32::from_be_bytes(connection.receive()?);
    if length > MAX_ANSWER {
        return Err(protocol(format!("an answer of {length} bytes")));
    }
    let mut data = vec![0; length as usize];
    connection.receive_into(&mut data)?;
    Ok((kind, data))
}

fn refused(kind: u32, text: &[u8], name: &str) -> Error {
    let text = String::from_utf8_lossy(text);
    let text = if text.is_empty() { String::new() } else { format!(" ({text})") };
    match kind {
        REP_ERR_UNKNOWN => Error::new(
            ErrorKind::NotFound,
            format!("the server has no export {name:?}{text}: nbdinfo --list names those it has"),
        ),
        REP_ERR_TLS_REQD => Error::new(
            ErrorKind::Unsupported,
            format!("the server wants TLS{text}: measure without, on a unix socket or on loopback"),
        ),
        REP_ERR_POLICY => Error::new(ErrorKind::Invalid, format!("the server does not allow it{text}")),
        _ => Error::new(
            ErrorKind::Unsupported,
            format!("the server refuses the export with error {}{text}", kind & !REP_ERROR),
        ),
    }
}
