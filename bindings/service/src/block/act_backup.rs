//! What the repository does for each operation. It, too, can be done again.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
};

use cairn_backup::{CreateOptions, ErrorKind, Job, Mode, Repository, RestoreOptions};
use cairn_engine::Target;

use super::{Block, act::again, work};
use crate::{
    backup::RestoreBackup,
    catalog::{Backup, Intent, Volume, engine_snapshot, engine_volume},
    domain::GIB,
    fault::{Answer, Fault},
};

/// The label by which a stored backup is known again.
const LABEL: &str = "cairn-service-backup";
/// Snapshots that a restore takes before it begins.
const UNDO: &str = "before-restore-";

/// Work that borrows nothing, so that the compiler sees that any thread may do it.
pub(super) fn owned<T>(work: impl Future<Output = T> + Send + 'static) -> Pin<Box<dyn Future<Output = T> + Send>> {
    Box::pin(work)
}

/// A backup that was stored before the process ended.
async fn stored_already(repository: &Repository, id: &str) -> Answer<Option<cairn_backup::Backup>> {
    let all = repository.backups().await?;
    Ok(all.into_iter().find(|stored| stored.labels.get(LABEL).is_some_and(|label| label == id)))
}

impl Block {
    pub(super) async fn make_backup(
        &self,
        intent: &Intent,
        backup: &Backup,
        full: bool,
        job: &Job,
    ) -> Answer<cairn_backup::Backup> {
        let repository = self.repository().await?;
        if let Some(stored) = stored_already(&repository, &backup.id).await? {
            self.pass(intent).await?;
            return Ok(stored);
        }
        let options = CreateOptions {
            mode: if full { Mode::Full } else { Mode::Incremental },
            parent: None,
            snapshot: backup.snapshot_id.as_deref().map(engine_snapshot),
            labels: BTreeMap::from([(LABEL.to_owned(), backup.id.clone())]),
            except: self.backups_of_others(backup)?,
        };
        let (pool, name, job) = (self.inner.pool.clone(), engine_volume(&backup.volume_id), job.clone());
        let stored = owned(async move { repository.create(&pool, &name, &options, &job).await }).await;
        if stored.is_err() {
            // It may have stored a part.
            self.leave_garbage()?;
        }
        let stored = stored?;
        self.step(work::BACKED_UP).await;
        self.pass(intent).await?;
        Ok(stored)
    }

    /// Backups of the volume from when another project had it: theirs to delete, so nothing of this one may hang on them.
    fn backups_of_others(&self, backup: &Backup) -> Answer<BTreeSet<String>> {
        let of_volume = self.inner.catalog.read().found::<Backup>(&Backup::of_volume(&backup.volume_id))?;
        let others = of_volume.into_iter().filter(|other| other.project != backup.project);
        Ok(others.filter_map(|other| other.stored_id).collect())
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
            // After it: a collection that is under way may have come too early. If the process ends before, all this is done again.
            self.leave_garbage()?;
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

    pub(super) async fn restore_backup(&self, intent: &Intent, backup: &Backup, volume: &str, job: &Job) -> Answer<()> {
        let found: Volume = self.inner.catalog.read().require(volume)?;
        let name = engine_volume(volume);
        if intent.past {
            // It holds the backup: only what was made for the way back is left to be deleted.
        } else if intent.reserved.is_none() {
            // It is somebody's: whatever is wrong with it, it is not made anew.
            self.note_earlier_undos(intent, &name).await?;
            let options = RestoreOptions { in_place: true, ..RestoreOptions::default() };
            self.restore_to(backup, &name, options, job).await?;
        } else {
            self.restore_new(backup, &found, job).await?;
            self.apply_limits(volume).await?;
        }
        self.pass(intent).await?;
        self.step(work::RESTORED).await;
        self.delete_undo(intent, &name).await?;
        self.step(work::UNDO_DELETED).await;
        Ok(())
    }

    /// Names of the snapshots for undoing a restore, the first one first.
    async fn all_undos(&self, name: &str) -> Answer<Vec<String>> {
        let snapshots = self.inner.pool.snapshots(Some(name), false).await?;
        Ok(snapshots.into_iter().map(|snapshot| snapshot.name).filter(|name| name.starts_with(UNDO)).collect())
    }

    /// Records, once, which of them are not of this restore, before it takes its own: a restore that failed leaves its way back, and so does one at
    /// the control socket.
    async fn note_earlier_undos(&self, intent: &Intent, name: &str) -> Answer<()> {
        let there = self.all_undos(name).await?;
        self.inner.catalog.write(|tx| match tx.get::<Intent>(&intent.key)? {
            Some(mut now) if now.notes_undos && now.earlier.is_none() => {
                now.earlier = Some(there);
                tx.put(&now)
            }
            _ => Ok(()),
        })
    }

    /// The ways back of a restore and of its attempts that were cut off, the first one first: that one holds what the volume held before.
    async fn undos(&self, intent: &Intent, name: &str) -> Answer<Vec<Target>> {
        let now: Option<Intent> = self.inner.catalog.read().get(&intent.key)?;
        let earlier = match now {
            Some(Intent { earlier: Some(noted), .. }) => noted,
            // Of an earlier version: whatever there is was its own then, from before this version came.
            Some(Intent { notes_undos: false, .. }) => Vec::new(),
            _ => return Ok(Vec::new()),
        };
        let own = self.all_undos(name).await?.into_iter().filter(|undo| !earlier.contains(undo));
        Ok(own.map(|undo| Target { volume: name.to_owned(), snapshot: Some(undo) }).collect())
    }

    /// The way back is not needed any more. The first one goes last: as long as any is there, it is the one that counts.
    async fn delete_undo(&self, intent: &Intent, name: &str) -> Answer<()> {
        for target in self.undos(intent, name).await?.iter().rev() {
            again(self.inner.pool.delete_snapshot(target).await, cairn_engine::ErrorKind::NotFound)?;
        }
        Ok(())
    }

    /// A restore over a volume was cancelled: it holds again what it held before.
    pub(super) async fn back_before_restore(&self, intent: &Intent, name: &str) -> Answer<()> {
        if let Some(snapshot) = self.undos(intent, name).await?.into_iter().next().and_then(|first| first.snapshot) {
            // The restore may still hold it open for a moment; nobody else does.
            drop(self.inner.pool.revert(name, &snapshot, true).await?);
        }
        self.step(work::REVERTED).await;
        self.delete_undo(intent, name).await
    }

    /// Into a volume that can be used at once. One whose making was cut off before anybody could fill it is begun anew.
    pub(super) async fn fill_new(&self, backup: &Backup, volume: &Volume) -> Answer<()> {
        let (pool, name) = (&self.inner.pool, volume.engine_name());
        match pool.volume_info(&name).await {
            Ok(info) if info.options.filling && !self.inner.fillings.fills(info.id.0) => {
                drop(pool.delete_volume(&name, true).await?);
            }
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == cairn_engine::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        let missing = || Fault::internal(format!("backup {} is not known to the repository", backup.id));
        let restore = RestoreBackup {
            repository: self.inner.settings.repository.clone().ok_or_else(missing)?,
            backup: backup.stored_id.clone().ok_or_else(missing)?,
            volume: name,
            options: RestoreOptions::default(),
            limit: None,
        };
        let (fillings, pool) = (self.inner.fillings.clone(), pool.clone());
        drop(owned(async move { fillings.begin(&pool, restore).await }).await?);
        Ok(())
    }

    /// Out of its chain. It is gone then.
    pub(super) async fn merge_stored(&self, backup: &Backup) -> Answer<()> {
        let repository = self.repository().await?;
        if let Some(id) = backup.stored_id.clone() {
            match owned(async move { repository.merge(&id).await }).await {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
                _ => self.leave_garbage()?,
            }
        }
        self.step(work::CHAIN_CHANGED).await;
        Ok(())
    }

    /// A full one, if it is none yet.
    pub(super) async fn promote_stored(&self, backup: &Backup) -> Answer<()> {
        let repository = self.repository().await?;
        let missing = || Fault::internal(format!("backup {} is not known to the repository", backup.id));
        let id = backup.stored_id.clone().ok_or_else(missing)?;
        let work = async move {
            match repository.backup(&id).await?.is_full() {
                true => Ok(()),
                false => repository.promote(&id).await.map(drop),
            }
        };
        owned::<cairn_backup::Result<()>>(work).await?;
        self.step(work::CHAIN_CHANGED).await;
        Ok(())
    }
}
