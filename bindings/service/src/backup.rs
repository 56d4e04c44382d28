//! Backups and restores as the control interface speaks of them, and the volumes that this process fills.

mod filling;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use cairn_backup::{CreateOptions, Job, Location, Progress, Repository, RestoreOptions, Secret};
use serde::{Deserialize, Serialize};

use crate::{Failure, Result};
pub(crate) use filling::Fillings;

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
