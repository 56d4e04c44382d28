//! Nodes: 4 KiB, 256 pointers, nothing else. The checksum stands in the parent's pointer.

use crate::{
    format::pointer::{POINTER_SIZE, Pointer},
    storage::buffer::IoBuf,
    units::BLOCK_SIZE,
};

/// Pointers in a node.
pub(crate) const FANOUT: usize = 256;
/// log2 of [`FANOUT`].
pub(crate) const FANOUT_BITS: u32 = 8;

const _: () = assert!(FANOUT * POINTER_SIZE == BLOCK_SIZE && 1 << FANOUT_BITS == FANOUT);

/// Pointer `index` of the node in `bytes`; a hole past the end (a node always has 4 KiB).
#[inline]
pub(crate) fn get(bytes: &[u8], index: usize) -> Pointer {
    let at = index * POINTER_SIZE;
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(Pointer::HOLE, |b| Pointer::from_bytes(*b))
}

/// Sets pointer `index` of the node in `bytes`.
#[inline]
pub(crate) fn set(bytes: &mut [u8], index: usize, pointer: Pointer) {
    let at = index * POINTER_SIZE;
    if let Some(slot) = bytes.get_mut(at..at + POINTER_SIZE) {
        slot.copy_from_slice(&pointer.to_bytes());
    }
}

/// How many pointers are not holes.
pub(crate) fn used(bytes: &[u8]) -> u16 {
    (0..FANOUT).filter(|&i| !get(bytes, i).is_hole()).count() as u16
}

/// Whether every pointer may stand in a node of `level` (0: leaf) of a pool of `total` blocks.
pub(crate) fn is_sound(bytes: &[u8], level: u32) -> bool {
    bytes.len() == BLOCK_SIZE && (0..FANOUT).all(|i| get(bytes, i).is_sound(level))
}

/// An empty node.
pub(crate) fn empty() -> IoBuf {
    IoBuf::zeroed(BLOCK_SIZE)
}
