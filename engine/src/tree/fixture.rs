//! Trees on an imaginary disk, for tests of the walks over them: they count what a walk asks for.

use std::rc::Rc;

use rustc_hash::FxHashMap;

use super::{Missing, Nodes, lookup::Tree, slot_of};
use crate::{
    format::{
        node,
        pointer::{Place, Pointer},
    },
    storage::buffer::IoBuf,
    units::{Epoch, PhysicalBlock},
    versions::span,
};

/// Nodes by their block.
#[derive(Default)]
pub(crate) struct Disk {
    blocks: FxHashMap<u64, Rc<IoBuf>>,
    /// How often nodes were asked for, and how many in all.
    pub(crate) rounds: u64,
    pub(crate) loads: u64,
}

/// A pointer to data that nothing else points to.
pub(crate) fn data(number: u64, birth: u32) -> Pointer {
    Pointer::data(PhysicalBlock(1 << 40 | number), Epoch(birth), number as u32)
}

impl Disk {
    /// `tree` with other data in the blocks of `changes`, which are in order: new nodes along their paths, the others shared.
    pub(crate) fn change(&mut self, tree: Tree, birth: u32, changes: &[(u64, Pointer)]) -> Tree {
        Tree { root: self.rewrite(tree.root, tree.depth, birth, changes), depth: tree.depth }
    }

    fn rewrite(&mut self, old: Pointer, height: u32, birth: u32, changes: &[(u64, Pointer)]) -> Pointer {
        if height == 0 {
            return changes[0].1;
        }
        let mut bytes = match old.place() {
            Place::Node(block) => IoBuf::clone(&self.blocks[&block.0]),
            _ => node::empty(),
        };
        for below in changes.chunk_by(|a, b| a.0 / span(height - 1) == b.0 / span(height - 1)) {
            let index = slot_of(below[0].0, height - 1);
            let pointer = self.rewrite(node::get(&bytes, index), height - 1, birth, below);
            node::set(&mut bytes, index, pointer);
        }
        let block = self.blocks.len() as u64 + 1;
        let crc = crc32fast::hash(&bytes);
        let _new = self.blocks.insert(block, Rc::new(bytes));
        Pointer::node(PhysicalBlock(block), Epoch(birth), crc)
    }

    /// Brings what a walk asked for into memory.
    pub(crate) fn load(&mut self, nodes: &mut Nodes, missing: &Missing) {
        self.rounds += 1;
        for (pointer, _) in &missing.nodes {
            let Place::Node(block) = pointer.place() else { panic!("{pointer:?} is asked for") };
            self.loads += 1;
            nodes.cache.insert(block.0, pointer.crc(), self.blocks[&block.0].clone());
        }
    }
}
