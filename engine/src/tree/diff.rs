//! What one tree holds and another does not. Equal pointers mean equal subtrees, so the walk costs what differs.

use super::{Missing, Nodes, lookup::Tree, nodes::Step};
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
    /// Nodes that are not in memory. Once there is one, the walk goes on only to find what else it will need.
    missing: Vec<(Pointer, u32)>,
}

/// How many missing nodes a walk asks for at once.
const AHEAD: usize = 64;

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
    let mut walk =
        Walk { nodes, end, at: start, leaves_left: 512, max_changes, changes: Vec::new(), missing: Vec::new() };
    let top = old.depth.max(new.depth);
    let a = Side { pointer: old.root, height: old.depth };
    let b = Side { pointer: new.root, height: new.depth };
    let whole = walk.visit(a, b, top, 0);
    if !walk.missing.is_empty() {
        return Err(Missing { nodes: walk.missing });
    }
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

    /// Visits the subtree of `height` from block `base` on; says whether to go on behind it.
    fn visit(&mut self, a: Side, b: Side, height: u32, base: u64) -> bool {
        let limit = base.saturating_add(span(height)).min(self.end);
        if limit <= self.at {
            return true;
        }
        if a.pointer == b.pointer && (a.height == b.height || a.pointer.is_hole()) {
            self.at = limit;
            return true;
        }
        if height == 0 {
            if broken(Sabotage::DiffSkipsLast) && base % FANOUT as u64 == FANOUT as u64 - 1 {
                self.at = limit;
                return true;
            }
            let data = matches!(b.pointer.place(), Place::Data(_));
            return self.push(base, data);
        }
        if height == 1 {
            if self.leaves_left == 0 {
                return false;
            }
            self.leaves_left -= 1;
        }
        let (left, right) = match (self.children(a, height), self.children(b, height)) {
            (Ok(left), Ok(right)) => (left, right),
            (left, right) => {
                self.missing.extend([left.err(), right.err()].into_iter().flatten().flat_map(|m| m.nodes));
                return self.missing.len() < AHEAD;
            }
        };
        let first = (self.at.saturating_sub(base) >> (8 * (height - 1))) as usize;
        for index in first..FANOUT {
            let child_base = base + index as u64 * span(height - 1);
            if child_base >= self.end {
                break;
            }
            if !self.visit(left.at(index, height - 1), right.at(index, height - 1), height - 1, child_base) {
                return false;
            }
        }
        self.at = self.at.max(limit);
        true
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

#[cfg(test)]
mod random;

// Hundreds of leaves: what they do is done by `random` under Miri too, with fewer.
#[cfg(all(test, not(miri)))]
mod tests {
    use super::{
        super::fixture::{Disk, data},
        *,
    };

    /// Pages of `new` against `old` with nothing in memory to begin with, as block, count and whether there is data.
    fn cold(disk: &mut Disk, old: Option<Tree>, new: Tree, end: u64) -> Vec<(u64, u64, bool)> {
        let mut nodes = Nodes::new(16 << 20);
        let (mut found, mut at) = (Vec::new(), 0);
        while at < end {
            match changes(&nodes, old, new, at, end, usize::MAX) {
                Ok((page, reached)) => {
                    found.extend(page.iter().map(|c| (c.block, c.count, c.data)));
                    at = reached;
                }
                Err(missing) => disk.load(&mut nodes, &missing),
            }
        }
        found
    }

    fn empty(depth: u32) -> Tree {
        Tree { root: Pointer::HOLE, depth }
    }

    #[test]
    fn a_cold_page_asks_for_many_nodes_at_a_time() {
        for distance in [256, 65_536] {
            let mut disk = Disk::default();
            let written: Vec<_> = (0..512).map(|i| (i * distance, data(i, 1))).collect();
            let tree = disk.change(empty(4), 1, &written);
            let found = cold(&mut disk, None, tree, span(4));
            assert_eq!(found, written.iter().map(|(block, _)| (*block, 1, true)).collect::<Vec<_>>());
            assert!(disk.rounds < 32, "{} rounds for leaves {distance} blocks apart", disk.rounds);
            let nodes = if distance == 256 { 1 + 1 + 2 + 512 } else { 1 + 2 + 512 + 512 };
            assert_eq!(disk.loads, nodes, "each node once, none that is not needed");
        }
    }

    #[test]
    fn a_cold_difference_asks_for_both_sides_at_once() {
        let mut disk = Disk::default();
        let written: Vec<_> = (0..512).map(|i| (i * 256, data(i, 1))).collect();
        let old = disk.change(empty(3), 1, &written);
        let changed: Vec<_> = (0..512).step_by(2).map(|i| (i * 256 + 7, data(1000 + i, 2))).collect();
        let new = disk.change(old, 2, &changed);
        let found = cold(&mut disk, Some(old), new, span(3));
        assert_eq!(found, changed.iter().map(|(block, _)| (*block, 1, true)).collect::<Vec<_>>());
        assert!(disk.rounds < 16, "{} rounds", disk.rounds);
        assert_eq!(disk.loads, 2 * (1 + 2 + 256));
    }
}
