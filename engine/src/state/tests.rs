//! Random lineages: versions are written, frozen, cloned, reverted and deleted in any order, with the walks of deletions and checkpoints
//! in steps between. After each step every version that its user sees reads back what was written to it, and the blocks and nodes in use
//! are exactly those that the versions refer to. In the end all is deleted and nothing is left.

use std::collections::BTreeMap;

use super::*;
use crate::{
    rng::Rng,
    space::{Purpose, reach::Reach},
    tree::{
        cache::Cache,
        forest::{Content, Disk, Held, empty_space},
    },
    units::MIB,
};

const SIZES: [u64; 4] = [MIB, 3 * MIB, 300 * MIB, 600 * MIB];
/// Blocks around the ends of leaves and of nodes of leaves, in a few leaves.
const BLOCKS: [u64; 12] = [0, 2, 250, 256, 511, 700, 1023, 65_534, 65_536, 66_000, 66_300, 131_072];

struct World {
    state: State,
    disk: Disk,
    models: BTreeMap<VersionId, Content>,
    content: u32,
    group: u64,
    /// The checkpoint under way.
    frozen: Option<Vec<u32>>,
}

impl World {
    fn new() -> Self {
        let state = State {
            nodes: Nodes::new(1 << 20),
            space: empty_space(),
            lineage: Lineage::new(Epoch(1), 1, 1, 1),
            journal: Pending::default(),
            events: Default::default(),
            next_event: 0,
            checksum_errors: 0,
            divergence: 0,
            counting: None,
            freed: 0,
            replaying: false,
            scrubbed: FxHashSet::default(),
        };
        Self { state, disk: Disk::default(), models: BTreeMap::new(), content: 0, group: 0, frozen: None }
    }

    /// Runs a step, and again with the nodes that it lacks.
    fn step<T>(&mut self, mut f: impl FnMut(&mut State) -> Step<T>) -> T {
        loop {
            match f(&mut self.state) {
                Ok(value) => return value,
                Err(missing) => self.disk.load(&mut self.state.nodes, &missing),
            }
        }
    }

    fn ids(&self, wanted: impl Fn(&Version) -> bool) -> Vec<VersionId> {
        let mut ids: Vec<_> = self.state.lineage.iter().filter(|v| wanted(v)).map(|v| v.id).collect();
        ids.sort_unstable_by_key(|id| id.0);
        ids
    }

    fn some(&self, rng: &mut Rng, wanted: impl Fn(&Version) -> bool) -> Option<VersionId> {
        let ids = self.ids(wanted);
        (!ids.is_empty()).then(|| rng.pick(&ids))
    }

    fn version(&self, id: VersionId) -> &Version {
        self.state.lineage.get(id).unwrap()
    }

    fn next_ids(&self) -> (VolumeId, VersionId) {
        (VolumeId(self.state.lineage.next_volume), VersionId(self.state.lineage.next_version))
    }

    // ---- operations ----

    fn create(&mut self, rng: &mut Rng) {
        let (volume, id) = self.next_ids();
        let name = format!("volume{}", volume.0);
        self.state.create(volume, id, &name, rng.pick(&SIZES), 0, VolumeOptions::default());
        let _none = self.models.insert(id, Content::new());
    }

    fn write(&mut self, id: VersionId, rng: &mut Rng) {
        let block = rng.pick(&BLOCKS) % self.version(id).blocks();
        let want = (1 + rng.below(4)).min(256 - block % 256);
        let run = self.state.space.reserve_run(want, Purpose::Data).expect("the test's pool is large enough");
        let contents: Vec<u32> = (1..=run.len as u32).map(|i| self.content + i).collect();
        self.content += run.len as u32;
        let crcs: Vec<u8> = contents.iter().flat_map(|c| c.to_le_bytes()).collect();
        self.step(|state| state.write(id, block, run.start, &crcs));
        self.models.get_mut(&id).unwrap().extend((block..).zip(contents));
    }

    /// A discard: of a few blocks, or of whole subtrees, which are cut off.
    fn clear(&mut self, id: VersionId, rng: &mut Rng) {
        let blocks = self.version(id).blocks();
        let block = rng.pick(&BLOCKS) % blocks;
        let subtree = block / span(2) * span(2);
        let (start, end) =
            rng.pick(&[(block, block + 3), (block, block + 300), (block, blocks), (subtree, subtree + span(2))]);
        let end = end.min(blocks);
        let mut at = start;
        while at < end {
            let reached = self.step(|state| state.clear(id, at, end));
            assert!(reached > at && reached <= end.max(span(6)), "no way forward from {at}");
            at = reached;
        }
        self.models.get_mut(&id).unwrap().retain(|b, _| !(start..end).contains(b));
    }

    /// Freezes one or two volumes at one moment.
    fn snapshot(&mut self, rng: &mut Rng) {
        let mut live = self.ids(|v| v.state == VersionState::Live);
        while live.len() > 1 + rng.below(2) as usize {
            let _spared = live.swap_remove(rng.below(live.len() as u64) as usize);
        }
        for (at, &id) in live.iter().enumerate() {
            let (_, frozen) = self.next_ids();
            self.state.snapshot(id, frozen, &format!("s{}", frozen.0), 0, at + 1 == live.len());
            let _none = self.models.insert(frozen, self.models[&id].clone());
        }
    }

    fn clone_version(&mut self, snapshot: VersionId, rng: &mut Rng) {
        let (volume, id) = self.next_ids();
        let size = self.version(snapshot).size.max(rng.pick(&SIZES));
        let name = format!("volume{}", volume.0);
        self.state.clone_version(snapshot, (volume, id), &name, size, 0, VolumeOptions::default());
        let _none = self.models.insert(id, self.models[&snapshot].clone());
    }

    fn revert(&mut self, live: VersionId, snapshot: VersionId) {
        let (_, id) = self.next_ids();
        self.state.revert(live, snapshot, id);
        let _gone = self.models.remove(&live);
        let _none = self.models.insert(id, self.models[&snapshot].clone());
    }

    fn delete(&mut self, id: VersionId) {
        self.state.delete(id);
        let _gone = self.models.remove(&id);
    }

    /// One step of the deletion at the front of the queue; says whether there was one.
    fn walk(&mut self) -> bool {
        matches!(self.step(State::deletion_step), Deletion::Progress)
    }

    /// Deletes the parent of a volume that goes on being changed: behind the cursor of the walk the volume answers for more than before it.
    fn dissolve_under_changes(&mut self, live: VersionId, rng: &mut Rng) {
        let parent = |world: &Self| {
            let id = world.version(live).parent?;
            let alone = world.state.lineage.children(id).len() == 1;
            (alone && world.version(id).state == VersionState::Snapshot).then_some(id)
        };
        (0..6).for_each(|_| self.write(live, rng));
        self.snapshot(rng);
        (0..6).for_each(|_| self.write(live, rng));
        while self.walk() {}
        let Some(parent) = parent(self) else { return };
        self.delete(parent);
        while self.state.lineage.front_of_queue().is_some() {
            self.walk_a_little(rng);
            if !cfg!(miri) {
                self.check();
            }
        }
    }

    /// A shorter one, which leaves the cursor in the midst of the few leaves that there are; and changes of children on both sides of it.
    fn walk_a_little(&mut self, rng: &mut Rng) {
        let Some(id) = self.state.lineage.front_of_queue().map(|v| v.id) else { return };
        let leaves = 1 + rng.below(2) as u32;
        let to = self.step(|state| state.walk(id, u64::MAX, leaves));
        self.state.walked(id, to);
        for child in self.ids(|v| v.parent == Some(id) && v.state == VersionState::Live) {
            for _ in 0..rng.below(4) {
                match rng.below(3) {
                    0 => self.clear(child, rng),
                    _ => self.write(child, rng),
                }
            }
        }
    }

    /// Freezes a checkpoint, or ends the one that is under way.
    fn checkpoint(&mut self) {
        let Self { state, disk, frozen, .. } = self;
        match frozen.take() {
            None => {
                state.space.freeze();
                let slots = state.nodes.freeze();
                disk.write(&mut state.nodes, &mut state.space, &slots);
                *frozen = Some(slots);
            }
            Some(slots) => {
                state.space.checkpointed();
                let nodes = &state.nodes;
                state.lineage.resolve_roots(|root| nodes.written(root));
                state.nodes.thaw(&slots, &mut state.space);
            }
        }
    }

    fn commit(&mut self) {
        for _ in 0..2 {
            self.group += 1;
            self.state.space.seal(self.group);
            self.state.space.committed(self.group);
        }
        let (_body, _records) = self.state.journal.take();
    }

    fn random_step(&mut self, rng: &mut Rng) {
        let live = self.some(rng, |v| v.state == VersionState::Live);
        let snapshot = self.some(rng, |v| v.state == VersionState::Snapshot);
        let visible = self.some(rng, Version::is_visible);
        let branch = self.some(rng, |v| v.state == VersionState::Branch);
        match (rng.below(32), live, snapshot) {
            (0..=9, Some(live), _) => self.write(live, rng),
            (10 | 11, Some(live), _) => self.clear(live, rng),
            (12..=15, Some(_), _) => self.snapshot(rng),
            (16 | 17, _, Some(snapshot)) => self.clone_version(snapshot, rng),
            (18, Some(live), Some(_)) => {
                // Snapshots of its own volume, as users see them.
                let volume = self.version(live).volume;
                if let Some(own) = self.some(rng, |v| v.state == VersionState::Snapshot && v.volume == volume) {
                    self.revert(live, own);
                }
            }
            (19 | 20, ..) if visible.is_some() => self.delete(visible.unwrap()),
            (21, Some(live), _) => self.state.resize(live, self.version(live).size.max(rng.pick(&SIZES))),
            (22, ..) if branch.is_some() => self.state.prune(branch.unwrap()),
            (23, ..) => self.checkpoint(),
            (24, ..) => self.state.nodes.cache = Cache::new(1 << 20),
            (25, ..) => self.commit(),
            (26, ..) if visible.is_some() => self.check_exclusive(visible.unwrap()),
            (27, ..) if self.frozen.is_none() && visible.is_some() => self.delete_at_once(visible.unwrap()),
            (28 | 29, ..) => self.walk_a_little(rng),
            (30, Some(live), _) => self.dissolve_under_changes(live, rng),
            _ if self.ids(|v| v.state == VersionState::Live).len() < 4 => self.create(rng),
            _ => self.commit(),
        }
    }

    // ---- checks ----

    fn children(&self, id: VersionId) -> Vec<Tree> {
        self.state.lineage.children(id).iter().map(|c| tree_of(self.version(*c))).collect()
    }

    /// What the rule of deletion says to be a version's alone.
    fn alone(&self, id: VersionId) -> BTreeMap<(u32, u64), Pointer> {
        let floor = self.state.lineage.floor(self.version(id)).above;
        self.disk.alone(&self.state.nodes, tree_of(self.version(id)), &self.children(id), floor)
    }

    fn check_exclusive(&mut self, id: VersionId) {
        let expected = self.alone(id).len() as u64;
        let (mut blocks, mut from, mut known) = (0, Some(0), Known::default());
        while let Some(at) = from {
            let (more, next) = self.step(|state| state.exclusive_step(id, at, &mut known));
            blocks += more;
            from = next;
        }
        assert_eq!(blocks, expected, "what deleting {id} would free");
    }

    /// Deletes a version with nothing else in between: what comes free is what the rule says.
    fn delete_at_once(&mut self, id: VersionId) {
        while self.walk() {}
        let stays = self.children(id).len() >= 2;
        let mut alone = Held::default();
        for ((height, _), pointer) in self.alone(id) {
            if height == 0 || !stays {
                assert!(alone.note(pointer), "one block at two places");
            }
        }
        let before = Held::by_count(&self.state.nodes, &self.state.space);
        self.delete(id);
        while self.state.lineage.front_of_queue().is_some_and(|v| v.id == id) {
            assert!(self.walk());
        }
        let after = Held::by_count(&self.state.nodes, &self.state.space);
        if stays {
            // Of what stays as a branch point, nodes may be copied.
            assert!(after.blocks.is_disjoint(&alone.blocks) && alone.slots.is_empty());
            assert_eq!(self.version(id).state, VersionState::Branch);
        } else {
            assert_eq!(&before.blocks - &after.blocks, alone.blocks);
            assert_eq!(&before.slots - &after.slots, alone.slots);
            assert!(self.state.lineage.get(id).is_none());
        }
    }

    /// What `version` refers to. Where the walk of a version that goes away has been, nothing is left of it; and what was born at or below
    /// the floor of a subtree that was cut off may be gone.
    fn hold(&self, version: &Version, held: &mut Held) {
        let goes = version.state == VersionState::Detached
            || version.cursor > 0 && self.state.lineage.children(version.id).len() < 2;
        let floor = self.state.lineage.floor(version).above;
        let nodes = &self.state.nodes;
        self.disk.visit(nodes, version.root, version.depth, 0, &mut |pointer, height, base| {
            if goes && (pointer.birth() <= floor || base + span(height) <= version.cursor) {
                return false;
            }
            let _new = held.note(pointer);
            true
        });
    }

    fn check(&self) {
        let State { nodes, space, lineage, .. } = &self.state;
        for (id, model) in &self.models {
            let version = self.version(*id);
            assert!(version.is_visible());
            assert_eq!(self.disk.content(nodes, tree_of(version)), *model, "{id}");
            assert!(version.recount || version.data_blocks == model.len() as u64, "data blocks of {id}");
        }
        assert_eq!(lineage.iter().filter(|v| v.is_visible()).count(), self.models.len());
        if self.frozen.is_none() {
            let mut held = Held::default();
            lineage.iter().for_each(|v| self.hold(v, &mut held));
            assert_eq!(held, Held::by_count(nodes, space));
        }
    }

    fn finish(mut self) {
        for id in self.ids(Version::is_visible) {
            self.delete(id);
        }
        while self.walk() {}
        if self.frozen.is_some() {
            self.checkpoint();
        }
        assert_eq!(self.state.lineage.iter().count(), 0);
        assert_eq!(Held::by_count(&self.state.nodes, &self.state.space), Held::default());
        assert_eq!(self.state.lineage.counts(), (0, 0, 0, 0));
    }
}

fn live(seeds: u64, steps: u64) {
    for seed in 1..=seeds {
        let mut rng = Rng::new(seed);
        let mut world = World::new();
        world.create(&mut rng);
        for step in 1..=steps {
            world.random_step(&mut rng);
            if !cfg!(miri) || step % 20 == 0 {
                world.check();
            }
        }
        world.finish();
    }
}

#[test]
fn random_lineages_hold_what_they_must_and_give_back_the_rest() {
    let (seeds, steps) = if cfg!(miri) { (1, 25) } else { (60, 150) };
    live(seeds, steps);
}

/// Each rule of sharing and deletion is broken in turn, and these lives notice.
#[cfg(all(feature = "sim", not(miri)))]
#[test]
fn broken_rules_are_noticed() {
    use crate::sabotage::{Sabotage::*, notices};
    for rule in [KeepEpoch, OwnParents, DropChild, DissolveBranch, OneFloor, SkipLeaf, LeakSubtree] {
        assert!(notices(rule, || live(60, 150)), "{rule:?}");
    }
}

fn state() -> State {
    let mut state = State {
        nodes: Nodes::new(0),
        space: Space::new(4096, 0, 4096, Reach::new(4096), false),
        lineage: Lineage::new(Epoch(1), 1, 1, 1),
        journal: Pending::default(),
        events: VecDeque::new(),
        next_event: 1,
        checksum_errors: 0,
        divergence: 0,
        counting: None,
        freed: 0,
        replaying: false,
        scrubbed: FxHashSet::default(),
    };
    // Records name the places of data then, so none have to be reserved.
    state.set_replaying(true);
    state
}

#[test]
fn what_deleting_would_free_is_not_asked_of_what_is_being_deleted() {
    let mut state = state();
    let (live, frozen) = (VersionId(1), VersionId(2));
    state.create(VolumeId(1), live, "a", 1 << 20, 0, VolumeOptions::default());
    state.write(live, 0, 100, &[1; 8]).unwrap();
    state.snapshot(live, frozen, "s", 0, true);
    state.write(live, 0, 200, &[2; 4]).unwrap();
    // The block that was overwritten and the leaf over it.
    assert_eq!(state.exclusive_step(frozen, 0, &mut Known::default()).unwrap(), (2, None));
    state.delete(frozen);
    assert_eq!(state.exclusive_step(frozen, 0, &mut Known::default()).unwrap(), (0, None));
}
