//! Rings that do not lie in one region of memory.

use crate::{attacker::answers, fixture::*, front_end::*, ring::*};
use std::os::fd::AsFd;
use vm_memory::{Bytes, GuestAddress};

const DATA: u64 = 4 << 20;

/// Regions come one by one, also those that one part of a ring is in: it starts when it is whole.
#[test]
fn a_ring_across_two_regions_starts_with_the_second() {
    let bound = 0x100000;
    // The descriptors (16 KiB), the available ring (2 KiB) and the used ring (8 KiB, 48 KiB behind the start) cross the bound, or end at it.
    for before in [8 << 10, 17 << 10, 52 << 10, 16 << 10, (48 << 10) + 6 + 8 * 1024 + 2] {
        let fixture = Fixture::new();
        let (guest, front_end) = (Guest::new(), fixture.connect());
        front_end.agree(FEATURES);
        let mut ring = Ring::new(&guest, 0, 1024, (bound - before) & !15);
        ring.start(&front_end, 0);
        front_end.must(ADD_MEM_REG, &words(&[0, 0, bound, USER, 0]), &[guest.file.as_fd()]);
        let second = words(&[0, bound, MEMORY - bound, USER + bound, bound]);
        front_end.must(ADD_MEM_REG, &second, &[guest.file.as_fd()]);
        assert_eq!(fixture.client().unwrap().queues, 1);
        assert_eq!((ring.run(OUT, 0, DATA, 4096), fixture.client().unwrap().faults), (0, 0), "{before}");
    }
}

/// The last byte of memory can be that of a ring.
#[test]
fn a_ring_may_end_where_memory_ends() {
    let fixture = Fixture::new();
    let (guest, front_end) = (Guest::new(), fixture.connect());
    front_end.agree(FEATURES);
    let mut ring = Ring::new(&guest, 0, 64, 0x10000);
    // The used ring is the last of its parts: 518 bytes at 48 KiB.
    let end = ring.used() + 6 + 8 * 64;
    front_end.must(SET_MEM_TABLE, &words(&[1, 0, end, USER, 0]), &[guest.file.as_fd()]);
    ring.start(&front_end, 0);
    assert_eq!(fixture.client().unwrap().queues, 1);
    let (head, second) = (ring.next_head().unwrap(), words(&[0, 0x200000, 0x100000, USER + 0x200000, 0x200000]));
    front_end.must(ADD_MEM_REG, &second, &[guest.file.as_fd()]);
    ring.put_descriptor(ring.descriptors(), head, (0x200000, 16, NEXT, 1));
    ring.put_descriptor(ring.descriptors(), 1, (0x200100, 1, WRITE, 0));
    ring.offer(head);
    ring.kick();
    assert_eq!((ring.wait().1, fixture.client().unwrap().faults), (1, 0));
}

/// Two regions meet within an entry of the available ring, or at an odd address, so that the entries behind it are at odd ones, too.
#[test]
fn entries_that_cannot_be_read_keep_nobody_waiting() {
    let (descriptors, used, available) = (0x10000, 0x20000, 0x30000u64);
    for (bound, next) in [(available + 5, 0u16), (available + 7, 2)] {
        for features in [FEATURES, FEATURES | F_EVENT_INDEX] {
            let fixture = Fixture::new();
            let (guest, front_end) = (Guest::new(), fixture.connect());
            front_end.agree(features);
            let table = words(&[2, 0, bound, USER, 0, bound, 1 << 20, USER + bound, 0x40000]);
            front_end.must(SET_MEM_TABLE, &table, &[guest.file.as_fd(), guest.file.as_fd()]);
            guest.memory.write_obj(next + 1, GuestAddress(available + 2)).unwrap();
            let ring = Ring::new(&guest, 0, 64, descriptors);
            let addresses = words(&[USER + descriptors, USER + used, USER + available, 0]);
            front_end.must(SET_VRING_NUM, &pair(0, 64), &[]);
            front_end.must(SET_VRING_BASE, &pair(0, u32::from(next)), &[]);
            front_end.must(SET_VRING_ADDR, &[pair(0, 0), addresses].concat(), &[]);
            front_end.must(SET_VRING_KICK, &words(&[0]), &[ring.kick.as_fd()]);
            front_end.must(SET_VRING_ENABLE, &pair(0, 1), &[]);
            assert!(answers(&fixture.pool), "the reactor looks for ever at what it cannot read");
            let fault = || fixture.client().and_then(|client| client.last_fault).unwrap_or_default();
            eventually("the ring is given up", || fault().contains("cannot be read"));
        }
    }
}
