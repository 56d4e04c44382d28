//! How fast work in the background reads (and writes): when the next batch is due, by the reactor's clock.
//!
//! Batches are small, so that whoever shares the device waits for one of them at most, and evenly spread. Time that was lost (to a slow
//! device, or to others) is not made up for by going faster later, but for the lateness of a timer.

use std::time::Duration;

use crate::{units::BLOCK, upkeep::Pace};

/// Largest batch, in blocks: 1 MiB.
const LARGEST: u64 = 256;
/// Batches a second at least, for as long as they have a block each.
const BATCHES: u64 = 10;

/// Blocks of one batch.
pub(crate) fn batch(pace: Pace) -> usize {
    pace.bytes_per_second.map_or(LARGEST, |rate| (rate / BATCHES / BLOCK).clamp(1, LARGEST)) as usize
}

/// What reading `bytes` may take at least.
fn cost(bytes: u64, pace: Pace) -> Duration {
    let nanos = pace.bytes_per_second.map_or(0, |rate| u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1)));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// When the last batch counts as begun, and what it read. The pace may change from one look to the next.
pub(crate) struct Meter {
    from: Duration,
    bytes: u64,
}

impl Meter {
    pub(crate) fn new(now: Duration) -> Self {
        Self { from: now, bytes: 0 }
    }

    fn due(&self, pace: Pace) -> Duration {
        self.from.saturating_add(cost(self.bytes, pace))
    }

    /// How long to wait before the next batch.
    pub(crate) fn wait(&self, now: Duration, pace: Pace) -> Duration {
        self.due(pace).saturating_sub(now)
    }

    /// A batch that began at `began` has read so much.
    pub(crate) fn spent(&mut self, began: Duration, bytes: u64, pace: Pace) {
        self.from = self.due(pace).max(began.saturating_sub(cost(bytes, pace))).min(began);
        self.bytes = bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::MIB;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn batches_are_small_and_come_often() {
        for (rate, blocks) in [(1, 1), (4096, 1), (MIB, 25), (100 * MIB, 256), (u64::MAX, 256)] {
            assert_eq!(batch(Pace::bytes_per_second(rate)), blocks, "{rate}");
        }
        assert_eq!(batch(Pace::unlimited()), 256);
    }

    #[test]
    fn late_timers_are_made_up_for_and_a_slow_device_is_not() {
        let pace = Pace::bytes_per_second(100 * MIB);
        // Each timer is 2 ms late: a second still sees its hundred batches of 1 MiB.
        let mut meter = Meter::new(Duration::ZERO);
        let mut now = Duration::ZERO;
        for _ in 0..100 {
            meter.spent(now, MIB, pace);
            now += meter.wait(now, pace) + 2 * MS;
        }
        assert!((999..=1010).contains(&now.as_millis()), "{now:?}");
        // A device that took a second for one batch: the next ones are spread as before.
        now += 1000 * MS;
        meter.spent(now, MIB, pace);
        assert!(meter.wait(now, pace) <= 10 * MS);
        now += meter.wait(now, pace);
        meter.spent(now, MIB, pace);
        assert_eq!(meter.wait(now, pace), 10 * MS);
    }

    #[test]
    fn a_new_pace_counts_at_once() {
        let mut meter = Meter::new(Duration::ZERO);
        meter.spent(Duration::ZERO, 4096, Pace::bytes_per_second(1));
        assert_eq!(meter.wait(Duration::ZERO, Pace::bytes_per_second(1)).as_secs(), 4096);
        assert_eq!(meter.wait(Duration::ZERO, Pace::bytes_per_second(4096)).as_secs(), 1);
        assert_eq!(meter.wait(Duration::ZERO, Pace::unlimited()), Duration::ZERO);
    }
}
