//! Long work as its user sees it: how far it is, a limit on its rate, and an end to it.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

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
    /// Bytes a second; 0: no limit.
    limit: AtomicU64,
    /// Until when what was transferred so far takes at the limit.
    busy_until: Mutex<Option<Instant>>,
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

    /// How many bytes a second may go to or come from the repository; it holds from now on.
    pub fn set_limit(&self, bytes_per_second: Option<u64>) {
        self.inner.limit.store(bytes_per_second.unwrap_or(0), Ordering::Relaxed);
    }

    pub(crate) fn set_total(&self, total: u64) {
        self.inner.total.store(total, Ordering::Relaxed);
    }

    pub(crate) fn advance(&self, bytes: u64) {
        let _before = self.inner.done.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn check(&self) -> Result<()> {
        match self.inner.cancelled.load(Ordering::Relaxed) {
            true => Err(Error::new(ErrorKind::Cancelled, "cancelled")),
            false => Ok(()),
        }
    }

    /// Counts bytes that are about to be transferred, and waits as long as the limit wants.
    pub(crate) async fn transfer(&self, bytes: u64) -> Result<()> {
        self.check()?;
        let _before = self.inner.transferred.fetch_add(bytes, Ordering::Relaxed);
        let limit = self.inner.limit.load(Ordering::Relaxed);
        if limit == 0 {
            return Ok(());
        }
        let now = Instant::now();
        let begin = {
            let mut busy_until = self.inner.busy_until.lock().unwrap_or_else(PoisonError::into_inner);
            let begin = busy_until.unwrap_or(now).max(now);
            *busy_until = Some(begin + Duration::from_secs_f64(bytes as f64 / limit as f64));
            begin
        };
        // In short pieces, so that a cancelled job ends soon.
        while let left @ 1.. = begin.saturating_duration_since(Instant::now()).as_millis() {
            tokio::time::sleep(Duration::from_millis(left.min(200) as u64)).await;
            self.check()?;
        }
        Ok(())
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

    #[tokio::test]
    async fn a_limit_spreads_what_is_transferred_and_a_cancelled_job_ends() {
        let job = Job::new();
        job.set_limit(Some(1 << 20));
        job.transfer(1 << 20).await.unwrap();
        assert!(job.inner.busy_until.lock().unwrap().unwrap() > Instant::now());
        job.cancel();
        assert_eq!(job.transfer(1).await.unwrap_err().kind(), ErrorKind::Cancelled);
        assert_eq!(job.progress(), Progress { done: 0, total: 0, transferred: 1 << 20 });
    }
}
