//! The bytes of a pool's file, what can happen to them, and a file in memory that holds them.
//!
//! Damage is what devices do: flipped bits, noise, zeros, writes that were lost or went astray, an end that is cut off. Bytes are never
//! the input's own, or a fuzzer that watches comparisons would forge checksums, which no format without a key withstands.

use cairn_engine::BLOCK_SIZE;
use std::{
    collections::BTreeMap,
    fs::File,
    os::{fd::AsRawFd, unix::fs::FileExt},
    path::{Path, PathBuf},
    sync::Arc,
};

pub(super) const ZEROS: [u8; BLOCK_SIZE] = [0; BLOCK_SIZE];

/// Blocks that are not all zeros, and the length.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Disk {
    length: u64,
    blocks: BTreeMap<u64, Arc<Vec<u8>>>,
}

/// Where the next byte of a description comes from; zeros once it has ended.
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

impl Bytes<'_> {
    pub(super) fn next(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn u8(&mut self) -> u8 {
        self.next().unwrap_or(0)
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }
}

/// Numbers without end from a seed (SplitMix64).
fn noise(seed: u64) -> impl Iterator<Item = u8> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).to_le_bytes()
    })
    .flatten()
}

impl Disk {
    pub(super) fn read(path: &Path) -> Self {
        let file = File::open(path).expect("the pool's file opens");
        let length = file.metadata().expect("it has a length").len();
        let mut disk = Self { length, blocks: BTreeMap::new() };
        let mut piece = vec![0; 1 << 20];
        for offset in (0..length).step_by(piece.len()) {
            file.read_exact_at(&mut piece, offset).expect("whole mebibytes can be read");
            for (i, block) in piece.chunks(BLOCK_SIZE).enumerate() {
                disk.put(offset / BLOCK_SIZE as u64 + i as u64, block);
            }
        }
        disk
    }

    fn get(&self, block: u64) -> Vec<u8> {
        self.blocks.get(&block).map_or_else(|| ZEROS.to_vec(), |bytes| bytes.to_vec())
    }

    fn put(&mut self, block: u64, bytes: &[u8]) {
        // Whole slices are compared: byte by byte takes long when each comparison is watched.
        if bytes == ZEROS || block * BLOCK_SIZE as u64 >= self.length {
            let _old = self.blocks.remove(&block);
        } else {
            let _old = self.blocks.insert(block, Arc::new(bytes.to_vec()));
        }
    }

    /// Does the next thing that the description says. `earlier` has the disk as it was before, at several times.
    pub(super) fn suffer(&mut self, kind: u8, script: &mut Bytes<'_>, earlier: &[&Disk], used: &[u64]) {
        let total = self.length.div_ceil(BLOCK_SIZE as u64).max(1);
        // Most of a pool's file is empty: damage there shows nothing.
        let place = |script: &mut Bytes<'_>| match script.u16() {
            wild if kind & 0x80 != 0 => u64::from(wild) % total,
            chosen => used.get(usize::from(chosen) % used.len().max(1)).copied().unwrap_or(0),
        };
        match kind & 0x7f {
            0 => {
                let block = place(script);
                let (at, mask) = (usize::from(script.u16()) % BLOCK_SIZE, script.u8().max(1));
                let mut bytes = self.get(block);
                bytes[at] ^= mask;
                self.put(block, &bytes);
            }
            1 => {
                let block = place(script);
                let (at, length) = (usize::from(script.u16()) % BLOCK_SIZE, 1 + usize::from(script.u8()) * 16);
                let mut bytes = self.get(block);
                bytes.iter_mut().skip(at).take(length).zip(noise(at as u64)).for_each(|(to, from)| *to = from);
                self.put(block, &bytes);
            }
            2 => self.put(place(script), &ZEROS),
            3 => {
                let (from, to) = (place(script), place(script));
                self.put(to, &self.get(from));
            }
            4 => {
                let (block, when) = (place(script), usize::from(script.u8()));
                let old = earlier.get(when % earlier.len().max(1)).map(|disk| disk.get(block));
                self.put(block, &old.unwrap_or_else(|| ZEROS.to_vec()));
            }
            5 => {
                let cut = u64::from(script.u16()) * 512 + 1;
                self.length = self.length.saturating_sub(cut);
                let end = self.length;
                self.blocks.retain(|block, _| block * (BLOCK_SIZE as u64) < end);
            }
            // A torn write: the front is new, the rest as it was at another time.
            _ => {
                let (block, when) = (place(script), usize::from(script.u8()));
                let at = (1 + usize::from(script.u8()) % 7) * 512;
                let Some(old) = earlier.get(when % earlier.len().max(1)) else { return };
                let torn = [&self.get(block)[..at], &old.get(block)[at..]].concat();
                self.put(block, &torn);
            }
        }
    }

    /// Numbers of the blocks that hold something.
    pub(super) fn used(&self) -> Vec<u64> {
        self.blocks.keys().copied().collect()
    }

    /// How many blocks differ.
    pub(super) fn differences(&self, other: &Self) -> usize {
        let gone = other.blocks.keys().filter(|block| !self.blocks.contains_key(block)).count();
        gone + self.blocks.iter().filter(|(block, bytes)| other.blocks.get(block) != Some(bytes)).count()
    }
}

/// A file in memory.
pub(super) struct Scratch(File);

impl Scratch {
    pub(super) fn new(disk: &Disk) -> Self {
        let memory = rustix::fs::memfd_create("pool", rustix::fs::MemfdFlags::CLOEXEC).expect("a file in memory");
        let file = File::from(memory);
        file.set_len(disk.length).expect("it has a length");
        for (block, bytes) in &disk.blocks {
            let offset = block * BLOCK_SIZE as u64;
            // A cut may go through a block.
            let length = (disk.length - offset).min(BLOCK_SIZE as u64) as usize;
            file.write_all_at(&bytes[..length], offset).expect("it takes bytes");
        }
        Self(file)
    }

    /// Where this process finds it.
    pub(super) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
}
