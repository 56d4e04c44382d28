//! `cairn snapshot …` and `cairn clone`.

use clap::{Args, Subcommand};

use crate::size;

#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Take snapshots: of several volumes at the same moment, all or none
    #[command(after_help = "Examples:
  cairn snapshot create db@before
  cairn snapshot create db@nightly log@nightly")]
    Create {
        /// What to take, each VOLUME@SNAPSHOT
        #[arg(required = true, value_name = "VOLUME@SNAPSHOT")]
        targets: Vec<String>,
    },
    /// List the snapshots of a volume, or of all
    #[command(after_help = "Examples:
  cairn snapshot list
  cairn snapshot list db --exclusive")]
    List {
        /// Only of this volume
        volume: Option<String>,
        /// Also work out what deleting each alone would free (reads metadata)
        #[arg(long)]
        exclusive: bool,
    },
    /// Delete a snapshot, in any order; clones made from it live on
    #[command(after_help = "Examples:
  cairn snapshot delete db@before")]
    Delete {
        /// VOLUME@SNAPSHOT
        #[arg(value_name = "VOLUME@SNAPSHOT")]
        target: String,
        /// Return only when the space has been given back (always so when the pool is not served)
        #[arg(long = "wait-space")]
        wait_space: bool,
    },
    /// Show where two versions differ; costs what differs
    #[command(after_help = "Examples:
  cairn snapshot diff db@monday db@tuesday
  cairn snapshot diff db@before db
  cairn --json snapshot diff db@before db | jq .data

\"data\" is stored data of the second that the first does not hold; \"hole\" reads as zeros in the second and held data
in the first.")]
    Diff(DiffArgs),
    /// Set a volume back to the content and size of one of its snapshots; what was written since is gone
    #[command(after_help = "Examples:
  cairn snapshot revert db@before
  cairn snapshot revert db@before --force")]
    Revert {
        /// VOLUME@SNAPSHOT
        #[arg(value_name = "VOLUME@SNAPSHOT")]
        target: String,
        /// Also while clients have the volume open
        #[arg(long)]
        force: bool,
    },
}

#[derive(Args, Debug)]
pub(crate) struct DiffArgs {
    /// The older side: VOLUME@SNAPSHOT or VOLUME
    #[arg(value_name = "FROM")]
    pub(crate) from: String,
    /// The newer side: VOLUME@SNAPSHOT or VOLUME
    #[arg(value_name = "TO")]
    pub(crate) to: String,
}

#[derive(Args, Debug)]
pub(crate) struct CloneArgs {
    /// The snapshot to start from
    #[arg(value_name = "VOLUME@SNAPSHOT")]
    pub(crate) snapshot: String,
    /// Name of the new volume
    pub(crate) name: String,
    /// Its size, not below the snapshot's; the snapshot's when left out
    #[arg(long, value_parser = size::parse)]
    pub(crate) size: Option<u64>,
}
