//! Backlogs: what was acknowledged from memory and is not in the tree yet, of volumes with `cache=writeback`.
//!
//! Invariants:
//! - Entries leave a backlog at its front, in the order in which they were acknowledged, in the step that puts them into the tree.
//! - While anything goes around a backlog (`Through`), no entry is taken; who goes around waits until the backlog is empty.
//! - `newest` names, for each block that an entry of the queue covers, the last of these entries.
//! - What the entries take of memory is counted in the pool's [`Backlogs`].

mod budget;
mod overlay;
mod piece;
#[cfg(test)]
mod tests;

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    time::Duration,
};

use rustc_hash::FxHashMap;

pub(crate) use budget::{Backlogs, Room, Through};
pub(crate) use overlay::Overlay;
pub(crate) use piece::{Content, Piece, pieces_of};

use crate::{error::Error, qos::Permit, units::BLOCK};

/// Memory that an entry takes beside its data, about, and what it takes for each block.
const ENTRY: u64 = 256;
const SLOT: u64 = 64;
/// How long the oldest entry may have waited when another one is taken.
const OLDEST: Duration = Duration::from_millis(50);
/// Entries taken in one turn of the reactor, before others have theirs.
const TAKEN_IN_A_TURN: u32 = 64;

/// A piece that was acknowledged.
pub(crate) struct Entry {
    pub(crate) piece: Piece,
    number: u64,
    since: Duration,
    /// Memory that counts for it.
    memory: u64,
    /// Nodes that are kept back for it.
    pub(crate) nodes: u64,
    /// The request that it is the last entry of.
    permit: RefCell<Option<Permit>>,
}

impl Entry {
    pub(crate) fn offset(&self) -> u64 {
        self.piece.block * BLOCK
    }

    pub(crate) fn length(&self) -> u64 {
        self.piece.count * BLOCK
    }

    /// Blocks kept back for it while it has not begun to leave.
    fn kept(&self) -> u64 {
        self.piece.data_blocks() + self.nodes
    }
}

/// Why entries cannot be written, and whether anybody knows.
struct Failure {
    error: Error,
    told: Cell<bool>,
}

#[derive(Default)]
struct Queue {
    entries: VecDeque<Rc<Entry>>,
    newest: FxHashMap<u64, Rc<Entry>>,
    /// So many from the front on are on their way.
    begun: usize,
}

/// The backlog of one volume. It is there, empty, for every volume that was opened.
#[derive(Default)]
pub(crate) struct Backlog {
    /// Writes may be acknowledged from memory.
    on: Cell<bool>,
    /// How many go around it.
    through: Cell<u32>,
    /// How many stand in the line before its door.
    in_line: Cell<u32>,
    /// Numbers of the last entry that was taken, and of the last one that is in the tree.
    taken: Cell<u64>,
    drained: Cell<u64>,
    queue: RefCell<Queue>,
    failure: RefCell<Option<Failure>>,
    /// A task drains it.
    draining: Cell<bool>,
    /// Its volume was deleted.
    gone: Cell<bool>,
    /// How many entries were taken in which turn.
    turn: Cell<(Duration, u32)>,
    share: budget::Share,
}

impl Backlog {
    /// Whether writes may be acknowledged from memory.
    pub(crate) fn is_on(&self) -> bool {
        self.on.get()
    }

    pub(crate) fn set_on(&self, on: bool) {
        self.on.set(on);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.taken.get() == self.drained.get()
    }

    /// Whether something goes around it.
    pub(crate) fn is_passed(&self) -> bool {
        self.through.get() > 0
    }

    /// Whether nobody stands in line, so that who comes now takes nobody's place.
    pub(crate) fn nobody_in_line(&self) -> bool {
        self.in_line.get() == 0
    }

    /// The last entry that was taken.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.get()
    }

    /// Whether everything up to an entry is in the tree.
    pub(crate) fn has_drained(&self, number: u64) -> bool {
        self.drained.get() >= number
    }

    /// Whether so much was taken in this turn that others should have theirs.
    pub(crate) fn should_yield(&self) -> bool {
        self.turn.get().1 >= TAKEN_IN_A_TURN
    }

    fn waits_too_long(&self, now: Duration) -> bool {
        let oldest = self.queue.borrow().entries.front().map(|entry| entry.since);
        oldest.is_some_and(|since| now.saturating_sub(since) > OLDEST)
    }

    // ---- failures ----

    /// Why it cannot be drained. Whoever asks tells its client.
    pub(crate) fn failure(&self) -> Option<Error> {
        let failure = self.failure.borrow();
        let failure = failure.as_ref()?;
        failure.told.set(true);
        Some(failure.error.clone())
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failure.borrow().is_some()
    }

    /// Its requests do not count as under way any more.
    fn drop_permits(&self) {
        let permits: Vec<_> = self.queue.borrow().entries.iter().filter_map(|entry| entry.permit.take()).collect();
        drop(permits);
    }

    // ---- the drain ----

    /// Whether the caller is to drain it from here on.
    pub(crate) fn begin_draining(&self) -> bool {
        !self.draining.replace(true)
    }

    pub(crate) fn end_draining(&self) {
        self.draining.set(false);
    }

    /// The next entry that has not begun to leave.
    pub(crate) fn next(&self) -> Option<Rc<Entry>> {
        if self.gone.get() {
            return None;
        }
        let mut queue = self.queue.borrow_mut();
        let next = queue.entries.get(queue.begun).cloned()?;
        queue.begun += 1;
        Some(next)
    }

    /// Nothing is on its way any more: what was stays at the front.
    pub(crate) fn rewind(&self) {
        self.queue.borrow_mut().begun = 0;
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone.get()
    }

    // ---- looking into it ----

    /// The last entry that covers a block.
    pub(crate) fn newest(&self, block: u64) -> Option<Rc<Entry>> {
        if self.is_empty() {
            return None;
        }
        self.queue.borrow().newest.get(&block).cloned()
    }

    /// What it has of a range of blocks, if it has anything.
    pub(crate) fn overlay(&self, first: u64, count: u64) -> Option<Overlay> {
        if self.is_empty() {
            return None;
        }
        let queue = self.queue.borrow();
        Overlay::of(first, (first..first + count).map(|block| queue.newest.get(&block).cloned()))
    }
}
