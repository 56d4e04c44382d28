//! Commits: the only place that decides when what was acknowledged becomes durable.
//!
//! One group is written at a time: its records, then one `fdatasync`, which covers the data that the records name as well. All
//! flushes that arrive meanwhile share the next group.

use std::rc::Rc;

use crate::{
    checkpoint::Frozen,
    core::Core,
    error::{Result, no_space},
    format::group,
    journal::GROUP_DATA,
    sabotage::{Sabotage, broken},
};

/// What a group is written for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Group {
    /// A commit.
    Plain,
    /// The last one before a checkpoint: the state is frozen at its end.
    Frozen,
    /// The empty one at the end of a recovered journal.
    Closing,
}

impl Core {
    /// Largest group, in blocks: an eighth of the ring, so that a checkpoint always finds room for its own.
    pub(crate) fn max_group_blocks(&self) -> u64 {
        self.commit.borrow().ring.blocks / 8
    }

    /// The group that has to be committed for everything done so far to be durable.
    pub(crate) fn commit_target(&self) -> u64 {
        let open = self.commit.borrow().open;
        if self.state.borrow().journal.is_empty() { open - 1 } else { open }
    }

    /// Commits everything done so far.
    pub(crate) async fn flush(&self) -> Result<()> {
        if broken(Sabotage::AckFlushEarly) {
            return Ok(());
        }
        let target = self.commit_target();
        self.committed(target).await
    }

    /// Waits until group `target` is durable.
    pub(crate) async fn committed(&self, target: u64) -> Result<()> {
        loop {
            {
                let mut commit = self.commit.borrow_mut();
                if commit.committed >= target {
                    return Ok(());
                }
                commit.wanted = commit.wanted.max(target);
            }
            self.writable()?;
            let signal = self.signals.committed.notified();
            self.signals.commit_wanted.notify();
            signal.await;
        }
    }

    /// Asks for a commit in the background once the open group names much data.
    pub(crate) fn commit_if_large(&self) {
        let large = {
            let state = self.state.borrow();
            state.journal.data_bytes() >= GROUP_DATA || state.journal.blocks() * 2 >= self.max_group_blocks()
        };
        if large {
            self.want_commit();
        }
    }

    /// Asks for a commit in the background.
    pub(crate) fn want_commit(&self) {
        let mut commit = self.commit.borrow_mut();
        commit.wanted = commit.wanted.max(commit.open);
        drop(commit);
        self.signals.commit_wanted.notify();
    }

    /// Writes groups for as long as somebody waits for one.
    pub(crate) async fn commit_task(self: Rc<Self>) {
        loop {
            let signal = self.signals.commit_wanted.notified();
            let wanted = {
                let commit = self.commit.borrow();
                commit.wanted > commit.committed
            };
            if self.latch.borrow().is_some() || !wanted || self.committing.get() {
                signal.await;
                continue;
            }
            // A failure has latched the pool and woken everybody who waits.
            let _failed = self.commit_once(Group::Plain).await;
        }
    }

    /// Closes a recovered journal with an empty group, in the blocks that are kept for that.
    pub(crate) async fn close_journal(self: &Rc<Self>) -> Result<()> {
        self.commit_once(Group::Closing).await.map(drop)
    }

    /// Commits the open group; for a checkpoint, the state is frozen for a checkpoint at its end. The caller makes sure that no
    /// other commit is under way.
    async fn commit_once(self: &Rc<Self>, kind: Group) -> Result<Option<Frozen>> {
        debug_assert!(!self.committing.get());
        self.committing.set(true);
        let result = self.commit_group(kind).await;
        self.committing.set(false);
        self.signals.committed.notify();
        self.signals.commit_wanted.notify();
        result
    }

    async fn commit_group(self: &Rc<Self>, kind: Group) -> Result<Option<Frozen>> {
        if kind == Group::Plain {
            self.wait_for_ring().await?;
        }
        let freeze = kind == Group::Frozen;
        // From here to the write nothing is awaited: what is in the group is what is frozen.
        let empty = self.state.borrow().journal.is_empty();
        if freeze && empty {
            let frozen = self.freeze();
            return Ok(Some(frozen));
        }
        let blocks = self.state.borrow().journal.blocks();
        if kind != Group::Closing && !self.commit.borrow().ring.fits(blocks) {
            return Err(no_space(format!("a group of {blocks} blocks does not fit into the journal")));
        }
        let (seq, body, records) = {
            let mut state = self.state.borrow_mut();
            let mut commit = self.commit.borrow_mut();
            let (body, records) = state.journal.take();
            let seq = commit.open;
            commit.open += 1;
            state.space.seal(seq);
            (seq, body, records)
        };
        let buf = group::encode(&self.superblock.borrow().uuid, seq, records, &body);
        let at = self.commit.borrow_mut().ring.take((buf.len() / 4096) as u64);
        let frozen = freeze.then(|| self.freeze());
        let start = self.superblock.borrow().journal_start;
        self.write_metadata(start + at, buf, "the journal").await?;
        if !broken(Sabotage::SkipCommitSync) {
            self.sync().await?;
        }
        self.commit.borrow_mut().committed = seq;
        self.state.borrow_mut().space.committed(seq);
        // One that is under way empties the ring; at its end this is asked again.
        if self.ring_is_half_full() && !self.checkpoint_running.get() {
            self.want_checkpoint();
        }
        self.signals.admitted.notify();
        Ok(frozen)
    }

    /// Whether a checkpoint should make room in the ring.
    pub(crate) fn ring_is_half_full(&self) -> bool {
        let ring = self.commit.borrow().ring;
        ring.used() * 2 > ring.blocks
    }

    /// Whether groups can be committed without waiting for a checkpoint.
    pub(crate) fn ring_has_room(&self) -> bool {
        let blocks = self.state.borrow().journal.blocks();
        self.commit.borrow().ring.fits(blocks + self.max_group_blocks())
    }

    /// Waits until the open group fits into the ring and one more of the largest size would too.
    async fn wait_for_ring(self: &Rc<Self>) -> Result<()> {
        loop {
            let signal = self.signals.checkpointed.notified();
            if self.ring_has_room() {
                return Ok(());
            }
            // One that is under way makes room; if that is not enough, the next one is asked for.
            if !self.checkpoint_running.get() {
                self.want_checkpoint();
            }
            // The checkpoint needs this place to freeze: let go of it while waiting.
            self.committing.set(false);
            self.signals.committed.notify();
            signal.await;
            while self.committing.get() {
                self.signals.committed.notified().await;
            }
            self.committing.set(true);
            self.writable()?;
        }
    }

    /// Commits what is open and freezes the state at that point.
    pub(crate) async fn commit_and_freeze(self: &Rc<Self>) -> Result<Frozen> {
        loop {
            let signal = self.signals.committed.notified();
            if !self.committing.get() {
                break;
            }
            signal.await;
        }
        self.writable()?;
        match self.commit_once(Group::Frozen).await? {
            Some(frozen) => Ok(frozen),
            None => Err(crate::error::closed("the state was not frozen")),
        }
    }
}
