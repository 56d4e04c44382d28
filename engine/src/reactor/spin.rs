//! How long to poll before sleeping: a wake-up costs as much as half a request, and polling for what comes late costs a processor.

use std::time::Duration;

/// Waits that are longer than this do not get shorter by polling to speak of.
const LONGEST: Duration = Duration::from_micros(100);
/// So long it polls at least where it does: between the ends of many requests, short waits hide the longer ones.
const SHORTEST: Duration = Duration::from_micros(40);
/// A longer wait counts as one of this length, so that a single pause does not end the polling.
const COUNTED: Duration = Duration::from_micros(200);

/// What the last waits for work were like.
pub(super) struct Spin {
    usual: Duration,
}

impl Spin {
    pub(super) fn new() -> Self {
        Self { usual: LONGEST / 2 }
    }

    /// Work came after `wait`, however that was waited for.
    pub(super) fn waited(&mut self, wait: Duration) {
        self.usual = (self.usual * 7 + wait.min(COUNTED)) / 8;
    }

    /// How long to poll from now on: not at all where that would mostly be in vain.
    pub(super) fn limit(&self) -> Duration {
        if self.usual > LONGEST { Duration::ZERO } else { (self.usual * 2).clamp(SHORTEST, LONGEST) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(spin: &mut Spin, times: usize, micros: &[u64]) -> Duration {
        for _ in 0..times {
            micros.iter().for_each(|&wait| spin.waited(Duration::from_micros(wait)));
        }
        spin.limit()
    }

    #[test]
    fn short_waits_are_polled_for_and_long_ones_are_not() {
        let mut spin = Spin::new();
        assert_eq!(after(&mut spin, 50, &[60]), LONGEST, "longer than the waits");
        assert_eq!(after(&mut spin, 1, &[1_000_000]), LONGEST, "a pause is no habit");
        assert_eq!(after(&mut spin, 50, &[5000]), Duration::ZERO, "a slow disk");
        assert_eq!(after(&mut spin, 50, &[60, 900]), Duration::ZERO, "a request in a millisecond");
        let limit = after(&mut spin, 50, &[10, 60]);
        assert!(limit > SHORTEST && limit < LONGEST, "{limit:?}");
        assert_eq!(
            after(&mut spin, 50, &[30, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
            SHORTEST,
            "the long one among short ones"
        );
    }
}
