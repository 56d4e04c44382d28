//! People of a Keystone elsewhere: it says whose token a token is.
//!
//! Invariants:
//! - Nobody comes in but by an answer of Keystone that says so, which is at most [`Options::cache`] old and not past the token's end. Whatever
//!   else happens (nothing, errors, nonsense, too much) is 503.
//! - What Keystone is asked costs bounded time, memory and connections, whatever clients send and Keystone answers.
//! - One address has a part of the questions, and few about tokens that nobody has: so nobody keeps all others out by made up ones.
//! - Tokens are kept as hashes, but for the service's own.

mod client;
mod document;
mod known;
#[cfg(test)]
mod tests;

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;

use super::{
    Session,
    attempts::{Bound, Counter, PLACES, network},
    unauthorized,
};
use crate::{
    catalog::now_us,
    fault::{Answer, Fault, FaultKind},
    locks::Locks,
    secrets,
    shares::Shares,
};
use client::Client;
use document::Subject;
use known::Known;

/// Longest token that is asked about, in bytes.
const LONGEST: usize = 4096;
/// Questions at once.
const AT_ONCE: usize = 16;
/// Questions that wait for their turn; further ones are refused.
const WAITING: usize = 256;
/// Of them, those of one address, behind which there may be many.
const OF_ADDRESS: usize = WAITING / 8;
/// Questions of one address about tokens that nobody has. Programs come with tokens that have ended, again and again.
const STRANGERS: Bound = Bound { burst: 100, pause: Duration::from_millis(100) };
/// How long a question may take in all: its turn, a login of this service, and the same once more.
const PATIENCE: Duration = Duration::from_secs(10);

/// A Keystone, and who this service is there.
#[derive(Clone)]
pub struct Options {
    /// Its address, with or without `/v3`.
    pub url: String,
    /// Name of the user that this service logs in as: it has to be allowed to look at others' tokens.
    pub user: String,
    /// Name of the user's domain.
    pub user_domain: String,
    /// Name of the project that it logs in for.
    pub project: String,
    /// Name of the project's domain.
    pub project_domain: String,
    /// The user's password.
    pub password: String,
    /// Certificates that vouch for the server (PEM), beside those that the system trusts.
    pub ca: Option<PathBuf>,
    /// For how long an answer counts.
    pub cache: Duration,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Options({} as {})", self.url, self.user)
    }
}

struct Inner {
    client: Client,
    known: Known,
    at_once: Semaphore,
    waiting: Semaphore,
    /// Who has how many of those that wait.
    shares: Shares<IpAddr>,
    strangers: Counter,
    /// Tokens that are asked about now, by their hashes.
    asked: Locks,
}

/// A Keystone. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Keystone {
    inner: Arc<Inner>,
}

fn too_many() -> Fault {
    Fault::new(FaultKind::TooMany, "too many tokens that are not known came from this address: try again in a moment")
}

fn failed(why: &str) -> Fault {
    tracing::warn!(why, "Keystone cannot be asked about a token");
    unavailable()
}

fn unavailable() -> Fault {
    Fault::new(FaultKind::Unavailable, "the identity service does not answer as it should: try again later")
}

impl Keystone {
    /// Nothing is asked yet.
    ///
    /// # Errors
    /// `BadRequest` for an address or certificates that cannot be.
    pub(crate) fn new(options: Options) -> Answer<Self> {
        Self::bounded(options, STRANGERS)
    }

    fn bounded(options: Options, strangers: Bound) -> Answer<Self> {
        let inner = Inner {
            known: Known::new(options.cache),
            client: Client::new(options)?,
            at_once: Semaphore::new(AT_ONCE),
            waiting: Semaphore::new(WAITING),
            shares: Shares::default(),
            strangers: Counter::new(strangers, PLACES),
            asked: Locks::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Who asks, for which project, from this address.
    ///
    /// # Errors
    /// `Unauthorized`, also for a token without a project; `Forbidden` for one without a role that is known here; `TooMany` when too many
    /// tokens of the address have to be asked about; `Unavailable`.
    pub(super) async fn session(&self, token: Option<&str>, from: IpAddr) -> Answer<Session> {
        let is_token =
            |token: &&str| !token.is_empty() && token.len() <= LONGEST && token.bytes().all(|b| b.is_ascii_graphic());
        let token = token.filter(is_token).ok_or_else(unauthorized)?;
        let key = secrets::digest(token);
        let found = match self.inner.known.get(&key) {
            Some(found) => found,
            None => self.ask(token, &key, network(from)).await?,
        };
        match found {
            Some(subject) if subject.expires_us > now_us() => subject.session(),
            _ => Err(unauthorized()),
        }
    }

    async fn ask(&self, token: &str, key: &str, from: IpAddr) -> Answer<Option<Subject>> {
        let asked = async {
            // Many requests come with the same token at once: one of them asks, and only that one takes a place. Where answers count for no
            // time, each asks for itself.
            let _first = match self.inner.known.keeps_answers() {
                true => Some(self.inner.asked.hold(key).await),
                false => None,
            };
            match self.inner.known.get(key) {
                Some(found) => Ok(found),
                None => self.question(token, key, from).await,
            }
        };
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(outcome) => outcome,
            Err(_) => Err(failed("it took too long")),
        }
    }

    /// Asks Keystone, when there is a place.
    async fn question(&self, token: &str, key: &str, from: IpAddr) -> Answer<Option<Subject>> {
        let inner = &self.inner;
        let _share = inner.shares.take(&from, OF_ADDRESS).ok_or_else(too_many)?;
        let _place = inner.waiting.try_acquire().map_err(|_| unavailable())?;
        // It counts before it is asked, so that questions of one moment go past no bound together, and stays so for whoever goes away.
        if !inner.strangers.take(&from, Instant::now()) {
            return Err(too_many());
        }
        let _turn = inner.at_once.acquire().await.map_err(|_| unavailable())?;
        let found = inner.client.subject(token).await;
        if !matches!(found, Ok(None)) {
            inner.strangers.give_back(&from, Instant::now());
        }
        let found = found.map_err(|fault| failed(&fault.message))?;
        inner.known.put(key, found.clone());
        Ok(found)
    }
}
