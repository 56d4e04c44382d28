//! What volumes are asked for and how they are limited: plain values, safe to keep and to send.

use std::{collections::BTreeMap, fmt, str::FromStr};

use cairn_qos::{Held, Limits};

use crate::{
    error::{Error, Result},
    names::check_name,
    units::VolumeId,
};

/// Octaves of latencies: the first ends at 2 µs, the last has all from 67 s on.
pub const OCTAVES: usize = 27;

/// Requests of one kind since the pool was opened. Two of these make a rate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Flow {
    /// How many ended, well or not.
    pub requests: u64,
    /// Bytes that they concerned.
    pub bytes: u64,
    /// How long they took all together, from where they were let go to their end, in nanoseconds.
    pub nanos: u64,
    /// How many took at least 2^n µs and less than twice that (the first: less than 2 µs).
    pub latencies: [u64; OCTAVES],
}

impl Flow {
    /// Adds what a request of `bytes` bytes took.
    pub(crate) fn count(&mut self, bytes: u64, nanos: u64) {
        self.requests += 1;
        self.bytes += bytes;
        self.nanos += nanos;
        let micros = (nanos / 1000).max(1);
        let at = (micros.ilog2() as usize).min(OCTAVES - 1);
        self.latencies[at] += 1;
    }

    /// What came since an earlier look at the same pool, or all if that was another one.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut latencies = self.latencies;
        for (now, before) in latencies.iter_mut().zip(earlier.latencies) {
            *now = now.checked_sub(before).unwrap_or(*now);
        }
        Self {
            requests: self.requests.checked_sub(earlier.requests).unwrap_or(self.requests),
            bytes: self.bytes.checked_sub(earlier.bytes).unwrap_or(self.bytes),
            nanos: self.nanos.checked_sub(earlier.nanos).unwrap_or(self.nanos),
            latencies,
        }
    }

    /// What so large a part of the requests was done within, in nanoseconds: the end of an octave, so at most twice too much.
    #[must_use]
    pub fn quantile(&self, part: f64) -> u64 {
        let all: u64 = self.latencies.iter().sum();
        let mut left = (all as f64 * part).ceil() as u64;
        for (octave, count) in self.latencies.iter().enumerate() {
            if left > 0 && left <= *count {
                return 2000 << octave;
            }
            left = left.saturating_sub(*count);
        }
        0
    }
}

/// Requests by their kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Flows {
    /// Reads.
    pub read: Flow,
    /// Writes.
    pub write: Flow,
    /// Discards, and writes of zeros.
    pub discard: Flow,
    /// Flushes.
    pub flush: Flow,
}

/// What a volume is asked for, with its snapshots. Since the pool was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct VolumeStats {
    /// Identity of the volume; none for background work (deletions, scrubs, backups, restores).
    pub id: Option<VolumeId>,
    /// Its name, or `background`.
    pub name: String,
    /// Requests by their kind.
    pub flows: Flows,
    /// Requests under way now.
    pub in_flight: u64,
    /// Requests that limits, or others, keep waiting now. Those that wait in a client's queue are not known here.
    pub waiting: u64,
    /// What was held back so far, by what: `volume:total_iops_sec`, `group:…`, `pool:…`, or `share`, the contention for the device.
    pub held: BTreeMap<String, Held>,
    /// Data that its live version refers to, in bytes.
    pub allocated: u64,
    /// Logical size in bytes.
    pub size: u64,
}

/// Whose limits are meant: `VOLUME`, `/GROUP`, or `/` for the pool. (No volume's name has a slash.)
///
/// ```
/// use cairn_engine::QosTarget;
/// assert_eq!("db".parse::<QosTarget>().unwrap(), QosTarget::Volume("db".to_owned()));
/// assert_eq!("/gold".parse::<QosTarget>().unwrap().to_string(), "/gold");
/// assert_eq!("/".parse::<QosTarget>().unwrap(), QosTarget::Pool);
/// assert!("/a/b".parse::<QosTarget>().is_err());
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum QosTarget {
    /// All volumes, and background work.
    Pool,
    /// Some volumes together.
    Group(String),
    /// One volume, with its snapshots.
    Volume(String),
}

impl FromStr for QosTarget {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.strip_prefix('/') {
            Some("") => Ok(Self::Pool),
            Some(group) => check_name("group", group).map(|()| Self::Group(group.to_owned())),
            None => check_name("volume", text).map(|()| Self::Volume(text.to_owned())),
        }
    }
}

impl fmt::Display for QosTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pool => f.write_str("/"),
            Self::Group(name) => write!(f, "/{name}"),
            Self::Volume(name) => f.write_str(name),
        }
    }
}

/// Limits, and what is left of them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct QosInfo {
    /// Whose: `VOLUME`, `/GROUP` or `/`.
    pub target: String,
    /// What was set.
    pub limits: Limits,
    /// What the limits come to, a second: differs from what was set where that goes by a volume's size.
    pub rates: BTreeMap<String, u64>,
    /// Of a volume: the group that it is in.
    pub group: Option<String>,
    /// Of a group: the volumes in it.
    pub members: Vec<String>,
    /// Of the pool: how much may be under way at the device while several volumes want it, in requests of 4 KiB.
    pub queue_depth: Option<u32>,
    /// Requests or bytes that may go at once, by the names of the limits; below zero after a request that was larger than what is held.
    pub credits: BTreeMap<String, i64>,
    /// Of a volume: requests that were held back, by what, and for how long in nanoseconds, since the pool was opened.
    pub held: BTreeMap<String, Held>,
    /// Of a volume: requests that wait now.
    pub waiting: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_fall_into_octaves() {
        let mut flow = Flow::default();
        for nanos in [0, 999, 1999, 2000, 1_000_000, u64::MAX / 8] {
            flow.count(1, nanos);
        }
        assert_eq!((flow.latencies[0], flow.latencies[1], flow.latencies[9]), (3, 1, 1));
        assert_eq!(flow.latencies[OCTAVES - 1], 1);
        assert_eq!((flow.requests, flow.bytes), (6, 6));
        assert_eq!(flow.quantile(0.5), 2_000, "the end of the first octave");
        assert_eq!(flow.quantile(0.6), 4_000);
        assert_eq!(Flow::default().quantile(0.99), 0);
        let earlier = flow.clone();
        flow.count(5, 1_000_000);
        let since = flow.since(&earlier);
        assert_eq!((since.requests, since.bytes, since.quantile(0.5)), (1, 5, 1_024_000));
        assert_eq!(earlier.since(&flow).requests, 6, "another life of the pool");
    }
}
