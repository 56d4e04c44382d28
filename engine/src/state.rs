//! The state of a pool in memory, and every way in which it changes.
//!
//! Each change is one synchronous step that alters the state *and* appends its record to the journal, so the order of records
//! is the order of changes; opening replays the same steps. A step that needs a node that is not in memory changes nothing.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use rustc_hash::FxHashSet;

use crate::{
    format::{
        node,
        pointer::Pointer,
        record::Record,
        sheet::{Owner, Sheet},
    },
    info::{Event, VolumeOptions},
    journal::Pending,
    sabotage::{Sabotage, broken},
    space::{Space, bitmap::Run},
    sweep::{Mode, Outcome, Sweep, Task},
    tree::{
        Missing, Nodes,
        compare::Known,
        edit::Edit,
        lookup::{self, Tree},
        slot_of,
    },
    units::{BlockIndex, Epoch, PhysicalBlock, VersionId, VolumeId},
    versions::{Lineage, State as VersionState, Version, depth_for, span},
};

/// Result of a step that may need nodes.
pub(crate) type Step<T> = Result<T, Missing>;

/// Events kept for readers that come later.
const EVENTS_KEPT: usize = 1024;
/// Leaves visited by one step of a deletion.
const LEAVES_PER_STEP: u32 = 8;

/// A change of metadata, by how much of the reserve it leaves alone: what frees something goes deeper.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Need {
    /// So many new versions.
    New(u64),
    /// Nodes that are written anew: a discard in data that others hold too, or pruning.
    Nodes,
    /// A version's name, size or options.
    Change,
    /// So many versions that are deleted.
    Delete(u64),
    /// A step of the walk over a deleted version, which may change so many children.
    Walk(u64),
}

pub(crate) struct State {
    pub(crate) nodes: Nodes,
    pub(crate) space: Space,
    pub(crate) lineage: Lineage,
    pub(crate) journal: Pending,
    pub(crate) events: VecDeque<(u64, Event)>,
    pub(crate) next_event: u64,
    pub(crate) checksum_errors: u64,
    /// Blocks that versions which do not own them let go of, since branch points were pruned last.
    pub(crate) divergence: u64,
    /// A version whose data blocks are being counted: how far, and how many so far.
    pub(crate) counting: Option<(VersionId, u64, u64)>,
    /// Blocks freed by the walk at the front of the deletion queue.
    pub(crate) freed: u64,
    /// Versions that the scrub under way has walked to their end. What starts as one of them needs no walk of its own.
    pub(crate) scrubbed: FxHashSet<VersionId>,
    /// While the journal is replayed: nothing is journaled, and released data is free at once.
    pub(crate) replaying: bool,
}

/// What one step of background deletion did.
pub(crate) enum Deletion {
    /// Nothing is queued.
    Idle,
    /// Went on; call again.
    Progress,
}

pub(crate) fn tree_of(version: &Version) -> Tree {
    Tree { root: version.root, depth: version.depth }
}

impl State {
    pub(crate) fn record(&mut self, record: &Record<'_>) {
        if !self.replaying {
            self.journal.append(record);
        }
    }

    pub(crate) fn set_replaying(&mut self, on: bool) {
        self.replaying = on;
        self.space.set_replaying(on);
    }

    /// Tells the space how many blocks the next checkpoint will need at most.
    pub(crate) fn update_promise(&mut self) {
        let nodes = self.nodes.dirty_count() as u64 + self.lineage.layout.promised(0);
        self.space.set_promised(nodes + 64);
    }

    /// Whether a change of metadata that perhaps frees nothing has to wait until the file grows, or for a checkpoint.
    pub(crate) fn is_short(&mut self, need: Need) -> bool {
        self.update_promise();
        let (versions, part) = match need {
            Need::New(versions) => (versions, 2),
            Need::Nodes => (1, 4),
            Need::Change => (1, 4),
            Need::Delete(versions) => (versions, 8),
            Need::Walk(versions) => (versions, 16),
        };
        let layout = &self.lineage.layout;
        let more = layout.promised(versions) - layout.promised(0);
        self.space.is_short_of(more + self.space.reserve() / part)
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.events.push_back((self.next_event, event));
        self.next_event += 1;
        while self.events.len() > EVENTS_KEPT {
            let _old = self.events.pop_front();
        }
    }

    /// Runs an edit of `version`'s tree and keeps its root, counts and flags right. The edit says how the number of data blocks changed at
    /// `block`.
    fn edit(&mut self, id: VersionId, block: u64, f: impl FnOnce(&mut Edit<'_>) -> Step<i64>) -> Step<()> {
        let Some(version) = self.lineage.get(id) else { return Ok(()) };
        let floor = self.lineage.floor(version);
        let (before, depth, data) = (version.root, version.depth, version.data_blocks);
        let mut root = before;
        let mut edit = Edit {
            nodes: &mut self.nodes,
            space: &mut self.space,
            root: &mut root,
            depth,
            floor,
            epoch: self.lineage.epoch,
            shared: 0,
        };
        let change = f(&mut edit)?;
        self.divergence += edit.shared;
        let depth_after = edit.depth;
        if root != before || change != 0 || depth_after != depth {
            if let Some(version) = self.lineage.get_mut(id) {
                version.root = root;
                version.depth = depth_after;
                version.data_blocks = data.saturating_add_signed(change);
            }
            let _new = self.lineage.dirty_roots.insert(id);
        }
        if let Some((counted, cursor, count)) = &mut self.counting
            && *counted == id
            && block < *cursor
        {
            *count = count.saturating_add_signed(change);
        }
        Ok(())
    }

    // ---- data ----

    /// Blocks of one leaf from `block` on now lie at `place` on. The physical blocks are reserved (or, in replay, free).
    pub(crate) fn write(&mut self, id: VersionId, block: u64, place: u64, crcs: &[u8]) -> Step<()> {
        let epoch = self.lineage.epoch;
        let count = crcs.len() as u64 / 4;
        let replaying = self.replaying;
        self.edit(id, block, |edit| {
            let leaf = edit.leaf(block)?;
            let run = Run { start: place, len: count };
            if replaying {
                let _fresh = edit.space.acquire_exact(run);
            } else {
                edit.space.acquire(run);
            }
            let mut change = 0;
            for (i, crc) in crcs.as_chunks::<4>().0.iter().enumerate() {
                let at = block + i as u64;
                let pointer = Pointer::data(PhysicalBlock(place + i as u64), epoch, u32::from_le_bytes(*crc));
                change += edit.set(leaf, at, pointer);
            }
            Ok(change)
        })?;
        if !broken(Sabotage::ForgetWriteRecord) {
            self.record(&Record::Write { version: id, block: BlockIndex(block), place: PhysicalBlock(place), crcs });
        }
        Ok(())
    }

    /// What a filler brings for blocks of one leaf: written where there are holes, as long as the volume fills. Looked at in the step itself,
    /// since there may be data by now. Goes as far as the blocks are alike; returns how many, and whether they were written.
    pub(crate) fn fill(&mut self, id: VersionId, block: u64, place: u64, crcs: &[u8]) -> Step<(u64, bool)> {
        let count = crcs.len() as u64 / 4;
        if broken(Sabotage::FillOver) {
            return self.write(id, block, place, crcs).map(|()| (count, true));
        }
        let Some(version) = self.lineage.get(id).filter(|v| v.options.filling) else { return Ok((count, false)) };
        let mut pointers = Vec::with_capacity(count as usize);
        lookup::range(&self.nodes, tree_of(version), block, count, &mut pointers)?;
        let hole = pointers.first().is_none_or(|p| p.is_hole());
        let alike = pointers.iter().take_while(|p| p.is_hole() == hole).count();
        if hole {
            self.write(id, block, place, &crcs[..alike * 4])?;
        }
        Ok((alike as u64, hole))
    }

    /// Turns blocks into holes, as far as one step goes: to the end of a leaf, or a whole subtree at once. Returns where it stopped.
    pub(crate) fn clear(&mut self, id: VersionId, start: u64, end: u64) -> Step<u64> {
        let Some(version) = self.lineage.get(id) else { return Ok(end) };
        let tree = tree_of(version);
        let limit = span(tree.depth).min(end);
        if start >= limit {
            return Ok(end);
        }
        // The highest subtree that begins here and lies within the range (behind the volume's end there is nothing).
        let fits = |h: u32| start.is_multiple_of(span(h)) && (start + span(h) <= end || end >= version.blocks());
        let height = (0..=tree.depth).rev().find(|&h| fits(h)).unwrap_or(0);
        let cut = height >= 2 && self.lineage.floor(version).is_flat_over(start, start + span(height));
        if let Some(hole_end) = self.hole_at(tree, start, if cut { height } else { 1 })? {
            return Ok(hole_end.min(end));
        }
        if cut {
            let detached = VersionId(self.lineage.next_version);
            self.cut(id, start, height as u8, detached)?;
            return Ok((start + span(height)).min(end));
        }
        let upto = limit.min((start / 256 + 1) * 256);
        self.clear_leaf(id, start, upto)?;
        Ok(upto)
    }

    /// Turns blocks of one leaf into holes; where there is no leaf, nothing changes.
    pub(crate) fn clear_of_leaf(&mut self, id: VersionId, start: u64, end: u64) -> Step<()> {
        let Some(version) = self.lineage.get(id) else { return Ok(()) };
        let tree = tree_of(version);
        if start >= span(tree.depth) || self.hole_at(tree, start, 1)?.is_some() {
            return Ok(());
        }
        self.clear_leaf(id, start, end)
    }

    /// End of the hole that `block` lies in, if a pointer of at least height `lowest` over it is one.
    fn hole_at(&self, tree: Tree, block: u64, lowest: u32) -> Step<Option<u64>> {
        let mut pointer = tree.root;
        let mut height = tree.depth;
        loop {
            if pointer.is_hole() {
                return Ok(Some((block / span(height) + 1) * span(height)));
            }
            if height <= lowest {
                return Ok(None);
            }
            height -= 1;
            pointer = node::get(self.nodes.get(pointer, height)?, slot_of(block, height));
        }
    }

    /// Holes within one leaf.
    pub(crate) fn clear_leaf(&mut self, id: VersionId, start: u64, end: u64) -> Step<()> {
        self.edit(id, start, |edit| edit.clear_in_leaf(start, end))?;
        if !broken(Sabotage::ForgetHoleRecord) {
            self.record(&Record::Hole { version: id, block: BlockIndex(start), count: end - start });
        }
        Ok(())
    }

    /// Cuts a subtree off; what the version owned of it is freed in the background under the name of `detached`.
    pub(crate) fn cut(&mut self, id: VersionId, block: u64, height: u8, detached: VersionId) -> Step<()> {
        let h = u32::from(height);
        let Some(version) = self.lineage.get(id) else { return Ok(()) };
        let floor = self.lineage.floor(version);
        let (volume, created_ms) = (version.volume, version.created_ms);
        let whole = h >= version.depth;
        let mut cut = Pointer::HOLE;
        self.edit(id, block, |edit| {
            cut = edit.cut(block, h.min(edit.depth))?;
            Ok(0)
        })?;
        if let Some(version) = self.lineage.get_mut(id) {
            if whole {
                version.data_blocks = 0;
                version.recount = false;
            } else if !cut.is_hole() {
                version.recount = true;
            }
        }
        if self.counting.is_some_and(|(counted, ..)| counted == id) {
            self.counting = None;
        }
        let end = block + span(h);
        if !cut.is_hole() && !floor.owns(cut.birth(), end) {
            self.divergence += span(h);
        }
        if !cut.is_hole() && floor.owns(cut.birth(), end) && !broken(Sabotage::LeakSubtree) {
            let mut rest =
                Version::new_volume(detached, volume, "", span(h) * 4096, created_ms, VolumeOptions::default());
            rest.state = VersionState::Detached;
            rest.root = cut;
            rest.depth = h;
            rest.floor = if end <= floor.cursor { floor.below } else { floor.above };
            rest.deletion = self.lineage.next_deletion;
            self.lineage.next_deletion += 1;
            self.lineage.insert(rest);
        }
        self.lineage.next_version = self.lineage.next_version.max(detached.0 + 1);
        self.record(&Record::Cut { version: id, block: BlockIndex(block), height, detached });
        Ok(())
    }

    // ---- versions ----

    pub(crate) fn create(
        &mut self,
        volume: VolumeId,
        id: VersionId,
        name: &str,
        size: u64,
        created_ms: u64,
        options: VolumeOptions,
    ) {
        self.lineage.insert(Version::new_volume(id, volume, name, size, created_ms, options.clone()));
        self.used_ids(id, volume);
        self.record(&Record::Create { volume, version: id, created_ms, size, options, name });
    }

    fn used_ids(&mut self, id: VersionId, volume: VolumeId) {
        self.lineage.next_version = self.lineage.next_version.max(id.0 + 1);
        self.lineage.next_volume = self.lineage.next_volume.max(volume.0 + 1);
    }

    /// Freezes one live version of a set; the last one closes the epoch.
    pub(crate) fn snapshot(&mut self, live: VersionId, frozen: VersionId, name: &str, created_ms: u64, last: bool) {
        self.lineage.freeze(live, frozen, name, created_ms);
        self.starts_as(frozen, live);
        if last && !broken(Sabotage::KeepEpoch) {
            self.lineage.epoch = Epoch(self.lineage.epoch.0 + 1);
        }
        self.record(&Record::Snapshot { live, frozen, created_ms, last, name });
    }

    /// A new volume that starts as `snapshot`.
    pub(crate) fn clone_version(
        &mut self,
        snapshot: VersionId,
        (volume, id): (VolumeId, VersionId),
        name: &str,
        size: u64,
        created_ms: u64,
        options: VolumeOptions,
    ) {
        let Some(origin) = self.lineage.get(snapshot) else { return };
        let mut version = Version::new_volume(id, volume, name, origin.size, created_ms, options.clone());
        version.parent = Some(snapshot);
        self.inherit(&mut version, snapshot);
        self.lineage.insert(version);
        self.used_ids(id, volume);
        self.set_size(id, size);
        self.record(&Record::Clone { snapshot, volume, version: id, created_ms, size, options, name });
    }

    fn starts_as(&mut self, id: VersionId, origin: VersionId) {
        if self.scrubbed.contains(&origin) {
            let _new = self.scrubbed.insert(id);
        }
    }

    fn inherit(&mut self, version: &mut Version, from: VersionId) {
        self.starts_as(version.id, from);
        if let Some(origin) = self.lineage.get(from) {
            version.root = origin.root;
            version.depth = origin.depth;
            version.data_blocks = origin.data_blocks;
            version.recount = origin.recount;
        }
    }

    /// The volume of `live` goes on as `id`, with the content of `snapshot`.
    pub(crate) fn revert(&mut self, live: VersionId, snapshot: VersionId, id: VersionId) {
        let (Some(old), Some(origin)) = (self.lineage.get(live), self.lineage.get(snapshot)) else { return };
        let mut version =
            Version::new_volume(id, old.volume, &old.name, origin.size, old.created_ms, old.options.clone());
        version.parent = Some(snapshot);
        self.inherit(&mut version, snapshot);
        self.lineage.enqueue(live);
        self.lineage.next_version = self.lineage.next_version.max(id.0 + 1);
        self.lineage.insert(version);
        self.record(&Record::Revert { live, snapshot, version: id });
    }

    fn set_size(&mut self, id: VersionId, size: u64) {
        let grown = self.edit(id, 0, |edit| {
            edit.grow(depth_for(size))?;
            Ok(0)
        });
        debug_assert!(grown.is_ok(), "growing needs no nodes");
        if let Some(version) = self.lineage.get_mut(id) {
            version.size = size;
        }
    }

    pub(crate) fn resize(&mut self, id: VersionId, size: u64) {
        self.set_size(id, size);
        self.record(&Record::Resize { version: id, size });
    }

    pub(crate) fn rename(&mut self, id: VersionId, name: &str) {
        self.lineage.rename(id, name);
        self.record(&Record::Rename { version: id, name });
    }

    pub(crate) fn set_options(&mut self, id: VersionId, options: VolumeOptions) {
        if let Some(version) = self.lineage.get_mut(id) {
            version.options = options.clone();
        }
        self.record(&Record::Options { version: id, options });
    }

    /// What limits an owner, and how much of it was used; `entry` is a new number, or that of the owner's sheet so far.
    pub(crate) fn set_sheet(&mut self, entry: VersionId, sheet: Sheet) {
        self.lineage.set_sheet(entry, sheet.clone());
        if !broken(Sabotage::ForgetSheetRecord) {
            self.record(&Record::Sheet { entry, sheet });
        }
    }

    /// Deletes a version; what limited a volume goes with it.
    pub(crate) fn delete(&mut self, id: VersionId) {
        let live = self.lineage.get(id).filter(|v| v.state == VersionState::Live).map(|v| Owner::Volume(v.volume));
        if let Some(entry) = live.and_then(|owner| self.lineage.sheet(&owner)).map(|(entry, _)| entry) {
            self.lineage.remove_sheet(entry);
        }
        self.lineage.enqueue(id);
        self.record(&Record::Delete { version: id });
    }

    /// A branch point is walked again.
    pub(crate) fn prune(&mut self, id: VersionId) {
        self.lineage.enqueue(id);
        self.record(&Record::Prune { version: id });
    }

    pub(crate) fn counted(&mut self, id: VersionId, blocks: u64) {
        if let Some(version) = self.lineage.get_mut(id) {
            version.data_blocks = blocks;
            version.recount = false;
        }
        self.record(&Record::Counted { version: id, blocks });
    }

    // ---- deletion ----

    /// One bounded step of the walk at the front of the deletion queue.
    pub(crate) fn deletion_step(&mut self) -> Step<Deletion> {
        let Some(id) = self.lineage.front_of_queue().map(|v| v.id) else { return Ok(Deletion::Idle) };
        let mut to = self.walk(id, u64::MAX, LEAVES_PER_STEP)?;
        if broken(Sabotage::SkipLeaf) {
            to = to.saturating_add(256);
        }
        self.walked(id, to);
        Ok(Deletion::Progress)
    }

    /// Whether a checkpoint would find anything to write.
    pub(crate) fn has_changed(&self) -> bool {
        self.nodes.dirty_count() > 0 || self.lineage.layout.promised(0) > 0
    }

    /// What the next step of deletion needs.
    pub(crate) fn need_of_deletion(&self) -> Need {
        // A pruned branch point is changed; a version with one child hands it to its own parent.
        if self.lineage.prunes_next() { Need::Nodes } else { Need::Walk(2) }
    }

    /// Replays a walk up to `to`.
    pub(crate) fn replay_walk(&mut self, id: VersionId, to: u64) -> Step<()> {
        while self.lineage.get(id).is_some_and(|v| v.cursor < to) {
            let reached = self.walk(id, to, u32::MAX)?;
            if let Some(v) = self.lineage.get_mut(id) {
                v.cursor = reached.min(to);
            }
            if reached >= to {
                break;
            }
        }
        self.walked(id, to);
        Ok(())
    }

    /// Walks `id` from its cursor on; returns how far, `u64::MAX` for all of it.
    fn walk(&mut self, id: VersionId, until: u64, leaves: u32) -> Step<u64> {
        let Some(version) = self.lineage.get(id) else { return Ok(u64::MAX) };
        let (tree, cursor) = (tree_of(version), version.cursor);
        let floor = self.lineage.floor(version).above;
        let children: Vec<Tree> =
            self.lineage.children(id).iter().filter_map(|c| self.lineage.get(*c)).map(tree_of).collect();
        let looked_at = if broken(Sabotage::DropChild) { children.len().min(1) } else { children.len() };
        let mode = if children.len() >= 2 && !broken(Sabotage::DissolveBranch) { Mode::Prune } else { Mode::Free };
        let mut known = std::mem::take(&mut self.nodes.known);
        let task = Task { mode, floor, from: cursor, until, leaves };
        let mut sweep = Sweep::new(&mut self.nodes, &mut self.space, &mut known, task);
        let outcome = sweep.run(tree, &children[..looked_at]);
        let (found, freed) = (std::mem::take(&mut sweep.found), sweep.data + sweep.node_count);
        self.nodes.known = known;
        let reached = match outcome {
            Outcome::Done => u64::MAX,
            Outcome::Stopped(at) => at,
            Outcome::Missing(missing) => return Err(missing),
        };
        self.freed += freed;
        if let Some(&first) = found.first() {
            // The path is in memory: the walk has just been there.
            self.edit(id, first, |edit| {
                let mut change = 0;
                for &block in &found {
                    change += edit.clear_in_leaf(block, block + 1)?;
                }
                Ok(change)
            })?;
        }
        Ok(reached)
    }

    /// Notes that the walk of `id` came to `to`, and what follows when that is the end.
    fn walked(&mut self, id: VersionId, to: u64) {
        self.record(&Record::Walked { version: id, to });
        if to != u64::MAX {
            if let Some(version) = self.lineage.get_mut(id) {
                version.cursor = to;
            }
            return;
        }
        let freed = std::mem::take(&mut self.freed) * 4096;
        if self.lineage.children(id).len() >= 2 && !broken(Sabotage::DissolveBranch) {
            self.lineage.settle_as_branch(id);
        } else {
            if self.counting.is_some_and(|(counted, ..)| counted == id) {
                self.counting = None;
            }
            if let Some(branch) = self.lineage.dissolve(id) {
                // Decided by the state alone, so replay decides alike without a record.
                self.lineage.enqueue(branch);
            }
        }
        if !self.replaying {
            self.event(Event::Deleted { version: id, freed });
        }
    }

    /// Space that deleting `id` would free, a stretch at a time from block `from` on: blocks, and where to go on. What is being deleted
    /// already is not looked at: nodes that its walk freed may be something else by now.
    pub(crate) fn exclusive_step(&mut self, id: VersionId, from: u64, known: &mut Known) -> Step<(u64, Option<u64>)> {
        let Some(version) = self.lineage.get(id).filter(|v| v.is_visible()) else { return Ok((0, None)) };
        let tree = tree_of(version);
        let floor = self.lineage.floor(version).above;
        let children: Vec<Tree> =
            self.lineage.children(id).iter().filter_map(|c| self.lineage.get(*c)).map(tree_of).collect();
        let task = Task { mode: Mode::Count, floor, from, until: u64::MAX, leaves: 128 };
        let mut sweep = Sweep::new(&mut self.nodes, &mut self.space, known, task);
        let outcome = sweep.run(tree, &children);
        let blocks = sweep.data + sweep.node_count;
        match outcome {
            Outcome::Done => Ok((blocks, None)),
            Outcome::Stopped(at) => Ok((blocks, Some(at))),
            Outcome::Missing(missing) => Err(missing),
        }
    }
}
