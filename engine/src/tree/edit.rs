//! Changing trees: redirect-on-write along the path from the root to a leaf.
//!
//! Invariant: a node is changed in place only if the version owns it and no checkpoint is writing it; otherwise it is copied, and
//! the original is released if it was owned, left alone if it is shared.

use super::{Missing, Nodes, nodes::Step, slot_of};
use crate::{
    format::{
        node,
        pointer::{Place, Pointer},
    },
    space::Space,
    storage::buffer::IoBuf,
    units::Epoch,
    versions::{Floor, span},
};

/// What an edit needs to know about the version that it changes.
pub(crate) struct Edit<'a> {
    pub(crate) nodes: &'a mut Nodes,
    pub(crate) space: &'a mut Space,
    pub(crate) root: &'a mut Pointer,
    pub(crate) depth: u32,
    pub(crate) floor: Floor,
    /// Birth of everything written now.
    pub(crate) epoch: Epoch,
    /// Data of others that this version let go of: a branch point may still hold it.
    pub(crate) shared: u64,
}

/// Where a pointer is kept.
#[derive(Clone, Copy)]
enum Holder {
    Root,
    Slot(u32, usize),
}

impl Edit<'_> {
    /// End of the range that a pointer of `height` over `block` covers.
    fn end_of(block: u64, height: u32) -> u64 {
        (block / span(height) + 1) * span(height)
    }

    fn put(&mut self, holder: Holder, pointer: Pointer) {
        match holder {
            Holder::Root => *self.root = pointer,
            Holder::Slot(slot, index) => {
                let _old = self.nodes.set(slot, index, pointer);
            }
        }
    }

    /// Makes the node behind `pointer` (of `height`, over `block`) one that may be changed in place.
    fn open(&mut self, holder: Holder, pointer: Pointer, height: u32, block: u64) -> Step<u32> {
        let owned = self.floor.owns(pointer.birth(), Self::end_of(block, height));
        if let Place::Dirty(slot) = pointer.place()
            && owned
            && self.nodes.is_open(slot)
        {
            return Ok(slot);
        }
        let bytes = if pointer.is_hole() { node::empty() } else { IoBuf::clone(self.nodes.get(pointer, height - 1)?) };
        let slot = self.nodes.add(bytes, height - 1, self.epoch);
        self.put(holder, Pointer::dirty(slot, self.epoch));
        if owned {
            self.nodes.release(pointer, self.space);
        }
        Ok(slot)
    }

    /// Makes sure that the nodes down to those whose pointers have height `to` are in memory: a path is opened whole or not at all, so
    /// that who owns a node depends on the changes made and not on what was in memory.
    fn loaded(&self, block: u64, to: u32) -> Step<()> {
        let mut pointer = *self.root;
        for height in (to + 1..=self.depth).rev() {
            if pointer.is_hole() {
                break;
            }
            pointer = node::get(self.nodes.get(pointer, height - 1)?, slot_of(block, height - 1));
        }
        Ok(())
    }

    /// Slots of the open nodes from the root down to the node whose pointers have height `to`.
    fn path(&mut self, block: u64, to: u32) -> Step<Vec<u32>> {
        self.loaded(block, to)?;
        let mut slots = Vec::with_capacity(self.depth as usize);
        let mut holder = Holder::Root;
        let mut pointer = *self.root;
        for height in (to + 1..=self.depth).rev() {
            let slot = self.open(holder, pointer, height, block)?;
            slots.push(slot);
            let index = slot_of(block, height - 1);
            holder = Holder::Slot(slot, index);
            pointer = self.nodes.slot(slot).map_or(Pointer::HOLE, |d| node::get(&d.bytes, index));
        }
        Ok(slots)
    }

    /// The open leaf over `block`.
    pub(crate) fn leaf(&mut self, block: u64) -> Step<u32> {
        self.loaded(block, 0)?;
        let mut holder = Holder::Root;
        let mut pointer = *self.root;
        let mut height = self.depth;
        loop {
            let slot = self.open(holder, pointer, height, block)?;
            if height == 1 {
                return Ok(slot);
            }
            height -= 1;
            let index = slot_of(block, height);
            holder = Holder::Slot(slot, index);
            pointer = self.nodes.slot(slot).map_or(Pointer::HOLE, |d| node::get(&d.bytes, index));
        }
    }

    /// Puts `pointer` at `block` of the open leaf `slot`, releases what was there if it was owned, and says how the number of data
    /// blocks changed.
    pub(crate) fn set(&mut self, slot: u32, block: u64, pointer: Pointer) -> i64 {
        let old = self.nodes.set(slot, slot_of(block, 0), pointer);
        if self.floor.owns(old.birth(), block + 1) {
            self.nodes.release(old, self.space);
        } else if !old.is_hole() {
            self.shared += 1;
        }
        i64::from(!pointer.is_hole()) - i64::from(!old.is_hole())
    }

    /// Turns the blocks of `start..end` within one leaf into holes; the leaf goes when nothing is left in it.
    pub(crate) fn clear_in_leaf(&mut self, start: u64, end: u64) -> Step<i64> {
        let slots = self.path(start, 0)?;
        let Some(&leaf) = slots.last() else { return Ok(0) };
        let mut change = 0;
        for block in start..end {
            change += self.set(leaf, block, Pointer::HOLE);
        }
        self.prune(&slots, start);
        Ok(change)
    }

    /// Takes the whole subtree of `height` over `block` out of the tree, unreleased.
    pub(crate) fn cut(&mut self, block: u64, height: u32) -> Step<Pointer> {
        if height == self.depth {
            return Ok(std::mem::replace(self.root, Pointer::HOLE));
        }
        let slots = self.path(block, height)?;
        let Some(&slot) = slots.last() else { return Ok(Pointer::HOLE) };
        let old = self.nodes.set(slot, slot_of(block, height), Pointer::HOLE);
        self.prune(&slots, block);
        Ok(old)
    }

    /// Removes nodes of `path` (root first) that have become empty.
    fn prune(&mut self, path: &[u32], block: u64) {
        for (at, &slot) in path.iter().enumerate().rev() {
            if self.nodes.slot(slot).is_none_or(|d| d.used > 0) {
                return;
            }
            let pointer = Pointer::dirty(slot, self.epoch);
            match at.checked_sub(1).map(|up| path[up]) {
                Some(parent) => {
                    let height = self.depth - at as u32;
                    let _old = self.nodes.set(parent, slot_of(block, height), Pointer::HOLE);
                }
                None => *self.root = Pointer::HOLE,
            }
            self.nodes.release(pointer, self.space);
        }
    }

    /// Adds levels on top until the tree has `depth`.
    pub(crate) fn grow(&mut self, depth: u32) -> Result<(), Missing> {
        while self.depth < depth {
            if !self.root.is_hole() {
                let mut bytes = node::empty();
                node::set(&mut bytes, 0, *self.root);
                let slot = self.nodes.add(bytes, self.depth, self.epoch);
                *self.root = Pointer::dirty(slot, self.epoch);
            }
            self.depth += 1;
        }
        Ok(())
    }
}
