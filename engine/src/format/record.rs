//! Journal records: what changed since the last checkpoint, in the order in which it changed in memory.
//!
//! A record is a type byte and its fields (see each variant). Records are logical: replaying them in order, through the same
//! code that ran the first time, gives the same tree of versions; nodes are never journaled.

use crate::{
    format::{
        bytes::{Put, Reader},
        node::FANOUT,
        sheet::Sheet,
    },
    info::{CacheMode, SyncMode, VolumeOptions},
    units::{BlockIndex, PhysicalBlock, VersionId, VolumeId},
};

/// One change. Borrowed from the group it was read from, or from the caller that writes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Record<'a> {
    /// 1: `crcs.len() / 4` blocks of `version` from `block` on lie at `place` on, with these checksums.
    Write { version: VersionId, block: BlockIndex, place: PhysicalBlock, crcs: &'a [u8] },
    /// 2: `count` blocks of `version` from `block` on are holes.
    Hole { version: VersionId, block: BlockIndex, count: u64 },
    /// 3: a new, empty volume.
    Create { volume: VolumeId, version: VersionId, created_ms: u64, size: u64, options: VolumeOptions, name: &'a str },
    /// 4: one of the versions frozen by one snapshot; `last` ends the set and raises the epoch.
    Snapshot { live: VersionId, frozen: VersionId, created_ms: u64, last: bool, name: &'a str },
    /// 5: a new volume that starts as `snapshot`.
    Clone {
        snapshot: VersionId,
        volume: VolumeId,
        version: VersionId,
        created_ms: u64,
        size: u64,
        options: VolumeOptions,
        name: &'a str,
    },
    /// 6: the volume of `live` goes on as `version`, a child of `snapshot`; `live` is deleted.
    Revert { live: VersionId, snapshot: VersionId, version: VersionId },
    /// 7
    Resize { version: VersionId, size: u64 },
    /// 8
    Rename { version: VersionId, name: &'a str },
    /// 9
    Options { version: VersionId, options: VolumeOptions },
    /// 10: a version becomes invisible and waits for its walk.
    Delete { version: VersionId },
    /// 11: the walk of a deleted version went on, up to block `to`.
    Walked { version: VersionId, to: u64 },
    /// 12: a branch point is to be walked again.
    Prune { version: VersionId },
    /// 14: the subtree of `height` over `block` is cut off and becomes the version `detached`, to be freed in the background.
    Cut { version: VersionId, block: BlockIndex, height: u8, detached: VersionId },
    /// 13: data blocks of a version were counted.
    Counted { version: VersionId, blocks: u64 },
    /// 15: limits, or credits used of them; an empty sheet goes. `entry` is its number in the version table.
    Sheet { entry: VersionId, sheet: Sheet },
}

/// The bit of the options' byte that says that a volume is filling.
const FILLING: u8 = 0x80;
/// The bit that says that its writes are acknowledged from memory.
const WRITEBACK: u8 = 0x40;

/// A volume's options, as records and the version table have them.
pub(crate) fn options_code(options: &VolumeOptions) -> u8 {
    let sync = match options.sync {
        SyncMode::Always => 1,
        SyncMode::Flush => 2,
        SyncMode::Never => 3,
    };
    let cache = if options.cache == CacheMode::Writeback { WRITEBACK } else { 0 };
    sync | cache | if options.filling { FILLING } else { 0 }
}

/// The options of a byte; `None` for one with bits that mean nothing.
pub(crate) fn options_of(code: u8) -> Option<VolumeOptions> {
    let sync = match code & !(FILLING | WRITEBACK) {
        1 => SyncMode::Always,
        2 => SyncMode::Flush,
        3 => SyncMode::Never,
        _ => return None,
    };
    let cache = if code & WRITEBACK == 0 { CacheMode::Direct } else { CacheMode::Writeback };
    Some(VolumeOptions { sync, cache, filling: code & FILLING != 0 })
}

impl<'a> Record<'a> {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Write { version, block, place, crcs } => {
                out.put_u8(1);
                out.put_u64(version.0);
                out.put_u64(block.0);
                out.put_u64(place.0);
                out.put_u32((crcs.len() / 4) as u32);
                out.extend_from_slice(crcs);
            }
            Self::Hole { version, block, count } => {
                out.put_u8(2);
                out.put_u64(version.0);
                out.put_u64(block.0);
                out.put_u64(*count);
            }
            Self::Create { volume, version, created_ms, size, options, name } => {
                out.put_u8(3);
                out.put_u64(volume.0);
                out.put_u64(version.0);
                out.put_u64(*created_ms);
                out.put_u64(*size);
                out.put_u8(options_code(options));
                out.put_string(name);
            }
            Self::Snapshot { live, frozen, created_ms, last, name } => {
                out.put_u8(4);
                out.put_u64(live.0);
                out.put_u64(frozen.0);
                out.put_u64(*created_ms);
                out.put_u8(u8::from(*last));
                out.put_string(name);
            }
            Self::Clone { snapshot, volume, version, created_ms, size, options, name } => {
                out.put_u8(5);
                out.put_u64(snapshot.0);
                out.put_u64(volume.0);
                out.put_u64(version.0);
                out.put_u64(*created_ms);
                out.put_u64(*size);
                out.put_u8(options_code(options));
                out.put_string(name);
            }
            Self::Revert { live, snapshot, version } => {
                out.put_u8(6);
                out.put_u64(live.0);
                out.put_u64(snapshot.0);
                out.put_u64(version.0);
            }
            Self::Resize { version, size } => put_two(out, 7, version.0, *size),
            Self::Rename { version, name } => {
                out.put_u8(8);
                out.put_u64(version.0);
                out.put_string(name);
            }
            Self::Options { version, options } => {
                out.put_u8(9);
                out.put_u64(version.0);
                out.put_u8(options_code(options));
            }
            Self::Delete { version } => {
                out.put_u8(10);
                out.put_u64(version.0);
            }
            Self::Walked { version, to } => put_two(out, 11, version.0, *to),
            Self::Prune { version } => {
                out.put_u8(12);
                out.put_u64(version.0);
            }
            Self::Cut { version, block, height, detached } => {
                out.put_u8(14);
                out.put_u64(version.0);
                out.put_u64(block.0);
                out.put_u8(*height);
                out.put_u64(detached.0);
            }
            Self::Counted { version, blocks } => put_two(out, 13, version.0, *blocks),
            Self::Sheet { entry, sheet } => {
                out.put_u8(15);
                out.put_u64(entry.0);
                sheet.encode(out);
            }
        }
    }

    /// The next record of a group's body; `None` when the bytes are not a record.
    pub(crate) fn decode(r: &mut Reader<'a>) -> Option<Self> {
        let kind = r.u8()?;
        if kind == 3 || kind == 5 {
            return Self::decode_new_volume(kind, r);
        }
        let version = VersionId(r.u64()?);
        Some(match kind {
            1 => {
                let block = BlockIndex(r.u64()?);
                let place = PhysicalBlock(r.u64()?);
                let count = r.u32()?;
                let crcs = r.bytes(count as usize * 4)?;
                in_one_leaf(block, count.into())?;
                Self::Write { version, block, place, crcs }
            }
            2 => {
                let (block, count) = (BlockIndex(r.u64()?), r.u64()?);
                in_one_leaf(block, count)?;
                Self::Hole { version, block, count }
            }
            4 => Self::Snapshot {
                live: version,
                frozen: VersionId(r.u64()?),
                created_ms: r.u64()?,
                last: r.bool()?,
                name: r.string()?,
            },
            6 => Self::Revert { live: version, snapshot: VersionId(r.u64()?), version: VersionId(r.u64()?) },
            7 => Self::Resize { version, size: r.u64()? },
            8 => Self::Rename { version, name: r.string()? },
            9 => Self::Options { version, options: options_of(r.u8()?)? },
            10 => Self::Delete { version },
            11 => Self::Walked { version, to: r.u64()? },
            12 => Self::Prune { version },
            14 => Self::Cut { version, block: BlockIndex(r.u64()?), height: r.u8()?, detached: VersionId(r.u64()?) },
            13 => Self::Counted { version, blocks: r.u64()? },
            15 => Self::Sheet { entry: version, sheet: Sheet::decode(r)? },
            _ => return None,
        })
    }

    fn decode_new_volume(kind: u8, r: &mut Reader<'a>) -> Option<Self> {
        let snapshot = if kind == 5 { Some(VersionId(r.u64()?)) } else { None };
        let volume = VolumeId(r.u64()?);
        let version = VersionId(r.u64()?);
        let created_ms = r.u64()?;
        let size = r.u64()?;
        let options = options_of(r.u8()?)?;
        let name = r.string()?;
        Some(match snapshot {
            Some(snapshot) => Self::Clone { snapshot, volume, version, created_ms, size, options, name },
            None => Self::Create { volume, version, created_ms, size, options, name },
        })
    }
}

/// Records of data stay within a leaf: that bounds what replaying one takes.
fn in_one_leaf(block: BlockIndex, count: u64) -> Option<()> {
    let leaf = FANOUT as u64;
    (count <= leaf - block.0 % leaf).then_some(())
}

fn put_two(out: &mut Vec<u8>, kind: u8, a: u64, b: u64) {
    out.put_u8(kind);
    out.put_u64(a);
    out.put_u64(b);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::sheet::Owner;

    #[test]
    fn every_record_round_trips_and_none_survives_truncation() {
        let v = VersionId(5);
        let options = VolumeOptions { sync: SyncMode::Always, cache: CacheMode::Writeback, filling: true };
        let records = [
            Record::Write {
                version: v,
                block: BlockIndex(9),
                place: PhysicalBlock(70),
                crcs: &[1, 2, 3, 4, 5, 6, 7, 8],
            },
            Record::Hole { version: v, block: BlockIndex(1), count: 2 },
            Record::Create {
                volume: VolumeId(1),
                version: v,
                created_ms: 3,
                size: 4,
                options: options.clone(),
                name: "db",
            },
            Record::Snapshot { live: v, frozen: VersionId(6), created_ms: 8, last: true, name: "nightly" },
            Record::Clone {
                snapshot: v,
                volume: VolumeId(1),
                version: v,
                created_ms: 3,
                size: 4,
                options: options.clone(),
                name: "copy",
            },
            Record::Revert { live: v, snapshot: VersionId(1), version: VersionId(2) },
            Record::Resize { version: v, size: 1 << 40 },
            Record::Rename { version: v, name: "ü" },
            Record::Options { version: v, options },
            Record::Delete { version: v },
            Record::Walked { version: v, to: 256 },
            Record::Prune { version: v },
            Record::Counted { version: v, blocks: 77 },
            Record::Cut { version: v, block: BlockIndex(65_536), height: 2, detached: VersionId(8) },
            Record::Sheet { entry: v, sheet: Sheet::new(Owner::Volume(VolumeId(3))) },
        ];
        for record in records {
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            let mut r = Reader::new(&bytes);
            assert_eq!(Record::decode(&mut r).as_ref(), Some(&record));
            assert!(r.is_empty());
            for cut in 0..bytes.len() {
                assert_eq!(Record::decode(&mut Reader::new(&bytes[..cut])), None, "{record:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn an_options_byte_says_all_or_is_refused() {
        let known: Vec<u8> = (0..=u8::MAX).filter(|code| options_of(*code).is_some()).collect();
        assert_eq!(known, [0x01, 0x02, 0x03, 0x41, 0x42, 0x43, 0x81, 0x82, 0x83, 0xc1, 0xc2, 0xc3]);
        for code in known {
            assert_eq!(options_of(code).map(|o| options_code(&o)), Some(code));
        }
    }
}
