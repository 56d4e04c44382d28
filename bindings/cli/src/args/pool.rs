//! `cairn pool …`.

use cairn_engine::Pace;
use clap::{ArgGroup, Args, Subcommand};
use std::path::PathBuf;

use crate::size;

#[derive(Debug, Subcommand)]
pub(crate) enum PoolCommand {
    /// Create a pool in a new file or on a block device
    #[command(after_help = "Examples:
  cairn pool create /srv/main.pool --size 64GiB
  cairn pool create /dev/vg0/pool
  cairn --pool /srv/main.pool pool create --size 1TiB --preallocate")]
    Create(CreatePool),
    /// Show the pool's identity, its space, and its state
    #[command(after_help = "Examples:
  cairn pool info
  cairn --json pool info | jq .free")]
    Info,
    /// Verify metadata and the map of free space, also while the pool is in use; repair what can be derived
    #[command(after_help = "Examples:
  cairn pool check
  cairn pool check --read-data
  cairn pool check --repair
  cairn --json pool check --repair --yes

Exit code 7 when there are problems; each is named in one sentence.

A repair writes damaged copies of the superblock and damaged pieces of the free map again, gives back blocks that nothing
refers to, and marks blocks as used that the map calls free. It shows its plan first and changes nothing before it is told to.
It needs the pool for itself: no client may be attached. Data, nodes and the version table have one copy: what is damaged
there is named in the plan, and restored from a backup.")]
    Check(CheckArgs),
    /// Read and verify all data and metadata of all versions, at a pace, while the pool is in use
    #[command(after_help = "Examples:
  cairn pool scrub
  cairn pool scrub --rate 20MiB
  cairn pool scrub --rate unlimited --detach
  cairn pool scrub --status
  cairn pool scrub --set-rate 200MiB
  cairn pool scrub --cancel

Tells the damaged ranges of every volume and every snapshot that reads them. Exit code 7 when there are any.
An interrupt ends a scrub that is waited for.")]
    Scrub(ScrubArgs),
    /// Show what happened to the pool since it was opened: watermarks, damage found, deletions ended
    #[command(after_help = "Examples:
  cairn pool events
  cairn --json pool events --since 17")]
    Events(EventsArgs),
}

#[derive(Args, Debug)]
pub(crate) struct CreatePool {
    /// The file to make, or the device to use; --pool when left out
    #[arg(value_name = "PATH")]
    pub(crate) path: Option<PathBuf>,
    /// Size of the pool; for a device its own when left out
    #[arg(long, value_parser = size::parse)]
    pub(crate) size: Option<u64>,
    /// Take all space of the file system now, not as it is needed
    #[arg(long)]
    pub(crate) preallocate: bool,
    /// Also write all of it once, so that first writes and flushes are as fast as later ones: takes as long as writing the whole pool
    #[arg(long)]
    pub(crate) prewrite: bool,
    /// Size of the journal; chosen by the pool's size when left out
    #[arg(long, value_parser = size::parse, value_name = "SIZE")]
    pub(crate) journal_size: Option<u64>,
}

#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// Also read and verify every block of data
    #[arg(long)]
    pub(crate) read_data: bool,
    /// Show what can be repaired, ask, and repair it
    #[arg(long)]
    pub(crate) repair: bool,
    /// Repair without asking
    #[arg(long, requires = "repair")]
    pub(crate) yes: bool,
}

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("instead").args(["status", "cancel", "set_rate"]))]
pub(crate) struct ScrubArgs {
    /// Bytes to read in a second at most, or "unlimited"
    #[arg(long, value_parser = pace, value_name = "SIZE", default_value = "100MiB", conflicts_with = "instead")]
    pub(crate) rate: Pace,
    /// Begin, and do not wait: the pool's server goes on with it
    #[arg(long, conflicts_with = "instead")]
    pub(crate) detach: bool,
    /// Show how far the scrub under way is, and how the last one ended
    #[arg(long)]
    pub(crate) status: bool,
    /// End the scrub under way, and show what it had found
    #[arg(long)]
    pub(crate) cancel: bool,
    /// Have the scrub under way go faster or slower
    #[arg(long, value_parser = pace, value_name = "SIZE")]
    pub(crate) set_rate: Option<Pace>,
}

/// A size, or the word for none.
pub(super) fn pace(text: &str) -> Result<Pace, String> {
    if text == "unlimited" {
        return Ok(Pace::unlimited());
    }
    match size::parse(text) {
        Ok(0) => Err("a rate of nothing never ends: give a size, or \"unlimited\"".to_owned()),
        Ok(bytes) => Ok(Pace::bytes_per_second(bytes)),
        Err(error) => Err(format!("{error}, or \"unlimited\"")),
    }
}

#[derive(Args, Debug)]
pub(crate) struct EventsArgs {
    /// Only events with a greater number
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    pub(crate) since: u64,
}
