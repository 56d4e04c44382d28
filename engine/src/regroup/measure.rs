//! How scattered a leaf's range (1 MiB) is, and what of it is worth moving.
//!
//! A *run* is a stretch of neighbouring blocks of the volume that are neighbours in the pool too: what one request reads. A *stretch* is a
//! series of runs, with no hole between, each of which may be moved: written anew one after the other, it is one run. Not moved are
//! runs of [`LONG`] blocks or more, which are read nearly as fast as a whole leaf, and runs of which others share a part.
//!
//! A stretch of `k` runs and `n` blocks is moved if that saves a request for each [`PRICE`] blocks or fewer: `(k - 1) * PRICE >= n`. A leaf
//! is scattered if moving such stretches saves at least [`LEAST`] requests. So what was moved is not worth moving again: a stretch
//! has become one run, and what stands beside it is a hole, a long run or a shared one, as before.

use std::ops::Range;

/// Runs of so many blocks stay: 256 KiB.
const LONG: usize = 64;
/// Blocks moved for each request saved, at most: 128 KiB.
const PRICE: usize = 32;
/// Requests that moving blocks of one leaf has to save.
const LEAST: u64 = 4;

/// What stands at one place of a leaf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Block {
    Hole,
    /// Data at this physical block that the volume alone refers to.
    Owned(u64),
    /// Data that others refer to as well, or that has to stay for another reason.
    Fixed(u64),
}

impl Block {
    fn place(self) -> Option<u64> {
        match self {
            Self::Hole => None,
            Self::Owned(place) | Self::Fixed(place) => Some(place),
        }
    }

    /// Whether `next` follows it, in the volume and in the pool.
    fn leads_to(self, next: Self) -> bool {
        self.place().is_some_and(|place| next.place() == Some(place + 1))
    }
}

/// Runs that reading these blocks in order takes.
pub(super) fn runs(blocks: &[Block]) -> u64 {
    blocks.chunk_by(|a, b| a.leads_to(*b)).filter(|run| run[0] != Block::Hole).count() as u64
}

/// What to move of a leaf.
#[derive(Default, Debug)]
pub(super) struct Plan {
    /// Positions within the leaf, in order.
    pub(super) moves: Vec<usize>,
    /// Requests saved.
    pub(super) saved: u64,
}

impl Plan {
    /// What is worth moving; nothing, if the leaf is not scattered.
    pub(super) fn of(blocks: &[Block]) -> Self {
        let mut plan = Self::default();
        let mut stretch = Stretch { range: 0..0, runs: 0 };
        let mut at = 0;
        for run in blocks.chunk_by(|a, b| a.leads_to(*b)) {
            let range = at..at + run.len();
            at = range.end;
            let movable = run.len() < LONG && run.iter().all(|block| matches!(block, Block::Owned(_)));
            if movable && stretch.range.end == range.start {
                stretch.range.end = range.end;
                stretch.runs += 1;
                continue;
            }
            plan.add(&stretch);
            stretch = if movable { Stretch { range, runs: 1 } } else { Stretch { range: at..at, runs: 0 } };
        }
        plan.add(&stretch);
        if plan.saved < LEAST { Self::default() } else { plan }
    }

    fn add(&mut self, stretch: &Stretch) {
        let saved = stretch.runs.saturating_sub(1);
        if saved > 0 && saved * PRICE >= stretch.range.len() {
            self.moves.extend(stretch.range.clone());
            self.saved += saved as u64;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.moves.is_empty()
    }
}

struct Stretch {
    range: Range<usize>,
    runs: usize,
}

#[cfg(test)]
mod tests {
    use super::{Block::*, *};
    use crate::rng::Rng;

    fn moved(blocks: &[Block], plan: &Plan) -> Vec<Block> {
        let mut after = blocks.to_vec();
        for (at, place) in plan.moves.iter().zip(1_000_000..) {
            assert!(matches!(after[*at], Owned(_)), "{at} must stay");
            after[*at] = Owned(place);
        }
        after
    }

    #[test]
    fn runs_are_what_one_request_reads() {
        assert_eq!(runs(&[]), 0);
        assert_eq!(runs(&[Hole, Hole]), 0);
        assert_eq!(runs(&[Owned(1), Owned(2), Fixed(3), Hole, Owned(4), Owned(6), Owned(5)]), 4);
    }

    #[test]
    fn a_leaf_in_order_is_left_alone() {
        let blocks: Vec<Block> = (0..256).map(|i| Owned(1000 + i)).collect();
        assert!(Plan::of(&blocks).is_empty());
        // Four long runs, and what is shared.
        let pieces: Vec<Block> = (0..256).map(|i| Owned(i + i / 64 * 10_000)).collect();
        assert!(Plan::of(&pieces).is_empty());
        let shared: Vec<Block> = (0..256).map(|i| Fixed(i * 7)).collect();
        assert!(Plan::of(&shared).is_empty());
        // Blocks between holes cannot be read with fewer requests.
        let sparse: Vec<Block> = (0..256).map(|i| if i % 2 == 0 { Owned(i * 9) } else { Hole }).collect();
        assert!(Plan::of(&sparse).is_empty());
    }

    #[test]
    fn what_was_overwritten_at_random_is_moved_and_long_runs_stay() {
        let scattered: Vec<Block> = (0..256).map(|i| Owned(i * 17)).collect();
        let plan = Plan::of(&scattered);
        assert_eq!((plan.moves.len(), plan.saved), (256, 255));
        // A hundred blocks in order, then some that are not.
        let half: Vec<Block> = (0..256).map(|i| if i < 100 { Owned(i) } else { Owned(i * 17) }).collect();
        let plan = Plan::of(&half);
        assert_eq!((plan.moves.clone(), plan.saved), ((100..256).collect::<Vec<_>>(), 155));
        // Three blocks more or less are not worth a move of their leaf.
        let few: Vec<Block> =
            (0..256).map(|i| if [70, 71, 72].contains(&i) { Owned(i * 17) } else { Owned(i) }).collect();
        assert!(Plan::of(&few).is_empty());
    }

    /// Whatever a leaf looks like: a plan moves only what may be moved, saves what it says, and leaves nothing to do.
    #[test]
    fn a_plan_saves_what_it_says_and_no_second_one_is_needed() {
        let mut rng = Rng::new(7);
        for _ in 0..if cfg!(miri) { 20 } else { 5000 } {
            let (orderly, shared, holes) = (rng.below(64) + 1, rng.below(40), rng.below(20));
            let mut place = 0;
            let blocks: Vec<Block> = (0..256)
                .map(|_| {
                    place = if rng.below(orderly) == 0 { rng.below(100_000) } else { place + 1 };
                    match (rng.below(100) < holes, rng.below(100) < shared) {
                        (true, _) => Hole,
                        (_, true) => Fixed(place),
                        _ => Owned(place),
                    }
                })
                .collect();
            let plan = Plan::of(&blocks);
            let after = moved(&blocks, &plan);
            assert_eq!(runs(&blocks) - runs(&after), plan.saved);
            assert!(plan.is_empty() || plan.saved >= LEAST && plan.moves.len() <= plan.saved as usize * PRICE);
            assert!(Plan::of(&after).is_empty(), "{after:?}");
        }
    }
}
