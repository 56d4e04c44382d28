//! Trees in memory, for tests: nodes, space and what checkpoints wrote, without a pool around them. Trees are read here in the plainest
//! way there is, so that it can judge the ways of the engine. The checksum of a data block stands for its content, and that of a node
//! is a number.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use super::{Missing, Nodes, cache::Cache, edit::Edit, lookup::Tree, nodes::Step};
use crate::{
    format::pointer::{Place, Pointer},
    space::{Purpose, Space, reach::Reach},
    storage::buffer::IoBuf,
    units::{Epoch, PhysicalBlock},
    versions::{Floor, span},
};

/// Blocks in the pool that the trees live in.
const TOTAL: u64 = 8192;

/// The data blocks of a version and their content.
pub(crate) type Content = BTreeMap<u64, u32>;

/// What trees refer to.
#[derive(Default, PartialEq, Eq, Debug)]
pub(crate) struct Held {
    pub(crate) blocks: BTreeSet<u64>,
    pub(crate) slots: BTreeSet<u32>,
}

impl Held {
    /// Notes what `pointer` points to; says whether it is new.
    pub(crate) fn note(&mut self, pointer: Pointer) -> bool {
        match pointer.place() {
            Place::Hole => false,
            Place::Data(block) | Place::Node(block) => self.blocks.insert(block.0),
            Place::Dirty(slot) => self.slots.insert(slot),
        }
    }

    /// All that is in use, as far as the engine keeps count. No checkpoint is under way.
    pub(crate) fn by_count(nodes: &Nodes, space: &Space) -> Self {
        let mut held = Self { slots: nodes.dirty_view().into_keys().collect(), ..Self::default() };
        space.reach.for_runs(|run| held.blocks.extend(run.start..run.end()));
        assert_eq!(held.slots.len(), nodes.dirty_count());
        assert_eq!(held.blocks.len() as u64, space.reach.count());
        held
    }
}

/// The nodes that checkpoints wrote.
#[derive(Default)]
pub(crate) struct Disk {
    nodes: BTreeMap<u64, (u32, Rc<IoBuf>)>,
    written: u32,
}

impl Disk {
    /// Calls `f` for each pointer of a subtree, top down, with its height and first block; what is under it follows if `f` says so.
    pub(crate) fn visit(
        &self,
        nodes: &Nodes,
        pointer: Pointer,
        height: u32,
        base: u64,
        f: &mut impl FnMut(Pointer, u32, u64) -> bool,
    ) {
        if pointer.is_hole() || !f(pointer, height, base) || height == 0 {
            return;
        }
        let bytes = match pointer.place() {
            Place::Dirty(slot) => &nodes.slot(slot).expect("a slot that nothing is in").bytes,
            Place::Node(block) => {
                let (number, bytes) = &self.nodes[&block.0];
                assert_eq!(*number, pointer.crc(), "a block that was reused");
                bytes
            }
            _ => panic!("{pointer:?} at height {height}"),
        };
        for (index, child) in bytes.as_chunks::<16>().0.iter().enumerate() {
            if *child != [0; 16] {
                self.visit(nodes, Pointer::from_bytes(*child), height - 1, base + index as u64 * span(height - 1), f);
            }
        }
    }

    pub(crate) fn content(&self, nodes: &Nodes, tree: Tree) -> Content {
        let mut content = Content::new();
        self.visit(nodes, tree.root, tree.depth, 0, &mut |pointer, height, base| {
            if height == 0 {
                assert!(matches!(pointer.place(), Place::Data(_)), "{pointer:?} in a leaf");
                let _none = content.insert(base, pointer.crc());
            }
            true
        });
        content
    }

    /// Adds all that a tree refers to.
    pub(crate) fn hold(&self, nodes: &Nodes, tree: Tree, held: &mut Held) {
        self.visit(nodes, tree.root, tree.depth, 0, &mut |pointer, _, _| held.note(pointer));
    }

    /// The rule of deletion, word by word: what of `version` was born after `floor`, and no child holds at the same place.
    pub(crate) fn alone(
        &self,
        nodes: &Nodes,
        version: Tree,
        children: &[Tree],
        floor: Epoch,
    ) -> BTreeMap<(u32, u64), Pointer> {
        let places = |tree: Tree| {
            let mut places = BTreeMap::new();
            self.visit(nodes, tree.root, tree.depth, 0, &mut |pointer, height, base| {
                let _none = places.insert((height, base), pointer);
                true
            });
            places
        };
        let mut alone = places(version);
        alone.retain(|_, pointer| pointer.birth() > floor);
        for child in children {
            let theirs = places(*child);
            alone.retain(|place, pointer| theirs.get(place) != Some(pointer));
        }
        alone
    }

    /// Brings nodes into memory.
    pub(crate) fn load(&self, nodes: &mut Nodes, missing: &Missing) {
        assert!(!missing.nodes.is_empty());
        for (pointer, _) in &missing.nodes {
            let Place::Node(block) = pointer.place() else { panic!("{pointer:?} cannot be loaded") };
            let (number, bytes) = &self.nodes[&block.0];
            assert_eq!(*number, pointer.crc(), "a block that was reused");
            nodes.cache.insert(block.0, *number, bytes.clone());
        }
    }

    /// Writes frozen nodes, as a checkpoint does.
    pub(crate) fn write(&mut self, nodes: &mut Nodes, space: &mut Space, frozen: &[u32]) {
        for &slot in frozen {
            let run = space.reserve_run(1, Purpose::Metadata).expect("the test's pool is large enough");
            space.acquire(run);
            self.written += 1;
            let bytes = nodes.sealed_bytes(slot);
            nodes.set_written(slot, PhysicalBlock(run.start), self.written, bytes.clone());
            let _old = self.nodes.insert(run.start, (self.written, bytes));
        }
    }
}

/// A version that can be written to, and what it must hold.
#[derive(Clone)]
pub(crate) struct Live {
    pub(crate) tree: Tree,
    pub(crate) floor: Floor,
    pub(crate) content: Content,
    /// Data of others that it let go of.
    pub(crate) shared: u64,
}

pub(crate) struct Forest {
    pub(crate) nodes: Nodes,
    pub(crate) space: Space,
    pub(crate) disk: Disk,
    pub(crate) epoch: Epoch,
    group: u64,
    content: u32,
    /// The checkpoint under way.
    frozen: Option<Vec<u32>>,
}

/// The space of a pool without anything in it.
pub(crate) fn empty_space() -> Space {
    Space::new(TOTAL, 64, TOTAL - 64, Reach::new(TOTAL), false)
}

impl Forest {
    pub(crate) fn new() -> Self {
        Self {
            nodes: Nodes::new(1 << 20),
            space: empty_space(),
            disk: Disk::default(),
            epoch: Epoch(1),
            group: 0,
            content: 0,
            frozen: None,
        }
    }

    /// An empty version without a parent.
    pub(crate) fn plant(&self, depth: u32) -> Live {
        let tree = Tree { root: Pointer::HOLE, depth };
        Live { tree, floor: Floor::flat(Epoch(0)), content: Content::new(), shared: 0 }
    }

    /// Freezes `live`, which goes on as a child of what is returned.
    pub(crate) fn snapshot(&mut self, live: &mut Live) -> Live {
        let frozen = live.clone();
        live.floor = Floor::flat(self.epoch);
        self.epoch = Epoch(self.epoch.0 + 1);
        frozen
    }

    /// Runs a step, and again with the nodes that it lacks. A step that lacks some must have changed nothing.
    pub(crate) fn step<T>(&mut self, mut f: impl FnMut(&mut Nodes, &mut Space) -> Step<T>) -> T {
        loop {
            let before = (self.nodes.dirty_count(), self.space.reach.count());
            match f(&mut self.nodes, &mut self.space) {
                Ok(value) => return value,
                Err(missing) => self.disk.load(&mut self.nodes, &missing),
            }
            assert_eq!(before, (self.nodes.dirty_count(), self.space.reach.count()), "half a step was done");
        }
    }

    fn edit<T>(&mut self, live: &mut Live, mut f: impl FnMut(&mut Edit<'_>) -> Step<T>) -> T {
        let epoch = self.epoch;
        self.step(|nodes, space| {
            let mut root = live.tree.root;
            let depth = live.tree.depth;
            let mut edit = Edit { nodes, space, root: &mut root, depth, floor: live.floor, epoch, shared: 0 };
            let done = f(&mut edit);
            let (depth, shared) = (edit.depth, edit.shared);
            if done.is_ok() {
                live.tree = Tree { root, depth };
                live.shared += shared;
            } else {
                assert_eq!(root, live.tree.root, "half a step was done");
            }
            done
        })
    }

    /// Writes new content to a block.
    pub(crate) fn write(&mut self, live: &mut Live, block: u64) {
        self.content += 1;
        let (content, epoch) = (self.content, self.epoch);
        let run = self.space.reserve_run(1, Purpose::Data).expect("the test's pool is large enough");
        let change = self.edit(live, |edit| {
            let leaf = edit.leaf(block)?;
            edit.space.acquire(run);
            Ok(edit.set(leaf, block, Pointer::data(PhysicalBlock(run.start), epoch, content)))
        });
        assert_eq!(change, i64::from(live.content.insert(block, content).is_none()));
    }

    /// Makes holes of blocks of one leaf.
    pub(crate) fn clear(&mut self, live: &mut Live, start: u64, end: u64) {
        let change = self.edit(live, |edit| edit.clear_in_leaf(start, end));
        let before = live.content.len() as i64;
        live.content.retain(|block, _| !(start..end).contains(block));
        assert_eq!(change, live.content.len() as i64 - before);
    }

    /// Takes a subtree out; returns it.
    pub(crate) fn cut(&mut self, live: &mut Live, block: u64, height: u32) -> Tree {
        let root = self.edit(live, |edit| edit.cut(block, height));
        live.content.retain(|b, _| !(block..block + span(height)).contains(b));
        Tree { root, depth: height }
    }

    pub(crate) fn grow(&mut self, live: &mut Live, depth: u32) {
        self.edit(live, |edit| edit.grow(depth));
    }

    /// What was released before becomes free.
    pub(crate) fn commit(&mut self) {
        for _ in 0..2 {
            self.group += 1;
            self.space.seal(self.group);
            self.space.committed(self.group);
        }
    }

    // ---- checkpoints ----

    pub(crate) fn is_freezing(&self) -> bool {
        self.frozen.is_some()
    }

    /// Begins a checkpoint and writes it; edits may follow before [`Forest::thaw`].
    pub(crate) fn freeze(&mut self) {
        self.space.freeze();
        let slots = self.nodes.freeze();
        self.disk.write(&mut self.nodes, &mut self.space, &slots);
        self.frozen = Some(slots);
    }

    /// The checkpoint is durable. `roots` are those of all versions.
    pub(crate) fn thaw<'a>(&mut self, roots: impl Iterator<Item = &'a mut Pointer>) {
        self.space.checkpointed();
        for root in roots {
            *root = self.nodes.written(*root).unwrap_or(*root);
        }
        self.nodes.thaw(&self.frozen.take().expect("a checkpoint"), &mut self.space);
    }

    /// Forgets all nodes that a checkpoint wrote.
    pub(crate) fn evict(&mut self) {
        self.nodes.cache = Cache::new(1 << 20);
    }

    // ---- checks ----

    pub(crate) fn content(&self, tree: Tree) -> Content {
        self.disk.content(&self.nodes, tree)
    }

    /// What is in use must be what the trees refer to, no more and no less.
    pub(crate) fn check_exact(&self, trees: impl Iterator<Item = Tree>) {
        let mut held = Held::default();
        trees.for_each(|tree| self.disk.hold(&self.nodes, tree, &mut held));
        assert_eq!(held, Held::by_count(&self.nodes, &self.space));
    }
}
