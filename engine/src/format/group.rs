//! Journal groups: what one commit writes. A header, then records, padded to whole blocks.
//!
//! ```text
//! 0  magic "CJG1"   4  CRC-32 of the group (this field zero, padding excluded)
//! 8  pool uuid, first 8 bytes   16  sequence number   24  bytes of records (u32)   28  records (u32)
//! 32 records
//! ```

use crate::{
    format::bytes::{Put, Reader, crc_without_field, set_u32},
    sabotage::{Sabotage, broken},
    storage::buffer::IoBuf,
    units::BLOCK_SIZE,
};

const MAGIC: u32 = u32::from_le_bytes(*b"CJG1");
const CRC_AT: usize = 4;
/// Bytes before the records.
pub(crate) const HEADER: usize = 32;

/// Header of a group, read before its size is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct GroupHeader {
    pub(crate) seq: u64,
    pub(crate) record_bytes: u32,
    pub(crate) records: u32,
}

impl GroupHeader {
    /// The header at the start of `bytes`, if it is one of the pool `uuid`.
    pub(crate) fn decode(bytes: &[u8], uuid: &[u8; 16]) -> Option<Self> {
        let mut r = Reader::new(bytes);
        if r.u32()? != MAGIC {
            return None;
        }
        let _crc = r.u32()?;
        if r.bytes(8)? != uuid.get(..8)? {
            return None;
        }
        Some(Self { seq: r.u64()?, record_bytes: r.u32()?, records: r.u32()? })
    }

    /// Blocks that the whole group takes.
    pub(crate) fn blocks(&self) -> u64 {
        blocks_of(self.record_bytes as usize)
    }
}

/// Blocks that a group with this many bytes of records takes.
pub(crate) fn blocks_of(record_bytes: usize) -> u64 {
    (HEADER + record_bytes).div_ceil(BLOCK_SIZE) as u64
}

/// A whole group, ready to be written.
pub(crate) fn encode(uuid: &[u8; 16], seq: u64, records: u32, body: &[u8]) -> IoBuf {
    let mut head = Vec::with_capacity(HEADER);
    head.put_u32(MAGIC);
    head.put_u32(0);
    head.extend_from_slice(uuid.get(..8).unwrap_or_default());
    head.put_u64(seq);
    head.put_u32(body.len() as u32);
    head.put_u32(records);
    let used = HEADER + body.len();
    let mut out = IoBuf::with_len(used.next_multiple_of(BLOCK_SIZE));
    let (front, padding) = out.split_at_mut(used);
    let (header, rest) = front.split_at_mut(HEADER);
    header.copy_from_slice(&head);
    rest.copy_from_slice(body);
    padding.fill(0);
    let crc = crc_without_field(front, CRC_AT);
    set_u32(front, CRC_AT, crc);
    out
}

/// The checksum of a group that comes in parts.
pub(crate) struct Sum {
    left: usize,
    stored: Option<u32>,
    found: crc32fast::Hasher,
}

impl Sum {
    pub(crate) fn of(header: GroupHeader) -> Self {
        Self { left: HEADER + header.record_bytes as usize, stored: None, found: crc32fast::Hasher::new() }
    }

    /// The next part; the first one has the whole header.
    pub(crate) fn add(&mut self, part: &[u8]) {
        let mut part = part.get(..self.left).unwrap_or(part);
        self.left -= part.len();
        if self.stored.is_none()
            && let Some((head, rest)) = part.split_at_checked(CRC_AT)
            && let Some((stored, rest)) = rest.split_first_chunk::<4>()
        {
            self.stored = Some(u32::from_le_bytes(*stored));
            self.found.update(head);
            self.found.update(&[0; 4]);
            part = rest;
        }
        self.found.update(part);
    }

    /// Whether all came, and its checksum holds.
    pub(crate) fn holds(self) -> bool {
        self.left == 0 && (self.stored == Some(self.found.finalize()) || broken(Sabotage::IgnoreGroupCrc))
    }
}

/// The records of a whole group, if its checksum holds.
pub(crate) fn body<'a>(bytes: &'a [u8], header: &GroupHeader) -> Option<&'a [u8]> {
    let used = HEADER.checked_add(header.record_bytes as usize)?;
    let group = bytes.get(..used)?;
    let crc = crate::format::bytes::get_u32(group, CRC_AT);
    let sound = crc == crc_without_field(group, CRC_AT) || broken(Sabotage::IgnoreGroupCrc);
    if !sound { None } else { group.get(HEADER..) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_damage() {
        let uuid = *b"0123456789abcdef";
        let group = encode(&uuid, 5, 2, b"hello records");
        assert_eq!(group.len(), BLOCK_SIZE);
        let header = GroupHeader::decode(&group, &uuid).unwrap();
        assert_eq!(header, GroupHeader { seq: 5, record_bytes: 13, records: 2 });
        assert_eq!(body(&group, &header), Some(&b"hello records"[..]));
        assert_eq!(GroupHeader::decode(&group, b"another pool's id"[..16].try_into().unwrap()), None);
        let sum = |bytes: &[u8], size: usize| {
            let mut sum = Sum::of(header);
            bytes.chunks(size).for_each(|part| sum.add(part));
            sum.holds()
        };
        assert!([32, 33, 40, BLOCK_SIZE].iter().all(|size| sum(&group, *size)) && !sum(&group[..HEADER], HEADER));
        for at in 0..HEADER + 13 {
            let mut bad = IoBuf::from(&group[..]);
            bad[at] ^= 0x10;
            let whole = GroupHeader::decode(&bad, &uuid).and_then(|h| body(&bad, &h).map(<[u8]>::to_vec));
            assert_eq!(whole, None, "byte {at}");
            assert!(!sum(&bad, 40), "byte {at}");
        }
    }
}
