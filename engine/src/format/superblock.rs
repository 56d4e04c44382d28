//! The superblock: where everything of a checkpoint is. Four slots, two for each parity of the checkpoint's number.
//!
//! ```text
//! 0   magic "CAIRNPL1"        8    format version     12  CRC-32 of the 4 KiB (this field zero)
//! 16  pool uuid (16)          32   checkpoint number  40  blocks in the pool
//! 48  first journal block     56   journal blocks     64  first map block     72  first allocatable block
//! 80  end of allocatable      88   next group's sequence number               96  next group's block in the ring
//! 104 epoch (u32)             108  slot (u32)         112 next version id     120 next volume id
//! 128 created, ms since 1970  136  version table root pointer (16)            152 pages in the version table
//! 160 next deletion number    168  levels of the map above the bitmap (u32)   172 entries in the top level (u32)
//! 512 top map entries, 8 bytes each: slot (u32: 0 absent, 1 or 2), CRC-32 of the map block
//! ```
//!
//! Invariant: a checkpoint writes only the two slots of its own parity, so the two of the previous checkpoint stay whole
//! until it is durable.

use crate::{
    error::{Result, corrupt, invalid, unsupported},
    format::{
        FORMAT,
        bytes::{Put, Reader, crc_without_field, set_u32},
        pointer::Pointer,
    },
    sabotage::{Sabotage, broken},
    storage::buffer::IoBuf,
    units::{BLOCK_SIZE, Epoch},
};

const MAGIC: &[u8; 8] = b"CAIRNPL1";
const CRC_AT: usize = 12;
const ENTRIES_AT: usize = 512;
/// Map entries that fit into the superblock.
pub(crate) const TOP_ENTRIES: usize = (BLOCK_SIZE - ENTRIES_AT) / 8;
/// Blocks kept for superblocks at each end of the pool.
pub(crate) const MARGIN: u64 = 32;

/// Where one block of the free map is: which of its two places, and its checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct MapEntry {
    /// 0: never written, all zeros; 1 or 2: first or second place.
    pub(crate) place: u32,
    pub(crate) crc: u32,
}

impl MapEntry {
    /// The next entry of a list; `None` when the bytes are not one.
    pub(crate) fn decode(r: &mut Reader<'_>) -> Option<Self> {
        let this = Self { place: r.u32()?, crc: r.u32()? };
        (this.place <= 2).then_some(this)
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Superblock {
    /// Of what it refers to: that of the program that wrote it.
    pub(crate) format: u32,
    pub(crate) uuid: [u8; 16],
    pub(crate) checkpoint: u64,
    pub(crate) total_blocks: u64,
    pub(crate) journal_start: u64,
    pub(crate) journal_blocks: u64,
    pub(crate) map_start: u64,
    pub(crate) data_start: u64,
    pub(crate) data_end: u64,
    pub(crate) group_seq: u64,
    pub(crate) group_at: u64,
    pub(crate) epoch: Epoch,
    pub(crate) slot: u32,
    pub(crate) next_version: u64,
    pub(crate) next_volume: u64,
    pub(crate) created_ms: u64,
    pub(crate) table_root: Pointer,
    pub(crate) table_pages: u64,
    pub(crate) next_deletion: u64,
    pub(crate) map_levels: u32,
    pub(crate) map_top: Vec<MapEntry>,
}

/// The block that holds `slot` of a pool of `total` blocks: slots 0 and 1 for even and odd checkpoints at the head, 2 and 3
/// at the tail.
pub(crate) fn slot_block(slot: u32, total: u64) -> u64 {
    match slot {
        0 => 0,
        1 => MARGIN / 2,
        2 => total.saturating_sub(MARGIN),
        _ => total.saturating_sub(MARGIN / 2),
    }
}

/// The two slots that checkpoint number `checkpoint` is written to.
pub(crate) fn slots_of(checkpoint: u64) -> [u32; 2] {
    let parity = (checkpoint % 2) as u32;
    [parity, parity + 2]
}

impl Superblock {
    pub(crate) fn encode(&self) -> IoBuf {
        let mut out = Vec::with_capacity(BLOCK_SIZE);
        out.extend_from_slice(MAGIC);
        out.put_u32(self.format);
        out.put_u32(0);
        out.extend_from_slice(&self.uuid);
        for v in [
            self.checkpoint,
            self.total_blocks,
            self.journal_start,
            self.journal_blocks,
            self.map_start,
            self.data_start,
            self.data_end,
            self.group_seq,
            self.group_at,
        ] {
            out.put_u64(v);
        }
        out.put_u32(self.epoch.0);
        out.put_u32(self.slot);
        out.put_u64(self.next_version);
        out.put_u64(self.next_volume);
        out.put_u64(self.created_ms);
        out.extend_from_slice(&self.table_root.to_bytes());
        out.put_u64(self.table_pages);
        out.put_u64(self.next_deletion);
        out.put_u32(self.map_levels);
        out.put_u32(self.map_top.len() as u32);
        out.resize(ENTRIES_AT, 0);
        for entry in &self.map_top {
            out.put_u32(entry.place);
            out.put_u32(entry.crc);
        }
        debug_assert!(out.len() <= BLOCK_SIZE);
        out.resize(BLOCK_SIZE, 0);
        let crc = crc_without_field(&out, CRC_AT);
        set_u32(&mut out, CRC_AT, crc);
        IoBuf::from(out.as_slice())
    }

    /// Decodes and verifies the copy read from `slot`.
    pub(crate) fn decode(bytes: &[u8], slot: u32) -> Result<Self> {
        let mut r = Reader::new(bytes);
        if r.bytes(8) != Some(MAGIC) {
            return Err(invalid("no Cairn superblock here: this is not a Cairn pool, or its head is damaged"));
        }
        let format = r.u32().unwrap_or(0);
        let crc = r.u32().unwrap_or(0);
        if crc != crc_without_field(bytes, CRC_AT) && !broken(Sabotage::IgnoreSuperblockCrc) {
            return Err(corrupt(format!("superblock copy {slot} fails its checksum")));
        }
        if !(1..=FORMAT).contains(&format) {
            return Err(unsupported(format!(
                "the pool has format {format}, this program reads up to {FORMAT}: use a newer Cairn"
            )));
        }
        let this = Self::fields(&mut r, bytes, format)
            .ok_or_else(|| corrupt(format!("superblock copy {slot} is cut short or its map list is none")))?;
        if this.slot != slot {
            return Err(corrupt(format!("superblock copy {slot} holds copy {}: a misdirected write", this.slot)));
        }
        this.validate()?;
        Ok(this)
    }

    fn fields(r: &mut Reader<'_>, bytes: &[u8], format: u32) -> Option<Self> {
        let uuid = *r.bytes(16)?.first_chunk()?;
        let mut this = Self {
            format,
            uuid,
            checkpoint: r.u64()?,
            total_blocks: r.u64()?,
            journal_start: r.u64()?,
            journal_blocks: r.u64()?,
            map_start: r.u64()?,
            data_start: r.u64()?,
            data_end: r.u64()?,
            group_seq: r.u64()?,
            group_at: r.u64()?,
            epoch: Epoch(r.u32()?),
            slot: r.u32()?,
            next_version: r.u64()?,
            next_volume: r.u64()?,
            created_ms: r.u64()?,
            table_root: Pointer::from_bytes(*r.bytes(16)?.first_chunk()?),
            table_pages: r.u64()?,
            next_deletion: r.u64()?,
            map_levels: r.u32()?,
            map_top: Vec::new(),
        };
        let entries = r.u32()? as usize;
        if entries > TOP_ENTRIES {
            return None;
        }
        let mut r = Reader::new(bytes.get(ENTRIES_AT..)?);
        for _ in 0..entries {
            this.map_top.push(MapEntry::decode(&mut r)?);
        }
        Some(this)
    }

    /// Geometry and counters must make sense before anything is computed from them.
    fn validate(&self) -> Result<()> {
        let ordered = MARGIN <= self.journal_start
            && self.journal_blocks >= 2
            && self.journal_start.checked_add(self.journal_blocks).is_some_and(|end| end <= self.map_start)
            && self.map_start < self.data_start
            && self.data_start < self.data_end
            && self.total_blocks >= MARGIN
            && self.data_end <= self.total_blocks - MARGIN
            && self.total_blocks < 1 << 48
            && self.group_at < self.journal_blocks;
        if !ordered {
            return Err(corrupt("the superblock's geometry contradicts itself"));
        }
        // All are counted from 1, and no pool lives long enough to count to the end.
        let counters = [self.checkpoint, self.group_seq, self.next_version, self.next_volume, self.next_deletion];
        if counters.iter().all(|counter| (1..1 << 62).contains(counter)) {
            return Ok(());
        }
        Err(corrupt("the superblock's counters are out of range"))
    }
}

#[cfg(test)]
pub(crate) fn sample() -> Superblock {
    Superblock {
        format: FORMAT,
        uuid: *b"0123456789abcdef",
        checkpoint: 7,
        total_blocks: 10_000,
        journal_start: 32,
        journal_blocks: 1024,
        map_start: 1056,
        data_start: 1060,
        data_end: 9_968,
        group_seq: 3,
        group_at: 5,
        epoch: Epoch(9),
        slot: 1,
        next_version: 11,
        next_volume: 12,
        created_ms: 13,
        table_root: Pointer::HOLE,
        table_pages: 0,
        next_deletion: 1,
        map_levels: 0,
        map_top: vec![MapEntry { place: 1, crc: 42 }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_every_flipped_bit_is_noticed() {
        let sb = sample();
        let bytes = sb.encode();
        assert_eq!(Superblock::decode(&bytes, 1).unwrap(), sb);
        assert!(Superblock::decode(&bytes, 0).is_err(), "a misdirected copy");
        let (step, dense) = if cfg!(miri) { (1021, 20) } else { (7, 200) };
        for at in (0..BLOCK_SIZE).step_by(step).chain(0..dense) {
            let mut bad = IoBuf::from(&bytes[..]);
            bad[at] ^= 1;
            assert!(Superblock::decode(&bad, 1).is_err(), "byte {at}");
        }
        for len in [0, 7, 100, 600, 4095] {
            assert!(Superblock::decode(&bytes[..len], 1).is_err());
        }
    }
}
