//! Whether there is a cliff: the worst window beside the median of all.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Sample;
use crate::median::median;

/// What the worst window must have of the median.
pub const WANTED: f64 = 0.5;
/// A run of fewer windows says nothing: the worst of one or two is about their median.
const FEWEST: usize = 3;

/// Rates of whole windows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Seconds of a window.
    pub window: f64,
    /// How many windows.
    pub windows: usize,
    /// Writes a second: the median of all windows.
    pub median: f64,
    /// And the lowest.
    pub worst: f64,
    /// When the lowest began.
    pub worst_at: f64,
    /// The lowest by the median.
    pub ratio: f64,
}

impl Verdict {
    /// The verdict on samples, by windows of so many seconds; none with fewer than three whole ones.
    #[must_use]
    pub fn of(samples: &[Sample], window: f64) -> Option<Self> {
        let rates = windows(samples, window);
        let (number, worst) = rates.iter().copied().enumerate().min_by(|(_, a), (_, b)| a.total_cmp(b))?;
        let median = median(&rates);
        let ratio = if median > 0.0 { worst / median } else { 0.0 };
        let verdict = Self { window, windows: rates.len(), median, worst, worst_at: number as f64 * window, ratio };
        (rates.len() >= FEWEST).then_some(verdict)
    }

    /// Whether the worst window has what it must.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.ratio >= WANTED
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { window, windows, median, worst, worst_at, ratio } = self;
        let word = if self.holds() { "holds" } else { "MISSED" };
        write!(
            f,
            "median {median:.0}/s of {windows} windows of {window} s, the worst {worst:.0}/s from {worst_at:.0} s on: {ratio:.2} \
             (at least {WANTED} is wanted): {word}"
        )
    }
}

/// Mean rates of whole windows. A sample that reaches over the end of a window counts in both, by its time.
fn windows(samples: &[Sample], window: f64) -> Vec<f64> {
    let end = samples.last().map_or(0.0, |sample| sample.end);
    // A run that ends a moment early still had its last window.
    let whole = (end / window + 1e-3) as usize;
    let mut counts = vec![0.0; whole];
    let mut begin = 0.0;
    for sample in samples {
        let mut from = begin;
        while from < sample.end {
            let number = (from / window + 1e-9) as usize;
            let until = sample.end.min((number + 1) as f64 * window);
            if let Some(count) = counts.get_mut(number) {
                *count += (until - from) * sample.iops;
            }
            from = if until > from { until } else { sample.end };
        }
        begin = sample.end;
    }
    counts.into_iter().map(|count| count / window).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(rates: impl IntoIterator<Item = f64>) -> Vec<Sample> {
        rates
            .into_iter()
            .enumerate()
            .map(|(n, iops)| Sample { end: n as f64 + 1.0, iops, ..Sample::default() })
            .collect()
    }

    #[test]
    fn the_worst_window_is_found() {
        let rate = |second: u32| if (120..180).contains(&second) { 40.0 } else { 100.0 };
        let verdict = Verdict::of(&samples((0..330).map(rate)), 60.0).unwrap();
        assert_eq!((verdict.windows, verdict.median, verdict.worst), (5, 100.0, 40.0));
        assert_eq!((verdict.worst_at, verdict.ratio, verdict.holds()), (120.0, 0.4, false));
        assert!(verdict.to_string().contains("MISSED"), "{verdict}");
    }

    #[test]
    fn a_steady_rate_holds() {
        let verdict = Verdict::of(&samples((0..180).map(|_| 70_000.0)), 60.0).unwrap();
        assert!(verdict.holds() && (verdict.ratio - 1.0).abs() < 1e-9 && verdict.windows == 3, "{verdict:?}");
        assert!(verdict.to_string().contains("holds"));
    }

    #[test]
    fn what_is_too_short_or_dead_is_no_success() {
        assert_eq!(Verdict::of(&samples((0..179).map(|_| 1.0)), 60.0), None);
        assert_eq!(Verdict::of(&[], 60.0), None);
        assert!(!Verdict::of(&samples((0..180).map(|_| 0.0)), 60.0).unwrap().holds());
    }

    #[test]
    fn a_long_sample_counts_in_each_window_that_it_lies_in() {
        // Nothing ended for nine seconds: one sample of ten.
        let long = [
            Sample { end: 4.0, iops: 10.0, ..Sample::default() },
            Sample { end: 14.0, iops: 2.0, ..Sample::default() },
            Sample { end: 15.0, iops: 12.0, ..Sample::default() },
        ];
        assert_eq!(windows(&long, 5.0), [(40.0 + 2.0) / 5.0, 2.0, (8.0 + 12.0) / 5.0]);
    }
}
