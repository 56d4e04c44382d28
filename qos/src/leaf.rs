//! A volume, or background work: its limits, what waits, and where it stands.

use std::collections::BTreeMap;

use crate::{
    Key, Nanos, Request,
    bucket::Bucket,
    lanes::Lanes,
    lines::{Gate, Keys, Order},
    share::Tag,
    stats::Held,
};

/// What holds a request back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) enum Reason {
    Limit(Level, Key),
    #[default]
    Share,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Level {
    Volume,
    Group,
    Pool,
}

impl Level {
    pub(crate) const ALL: [Self; 3] = [Self::Volume, Self::Group, Self::Pool];
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

/// Where the first request of a flow stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Place {
    /// Nothing waits.
    #[default]
    Idle,
    /// In the order of tags: its turn may have come.
    Ready,
    /// In lines for tokens of a level: until they have come, or until it is first.
    Waits(Level, Option<Nanos>),
}

/// The reads of a leaf, or its writes.
#[derive(Default)]
pub(crate) struct Flow {
    pub(crate) place: Place,
    /// Of the first that waits.
    pub(crate) order: Order,
    /// The lines in which it stands, by level.
    pub(crate) joined: [Keys; 3],
    /// What held the first that waits back the longest, and for how long. The next one begins with the same: it was behind it.
    pub(crate) longest: (Nanos, Reason),
    /// What holds it back now, and since when.
    pub(crate) held: Option<(Nanos, Reason)>,
    /// The first that waits has stood in lines above its volume: it keeps its place in the order.
    pub(crate) keeps_order: bool,
    /// The first that waits, background work, had come to its turn when it found tokens short.
    pub(crate) is_paced: bool,
}

impl Flow {
    /// What has held the first that waits back the longest so far.
    pub(crate) fn held_by(&self, now: Nanos) -> (Nanos, Reason) {
        let present = self.held.map(|(since, reason)| (now.saturating_sub(since), reason));
        present.filter(|(nanos, _)| *nanos > self.longest.0).unwrap_or(self.longest)
    }

    /// Something holds the first that waits back from now on, the same as before or something else.
    pub(crate) fn hold(&mut self, reason: Reason, now: Nanos) {
        if self.held.is_none_or(|(_, before)| before != reason) {
            self.longest = self.held_by(now);
            self.held = Some((now, reason));
        }
    }

    /// Another request is the first.
    pub(crate) fn another(&mut self) {
        self.longest.0 = 0;
        self.held = None;
        self.keeps_order = false;
        self.is_paced = false;
    }

    fn competes(&self) -> bool {
        !matches!(self.place, Place::Idle | Place::Waits(Level::Volume, _))
    }
}

pub(crate) struct LeafState {
    pub(crate) generation: u32,
    pub(crate) gate: Gate,
    pub(crate) group: Option<u32>,
    pub(crate) is_background: bool,
    pub(crate) weight: u64,
    pub(crate) reserved: Option<Bucket>,
    pub(crate) waiting: Lanes,
    pub(crate) flows: [Flow; 2],
    /// The tag of its next request, if that comes at once.
    pub(crate) finish: Tag,
    /// Requests and costs under way.
    pub(crate) under_way: u64,
    pub(crate) costs: u64,
    /// Of these, what does not count: reserved requests, which go beside the window, and what hangs. Which one ended is not known: it is taken for a reserved
    /// one, else for one that counts.
    pub(crate) reserved_costs: u64,
    pub(crate) hanging: u64,
    /// What [`LeafState::activity`] was when it was counted last.
    pub(crate) active: u64,
    /// It had something under way a moment ago.
    pub(crate) lingers: bool,
    /// When the last one went, and when the last one ended.
    pub(crate) went: Nanos,
    pub(crate) ended: Nanos,
    /// When something of it that counts went or ended the last time.
    pub(crate) moved: Nanos,
    pub(crate) requests: u64,
    pub(crate) held: BTreeMap<Reason, Held>,
}

impl LeafState {
    pub(crate) fn new(generation: u32, group: Option<u32>, is_background: bool) -> Self {
        Self {
            generation,
            gate: Gate::default(),
            group,
            is_background,
            weight: 1,
            reserved: None,
            waiting: Lanes::default(),
            flows: Default::default(),
            finish: Tag::default(),
            under_way: 0,
            costs: 0,
            reserved_costs: 0,
            hanging: 0,
            active: 0,
            lingers: false,
            went: 0,
            ended: 0,
            moved: 0,
            requests: 0,
            held: BTreeMap::new(),
        }
    }

    /// What it adds to the weights of those that want the device now. Background work never takes a share away from volumes, and neither
    /// does one whose own limit holds it back, when it has been for a moment.
    pub(crate) fn activity(&self) -> u64 {
        let wants = self.under_way > 0 || self.lingers || self.flows.iter().any(Flow::competes);
        if wants && !self.is_background { self.weight } else { 0 }
    }

    /// What counts of what it has under way: for a volume, in the window.
    pub(crate) fn own(&self) -> u64 {
        self.costs.saturating_sub(self.reserved_costs.saturating_add(self.hanging))
    }

    /// What takes of the reserve, and what a request takes.
    pub(crate) fn reserve_for(&self, request: &Request) -> Option<(&Bucket, u64)> {
        self.reserved.as_ref().map(|bucket| (bucket, self.gate.limiter.requests(request)))
    }
}
