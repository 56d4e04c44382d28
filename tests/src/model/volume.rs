//! The blocks of a volume, and who is looking at them.

use std::{collections::BTreeMap, ops::Range};

use super::block::{Block, Effect, SECTORS_PER_BLOCK, State, ZEROS};
use crate::pattern::Tag;

/// Number of a request or command, never used twice.
pub type OperationId = u64;

/// What a request does to a volume. Positions in sectors.
#[derive(Clone, Debug)]
pub enum Change {
    /// The sectors get a tag; 0 for zeros.
    Paint(Range<u64>, Tag),
    /// Whole blocks in the range become zeros, the rest stays as it is.
    Discard(Range<u64>),
    /// The volume becomes this.
    Revert(Vec<State>),
}

/// What somebody who began to look at some time may see: for each block, every state since.
#[derive(Clone, Debug)]
struct Observer {
    first: usize,
    seen: Vec<Vec<State>>,
}

impl Observer {
    fn add(&mut self, block: usize, states: impl Iterator<Item = State>) {
        let Some(seen) = block.checked_sub(self.first).and_then(|place| self.seen.get_mut(place)) else { return };
        for state in states {
            if !seen.contains(&state) {
                seen.push(state);
            }
        }
    }
}

/// A volume.
#[derive(Clone, Debug)]
pub struct Model {
    /// Size in sectors.
    sectors: u64,
    blocks: Vec<Block>,
    /// Which blocks an open request changes.
    open: BTreeMap<OperationId, Range<usize>>,
    observers: BTreeMap<OperationId, Observer>,
}

const PER_BLOCK: u64 = SECTORS_PER_BLOCK as u64;

/// The blocks that hold some sector of the range.
fn touched(sectors: &Range<u64>) -> Range<usize> {
    let index = |block: u64| usize::try_from(block).expect("tests use small volumes");
    index(sectors.start / PER_BLOCK)..index(sectors.end.div_ceil(PER_BLOCK))
}

/// The blocks that lie in the range with all their sectors.
fn whole(sectors: &Range<u64>) -> Range<usize> {
    let (first, end) = (sectors.start.div_ceil(PER_BLOCK), sectors.end / PER_BLOCK);
    touched(&(first * PER_BLOCK..end.max(first) * PER_BLOCK))
}

/// The part of a block that lies in a range of sectors, as sectors within the block.
fn part(block: usize, sectors: &Range<u64>) -> Range<usize> {
    let start = block as u64 * PER_BLOCK;
    let within = |sector: u64| usize::try_from(sector.clamp(start, start + PER_BLOCK) - start).expect("at most 8");
    within(sectors.start)..within(sectors.end)
}

impl Model {
    /// A volume of zeros.
    #[must_use]
    pub fn new(sectors: u64) -> Self {
        let blocks = vec![Block::new(ZEROS); touched(&(0..sectors)).end];
        Self { sectors, blocks, open: BTreeMap::new(), observers: BTreeMap::new() }
    }

    /// Its size in sectors.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Most requests in flight on any block of the range.
    #[must_use]
    pub fn crowd(&self, sectors: &Range<u64>) -> usize {
        self.blocks[touched(sectors)].iter().map(Block::open).max().unwrap_or(0)
    }

    /// A request has been submitted.
    pub fn begin(&mut self, id: OperationId, change: &Change) {
        let blocks = match change {
            Change::Paint(sectors, _) => touched(sectors),
            Change::Discard(sectors) => whole(sectors),
            Change::Revert(_) => 0..self.blocks.len(),
        };
        for index in blocks.clone() {
            let effect = match change {
                Change::Paint(sectors, tag) => {
                    let Range { start: from, end: to } = part(index, sectors);
                    Effect::Paint { from, to, tag: *tag }
                }
                Change::Discard(_) => Effect::Become(ZEROS),
                Change::Revert(states) => Effect::Become(states[index]),
            };
            self.blocks[index].begin(id, effect);
            for observer in self.observers.values_mut() {
                observer.add(index, self.blocks[index].states());
            }
        }
        self.open.insert(id, blocks);
    }

    /// The reply to a request has come.
    ///
    /// # Panics
    /// It was not in flight.
    pub fn finish(&mut self, id: OperationId) {
        for index in self.open.remove(&id).expect("only requests in flight are answered") {
            self.blocks[index].finish(id);
        }
    }

    /// Somebody begins to look at a range: a read, or with the whole range a snapshot, or what a crash must keep.
    pub fn observe(&mut self, id: OperationId, sectors: &Range<u64>) {
        let blocks = touched(sectors);
        let mut observer = Observer { first: blocks.start, seen: vec![Vec::new(); blocks.len()] };
        for index in blocks {
            observer.add(index, self.blocks[index].states());
        }
        self.observers.insert(id, observer);
    }

    /// Somebody has stopped looking.
    pub fn forget(&mut self, id: OperationId) {
        self.observers.remove(&id);
    }

    /// Whether an observer may have seen these tags in the sectors from `first` on.
    ///
    /// # Errors
    /// What it cannot have seen, and what it could have.
    ///
    /// # Panics
    /// There is no such observer.
    pub fn explain(&self, id: OperationId, first: u64, tags: &[Tag]) -> Result<(), String> {
        let observer = &self.observers[&id];
        let sectors = first..first + tags.len() as u64;
        for block in touched(&sectors) {
            let part = part(block, &sectors);
            let start = usize::try_from((block as u64 * PER_BLOCK).saturating_sub(first)).expect("within the tags");
            let found = &tags[start..start + part.len()];
            let possible = &observer.seen[block - observer.first];
            if !possible.iter().any(|state| state[part.clone()] == *found) {
                return Err(format!(
                    "block {block}, sectors {part:?}: found {found:?}, possible were only {possible:?}"
                ));
            }
        }
        Ok(())
    }

    /// The volume, completely read or set at a quiet point, holds exactly this now.
    ///
    /// # Panics
    /// Something is in flight.
    pub fn collapse(&mut self, sectors: u64, states: &[State]) {
        assert!(self.open.is_empty(), "not a quiet point");
        assert_eq!(states.len(), touched(&(0..sectors)).end, "states for every block");
        self.sectors = sectors;
        self.blocks = states.iter().copied().map(Block::new).collect();
    }

    /// It has grown: what is new reads as zeros.
    pub fn grow(&mut self, sectors: u64) {
        self.sectors = sectors;
        let before = self.blocks.len();
        self.blocks.resize(touched(&(0..sectors)).end, Block::new(ZEROS));
        for observer in self.observers.values_mut() {
            if observer.first + observer.seen.len() == before {
                observer.seen.resize(self.blocks.len() - observer.first, vec![ZEROS]);
            }
        }
    }

    /// After a crash: nothing is in flight any more, whatever it was.
    pub fn crash(&mut self) {
        self.open.clear();
    }
}

/// Groups the tags of a volume's sectors into the states of its blocks; sectors beyond the end count as zeros.
#[must_use]
pub fn states_of(tags: &[Tag]) -> Vec<State> {
    let state = |tags: &[Tag]| {
        let mut state = ZEROS;
        state[..tags.len()].copy_from_slice(tags);
        state
    };
    tags.chunks(SECTORS_PER_BLOCK).map(state).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_may_see_what_was_there_at_any_moment_of_it() {
        let mut model = Model::new(32);
        model.begin(1, &Change::Paint(4..12, 1));
        model.finish(1);
        model.observe(10, &(0..16));
        assert!(model.explain(10, 0, &[0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0]).is_ok());
        assert!(model.explain(10, 0, &[0; 16]).is_err(), "the write was answered before the read began");
        model.begin(2, &Change::Paint(0..16, 2));
        model.finish(2);
        model.begin(3, &Change::Discard(4..16));
        model.finish(3);
        let both = [2, 2, 2, 2, 2, 2, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(model.explain(10, 0, &both).is_ok());
        assert!(model.explain(10, 2, &[2, 2, 1, 1, 1, 1]).is_err(), "one block at two moments");
        model.observe(11, &(0..16));
        assert!(model.explain(11, 0, &both).is_ok(), "a discard leaves the part of a block alone");
        assert!(model.explain(11, 8, &[2; 8]).is_err());
    }

    #[test]
    fn it_grows_by_zeros_and_goes_back() {
        let mut model = Model::new(10);
        model.observe(5, &(0..10));
        model.grow(24);
        assert!(model.explain(5, 0, &[0; 24]).is_ok());
        model.begin(6, &Change::Revert(vec![[7; 8], ZEROS, [9; 8]]));
        model.finish(6);
        model.observe(7, &(0..24));
        let tags: Vec<Tag> = [[7; 8], ZEROS, [9; 8]].concat();
        assert!(model.explain(7, 0, &tags).is_ok());
        assert_eq!(states_of(&tags[..20]), [[7; 8], ZEROS, [9, 9, 9, 9, 0, 0, 0, 0]]);
        assert_eq!(model.crowd(&(0..24)), 0);
    }
}
