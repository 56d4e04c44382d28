//! What background work may take of a device that volumes want.

use crate::Nanos;

/// Background work waits until volumes have left the device idle for so many times as long as its last request took.
const IDLE: u64 = 2;
/// Or until they have kept it busy for so many times as long.
const BUSY: u64 = 16;

/// Time of the device that background work has not taken.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spare {
    /// Requests of volumes under way.
    under_way: u64,
    /// What counts up to `at`.
    credit: Nanos,
    at: Nanos,
    /// What the last request of background work took.
    need: Nanos,
}

impl Spare {
    fn divisor(&self) -> u64 {
        if self.under_way > 0 { BUSY } else { IDLE }
    }

    fn settle(&mut self, now: Nanos) {
        let passed = now.saturating_sub(self.at);
        self.credit = self.credit.saturating_add(passed / self.divisor());
        self.at = self.at.max(now);
    }

    /// A request of a volume goes.
    pub(crate) fn began(&mut self, now: Nanos) {
        if self.under_way == 0 {
            self.settle(now);
        }
        self.under_way += 1;
    }

    /// So many requests of volumes have ended.
    pub(crate) fn ended(&mut self, count: u64, now: Nanos) {
        if count > 0 && self.under_way <= count {
            self.settle(now);
        }
        self.under_way = self.under_way.saturating_sub(count);
    }

    /// A request of background work has ended that took so long.
    pub(crate) fn used(&mut self, took: Nanos, now: Nanos) {
        self.settle(now);
        (self.credit, self.need) = (0, took);
    }

    /// When background work may go on, if volumes go on as they do.
    pub(crate) fn ready(&self) -> Nanos {
        let missing = self.need.saturating_sub(self.credit);
        self.at.saturating_add(missing.saturating_mul(self.divisor()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_counts_more_than_busy_time() {
        let mut spare = Spare::default();
        spare.used(100, 1000);
        assert_eq!(spare.ready(), 1200);
        spare.began(1100);
        spare.began(1110);
        assert_eq!(spare.ready(), 1100 + 50 * 16);
        spare.ended(1, 1180);
        spare.ended(1, 1260);
        assert_eq!(spare.ready(), 1260 + 40 * 2, "50 for the idle time, 10 for the busy one");
        spare.ended(1, 2000);
        assert!(spare.ready() <= 2000);
    }
}
