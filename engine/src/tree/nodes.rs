//! Nodes in memory: dirty ones in slots, clean ones in the cache, and what is known of clean ones that had to make room.
//!
//! A dirty node is one that no checkpoint has written. Its pointer names its slot, and for versions, equality and ownership it
//! counts like any other. Its life:
//!
//! - While its generation is the current one, the version that owns it changes it in place.
//! - A checkpoint raises the generation ([`Nodes::freeze`]): what was dirty is *frozen* and about to be written. A change
//!   copies a frozen node into a new slot, as it would copy a clean one.
//! - When the checkpoint is durable, [`Nodes::thaw`] replaces frozen slots by the blocks that they were written to, wherever they are referred to.
//!
//! Invariant: only dirty nodes and version roots refer to slots, and a frozen node refers to frozen ones only. Nodes of versions that are
//! being deleted may name slots that are empty or taken by others: none of the same birth, so it shows (`Nodes::named`).

use std::rc::Rc;

use super::{cache::Cache, compare::Known};
use crate::{
    format::{
        node,
        pointer::{Place, Pointer},
    },
    space::Space,
    storage::buffer::IoBuf,
    units::{BLOCK_SIZE, Epoch, PhysicalBlock},
};

/// Nodes that must be loaded before a step can go on: the first is needed, the others will be soon.
#[derive(Debug)]
pub(crate) struct Missing {
    /// Pointers with the level of the node each points to.
    pub(crate) nodes: Vec<(Pointer, u32)>,
}

/// Result of a step over trees.
pub(crate) type Step<T> = Result<T, Missing>;

/// How many neighbours are loaded together with a missing node.
const AHEAD: usize = 32;

pub(crate) struct DirtyNode {
    pub(crate) bytes: Rc<IoBuf>,
    pub(crate) used: u16,
    pub(crate) level: u32,
    pub(crate) birth: Epoch,
    generation: u64,
    /// Frozen, and no longer referred to by anything newer than the checkpoint that writes it.
    released: bool,
    /// Where the checkpoint writes it, and what.
    written: Option<(Pointer, Rc<IoBuf>)>,
}

pub(crate) struct Nodes {
    slots: Vec<Option<DirtyNode>>,
    free: Vec<u32>,
    dirty: usize,
    /// Dirty nodes that a checkpoint under way writes.
    frozen: usize,
    generation: u64,
    pub(crate) cache: Cache,
    /// What the walk at the front of the deletion queue has found out while it waits for nodes.
    pub(crate) known: Known,
}

impl Nodes {
    pub(crate) fn new(cache_bytes: u64) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            dirty: 0,
            frozen: 0,
            generation: 1,
            cache: Cache::new(cache_bytes),
            known: Known::default(),
        }
    }

    /// Dirty nodes, frozen ones included.
    pub(crate) fn dirty_count(&self) -> usize {
        self.dirty
    }

    pub(crate) fn dirty_bytes(&self) -> u64 {
        (self.dirty * BLOCK_SIZE) as u64
    }

    /// Bytes of the dirty nodes that no checkpoint under way writes.
    pub(crate) fn open_bytes(&self) -> u64 {
        ((self.dirty - self.frozen) * BLOCK_SIZE) as u64
    }

    // ---- reading ----

    /// The bytes of the node that `pointer` points to, of `level`.
    #[inline]
    pub(crate) fn get(&self, pointer: Pointer, level: u32) -> Step<&Rc<IoBuf>> {
        let found = match pointer.place() {
            Place::Dirty(slot) => self.slot(slot).map(|d| &d.bytes),
            Place::Node(block) => self.cache.get(block.0, pointer.crc()),
            _ => None,
        };
        found.ok_or_else(|| Missing { nodes: vec![(pointer, level)] })
    }

    /// Like [`Nodes::get`] for pointer `index` of `parent` (whose pointers have height `level + 1`); when it is missing, asks for
    /// its neighbours too.
    pub(crate) fn get_child(&self, parent: &IoBuf, index: usize, level: u32) -> Step<&Rc<IoBuf>> {
        self.get(node::get(parent, index), level).map_err(|mut missing| {
            let ahead = (index + 1..node::FANOUT)
                .map(|i| node::get(parent, i))
                .filter(|p| matches!(p.place(), Place::Node(block) if self.cache.get(block.0, p.crc()).is_none()));
            missing.nodes.extend(ahead.take(AHEAD).map(|p| (p, level)));
            missing
        })
    }

    #[inline]
    pub(crate) fn slot(&self, slot: u32) -> Option<&DirtyNode> {
        self.slots.get(slot as usize).and_then(Option::as_ref)
    }

    // ---- changing ----

    /// Whether the node in `slot` may be changed in place (by its owner).
    #[inline]
    pub(crate) fn is_open(&self, slot: u32) -> bool {
        self.slot(slot).is_some_and(|d| d.generation == self.generation)
    }

    /// A new dirty node.
    pub(crate) fn add(&mut self, bytes: IoBuf, level: u32, birth: Epoch) -> u32 {
        let used = node::used(&bytes);
        let entry = DirtyNode {
            bytes: Rc::new(bytes),
            used,
            level,
            birth,
            generation: self.generation,
            released: false,
            written: None,
        };
        self.dirty += 1;
        match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(entry);
                slot
            }
            None => {
                self.slots.push(Some(entry));
                (self.slots.len() - 1) as u32
            }
        }
    }

    /// Sets a pointer of an open node and returns the one before.
    #[inline]
    pub(crate) fn set(&mut self, slot: u32, index: usize, pointer: Pointer) -> Pointer {
        let Some(entry) = self.slots[slot as usize].as_mut() else { return Pointer::HOLE };
        debug_assert_eq!(entry.generation, self.generation, "a frozen node changes");
        // A check that looks at an older state holds a reference: then this copies.
        let bytes = Rc::make_mut(&mut entry.bytes);
        let old = node::get(bytes, index);
        node::set(bytes, index, pointer);
        entry.used = entry.used + u16::from(!pointer.is_hole()) - u16::from(!old.is_hole());
        old
    }

    /// The node that `pointer` points to is no longer referred to by the version that owned it.
    pub(crate) fn release(&mut self, pointer: Pointer, space: &mut Space) {
        match pointer.place() {
            Place::Hole => {}
            Place::Data(block) => space.release_data(block.0),
            Place::Node(block) => {
                self.cache.remove(block.0);
                space.release_node(block.0);
            }
            Place::Dirty(slot) if self.is_open(slot) => self.remove(slot),
            Place::Dirty(slot) => {
                if let Some(entry) = self.slots[slot as usize].as_mut() {
                    debug_assert!(!entry.released, "released twice");
                    entry.released = true;
                }
            }
        }
    }

    /// What pointer `index` of the node at `parent` pointed to was released by a walk that will not come here again. A deleted volume may
    /// have been born in the present epoch: another node of that birth may take the slot while the walk is under way.
    pub(crate) fn forget(&mut self, parent: Pointer, index: usize) {
        if let Place::Dirty(slot) = parent.place()
            && self.is_open(slot)
        {
            let _released = self.set(slot, index, Pointer::HOLE);
        }
    }

    fn remove(&mut self, slot: u32) {
        if self.slots[slot as usize].take().is_some() {
            self.dirty -= 1;
            self.free.push(slot);
        }
    }

    // ---- checkpoints ----

    /// Freezes all dirty nodes and returns their slots, leaves first.
    pub(crate) fn freeze(&mut self) -> Vec<u32> {
        self.generation += 1;
        let mut list: Vec<(u32, u32)> =
            self.slots.iter().enumerate().filter_map(|(i, s)| s.as_ref().map(|d| (d.level, i as u32))).collect();
        list.sort_unstable();
        self.frozen = list.len();
        list.into_iter().map(|(_, slot)| slot).collect()
    }

    /// The bytes of a frozen node as they go to disk: its dirty children replaced by where they were written. The node itself keeps its
    /// slots until they are thawed, so that nothing is read from the disk before it is durable there.
    pub(crate) fn sealed_bytes(&self, slot: u32) -> Rc<IoBuf> {
        let Some(entry) = self.slot(slot) else { return Rc::new(node::empty()) };
        if entry.level == 0 {
            return entry.bytes.clone();
        }
        let sealed = self.resolved(&entry.bytes).unwrap_or_else(|| entry.bytes.clone());
        debug_assert!(
            node::is_sound(&sealed, entry.level),
            "slot {slot} of level {} is no node for a disk",
            entry.level
        );
        sealed
    }

    /// A copy with slots replaced by the blocks that they were written to; `None` when there is nothing to replace.
    ///
    /// A node of a version that is being deleted may name what is gone: what its child or a walk before it let go of, at or below its floor
    /// or behind the cursor. Nobody follows such a pointer there. If it names a slot, a hole takes its place: the slot may be taken by another
    /// node, and on disk it means nothing.
    fn resolved(&self, bytes: &Rc<IoBuf>) -> Option<Rc<IoBuf>> {
        let mut copy: Option<Rc<IoBuf>> = None;
        for index in 0..node::FANOUT {
            let pointer = node::get(bytes, index);
            let Place::Dirty(_) = pointer.place() else { continue };
            let new = match self.named(pointer) {
                None => Pointer::HOLE,
                Some(DirtyNode { written: Some((place, _)), .. }) => *place,
                Some(_) => continue,
            };
            let copy = copy.get_or_insert_with(|| bytes.clone());
            node::set(&mut Rc::make_mut(copy)[..], index, new);
        }
        copy
    }

    /// The node that `pointer` names, if it is still that one: a slot is taken again by nodes born later, since whoever may name it still
    /// belongs to a version that is older than the present epoch.
    fn named(&self, pointer: Pointer) -> Option<&DirtyNode> {
        match pointer.place() {
            Place::Dirty(slot) => self.slot(slot).filter(|node| node.birth == pointer.birth()),
            _ => None,
        }
    }

    /// Where the frozen node that `pointer` names was written, if it names one that was.
    pub(crate) fn written(&self, pointer: Pointer) -> Option<Pointer> {
        self.named(pointer)?.written.as_ref().map(|(place, _)| *place)
    }

    /// A frozen node is being written to `block`, with these bytes.
    pub(crate) fn set_written(&mut self, slot: u32, block: PhysicalBlock, crc: u32, bytes: Rc<IoBuf>) {
        if let Some(entry) = self.slots[slot as usize].as_mut() {
            entry.written = Some((Pointer::node(block, entry.birth, crc), bytes));
        }
    }

    /// The checkpoint that wrote `frozen` is durable: references to their slots become pointers to their blocks. Those that
    /// were released meanwhile are released for good. Version roots are the caller's to change (see [`Nodes::written`]), before.
    pub(crate) fn thaw(&mut self, frozen: &[u32], space: &mut Space) {
        for slot in 0..self.slots.len() {
            let Some(entry) = self.slots[slot].as_ref() else { continue };
            if entry.generation != self.generation || entry.level == 0 {
                continue;
            }
            if let (Some(bytes), Some(entry)) = (self.resolved(&entry.bytes), self.slots[slot].as_mut()) {
                entry.used = node::used(&bytes);
                entry.bytes = bytes;
            }
        }
        self.frozen = 0;
        for &slot in frozen {
            let Some(entry) = self.slots[slot as usize].take() else { continue };
            self.dirty -= 1;
            self.free.push(slot);
            let Some((pointer, bytes)) = entry.written else { continue };
            if entry.released {
                self.release(pointer, space);
            } else if let Place::Node(block) = pointer.place() {
                self.cache.insert(block.0, pointer.crc(), bytes);
            }
        }
    }

    /// References to the bytes of all dirty nodes, for a look at the present state while it goes on changing.
    pub(crate) fn dirty_view(&self) -> rustc_hash::FxHashMap<u32, Rc<IoBuf>> {
        self.slots.iter().enumerate().filter_map(|(i, s)| s.as_ref().map(|d| (i as u32, d.bytes.clone()))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        space::{Purpose, bitmap::Run},
        tree::forest::{Disk, Held, empty_space},
    };

    const NOW: Epoch = Epoch(1);

    /// Nodes with a leaf that holds one data block and a parent over it.
    struct Pair {
        nodes: Nodes,
        space: Space,
        disk: Disk,
        leaf: u32,
        parent: u32,
    }

    fn pair() -> Pair {
        let (mut nodes, mut space) = (Nodes::new(0), empty_space());
        let leaf = nodes.add(node::empty(), 0, NOW);
        let parent = nodes.add(node::empty(), 1, NOW);
        let data = block(&mut space);
        assert!(nodes.set(leaf, 3, Pointer::data(data, NOW, 5)).is_hole());
        assert!(nodes.set(parent, 9, Pointer::dirty(leaf, NOW)).is_hole());
        Pair { nodes, space, disk: Disk::default(), leaf, parent }
    }

    fn block(space: &mut Space) -> PhysicalBlock {
        let run = space.reserve_run(1, Purpose::Data).unwrap();
        space.acquire(run);
        PhysicalBlock(run.start)
    }

    fn child(nodes: &Nodes, slot: u32, index: usize) -> Pointer {
        node::get(&nodes.slot(slot).unwrap().bytes, index)
    }

    #[test]
    fn an_open_node_changes_in_place_and_a_slot_is_used_again() {
        let Pair { mut nodes, mut space, leaf, .. } = pair();
        let seen = nodes.dirty_view();
        let other = Pointer::data(block(&mut space), NOW, 6);
        assert_eq!(nodes.set(leaf, 3, other).crc(), 5);
        assert_eq!(nodes.set(leaf, 4, Pointer::HOLE), Pointer::HOLE);
        assert_eq!(nodes.slot(leaf).unwrap().used, 1);
        assert_eq!(node::get(&seen[&leaf], 3).crc(), 5, "a view stays as it was");
        nodes.release(Pointer::dirty(leaf, NOW), &mut space);
        assert_eq!(nodes.dirty_bytes(), BLOCK_SIZE as u64);
        assert_eq!(nodes.add(node::empty(), 2, NOW), leaf);
        assert_eq!((nodes.dirty_count(), nodes.slot(leaf).unwrap().level), (2, 2));
    }

    #[test]
    fn a_checkpoint_turns_slots_into_blocks_wherever_they_stand() {
        let Pair { mut nodes, mut space, mut disk, leaf, parent } = pair();
        let frozen = nodes.freeze();
        assert_eq!(frozen, [leaf, parent], "leaves first");
        assert!(!nodes.is_open(leaf) && !nodes.is_open(parent));
        // A newer node refers to the frozen leaf, as a copied parent does.
        let newer = nodes.add(IoBuf::clone(&nodes.slot(parent).unwrap().bytes), 1, NOW);
        assert!(nodes.is_open(newer) && nodes.written(Pointer::dirty(leaf, NOW)).is_none());
        disk.write(&mut nodes, &mut space, &frozen);
        let [leaf_there, parent_there] = [leaf, parent].map(|s| nodes.written(Pointer::dirty(s, NOW)).unwrap());
        // What goes to the disk names blocks; what is in memory names slots until the checkpoint is durable.
        assert_eq!(node::get(&nodes.sealed_bytes(parent), 9), leaf_there);
        assert_eq!([parent, newer].map(|s| child(&nodes, s, 9)), [Pointer::dirty(leaf, NOW); 2]);
        nodes.release(Pointer::dirty(parent, NOW), &mut space);
        nodes.thaw(&frozen, &mut space);
        assert_eq!((nodes.dirty_count(), child(&nodes, newer, 9)), (1, leaf_there));
        assert_eq!(node::get(nodes.get(leaf_there, 0).unwrap(), 3).crc(), 5, "a clean node is in memory");
        assert!(nodes.get(parent_there, 1).is_err(), "one that was released meanwhile is not");
        let mut held = Held::default();
        disk.visit(&nodes, Pointer::dirty(newer, NOW), 2, 0, &mut |pointer, _, _| held.note(pointer));
        assert_eq!(held, Held::by_count(&nodes, &space));
        nodes.release(leaf_there, &mut space);
        assert!(nodes.get(leaf_there, 0).is_err(), "a released block is no longer in memory");
    }

    #[test]
    fn neighbours_that_are_missing_too_are_asked_for() {
        let Pair { mut nodes, mut space, .. } = pair();
        let mut bytes = node::empty();
        let pointers: Vec<Pointer> = (0..40).map(|crc| Pointer::node(block(&mut space), NOW, crc)).collect();
        pointers.iter().enumerate().for_each(|(i, pointer)| node::set(&mut bytes, i * 2, *pointer));
        nodes.cache.insert(space_of(pointers[2]), 2, Rc::new(node::empty()));
        assert!(nodes.get_child(&bytes, 4, 0).is_ok());
        let missing = nodes.get_child(&bytes, 0, 0).unwrap_err().nodes;
        let expected: Vec<(Pointer, u32)> =
            pointers.iter().take(AHEAD + 2).filter(|p| **p != pointers[2]).map(|p| (*p, 0)).collect();
        assert_eq!(missing, expected);
        let run = Run { start: space_of(pointers[0]), len: 40 };
        assert_eq!(space.reach.remove(run), 40);
    }

    fn space_of(pointer: Pointer) -> u64 {
        match pointer.place() {
            Place::Node(block) => block.0,
            other => panic!("{other:?}"),
        }
    }
}
