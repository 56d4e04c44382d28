//! The block storage service: what users ask for, checked against the rules, recorded, done, and recorded again.
//!
//! Invariants:
//! - The catalog first records the intent (with the quota it needs, and the state that says so), then the engine acts, then the outcome is
//!   recorded. All three are in one place, [`work`]; requests only do the first.
//! - At most one intent for an object. What an intent reads (a snapshot that becomes a volume) cannot be deleted meanwhile.
//! - Each action of the engine can be done again: names in the pool are made of ids. So what was cut off is simply done once more.
//!
//! Requests never wait for the engine's long work: they answer when the intent is durable, and a task does the rest.

mod act;
mod act_backup;
mod attachments;
mod backups;
mod caller;
mod connect;
mod qos;
mod quotas;
mod reset;
mod settle;
mod snapshots;
mod transfers;
mod types;
mod views;
mod volumes;
mod work;

pub(crate) use attachments::{Attach, NewAttachment};
pub(crate) use backups::{Import, NewBackup};
pub(crate) use caller::{Caller, Role};
pub(crate) use qos::NewQos;
pub(crate) use snapshots::NewSnapshot;
pub(crate) use types::NewType;
pub(crate) use volumes::{Edit, NewVolume};
pub use work::{Hook, STEPS};

use cairn_backup::{Job, Repository};
use cairn_engine::Pool;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
};
use tokio::task::JoinHandle;

use crate::{
    NbdListener,
    backup::RepositoryRef,
    catalog::Catalog,
    domain,
    fault::{Answer, Fault, FaultKind},
};

/// What an operator chooses.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of this host, in `host@backend#pool`.
    pub host: String,
    /// The availability zone that clients see.
    pub zone: String,
    /// How much of the pool's capacity may be promised to volumes, as a multiple of it.
    pub over_subscription: f64,
    /// Where backups go; none: backups are refused.
    pub repository: Option<RepositoryRef>,
}

impl Default for Settings {
    fn default() -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = host.trim();
        Self {
            host: if host.is_empty() { "localhost" } else { host }.to_owned(),
            zone: "nova".to_owned(),
            over_subscription: 20.0,
            repository: None,
        }
    }
}

struct Inner {
    catalog: Catalog,
    pool: Pool,
    listeners: Vec<NbdListener>,
    disks: Option<cairn_vhost_user::Server>,
    settings: Settings,
    hook: Hook,
    repository: tokio::sync::Mutex<Option<Repository>>,
    tasks: Mutex<BTreeMap<String, Task>>,
    stopping: AtomicBool,
}

/// Work under way.
struct Task {
    job: Job,
    handle: Option<JoinHandle<()>>,
}

/// The service over an open pool. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Block {
    inner: Arc<Inner>,
}

/// What the service uses of the process that it is in.
pub(crate) struct Parts {
    pub(crate) catalog: Catalog,
    pub(crate) pool: Pool,
    pub(crate) listeners: Vec<NbdListener>,
    pub(crate) disks: Option<cairn_vhost_user::Server>,
    pub(crate) settings: Settings,
    pub(crate) hook: Hook,
}

impl Block {
    pub(crate) fn new(parts: Parts) -> Answer<Self> {
        let block = Self {
            inner: Arc::new(Inner {
                catalog: parts.catalog,
                pool: parts.pool,
                listeners: parts.listeners,
                disks: parts.disks,
                settings: parts.settings,
                hook: parts.hook,
                repository: tokio::sync::Mutex::new(None),
                tasks: Mutex::default(),
                stopping: AtomicBool::new(false),
            }),
        };
        block.ensure_default_type()?;
        Ok(block)
    }

    pub(crate) fn catalog(&self) -> &Catalog {
        &self.inner.catalog
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.inner.pool
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    fn tasks(&self) -> MutexGuard<'_, BTreeMap<String, Task>> {
        self.inner.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The repository of backups, opened when it is needed first.
    async fn repository(&self) -> Answer<Repository> {
        let Some(place) = &self.inner.settings.repository else {
            let text = "this service has no repository for backups: start it with one";
            return Err(Fault::new(FaultKind::Unsupported, text));
        };
        let mut open = self.inner.repository.lock().await;
        if let Some(repository) = &*open {
            return Ok(repository.clone());
        }
        let repository = place.open().await?;
        *open = Some(repository.clone());
        Ok(repository)
    }

    /// `host@backend#pool`, as clients are told where a volume is.
    pub(crate) fn place(&self) -> String {
        format!("{}@cairn#cairn", self.inner.settings.host)
    }
}

/// A name as a request may say it: none, or empty, is no name.
fn checked_name(name: Option<String>) -> Answer<Option<String>> {
    match name {
        Some(name) if !name.is_empty() => domain::check_name(&name).map(|()| Some(name)).map_err(Fault::bad),
        other => Ok(other.filter(|name| !name.is_empty())),
    }
}

fn checked_description(text: Option<String>) -> Answer<Option<String>> {
    text.map(|text| domain::check_description(&text).map(|()| text)).transpose().map_err(Fault::bad)
}

#[cfg(test)]
mod tests;
