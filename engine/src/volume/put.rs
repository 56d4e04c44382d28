//! Writes that are acknowledged from memory: how they get into the volume's backlog.

use std::rc::Rc;

use super::{LocalVolume, is_zero};
use crate::{
    error::{Result, invalid},
    format::pointer::Pointer,
    info::SyncMode,
    qos::Permit,
    reactor::notify::yield_now,
    state::tree_of,
    storage::buffer::IoBuf,
    tree::lookup,
    units::{BLOCK, BLOCK_SIZE, VolumeId},
    writeback::{Backlogs, Entry, Piece, Room, pieces_of},
};

/// What a block held when a part of it was to be written.
enum Base {
    Buffered(Rc<Entry>),
    Stored(Pointer),
}

/// How an attempt ended.
enum Put {
    /// Acknowledged, with the number of the last entry.
    Done(u64),
    /// It has to go around.
    Around,
    /// The block is not what it was.
    Changed,
}

impl LocalVolume {
    /// Writes into the backlog, and with `fua` makes it durable. Says whether it did; if not, the write has to go around.
    pub(super) async fn write_from_memory(
        &self,
        volume: VolumeId,
        offset: u64,
        data: &Rc<IoBuf>,
        fua: bool,
        permit: &mut Option<Permit>,
    ) -> Result<bool> {
        let durable = fua && self.with_version(|v| v.options.sync)? != SyncMode::Never;
        // A client that waits for a commit is not answered yet.
        let mut none = None;
        let permit = if durable { &mut none } else { permit };
        let Some(number) = self.put(volume, offset, data, permit).await? else { return Ok(false) };
        if durable {
            self.core().drained(self.backlog(), number).await?;
            self.core().flush().await?;
        } else if self.backlog().should_yield() {
            yield_now().await;
        }
        Ok(true)
    }

    /// Puts whole blocks into the backlog as they are, and parts of blocks with the rest of the block. The number of the last entry; none
    /// when (a part of) it has to go around.
    async fn put(
        &self,
        volume: VolumeId,
        offset: u64,
        data: &Rc<IoBuf>,
        permit: &mut Option<Permit>,
    ) -> Result<Option<u64>> {
        let end = offset + data.len() as u64;
        if offset.is_multiple_of(BLOCK) && end.is_multiple_of(BLOCK) {
            return match self.put_blocks(volume, offset / BLOCK, data, None, permit).await? {
                Put::Done(number) => Ok(Some(number)),
                Put::Around | Put::Changed => Ok(None),
            };
        }
        let (mut at, mut last) = (offset, None);
        while at < end {
            let block = at / BLOCK;
            let rest = &data[(at - offset) as usize..];
            let n = if at.is_multiple_of(BLOCK) && end - at >= BLOCK {
                (end - at) / BLOCK * BLOCK
            } else {
                ((block + 1) * BLOCK - at).min(end - at)
            };
            let bytes = &rest[..n as usize];
            at += n;
            let mut none = None;
            let permit = if at == end { &mut *permit } else { &mut none };
            let put = if n.is_multiple_of(BLOCK) {
                self.put_blocks(volume, block, &Rc::new(IoBuf::from(bytes)), None, permit).await?
            } else {
                self.put_part(volume, block, ((at - n) % BLOCK) as usize, bytes, permit).await?
            };
            let Put::Done(number) = put else { return Ok(None) };
            last = Some(number);
        }
        Ok(last)
    }

    /// A part of a block becomes the whole block, if that has not changed when it is put: no lock is held while it waits.
    async fn put_part(
        &self,
        volume: VolumeId,
        block: u64,
        at: usize,
        bytes: &[u8],
        permit: &mut Option<Permit>,
    ) -> Result<Put> {
        loop {
            let (mut buf, base) = match self.backlog().newest(block) {
                Some(entry) => {
                    let mut buf = IoBuf::zeroed(BLOCK_SIZE);
                    if let Some(old) = entry.piece.bytes(block) {
                        buf.copy_from_slice(old);
                    }
                    (buf, Base::Buffered(entry))
                }
                None => {
                    let (pointers, guard) = self.look_up(block, 1).await?;
                    let buf = self.fetch(block, &pointers, None).await?;
                    drop(guard);
                    (buf, Base::Stored(pointers.first().copied().unwrap_or(Pointer::HOLE)))
                }
            };
            buf[at..at + bytes.len()].copy_from_slice(bytes);
            match self.put_blocks(volume, block, &Rc::new(buf), Some(&base), permit).await? {
                Put::Changed => {}
                put => return Ok(put),
            }
        }
    }

    /// Puts whole blocks into the backlog as soon as they may go there.
    async fn put_blocks(
        &self,
        volume: VolumeId,
        block: u64,
        data: &Rc<IoBuf>,
        base: Option<&Base>,
        permit: &mut Option<Permit>,
    ) -> Result<Put> {
        let (core, backlog) = (self.core(), self.backlog());
        // Once: who is first in line asks again at each entry that leaves, of whatever volume.
        let mut pieces = pieces_of(block, data, is_zero);
        if backlog.nobody_in_line()
            && let Some(put) = self.try_put(volume, block, data, &mut pieces, base, permit)?
        {
            return Ok(put);
        }
        let _line = core.backlogs.stand_in_line(backlog);
        let _door = core.backlogs.door(volume).await;
        loop {
            let signal = core.backlogs.changed.notified();
            if let Some(put) = self.try_put(volume, block, data, &mut pieces, base, permit)? {
                return Ok(put);
            }
            signal.await;
        }
    }

    /// One step: acknowledges all of it, or changes nothing. None when it has to wait.
    fn try_put(
        &self,
        volume: VolumeId,
        block: u64,
        data: &Rc<IoBuf>,
        pieces: &mut Vec<Piece>,
        base: Option<&Base>,
        permit: &mut Option<Permit>,
    ) -> Result<Option<Put>> {
        let (core, backlog) = (self.core(), self.backlog());
        core.writable()?;
        if let Some(error) = backlog.failure() {
            return Err(error);
        }
        if !backlog.is_on() {
            return Ok(Some(Put::Around));
        }
        if backlog.is_passed() {
            return Ok(None);
        }
        if base.is_some_and(|base| !self.is_still(block, base)) {
            return Ok(Some(Put::Changed));
        }
        let count = (data.len() / BLOCK_SIZE) as u64;
        let (blocks, depth) = self.with_version(|v| (v.blocks(), u64::from(v.depth)))?;
        if block + count > blocks {
            return Err(invalid(format!("{} has become smaller meanwhile", self.attachment.name)));
        }
        let (capacity, now) = (data.capacity() as u64, core.reactor.turn());
        match core.backlogs.room(backlog, Backlogs::memory_of(pieces, capacity), now) {
            Room::Yes => {}
            Room::Wait => return Ok(None),
            Room::Never => return Ok(Some(Put::Around)),
        }
        // Of each its leaf, the nodes above, and the version's record: as for any write.
        let nodes = depth + 2;
        let kept = pieces.iter().map(|piece| piece.data_blocks() + nodes).sum();
        {
            let mut state = core.state.borrow_mut();
            state.update_promise();
            if !state.space.try_keep_back(kept) {
                return Ok(Some(Put::Around));
            }
        }
        let permit = permit.take();
        if let Some(permit) = &permit {
            permit.answer();
        }
        let number = core.backlogs.take(backlog, std::mem::take(pieces), capacity, nodes, permit, now);
        core.drain(volume, backlog);
        Ok(Some(Put::Done(number)))
    }

    /// Whether a block is still what it was.
    fn is_still(&self, block: u64, base: &Base) -> bool {
        match (self.backlog().newest(block), base) {
            (Some(now), Base::Buffered(then)) => Rc::ptr_eq(&now, then),
            (None, Base::Stored(then)) => {
                let state = self.core().state.borrow();
                let mut now = Vec::with_capacity(1);
                let looked =
                    self.with_version(tree_of).map(|tree| lookup::range(&state.nodes, tree, block, 1, &mut now));
                // Where a node is missing by now, it is looked at again.
                matches!(looked, Ok(Ok(()))) && now.first() == Some(then)
            }
            _ => false,
        }
    }
}
