//! The guest's memory: whoever holds its file's locks, and however often it is given anew.

use crate::{attacker::*, fixture::*, front_end::*, ring::*};
use cairn_engine::VolumeOptions;
use pollster::block_on;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FallocateFlags, MemfdFlags, fallocate, fstat, ftruncate, memfd_create},
};
use std::{
    os::fd::{AsFd, AsRawFd, OwnedFd},
    thread,
};

const TIB: u64 = 1 << 40;

fn memory_file(size: u64) -> OwnedFd {
    let file = memfd_create("guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&file, size).unwrap();
    file
}

/// A write that does not end holds the file's lock for as long.
#[test]
#[allow(unsafe_code)]
fn files_that_are_being_written_to_keep_nobody_waiting() {
    let Some((page, faults)) = page_that_never_comes() else {
        return println!("skipped: this user may not handle page faults (vm.unprivileged_userfaultfd)");
    };
    let fixture = Fixture::new();
    let front_end = fixture.connect();
    front_end.agree(FEATURES);
    let file = memory_file(MEMORY);
    let writing = {
        let file = file.try_clone().unwrap();
        // SAFETY: the page stays mapped.
        thread::spawn(move || unsafe { libc::pwrite(file.as_raw_fd(), page as *const _, 4096, 0) })
    };
    let limit = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    let mut waiting = [PollFd::new(&faults, PollFlags::IN)];
    assert_eq!(poll(&mut waiting, Some(&limit)).unwrap(), 1);
    assert_eq!(waiting[0].revents(), PollFlags::IN, "the write waits");
    front_end.send(SET_MEM_TABLE, NEED_REPLY, &words(&[1, 0, MEMORY, USER, 0]), &[file.as_fd()]);
    let answers = answers(&fixture.pool);
    let waits = !writing.is_finished();
    if answers && waits {
        assert_eq!(front_end.reply(SET_MEM_TABLE).0, [0; 8]);
    }
    drop(faults);
    writing.join().unwrap();
    assert!(answers && waits, "the reactor waits for the front-end's write");
}

/// Any user can have that, too: allocating much holds the same lock.
#[test]
fn files_that_are_being_allocated_keep_nobody_waiting() {
    const SIZE: u64 = 256 << 20;
    let fixture = Fixture::new();
    let front_end = fixture.connect();
    front_end.agree(FEATURES);
    // Allocating may be over before the message is there; then once more.
    let during = (0..50).any(|_| {
        let file = memory_file(SIZE);
        let allocating = {
            let file = file.try_clone().unwrap();
            thread::spawn(move || fallocate(&file, FallocateFlags::empty(), 0, SIZE).unwrap())
        };
        let allocated = || fstat(&file).unwrap().st_blocks as u64 * 512;
        eventually("it has begun", || allocated() > 0);
        front_end.must(SET_MEM_TABLE, &words(&[1, 0, MEMORY, USER, 0]), &[file.as_fd()]);
        let during = allocated() < SIZE;
        allocating.join().unwrap();
        during
    });
    assert!(during, "the reactor waits until the front-end has allocated its memory");
}

/// How many mappings this process has of files of this name, and their bytes; without the page of each that is only kept.
fn mapped(name: &str) -> (usize, u64) {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let size = |line: &str| {
        let (start, end) = line.split_whitespace().next()?.split_once('-')?;
        Some(u64::from_str_radix(end, 16).ok()? - u64::from_str_radix(start, 16).ok()?)
    };
    let sizes = maps.lines().filter(|line| line.contains(name) && !line.contains("---s")).filter_map(size);
    sizes.fold((0, 0), |(n, sum), size| (n + 1, sum + size))
}

/// Has a ring served in the memory that the front-end has at `user`.
fn start(front_end: &FrontEnd, guest: &Guest, index: u32, user: u64) {
    let ring = Ring::new(guest, index, 64, 0x10000 + 0x20000 * u64::from(index));
    let at = |part: u64| user + part;
    let addresses = words(&[at(ring.descriptors()), at(ring.used()), at(ring.avail()), 0]);
    front_end.must(SET_VRING_NUM, &pair(index, 64), &[]);
    front_end.must(SET_VRING_ADDR, &[pair(index, 0), addresses].concat(), &[]);
    front_end.must(SET_VRING_KICK, &words(&[u64::from(index)]), &[ring.kick.as_fd()]);
    front_end.must(SET_VRING_ENABLE, &pair(index, 1), &[]);
}

/// A volume of its own, and its front-end.
fn another(fixture: &Fixture, name: &str) -> FrontEnd {
    drop(block_on(fixture.pool.create_volume(name, 1 << 20, VolumeOptions::default())).unwrap());
    FrontEnd::connect(&block_on(fixture.server.export(name)).unwrap())
}

/// Sets each ring up in a table of its own, which it keeps, with a giant file that nobody uses. How many could be.
fn hoard_bytes(front_end: &FrontEnd, guest: &Guest) -> u32 {
    front_end.agree(FEATURES);
    let giant = memfd_create("giant", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&giant, 4 * TIB).unwrap();
    let table = |index| words(&[2, 0, MEMORY, user(index), 0, TIB, 4 * TIB - MEMORY, 0x1000_0000_0000, 0]);
    let mut done = 0;
    while done < 16 && front_end.tell(SET_MEM_TABLE, &table(done), &[guest.file.as_fd(), giant.as_fd()]) {
        start(front_end, guest, done, user(done));
        done += 1;
    }
    done
}

/// Another place for each table, so that no ring is in another one's.
fn user(index: u32) -> u64 {
    USER + (u64::from(index) << 32)
}

#[test]
fn the_bytes_that_rings_keep_are_bounded() {
    let fixture = Fixture::new();
    let (guest, first) = (Guest::new(), fixture.connect());
    let others = ["a", "b"].map(|name| another(&fixture, name));
    for hostile in [&first, &others[0], &others[1]] {
        // Its table, and the one before.
        assert_eq!(hoard_bytes(hostile, &guest), 2);
    }
    assert!(mapped("memfd:giant").1 <= 3 * 8 * TIB);
    let honest = another(&fixture, "honest");
    honest.agree(FEATURES);
    let file = memory_file(32 << 30);
    honest.must(SET_MEM_TABLE, &words(&[1, 0, 32 << 30, USER, 0]), &[file.as_fd()]);
    drop((first, others));
    eventually("it is unmapped", || mapped("memfd:giant").0 == 0);
}

/// Who comes again and again is no other front-end: what it has left behind is unmapped first.
#[test]
fn the_bytes_of_connections_before_are_counted() {
    let fixture = Fixture::new();
    let giant = memfd_create("again", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&giant, 4 * TIB).unwrap();
    for _ in 0..20 {
        let hostile = fixture.connect();
        hostile.agree(FEATURES);
        hostile.must(SET_MEM_TABLE, &words(&[1, 0, 4 * TIB, USER, 0]), &[giant.as_fd()]);
        let bytes = mapped("memfd:again").1;
        assert!(bytes <= 8 * TIB, "{} TiB, of 128 that the process has for everything", bytes / TIB);
        drop(hostile);
        eventually("it is forgotten", || fixture.client().is_none());
    }
    eventually("it is unmapped", || mapped("memfd:again").0 == 0);
}

/// Gives tables of 64 regions, each kept by a ring. How many regions could be.
fn hoard_regions(front_end: &FrontEnd, guest: &Guest, small: &OwnedFd) -> u64 {
    front_end.agree(FEATURES);
    let mut done = 0;
    for index in 0..16 {
        if !front_end.tell(SET_MEM_TABLE, &words(&[1, 0, MEMORY, user(index), 0]), &[guest.file.as_fd()]) {
            break;
        }
        done += 1;
        let region = |i: u64| words(&[0, TIB + (i << 20), 4096, user(index) + (1 << 30) + (i << 20), 0]);
        (1..64).for_each(|i| front_end.send(ADD_MEM_REG, NEED_REPLY, &region(i), &[small.as_fd()]));
        done += (1..64).filter(|_| front_end.reply(ADD_MEM_REG).0 == [0; 8]).count() as u64;
        start(front_end, guest, index, user(index));
    }
    done
}

#[test]
fn the_regions_that_rings_keep_are_bounded() {
    let fixture = Fixture::new();
    let (guest, first) = (Guest::new(), fixture.connect());
    let others = ["a", "b", "c"].map(|name| another(&fixture, name));
    let small = memfd_create("small", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&small, 4096).unwrap();
    for hostile in [&first, &others[0], &others[1], &others[2]] {
        assert_eq!(hoard_regions(hostile, &guest, &small), 128);
    }
    assert!(mapped("memfd:small").0 <= 4 * 128);
    let open = || {
        let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let names = links.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        names.filter(|name| name.to_string_lossy().contains("memfd:small")).count()
    };
    eventually("files that are mapped are closed", || open() < 10);
    let honest = another(&fixture, "honest");
    honest.set_up(&guest, FEATURES);
    drop((first, others));
    eventually("it is unmapped", || mapped("memfd:small").0 == 0);
}

/// Tells the process of [`in_a_process_of_its_own`] what to do.
const WHAT: &str = "CAIRN_VHOST_USER_MAPS";

/// Not a test but the other process of the next one, which has as much mapped as a process may.
#[test]
fn in_a_process_of_its_own() {
    match std::env::var(WHAT).as_deref() {
        Ok("regions") => many_who_hoard_regions(),
        Ok("bytes") => many_who_hoard_bytes(),
        _ => {}
    }
}

fn many_who_hoard_bytes() {
    let (fixture, guest) = (Fixture::new(), Guest::new());
    let many: Vec<_> = (0..20).map(|i| another(&fixture, &format!("v{i}"))).collect();
    let hoarded: u32 = many.iter().map(|hostile| hoard_bytes(hostile, &guest)).sum();
    assert_eq!(hoarded, 16, "tables of 4 TiB; the process has 128 TiB for everything");
    let honest = another(&fixture, "honest");
    honest.agree(FEATURES);
    let file = memory_file(32 << 30);
    for _ in 0..4 {
        // The one before is unmapped first.
        honest.must(SET_MEM_TABLE, &words(&[1, 0, 32 << 30, USER, 0]), &[file.as_fd()]);
    }
    drop(many);
    eventually("it is unmapped", || mapped("memfd:giant").0 == 0);
}

fn many_who_hoard_regions() {
    let (fixture, guest) = (Fixture::new(), Guest::new());
    let small = memory_file(4096);
    let many: Vec<_> = (0..66).map(|i| another(&fixture, &format!("v{i}"))).collect();
    let hoarded: Vec<_> = many.iter().map(|hostile| hoard_regions(hostile, &guest, &small)).collect();
    // Half of what there is for all; then as much for each as anybody needs.
    assert_eq!(hoarded[..63], [128; 63]);
    assert_eq!(hoarded[65], 16);
    let honest = another(&fixture, "honest");
    assert_eq!(hoard_regions(&honest, &guest, &small), 16);
}

#[test]
fn who_maps_much_leaves_others_what_they_need() {
    for what in ["regions", "bytes"] {
        assert!(run_alone("memory::in_a_process_of_its_own", WHAT, what).success(), "{what}");
    }
}
