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
mod act_group;
mod attachments;
mod backups;
mod caller;
mod chains;
mod collect;
mod connect;
mod default_types;
mod events;
mod exports;
mod group_snapshots;
mod group_types;
mod groups;
mod images;
mod limits;
mod lineage;
mod metering;
mod qos;
mod quotas;
mod reattach;
mod reset;
mod room;
mod settle;
mod snapshots;
mod tasks;
mod transfers;
mod types;
mod views;
mod volumes;
mod work;

pub(crate) use attachments::{Attach, NewAttachment};
pub(crate) use backups::{Import, NewBackup};
pub(crate) use caller::Caller;
pub(crate) use events::EventFilter;
pub(crate) use exports::Exports;
pub(crate) use group_snapshots::NewGroupSnapshot;
pub(crate) use group_types::NewGroupType;
pub(crate) use groups::{GroupEdit, GroupSource, NewGroup};
pub(crate) use images::{ImageFields, NewImageOfVolume, Sending, newest_first};
pub(crate) use lineage::{Link, LinkKind};
pub(crate) use metering::MeterFilter;
pub(crate) use qos::NewQos;
pub(crate) use snapshots::NewSnapshot;
pub(crate) use tasks::{TaskView, fill_task};
pub(crate) use types::NewType;
pub(crate) use volumes::{Edit, NewVolume};
pub use work::{Hook, STEPS};

pub(crate) use crate::domain::Role;

use cairn_backup::{Job, Repository};
use cairn_engine::Pool;
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinHandle,
};

use crate::{
    NbdListener,
    backup::{Fillings, RepositoryRef},
    catalog::{Catalog, Keep, Kept, now_us},
    domain,
    fault::{Answer, Fault, FaultKind},
    turns::Turns,
};

/// The one back-end of this service, and the one pool in it, as types and clients name them.
pub(crate) const BACKEND: &str = "cairn";

/// What an operator chooses.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of this host, in `host@backend#pool`.
    pub host: String,
    /// The availability zone that clients see.
    pub zone: String,
    /// How much of the pool's capacity may be promised to volumes, as a multiple of it.
    pub over_subscription: f64,
    /// Most bytes of an image, of what is sent and of the disk that it is.
    pub image_bytes: u64,
    /// Where backups go; none: backups are refused.
    pub repository: Option<RepositoryRef>,
    /// What deleted backups leave in the repository is collected after this time, unless it was tried so shortly before; zero: never by itself.
    pub collect_every: Duration,
    /// At most so many audit events of what was done are kept, and a quarter as many of what was refused.
    pub events: u64,
    /// For at most so many days.
    pub event_days: u64,
    /// At most so many metering records are kept.
    pub meters: u64,
    /// For at most so many days.
    pub meter_days: u64,
    /// An interval of metering with I/O in it ends after this time.
    pub meter_interval: Duration,
    /// Between two readings of the counters of I/O: what came after the last one is lost when the process is killed.
    pub meter_sample: Duration,
}

impl Settings {
    /// What of the past is kept.
    pub(crate) fn kept(&self) -> Kept {
        let keep = |count: u64, days: u64| Keep { count: count.max(1), age_us: days.saturating_mul(86_400_000_000) };
        Kept { events: keep(self.events, self.event_days), meters: keep(self.meters, self.meter_days) }
    }
}

impl Default for Settings {
    fn default() -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = host.trim();
        Self {
            host: if host.is_empty() { "localhost" } else { host }.to_owned(),
            zone: "nova".to_owned(),
            over_subscription: 20.0,
            image_bytes: 1024 << 30,
            repository: None,
            collect_every: Duration::from_hours(1),
            events: 100_000,
            event_days: 90,
            meters: 1_000_000,
            meter_days: 400,
            meter_interval: Duration::from_hours(1),
            meter_sample: Duration::from_secs(10),
        }
    }
}

/// Images that may be sent at once.
const UPLOADS: usize = 16;

struct Inner {
    catalog: Catalog,
    pool: Pool,
    listeners: Vec<NbdListener>,
    exports: Arc<Exports>,
    disks: Option<cairn_vhost_user::Server>,
    settings: Settings,
    hook: Hook,
    repository: tokio::sync::Mutex<Option<Repository>>,
    fillings: Fillings,
    opening: String,
    started_us: u64,
    counting: tokio::sync::Mutex<()>,
    ties: connect::Ties,
    /// The same for limits of volumes, by their ids, and of projects, by the names of their groups.
    limiting: connect::Ties,
    promising: tokio::sync::Mutex<()>,
    tasks: Mutex<BTreeMap<String, Task>>,
    /// Some operation has ended.
    ended: Notify,
    /// What clients are sending, by the operation that takes it.
    feeds: Mutex<BTreeMap<String, images::Feed>>,
    /// Images that may be sent at once: each keeps some MiB in memory.
    uploads: Arc<Semaphore>,
    /// Pieces of images that are hashed or unpacked at once, by project.
    hashing: Turns<String>,
    /// Bytes that collections of garbage have freed.
    freed: AtomicU64,
    failed_collections: AtomicU64,
    stopping: AtomicBool,
}

/// Work under way.
struct Task {
    id: tokio::task::Id,
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
    /// What they offer.
    pub(crate) exports: Arc<Exports>,
    pub(crate) disks: Option<cairn_vhost_user::Server>,
    pub(crate) settings: Settings,
    pub(crate) hook: Hook,
    pub(crate) fillings: Fillings,
    /// Names this opening of the pool: its counters of I/O begin with it.
    pub(crate) opening: String,
}

impl Block {
    pub(crate) fn new(parts: Parts) -> Answer<Self> {
        let block = Self {
            inner: Arc::new(Inner {
                catalog: parts.catalog,
                pool: parts.pool,
                listeners: parts.listeners,
                exports: parts.exports,
                disks: parts.disks,
                settings: parts.settings,
                hook: parts.hook,
                repository: tokio::sync::Mutex::new(None),
                fillings: parts.fillings,
                opening: parts.opening,
                started_us: now_us(),
                counting: tokio::sync::Mutex::default(),
                ties: connect::Ties::default(),
                limiting: connect::Ties::default(),
                promising: tokio::sync::Mutex::default(),
                tasks: Mutex::default(),
                ended: Notify::new(),
                feeds: Mutex::default(),
                uploads: Arc::new(Semaphore::new(UPLOADS)),
                hashing: Turns::new(std::thread::available_parallelism().map_or(1, |many| many.get().div_ceil(2))),
                freed: AtomicU64::new(0),
                failed_collections: AtomicU64::new(0),
                stopping: AtomicBool::new(false),
            }),
        };
        block.ensure_default_type()?;
        block.ensure_default_group_type()?;
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
        format!("{}@{BACKEND}#{BACKEND}", self.inner.settings.host)
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
