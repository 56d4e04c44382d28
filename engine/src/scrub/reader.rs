//! The scrub that runs: batches, one after the other, and what they find.

use std::{collections::BTreeSet, rc::Rc, time::Duration};

use cairn_qos::{Kind, Request};

use super::locate::{Fault, Ranges, locate};
use crate::{
    check::{
        copies,
        verify::{self, Fault as Cause},
        walk::{Found, Root, Stretch, Visitor, Walk},
    },
    core::{Core, ReadGuard},
    info::Event,
    pace::{Meter, batch},
    qos::Permit,
    reactor::notify::{either, yield_now},
    space::{Space, reach::Reach},
    state::State,
    storage::buffer::IoBuf,
    tree::Nodes,
    units::{BLOCK, VersionId},
    upkeep::{Damage, DamageKind, Pace, ScrubOutcome, ScrubReport},
    versions::{Lineage, Version},
};

/// Damaged blocks whose readers are looked up.
const MOST_FAULTS: usize = 4096;
/// Damaged blocks that raise an event each.
const MOST_EVENTS: u64 = 64;

/// Whether a version is walked. One that waits for its deletion is not: what it holds alone is going away.
fn is_walked(version: &Version) -> bool {
    version.deletion == 0
}

/// What a version is called.
fn label(lineage: &Lineage, version: &Version) -> Option<String> {
    let live = lineage.live_of(version.volume).filter(|_| version.is_visible())?;
    Some(if live.id == version.id { live.name.clone() } else { format!("{}@{}", live.name, version.name) })
}

pub(super) struct Reader {
    core: Rc<Core>,
    report: ScrubReport,
    ranges: Ranges,
    faults: Vec<Fault>,
    meter: Meter,
    /// Since when the rate is measured, how much had been read then, and at which pace.
    since: (Duration, u64, Pace),
    /// The turn of the batch that is being read, and what the last one read.
    permit: Option<Permit>,
    owed: u64,
}

impl Reader {
    pub(super) fn new(core: &Rc<Core>, pace: Pace) -> Self {
        let now = core.reactor.now();
        core.state.borrow_mut().space.scrubbed = Some(Reach::new(core.superblock.borrow().total_blocks));
        Self {
            core: core.clone(),
            report: ScrubReport::default(),
            ranges: Ranges::default(),
            faults: Vec::new(),
            meter: Meter::new(now),
            since: (now, 0, pace),
            permit: None,
            owed: 0,
        }
    }

    pub(super) async fn run(mut self) {
        let through = self.read_all().await;
        self.permit = None;
        self.set_current(None);
        let faults = std::mem::take(&mut self.faults);
        if !faults.is_empty() {
            locate(&self.core, faults, &mut self.ranges).await;
        }
        self.finish(!through);
    }

    fn finish(mut self, cancelled: bool) {
        self.report.damaged = self.ranges.listed;
        self.report.left_out = self.ranges.left_out;
        let damaged_blocks = self.report.damaged_blocks;
        {
            let mut state = self.core.state.borrow_mut();
            state.scrubbed.clear();
            state.space.scrubbed = None;
            state.event(Event::ScrubEnded { cancelled, damaged_blocks });
        }
        {
            let mut scrub = self.core.scrub.borrow_mut();
            let running = scrub.running.take();
            scrub.last = running.map(|running| ScrubOutcome {
                number: running.number,
                started_ms: running.started_ms,
                ended_ms: self.core.reactor.unix_ms(),
                cancelled,
                report: self.report,
            });
        }
        self.core.signals.scrub.notify();
    }

    /// Says whether it came to the end.
    async fn read_all(&mut self) -> bool {
        self.read_superblocks().await && self.read_map().await && self.read_table().await && self.read_versions().await
    }

    // ---- going on ----

    fn pace(&self) -> Pace {
        self.core.scrub.borrow().running.as_ref().map_or_else(Pace::default, |running| running.pace)
    }

    /// Waits until the next batch is due; says whether there is to be one.
    async fn may_go_on(&mut self) -> bool {
        // One that is still there would keep its successor waiting.
        self.permit = None;
        loop {
            yield_now().await;
            if self.core.scrub.borrow().cancelled || self.core.closing.get() {
                return false;
            }
            let wait = self.meter.wait(self.core.reactor.now(), self.pace());
            if wait.is_zero() {
                // A batch pays for what the one before it read. Its turn may be long in coming, and meanwhile the scrub may be told something.
                let request = Request { kind: Kind::Read, bytes: self.owed };
                let (core, mut permit) = (self.core.clone(), None);
                let turn = async { permit = Some(core.qos.admit_background(request).await) };
                either(turn, core.signals.scrub.notified()).await;
                if permit.is_some() {
                    self.owed = 0;
                    self.permit = permit;
                    return true;
                }
                continue;
            }
            // A new pace counts at once, and so does the wish to end.
            either(self.core.reactor.sleep(wait), self.core.signals.scrub.notified()).await;
        }
    }

    /// Notes that a batch was read.
    fn spent(&mut self, began: Duration, blocks: u64) {
        let pace = self.pace();
        let bytes = blocks * BLOCK;
        self.report.bytes += bytes;
        self.permit = None;
        self.owed = bytes;
        self.meter.spent(began, bytes, pace);
        let now = self.core.reactor.now();
        if self.since.2 != pace {
            self.since = (began, self.report.bytes - bytes, pace);
        }
        let (since, before, _) = self.since;
        let micros = now.saturating_sub(since).as_micros().max(1);
        let rate = u128::from(self.report.bytes - before) * 1_000_000 / micros;
        if let Some(running) = &mut self.core.scrub.borrow_mut().running {
            running.done = self.report.bytes;
            running.total = running.total.max(running.done);
            running.rate = u64::try_from(rate).unwrap_or(u64::MAX);
            running.damaged_blocks = self.report.damaged_blocks;
        }
        self.core.signals.scrub.notify();
    }

    fn set_current(&self, name: Option<String>) {
        if let Some(running) = &mut self.core.scrub.borrow_mut().running {
            running.current = name;
        }
    }

    fn found(&mut self, what: String) {
        self.report.damaged_blocks += 1;
        if self.report.damaged_blocks <= MOST_EVENTS {
            self.core.state.borrow_mut().event(Event::ScrubDamage { what });
        }
    }

    fn pool_damage(&mut self, what: DamageKind, block: u64, cause: String) {
        let damage =
            Damage { volume: None, snapshot: None, offset: 0, length: 0, physical: block, blocks: 1, what, cause };
        self.found(damage.to_string());
        self.ranges.add([damage]);
    }

    // ---- metadata of the pool ----

    async fn read_superblocks(&mut self) -> bool {
        if !self.may_go_on().await {
            return false;
        }
        let began = self.core.reactor.now();
        for fault in copies::superblocks(&self.core).await.into_iter().filter(|fault| !fault.may_be_a_crash) {
            self.pool_damage(DamageKind::Superblock, fault.block, fault.cause);
        }
        self.report.superblocks = 4;
        self.spent(began, 4);
        true
    }

    async fn read_map(&mut self) -> bool {
        let pieces = copies::pieces(&self.core);
        let mut rest = &pieces[..];
        while !rest.is_empty() {
            if !self.may_go_on().await {
                return false;
            }
            self.core.between_checkpoints().await;
            if !self.core.is_settled() {
                break;
            }
            let began = self.core.reactor.now();
            let (some, more) = rest.split_at(batch(self.pace()).min(rest.len()));
            for fault in copies::damaged_pieces(&self.core, some).await {
                self.pool_damage(DamageKind::Map, fault.block, fault.cause);
            }
            self.report.map_pieces += some.len() as u64;
            self.spent(began, some.len() as u64);
            rest = more;
        }
        true
    }

    async fn read_table(&mut self) -> bool {
        let places = copies::table_blocks(&self.core);
        let mut rest = &places[..];
        while !rest.is_empty() {
            if !self.may_go_on().await {
                return false;
            }
            self.core.between_checkpoints().await;
            if !self.core.is_settled() {
                break;
            }
            let began = self.core.reactor.now();
            let (some, more) = rest.split_at(batch(self.pace()).min(rest.len()));
            let blocks = copies::table_pointers(&self.core, some);
            let hold = Hold::take(&self.core);
            let damaged = verify::blocks(&self.core, &blocks).await;
            drop(hold);
            for (found, fault) in damaged {
                self.pool_damage(DamageKind::Table, found.block().unwrap_or(0), fault.to_string());
            }
            self.report.table_blocks += blocks.len() as u64;
            self.spent(began, blocks.len() as u64);
            rest = more;
        }
        true
    }

    // ---- versions ----

    async fn read_versions(&mut self) -> bool {
        loop {
            let waiting: BTreeSet<VersionId> = {
                let state = self.core.state.borrow();
                let versions = state.lineage.iter().filter(|v| is_walked(v) && !state.scrubbed.contains(&v.id));
                versions.map(|v| v.id).collect()
            };
            if waiting.is_empty() {
                return true;
            }
            for id in waiting {
                if !self.read_version(id).await {
                    return false;
                }
            }
        }
    }

    async fn read_version(&mut self, id: VersionId) -> bool {
        let mut walk = Walk::new(0, 1, 1);
        loop {
            if !self.may_go_on().await {
                return false;
            }
            let size = batch(self.pace());
            walk.set_limits(size.div_ceil(16), size);
            let (stretch, name, hold) = {
                let core = self.core.clone();
                let mut state = core.state.borrow_mut();
                let State { lineage, nodes, space, scrubbed, .. } = &mut *state;
                let Some(version) = lineage.get(id).filter(|v| is_walked(v)) else { return true };
                let root = Root { pointer: version.root, height: version.depth, floor: None };
                let mut look = Look { nodes, space, strange: Vec::new() };
                let Some(stretch) = walk.find(&root, &mut look) else {
                    self.report.versions += 1;
                    let _new = scrubbed.insert(id);
                    return true;
                };
                let strange = std::mem::take(&mut look.strange);
                let name = label(lineage, version);
                drop(state);
                for found in strange {
                    self.damaged(name.as_deref(), found, &Cause::Place);
                }
                (stretch, name, Hold::take(&self.core))
            };
            self.set_current(name.clone());
            self.read(&mut walk, &stretch, name.as_deref(), hold).await;
            walk.advance(&stretch);
        }
    }

    async fn read(&mut self, walk: &mut Walk, stretch: &Stretch, name: Option<&str>, hold: Hold) {
        let blocks = (stretch.nodes.len() + stretch.data.len()) as u64;
        if blocks == 0 {
            return;
        }
        let began = self.core.reactor.now();
        let nodes = verify::nodes(&self.core, &stretch.nodes).await;
        let damaged = verify::blocks(&self.core, &stretch.data).await;
        drop(hold);
        self.report.nodes += stretch.nodes.len() as u64;
        self.report.data_blocks += stretch.data.len() as u64;
        for (found, outcome) in nodes {
            match outcome {
                Ok(bytes) => walk.opened(found, bytes),
                Err(fault) => self.damaged(name, found, &fault),
            }
        }
        for (found, fault) in damaged {
            self.damaged(name, found, &fault);
        }
        self.spent(began, blocks);
    }

    fn damaged(&mut self, name: Option<&str>, found: Found, fault: &Cause) {
        let block = found.block().unwrap_or(0);
        if *fault == Cause::Place && self.faults.iter().any(|known| known.found == found) {
            return;
        }
        let kind = if found.height == 0 { "data" } else { "metadata node" };
        let whose = name.unwrap_or("a deleted version");
        self.found(format!("{whose}: {kind} at offset {}, physical block {block}, {fault}", found.base * BLOCK));
        if !matches!(fault, Cause::Unreadable(_)) {
            self.core.state.borrow_mut().checksum_errors += 1;
        }
        // It is not read again for another version.
        self.core.state.borrow_mut().space.note_scrubbed(block);
        if self.faults.len() < MOST_FAULTS {
            self.faults.push(Fault { found, cause: fault.to_string() });
        } else {
            self.ranges.left_out += 1;
        }
    }
}

/// Keeps the blocks of one batch; a write that finds no space waits for its end.
struct Hold {
    core: Rc<Core>,
    _guard: ReadGuard,
}

impl Hold {
    fn take(core: &Rc<Core>) -> Self {
        core.scrub_holds.set(true);
        Self { core: core.clone(), _guard: core.hold() }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.core.scrub_holds.set(false);
    }
}

/// A look at the pool as it is, for one step of a walk.
struct Look<'a> {
    nodes: &'a Nodes,
    space: &'a mut Space,
    /// Pointers to where nothing can be.
    strange: Vec<Found>,
}

impl Visitor for Look<'_> {
    /// What no checkpoint has written yet cannot be damaged on the medium; what it leads to can.
    fn enter_dirty(&mut self, _: Found, slot: u32) -> Option<Rc<IoBuf>> {
        self.nodes.slot(slot).map(|node| node.bytes.clone())
    }

    fn wants(&mut self, found: Found) -> bool {
        let Some(block) = found.block() else { return false };
        if !self.space.is_allocatable(block) {
            self.strange.push(found);
            return false;
        }
        let new = !self.space.was_scrubbed(block);
        if new && found.height == 0 {
            self.space.note_scrubbed(block);
        }
        new
    }

    fn completed(&mut self, found: Found) {
        if let Some(block) = found.block().filter(|_| found.height > 0) {
            self.space.note_scrubbed(block);
        }
    }
}
