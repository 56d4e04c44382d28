//! Counters of calls that their driver keeps full: by that, it could have whoever writes to one wait, at any moment. So the server does not
//! write: the kernel signals, as it does for interrupts, and fills a counter to its very end, which no write can.

use crate::{attacker::run_alone, fixture::*, front_end::*, ring::*};
use cairn_engine::{OpenOptions, Pool, PoolOptions, StorageKind};
use cairn_vhost_user::{Options, Server};
use pollster::block_on;
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

/// Has a system call fail from here on, in this thread and those that it starts, as where the system has no more of what it gives.
#[allow(unsafe_code)]
fn exhaust(call: libc::c_long) {
    let statement = |code: u32, jt, k: u32| libc::sock_filter { code: code as u16, jt, jf: 0, k };
    let mut filter = [
        // Its number; the same: passed by.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, call as u32),
        statement(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
        statement(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ERRNO | libc::EAGAIN as u32),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: a program of four statements, which the kernel copies.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program), 0);
    }
}

/// Tells the process of [`in_a_process_of_its_own`] what to do.
const WHAT: &str = "CAIRN_VHOST_USER_CANNOT_CALL";

/// Not a test but the other process of the next one, which has no asynchronous I/O.
#[test]
fn in_a_process_of_its_own() {
    if std::env::var(WHAT).is_err() {
        return;
    }
    exhaust(libc::SYS_io_setup);
    for storage in [StorageKind::Uring, StorageKind::Pread] {
        let directory = tempfile::tempdir().unwrap();
        let options = PoolOptions::new().size(64 << 20).open(OpenOptions::new().storage(storage));
        let pool = block_on(Pool::create(directory.path().join("p.cairn"), options)).unwrap();
        let error = block_on(Server::start(&pool, directory.path().join("sockets"), Options::default())).err().unwrap();
        assert!(error.to_string().contains("fs.aio-max-nr"), "{error}");
        block_on(pool.close()).unwrap();
    }
}

#[test]
fn a_server_that_could_not_call_does_not_start() {
    assert!(run_alone("calls::in_a_process_of_its_own", WHAT, "once").success());
}
