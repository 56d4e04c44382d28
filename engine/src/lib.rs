//! Cairn's block storage engine: thin volumes, snapshots, clones and exact differences in one pool.
//!
//! > Every write goes to a new place. A version is the root of a checksummed tree. Versions share what they have in common.
//!
//! A [`Pool`] is one file or block device. It holds volumes, which any thread reads and writes through [`Volume`] handles; exports run
//! on the pool's own thread with [`LocalPool`] and [`LocalVolume`]. `DESIGN.md` beside this crate has the formats, the invariants and the
//! order of writes.
//!
//! Layers point one way: `tests/layers.rs` has the list and reads the `use` lines to keep it so.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod units;

mod admin;
mod background;
mod check;
mod checkpoint;
mod commit;
mod core;
mod drain;
mod error;
mod filling;
mod format;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod gate;
mod gather;
mod handle;
mod info;
mod journal;
mod limiting;
mod locks;
mod names;
mod open;
mod options;
mod pace;
#[cfg(any(test, feature = "pieces"))]
#[doc(hidden)]
pub mod pieces;
mod qos;
mod reactor;
mod recover;
mod regroup;
mod repair;
mod replay;
#[cfg(test)]
mod rng;
mod sabotage;
mod scrub;
#[cfg(feature = "sim")]
pub mod sim;
mod snapshots;
mod space;
mod state;
mod stats;
mod storage;
mod sweep;
mod tree;
mod upkeep;
mod versions;
mod volume;
mod writeback;

pub use admin::{LocalPool, MAX_VOLUME, MIN_VOLUME};
pub use async_task::Task;
pub use cairn_qos::{Held, Kind as RequestKind, Limits};
pub use error::{Error, ErrorKind, Result};
pub use gate::Filler;
pub use handle::{FillRequest, FillRequests, Pool, Volume};
pub use info::{
    CacheMode, CheckReport, Event, Extent, ExtentKind, ExtentPage, PoolStats, SnapshotInfo, SyncMode, VolumeInfo,
    VolumeOptions,
};
pub use names::{MAX_NAME, Target};
pub use options::{MIN_POOL, OpenOptions, PoolOptions, StorageKind};
pub use reactor::Reactor;
pub use stats::{Flow, Flows, OCTAVES, QosInfo, QosTarget, VolumeStats};
pub use storage::{
    SendBuf,
    buffer::{ALIGN, IoBuf},
};
pub use units::{BLOCK, BLOCK_SIZE, GIB, KIB, MIB, SECTOR, TIB, VersionId, VolumeId};
pub use upkeep::{
    Damage, DamageKind, Pace, RegroupEnd, RegroupOptions, RegroupOutcome, RegroupProgress, RegroupReport,
    RegroupStatus, RepairAction, RepairPlan, RepairReport, RepairStep, ScrubOutcome, ScrubProgress, ScrubReport,
    ScrubStatus,
};
pub use volume::{Admitted, LocalVolume};
