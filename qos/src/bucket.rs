//! A token bucket, exact: credit is counted in billionths of a token, of which a rate brings as many a nanosecond as it brings tokens a second.

use crate::{Nanos, SECOND};

/// Billionths of a token.
type Credit = i128;

/// Credit in so many tokens.
fn credit(tokens: u64) -> Credit {
    Credit::from(tokens) * Credit::from(SECOND)
}

/// Refills without ticks. What needs more than it can hold passes when it is full, and leaves a debt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Bucket {
    /// Tokens a second; not zero.
    rate: u64,
    capacity: Credit,
    /// At `at`. Negative: a debt.
    level: Credit,
    at: Nanos,
}

impl Bucket {
    /// A full one that holds `capacity` billionths of a token, but at least one token.
    pub(crate) fn new(rate: u64, capacity: Credit, now: Nanos) -> Self {
        let capacity = capacity.max(credit(1));
        Self { rate: rate.max(1), capacity, level: capacity, at: now }
    }

    /// What has come in up to now. A time before the last one is that one.
    fn refill(&mut self, now: Nanos) {
        let passed = now.saturating_sub(self.at);
        if passed > 0 {
            self.at = now;
            let new = Credit::from(self.rate).saturating_mul(Credit::from(passed));
            self.level = self.level.saturating_add(new).min(self.capacity);
        }
    }

    /// What has to be there for so many tokens.
    fn need(&self, tokens: u64) -> Credit {
        credit(tokens).min(self.capacity)
    }

    /// When so many tokens may be taken: now, or later.
    pub(crate) fn ready_at(&mut self, tokens: u64, now: Nanos) -> Nanos {
        self.refill(now);
        let short = self.need(tokens).saturating_sub(self.level);
        if short <= 0 {
            return now;
        }
        let rate = Credit::from(self.rate);
        // Rounded up: a moment too early would only be asked again.
        let wait = short.saturating_add(rate - 1) / rate;
        now.saturating_add(u64::try_from(wait).unwrap_or(u64::MAX))
    }

    /// How long so many tokens take to come into an empty one.
    pub(crate) fn lead(&self, tokens: u64) -> Nanos {
        let rate = Credit::from(self.rate);
        u64::try_from(self.need(tokens).saturating_add(rate - 1) / rate).unwrap_or(u64::MAX)
    }

    /// Takes tokens; to be called when they may be taken.
    pub(crate) fn take(&mut self, tokens: u64) {
        self.level = self.level.saturating_sub(credit(tokens));
    }

    /// Whole tokens that are there; negative: owed.
    pub(crate) fn tokens(&mut self, now: Nanos) -> i64 {
        self.refill(now);
        let tokens = self.level.div_euclid(Credit::from(SECOND));
        i64::try_from(tokens).unwrap_or(if tokens < 0 { i64::MIN } else { i64::MAX })
    }

    /// What has been used of the full bucket, in tokens, rounded up; also what is owed.
    pub(crate) fn used(&mut self, now: Nanos) -> u64 {
        self.refill(now);
        let second = Credit::from(SECOND);
        let used = self.capacity.saturating_sub(self.level).saturating_add(second - 1) / second;
        u64::try_from(used.max(0)).unwrap_or(u64::MAX)
    }

    /// Another rate and capacity from now on. What was used stays used, so a change is no way to a full bucket; but what would take more than
    /// a second to come in at the new rate is let off, unless it was owed before: a lower limit is no pause.
    pub(crate) fn change(&mut self, rate: u64, capacity: Credit, now: Nanos) {
        self.refill(now);
        let (used, owed) = (self.capacity.saturating_sub(self.level), self.level.min(0));
        *self = Self::new(rate, capacity, now);
        let lowest = owed.min(-credit(self.rate));
        self.level = self.capacity.saturating_sub(used).max(lowest);
    }

    /// Another rate and capacity from now on, with what is there, as far as there is room for it.
    pub(crate) fn resize(&mut self, rate: u64, capacity: Credit, now: Nanos) {
        self.refill(now);
        let level = self.level;
        *self = Self::new(rate, capacity, now);
        self.level = level.min(self.capacity);
    }

    /// When so many tokens will be there, if none are taken.
    pub(crate) fn ready(&self, tokens: u64) -> Nanos {
        Self { ..*self }.ready_at(tokens, self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// In no window more than the rate brings, what the bucket holds, and what the largest request owes.
        #[test]
        fn no_window_lets_more_through(
            rate in prop_oneof![1..50u64, 1..10_000_000u64, Just(u64::MAX / 4)], capacity in 1..1_000_000u64,
            steps in prop::collection::vec((0..SECOND / 7, 1..3_000_000u64), 1..60), start in 0..u64::MAX / 2,
        ) {
            let mut bucket = Bucket::new(rate, credit(capacity), start);
            let mut now = start;
            let mut taken: Vec<(Nanos, u64)> = Vec::new();
            for (pause, tokens) in steps {
                now += pause;
                let ready = bucket.ready_at(tokens, now);
                // A client that waits as long as it is told, if that is within reason.
                if ready - now > SECOND * 1000 { continue }
                now = ready;
                prop_assert_eq!(bucket.ready_at(tokens, now), now, "it is ready when it said");
                bucket.take(tokens);
                taken.push((now, tokens));
            }
            for (first, (from, _)) in taken.iter().enumerate() {
                let (mut sum, mut debt) = (0u128, 0u128);
                for (to, tokens) in &taken[first..] {
                    sum += u128::from(*tokens);
                    debt = debt.max(u128::from(*tokens).saturating_sub(u128::from(capacity)));
                    let brought = u128::from(rate) * u128::from(to - from) / u128::from(SECOND);
                    prop_assert!(sum <= brought + u128::from(capacity) + debt + 1, "{sum} > {brought} + {capacity} + {debt}");
                }
            }
        }

        /// A client that always wants more gets exactly the rate, however often somebody looks, for as long as it lasts: years at small rates.
        #[test]
        fn nothing_is_lost_to_rounding(
            rate in prop_oneof![1..5u64, 1..5_000_000u64], capacity in 2..1000u64, looks in prop::collection::vec(0..u64::MAX, 2000),
            most in prop_oneof![Just(1u64), Just(1000), Just(1_000_000)], start in 0..1u64 << 40,
        ) {
            let mut bucket = Bucket::new(rate, credit(capacity), start);
            let (mut now, mut taken) = (start, 0u64);
            for look in looks {
                // One that takes all there can be waits for the last fraction of a nanosecond, too.
                let tokens = (look % most + 1).min(capacity - 1);
                let ready = bucket.ready_at(tokens, now);
                let between = now + look % (ready - now + 1);
                let _credit = bucket.tokens(between);
                now = ready;
                bucket.take(tokens);
                taken += tokens;
                let due = u128::from(taken.saturating_sub(capacity)) * u128::from(SECOND);
                prop_assert_eq!(u128::from(now - start), due.div_ceil(u128::from(rate)));
            }
        }
    }

    #[test]
    fn a_large_request_passes_when_full_and_is_paid_for_afterwards() {
        let mut bucket = Bucket::new(10, credit(5), 0);
        assert_eq!(bucket.ready_at(100, 0), 0);
        bucket.take(100);
        assert_eq!((bucket.tokens(0), bucket.used(0)), (-95, 100));
        assert_eq!(bucket.ready_at(1, 0), SECOND * 96 / 10);
        assert_eq!(bucket.ready_at(100, SECOND), 10 * SECOND, "full again when all is paid and five are there");
    }

    #[test]
    fn a_change_keeps_what_was_used() {
        let mut bucket = Bucket::new(100, credit(50), 0);
        bucket.take(50);
        bucket.change(1000, credit(500), 0);
        assert_eq!(bucket.tokens(0), 450);
        bucket.take(450);
        bucket.change(10, credit(5), 0);
        assert_eq!(bucket.tokens(0), -10, "what comes in within a second is owed, and no more");
        bucket.take(100);
        bucket.change(20, credit(5), 0);
        assert_eq!(bucket.tokens(0), -110, "a debt stays");
        assert_eq!(bucket.tokens(u64::MAX), 5, "in the end all is paid");
    }

    #[test]
    fn another_size_adds_nothing() {
        let mut bucket = Bucket::new(100, credit(50), 0);
        bucket.take(20);
        bucket.resize(1000, credit(500), 0);
        assert_eq!(bucket.tokens(0), 30);
        bucket.resize(7, credit(5), 0);
        assert_eq!((bucket.tokens(0), bucket.ready(5)), (5, 0));
        bucket.take(10);
        bucket.resize(1000, credit(500), 0);
        assert_eq!(bucket.tokens(0), -5, "a debt is what it was");
    }

    #[test]
    fn the_same_again_takes_nothing() {
        let mut bucket = Bucket::new(1, credit(1), 0);
        bucket.take(1);
        for tenth in 1..=10 {
            bucket.change(1, credit(1), tenth * SECOND / 10);
        }
        assert_eq!((bucket.tokens(SECOND), bucket.ready(1)), (1, SECOND));
    }

    #[test]
    fn extremes_do_not_overflow() {
        let mut bucket = Bucket::new(u64::MAX, credit(u64::MAX), 0);
        assert_eq!(bucket.ready_at(u64::MAX, u64::MAX), u64::MAX);
        for _ in 0..1000 {
            bucket.take(u64::MAX);
        }
        assert_eq!(bucket.tokens(u64::MAX), i64::MIN);
        assert_eq!(bucket.ready_at(1, u64::MAX), u64::MAX);
        let mut slow = Bucket::new(0, 0, 7);
        slow.take(1);
        assert_eq!((slow.ready_at(1, 0), slow.ready_at(1, 7)), (SECOND, 7 + SECOND), "time does not go back");
    }
}
