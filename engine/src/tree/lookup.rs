//! Looking up the pointers of blocks.

use super::{Nodes, nodes::Step, slot_of};
use crate::{
    format::{
        node::{self, FANOUT},
        pointer::Pointer,
    },
    storage::buffer::IoBuf,
    versions::span,
};

/// Root and depth of a tree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tree {
    pub(crate) root: Pointer,
    pub(crate) depth: u32,
}

/// Appends the pointers of `count` blocks from `block` on.
pub(crate) fn range(nodes: &Nodes, tree: Tree, block: u64, count: u64, out: &mut Vec<Pointer>) -> Step<()> {
    let end = block + count;
    let mut at = block;
    while at < end {
        let upto = end.min((at / FANOUT as u64 + 1) * FANOUT as u64);
        match leaf(nodes, tree, at)? {
            Some(bytes) => {
                let first = slot_of(at, 0);
                out.extend((first..first + (upto - at) as usize).map(|i| node::get(bytes, i)));
            }
            None => out.resize(out.len() + (upto - at) as usize, Pointer::HOLE),
        }
        at = upto;
    }
    Ok(())
}

/// The leaf that covers `block`; `None` where there is a hole.
#[inline]
pub(crate) fn leaf(nodes: &Nodes, tree: Tree, block: u64) -> Step<Option<&IoBuf>> {
    node_over(nodes, tree, block, 1)
}

/// The node behind the pointer of height `lowest` that covers `block`; `None` where there is a hole.
#[inline]
pub(crate) fn node_over(nodes: &Nodes, tree: Tree, block: u64, lowest: u32) -> Step<Option<&IoBuf>> {
    if block >= span(tree.depth) || tree.depth < lowest || tree.root.is_hole() {
        return Ok(None);
    }
    let mut bytes = nodes.get(tree.root, tree.depth - 1)?;
    for height in (lowest..tree.depth).rev() {
        let index = slot_of(block, height);
        if node::get(bytes, index).is_hole() {
            return Ok(None);
        }
        bytes = nodes.get_child(bytes, index, height - 1)?;
    }
    Ok(Some(bytes))
}
