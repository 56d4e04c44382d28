//! Versions and their lineage: which version descends from which, what they are called, and who owns what.
//!
//! Invariants:
//! - A version's parent, when it has one, is in the table, and lists it among its children.
//! - A volume has exactly one live version; live versions have no children.
//! - At most one version at a time is being walked (has a cursor above zero): the front of the deletion queue.
//! - Ids are handed out upwards and never again.

pub(crate) mod layout;
pub(crate) mod sheets;
pub(crate) mod table;

use std::{collections::BTreeMap, ops::Bound};

use rustc_hash::{FxHashMap, FxHashSet};

use layout::Layout;
use table::Page;

use crate::{
    error::{Result, busy, not_found},
    format::pointer::{Place, Pointer},
    info::VolumeOptions,
    names::Target,
    sabotage::{Sabotage, broken},
    units::{Epoch, VersionId, VolumeId, blocks_for},
};

/// What a version is to its users.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// The writable version of a volume.
    Live,
    /// A frozen version with a name.
    Snapshot,
    /// Deleted by its user; waits for its walk, or is in it.
    Deleting,
    /// Deleted, but two or more versions share blocks through it.
    Branch,
    /// A subtree that a discard cut off a volume, to be freed in the background.
    Detached,
}

/// One version. A version of state `Detached` has no parent, and `floor` in the place of its parent's epoch.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    pub(crate) id: VersionId,
    pub(crate) volume: VolumeId,
    pub(crate) parent: Option<VersionId>,
    pub(crate) state: State,
    pub(crate) options: VolumeOptions,
    /// Height of the root pointer: the tree covers 256^depth blocks.
    pub(crate) depth: u32,
    /// Whether `data_blocks` has to be counted anew.
    pub(crate) recount: bool,
    /// The epoch that the snapshot closed; of no meaning for a live version.
    pub(crate) epoch: Epoch,
    pub(crate) floor: Epoch,
    pub(crate) size: u64,
    pub(crate) root: Pointer,
    pub(crate) data_blocks: u64,
    /// How far the walk of a deleted version has come, in blocks.
    pub(crate) cursor: u64,
    /// Place in the deletion queue; 0: not queued.
    pub(crate) deletion: u64,
    pub(crate) created_ms: u64,
    pub(crate) name: String,
}

/// Levels that a volume of `size` bytes needs.
pub(crate) fn depth_for(size: u64) -> u32 {
    let blocks = blocks_for(size).max(1);
    (1..).find(|d| blocks <= span(*d)).unwrap_or(1)
}

/// Blocks that a pointer of `height` covers (height 0: a data block).
pub(crate) fn span(height: u32) -> u64 {
    1u64 << (8 * height).min(63)
}

impl Version {
    /// The live version of a new, empty volume.
    pub(crate) fn new_volume(
        id: VersionId,
        volume: VolumeId,
        name: &str,
        size: u64,
        created_ms: u64,
        options: VolumeOptions,
    ) -> Self {
        Self {
            id,
            volume,
            parent: None,
            state: State::Live,
            options,
            depth: depth_for(size),
            recount: false,
            epoch: Epoch(0),
            floor: Epoch(0),
            size,
            root: Pointer::HOLE,
            data_blocks: 0,
            cursor: 0,
            deletion: 0,
            created_ms,
            name: name.to_owned(),
        }
    }

    /// Whether its user sees it.
    pub(crate) fn is_visible(&self) -> bool {
        matches!(self.state, State::Live | State::Snapshot)
    }

    pub(crate) fn blocks(&self) -> u64 {
        blocks_for(self.size)
    }

    /// What takes all of a volume's content has to wait until it is there.
    pub(crate) fn not_filling(&self, what: &str) -> Result<()> {
        if self.options.filling {
            return Err(busy(format!(
                "volume {:?} is being filled from a backup: wait until it is full, then {what}",
                self.name
            )));
        }
        Ok(())
    }
}

/// Which pointers of a version are its own. Behind the cursor of a parent that is being dissolved, the parent's parent counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Floor {
    pub(crate) cursor: u64,
    pub(crate) below: Epoch,
    pub(crate) above: Epoch,
}

impl Floor {
    /// A floor that is the same everywhere.
    pub(crate) fn flat(epoch: Epoch) -> Self {
        Self { cursor: 0, below: epoch, above: epoch }
    }

    /// Whether a pointer born in `birth` that covers blocks up to `end` is owned.
    pub(crate) fn owns(&self, birth: Epoch, end: u64) -> bool {
        let below = end <= self.cursor && !broken(Sabotage::OneFloor);
        let floor = if below { self.below } else { self.above };
        birth > floor || broken(Sabotage::OwnParents) && birth == floor && birth.0 > 0
    }

    /// Whether one answer holds for the whole of `start..end`.
    pub(crate) fn is_flat_over(&self, start: u64, end: u64) -> bool {
        end <= self.cursor || start >= self.cursor || self.below == self.above
    }
}

/// All versions of a pool.
pub(crate) struct Lineage {
    versions: FxHashMap<VersionId, Version>,
    children: FxHashMap<VersionId, Vec<VersionId>>,
    by_name: BTreeMap<String, VersionId>,
    live: FxHashMap<VolumeId, VersionId>,
    snapshots: FxHashMap<VolumeId, BTreeMap<String, VersionId>>,
    queue: BTreeMap<u64, VersionId>,
    sheets: sheets::Sheets,
    /// Versions that changed since the last checkpoint, by their place in the table.
    pub(crate) layout: Layout,
    pub(crate) epoch: Epoch,
    pub(crate) next_version: u64,
    pub(crate) next_volume: u64,
    pub(crate) next_deletion: u64,
    /// Versions whose root may be a dirty node.
    pub(crate) dirty_roots: FxHashSet<VersionId>,
    snapshot_count: u64,
    branch_count: u64,
}

impl Lineage {
    /// Whether the walk at the front of the queue takes data out of a tree that stays.
    pub(crate) fn prunes_next(&self) -> bool {
        self.front_of_queue().is_some_and(|v| self.children(v.id).len() >= 2)
    }

    pub(crate) fn new(epoch: Epoch, next_version: u64, next_volume: u64, next_deletion: u64) -> Self {
        Self {
            versions: FxHashMap::default(),
            children: FxHashMap::default(),
            by_name: BTreeMap::new(),
            live: FxHashMap::default(),
            snapshots: FxHashMap::default(),
            queue: BTreeMap::new(),
            sheets: sheets::Sheets::default(),
            layout: Layout::default(),
            epoch,
            next_version,
            next_volume,
            next_deletion,
            dirty_roots: FxHashSet::default(),
            snapshot_count: 0,
            branch_count: 0,
        }
    }

    // ---- looking up ----

    pub(crate) fn get(&self, id: VersionId) -> Option<&Version> {
        self.versions.get(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Version> {
        self.versions.values()
    }

    pub(crate) fn volume_named(&self, name: &str) -> Option<&Version> {
        self.by_name.get(name).and_then(|id| self.versions.get(id))
    }

    pub(crate) fn live_of(&self, volume: VolumeId) -> Option<&Version> {
        self.live.get(&volume).and_then(|id| self.versions.get(id))
    }

    pub(crate) fn snapshot_named(&self, volume: VolumeId, name: &str) -> Option<&Version> {
        self.snapshots.get(&volume)?.get(name).and_then(|id| self.versions.get(id))
    }

    /// Snapshots of a volume, oldest first.
    pub(crate) fn snapshots_of(&self, volume: VolumeId) -> Vec<&Version> {
        let mut list: Vec<&Version> =
            self.snapshots.get(&volume).into_iter().flatten().filter_map(|(_, id)| self.versions.get(id)).collect();
        list.sort_by_key(|v| (v.epoch, v.id));
        list
    }

    pub(crate) fn snapshot_count_of(&self, volume: VolumeId) -> u64 {
        self.snapshots.get(&volume).map_or(0, |s| s.len() as u64)
    }

    /// Live versions of all volumes, by name.
    pub(crate) fn volumes(&self) -> impl Iterator<Item = &Version> {
        self.by_name.values().filter_map(|id| self.versions.get(id))
    }

    /// Those whose names come after this one, by name.
    pub(crate) fn volumes_after(&self, name: &str) -> impl Iterator<Item = &Version> {
        let rest = (Bound::Excluded(name), Bound::Unbounded);
        self.by_name.range::<str, _>(rest).filter_map(|(_, id)| self.versions.get(id))
    }

    pub(crate) fn children(&self, id: VersionId) -> &[VersionId] {
        self.children.get(&id).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn counts(&self) -> (u64, u64, u64, u64) {
        (self.live.len() as u64, self.snapshot_count, self.queue.len() as u64, self.branch_count)
    }

    /// The version whose walk is next or under way.
    pub(crate) fn front_of_queue(&self) -> Option<&Version> {
        self.queue.first_key_value().and_then(|(_, id)| self.versions.get(id))
    }

    /// The epoch below or at which the parent's blocks were born.
    fn parent_epoch(&self, version: &Version) -> Epoch {
        version.parent.and_then(|p| self.versions.get(&p)).map_or(version.floor, |p| p.epoch)
    }

    /// Which pointers `version` owns.
    pub(crate) fn floor(&self, version: &Version) -> Floor {
        let above = self.parent_epoch(version);
        let parent = version.parent.and_then(|p| self.versions.get(&p));
        match parent {
            // Only a walk that ends with the parent's removal hands its blocks on; a branch point keeps them.
            Some(p) if p.cursor > 0 && p.state == State::Deleting && self.children(p.id).len() == 1 => {
                Floor { cursor: p.cursor, below: self.parent_epoch(p), above }
            }
            _ => Floor::flat(above),
        }
    }

    /// The volume of this name, or an error that says that there is none.
    pub(crate) fn require_volume(&self, name: &str) -> Result<&Version> {
        self.volume_named(name).ok_or_else(|| not_found(format!("there is no volume {name:?} in this pool")))
    }

    /// The snapshot `name` of `volume`, or an error that says that there is none.
    pub(crate) fn require_snapshot(&self, volume: &Version, name: &str) -> Result<&Version> {
        self.snapshot_named(volume.volume, name)
            .ok_or_else(|| not_found(format!("volume {:?} has no snapshot {name:?}", volume.name)))
    }

    /// The version that a target names, with all of its content.
    pub(crate) fn resolve(&self, target: &Target) -> Result<VersionId> {
        let volume = self.require_volume(&target.volume)?;
        match &target.snapshot {
            None => volume.not_filling("compare it").map(|()| volume.id),
            Some(name) => self.require_snapshot(volume, name).map(|v| v.id),
        }
    }

    /// What page `page` of the table is to hold.
    pub(crate) fn page(&self, page: u32) -> Page {
        let ids = self.layout.ids(page);
        let sheets = ids.iter().filter(|_| !broken(Sabotage::ForgetSheetPage));
        let sheets = sheets.filter_map(|id| Some((*id, self.sheet_at(*id)?.clone())));
        Page { versions: ids.iter().filter_map(|id| self.get(*id)).cloned().collect(), sheets: sheets.collect() }
    }

    // ---- changing ----

    /// For changing fields that no index depends on (root, size, counts, cursor, …); marks the version as changed.
    pub(crate) fn get_mut(&mut self, id: VersionId) -> Option<&mut Version> {
        self.layout.touch(id);
        self.versions.get_mut(&id)
    }

    /// Adds a version with its id, names and place in the queue.
    pub(crate) fn insert(&mut self, version: Version) {
        // A number is one thing's; a journal that says otherwise is no reason to lose count.
        self.remove_sheet(version.id);
        self.layout.place(version.id, table::encoded_len(&version));
        self.index(version);
    }

    /// Adds a version as read from page `page` of the table.
    pub(crate) fn load(&mut self, version: Version, page: u32) {
        self.layout.load(version.id, table::encoded_len(&version), page);
        self.index(version);
    }

    fn index(&mut self, version: Version) {
        match version.state {
            State::Live => {
                let _old = self.by_name.insert(version.name.clone(), version.id);
                let _old = self.live.insert(version.volume, version.id);
            }
            State::Snapshot => {
                self.snapshot_count += 1;
                let _old = self.snapshots.entry(version.volume).or_default().insert(version.name.clone(), version.id);
            }
            State::Branch => self.branch_count += 1,
            State::Deleting | State::Detached => {}
        }
        if version.deletion != 0 {
            let _old = self.queue.insert(version.deletion, version.id);
        }
        if let Some(parent) = version.parent {
            self.children.entry(parent).or_default().push(version.id);
        }
        if matches!(version.root.place(), Place::Dirty(_)) {
            let _new = self.dirty_roots.insert(version.id);
        }
        let _old = self.versions.insert(version.id, version);
    }

    fn unindex_name(&mut self, id: VersionId) {
        let Some(v) = self.versions.get(&id) else { return };
        match v.state {
            State::Live => {
                if self.by_name.get(&v.name) == Some(&id) {
                    let _id = self.by_name.remove(&v.name);
                }
                if self.live.get(&v.volume) == Some(&id) {
                    let _id = self.live.remove(&v.volume);
                }
            }
            State::Snapshot => {
                self.snapshot_count -= 1;
                if let Some(list) = self.snapshots.get_mut(&v.volume) {
                    let _id = list.remove(&v.name);
                    if list.is_empty() {
                        let _list = self.snapshots.remove(&v.volume);
                    }
                }
            }
            State::Branch => self.branch_count -= 1,
            State::Deleting | State::Detached => {}
        }
    }

    /// Hides a version from its users and puts it at the end of the deletion queue.
    pub(crate) fn enqueue(&mut self, id: VersionId) {
        self.unindex_name(id);
        let number = self.next_deletion;
        self.next_deletion += 1;
        if let Some(v) = self.versions.get_mut(&id) {
            v.state = State::Deleting;
            v.deletion = number;
            v.cursor = 0;
            let old_len = table::encoded_len(v);
            v.name.clear();
            self.layout.resize(id, old_len, table::encoded_len(v));
            let _old = self.queue.insert(number, id);
        }
    }

    /// The walk of a pruned version has ended: it stays as a branch point.
    pub(crate) fn settle_as_branch(&mut self, id: VersionId) {
        self.layout.touch(id);
        if let Some(v) = self.versions.get_mut(&id) {
            let _id = self.queue.remove(&v.deletion);
            v.deletion = 0;
            v.cursor = 0;
            v.state = State::Branch;
            self.branch_count += 1;
        }
    }

    /// The walk of a version has ended: it is removed, and its children take its parent. Returns a branch point that has now
    /// fewer than two children, if that is what the parent is.
    pub(crate) fn dissolve(&mut self, id: VersionId) -> Option<VersionId> {
        self.unindex_name(id);
        let version = self.versions.remove(&id)?;
        self.layout.remove(id, table::encoded_len(&version));
        let _id = self.queue.remove(&version.deletion);
        let _root = self.dirty_roots.remove(&id);
        let orphans = self.children.remove(&id).unwrap_or_default();
        for &child in &orphans {
            self.layout.touch(child);
            if let Some(c) = self.versions.get_mut(&child) {
                c.parent = version.parent;
                // Without a parent the floor stands for its epoch.
                c.floor = version.floor;
            }
        }
        let parent = version.parent?;
        let siblings = self.children.entry(parent).or_default();
        siblings.retain(|c| *c != id);
        siblings.extend(orphans);
        let few = siblings.len() < 2;
        if siblings.is_empty() {
            let _none = self.children.remove(&parent);
        }
        (few && self.versions.get(&parent).is_some_and(|p| p.state == State::Branch)).then_some(parent)
    }

    /// Freezes the live version `live`: its content becomes the new version `frozen`, which takes its place in the lineage.
    pub(crate) fn freeze(&mut self, live: VersionId, frozen: VersionId, name: &str, created_ms: u64) {
        self.next_version = self.next_version.max(frozen.0 + 1);
        let Some(v) = self.versions.get(&live) else { return };
        let mut snapshot = v.clone();
        snapshot.id = frozen;
        snapshot.state = State::Snapshot;
        snapshot.epoch = self.epoch;
        snapshot.created_ms = created_ms;
        snapshot.name = name.to_owned();
        self.reparent(live, Some(frozen));
        self.insert(snapshot);
    }

    fn reparent(&mut self, id: VersionId, parent: Option<VersionId>) {
        let Some(old) = self.get_mut(id).map(|v| std::mem::replace(&mut v.parent, parent)) else { return };
        if let Some(list) = old.and_then(|old| self.children.get_mut(&old)) {
            list.retain(|c| *c != id);
        }
        if let Some(parent) = parent {
            self.children.entry(parent).or_default().push(id);
        }
    }

    /// Replaces roots that `written` knows a place for. Their records are not changed by that: the checkpoint wrote them so.
    pub(crate) fn resolve_roots(&mut self, written: impl Fn(Pointer) -> Option<Pointer>) {
        let versions = &mut self.versions;
        self.dirty_roots.retain(|id| {
            let Some(version) = versions.get_mut(id) else { return false };
            if let Some(root) = written(version.root) {
                version.root = root;
            }
            matches!(version.root.place(), Place::Dirty(_))
        });
    }

    /// Gives a volume another name.
    pub(crate) fn rename(&mut self, live: VersionId, name: &str) {
        let Some(v) = self.versions.get_mut(&live) else { return };
        let old_len = table::encoded_len(v);
        let old = std::mem::replace(&mut v.name, name.to_owned());
        let new_len = table::encoded_len(v);
        let _id = self.by_name.remove(&old);
        let _old = self.by_name.insert(name.to_owned(), live);
        self.layout.resize(live, old_len, new_len);
    }
}
