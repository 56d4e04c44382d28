//! Secrets: made at random, kept as hashes.
//!
//! Invariants:
//! - What people choose is hashed with Argon2 on threads of its own: as many at once as there are processors, since each takes 19 MiB
//!   and a processor for a while; only so many more wait, and further ones are refused. One user, and one address, has no more than a part
//!   of these places, so that nobody keeps all others from logging in.
//! - What is random and long is hashed with BLAKE3: nothing can be guessed there.

use std::{
    net::IpAddr,
    sync::{Arc, LazyLock},
};

use argon2::{
    Argon2, PasswordHasher, PasswordVerifier,
    password_hash::{
        PasswordHash, SaltString,
        rand_core::{OsRng, RngCore},
    },
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer};
use tokio::sync::Semaphore;

use crate::{
    fault::{Answer, Fault, FaultKind},
    shares::Shares,
};

/// Most requests that wait for a processor.
const WAITING: usize = 64;
/// Most that are checked, or wait, at once for one user who has a token, and for one address that logs in, behind which there may be many.
const OF_USER: usize = WAITING / 4;
const OF_ADDRESS: usize = WAITING / 2;

/// A text that is shown to nobody.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(pub(crate) String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        // The usual refusal would repeat what was there instead.
        match serde_json::Value::deserialize(from)? {
            serde_json::Value::String(text) => Ok(Self(text)),
            _ => Err(serde::de::Error::custom("a secret has to be a text")),
        }
    }
}

/// So many random bytes, as a text that can stand in headers and paths.
pub(crate) fn random(bytes: usize) -> String {
    let mut random = vec![0; bytes];
    OsRng.fill_bytes(&mut random);
    URL_SAFE_NO_PAD.encode(random)
}

/// Hash of a secret that is random.
pub(crate) fn digest(secret: &str) -> String {
    blake3::hash(secret.as_bytes()).to_hex().to_string()
}

/// Hash of the key of a transfer, which is random: of no use for another one.
pub(crate) fn transfer_digest(transfer: &str, key: &str) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("cairn-service: key of the transfer of a volume");
    let _hasher = hasher.update(transfer.as_bytes()).update(&[0]).update(key.as_bytes());
    hasher.finalize().to_hex().to_string()
}

/// Whether this has the form of one. Earlier versions kept other hashes.
pub(crate) fn is_transfer_digest(hash: &str) -> bool {
    blake3::Hash::from_hex(hash).is_ok()
}

/// Whether two hashes are the same, in a time that tells nothing of where they differ.
pub(crate) fn same(one: &str, other: &str) -> bool {
    let hash = |text: &str| blake3::Hash::from_hex(text);
    matches!((hash(one), hash(other)), (Ok(one), Ok(other)) if one == other)
}

/// Hash of a secret that somebody chose, in PHC form. Takes some 20 ms.
pub(crate) fn hash(secret: &str) -> Answer<String> {
    let salt = SaltString::generate(&mut OsRng);
    let hash = Argon2::default().hash_password(secret.as_bytes(), &salt);
    hash.map(|hash| hash.to_string()).map_err(|e| Fault::internal(format!("a secret cannot be hashed: {e}")))
}

/// Whether a secret has this hash. Takes some 20 ms.
pub(crate) fn verify(secret: &str, hash: &str) -> bool {
    let hash = PasswordHash::new(hash);
    hash.is_ok_and(|hash| Argon2::default().verify_password(secret.as_bytes(), &hash).is_ok())
}

/// For whom something is hashed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum For {
    /// A user with a token, by id.
    User(String),
    /// Whoever logs in from there.
    Address(IpAddr),
}

impl For {
    fn most(&self) -> usize {
        match self {
            Self::User(_) => OF_USER,
            Self::Address(_) => OF_ADDRESS,
        }
    }
}

/// Where hashing takes place. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Hashing {
    places: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    shares: Shares<For>,
}

impl Default for Hashing {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self::new(processors, processors + WAITING)
    }
}

impl Hashing {
    fn new(places: usize, waiting: usize) -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Self { places: semaphore(places), waiting: semaphore(waiting), shares: Shares::default() }
    }

    /// The one of this process.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: LazyLock<Hashing> = LazyLock::new(Hashing::default);
        &SHARED
    }

    /// Runs what hashes for somebody, when there is a place.
    ///
    /// # Errors
    /// `TooMany` when they have their part of the places, `Unavailable` when too many wait; what `work` fails with.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        of: For,
        work: impl FnOnce() -> Answer<T> + Send + 'static,
    ) -> Answer<T> {
        let too_many = || Fault::new(FaultKind::TooMany, "too many secrets of yours are being checked: one at a time");
        let share = self.shares.take(&of, of.most()).ok_or_else(too_many)?;
        let busy = |_| Fault::new(FaultKind::Unavailable, "too many secrets are being checked: try again in a moment");
        let waits = self.waiting.clone().try_acquire_owned().map_err(busy)?;
        let closed = |_| Fault::internal("secrets are not checked any more");
        let place = self.places.clone().acquire_owned().await.map_err(closed)?;
        // The places go with the work and not with the request: a client that went away does not make room for another hash.
        let run = move || {
            let _places = (waits, place, share);
            work()
        };
        tokio::task::spawn_blocking(run).await.map_err(|_| Fault::internal("a secret could not be checked"))?
    }
}

#[cfg(test)]
impl Hashing {
    /// Takes all places that somebody may have, for as long as what this answers is kept.
    pub(crate) fn fill(&self, of: &For) -> Box<dyn std::any::Any> {
        Box::new((0..of.most()).map_while(|_| self.shares.take(of, of.most())).collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_verified_and_not_shown() {
        let hashed = hash("correct horse").unwrap();
        assert!(verify("correct horse", &hashed) && !verify("correct hors", &hashed) && !verify("", &hashed));
        assert!(!verify("x", "no hash"));
        assert!(!hashed.contains("correct"));
        assert_eq!(format!("{:?}", Secret("x".to_owned())), "Secret");
        let wrong = serde_json::from_str::<Secret>("[\"hunter2\"]").unwrap_err();
        assert!(!wrong.to_string().contains("hunter2"));
        assert_ne!(random(32), random(32));
        assert_eq!((random(32).len(), digest("a").len()), (43, 64));
    }

    fn user(name: &str) -> For {
        For::User(name.to_owned())
    }

    /// One that hashes until it is let go.
    fn held(hashing: &Hashing, of: For) -> (std::sync::mpsc::Sender<()>, tokio::task::JoinHandle<Answer<bool>>) {
        let (release, held) = std::sync::mpsc::channel::<()>();
        let hashing = hashing.clone();
        (release, tokio::spawn(async move { hashing.run(of, move || Ok(held.recv().is_ok())).await }))
    }

    #[tokio::test]
    async fn only_so_many_wait() {
        let hashing = Hashing::new(1, 2);
        let (release, first) = held(&hashing, user("a"));
        let second = tokio::spawn({
            let hashing = hashing.clone();
            async move { hashing.run(user("b"), || Ok(true)).await }
        });
        while hashing.waiting.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(hashing.run(user("c"), || Ok(true)).await.unwrap_err().kind, FaultKind::Unavailable);
        release.send(()).unwrap();
        assert_eq!((first.await.unwrap(), second.await.unwrap()), (Ok(true), Ok(true)));
        assert_eq!(hashing.run(user("c"), || Ok(true)).await, Ok(true));
    }

    #[tokio::test]
    async fn nobody_has_all_places() {
        let hashing = Hashing::new(OF_USER + 1, 2 * WAITING);
        let many: Vec<_> = (0..OF_USER).map(|_| held(&hashing, user("a"))).collect();
        while hashing.waiting.available_permits() > 2 * WAITING - OF_USER {
            tokio::task::yield_now().await;
        }
        assert_eq!(hashing.run(user("a"), || Ok(true)).await.unwrap_err().kind, FaultKind::TooMany);
        assert_eq!(hashing.run(user("b"), || Ok(true)).await, Ok(true));
        for (release, one) in many {
            release.send(()).unwrap();
            assert_eq!(one.await.unwrap(), Ok(true));
        }
        assert_eq!(hashing.run(user("a"), || Ok(true)).await, Ok(true));
        // Of one address half of those that wait.
        let address = For::Address([127, 0, 0, 1].into());
        let all = hashing.fill(&address);
        assert_eq!(hashing.run(address.clone(), || Ok(true)).await.unwrap_err().kind, FaultKind::TooMany);
        assert_eq!(hashing.run(user("a"), || Ok(true)).await, Ok(true));
        drop(all);
        assert_eq!(hashing.run(address, || Ok(true)).await, Ok(true));
    }

    #[test]
    fn the_key_of_a_transfer_is_of_use_for_that_one_alone() {
        let hash = transfer_digest("t", "key");
        assert!(is_transfer_digest(&hash) && same(&hash, &transfer_digest("t", "key")));
        assert!(!same(&hash, &transfer_digest("u", "key")) && !same(&hash, &transfer_digest("t", "Key")));
        assert!(transfer_digest("t", "ab") != transfer_digest("ta", "b") && hash != digest("key"));
        assert!(!is_transfer_digest("$argon2id$v=19$") && !same("x", "x"));
    }
}
