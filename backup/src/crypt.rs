//! Keys: what chunks are named and sealed with, and how the one key of a repository is kept.
//!
//! An encrypted repository has a random master key. It is stored only *wrapped*: sealed with a key that Argon2id makes of a passphrase, or
//! that a key file holds. A repository can have several wraps; changing a passphrase changes wraps, never chunks. From the master key
//! two others follow: one for names of chunks, one for sealing.

use std::borrow::Cow;

use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::{
    Key, XChaCha20Poly1305, XNonce,
    aead::{Aead, KeyInit, OsRng, Payload, rand_core::RngCore},
};
use serde::{Deserialize, Serialize};

use crate::{
    chunk::ChunkId,
    error::{Error, ErrorKind, Result, corrupt, invalid},
};

const NONCE: usize = 24;
/// Shortest passphrase, in bytes.
const SHORTEST: usize = 8;
/// The most that stretching a passphrase may take, whatever a key's object asks for: KiB (1 GiB), passes, lanes.
const MOST_STRETCH: (u32, u32, u32) = (1 << 20, 64, 16);

/// What opens an encrypted repository.
#[derive(Clone)]
pub enum Secret {
    /// Something to remember, of at least 8 bytes.
    Passphrase(String),
    /// 32 random bytes, as from a key file.
    Key([u8; 32]),
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Passphrase(_) => "Passphrase(…)",
            Self::Key(_) => "Key(…)",
        })
    }
}

/// A master key under one secret, as an object under `keys/` has it. Bytes in hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wrap {
    /// A name for people, unique in the repository.
    pub label: String,
    /// Argon2id, if the secret is a passphrase.
    pub argon2id: Option<Stretch>,
    /// The sealed master key.
    pub sealed: String,
    /// Which master key that is: a hash derived from it, which tells nothing about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master: Option<String>,
}

/// How a passphrase becomes a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stretch {
    /// Random, 16 bytes.
    pub salt: String,
    /// KiB.
    pub memory: u32,
    /// Passes.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

/// The keys of an open repository; without encryption, names are plain hashes and nothing is sealed.
#[derive(Clone)]
pub(crate) struct Keys {
    derived: Option<Derived>,
}

#[derive(Clone)]
struct Derived {
    names: [u8; 32],
    seal: XChaCha20Poly1305,
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    OsRng.fill_bytes(&mut bytes);
    bytes
}

/// A name for a master key, which tells nothing about it.
pub(crate) fn master_name(master: &[u8; 32]) -> String {
    to_hex(&blake3::derive_key("cairn backup 1 name of the master key", master))
}

/// A new random key.
pub(crate) fn new_master() -> [u8; 32] {
    random()
}

impl Secret {
    /// A key of 64 hexadecimal digits; `None` if the text is something else.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        from_hex(text)?.try_into().ok().map(Self::Key)
    }

    /// A secret that a user may choose.
    ///
    /// # Errors
    /// `Invalid` for a passphrase that is too short.
    pub fn check(&self) -> Result<()> {
        match self {
            Self::Passphrase(text) if text.len() < SHORTEST => {
                Err(invalid(format!("the passphrase has {} bytes: use at least {SHORTEST}", text.len())))
            }
            _ => Ok(()),
        }
    }

    fn key(&self, stretch: Option<&Stretch>) -> Result<[u8; 32]> {
        match (self, stretch) {
            (Self::Key(key), None) => Ok(*key),
            (Self::Passphrase(text), Some(stretch)) => {
                let damaged = |_| corrupt("the repository's key parameters are damaged");
                let (memory, passes, lanes) = MOST_STRETCH;
                if stretch.memory > memory || stretch.passes > passes || stretch.lanes > lanes {
                    return Err(corrupt("the repository's key parameters ask for more than any key of its kind"));
                }
                let params = Params::new(stretch.memory, stretch.passes, stretch.lanes, Some(32)).map_err(damaged)?;
                let salt = from_hex(&stretch.salt).ok_or_else(|| corrupt("the repository's key salt is damaged"))?;
                let mut key = [0; 32];
                Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
                    .hash_password_into(text.as_bytes(), &salt, &mut key)
                    .map_err(|e| corrupt(format!("the repository's key parameters are damaged ({e})")))?;
                Ok(key)
            }
            _ => Err(Error::new(ErrorKind::Key, "a key of another sort")),
        }
    }
}

impl Wrap {
    /// Seals a master key under a secret.
    pub(crate) fn new(label: &str, secret: &Secret, master: &[u8; 32]) -> Result<Self> {
        let argon2id = matches!(secret, Secret::Passphrase(_)).then(|| {
            // 64 MiB and three passes: a quarter of a second once for each opening.
            Stretch { salt: to_hex(&random::<16>()), memory: 65_536, passes: 3, lanes: 1 }
        });
        let key = secret.key(argon2id.as_ref())?;
        let sealed = seal(&XChaCha20Poly1305::new(Key::from_slice(&key)), master, label.as_bytes());
        Ok(Self { label: label.to_owned(), argon2id, sealed: to_hex(&sealed), master: Some(master_name(master)) })
    }

    /// The master key, if the secret is the right one.
    fn open(&self, secret: &Secret) -> Option<[u8; 32]> {
        let key = secret.key(self.argon2id.as_ref()).ok()?;
        let sealed = from_hex(&self.sealed)?;
        let cipher = XChaCha20Poly1305::new(Key::from_slice(&key));
        open(&cipher, &sealed, self.label.as_bytes())?.try_into().ok()
    }
}

/// The master key of this name by whichever wrap the secret fits; any, if the name is not known.
pub(crate) fn master(wraps: &[Wrap], secret: Option<&Secret>, name: Option<&str>) -> Result<[u8; 32]> {
    let Some(secret) = secret else {
        return Err(Error::new(
            ErrorKind::Key,
            "the repository is encrypted: give its passphrase (--passphrase-file) or its key file (--key-file)",
        ));
    };
    let is_it = |master: &[u8; 32]| name.is_none_or(|name| name == master_name(master));
    wraps.iter().filter_map(|wrap| wrap.open(secret)).find(is_it).ok_or_else(|| {
        Error::new(ErrorKind::Key, "the passphrase or key does not fit this repository: it opens none of its keys")
    })
}

impl Keys {
    pub(crate) fn none() -> Self {
        Self { derived: None }
    }

    pub(crate) fn from_master(master: &[u8; 32]) -> Self {
        let derive = |what| blake3::derive_key(what, master);
        let seal = XChaCha20Poly1305::new(Key::from_slice(&derive("cairn backup 1 sealing of chunks")));
        Self { derived: Some(Derived { names: derive("cairn backup 1 names of chunks"), seal }) }
    }

    /// The name of some content.
    pub(crate) fn name(&self, content: &[u8]) -> ChunkId {
        ChunkId(match &self.derived {
            Some(keys) => *blake3::keyed_hash(&keys.names, content).as_bytes(),
            None => *blake3::hash(content).as_bytes(),
        })
    }

    /// The stored form of some bytes, bound to what they stand for.
    pub(crate) fn seal(&self, bytes: Vec<u8>, place: &[u8]) -> Vec<u8> {
        self.seal_if_any(&bytes, place).unwrap_or(bytes)
    }

    /// The same; `None` if nothing is sealed here.
    pub(crate) fn seal_if_any(&self, bytes: &[u8], place: &[u8]) -> Option<Vec<u8>> {
        self.derived.as_ref().map(|keys| seal(&keys.seal, bytes, place))
    }

    /// The bytes of a stored form; `None` if it is not what was sealed for this place with this key.
    pub(crate) fn open<'a>(&self, stored: &'a [u8], place: &[u8]) -> Option<Cow<'a, [u8]>> {
        match &self.derived {
            Some(keys) => open(&keys.seal, stored, place).map(Cow::Owned),
            None => Some(Cow::Borrowed(stored)),
        }
    }
}

fn seal(cipher: &XChaCha20Poly1305, bytes: &[u8], place: &[u8]) -> Vec<u8> {
    let nonce: [u8; NONCE] = random();
    let mut sealed = nonce.to_vec();
    // Fails only for more bytes than fit into memory.
    let box_ = cipher.encrypt(XNonce::from_slice(&nonce), Payload { msg: bytes, aad: place }).unwrap_or_default();
    sealed.extend_from_slice(&box_);
    sealed
}

fn open(cipher: &XChaCha20Poly1305, sealed: &[u8], place: &[u8]) -> Option<Vec<u8>> {
    let (nonce, box_) = sealed.split_at_checked(NONCE)?;
    cipher.decrypt(XNonce::from_slice(nonce), Payload { msg: box_, aad: place }).ok()
}

pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    pairs.iter().map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_master_key_opens_with_each_of_its_secrets_and_no_other() {
        let key = new_master();
        let (pass, file) = (Secret::Passphrase("correct horse".to_owned()), Secret::Key([9; 32]));
        let wraps = [Wrap::new("first", &pass, &key).unwrap(), Wrap::new("file", &file, &key).unwrap()];
        assert_eq!(master(&wraps, Some(&pass), None).unwrap(), key);
        assert_eq!(master(&wraps, Some(&file), None).unwrap(), key);
        for wrong in [Secret::Passphrase("correct horsf".to_owned()), Secret::Key([8; 32])] {
            assert_eq!(master(&wraps, Some(&wrong), None).unwrap_err().kind(), ErrorKind::Key);
        }
        assert_eq!(master(&wraps, None, None).unwrap_err().kind(), ErrorKind::Key);
        // A wrap under another label is another wrap.
        let moved = Wrap { label: "other".to_owned(), ..wraps[1].clone() };
        assert!(master(&[moved], Some(&file), None).is_err());
        assert!(Secret::Passphrase("short".to_owned()).check().is_err());
        // Of wraps that one secret opens, the name tells which is meant.
        let other = Wrap::new("first", &file, &new_master()).unwrap();
        let both = [other.clone(), wraps[1].clone()];
        assert_eq!(master(&both, Some(&file), Some(&master_name(&key))).unwrap(), key);
        assert_eq!(master(&[other], Some(&file), Some(&master_name(&key))).unwrap_err().kind(), ErrorKind::Key);
    }

    #[test]
    fn a_key_that_asks_for_all_memory_is_not_tried() {
        let pass = Secret::Passphrase("correct horse".to_owned());
        let wrap = Wrap::new("first", &pass, &new_master()).unwrap();
        let stretch = wrap.argon2id.clone().unwrap();
        let absurd = [
            Stretch { memory: u32::MAX, ..stretch.clone() },
            Stretch { passes: u32::MAX, ..stretch.clone() },
            Stretch { lanes: 1 << 20, memory: 1 << 20, ..stretch },
        ];
        for stretch in absurd {
            let wrap = Wrap { argon2id: Some(stretch), ..wrap.clone() };
            assert_eq!(master(&[wrap], Some(&pass), None).unwrap_err().kind(), ErrorKind::Key);
        }
    }

    #[test]
    fn what_is_sealed_opens_in_its_place_only() {
        let keys = Keys::from_master(&new_master());
        let sealed = keys.seal(b"content".to_vec(), b"pack 1, 0");
        // Nonce and tag.
        assert_eq!(sealed.len(), 7 + 24 + 16);
        assert_eq!(&keys.open(&sealed, b"pack 1, 0").unwrap()[..], b"content");
        assert!(keys.open(&sealed, b"pack 1, 8").is_none());
        assert!(Keys::from_master(&new_master()).open(&sealed, b"pack 1, 0").is_none());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(keys.open(&changed, b"pack 1, 0").is_none(), "byte {at}");
        }
        assert_ne!(keys.name(b"x"), Keys::none().name(b"x"), "names tell nothing about content");
        assert_eq!(&Keys::none().open(&Keys::none().seal(b"x".to_vec(), b"p"), b"q").unwrap()[..], b"x");
    }

    #[test]
    fn hexadecimal_digits_go_there_and_back() {
        assert_eq!(from_hex(&to_hex(&[0, 1, 0xfe])).unwrap(), [0, 1, 0xfe]);
        assert!(from_hex("0g").is_none() && from_hex("abc").is_none());
    }
}
