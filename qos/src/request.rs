//! What is asked for, by whom, and the answer.

use crate::share::cost;

/// What a request does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Reads bytes.
    Read,
    /// Writes bytes.
    Write,
    /// Discards or zeroes a range: a write that transfers nothing.
    Discard,
    /// Makes things durable: free.
    Flush,
}

/// A request before it is taken from its queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// What it does.
    pub kind: Kind,
    /// Bytes that it concerns.
    pub bytes: u64,
}

impl Request {
    /// Flushes, and discards of nothing.
    pub(crate) fn is_free(&self) -> bool {
        self.kind == Kind::Flush || (self.kind == Kind::Discard && self.bytes == 0)
    }

    pub(crate) fn cost(&self) -> u64 {
        cost(if self.kind == Kind::Discard { 0 } else { self.bytes })
    }
}

/// A volume, or background work. Of one that was taken out nothing is known any more, also when another has come into its place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Leaf {
    pub(crate) at: u32,
    /// Which of those that have had this place.
    pub(crate) generation: u32,
}

/// The pool, a group, or a volume.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Node {
    /// Everything.
    Pool,
    /// Some volumes together.
    Group(u32),
    /// One volume.
    Leaf(Leaf),
}

/// A request that waits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket {
    pub(crate) leaf: Leaf,
    pub(crate) number: u64,
}

/// Whether a request may go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// At once.
    Go,
    /// When [`Tree::next`](crate::Tree::next) names it.
    Wait(Ticket),
}
