//! One front-end has its turns, however much its rings ask for: others are served in between, and what it holds is bounded.

use crate::{fixture::*, front_end::*, reactor::between_tasks, ring::*};
use cairn_vhost_user::Options;
use pollster::block_on;
use std::{
    fs::File,
    os::{fd::AsFd, unix::fs::FileExt},
    sync::mpsc,
    thread,
};
use vm_memory::{Bytes, GuestAddress};

const DATA: u64 = 4 << 20;
const TABLE: u64 = 30 << 20;
const RINGS: u32 = 16;
const SIZE: u16 = 256;

fn rings(guest: &Guest) -> Vec<Ring> {
    (0..RINGS).map(|i| Ring::new(guest, i, SIZE, 0x10000 + 0x20000 * u64::from(i))).collect()
}

/// A chain of 1,024 descriptors, the same for every head: a request of `kind` with `length` bytes in each but the first and the last.
fn long_chains(guest: &Guest, rings: &[Ring], kind: u32, length: impl Fn(u16) -> u32) {
    guest.memory.write_slice(&[&kind.to_le_bytes()[..], &[0; 12]].concat(), GuestAddress(DATA)).unwrap();
    for i in 0..1024u16 {
        let entry = match i {
            0 => (DATA, 16, NEXT, 1),
            1023 => (DATA + 4096, 1, WRITE, 0),
            i => (DATA, length(i), NEXT, i + 1),
        };
        rings[0].put_descriptor(TABLE, i, entry);
    }
    for (ring, head) in rings.iter().flat_map(|ring| (0..SIZE).map(move |head| (ring, head))) {
        ring.put_descriptor(ring.descriptors(), head, (TABLE, 1024 * 16, INDIRECT, 0));
    }
}

fn offer_all(rings: &mut [Ring]) {
    for ring in &mut *rings {
        (0..SIZE).for_each(|head| ring.offer(head));
    }
    rings.iter().for_each(Ring::kick);
}

/// The most requests that were begun, and the most in flight, whenever another task had its turn; until all rings' have come back.
fn most_in_a_turn(fixture: &Fixture, rings: &mut [Ring], begin: impl FnOnce(&mut [Ring])) -> (u64, u64) {
    let (pool, server, (tell, told)) = (fixture.pool.clone(), fixture.server.clone(), mpsc::channel());
    let all = rings.len() as u64 * u64::from(SIZE);
    let watching = thread::spawn(move || {
        block_on(pool.run(move |_| async move {
            tell.send(()).unwrap();
            let (mut seen, mut begun, mut in_flight) = (0, 0, 0);
            between_tasks(|| {
                let client = server.exports().remove(0).client.unwrap();
                begun = begun.max(client.requests - seen);
                in_flight = in_flight.max(client.in_flight);
                seen = client.requests;
                seen == all
            })
            .await;
            (begun, in_flight)
        }))
    });
    told.recv().unwrap();
    begin(rings);
    for ring in rings {
        eventually("all come back", || ring.used_index() == SIZE);
    }
    watching.join().unwrap().unwrap()
}

#[test]
fn long_chains_in_all_rings_are_read_a_few_at_a_time() {
    let fixture = Fixture::new();
    let (guest, front_end) = (Guest::new(), fixture.connect());
    front_end.set_up(&guest, FEATURES);
    let mut rings = rings(&guest);
    long_chains(&guest, &rings, 99, |_| 1);
    rings.iter().for_each(|ring| ring.start(&front_end, 0));
    let (most, _) = most_in_a_turn(&fixture, &mut rings, offer_all);
    assert!(most <= 8, "{most} chains of 1,024 descriptors were read before others had their turn");
}

#[test]
fn so_are_those_that_a_killed_server_left() {
    let fixture = Fixture::new();
    let (guest, front_end) = (Guest::new(), fixture.connect());
    front_end.agree(FEATURES);
    let shape = [&words(&[0, 0])[..], &(RINGS as u16).to_ne_bytes(), &SIZE.to_ne_bytes(), &[0; 4]].concat();
    front_end.send(GET_INFLIGHT_FD, 0, &shape, &[]);
    let (books, file) = front_end.reply(GET_INFLIGHT_FD);
    let file = File::from(file.unwrap());
    let mut rings = rings(&guest);
    long_chains(&guest, &rings, 99, |_| 1);
    for ring in &rings {
        // Version 1, and every entry in flight.
        let start = u64::from(ring.index) * (16 + 16 * u64::from(SIZE)).next_multiple_of(64);
        let head = [&[0; 8][..], &1u16.to_ne_bytes(), &SIZE.to_ne_bytes(), &[0; 4]].concat();
        file.write_all_at(&head, start).unwrap();
        (0..u64::from(SIZE)).for_each(|head| file.write_all_at(&[1], start + 16 + 16 * head).unwrap());
    }
    front_end.must(SET_INFLIGHT_FD, &books, &[file.as_fd()]);
    rings.iter().for_each(|ring| ring.start(&front_end, 0));
    // All start at once.
    let table = words(&[1, 0, MEMORY, USER, 0]);
    let start = |_: &mut [Ring]| front_end.must(SET_MEM_TABLE, &table, &[guest.file.as_fd()]);
    let (most, _) = most_in_a_turn(&fixture, &mut rings, start);
    assert!(most <= 8, "{most} chains of 1,024 descriptors were read before others had their turn");
    assert_eq!(fixture.client().unwrap().resubmitted, u64::from(RINGS) * u64::from(SIZE));
}

/// A write of 512 bytes may hold many times that.
#[test]
fn what_is_read_of_chains_counts_as_memory() {
    let fixture = Fixture::with(Options { in_flight_bytes: 4 << 20, ..Options::default() });
    let (guest, front_end) = (Guest::new(), fixture.connect());
    // Without flushes, every write waits for a commit.
    front_end.set_up(&guest, FEATURES & !F_FLUSH);
    let mut rings = rings(&guest);
    // Thrice as many as there is memory for: each takes a commit.
    rings.truncate(4);
    long_chains(&guest, &rings, OUT, |i| u32::from(i <= 512));
    rings.iter().for_each(|ring| ring.start(&front_end, 0));
    let (_, most) = most_in_a_turn(&fixture, &mut rings, offer_all);
    // A block of the engine, and 514 segments of 16 bytes.
    let bound = (4 << 20) / (4096 + 514 * 16);
    assert!((1..=bound).contains(&most), "{most} in flight, of which {bound} fill 4 MiB");
}
