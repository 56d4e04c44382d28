//! The values that sectors may have while many change them at once.

#![allow(unreachable_pub, missing_docs)]

use std::collections::BTreeMap;

/// A value that a sector may have: when its write began and ended, and since when a later one has replaced it for certain.
#[derive(Clone, Copy, Debug)]
pub struct Value {
    value: u64,
    start: u64,
    end: u64,
    replaced: u64,
}

pub const NEVER: u64 = u64::MAX;

/// Sectors and the values they may have. One that is not listed is zero.
#[derive(Clone, Default, Debug)]
pub struct Content {
    pub sectors: BTreeMap<u64, Vec<Value>>,
    /// A snapshot is being taken: it is of some moment of the call, so values that were replaced meanwhile count.
    pub freezing: bool,
    /// A revert under way, since when: sectors that were zero before and in the snapshot may be zero again.
    pub reverting: Option<u64>,
    /// Discards under way that only list the sectors that were listed when they began: since when, and of what. Others may be zero again.
    clearing: Vec<(u64, std::ops::Range<u64>)>,
    /// When the last revert ended.
    pub reverted: u64,
    /// When the last flush that has ended began: a crash leaves nothing that was replaced before.
    pub durable: u64,
}

impl Content {
    fn list(&mut self, sector: u64) -> &mut Vec<Value> {
        let zero = Value { value: 0, start: 0, end: 0, replaced: NEVER };
        let clearing = self.clearing.iter().filter(|(_, range)| range.contains(&sector)).map(|(start, _)| *start);
        let again = self.reverting.into_iter().chain(clearing).map(|start| Value { start, end: NEVER, ..zero });
        self.sectors.entry(sector).or_insert_with(|| [zero].into_iter().chain(again).collect())
    }

    /// A discard of so much that only what is listed counts, or gets listed before it ends.
    pub fn begin_discard(&mut self, range: std::ops::Range<u64>, now: u64) {
        for (_, list) in self.sectors.range_mut(range.clone()) {
            list.push(Value { value: 0, start: now, end: NEVER, replaced: NEVER });
        }
        self.clearing.push((now, range));
    }

    pub fn end_discard(&mut self, range: std::ops::Range<u64>, start: u64, now: u64, done: bool) {
        self.clearing.retain(|(since, _)| *since != start);
        for (_, list) in self.sectors.range_mut(range) {
            replace(list, start, now, done);
        }
    }

    pub fn begin(&mut self, sectors: std::ops::Range<u64>, value: u64, now: u64) {
        for sector in sectors {
            self.list(sector).push(Value { value, start: now, end: NEVER, replaced: NEVER });
        }
    }

    pub fn end(&mut self, sectors: std::ops::Range<u64>, start: u64, now: u64, done: bool) {
        for sector in sectors {
            replace(self.list(sector), start, now, done);
        }
    }

    /// What was replaced before a commit cannot come back. Reads that began before `reading` may still bring it: theirs is a value of any
    /// moment of their call, and they may take as long as a write and a flush.
    pub fn committed(&mut self, at: u64, reading: u64) {
        self.durable = self.durable.max(at);
        if self.freezing {
            return;
        }
        let at = self.durable.min(reading);
        for list in self.sectors.values_mut().filter(|list| list.len() > 1) {
            list.retain(|v| v.replaced >= at);
        }
    }

    /// What a snapshot of some moment since then holds.
    pub fn frozen(&self, since: u64, now: u64) -> Self {
        let keep = |v: &&Value| v.replaced >= since;
        let fix = |v: &Value| Value { start: now, end: now, replaced: NEVER, ..*v };
        let sectors = self.sectors.iter().map(|(s, l)| (*s, l.iter().filter(keep).map(fix).collect())).collect();
        Self { sectors, ..Self::default() }
    }

    pub fn begin_revert(&mut self, to: &Self, start: u64) {
        let sectors: Vec<u64> = self.sectors.keys().chain(to.sectors.keys()).copied().collect();
        for sector in sectors {
            let zero = [Value { value: 0, start, end: NEVER, replaced: NEVER }];
            let back = to.sectors.get(&sector).map_or(&zero[..], Vec::as_slice);
            let list = self.list(sector);
            if !list.iter().any(|v| v.start == start) {
                list.extend(back.iter().map(|v| Value { start, end: NEVER, ..*v }));
            }
        }
        self.reverting = Some(start);
    }

    pub fn end_revert(&mut self, start: u64, now: u64) {
        self.reverting = None;
        self.reverted = now;
        for list in self.sectors.values_mut() {
            replace(list, start, now, true);
        }
    }

    pub fn allows(&self, sector: u64, value: u64, since: u64) -> bool {
        match self.sectors.get(&sector) {
            Some(list) => list.iter().any(|v| v.value == value && v.replaced >= since),
            None => value == 0,
        }
    }
}

/// What began at `start` has ended, and if it was `done`, what had ended before it began is gone.
fn replace(list: &mut [Value], start: u64, now: u64, done: bool) {
    for v in list {
        if v.start == start {
            v.end = now;
        } else if done && v.end < start {
            v.replaced = v.replaced.min(now);
        }
    }
}
