//! Which pointers of a node other trees hold at the same place.
//!
//! The trees are asked one after the other, a few nodes of theirs at a time, so any number of them can be compared with in a cache of any
//! size: what a clean node said is kept. It stays true, for a clean node never changes.

use rustc_hash::FxHashMap;

use super::{Missing, Nodes, lookup::Tree, nodes::Step, slot_of};
use crate::{
    format::{
        node::{self, FANOUT},
        pointer::{Place, Pointer},
    },
    versions::span,
};

/// Positions in a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Positions([u64; FANOUT / 64]);

impl Positions {
    pub(crate) fn insert(&mut self, index: usize) {
        self.0[index / 64] |= 1 << (index % 64);
    }

    pub(crate) fn contains(&self, index: usize) -> bool {
        self.0[index / 64] >> (index % 64) & 1 != 0
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = usize> {
        (0..FANOUT).filter(move |i| self.contains(*i))
    }

    pub(crate) fn without(mut self, other: Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(a, b)| *a &= !b);
        self
    }
}

/// What clean nodes of other trees said about the nodes of one tree, by their pointer and the place of that node (height and first
/// block). Good for one step of a walk, however often it is begun again.
#[derive(Default)]
pub(crate) struct Known(FxHashMap<(Pointer, u32, u64), Positions>);

impl Known {
    pub(crate) fn clear(&mut self) {
        self.0 = FxHashMap::default();
    }

    /// Which of `wanted` none of `others` holds at the same place. `mine` are the pointers, of `height - 1`, of a node over the blocks
    /// from `base` on.
    pub(crate) fn alone(
        &mut self,
        nodes: &Nodes,
        mine: &[Pointer],
        wanted: Positions,
        others: &[Tree],
        (height, base): (u32, u64),
    ) -> Step<Positions> {
        let mut left = wanted;
        let mut missing = Vec::new();
        for &other in others {
            if left == Positions::default() {
                return Ok(left);
            }
            match self.held_by(nodes, mine, other, (height, base)) {
                Ok(held) => left = left.without(held),
                Err(more) => missing.extend(more.nodes),
            }
            if missing.len() >= nodes.cache.batch() {
                break;
            }
        }
        if missing.is_empty() || left == Positions::default() { Ok(left) } else { Err(Missing { nodes: missing }) }
    }

    fn held_by(&mut self, nodes: &Nodes, mine: &[Pointer], other: Tree, (height, base): (u32, u64)) -> Step<Positions> {
        let mut held = Positions::default();
        if other.depth < height {
            // The tree is lower and hangs at the left end.
            if base == 0 && other.depth == height - 1 && mine[0] == other.root {
                held.insert(0);
            }
            return Ok(held);
        }
        let (mut pointer, mut above) = (other.root, other.depth);
        let mut key = None;
        while base < span(other.depth) && !pointer.is_hole() {
            if key.is_none() && matches!(pointer.place(), Place::Node(_)) {
                let place = (pointer, height, base);
                if let Some(held) = self.0.get(&place) {
                    return Ok(*held);
                }
                key = Some(place);
            }
            let bytes = nodes.get(pointer, above - 1)?;
            if above == height {
                (0..mine.len()).filter(|&i| node::get(bytes, i) == mine[i]).for_each(|i| held.insert(i));
                break;
            }
            above -= 1;
            pointer = node::get(bytes, slot_of(base, above));
        }
        if let Some(place) = key {
            let _new = self.0.insert(place, held);
        }
        Ok(held)
    }
}
