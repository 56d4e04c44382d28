//! The journal: a ring of groups, each of which becomes durable as a whole.
//!
//! Invariants:
//! - Groups are numbered without gaps, and one is written only after the one before it is durable: so only the last group of a
//!   journal can be incomplete.
//! - The ring never overwrites a group that the last durable checkpoint does not cover.

use crate::format::{group::blocks_of, record::Record};

/// Data that one group may name before it is committed in the background: bounds what opening has to verify.
pub(crate) const GROUP_DATA: u64 = 64 << 20;

/// Blocks of the ring that only opening may use.
const CLOSING: u64 = 2;

/// Records of the group that is open.
#[derive(Default)]
pub(crate) struct Pending {
    body: Vec<u8>,
    records: u32,
    data_bytes: u64,
}

impl Pending {
    pub(crate) fn append(&mut self, record: &Record<'_>) {
        if let Record::Write { crcs, .. } = record {
            self.data_bytes += crcs.len() as u64 / 4 * 4096;
        }
        record.encode(&mut self.body);
        self.records += 1;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records == 0
    }

    pub(crate) fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// Blocks that the group would take now.
    pub(crate) fn blocks(&self) -> u64 {
        blocks_of(self.body.len())
    }

    /// Closes the group: its records and their number.
    pub(crate) fn take(&mut self) -> (Vec<u8>, u32) {
        self.data_bytes = 0;
        (std::mem::take(&mut self.body), std::mem::take(&mut self.records))
    }
}

/// Positions in the ring. They count up for ever; the block within the ring is the position modulo its size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ring {
    pub(crate) blocks: u64,
    pub(crate) head: u64,
    pub(crate) tail: u64,
}

impl Ring {
    /// Blocks in use.
    pub(crate) fn used(&self) -> u64 {
        self.head - self.tail
    }

    /// Where a group of `n` blocks would start: groups do not wrap.
    fn start_for(&self, n: u64) -> u64 {
        let at = self.head % self.blocks;
        if at + n > self.blocks { self.head + (self.blocks - at) } else { self.head }
    }

    /// Whether a group of `n` blocks may be written. Some blocks are kept for the empty group that closes a recovered journal.
    pub(crate) fn fits(&self, n: u64) -> bool {
        self.start_for(n) + n - self.tail + CLOSING <= self.blocks
    }

    /// Takes `n` blocks; returns the block within the ring.
    pub(crate) fn take(&mut self, n: u64) -> u64 {
        let start = self.start_for(n);
        self.head = start + n;
        start % self.blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_do_not_wrap_and_do_not_overtake_the_tail() {
        let mut ring = Ring { blocks: 12, head: 0, tail: 0 };
        assert_eq!((ring.take(5), ring.take(5)), (0, 5));
        assert!(!ring.fits(1), "the two blocks that are left are kept for opening");
        ring.tail = 5;
        assert!(!ring.fits(4), "three blocks at the start are free, less two");
        assert!(ring.fits(3) && ring.fits(2));
        assert_eq!(ring.take(3), 0);
        assert_eq!(ring.used(), 10);
    }
}
