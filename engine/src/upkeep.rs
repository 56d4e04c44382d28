//! What scrubs, regroups and repairs are told and tell: plain values, safe to keep and to send.

use std::fmt;

use crate::{info::CheckReport, units::MIB};

/// How fast a scrub reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Pace {
    /// Bytes a second at most; `None`: as fast as the device answers, which others on it will notice.
    pub bytes_per_second: Option<u64>,
}

impl Default for Pace {
    /// 100 MiB a second: a tebibyte in three hours, on a device that others hardly notice it on.
    fn default() -> Self {
        Self { bytes_per_second: Some(100 * MIB) }
    }
}

impl Pace {
    /// As fast as the device answers.
    #[must_use]
    pub fn unlimited() -> Self {
        Self { bytes_per_second: None }
    }

    /// So many bytes a second at most.
    #[must_use]
    pub fn bytes_per_second(bytes: u64) -> Self {
        Self { bytes_per_second: Some(bytes) }
    }
}

/// What is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "lowercase"))]
pub enum DamageKind {
    /// Stored data.
    Data,
    /// A metadata node: everything that it leads to cannot be reached.
    Node,
    /// A block of the version table: the pool cannot be opened again.
    Table,
    /// A piece of the free map. Nothing is lost: a repair rebuilds it.
    Map,
    /// A copy of the superblock. Nothing is lost while the other copy is whole: a repair writes it again.
    Superblock,
}

impl fmt::Display for DamageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Data => "data",
            Self::Node => "metadata node",
            Self::Table => "version table",
            Self::Map => "free map",
            Self::Superblock => "superblock",
        })
    }
}

/// A damaged range, of one volume or snapshot. A block that several of them read is told for each.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Damage {
    /// The volume that reads it. None for what belongs to the pool, and for what no volume reads any more.
    pub volume: Option<String>,
    /// The snapshot of that volume, if it is one.
    pub snapshot: Option<String>,
    /// First byte that cannot be read, within the volume; 0 for what belongs to the pool.
    pub offset: u64,
    /// How many bytes cannot be read; 0 for what belongs to the pool.
    pub length: u64,
    /// First damaged block of the pool, in blocks of 4 KiB.
    pub physical: u64,
    /// How many blocks from there on are damaged.
    pub blocks: u64,
    /// What it is.
    pub what: DamageKind,
    /// What is wrong with it.
    pub cause: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.volume, &self.snapshot) {
            (Some(volume), Some(snapshot)) => write!(f, "{volume}@{snapshot}: ")?,
            (Some(volume), None) => write!(f, "{volume}: ")?,
            _ => {}
        }
        if self.length > 0 {
            write!(f, "{} bytes at offset {}: ", self.length, self.offset)?;
        }
        write!(f, "{} at physical block {}", self.what, self.physical)?;
        if self.blocks > 1 {
            write!(f, " and {} behind it", self.blocks - 1)?;
        }
        write!(f, " {}", self.cause)
    }
}

/// What a scrub has verified and found. Each physical block counts once, however many versions share it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ScrubReport {
    /// Versions walked: volumes, snapshots, and deleted versions that others still share blocks through.
    pub versions: u64,
    /// Data blocks read.
    pub data_blocks: u64,
    /// Metadata nodes read.
    pub nodes: u64,
    /// Blocks of the version table read.
    pub table_blocks: u64,
    /// Pieces of the free map read.
    pub map_pieces: u64,
    /// Copies of the superblock read.
    pub superblocks: u64,
    /// Bytes read, all of the above.
    pub bytes: u64,
    /// Damaged blocks found.
    pub damaged_blocks: u64,
    /// What cannot be read on account of them, by volume and snapshot, at most 1,000 ranges.
    pub damaged: Vec<Damage>,
    /// Damaged ranges (and damaged blocks beyond the 4,096 that are looked up) that are not in the list.
    pub left_out: u64,
}

impl ScrubReport {
    /// Whether nothing is damaged.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.damaged_blocks == 0
    }
}

/// How far a scrub is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ScrubProgress {
    /// Which scrub since the pool was opened, from 1 on.
    pub number: u64,
    /// Bytes read and verified.
    pub done: u64,
    /// Bytes to read in all, as far as it is known.
    pub total: u64,
    /// Bytes a second, since it began or its pace was changed.
    pub rate: u64,
    /// How fast it may go.
    pub pace: Pace,
    /// When it began, in milliseconds since 1970.
    pub started_ms: u64,
    /// The volume, or `volume@snapshot`, that it is at.
    pub current: Option<String>,
    /// Damaged blocks found so far.
    pub damaged_blocks: u64,
}

/// How a scrub ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ScrubOutcome {
    /// Which scrub since the pool was opened, from 1 on.
    pub number: u64,
    /// When it began, in milliseconds since 1970.
    pub started_ms: u64,
    /// When it ended, in milliseconds since 1970.
    pub ended_ms: u64,
    /// Whether it was cancelled before it was through. Then the report says what it had found until then.
    pub cancelled: bool,
    /// What it found.
    pub report: ScrubReport,
}

/// The scrub under way and the last one that ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ScrubStatus {
    /// The one under way.
    pub running: Option<ScrubProgress>,
    /// The last one that ended since the pool was opened.
    pub last: Option<ScrubOutcome>,
}

/// What a repair is to do, and why. Made by a check; nothing is changed by making it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct RepairPlan {
    /// Each thing to be done.
    pub actions: Vec<RepairAction>,
    /// Damage that stays, each with what helps against it.
    pub unrepaired: Vec<String>,
}

impl RepairPlan {
    /// Whether there is neither anything to repair nor damage that stays.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.actions.is_empty() && self.unrepaired.is_empty()
    }
}

/// One thing that a repair does.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct RepairAction {
    /// What.
    #[cfg_attr(feature = "serde", serde(flatten))]
    pub step: RepairStep,
    /// The damage that calls for it, as one sentence.
    pub why: String,
}

/// Kinds of things that a repair does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(tag = "action", rename_all = "kebab-case")
)]
pub enum RepairStep {
    /// Writes the copy of the superblock in this slot again.
    RewriteSuperblock {
        /// 0 to 3.
        slot: u32,
    },
    /// Writes a piece of the free map again.
    RewriteMap {
        /// 0: the bitmap itself; above: its directories.
        level: u64,
        /// Which piece of that level.
        index: u64,
    },
    /// Gives blocks back that are marked as used and that nothing refers to.
    FreeBlocks {
        /// How many.
        blocks: u64,
    },
    /// Marks blocks as used that versions refer to and that the free map calls free.
    MarkUsed {
        /// How many.
        blocks: u64,
    },
}

impl fmt::Display for RepairStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RewriteSuperblock { slot } => write!(f, "write superblock copy {slot} again"),
            Self::RewriteMap { level: 0, index } => write!(f, "write piece {index} of the free map again"),
            Self::RewriteMap { level, index } => {
                write!(f, "write piece {index} of the free map's directory (level {level}) and what it leads to again")
            }
            Self::FreeBlocks { blocks } => write!(f, "give back {blocks} blocks"),
            Self::MarkUsed { blocks } => write!(f, "mark {blocks} blocks as used"),
        }
    }
}

/// What a repair did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct RepairReport {
    /// What was done.
    pub done: Vec<RepairAction>,
    /// The check after it: clean unless the plan named damage that stays.
    pub check: CheckReport,
}

/// How a volume is regrouped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct RegroupOptions {
    /// How fast, in bytes read and written together. It never goes faster than the limits of the pool and the volumes' own requests leave
    /// room for.
    pub pace: Pace,
    /// Whether it only looks: it says what there is to move, and changes nothing.
    pub dry_run: bool,
}

/// What a regroup has found and done. A *run* is a stretch of a range of 1 MiB whose blocks lie side by side, in order: what one request reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct RegroupReport {
    /// Ranges of 1 MiB looked at. Those that are empty, or all of whose blocks others share, are not among them.
    pub ranges: u64,
    /// Ranges among them that were scattered.
    pub scattered: u64,
    /// Runs in all ranges looked at, before.
    pub runs_before: u64,
    /// Runs in the same ranges, after. Of a dry run: what it would come to.
    pub runs_after: u64,
    /// Blocks moved. Of a dry run: that would be.
    pub moved_blocks: u64,
    /// Blocks of these ranges that a snapshot or a clone shares: they stay where they are.
    pub shared_blocks: u64,
    /// Blocks that were written, discarded or frozen by a snapshot while they were being moved: they stay as they are.
    pub changed_blocks: u64,
    /// Scattered ranges that were left as they are, since free space is in pieces too small for them.
    pub left_ranges: u64,
    /// Damaged blocks found: those that were to be moved, and metadata nodes.
    pub damaged_blocks: u64,
    /// What cannot be read on account of them, of this volume, at most 1,000 ranges.
    pub damaged: Vec<Damage>,
    /// Damaged ranges that are not in the list.
    pub left_out: u64,
}

/// How far a regroup is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct RegroupProgress {
    /// Which regroup since the pool was opened, from 1 on.
    pub number: u64,
    /// The volume.
    pub volume: String,
    /// Bytes of the volume that were looked at.
    pub done: u64,
    /// Size of the volume.
    pub total: u64,
    /// Bytes moved. Of a dry run: that would be.
    pub moved: u64,
    /// How fast it may go.
    pub pace: Pace,
    /// Whether it only looks.
    pub dry_run: bool,
    /// When it began, in milliseconds since 1970.
    pub started_ms: u64,
    /// Damaged blocks found so far.
    pub damaged_blocks: u64,
}

/// Why a regroup ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum RegroupEnd {
    /// It is through.
    Finished,
    /// It was cancelled, or the pool is being closed.
    Cancelled,
    /// The volume was deleted meanwhile.
    Deleted,
    /// The pool is nearly full. What was moved stays moved.
    NoSpace,
    /// Something failed.
    Failed,
}

/// How a regroup ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct RegroupOutcome {
    /// Which regroup since the pool was opened, from 1 on.
    pub number: u64,
    /// The volume.
    pub volume: String,
    /// Whether it only looked.
    pub dry_run: bool,
    /// When it began, in milliseconds since 1970.
    pub started_ms: u64,
    /// When it ended, in milliseconds since 1970.
    pub ended_ms: u64,
    /// Why it ended.
    pub end: RegroupEnd,
    /// The same as a sentence that says what helps, where it is not through.
    pub why: Option<String>,
    /// What it found and did until then.
    pub report: RegroupReport,
}

/// The regroup under way and the last one that ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct RegroupStatus {
    /// The one under way.
    pub running: Option<RegroupProgress>,
    /// The last one that ended since the pool was opened.
    pub last: Option<RegroupOutcome>,
}
