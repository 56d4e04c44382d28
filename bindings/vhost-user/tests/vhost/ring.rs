//! A driver's side of a split ring, in the guest's memory.

use crate::{
    fixture::PATIENCE,
    front_end::{
        FrontEnd, GET_VRING_BASE, Guest, SET_VRING_ADDR, SET_VRING_BASE, SET_VRING_CALL, SET_VRING_ENABLE,
        SET_VRING_ERR, SET_VRING_KICK, SET_VRING_NUM, USER, event, pair, words,
    },
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{read, write},
};
use std::{
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, atomic::Ordering},
    time::Instant,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

pub(crate) const IN: u32 = 0;
pub(crate) const OUT: u32 = 1;
pub(crate) const FLUSH: u32 = 4;
pub(crate) const GET_ID: u32 = 8;
pub(crate) const DISCARD: u32 = 11;
pub(crate) const WRITE_ZEROES: u32 = 13;

/// Guest memory that a ring takes for its tables, and each of its requests for header, status and indirect table.
const TABLES: u64 = 64 << 10;

/// Where a ring's parts are in the guest's memory.
pub(crate) struct Ring {
    pub(crate) memory: Arc<GuestMemoryMmap>,
    pub(crate) index: u32,
    pub(crate) size: u16,
    pub(crate) base: u64,
    pub(crate) kick: OwnedFd,
    pub(crate) call: OwnedFd,
    pub(crate) error: OwnedFd,
    pub(crate) available: u16,
    pub(crate) seen: u16,
    free: Vec<u16>,
}

impl Ring {
    /// A ring whose parts begin at `base`; it takes 128 KiB. Every request has three descriptors of its own, or one that is indirect.
    pub(crate) fn new(guest: &Guest, index: u32, size: u16, base: u64) -> Self {
        Self {
            memory: Arc::clone(&guest.memory),
            index,
            size,
            base,
            kick: event(),
            call: event(),
            error: event(),
            available: 0,
            seen: 0,
            free: (0..size / 4).rev().map(|i| i * 4).collect(),
        }
    }

    pub(crate) fn descriptors(&self) -> u64 {
        self.base
    }

    pub(crate) fn avail(&self) -> u64 {
        self.base + 16 * u64::from(self.size)
    }

    pub(crate) fn used(&self) -> u64 {
        self.base + 48 * 1024
    }

    /// Header, status and indirect table of the request with this head.
    fn extra(&self, head: u16) -> u64 {
        self.base + TABLES + u64::from(head) * 32
    }

    /// Has the back-end serve it, from `base` of the available ring on.
    #[track_caller]
    pub(crate) fn start(&self, front_end: &FrontEnd, base: u16) {
        let index = self.index;
        front_end.must(SET_VRING_NUM, &pair(index, u32::from(self.size)), &[]);
        front_end.must(SET_VRING_BASE, &pair(index, u32::from(base)), &[]);
        front_end.must(SET_VRING_ADDR, &self.addresses(), &[]);
        front_end.must(SET_VRING_CALL, &words(&[u64::from(index)]), &[self.call.as_fd()]);
        front_end.must(SET_VRING_ERR, &words(&[u64::from(index)]), &[self.error.as_fd()]);
        front_end.must(SET_VRING_KICK, &words(&[u64::from(index)]), &[self.kick.as_fd()]);
        front_end.must(SET_VRING_ENABLE, &pair(index, 1), &[]);
    }

    pub(crate) fn addresses(&self) -> Vec<u8> {
        let user = |at: u64| USER + at;
        let rest = words(&[user(self.descriptors()), user(self.used()), user(self.avail()), 0]);
        [pair(self.index, 0), rest].concat()
    }

    /// Stops it; where it would go on.
    #[track_caller]
    pub(crate) fn stop(&self, front_end: &FrontEnd) -> u32 {
        let reply = front_end.ask(GET_VRING_BASE, &pair(self.index, 0));
        assert_eq!(reply[..4], self.index.to_ne_bytes());
        u32::from_ne_bytes(reply[4..].try_into().unwrap())
    }

    pub(crate) fn put_descriptor(&self, table: u64, index: u16, entry: (u64, u32, u16, u16)) {
        let (address, length, flags, next) = entry;
        let bytes =
            [&address.to_le_bytes()[..], &length.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()].concat();
        self.memory.write_slice(&bytes, GuestAddress(table + u64::from(index) * 16)).unwrap();
    }

    /// Offers the chain that begins at `head`, whatever it is.
    pub(crate) fn offer(&mut self, head: u16) {
        let slot = self.avail() + 4 + 2 * u64::from(self.available % self.size);
        self.memory.store(head, GuestAddress(slot), Ordering::Relaxed).unwrap();
        self.available = self.available.wrapping_add(1);
        self.memory.store(self.available, GuestAddress(self.avail() + 2), Ordering::SeqCst).unwrap();
    }

    /// The head of the next request that is put in.
    pub(crate) fn next_head(&self) -> Option<u16> {
        self.free.last().copied()
    }

    /// Puts a request in: what it gives, or where its answer goes, is `length` bytes at `data`. Its head, if there is one free.
    pub(crate) fn put(&mut self, kind: u32, sector: u64, data: u64, length: u32, indirect: bool) -> Option<u16> {
        let head = self.free.pop()?;
        let header = self.extra(head);
        let bytes = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
        self.memory.write_slice(&bytes, GuestAddress(header)).unwrap();
        self.memory.write_slice(&[0xee], GuestAddress(header + 16)).unwrap();
        let (table, first) = if indirect { (header + 32, 0) } else { (self.descriptors(), head) };
        let direction = if matches!(kind, IN | GET_ID) { WRITE } else { 0 };
        let mut parts = vec![(header, 16, NEXT)];
        if length > 0 {
            parts.push((data, length, NEXT | direction));
        }
        parts.push((header + 16, 1, WRITE));
        for (i, (address, length, flags)) in parts.iter().enumerate() {
            let index = first + i as u16;
            self.put_descriptor(table, index, (*address, *length, *flags, index + 1));
        }
        if indirect {
            self.put_descriptor(self.descriptors(), head, (table, parts.len() as u32 * 16, INDIRECT, 0));
        }
        self.offer(head);
        Some(head)
    }

    pub(crate) fn kick(&self) {
        write(&self.kick, &1u64.to_ne_bytes()).unwrap();
    }

    pub(crate) fn used_index(&self) -> u16 {
        self.memory.load(GuestAddress(self.used() + 2), Ordering::SeqCst).unwrap()
    }

    /// What has come back and was not seen yet: head, length, status.
    pub(crate) fn next_used(&mut self) -> Option<(u16, u32, u8)> {
        if self.used_index() == self.seen {
            return None;
        }
        let at = self.used() + 4 + 8 * u64::from(self.seen % self.size);
        let id: u32 = self.memory.load(GuestAddress(at), Ordering::Relaxed).unwrap();
        let length: u32 = self.memory.load(GuestAddress(at + 4), Ordering::Relaxed).unwrap();
        // It may be anything, where the guest has written over it.
        let head = id as u16 % self.size;
        let mut status = [0];
        self.memory.read_slice(&mut status, GuestAddress(self.extra(head) + 16)).unwrap();
        self.seen = self.seen.wrapping_add(1);
        if head.is_multiple_of(4) && !self.free.contains(&head) {
            self.free.push(head);
        }
        Some((head, length, status[0]))
    }

    /// Waits to be called, for a moment; whether it was.
    pub(crate) fn called(&self, millis: i64) -> bool {
        let mut fds = [PollFd::new(&self.call, PollFlags::IN)];
        let limit = Timespec { tv_sec: millis / 1000, tv_nsec: millis % 1000 * 1_000_000 };
        let ready = poll(&mut fds, Some(&limit)).unwrap() > 0;
        ready && read(&self.call, &mut [0; 8]).is_ok()
    }

    /// Waits, by its call alone, until something comes back.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> (u16, u32, u8) {
        let start = Instant::now();
        loop {
            if let Some(used) = self.next_used() {
                return used;
            }
            assert!(start.elapsed() < PATIENCE, "nothing comes back");
            let _called = self.called(1000);
        }
    }

    /// Does one request; its status.
    #[track_caller]
    pub(crate) fn run(&mut self, kind: u32, sector: u64, data: u64, length: u32) -> u8 {
        let head = self.put(kind, sector, data, length, false).unwrap();
        self.kick();
        let (done, _, status) = self.wait();
        assert_eq!(done, head);
        status
    }
}
