//! Maps: what each block of a volume holds, as a persistent tree of pages that are chunks themselves.

pub(crate) mod page;
pub(crate) mod read;
pub(crate) mod sample;
pub(crate) mod write;

use crate::{
    chunk::ChunkId,
    crypt::{from_hex, to_hex},
    error::{Result, corrupt},
    log::record::Root,
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

    pub(crate) fn from_record(root: &Root) -> Result<Self> {
        let page = from_hex(&root.page).and_then(|bytes| bytes.try_into().ok());
        match page {
            Some(page) if root.height <= TALLEST => Ok(Self { root: ChunkId(page), height: root.height }),
            _ => Err(corrupt(format!("{:?} at height {} is no root of a map", root.page, root.height))),
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
        assert_eq!(Map::from_record(&map.to_record()).unwrap(), map);
        assert!(Map::from_record(&Root { page: "07".to_owned(), height: 0 }).is_err());
        assert!(Map::from_record(&Root { height: 9, ..map.to_record() }).is_err());
    }
}
