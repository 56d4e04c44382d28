//! What the engine does for each operation. Every action can be done again: one that was done already answers as if it had just been.

use cairn_backup::Job;
use cairn_engine::{Error, ErrorKind, Target, VolumeOptions};

use super::{Block, act_backup::owned, images::image_target, work};
use crate::{
    catalog::{Backup, Content, Intent, Op, Snapshot, Source, Volume, engine_snapshot, engine_volume},
    domain::GIB,
    fault::Answer,
};

/// What the finished operation has learnt, for its outcome.
#[derive(Debug)]
pub(super) enum Done {
    /// Nothing.
    Plain,
    /// The backup as the repository has it.
    Stored(Box<cairn_backup::Backup>),
    /// What an image holds.
    Image(Box<Content>),
    /// It was taken back, since somebody wished so.
    Cancelled,
}

/// Of an action that may have been done before.
pub(super) fn again<T>(outcome: Result<T, Error>, done_already: ErrorKind) -> Answer<()> {
    match outcome {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == done_already => Ok(()),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn target(volume: &str, snapshot: &str) -> Target {
    Target { volume: engine_volume(volume), snapshot: Some(engine_snapshot(snapshot)) }
}

/// The snapshot that a volume is cloned through when its source is a volume.
pub(super) fn clone_target(source: &str, new: &str) -> Target {
    Target { volume: engine_volume(source), snapshot: Some(format!("clone-{new}")) }
}

impl Block {
    pub(super) async fn act(&self, intent: &Intent, job: &Job) -> Answer<Done> {
        let id = intent.object();
        let read = || self.inner.catalog.read();
        match &intent.op {
            Op::CreateVolume { source } => self.make_volume(intent, &read().require(id)?, source, job).await?,
            Op::DeleteVolume | Op::DeleteCascade { .. } => self.delete_engine_volume(id).await?,
            Op::ExtendVolume { size } => {
                drop(self.inner.pool.resize(&engine_volume(id), size * GIB).await?);
                // An interval of metering ends with the outcome.
                self.count_io_of(id).await?;
                self.step(work::RESIZED).await;
            }
            Op::RevertVolume { snapshot } => {
                let volume: Volume = read().require(id)?;
                drop(self.inner.pool.revert(&volume.engine_name(), &engine_snapshot(snapshot), false).await?);
                // One that was extended since stays as large as it is.
                drop(self.inner.pool.resize(&volume.engine_name(), volume.size * GIB).await?);
                self.step(work::REVERTED).await;
            }
            Op::RetypeVolume { type_id } => {
                self.apply_limits_as(id, type_id).await?;
                self.step(work::LIMITED).await;
            }
            Op::CreateSnapshot => {
                let snapshot: Snapshot = read().require(id)?;
                let taken = self.inner.pool.snapshot(&[target(&snapshot.volume_id, id)]).await;
                again(taken, ErrorKind::Exists)?;
                self.step(work::SNAPSHOT_MADE).await;
            }
            Op::DeleteSnapshot => {
                let snapshot: Snapshot = read().require(id)?;
                again(self.inner.pool.delete_snapshot(&target(&snapshot.volume_id, id)).await, ErrorKind::NotFound)?;
                self.step(work::SNAPSHOT_DELETED).await;
            }
            Op::CreateBackup { full } => {
                let backup: Backup = read().require(id)?;
                return Ok(Done::Stored(Box::new(self.make_backup(intent, &backup, *full, job).await?)));
            }
            Op::RestoreBackup { volume } => self.restore_backup(intent, &read().require(id)?, volume, job).await?,
            Op::DeleteBackup => self.delete_stored(&read().require(id)?).await?,
            Op::MergeBackup => self.merge_stored(&read().require(id)?).await?,
            Op::PromoteBackup => self.promote_stored(&read().require(id)?).await?,
            Op::CreateGroup { members } => self.make_group(members).await?,
            Op::DeleteGroup { volumes } => {
                for volume in volumes {
                    self.delete_engine_volume(volume).await?;
                    self.step(work::GROUP_VOLUME_GONE).await;
                }
            }
            Op::CreateGroupSnapshot { snapshots } => self.freeze_together(snapshots).await?,
            Op::DeleteGroupSnapshot { snapshots } => self.delete_together(snapshots).await?,
            Op::ReceiveImage => return Ok(Done::Image(Box::new(self.receive(intent, job).await?))),
            Op::ImageOfVolume { volume, .. } => {
                return Ok(Done::Image(Box::new(self.image_of_volume(intent, volume, job).await?)));
            }
            Op::DeleteImage => self.remove_image(id).await?,
        }
        Ok(Done::Plain)
    }

    async fn make_volume(&self, intent: &Intent, volume: &Volume, source: &Source, job: &Job) -> Answer<()> {
        let (name, size) = (volume.engine_name(), volume.size * GIB);
        match source {
            Source::Empty => {
                let made = self.inner.pool.create_volume(&name, size, VolumeOptions::default()).await;
                again(made.map(drop), ErrorKind::Exists)?;
            }
            Source::Snapshot { volume, snapshot } => {
                let made = self.inner.pool.clone_volume(&target(volume, snapshot), &name, Some(size)).await;
                again(made, ErrorKind::Exists)?;
            }
            Source::Volume(source) => self.clone_of_volume(volume, source).await?,
            Source::Backup(backup) => {
                let backup: Backup = self.inner.catalog.read().require(backup)?;
                self.restore_new(&backup, volume, job).await?;
                self.pass(intent).await?;
                self.step(work::RESTORED_NEW).await;
            }
            Source::Image(image) => {
                let made = self.inner.pool.clone_volume(&image_target(image), &name, Some(size)).await;
                again(made, ErrorKind::Exists)?;
            }
            Source::BackupAtOnce(backup) => {
                let backup: Backup = self.inner.catalog.read().require(backup)?;
                self.fill_new(&backup, volume).await?;
                self.step(work::FILLING).await;
            }
        }
        self.step(work::VOLUME_MADE).await;
        self.apply_limits(&volume.id).await?;
        self.step(work::LIMITED).await;
        Ok(())
    }

    /// Through a snapshot that is there only meanwhile. It goes also when the clone fails.
    async fn clone_of_volume(&self, volume: &Volume, source: &str) -> Answer<()> {
        let through = clone_target(source, &volume.id);
        let pool = &self.inner.pool;
        let there = match pool.volume_info(&volume.engine_name()).await {
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::NotFound => false,
            Err(error) => return Err(error.into()),
        };
        let cloned = async {
            if there {
                return Ok(());
            }
            again(pool.snapshot(std::slice::from_ref(&through)).await, ErrorKind::Exists)?;
            self.step(work::SNAPSHOT_FOR_CLONE).await;
            let made = pool.clone_volume(&through, &volume.engine_name(), Some(volume.size * GIB)).await;
            again(made, ErrorKind::Exists)?;
            self.step(work::CLONED).await;
            Ok(())
        };
        let cloned: Answer<()> = cloned.await;
        again(pool.delete_snapshot(&through).await, ErrorKind::NotFound)?;
        cloned
    }

    /// With everything that backups keep in it.
    pub(super) async fn delete_engine_volume(&self, id: &str) -> Answer<()> {
        let name = engine_volume(id);
        {
            let _tie = self.inner.ties.hold(id).await;
            self.close_exports(id).await?;
        }
        if let Some(disks) = &self.inner.disks {
            let tie = self.inner.ties.hold(id).await;
            again(disks.withdraw(&name, true).await, ErrorKind::NotFound)?;
            drop(tie);
            self.step(work::SOCKET_GONE).await;
        }
        // What was asked of it up to here is somebody's.
        self.count_io_of(id).await?;
        let (fillings, pool) = (self.inner.fillings.clone(), self.inner.pool.clone());
        match owned(async move { fillings.delete_volume(&pool, &name, true).await }).await {
            Err(failure) if failure.kind != ErrorKind::NotFound => return Err(failure.into()),
            _ => {}
        }
        self.step(work::VOLUME_DELETED).await;
        Ok(())
    }
}
