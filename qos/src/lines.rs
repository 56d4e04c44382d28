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
    /// When there will be enough, if it is first everywhere; else it is told when it is.
    pub(crate) until: Option<Nanos>,
    /// What holds it back the longest.
    pub(crate) key: Key,
    /// What it waits for: the lines in which it has to stand.
    pub(crate) keys: Keys,
}

impl Gate {
    /// Whether there is enough for a request, and nobody before it waits for the same.
    pub(crate) fn look(&mut self, request: &Request, order: Order, now: Nanos) -> Option<Short> {
        let (mut ready, mut keys, mut by, mut behind) = (now, 0, None, None);
        let lines = &self.lines;
        self.limiter.each_ready(request, now, |key, at| {
            let is_behind = lines[key as usize].first().is_some_and(|first| *first < order);
            if is_behind {
                behind = Some(key);
            }
            if is_behind || at > now {
                keys |= 1 << key as u8;
            }
            if at > ready {
                (ready, by) = (at, Some(key));
            }
        });
        let key = by.or(behind)?;
        Some(Short { until: behind.is_none().then_some(ready), key, keys })
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

    pub(crate) fn clear_lines(&mut self) {
        self.lines.iter_mut().for_each(BTreeSet::clear);
    }
}
