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

/// A master key under one secret, as `repo.json` has it. Bytes in hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wrap {
    /// A name for people, unique in the repository.
    pub label: String,
    /// Argon2id, if the secret is a passphrase.
    pub argon2id: Option<Stretch>,
    /// The sealed master key.
    pub sealed: String,
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
        Ok(Self { label: label.to_owned(), argon2id, sealed: to_hex(&sealed) })
    }

    /// The master key, if the secret is the right one.
    fn open(&self, secret: &Secret) -> Option<[u8; 32]> {
        let key = secret.key(self.argon2id.as_ref()).ok()?;
        let sealed = from_hex(&self.sealed)?;
        let cipher = XChaCha20Poly1305::new(Key::from_slice(&key));
        open(&cipher, &sealed, self.label.as_bytes())?.try_into().ok()
    }
}

/// The master key by whichever wrap the secret fits.
pub(crate) fn master(wraps: &[Wrap], secret: Option<&Secret>) -> Result<[u8; 32]> {
    let Some(secret) = secret else {
        return Err(Error::new(
            ErrorKind::Key,
            "the repository is encrypted: give its passphrase (--passphrase-file) or its key file (--key-file)",
        ));
    };
    wraps.iter().find_map(|wrap| wrap.open(secret)).ok_or_else(|| {
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
        assert_eq!(master(&wraps, Some(&pass)).unwrap(), key);
        assert_eq!(master(&wraps, Some(&file)).unwrap(), key);
        for wrong in [Secret::Passphrase("correct horsf".to_owned()), Secret::Key([8; 32])] {
            assert_eq!(master(&wraps, Some(&wrong)).unwrap_err().kind(), ErrorKind::Key);
        }
        assert_eq!(master(&wraps, None).unwrap_err().kind(), ErrorKind::Key);
        // A wrap under another label is another wrap.
        let moved = Wrap { label: "other".to_owned(), ..wraps[1].clone() };
        assert!(master(&[moved], Some(&file)).is_err());
        assert!(Secret::Passphrase("short".to_owned()).check().is_err());
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
