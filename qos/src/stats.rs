//! What was held back, by what, and what is left: for people and dashboards.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Requests that had to wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// How many have gone since.
    pub requests: u64,
    /// For how long, all together, in nanoseconds.
    pub nanos: u64,
}

/// Tokens that are there, by the limits' names; negative: owed by a request that was larger than what the limit holds.
pub type Credits = BTreeMap<&'static str, i64>;

/// A volume, group or pool as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// Requests that went, held back or not.
    pub requests: u64,
    /// Requests that wait now.
    pub waiting: u64,
    /// What was held back, also what waits now with its time so far, by `LEVEL:KEY` (`volume:total_iops_sec`, `group:…`, `pool:…`) or `share`, the contention for the device.
    pub held: BTreeMap<String, Held>,
    /// Present credits.
    pub credits: Credits,
}
