//! Memory that is lost while it is used, and signals that only look like that; each in a process of its own, which they could end.

use crate::{attacker::run_alone, fixture::*, front_end::*, ring::*};
use rustix::fs::ftruncate;
use std::os::fd::AsFd;

/// Tells the process of [`in_a_process_of_its_own`] what to do.
const WHAT: &str = "CAIRN_VHOST_USER_LOSES_MEMORY";
const DATA: u64 = 4 << 20;

/// A front-end whose guest has `size` bytes, in one file.
fn set_up(fixture: &Fixture, size: u64) -> (Guest, FrontEnd, Ring) {
    let (guest, front_end) = (Guest::new(), fixture.connect());
    front_end.agree(FEATURES);
    ftruncate(&guest.file, size).unwrap();
    front_end.must(SET_MEM_TABLE, &words(&[1, 0, size, USER, 0]), &[guest.file.as_fd()]);
    let ring = Ring::new(&guest, 0, 64, 0x10000);
    ring.start(&front_end, 0);
    (guest, front_end, ring)
}

/// Sends this process a signal, as any process of this user can.
#[allow(unsafe_code)]
fn signal_myself() {
    // SAFETY: plain system call.
    assert_eq!(unsafe { libc::kill(libc::getpid(), libc::SIGBUS) }, 0);
}

fn a_write_from_lost_memory(signals: usize) {
    let fixture = Fixture::new();
    let (guest, _front_end, mut ring) = set_up(&fixture, 8 << 30);
    (0..signals).for_each(|_| signal_myself());
    ftruncate(&guest.file, DATA).unwrap();
    ring.put(OUT, 0, DATA, 4096, false).unwrap();
    ring.kick();
    let fault = || fixture.client().and_then(|client| client.last_fault).unwrap_or_default();
    eventually("the fault is told", || fault().contains("lost its bytes"));
}

/// KiB of this process that no file has.
fn anonymous() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse().unwrap()
}

fn reads_into_lost_memory() {
    let fixture = Fixture::new();
    let (guest, _front_end, mut ring) = set_up(&fixture, 1 << 30);
    fixture.write(0, &vec![7; SIZE as usize]);
    for i in 0..15 {
        ring.put(IN, 0, (i + 1) << 26, SIZE as u32, false).unwrap();
    }
    ftruncate(&guest.file, DATA).unwrap();
    let before = anonymous();
    ring.kick();
    let mut most = 0;
    eventually("they are given back", || {
        most = most.max(anonymous().saturating_sub(before));
        fixture.client().is_some_and(|client| client.last_fault.is_some() && client.in_flight == 0)
    });
    // What requests may have in buffers, and a little.
    assert!(most < 100 << 10, "{most} KiB of the server's own memory");
}

/// Not a test but the other process of those below.
#[test]
fn in_a_process_of_its_own() {
    match std::env::var(WHAT).as_deref() {
        Ok("a file that shrinks") => a_write_from_lost_memory(0),
        Ok("stray signals, and a file that shrinks") => a_write_from_lost_memory(3),
        Ok("reads") => reads_into_lost_memory(),
        _ => {}
    }
}

#[track_caller]
fn survives(what: &str) {
    let status = run_alone("lost::in_a_process_of_its_own", WHAT, what);
    assert!(status.success(), "{what}: {status}");
}

#[test]
fn a_file_that_shrinks_ends_nothing() {
    survives("a file that shrinks");
}

#[test]
fn signals_that_somebody_sent_change_nothing() {
    survives("stray signals, and a file that shrinks");
}

#[test]
fn reads_into_lost_memory_fill_no_other() {
    survives("reads");
}
