//! How objects are stored: one byte for the format of the record, then JSON.
//!
//! A field that a later version adds has a default, so that records of earlier versions are read as they are; a change that this does not
//! do takes the next number, and [`decode`] translates.

use serde::{Serialize, de::DeserializeOwned};
use std::time::{SystemTime, UNIX_EPOCH};

use super::{keys::Key, meters::Holding};
use crate::{
    fault::{Answer, Fault},
    priority::let_others,
};

const FORMAT: u8 = 1;

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Kind {
    /// In keys.
    pub(crate) tag: &'static str,
    /// For people.
    pub(crate) name: &'static str,
}

/// An object of the catalog.
pub(crate) trait Record: Serialize + DeserializeOwned + Clone {
    /// What it is.
    const KIND: Kind;
    /// Its id, unique within its kind.
    fn id(&self) -> &str;
    /// The entries that lead to it; each once in the catalog.
    fn entries(&self) -> Vec<Vec<u8>>;

    /// The project that it belongs to.
    fn owner(&self) -> Option<&str> {
        None
    }

    /// What it holds of space.
    fn holding(&self) -> Option<Holding> {
        None
    }

    /// Whether it tells of other objects, and is none that anybody acts on.
    fn is_about_others() -> bool {
        false
    }
}

/// Key of an object.
pub(super) fn key_of(kind: Kind, id: &str) -> Vec<u8> {
    Key::new("o").with(kind.tag).with(id).bytes()
}

/// What all objects of a kind begin with.
pub(super) fn all_of(kind: Kind) -> Vec<u8> {
    Key::new("o").with(kind.tag).bytes()
}

pub(super) fn encode<T: Serialize>(value: &T) -> Answer<Vec<u8>> {
    let mut bytes = vec![FORMAT];
    serde_json::to_writer(&mut bytes, value).map_err(|e| Fault::internal(format!("a record has no form: {e}")))?;
    Ok(bytes)
}

pub(super) fn decode<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Answer<T> {
    // Lists decode thousands.
    let_others();
    match bytes.split_first() {
        Some((&FORMAT, json)) => serde_json::from_slice(json)
            .map_err(|e| Fault::internal(format!("a record of the catalog ({what}) is damaged: {e}"))),
        Some((format, _)) => Err(Fault::internal(format!(
            "a record of the catalog ({what}) has format {format}: a newer version wrote it, upgrade this one"
        ))),
        None => Err(Fault::internal(format!("a record of the catalog ({what}) is empty"))),
    }
}

/// Microseconds since 1970.
pub(crate) fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_and_strangers_are_refused() {
        let bytes = encode(&vec![1, 2]).unwrap();
        assert_eq!(decode::<Vec<u8>>("x", &bytes).unwrap(), [1, 2]);
        assert!(decode::<Vec<u8>>("x", &[]).unwrap_err().message.contains("empty"));
        assert!(decode::<Vec<u8>>("x", &[9, b'1']).unwrap_err().message.contains("newer"));
        assert!(decode::<Vec<u8>>("x", &[1, b'{']).unwrap_err().message.contains("damaged"));
    }
}
