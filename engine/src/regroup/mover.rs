//! The regroup that runs: it looks for scattered leaves in the order of the volume, and moves what is worth it, a leaf at a time.

use std::{rc::Rc, time::Duration};

use cairn_qos::{Kind, Request};

use super::{
    measure::{Plan, runs},
    piece::{At, LEAF, Needed, Piece, Replaced, has_room, leaf_at, replace, sound},
};
use crate::{
    check::{
        verify::{self, Fault},
        walk::Found,
    },
    core::{Core, ReadGuard},
    error::{Error, ErrorKind, Result, no_space},
    format::pointer::Pointer,
    gather::Reserved,
    info::Event,
    pace::Meter,
    qos::Permit,
    reactor::notify::{either, yield_now},
    scrub::Ranges,
    space::{Purpose, Shortage},
    state::{State, tree_of},
    storage::{Part, buffer::IoBuf},
    units::{BLOCK, BLOCK_SIZE, VolumeId},
    upkeep::{Damage, DamageKind, Pace, RegroupEnd, RegroupOutcome, RegroupReport},
    versions::span,
};

/// Leaves looked at in one step, so that a pass over what is in order does not hold up the reactor.
const LEAVES_PER_STEP: u32 = 64;
/// Reads under way at once.
const DEPTH: usize = 32;
/// How often a piece is read and written for nothing before it is left.
const MOST_VAIN: u32 = 3;
/// Blocks on their way to being free that a check holds back before a regroup waits for its end.
const BESIDE_CHECK: u64 = 16 * LEAF;
/// Damaged blocks that raise an event each.
const MOST_EVENTS: u64 = 64;

/// What a look comes to.
enum Look {
    /// The volume's end.
    End,
    /// The volume was deleted.
    Gone,
    /// Nothing to move so far.
    On,
    Piece(Box<Piece>),
}

pub(super) struct Mover {
    core: Rc<Core>,
    volume: VolumeId,
    dry_run: bool,
    report: RegroupReport,
    ranges: Ranges,
    /// Everything before this block was looked at; the first of a leaf.
    cursor: u64,
    meter: Meter,
    /// The turn of the piece under way, and what the one before it read and wrote.
    permit: Option<Permit>,
    owed: (u64, u64),
    /// How often in a row there was no room.
    shortages: u32,
    /// How often in a row a piece was read and written, and not moved since the tree took no changes.
    vain: u32,
    /// Damaged blocks of the leaf at the cursor: told once, however often it is looked at.
    damaged: Vec<(u64, Pointer)>,
}

impl Mover {
    pub(super) fn new(core: &Rc<Core>, volume: VolumeId, dry_run: bool) -> Self {
        Self {
            core: core.clone(),
            volume,
            dry_run,
            report: RegroupReport::default(),
            ranges: Ranges::default(),
            cursor: 0,
            meter: Meter::new(core.reactor.now()),
            permit: None,
            owed: (0, 0),
            shortages: 0,
            vain: 0,
            damaged: Vec::new(),
        }
    }

    pub(super) async fn run(mut self) {
        let (end, why) = match self.pass().await {
            Ok(RegroupEnd::Deleted) => (RegroupEnd::Deleted, Some("the volume was deleted meanwhile".to_owned())),
            Ok(end) => (end, None),
            Err(error) if error.kind() == ErrorKind::NoSpace => (RegroupEnd::NoSpace, Some(error.to_string())),
            Err(error) => (RegroupEnd::Failed, Some(error.to_string())),
        };
        self.permit = None;
        self.finish(end, why);
    }

    fn finish(mut self, end: RegroupEnd, why: Option<String>) {
        self.report.damaged = self.ranges.listed;
        self.report.left_out = self.ranges.left_out;
        let Some(running) = self.core.regroup.borrow_mut().running.take() else { return };
        let moved = if self.dry_run { 0 } else { self.report.moved_blocks * BLOCK };
        let finished = end == RegroupEnd::Finished;
        self.core.state.borrow_mut().event(Event::RegroupEnded { volume: running.volume.clone(), finished, moved });
        self.core.regroup.borrow_mut().last = Some(RegroupOutcome {
            number: running.number,
            volume: running.volume,
            dry_run: self.dry_run,
            started_ms: running.started_ms,
            ended_ms: self.core.reactor.unix_ms(),
            end,
            why,
            report: self.report,
        });
        self.core.signals.regroup.notify();
    }

    async fn pass(&mut self) -> Result<RegroupEnd> {
        loop {
            if !self.may_go_on().await? {
                return Ok(RegroupEnd::Cancelled);
            }
            let began = self.core.reactor.now();
            // From the look to the hold nothing is awaited.
            let core = self.core.clone();
            let look = self.look(&core.state.borrow());
            match look {
                Ok(Look::End) => return Ok(RegroupEnd::Finished),
                Ok(Look::Gone) => return Ok(RegroupEnd::Deleted),
                Ok(Look::On) => {}
                Ok(Look::Piece(piece)) if self.dry_run => self.note(&piece),
                Ok(Look::Piece(piece)) => {
                    let room = has_room(&mut core.state.borrow_mut(), &piece);
                    match room {
                        true => self.regroup(*piece, Hold::take(&core)).await?,
                        false => self.make_room(&piece).await?,
                    }
                }
                Err(needed) => self.load(needed).await,
            }
            self.spent(began);
        }
    }

    // ---- going on ----

    fn pace(&self) -> Pace {
        self.core.regroup.borrow().running.as_ref().map_or_else(Pace::default, |running| running.pace)
    }

    fn is_to_end(&self) -> bool {
        self.core.regroup.borrow().cancelled || self.core.closing.get()
    }

    /// Waits until the next piece is due; says whether there is to be one. Nothing is held meanwhile.
    async fn may_go_on(&mut self) -> Result<bool> {
        self.permit = None;
        loop {
            yield_now().await;
            if self.is_to_end() {
                return Ok(false);
            }
            if !self.dry_run {
                self.core.writable()?;
            }
            if self.waits_for_check() {
                either(self.core.check_over(), self.core.signals.regroup.notified()).await;
                continue;
            }
            let wait = self.meter.wait(self.core.reactor.now(), self.pace());
            if !wait.is_zero() {
                // A new pace counts at once, and so does the wish to end.
                either(self.core.reactor.sleep(wait), self.core.signals.regroup.notified()).await;
                continue;
            }
            // A piece pays for what the one before it wrote, then for what that read.
            let (kind, bytes) = match self.owed {
                (_, written) if written > 0 => (Kind::Write, written),
                (read, _) => (Kind::Read, read),
            };
            let (core, mut permit) = (self.core.clone(), None);
            let turn = async { permit = Some(core.qos.admit_background(Request { kind, bytes }).await) };
            either(turn, core.signals.regroup.notified()).await;
            match (permit, kind) {
                (None, _) => {}
                (Some(_), Kind::Write) => self.owed.1 = 0,
                (permit, _) => {
                    self.owed.0 = 0;
                    if !self.dry_run && !self.core.admits() {
                        drop(permit);
                        self.core.admit().await?;
                        continue;
                    }
                    self.permit = permit;
                    return Ok(true);
                }
            }
        }
    }

    /// A check keeps all that is released meanwhile, so what is moved beside one takes space as new data does: only so much of it.
    fn waits_for_check(&self) -> bool {
        !self.dry_run && self.core.check_running.get() && self.core.state.borrow().space.releasing() > BESIDE_CHECK
    }

    /// Notes how far it is.
    fn spent(&mut self, began: Duration) {
        self.permit = None;
        self.meter.spent(began, self.owed.0 + self.owed.1, self.pace());
        let live = self.core.state.borrow().lineage.live_of(self.volume).map(|v| (v.name.clone(), v.size));
        if let (Some(running), Some((name, size))) = (&mut self.core.regroup.borrow_mut().running, live) {
            running.volume = name;
            running.total = size;
            running.done = self.cursor.saturating_mul(BLOCK).min(size);
            running.moved = self.report.moved_blocks * BLOCK;
            running.damaged_blocks = self.report.damaged_blocks;
        }
        self.core.signals.regroup.notify();
    }

    // ---- looking ----

    fn look(&mut self, state: &State) -> Result<Look, Needed> {
        let Some(version) = state.lineage.live_of(self.volume) else { return Ok(Look::Gone) };
        let (tree, floor, end) = (tree_of(version), state.lineage.floor(version), version.blocks());
        for _ in 0..LEAVES_PER_STEP {
            if self.cursor >= end {
                return Ok(Look::End);
            }
            match leaf_at(&state.nodes, tree, floor, self.cursor)? {
                At::Nothing(upto) => self.cursor = upto,
                At::Leaf(bytes) => {
                    let nodes = u64::from(tree.depth) + 2;
                    let piece = Piece::of(bytes, self.cursor, floor, nodes, &self.damaged);
                    if !piece.plan.is_empty() {
                        return Ok(Look::Piece(Box::new(piece)));
                    }
                    self.done_with(&piece, runs(&piece.blocks));
                }
            }
        }
        Ok(Look::On)
    }

    /// A leaf was looked at and, if it was worth it, moved.
    fn done_with(&mut self, piece: &Piece, runs_after: u64) {
        let report = &mut self.report;
        report.ranges += 1;
        report.scattered += u64::from(!piece.plan.is_empty());
        report.runs_before += runs(&piece.blocks);
        report.runs_after += runs_after;
        report.shared_blocks += piece.shared;
        self.cursor = piece.base + LEAF;
        self.shortages = 0;
        self.vain = 0;
        self.damaged.clear();
    }

    /// It would be moved.
    fn note(&mut self, piece: &Piece) {
        self.report.moved_blocks += piece.plan.moves.len() as u64;
        self.done_with(piece, runs(&piece.blocks) - piece.plan.saved);
    }

    /// It stays as it is: free space is in pieces too small.
    fn leave(&mut self, piece: &Piece) {
        self.report.left_ranges += 1;
        self.done_with(piece, runs(&piece.blocks));
    }

    async fn load(&mut self, needed: Needed) {
        let Needed(found, missing) = needed;
        self.owed.0 += missing.nodes.len() as u64 * BLOCK;
        if let Err(error) = self.core.load(missing).await {
            let damage = self.tell(found, DamageKind::Node, error.to_string());
            self.ranges.add(damage);
            self.cursor = found.base + span(found.height);
        }
    }

    /// Counts and tells what is damaged; None when the volume is gone.
    fn tell(&mut self, found: Found, what: DamageKind, cause: String) -> Option<Damage> {
        let live = self.core.state.borrow().lineage.live_of(self.volume).map(|v| (v.name.clone(), v.size));
        let (name, size) = live?;
        let offset = found.base * BLOCK;
        let length = (span(found.height) * BLOCK).min(size.saturating_sub(offset));
        let physical = found.block().unwrap_or(0);
        let damage = Damage { volume: Some(name), snapshot: None, offset, length, physical, blocks: 1, what, cause };
        self.report.damaged_blocks += 1;
        if self.report.damaged_blocks <= MOST_EVENTS {
            self.core.state.borrow_mut().event(Event::RegroupDamage { what: damage.to_string() });
        }
        Some(damage)
    }

    // ---- room ----

    /// The pool is nearly full as it is now: what is on its way to being free may be enough.
    async fn make_room(&mut self, piece: &Piece) -> Result<()> {
        self.permit = None;
        let core = self.core.clone();
        let checked = core.check_running.get();
        core.commit_twice().await?;
        if !has_room(&mut core.state.borrow_mut(), piece) {
            core.checkpoint().await?;
            core.commit_twice().await?;
        }
        if has_room(&mut core.state.borrow_mut(), piece) {
            return Ok(());
        }
        if checked && core.state.borrow().space.releasing() > 0 {
            // It holds back what was released; this is in no hurry.
            either(core.check_over(), core.signals.regroup.notified()).await;
            return Ok(());
        }
        Err(self.nearly_full())
    }

    fn nearly_full(&self) -> Error {
        let state = self.core.state.borrow();
        no_space(format!(
            "pool {} is nearly full ({} blocks of 4 KiB free, {} of them kept back): what was moved so far stays moved; delete snapshots or \
             volumes, or use a larger pool, and regroup again",
            self.core.path.display(),
            state.space.free(),
            2 * state.space.reserve()
        ))
    }

    async fn short_of(&mut self, shortage: Shortage) -> Result<()> {
        self.permit = None;
        if self.core.check_running.get() && !matches!(shortage, Shortage::Unbacked) {
            // Asking for room would end it; this is in no hurry.
            either(self.core.check_over(), self.core.signals.regroup.notified()).await;
            return Ok(());
        }
        self.shortages += 1;
        match self.core.make_room(shortage, Purpose::Data, self.shortages).await? {
            true => Ok(()),
            false => Err(self.nearly_full()),
        }
    }

    // ---- moving ----

    /// Moves what is worth it of a leaf; or changes nothing, to look at it again.
    async fn regroup(&mut self, mut piece: Piece, hold: Hold) -> Result<()> {
        if !self.core.state.borrow().space.has_long_runs(piece.plan.moves.len() as u64) {
            self.leave(&piece);
            return Ok(());
        }
        let Some(data) = self.read(&mut piece).await else {
            // Without what is damaged there is nothing worth moving.
            self.done_with(&piece, runs(&piece.blocks));
            return Ok(());
        };
        self.owed.1 += data.len() as u64;
        let part = Part { range: 0..data.len(), buf: Rc::new(data) };
        // Never with a wait for room: that waits until the hold is over.
        let reserved = match self.core.begin_write(part, Purpose::Data, piece.nodes).once().await? {
            Ok(reserved) => reserved,
            Err(shortage) => {
                drop(hold);
                return self.short_of(shortage).await;
            }
        };
        let places: Vec<u64> = reserved.runs.iter().flat_map(|run| run.start..run.end()).collect();
        let before = runs(&piece.blocks);
        if (before - piece.runs_at(places.iter().copied()).min(before)) * 2 < piece.plan.saved {
            self.leave(&piece);
            return Ok(());
        }
        // Else something would have to be waited for: without the hold, and with the new blocks given up, it is looked at again.
        if let Some((runs_after, used)) = self.replace(&piece, &places).await {
            // Before anything is awaited, as for any write.
            self.settle(reserved, &used);
            drop(hold);
            self.done_with(&piece, runs_after);
            self.core.commit_if_large();
            return Ok(());
        }
        self.vain += 1;
        if self.vain == MOST_VAIN {
            self.leave(&piece);
        }
        Ok(())
    }

    /// The content of what is to be moved, compared with its checksums. What is damaged stays and is reported, and the plan is made anew without
    /// it; none, when nothing is left of it.
    async fn read(&mut self, piece: &mut Piece) -> Option<IoBuf> {
        let moved = piece.moved();
        let sorted = verify::in_order(&moved);
        let list = verify::neighbours(&sorted);
        let mut data = IoBuf::with_len(moved.len() * BLOCK_SIZE);
        let mut faults: Vec<(Found, Fault)> = Vec::new();
        let permit = self.permit.as_ref();
        if let Some(permit) = permit {
            permit.in_pieces(list.len() as u64);
        }
        // As a read of a volume does: while others want the device, no more is under way than leaves them their share.
        let at_a_time = || permit.and_then(|permit| permit.room(BLOCK)).map_or(DEPTH, |room| room.min(DEPTH));
        verify::each(&self.core, &list, at_a_time, |found, bytes| match bytes {
            Ok(bytes) if sound(found, bytes) => {
                if let Ok(at) = moved.binary_search_by_key(&found.base, |f| f.base) {
                    data[at * BLOCK_SIZE..(at + 1) * BLOCK_SIZE].copy_from_slice(bytes);
                }
            }
            Ok(_) => faults.push((*found, Fault::Checksum)),
            Err(fault) => faults.push((*found, fault)),
        })
        .await;
        if let Some(permit) = permit {
            permit.in_pieces(1);
        }
        self.owed.0 += data.len() as u64;
        if faults.is_empty() {
            return Some(data);
        }
        faults.sort_by_key(|(found, _)| found.base);
        let mut damaged = Vec::new();
        for (found, fault) in faults {
            piece.leave_out(found.base);
            self.damaged.push((found.base, found.pointer));
            if !matches!(fault, Fault::Unreadable(_)) {
                self.core.state.borrow_mut().checksum_errors += 1;
            }
            damaged.extend(self.tell(found, DamageKind::Data, fault.to_string()));
        }
        self.ranges.add(damaged);
        piece.plan = Plan::of(&piece.blocks);
        let mut rest = IoBuf::with_len(piece.plan.moves.len() * BLOCK_SIZE);
        for (found, to) in piece.moved().iter().zip(rest.chunks_exact_mut(BLOCK_SIZE)) {
            if let Ok(at) = moved.binary_search_by_key(&found.base, |f| f.base) {
                to.copy_from_slice(&data[at * BLOCK_SIZE..(at + 1) * BLOCK_SIZE]);
            }
        }
        (!piece.plan.is_empty()).then_some(rest)
    }

    /// Puts moved blocks into the tree, in one step, where it has what was read. None when that would have to wait for a commit or a
    /// checkpoint, or when the volume or a node of it is gone.
    async fn replace(&self, piece: &Piece, places: &[u64]) -> Option<Replaced> {
        loop {
            if self.core.writable().is_err() || !self.core.admits() {
                return None;
            }
            let step = replace(&mut self.core.state.borrow_mut(), self.volume, piece, places);
            match step {
                Ok(replaced) => return replaced,
                Err(missing) => self.core.load(missing).await.ok()?,
            }
        }
    }

    /// Blocks that are in the tree are in use, the others are given up.
    fn settle(&mut self, mut reserved: Reserved, used: &[bool]) {
        for &used in used {
            if used {
                reserved.advance(1);
                self.report.moved_blocks += 1;
            } else {
                reserved.give_up(1);
                self.report.changed_blocks += 1;
            }
        }
    }
}

/// Keeps the blocks of one piece while the device reads and writes; a write that finds no space waits for its end.
struct Hold {
    core: Rc<Core>,
    _guard: ReadGuard,
}

impl Hold {
    fn take(core: &Rc<Core>) -> Self {
        core.regroup_holds.set(true);
        Self { core: core.clone(), _guard: core.hold() }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.core.regroup_holds.set(false);
        self.core.signals.regroup.notify();
    }
}
