//! Snapshots, sets of them taken at one moment, and what starts from them: clones and reverts.

use crate::{
    admin::{LocalPool, check_size, free_name, parent_name},
    error::{Result, exists, invalid, not_found},
    info::{SnapshotInfo, VolumeInfo},
    names::{Target, check_name},
    state::{Need, State},
    units::{BLOCK, VersionId, VolumeId},
    versions::Version,
    volume::Opened,
};

impl LocalPool {
    /// Snapshots of one volume, or of all (by volume, oldest first).
    ///
    /// # Errors
    /// `NotFound`.
    pub fn list_snapshots(&self, volume: Option<&str>) -> Result<Vec<SnapshotInfo>> {
        let state = self.core.state.borrow();
        let volumes = match volume {
            Some(name) => vec![state.lineage.require_volume(name)?],
            None => state.lineage.volumes().collect(),
        };
        let all = volumes.into_iter().flat_map(|v| state.lineage.snapshots_of(v.volume));
        Ok(all.map(|s| self.snapshot_info_of(&state, s)).collect())
    }

    /// Like [`LocalPool::list_snapshots`]; with `exclusive`, also what deleting each would free.
    ///
    /// # Errors
    /// `NotFound`; `Corrupt` or `Io` when the metadata walk fails.
    pub async fn snapshots(&self, volume: Option<&str>, exclusive: bool) -> Result<Vec<SnapshotInfo>> {
        let mut list = self.list_snapshots(volume)?;
        if exclusive {
            for info in &mut list {
                info.exclusive = Some(self.exclusive(info.version).await?);
            }
        }
        Ok(list)
    }

    /// One snapshot, with its exclusive bytes.
    ///
    /// # Errors
    /// `NotFound`, `Invalid`; `Corrupt` or `Io` when the metadata walk fails.
    pub async fn snapshot_info(&self, target: &Target) -> Result<SnapshotInfo> {
        let _name = target.require_snapshot()?;
        let mut info = {
            let state = self.core.state.borrow();
            let id = state.lineage.resolve(target)?;
            let version = state.lineage.get(id).ok_or_else(|| not_found(format!("{target} is gone")))?;
            self.snapshot_info_of(&state, version)
        };
        info.exclusive = Some(self.exclusive(info.version).await?);
        Ok(info)
    }

    fn snapshot_info_of(&self, state: &State, v: &Version) -> SnapshotInfo {
        SnapshotInfo {
            version: v.id,
            volume: state.lineage.live_of(v.volume).map(|l| l.name.clone()).unwrap_or_default(),
            name: v.name.clone(),
            size: v.size,
            created_ms: v.created_ms,
            parent: parent_name(state, v),
            allocated: v.data_blocks * BLOCK,
            exclusive: None,
            attached: self.core.attached.borrow().snapshots.get(&v.id).copied().unwrap_or(0),
        }
    }

    /// Takes snapshots of one or several volumes at one moment, in one commit. Costs the same whatever the volumes hold.
    ///
    /// # Errors
    /// `Exists`, `NotFound`, `Invalid`, `NoSpace`, `ReadOnly`, `Busy` for a volume that is filling; then none was taken.
    pub async fn snapshot(&self, targets: &[Target]) -> Result<Vec<SnapshotInfo>> {
        if targets.is_empty() {
            return Err(invalid("name at least one VOLUME@SNAPSHOT"));
        }
        let quiet = self.quiet(targets.iter().map(|target| target.volume.as_str())).await?;
        self.admit(Need::New(targets.len() as u64)).await?;
        self.has_epochs()?;
        let versions = {
            let mut state = self.core.state.borrow_mut();
            let mut plan: Vec<(VersionId, &str)> = Vec::new();
            for target in targets {
                let name = target.require_snapshot()?;
                check_name("snapshot", name)?;
                let volume = state.lineage.require_volume(&target.volume)?;
                quiet.covers(volume)?;
                volume.not_filling("take the snapshot")?;
                if state.lineage.snapshot_named(volume.volume, name).is_some() {
                    return Err(exists(format!("{target} exists already")));
                }
                if plan.iter().any(|(id, _)| *id == volume.id) {
                    return Err(invalid(format!("volume {:?} is named twice", target.volume)));
                }
                plan.push((volume.id, name));
            }
            self.fits_a_group(plan.iter().map(|(_, n)| n.len() + 64).sum())?;
            let now = self.core.reactor.unix_ms();
            let last = plan.len() - 1;
            let mut versions = Vec::with_capacity(plan.len());
            for (i, (live, name)) in plan.into_iter().enumerate() {
                let frozen = VersionId(state.lineage.next_version);
                state.snapshot(live, frozen, name, now, i == last);
                versions.push(frozen);
            }
            versions
        };
        self.core.flush().await?;
        let state = self.core.state.borrow();
        Ok(versions.iter().filter_map(|id| state.lineage.get(*id)).map(|v| self.snapshot_info_of(&state, v)).collect())
    }

    /// Deletes a snapshot. Any may be deleted at any time; space comes back in the background.
    ///
    /// # Errors
    /// `Busy` while it is open, `NotFound`, `Invalid`, `ReadOnly`.
    pub async fn delete_snapshot(&self, target: &Target) -> Result<()> {
        let _name = target.require_snapshot()?;
        let _quiet = self.quiet([target.volume.as_str()].into_iter()).await?;
        self.admit(Need::Delete(1)).await?;
        {
            let mut state = self.core.state.borrow_mut();
            let id = state.lineage.resolve(target)?;
            self.not_attached(Opened::Snapshot(id), &target.to_string())?;
            state.delete(id);
        }
        self.core.flush().await?;
        self.core.signals.deletion.notify();
        Ok(())
    }

    /// Makes a volume that starts as a snapshot, independent from the first moment; `size` may be larger.
    ///
    /// # Errors
    /// `Exists`, `NotFound`, `Invalid`, `NoSpace`, `ReadOnly`; `Busy` for a volume that is filling.
    pub async fn clone_volume(&self, snapshot: &Target, name: &str, size: Option<u64>) -> Result<VolumeInfo> {
        check_name("volume", name)?;
        let _name = snapshot.require_snapshot()?;
        self.admit(Need::New(1)).await?;
        self.has_epochs()?;
        let volume = {
            let now = self.core.reactor.unix_ms();
            let mut state = self.core.state.borrow_mut();
            state.lineage.require_volume(&snapshot.volume)?.not_filling("clone a snapshot of it")?;
            let id = state.lineage.resolve(snapshot)?;
            let Some(origin) = state.lineage.get(id) else { return Err(not_found(format!("{snapshot} is gone"))) };
            let size = size.unwrap_or(origin.size);
            check_size(size)?;
            if size < origin.size {
                return Err(invalid(format!(
                    "a clone of {snapshot} cannot be smaller than it ({size} bytes, it has {})",
                    origin.size
                )));
            }
            let options = origin.options.clone();
            free_name(&state, name)?;
            let ids = (VolumeId(state.lineage.next_volume), VersionId(state.lineage.next_version));
            state.clone_version(id, ids, name, size, now, options);
            ids.0
        };
        self.core.flush().await?;
        self.brief_of(volume)
    }

    /// Sets a volume's content and size back to one of its snapshots. The snapshots stay, newer ones too.
    ///
    /// # Errors
    /// `Busy` while the volume is open, unless `force`, and while it fills; `NotFound`, `NoSpace`, `ReadOnly`.
    pub async fn revert(&self, volume: &str, snapshot: &str, force: bool) -> Result<VolumeInfo> {
        let quiet = self.quiet([volume].into_iter()).await?;
        self.admit(Need::New(1)).await?;
        self.has_epochs()?;
        let volume_id = {
            let mut state = self.core.state.borrow_mut();
            let live = state.lineage.require_volume(volume)?;
            quiet.covers(live)?;
            live.not_filling("revert it")?;
            let (live_id, volume_id) = (live.id, live.volume);
            let snapshot_id = state.lineage.require_snapshot(live, snapshot)?.id;
            if !force {
                self.not_attached(Opened::Volume(volume_id), volume)
                    .map_err(|e| e.within("a revert changes what clients see under their feet"))?;
            }
            let id = VersionId(state.lineage.next_version);
            state.revert(live_id, snapshot_id, id);
            volume_id
        };
        self.core.volume_resized(volume_id);
        self.core.flush().await?;
        self.core.signals.deletion.notify();
        self.brief_of(volume_id)
    }
}
