//! Clean nodes in memory, by their physical block, so that versions that share a node share its memory too.
//!
//! Invariant: an entry answers only for the checksum that it was verified against, so a block that was reused since can never be
//! taken for what it was. Bounded; the clock algorithm gives each entry a second chance, a new one too: what was loaded together is
//! there when it is looked at.

use std::{cell::Cell, rc::Rc};

use rustc_hash::FxHashMap;

use crate::{storage::buffer::IoBuf, units::BLOCK_SIZE};

struct Entry {
    node: Rc<IoBuf>,
    crc: u32,
    used: Cell<bool>,
    /// Place in the clock.
    hand: usize,
}

pub(crate) struct Cache {
    entries: FxHashMap<u64, Entry>,
    clock: Vec<u64>,
    hand: usize,
    limit: usize,
}

impl Cache {
    pub(crate) fn new(bytes: u64) -> Self {
        let limit = (bytes / BLOCK_SIZE as u64).max(64) as usize;
        Self { entries: FxHashMap::default(), clock: Vec::new(), hand: 0, limit }
    }

    pub(crate) fn bytes(&self) -> u64 {
        (self.entries.len() * BLOCK_SIZE) as u64
    }

    /// How many nodes a walk over many trees asks for at once at most: they and the paths to them take less than half of the cache.
    pub(crate) fn batch(&self) -> usize {
        (self.limit / 16).min(512)
    }

    #[inline]
    pub(crate) fn get(&self, block: u64, crc: u32) -> Option<&Rc<IoBuf>> {
        let entry = self.entries.get(&block)?;
        if entry.crc != crc {
            return None;
        }
        entry.used.set(true);
        Some(&entry.node)
    }

    pub(crate) fn insert(&mut self, block: u64, crc: u32, node: Rc<IoBuf>) {
        if let Some(entry) = self.entries.get_mut(&block) {
            entry.node = node;
            entry.crc = crc;
            entry.used.set(true);
            return;
        }
        let hand = if self.clock.len() < self.limit {
            self.clock.push(block);
            self.clock.len() - 1
        } else {
            let hand = self.victim();
            let _old = self.entries.remove(&self.clock[hand]);
            self.clock[hand] = block;
            hand
        };
        let _none = self.entries.insert(block, Entry { node, crc, used: Cell::new(true), hand });
    }

    fn victim(&mut self) -> usize {
        loop {
            let at = self.hand;
            self.hand = (self.hand + 1) % self.clock.len();
            match self.entries.get(&self.clock[at]) {
                Some(entry) if entry.used.replace(false) => {}
                _ => return at,
            }
        }
    }

    /// Forgets a block that is no longer a node.
    pub(crate) fn remove(&mut self, block: u64) {
        let Some(entry) = self.entries.remove(&block) else { return };
        let _gone = self.clock.swap_remove(entry.hand);
        if let Some(moved) = self.clock.get(entry.hand)
            && let Some(other) = self.entries.get_mut(moved)
        {
            other.hand = entry.hand;
        }
        if self.hand >= self.clock.len() {
            self.hand = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(tag: u8) -> Rc<IoBuf> {
        let mut buf = IoBuf::zeroed(BLOCK_SIZE);
        buf[0] = tag;
        Rc::new(buf)
    }

    #[test]
    fn bounded_and_true_to_the_checksum() {
        let mut cache = Cache::new(64 * BLOCK_SIZE as u64);
        for block in 0..if cfg!(miri) { 150 } else { 1000u64 } {
            cache.insert(block, block as u32, node(block as u8));
            assert!(cache.bytes() <= 64 * BLOCK_SIZE as u64);
            assert_eq!(cache.get(block, block as u32).map(|n| n[0]), Some(block as u8));
            assert!(cache.get(block, block as u32 + 1).is_none());
            if block % 3 == 0 {
                cache.remove(block);
                assert!(cache.get(block, block as u32).is_none());
            }
        }
        for (at, block) in cache.clock.iter().enumerate() {
            assert_eq!(cache.entries[block].hand, at);
        }
    }

    #[test]
    fn what_is_loaded_together_stays_until_it_is_looked_at() {
        let mut cache = Cache::new(64 * BLOCK_SIZE as u64);
        for block in 0..64 {
            cache.insert(block, 0, node(1));
        }
        // Moves the hand once around, then has all but the next few looked at.
        cache.insert(100, 0, node(1));
        for block in 9..64 {
            assert!(cache.get(block, 0).is_some());
        }
        for block in 200..232 {
            cache.insert(block, 0, node(1));
        }
        assert!((200..232).all(|block| cache.get(block, 0).is_some()));
    }
}
