//! The free map on disk: the bitmap of blocks in use, in pieces of 4 KiB, each with two places that are written in turn.
//!
//! Level 0 is the bitmap (a piece covers 128 MiB). Where the places and checksums of a level's pieces do not fit into the
//! superblock, they are pieces of the next level (512 entries each), with two places as well.
//!
//! Invariant: a piece is written to the place that the last durable checkpoint does not use.

use crate::{
    format::{
        bytes::{Put, Reader},
        superblock::{MapEntry, TOP_ENTRIES},
    },
    sabotage::{Sabotage, broken},
    space::reach::PIECE_BLOCKS,
    storage::buffer::IoBuf,
    units::BLOCK_SIZE,
};

/// Entries in a piece above the bitmap.
pub(crate) const ENTRIES: usize = BLOCK_SIZE / 8;

pub(crate) struct Map {
    start: u64,
    /// Entries for the pieces of each level, from the bitmap up; those of the last level are in the superblock.
    pub(crate) levels: Vec<Vec<MapEntry>>,
}

/// How many pieces each level has for a pool of `total` blocks.
fn sizes(total: u64) -> Vec<u64> {
    let mut sizes = vec![total.div_ceil(PIECE_BLOCKS)];
    while let Some(&last) = sizes.last() {
        if last <= TOP_ENTRIES as u64 {
            break;
        }
        sizes.push(last.div_ceil(ENTRIES as u64));
    }
    sizes
}

/// Blocks that the map of a pool of `total` blocks takes.
pub(crate) fn blocks(total: u64) -> u64 {
    sizes(total).iter().sum::<u64>() * 2
}

impl Map {
    pub(crate) fn new(start: u64, total: u64) -> Self {
        let levels = sizes(total).iter().map(|&n| vec![MapEntry::default(); n as usize]).collect();
        Self { start, levels }
    }

    /// Block of a piece in one of its places (1 or 2).
    pub(crate) fn block(&self, level: usize, index: usize, place: u32) -> u64 {
        let before: usize = self.levels.iter().take(level).map(Vec::len).sum();
        self.start + 2 * (before + index) as u64 + u64::from(place.saturating_sub(1) & 1)
    }

    /// Notes that a piece is written anew; returns the block to write it to.
    pub(crate) fn rewrite(&mut self, level: usize, index: usize, crc: u32) -> u64 {
        let entry = &mut self.levels[level][index];
        let first = entry.place != 1 || broken(Sabotage::MapInPlace);
        *entry = MapEntry { place: if first { 1 } else { 2 }, crc };
        let place = entry.place;
        self.block(level, index, place)
    }

    /// The piece of the next level that holds the entries of `level` from `512 * index` on.
    pub(crate) fn entries_piece(&self, level: usize, index: usize) -> IoBuf {
        let mut out = Vec::with_capacity(BLOCK_SIZE);
        for entry in self.levels[level].iter().skip(index * ENTRIES).take(ENTRIES) {
            out.put_u32(entry.place);
            out.put_u32(entry.crc);
        }
        out.resize(BLOCK_SIZE, 0);
        IoBuf::from(out.as_slice())
    }

    /// Takes the entries of `level` from a piece of the next one; says whether all of them can be entries.
    pub(crate) fn load_entries(&mut self, level: usize, index: usize, bytes: &[u8]) -> bool {
        let mut r = Reader::new(bytes);
        for entry in self.levels[level].iter_mut().skip(index * ENTRIES).take(ENTRIES) {
            let Some(found) = MapEntry::decode(&mut r) else { return false };
            *entry = found;
        }
        true
    }

    /// Entries for the superblock.
    pub(crate) fn top(&self) -> Vec<MapEntry> {
        self.levels.last().cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_never_collide_and_alternate() {
        let pieces = if cfg!(miri) { 513 } else { 1000 };
        let total = PIECE_BLOCKS * pieces;
        let mut map = Map::new(100, total);
        assert_eq!(map.levels.iter().map(Vec::len).collect::<Vec<_>>(), [pieces as usize, 2]);
        let mut seen = std::collections::BTreeSet::new();
        for level in 0..2 {
            for index in 0..map.levels[level].len() {
                let a = map.rewrite(level, index, 1);
                let b = map.rewrite(level, index, 2);
                assert_eq!(map.rewrite(level, index, 3), a);
                assert!(seen.insert(a) && seen.insert(b));
            }
        }
        assert_eq!(seen.first(), Some(&100));
        assert_eq!(seen.len() as u64, blocks(total));
        assert_eq!(seen.last(), Some(&(100 + blocks(total) - 1)));
    }
}
