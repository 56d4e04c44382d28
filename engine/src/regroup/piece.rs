//! What is looked at and changed in single steps: a leaf that is worth moving, the look for it, and the step that puts it into the tree.

use super::measure::{Block, Plan, runs};
use crate::{
    check::walk::Found,
    format::{
        node::{self, FANOUT},
        pointer::{Place, Pointer},
    },
    sabotage::{Sabotage, broken},
    state::{State, Step, tree_of},
    storage::buffer::IoBuf,
    tree::{
        Missing, Nodes,
        lookup::{self, Tree},
        slot_of,
    },
    units::{VersionId, VolumeId},
    versions::{Floor, span},
};

/// Blocks of a leaf.
pub(super) const LEAF: u64 = FANOUT as u64;

/// A scattered leaf, as it was in the step that found it.
pub(super) struct Piece {
    /// Its first block.
    pub(super) base: u64,
    pub(super) blocks: Vec<Block>,
    pointers: Vec<Pointer>,
    pub(super) plan: Plan,
    /// Blocks that others refer to as well.
    pub(super) shared: u64,
    /// Nodes that moving it dirties at most.
    pub(super) nodes: u64,
}

impl Piece {
    /// The leaf that begins at block `base`, with those of its blocks left alone that are known to be damaged.
    pub(super) fn of(bytes: &IoBuf, base: u64, floor: Floor, nodes: u64, damaged: &[(u64, Pointer)]) -> Self {
        let pointers: Vec<Pointer> = (0..FANOUT).map(|index| node::get(bytes, index)).collect();
        let mut shared = 0;
        let mut blocks = Vec::with_capacity(FANOUT);
        for (&pointer, block) in pointers.iter().zip(base..) {
            let own = is_own(floor, pointer, block);
            blocks.push(match pointer.place() {
                Place::Data(place) if own && !damaged.contains(&(block, pointer)) => Block::Owned(place.0),
                Place::Data(place) => {
                    shared += u64::from(!own);
                    Block::Fixed(place.0)
                }
                _ => Block::Hole,
            });
        }
        let plan = Plan::of(&blocks);
        Self { base, blocks, pointers, plan, shared, nodes }
    }

    /// What is to be moved, in the order of the volume.
    pub(super) fn moved(&self) -> Vec<Found> {
        let found = |&at: &usize| Found { pointer: self.pointers[at], height: 0, base: self.base + at as u64 };
        self.plan.moves.iter().map(found).collect()
    }

    /// Runs of the leaf, were the moved blocks at these places.
    pub(super) fn runs_at(&self, places: impl Iterator<Item = u64>) -> u64 {
        let mut blocks = self.blocks.clone();
        for (&at, place) in self.plan.moves.iter().zip(places) {
            blocks[at] = Block::Owned(place);
        }
        runs(&blocks)
    }

    /// Leaves a block of it out of the plan.
    pub(super) fn leave_out(&mut self, block: u64) {
        let at = (block - self.base) as usize;
        if let Block::Owned(place) = self.blocks[at] {
            self.blocks[at] = Block::Fixed(place);
        }
    }
}

/// A node that has to be read before the look goes on: which range it stands for.
pub(super) struct Needed(pub(super) Found, pub(super) Missing);

/// What stands at a place of the tree.
pub(super) enum At<'a> {
    Leaf(&'a IoBuf),
    /// Nothing to be moved up to this block: a hole, or what others share.
    Nothing(u64),
}

/// How replacing ended: the leaf's runs now, and which of the moved blocks are in the tree.
pub(super) type Replaced = (u64, Vec<bool>);

/// Whether the volume alone refers to a block.
fn is_own(floor: Floor, pointer: Pointer, block: u64) -> bool {
    floor.owns(pointer.birth(), block + 1) || broken(Sabotage::RegroupShared)
}

/// The leaf over `block`. Nothing below a node that others share was born later, so that is not entered.
pub(super) fn leaf_at(nodes: &Nodes, tree: Tree, floor: Floor, block: u64) -> Result<At<'_>, Needed> {
    if block >= span(tree.depth) {
        return Ok(At::Nothing(u64::MAX));
    }
    let (mut pointer, mut height) = (tree.root, tree.depth);
    let mut parent: Option<&IoBuf> = None;
    loop {
        let base = block / span(height) * span(height);
        let end = base.saturating_add(span(height));
        let owned = floor.owns(pointer.birth(), end) || broken(Sabotage::RegroupShared);
        if pointer.is_hole() || !owned {
            return Ok(At::Nothing(end));
        }
        let found = match parent {
            Some(bytes) => nodes.get_child(bytes, slot_of(block, height), height - 1),
            None => nodes.get(pointer, height - 1),
        };
        let bytes = found.map_err(|missing| Needed(Found { pointer, height, base }, missing))?;
        height -= 1;
        if height == 0 {
            return Ok(At::Leaf(bytes));
        }
        pointer = node::get(bytes, slot_of(block, height));
        parent = Some(bytes);
    }
}

/// Whether there is room for a piece, beside all that is kept back and as much again as the reserve: users are to find room when this is done.
pub(super) fn has_room(state: &mut State, piece: &Piece) -> bool {
    state.update_promise();
    let blocks = piece.plan.moves.len() as u64 + piece.nodes;
    !state.space.is_tight(blocks + state.space.reserve())
}

pub(super) fn sound(found: &Found, bytes: &[u8]) -> bool {
    crc32fast::hash(bytes) == found.pointer.crc() || broken(Sabotage::RegroupUnverified)
}

/// Puts moved blocks into the tree: those that are still what was read, and still the volume's own. The only place where they are.
pub(super) fn replace(state: &mut State, volume: VolumeId, piece: &Piece, places: &[u64]) -> Step<Option<Replaced>> {
    let Some(version) = state.lineage.live_of(volume) else { return Ok(None) };
    let (id, floor) = (version.id, state.lineage.floor(version));
    let mut now = Vec::with_capacity(FANOUT);
    lookup::range(&state.nodes, tree_of(version), piece.base, LEAF, &mut now)?;
    let is_still = |&at: &usize| {
        let pointer = piece.pointers[at];
        now[at] == pointer && is_own(floor, pointer, piece.base + at as u64) || broken(Sabotage::RegroupBlindly)
    };
    let still: Vec<bool> = piece.plan.moves.iter().map(is_still).collect();
    let moves = piece.plan.moves.iter().copied().zip(places.iter().copied());
    let kept: Vec<(usize, u64)> = moves.zip(&still).filter_map(|(moved, still)| still.then_some(moved)).collect();
    // All runs are of one leaf: once the first has found its nodes, so do the others.
    for run in kept.chunk_by(|a, b| (a.0 + 1, a.1 + 1) == *b) {
        write(state, id, piece, run)?;
    }
    let mut blocks: Vec<Block> = now
        .iter()
        .map(|pointer| match pointer.place() {
            Place::Data(place) => Block::Fixed(place.0),
            _ => Block::Hole,
        })
        .collect();
    for (at, place) in kept {
        blocks[at] = Block::Fixed(place);
    }
    Ok(Some((runs(&blocks), still)))
}

/// One run.
fn write(state: &mut State, id: VersionId, piece: &Piece, run: &[(usize, u64)]) -> Step<()> {
    let Some(&(first, place)) = run.first() else { return Ok(()) };
    let crcs: Vec<u8> = run.iter().flat_map(|&(at, _)| piece.pointers[at].crc().to_le_bytes()).collect();
    state.write(id, piece.base + first as u64, place, &crcs)
}
