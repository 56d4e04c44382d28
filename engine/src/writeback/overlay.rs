//! What a backlog has of a range, over what the tree has.

use std::rc::Rc;

use super::Entry;
use crate::{format::pointer::Pointer, storage::buffer::IoBuf, units::BLOCK_SIZE};

/// For each block of a range, the entry that has it, at the moment at which this was taken.
pub(crate) struct Overlay(Vec<(u64, Option<Rc<Entry>>)>);

impl Overlay {
    /// None where no block is covered.
    pub(super) fn of(first: u64, slots: impl Iterator<Item = Option<Rc<Entry>>>) -> Option<Self> {
        let slots: Vec<_> = (first..).zip(slots).collect();
        slots.iter().any(|(_, slot)| slot.is_some()).then_some(Self(slots))
    }

    /// Whether it has every block.
    pub(crate) fn is_whole(&self) -> bool {
        self.0.iter().all(|(_, slot)| slot.is_some())
    }

    /// Blocks that it has need not be read.
    pub(crate) fn hide(&self, pointers: &mut [Pointer]) {
        for (pointer, (_, slot)) in pointers.iter_mut().zip(&self.0) {
            if slot.is_some() {
                *pointer = Pointer::HOLE;
            }
        }
    }

    /// Puts what it has into the range's bytes.
    pub(crate) fn lay_over(&self, bytes: &mut [u8]) {
        for (out, (block, slot)) in bytes.chunks_exact_mut(BLOCK_SIZE).zip(&self.0) {
            let Some(entry) = slot else { continue };
            match entry.piece.bytes(*block) {
                Some(data) => out.copy_from_slice(data),
                None => out.fill(0),
            }
        }
    }

    /// The bytes of the range, all of which it has.
    pub(crate) fn bytes(&self) -> IoBuf {
        let mut buf = IoBuf::with_len(self.0.len() * BLOCK_SIZE);
        self.lay_over(&mut buf);
        buf
    }
}
