//! What requests do.

use crate::{fixture::*, front_end::*, ring::*};
use cairn_engine::{StorageKind, VolumeOptions};
use cairn_vhost_user::Options;
use pollster::block_on;
use std::{
    io::Read,
    os::{fd::AsFd, unix::net::UnixStream},
};
use vm_memory::{Bytes, GuestAddress};

const DATA: u64 = 4 << 20;

fn pattern(seed: u8, length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 512) as u8 ^ seed | 1).collect()
}

fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
}

#[test]
fn every_request_does_what_it_says() {
    requests_do_what_they_say(StorageKind::Uring);
}

#[test]
fn also_without_io_uring() {
    requests_do_what_they_say(StorageKind::Pread);
}

fn requests_do_what_they_say(storage: StorageKind) {
    let fixture = Fixture::on(storage, Options::default());
    let (guest, front_end) = (Guest::new(), fixture.connect());
    front_end.set_up(&guest, FEATURES);
    let mut ring = Ring::new(&guest, 0, 64, 0x10000);
    ring.start(&front_end, 0);
    let put = |bytes: &[u8]| guest.memory.write_slice(bytes, GuestAddress(DATA)).unwrap();
    let get = |length: usize| {
        let mut bytes = vec![0; length];
        guest.memory.read_slice(&mut bytes, GuestAddress(DATA)).unwrap();
        bytes
    };
    // Larger than what is in memory of it at once, and not aligned to blocks.
    let content = pattern(3, 9 << 20);
    put(&content);
    assert_eq!(ring.run(OUT, 1, DATA, 9 << 20), 0);
    assert!(fixture.read(512, 9 << 20) == content);
    put(&vec![0xff; 9 << 20]);
    assert_eq!(ring.run(IN, 1, DATA, 9 << 20), 0);
    assert!(get(9 << 20) == content);
    assert_eq!(ring.run(FLUSH, 0, 0, 0), 0);
    put(&[range(8, 16, 0), range(64, 8, 0)].concat());
    assert_eq!(ring.run(DISCARD, 0, DATA, 32), 0);
    put(&range(101, 1, 1));
    assert_eq!(ring.run(WRITE_ZEROES, 0, DATA, 16), 0);
    let mut expected = content;
    for (sector, sectors) in [(8, 16), (64, 8), (101, 1)] {
        expected[(sector - 1) * 512..(sector - 1 + sectors) * 512].fill(0);
    }
    assert!(fixture.read(512, 9 << 20) == expected);
    assert_eq!(ring.run(GET_ID, 0, DATA, 20), 0);
    assert_eq!(get(4), b"db\0\0");
    assert_eq!(ring.run(77, 0, 0, 0), 2, "not supported");
    assert_eq!(ring.run(IN, SIZE / 512, DATA, 512), 1);
    assert_eq!(ring.run(OUT, 0, DATA, 100), 1, "no whole sector");
    assert_eq!(ring.run(IN, 0, MEMORY - 512, 1024), 1, "outside of memory");
    assert_eq!(ring.stop(&front_end), u32::from(ring.available));
    let client = fixture.client().unwrap();
    assert_eq!((client.requests, client.in_flight, client.failed, client.faults), (10, 0, 4, 0));
    assert_eq!((client.read_bytes, client.written_bytes), (9 << 20, 9 << 20));
}

#[test]
fn all_rings_are_served_with_all_their_requests() {
    let fixture = Fixture::new();
    let (guest, front_end) = (Guest::new(), fixture.connect());
    front_end.set_up(&guest, FEATURES | F_EVENT_INDEX);
    let mut rings: Vec<Ring> = (0..16).map(|i| Ring::new(&guest, i, 256, 0x20000 * u64::from(i))).collect();
    for ring in &rings {
        ring.start(&front_end, 0);
    }
    for (i, ring) in rings.iter_mut().enumerate() {
        let mut count = 0u64;
        while let Some(head) = {
            let (at, data) = (i as u64 * (1 << 20) + count * 4096, DATA + (count + 64 * i as u64) * 4096);
            guest.memory.write_slice(&pattern((i + count as usize) as u8, 4096), GuestAddress(data)).unwrap();
            ring.put(OUT, at / 512, data, 4096, count.is_multiple_of(2))
        } {
            assert!(head < 256);
            count += 1;
        }
        assert_eq!(count, 64);
        ring.kick();
    }
    for (i, ring) in rings.iter_mut().enumerate() {
        for _ in 0..64 {
            assert_eq!(ring.wait().2, 0, "ring {i}");
        }
        assert_eq!(ring.next_used(), None);
        for count in 0..64 {
            let at = i as u64 * (1 << 20) + count * 4096;
            assert!(fixture.read(at, 4096) == pattern((i + count as usize) as u8, 4096), "ring {i}, request {count}");
        }
    }
    assert_eq!(fixture.client().unwrap().queues, 16);
}

#[test]
fn calls_and_kicks_are_left_out_where_the_other_side_says_so() {
    for features in [FEATURES, FEATURES | F_EVENT_INDEX] {
        let fixture = Fixture::new();
        let (guest, front_end) = (Guest::new(), fixture.connect());
        front_end.set_up(&guest, features);
        let mut ring = Ring::new(&guest, 0, 64, 0x10000);
        ring.start(&front_end, 0);
        assert!(ring.called(30_000), "a ring that begins calls: the one before may have been killed before it did");
        assert_eq!(ring.run(FLUSH, 0, 0, 0), 0);
        let quiet = |ring: &Ring, yes: bool| {
            if features & F_EVENT_INDEX == 0 {
                guest.memory.write_obj(u16::from(yes), GuestAddress(ring.avail())).unwrap();
            } else {
                // Call when this one is given back, and for none before.
                let at = if yes { ring.seen.wrapping_add(20) } else { ring.seen };
                guest.memory.write_obj(at, GuestAddress(ring.avail() + 4 + 2 * 64)).unwrap();
            }
        };
        let _earlier = ring.called(0);
        quiet(&ring, true);
        for _ in 0..10 {
            ring.put(FLUSH, 0, 0, 0, false).unwrap();
            ring.kick();
        }
        let mut done = 0;
        eventually("ten come back", || {
            done += usize::from(ring.next_used().is_some());
            done == 10
        });
        assert!(!ring.called(20), "no call was wanted");
        quiet(&ring, false);
        ring.put(FLUSH, 0, 0, 0, false).unwrap();
        ring.kick();
        assert_eq!(ring.wait().2, 0);
    }
}

#[test]
fn a_snapshot_can_be_read_and_nothing_else() {
    let fixture = Fixture::new();
    fixture.write(0, &pattern(1, 8192));
    block_on(fixture.pool.snapshot(&["db@monday".parse().unwrap()])).unwrap();
    fixture.write(0, &pattern(2, 8192));
    let socket = block_on(fixture.server.export("db@monday")).unwrap();
    assert!(socket.ends_with("db@monday.sock"));
    let (guest, front_end) = (Guest::new(), FrontEnd::connect(&socket));
    let offered = front_end.number(GET_FEATURES);
    assert_eq!(offered & (1 << 5 | 1 << 13 | 1 << 14), 1 << 5, "read-only, no discard, no zeros");
    front_end.set_up(&guest, FEATURES | 1 << 5);
    let mut ring = Ring::new(&guest, 0, 64, 0x10000);
    ring.start(&front_end, 0);
    assert_eq!(ring.run(IN, 0, DATA, 8192), 0);
    let mut bytes = vec![0; 8192];
    guest.memory.read_slice(&mut bytes, GuestAddress(DATA)).unwrap();
    assert!(bytes == pattern(1, 8192));
    assert_eq!(ring.run(OUT, 0, DATA, 512), 1);
    guest.memory.write_slice(&range(0, 8, 0), GuestAddress(DATA)).unwrap();
    assert_eq!(ring.run(DISCARD, 0, DATA, 16), 1);
    assert_eq!(ring.run(FLUSH, 0, 0, 0), 0);
    assert!(fixture.read(0, 8192) == pattern(2, 8192));
}

#[test]
fn a_volume_can_be_served_for_reading_alone() {
    let fixture = Fixture::with(Options { read_only: true, ..Options::default() });
    fixture.write(0, &pattern(1, 8192));
    let (guest, front_end) = (Guest::new(), fixture.connect());
    front_end.set_up(&guest, FEATURES | 1 << 5);
    let mut ring = Ring::new(&guest, 0, 64, 0x10000);
    ring.start(&front_end, 0);
    assert_eq!(ring.run(IN, 0, DATA, 8192), 0);
    // A driver that does not care is refused.
    assert_eq!(ring.run(OUT, 0, DATA + 65536, 512), 1);
    guest.memory.write_slice(&range(0, 8, 0), GuestAddress(DATA)).unwrap();
    assert_eq!((ring.run(DISCARD, 0, DATA, 16), ring.run(WRITE_ZEROES, 0, DATA, 16)), (1, 1));
    assert!(fixture.read(0, 8192) == pattern(1, 8192));
}

#[test]
fn memory_in_flight_is_bounded_and_nobody_starves() {
    let fixture = Fixture::with(Options { in_flight_bytes: 4 << 20, ..Options::default() });
    let (guest, front_end) = (Guest::new(), fixture.connect());
    front_end.set_up(&guest, FEATURES);
    let mut rings: Vec<Ring> = (0..2).map(|i| Ring::new(&guest, i, 64, 0x10000 + 0x20000 * u64::from(i))).collect();
    for ring in &mut rings {
        ring.start(&front_end, 0);
        for n in 0..16 {
            ring.put(OUT, n * 6144, DATA, 3 << 20, false).unwrap();
        }
        ring.kick();
    }
    for ring in &mut rings {
        for _ in 0..16 {
            assert_eq!(ring.wait().2, 0);
        }
    }
}

#[test]
fn the_cache_mode_is_the_drivers_choice() {
    let fixture = Fixture::new();
    let (guest, front_end) = (Guest::new(), fixture.connect());
    assert_eq!(front_end.config(32, 1), [1]);
    let set = |value: u8| {
        let body = [&pair(32, 1)[..], &[0; 4], &[value]].concat();
        front_end.tell(SET_CONFIG, &body, &[])
    };
    front_end.set_up(&guest, FEATURES | 1 << 11);
    assert!(set(0));
    assert_eq!(front_end.config(32, 1), [0]);
    assert!(!set(2), "neither");
    front_end.must(RESET_DEVICE, &[], &[]);
    assert_eq!(front_end.config(32, 1), [1]);
}

#[test]
fn a_volume_that_grows_is_told_and_can_be_used_at_once() {
    let fixture = Fixture::new();
    let (guest, front_end) = (Guest::new(), fixture.connect());
    front_end.set_up(&guest, FEATURES);
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(PATIENCE)).unwrap();
    front_end.must(SET_BACKEND_REQ_FD, &[], &[theirs.as_fd()]);
    let mut ring = Ring::new(&guest, 0, 64, 0x10000);
    ring.start(&front_end, 0);
    assert_eq!(ring.run(IN, SIZE / 512, DATA, 512), 1);
    block_on(fixture.pool.resize("db", SIZE * 2)).unwrap();
    let mut message = [0; 12];
    ours.read_exact(&mut message).unwrap();
    assert_eq!(message, [2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(front_end.config(0, 8), (SIZE * 2 / 512).to_le_bytes());
    assert_eq!(ring.run(IN, SIZE / 512, DATA, 512), 0);
}

/// Its machine runs on, and has asked for the size long before.
#[test]
fn a_volume_that_grew_while_nobody_was_connected_is_told() {
    let fixture = Fixture::new();
    let guest = Guest::new();
    let mut ring = Ring::new(&guest, 0, 64, 0x10000);
    let serve = |base| {
        let front_end = fixture.connect();
        front_end.set_up(&guest, FEATURES);
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        front_end.must(SET_BACKEND_REQ_FD, &[], &[theirs.as_fd()]);
        ring.start(&front_end, base);
        (front_end, ours)
    };
    let first = serve(0);
    assert_eq!(first.0.config(0, 8), (SIZE / 512).to_le_bytes());
    drop(first);
    eventually("it is gone", || fixture.client().is_none());
    block_on(fixture.pool.resize("db", SIZE * 2)).unwrap();
    let (front_end, mut channel) = serve(0);
    let mut message = [0; 12];
    channel.read_exact(&mut message).unwrap();
    assert_eq!(message, [2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(front_end.config(0, 8), (SIZE * 2 / 512).to_le_bytes());
    assert_eq!(ring.run(IN, SIZE / 512, DATA, 512), 0);
}

#[test]
fn several_volumes_have_a_socket_each() {
    let fixture = Fixture::new();
    drop(block_on(fixture.pool.create_volume("log", 1 << 20, VolumeOptions::default())).unwrap());
    let socket = block_on(fixture.server.export("log")).unwrap();
    assert_eq!(FrontEnd::connect(&socket).config(0, 8), 2048u64.to_le_bytes());
    assert_eq!(fixture.connect().config(0, 8), (SIZE / 512).to_le_bytes());
    let names: Vec<String> = fixture.server.exports().into_iter().map(|export| export.name).collect();
    assert_eq!(names, ["db", "log"]);
}
