//! Checkpoints: the state of one moment, written beside the previous one, then switched to by the superblock.
//!
//! Write ordering:
//! 1. The open group is committed and, in the same instant, the state is frozen ([`Frozen`]). Writers go on at once: what they change
//!    from here on is copied and belongs to the next checkpoint; their records go into the groups after the frozen one.
//! 2. Frozen nodes (leaves first), table pages, table nodes and pieces of the free map are written, all to blocks that the previous
//!    checkpoint does not use. No order among them.
//! 3. `fdatasync`: everything above, and the data of every record up to the frozen group, is durable.
//! 4. Both superblock slots of this checkpoint's parity are written, then `fdatasync`. The previous checkpoint's two slots stay.
//! 5. Only now: blocks that the previous checkpoint still needed become free, and the journal's tail moves.

pub(crate) mod map;
pub(crate) mod table;

use std::{
    cell::RefCell,
    collections::{BTreeSet, VecDeque},
    rc::Rc,
};

use crate::{
    core::Core,
    error::{Result, no_space},
    format::{
        FORMAT,
        pointer::Pointer,
        superblock::{Superblock, slot_block, slots_of},
    },
    reactor::notify::yield_now,
    sabotage::{Sabotage, broken},
    space::{
        Purpose, SEGMENT, Shortage,
        bitmap::Run,
        reach::{Reach, piece_bytes},
    },
    storage::{Part, buffer::IoBuf},
    units::{BLOCK_SIZE, Epoch, PhysicalBlock},
    versions::table::{Page, encode_page},
};

/// Blocks written by one system call at most.
const BATCH: u64 = 128;
/// Writes of a checkpoint under way at once.
const DEPTH: usize = 4;

/// The state at one moment, as far as a checkpoint needs it.
pub(crate) struct Frozen {
    slots: Vec<u32>,
    pages: Vec<(u32, Page)>,
    page_count: usize,
    reach: Reach,
    changed: BTreeSet<u64>,
    group_seq: u64,
    ring_tail: u64,
    epoch: Epoch,
    next_version: u64,
    next_volume: u64,
    next_deletion: u64,
}

impl Core {
    pub(crate) fn want_checkpoint(&self) {
        self.checkpoint_wanted.set(true);
        self.signals.checkpoint_wanted.notify();
    }

    /// Makes checkpoints when they are asked for.
    pub(crate) async fn checkpoint_task(self: Rc<Self>) {
        loop {
            let signal = self.signals.checkpoint_wanted.notified();
            if !self.checkpoint_wanted.get() || self.checkpoint_running.get() || self.latch.borrow().is_some() {
                signal.await;
                continue;
            }
            // A failure has latched the pool.
            let _failed = self.run_checkpoint().await;
            // Whoever waits for a moment between two has it now.
            yield_now().await;
        }
    }

    /// Has a checkpoint made of everything done so far, and waits for it. It is made by a task of its own: whoever waits here may
    /// go away at any moment, and must not take a half-made checkpoint along.
    pub(crate) async fn checkpoint(&self) -> Result<()> {
        // One that is under way may have frozen its state before.
        let target = self.checkpoints_begun.get() + 1;
        loop {
            let signal = self.signals.checkpointed.notified();
            if self.checkpoints_ended.get() >= target {
                return self.writable();
            }
            self.writable()?;
            if self.checkpoints_begun.get() < target {
                self.want_checkpoint();
            }
            signal.await;
        }
    }

    /// Makes one checkpoint. Only for the task of checkpoints, and before there is one.
    pub(crate) async fn run_checkpoint(self: &Rc<Self>) -> Result<()> {
        self.writable()?;
        self.checkpoint_running.set(true);
        self.checkpoints_begun.set(self.checkpoints_begun.get() + 1);
        self.checkpoint_wanted.set(false);
        let result = self.write_checkpoint().await;
        self.checkpoint_running.set(false);
        if let Err(error) = &result {
            self.latch("the checkpoint could not be written", error);
        }
        self.checkpoints_ended.set(self.checkpoints_ended.get() + 1);
        self.last_checkpoint.set(self.reactor.now());
        if self.ring_is_half_full() {
            self.checkpoint_wanted.set(true);
        }
        self.signals.checkpointed.notify();
        self.signals.checkpoint_wanted.notify();
        self.signals.admitted.notify();
        result
    }

    /// Waits until no checkpoint is being made. While one is, the map and the table name blocks that it has yet to write, and blocks are
    /// in use that only it knows of.
    pub(crate) async fn between_checkpoints(&self) {
        loop {
            let signal = self.signals.checkpointed.notified();
            if !self.is_checkpointing() {
                return;
            }
            signal.await;
        }
    }

    /// Whether a checkpoint is being made (and not only kept from being made).
    pub(crate) fn is_checkpointing(&self) -> bool {
        self.checkpoint_running.get() && !self.checkpoints_held.get()
    }

    /// Waits until no checkpoint is being made, and keeps one from being made for as long as the answer is there. One at a time.
    pub(crate) async fn hold_checkpoints(self: &Rc<Self>) -> CheckpointsHeld {
        self.between_checkpoints().await;
        self.checkpoint_running.set(true);
        self.checkpoints_held.set(true);
        CheckpointsHeld { core: self.clone() }
    }

    /// Writes one copy of the last durable checkpoint's superblock again. Only while checkpoints are held.
    pub(crate) async fn rewrite_superblock(&self, slot: u32) -> Result<()> {
        let copy = Superblock { slot, ..self.superblock.borrow().clone() };
        debug_assert!(slots_of(copy.checkpoint).contains(&slot));
        self.write_metadata(slot_block(slot, copy.total_blocks), copy.encode(), "the superblock").await?;
        self.sync().await
    }

    /// Takes the state as it is now. Called at the end of a group.
    pub(crate) fn freeze(&self) -> Frozen {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let commit = self.commit.borrow();
        state.space.freeze();
        let changed = state.space.reach.take_changed();
        let lineage = &mut state.lineage;
        let pages = lineage.layout.take_changed().into_iter().map(|page| (page, lineage.page(page)));
        Frozen {
            pages: pages.collect(),
            page_count: lineage.layout.pages(),
            slots: state.nodes.freeze(),
            reach: state.space.reach.clone(),
            changed,
            group_seq: commit.open,
            ring_tail: commit.ring.head,
            epoch: lineage.epoch,
            next_version: lineage.next_version,
            next_volume: lineage.next_volume,
            next_deletion: lineage.next_deletion,
        }
    }

    async fn write_checkpoint(self: &Rc<Self>) -> Result<()> {
        let mut frozen = self.commit_and_freeze().await?;
        if broken(Sabotage::MoveTailEarly) {
            self.commit.borrow_mut().ring.tail = frozen.ring_tail;
        }
        let mut writer = Writer { core: self.clone(), in_flight: VecDeque::new() };
        writer.nodes(&mut frozen).await?;
        writer.table(&mut frozen).await?;
        writer.map(&mut frozen).await?;
        writer.drain().await?;
        if !broken(Sabotage::SkipCheckpointSync) {
            self.sync().await?;
        }
        let superblock = self.next_superblock(&frozen);
        let parity = if broken(Sabotage::SameSuperblockSlots) { 0 } else { superblock.checkpoint };
        for slot in slots_of(parity) {
            let copy = Superblock { slot, ..superblock.clone() };
            self.write_metadata(slot_block(slot, superblock.total_blocks), copy.encode(), "the superblock").await?;
        }
        self.sync().await?;
        self.finish_checkpoint(&frozen, superblock);
        Ok(())
    }

    fn next_superblock(&self, frozen: &Frozen) -> Superblock {
        let table = self.table.borrow();
        let ring = self.commit.borrow().ring;
        let old = self.superblock.borrow();
        Superblock {
            format: FORMAT,
            checkpoint: old.checkpoint + 1,
            group_seq: frozen.group_seq,
            group_at: frozen.ring_tail % ring.blocks,
            epoch: frozen.epoch,
            next_version: frozen.next_version,
            next_volume: frozen.next_volume,
            next_deletion: frozen.next_deletion,
            table_root: table.root(),
            table_pages: table.levels.first().map_or(0, |l| l.len() as u64),
            map_levels: self.map.borrow().levels.len() as u32 - 1,
            map_top: self.map.borrow().top(),
            ..old.clone()
        }
    }

    /// The checkpoint is durable: what only its predecessor needed is let go.
    fn finish_checkpoint(&self, frozen: &Frozen, superblock: Superblock) {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        state.space.checkpointed();
        let nodes = &state.nodes;
        state.lineage.resolve_roots(|root| nodes.written(root));
        state.lineage.layout.checkpointed();
        state.nodes.thaw(&frozen.slots, &mut state.space);
        *self.superblock.borrow_mut() = superblock;
        self.commit.borrow_mut().ring.tail = frozen.ring_tail;
    }
}

/// Keeps checkpoints from being made.
pub(crate) struct CheckpointsHeld {
    core: Rc<Core>,
}

impl Drop for CheckpointsHeld {
    fn drop(&mut self) {
        self.core.checkpoint_running.set(false);
        self.core.checkpoints_held.set(false);
        self.core.signals.checkpointed.notify();
        self.core.signals.checkpoint_wanted.notify();
    }
}

/// Writes the parts of a checkpoint, a few at a time.
struct Writer {
    core: Rc<Core>,
    in_flight: VecDeque<async_task::Task<Result<()>>>,
}

impl Writer {
    /// Starts a write; waits for the oldest one when enough are under way.
    async fn write(&mut self, block: u64, parts: Vec<Part>, what: &'static str) -> Result<()> {
        if self.in_flight.len() >= DEPTH
            && let Some(oldest) = self.in_flight.pop_front()
        {
            oldest.await?;
        }
        let core = self.core.clone();
        self.in_flight
            .push_back(self.core.reactor.spawn(async move { core.write_metadata_parts(block, parts, what).await }));
        Ok(())
    }

    async fn drain(&mut self) -> Result<()> {
        while let Some(write) = self.in_flight.pop_front() {
            write.await?;
        }
        Ok(())
    }

    /// Takes a run of up to `want` blocks, marked as in use both now and in the frozen state.
    async fn take(&self, want: u64, frozen: &mut Frozen) -> Result<Run> {
        let (mut attempts, mut asked) = (0, 0);
        while attempts < 16 {
            let shortage = {
                let space = &mut self.core.state.borrow_mut().space;
                match space.reserve_run(want, Purpose::Metadata) {
                    Ok(run) => {
                        space.acquire(run);
                        let _fresh = frozen.reach.add(run);
                        return Ok(run);
                    }
                    Err(shortage) => shortage,
                }
            };
            // What the file system refused before is asked for again.
            if asked == 0 {
                self.core.state.borrow_mut().space.retry_backing();
                asked = 1;
                continue;
            }
            let coming = self.core.state.borrow().space.releasing() > 0;
            match shortage {
                // Segment by segment, until one has room or each was refused.
                Shortage::Unbacked if asked < self.core.state.borrow().space.capacity() / SEGMENT + 3 => {
                    asked += 1;
                    let _more = self.core.grow().await;
                }
                Shortage::Unbacked | Shortage::Releasing if coming && self.core.ring_has_room() => {
                    attempts += 1;
                    if self.core.check_running.get() {
                        self.core.check_yield.set(true);
                    }
                    self.core.batches_over().await;
                    self.commit_while_there_is_room().await?;
                }
                Shortage::Releasing if !coming && self.core.giving_back.get() => {
                    attempts += 1;
                    self.core.signals.gave_back.notified().await;
                }
                Shortage::Unbacked | Shortage::Releasing | Shortage::Full => break,
            }
        }
        Err(no_space("no room for metadata: the file system under the pool is full, or a check holds blocks back"))
    }

    /// Waits for a commit, unless that waits for this checkpoint to make room in the ring.
    async fn commit_while_there_is_room(&self) -> Result<()> {
        let target = self.core.commit.borrow().open;
        loop {
            let signal = self.core.signals.committed.notified();
            if self.core.commit.borrow().committed >= target || !self.core.ring_has_room() {
                return Ok(());
            }
            self.core.writable()?;
            self.core.want_commit();
            signal.await;
        }
    }

    fn release(&self, pointer: Pointer, frozen: &mut Frozen) {
        use crate::format::pointer::Place;
        if let Place::Data(block) | Place::Node(block) = pointer.place() {
            self.core.state.borrow_mut().space.release_frozen(block.0);
            let _gone = frozen.reach.remove(Run { start: block.0, len: 1 });
        }
    }

    async fn nodes(&mut self, frozen: &mut Frozen) -> Result<()> {
        let slots = std::mem::take(&mut frozen.slots);
        let mut next = 0;
        while next < slots.len() {
            let run = self.take(BATCH.min((slots.len() - next) as u64), frozen).await?;
            let mut parts = Vec::with_capacity(run.len as usize);
            {
                let mut state = self.core.state.borrow_mut();
                for (i, &slot) in slots[next..next + run.len as usize].iter().enumerate() {
                    let bytes = state.nodes.sealed_bytes(slot);
                    let block = PhysicalBlock(run.start + i as u64);
                    state.nodes.set_written(slot, block, crc32fast::hash(&bytes), bytes.clone());
                    parts.push(Part { buf: bytes, range: 0..BLOCK_SIZE });
                }
            }
            next += run.len as usize;
            self.write(run.start, parts, "metadata nodes").await?;
            yield_now().await;
        }
        frozen.slots = slots;
        Ok(())
    }

    async fn table(&mut self, frozen: &mut Frozen) -> Result<()> {
        let pages = std::mem::take(&mut frozen.pages);
        self.core.table.borrow_mut().resize(frozen.page_count);
        let mut changed = BTreeSet::new();
        for (page, mut content) in pages {
            for version in &mut content.versions {
                version.root = self.core.state.borrow().nodes.written(version.root).unwrap_or(version.root);
            }
            let pointer = self.table_block(0, page as usize, encode_page(&content), frozen).await?;
            debug_assert!(!pointer.is_hole());
            let _new = changed.insert(page as usize);
        }
        let mut level = 1;
        while !changed.is_empty() && level < self.core.table.borrow().levels.len() {
            changed = self.core.table.borrow().changed_above(level, &changed);
            for &index in &changed {
                let bytes = self.core.table.borrow().node(level, index);
                let _pointer = self.table_block(level, index, bytes, frozen).await?;
            }
            level += 1;
        }
        Ok(())
    }

    /// Writes one block of the table and puts its pointer in the place of the old one.
    async fn table_block(&mut self, level: usize, index: usize, bytes: IoBuf, frozen: &mut Frozen) -> Result<Pointer> {
        let run = self.take(1, frozen).await?;
        let (block, crc) = (PhysicalBlock(run.start), crc32fast::hash(&bytes));
        let pointer =
            if level == 0 { Pointer::data(block, frozen.epoch, crc) } else { Pointer::node(block, frozen.epoch, crc) };
        let old = std::mem::replace(&mut self.core.table.borrow_mut().levels[level][index], pointer);
        self.release(old, frozen);
        let range = 0..bytes.len();
        self.write(block.0, vec![Part { buf: Rc::new(bytes), range }], "the version table").await?;
        Ok(pointer)
    }

    async fn map(&mut self, frozen: &mut Frozen) -> Result<()> {
        frozen.changed.append(&mut frozen.reach.take_changed());
        let mut changed: BTreeSet<usize> = frozen.changed.iter().map(|&i| i as usize).collect();
        let map: &RefCell<map::Map> = &self.core.clone().map;
        let levels = map.borrow().levels.len();
        for level in 0..levels {
            for &index in &changed {
                let bytes = if level == 0 {
                    let mut bytes = IoBuf::with_len(BLOCK_SIZE);
                    piece_bytes(frozen.reach.piece(index as u64), &mut bytes);
                    bytes
                } else {
                    map.borrow().entries_piece(level - 1, index)
                };
                let block = map.borrow_mut().rewrite(level, index, crc32fast::hash(&bytes));
                self.write(block, vec![Part { range: 0..bytes.len(), buf: Rc::new(bytes) }], "the free map").await?;
            }
            changed = changed.iter().map(|i| i / map::ENTRIES).collect();
        }
        Ok(())
    }
}
