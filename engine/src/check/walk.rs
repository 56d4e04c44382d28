//! The walk over a tree in order of blocks, a stretch at a time: what a check, a scrub and the rebuilding of the free map share.
//!
//! A stretch is found in one synchronous step, from the root that the tree has at that moment. Its blocks are read while a hold keeps
//! them, and then the next stretch is found, from the root again. So no pointer is kept from one stretch to the next, a live volume may
//! change in between, and nothing is held for longer than one stretch takes to read.
//!
//! Invariants:
//! - Everything before the cursor was visited, under the pointer that the tree had there at that time.
//! - [`Visitor::completed`] names a node on disk only if the walk entered it at its first block and left it at its last under the same
//!   pointer: all that its (unchanging) subtree refers to was visited.

use std::{ops::ControlFlow, rc::Rc};

use rustc_hash::FxHashMap;

use crate::{
    format::{
        node::{self, FANOUT},
        pointer::{Place, Pointer},
    },
    storage::buffer::IoBuf,
    tree::slot_of,
    units::Epoch,
    versions::span,
};

/// Nodes looked at by one step at most, so that a walk over what needs no reading does not hold up the reactor.
const NODES_PER_STEP: u32 = 1024;

/// A tree to be walked.
#[derive(Clone, Copy)]
pub(crate) struct Root {
    pub(crate) pointer: Pointer,
    pub(crate) height: u32,
    /// Pointers born up to this epoch belong to others, and may be gone.
    pub(crate) floor: Option<Epoch>,
}

/// A pointer, its height, and the first block that it covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    pub(crate) pointer: Pointer,
    pub(crate) height: u32,
    pub(crate) base: u64,
}

impl Found {
    /// Its physical block; `None` for a hole and for a node that is only in memory.
    pub(crate) fn block(&self) -> Option<u64> {
        match self.pointer.place() {
            Place::Data(block) | Place::Node(block) => Some(block.0),
            Place::Hole | Place::Dirty(_) => None,
        }
    }

    fn end(&self) -> u64 {
        self.base.saturating_add(span(self.height))
    }
}

/// Who walks, and what for.
pub(crate) trait Visitor {
    /// The bytes of a node that is only in memory; `None` to pass over it.
    fn enter_dirty(&mut self, found: Found, slot: u32) -> Option<Rc<IoBuf>>;
    /// Whether a block on disk is to be read (and, if it is a node, gone into). Asked once for each that the walk comes to, and again
    /// only for nodes that were not read after all.
    fn wants(&mut self, found: Found) -> bool;
    /// The walk has visited everything under a node.
    fn completed(&mut self, found: Found);
}

/// What to read next.
#[derive(Default)]
pub(crate) struct Stretch {
    pub(crate) nodes: Vec<Found>,
    pub(crate) data: Vec<Found>,
    /// Everything before this block is done once the above was read.
    reached: u64,
}

/// A node that was read and that the cursor has not passed.
struct Open {
    found: Found,
    bytes: Rc<IoBuf>,
    /// Where the cursor stood when it was read.
    from: u64,
}

/// How far a walk has come.
pub(crate) struct Walk {
    cursor: u64,
    open: FxHashMap<u64, Open>,
    most_nodes: usize,
    most_data: usize,
}

impl Walk {
    /// A walk from block `from` on, whose stretches have at most so many nodes and data blocks to read.
    pub(crate) fn new(from: u64, most_nodes: usize, most_data: usize) -> Self {
        Self { cursor: from, open: FxHashMap::default(), most_nodes, most_data }
    }

    /// Changes how much one stretch reads.
    pub(crate) fn set_limits(&mut self, most_nodes: usize, most_data: usize) {
        (self.most_nodes, self.most_data) = (most_nodes, most_data);
    }

    /// The next stretch of the tree that hangs at `root` now; `None` when the walk is over.
    pub(crate) fn find(&mut self, root: &Root, visitor: &mut impl Visitor) -> Option<Stretch> {
        let top = Found { pointer: root.pointer, height: root.height, base: 0 };
        if self.cursor >= top.end() {
            return None;
        }
        let mut step = Step { walk: self, floor: root.floor, visitor, stretch: Stretch::default(), entered: 0 };
        let whole = step.visit(top).is_continue();
        let mut stretch = step.stretch;
        if whole {
            stretch.reached = top.end();
        }
        Some(stretch)
    }

    /// A node of the last stretch was read and is what it should be.
    pub(crate) fn opened(&mut self, found: Found, bytes: Rc<IoBuf>) {
        if let Some(block) = found.block() {
            let _older = self.open.insert(block, Open { found, bytes, from: self.cursor });
        }
    }

    /// The last stretch is done.
    pub(crate) fn advance(&mut self, stretch: &Stretch) {
        self.cursor = self.cursor.max(stretch.reached);
        let cursor = self.cursor;
        self.open.retain(|_, open| open.found.end() > cursor);
    }
}

/// One synchronous step.
struct Step<'a, V> {
    walk: &'a Walk,
    floor: Option<Epoch>,
    visitor: &'a mut V,
    stretch: Stretch,
    entered: u32,
}

/// Why a step stops.
enum Stop {
    /// A node has to be read first.
    Missing,
    /// Enough for one stretch.
    Full,
}

impl<V: Visitor> Step<'_, V> {
    fn is_foreign(&self, pointer: Pointer) -> bool {
        pointer.is_hole() || self.floor.is_some_and(|floor| pointer.birth() <= floor)
    }

    fn stop(&mut self, at: u64, why: Stop) -> ControlFlow<Stop> {
        self.stretch.reached = at.max(self.walk.cursor);
        ControlFlow::Break(why)
    }

    fn visit(&mut self, found: Found) -> ControlFlow<Stop> {
        if self.is_foreign(found.pointer) || found.end() <= self.walk.cursor {
            return ControlFlow::Continue(());
        }
        if found.height == 0 {
            return self.visit_data(found);
        }
        self.entered += 1;
        if self.entered > NODES_PER_STEP {
            return self.stop(found.base, Stop::Full);
        }
        let (bytes, whole) = match found.pointer.place() {
            Place::Dirty(slot) => match self.visitor.enter_dirty(found, slot) {
                Some(bytes) => (bytes, true),
                None => return ControlFlow::Continue(()),
            },
            Place::Node(block) => match self.walk.open.get(&block.0).filter(|open| open.found == found) {
                Some(open) => (open.bytes.clone(), open.from <= found.base),
                None if self.visitor.wants(found) => {
                    self.stretch.nodes.push(found);
                    return self.stop(found.base, Stop::Missing);
                }
                None => return ControlFlow::Continue(()),
            },
            // No sound node holds such a pointer above data.
            Place::Hole | Place::Data(_) => return ControlFlow::Continue(()),
        };
        self.children(found, &bytes)?;
        if whole {
            self.visitor.completed(found);
        }
        ControlFlow::Continue(())
    }

    fn children(&mut self, parent: Found, bytes: &IoBuf) -> ControlFlow<Stop> {
        let height = parent.height - 1;
        let first = if self.walk.cursor > parent.base { slot_of(self.walk.cursor, height) } else { 0 };
        let child =
            |index| Found { pointer: node::get(bytes, index), height, base: parent.base + index as u64 * span(height) };
        for index in first..FANOUT {
            match self.visit(child(index)) {
                ControlFlow::Continue(()) => {}
                ControlFlow::Break(Stop::Full) => return ControlFlow::Break(Stop::Full),
                ControlFlow::Break(Stop::Missing) => {
                    // Its neighbours will be needed next: they are read with it.
                    for index in index + 1..FANOUT {
                        self.look_ahead(child(index));
                    }
                    return ControlFlow::Break(Stop::Full);
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn look_ahead(&mut self, found: Found) {
        let full = self.stretch.nodes.len() >= self.walk.most_nodes;
        let Place::Node(block) = found.pointer.place() else { return };
        if !full
            && !self.is_foreign(found.pointer)
            && self.walk.open.get(&block.0).is_none_or(|open| open.found != found)
            && self.visitor.wants(found)
        {
            self.stretch.nodes.push(found);
        }
    }

    fn visit_data(&mut self, found: Found) -> ControlFlow<Stop> {
        if self.stretch.data.len() >= self.walk.most_data {
            return self.stop(found.base, Stop::Full);
        }
        if self.visitor.wants(found) {
            self.stretch.data.push(found);
        }
        ControlFlow::Continue(())
    }
}
