//! Maps: what each block of a volume holds, as a persistent tree of pages that are chunks themselves.

pub(crate) mod page;
pub(crate) mod read;
pub(crate) mod sample;
pub(crate) mod write;

use crate::{
    chunk::ChunkId,
    crypt::{from_hex, to_hex},
    error::{Result, corrupt},
    log::record::{Backup, Root},
};
use page::{FANOUT, LEAF};

/// Block of a volume, in bytes.
pub(crate) const BLOCK: u64 = 4096;
/// Tallest tree: it covers more than the largest volume.
const TALLEST: u32 = 4;

/// A map by its root.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Map {
    pub(crate) root: ChunkId,
    /// Levels of inner pages over the leaves.
    pub(crate) height: u32,
}

/// Blocks that a page of a height covers.
pub(crate) fn covers(height: u32) -> u64 {
    u64::from(LEAF) * (FANOUT as u64).pow(height)
}

impl Map {
    /// Nothing is stored in a volume of this many blocks.
    pub(crate) fn empty(blocks: u64) -> Self {
        let height = (0..TALLEST).find(|height| covers(*height) >= blocks).unwrap_or(TALLEST);
        Self { root: ChunkId::NONE, height }
    }

    /// The map of a backup. Its height follows from the backup's size.
    pub(crate) fn of(backup: &Backup) -> Result<Self> {
        let Root { page, height } = &backup.root;
        let root = from_hex(page).and_then(|bytes| bytes.try_into().ok());
        match root {
            Some(root) if *height == Self::empty(backup.size.div_ceil(BLOCK)).height => {
                Ok(Self { root: ChunkId(root), height: *height })
            }
            _ => Err(corrupt(format!(
                "the record of backup {} is wrong: {page:?} at height {height} is no root of a map of {} bytes",
                backup.id, backup.size
            ))),
        }
    }

    pub(crate) fn to_record(self) -> Root {
        Root { page: to_hex(&self.root.0), height: self.height }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_as_tall_as_its_volume_needs() {
        let leaf = u64::from(LEAF);
        for (blocks, height) in [(1, 0), (leaf, 0), (leaf + 1, 1), (leaf * 256, 1), (leaf * 256 + 1, 2), (1 << 34, 3)] {
            assert_eq!(Map::empty(blocks).height, height, "{blocks}");
        }
        let map = Map { root: ChunkId([7; 32]), height: 2 };
        let of = |root: Root, blocks: u64| {
            let backup = serde_json::json!({
                "id": "a", "origin": {"pool": "p", "volume": "v", "volume_id": 1, "snapshot": "s", "version": 1}, "data_ms": 0,
                "finished_ms": 0, "size": blocks * BLOCK, "parent": null, "reason": "", "root": root,
                "statistics": {"read": 0, "new": 0, "pages": 0, "stored": 0, "millis": 0}
            });
            Map::of(&serde_json::from_value(backup).unwrap())
        };
        assert_eq!(of(map.to_record(), leaf * 256 + 1).unwrap(), map);
        assert!(of(map.to_record(), leaf * 256).is_err(), "taller than its volume");
        assert!(of(Root { height: 1, ..map.to_record() }, leaf * 256 + 1).is_err(), "not as tall");
        assert!(of(Root { page: "07".to_owned(), height: 0 }, 1).is_err());
        assert!(of(Root { height: u32::MAX, ..map.to_record() }, 1 << 34).is_err());
    }
}
