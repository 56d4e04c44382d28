//! A volume, or background work: its limits, what waits, and where it stands.

use std::collections::BTreeMap;

use crate::{Key, Nanos, bucket::Bucket, lanes::Lanes, limiter::Limiter, share::Tag, stats::Held};

/// What holds a request back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Reason {
    Limit(Level, Key),
    Share,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Level {
    Volume,
    Group,
    Pool,
}

impl Reason {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Share => "share".to_owned(),
            Self::Limit(level, key) => {
                let level = match level {
                    Level::Volume => "volume",
                    Level::Group => "group",
                    Level::Pool => "pool",
                };
                format!("{level}:{}", key.name())
            }
        }
    }
}

/// Where a leaf with waiting requests stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// Nothing waits.
    Idle,
    /// In the order of tags: its turn may have come.
    Ready(Tag),
    /// Until tokens have come.
    Sleeping(Nanos),
}

pub(crate) struct LeafState {
    pub(crate) limiter: Limiter,
    pub(crate) group: Option<u32>,
    pub(crate) is_background: bool,
    pub(crate) weight: u64,
    pub(crate) reserved: Option<Bucket>,
    pub(crate) waiting: Lanes,
    pub(crate) place: Place,
    pub(crate) reason: Reason,
    /// What held the first that waits back the longest, and for how long. The next one begins with the same: it was behind it.
    pub(crate) longest: (Nanos, Reason),
    /// Since when the first that waits has been waiting for its share.
    pub(crate) share_since: Option<Nanos>,
    /// Tags of the first that waits, and of the last that went.
    pub(crate) start: Tag,
    pub(crate) finish: Tag,
    /// Requests and costs under way.
    pub(crate) under_way: u64,
    pub(crate) costs: u64,
    /// Of these, what was reserved and is beside the window.
    pub(crate) beside: u64,
    /// What [`LeafState::activity`] was when it was counted last.
    pub(crate) active: u64,
    /// It had something under way a moment ago.
    pub(crate) lingers: bool,
    /// When the last one went.
    pub(crate) went: Nanos,
    pub(crate) requests: u64,
    pub(crate) held: BTreeMap<Reason, Held>,
}

impl LeafState {
    /// What it adds to the weights of those that want the device now. Background work never takes a share away from volumes, and neither
    /// does one whose own limit holds it back.
    pub(crate) fn activity(&self) -> u64 {
        let is_held = matches!((self.place, self.reason), (Place::Sleeping(_), Reason::Limit(Level::Volume, _)));
        let is_idle = self.waiting.is_empty() && !self.lingers;
        match self.is_background || (self.under_way == 0 && (is_idle || is_held)) {
            true => 0,
            false => self.weight,
        }
    }

    /// What has held the first that waits back the longest so far.
    pub(crate) fn held_by(&self, now: Nanos) -> (Nanos, Reason) {
        let share = self.share_since.map_or(0, |since| now.saturating_sub(since));
        if share > self.longest.0 { (share, Reason::Share) } else { self.longest }
    }
}
