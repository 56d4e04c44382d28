//! Counters of calls that their driver keeps full: by that, it could have whoever writes to one wait, at any moment. So the server does not
//! write: the kernel signals, as it does for interrupts, and fills a counter to its very end, which no write can.

use crate::{fixture::*, front_end::*, ring::*};
use cairn_engine::StorageKind;
use cairn_vhost_user::Options;
use rustix::{
    event::{EventfdFlags, eventfd},
    io::{read, write},
};
use std::{os::fd::OwnedFd, sync::atomic::Ordering};
use vm_memory::{Bytes, GuestAddress};

const DATA: u64 = 4 << 20;
/// As far as writes go.
const FULL: u64 = u64::MAX - 1;

fn full(flags: EventfdFlags) -> OwnedFd {
    let counter = eventfd(0, EventfdFlags::CLOEXEC | flags).unwrap();
    write(&counter, &FULL.to_ne_bytes()).unwrap();
    counter
}

fn take(counter: &OwnedFd) -> u64 {
    let mut value = [0; 8];
    assert_eq!(read(counter, &mut value).unwrap(), 8);
    u64::from_ne_bytes(value)
}

#[test]
fn full_counters_are_signalled_without_a_write() {
    for storage in [StorageKind::Uring, StorageKind::Pread] {
        let fixture = Fixture::on(storage, Options::default());
        for flags in [EventfdFlags::empty(), EventfdFlags::NONBLOCK] {
            eventually("the one before is gone", || fixture.client().is_none());
            let (guest, front_end) = (Guest::new(), fixture.connect());
            front_end.set_up(&guest, FEATURES);
            let mut ring = Ring::new(&guest, 0, 64, 0x10000);
            (ring.call, ring.error) = (full(flags), full(flags));
            ring.start(&front_end, 0);
            for _ in 0..100 {
                ring.put(GET_ID, 0, DATA, 20, false).unwrap();
                ring.kick();
                eventually("it comes back", || ring.next_used().is_some());
            }
            // An index that jumps.
            guest.memory.store(ring.available + 1000, GuestAddress(ring.avail() + 2), Ordering::SeqCst).unwrap();
            ring.kick();
            eventually("the ring is given up", || fixture.client().unwrap().faults > 0);
            let _base = ring.stop(&front_end);
            assert_eq!((take(&ring.call), take(&ring.error)), (u64::MAX, u64::MAX), "{storage:?} {flags:?}");
            // Once there is room again, calls count.
            let mut anew = Ring::new(&guest, 0, 64, 0x40000);
            anew.call = ring.call;
            anew.start(&front_end, 0);
            assert_eq!(anew.run(GET_ID, 0, DATA, 20), 0);
        }
    }
}
