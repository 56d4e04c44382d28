//! Small objects: one line that says what it is and the hash of the rest, then JSON, sealed for its name where the repository is encrypted.
//!
//! `cairn-<kind> 1 <BLAKE3 of the body, hex>\n<body>\n`

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    crypt::Keys,
    error::{Error, ErrorKind, Result, corrupt},
};

/// The format of everything in a repository.
pub(crate) const FORMAT: u32 = 1;

/// A value as the object of this name that holds it.
pub(crate) fn wrap<T: Serialize>(kind: &str, name: &str, value: &T, keys: &Keys) -> Vec<u8> {
    // Maps with keys that are no strings are the only values that JSON has no form for; there are none in these objects.
    let body = keys.seal(serde_json::to_vec(value).unwrap_or_default(), name.as_bytes());
    let mut bytes = format!("cairn-{kind} {FORMAT} {}\n", blake3::hash(&body).to_hex()).into_bytes();
    bytes.extend_from_slice(&body);
    bytes.push(b'\n');
    bytes
}

/// The value in the object of this name; errors call it `shown`.
pub(crate) fn unwrap<T: DeserializeOwned>(kind: &str, name: &str, shown: &str, bytes: &[u8], keys: &Keys) -> Result<T> {
    let damaged = |why: &str| corrupt(format!("{shown} is damaged: {why}"));
    let line_end = bytes.iter().position(|b| *b == b'\n').ok_or_else(|| damaged("it has no first line"))?;
    let (line, rest) = bytes.split_at(line_end);
    let line = std::str::from_utf8(line).map_err(|_| damaged("its first line is no text"))?;
    let mut words = line.split(' ');
    let found = words.next().and_then(|word| word.strip_prefix("cairn-"));
    if found != Some(kind) {
        return Err(damaged(&format!("it is no {kind} of a Cairn repository")));
    }
    match words.next().and_then(|word| word.parse::<u32>().ok()) {
        Some(FORMAT) => {}
        Some(newer) if newer > FORMAT => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("{shown} has format {newer}, this program knows {FORMAT}: use a newer Cairn"),
            ));
        }
        _ => return Err(damaged("its first line names no format")),
    }
    let hash = words.next().and_then(|word| blake3::Hash::from_hex(word).ok());
    let body = rest.strip_prefix(b"\n").and_then(|rest| rest.strip_suffix(b"\n"));
    let (Some(hash), Some(body), None) = (hash, body, words.next()) else {
        return Err(damaged("it is cut short, or its first line is"));
    };
    if blake3::hash(body) != hash {
        return Err(damaged("its content does not have the hash in its first line"));
    }
    let body =
        keys.open(body, name.as_bytes()).ok_or_else(|| damaged("it was not sealed with the key of this repository"))?;
    serde_json::from_slice(&body).map_err(|e| damaged(&e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypt::new_master;

    #[test]
    fn goes_there_and_back_and_every_changed_byte_is_noticed() {
        for keys in [Keys::none(), Keys::from_master(&new_master())] {
            let bytes = wrap("record", "log/7", &("a", 7), &keys);
            let read = |bytes: &[u8]| unwrap::<(String, u32)>("record", "log/7", "file:///r/log/7", bytes, &keys);
            assert_eq!(read(&bytes).unwrap(), ("a".to_owned(), 7));
            for at in 0..bytes.len() {
                let mut changed = bytes.clone();
                changed[at] ^= 1;
                let error = read(&changed).unwrap_err();
                assert!(error.to_string().contains("file:///r/log/7"), "{error}");
                assert!(read(&bytes[..at]).is_err());
            }
        }
    }

    #[test]
    fn another_kind_key_and_name_and_a_newer_format_are_told() {
        let keys = Keys::none();
        let bytes = wrap("record", "x", &7, &keys);
        assert_eq!(unwrap::<u32>("manifest", "x", "x", &bytes, &keys).unwrap_err().kind(), ErrorKind::Corrupt);
        let newer = String::from_utf8(bytes).unwrap().replacen(" 1 ", " 2 ", 1);
        let newer = unwrap::<u32>("record", "x", "x", newer.as_bytes(), &keys);
        assert_eq!(newer.unwrap_err().kind(), ErrorKind::Unsupported);
        let keys = Keys::from_master(&new_master());
        let bytes = wrap("record", "x", &7, &keys);
        assert!(unwrap::<u32>("record", "y", "y", &bytes, &keys).is_err());
        assert!(unwrap::<u32>("record", "x", "x", &bytes, &Keys::none()).is_err());
    }
}
