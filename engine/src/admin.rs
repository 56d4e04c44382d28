//! The pool's local interface on the reactor's thread: volumes, differences, statistics. Snapshots are beside it.

use std::rc::Rc;

use crate::{
    core::Core,
    error::{Result, busy, exists, invalid, no_space, not_found, read_only},
    format::sheet::Owner,
    info::{Event, ExtentKind, ExtentPage, PoolStats, VolumeInfo, VolumeOptions},
    names::{Target, check_name},
    reactor::Reactor,
    state::{Need, State},
    tree::compare::Known,
    units::{BLOCK, MIB, SECTOR, TIB, VersionId, VolumeId},
    versions::{State as VersionState, Version},
    volume::{LocalVolume, Opened, Role, changes, push},
    writeback::Through,
};

/// Smallest volume.
pub const MIN_VOLUME: u64 = MIB;
/// Largest volume.
pub const MAX_VOLUME: u64 = 64 * TIB;

/// An open pool, for code on its reactor's thread (exports): what [`Pool`](crate::Pool) offers, without crossing threads.
///
/// Every change of versions is committed before it is answered.
#[derive(Clone)]
pub struct LocalPool {
    pub(crate) core: Rc<Core>,
}

/// Volumes without a backlog, until this is dropped.
pub(crate) struct Quiet(Vec<(VolumeId, Through)>);

impl Quiet {
    /// Fails unless a volume is one of them: while it was waited for, names may have changed.
    pub(crate) fn covers(&self, volume: &Version) -> Result<()> {
        match self.0.iter().any(|(id, _)| *id == volume.volume) {
            true => Ok(()),
            false => Err(busy(format!("volume {:?} got its name just now: try again", volume.name))),
        }
    }
}

pub(crate) fn check_size(size: u64) -> Result<()> {
    if !(MIN_VOLUME..=MAX_VOLUME).contains(&size) {
        return Err(invalid(format!("a volume of {size} bytes is out of range: 1 MiB to 64 TiB")));
    }
    if !size.is_multiple_of(SECTOR) {
        return Err(invalid(format!("a volume of {size} bytes is not a multiple of {SECTOR} bytes")));
    }
    Ok(())
}

impl LocalPool {
    /// The reactor that this pool lives on.
    #[must_use]
    pub fn reactor(&self) -> &Reactor {
        &self.core.reactor
    }

    fn writable(&self) -> Result<()> {
        self.core.writable()
    }

    /// Nothing may be opened while blocks change from free to used and back behind everybody's back.
    pub(crate) fn not_repairing(&self) -> Result<()> {
        if self.core.repairing.get() {
            return Err(busy("the pool is being repaired: wait for the end of the repair"));
        }
        Ok(())
    }

    /// Waits until records of a change of metadata may be added, and until there is room for what the change dirties. Nothing may be awaited
    /// between the answer and the change: all who waited here are let in at once.
    pub(crate) async fn admit(&self, need: Need) -> Result<()> {
        let core = &self.core;
        loop {
            core.admit().await?;
            if !core.state.borrow_mut().is_short(need) {
                return Ok(());
            }
            if !core.room_for_metadata(need).await? {
                return Err(no_space(format!("{}: no room for metadata", core.full())));
            }
        }
    }

    /// Has what was acknowledged of these volumes enter their trees, and keeps them so: what is written meanwhile goes around. A step on them
    /// that follows sees all that was acknowledged before it.
    pub(crate) async fn quiet<'a>(&self, names: impl Iterator<Item = &'a str>) -> Result<Quiet> {
        let mut ids = Vec::new();
        for name in names {
            ids.push(self.core.state.borrow().lineage.require_volume(name)?.volume);
        }
        // In one order, so that no two who want several wait for each other.
        ids.sort_unstable();
        ids.dedup();
        let mut held = Vec::with_capacity(ids.len());
        for id in ids {
            let backlog = self.core.backlogs.of(id);
            held.push((id, self.core.go_around(id, &backlog).await?));
        }
        Ok(Quiet(held))
    }

    /// Epochs are counted by the snapshots of a pool; there are enough for one a second in 136 years.
    pub(crate) fn has_epochs(&self) -> Result<()> {
        if self.core.state.borrow().lineage.epoch.0 == u32::MAX {
            return Err(no_space("the pool has used up its 4,294,967,295 epochs: export its volumes to a new pool"));
        }
        Ok(())
    }

    // ---- volumes ----

    /// Makes an empty volume of `size` bytes (1 MiB to 64 TiB, a multiple of 512). One that is to be filled is open as to its
    /// filler (see [`LocalPool::open_to_fill`]).
    ///
    /// # Errors
    /// `Invalid` for name or size, `Exists`, `NoSpace`, `ReadOnly`; `Busy` during a repair.
    pub async fn create_volume(&self, name: &str, size: u64, options: VolumeOptions) -> Result<LocalVolume> {
        check_name("volume", name)?;
        check_size(size)?;
        self.admit(Need::New(1)).await?;
        self.has_epochs()?;
        self.not_repairing()?;
        let role = if options.filling { Role::Filler } else { Role::Any };
        let volume = {
            let now = self.core.reactor.unix_ms();
            let mut state = self.core.state.borrow_mut();
            free_name(&state, name)?;
            let volume = VolumeId(state.lineage.next_volume);
            let id = VersionId(state.lineage.next_version);
            state.create(volume, id, name, size, now, options);
            volume
        };
        let open = LocalVolume::new(self.core.clone(), Opened::Volume(volume), name.to_owned(), role);
        self.core.flush().await?;
        Ok(open)
    }

    /// Opens a volume, or a snapshot for reading.
    ///
    /// # Errors
    /// `NotFound`; `Busy` during a repair, or for a volume that is filling and that nobody fills (see [`LocalPool::set_filler`]).
    pub fn open(&self, target: &Target) -> Result<LocalVolume> {
        self.not_repairing()?;
        let (opened, role) = {
            let state = self.core.state.borrow();
            let volume = state.lineage.require_volume(&target.volume)?;
            match &target.snapshot {
                None if volume.options.filling => {
                    let gate = self.core.gates.of(volume.volume, &volume.name)?;
                    (Opened::Volume(volume.volume), Role::User(gate))
                }
                None => (Opened::Volume(volume.volume), Role::Any),
                Some(name) => (Opened::Snapshot(state.lineage.require_snapshot(volume, name)?.id), Role::Any),
            }
        };
        Ok(LocalVolume::new(self.core.clone(), opened, target.to_string(), role))
    }

    /// All volumes, by name.
    #[must_use]
    pub fn list_volumes(&self) -> Vec<VolumeInfo> {
        let state = self.core.state.borrow();
        state.lineage.volumes().map(|v| self.volume_info_of(&state, v)).collect()
    }

    /// All volumes, by name; with `exclusive`, also what deleting each would free.
    ///
    /// # Errors
    /// `Corrupt` or `Io` when the metadata walk for `exclusive` fails.
    pub async fn volumes(&self, exclusive: bool) -> Result<Vec<VolumeInfo>> {
        let mut list = self.list_volumes();
        if exclusive {
            for info in &mut list {
                info.exclusive = Some(self.exclusive(info.version).await?);
            }
        }
        Ok(list)
    }

    /// One volume, with its exclusive bytes.
    ///
    /// # Errors
    /// `NotFound`, or as [`LocalPool::volumes`].
    pub async fn volume_info(&self, name: &str) -> Result<VolumeInfo> {
        let mut info = self.brief(name)?;
        info.exclusive = Some(self.exclusive(info.version).await?);
        Ok(info)
    }

    fn brief(&self, name: &str) -> Result<VolumeInfo> {
        let state = self.core.state.borrow();
        state.lineage.require_volume(name).map(|v| self.volume_info_of(&state, v))
    }

    /// One volume, whatever it is called by now.
    pub(crate) fn brief_of(&self, id: VolumeId) -> Result<VolumeInfo> {
        let state = self.core.state.borrow();
        let live = state.lineage.live_of(id).ok_or_else(|| not_found("the volume was deleted meanwhile"))?;
        Ok(self.volume_info_of(&state, live))
    }

    fn volume_info_of(&self, state: &State, v: &Version) -> VolumeInfo {
        VolumeInfo {
            id: v.volume,
            version: v.id,
            name: v.name.clone(),
            size: v.size,
            created_ms: v.created_ms,
            parent: parent_name(state, v),
            allocated: v.data_blocks * BLOCK,
            exclusive: None,
            snapshots: state.lineage.snapshot_count_of(v.volume),
            attached: self.core.attached.borrow().volumes.get(&v.volume).copied().unwrap_or(0),
            options: v.options.clone(),
        }
    }

    pub(crate) async fn exclusive(&self, id: VersionId) -> Result<u64> {
        let mut blocks = 0;
        let mut from = 0;
        let mut known = Known::default();
        loop {
            let (n, next) = self.core.step(|state| state.exclusive_step(id, from, &mut known)).await?;
            blocks += n;
            match next {
                Some(at) => from = at,
                None => return Ok(blocks * BLOCK),
            }
            crate::reactor::notify::yield_now().await;
        }
    }

    /// Gives a volume another name; what is open stays open.
    ///
    /// # Errors
    /// `NotFound`, `Exists`, `Invalid`, `NoSpace`, `ReadOnly`.
    pub async fn rename(&self, volume: &str, new_name: &str) -> Result<VolumeInfo> {
        let quiet = self.quiet([volume].into_iter()).await?;
        self.admit(Need::Change).await?;
        check_name("volume", new_name)?;
        let id = {
            let mut state = self.core.state.borrow_mut();
            let version = state.lineage.require_volume(volume)?;
            quiet.covers(version)?;
            let (live, id) = (version.id, version.volume);
            if volume != new_name {
                free_name(&state, new_name)?;
                state.rename(live, new_name);
            }
            id
        };
        self.core.flush().await?;
        self.brief_of(id)
    }

    /// Grows a volume, also while it is in use.
    ///
    /// # Errors
    /// `Invalid` for a size out of range or smaller than the present one, `Busy` while it fills, `NotFound`, `NoSpace`, `ReadOnly`.
    pub async fn resize(&self, volume: &str, size: u64) -> Result<VolumeInfo> {
        let quiet = self.quiet([volume].into_iter()).await?;
        self.admit(Need::Change).await?;
        check_size(size)?;
        let volume_id = {
            let mut state = self.core.state.borrow_mut();
            let version = state.lineage.require_volume(volume)?;
            quiet.covers(version)?;
            version.not_filling("resize it")?;
            let (id, old, volume_id) = (version.id, version.size, version.volume);
            if size < old {
                return Err(invalid(format!(
                    "volume {volume:?} has {old} bytes and cannot shrink to {size}: make a smaller volume and copy"
                )));
            }
            if size > old {
                state.resize(id, size);
            }
            volume_id
        };
        self.core.volume_resized(volume_id);
        self.core.flush().await?;
        self.brief_of(volume_id)
    }

    /// Changes a volume's options, also while it is in use. Whether it is filling stays as it is. What was acknowledged from memory is in
    /// the volume before.
    ///
    /// # Errors
    /// `NotFound`, `ReadOnly`, `Io`; `Busy` when names changed meanwhile.
    pub async fn set_options(&self, volume: &str, options: VolumeOptions) -> Result<VolumeInfo> {
        let quiet = self.quiet([volume].into_iter()).await?;
        self.admit(Need::Change).await?;
        let id = {
            let mut state = self.core.state.borrow_mut();
            let version = state.lineage.require_volume(volume)?;
            quiet.covers(version)?;
            let (live, id) = (version.id, version.volume);
            let options = VolumeOptions { filling: version.options.filling, ..options };
            state.set_options(live, options);
            id
        };
        self.core.apply_cache(id, &self.core.backlogs.of(id));
        self.core.flush().await?;
        self.brief_of(id)
    }

    /// Deletes a volume, with `cascade` its snapshots too (first). Clones of them live on. Space comes back in the background.
    /// Returns what was deleted.
    ///
    /// # Errors
    /// `Busy` while it or one of its snapshots is open, or when it has snapshots and `cascade` is not given; `NotFound`, `ReadOnly`.
    pub async fn delete_volume(&self, name: &str, cascade: bool) -> Result<Vec<String>> {
        let snapshots = {
            let state = self.core.state.borrow();
            state.lineage.snapshots_of(state.lineage.require_volume(name)?.volume).len()
        };
        self.admit(Need::Delete(1 + snapshots as u64)).await?;
        let deleted = {
            let mut state = self.core.state.borrow_mut();
            let version = state.lineage.require_volume(name)?;
            let (id, volume) = (version.id, version.volume);
            let snapshots: Vec<(VersionId, String)> =
                state.lineage.snapshots_of(volume).iter().map(|s| (s.id, format!("{name}@{}", s.name))).collect();
            if !snapshots.is_empty() && !cascade {
                return Err(busy(format!(
                    "volume {name:?} has {} snapshots ({}{}): delete them first, or use --cascade",
                    snapshots.len(),
                    snapshots.iter().take(5).map(|(_, n)| n.as_str()).collect::<Vec<_>>().join(", "),
                    if snapshots.len() > 5 { ", …" } else { "" }
                )));
            }
            self.not_attached(Opened::Volume(volume), name)?;
            for (id, name) in &snapshots {
                self.not_attached(Opened::Snapshot(*id), name)?;
            }
            self.fits_a_group(snapshots.len() * 9).map_err(|e| e.within("delete some of the snapshots first"))?;
            let was_in_group =
                state.lineage.sheet(&Owner::Volume(volume)).is_some_and(|(_, sheet)| sheet.group.is_some());
            // From the tip down, so that each walk has the least to compare with.
            state.delete(id);
            for (id, _) in snapshots.iter().rev() {
                state.delete(*id);
            }
            let mut names: Vec<String> = snapshots.into_iter().map(|(_, n)| n).collect();
            names.push(name.to_owned());
            drop(state);
            self.core.gates.fall(volume);
            self.core.drop_backlog(volume);
            self.core.volume_gone(volume, was_in_group);
            names
        };
        self.core.flush().await?;
        self.core.signals.deletion.notify();
        Ok(deleted)
    }

    pub(crate) fn not_attached(&self, opened: Opened, name: &str) -> Result<()> {
        let attached = self.core.attached.borrow();
        let count = match opened {
            Opened::Volume(id) => attached.volumes.get(&id),
            Opened::Snapshot(id) => attached.snapshots.get(&id),
        };
        match count.copied().unwrap_or(0) {
            0 => Ok(()),
            n => Err(busy(format!("{name} is attached ({n} open): detach its clients first"))),
        }
    }

    /// What must be atomic has to fit into one journal group.
    pub(crate) fn fits_a_group(&self, bytes: usize) -> Result<()> {
        let limit = self.core.max_group_blocks() * BLOCK / 4;
        if bytes as u64 > limit {
            return Err(invalid(format!(
                "too much to do at one moment: {bytes} bytes of records, {limit} fit into one commit"
            )));
        }
        Ok(())
    }

    /// What `to` holds that `from` (`None`: nothing) does not, in order, from `offset` on: a page, and where to go on. `Data` ranges
    /// hold data in `to`, `Hole` ranges held data in `from` only. Works between any two versions and costs what differs.
    ///
    /// # Errors
    /// `NotFound`, `Corrupt`, `Io`; `Busy` for a volume that is filling.
    pub async fn diff(&self, from: Option<&Target>, to: &Target, offset: u64) -> Result<ExtentPage> {
        let live = [from, Some(to)].into_iter().flatten().filter(|target| target.snapshot.is_none());
        let _quiet = self.quiet(live.map(|target| target.volume.as_str())).await?;
        let (old, new, size) = {
            let state = self.core.state.borrow();
            let old = from.map(|t| state.lineage.resolve(t)).transpose()?;
            let new = state.lineage.resolve(to)?;
            (old, new, state.lineage.get(new).map_or(0, |v| v.size))
        };
        let end = size.div_ceil(BLOCK);
        let start = offset / BLOCK;
        if start >= end {
            return Ok(ExtentPage { extents: Vec::new(), next: None });
        }
        let (found, reached) = changes(&self.core, old, || Ok(new), start, end).await?;
        let mut extents = Vec::new();
        for change in found {
            let kind = if change.data { ExtentKind::Data } else { ExtentKind::Hole };
            let stop = ((change.block + change.count) * BLOCK).min(size);
            push(&mut extents, change.block * BLOCK, stop, kind);
        }
        Ok(ExtentPage { extents, next: (reached < end).then_some(reached * BLOCK) })
    }

    // ---- the pool ----

    /// The state of the pool.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        let core = &self.core;
        let state = core.state.borrow();
        let superblock = core.superblock.borrow();
        let commit = core.commit.borrow();
        let (volumes, snapshots, deleting, branch_points) = state.lineage.counts();
        PoolStats {
            uuid: superblock.uuid.iter().map(|b| format!("{b:02x}")).collect(),
            path: core.path.display().to_string(),
            format: superblock.format,
            storage: core.reactor.storage_name().to_owned(),
            size: superblock.total_blocks * BLOCK,
            capacity: state.space.capacity() * BLOCK,
            used: state.space.reach.count() * BLOCK,
            releasing: state.space.releasing() * BLOCK,
            free: state.space.free() * BLOCK,
            reserve: state.space.reserve() * BLOCK,
            logical: state.lineage.volumes().map(|v| v.size).sum(),
            volumes,
            snapshots,
            deleting,
            branch_points,
            journal_used: commit.ring.used() * BLOCK,
            journal_size: commit.ring.blocks * BLOCK,
            writeback_memory: core.backlogs.memory(),
            dirty_memory: state.nodes.dirty_bytes(),
            cache_memory: state.nodes.cache.bytes(),
            checkpoint: superblock.checkpoint,
            checksum_errors: state.checksum_errors,
            read_only: core.latched(),
            replayed_records: core.replayed.get(),
            open_us: core.open_time.get().as_micros() as u64,
        }
    }

    /// Events from number `since` on (0: all that are kept), with their numbers.
    #[must_use]
    pub fn events(&self, since: u64) -> Vec<(u64, Event)> {
        self.core.state.borrow().events.iter().filter(|(n, _)| *n >= since).cloned().collect()
    }

    /// Waits until everything deleted so far has given back its space. What was released last becomes free with the next commits.
    ///
    /// # Errors
    /// `ReadOnly` when the pool stops taking writes, `Corrupt` when a walk meets a damaged node.
    pub async fn wait_deleted(&self) -> Result<()> {
        loop {
            self.writable()?;
            let _before = self.core.deletion_failed.take();
            let signal = self.core.signals.deletion_idle.notified();
            if self.core.state.borrow().lineage.counts().2 == 0 {
                break;
            }
            self.core.signals.deletion.notify();
            signal.await;
            if let Some(error) = self.core.deletion_failed.take() {
                return Err(error.within("background deletion stopped, and tries again in a minute"));
            }
        }
        match self.core.opened_read_only.get() {
            true => self.checkpoint().await,
            false => self.checkpoint_now().await,
        }
    }

    /// Commits everything, also what was acknowledged from memory, and makes a checkpoint.
    ///
    /// # Errors
    /// `ReadOnly`, `Io`, `NoSpace`; what keeps an acknowledged write of a volume with `cache=writeback` from being carried out.
    pub async fn checkpoint(&self) -> Result<()> {
        if self.core.opened_read_only.get() {
            return Err(read_only("the pool was opened for reading only"));
        }
        // What one volume cannot write is told, and keeps nobody else from having a checkpoint.
        let drained = self.core.drain_all(false).await;
        self.checkpoint_now().await?;
        drained
    }

    /// The same of what is in the trees.
    async fn checkpoint_now(&self) -> Result<()> {
        self.core.checkpoint().await?;
        // Two more groups let go of what was released before.
        for _ in 0..2 {
            let open = self.core.commit.borrow().open;
            self.core.committed(open).await?;
        }
        Ok(())
    }
}

pub(crate) fn free_name(state: &State, name: &str) -> Result<()> {
    match state.lineage.volume_named(name) {
        Some(_) => Err(exists(format!("there is a volume {name:?} already"))),
        None => Ok(()),
    }
}

/// The nearest ancestor that its user still sees.
pub(crate) fn parent_name(state: &State, version: &Version) -> Option<String> {
    let mut next = version.parent;
    while let Some(parent) = next.and_then(|id| state.lineage.get(id)) {
        if parent.state == VersionState::Snapshot {
            let volume = state.lineage.live_of(parent.volume)?;
            return Some(format!("{}@{}", volume.name, parent.name));
        }
        next = parent.parent;
    }
    None
}
