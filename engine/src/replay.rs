//! Reading the journal when a pool is opened, and doing again what it says.
//!
//! The groups that follow the checkpoint are read in order of their numbers. Only the last one can be incomplete, in its records or
//! in the data that they name: it counts only if every block that it names has the checksum that it names. Damage anywhere else
//! is told from an incomplete end by what follows it, and refused.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::rc::Rc;

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

/// Bytes of the journal read at once, and reads under way at once.
const CHUNK: usize = 1 << 20;
const DEPTH: usize = 16;

/// A valid group: where its records are within the journal's bytes, and where the next one starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) header: GroupHeader,
    /// First block within the ring.
    pub(crate) at: u64,
}

/// The ring's bytes, and the groups in it that follow the checkpoint.
pub(crate) struct Journal {
    bytes: Vec<u8>,
    pub(crate) groups: Vec<Found>,
    /// The last group was incomplete and does not count.
    pub(crate) dropped: bool,
}

/// The group that starts at block `at` of the ring.
pub(crate) fn group_at<'a>(ring: &'a [u8], uuid: &[u8; 16], at: u64) -> Option<(GroupHeader, &'a [u8])> {
    let bytes = ring.get(usize::try_from(at * BLOCK).ok()?..)?;
    let header = GroupHeader::decode(bytes, uuid)?;
    let body = group::body(bytes, &header)?;
    Some((header, body))
}

/// The groups from `seq` at block `at` on, or what is wrong.
pub(crate) fn follow(ring: &[u8], uuid: &[u8; 16], seq: u64, at: u64) -> Result<Vec<Found>> {
    let blocks = (ring.len() / BLOCK_SIZE) as u64;
    let (mut seq, mut at) = (seq, at);
    let mut groups = Vec::new();
    loop {
        let next = [at, 0]
            .into_iter()
            .find_map(|place| group_at(ring, uuid, place).filter(|(h, _)| h.seq == seq).map(|(h, _)| (h, place)));
        let Some((header, place)) = next else { break };
        groups.push(Found { header, at: place });
        seq += 1;
        at = place + header.blocks();
        if at >= blocks {
            at = 0;
        }
    }
    // A later group cannot exist unless this one was durable: then it is damaged, not incomplete.
    let later = (0..blocks).find_map(|place| group_at(ring, uuid, place).filter(|(h, _)| h.seq > seq));
    match later {
        Some((header, _)) if !broken(Sabotage::IgnoreGap) => Err(corrupt(format!(
            "journal group {seq} is damaged or missing (expected at journal block {at}) though group {} exists: \
             opening would lose committed writes; restore from a backup",
            header.seq
        ))),
        _ => Ok(groups),
    }
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
    /// Reads the whole ring and finds the groups that follow the checkpoint.
    pub(crate) async fn read(core: &Rc<Core>) -> Result<Self> {
        let superblock = core.superblock.borrow().clone();
        let bytes = read_ring(core, &superblock).await?;
        let groups = follow(&bytes, &superblock.uuid, superblock.group_seq, superblock.group_at)?;
        let mut this = Self { bytes, groups, dropped: false };
        if let Some(&last) = this.groups.last()
            && !broken(Sabotage::ReplayIncompleteGroup)
            && !this.is_complete(core, last).await?
        {
            let _incomplete = this.groups.pop();
            this.dropped = true;
        }
        Ok(this)
    }

    fn body(&self, group: Found, uuid: &[u8; 16]) -> &[u8] {
        group_at(&self.bytes, uuid, group.at).map_or(&[], |(_, body)| body)
    }

    /// Whether all data that a group names is there.
    async fn is_complete(&self, core: &Rc<Core>, group: Found) -> Result<bool> {
        let uuid = core.superblock.borrow().uuid;
        let mut reads = std::collections::VecDeque::new();
        for record in records(self.body(group, &uuid), group.header.seq) {
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
        let uuid = core.superblock.borrow().uuid;
        let mut count = 0;
        core.state.borrow_mut().set_replaying(true);
        for &group in &self.groups {
            for record in records(self.body(group, &uuid), group.header.seq) {
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

async fn read_ring(core: &Rc<Core>, superblock: &Superblock) -> Result<Vec<u8>> {
    let total = superblock.journal_blocks * BLOCK;
    let mut bytes = Vec::with_capacity(total as usize);
    let mut reads = std::collections::VecDeque::new();
    let mut offset = 0;
    while offset < total || !reads.is_empty() {
        if offset < total && reads.len() < DEPTH {
            let len = (total - offset).min(CHUNK as u64);
            let start = superblock.journal_start * BLOCK + offset;
            reads.push_back(core.reactor.submit(Op::Read { offset: start, buf: IoBuf::with_len(len as usize) }));
            offset += len;
            continue;
        }
        let Some(read) = reads.pop_front() else { break };
        let done = read.await;
        let n = done.result.map_err(|e| Error::io("cannot read the journal", e))?;
        match done.op {
            Op::Read { buf, .. } if n == buf.len() => bytes.extend_from_slice(&buf),
            _ => return Err(corrupt("the journal is cut short: the pool is truncated")),
        }
    }
    Ok(bytes)
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
        let found = follow(&ring(&[(5, 14), (6, 15), (7, 0), (4, 1)]), UUID, 5, 14).unwrap();
        assert_eq!(found.iter().map(|f| (f.header.seq, f.at)).collect::<Vec<_>>(), [(5, 14), (6, 15), (7, 0)]);
        assert_eq!(follow(&ring(&[(4, 0)]), UUID, 5, 1).unwrap(), []);
    }

    #[test]
    fn a_gap_is_damage_not_an_end() {
        let error = follow(&ring(&[(5, 3), (7, 5)]), UUID, 5, 3).unwrap_err();
        assert!(error.to_string().contains("group 6"), "{error}");
    }
}
