//! A bitmap over the pool's blocks with summaries, for finding free runs.
//!
//! Invariant: for each 64-bit word of `words`, its bit in `any_free` says whether a bit of it is clear, and its bit in `all_free` whether
//! all are. Bits outside the allocatable range are set for ever, so that no search leaves it.

pub(crate) struct Bitmap {
    words: Vec<u64>,
    any_free: Vec<u64>,
    all_free: Vec<u64>,
    /// How often a word has come wholly free: as long as that stays, no search finds more than the one before.
    came_free: u64,
    free: u64,
}

const WORD: u64 = 64;

/// A run of blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Run {
    pub(crate) start: u64,
    pub(crate) len: u64,
}

impl Run {
    pub(crate) fn end(&self) -> u64 {
        self.start + self.len
    }
}

impl Bitmap {
    /// All of `total` blocks taken but `range`, which is free.
    pub(crate) fn new(total: u64, range: std::ops::Range<u64>) -> Self {
        let words = total.div_ceil(WORD) as usize;
        let mut this = Self {
            words: vec![u64::MAX; words],
            any_free: vec![0; words.div_ceil(64)],
            all_free: vec![0; words.div_ceil(64)],
            came_free: 0,
            free: 0,
        };
        this.clear(Run { start: range.start, len: range.end - range.start });
        this
    }

    pub(crate) fn free(&self) -> u64 {
        self.free
    }

    pub(crate) fn came_free(&self) -> u64 {
        self.came_free
    }

    #[cfg(test)]
    fn is_set(&self, block: u64) -> bool {
        self.words[(block / WORD) as usize] >> (block % WORD) & 1 != 0
    }

    /// Marks a run as taken; returns how many of its blocks were free before.
    pub(crate) fn set(&mut self, run: Run) -> u64 {
        let before = self.free;
        self.for_words(run, |word, mask| *word |= mask);
        before - self.free
    }

    /// Marks a run as free; returns how many of its blocks were taken before.
    pub(crate) fn clear(&mut self, run: Run) -> u64 {
        let before = self.free;
        self.for_words(run, |word, mask| *word &= !mask);
        self.free - before
    }

    fn for_words(&mut self, run: Run, f: impl Fn(&mut u64, u64)) {
        let mut at = run.start;
        while at < run.end() {
            let index = (at / WORD) as usize;
            let bit = at % WORD;
            let n = (WORD - bit).min(run.end() - at);
            let mask = if n == WORD { u64::MAX } else { ((1 << n) - 1) << bit };
            let word = &mut self.words[index];
            let before = word.count_zeros();
            f(word, mask);
            let after = word.count_zeros();
            self.free = self.free + u64::from(after) - u64::from(before);
            let (slot, flag) = (index / 64, 1u64 << (index % 64));
            set_flag(&mut self.any_free[slot], flag, after > 0);
            set_flag(&mut self.all_free[slot], flag, after == 64);
            self.came_free += u64::from(after == 64 && before < 64);
            at += n;
        }
    }

    /// The first wholly free stretch of at least 64 blocks (aligned to 64) in `[from, to)`, at most `limit` blocks long.
    pub(crate) fn find_long(&self, from: u64, to: u64, limit: u64) -> Option<Run> {
        let first = find_flag(&self.all_free, from.div_ceil(WORD), to / WORD)?;
        let mut end = first + 1;
        while end < to / WORD && (end - first) * WORD < limit && self.words[end as usize] == 0 {
            end += 1;
        }
        Some(Run { start: first * WORD, len: (end - first) * WORD })
    }

    /// The first free stretch of any length in `[from, to)`, within one word.
    pub(crate) fn find_any(&self, from: u64, to: u64) -> Option<Run> {
        let mut word = from / WORD;
        loop {
            word = find_flag(&self.any_free, word, to.div_ceil(WORD))?;
            let below = if word == from / WORD { (1u64 << (from % WORD)) - 1 } else { 0 };
            let free = !self.words[word as usize] & !below;
            if free != 0 {
                let bit = u64::from(free.trailing_zeros());
                let len = u64::from((!(free >> bit)).trailing_zeros()).min(WORD - bit);
                let start = word * WORD + bit;
                return (start < to).then(|| Run { start, len: len.min(to - start) });
            }
            word += 1;
        }
    }

    /// How many free blocks follow `from`, at most up to `to`.
    pub(crate) fn free_ahead(&self, from: u64, to: u64) -> u64 {
        let mut at = from;
        while at < to {
            let word = self.words[(at / WORD) as usize] >> (at % WORD);
            let clear = u64::from(word.trailing_zeros()).min(WORD - at % WORD);
            at += clear;
            if !at.is_multiple_of(WORD) || clear == 0 {
                break;
            }
        }
        at.min(to) - from
    }

    /// Whether a whole run is free.
    pub(crate) fn all_clear(&self, run: Run) -> bool {
        self.free_ahead(run.start, run.end()) == run.len
    }
}

fn set_flag(word: &mut u64, flag: u64, on: bool) {
    if on {
        *word |= flag;
    } else {
        *word &= !flag;
    }
}

/// The first set bit at or after `from` and before `to`.
fn find_flag(flags: &[u64], from: u64, to: u64) -> Option<u64> {
    let mut slot = (from / 64) as usize;
    let mut mask = u64::MAX << (from % 64);
    while slot < flags.len() && (slot as u64) * 64 < to {
        let hits = flags[slot] & mask;
        if hits != 0 {
            let at = slot as u64 * 64 + u64::from(hits.trailing_zeros());
            return (at < to).then_some(at);
        }
        mask = u64::MAX;
        slot += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{prelude::*, test_runner::Config};

    const OPS: usize = if cfg!(miri) { 4 } else { 60 };

    fn config() -> Config {
        match cfg!(miri) {
            // There is no file system to keep failures in.
            true => Config { cases: 2, failure_persistence: None, ..Config::default() },
            false => Config::default(),
        }
    }

    fn naive_free(b: &Bitmap, total: u64) -> u64 {
        (0..total).filter(|&i| !b.is_set(i)).count() as u64
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn agrees_with_a_plain_list(ops in prop::collection::vec((any::<bool>(), 0u64..1000, 1u64..200), 1..OPS)) {
            let total = 1200;
            let mut map = Bitmap::new(total, 10..1190);
            let mut model = vec![true; 1216];
            model[10..1190].fill(false);
            for (set, start, len) in ops {
                let run = Run { start: start.max(10), len: len.min(1190 - start.max(10)) };
                let changed = if set { map.set(run) } else { map.clear(run) };
                let range = run.start as usize..run.end() as usize;
                let expected = model[range.clone()].iter().filter(|&&m| m != set).count() as u64;
                model[range].fill(set);
                prop_assert_eq!(changed, expected);
                prop_assert_eq!(map.free(), naive_free(&map, total));
                for from in [0, 5, 63, 64, 100, 640, 1100] {
                    let first = (from..1200).find(|&i| !model[i as usize]);
                    let found = map.find_any(from, 1200);
                    prop_assert_eq!(found.map(|r| r.start), first);
                    if let Some(r) = found {
                        prop_assert!((r.start..r.end()).all(|i| !model[i as usize]));
                    }
                    let long = (from.div_ceil(64)..1200 / 64).find(|w| (w * 64..w * 64 + 64).all(|i| !model[i as usize]));
                    prop_assert_eq!(map.find_long(from, 1200, 256).map(|r| r.start / 64), long);
                    let ahead = (from..1200).take_while(|&i| !model[i as usize]).count() as u64;
                    prop_assert_eq!(map.free_ahead(from, 1200), ahead);
                }
            }
        }
    }
}
