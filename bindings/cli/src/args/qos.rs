//! `cairn qos …`.

use clap::{Args, Subcommand};

const TARGETS: &str = "TARGET is a volume (db, with its snapshots), a group of volumes (/gold), or the pool (/).
A request needs room in all three: in its volume's limits, in its group's, in the pool's.";

#[derive(Debug, Subcommand)]
pub(crate) enum QosCommand {
    /// Set limits of a volume, a group or the pool, also while it is in use
    #[command(after_help = format!("{TARGETS}

Rates, in requests or bytes a second; a total, or reads and writes apart:
  total_iops_sec    read_iops_sec    write_iops_sec
  total_bytes_sec   read_bytes_sec   write_bytes_sec
Each of them, as KEY, also with something behind it:
  KEY_max           rate of a burst, not below KEY
  KEY_max_length    seconds that a burst lasts after a quiet time (1 unless set)
  KEY_per_gb        in the place of KEY: so much for each GiB of a volume's size; it follows a resize
  KEY_per_gb_min    the least that KEY_per_gb comes to
Others:
  size_iops_sec     a request of more bytes counts as several
  weight            of a volume: its share while others want the device too, 1 to 1000 (1 unless set)
  reserve_iops_sec  of a volume: requests a second that go before those of others
  group             of a volume: the group it belongs to
  queue_depth       of the pool: what may be under way at the device while several volumes want it, in requests of 4 KiB

Values are whole numbers above zero; bytes also with B, KiB, MiB, GiB or TiB. All that is named is set at once, or nothing
is; the rest stays. What was set counts from the next request on, and is kept over restarts, with what was used of it.

Examples:
  cairn qos set db total_iops_sec=500 total_bytes_sec=64MiB
  cairn qos set db total_iops_sec_max=2000 total_iops_sec_max_length=30
  cairn qos set log read_iops_sec_per_gb=10 read_iops_sec_per_gb_min=100
  cairn qos set db group=gold weight=4
  cairn qos set /gold total_bytes_sec=200MiB
  cairn qos set / write_bytes_sec=1GiB queue_depth=32"))]
    Set(SetArgs),
    /// Show limits, what is left of them, and what they have held back
    #[command(after_help = format!("{TARGETS}

CREDITS is what may go at once before the rate counts; below zero after a request that was larger. What was held back is
counted since the pool was opened: of a group or the pool, for all its volumes.

Examples:
  cairn qos show
  cairn qos show db
  cairn qos show /gold
  cairn --json qos show / | jq .rates"))]
    Show {
        /// VOLUME, /GROUP, or / for the pool; all that have limits when left out
        target: Option<String>,
    },
    /// Take limits out
    #[command(after_help = format!("{TARGETS}

Examples:
  cairn qos clear db
  cairn qos clear db total_iops_sec_max total_iops_sec_max_length
  cairn qos clear db group
  cairn qos clear /gold"))]
    Clear(ClearArgs),
}

#[derive(Args, Debug)]
pub(crate) struct SetArgs {
    /// VOLUME, /GROUP, or / for the pool
    pub(crate) target: String,
    /// What to set
    #[arg(required = true, value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) changes: Vec<(String, String)>,
}

#[derive(Args, Debug)]
pub(crate) struct ClearArgs {
    /// VOLUME, /GROUP, or / for the pool
    pub(crate) target: String,
    /// Only these keys; everything that was set when left out (of a volume also its group)
    #[arg(value_name = "KEY")]
    pub(crate) keys: Vec<String>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err("KEY=VALUE is needed; \"cairn qos clear\" takes a key out".to_owned()),
    }
}
