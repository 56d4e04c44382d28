//! One look at a pool.

use cairn_engine::{PoolStats, ScrubProgress};
use cairn_service::{Client, Failure, api::VolumesStats, backup::FillingVolume};
use serde::Serialize;

use crate::time::now_ms;

/// What the server has counted so far, and what it is doing.
pub(super) struct Sample {
    pub(super) time_ms: u64,
    pub(super) volumes: VolumesStats,
    pub(super) pool: Space,
    pub(super) scrub: Option<ScrubProgress>,
    pub(super) filling: Vec<FillingVolume>,
}

/// The pool's space, in bytes.
#[derive(Clone, Serialize)]
pub(super) struct Space {
    pub(super) path: String,
    pub(super) capacity: u64,
    pub(super) used: u64,
    pub(super) free: u64,
    /// Versions that are being deleted, and what is still to come back of those that were.
    pub(super) deleting: u64,
    pub(super) releasing: u64,
    pub(super) read_only: Option<String>,
}

impl From<PoolStats> for Space {
    fn from(stats: PoolStats) -> Self {
        let PoolStats { path, capacity, used, free, deleting, releasing, read_only, .. } = stats;
        Self { path, capacity, used, free, deleting, releasing, read_only }
    }
}

impl Sample {
    pub(super) async fn take(client: &Client) -> Result<Self, Failure> {
        Ok(Self {
            volumes: client.volume_stats().await?,
            time_ms: now_ms(),
            pool: client.stats().await?.into(),
            scrub: client.scrub_status().await?.running,
            filling: client.fillings().await?,
        })
    }
}
