//! Work that nobody waits for: growing the file, deletion, giving space back, pruning branch points, counting, and the clock.

use std::{rc::Rc, time::Duration};

use cairn_qos::{Kind, Request};

use crate::{
    core::Core,
    error::{ErrorKind, Result},
    info::Event,
    reactor::notify::yield_now,
    space::{Purpose, SEGMENT, Shortage, bitmap::Run},
    state::{Deletion, Need, tree_of},
    storage::Op,
    tree::count,
    units::{BLOCK, VersionId},
    versions::{State, Version},
};

/// Segments that the file grows by at once: 64 MiB.
const GROW_SEGMENTS: u64 = 16;
/// Deletion steps between two looks at the rest of the world.
const STEPS_PER_TURN: usize = 4;
/// Empty segments given back at each tick at most: 64 MiB.
const PUNCH_PER_TICK: usize = 16;
/// How long background deletion rests after an error.
const DELETION_RETRY: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(250);
/// After how many ticks the file system is asked again for what it refused: late enough that a few writes have asked for all segments.
const RETRY_TICKS: u32 = 8;
/// After how many ticks credits are noted: a second.
const NOTE_TICKS: u32 = 4;
/// Overwritten shared blocks after which branch points are worth pruning again.
const PRUNE_AFTER: u64 = 16_384;
/// How often a write asks again for space that is on its way to being free.
const ATTEMPTS: u32 = 16;
/// Checkpoints that a change of metadata waits for at most while others take the room.
const TURNS: u32 = 64;

impl Core {
    /// Does what a shortage of space calls for; says whether asking again makes sense.
    pub(crate) async fn make_room(
        self: &Rc<Self>,
        shortage: Shortage,
        purpose: Purpose,
        attempts: u32,
    ) -> Result<bool> {
        self.writable()?;
        let shortage = match shortage {
            Shortage::Unbacked if self.grow().await => return Ok(true),
            // The file system is full too: then what is on its way to being free counts.
            Shortage::Unbacked if self.state.borrow().space.releasing() > 0 => Shortage::Releasing,
            other => other,
        };
        // Not for growing: that needs nothing of what a check holds.
        if self.check_running.get() {
            self.check_yield.set(true);
        }
        match shortage {
            // Others may have their room already; but nobody is kept waiting until all were asked.
            Shortage::Unbacked => Ok(attempts < ATTEMPTS),
            Shortage::Full => {
                // Dirty nodes promise blocks that a checkpoint may turn out not to need.
                if attempts == 1 && self.state.borrow().nodes.dirty_count() > 0 {
                    self.checkpoint().await?;
                    return Ok(true);
                }
                Ok(false)
            }
            // Overwrites take turns with one another until each has had its blocks; new data gives up sooner.
            Shortage::Releasing if attempts > if purpose == Purpose::Data { ATTEMPTS } else { ATTEMPTS * 64 } => {
                Ok(false)
            }
            Shortage::Releasing => {
                self.batches_over().await;
                let before = self.state.borrow().space.free();
                let sealed = self.state.borrow().space.has_sealed();
                if sealed {
                    self.commit_twice().await?;
                }
                if !sealed || self.state.borrow().space.free() == before {
                    self.checkpoint().await?;
                }
                yield_now().await;
                Ok(true)
            }
        }
    }

    /// Has the file grow, or else a checkpoint made, until a change of metadata may go on; says whether it may.
    pub(crate) async fn room_for_metadata(self: &Rc<Self>, need: Need) -> Result<bool> {
        let short = || self.state.borrow_mut().is_short(need);
        let mut refused = 0;
        while short() && refused < ATTEMPTS {
            refused += u32::from(!self.grow().await);
        }
        if !short() {
            return Ok(true);
        }
        if self.check_running.get() {
            self.check_yield.set(true);
        }
        for _ in 0..TURNS {
            self.batches_over().await;
            // What was released meanwhile may be all that is missing.
            self.checkpoint().await?;
            self.commit_twice().await?;
            if short() && self.check_running.get() {
                // It gives way at its next step, and lets go of what it holds.
                self.check_over().await;
                self.commit_twice().await?;
            }
            if !short() {
                return Ok(true);
            }
            // Others who waited may have been faster: then it is their turn that has to end.
            if !self.state.borrow().has_changed() {
                break;
            }
        }
        Ok(false)
    }

    /// Two groups, so that blocks released before may be used again.
    pub(crate) async fn commit_twice(self: &Rc<Self>) -> Result<()> {
        for _ in 0..2 {
            let open = self.commit.borrow().open;
            self.committed(open).await?;
        }
        Ok(())
    }

    /// Tells the space how many blocks the next checkpoint will need at most.
    pub(crate) fn update_promise(&self) {
        self.state.borrow_mut().update_promise();
    }

    /// Has the file system set room aside ahead of the cursor; says whether there is more room now.
    pub(crate) async fn grow(self: &Rc<Self>) -> bool {
        let grown = self.signals.grown.notified();
        if !self.growing.get() {
            let Some(segments) = self.state.borrow().space.segments_to_back(GROW_SEGMENTS) else { return false };
            self.growing.set(true);
            // In a task of its own: whoever waits may go away, and must not take the request along.
            let core = self.clone();
            self.reactor.spawn(async move { core.grow_by(segments).await }).detach();
        }
        grown.await;
        self.grew.get() && self.latch.borrow().is_none()
    }

    async fn grow_by(self: Rc<Self>, segments: Run) {
        // Where there is no room for many there may be some for one.
        let one = Run { start: segments.start, len: 1 };
        let grown = self.back(segments).await || segments.len > 1 && self.back(one).await;
        if !grown {
            self.state.borrow_mut().space.refuse_backing(segments.start);
        }
        self.growing.set(false);
        self.grew.set(grown);
        self.signals.grown.notify();
    }

    /// Has the file system set room aside for these segments; says whether it did.
    async fn back(&self, segments: Run) -> bool {
        let total = self.superblock.borrow().total_blocks;
        let (start, end) = (segments.start * SEGMENT, (segments.end() * SEGMENT).min(total));
        let done = self.reactor.submit(Op::Allocate { offset: start * BLOCK, len: (end - start) * BLOCK }).await;
        match done.result.as_ref().map_err(|e| e.raw_os_error()) {
            // A file system without fallocate says so; then writes find out whether there is room.
            Ok(_) | Err(Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL)) => {
                self.state.borrow_mut().space.set_backed(segments);
                true
            }
            Err(_) => false,
        }
    }

    /// Walks deleted versions, a few small steps at a time between other work.
    pub(crate) async fn deletion_task(self: Rc<Self>) {
        let mut owed = 0;
        loop {
            let signal = self.signals.deletion.notified();
            if self.latch.borrow().is_some() || self.repairing.get() {
                signal.await;
                continue;
            }
            match self.deletion_turn(&mut owed).await {
                Ok(true) => yield_now().await,
                Ok(false) => {
                    self.signals.deletion_idle.notify();
                    signal.await;
                }
                Err(error) => {
                    // A node that cannot be read keeps its version from being freed: the space stays in use, nothing else suffers.
                    if error.kind() == ErrorKind::Corrupt {
                        self.corruption(&format!("background deletion stopped: {error}"));
                    }
                    self.deletion_failed.borrow_mut().replace(error);
                    self.deletion_retry.set(Some(self.reactor.now() + DELETION_RETRY));
                    self.signals.deletion_idle.notify();
                    signal.await;
                }
            }
        }
    }

    async fn deletion_turn(self: &Rc<Self>, owed: &mut u64) -> Result<bool> {
        if self.state.borrow().lineage.front_of_queue().is_none() {
            return Ok(false);
        }
        // A turn pays for what the one before it had to read.
        let request = Request { kind: Kind::Read, bytes: std::mem::take(owed) * BLOCK };
        let _permit = self.qos.admit_background(request).await;
        for _ in 0..STEPS_PER_TURN {
            if self.repairing.get() {
                return Ok(false);
            }
            let short = {
                let mut state = self.state.borrow_mut();
                let need = state.need_of_deletion();
                state.is_short(need).then_some(need)
            };
            if let Some(need) = short
                && !self.room_for_metadata(need).await?
            {
                return Err(self.full().within("deletion waits for room for its metadata"));
            }
            // A repair may have begun while nodes were loaded.
            let step = self.change_counting(owed, |state| {
                if self.repairing.get() { Ok(Deletion::Idle) } else { state.deletion_step() }
            });
            match step.await? {
                Deletion::Idle => return Ok(false),
                Deletion::Progress => {}
            }
        }
        self.commit_if_large();
        Ok(true)
    }

    /// Waits until there is room for more records and more dirty nodes.
    pub(crate) async fn admit(self: &Rc<Self>) -> Result<()> {
        loop {
            self.writable()?;
            // Those that a checkpoint is writing need no other one.
            if self.state.borrow().nodes.open_bytes() > self.limits.dirty_bytes / 2 {
                self.want_checkpoint();
            }
            if self.admits() {
                return Ok(());
            }
            let signal = self.signals.admitted.notified();
            if self.group_is_full() {
                self.want_commit();
            }
            signal.await;
        }
    }

    /// Whether there is room for more records and more dirty nodes now.
    pub(crate) fn admits(&self) -> bool {
        self.state.borrow().nodes.dirty_bytes() <= self.limits.dirty_bytes && !self.group_is_full()
    }

    fn group_is_full(&self) -> bool {
        self.state.borrow().journal.blocks() * 4 >= self.max_group_blocks() * 3
    }

    /// The clock: commits and checkpoints by age, gives space back, looks at the watermarks.
    pub(crate) async fn tick_task(self: Rc<Self>) {
        let mut last_commit = self.reactor.now();
        let (mut quiet_ticks, mut ticks) = (0u32, 0u32);
        loop {
            self.reactor.sleep(TICK).await;
            self.watch_usage();
            if self.latch.borrow().is_some() {
                continue;
            }
            let now = self.reactor.now();
            let pending = !self.state.borrow().journal.is_empty();
            if !pending {
                last_commit = now;
            } else if now.saturating_sub(last_commit) >= self.limits.commit_age {
                last_commit = now;
                self.want_commit();
            }
            let journaled = self.commit.borrow().ring.used() > 0 || pending;
            if journaled && now.saturating_sub(self.last_checkpoint.get()) >= self.limits.checkpoint_age {
                self.want_checkpoint();
            }
            ticks = ticks.wrapping_add(1);
            if ticks.is_multiple_of(NOTE_TICKS) {
                let _all = self.note_credits();
            }
            if ticks.is_multiple_of(RETRY_TICKS) {
                self.state.borrow_mut().space.retry_backing();
            }
            if self.deletion_retry.get().is_some_and(|at| now >= at) {
                self.deletion_retry.set(None);
                self.signals.deletion.notify();
            }
            self.prune_branches();
            quiet_ticks = if pending { 0 } else { quiet_ticks + 1 };
            // Space is given back when nobody is writing, so that a steady load reuses it instead.
            if quiet_ticks >= 4 && !self.repairing.get() {
                if !self.giving_back.replace(true) {
                    let core = self.clone();
                    self.reactor.spawn(async move { core.give_back().await }).detach();
                }
                if !self.counting.replace(true) {
                    let core = self.clone();
                    self.reactor.spawn(async move { core.count_one().await }).detach();
                }
            }
        }
    }

    async fn give_back(self: &Rc<Self>) {
        let segments = self.state.borrow_mut().space.take_empty_segments(PUNCH_PER_TICK);
        for segment in segments {
            let done = self.reactor.submit(Op::Punch { offset: segment * SEGMENT * BLOCK, len: SEGMENT * BLOCK }).await;
            // Where it is not supported the room stays with the pool, and is found again when it is needed.
            drop(done.result);
            self.state.borrow_mut().space.gave_back(segment);
        }
        self.giving_back.set(false);
        self.signals.gave_back.notify();
    }

    /// Waits until no segment is being given back.
    pub(crate) async fn given_back(&self) {
        loop {
            let signal = self.signals.gave_back.notified();
            if !self.giving_back.get() {
                return;
            }
            signal.await;
        }
    }

    /// Puts branch points back into the queue when their children have diverged enough.
    fn prune_branches(&self) {
        let mut state = self.state.borrow_mut();
        let (.., deleting, branches) = state.lineage.counts();
        if branches == 0 {
            state.divergence = 0;
            return;
        }
        let tight = state.space.is_tight(state.space.capacity() / 8);
        if deleting > 0 || state.divergence < if tight { 256 } else { PRUNE_AFTER } {
            return;
        }
        state.divergence = 0;
        let ids: Vec<VersionId> =
            state.lineage.iter().filter(|v| v.state == State::Branch).map(|v| v.id).take(1024).collect();
        for id in ids {
            state.prune(id);
        }
        drop(state);
        self.signals.deletion.notify();
    }

    /// Counts the data blocks of one version whose count a large discard left open.
    async fn count_one(self: &Rc<Self>) {
        self.count_next().await;
        self.counting.set(false);
    }

    async fn count_next(self: &Rc<Self>) {
        let next = self.state.borrow().lineage.iter().find(|v| v.recount && v.state != State::Deleting).map(|v| v.id);
        let Some(id) = next else { return };
        self.state.borrow_mut().counting = Some((id, 0, 0));
        loop {
            let step = self.step(|state| {
                let Some((counted, cursor, count)) = state.counting else { return Ok(None) };
                let counts = |version: &&Version| version.state != State::Deleting;
                let Some(version) = state.lineage.get(counted).filter(counts) else {
                    state.counting = None;
                    return Ok(None);
                };
                let end = version.blocks();
                let (n, reached) = count::data_blocks(&state.nodes, tree_of(version), cursor, end)?;
                if reached >= end {
                    state.counting = None;
                    state.counted(counted, count + n);
                    return Ok(None);
                }
                state.counting = Some((counted, reached, count + n));
                Ok(Some(()))
            });
            match step.await {
                Ok(Some(())) => yield_now().await,
                Ok(None) => return,
                Err(_) => {
                    // A damaged node was reported where it was read; the count stays open.
                    self.state.borrow_mut().counting = None;
                    return;
                }
            }
        }
    }

    /// Raises an event when usage crosses a watermark.
    fn watch_usage(&self) {
        let mut state = self.state.borrow_mut();
        let used = state.space.capacity() - state.space.free();
        let percent = (used * 100 / state.space.capacity().max(1)) as u8;
        let mark = [95, 90, 80].into_iter().find(|m| percent >= *m).unwrap_or(0);
        let before = self.watermark.replace(mark);
        for percent in [80, 90, 95] {
            if before < percent && percent <= mark {
                state.event(Event::Watermark { percent, above: true });
            } else if mark < percent && percent <= before {
                state.event(Event::Watermark { percent, above: false });
            }
        }
    }
}
