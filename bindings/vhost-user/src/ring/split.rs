//! A split ring in guest memory, and its books.
//!
//! Invariants:
//! - Heads are taken in the order of the available ring, and one head is in flight at most once: so at most `size` requests are.
//! - A head that was taken is given back exactly once.
//! - Nothing is touched of memory, or of books, that have lost something ([`whole`]); what was read counts only if they have not.
//! - Between taking and giving back, the in-flight region says so; the order of stores is in [`Ring::take`] and [`Ring::complete`].

use super::{Chain, Malformed, Tracker};
use crate::{memory::Memory, protocol::RingAddresses};
use std::sync::atomic::Ordering;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

/// In the available ring's flags: the driver wants no calls.
const NO_INTERRUPT: u16 = 1;

/// A ring that says what cannot be. It is not served any more until the front-end starts it again.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Broken(pub(crate) String);

/// Where a ring is, and where it is to go on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) size: u16,
    pub(crate) addresses: RingAddresses,
    /// Index of the next head in the available ring.
    pub(crate) base: u16,
    pub(crate) event_index: bool,
}

impl Place {
    /// Whether all of the ring is in memory.
    pub(crate) fn is_within(&self, memory: &Memory) -> bool {
        self.addresses.find(self.size, memory).is_some()
    }
}

impl RingAddresses {
    /// Where a ring of `size` is for the guest: descriptors, available ring, used ring. None while a part of one is nowhere.
    fn find(&self, size: u16, memory: &Memory) -> Option<[GuestAddress; 3]> {
        let size = usize::from(size);
        // Flags, index and the event's index beside the entries.
        let parts = [(self.descriptors, 16 * size), (self.available, 6 + 2 * size), (self.used, 6 + 8 * size)];
        let [descriptors, available, used] = parts
            .map(|(user, length)| memory.guest_address(user).filter(|&start| memory.guest.check_range(start, length)));
        Some([descriptors?, available?, used?])
    }
}

/// A ring that is being served.
pub(crate) struct Ring {
    queue: Queue,
    size: u16,
    /// Heads that were taken and not given back.
    in_flight: Vec<bool>,
    tracker: Option<Tracker>,
    /// Whether something was given back since the driver was last called, or found to want no call.
    uncalled: bool,
}

/// Makes sure that what was read from memory was the guest's.
pub(crate) fn whole(memory: &Memory) -> Result<(), Broken> {
    if memory.is_whole() { Ok(()) } else { Err(broken("a file of the guest's memory has lost its bytes")) }
}

fn broken(why: impl std::fmt::Display) -> Broken {
    Broken(why.to_string())
}

impl Ring {
    /// A ring from where it was left, and the heads that were in flight when it was, oldest first: they count as taken.
    pub(crate) fn new(place: Place, memory: &Memory, tracker: Option<Tracker>) -> Result<(Self, Vec<u16>), Broken> {
        let mut queue = Queue::new(place.size).map_err(|_| broken("its size is no power of two up to 32768"))?;
        queue.set_event_idx(place.event_index);
        queue.set_ready(true);
        let mut ring =
            Self { queue, size: place.size, in_flight: vec![false; usize::from(place.size)], tracker, uncalled: false };
        ring.move_to(place.addresses, memory)?;
        ring.whole(memory)?;
        let used = ring.queue.used_idx(&memory.guest, Ordering::Acquire).map_err(broken)?.0;
        ring.queue.set_next_used(used);
        let Some(tracker) = &mut ring.tracker else {
            whole(memory)?;
            ring.queue.set_next_avail(place.base);
            return Ok((ring, Vec::new()));
        };
        whole(memory)?;
        let heads = tracker.recover(used);
        tracker.whole()?;
        // Whatever was taken was given back or is in flight; how far the front-end believes that this got is of no use after a crash.
        ring.queue.set_next_avail(used.wrapping_add(heads.len() as u16));
        for &head in &heads {
            if let Some(taken) = ring.in_flight.get_mut(usize::from(head)) {
                *taken = true;
            }
        }
        Ok((ring, heads))
    }

    /// Makes sure that neither memory nor books have lost anything.
    fn whole(&self, memory: &Memory) -> Result<(), Broken> {
        whole(memory)?;
        self.tracker.as_ref().map_or(Ok(()), Tracker::whole)
    }

    /// Finds the ring in memory whose regions have changed.
    pub(crate) fn move_to(&mut self, addresses: RingAddresses, memory: &Memory) -> Result<(), Broken> {
        let found = addresses.find(self.size, memory);
        let [descriptors, available, used] = found.ok_or_else(|| broken("a part of it is outside of memory"))?;
        self.queue.try_set_desc_table_address(descriptors).map_err(broken)?;
        self.queue.try_set_avail_ring_address(available).map_err(broken)?;
        self.queue.try_set_used_ring_address(used).map_err(broken)
    }

    /// The next head, which stays where it is.
    pub(crate) fn peek(&mut self, memory: &Memory) -> Result<Option<u16>, Broken> {
        self.whole(memory)?;
        if self.queue.avail_idx(&memory.guest, Ordering::Acquire).map_err(broken)?.0 == self.queue.next_avail() {
            return Ok(None);
        }
        let mut heads = self.queue.iter(&memory.guest).map_err(broken)?;
        // It ends without a word where an entry cannot be read: between two regions, or where one begins at an odd address.
        let chain = heads.next().ok_or_else(|| broken("an entry of its available ring cannot be read"))?;
        heads.go_to_previous_position();
        let head = chain.head_index();
        match self.in_flight.get(usize::from(head)) {
            Some(false) => Ok(Some(head)),
            Some(true) => Err(broken(format!("head {head} is available again before it was given back"))),
            None => Err(broken(format!("head {head} is beyond the table of {}", self.size))),
        }
    }

    /// Takes the head that [`peek`](Self::peek) has found some time ago. On an error it is not to be carried out: the books may not say that it
    /// is in flight.
    pub(crate) fn take(&mut self, memory: &Memory, head: u16) -> Result<(), Broken> {
        self.whole(memory)?;
        self.queue.set_next_avail(self.queue.next_avail().wrapping_add(1));
        if let Some(taken) = self.in_flight.get_mut(usize::from(head)) {
            *taken = true;
        }
        if let Some(tracker) = &mut self.tracker {
            tracker.take(head);
            tracker.whole()?;
        }
        Ok(())
    }

    /// The chain that begins at a head.
    pub(crate) fn chain(&self, memory: &Memory, head: u16) -> Result<Chain, Malformed> {
        Chain::read(memory, GuestAddress(self.queue.desc_table()), self.size, head)
    }

    /// Gives a head back, `written` bytes of whose chain were written. On an error it stays in flight, by the books.
    pub(crate) fn complete(&mut self, memory: &Memory, head: u16, written: u32) -> Result<(), Broken> {
        self.whole(memory)?;
        match self.in_flight.get_mut(usize::from(head)) {
            Some(taken) => *taken = false,
            None => return Err(broken(format!("head {head} is beyond the table of {}", self.size))),
        }
        if let Some(tracker) = &self.tracker {
            tracker.before_used(head);
        }
        self.queue.add_used(&memory.guest, head, written).map_err(broken)?;
        whole(memory)?;
        if let Some(tracker) = &self.tracker {
            tracker.after_used(head, self.queue.next_used());
        }
        self.uncalled = true;
        Ok(())
    }

    /// Whether the driver wants to be called for what was given back since this was last asked.
    pub(crate) fn wants_call(&mut self, memory: &Memory) -> Result<bool, Broken> {
        if !std::mem::take(&mut self.uncalled) {
            return Ok(false);
        }
        self.whole(memory)?;
        // With it comes the fence between the used index and what the driver says about calls.
        let wanted = self.queue.needs_notification(&memory.guest).map_err(broken)?;
        if !wanted || self.queue.event_idx_enabled() {
            return Ok(wanted);
        }
        let flags: u16 = memory.guest.load(GuestAddress(self.queue.avail_ring()), Ordering::Relaxed).map_err(broken)?;
        Ok(u16::from_le(flags) & NO_INTERRUPT == 0)
    }

    /// Asks the driver for kicks. Whether there is something in the ring already.
    pub(crate) fn ask_for_kicks(&mut self, memory: &Memory) -> Result<bool, Broken> {
        self.whole(memory)?;
        let more = self.queue.enable_notification(&memory.guest).map_err(broken)?;
        whole(memory)?;
        Ok(more)
    }

    /// Tells the driver that it need not kick.
    pub(crate) fn refuse_kicks(&mut self, memory: &Memory) -> Result<(), Broken> {
        self.whole(memory)?;
        self.queue.disable_notification(&memory.guest).map_err(broken)
    }

    /// Index of the next head in the available ring: where this ring would have to go on.
    pub(crate) fn base(&self) -> u16 {
        self.queue.next_avail()
    }
}
