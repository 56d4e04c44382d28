//! Inputs that fuzzing begins with, made by the encoders: they reach past what bytes by chance would.

use super::UUID;
use crate::{
    checkpoint::map::Map,
    format::{
        node::{self, FANOUT},
        pointer::Pointer,
        record::Record,
        sheet::{Owner, Sheet},
        superblock::{MapEntry, Superblock, slots_of},
    },
    info::{SyncMode, VolumeOptions},
    space::{
        bitmap::Run,
        reach::{PIECE_BLOCKS, Reach, piece_bytes},
    },
    units::{BLOCK_SIZE, BlockIndex, Epoch, PhysicalBlock, VersionId, VolumeId},
    versions::{
        State, Version,
        table::{Page, encode_page},
    },
};

/// Target, name, bytes.
type Seed = (&'static str, &'static str, Vec<u8>);

fn sheet() -> Sheet {
    let mut sheet = Sheet::new(Owner::Volume(VolumeId(2)));
    sheet.limits = "total_iops_sec=500 total_iops_sec_max=2000 weight=3".parse().unwrap_or_default();
    sheet.group = Some("gold".to_owned());
    let _old = sheet.used.insert("total_iops_sec".to_owned(), 1200);
    sheet
}

/// All of them: target, name, bytes.
#[must_use]
pub fn seeds() -> Vec<Seed> {
    let mut seeds = superblock_seeds();
    seeds.extend(node_seeds());
    seeds.extend(journal_seeds());
    seeds.extend(table_seeds());
    seeds
}

fn superblock_seeds() -> Vec<Seed> {
    let fresh = Superblock {
        format: crate::format::FORMAT,
        uuid: *UUID,
        checkpoint: 1,
        total_blocks: 8192,
        journal_start: 32,
        journal_blocks: 1024,
        map_start: 1056,
        data_start: 1088,
        data_end: 8128,
        group_seq: 1,
        group_at: 0,
        epoch: Epoch(1),
        slot: 1,
        next_version: 1,
        next_volume: 1,
        created_ms: 1_700_000_000_000,
        table_root: Pointer::HOLE,
        table_pages: 0,
        next_deletion: 1,
        map_levels: 0,
        map_top: vec![MapEntry::default()],
    };
    let used = Superblock {
        checkpoint: 70_000,
        slot: slots_of(70_000)[1],
        group_seq: 123_456,
        group_at: 1023,
        epoch: Epoch(4711),
        table_root: Pointer::node(PhysicalBlock(5000), Epoch(4710), 0xdead_beef),
        table_pages: 300,
        map_top: vec![MapEntry { place: 2, crc: 0x1234_5678 }],
        ..fresh.clone()
    };
    let large = Superblock {
        total_blocks: 1 << 34,
        map_start: 1 << 20,
        data_start: 1 << 21,
        data_end: (1 << 34) - 64,
        map_levels: 2,
        map_top: (0..448).map(|i| MapEntry { place: 1 + i % 2, crc: i }).collect(),
        ..used.clone()
    };
    let refused = [
        ("groups_counted_from_zero", Superblock { group_seq: 0, ..used.clone() }),
        ("last_checkpoint_of_all", Superblock { checkpoint: u64::MAX, ..used.clone() }),
        ("third_place_of_a_piece", Superblock { map_top: vec![MapEntry { place: 3, crc: 0 }], ..used.clone() }),
        ("journal_over_the_map", Superblock { journal_blocks: 1025, ..used.clone() }),
    ];
    let sound = [("fresh", fresh), ("used", used), ("large_with_full_map", large)];
    let all = sound.into_iter().chain(refused);
    all.map(|(name, superblock)| ("superblock", name, superblock.encode().to_vec())).collect()
}

fn node_seeds() -> Vec<Seed> {
    let filled = |pointers: &[(usize, Pointer)]| {
        let mut bytes = node::empty();
        for &(index, pointer) in pointers {
            node::set(&mut bytes, index, pointer);
        }
        bytes.to_vec()
    };
    let data = |i: u64| Pointer::data(PhysicalBlock(1100 + i), Epoch(3), 77);
    let all: Vec<_> = (0..FANOUT).map(|i| (i, data(i as u64))).collect();
    let inner = Pointer::node(PhysicalBlock(4000), Epoch(9), 1);
    vec![
        ("node", "empty", filled(&[])),
        ("node", "leaf", filled(&[(0, data(0)), (17, data(1)), (255, data(2))])),
        ("node", "full_leaf", filled(&all)),
        ("node", "inner", filled(&[(0, inner), (255, inner)])),
        ("node", "data_and_nodes", filled(&[(1, data(0)), (2, inner)])),
        ("node", "hole_with_a_birth", filled(&[(9, Pointer::from_bytes(*b"\0\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0"))])),
        ("node", "slot_of_a_memory", filled(&[(3, Pointer::dirty(5, Epoch(2)))])),
    ]
}

/// A description of a ring, for [`super::journal`].
struct Script(Vec<u8>);

impl Script {
    fn new(blocks: u8, at: u8, seq: u8) -> Self {
        Self(vec![blocks - 2, at, seq])
    }

    fn group(mut self, at: u8, seq: u8, records: &[Record<'_>]) -> Self {
        let mut body = Vec::new();
        for record in records {
            record.encode(&mut body);
        }
        self.0.extend([0, at, seq, records.len() as u8]);
        self.0.extend((body.len() as u16).to_le_bytes());
        self.0.extend(body);
        self
    }

    fn damage(mut self, block: u16, offset: u16, bytes: &[u8]) -> Self {
        self.0.push(1);
        self.0.extend(block.to_le_bytes());
        self.0.extend(offset.to_le_bytes());
        self.0.push(bytes.len() as u8);
        self.0.extend(bytes);
        self
    }
}

fn journal_seeds() -> Vec<Seed> {
    let v = VersionId(5);
    let options = || VolumeOptions { sync: SyncMode::Always, ..VolumeOptions::default() };
    let create = Record::Create {
        volume: VolumeId(1),
        version: v,
        created_ms: 3,
        size: 1 << 20,
        options: options(),
        name: "db",
    };
    let data = [
        create.clone(),
        Record::Write { version: v, block: BlockIndex(9), place: PhysicalBlock(1200), crcs: &[1, 2, 3, 4, 5, 6, 7, 8] },
        Record::Hole { version: v, block: BlockIndex(1), count: 2 },
        Record::Cut { version: v, block: BlockIndex(65_536), height: 2, detached: VersionId(8) },
        Record::Resize { version: v, size: 1 << 40 },
        Record::Counted { version: v, blocks: 77 },
        Record::Sheet { entry: VersionId(9), sheet: sheet() },
        Record::Sheet { entry: VersionId(9), sheet: Sheet::new(sheet().owner) },
    ];
    let versions = [
        Record::Snapshot { live: v, frozen: VersionId(6), created_ms: 8, last: true, name: "nightly" },
        Record::Clone {
            snapshot: v,
            volume: VolumeId(1),
            version: v,
            created_ms: 3,
            size: 4,
            options: options(),
            name: "copy",
        },
        Record::Revert { live: v, snapshot: VersionId(1), version: VersionId(2) },
        Record::Rename { version: v, name: "ü" },
        Record::Options { version: v, options: options() },
        Record::Delete { version: v },
        Record::Walked { version: v, to: 256 },
        Record::Prune { version: v },
    ];
    let long = [0, 256, 512, 768, 1024].map(|block| Record::Write {
        version: v,
        block: BlockIndex(block),
        place: PhysicalBlock(1300 + block),
        crcs: &[7; 1024],
    });
    let one = std::slice::from_ref(&create);
    let scripts = [
        ("every_record", Script::new(8, 0, 1).group(0, 1, &data).group(1, 2, &versions)),
        ("over_the_end", Script::new(4, 2, 9).group(2, 9, one).group(3, 10, one).group(0, 11, one).group(1, 8, one)),
        ("group_of_two_blocks", Script::new(6, 1, 3).group(1, 3, &long).group(3, 4, one)),
        ("cut_off_by_the_end", Script::new(6, 5, 3).group(5, 3, &long)),
        ("missing_group_in_another_place", Script::new(8, 0, 1).group(0, 1, one).group(5, 2, one)),
        ("gap", Script::new(8, 0, 1).group(0, 1, one).group(3, 3, one)),
        ("damaged_last", Script::new(8, 0, 1).group(0, 1, one).group(1, 2, one).damage(1, 40, b"x")),
        ("damaged_before_the_last", Script::new(8, 0, 1).group(0, 1, one).group(1, 2, one).damage(0, 12, b"x")),
        ("empty_group", Script::new(8, 7, 5).group(7, 5, &[]).group(0, 6, one)),
        ("large_numbers", Script::new(3, 0, 0xfe).group(0, 0xfe, one).group(1, 0xff, one)),
    ];
    let named = scripts.into_iter().map(|(name, script)| ("journal", name, script.0));
    let foreign = [
        ("no_record", no_record()),
        ("neither_last_nor_not", neither_last_nor_not()),
        ("filling_and_filled", filling(0x81)),
        ("filling_and_writeback", filling(0xc1)),
        ("options_without_a_meaning", filling(0xa1)),
    ];
    named.chain(foreign.map(|(name, script)| ("journal", name, script))).collect()
}

/// A group whose checksum is right and whose bytes are no record.
fn no_record() -> Vec<u8> {
    let mut script = Script::new(2, 0, 1).0;
    script.extend([0, 0, 1, 1, 4, 0, 99, 1, 2, 3]);
    script
}

/// A snapshot's record with something between yes and no.
fn neither_last_nor_not() -> Vec<u8> {
    let snapshot = Record::Snapshot { live: VersionId(1), frozen: VersionId(2), created_ms: 3, last: true, name: "" };
    let mut script = Script::new(2, 0, 1).group(0, 1, &[snapshot]).0;
    if let Some(last) = script.iter().rposition(|&byte| byte == 1) {
        script[last] = 2;
    }
    script
}

/// A volume is made with an options byte, and later is full.
fn filling(code: u8) -> Vec<u8> {
    let (version, options) =
        (VersionId(5), VolumeOptions { sync: SyncMode::Always, filling: true, ..VolumeOptions::default() });
    let full = VolumeOptions { filling: false, ..options.clone() };
    let create = Record::Create { volume: VolumeId(1), version, created_ms: 3, size: 1 << 20, options, name: "db" };
    let mut script = Script::new(8, 0, 1).group(0, 1, &[create, Record::Options { version, options: full }]).0;
    if let Some(byte) = script.iter_mut().find(|byte| **byte == 0x81) {
        *byte = code;
    }
    script
}

fn table_seeds() -> Vec<Seed> {
    let live = Version::new_volume(VersionId(3), VolumeId(2), "some-volume", 1 << 30, 17, VolumeOptions::default());
    let version = |id, state, parent: Option<u64>| {
        let mut version = live.clone();
        (version.id, version.state, version.parent) = (VersionId(id), state, parent.map(VersionId));
        version.root = Pointer::node(PhysicalBlock(2000 + id), Epoch(2), 5);
        version
    };
    let mut deleting = version(2, State::Deleting, None);
    (deleting.deletion, deleting.cursor, deleting.name) = (4, 512, String::new());
    let states = [
        version(1, State::Branch, None),
        deleting,
        version(3, State::Live, Some(4)),
        version(4, State::Snapshot, Some(1)),
        version(5, State::Detached, None),
    ];
    let mut filling = live.clone();
    filling.options.filling = true;
    let mut reach = Reach::new(PIECE_BLOCKS);
    for (start, len) in [(0, 1), (63, 2), (1088, 640), (PIECE_BLOCKS - 1, 1)] {
        let _new = reach.add(Run { start, len });
    }
    let mut piece = vec![0; BLOCK_SIZE];
    piece_bytes(reach.piece(0), &mut piece);
    let mut map = Map::new(0, PIECE_BLOCKS * 1024);
    for index in (0..512).step_by(3) {
        let _block = map.rewrite(0, index, index as u32);
    }
    let mut ancestors = [version(6, State::Snapshot, Some(6)), version(7, State::Live, Some(9))];
    ancestors[1].name = "its parent is nowhere".to_owned();
    let with = |kind: u8, bytes: &[u8]| [&[kind], bytes].concat();
    let of = |versions: &[Version]| Page { versions: versions.to_vec(), sheets: Vec::new() };
    let limited = Page { versions: vec![live.clone()], sheets: vec![(VersionId(9), sheet())] };
    vec![
        ("table", "page_with_a_sheet", with(0, &encode_page(&limited)[..256])),
        ("table", "page_with_every_state", with(0, &encode_page(&of(&states)))),
        ("table", "page_with_impossible_parents", with(0, &encode_page(&of(&ancestors))[..512])),
        ("table", "page_with_one_version", with(0, &encode_page(&of(std::slice::from_ref(&live)))[..128])),
        ("table", "page_with_a_volume_that_is_filling", with(0, &encode_page(&of(&[filling]))[..128])),
        ("table", "page_without_versions", with(0, &encode_page(&of(&[]))[..16])),
        ("table", "page_with_one_version_twice", with(0, &encode_page(&of(&[live.clone(), live]))[..256])),
        ("table", "piece_of_the_map", with(1, &piece)),
        ("table", "piece_with_all_in_use", with(1, &[0xff; BLOCK_SIZE])),
        ("table", "directory_of_the_map", with(2, &map.entries_piece(0, 0))),
        ("table", "directory_with_a_third_place", with(2, &[3; BLOCK_SIZE])),
    ]
}
