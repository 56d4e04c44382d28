//! An open volume or snapshot on the reactor's thread: reads, writes, flushes, discards.
//!
//! Writes go to new blocks and enter the tree when the device has them; a request in flight changes nothing that others see.
//! Blocks are the unit of atomicity: of two overlapping writes in flight, each block ends up as one or the other.

mod admitted;
mod extents;
mod filler;
mod gated;
mod put;
mod read;

use std::rc::Rc;

pub use admitted::Admitted;
pub(crate) use extents::{changes, push};

use crate::{
    core::Core,
    error::{Result, invalid, not_found, read_only},
    format::pointer::Pointer,
    gate::Gate,
    gather::Reserved,
    info::SyncMode,
    qos::{Permit, meter::Meter},
    sabotage::{Sabotage, broken},
    space::Purpose,
    state::{Need, State, tree_of},
    storage::{Part, buffer::IoBuf},
    tree::lookup,
    units::{BLOCK, BLOCK_SIZE, SECTOR, VersionId, VolumeId, blocks_for},
    versions::{Floor, Version},
    writeback::Backlog,
};

/// Changes in one page of an extent list.
const PAGE_CHANGES: usize = 1024;
/// Bytes of one request that are in memory at once.
const PIECE: u64 = 8 << 20;

/// What is open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Opened {
    Volume(VolumeId),
    Snapshot(VersionId),
}

/// What a handle is to a volume that is filling.
pub(crate) enum Role {
    /// None was filling when it was opened.
    Any,
    /// A user, who waits at the gate.
    User(Rc<Gate>),
    Filler,
}

struct Attachment {
    core: Rc<Core>,
    opened: Opened,
    name: String,
    role: Role,
    /// Of the volume, also where a snapshot of it is open.
    meter: Rc<Meter>,
    /// Of the volume; that of a snapshot is always empty.
    backlog: Rc<Backlog>,
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let mut attached = self.core.attached.borrow_mut();
        let count = match self.opened {
            Opened::Volume(id) => attached.volumes.get_mut(&id),
            Opened::Snapshot(id) => attached.snapshots.get_mut(&id),
        };
        if let Some(count) = count {
            *count -= 1;
        }
    }
}

/// An open volume or snapshot, for code on the reactor's thread. Clones share the attachment; the last one to go detaches.
///
/// Offsets and lengths are in bytes and multiples of 512. Any number of requests may be in flight.
#[derive(Clone)]
pub struct LocalVolume {
    attachment: Rc<Attachment>,
    /// Its requests are background work.
    background: bool,
}

/// Where blocks are put into the tree.
#[derive(Clone, Copy)]
enum Where {
    Anywhere,
    /// Only where there is nothing, of a volume that is filling.
    Holes,
}

/// How an attempt to merge sectors into a block ended.
enum Merged {
    Done,
    /// The block has changed meanwhile: read it again.
    Changed,
    /// Nodes would use up what the next checkpoint needs.
    NoRoom,
}

impl LocalVolume {
    pub(crate) fn new(core: Rc<Core>, opened: Opened, name: String, role: Role) -> Self {
        let first = {
            let mut attached = core.attached.borrow_mut();
            let handles = match opened {
                Opened::Volume(id) => attached.volumes.entry(id).or_default(),
                Opened::Snapshot(id) => attached.snapshots.entry(id).or_default(),
            };
            *handles += 1;
            *handles == 1
        };
        let meter = core.qos.meter(match opened {
            Opened::Volume(id) => id,
            Opened::Snapshot(id) => core.state.borrow().lineage.get(id).map_or(VolumeId(0), |version| version.volume),
        });
        let backlog = match opened {
            Opened::Volume(id) => core.backlogs.of(id),
            Opened::Snapshot(_) => Rc::default(),
        };
        if let Opened::Volume(id) = opened {
            core.apply_cache(id, &backlog);
            if first {
                core.try_again(id, &backlog, false);
            }
        }
        Self { attachment: Rc::new(Attachment { core, opened, name, role, meter, backlog }), background: false }
    }

    fn core(&self) -> &Rc<Core> {
        &self.attachment.core
    }

    fn backlog(&self) -> &Rc<Backlog> {
        &self.attachment.backlog
    }

    /// The name under which it was opened: `volume` or `volume@snapshot`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.attachment.name
    }

    /// The volume that it is, or belongs to.
    pub(crate) fn volume(&self) -> Result<VolumeId> {
        self.with_version(|v| v.volume)
    }

    /// The volume's name now: it may have been renamed.
    pub(crate) fn present_name(&self) -> Result<String> {
        self.with_version(|v| v.name.clone())
    }

    /// Present size in bytes; 0 once the volume is gone.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.with_version(|v| v.size).unwrap_or(0)
    }

    /// Whether writes are refused whatever happens: a snapshot, or a pool opened for reading.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        matches!(self.attachment.opened, Opened::Snapshot(_)) || self.core().opened_read_only.get()
    }

    fn with_version<T>(&self, f: impl FnOnce(&Version) -> T) -> Result<T> {
        let state = self.core().state.borrow();
        let version = match self.attachment.opened {
            Opened::Volume(id) => state.lineage.live_of(id),
            Opened::Snapshot(id) => state.lineage.get(id),
        };
        version.map(f).ok_or_else(|| not_found(format!("{} has been deleted", self.attachment.name)))
    }

    fn live(&self) -> Result<VersionId> {
        self.with_version(|v| v.id)
    }

    fn check_range(&self, what: &str, offset: u64, length: u64) -> Result<()> {
        let size = self.with_version(|v| v.size)?;
        let name = &self.attachment.name;
        if !offset.is_multiple_of(SECTOR) || !length.is_multiple_of(SECTOR) {
            return Err(invalid(format!(
                "{what} of {length} bytes at {offset} of {name}: offset and length must be multiples of {SECTOR}"
            )));
        }
        if offset.checked_add(length).is_none_or(|end| end > size) {
            return Err(invalid(format!("{what} of {length} bytes at {offset} is outside of {name} ({size} bytes)")));
        }
        Ok(())
    }

    fn check_write(&self, what: &str, offset: u64, length: u64) -> Result<VolumeId> {
        let volume = self.check_writable()?;
        self.check_range(what, offset, length)?;
        Ok(volume)
    }

    fn check_writable(&self) -> Result<VolumeId> {
        self.core().writable()?;
        match self.attachment.opened {
            Opened::Volume(id) => Ok(id),
            Opened::Snapshot(_) => Err(read_only(format!("{} is a snapshot: clone it to write", self.attachment.name))),
        }
    }

    // ---- writing ----

    /// `permit` is taken when the write goes on beyond its acknowledgement.
    async fn write_now(&self, offset: u64, data: IoBuf, fua: bool, permit: &mut Option<Permit>) -> Result<()> {
        let length = data.len() as u64;
        let volume = self.check_write("write", offset, length)?;
        self.fill(offset, offset + length).await?;
        let data = Rc::new(data);
        // A filler's write may come when the volume is full: it has to be left out.
        let from_memory = self.backlog().is_on() && length > 0 && !self.is_filler();
        if from_memory && self.write_from_memory(volume, offset, &data, fua, permit).await? {
            return Ok(());
        }
        let _through = self.core().go_around(volume, self.backlog()).await?;
        self.core().admit().await?;
        if self.is_filler() {
            self.write_to_holes(volume, offset, data).await?;
        } else if offset.is_multiple_of(BLOCK) && length.is_multiple_of(BLOCK) {
            self.write_blocks(volume, offset / BLOCK, data).await?;
        } else {
            self.write_unaligned(volume, offset, &data).await?;
        }
        self.core().commit_if_large();
        self.commit_if(fua).await
    }

    async fn commit_if(&self, fua: bool) -> Result<()> {
        let sync = self.with_version(|v| v.options.sync)?;
        if fua && sync != SyncMode::Never || sync == SyncMode::Always { self.core().flush().await } else { Ok(()) }
    }

    async fn flush_now(&self) -> Result<()> {
        if matches!(self.attachment.opened, Opened::Snapshot(_)) || self.core().opened_read_only.get() {
            return Ok(());
        }
        match self.with_version(|v| v.options.sync)? {
            SyncMode::Never => {
                self.core().writable()?;
                self.backlog().failure().map_or(Ok(()), Err)
            }
            SyncMode::Flush | SyncMode::Always => {
                let backlog = self.backlog();
                if !backlog.is_empty() && !broken(Sabotage::FlushPastBacklog) {
                    self.core().drained(backlog, backlog.taken()).await?;
                }
                self.core().flush().await
            }
        }
    }

    async fn write_unaligned(&self, volume: VolumeId, offset: u64, data: &[u8]) -> Result<()> {
        let end = offset + data.len() as u64;
        let mut at = offset;
        while at < end {
            let block = at / BLOCK;
            let piece = &data[(at - offset) as usize..];
            if at.is_multiple_of(BLOCK) && end - at >= BLOCK {
                let n = ((end - at) / BLOCK * BLOCK) as usize;
                self.write_blocks(volume, block, Rc::new(IoBuf::from(&piece[..n]))).await?;
                at += n as u64;
            } else {
                let n = ((block + 1) * BLOCK - at).min(end - at);
                self.merge(volume, block, (at % BLOCK) as usize, &piece[..n as usize]).await?;
                at += n;
            }
        }
        Ok(())
    }

    /// Read, merge and rewrite one block, under that block's lock. A whole-block write that came in between is merged with, too.
    async fn merge(&self, volume: VolumeId, block: u64, at: usize, bytes: &[u8]) -> Result<()> {
        let core = self.core().clone();
        let _lock = core.block_locks.lock(volume, block).await;
        loop {
            let (pointers, guard) = self.look_up(block, 1).await?;
            let mut buf = self.fetch(block, &pointers, None).await?;
            drop(guard);
            buf[at..at + bytes.len()].copy_from_slice(bytes);
            let expected = pointers.first().copied().unwrap_or(Pointer::HOLE);
            let crc = crc32fast::hash(&buf).to_le_bytes();
            let mut reserved = Reserved::new(&core);
            if !is_zero(&buf) || !self.zeros_are_holes() && !expected.is_hole() {
                let purpose = self.purpose(block, 1).await?;
                reserved = core
                    .write_new(Part { buf: Rc::new(buf), range: 0..BLOCK_SIZE }, purpose, self.nodes_for(block, 1))
                    .await?;
            }
            let place = reserved.runs.first().map(|r| r.start);
            let done = core
                .change(|state| {
                    let live = match self.live_in(state, volume, block + 1) {
                        Ok(live) => live,
                        Err(error) => return Ok(Err(error)),
                    };
                    let Some(version) = state.lineage.get(live) else { return Ok(Ok(Merged::Changed)) };
                    let mut now = Vec::with_capacity(1);
                    lookup::range(&state.nodes, tree_of(version), block, 1, &mut now)?;
                    if now.first() != Some(&expected) && !broken(Sabotage::StaleMerge) {
                        return Ok(Ok(Merged::Changed));
                    }
                    match place {
                        Some(place) => state.write(live, block, place, &crc)?,
                        None if expected.is_hole() => {}
                        None if state.is_short(Need::Nodes) => return Ok(Ok(Merged::NoRoom)),
                        None => state.clear_leaf(live, block, block + 1)?,
                    }
                    Ok(Ok(Merged::Done))
                })
                .await??;
            match done {
                Merged::Done => {
                    reserved.runs.clear();
                    return Ok(());
                }
                Merged::Changed => {}
                Merged::NoRoom => self.room_for_nodes().await?,
            }
        }
    }

    /// The live version within a step, if it (still) has these blocks. Looked up in the step itself: while nodes are loaded, the volume may
    /// be reverted or grow.
    fn live_in(&self, state: &State, volume: VolumeId, end: u64) -> Result<VersionId> {
        let name = &self.attachment.name;
        let live = state.lineage.live_of(volume).ok_or_else(|| not_found(format!("{name} has been deleted")))?;
        if end > live.blocks() {
            return Err(invalid(format!("{name} has become smaller meanwhile")));
        }
        Ok(live.id)
    }

    async fn write_blocks(&self, volume: VolumeId, block: u64, data: Rc<IoBuf>) -> Result<()> {
        let count = data.len() / BLOCK_SIZE;
        let mut at = 0;
        while at < count {
            let zero = is_zero(&data[at * BLOCK_SIZE..(at + 1) * BLOCK_SIZE]);
            let run = (at + 1..count)
                .find(|&i| is_zero(&data[i * BLOCK_SIZE..(i + 1) * BLOCK_SIZE]) != zero)
                .unwrap_or(count);
            if zero {
                let _end = self.clear(volume, block + at as u64, (block + run as u64) * BLOCK).await?;
            } else {
                let part = Part { buf: data.clone(), range: at * BLOCK_SIZE..run * BLOCK_SIZE };
                self.write_data(volume, block + at as u64, part).await?;
            }
            at = run;
        }
        Ok(())
    }

    async fn write_data(&self, volume: VolumeId, block: u64, part: Part) -> Result<()> {
        let count = (part.range.len() / BLOCK_SIZE) as u64;
        let purpose = self.purpose(block, count).await?;
        if purpose == Purpose::Data {
            return self.write_run(volume, block, part, purpose, Where::Anywhere).await;
        }
        // The reserve is small: what replaces data of its own goes through it a little at a time.
        let step = (self.core().state.borrow().space.reserve() / 8).max(8) * BLOCK;
        let mut start = part.range.start;
        while start < part.range.end {
            let end = part.range.end.min(start + step as usize);
            let at = block + ((start - part.range.start) / BLOCK_SIZE) as u64;
            let part = Part { buf: part.buf.clone(), range: start..end };
            self.write_run(volume, at, part, purpose, Where::Anywhere).await?;
            start = end;
        }
        Ok(())
    }

    /// Writes blocks to new places and puts them into the tree.
    async fn write_run(&self, volume: VolumeId, block: u64, part: Part, purpose: Purpose, place: Where) -> Result<()> {
        let core = self.core();
        let mut crcs = Vec::with_capacity(part.range.len() / BLOCK_SIZE * 4);
        for bytes in part.bytes().chunks_exact(BLOCK_SIZE) {
            crcs.extend_from_slice(&crc32fast::hash(bytes).to_le_bytes());
        }
        let nodes = self.nodes_for(block, (part.range.len() / BLOCK_SIZE) as u64);
        let mut reserved = core.write_new(part, purpose, nodes).await?;
        let mut done = 0u64;
        while let Some(run) = reserved.runs.first().copied() {
            let at = block + done;
            let n = run.len.min(256 - at % 256);
            let crcs = &crcs[done as usize * 4..(done + n) as usize * 4];
            let (n, written) = core
                .change(|state| match (self.live_in(state, volume, at + n), place) {
                    (Ok(live), Where::Anywhere) => state.write(live, at, run.start, crcs).map(|()| Ok((n, true))),
                    (Ok(live), Where::Holes) => state.fill(live, at, run.start, crcs).map(Ok),
                    (Err(error), _) => Ok(Err(error)),
                })
                .await??;
            // Before anything is awaited: whoever drops this future now must not take back what the tree refers to.
            if written {
                reserved.advance(n);
            } else {
                reserved.give_up(n);
            }
            done += n;
        }
        Ok(())
    }

    /// Metadata blocks that a write may dirty: its leaves, the nodes above the first and the last of them, and the version's record.
    fn nodes_for(&self, block: u64, count: u64) -> u64 {
        let depth = self.with_version(|v| u64::from(v.depth)).unwrap_or(0);
        let leaves = (block + count - 1) / 256 - block / 256 + 1;
        leaves + depth.saturating_sub(1) * leaves.min(2) + 2
    }

    /// Whether a write may go into the reserve: only when space is tight, and then only where it replaces data of its own.
    async fn purpose(&self, block: u64, count: u64) -> Result<Purpose> {
        let core = self.core();
        if !core.state.borrow().space.is_tight(count + 8192) {
            return Ok(Purpose::Data);
        }
        core.update_promise();
        if !core.state.borrow().space.is_tight(count + self.nodes_for(block, count)) {
            return Ok(Purpose::Data);
        }
        let id = self.live()?;
        core.step(|state| {
            let Some(version) = state.lineage.get(id) else { return Ok(Purpose::Data) };
            let floor: Floor = state.lineage.floor(version);
            let mut pointers = Vec::with_capacity(count as usize);
            lookup::range(&state.nodes, tree_of(version), block, count, &mut pointers)?;
            let owned = pointers.iter().enumerate().all(|(i, p)| floor.owns(p.birth(), block + i as u64 + 1));
            Ok(if owned { Purpose::Overwrite } else { Purpose::Data })
        })
        .await
    }

    // ---- holes ----

    /// Whole blocks from block `start` up to the byte `end` become holes; returns the block behind them.
    async fn clear(&self, volume: VolumeId, start: u64, end: u64) -> Result<u64> {
        if !self.zeros_are_holes() {
            return self.clear_gated(volume, start, end).await;
        }
        let core = self.core();
        let mut at = start;
        let mut steps = 0u32;
        while at < self.with_version(|v| end_of_whole_blocks(v, end))? {
            let before = core.state.borrow().lineage.next_version;
            // Asked in the step itself: while nodes are loaded, others use up what there is, and the volume may grow.
            let cleared = core.change(|state| {
                let live = match self.live_in(state, volume, at + 1) {
                    Ok(_) if state.is_short(Need::Nodes) => return Ok(Ok(None)),
                    Ok(live) => live,
                    Err(error) => return Ok(Err(error)),
                };
                let upto = state.lineage.get(live).map_or(at, |v| end_of_whole_blocks(v, end));
                if at < upto { state.clear(live, at, upto).map(|to| Ok(Some(to))) } else { Ok(Ok(Some(at))) }
            });
            match cleared.await?? {
                Some(to) => at = to,
                None => self.room_for_nodes().await?,
            }
            if core.state.borrow().lineage.next_version != before {
                core.signals.deletion.notify();
            }
            steps += 1;
            if steps.is_multiple_of(16) {
                crate::reactor::notify::yield_now().await;
            }
        }
        Ok(at)
    }

    async fn room_for_nodes(&self) -> Result<()> {
        let core = self.core();
        if core.room_for_metadata(Need::Nodes).await? { Ok(()) } else { Err(core.full()) }
    }

    async fn discard_now(&self, offset: u64, length: u64, fua: bool) -> Result<()> {
        let volume = self.check_write("discard", offset, length)?;
        self.makes_holes()?;
        if self.is_gated() {
            let end = self.with_version(|v| end_of_whole_blocks(v, offset + length))?;
            self.fill(blocks_for(offset) * BLOCK, end * BLOCK).await?;
        }
        let _through = self.core().go_around(volume, self.backlog()).await?;
        self.core().admit().await?;
        let _end = self.clear(volume, blocks_for(offset), offset + length).await?;
        self.core().commit_if_large();
        self.commit_if(fua).await
    }

    async fn write_zeroes_now(&self, offset: u64, length: u64, fua: bool) -> Result<()> {
        let volume = self.check_write("write of zeros", offset, length)?;
        self.makes_holes()?;
        self.fill(offset, offset + length).await?;
        let _through = self.core().go_around(volume, self.backlog()).await?;
        self.core().admit().await?;
        let (start, end) = (blocks_for(offset), offset + length);
        let zeros = [0; BLOCK_SIZE];
        if offset < end.min(start * BLOCK) {
            let n = end.min(start * BLOCK) - offset;
            self.merge(volume, start - 1, (offset % BLOCK) as usize, &zeros[..n as usize]).await?;
        }
        let cleared = self.clear(volume, start, end).await?;
        if cleared * BLOCK < end {
            self.merge(volume, cleared, 0, &zeros[..(end - cleared * BLOCK) as usize]).await?;
        }
        self.core().commit_if_large();
        self.commit_if(fua).await
    }
}

/// Where the whole blocks end in a range up to the byte `end`. The short last block of a volume counts as whole, but only for as long as
/// nothing can be written behind it: the size is that of the moment of the change.
fn end_of_whole_blocks(version: &Version, end: u64) -> u64 {
    if end == version.size { blocks_for(end) } else { end / BLOCK }
}

fn is_zero(bytes: &[u8]) -> bool {
    let (head, words, tail) = {
        let (words, tail) = bytes.as_chunks::<8>();
        (words.first(), words, tail)
    };
    // Most blocks that are not zero show it in their first word.
    head.is_none_or(|w| *w == [0; 8]) && words.iter().all(|w| *w == [0; 8]) && tail.iter().all(|b| *b == 0)
}
