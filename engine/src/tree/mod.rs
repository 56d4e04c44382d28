//! Trees of nodes: where nodes live in memory, and the walks over them.
//!
//! Every function here is synchronous. One that needs a node that is not in memory returns [`Missing`]; the caller loads it and
//! calls again, always from the root, so that no pointer is kept across an await.

pub(crate) mod cache;
pub(crate) mod compare;
pub(crate) mod count;
pub(crate) mod diff;
pub(crate) mod edit;
#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
pub(crate) mod forest;
pub(crate) mod lookup;
pub(crate) mod nodes;

pub(crate) use nodes::{Missing, Nodes};

/// Index within its node of the pointer of `height` that covers `block`.
#[inline]
pub(crate) fn slot_of(block: u64, height: u32) -> usize {
    // A node that holds pointers of this height covers 256 times as much as each of them.
    ((block >> (8 * height)) & 0xff) as usize
}
