//! Fair shares of a device that several want more of than it gives: start tags, and a window of what may be under way.

use std::collections::BTreeMap;

use crate::{Nanos, SECOND};

/// What a request costs besides its bytes: a small one takes a device about as long as so many bytes of a large one.
pub(crate) const OVERHEAD: u64 = 16 << 10;
/// Where the limits of the pool are what is short, background work has a sixteenth of the share of a volume of weight 1.
const BACKGROUND: u64 = 16;
/// Tags are in sixteenths of a byte at a weight of 1, so that the shares of background work are whole numbers.
const SCALE: u128 = 1 << 20;

/// Background work that has waited for so long goes, whatever others want.
pub(crate) const PATIENCE: Nanos = SECOND / 4;

/// What has been under way for so long, and nothing else of its volume has ended meanwhile, does not count in the window any more: it hangs somewhere
/// else than in the device.
pub(crate) const STALLED: Nanos = SECOND;

/// How often what hangs is looked for, while something waits for the window.
pub(crate) const LOOK: Nanos = STALLED / 4;

/// For how long after the end of its last request a volume still counts as one that wants the device. Whoever has several requests open at a time is without any
/// for moments, while its client takes the answers; a flood must not fill the device in these.
pub(crate) const LINGER: Nanos = SECOND / 20;

/// What a request weighs in the window, and moves its volume's tag.
pub(crate) fn cost(bytes: u64) -> u64 {
    bytes.saturating_add(OVERHEAD)
}

/// What it weighs more when it is so many requests for the device.
pub(crate) fn in_pieces(pieces: u64) -> u64 {
    pieces.saturating_sub(1).saturating_mul(OVERHEAD)
}

/// Virtual time: the start tag of whoever went last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clock {
    now: u128,
}

/// How far a leaf is in virtual time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tag(u128);

impl Tag {
    /// So much later as a cost takes.
    pub(crate) fn later(self, cost: u64, weight: u64) -> Self {
        Self(self.0.saturating_add(length(cost, weight)))
    }
}

impl Clock {
    /// The start tag of a leaf's next request: never before those that have gone, so that idling saves nothing up.
    pub(crate) fn start(&self, finish: Tag) -> Tag {
        Tag(finish.0.max(self.now))
    }

    /// A request that started at a tag goes; the leaf's tag afterwards.
    pub(crate) fn go(&mut self, start: Tag, finish: Tag, cost: u64, weight: u64) -> Tag {
        self.now = self.now.max(start.0);
        start.max(finish).later(cost, weight)
    }

    /// The same for what goes beside the window: it is never further ahead of the clock than one request, as what it got more than its share is not
    /// held against it later. It moves the clock only to where it stood in line above its volume: others in that line have to come to their turn.
    pub(crate) fn go_beside(&mut self, stood: Option<Tag>, cost: u64, weight: u64) -> Tag {
        self.now = self.now.max(stood.map_or(0, |start| start.0));
        Tag(self.now).later(cost, weight)
    }

    /// The same for background work.
    pub(crate) fn go_background(&mut self, stood: Option<Tag>, cost: u64) -> Tag {
        self.go_beside(stood, cost.saturating_mul(BACKGROUND), 1)
    }
}

/// Virtual time that a cost takes.
fn length(cost: u64, weight: u64) -> u128 {
    u128::from(cost) * SCALE / u128::from(weight.max(1))
}

fn share(most: u64, weight: u64, active: u64) -> u64 {
    (u128::from(most) * u128::from(weight) / u128::from(active.max(1))) as u64
}

/// Weights of the leaves that have something under way or waiting.
#[derive(Clone, Debug, Default)]
pub(crate) struct Active {
    /// Of all of them.
    pub(crate) sum: u64,
    /// How many have each weight.
    counts: BTreeMap<u64, u32>,
}

impl Active {
    /// A leaf adds so much from now on, where it added so much before; zero: nothing.
    pub(crate) fn change(&mut self, before: u64, now: u64) {
        if before == now {
            return;
        }
        self.sum = self.sum.saturating_sub(before).saturating_add(now);
        if let Some(count) = self.counts.get_mut(&before) {
            *count -= 1;
            if *count == 0 {
                let _none = self.counts.remove(&before);
            }
        }
        if now > 0 {
            *self.counts.entry(now).or_default() += 1;
        }
    }

    fn heaviest(&self) -> u64 {
        self.counts.last_key_value().map_or(1, |(weight, _)| *weight)
    }
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
        (is_first && self.under_way < most)
            || own.saturating_add(cost) <= share(most, weight, active)
            || self.under_way.saturating_add(cost) <= most
    }

    /// How many requests of a cost are the share of a volume (of weight 0: background work) while others want the device: one at least.
    pub(crate) fn room(&self, cost: u64, weight: u64, active: u64) -> Option<u64> {
        let most = self.most.filter(|_| active > weight)?;
        Some((share(most, weight, active) / cost).max(1))
    }

    /// Whether nothing fits, whoever wants it.
    pub(crate) fn is_full(&self, active: &Active) -> bool {
        let Some(most) = self.most.filter(|_| active.sum > 0) else { return false };
        self.under_way.saturating_add(OVERHEAD) > most && share(most, active.heaviest(), active.sum) < OVERHEAD
    }
}
