//! Arguments of `cairn regroup`.

use cairn_engine::Pace;
use clap::{ArgGroup, Args};

use super::pool::pace;

pub(super) const HELP: &str = "Data that was written at random lies in the order of its writes. A regroup moves it into the order of the volume, a MiB at a
time, in the background: it yields to what the volumes are asked for, and keeps to the limits of the pool. What snapshots and
clones share stays where it is, and so do ranges that are in order: a second run finds little to do. It needs a few MiB of
free space, and stops when the pool is nearly full. A damaged block is left and told: exit code 7.
An interrupt ends a regroup that is waited for; what was moved stays moved.

Examples:
  cairn regroup db
  cairn regroup db --dry-run
  cairn regroup db --rate 20MiB --detach
  cairn regroup --status
  cairn regroup --set-rate unlimited
  cairn regroup --cancel
  cairn --json regroup db | jq .report.moved_blocks";

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("what").args(["volume", "status", "cancel", "set_rate"]).required(true))]
#[command(group = ArgGroup::new("instead").args(["status", "cancel", "set_rate"]))]
pub(crate) struct RegroupArgs {
    /// The volume
    #[arg(value_name = "VOLUME")]
    pub(crate) volume: Option<String>,
    /// Only say what there is to move
    #[arg(long, conflicts_with = "instead")]
    pub(crate) dry_run: bool,
    /// Bytes to read and write in a second at most, or "unlimited"
    #[arg(long, value_parser = pace, value_name = "SIZE", default_value = "100MiB", conflicts_with = "instead")]
    pub(crate) rate: Pace,
    /// Begin, and do not wait: the pool's server goes on with it
    #[arg(long, conflicts_with = "instead")]
    pub(crate) detach: bool,
    /// Show how far the regroup under way is, and how the last one ended
    #[arg(long)]
    pub(crate) status: bool,
    /// End the regroup under way, and show what it has moved
    #[arg(long)]
    pub(crate) cancel: bool,
    /// Have the regroup under way go faster or slower
    #[arg(long, value_parser = pace, value_name = "SIZE")]
    pub(crate) set_rate: Option<Pace>,
}
