//! Memory that is lost while it is used, and signals that only look like that; each in a process of its own, which they could end.

use crate::{attacker::run_alone, fixture::*, front_end::*, ring::*};
use pollster::block_on;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::{
    fs::File,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt,
    },
};
use vm_memory::{Bytes, GuestAddress};

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

fn file(name: &str, size: u64) -> OwnedFd {
    let file = memfd_create(name, MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&file, size).unwrap();
    file
}

/// A region at the same place in the guest and, above [`USER`], in the front-end.
fn region(at: u64, size: u64, offset: u64) -> [u64; 4] {
    [at, size, USER + at, offset]
}

/// Waits until the ring was given up because of the memory.
fn is_given_up(fixture: &Fixture) {
    let fault = || fixture.client().and_then(|client| client.last_fault).unwrap_or_default();
    eventually("the fault is told", || fault().contains("lost its bytes"));
}

/// Books in which these heads of ring 0 are in flight.
fn books(front_end: &FrontEnd, size: u16, heads: impl Iterator<Item = u64>) {
    let shape = [&words(&[0, 0])[..], &1u16.to_ne_bytes(), &size.to_ne_bytes(), &[0; 4]].concat();
    front_end.send(GET_INFLIGHT_FD, 0, &shape, &[]);
    let (books, file) = front_end.reply(GET_INFLIGHT_FD);
    let file = File::from(file.unwrap());
    let head = [&[0; 8][..], &1u16.to_ne_bytes(), &size.to_ne_bytes(), &[0; 4]].concat();
    file.write_all_at(&head, 0).unwrap();
    heads.for_each(|head| file.write_all_at(&[1], 16 + 16 * head).unwrap());
    front_end.must(SET_INFLIGHT_FD, &books, &[file.as_fd()]);
}

/// The first half of a range, where its sector is, lies in memory that is lost; the length in memory that is not.
fn ranges_half_of_which_are_lost(kind: u32, taken_up: bool) {
    let fixture = Fixture::new();
    fixture.write(0, &[7; 65536]);
    let (guest, front_end) = (Guest::new(), fixture.connect());
    front_end.agree(FEATURES);
    let bound = (8 << 20) + 4096;
    let (lost, kept) = (file("lost", 4096), file("kept", 4096));
    rustix::io::pwrite(&kept, &[&8u32.to_le_bytes()[..], &[0; 4]].concat(), 0).unwrap();
    let table = [region(0, 8 << 20, 0), region(bound - 4096, 4096, 0), region(bound, 4096, 0)].concat();
    let files = [guest.file.as_fd(), lost.as_fd(), kept.as_fd()];
    front_end.must(SET_MEM_TABLE, &words(&[&[3], &table[..]].concat()), &files);
    ftruncate(&lost, 0).unwrap();
    let mut ring = Ring::new(&guest, 0, 64, 0x10000);
    let head = ring.put(kind, 0, bound - 8, 16, false).unwrap();
    if taken_up {
        books(&front_end, 64, [u64::from(head)].into_iter());
    }
    ring.start(&front_end, 0);
    is_given_up(&fixture);
    let _base = ring.stop(&front_end);
    let intact = fixture.read(0, 65536).iter().all(|&byte| byte == 7);
    assert!(intact, "sector 0 is what was read of lost memory");
    assert_eq!(ring.used_index(), 0, "it is in flight for whoever has the memory");
}

/// Mappings of this process.
fn maps() -> usize {
    std::fs::read_to_string("/proc/self/maps").unwrap().lines().count()
}

/// Each of 1,024 requests has two pages of its own in one of 56 regions, all of which are lost.
fn requests_that_were_left_in_lost_memory() {
    const GIB: u64 = 1 << 30;
    let fixture = Fixture::new();
    let (guest, front_end) = (Guest::new(), fixture.connect());
    front_end.agree(FEATURES);
    front_end.must(SET_MEM_TABLE, &words(&[&[1][..], &region(0, 8 << 20, 0)].concat()), &[guest.file.as_fd()]);
    let lost = file("lost", 57 * GIB);
    for i in 1..57 {
        front_end.must(ADD_MEM_REG, &words(&[&[0][..], &region(i * GIB, GIB, i * GIB)].concat()), &[lost.as_fd()]);
    }
    ftruncate(&lost, 0).unwrap();
    let ring = Ring::new(&guest, 0, 1024, 0x10000);
    guest.memory.write_slice(&[&GET_ID.to_le_bytes()[..], &[0; 12]].concat(), GuestAddress(DATA)).unwrap();
    for head in 0..1024u16 {
        let at = GIB * u64::from(1 + head % 56) + (u64::from(head) * 7919 * 4096) % (GIB - 8192);
        let table = (2 << 20) + 64 * u64::from(head);
        ring.put_descriptor(table, 0, (DATA, 16, NEXT, 1));
        ring.put_descriptor(table, 1, (at, 20, NEXT | WRITE, 2));
        ring.put_descriptor(table, 2, (at + 4096, 1, WRITE, 0));
        ring.put_descriptor(ring.descriptors(), head, (table, 48, INDIRECT, 0));
    }
    books(&front_end, 1024, 0..1024);
    let before = (anonymous(), maps());
    ring.start(&front_end, 0);
    is_given_up(&fixture);
    let _base = ring.stop(&front_end);
    let (pages, pieces) = (anonymous().saturating_sub(before.0), maps().saturating_sub(before.1));
    assert!(pages < 4 << 10, "{pages} KiB of the server's own memory");
    assert!(pieces < 12, "{pieces} mappings more than before");
    assert_eq!(ring.used_index(), 0);
    // Nor does any other ring start there.
    assert!(!front_end.tell(SET_VRING_KICK, &words(&[0]), &[ring.kick.as_fd()]));
    let other = Ring::new(&guest, 1, 64, 0x60000);
    front_end.must(SET_VRING_NUM, &pair(1, 64), &[]);
    front_end.must(SET_VRING_ADDR, &other.addresses(), &[]);
    front_end.must(SET_VRING_KICK, &words(&[1]), &[other.kick.as_fd()]);
    assert!(!front_end.tell(SET_VRING_ENABLE, &pair(1, 1), &[]));
    assert_eq!(fixture.client().unwrap().queues, 0);
}

/// A page of a file that nobody else has any more is lost: what there is of the file besides is not let go by whoever uses the page.
fn the_last_of_a_file() {
    let fixture = Fixture::new();
    let (guest, front_end) = (Guest::new(), fixture.connect());
    front_end.agree(FEATURES);
    front_end.must(SET_MEM_TABLE, &words(&[&[1][..], &region(0, 8 << 20, 0)].concat()), &[guest.file.as_fd()]);
    let last = file("the-last", (1 << 20) + 4096);
    front_end.must(ADD_MEM_REG, &words(&[&[0][..], &region(8 << 20, 4096, 1 << 20)].concat()), &[last.as_fd()]);
    ftruncate(&last, 1 << 20).unwrap();
    drop(last);
    let names = |place: &str| -> Vec<String> {
        let entries = std::fs::read_dir(place).unwrap().flatten();
        entries
            .filter_map(|entry| Some(std::fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned()))
            .collect()
    };
    eventually("it is closed", || !names("/proc/self/fd").iter().any(|name| name.contains("the-last")));
    let mapped = || std::fs::read_to_string("/proc/self/maps").unwrap().contains("memfd:the-last");
    assert!(mapped());
    let mut ring = Ring::new(&guest, 0, 64, 0x10000);
    ring.start(&front_end, 0);
    ring.put(OUT, 0, 8 << 20, 4096, false).unwrap();
    ring.kick();
    is_given_up(&fixture);
    assert!(mapped(), "the thread that serves everybody has let go of the file");
    drop(front_end);
    eventually("another thread lets go of it", || !mapped());
}

/// A request waits for a limit while the books are lost in which it would be in flight.
fn books_that_are_lost_before_a_request_is_taken() {
    let fixture = Fixture::new();
    let db = "db".parse().unwrap();
    let limit = |value: Option<&str>| {
        let change = [("total_bytes_sec".to_owned(), value.map(str::to_owned))];
        block_on(fixture.pool.set_qos(&db, &change)).unwrap();
    };
    let (guest, front_end) = (Guest::new(), fixture.connect());
    front_end.set_up(&guest, FEATURES);
    let books = file("books", 4096);
    let shape = [&words(&[4096, 0])[..], &1u16.to_ne_bytes(), &64u16.to_ne_bytes(), &[0; 4]].concat();
    front_end.must(SET_INFLIGHT_FD, &shape, &[books.as_fd()]);
    limit(Some("1"));
    let mut ring = Ring::new(&guest, 0, 64, 0x10000);
    ring.start(&front_end, 0);
    assert_eq!(ring.run(OUT, 0, DATA, 65536), 0);
    guest.memory.write_slice(&[7; 4096], GuestAddress(DATA)).unwrap();
    ring.put(OUT, 0, DATA, 4096, false).unwrap();
    ring.kick();
    eventually("it waits", || block_on(fixture.pool.qos(&db)).unwrap().waiting == 1);
    ftruncate(&books, 0).unwrap();
    limit(None);
    is_given_up(&fixture);
    let _base = ring.stop(&front_end);
    assert_eq!(ring.used_index(), 1);
    assert!(fixture.read(0, 4096).iter().all(|&byte| byte == 0), "it was carried out, and nobody can know");
}

/// Not a test but the other process of those below.
#[test]
fn in_a_process_of_its_own() {
    match std::env::var(WHAT).as_deref() {
        Ok("a file that shrinks") => a_write_from_lost_memory(0),
        Ok("stray signals, and a file that shrinks") => a_write_from_lost_memory(3),
        Ok("reads") => reads_into_lost_memory(),
        Ok("discards") => ranges_half_of_which_are_lost(DISCARD, false),
        Ok("zeros") => ranges_half_of_which_are_lost(WRITE_ZEROES, false),
        Ok("discards that are taken up") => ranges_half_of_which_are_lost(DISCARD, true),
        Ok("requests that were left") => requests_that_were_left_in_lost_memory(),
        Ok("the last of a file") => the_last_of_a_file(),
        Ok("books") => books_that_are_lost_before_a_request_is_taken(),
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

#[test]
fn ranges_that_are_lost_are_not_those_of_sector_0() {
    survives("discards");
    survives("zeros");
    survives("discards that are taken up");
}

#[test]
fn requests_that_were_left_cost_nothing_in_lost_memory() {
    survives("requests that were left");
}

#[test]
fn files_are_not_freed_where_a_page_is_lost() {
    survives("the last of a file");
}

#[test]
fn nothing_is_taken_that_the_books_cannot_tell() {
    survives("books");
}
