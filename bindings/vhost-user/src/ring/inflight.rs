//! The in-flight region: what the next back-end must know of the requests that this one had taken when it was killed.
//!
//! The region is a file in memory that the front-end keeps. Its layout is the protocol's for split rings, one queue after the other, each at a
//! multiple of 64 bytes. All numbers are in the machine's byte order.
//!
//! | offset | bytes | field of a queue |
//! | --- | --- | --- |
//! | 0 | 8 | features (0) |
//! | 8 | 2 | version: 0 before the first use, then 1 |
//! | 10 | 2 | number of entries |
//! | 12 | 2 | head of the last batch given back |
//! | 14 | 2 | used index up to which the entries below are cleared |
//! | 16 | 16 each | entry of a head: in flight (1), padding (5), next head of its batch (2), counter (8) |
//!
//! `DESIGN.md` has the order of the stores and what is true between any two of them. The front-end may write anything here at any
//! time; nothing that is read is trusted beyond its range.

use super::Broken;
use crate::{
    descriptors::Foreign,
    mapping::{Budget, Mapping},
};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use std::{
    io,
    os::fd::OwnedFd,
    rc::Rc,
    sync::{
        Arc,
        atomic::Ordering::{Acquire, Release},
    },
};
use vm_memory::{AtomicAccess, Bytes, MmapRegion, VolatileMemory};

const VERSION: usize = 8;
const ENTRIES: usize = 10;
const LAST_BATCH: usize = 12;
const USED_INDEX: usize = 14;
const HEADER: usize = 16;
const ENTRY: usize = 16;
const ENTRY_NEXT: usize = 6;
const ENTRY_COUNTER: usize = 8;
/// The version of this layout.
const CURRENT: u16 = 1;

/// Bytes of one queue's part.
fn stride(queue_size: u16) -> usize {
    (HEADER + ENTRY * usize::from(queue_size)).next_multiple_of(64)
}

/// A mapped region of some queues.
#[derive(Debug)]
pub(crate) struct InflightRegion {
    /// The bytes of `kept`.
    bytes: MmapRegion,
    kept: Mapping,
    queues: u16,
    queue_size: u16,
}

impl InflightRegion {
    /// Makes a region for the front-end to keep: its file and its size in bytes.
    pub(crate) fn create(queues: u16, queue_size: u16) -> io::Result<(OwnedFd, u64)> {
        let size = (stride(queue_size) * usize::from(queues)) as u64;
        let file = memfd_create("cairn-in-flight", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, size)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok((file, size))
    }

    /// Maps the region that the front-end kept.
    pub(crate) fn open(
        file: &Foreign,
        offset: u64,
        size: u64,
        queues: u16,
        queue_size: u16,
        budget: &Arc<Budget>,
    ) -> Result<Self, String> {
        let needed = stride(queue_size) * usize::from(queues);
        if size < needed as u64 || size > 1 << 30 {
            return Err(format!(
                "an in-flight region of {size} bytes for {queues} queues of {queue_size}: {needed} are needed"
            ));
        }
        let kept = Mapping::of(file, offset, size, budget)?;
        Ok(Self { bytes: kept.bytes()?, kept, queues, queue_size })
    }

    /// The part of a queue of `size` entries, if there is one that is large enough.
    pub(crate) fn queue(self: &Rc<Self>, index: usize, size: u16) -> Option<Tracker> {
        let fits = index < usize::from(self.queues) && size <= self.queue_size;
        fits.then(|| Tracker { start: index * stride(self.queue_size), region: Rc::clone(self), size, counter: 0 })
    }
}

/// Keeps the books of one queue.
#[derive(Debug)]
pub(crate) struct Tracker {
    region: Rc<InflightRegion>,
    /// Where its part begins.
    start: usize,
    size: u16,
    counter: u64,
}

impl Tracker {
    // Everything below stays within the mapping: `queue` has checked index and size, and heads are below `size`.

    fn load<T: AtomicAccess + Default>(&self, at: usize) -> T {
        self.region.bytes.as_volatile_slice().load(self.start + at, Acquire).unwrap_or_default()
    }

    fn store<T: AtomicAccess>(&self, at: usize, value: T) {
        // It cannot fail: in range and aligned.
        drop(self.region.bytes.as_volatile_slice().store(value, self.start + at, Release));
    }

    /// Makes sure that the books are those that the front-end keeps.
    pub(crate) fn whole(&self) -> Result<(), Broken> {
        let whole = self.region.kept.is_whole();
        if whole { Ok(()) } else { Err(Broken("the file of the in-flight region has lost its bytes".into())) }
    }

    fn entry(head: u16) -> usize {
        HEADER + ENTRY * usize::from(head)
    }

    fn is_in_flight(&self, head: u16) -> bool {
        self.load::<u8>(Self::entry(head)) == 1
    }

    /// Finishes what a killed back-end may have left half done, given the used ring's index; the heads that were in flight, oldest first.
    pub(crate) fn recover(&mut self, used: u16) -> Vec<u16> {
        let behind = used.wrapping_sub(self.load(USED_INDEX));
        // Entries beyond the queue cannot be in use, and more than a whole queue cannot be behind: the books are of another ring.
        if self.load::<u16>(VERSION) != CURRENT || self.load::<u16>(ENTRIES) != self.size || behind > self.size {
            self.reset(used);
            return Vec::new();
        }
        let mut head: u16 = self.load(LAST_BATCH);
        for _ in 0..behind {
            if head >= self.size {
                break;
            }
            self.store(Self::entry(head), 0u8);
            head = self.load(Self::entry(head) + ENTRY_NEXT);
        }
        self.store(USED_INDEX, used);
        let mut heads: Vec<(u64, u16)> = (0..self.size)
            .filter(|&head| self.is_in_flight(head))
            .map(|head| (self.load(Self::entry(head) + ENTRY_COUNTER), head))
            .collect();
        heads.sort_unstable();
        self.counter = heads.last().map_or(0, |(counter, _)| counter.wrapping_add(1));
        heads.into_iter().map(|(_, head)| head).collect()
    }

    fn reset(&mut self, used: u16) {
        self.store(VERSION, 0u16);
        for head in 0..self.size {
            self.store(Self::entry(head), 0u8);
        }
        self.store(0, 0u64);
        self.store(ENTRIES, self.size);
        self.store(LAST_BATCH, 0u16);
        self.store(USED_INDEX, used);
        self.counter = 0;
        self.store(VERSION, CURRENT);
    }

    /// A head was found in the available ring and is about to be worked on.
    pub(crate) fn take(&mut self, head: u16) {
        self.store(Self::entry(head) + ENTRY_COUNTER, self.counter);
        self.counter = self.counter.wrapping_add(1);
        self.store(Self::entry(head), 1u8);
    }

    /// A head is about to be put into the used ring, as a batch of one.
    pub(crate) fn before_used(&self, head: u16) {
        self.store(Self::entry(head) + ENTRY_NEXT, self.load::<u16>(LAST_BATCH));
        self.store(LAST_BATCH, head);
    }

    /// The used ring's index has passed the head and is `used` now.
    pub(crate) fn after_used(&self, head: u16, used: u16) {
        self.store(Self::entry(head), 0u8);
        self.store(USED_INDEX, used);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NONE: [u16; 0] = [];

    fn region(queues: u16, queue_size: u16) -> (OwnedFd, Rc<InflightRegion>) {
        let (file, size) = InflightRegion::create(queues, queue_size).unwrap();
        let kept = file.try_clone().unwrap();
        (kept, Rc::new(InflightRegion::open(&file.into(), 0, size, queues, queue_size, &Arc::default()).unwrap()))
    }

    fn bytes(region: &InflightRegion) -> Vec<u8> {
        let mut out = vec![0; region.bytes.size()];
        region.bytes.as_volatile_slice().read_slice(&mut out, 0).unwrap();
        out
    }

    /// The layout is read by other versions of this program, so it is pinned.
    #[test]
    fn the_layout_is_the_protocols() {
        let (_file, region) = region(2, 4);
        assert_eq!(region.bytes.size(), 2 * 128);
        let mut tracker = region.queue(1, 4).unwrap();
        assert_eq!(tracker.recover(0x1234), NONE);
        tracker.take(3);
        tracker.take(2);
        tracker.before_used(3);
        let all = bytes(&region);
        assert_eq!(all[..128], [0; 128], "the other queue");
        let expected = [
            [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 4, 0, 3, 0, 0x34, 0x12],
            [0; 16],
            [0; 16],
            [1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
            [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ];
        assert_eq!(all[128..208], expected.concat());
        tracker.after_used(3, 0x1235);
        let all = bytes(&region);
        assert_eq!((all[128 + 14], all[128 + 64]), (0x35, 0));
    }

    #[test]
    fn regions_that_cannot_hold_their_queues_are_refused() {
        let (file, size) = InflightRegion::create(2, 128).unwrap();
        let (file, budget) = (Foreign::from(file), Arc::default());
        assert!(InflightRegion::open(&file, 0, size, 3, 128, &budget).is_err());
        assert!(InflightRegion::open(&file, 4096, size, 2, 128, &budget).is_err());
        let region = Rc::new(InflightRegion::open(&file, 0, size, 2, 128, &budget).unwrap());
        assert!(region.queue(2, 128).is_none() && region.queue(0, 256).is_none() && region.queue(1, 64).is_some());
    }

    #[test]
    fn books_of_another_ring_are_begun_again() {
        let (_file, region) = region(1, 8);
        let mut tracker = region.queue(0, 8).unwrap();
        let _none = tracker.recover(100);
        tracker.take(5);
        assert_eq!(region.queue(0, 8).unwrap().recover(109), NONE, "too far behind");
        let mut tracker = region.queue(0, 8).unwrap();
        tracker.take(5);
        assert_eq!(region.queue(0, 4).unwrap().recover(109), NONE, "of another size");
    }

    /// What a killed back-end left: a driver that puts all heads in, a device that takes and gives back in any order and is killed before
    /// any of its stores.
    #[derive(Clone, Debug)]
    enum Stop {
        Taking,
        Marked,
        Noted,
        Published,
        Cleared,
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_done_twice(
            done in proptest::collection::vec(0usize..8, 0..40),
            stop in prop_oneof![Just(Stop::Taking), Just(Stop::Marked), Just(Stop::Noted), Just(Stop::Published), Just(Stop::Cleared)],
            first in any::<u16>(),
        ) {
            let (_file, region) = region(1, 8);
            let mut tracker = region.queue(0, 8).unwrap();
            prop_assert_eq!(tracker.recover(first), Vec::<u16>::new());
            let mut used = first;
            let mut order: Vec<u16> = Vec::new();
            for head in 0..8 {
                tracker.take(head);
                order.push(head);
            }
            for at in done {
                let head = order.remove(at % order.len());
                tracker.before_used(head);
                used = used.wrapping_add(1);
                tracker.after_used(head, used);
                tracker.take(head);
                order.push(head);
            }
            let head = order.remove(0);
            match stop {
                Stop::Taking => order.insert(0, head),
                Stop::Noted => {
                    tracker.before_used(head);
                    order.insert(0, head);
                }
                Stop::Published => {
                    tracker.before_used(head);
                    used = used.wrapping_add(1);
                }
                Stop::Cleared => {
                    tracker.before_used(head);
                    used = used.wrapping_add(1);
                    tracker.store(Tracker::entry(head), 0u8);
                }
                Stop::Marked => {
                    tracker.before_used(head);
                    used = used.wrapping_add(1);
                    tracker.after_used(head, used);
                    tracker.take(head);
                    order.push(head);
                }
            }
            let mut next = region.queue(0, 8).unwrap();
            prop_assert_eq!(&next.recover(used), &order);
            // And once more, when that one is killed at once.
            prop_assert_eq!(region.queue(0, 8).unwrap().recover(used), order);
        }

        #[test]
        fn any_content_is_survived(content in proptest::collection::vec(any::<u8>(), 192), used in any::<u16>()) {
            let (_file, region) = region(1, 8);
            region.bytes.as_volatile_slice().write_slice(&content, 0).unwrap();
            let mut tracker = region.queue(0, 8).unwrap();
            let heads = tracker.recover(used);
            prop_assert!(heads.len() <= 8 && heads.iter().all(|&head| head < 8));
        }
    }
}
