//! What one front-end can have the server hold, and for how long.

use crate::{fixture::*, front_end::*, ring::*};
use cairn_vhost_user::Options;
use pollster::block_on;
use rustix::{
    event::{EventfdFlags, eventfd},
    fs::ftruncate,
    io::write,
};
use std::{os::fd::AsFd, process::Command, time::Instant};

const DATA: u64 = 4 << 20;
/// Set for the process that [`alone`] starts.
const ALONE: &str = "CAIRN_VHOST_USER_TEST_ALONE";

/// Whether this is a process of the test's own, whose memory is nobody else's. If not, it is run in one.
#[track_caller]
fn alone(test: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let program = std::env::current_exe().unwrap();
    let status = Command::new(program).args(["--exact", test, "--nocapture"]).env(ALONE, "1").status().unwrap();
    assert!(status.success(), "{test}: {status}");
    false
}

/// Memory of this process that is no file's, in KiB.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn reads_into_lost_memory_fill_no_other() {
    if !alone("bounds::reads_into_lost_memory_fill_no_other") {
        return;
    }
    let fixture = Fixture::new();
    let front_end = fixture.connect();
    front_end.agree(FEATURES);
    let (guest, size) = (Guest::new(), 1 << 30);
    ftruncate(&guest.file, size).unwrap();
    front_end.must(SET_MEM_TABLE, &words(&[1, 0, size, USER, 0]), &[guest.file.as_fd()]);
    let mut ring = Ring::new(&guest, 0, 64, 0x10000);
    ring.start(&front_end, 0);
    fixture.write(0, &vec![7; 64 << 20]);
    for i in 0..15 {
        ring.put(IN, 0, (i + 1) << 26, 64 << 20, false).unwrap();
    }
    // All but the first pages.
    ftruncate(&guest.file, DATA).unwrap();
    let before = memory();
    ring.kick();
    let mut most = 0;
    eventually("they are given back", || {
        most = most.max(memory().saturating_sub(before));
        fixture.client().is_some_and(|client| client.last_fault.is_some() && client.in_flight == 0)
    });
    assert!(most < 200 << 10, "{most} KiB of the server's own memory");
}

/// Each holds up the end of its ring for a second, all of them at once.
#[test]
fn full_counters_in_all_rings_hold_up_the_end_once() {
    let fixture = Fixture::with(Options { queues: 64, ..Options::default() });
    let (guest, front_end) = (Guest::new(), fixture.connect());
    front_end.set_up(&guest, FEATURES);
    let mut rings: Vec<Ring> = (0..64).map(|i| Ring::new(&guest, i, 64, 0x10000 + 0x20000 * u64::from(i))).collect();
    for ring in &mut rings {
        ring.call = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        assert_eq!(write(&ring.call, &(u64::MAX - 1).to_ne_bytes()).unwrap(), 8);
        ring.start(&front_end, 0);
    }
    let start = Instant::now();
    block_on(fixture.server.stop()).unwrap();
    assert!(start.elapsed() < PATIENCE, "one front-end held up the end for {:?}", start.elapsed());
}
