//! What the repository does for each operation. It, too, can be done again.

use std::{collections::BTreeMap, pin::Pin};

use cairn_backup::{CreateOptions, ErrorKind, Job, Mode, Repository, RestoreOptions};
use cairn_engine::Target;

use super::{Block, act::again, work};
use crate::{
    catalog::{Backup, Volume, engine_snapshot, engine_volume},
    domain::GIB,
    fault::{Answer, Fault},
};

/// The label by which a stored backup is known again.
const LABEL: &str = "cairn-service-backup";
/// Snapshots that a restore takes before it begins.
const UNDO: &str = "before-restore-";

/// Work that borrows nothing, so that the compiler sees that any thread may do it.
fn owned<T>(work: impl Future<Output = T> + Send + 'static) -> Pin<Box<dyn Future<Output = T> + Send>> {
    Box::pin(work)
}

/// A backup that was stored before the process ended.
async fn stored_already(repository: &Repository, id: &str) -> Answer<Option<cairn_backup::Backup>> {
    let all = repository.backups().await?;
    Ok(all.into_iter().find(|stored| stored.labels.get(LABEL).is_some_and(|label| label == id)))
}

impl Block {
    pub(super) async fn make_backup(&self, backup: &Backup, full: bool, job: &Job) -> Answer<cairn_backup::Backup> {
        let repository = self.repository().await?;
        if let Some(stored) = stored_already(&repository, &backup.id).await? {
            return Ok(stored);
        }
        let options = CreateOptions {
            mode: if full { Mode::Full } else { Mode::Incremental },
            parent: None,
            snapshot: backup.snapshot_id.as_deref().map(engine_snapshot),
            labels: BTreeMap::from([(LABEL.to_owned(), backup.id.clone())]),
        };
        let (pool, name, job) = (self.inner.pool.clone(), engine_volume(&backup.volume_id), job.clone());
        let stored = owned(async move { repository.create(&pool, &name, &options, &job).await }).await?;
        self.step(work::BACKED_UP).await;
        Ok(stored)
    }

    pub(super) async fn delete_stored(&self, backup: &Backup) -> Answer<()> {
        let repository = self.repository().await?;
        let id = match &backup.stored_id {
            Some(id) => Some(id.clone()),
            // One whose making was cut off, or failed after it was stored.
            None => stored_already(&repository, &backup.id).await?.map(|stored| stored.id),
        };
        if let Some(id) = id {
            match owned(async move { repository.delete(&[id], false, false, &Job::new()).await }).await {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.step(work::BACKUP_DELETED).await;
        Ok(())
    }

    async fn restore_to(&self, backup: &Backup, name: &str, options: RestoreOptions, job: &Job) -> Answer<()> {
        let missing = || Fault::internal(format!("backup {} is not known to the repository", backup.id));
        let stored = backup.stored_id.clone().ok_or_else(missing)?;
        let repository = self.repository().await?;
        let (pool, name, job) = (self.inner.pool.clone(), name.to_owned(), job.clone());
        drop(owned(async move { repository.restore(&stored, &pool, &name, &options, &job).await }).await?);
        Ok(())
    }

    /// Into a volume that is not there yet. One that was being filled when the process ended is begun anew.
    pub(super) async fn restore_new(&self, backup: &Backup, volume: &Volume, job: &Job) -> Answer<()> {
        let (pool, name) = (&self.inner.pool, volume.engine_name());
        let there = match pool.volume_info(&name).await {
            Ok(info) if info.options.filling => {
                drop(pool.delete_volume(&name, true).await?);
                false
            }
            Ok(_) => true,
            Err(error) if error.kind() == cairn_engine::ErrorKind::NotFound => false,
            Err(error) => return Err(error.into()),
        };
        if !there {
            self.restore_to(backup, &name, RestoreOptions::default(), job).await?;
        }
        drop(pool.resize(&name, volume.size * GIB).await?);
        Ok(())
    }

    pub(super) async fn restore_backup(&self, backup: &Backup, volume: &str, job: &Job) -> Answer<()> {
        let found: Volume = self.inner.catalog.read().require(volume)?;
        let name = engine_volume(volume);
        let is_there = match self.inner.pool.volume_info(&name).await {
            Ok(info) => !info.options.filling,
            Err(error) if error.kind() == cairn_engine::ErrorKind::NotFound => false,
            Err(error) => return Err(error.into()),
        };
        if is_there {
            let options = RestoreOptions { in_place: true, ..RestoreOptions::default() };
            self.restore_to(backup, &name, options, job).await?;
        } else {
            self.restore_new(backup, &found, job).await?;
            self.apply_limits(volume, &found.type_id).await?;
        }
        self.step(work::RESTORED).await;
        self.delete_undo(&name).await?;
        self.step(work::UNDO_DELETED).await;
        Ok(())
    }

    /// The way back is not needed any more: also those of attempts that were cut off.
    async fn delete_undo(&self, name: &str) -> Answer<()> {
        for snapshot in self.inner.pool.snapshots(Some(name), false).await? {
            if snapshot.name.starts_with(UNDO) {
                let target = Target { volume: name.to_owned(), snapshot: Some(snapshot.name) };
                again(self.inner.pool.delete_snapshot(&target).await, cairn_engine::ErrorKind::NotFound)?;
            }
        }
        Ok(())
    }
}
