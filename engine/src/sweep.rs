//! The walk over a version that is being deleted: which of its pointers no one else holds.
//!
//! Every pointer born after the version's floor that no child holds at the same place is the version's alone. The walk skips
//! what a child holds and what belongs to the parent, since nothing below can differ.
//!
//! Invariants:
//! - The walk goes in order of blocks; what lies before the cursor is done, nodes that end there included. A node that the cursor stands
//!   inside of was entered, so no child held it then, and none ever will.
//! - A step needs only a few nodes in memory at once, however many children there are: it makes progress with any cache.
//! - It stops only before a leaf or before a node that is not in memory, never inside a leaf.

use crate::{
    format::{
        node::{self, FANOUT},
        pointer::Pointer,
    },
    space::Space,
    tree::{
        Missing, Nodes,
        compare::{Known, Positions},
        lookup::{self, Tree},
    },
    units::Epoch,
    versions::span,
};

/// What to do with pointers that are the version's alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// Release them; the version is going away.
    Free,
    /// Only count them.
    Count,
    /// Find those of one leaf, to be taken out of the tree by the caller.
    Prune,
}

/// How a walk ended.
pub(crate) enum Outcome {
    /// All of the tree was visited.
    Done,
    /// Go on at this block.
    Stopped(u64),
    /// Nothing was done yet and these nodes are needed.
    Missing(Missing),
}

enum Halt {
    At(u64),
    Missing(Missing, u64),
}

/// What a walk is to do.
pub(crate) struct Task {
    pub(crate) mode: Mode,
    pub(crate) floor: Epoch,
    /// The cursor: what lies before it is done.
    pub(crate) from: u64,
    /// Do not start a leaf at or behind this block.
    pub(crate) until: u64,
    /// Most leaves to visit.
    pub(crate) leaves: u32,
}

pub(crate) struct Sweep<'a> {
    nodes: &'a mut Nodes,
    space: &'a mut Space,
    known: &'a mut Known,
    task: Task,
    /// Data blocks and nodes that are the version's alone.
    pub(crate) data: u64,
    pub(crate) node_count: u64,
    /// Blocks to be taken out (mode `Prune`).
    pub(crate) found: Vec<u64>,
}

impl<'a> Sweep<'a> {
    /// A walk that has `known` from earlier tries at the same step.
    pub(crate) fn new(nodes: &'a mut Nodes, space: &'a mut Space, known: &'a mut Known, task: Task) -> Self {
        Self { nodes, space, known, task, data: 0, node_count: 0, found: Vec::new() }
    }

    /// Walks `version`, whose children have the trees `others`.
    pub(crate) fn run(&mut self, version: Tree, others: &[Tree]) -> Outcome {
        let walked = self.below(Pointer::HOLE, &[version.root], others, version.depth + 1, 0);
        let outcome = match walked {
            Ok(()) => Outcome::Done,
            Err(Halt::At(block)) => Outcome::Stopped(block),
            Err(Halt::Missing(missing, at)) if at <= self.task.from && !self.progressed() => Outcome::Missing(missing),
            // What was done up to here counts; the next step asks for the nodes again.
            Err(Halt::Missing(_, at)) => Outcome::Stopped(at),
        };
        if !matches!(outcome, Outcome::Missing(_)) {
            self.known.clear();
        }
        outcome
    }

    fn progressed(&self) -> bool {
        self.data + self.node_count > 0
    }

    /// Visits those of the pointers `mine` of `node`, which is of `height`, that are the version's alone and not done yet.
    fn below(&mut self, node: Pointer, mine: &[Pointer], others: &[Tree], height: u32, base: u64) -> Result<(), Halt> {
        let step = span(height - 1);
        let mut wanted = Positions::default();
        for (index, pointer) in mine.iter().enumerate() {
            let end = base + (index as u64 + 1) * step;
            if !pointer.is_hole() && pointer.birth() > self.task.floor && end > self.task.from {
                wanted.insert(index);
            }
        }
        let missing = |missing| Halt::Missing(missing, base.max(self.task.from));
        let alone = self.known.alone(self.nodes, mine, wanted, others, (height, base)).map_err(missing)?;
        if height == 2 {
            self.want_leaves(mine, alone, others, base)?;
        }
        for index in alone.iter() {
            self.visit(mine[index], others, height - 1, base + index as u64 * step)?;
            if self.task.mode == Mode::Free && height > 1 {
                self.nodes.forget(node, index);
            }
        }
        Ok(())
    }

    /// Visits what is behind a pointer that is the version's alone.
    fn visit(&mut self, pointer: Pointer, others: &[Tree], height: u32, base: u64) -> Result<(), Halt> {
        if height == 0 {
            self.take_data(pointer, base);
            return Ok(());
        }
        let at = base.max(self.task.from);
        if base >= self.task.until || height == 1 && self.task.leaves == 0 {
            return Err(Halt::At(at));
        }
        let bytes = self.nodes.get(pointer, height - 1).map_err(|m| Halt::Missing(m, at))?;
        let mine: Vec<Pointer> = (0..FANOUT).map(|i| node::get(bytes, i)).collect();
        self.below(pointer, &mine, others, height, base)?;
        self.take_node(pointer);
        if height == 1 {
            self.task.leaves -= 1;
            if self.task.mode == Mode::Prune && !self.found.is_empty() {
                return Err(Halt::At(base + span(1)));
            }
        }
        Ok(())
    }

    /// Asks for the leaves that come next all at once, if the first of them is not there: as many as are sure to stay until they are
    /// looked at.
    fn want_leaves(&self, mine: &[Pointer], alone: Positions, others: &[Tree], base: u64) -> Result<(), Halt> {
        let most = self.nodes.cache.batch();
        let near: &[Tree] = if others.len() < most { others } else { &[] };
        let theirs: Vec<_> =
            near.iter().filter_map(|o| lookup::node_over(self.nodes, *o, base, 2).ok().flatten()).collect();
        let mut missing = Vec::new();
        let next = alone.iter().take_while(|i| base + *i as u64 * span(1) < self.task.until);
        for index in next.take(self.task.leaves as usize) {
            let leaves = theirs.iter().map(|bytes| node::get(bytes, index)).chain([mine[index]]);
            missing.extend(leaves.filter(|p| !p.is_hole() && self.nodes.get(*p, 0).is_err()).map(|p| (p, 0)));
            if missing.is_empty() || missing.len() >= most {
                break;
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        Err(Halt::Missing(Missing { nodes: missing }, base.max(self.task.from)))
    }

    fn take_data(&mut self, pointer: Pointer, block: u64) {
        self.data += 1;
        match self.task.mode {
            Mode::Free => self.nodes.release(pointer, self.space),
            Mode::Prune => self.found.push(block),
            Mode::Count => {}
        }
    }

    fn take_node(&mut self, pointer: Pointer) {
        match self.task.mode {
            Mode::Free => {
                self.node_count += 1;
                self.nodes.release(pointer, self.space);
            }
            Mode::Count => self.node_count += 1,
            Mode::Prune => {}
        }
    }
}

#[cfg(test)]
mod families;

// Hundreds of trees: what they do is done by `families` under Miri too, with fewer.
#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use crate::{
        space::reach::Reach,
        tree::fixture::{Disk, data},
    };

    const CHILDREN: u64 = 300;
    const LEAVES: u64 = 8;

    /// A version with three blocks in each of its leaves, and children that all have other data in the first block. The second one is
    /// held by the last child alone, the third one by all.
    fn family(disk: &mut Disk) -> (Tree, Vec<Tree>) {
        let written: Vec<_> =
            (0..LEAVES).flat_map(|l| (0..3).map(move |b| (l * 256 + b, data(l * 3 + b, 1)))).collect();
        let parent = disk.change(Tree { root: Pointer::HOLE, depth: 3 }, 1, &written);
        let children = (0..CHILDREN).map(|child| {
            let blocks = if child + 1 == CHILDREN { 1 } else { 2 };
            let own = |l: u64, b: u64| (l * 256 + b, data(1000 + (child * LEAVES + l) * 2 + b, 2));
            let changed: Vec<_> = (0..LEAVES).flat_map(|l| (0..blocks).map(move |b| own(l, b))).collect();
            disk.change(parent, 2, &changed)
        });
        (parent, children.collect())
    }

    /// Walks with the smallest cache; returns what was found to be taken out, and the count of what is the version's alone.
    fn walk(mode: Mode, leaves: u32) -> (Vec<u64>, u64, Disk) {
        let mut disk = Disk::default();
        let (parent, children) = family(&mut disk);
        let mut nodes = Nodes::new(0);
        let mut space = Space::new(4096, 0, 4096, Reach::new(4096), false);
        let (mut known, mut from, mut found, mut count) = (Known::default(), 0, Vec::new(), 0);
        loop {
            let task = Task { mode, floor: Epoch(0), from, until: u64::MAX, leaves };
            let mut sweep = Sweep::new(&mut nodes, &mut space, &mut known, task);
            let outcome = sweep.run(parent, &children);
            if !matches!(outcome, Outcome::Missing(_)) {
                found.append(&mut sweep.found);
                count += sweep.data + sweep.node_count;
            }
            match outcome {
                Outcome::Done => return (found, count, disk),
                Outcome::Stopped(at) => {
                    assert!(at > from, "it does not go on at {at}");
                    from = at;
                }
                Outcome::Missing(missing) => disk.load(&mut nodes, &missing),
            }
            assert!(disk.loads < 100_000, "it loads the same nodes again and again");
        }
    }

    #[test]
    fn more_children_than_nodes_in_memory_are_pruned_against() {
        let (found, _, disk) = walk(Mode::Prune, 8);
        assert_eq!(found, (0..LEAVES).map(|leaf| leaf * 256).collect::<Vec<_>>());
        // A step for each leaf. Each asks every child at three heights, on the way down from its root.
        assert!(disk.loads < (LEAVES + 1) * (1 + 2 + 3) * (CHILDREN + 10), "{} nodes loaded", disk.loads);
    }

    #[test]
    fn more_children_than_nodes_in_memory_are_counted_against() {
        let (_, count, _) = walk(Mode::Count, 128);
        assert_eq!(count, LEAVES * 2 + 2);
    }
}
