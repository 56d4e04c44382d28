//! Between the jobs of a pass and whoever watches them.

use std::{
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::stats::{Chunk, Series};

/// How far a pass is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Live {
    /// What is being done: `fill`, `warm-up`, `measure` or `verify`.
    pub pass: &'static str,
    /// Part that is done, from 0 to 1.
    pub part: f64,
    /// Since the pass began.
    pub elapsed: Duration,
    /// Reads and writes since it began.
    pub requests: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Reads and writes a second, lately.
    pub rate: f64,
    /// Their bytes a second.
    pub bandwidth: f64,
}

/// A job's counts, beside nobody else's.
#[derive(Default)]
#[repr(align(128))]
struct Counts {
    requests: AtomicU64,
    bytes: AtomicU64,
    /// The interval that the job is in.
    index: AtomicU64,
}

/// What jobs write and watchers read.
pub(crate) struct Board {
    counts: Vec<Counts>,
    chunks: Mutex<Vec<(u64, Chunk)>>,
    stop: AtomicBool,
    start: OnceLock<Instant>,
}

impl Board {
    pub(crate) fn new(jobs: usize) -> Self {
        Self {
            counts: (0..jobs).map(|_| Counts::default()).collect(),
            chunks: Mutex::default(),
            stop: AtomicBool::new(false),
            start: OnceLock::new(),
        }
    }

    /// When the load began: with the first job that asks, when all are ready.
    pub(crate) fn start(&self) -> Instant {
        *self.start.get_or_init(Instant::now)
    }

    /// When the load began, if it has.
    pub(crate) fn started(&self) -> Option<Instant> {
        self.start.get().copied()
    }

    /// Lets all jobs end what they have begun.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// A job tells what it did since it told the last time.
    pub(crate) fn tell(&self, job: usize, requests: u64, bytes: u64) {
        if let Some(counts) = self.counts.get(job) {
            let _before = counts.requests.fetch_add(requests, Ordering::Relaxed);
            let _before = counts.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// A job hands over the intervals that it has left, then says which it is in (`u64::MAX`: none any more).
    pub(crate) fn hand_over(&self, job: usize, chunks: Vec<(u64, Chunk)>, index: u64) {
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner).extend(chunks);
        if let Some(counts) = self.counts.get(job) {
            counts.index.store(index, Ordering::Release);
        }
    }

    /// Requests and bytes of all jobs.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let sum = |of: fn(&Counts) -> &AtomicU64| self.counts.iter().map(|c| of(c).load(Ordering::Relaxed)).sum();
        (sum(|counts| &counts.requests), sum(|counts| &counts.bytes))
    }

    /// Takes what was handed over into the series.
    pub(crate) fn collect(&self, series: &mut Series) {
        // First the indices: a job hands over before it moves on.
        let reached = self.counts.iter().map(|counts| counts.index.load(Ordering::Acquire)).min().unwrap_or(u64::MAX);
        let chunks = std::mem::take(&mut *self.chunks.lock().unwrap_or_else(PoisonError::into_inner));
        series.add(chunks);
        series.close_before(reached);
    }
}
