//! Requests that limits hold back: they wait in their ring, and nobody has to wait for them.

use crate::{fixture::*, front_end::*, reactor::while_busy, ring::*};
use cairn_vhost_user::{Options, Server};
use pollster::block_on;
use std::{
    fs::File,
    os::{fd::AsFd, unix::fs::FileExt},
};
use vm_memory::{Bytes, GuestAddress};

const DATA: u64 = 4 << 20;

impl Fixture {
    fn limit(&self, key: &str, value: Option<&str>) {
        let change = [(key.to_owned(), value.map(str::to_owned))];
        block_on(self.pool.set_qos(&"db".parse().unwrap(), &change)).unwrap();
    }

    fn waiting(&self) -> u64 {
        block_on(self.pool.qos(&"db".parse().unwrap())).unwrap().waiting
    }

    /// A ring that has used up a limit of a byte a second, and in which a request waits for years.
    fn held_back(&self, guest: &Guest, front_end: &FrontEnd, kind: u32) -> Ring {
        self.limit("total_bytes_sec", Some("1"));
        let mut ring = Ring::new(guest, 0, 64, 0x10000);
        ring.start(front_end, 0);
        assert_eq!(ring.run(OUT, 0, DATA, 65536), 0);
        ring.put(kind, 0, DATA, 4096, false).unwrap();
        ring.put(FLUSH, 0, 0, 0, false).unwrap();
        ring.kick();
        eventually("it waits", || self.waiting() == 1);
        // Kicks change nothing.
        ring.kick();
        assert_eq!(ring.next_used(), None);
        ring
    }
}

#[test]
fn a_lifted_limit_lets_go_what_waits() {
    let fixture = Fixture::new();
    let guest = Guest::new();
    for (i, kind) in [IN, OUT].into_iter().enumerate() {
        let front_end = fixture.connect();
        front_end.set_up(&guest, FEATURES);
        let mut ring = fixture.held_back(&guest, &front_end, kind);
        // What is free goes on in other rings; what is behind it in this one waits.
        let mut other = Ring::new(&guest, 1, 64, 0x40000);
        other.start(&front_end, 0);
        assert_eq!(other.run(FLUSH, 0, 0, 0), 0);
        assert_eq!(other.run(GET_ID, 0, DATA + 65536, 20), 0);
        assert_eq!((ring.next_used(), fixture.client().unwrap().in_flight), (None, 0));
        fixture.limit("total_bytes_sec", None);
        assert_eq!((ring.wait().2, ring.wait().2), (0, 0));
        drop(front_end);
        eventually("it is forgotten", || fixture.client().is_none());
        let stats = block_on(fixture.pool.volume_stats()).unwrap();
        assert_eq!(stats[0].held["volume:total_bytes_sec"].requests, i as u64 + 1);
        assert_eq!(stats[0].in_flight, 0);
        guest.memory.write_slice(&vec![0; DATA as usize], GuestAddress(0)).unwrap();
    }
    let stats = block_on(fixture.pool.volume_stats()).unwrap();
    assert_eq!((stats[0].flows.read.requests, stats[0].flows.write.requests), (1, 3));
}

#[test]
fn what_is_in_pieces_or_ranges_is_one_request() {
    let fixture = Fixture::new();
    let (guest, front_end) = (Guest::new(), fixture.connect());
    front_end.set_up(&guest, FEATURES);
    let mut ring = Ring::new(&guest, 0, 64, 0x10000);
    ring.start(&front_end, 0);
    assert_eq!(ring.run(OUT, 0, DATA, 10 << 20), 0);
    assert_eq!(ring.run(IN, 0, DATA, 10 << 20), 0);
    assert_eq!(ring.run(OUT, 0, DATA, 0), 0, "of nothing");
    let range = |sector: u64| [&sector.to_le_bytes()[..], &8u32.to_le_bytes(), &[0; 4]].concat();
    guest.memory.write_slice(&[range(0), range(16), range(32)].concat(), GuestAddress(DATA)).unwrap();
    assert_eq!(ring.run(DISCARD, 0, DATA, 48), 0);
    assert_eq!(ring.run(WRITE_ZEROES, 0, DATA, 48), 0);
    let flows = &block_on(fixture.pool.volume_stats()).unwrap()[0].flows;
    assert_eq!((flows.write.requests, flows.write.bytes), (1, 10 << 20));
    assert_eq!((flows.read.requests, flows.read.bytes), (1, 10 << 20));
    assert_eq!((flows.discard.requests, flows.discard.bytes), (2, 6 * 4096));
    drop(front_end);
}

#[test]
fn a_ring_that_is_stopped_keeps_what_waits() {
    let fixture = Fixture::new();
    let (guest, front_end) = (Guest::new(), fixture.connect());
    front_end.set_up(&guest, FEATURES);
    let mut ring = fixture.held_back(&guest, &front_end, OUT);
    assert_eq!(ring.stop(&front_end), 1, "what waits was not taken");
    assert_eq!(fixture.waiting(), 0);
    ring.start(&front_end, 1);
    eventually("it waits again", || fixture.waiting() == 1);
    fixture.limit("total_bytes_sec", None);
    assert_eq!((ring.wait().2, ring.wait().2), (0, 0));
    assert_eq!(ring.stop(&front_end), 3);
}

/// Nor where limits have let it go and it waits for memory when its ring is stopped.
#[test]
fn what_is_not_taken_uses_nothing_up() {
    let fixture = Fixture::with(Options { in_flight_bytes: 4 << 20, ..Options::default() });
    let (guest, front_end) = (Guest::new(), fixture.connect());
    front_end.set_up(&guest, FEATURES & !F_FLUSH);
    let mut carried_out = 0;
    for round in 0..20 {
        let mut first = Ring::new(&guest, 0, 64, 0x10000);
        let mut second = Ring::new(&guest, 1, 64, 0x40000);
        guest.memory.write_slice(&[0; 0x60000], GuestAddress(0x10000)).unwrap();
        first.start(&front_end, 0);
        second.start(&front_end, 0);
        while_busy(&fixture.pool, || {
            for _ in 0..4 {
                first.put(OUT, 0, DATA, 4 << 20, false).unwrap();
            }
            second.put(OUT, 0, DATA, 4 << 20, false).unwrap();
            first.kick();
            second.kick();
            front_end.send(GET_VRING_BASE, 0, &pair(1, 0), &[]);
        });
        let taken = u64::from(front_end.reply(GET_VRING_BASE).0[4]);
        (0..4).for_each(|_| assert_eq!(first.wait().2, 0));
        carried_out += 4 + taken;
        assert_eq!((first.stop(&front_end), u64::from(second.used_index())), (4, taken));
        let counted = block_on(fixture.pool.volume_stats()).unwrap()[0].flows.write.requests;
        assert_eq!(counted, carried_out, "round {round}: {taken} of the second ring");
    }
}

#[test]
fn a_front_end_that_goes_leaves_nothing_waiting() {
    let fixture = Fixture::new();
    let guest = Guest::new();
    for kind in [IN, OUT, IN] {
        let front_end = fixture.connect();
        front_end.set_up(&guest, FEATURES);
        let ring = fixture.held_back(&guest, &front_end, kind);
        drop(front_end);
        eventually("it is gone", || fixture.waiting() == 0 && fixture.client().is_none());
        assert_eq!(ring.used_index(), 1);
        fixture.limit("total_bytes_sec", None);
        guest.memory.write_slice(&vec![0; DATA as usize], GuestAddress(0)).unwrap();
    }
}

#[test]
fn stopping_and_closing_do_not_wait_for_limits() {
    let fixture = Fixture::new();
    let (guest, front_end) = (Guest::new(), fixture.connect());
    front_end.set_up(&guest, FEATURES);
    let ring = fixture.held_back(&guest, &front_end, OUT);
    block_on(fixture.server.stop()).unwrap();
    assert!(front_end.is_closed());
    assert_eq!((fixture.waiting(), ring.used_index()), (0, 1));
    // The next server finds it in the ring; and its pool can be closed while it waits again.
    let server = block_on(Server::start(&fixture.pool, fixture.server.directory(), Options::default())).unwrap();
    let front_end = FrontEnd::connect(&block_on(server.export("db")).unwrap());
    front_end.set_up(&guest, FEATURES);
    ring.start(&front_end, 1);
    eventually("it waits again", || fixture.waiting() == 1);
    block_on(fixture.pool.close()).unwrap();
    assert!(front_end.is_closed());
    eventually("the socket is gone", || !fixture.socket.exists());
    assert_eq!(ring.used_index(), 1);
}

/// The request that a killed server had left in flight, done again: it waits like any other, and stays in the books until it is let go.
#[test]
fn what_is_done_again_is_limited_too() {
    let fixture = Fixture::new();
    let guest = Guest::new();
    let first = fixture.connect();
    first.set_up(&guest, FEATURES);
    let shape = [&words(&[0, 0])[..], &1u16.to_ne_bytes(), &64u16.to_ne_bytes(), &[0; 4]].concat();
    first.send(GET_INFLIGHT_FD, 0, &shape, &[]);
    let (books, file) = first.reply(GET_INFLIGHT_FD);
    let file = File::from(file.unwrap());
    first.must(SET_INFLIGHT_FD, &books, &[file.as_fd()]);
    let mut ring = fixture.held_back(&guest, &first, OUT);
    drop(first);
    eventually("it is gone", || fixture.client().is_none());
    // As if it had been taken, and the server killed then: "in flight" in the entry of its head, which is 0.
    file.write_all_at(&[1], 16).unwrap();
    let again = |n: u32| {
        let front_end = fixture.connect();
        front_end.set_up(&guest, FEATURES);
        front_end.must(SET_INFLIGHT_FD, &books, &[file.as_fd()]);
        ring.start(&front_end, 1);
        eventually("it is found again", || fixture.client().is_some_and(|client| client.resubmitted == 1));
        eventually("it waits", || fixture.waiting() == 1);
        assert_eq!(fixture.client().unwrap().requests, 0, "time {n}");
        front_end
    };
    drop(again(1));
    eventually("it is gone", || fixture.waiting() == 0 && fixture.client().is_none());
    let front_end = again(2);
    fixture.limit("total_bytes_sec", None);
    assert_eq!((ring.wait().2, ring.wait().2), (0, 0));
    assert_eq!(ring.stop(&front_end), 3);
}
