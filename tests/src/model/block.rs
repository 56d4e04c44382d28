//! One 4 KiB block: all states that it may be in.

use crate::pattern::Tag;

use super::volume::OperationId;

/// Sectors in a block.
pub const SECTORS_PER_BLOCK: usize = 8;

/// Who wrote each sector of a block.
pub type State = [Tag; SECTORS_PER_BLOCK];

/// A block that was never written, or discarded.
pub const ZEROS: State = [0; SECTORS_PER_BLOCK];

/// Most requests that may change one block at the same time. The histories grow with the factorial of it.
pub const MOST_OPEN: usize = 4;

/// What a request does to a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Sectors `from..to` get a tag; 0 for zeros.
    Paint {
        /// First sector within the block.
        from: usize,
        /// Sector after the last.
        to: usize,
        /// What they get.
        tag: Tag,
    },
    /// The whole block becomes this.
    Become(State),
}

impl Effect {
    fn on(self, state: &State) -> State {
        match self {
            Self::Paint { from, to, tag } => {
                let mut after = *state;
                after[from..to].fill(tag);
                after
            }
            Self::Become(after) => after,
        }
    }
}

/// A way in which the block may have come to its present state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct History {
    state: State,
    /// Which of the open requests have taken effect already, by their place in `open`.
    applied: u32,
}

/// One block.
///
/// Invariant: `histories` is closed: with any history that an open request has not taken effect in, the one in which it does
/// so next is there too.
#[derive(Clone, Debug)]
pub struct Block {
    histories: Vec<History>,
    open: Vec<(OperationId, Effect)>,
}

impl Block {
    /// A block in a known state, with nothing in flight.
    #[must_use]
    pub fn new(state: State) -> Self {
        Self { histories: vec![History { state, applied: 0 }], open: Vec::new() }
    }

    /// How many requests are changing it.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// All states that it may be in now, some more than once.
    pub fn states(&self) -> impl Iterator<Item = State> {
        self.histories.iter().map(|history| history.state)
    }

    /// The only state that it can be in, when that is known.
    #[must_use]
    pub fn certain(&self) -> Option<State> {
        let mut states = self.states();
        let first = states.next()?;
        states.all(|state| state == first).then_some(first)
    }

    /// A request that changes it has been submitted: from now on it may take effect.
    pub fn begin(&mut self, id: OperationId, effect: Effect) {
        self.open.push((id, effect));
        let mut next = 0;
        while let Some(history) = self.histories.get(next).copied() {
            next += 1;
            for (place, (_, effect)) in self.open.iter().enumerate() {
                let bit = 1 << place;
                if history.applied & bit == 0 {
                    let after = History { state: effect.on(&history.state), applied: history.applied | bit };
                    if !self.histories.contains(&after) {
                        self.histories.push(after);
                    }
                }
            }
        }
    }

    /// The reply to a request has come: it has taken effect.
    ///
    /// # Panics
    /// The request was not open here.
    pub fn finish(&mut self, id: OperationId) {
        let place = self.open.iter().position(|(open, _)| *open == id).expect("only open requests finish");
        self.open.remove(place);
        let (bit, below) = (1u32 << place, (1u32 << place) - 1);
        let mut kept: Vec<History> = Vec::new();
        for history in self.histories.iter().filter(|history| history.applied & bit != 0) {
            let applied = (history.applied & below) | ((history.applied >> 1) & !below);
            let history = History { applied, ..*history };
            if !kept.contains(&history) {
                kept.push(history);
            }
        }
        self.histories = kept;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(block: &Block) -> Vec<State> {
        let mut states: Vec<State> = block.states().collect();
        states.sort_unstable();
        states.dedup();
        states
    }

    fn all(tag: Tag) -> State {
        [tag; SECTORS_PER_BLOCK]
    }

    const WHOLE: fn(Tag) -> Effect = |tag| Effect::Paint { from: 0, to: SECTORS_PER_BLOCK, tag };

    #[test]
    fn one_after_the_other_leaves_no_choice() {
        let mut block = Block::new(ZEROS);
        for tag in 1..4 {
            block.begin(tag, WHOLE(tag));
            assert_eq!(sorted(&block), [all(tag - 1), all(tag)]);
            block.finish(tag);
            assert_eq!(block.certain(), Some(all(tag)));
        }
    }

    #[test]
    fn overlapping_writes_may_end_either_way_but_not_mixed() {
        let mut block = Block::new(ZEROS);
        block.begin(1, WHOLE(1));
        block.begin(2, WHOLE(2));
        assert_eq!(sorted(&block), [ZEROS, all(1), all(2)]);
        block.finish(2);
        assert_eq!(sorted(&block), [all(1), all(2)], "the first may still come after the second");
        block.finish(1);
        assert_eq!(sorted(&block), [all(1), all(2)]);
    }

    #[test]
    fn a_write_that_began_after_another_ended_wins() {
        let mut block = Block::new(ZEROS);
        block.begin(1, WHOLE(1));
        block.begin(2, WHOLE(2));
        block.finish(1);
        block.begin(3, WHOLE(3));
        block.finish(3);
        assert_eq!(sorted(&block), [all(2), all(3)], "1 cannot come back");
        block.finish(2);
        assert_eq!(sorted(&block), [all(2), all(3)]);
    }

    #[test]
    fn parts_of_a_block_are_merged() {
        let mut block = Block::new(ZEROS);
        block.begin(1, Effect::Paint { from: 0, to: 4, tag: 1 });
        block.begin(2, Effect::Paint { from: 4, to: 8, tag: 2 });
        block.finish(1);
        block.finish(2);
        assert_eq!(block.certain(), Some([1, 1, 1, 1, 2, 2, 2, 2]), "a lost merge would leave zeros");
        block.begin(3, Effect::Become(all(9)));
        block.finish(3);
        assert_eq!(block.certain(), Some(all(9)));
    }

    #[test]
    fn four_at_once_in_every_order() {
        let mut block = Block::new(ZEROS);
        for tag in 1..=4 {
            block.begin(tag, Effect::Paint { from: 0, to: tag as usize, tag });
        }
        for tag in 1..=4 {
            block.finish(tag);
        }
        // The widest hides those before it; of those after it, each hides the narrower ones before it: 2^3 outcomes.
        assert_eq!(sorted(&block).len(), 8);
    }
}
