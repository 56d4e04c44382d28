//! How a pool behaves over time: filled to a level, then overwritten at random for long, with snapshots that come and go.
//!
//! **Filled to L %**: the volume and its snapshots, all of them with content of their own, take L % of the pool's room. A snapshot that is kept
//! while everything is overwritten comes to hold as much as the volume has, so with ten of them the volume is an eleventh of that. A volume
//! of 90 % of a pool could keep no snapshot beyond its first seconds here: nothing would be left to overwrite it with.

pub mod level;
pub mod picture;
pub mod verdict;

use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use verdict::Verdict;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Bytes of the pool.
    pub pool: u64,
    /// How many times the pool's size is overwritten.
    pub overwrite: f64,
    /// Requests in flight.
    pub depth: u32,
    /// Seconds between two snapshots.
    pub snapshot_every: f64,
    /// Snapshots that are kept.
    pub kept: u64,
    /// Seconds of a window of the verdict.
    pub window: f64,
}

/// A stored run. Times are seconds, latencies nanoseconds, sizes bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Version of these fields: 1.
    pub schema: u32,
    /// What makes such a run.
    pub command: String,
    /// The day on which it was made.
    pub date: String,
    /// Where.
    pub machine: Machine,
    /// What was asked for.
    pub plan: Plan,
    /// Levels that are done.
    pub levels: Vec<Level>,
}

/// A level.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Level {
    /// Percent of the pool's room that volume and snapshots take.
    pub percent: u8,
    /// Room for data and metadata in the pool.
    pub capacity: u64,
    /// Size of the volume.
    pub volume: u64,
    /// In use when the overwriting began.
    pub filled: u64,
    /// How long it was overwritten.
    pub seconds: f64,
    /// Writes.
    pub requests: u64,
    /// The longest write.
    pub longest: u64,
    /// Second by second.
    pub samples: Vec<Sample>,
    /// Snapshots that were taken and deleted.
    pub turns: Vec<Turn>,
    /// Whether the worst window is good enough; none for a run too short to tell.
    pub verdict: Option<Verdict>,
}

/// A second of the load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// When it ended, since the load began.
    pub end: f64,
    /// Writes a second.
    pub iops: f64,
    /// 99 of a hundred writes took at most so long.
    pub p99: u64,
    /// In use by the volume, its snapshots and their metadata.
    pub used: u64,
    /// Not free: what is in use, and what was released and is not free yet.
    pub taken: u64,
    /// Resident memory of this process, the load generator's included.
    pub memory: u64,
}

/// The oldest snapshot goes, and a new one is taken.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    /// When, since the load began.
    pub at: f64,
    /// How long the deletion took to answer; what the snapshot held comes free in the background.
    pub delete: f64,
    /// How long the snapshot took to answer.
    pub snapshot: f64,
}

/// Size of a volume that takes `percent` of `capacity` with `kept` snapshots, each of which holds as much again. In whole MiB.
///
/// ```
/// use cairn_benches::aging::volume_size;
///
/// assert_eq!(volume_size(1 << 40, 90, 9) >> 20, 94_003); // a tenth of 90 % of 1 TiB, less metadata
/// ```
#[must_use]
pub fn volume_size(capacity: u64, percent: u8, kept: u64) -> u64 {
    // A node of 4 KiB for 256 blocks, another one for 256 of those, and so on.
    let data = u128::from(capacity) * u128::from(percent) * 255 / (100 * 256);
    let each = data / (u128::from(kept) + 1);
    u64::try_from(each >> 20 << 20).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volume_and_snapshots_fit_into_the_level() {
        for capacity in [64 << 20, (1 << 34) - 4096, 1u64 << 50] {
            for (percent, kept) in [(30, 10), (90, 10), (95, 0), (1, 1)] {
                let size = volume_size(capacity, percent, kept);
                let all = u128::from(size) * u128::from(kept + 1);
                let nodes = all / 256 + all / 65_536 + all / (1 << 24) + all / (1 << 32);
                let level = u128::from(capacity) * u128::from(percent) / 100;
                assert!(all + nodes <= level, "{capacity} {percent} {kept}");
                // What is missing is less than a MiB each.
                assert!(all + nodes + (u128::from(kept + 1) << 20) * 257 / 256 >= level - level / 10_000);
            }
        }
    }
}
