//! Pointers: 16 bytes that say where a block is, when it was written, and what its bytes must hash to.
//!
//! ```text
//! bytes 0..8   physical block (low 60 bits), kind (high 4 bits: 0 hole, 1 data, 2 node; 3 is for memory only)
//! bytes 8..12  birth epoch
//! bytes 12..16 CRC-32 of the 4 KiB pointed to
//! ```
//!
//! Invariant: a hole is all zeros, so equal bytes mean equal pointers. A pointer of kind 3 names a dirty node by its slot in
//! memory; it never reaches the disk.

use crate::units::{Epoch, PhysicalBlock};

const KIND_SHIFT: u32 = 60;
const BLOCK_MASK: u64 = (1 << KIND_SHIFT) - 1;
const DATA: u64 = 1;
const NODE: u64 = 2;
const DIRTY: u64 = 3;

/// Size of an encoded pointer.
pub(crate) const POINTER_SIZE: usize = 16;

/// Where a block is, when it was written and its checksum.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Pointer {
    place: u64,
    birth: u32,
    crc: u32,
}

/// What a pointer refers to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    Hole,
    Data(PhysicalBlock),
    Node(PhysicalBlock),
    /// A node in memory that no checkpoint has written yet, by its slot.
    Dirty(u32),
}

impl Pointer {
    pub(crate) const HOLE: Self = Self { place: 0, birth: 0, crc: 0 };

    pub(crate) fn data(block: PhysicalBlock, birth: Epoch, crc: u32) -> Self {
        Self { place: (DATA << KIND_SHIFT) | block.0, birth: birth.0, crc }
    }

    pub(crate) fn node(block: PhysicalBlock, birth: Epoch, crc: u32) -> Self {
        Self { place: (NODE << KIND_SHIFT) | block.0, birth: birth.0, crc }
    }

    pub(crate) fn dirty(slot: u32, birth: Epoch) -> Self {
        Self { place: (DIRTY << KIND_SHIFT) | u64::from(slot), birth: birth.0, crc: 0 }
    }

    pub(crate) fn place(self) -> Place {
        let block = PhysicalBlock(self.place & BLOCK_MASK);
        match self.place >> KIND_SHIFT {
            DATA => Place::Data(block),
            NODE => Place::Node(block),
            DIRTY => Place::Dirty(block.0 as u32),
            _ => Place::Hole,
        }
    }

    pub(crate) fn is_hole(self) -> bool {
        self.place == 0
    }

    /// Whether the kind is one that may stand on disk, and a hole is all zeros.
    pub(crate) fn is_sound(self, level: u32) -> bool {
        match self.place >> KIND_SHIFT {
            0 => self == Self::HOLE,
            DATA => level == 0,
            NODE => level > 0,
            _ => false,
        }
    }

    pub(crate) fn birth(self) -> Epoch {
        Epoch(self.birth)
    }

    pub(crate) fn crc(self) -> u32 {
        self.crc
    }

    pub(crate) fn to_bytes(self) -> [u8; POINTER_SIZE] {
        let low = u128::from(self.place) | (u128::from(self.birth) << 64) | (u128::from(self.crc) << 96);
        low.to_le_bytes()
    }

    pub(crate) fn from_bytes(bytes: [u8; POINTER_SIZE]) -> Self {
        let all = u128::from_le_bytes(bytes);
        Self { place: all as u64, birth: (all >> 64) as u32, crc: (all >> 96) as u32 }
    }
}

impl std::fmt::Debug for Pointer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}@{}#{:08x}", self.place(), self.birth, self.crc)
    }
}

const _: () = assert!(size_of::<Pointer>() == POINTER_SIZE);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_pinned() {
        let p = Pointer::data(PhysicalBlock(0x0123_4567_89ab), Epoch(0x0a0b_0c0d), 0xdead_beef);
        let bytes = [0xab, 0x89, 0x67, 0x45, 0x23, 0x01, 0, 0x10, 0x0d, 0x0c, 0x0b, 0x0a, 0xef, 0xbe, 0xad, 0xde];
        assert_eq!(p.to_bytes(), bytes);
        assert_eq!(Pointer::from_bytes(bytes), p);
        assert_eq!(Pointer::from_bytes([0; 16]), Pointer::HOLE);
        assert_eq!(Pointer::HOLE.to_bytes(), [0; 16]);
    }

    #[test]
    fn a_dirty_pointer_is_never_sound_on_disk() {
        for level in 0..6 {
            assert!(!Pointer::dirty(7, Epoch(1)).is_sound(level));
        }
    }
}
