//! A pool's file as `DESIGN.md` describes it, read and damaged without the engine.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

pub const BLOCK: u64 = 4096;
const MARGIN: u64 = 32;

/// A pointer: kind (1 data, 2 node), physical block, checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pointer {
    pub kind: u8,
    pub block: u64,
    pub crc: u32,
}

/// A version's record, as far as tests need it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Version {
    pub volume: u64,
    pub state: u8,
    pub depth: u32,
    pub root: Pointer,
    pub name: String,
}

pub struct Disk {
    file: File,
    path: PathBuf,
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn pointer_at(bytes: &[u8], at: usize) -> Pointer {
    let place = u64_at(bytes, at);
    Pointer { kind: (place >> 60) as u8, block: place & ((1 << 60) - 1), crc: u32_at(bytes, at + 12) }
}

impl Disk {
    pub fn open(path: &Path) -> Self {
        Self { file: File::options().read(true).write(true).open(path).unwrap(), path: path.to_owned() }
    }

    pub fn read(&self, block: u64) -> Vec<u8> {
        let mut bytes = vec![0; BLOCK as usize];
        self.file.read_exact_at(&mut bytes, block * BLOCK).unwrap();
        bytes
    }

    /// All bytes of the pool's file.
    pub fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.path).unwrap()
    }

    pub fn write(&self, block: u64, bytes: &[u8]) {
        assert_eq!(bytes.len() as u64, BLOCK);
        self.file.write_all_at(bytes, block * BLOCK).unwrap();
        // The pool may be open, and read past the page cache.
        self.file.sync_all().unwrap();
    }

    /// Flips one bit of a block.
    pub fn flip(&self, block: u64) {
        let mut bytes = self.read(block);
        bytes[1234] ^= 8;
        self.write(block, &bytes);
    }

    // ---- superblocks ----

    /// The block of a superblock's slot.
    pub fn slot_block(&self, slot: u64) -> u64 {
        let total = self.file.metadata().unwrap().len() / BLOCK;
        [0, MARGIN / 2, total - MARGIN, total - MARGIN / 2][slot as usize]
    }

    pub fn slot(&self, slot: u64) -> Vec<u8> {
        self.read(self.slot_block(slot))
    }

    /// Number of the checkpoint in a slot that holds one.
    pub fn checkpoint_in(&self, slot: u64) -> u64 {
        u64_at(&self.slot(slot), 32)
    }

    /// Number of the newest checkpoint, of those in slots that can be told.
    pub fn newest(&self) -> u64 {
        (0..4).map(|slot| self.checkpoint_in(slot)).max().unwrap()
    }

    /// The two slots of the newest checkpoint.
    pub fn newest_slots(&self) -> [u64; 2] {
        let parity = self.newest() % 2;
        [parity, parity + 2]
    }

    pub fn superblock(&self) -> Vec<u8> {
        self.slot(self.newest_slots()[0])
    }

    /// Changes both copies of the newest superblock, with the checksums that belong to it.
    pub fn change_superblock(&self, change: impl Fn(&mut [u8])) {
        for slot in self.newest_slots() {
            let mut bytes = self.slot(slot);
            change(&mut bytes);
            bytes[12..16].fill(0);
            let crc = crc32fast::hash(&bytes);
            bytes[12..16].copy_from_slice(&crc.to_le_bytes());
            self.write(self.slot_block(slot), &bytes);
        }
    }

    // ---- the free map ----

    /// Levels of the map above the bitmap.
    pub fn map_levels(&self) -> u32 {
        u32_at(&self.superblock(), 168)
    }

    /// The block of a piece in the top level, of a map with one level: where it is now.
    pub fn top_piece(&self, pieces_below: u64, index: usize) -> u64 {
        let sb = self.superblock();
        let place = u32_at(&sb, 512 + 8 * index);
        assert!(place == 1 || place == 2, "piece {index} was never written");
        u64_at(&sb, 64) + 2 * (pieces_below + index as u64) + u64::from(place) - 1
    }

    /// Sets or clears the bit of a block in the first piece of a map with one level, with all checksums right: a map that is wrong, and
    /// does not look so.
    pub fn set_in_map(&self, blocks: &[u64], used: bool) {
        let piece = self.top_piece(0, 0);
        let mut bytes = self.read(piece);
        for block in blocks {
            let (at, bit) = ((block / 8) as usize, 1u8 << (block % 8));
            assert_eq!(bytes[at] & bit == 0, used, "block {block} is so already");
            bytes[at] ^= bit;
        }
        self.write(piece, &bytes);
        let crc = crc32fast::hash(&bytes);
        self.change_superblock(|sb| sb[516..520].copy_from_slice(&crc.to_le_bytes()));
    }

    /// Blocks of the data area.
    pub fn data_area(&self) -> std::ops::Range<u64> {
        let sb = self.superblock();
        u64_at(&sb, 72)..u64_at(&sb, 80)
    }

    // ---- versions ----

    /// Block of the only page of the version table.
    pub fn table_page(&self) -> u64 {
        let sb = self.superblock();
        assert_eq!(u64_at(&sb, 152), 1, "the tests here have small tables");
        pointer_at(&sb, 136).block
    }

    pub fn versions(&self) -> Vec<Version> {
        let page = self.read(self.table_page());
        let mut at = 2;
        let mut versions = Vec::new();
        for _ in 0..u16_at(&page, 0) {
            let name_length = usize::from(u16_at(&page, at + 94));
            versions.push(Version {
                volume: u64_at(&page, at + 10),
                state: page[at + 26],
                depth: u32::from(page[at + 28]),
                root: pointer_at(&page, at + 46),
                name: String::from_utf8(page[at + 96..at + 96 + name_length].to_vec()).unwrap(),
            });
            at += 2 + usize::from(u16_at(&page, at));
        }
        versions
    }

    /// A volume, or one of its snapshots.
    pub fn version(&self, volume: &str, snapshot: Option<&str>) -> Version {
        let versions = self.versions();
        let live = versions.iter().find(|v| v.state == 1 && v.name == volume).unwrap();
        let found = match snapshot {
            None => live,
            Some(name) => versions.iter().find(|v| v.state == 2 && v.volume == live.volume && v.name == name).unwrap(),
        };
        found.clone()
    }

    /// The pointer of `height` (0: data, 1: a leaf) over a block of a version.
    pub fn pointer(&self, version: &Version, height: u32, block: u64) -> Pointer {
        let mut pointer = version.root;
        for level in (height..version.depth).rev() {
            assert_eq!(pointer.kind, 2, "block {block} is a hole");
            let slot = block >> (8 * level) & 0xff;
            pointer = pointer_at(&self.read(pointer.block), 16 * slot as usize);
        }
        pointer
    }
}
