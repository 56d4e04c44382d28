//! `cairn pool …`.

use clap::{Args, Subcommand};
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
    /// Rebuild the map of free space from the versions and compare; also while the pool is in use
    #[command(after_help = "Examples:
  cairn pool check
  cairn pool check --read-data

Exit code 7 when there are problems; each is named in one sentence.")]
    Check(CheckArgs),
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
    /// Size of the journal; chosen by the pool's size when left out
    #[arg(long, value_parser = size::parse, value_name = "SIZE")]
    pub(crate) journal_size: Option<u64>,
}

#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// Also read and verify every block of data
    #[arg(long)]
    pub(crate) read_data: bool,
}

#[derive(Args, Debug)]
pub(crate) struct EventsArgs {
    /// Only events with a greater number
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    pub(crate) since: u64,
}
