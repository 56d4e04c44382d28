//! Long work as its user sees it: how far it is, a limit on its rate, and an end to it.

use std::{
    collections::HashSet,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use cairn_qos::{Decision, Key, Kind, Leaf, Limits, Nanos, Node, Request, Ticket, Tree};
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// Longest sleep of what waits for the limit.
const PATIENCE: Duration = Duration::from_millis(200);

/// How far a job is. Bytes of volume content, but for `transferred`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Done so far.
    pub done: u64,
    /// All that is to do, as far as it is known; 0: not yet.
    pub total: u64,
    /// Bytes written to or read from the repository.
    pub transferred: u64,
}

#[derive(Default)]
struct Inner {
    done: AtomicU64,
    total: AtomicU64,
    transferred: AtomicU64,
    cancelled: AtomicBool,
    limit: Mutex<Limit>,
}

impl Inner {
    fn limit(&self) -> MutexGuard<'_, Limit> {
        self.limit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A job's progress, limit and end. Clones are the same job.
///
/// ```
/// let job = cairn_backup::Job::new();
/// job.set_limit(Some(100 << 20));
/// assert_eq!(job.progress().done, 0);
/// job.cancel();
/// ```
#[derive(Clone, Default)]
pub struct Job {
    inner: Arc<Inner>,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Job({:?})", self.progress())
    }
}

impl Job {
    /// One that has not begun.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        Progress {
            done: self.inner.done.load(Ordering::Relaxed),
            total: self.inner.total.load(Ordering::Relaxed),
            transferred: self.inner.transferred.load(Ordering::Relaxed),
        }
    }

    /// Ends it at the next opportunity, with `Cancelled`.
    pub fn cancel(&self) {
        self.inner.cancelled.store(true, Ordering::Relaxed);
    }

    /// How many bytes a second (at least one) may go to or come from the repository; it holds from now on.
    pub fn set_limit(&self, bytes_per_second: Option<u64>) {
        let rate = bytes_per_second.map(|rate| (Key::TotalBytes.name(), Some(rate.max(1).to_string())));
        let changes = rate.iter().map(|(name, rate)| (*name, rate.as_deref()));
        let limits = Limits::none().changed(changes).unwrap_or_default();
        let mut limit = self.inner.limit();
        let (leaf, now) = (limit.leaf, limit.now());
        limit.tree.set_limits(Node::Leaf(leaf), limits, 0, now);
    }

    /// How far it has to go, in bytes. For whoever does the work.
    pub fn set_total(&self, total: u64) {
        self.inner.total.store(total, Ordering::Relaxed);
    }

    /// So many bytes more are done. For whoever does the work.
    pub fn advance(&self, bytes: u64) {
        let _before = self.inner.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Whether it goes on. For whoever does the work.
    ///
    /// # Errors
    /// `Cancelled`.
    pub fn check(&self) -> Result<()> {
        match self.inner.cancelled.load(Ordering::Relaxed) {
            true => Err(Error::new(ErrorKind::Cancelled, "cancelled")),
            false => Ok(()),
        }
    }

    /// Counts bytes that are about to be transferred, and waits as long as the limit wants.
    pub(crate) async fn transfer(&self, bytes: u64) -> Result<()> {
        self.check()?;
        let _before = self.inner.transferred.fetch_add(bytes, Ordering::Relaxed);
        let Some(mut turn) = Turn::of(&self.inner, bytes) else { return Ok(()) };
        while let Some(wait) = turn.wait() {
            // In short pieces, so that a cancelled job ends soon and a new limit counts soon.
            tokio::time::sleep(wait.min(PATIENCE)).await;
            self.check()?;
        }
        Ok(())
    }
}

/// The limit of a job, with what waits for it.
struct Limit {
    tree: Tree,
    leaf: Leaf,
    /// Tickets that were named and that their owners have not asked for yet.
    named: HashSet<Ticket>,
    start: Instant,
}

impl Default for Limit {
    fn default() -> Self {
        let mut tree = Tree::new();
        let leaf = tree.add_leaf(None);
        Self { tree, leaf, named: HashSet::new(), start: Instant::now() }
    }
}

impl Limit {
    fn now(&self) -> Nanos {
        self.start.elapsed().as_nanos() as Nanos
    }
}

/// Bytes that wait for their turn.
struct Turn<'a> {
    inner: &'a Inner,
    ticket: Ticket,
    request: Request,
    came: bool,
}

impl<'a> Turn<'a> {
    /// None for what may go at once.
    fn of(inner: &'a Inner, bytes: u64) -> Option<Self> {
        let request = Request { kind: Kind::Write, bytes };
        let mut limit = inner.limit();
        let (leaf, now) = (limit.leaf, limit.now());
        match limit.tree.submit(leaf, request, now) {
            Decision::Go => {
                limit.tree.done(leaf, request, now);
                None
            }
            Decision::Wait(ticket) => Some(Self { inner, ticket, request, came: false }),
        }
    }

    /// For how long to wait before asking again; none when the turn has come.
    fn wait(&mut self) -> Option<Duration> {
        let mut limit = self.inner.limit();
        let now = limit.now();
        while let Some(ticket) = limit.tree.next(now) {
            let _new = limit.named.insert(ticket);
        }
        self.came = limit.named.remove(&self.ticket);
        if self.came {
            let leaf = limit.leaf;
            limit.tree.done(leaf, self.request, now);
            return None;
        }
        let wake = limit.tree.next_wake().unwrap_or(now);
        Some(Duration::from_nanos(wake.saturating_sub(now)).max(Duration::from_millis(1)))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.came {
            return;
        }
        let mut limit = self.inner.limit();
        if limit.named.remove(&self.ticket) {
            let (leaf, now) = (limit.leaf, limit.now());
            limit.tree.done(leaf, self.request, now);
        } else {
            let _waited = limit.tree.cancel(self.ticket);
        }
    }
}

/// Milliseconds since 1970 by this machine's clock.
pub(crate) fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn a_limit_spreads_what_is_transferred_and_a_cancelled_job_ends() {
        let job = Job::new();
        job.set_limit(Some(1 << 10));
        job.transfer(1 << 20).await.unwrap();
        // A second portion has to wait for a thousand seconds, until nobody limits it any more, or the job ends.
        let (second, third) = (job.transfer(1), job.transfer(1));
        let (mut second, mut third) = (Box::pin(second), Box::pin(third));
        assert!(second.as_mut().now_or_never().is_none() && third.as_mut().now_or_never().is_none());
        drop(third);
        job.set_limit(None);
        second.await.unwrap();
        job.transfer(1 << 30).await.unwrap();
        job.set_limit(Some(1));
        job.transfer(1 << 20).await.unwrap();
        let mut last = Box::pin(job.transfer(1));
        assert!(last.as_mut().now_or_never().is_none());
        job.cancel();
        assert_eq!(last.await.unwrap_err().kind(), ErrorKind::Cancelled);
        assert_eq!(job.transfer(1).await.unwrap_err().kind(), ErrorKind::Cancelled);
        assert_eq!(
            job.progress(),
            Progress { done: 0, total: 0, transferred: (1 << 20) + 2 + (1 << 30) + (1 << 20) + 1 }
        );
        let limit = job.inner.limit();
        assert!(limit.named.is_empty());
    }
}
