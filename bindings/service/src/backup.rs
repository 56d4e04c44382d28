//! Backups and restores as the control interface speaks of them, and the volumes that this process fills.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cairn_backup::{CreateOptions, Filling, Job, Location, Progress, Repository, RestoreOptions, Secret};
use cairn_engine::{ErrorKind, Pool};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::{Failure, Result};

/// A repository, and what opens it. Files are read by the process that does the work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepositoryRef {
    /// `file:///DIRECTORY`, `s3://BUCKET/PREFIX`, …
    pub url: String,
    /// Options of the store, as `aws_endpoint`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
    /// File whose first line is the passphrase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passphrase_file: Option<PathBuf>,
    /// File with a key: 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// Directory for caches; the user's when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
}

impl RepositoryRef {
    /// With its secret read.
    ///
    /// # Errors
    /// A file that cannot be read, or holds no key.
    pub fn location(&self) -> Result<Location> {
        let secret = match (&self.passphrase_file, &self.key_file) {
            (Some(_), Some(_)) => return Err(Failure::invalid("give a passphrase file or a key file, not both")),
            (Some(path), None) => Some(passphrase(path)?),
            (None, Some(path)) => Some(key(path)?),
            (None, None) => None,
        };
        let options = self.options.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        Ok(Location { url: self.url.clone(), options, secret, cache: self.cache.clone() })
    }

    /// Opens it.
    ///
    /// # Errors
    /// See [`Repository::open`].
    pub async fn open(&self) -> Result<Repository> {
        Ok(Repository::open(&self.location()?).await?)
    }
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|e| cairn_engine::Error::io(path.display().to_string(), e).into())
}

/// The passphrase in a file: its first line.
///
/// # Errors
/// The file cannot be read.
pub fn passphrase(path: &Path) -> Result<Secret> {
    Ok(Secret::Passphrase(read(path)?.lines().next().unwrap_or_default().to_owned()))
}

/// The key in a file: 64 hexadecimal digits.
///
/// # Errors
/// The file cannot be read, or holds something else.
pub fn key(path: &Path) -> Result<Secret> {
    let text = read(path)?;
    Secret::from_hex(text.trim()).ok_or_else(|| {
        Failure::invalid(format!(
            "{} holds no key: 64 hexadecimal digits, as `openssl rand -hex 32` writes",
            path.display()
        ))
    })
}

/// `POST /v1/backups`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateBackup {
    /// Where to.
    pub repository: RepositoryRef,
    /// Name of the volume.
    pub volume: String,
    /// How.
    #[serde(default)]
    pub options: CreateOptions,
    /// Bytes a second to the repository at most.
    #[serde(default)]
    pub limit: Option<u64>,
}

/// `POST /v1/restores` and `/v1/restores/instant`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreBackup {
    /// Where from.
    pub repository: RepositoryRef,
    /// Id of the backup, or how it begins.
    pub backup: String,
    /// Name of the volume.
    pub volume: String,
    /// How; not for an instant restore.
    #[serde(default)]
    pub options: RestoreOptions,
    /// Bytes a second from the repository at most.
    #[serde(default)]
    pub limit: Option<u64>,
}

/// A volume that is being filled: answer of `GET /v1/restores`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FillingVolume {
    /// Its name.
    pub volume: String,
    /// The backup.
    pub backup: String,
    /// Where from.
    pub url: String,
    /// How far it is.
    pub progress: Progress,
    /// Why it does not go on, if so.
    pub error: Option<String>,
}

/// Answer of `GET /v1/restores`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FillingVolumes {
    /// Volumes that are being filled, by their names.
    pub filling: Vec<FillingVolume>,
}

pub(crate) fn job(limit: Option<u64>) -> Job {
    let job = Job::new();
    job.set_limit(limit);
    job
}

/// Waits before a filling that its store stopped goes on: the first, and the longest.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// What fills a volume, so that it can go on after a restart: kept beside the pool, by the volume's number.
#[derive(Serialize, Deserialize)]
struct Note {
    restore: RestoreBackup,
}

struct Entry {
    job: Job,
    restore: RestoreBackup,
    error: Option<String>,
    task: Option<JoinHandle<()>>,
}

/// The volumes that this process fills, by their numbers: names change.
#[derive(Clone, Default)]
pub(crate) struct Fillings {
    entries: Arc<Mutex<BTreeMap<u64, Entry>>>,
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
        self.go_on(pool, id, repository, restore, filling, job);
        Ok(FillingVolume { volume, backup, url, progress, error: None })
    }

    fn go_on(&self, pool: &Pool, id: u64, repository: Repository, restore: RestoreBackup, filling: Filling, job: Job) {
        drop(self.lock().insert(id, Entry { job, restore: restore.clone(), error: None, task: None }));
        let (fillings, pool) = (self.clone(), pool.clone());
        let task = tokio::spawn(async move {
            let mut outcome = filling.run().await;
            let mut wait = FIRST_RETRY;
            // A store that cannot be reached for a while: it goes on by itself when it can.
            while let Err(error) = &outcome
                && error.kind() == cairn_backup::ErrorKind::Store
            {
                fillings.note_error(id, Some(format!("{error}; it is tried again every {} seconds", wait.as_secs())));
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(LAST_RETRY);
                outcome = match fillings.resume_from(&pool, id, &repository, &restore).await {
                    Ok(filling) => {
                        fillings.note_error(id, None);
                        filling.run().await
                    }
                    Err(error) => Err(error),
                };
            }
            match outcome {
                Ok(()) => {
                    drop(fillings.lock().remove(&id));
                    drop(fs::remove_file(note_path(pool.path(), id)));
                }
                Err(error) => fillings.note_error(id, Some(error.to_string())),
            }
        });
        if let Some(entry) = self.lock().get_mut(&id) {
            entry.task = Some(task);
        }
    }

    fn note_error(&self, id: u64, error: Option<String>) {
        if let Some(entry) = self.lock().get_mut(&id) {
            entry.error = error;
        }
    }

    /// Goes on with a volume by its number, whatever it is called now.
    async fn resume_from(
        &self,
        pool: &Pool,
        id: u64,
        repository: &Repository,
        restore: &RestoreBackup,
    ) -> cairn_backup::Result<Filling> {
        let volumes = pool.volumes(false).await.unwrap_or_default();
        let name = volumes.into_iter().find(|volume| volume.id.0 == id).map(|volume| volume.name).unwrap_or_default();
        // Its progress begins anew: what is there is looked at again.
        let job = job(restore.limit);
        let filling = repository.resume_filling(&restore.backup, pool, &name, &job).await?;
        if let Some(entry) = self.lock().get_mut(&id) {
            entry.job = job;
        }
        Ok(filling)
    }

    /// Deletes a volume, also one that is being filled. One that cannot be deleted is filled as before.
    pub(crate) async fn delete_volume(&self, pool: &Pool, name: &str, cascade: bool) -> Result<Vec<String>> {
        let info = pool.volume_info(name).await?;
        let id = info.id.0;
        let filler = self.lock().get(&id).map(|entry| entry.task.as_ref().is_some_and(|task| !task.is_finished()));
        let Some(is_filled) = filler else { return Ok(pool.delete_volume(name, cascade).await?) };
        // Seen before it is stopped: its users would have errors from then on.
        let users = info.attached.saturating_sub(is_filled.into());
        if users > 0 {
            let text = format!("{name} is attached ({users} open): detach its clients first");
            return Err(Failure::new(ErrorKind::Busy, text));
        }
        self.stop(id).await;
        let path = note_path(pool.path(), id);
        match pool.delete_volume(name, cascade).await {
            Ok(deleted) => {
                drop(fs::remove_file(path));
                Ok(deleted)
            }
            Err(error) => {
                // What it says is why the volume is still there; what is wrong with the filling is in the list of those.
                drop(self.resume_one(pool, id, name, &path).await);
                Err(error.into())
            }
        }
    }

    async fn stop(&self, id: u64) {
        let Some(Entry { job, task, .. }) = self.lock().remove(&id) else { return };
        job.cancel();
        if let Some(task) = task {
            // It may be waiting for its store.
            task.abort();
            drop(task.await);
        }
    }

    /// Goes on with what was being filled when the pool was closed last. Answers what cannot go on, and why.
    pub(crate) async fn resume(&self, pool: &Pool) -> Result<Vec<String>> {
        let mut stuck = Vec::new();
        let mut known: Vec<PathBuf> = Vec::new();
        for volume in pool.volumes(false).await?.into_iter().filter(|volume| volume.options.filling) {
            let path = note_path(pool.path(), volume.id.0);
            if let Err(failure) = self.resume_one(pool, volume.id.0, &volume.name, &path).await {
                let remedy = format!("start the server again when that is mended, or delete the volume: {failure}");
                stuck.push(format!("volume {} is half restored and cannot be used; {remedy}", volume.name));
            }
            known.push(path);
        }
        // Notes about volumes that are gone.
        let directory = notes(pool.path());
        for entry in fs::read_dir(directory).into_iter().flatten().flatten().filter(|e| !known.contains(&e.path())) {
            drop(fs::remove_file(entry.path()));
        }
        Ok(stuck)
    }

    async fn resume_one(&self, pool: &Pool, id: u64, name: &str, path: &Path) -> Result<()> {
        if !path.exists() {
            let text = "a restore into it was cut off: delete it, and restore again";
            return Err(Failure::new(ErrorKind::NotFound, text));
        }
        let note: Note = serde_json::from_str(&read(path)?)
            .map_err(|e| Failure::new(ErrorKind::Corrupt, format!("{} is damaged: {e}", path.display())))?;
        let restore = RestoreBackup { volume: name.to_owned(), ..note.restore };
        let repository = restore.repository.open().await?;
        let job = job(restore.limit);
        let filling = repository.resume_filling(&restore.backup, pool, name, &job).await?;
        self.go_on(pool, id, repository, restore, filling, job);
        Ok(())
    }
}

fn notes(pool: &Path) -> PathBuf {
    let mut name = pool.as_os_str().to_owned();
    name.push(".restores");
    name.into()
}

fn note_path(pool: &Path, id: u64) -> PathBuf {
    notes(pool).join(format!("{id}.json"))
}

/// Durable before the answer; for its owner only, since a store's options may hold credentials.
fn write_note(pool: &Path, id: u64, note: &Note) -> Result<()> {
    let path = note_path(pool, id);
    let write = || -> std::io::Result<()> {
        fs::create_dir_all(notes(pool))?;
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        file.write_all(&serde_json::to_vec(note)?)?;
        file.sync_all()?;
        fs::File::open(notes(pool))?.sync_all()
    };
    write().map_err(|e| cairn_engine::Error::io(path.display().to_string(), e).into())
}
