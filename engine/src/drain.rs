//! Draining backlogs: what was acknowledged goes to the device and into the tree, in its order. One task for each volume that has a backlog.

use std::{collections::VecDeque, rc::Rc};

use crate::{
    core::Core,
    error::{Error, Result, not_found},
    gather::{Reserved, Writing},
    info::{CacheMode, Event, SyncMode},
    reactor::notify::yield_now,
    sabotage::{Sabotage, broken},
    space::Purpose,
    units::{BLOCK_SIZE, MIB, VolumeId},
    writeback::{Backlog, Content, Entry, Through},
};

/// Bytes of one backlog that are on their way at once.
const AT_ONCE: u64 = 2 * MIB;

/// Entries that enter the tree between two looks at the rest of the world.
const BETWEEN_TURNS: u64 = 64;

/// An entry on its way.
struct Leaving {
    entry: Rc<Entry>,
    /// Of each block, four bytes; none for zeros.
    crcs: Vec<u8>,
    writing: Option<Writing>,
}

impl Core {
    /// Takes over whether a volume's writes are acknowledged from memory.
    pub(crate) fn apply_cache(&self, volume: VolumeId, backlog: &Backlog) {
        let state = self.state.borrow();
        let options = state.lineage.live_of(volume).map(|live| &live.options);
        let on = options.is_some_and(|o| o.cache == CacheMode::Writeback && o.sync != SyncMode::Always && !o.filling);
        backlog.set_on(on && !self.closing.get());
    }

    /// Goes around a volume's backlog: when this returns, it is empty, and it stays so until what is returned is dropped.
    pub(crate) async fn go_around(&self, volume: VolumeId, backlog: &Rc<Backlog>) -> Result<Through> {
        let through = if backlog.nobody_in_line() {
            self.backlogs.go_around(backlog)
        } else {
            let _line = self.backlogs.stand_in_line(backlog);
            let _door = self.backlogs.door(volume).await;
            self.backlogs.go_around(backlog)
        };
        if !broken(Sabotage::PassBacklog) {
            self.drained(backlog, backlog.taken()).await?;
        }
        Ok(through)
    }

    /// Waits until everything up to an entry is in the tree.
    pub(crate) async fn drained(&self, backlog: &Backlog, number: u64) -> Result<()> {
        while !backlog.has_drained(number) {
            if let Some(error) = backlog.failure() {
                return Err(error);
            }
            self.backlogs.changed.notified().await;
        }
        Ok(())
    }

    /// Waits until all backlogs are in the trees, as they are now. With `again`, those that have failed are tried once more.
    pub(crate) async fn drain_all(self: &Rc<Self>, again: bool) -> Result<()> {
        let mut outcome = Ok(());
        for (volume, backlog) in self.backlogs.not_empty() {
            if again {
                self.try_again(volume, &backlog, true);
            }
            let drained = self.drained(&backlog, backlog.taken()).await;
            outcome = outcome.and(drained);
        }
        outcome
    }

    /// Tries once more what has failed, if its clients know that it had (or `anyhow`).
    pub(crate) fn try_again(self: &Rc<Self>, volume: VolumeId, backlog: &Rc<Backlog>, anyhow: bool) {
        if self.backlogs.forgive(backlog, anyhow) {
            self.drain(volume, backlog);
        }
    }

    /// A volume is deleted: what it has in memory goes with it.
    pub(crate) fn drop_backlog(&self, volume: VolumeId) {
        let kept = self.backlogs.volume_gone(volume);
        self.state.borrow_mut().space.let_go(kept);
    }

    /// Sees to it that a backlog is drained.
    pub(crate) fn drain(self: &Rc<Self>, volume: VolumeId, backlog: &Rc<Backlog>) {
        if backlog.begin_draining() {
            let (core, backlog) = (self.clone(), backlog.clone());
            // In a task of its own: what was acknowledged depends on nobody any more.
            self.reactor.spawn(async move { core.drain_task(volume, &backlog).await }).detach();
        }
    }

    async fn drain_task(self: Rc<Self>, volume: VolumeId, backlog: &Backlog) {
        let mut leaving: VecDeque<Leaving> = VecDeque::new();
        let (mut bytes, mut settled) = (0, 0u64);
        loop {
            while bytes < AT_ONCE
                && let Some(entry) = backlog.next()
            {
                bytes += entry.length();
                leaving.push_back(self.send(entry));
            }
            let first = if broken(Sabotage::DrainOutOfOrder) { leaving.pop_back() } else { leaving.pop_front() };
            let Some(Leaving { entry, crcs, writing }) = first else { break };
            bytes -= entry.length();
            match self.settle(volume, &entry, &crcs, writing).await {
                Err(_) if broken(Sabotage::ForgetUnwritten) => self.backlogs.drained(backlog, &entry),
                Ok(()) => self.backlogs.drained(backlog, &entry),
                Err(error) => {
                    for Leaving { writing, .. } in leaving {
                        if let Some(writing) = writing {
                            writing.give_up().await;
                        }
                    }
                    backlog.rewind();
                    self.drain_failed(volume, backlog, &entry, error);
                    break;
                }
            }
            self.commit_if_large();
            settled += 1;
            if settled.is_multiple_of(BETWEEN_TURNS) {
                yield_now().await;
            }
        }
        backlog.end_draining();
        if backlog.is_gone() {
            let kept = self.backlogs.empty(backlog);
            self.state.borrow_mut().space.let_go(kept);
        }
    }

    /// The entry's data leaves with this turn.
    fn send(self: &Rc<Self>, entry: Rc<Entry>) -> Leaving {
        let Content::Data(part) = &entry.piece.content else {
            return Leaving { entry, crcs: Vec::new(), writing: None };
        };
        let writing = self.begin_write(part.clone(), Purpose::Backlog, entry.nodes);
        let mut crcs = Vec::with_capacity(part.range.len() / BLOCK_SIZE * 4);
        for bytes in part.bytes().chunks_exact(BLOCK_SIZE) {
            crcs.extend_from_slice(&crc32fast::hash(bytes).to_le_bytes());
        }
        Leaving { entry, crcs, writing: Some(writing) }
    }

    /// Puts an entry into the tree when the device has its data: all of it in one step, or nothing.
    async fn settle(
        self: &Rc<Self>,
        volume: VolumeId,
        entry: &Entry,
        crcs: &[u8],
        writing: Option<Writing>,
    ) -> Result<()> {
        let (zeros, reserved) = match writing {
            Some(writing) => (false, writing.finish(self).await?),
            None => (true, Reserved::new(self)),
        };
        let piece = &entry.piece;
        self.change(|state| {
            let live = state.lineage.live_of(volume).filter(|live| piece.end() <= live.blocks());
            let Some(live) = live.map(|live| live.id) else { return Ok(Err(not_found("the volume is gone"))) };
            if zeros {
                state.clear_of_leaf(live, piece.block, piece.end())?;
                return Ok(Ok(()));
            }
            // All in one leaf: once the first run has found its nodes, so do the others.
            let mut done = 0;
            for run in &reserved.runs {
                let crcs = &crcs[done * 4..(done + run.len as usize) * 4];
                state.write(live, piece.block + done as u64, run.start, crcs)?;
                done += run.len as usize;
            }
            Ok(Ok(()))
        })
        .await??;
        reserved.used();
        if zeros {
            self.state.borrow_mut().space.let_go(entry.nodes);
        }
        Ok(())
    }

    fn drain_failed(&self, volume: VolumeId, backlog: &Backlog, entry: &Entry, error: Error) {
        let name = self.state.borrow().lineage.live_of(volume).map(|live| live.name.clone());
        let Some(name) = name.filter(|_| !backlog.is_gone()) else { return };
        let (start, end) = (entry.offset(), entry.offset() + entry.length());
        let error = error.within(format_args!(
            "volume {name:?}: bytes {start} to {end} were acknowledged from memory and cannot be written, and nothing later is (close the \
             volume everywhere and open it again to have them tried once more)"
        ));
        self.state.borrow_mut().event(Event::Unwritten { what: error.to_string() });
        self.backlogs.fail(backlog, error);
    }
}
