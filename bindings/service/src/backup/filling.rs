//! The volumes that this process fills from backups, and the notes that say from which.
//!
//! Invariants:
//! - A note stays until its volume is full, durably, or deleted. As long as there is one there is an entry, from the start of the process on:
//!   what it names is needed, whether anybody fills the volume at the moment or not.
//! - What stops a filling is tried again, in case it passes; but for damage, which would be read again and again.
//! - Nobody waits for a store: not the start, nor a deletion that was refused. Each volume is gone on with in a task of its own.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cairn_backup::{Filling, Job};
use cairn_engine::{ErrorKind, Pool, VolumeInfo};
use serde::{Deserialize, Serialize};
use tokio::{sync::Notify, task::JoinHandle};

use super::{FillingVolume, FillingVolumes, RestoreBackup, job, read};
use crate::{
    Failure, Result,
    beside::{beside, left_behind},
};

/// Waits before a filling that was stopped goes on: the first, and the longest.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);
/// For how long a start waits for the first attempts, of all volumes together: what has not failed by then is no longer waited for.
const FIRST_ATTEMPTS: Duration = Duration::from_secs(5);

/// What fills a volume, so that it can go on after a restart: kept beside the pool, by the volume's number.
#[derive(Serialize, Deserialize)]
struct Note {
    restore: RestoreBackup,
}

struct Entry {
    restore: RestoreBackup,
    job: Job,
    error: Option<String>,
    /// Its content is being brought: then one of those who have the volume open is the filling itself.
    at_work: bool,
    task: Option<JoinHandle<()>>,
}

/// The volumes that are filled from backups, by their numbers: names change.
#[derive(Clone, Default)]
pub(crate) struct Fillings {
    entries: Arc<Mutex<BTreeMap<u64, Entry>>>,
    /// An entry is another one now, or has gone.
    changed: Arc<Notify>,
}

impl Fillings {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) async fn list(&self, pool: &Pool) -> Result<FillingVolumes> {
        let volumes = pool.volumes(false).await?;
        let entries = self.lock();
        let filling = volumes.into_iter().filter_map(|volume| {
            let entry = entries.get(&volume.id.0)?;
            Some(FillingVolume {
                volume: volume.name,
                backup: entry.restore.backup.clone(),
                url: entry.restore.repository.url.clone(),
                progress: entry.job.progress(),
                error: entry.error.clone(),
            })
        });
        Ok(FillingVolumes { filling: filling.collect() })
    }

    /// Whether a volume is filled by this process, now or when what stops it has passed.
    pub(crate) fn fills(&self, id: u64) -> bool {
        self.lock().contains_key(&id)
    }

    /// The same, by the name that the volume had when its filling was begun, or taken up last.
    pub(crate) fn fills_volume(&self, name: &str) -> bool {
        self.lock().values().any(|entry| entry.restore.volume == name)
    }

    /// Whether a volume is filled from this backup, and so cannot do without it.
    pub(crate) fn reads(&self, backup: &str) -> bool {
        self.lock().values().any(|entry| entry.restore.backup == backup)
    }

    /// Makes the volume, notes what fills it, and begins.
    pub(crate) async fn begin(&self, pool: &Pool, mut restore: RestoreBackup) -> Result<FillingVolume> {
        let repository = restore.repository.open().await?;
        restore.backup = repository.backup(&restore.backup).await?.id;
        let job = job(restore.limit);
        let filling = repository.restore_instantly(&restore.backup, pool, &restore.volume, &job).await?;
        let noted = match pool.volume_info(&restore.volume).await {
            Ok(info) => write_note(pool.path(), info.id.0, &Note { restore: restore.clone() }).map(|()| info.id.0),
            Err(error) => Err(error.into()),
        };
        let id = match noted {
            Ok(id) => id,
            Err(failure) => {
                drop(filling);
                drop(pool.delete_volume(&restore.volume, false).await);
                return Err(failure);
            }
        };
        let progress = job.progress();
        let (volume, backup, url) = (restore.volume.clone(), restore.backup.clone(), restore.repository.url.clone());
        self.enter(id, restore, job, true);
        self.go_on(pool, id, Some(filling));
        Ok(FillingVolume { volume, backup, url, progress, error: None })
    }

    fn enter(&self, id: u64, restore: RestoreBackup, job: Job, at_work: bool) {
        drop(self.lock().insert(id, Entry { restore, job, error: None, at_work, task: None }));
    }

    /// It is full, or gone: nothing is needed for it any more.
    fn forget(&self, pool: &Path, id: u64) {
        drop(fs::remove_file(note_path(pool, id)));
        drop(self.lock().remove(&id));
        self.changed.notify_waiters();
    }

    fn change(&self, id: u64, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.lock().get_mut(&id) {
            change(entry);
        }
        self.changed.notify_waiters();
    }

    /// Fills a volume in a task of its own: with what was begun, or from where it is.
    fn go_on(&self, pool: &Pool, id: u64, begun: Option<Filling>) {
        let (fillings, pool) = (self.clone(), pool.clone());
        let task = tokio::spawn(async move { fillings.fill(&pool, id, begun).await });
        self.change(id, |entry| entry.task = Some(task));
    }

    async fn fill(&self, pool: &Pool, id: u64, mut begun: Option<Filling>) {
        let mut wait = FIRST_RETRY;
        loop {
            let Err(failure) = self.attempt(pool, id, begun.take()).await else {
                return self.forget(pool.path(), id);
            };
            if matches!(failure.kind, ErrorKind::Corrupt | ErrorKind::Unsupported) {
                return self.change(id, |entry| entry.error = Some(failure.message));
            }
            // Somebody who opens it again goes on by its note.
            if pool.stats().await.is_err_and(|error| error.kind() == ErrorKind::Closed) {
                return;
            }
            let text = format!("{failure}; it is tried again every {} seconds", wait.as_secs());
            self.change(id, |entry| entry.error = Some(text));
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LAST_RETRY);
        }
    }

    /// Fills a volume to its end. That is durable then.
    async fn attempt(&self, pool: &Pool, id: u64, begun: Option<Filling>) -> Result<()> {
        let filling = match begun {
            Some(filling) => Some(filling),
            None => self.take_up(pool, id).await?,
        };
        let Some(filling) = filling else { return Ok(()) };
        let outcome = filling.run().await;
        self.change(id, |entry| entry.at_work = false);
        Ok(outcome?)
    }

    /// Takes a volume up by its number, whatever it is called now. Nothing: it is full, or there is none any more.
    async fn take_up(&self, pool: &Pool, id: u64) -> Result<Option<Filling>> {
        let entered = self.lock().get(&id).map(|entry| entry.restore.clone());
        let Some(restore) = entered else { return Ok(None) };
        let found = pool.volumes(false).await?.into_iter().find(|volume| volume.id.0 == id);
        let Some(volume) = found else { return Ok(None) };
        if !volume.options.filling {
            // It was called full, and the commit that says so may have failed.
            pool.volume(&volume.name).await?.flush().await?;
            return Ok(None);
        }
        let repository = restore.repository.open().await?;
        // Its progress begins anew: what is there is looked at again.
        let job = job(restore.limit);
        let filling = repository.resume_filling(&restore.backup, pool, &volume.name, &job).await?;
        self.change(id, |entry| {
            entry.restore.volume = volume.name;
            entry.job = job;
            entry.error = None;
            entry.at_work = true;
        });
        Ok(Some(filling))
    }

    /// Deletes a volume, also one that is being filled. One that cannot be deleted is filled as before.
    pub(crate) async fn delete_volume(&self, pool: &Pool, name: &str, cascade: bool) -> Result<Vec<String>> {
        let info = pool.volume_info(name).await?;
        let id = info.id.0;
        let at_work = self.lock().get(&id).map(|entry| entry.at_work);
        if let Some(at_work) = at_work {
            // Seen before it is stopped: its users would have errors from then on.
            let users = info.attached.saturating_sub(at_work.into());
            if users > 0 {
                let text = format!("{name} is attached ({users} open): detach its clients first");
                return Err(Failure::new(ErrorKind::Busy, text));
            }
            self.stop(id).await;
        }
        match pool.delete_volume(name, cascade).await {
            Ok(deleted) => {
                self.forget(pool.path(), id);
                Ok(deleted)
            }
            Err(error) => {
                if at_work.is_some() {
                    self.go_on(pool, id, None);
                }
                Err(error.into())
            }
        }
    }

    async fn stop(&self, id: u64) {
        let task = self.lock().get_mut(&id).and_then(|entry| {
            entry.job.cancel();
            entry.task.take()
        });
        if let Some(task) = task {
            // It may be waiting for its store.
            task.abort();
            drop(task.await);
        }
        self.change(id, |entry| entry.at_work = false);
    }

    /// Goes on with what was being filled when the pool was closed last, in the background. Answers what cannot go on now, as far as that shows
    /// in a few seconds, and why.
    pub(crate) async fn resume(&self, pool: &Pool) -> Result<Vec<String>> {
        let mut volumes = pool.volumes(false).await?;
        volumes.retain(|volume| volume.options.filling);
        if let Some(earlier) = left_behind(pool.path(), "restores").filter(|_| !volumes.is_empty()) {
            let (from, to) = (earlier.display(), notes(pool.path()));
            let text = format!(
                "what fills volumes is noted in {from}, which is empty after a reboot: move it to {}, all of it",
                to.display()
            );
            return Err(Failure::new(ErrorKind::Invalid, text));
        }
        let (mut known, mut stuck) = (Vec::new(), Vec::new());
        // All are entered before any is gone on with: what they need must not go meanwhile.
        for volume in &volumes {
            match read_note(pool.path(), volume) {
                Ok(restore) => {
                    let job = job(restore.limit);
                    self.enter(volume.id.0, restore, job, false);
                }
                Err(failure) => {
                    let remedy = format!("start the server again when that is mended, or delete the volume: {failure}");
                    stuck.push(format!("volume {} is half restored and cannot be used; {remedy}", volume.name));
                }
            }
            known.push(note_path(pool.path(), volume.id.0));
        }
        // Notes about volumes that are gone: before anybody begins to fill another one.
        let directory = notes(pool.path());
        for entry in fs::read_dir(directory).into_iter().flatten().flatten().filter(|e| !known.contains(&e.path())) {
            drop(fs::remove_file(entry.path()));
        }
        volumes.retain(|volume| self.fills(volume.id.0));
        volumes.iter().for_each(|volume| self.go_on(pool, volume.id.0, None));
        // Whether all have been tried by then or not.
        drop(tokio::time::timeout(FIRST_ATTEMPTS, self.tried(&volumes)).await);
        stuck.extend(volumes.iter().filter_map(|volume| {
            let why = self.stuck(volume.id.0)?;
            let remedy = "mend this, or delete the volume";
            Some(format!("volume {} is half restored and cannot be used yet; {remedy}: {why}", volume.name))
        }));
        Ok(stuck)
    }

    /// Why a volume is not being filled at the moment, if so.
    fn stuck(&self, id: u64) -> Option<String> {
        let entries = self.lock();
        let entry = entries.get(&id).filter(|entry| !entry.at_work)?;
        let waits = || format!("{} has not answered yet; it goes on when it does", entry.restore.repository.url);
        Some(entry.error.clone().unwrap_or_else(waits))
    }

    /// Waits until each of these volumes is being filled, or full, or something is known to keep it from that.
    async fn tried(&self, volumes: &[VolumeInfo]) {
        loop {
            let changed = self.changed.notified();
            let all = {
                let entries = self.lock();
                let mut of_each = volumes.iter().filter_map(|volume| entries.get(&volume.id.0));
                of_each.all(|entry| entry.at_work || entry.error.is_some())
            };
            if all {
                return;
            }
            changed.await;
        }
    }
}

fn notes(pool: &Path) -> PathBuf {
    beside(pool, "restores")
}

fn note_path(pool: &Path, id: u64) -> PathBuf {
    notes(pool).join(format!("{id}.json"))
}

/// Durable before the answer; for its owner only, since a store's options may hold credentials.
fn write_note(pool: &Path, id: u64, note: &Note) -> Result<()> {
    let path = note_path(pool, id);
    let write = || -> std::io::Result<()> {
        fs::create_dir_all(notes(pool))?;
        // Also when it was there: who made it may have come no further.
        fs::File::open(directory_of(&notes(pool)))?.sync_all()?;
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        file.write_all(&serde_json::to_vec(note)?)?;
        file.sync_all()?;
        fs::File::open(notes(pool))?.sync_all()
    };
    write().map_err(|e| cairn_engine::Error::io(path.display().to_string(), e).into())
}

/// The directory that something is in.
fn directory_of(path: &Path) -> &Path {
    let is_named = |directory: &&Path| !directory.as_os_str().is_empty();
    path.parent().filter(is_named).unwrap_or(Path::new("."))
}

/// What fills a volume, by its note.
fn read_note(pool: &Path, volume: &VolumeInfo) -> Result<RestoreBackup> {
    let path = note_path(pool, volume.id.0);
    if !path.exists() {
        let text = "a restore into it was cut off: delete it, and restore again";
        return Err(Failure::new(ErrorKind::NotFound, text));
    }
    let note: Note = serde_json::from_str(&read(&path)?)
        .map_err(|e| Failure::new(ErrorKind::Corrupt, format!("{} is damaged: {e}", path.display())))?;
    Ok(RestoreBackup { volume: volume.name.clone(), ..note.restore })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_note_is_written_and_its_directory_is_that_of_the_pool() {
        let directory = tempfile::tempdir().unwrap();
        let pool = directory.path().join("pool");
        assert_eq!(directory_of(&pool), directory.path());
        assert_eq!(directory_of(Path::new("pool")), Path::new("."));
        let restore: RestoreBackup = serde_json::from_value(serde_json::json!({
            "repository": {"url": "file:///nowhere"}, "backup": "b", "volume": "v",
        }))
        .unwrap();
        for id in [1, 2] {
            write_note(&pool, id, &Note { restore: restore.clone() }).unwrap();
            assert!(note_path(&pool, id).exists());
        }
    }
}
