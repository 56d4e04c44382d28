//! Units as types: things that are all integers and must never be mixed up.
//!
//! A *block* is 4 KiB, the unit of mapping, checksum and allocation. [`BlockIndex`] counts blocks from the start of a
//! volume, [`PhysicalBlock`] from the start of the pool. Only the operators that mean something exist.

use std::fmt;

/// Bytes in a block.
pub const BLOCK_SIZE: usize = 4096;
/// Bytes in a block, as a 64-bit number.
pub const BLOCK: u64 = BLOCK_SIZE as u64;
/// Smallest addressable unit of a volume, in bytes.
pub const SECTOR: u64 = 512;
/// One kibibyte.
pub const KIB: u64 = 1 << 10;
/// One mebibyte.
pub const MIB: u64 = 1 << 20;
/// One gibibyte.
pub const GIB: u64 = 1 << 30;
/// One tebibyte.
pub const TIB: u64 = 1 << 40;

/// Position of a block within a volume.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct BlockIndex(pub u64);

/// Position of a block within the pool's file or device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PhysicalBlock(pub u64);

/// Pool-wide counter that every snapshot raises; a pointer carries the epoch in which it was written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Epoch(pub u32);

/// Identity of a version. Never used twice in the life of a pool.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct VersionId(pub u64);

/// Identity of a volume: the same through snapshots, reverts and renames. Never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct VolumeId(pub u64);

impl BlockIndex {
    /// The block that holds byte `offset` of a volume.
    #[must_use]
    pub fn holding(offset: u64) -> Self {
        Self(offset / BLOCK)
    }

    /// Offset of the block's first byte within the volume.
    #[must_use]
    pub fn offset(self) -> u64 {
        self.0 * BLOCK
    }

    /// The block `n` further on.
    #[must_use]
    pub fn plus(self, n: u64) -> Self {
        Self(self.0 + n)
    }
}

impl PhysicalBlock {
    /// Offset of the block's first byte within the pool.
    #[must_use]
    pub fn offset(self) -> u64 {
        self.0 * BLOCK
    }

    /// The block `n` further on.
    #[must_use]
    pub fn plus(self, n: u64) -> Self {
        Self(self.0 + n)
    }
}

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

/// Blocks needed to hold `bytes`.
#[must_use]
pub fn blocks_for(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK)
}
