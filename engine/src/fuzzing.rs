//! What must hold for any bytes that the private parsers are given: one function for each fuzz target, and inputs to begin with.
//!
//! Not part of the interface. Each function panics when something does not hold, and says whether the input was understood, so that
//! a corpus that went stale is noticed.

mod seeds;

pub use seeds::seeds;

use std::collections::BTreeSet;

use crate::{
    checkpoint::map::Map,
    format::{
        bytes::{Reader, crc_without_field, set_u32},
        group,
        node::{self, FANOUT},
        pointer::{Place, Pointer},
        record::Record,
        superblock::{MapEntry, Superblock},
    },
    replay::{Found, Ring},
    space::reach::{PIECE_BLOCKS, Reach, piece_bytes},
    units::{BLOCK_SIZE, Epoch},
    versions::{
        Lineage,
        table::{PAGE_CAPACITY, decode_page, encode_page, encoded_len, sheet_len},
    },
};

/// The pool that journal groups are of.
const UUID: &[u8; 16] = b"0123456789abcdef";
/// Where a superblock has its checksum.
const SUPERBLOCK_CRC: usize = 12;

/// A superblock, as it is and with its checksum mended: what decodes is the same after encoding, and its geometry can be computed with.
pub fn superblock(input: &[u8]) -> bool {
    let mut mended = input.to_vec();
    let crc = crc_without_field(input, SUPERBLOCK_CRC);
    set_u32(&mut mended, SUPERBLOCK_CRC, crc);
    let mut understood = false;
    for bytes in [input, &mended] {
        for slot in 0..4 {
            let Ok(sb) = Superblock::decode(bytes, slot) else { continue };
            understood = true;
            assert_eq!(Superblock::decode(&sb.encode(), slot).as_ref().ok(), Some(&sb), "after encoding");
            assert!(sb.journal_start + sb.journal_blocks <= sb.map_start, "{sb:?}");
            assert!(sb.data_start < sb.data_end && sb.data_end <= sb.total_blocks, "{sb:?}");
            assert!(sb.group_at < sb.journal_blocks, "{sb:?}");
            // Counters that go on from here neither begin below 1 nor ever end.
            for counter in [sb.checkpoint, sb.group_seq, sb.next_version, sb.next_volume, sb.next_deletion] {
                assert!((1..1 << 62).contains(&counter), "{sb:?}");
            }
            assert!(sb.map_top.iter().all(|entry| entry.place <= 2), "{sb:?}");
        }
    }
    understood
}

/// A node: one that is sound for a level holds nothing but pointers that may stand there, and any can be read.
pub fn node(input: &[u8]) -> bool {
    let pointers: Vec<Pointer> = (0..FANOUT).map(|i| node::get(input, i)).collect();
    for (i, pointer) in pointers.iter().enumerate() {
        if let Some(bytes) = input.get(i * 16..i * 16 + 16) {
            assert_eq!(pointer.to_bytes(), bytes, "pointer {i}");
        }
    }
    let used = pointers.iter().filter(|p| !p.is_hole()).count();
    assert_eq!(usize::from(node::used(input)), used);
    let sound: Vec<u32> = (0..6).filter(|&level| node::is_sound(input, level)).collect();
    for &level in &sound {
        assert_eq!(input.len(), BLOCK_SIZE);
        for pointer in &pointers {
            match pointer.place() {
                Place::Hole => assert_eq!(*pointer, Pointer::HOLE, "level {level}"),
                Place::Data(_) => assert_eq!(level, 0),
                Place::Node(_) => assert!(level > 0),
                Place::Dirty(slot) => panic!("level {level}: slot {slot} of a memory stands on disk"),
            }
            assert_eq!(pointer.is_hole(), pointer.place() == Place::Hole);
        }
    }
    // Data and nodes never suit one level, so only an empty node is sound for both.
    assert!(used == 0 || sound.is_empty() || sound == [0] || sound == [1, 2, 3, 4, 5], "{sound:?}");
    !sound.is_empty()
}

/// A journal ring that the input describes: groups with right checksums, then damage.
///
/// | byte | meaning |
/// | --- | --- |
/// | 0 | blocks of the ring, less two, modulo 64 |
/// | 1, 2 | the group that is expected first: its block, its number |
/// | … | steps: 0 puts a group (block, number, number of records, u16 length, records), any other damages (u16 block, u16 offset in it, u8 length, bytes) |
pub fn journal(input: &[u8]) -> bool {
    let Some((ring, seq, at)) = ring(input) else { return false };
    let blocks = (ring.len() / BLOCK_SIZE) as u64;
    let all = Ring::of(&ring, UUID, 0);
    let Ok(groups) = Ring::of(&ring, UUID, seq).follow(seq, at) else { return false };
    assert!(groups.len() as u64 <= blocks, "more groups than blocks");
    let mut place = at;
    for (n, found) in groups.iter().enumerate() {
        let Found { header, at } = *found;
        assert_eq!(header.seq, seq + n as u64);
        assert!(at == place || at == 0, "group {} was looked for at {place} and found at {at}", header.seq);
        let Some((again, body)) = all.get(at) else { panic!("group {} is gone", header.seq) };
        assert_eq!((again, body.len()), (header, header.record_bytes as usize));
        assert!(at + header.blocks() <= blocks, "a group wraps");
        place = (at + header.blocks()) % blocks;
        round_trip_records(body);
    }
    let missing = seq + groups.len() as u64;
    let newest = (0..blocks).filter_map(|at| all.get(at)).map(|(h, _)| h.seq).max();
    assert!(newest <= Some(missing), "group {newest:?} is there, {missing} is not");
    !groups.is_empty()
}

/// Every record of a body is written again as it was read.
fn round_trip_records(body: &[u8]) {
    let mut reader = Reader::new(body);
    while !reader.is_empty() {
        let at = body.len() - reader.remaining();
        let Some(record) = Record::decode(&mut reader) else { return };
        let mut again = Vec::new();
        record.encode(&mut again);
        assert_eq!(&body[at..body.len() - reader.remaining()], again, "{record:?}");
    }
}

fn ring(input: &[u8]) -> Option<(Vec<u8>, u64, u64)> {
    // Numbers near both ends are the interesting ones; a superblock names none behind them.
    let number = |byte: u8| if byte < 0xf0 { u64::from(byte) } else { (1 << 62) - 1 - u64::from(u8::MAX - byte) };
    let mut r = Reader::new(input);
    let blocks = 2 + u64::from(r.u8()? % 64);
    let at = u64::from(r.u8()?) % blocks;
    let seq = number(r.u8()?);
    let mut ring = vec![0; blocks as usize * BLOCK_SIZE];
    while let Some(step) = r.u8() {
        let (start, bytes) = if step == 0 {
            let start = u64::from(r.u8()?) % blocks;
            let (seq, records) = (number(r.u8()?), r.u8()?);
            let length = usize::from(r.u16()?).min(r.remaining());
            let group = group::encode(UUID, seq, records.into(), r.bytes(length)?);
            (start as usize * BLOCK_SIZE, group.to_vec())
        } else {
            let start = usize::from(r.u16()?) % blocks as usize * BLOCK_SIZE + usize::from(r.u16()?) % BLOCK_SIZE;
            let length = usize::from(r.u8()?).min(r.remaining());
            (start, r.bytes(length)?.to_vec())
        };
        // What does not fit is cut off: a group that was not written whole.
        for (to, from) in ring.iter_mut().skip(start).zip(bytes) {
            *to = from;
        }
    }
    Some((ring, seq, at))
}

/// A page of the version table (first byte 0), a piece of the free map (1) or a piece of its directory (2).
pub fn table(input: &[u8]) -> bool {
    let Some((kind, bytes)) = input.split_first() else { return false };
    match kind % 3 {
        0 => page(bytes),
        1 => piece(bytes),
        _ => directory(bytes),
    }
}

fn page(bytes: &[u8]) -> bool {
    let Ok(page) = decode_page(bytes, 7) else { return false };
    let mut lineage = Lineage::new(Epoch(1), 1, 1, 1);
    if bytes.len() <= BLOCK_SIZE {
        let sheets = page.sheets.iter().map(|(_, sheet)| sheet_len(sheet)).sum::<usize>();
        let versions = page.versions.iter().map(encoded_len).sum::<usize>();
        assert!(versions + sheets <= PAGE_CAPACITY, "more than a page");
        let again = decode_page(&encode_page(&page), 7).expect("what was encoded decodes");
        assert_eq!(format!("{again:?}"), format!("{page:?}"));
    }
    for (entry, sheet) in page.sheets {
        lineage.set_sheet(entry, sheet.clone());
        assert_eq!(lineage.sheet(&sheet.owner), Some((entry, &sheet)));
    }
    for version in page.versions {
        assert!(version.root.is_sound(version.depth), "{version:?}");
        if lineage.get(version.id).is_none() {
            lineage.load(version, 0);
        }
    }
    for version in lineage.iter() {
        assert!(version.parent.is_none_or(|parent| lineage.children(parent).contains(&version.id)));
        let _floor = lineage.floor(version);
    }
    true
}

fn piece(bytes: &[u8]) -> bool {
    if bytes.len() != BLOCK_SIZE {
        return false;
    }
    let mut reach = Reach::new(PIECE_BLOCKS * 2);
    reach.load(1, bytes);
    let mut back = vec![0; BLOCK_SIZE];
    piece_bytes(reach.piece(1), &mut back);
    assert_eq!(back, bytes);
    let mut runs = Vec::new();
    reach.for_runs(|run| runs.push(run));
    assert_eq!(runs.iter().map(|run| run.len).sum::<u64>(), reach.count());
    for run in &runs {
        let (inside, around) = ([run.start, run.end() - 1], [run.start - 1, run.end()]);
        assert!(inside.iter().all(|&b| reach.contains(b)) && !around.iter().any(|&b| reach.contains(b)), "{run:?}");
    }
    true
}

fn directory(bytes: &[u8]) -> bool {
    if bytes.len() != BLOCK_SIZE {
        return false;
    }
    // Two levels: 1,024 pieces, and two with their entries.
    let mut map = Map::new(100, PIECE_BLOCKS * 1024);
    if !map.load_entries(0, 1, bytes) {
        return false;
    }
    assert_eq!(map.entries_piece(0, 1)[..], *bytes);
    let mut blocks = BTreeSet::new();
    for index in 512..1024 {
        let MapEntry { place, crc } = map.levels[0][index];
        let (block, next) = (map.block(0, index, place), map.rewrite(0, index, crc));
        assert!(place == 0 || block != next, "entry {index} would be written over");
        assert!(blocks.insert(block.min(next)), "entry {index} shares its place");
        assert!((100..100 + 2 * 1026).contains(&block.max(next)), "entry {index}");
    }
    true
}
