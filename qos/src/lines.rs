//! Who waits for tokens of a limit, in order; and a limiter with the lines before it.

use std::collections::BTreeSet;

use crate::{Key, Nanos, Request, limiter::Limiter, share::Tag};

/// A place in the order of all that waits: a tag, and among equal ones the number of the ticket. Last the flow that it is of.
pub(crate) type Order = (Tag, u64, u32);

/// Some of the six limits of a node, as bits.
pub(crate) type Keys = u8;

/// A volume's, a group's or the pool's limits, and a line before each. Whoever is not the first in a line takes no tokens of that limit, so
/// that those who need more than there is come to them.
#[derive(Default)]
pub(crate) struct Gate {
    pub(crate) limiter: Limiter,
    lines: [BTreeSet<Order>; Key::ALL.len()],
}

/// Why a request cannot pass a gate.
#[derive(Clone, Copy)]
pub(crate) struct Short {
    /// When to look again, if it is first everywhere: there will be enough, or it has to stand in another line, too. Else it is told when it is first.
    pub(crate) until: Option<Nanos>,
    /// What holds it back the longest.
    pub(crate) key: Key,
    /// What it waits for: the lines in which it has to stand.
    pub(crate) keys: Keys,
    /// The lines in which it is not to stand now. (In that of what is there, and was waited for, it stays.)
    pub(crate) not_yet: Keys,
}

impl Gate {
    /// Whether there is enough for a request, and nobody before it waits for the same.
    pub(crate) fn look(&mut self, request: &Request, order: Order, now: Nanos) -> Option<Short> {
        let (mut ready, mut by, mut behind, mut before) = (now, None, None, 0);
        let mut short = [None; Key::ALL.len()];
        let lines = &self.lines;
        self.limiter.each_ready(request, now, |key, at, lead| {
            if lines[key as usize].first().is_some_and(|first| *first < order) {
                behind = Some(key);
                before |= 1 << key as u8;
            }
            short[key as usize] = (at > now).then_some(lead);
            if at > ready {
                (ready, by) = (at, Some(key));
            }
        });
        if behind.is_some() {
            return by.or(behind).map(|key| Short { until: None, key, keys: before, not_yet: !before });
        }
        // In the line of what comes sooner than the last of it only in time for that: what it cannot use yet is anybody's.
        let key = by?;
        let (mut keys, mut until, mut not_yet) = (1 << key as u8, ready, 0);
        for (other, lead) in (0..).zip(short).filter_map(|(other, lead)| Some((other, lead?))) {
            let begin = ready.saturating_sub(lead);
            if begin <= now {
                keys |= 1 << other;
            } else if other != key as u8 {
                until = until.min(begin);
                not_yet |= 1 << other;
            }
        }
        Some(Short { until: Some(until), key, keys, not_yet })
    }

    /// Stands in lines from now on.
    pub(crate) fn join(&mut self, keys: Keys, order: Order) {
        for (_, line) in self.lines.iter_mut().enumerate().filter(|(key, _)| keys >> key & 1 == 1) {
            let _new = line.insert(order);
        }
    }

    /// Leaves lines; flows that are first in one of them now.
    pub(crate) fn leave(&mut self, keys: Keys, order: Order) -> Vec<u32> {
        let of = |key: usize| keys >> key & 1 == 1;
        let left = self.lines.iter_mut().enumerate().filter(|(key, _)| of(*key));
        left.filter_map(|(_, line)| {
            let was_first = line.first() == Some(&order);
            let _was = line.remove(&order);
            line.first().filter(|_| was_first).map(|first| first.2)
        })
        .collect()
    }

    /// Whether somebody waits for a limit that a request needs.
    pub(crate) fn is_waited_for(&self, request: &Request) -> bool {
        if self.limiter.is_unlimited() {
            return false;
        }
        let keys = self.limiter.concerns(request);
        (0..).zip(&self.lines).any(|(key, line)| keys >> key & 1 == 1 && !line.is_empty())
    }

    pub(crate) fn clear_lines(&mut self) {
        self.lines.iter_mut().for_each(BTreeSet::clear);
    }
}
