//! The walk over a version that is being deleted: which of its pointers no one else holds.
//!
//! Every pointer born after the version's floor that no child holds at the same place is the version's alone. The walk skips
//! what a child holds and what belongs to the parent, since nothing below can differ.
//!
//! Invariants:
//! - The walk goes in order of blocks; what lies before the cursor is done, nodes that end there included. A node that the cursor stands
//!   inside of was entered, so no child held it then, and none ever will.
//! - It stops only before a leaf or before a node that is not in memory, never inside a leaf.

use crate::{
    format::{
        node::{self, FANOUT},
        pointer::Pointer,
    },
    space::Space,
    tree::{Missing, Nodes, lookup::Tree},
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

pub(crate) struct Sweep<'a> {
    nodes: &'a mut Nodes,
    space: &'a mut Space,
    floor: Epoch,
    from: u64,
    /// Do not start a leaf at or behind this block.
    until: u64,
    leaves_left: u32,
    mode: Mode,
    /// Data blocks and nodes that are the version's alone.
    pub(crate) data: u64,
    pub(crate) node_count: u64,
    /// Blocks to be taken out (mode `Prune`).
    pub(crate) found: Vec<u64>,
}

#[derive(Clone, Copy)]
struct Side {
    pointer: Pointer,
    height: u32,
}

impl<'a> Sweep<'a> {
    /// A walk from block `from` on that visits at most `leaves` leaves, all of them before `until`.
    pub(crate) fn new(
        nodes: &'a mut Nodes,
        space: &'a mut Space,
        floor: Epoch,
        mode: Mode,
        from: u64,
        until: u64,
        leaves: u32,
    ) -> Self {
        Self { nodes, space, floor, from, until, leaves_left: leaves, mode, data: 0, node_count: 0, found: Vec::new() }
    }

    /// Walks `version`, whose children have the trees `others`.
    pub(crate) fn run(&mut self, version: Tree, others: &[Tree]) -> Outcome {
        let top = others.iter().map(|o| o.depth).fold(version.depth, u32::max);
        let side = |t: &Tree| Side { pointer: t.root, height: t.depth };
        let others: Vec<Side> = others.iter().map(side).collect();
        match self.visit(side(&version), &others, top, 0) {
            Ok(()) => Outcome::Done,
            Err(Halt::At(block)) => Outcome::Stopped(block),
            Err(Halt::Missing(missing, at)) if at <= self.from && !self.progressed() => Outcome::Missing(missing),
            Err(Halt::Missing(missing, at)) => {
                // What was done up to here counts; the next step asks for the nodes again.
                drop(missing);
                Outcome::Stopped(at)
            }
        }
    }

    fn progressed(&self) -> bool {
        self.data + self.node_count > 0
    }

    fn children(&self, side: Side, height: u32, base: u64) -> Result<Option<Vec<Side>>, Halt> {
        let child = height - 1;
        if side.pointer.is_hole() {
            return Ok(None);
        }
        if side.height < height {
            let mut list = vec![Side { pointer: Pointer::HOLE, height: child }; FANOUT];
            list[0] = side;
            return Ok(Some(list));
        }
        let at = base.max(self.from);
        let bytes = self.nodes.get(side.pointer, child).map_err(|m| Halt::Missing(m, at))?;
        Ok(Some((0..FANOUT).map(|i| Side { pointer: node::get(bytes, i), height: child }).collect()))
    }

    fn visit(&mut self, version: Side, others: &[Side], height: u32, base: u64) -> Result<(), Halt> {
        let end = base.saturating_add(span(height));
        let imaginary = version.height < height;
        if version.pointer.is_hole() || end <= self.from {
            return Ok(());
        }
        if !imaginary {
            let held = others.iter().any(|o| o.height == version.height && o.pointer == version.pointer);
            if held || version.pointer.birth() <= self.floor {
                return Ok(());
            }
        }
        if height == 0 {
            self.take_data(version.pointer, base);
            return Ok(());
        }
        if height == 1 {
            if base >= self.until || self.leaves_left == 0 {
                return Err(Halt::At(base.max(self.from)));
            }
        } else if base >= self.until {
            return Err(Halt::At(base));
        }
        let Some(mine) = self.children(version, height, base)? else { return Ok(()) };
        let mut theirs = Vec::with_capacity(others.len());
        for &other in others {
            theirs.extend(self.children(other, height, base)?);
        }
        if height == 2 {
            self.want_leaves(&mine, &theirs, base)?;
        }
        if height == 1 {
            self.leaves_left -= 1;
        }
        let first = (self.from.saturating_sub(base) >> (8 * (height - 1))) as usize;
        for index in first..FANOUT {
            let others: Vec<Side> = theirs.iter().map(|t| t[index]).filter(|s| !s.pointer.is_hole()).collect();
            self.visit(mine[index], &others, height - 1, base + index as u64 * span(height - 1))?;
        }
        if !imaginary {
            self.take_node(version.pointer);
        }
        if self.mode == Mode::Prune && height == 1 && !self.found.is_empty() {
            return Err(Halt::At(end));
        }
        Ok(())
    }

    /// Asks for the leaves that come next all at once.
    fn want_leaves(&self, mine: &[Side], theirs: &[Vec<Side>], base: u64) -> Result<(), Halt> {
        let first = (self.from.saturating_sub(base) / FANOUT as u64) as usize;
        let mut nodes = Vec::new();
        let mut at = None;
        for index in first..FANOUT.min(first + self.leaves_left as usize) {
            let side = mine[index];
            let others = || theirs.iter().map(|t| t[index]);
            let skipped = side.pointer.is_hole()
                || side.height == 1 && side.pointer.birth() <= self.floor
                || others().any(|o| o.height == side.height && o.pointer == side.pointer);
            if skipped {
                continue;
            }
            for s in std::iter::once(side).chain(others()) {
                if s.height == 1 && !s.pointer.is_hole() && self.nodes.get(s.pointer, 0).is_err() {
                    let _first = at.get_or_insert(base + (index * FANOUT) as u64);
                    nodes.push((s.pointer, 0));
                }
            }
        }
        match at {
            // Nodes that are missing further on do not keep the walk from going on here.
            Some(block) if block <= self.from.max(base) || self.mode != Mode::Free => {
                Err(Halt::Missing(Missing { nodes }, base.max(self.from)))
            }
            _ => Ok(()),
        }
    }

    fn take_data(&mut self, pointer: Pointer, block: u64) {
        self.data += 1;
        match self.mode {
            Mode::Free => self.nodes.release(pointer, self.space),
            Mode::Prune => self.found.push(block),
            Mode::Count => {}
        }
    }

    fn take_node(&mut self, pointer: Pointer) {
        match self.mode {
            Mode::Free => {
                self.node_count += 1;
                self.nodes.release(pointer, self.space);
            }
            Mode::Count => self.node_count += 1,
            Mode::Prune => {}
        }
    }
}
