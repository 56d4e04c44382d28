//! Fair shares of a device that several want more of than it gives: start tags, and a window of what may be under way.

use std::collections::BTreeSet;

use crate::{Nanos, SECOND};

/// What a request costs besides its bytes: a small one takes a device about as long as so many bytes of a large one.
pub(crate) const OVERHEAD: u64 = 16 << 10;
/// Background work has a sixteenth of one volume's share while there is foreground work.
pub(crate) const BACKGROUND: u64 = 16;
/// Tags are in sixteenths of a byte at a weight of 1, so that the shares of background work are whole numbers.
const SCALE: u128 = 1 << 20;

/// Background work that has waited for so long goes, whatever others want.
pub(crate) const PATIENCE: Nanos = SECOND / 4;

/// For how long after its last request a volume still counts as one that wants the device. Whoever has several requests open at a time is without any
/// for moments, while its client takes the answers; a flood must not fill the device in these.
pub(crate) const LINGER: Nanos = SECOND / 20;

/// What a request weighs in the window, and moves its volume's tag.
pub(crate) fn cost(bytes: u64) -> u64 {
    bytes.saturating_add(OVERHEAD)
}

/// Virtual time: the start tag of whoever went last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clock {
    now: u128,
}

/// How far a leaf is in virtual time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tag(u128);

impl Clock {
    /// The start tag of a leaf's next request: never before those that have gone, so that idling saves nothing up.
    pub(crate) fn start(&self, finish: Tag) -> Tag {
        Tag(finish.0.max(self.now))
    }

    /// A request that started at a tag goes; the leaf's tag afterwards.
    pub(crate) fn go(&mut self, start: Tag, cost: u64, weight: u64) -> Tag {
        self.now = self.now.max(start.0);
        Tag(start.0.saturating_add(u128::from(cost) * SCALE / u128::from(weight.max(1))))
    }

    /// The same for background work, which follows the clock and never moves it.
    pub(crate) fn go_background(&self, start: Tag, cost: u64) -> Tag {
        Tag(start.0.saturating_add(u128::from(cost) * SCALE * u128::from(BACKGROUND)))
    }

    /// Whether everybody else has come as far as this.
    pub(crate) fn has_reached(&self, start: Tag) -> bool {
        start.0 <= self.now
    }
}

fn share(most: u64, weight: u64, active: u64) -> u64 {
    (u128::from(most) * u128::from(weight) / u128::from(active.max(1))) as u64
}

/// What may be under way at the device while more than one leaf wants it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Window {
    /// Costs; none: any number.
    pub(crate) most: Option<u64>,
    pub(crate) under_way: u64,
}

impl Window {
    /// Whether a request of a volume fits that has `own` under way, while volumes of a total weight are active. Whoever is first in line may
    /// have a request under way that is larger than the window.
    pub(crate) fn fits(&self, cost: u64, own: u64, weight: u64, active: u64, is_first: bool) -> bool {
        let Some(most) = self.most.filter(|_| active > weight) else { return true };
        // Its own share it has at once, even while others that were alone before have more than theirs under way.
        (own == 0 && is_first && self.under_way < most)
            || own.saturating_add(cost) <= share(most, weight, active)
            || self.under_way.saturating_add(cost) <= most
    }

    /// Whether nothing fits, whoever wants it, of volumes of this weight at most.
    pub(crate) fn is_full(&self, heaviest: u64, active: u64) -> bool {
        let Some(most) = self.most.filter(|_| active > 0) else { return false };
        self.under_way.saturating_add(OVERHEAD) > most && share(most, heaviest, active) < OVERHEAD
    }
}

/// Leaves in an order, each at most once.
#[derive(Clone, Debug)]
pub(crate) struct Ordered<K: Ord + Copy> {
    set: BTreeSet<(K, u32)>,
}

impl<K: Ord + Copy> Default for Ordered<K> {
    fn default() -> Self {
        Self { set: BTreeSet::new() }
    }
}

impl<K: Ord + Copy> Ordered<K> {
    pub(crate) fn insert(&mut self, key: K, leaf: u32) {
        let _new = self.set.insert((key, leaf));
    }

    pub(crate) fn remove(&mut self, key: K, leaf: u32) -> bool {
        self.set.remove(&(key, leaf))
    }

    pub(crate) fn first(&self) -> Option<(K, u32)> {
        self.set.first().copied()
    }

    /// The first one behind another.
    pub(crate) fn after(&self, last: Option<(K, u32)>) -> Option<(K, u32)> {
        match last {
            None => self.first(),
            Some(last) => self.set.range((std::ops::Bound::Excluded(last), std::ops::Bound::Unbounded)).next().copied(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.set.is_empty()
    }
}
