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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        rng::Rng,
        tree::{
            forest::{Forest, Live},
            lookup::Tree,
        },
    };

    /// Blocks around the ends of leaves and of nodes of leaves, in a few leaves.
    const BLOCKS: [u64; 12] = [0, 1, 2, 255, 256, 300, 65_535, 65_536, 65_537, 131_071, 131_400, 200_000];

    struct Garden {
        forest: Forest,
        live: Live,
        snapshots: Vec<Live>,
        /// Subtrees that were cut off and that only their version owned.
        detached: Vec<Tree>,
    }

    impl Garden {
        fn new() -> Self {
            let forest = Forest::new();
            let live = forest.plant(3);
            Self { forest, live, snapshots: Vec::new(), detached: Vec::new() }
        }

        fn step(&mut self, rng: &mut Rng) {
            let Self { forest, live, snapshots, detached } = self;
            let block = rng.pick(&BLOCKS);
            match rng.below(20) {
                0..=8 => forest.write(live, block),
                9 | 10 => {
                    let end = (block / 256 + 1) * 256;
                    forest.clear(live, block, (block + 1 + rng.below(3)).min(end));
                }
                11 => {
                    let height = 1 + rng.below(u64::from(live.tree.depth)) as u32;
                    let base = block / span(height) * span(height);
                    let cut = forest.cut(live, base, height);
                    if live.floor.owns(cut.root.birth(), base + span(height)) {
                        detached.push(cut);
                    }
                }
                12 if live.tree.depth < 5 => forest.grow(live, live.tree.depth + 1),
                12..=14 => snapshots.push(forest.snapshot(live)),
                15 | 16 if !forest.is_freezing() => forest.freeze(),
                15..=17 if forest.is_freezing() => {
                    let trees = snapshots.iter_mut().chain([live]).map(|v| &mut v.tree).chain(detached);
                    forest.thaw(trees.map(|t| &mut t.root));
                }
                18 => forest.evict(),
                _ => forest.commit(),
            }
        }

        fn check(&self) {
            let versions = || self.snapshots.iter().chain([&self.live]);
            for version in versions() {
                assert_eq!(self.forest.content(version.tree), version.content);
            }
            if !self.forest.is_freezing() {
                self.forest.check_exact(versions().map(|v| v.tree).chain(self.detached.iter().copied()));
            }
        }
    }

    /// Every version reads back what was written to it, also those whose nodes were copied since, and the blocks in use are exactly those
    /// that some version refers to: nothing is released that another holds, and nothing is lost.
    #[test]
    fn random_edits_agree_with_a_map() {
        let (seeds, steps) = if cfg!(miri) { (1, 40) } else { (60, 150) };
        for seed in 1..=seeds {
            let mut rng = Rng::new(seed);
            let mut garden = Garden::new();
            for step in 1..=steps {
                garden.step(&mut rng);
                if !cfg!(miri) || step % 20 == 0 {
                    garden.check();
                }
            }
        }
    }

    #[test]
    fn what_is_replaced_is_released_by_its_owner_alone() {
        let mut forest = Forest::new();
        let mut live = forest.plant(2);
        forest.write(&mut live, 7);
        forest.write(&mut live, 7);
        forest.commit();
        // One block and the nodes over it; both writes of it were the version's own.
        assert_eq!((forest.space.reach.count(), forest.nodes.dirty_count(), live.shared), (1, 2, 0));
        let snapshot = forest.snapshot(&mut live);
        forest.write(&mut live, 7);
        assert_eq!((forest.space.reach.count(), forest.nodes.dirty_count(), live.shared), (2, 4, 1));
        forest.clear(&mut live, 7, 8);
        assert_eq!((forest.space.reach.count(), forest.nodes.dirty_count(), live.shared), (1, 2, 1));
        assert!(live.tree.root.is_hole(), "empty nodes go");
        assert_eq!(forest.content(snapshot.tree), snapshot.content);
    }

    /// The parent is being dissolved: behind its cursor its blocks are the child's, before it they are not.
    #[test]
    fn behind_the_cursor_of_a_walk_the_child_answers_for_more() {
        let mut forest = Forest::new();
        let mut live = forest.plant(2);
        let blocks = [0, 511, 512, 600];
        blocks.iter().for_each(|&block| forest.write(&mut live, block));
        let parent = forest.snapshot(&mut live);
        live.floor = Floor { cursor: 512, below: Epoch(0), above: Epoch(1) };
        let place = |forest: &Forest, block: u64| {
            let mut found = Pointer::HOLE;
            forest.disk.visit(&forest.nodes, parent.tree.root, 2, 0, &mut |pointer, height, base| {
                if (height, base) == (0, block) {
                    found = pointer;
                }
                true
            });
            match found.place() {
                Place::Data(at) => at.0,
                other => panic!("{other:?}"),
            }
        };
        let places = blocks.map(|block| place(&forest, block));
        blocks.iter().for_each(|&block| forest.write(&mut live, block));
        assert_eq!(places.map(|at| forest.space.reach.contains(at)), [false, false, true, true]);
        assert_eq!(live.shared, 2);
    }

    #[test]
    fn a_path_is_opened_whole_or_not_at_all() {
        let mut forest = Forest::new();
        let mut live = forest.plant(3);
        forest.write(&mut live, 70_000);
        forest.freeze();
        forest.thaw([&mut live.tree.root].into_iter());
        forest.evict();
        let root = live.tree.root;
        // The nodes come into memory one at a time; until the last is there, none is copied.
        for level in [2, 1, 0] {
            let mut now = root;
            let (nodes, space) = (&mut forest.nodes, &mut forest.space);
            let mut edit =
                Edit { nodes, space, root: &mut now, depth: 3, floor: live.floor, epoch: Epoch(1), shared: 0 };
            let missing = edit.leaf(70_000).unwrap_err();
            assert_eq!(missing.nodes.iter().map(|(_, level)| *level).collect::<Vec<_>>(), [level]);
            assert_eq!((now, forest.nodes.dirty_count()), (root, 0));
            forest.disk.load(&mut forest.nodes, &missing);
        }
        forest.clear(&mut live, 70_000, 70_001);
        assert!(live.tree.root.is_hole());
        forest.check_exact([live.tree].into_iter());
    }
}
