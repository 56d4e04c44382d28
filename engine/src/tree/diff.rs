//! What one tree holds and another does not. Equal pointers mean equal subtrees, so the walk costs what differs.

use super::{Nodes, lookup::Tree, nodes::Step};
use crate::{
    format::{
        node::{self, FANOUT},
        pointer::{Place, Pointer},
    },
    sabotage::{Sabotage, broken},
    versions::span,
};

/// A run of blocks of the newer tree that differ from the older one, and whether they hold data now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Change {
    pub(crate) block: u64,
    pub(crate) count: u64,
    pub(crate) data: bool,
}

/// A bounded walk over the range `at..end`.
pub(crate) struct Walk<'a> {
    nodes: &'a Nodes,
    end: u64,
    at: u64,
    leaves_left: u32,
    max_changes: usize,
    changes: Vec<Change>,
}

/// One side at some height; a tree that is lower than the other hangs at the left end of imaginary nodes.
#[derive(Clone, Copy)]
struct Side {
    pointer: Pointer,
    height: u32,
}

/// A node's children, or those of an imaginary one.
enum Children<'a> {
    Node(&'a [u8]),
    Only(Side),
    None,
}

impl Children<'_> {
    fn at(&self, index: usize, height: u32) -> Side {
        match self {
            Children::Node(bytes) => Side { pointer: node::get(bytes, index), height },
            Children::Only(side) if index == 0 => *side,
            _ => Side { pointer: Pointer::HOLE, height },
        }
    }
}

/// The changes of `new` against `old` (`None`: against nothing) in `start..end`, and where the walk stopped: at `end`, or earlier with a
/// full page.
pub(crate) fn changes(
    nodes: &Nodes,
    old: Option<Tree>,
    new: Tree,
    start: u64,
    end: u64,
    max_changes: usize,
) -> Step<(Vec<Change>, u64)> {
    let hole = Tree { root: Pointer::HOLE, depth: 1 };
    let old = old.unwrap_or(hole);
    let mut walk = Walk { nodes, end, at: start, leaves_left: 512, max_changes, changes: Vec::new() };
    let top = old.depth.max(new.depth);
    let a = Side { pointer: old.root, height: old.depth };
    let b = Side { pointer: new.root, height: new.depth };
    let whole = walk.visit(a, b, top, 0)?;
    let reached = if whole { end } else { walk.at };
    Ok((walk.changes, reached))
}

impl<'a> Walk<'a> {
    fn children(&self, side: Side, height: u32) -> Step<Children<'a>> {
        if side.height < height {
            return Ok(if side.pointer.is_hole() { Children::None } else { Children::Only(side) });
        }
        if side.pointer.is_hole() {
            return Ok(Children::None);
        }
        self.nodes.get(side.pointer, height - 1).map(|bytes| Children::Node(&bytes[..]))
    }

    /// Visits the subtree of `height` from block `base` on; says whether it was finished.
    fn visit(&mut self, a: Side, b: Side, height: u32, base: u64) -> Step<bool> {
        let limit = base.saturating_add(span(height)).min(self.end);
        if limit <= self.at {
            return Ok(true);
        }
        if a.pointer == b.pointer && (a.height == b.height || a.pointer.is_hole()) {
            self.at = limit;
            return Ok(true);
        }
        if height == 0 {
            if broken(Sabotage::DiffSkipsLast) && base % FANOUT as u64 == FANOUT as u64 - 1 {
                self.at = limit;
                return Ok(true);
            }
            let data = matches!(b.pointer.place(), Place::Data(_));
            return Ok(self.push(base, data));
        }
        if height == 1 {
            if self.leaves_left == 0 {
                return Ok(false);
            }
            self.leaves_left -= 1;
        }
        let (left, right) = match (self.children(a, height), self.children(b, height)) {
            (Ok(left), Ok(right)) => (left, right),
            (Err(mut one), Err(two)) => {
                one.nodes.extend(two.nodes);
                return Err(one);
            }
            (Err(missing), _) | (_, Err(missing)) => return Err(missing),
        };
        if height == 2 {
            self.want_leaves(&left, &right, base)?;
        }
        let first = (self.at.saturating_sub(base) >> (8 * (height - 1))) as usize;
        for index in first..FANOUT {
            let child_base = base + index as u64 * span(height - 1);
            if child_base >= self.end {
                break;
            }
            if !self.visit(left.at(index, height - 1), right.at(index, height - 1), height - 1, child_base)? {
                return Ok(false);
            }
        }
        self.at = self.at.max(limit);
        Ok(true)
    }

    /// Asks for the next leaves that will be needed all at once, rather than one by one.
    fn want_leaves(&self, left: &Children<'_>, right: &Children<'_>, base: u64) -> Step<()> {
        let first = (self.at.saturating_sub(base) / FANOUT as u64) as usize;
        let mut missing = Vec::new();
        for index in first..FANOUT.min(first + 64) {
            if base + index as u64 * FANOUT as u64 >= self.end {
                break;
            }
            let (a, b) = (left.at(index, 1), right.at(index, 1));
            if a.pointer != b.pointer {
                for side in [a, b].iter().filter(|s| s.height == 1 && !s.pointer.is_hole()) {
                    if self.nodes.get(side.pointer, 0).is_err() {
                        missing.push((side.pointer, 0));
                    }
                }
            }
        }
        if missing.is_empty() { Ok(()) } else { Err(super::Missing { nodes: missing }) }
    }

    fn push(&mut self, block: u64, data: bool) -> bool {
        match self.changes.last_mut() {
            Some(last) if last.block + last.count == block && last.data == data => last.count += 1,
            _ => {
                if self.changes.len() == self.max_changes {
                    return false;
                }
                self.changes.push(Change { block, count: 1, data });
            }
        }
        self.at = block + 1;
        true
    }
}
