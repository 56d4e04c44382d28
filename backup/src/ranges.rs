//! Sets of blocks, as ranges.

use std::collections::BTreeMap;

/// Ranges of blocks that do not touch one another: first block, and the one after the last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    pub(crate) fn all(blocks: u64) -> Self {
        let mut ranges = Self::default();
        ranges.add(0, blocks);
        ranges
    }

    pub(crate) fn add(&mut self, first: u64, count: u64) {
        if count == 0 {
            return;
        }
        let (mut first, mut end) = (first, first.saturating_add(count));
        while let Some((&other, &other_end)) = self.0.range(..=end).next_back().filter(|(_, e)| **e >= first) {
            let _gone = self.0.remove(&other);
            (first, end) = (first.min(other), end.max(other_end));
        }
        let _none = self.0.insert(first, end);
    }

    /// Blocks in all.
    pub(crate) fn count(&self) -> u64 {
        self.0.iter().map(|(first, end)| end - first).sum()
    }

    /// What of them lies between two blocks, as first blocks and counts.
    pub(crate) fn within(&self, from: u64, to: u64) -> Vec<(u64, u64)> {
        let before = self.0.range(..from).next_back().filter(|(_, end)| **end > from);
        let ranges = before.into_iter().chain(self.0.range(from..to.max(from)));
        let clipped = ranges.map(|(first, end)| (*first.max(&from), *end.min(&to)));
        clipped.filter(|(first, end)| first < end).map(|(first, end)| (first, end - first)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn hold_what_was_added(adds in prop::collection::vec((0..90u64, 0..12u64), 0..30), from in 0..100u64, len in 0..60u64) {
            let mut ranges = Ranges::default();
            let mut model = [false; 128];
            for (first, count) in adds {
                ranges.add(first, count);
                model[first as usize..(first + count) as usize].fill(true);
            }
            prop_assert_eq!(ranges.count(), model.iter().filter(|b| **b).count() as u64);
            let mut found = [false; 128];
            for (first, count) in ranges.within(from, from + len) {
                prop_assert!(count > 0);
                found[first as usize..(first + count) as usize].fill(true);
            }
            for (i, there) in found.into_iter().enumerate() {
                prop_assert_eq!(there, model[i] && (from..from + len).contains(&(i as u64)));
            }
        }
    }
}
