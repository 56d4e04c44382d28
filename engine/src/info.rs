//! What the engine tells about itself: plain values, safe to keep and to send.

use crate::units::{VersionId, VolumeId};

/// When a write reaches stable storage.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "lowercase"))]
pub enum SyncMode {
    /// Every write is committed before it is acknowledged.
    Always,
    /// A write is committed by the next flush (the default, what a disk with a write cache does).
    #[default]
    Flush,
    /// Flushes return at once; a crash loses what the background commit had not reached. For scratch volumes.
    Never,
}

/// From where a write is acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "lowercase"))]
pub enum CacheMode {
    /// When the device has it (the default).
    #[default]
    Direct,
    /// From memory, as a disk with a volatile cache does: it is on its way to the device at once. A flush waits for it; a crash leaves a
    /// prefix of what was acknowledged. Writes that cannot be carried out later fail the next request (see [`LocalVolume`](crate::LocalVolume)).
    Writeback,
}

/// Options of a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct VolumeOptions {
    /// When writes reach stable storage.
    pub sync: SyncMode,
    /// From where writes are acknowledged. With `sync: Always` it makes no difference.
    #[cfg_attr(feature = "serde", serde(default))]
    pub cache: CacheMode,
    /// Its content is still on its way from a backup: what it does not hold yet reads as zeros to nobody but its filler. Chosen when the
    /// volume is made; ended by [`LocalPool::filled`](crate::LocalPool::filled) and by nothing else.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "std::ops::Not::not"))]
    pub filling: bool,
}

/// A volume. Sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct VolumeInfo {
    /// Identity, never used twice.
    pub id: VolumeId,
    /// The live version.
    pub version: VersionId,
    /// Name, unique among volumes.
    pub name: String,
    /// Logical size: what a VM sees.
    pub size: u64,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// The snapshot that its content started from or was last frozen in, as `volume@snapshot`; none for a volume without ancestors.
    pub parent: Option<String>,
    /// Data that its live version refers to, shared or not.
    pub allocated: u64,
    /// Space that deleting it would free; only where it was asked for, since it takes a walk over the metadata.
    pub exclusive: Option<u64>,
    /// How many snapshots it has.
    pub snapshots: u64,
    /// How many exports and handles hold it open.
    pub attached: u64,
    /// Its options.
    pub options: VolumeOptions,
}

/// A snapshot. Sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct SnapshotInfo {
    /// The frozen version.
    pub version: VersionId,
    /// The volume that it belongs to.
    pub volume: String,
    /// Name, unique among the snapshots of its volume.
    pub name: String,
    /// Logical size when it was taken.
    pub size: u64,
    /// When it was taken, in milliseconds since 1970.
    pub created_ms: u64,
    /// The snapshot before it in its lineage, as `volume@snapshot`.
    pub parent: Option<String>,
    /// Data that it refers to, shared or not.
    pub allocated: u64,
    /// Space that deleting it would free; only where it was asked for.
    pub exclusive: Option<u64>,
    /// How many exports and handles hold it open.
    pub attached: u64,
}

/// What a range of a volume holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "lowercase"))]
pub enum ExtentKind {
    /// Stored data.
    Data,
    /// Nothing: reads as zeros.
    Hole,
}

/// A range of a volume, in bytes, and what it holds (or, in a difference, what it holds now that the other does not).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
    /// What it holds.
    pub kind: ExtentKind,
}

/// A piece of an extent list or of a difference: call again from `next` until it is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ExtentPage {
    /// In order of offset, not overlapping, neighbours of the same kind joined.
    pub extents: Vec<Extent>,
    /// Where to go on, in bytes.
    pub next: Option<u64>,
}

/// State of a pool. Sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct PoolStats {
    /// Random identity given at creation, 32 hexadecimal digits.
    pub uuid: String,
    /// Path of the file or device.
    pub path: String,
    /// Format version.
    pub format: u32,
    /// `io_uring` or `pread`.
    pub storage: String,
    /// Size of the pool.
    pub size: u64,
    /// Room for data and metadata blocks (`size` less superblocks, free map and journal).
    pub capacity: u64,
    /// In use by versions and their metadata.
    pub used: u64,
    /// Released, to become free with the next commits or checkpoint.
    pub releasing: u64,
    /// Free now.
    pub free: u64,
    /// Kept back so that deletions, discards and overwrites go on when the pool is full.
    pub reserve: u64,
    /// Sum of the logical sizes of all volumes.
    pub logical: u64,
    /// Number of volumes.
    pub volumes: u64,
    /// Number of snapshots.
    pub snapshots: u64,
    /// Deleted versions whose space is still being given back.
    pub deleting: u64,
    /// Deleted versions kept as branch points because several others share their blocks.
    pub branch_points: u64,
    /// Journal in use, and its size.
    pub journal_used: u64,
    /// Size of the journal ring.
    pub journal_size: u64,
    /// Memory held by metadata nodes changed since the last checkpoint.
    pub dirty_memory: u64,
    /// Memory held by cached metadata nodes.
    pub cache_memory: u64,
    /// Memory held by acknowledged writes on their way to the device (`cache=writeback`).
    #[cfg_attr(feature = "serde", serde(default))]
    pub writeback_memory: u64,
    /// Number of the last checkpoint.
    pub checkpoint: u64,
    /// Blocks that failed their checksum since the pool was opened.
    pub checksum_errors: u64,
    /// Why the pool takes no writes, when it does not.
    pub read_only: Option<String>,
    /// Records replayed when the pool was opened, and how long opening took in microseconds.
    pub replayed_records: u64,
    /// How long opening took, in microseconds.
    pub open_us: u64,
}

/// What happened to a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(tag = "event", rename_all = "kebab-case")
)]
#[non_exhaustive]
pub enum Event {
    /// Usage passed a watermark (80, 90, 95 %), upwards or downwards.
    Watermark {
        /// The watermark, in percent.
        percent: u8,
        /// Whether usage is above it now.
        above: bool,
    },
    /// A block failed its checksum.
    Corrupt {
        /// What it was, with volume, offset and physical block where they are known.
        what: String,
    },
    /// The first failed write of metadata, or the first failed sync: the pool takes no writes until it is opened again.
    ReadOnly {
        /// The cause.
        cause: String,
    },
    /// Something that had been acknowledged from memory (`cache=writeback`) could not be written. It stays in memory, and all requests that
    /// change the volume fail, until it is closed and opened again: then it is tried once more.
    Unwritten {
        /// Volume, offset and cause.
        what: String,
    },
    /// A deleted version has given back its space.
    Deleted {
        /// The version.
        version: VersionId,
        /// Bytes given back by its walk.
        freed: u64,
    },
    /// A copy of metadata was unusable and another one was used.
    CopyUsed {
        /// Which copy, and why.
        what: String,
    },
    /// A scrub has begun.
    ScrubStarted {
        /// Bytes to be read, about.
        total: u64,
    },
    /// A scrub has found a damaged block.
    ScrubDamage {
        /// What it is, where, and what is wrong with it.
        what: String,
    },
    /// A scrub has ended.
    ScrubEnded {
        /// Whether it was cancelled before it was through.
        cancelled: bool,
        /// Damaged blocks that it found.
        damaged_blocks: u64,
    },
    /// A regroup of a volume has begun.
    RegroupStarted {
        /// The volume.
        volume: String,
    },
    /// A regroup has found a damaged block, which it leaves alone.
    RegroupDamage {
        /// What it is, where, and what is wrong with it.
        what: String,
    },
    /// A regroup has ended.
    RegroupEnded {
        /// The volume.
        volume: String,
        /// Whether it was through.
        finished: bool,
        /// Bytes that it moved.
        moved: u64,
    },
    /// A repair has done something.
    Repaired {
        /// What.
        what: String,
    },
}

/// Result of a check: the free map rebuilt from the roots and compared, every copy of metadata verified.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct CheckReport {
    /// Versions walked, deleted ones included.
    pub versions: u64,
    /// Metadata nodes walked: read and verified, or found in memory where no checkpoint has written them yet.
    pub nodes: u64,
    /// Copies of the superblock read and judged.
    pub superblocks: u64,
    /// Pieces of the free map read and verified, at all its levels.
    pub map_pieces: u64,
    /// Data blocks that the versions refer to.
    pub data_blocks: u64,
    /// Data blocks read and verified (only with `read_data`).
    pub data_verified: u64,
    /// Blocks marked as used that nothing refers to.
    pub leaked_blocks: u64,
    /// What is wrong, one sentence each, at most 1,000.
    pub problems: Vec<String>,
}

impl CheckReport {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }
}
