//! Reading the journal when a pool is opened, and doing again what it says.
//!
//! The groups that follow the checkpoint are read in order of their numbers. Only the last one can be incomplete, in its records or
//! in the data that they name: it counts only if every block that it names has the checksum that it names. Damage anywhere else
//! is told from an incomplete end by what follows it, and refused.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::{collections::BTreeMap, rc::Rc};

use crate::{
    core::Core,
    error::{Error, Result, corrupt},
    format::{
        bytes::Reader,
        group::{self, GroupHeader},
        record::Record,
        superblock::Superblock,
    },
    sabotage::{Sabotage, broken},
    state::{State, Step},
    storage::{Completion, Op, buffer::IoBuf},
    units::{BLOCK, BLOCK_SIZE},
};

/// Blocks of the journal read at once, and reads under way at once.
const CHUNK_BLOCKS: u64 = 64;
/// A group of more blocks is read twice.
const LONG_BLOCKS: u64 = 256;
const DEPTH: usize = 16;

/// A valid group: where its records are within the journal's bytes, and where the next one starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) header: GroupHeader,
    /// First block within the ring.
    pub(crate) at: u64,
}

/// The groups of a ring that are whole and have a certain number or a higher one, by their first blocks.
pub(crate) struct Ring {
    blocks: u64,
    groups: BTreeMap<u64, (GroupHeader, Vec<u8>)>,
}

impl Ring {
    /// The groups in a ring's bytes.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn of(bytes: &[u8], uuid: &[u8; 16], seq: u64) -> Self {
        let mut this = Self { blocks: (bytes.len() / BLOCK_SIZE) as u64, groups: BTreeMap::new() };
        for at in 0..this.blocks {
            let group = bytes.get((at * BLOCK) as usize..).unwrap_or_default();
            if let Some(header) = GroupHeader::decode(group, uuid).filter(|h| h.seq >= seq) {
                let _whole = this.add(at, header, group);
            }
        }
        this
    }

    /// Takes in a group from its bytes, and whatever follows them, if it is whole; says whether it is. What seems to begin within
    /// another one is part of its records: so all of them together are no larger than the ring.
    fn add(&mut self, at: u64, header: GroupHeader, bytes: &[u8]) -> bool {
        let Some(body) = group::body(bytes, &header).filter(|_| !self.is_within_another(at)) else { return false };
        let inside: Vec<u64> = self.groups.range(at..at + header.blocks()).map(|(first, _)| *first).collect();
        for first in inside {
            let _no_group = self.groups.remove(&first);
        }
        let _none = self.groups.insert(at, (header, body.to_vec()));
        true
    }

    fn is_within_another(&self, at: u64) -> bool {
        let before = self.groups.range(..at).next_back();
        before.is_some_and(|(first, (header, _))| first + header.blocks() > at)
    }

    pub(crate) fn get(&self, at: u64) -> Option<(GroupHeader, &[u8])> {
        self.groups.get(&at).map(|(header, body)| (*header, &body[..]))
    }

    /// The groups from `seq` at block `at` on, or what is wrong.
    pub(crate) fn follow(&self, seq: u64, at: u64) -> Result<Vec<Found>> {
        let (mut seq, mut at) = (seq, at);
        let mut groups = Vec::new();
        loop {
            let next = [at, 0]
                .into_iter()
                .find_map(|place| self.get(place).filter(|(h, _)| h.seq == seq).map(|(h, _)| (h, place)));
            let Some((header, place)) = next else { break };
            groups.push(Found { header, at: place });
            seq += 1;
            at = place + header.blocks();
            if at >= self.blocks {
                at = 0;
            }
        }
        // A later group cannot exist unless this one was durable: then it is damaged, not incomplete.
        match self.groups.values().find(|(header, _)| header.seq > seq) {
            Some((header, _)) if !broken(Sabotage::IgnoreGap) => Err(corrupt(format!(
                "journal group {seq} is damaged or missing (expected at journal block {at}) though group {} exists: \
                 opening would lose committed writes; restore from a backup",
                header.seq
            ))),
            _ => Ok(groups),
        }
    }
}

/// The groups that follow the checkpoint.
pub(crate) struct Journal {
    ring: Ring,
    pub(crate) groups: Vec<Found>,
    /// The last group was incomplete and does not count.
    pub(crate) dropped: bool,
}

/// The records of a group.
fn records(body: &[u8], seq: u64) -> impl Iterator<Item = Result<Record<'_>>> {
    let mut reader = Reader::new(body);
    std::iter::from_fn(move || {
        if reader.is_empty() {
            return None;
        }
        let left = reader.remaining();
        Some(Record::decode(&mut reader).ok_or_else(|| {
            corrupt(format!("journal group {seq} holds bytes that are no record, {left} bytes before its end"))
        }))
    })
}

impl Journal {
    /// Reads the ring and finds the groups that follow the checkpoint.
    pub(crate) async fn read(core: &Rc<Core>) -> Result<Self> {
        let superblock = core.superblock.borrow().clone();
        let ring = read_ring(core, &superblock).await?;
        let groups = ring.follow(superblock.group_seq, superblock.group_at)?;
        let mut this = Self { ring, groups, dropped: false };
        if let Some(&last) = this.groups.last()
            && !broken(Sabotage::ReplayIncompleteGroup)
            && !this.is_complete(core, last).await?
        {
            let _incomplete = this.groups.pop();
            this.dropped = true;
        }
        Ok(this)
    }

    fn body(&self, group: Found) -> &[u8] {
        self.ring.get(group.at).map_or(&[], |(_, body)| body)
    }

    /// Whether all data that a group names is there.
    async fn is_complete(&self, core: &Rc<Core>, group: Found) -> Result<bool> {
        let mut reads = std::collections::VecDeque::new();
        for record in records(self.body(group), group.header.seq) {
            let Record::Write { place, crcs, .. } = record? else { continue };
            let len = crcs.len() / 4 * BLOCK_SIZE;
            reads
                .push_back((crcs, core.reactor.submit(Op::Read { offset: place.offset(), buf: IoBuf::with_len(len) })));
            if reads.len() >= DEPTH * 4
                && let Some((crcs, read)) = reads.pop_front()
                && !matches(crcs, read.await)?
            {
                return Ok(false);
            }
        }
        while let Some((crcs, read)) = reads.pop_front() {
            if !matches(crcs, read.await)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Does everything again; returns how many records there were.
    pub(crate) async fn replay(&self, core: &Rc<Core>) -> Result<u64> {
        let mut count = 0;
        core.state.borrow_mut().set_replaying(true);
        for &group in &self.groups {
            for record in records(self.body(group), group.header.seq) {
                let record = record?;
                core.step(|state| apply(state, &record)).await.map_err(|e| {
                    e.within(format_args!("while replaying record {count} of the journal (group {})", group.header.seq))
                })?;
                count += 1;
            }
        }
        core.state.borrow_mut().set_replaying(false);
        Ok(count)
    }
}

/// Whether the blocks hold what a record says. That they cannot be read says nothing about it, so it is an error.
fn matches(crcs: &[u8], done: Completion) -> Result<bool> {
    let n = done.result.map_err(|e| Error::io("cannot read data that the last journal group names", e))?;
    let Op::Read { buf, .. } = done.op else { return Ok(false) };
    let sums = crcs.as_chunks::<4>().0.iter().map(|crc| u32::from_le_bytes(*crc));
    Ok(n == buf.len() && buf.chunks(BLOCK_SIZE).zip(sums).all(|(bytes, crc)| crc32fast::hash(bytes) == crc))
}

/// Finds the groups that may follow the checkpoint. The ring is looked through a chunk at a time: what is old in it, most of it as a rule,
/// is not kept.
async fn read_ring(core: &Rc<Core>, superblock: &Superblock) -> Result<Ring> {
    let (uuid, seq, blocks) = (&superblock.uuid, superblock.group_seq, superblock.journal_blocks);
    let mut ring = Ring { blocks, groups: BTreeMap::new() };
    // Those that go on in the next chunk.
    let mut longer = Vec::new();
    read_parts(core, superblock, chunks(0, blocks), |first, bytes| {
        for (at, rest) in (first..).zip((0..bytes.len()).step_by(BLOCK_SIZE).filter_map(|from| bytes.get(from..))) {
            match GroupHeader::decode(rest, uuid).filter(|h| h.seq >= seq && at + h.blocks() <= blocks) {
                Some(header) if header.blocks() * BLOCK <= rest.len() as u64 => {
                    let _whole = ring.add(at, header, rest);
                }
                Some(header) => longer.push((at, header)),
                None => {}
            }
        }
    })
    .await?;
    let mut broken = 0;
    for (at, header) in longer {
        if ring.is_within_another(at) {
            continue;
        }
        let mut bytes = Vec::new();
        // One that seems to be large is believed when its checksum holds, and takes memory only then.
        if header.blocks() <= LONG_BLOCKS || is_whole(core, superblock, at, header).await? {
            read_parts(core, superblock, chunks(at, header.blocks()), |_, part| bytes.extend_from_slice(part)).await?;
        }
        let same = GroupHeader::decode(&bytes, uuid) == Some(header);
        if !same || !ring.add(at, header, &bytes) {
            broken += header.blocks();
        }
        // A crash leaves one at most.
        if broken > 2 * blocks {
            return Err(corrupt("the journal is full of groups that are not whole: restore from a backup"));
        }
    }
    Ok(ring)
}

/// Whether a group's checksum holds.
async fn is_whole(core: &Rc<Core>, superblock: &Superblock, at: u64, header: GroupHeader) -> Result<bool> {
    let mut sum = group::Sum::of(header);
    read_parts(core, superblock, chunks(at, header.blocks()), |_, part| sum.add(part)).await?;
    Ok(sum.holds())
}

/// `count` blocks from `first` on, in chunks.
fn chunks(first: u64, count: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..count).step_by(CHUNK_BLOCKS as usize).map(move |at| (first + at, CHUNK_BLOCKS.min(count - at)))
}

/// Hands out parts of the ring, given by their first blocks and lengths, in order.
async fn read_parts(
    core: &Rc<Core>,
    superblock: &Superblock,
    mut parts: impl Iterator<Item = (u64, u64)>,
    mut take: impl FnMut(u64, &[u8]),
) -> Result<()> {
    let mut reads = std::collections::VecDeque::new();
    // Used again and again: new memory would cost more than the reads.
    let mut free: Vec<IoBuf> = Vec::new();
    loop {
        if reads.len() < DEPTH
            && let Some((at, count)) = parts.next()
        {
            let len = (count * BLOCK) as usize;
            let buf = free.pop().filter(|buf| buf.len() == len).unwrap_or_else(|| IoBuf::with_len(len));
            let offset = (superblock.journal_start + at) * BLOCK;
            reads.push_back((at, core.reactor.submit(Op::Read { offset, buf })));
            continue;
        }
        let Some((at, read)) = reads.pop_front() else { return Ok(()) };
        let done = read.await;
        let n = done.result.map_err(|e| Error::io("cannot read the journal", e))?;
        match done.op {
            Op::Read { buf, .. } if n == buf.len() => {
                take(at, &buf);
                free.push(buf);
            }
            _ => return Err(corrupt("the journal is cut short: the pool is truncated")),
        }
    }
}

/// One record, through the same code that ran when it was written.
fn apply(state: &mut State, record: &Record<'_>) -> Step<()> {
    match record {
        Record::Write { version, block, place, crcs } => return state.write(*version, block.0, place.0, crcs),
        Record::Hole { version, block, count } => {
            return state.clear_leaf(*version, block.0, block.0.saturating_add(*count));
        }
        Record::Cut { version, block, height, detached } => return state.cut(*version, block.0, *height, *detached),
        Record::Walked { version, to } => return state.replay_walk(*version, *to),
        Record::Create { volume, version, created_ms, size, options, name } => {
            state.create(*volume, *version, name, *size, *created_ms, options.clone());
        }
        Record::Snapshot { live, frozen, created_ms, last, name } => {
            state.snapshot(*live, *frozen, name, *created_ms, *last);
        }
        Record::Clone { snapshot, volume, version, created_ms, size, options, name } => {
            state.clone_version(*snapshot, (*volume, *version), name, *size, *created_ms, options.clone());
        }
        Record::Revert { live, snapshot, version } => state.revert(*live, *snapshot, *version),
        Record::Resize { version, size } => state.resize(*version, *size),
        Record::Rename { version, name } => state.rename(*version, name),
        Record::Options { version, options } => state.set_options(*version, options.clone()),
        Record::Delete { version } => state.delete(*version),
        Record::Prune { version } => state.prune(*version),
        Record::Counted { version, blocks } => state.counted(*version, *blocks),
        Record::Sheet { entry, sheet } => state.set_sheet(*entry, sheet.clone()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &[u8; 16] = b"0123456789abcdef";

    fn ring(groups: &[(u64, u64)]) -> Vec<u8> {
        let mut ring = vec![0; 16 * BLOCK_SIZE];
        for &(seq, at) in groups {
            let group = group::encode(UUID, seq, 1, b"x");
            ring[at as usize * BLOCK_SIZE..][..BLOCK_SIZE].copy_from_slice(&group);
        }
        ring
    }

    #[test]
    fn follows_to_the_end_and_over_it() {
        let found = Ring::of(&ring(&[(5, 14), (6, 15), (7, 0), (4, 1)]), UUID, 5).follow(5, 14).unwrap();
        assert_eq!(found.iter().map(|f| (f.header.seq, f.at)).collect::<Vec<_>>(), [(5, 14), (6, 15), (7, 0)]);
        assert_eq!(Ring::of(&ring(&[(4, 0)]), UUID, 5).follow(5, 1).unwrap(), []);
    }

    #[test]
    fn a_gap_is_damage_not_an_end() {
        let error = Ring::of(&ring(&[(5, 3), (7, 5)]), UUID, 5).follow(5, 3).unwrap_err();
        assert!(error.to_string().contains("group 6"), "{error}");
    }
}
