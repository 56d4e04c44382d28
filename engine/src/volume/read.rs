//! Reading: look up, join what is physically adjacent into one request, verify every checksum, answer.

use std::{collections::VecDeque, ops::Range};

use super::{LocalVolume, PIECE};
use crate::{
    core::ReadGuard,
    error::{Error, Result, corrupt},
    format::pointer::{Place, Pointer},
    qos::Permit,
    reactor::Pending,
    sabotage::{Sabotage, broken},
    state::tree_of,
    storage::{Completion, Op, buffer::IoBuf},
    tree::lookup,
    units::{BLOCK, BLOCK_SIZE, blocks_for},
};

/// How many reads of one request are under way.
const AT_A_TIME: usize = 32;

/// Blocks of one read while others want the device: what comes meanwhile waits for no more than that.
const BESIDE_OTHERS: usize = 32;

impl LocalVolume {
    pub(super) async fn read_now(&self, offset: u64, length: usize, permit: Option<&Permit>) -> Result<IoBuf> {
        self.check_range("read", offset, length as u64)?;
        self.fill(offset, offset + length as u64).await?;
        if length as u64 <= PIECE {
            return self.read_piece(offset, length, permit).await;
        }
        let mut out = IoBuf::with_len(length);
        let mut done = 0;
        while done < length {
            let n = (length - done).min(PIECE as usize);
            let piece = self.read_piece(offset + done as u64, n, permit).await?;
            out[done..done + n].copy_from_slice(&piece);
            done += n;
        }
        Ok(out)
    }

    async fn read_piece(&self, offset: u64, length: usize, permit: Option<&Permit>) -> Result<IoBuf> {
        if length == 0 {
            return Ok(IoBuf::with_len(0));
        }
        let first = offset / BLOCK;
        let count = blocks_for(offset + length as u64) - first;
        let mut buf = self.read_blocks(first, count, permit).await?;
        let head = (offset % BLOCK) as usize;
        if head != 0 {
            let _len = buf.len();
            buf.copy_within(head..head + length, 0);
        }
        buf.truncate(length);
        Ok(buf)
    }

    /// Whole blocks, from the backlog and the tree. The backlog is looked at first: what it lacks at that moment is in the tree.
    async fn read_blocks(&self, first: u64, count: u64, permit: Option<&Permit>) -> Result<IoBuf> {
        let over = self.backlog().overlay(first, count).filter(|_| !broken(Sabotage::ReadPastBacklog));
        let Some(over) = over else {
            let (blocks, guard) = self.look_up(first, count).await?;
            let buf = self.fetch(first, &blocks, permit).await;
            drop(guard);
            return buf;
        };
        if over.is_whole() {
            return Ok(over.bytes());
        }
        let (mut blocks, guard) = self.look_up(first, count).await?;
        over.hide(&mut blocks);
        let mut buf = self.fetch(first, &blocks, permit).await?;
        drop(guard);
        over.lay_over(&mut buf);
        Ok(buf)
    }

    /// Pointers of a range, and a guard that keeps what they point to until it is dropped.
    pub(super) async fn look_up(&self, first: u64, count: u64) -> Result<(Vec<Pointer>, ReadGuard)> {
        let core = self.core();
        let mut pointers = Vec::with_capacity(count as usize);
        loop {
            let tree = self.with_version(tree_of)?;
            pointers.clear();
            let result = lookup::range(&core.state.borrow().nodes, tree, first, count, &mut pointers);
            match result {
                Ok(()) => return Ok((pointers, core.hold())),
                Err(missing) => core.load(missing).await.map_err(|e| e.within(&self.attachment.name))?,
            }
        }
    }

    /// Reads and verifies the blocks of `pointers`, physically adjacent ones in one request, and so many of these at a time: who comes
    /// meanwhile does not wait for all of them. While others want the device, it is their size and number that make the share.
    pub(super) async fn fetch(&self, first: u64, pointers: &[Pointer], permit: Option<&Permit>) -> Result<IoBuf> {
        let len = pointers.len() * BLOCK_SIZE;
        let mut segments = segments(pointers, usize::MAX);
        let reads = segments.iter().filter(|segment| segment.place.is_some()).count().max(1);
        if let Some(permit) = permit {
            permit.in_pieces(reads as u64);
            if permit.room(BLOCK).is_some() {
                segments = self::segments(pointers, BESIDE_OTHERS);
            }
        }
        if let (Some(Segment { place: Some(place), .. }), 1) = (segments.first(), segments.len()) {
            let buf = self.fetch_run(*place, len).await?;
            self.verify(first, pointers, &buf)?;
            return Ok(buf);
        }
        let mut out = IoBuf::with_len(len);
        let mut reads = VecDeque::with_capacity(AT_A_TIME.min(segments.len()));
        for segment in segments {
            let Some(place) = segment.place else {
                out[segment.bytes()].fill(0);
                continue;
            };
            // Others may have come, or gone, since the last one.
            while reads.len() >= at_a_time(permit, segment.bytes().len())
                && let Some(read) = reads.pop_front()
            {
                self.take_segment(first, pointers, read, &mut out).await?;
            }
            let op = Op::Read { offset: place * BLOCK, buf: IoBuf::with_len(segment.bytes().len()) };
            reads.push_back((place, segment, self.core().reactor.submit(op)));
        }
        for read in reads {
            self.take_segment(first, pointers, read, &mut out).await?;
        }
        Ok(out)
    }

    /// Puts what was read of a segment into its place.
    async fn take_segment(
        &self,
        first: u64,
        pointers: &[Pointer],
        (place, segment, read): (u64, Segment, Pending),
        out: &mut IoBuf,
    ) -> Result<()> {
        let buf = self.finish_read(place, read.await)?;
        let blocks = segment.first..segment.first + segment.count;
        self.verify(first + segment.first as u64, &pointers[blocks], &buf)?;
        out[segment.bytes()].copy_from_slice(&buf);
        Ok(())
    }

    async fn fetch_run(&self, place: u64, len: usize) -> Result<IoBuf> {
        let op = Op::Read { offset: place * BLOCK, buf: IoBuf::with_len(len) };
        let done = self.core().reactor.submit(op).await;
        self.finish_read(place, done)
    }

    fn finish_read(&self, place: u64, done: Completion) -> Result<IoBuf> {
        let context = || format!("{}: cannot read physical block {place}", self.attachment.name);
        let n = done.result.map_err(|e| Error::io(context(), e))?;
        match done.op {
            Op::Read { buf, .. } if n == buf.len() => Ok(buf),
            _ => Err(corrupt(format!("{}: only {n} bytes there, the pool is truncated", context()))),
        }
    }

    fn verify(&self, first: u64, pointers: &[Pointer], buf: &[u8]) -> Result<()> {
        for (i, (pointer, bytes)) in pointers.iter().zip(buf.chunks_exact(BLOCK_SIZE)).enumerate() {
            let crc = crc32fast::hash(bytes);
            if crc != pointer.crc() && !broken(Sabotage::IgnoreDataCrc) {
                let Place::Data(block) = pointer.place() else { continue };
                let offset = (first + i as u64) * BLOCK;
                let what = format!(
                    "{} at offset {offset}: physical block {} fails its checksum (stored {:08x}, found {crc:08x})",
                    self.attachment.name,
                    block.0,
                    pointer.crc()
                );
                self.core().corruption(&what);
                return Err(corrupt(format!("{what}; restore the range from a backup")));
            }
        }
        Ok(())
    }
}

/// How many reads of so many bytes a request has under way: at least one.
fn at_a_time(permit: Option<&Permit>, bytes: usize) -> usize {
    permit.and_then(|permit| permit.room(bytes as u64)).map_or(AT_A_TIME, |room| room.min(AT_A_TIME))
}

/// Blocks of a range that are physically adjacent, or holes.
struct Segment {
    first: usize,
    count: usize,
    place: Option<u64>,
}

impl Segment {
    fn bytes(&self) -> Range<usize> {
        self.first * BLOCK_SIZE..(self.first + self.count) * BLOCK_SIZE
    }
}

/// The segments of what pointers name, of so many blocks at most.
fn segments(pointers: &[Pointer], most: usize) -> Vec<Segment> {
    let mut out: Vec<Segment> = Vec::new();
    for (i, pointer) in pointers.iter().enumerate() {
        let place = match pointer.place() {
            Place::Data(block) => Some(block.0),
            _ => None,
        };
        match out.last_mut() {
            Some(last) if last.count < most && last.place.map(|p| p + last.count as u64) == place => last.count += 1,
            _ => out.push(Segment { first: i, count: 1, place }),
        }
    }
    out
}
