//! What travels over the control interface: requests, queries and answers, as JSON.
//!
//! Sizes and offsets are bytes. Unknown fields of a request are refused, so that a misspelt option never passes for a
//! default; unknown fields of an answer are ignored, so that an older client understands a newer server.
//! Volumes, snapshots, extents, statistics, and what checks, scrubs, regroups and repairs tell are the engine's own types.

use cairn_engine::{
    CheckReport, Event, Pace, QosInfo, RegroupOutcome, RegroupProgress, RepairPlan, RepairReport, ScrubOutcome,
    ScrubProgress, SnapshotInfo, VolumeInfo, VolumeOptions, VolumeStats,
};
use serde::{Deserialize, Serialize};

use crate::{backup::FillingVolume, vhost_user::VhostUser};

/// Largest body of a data request or answer, in bytes: longer ranges take several requests.
pub const MAX_BODY: usize = 8 << 20;

/// `POST /v1/volumes`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateVolume {
    /// Name, unique in the pool.
    pub name: String,
    /// Logical size.
    pub size: u64,
    /// Options; those left out have their defaults.
    #[serde(default)]
    pub options: VolumeOptions,
}

/// `POST /v1/volumes/{name}/resize`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resize {
    /// The new logical size, not below the present one.
    pub size: u64,
}

/// `POST /v1/volumes/{name}/rename`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rename {
    /// The new name.
    pub name: String,
}

/// `POST /v1/volumes/{name}/revert`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revert {
    /// Name of a snapshot of the same volume, without the volume's.
    pub snapshot: String,
    /// Also while something holds the volume open.
    #[serde(default)]
    pub force: bool,
}

/// `POST /v1/snapshots`: all or none, at one moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateSnapshots {
    /// Each `volume@snapshot`.
    pub targets: Vec<String>,
}

/// `POST /v1/exports`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateExport {
    /// What to serve over vhost-user-blk, `volume` or, read-only, `volume@snapshot`.
    pub target: String,
}

/// Query of `DELETE /v1/exports/{target}`.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Withdrawal {
    /// Also while a virtual machine uses it.
    #[serde(default)]
    pub force: bool,
}

/// `POST /v1/clones`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateClone {
    /// The snapshot to start from, `volume@snapshot`.
    pub snapshot: String,
    /// Name of the new volume.
    pub name: String,
    /// Its size, not below the snapshot's; the snapshot's when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

/// A range of a volume: the body of `POST /v1/zero/{volume}`, and a query of the routes that read.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ByteRange {
    /// First byte.
    pub offset: u64,
    /// How many.
    pub length: u64,
}

/// Query of `PUT /v1/data/{volume}`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct At {
    /// First byte.
    pub offset: u64,
}

/// Query of the listings.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listing {
    /// Snapshots of this volume only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// Also work out what deleting each alone would free.
    #[serde(default)]
    pub exclusive: bool,
}

/// Query of the deletions.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deletion {
    /// With all snapshots of the volume.
    #[serde(default)]
    pub cascade: bool,
    /// Answer only when the space has been given back.
    #[serde(default)]
    pub wait: bool,
}

/// Query of `GET /v1/diff`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Difference {
    /// The older side; nothing when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The newer side, `volume` or `volume@snapshot`.
    pub to: String,
    /// Where to start: 0, or the `next` of the page before.
    #[serde(default)]
    pub offset: u64,
}

/// Query of `POST /v1/pool/check` and `POST /v1/pool/repair/plan`.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// Also read and verify every data block.
    #[serde(default)]
    pub read_data: bool,
}

/// Query of `GET /v1/pool/events`.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Since {
    /// Only events with a greater number.
    #[serde(default)]
    pub since: u64,
}

/// Answer of `GET /v1/volumes`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Volumes {
    /// By name.
    pub volumes: Vec<VolumeInfo>,
}

/// Answer of `GET` and `POST /v1/snapshots`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Snapshots {
    /// Oldest first.
    pub snapshots: Vec<SnapshotInfo>,
}

/// Answer of the deletions.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Deleted {
    /// What is gone, in the order of deletion.
    pub deleted: Vec<String>,
}

/// Answer of `GET /v1/pool/events`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Events {
    /// Oldest first.
    pub events: Vec<NumberedEvent>,
}

/// An event and its place among the events of this opening of the pool.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NumberedEvent {
    /// Sequence number.
    pub seq: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// `POST` and `PUT /v1/pool/scrub`, and `PUT /v1/pool/regroup`.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scrub {
    /// How fast it may go; the engine's own choice when left out.
    #[serde(default)]
    pub pace: Pace,
}

/// `POST /v1/pool/regroup`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Regroup {
    /// The volume.
    pub volume: String,
    /// How fast it may read and write; the engine's own choice when left out.
    #[serde(default)]
    pub pace: Pace,
    /// Whether it only says what there is to move.
    #[serde(default)]
    pub dry_run: bool,
}

/// Answer of `GET /v1/pool/volume-stats`. Two of them, with the same `since_ms`, make rates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumesStats {
    /// When the holder opened the pool, in milliseconds since 1970: counts begin there.
    pub since_ms: u64,
    /// How long it had it open when these were the counts, in nanoseconds, by a clock that nobody sets.
    pub up_ns: u64,
    /// By name; background work is the last.
    pub volumes: Vec<VolumeStats>,
}

/// Answer of `GET /v1/qos`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QosList {
    /// The pool, groups, and volumes that have limits or are in a group.
    pub qos: Vec<QosInfo>,
}

/// One line of the answer of what takes long: any number of `progress`, then one `report` or `error`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Line<P, R> {
    /// How far it is.
    Progress(P),
    /// The result.
    Report(R),
    /// It failed itself.
    Error(ErrorBody),
}

/// How far something is that goes over the pool's blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Steps {
    /// Blocks done.
    pub done: u64,
    /// Blocks in all.
    pub total: u64,
}

/// A line of the answer of `POST /v1/pool/check`.
pub type CheckLine = Line<Steps, CheckReport>;
/// A line of the answer of `GET /v1/pool/scrub/watch`.
pub type ScrubLine = Line<ScrubProgress, ScrubOutcome>;
/// A line of the answer of `GET /v1/pool/regroup/watch`.
pub type RegroupLine = Line<RegroupProgress, RegroupOutcome>;
/// A line of the answer of `POST /v1/pool/repair/plan`.
pub type PlanLine = Line<Steps, RepairPlan>;
/// A line of the answer of `POST /v1/pool/repair`.
pub type RepairLine = Line<Steps, RepairReport>;

/// Answer of `GET /v1/status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Version of the program that holds the pool.
    pub version: String,
    /// Process that holds the pool.
    pub pid: u32,
    /// Path of the pool as the holder opened it.
    pub pool: String,
    /// The pool's identity.
    pub uuid: String,
    /// When the holder opened the pool, in milliseconds since 1970.
    pub since_ms: u64,
    /// Whether a server holds it (otherwise one command, for a moment).
    pub served: bool,
    /// Where the exports are offered.
    pub listeners: Vec<Listener>,
    /// Connected NBD clients.
    pub clients: Vec<NbdClient>,
    /// Volumes that are being filled from backups.
    #[serde(default)]
    pub filling: Vec<FillingVolume>,
    /// Disks of virtual machines, if the server offers such.
    #[serde(default)]
    pub vhost_user: Option<VhostUser>,
}

/// An address on which exports are offered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// `unix:PATH` or `tcp:HOST:PORT`.
    pub address: String,
    /// The same for clients such as nbdcopy, with `VOLUME` in place of the export's name.
    pub uri: String,
}

/// A connected NBD client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NbdClient {
    /// Where it comes from.
    pub peer: String,
    /// What it uses; none while it is still negotiating.
    pub export: Option<String>,
    /// The address it connected to.
    pub listener: String,
    /// When it connected, in milliseconds since 1970.
    pub connected_ms: u64,
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// Whether what it uses takes no writes.
    pub read_only: bool,
    /// Requests so far.
    pub requests: u64,
    /// Requests that are not answered yet.
    pub in_flight: u64,
    /// Bytes read so far.
    pub read_bytes: u64,
    /// Bytes written so far.
    pub written_bytes: u64,
}

/// Answer of every failed request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ErrorAnswer {
    /// What went wrong.
    pub error: ErrorBody,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// One of the engine's kinds: `not-found`, `exists`, `busy`, `no-space`, `corrupt`, `read-only`, `invalid`,
    /// `unsupported`, `io`, `closed`.
    pub kind: String,
    /// One sentence that names the thing and the remedy.
    pub message: String,
}
