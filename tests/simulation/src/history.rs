//! What clients did, and which states a crash may leave: each family at a prefix of its steps, none older than what was made durable,
//! and all of them together at one cut through the order of things.

use std::ops::Range;

use cairn_engine::SyncMode;

use crate::model::{Content, Effect, Family};

/// One operation of a client. Ticks order the steps of all clients; moments are the disk's.
pub(crate) struct Step {
    pub(crate) effect: Effect,
    pub(crate) started: u64,
    pub(crate) start_moment: usize,
    /// Tick and moment of the answer.
    pub(crate) ended: Option<(u64, usize)>,
    /// The answer says that everything before it is durable.
    pub(crate) durable: bool,
    /// It may have come out in several ways; the next step says in which.
    pub(crate) unsettled: bool,
    /// Digest of the family after it.
    pub(crate) digest: u64,
}

/// The steps of one client since the pool was opened.
#[derive(Default)]
pub(crate) struct History {
    /// The state at the start.
    pub(crate) base: Family,
    pub(crate) steps: Vec<Step>,
    /// Its one volume acknowledges from memory: what others made durable says nothing of it, and nothing orders it among them.
    pub(crate) writeback: bool,
    /// The state after all steps, and after all but the last.
    now: Family,
    before: Family,
}

/// Where a recovered family stands: it equals the state after `least..=most` steps; or it lies within step `most`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) least: usize,
    pub(crate) most: usize,
    pub(crate) within: bool,
}

impl History {
    /// A history that begins with `base`.
    pub(crate) fn from(base: Family) -> Self {
        Self { now: base.clone(), before: base.clone(), base, steps: Vec::new(), writeback: false }
    }

    /// The state that the client expects.
    pub(crate) fn now(&self) -> Family {
        self.now.clone()
    }

    pub(crate) fn push(&mut self, step: Step, now: Family) {
        self.before = std::mem::replace(&mut self.now, now);
        self.steps.push(step);
    }

    /// The last step was refused and has changed nothing.
    pub(crate) fn take_back(&mut self) {
        let _refused = self.steps.pop();
        self.now = self.before.clone();
    }

    /// Whether a sector of a volume may have had this tag during the steps from `from` on. After anything but writes: yes.
    pub(crate) fn may_have_had(&self, volume: &str, from: usize, sector: u64, tag: u64) -> bool {
        self.steps.iter().skip(from).any(|step| match &step.effect {
            Effect::Write { volume: written, pieces } => {
                let hit = |p: &(u64, u64, u64)| (p.0..p.0 + p.1).contains(&sector) && p.2 == tag;
                written == volume && pieces.iter().any(hit)
            }
            Effect::None | Effect::Settled { .. } | Effect::Snapshot { .. } => false,
            _ => true,
        })
    }

    pub(crate) fn volume_names(&self) -> Vec<String> {
        self.now.volumes.keys().cloned().collect()
    }

    /// Volume and snapshot.
    pub(crate) fn snapshot_names(&self) -> Vec<(String, String)> {
        let all = self.now.volumes.iter();
        all.flat_map(|(v, live)| live.snapshots.keys().map(move |s| (v.clone(), s.clone()))).collect()
    }

    /// Volumes and snapshots.
    pub(crate) fn now_counts(&self) -> (usize, usize) {
        (self.now.volumes.len(), self.now.volumes.values().map(|v| v.snapshots.len()).sum())
    }

    pub(crate) fn live_of(&self, volume: &str) -> (u64, SyncMode) {
        self.now.volumes.get(volume).map_or((0, SyncMode::Flush), |v| (v.size, v.sync))
    }

    pub(crate) fn size_of(&self, volume: &str, snapshot: &str) -> u64 {
        self.now.volumes.get(volume).and_then(|v| v.snapshots.get(snapshot)).map_or(0, |s| s.size)
    }

    pub(crate) fn content(&self, volume: &str, snapshot: Option<&str>) -> Content {
        let live = self.now.volumes.get(volume);
        match snapshot {
            None => live.map(|v| v.content.clone()),
            Some(name) => live.and_then(|v| v.snapshots.get(name)).map(|s| s.content.clone()),
        }
        .unwrap_or_default()
    }

    /// What a volume held before the last step.
    pub(crate) fn before_last(&self, volume: &str) -> Content {
        self.before.volumes.get(volume).map(|v| v.content.clone()).unwrap_or_default()
    }

    /// Sectors of a range that were not zero before the last step, as writes of zeros.
    pub(crate) fn known_before_last(&self, volume: &str, range: Range<u64>) -> Vec<(u64, u64, u64)> {
        if range.is_empty() {
            return Vec::new();
        }
        let content = self.before_last(volume);
        content.sectors().range(range).map(|(sector, _)| (*sector, 1, 0)).collect()
    }

    /// Steps that had been started before `moment`.
    fn started(&self, moment: usize) -> usize {
        self.steps.partition_point(|s| s.start_moment <= moment)
    }

    /// The state after `n` steps.
    pub(crate) fn state_after(&self, n: usize) -> Family {
        let mut family = self.base.clone();
        self.steps.iter().take(n).for_each(|s| family.apply(&s.effect));
        family
    }

    fn digest_after(&self, n: usize) -> u64 {
        n.checked_sub(1).map_or_else(|| self.base.digest(), |at| self.steps[at].digest)
    }

    /// The first step from `lowest` on, before `highest`, that `found` lies within.
    fn within(&self, found: &Family, lowest: usize, highest: usize) -> Option<usize> {
        let mut before = self.state_after(lowest);
        for n in lowest..highest {
            if found.is_between(&before, &self.steps[n].effect) {
                return Some(n);
            }
            before.apply(&self.steps[n].effect);
        }
        None
    }

    /// Whether `found`, which equals an older state, may as well be half of a later step (zeros over data that they replace).
    fn is_within_later(&self, found: &Family, from: usize, moment: usize) -> bool {
        self.within(found, from, self.started(moment)).is_some()
    }

    /// Finds where `found` stands among the states after `lowest` steps or more.
    fn place(&self, found: &Family, lowest: usize, moment: usize) -> Result<Place, String> {
        let mut highest = self.started(moment);
        // A state can be there before the client has looked at which one it is.
        let unsettled = |n: usize| n.checked_sub(1).is_some_and(|last| self.steps[last].unsettled);
        if unsettled(highest) && highest < self.steps.len() {
            highest += 1;
        }
        let lowest_within = lowest - usize::from(unsettled(lowest));
        let digest = found.digest();
        let matches: Vec<usize> = (lowest..=highest).filter(|n| self.digest_after(*n) == digest).collect();
        if let (Some(&least), Some(&most)) = (matches.first(), matches.last()) {
            return Ok(Place { least, most, within: false });
        }
        if let Some(n) = self.within(found, lowest_within, highest) {
            return Ok(Place { least: n, most: n, within: true });
        }
        let older = (0..lowest).rev().find(|n| self.digest_after(*n) == digest);
        Err(match older {
            Some(n) => format!(
                "is at step {n} of {}, but everything up to step {lowest} was durable (lost: {:?})",
                self.steps.len(),
                self.steps[n..lowest].iter().map(|s| &s.effect).find(|e| !matches!(e, Effect::None))
            ),
            None => format!(
                "is at no prefix from step {lowest} to {highest}; against step {lowest}: {}; against step {highest}: {}",
                found.explain(&self.state_after(lowest)),
                found.explain(&self.state_after(highest))
            ),
        })
    }
}

/// How many steps of each family were durable at `moment`.
fn durable(histories: &[&History], moment: usize) -> Vec<usize> {
    let mut least = vec![0; histories.len()];
    let mut latest = 0;
    for (family, history) in histories.iter().enumerate() {
        for (n, step) in history.steps.iter().enumerate() {
            if step.durable && step.ended.is_some_and(|(_, at)| at <= moment) {
                least[family] = n + 1;
                latest = latest.max(step.started);
            }
        }
    }
    for (family, history) in histories.iter().enumerate().filter(|(_, history)| !history.writeback) {
        let before = history.steps.iter().take_while(|s| s.ended.is_some_and(|(tick, _)| tick < latest)).count();
        least[family] = least[family].max(before);
    }
    least
}

/// Checks what a crash at `moment` left of all families; says where each stands.
pub(crate) fn check(histories: &[&History], found: &[Family], moment: usize) -> Result<Vec<Place>, String> {
    let lowest = durable(histories, moment);
    let mut places = Vec::with_capacity(found.len());
    for (i, (history, family)) in histories.iter().zip(found).enumerate() {
        places.push(history.place(family, lowest[i], moment).map_err(|e| format!("family {i} {e}"))?);
    }
    // What is there for certain must not have begun after the end of something that is certainly not there.
    for (i, here) in histories.iter().enumerate() {
        let Some(last) = here.steps[..places[i].least].iter().rfind(|s| s.effect.is_change()) else { continue };
        for (j, there) in histories.iter().enumerate().filter(|(_, there)| !there.writeback) {
            let from = places[j].most + usize::from(places[j].within);
            let missing = there.steps[from..].iter().find(|s| s.effect.is_change());
            if let Some(missing) = missing
                && missing.ended.is_some_and(|(tick, at)| tick < last.started && at <= moment)
                && !there.is_within_later(&found[j], from, moment)
            {
                return Err(format!(
                    "family {i} has {:?}, which began after family {j} was told of {:?}, which is missing",
                    last.effect, missing.effect
                ));
            }
        }
    }
    Ok(places)
}
