//! Time, injected: the engine reads no clock but this one, so that a simulation can own it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub(crate) trait Clock {
    /// Time since an arbitrary start; never goes back.
    fn now(&self) -> Duration;
    /// Milliseconds since 1970, for people to read.
    fn unix_ms(&self) -> u64;
}

/// The machine's clock.
pub(crate) struct SystemClock {
    start: Instant,
}

impl SystemClock {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn unix_ms(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
    }
}
