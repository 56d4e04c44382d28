//! Front-ends and guests that break the rules: nobody else notices, and nothing is left of them.

use crate::{fixture::*, front_end::*, ring::*};
use rustix::{
    event::{EventfdFlags, eventfd},
    fs::{MemfdFlags, ftruncate, memfd_create},
    io::{ioctl_fionread, write},
};
use std::{
    fs::File,
    net::TcpListener,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::atomic::Ordering,
};
use vm_memory::{Bytes, GuestAddress};

const DATA: u64 = 4 << 20;

/// Descriptors and mappings of this process.
fn held() -> (usize, usize) {
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    (descriptors, maps.lines().filter(|line| line.contains("memfd:")).count())
}

impl Fixture {
    /// A front-end that behaves is served, at once: nobody holds up the reactor.
    #[track_caller]
    fn serves_others(&self) {
        eventually("another front-end is let in", || self.client().is_none());
        let (guest, front_end) = (Guest::new(), self.connect());
        front_end.set_up(&guest, FEATURES);
        let mut ring = Ring::new(&guest, 0, 64, 0x10000);
        ring.start(&front_end, 0);
        assert_eq!(ring.run(OUT, 0, DATA, 4096), 0);
        drop(front_end);
        eventually("it is let go", || self.client().is_none());
    }
}

/// A raw message.
fn message(request: u32, flags: u32, size: u32, body: &[u8]) -> Vec<u8> {
    [&[request, flags, size].map(u32::to_ne_bytes).concat(), body].concat()
}

#[test]
fn messages_that_break_the_protocol_end_the_connection() {
    let fixture = Fixture::new();
    fixture.serves_others();
    let before = held();
    let memory = memfd_create("some", MemfdFlags::CLOEXEC).unwrap();
    let many: Vec<_> = (0..9).map(|_| memory.as_fd()).collect();
    let most: Vec<_> = (0..200).map(|_| memory.as_fd()).collect();
    let bad: Vec<(Vec<u8>, &[_])> = vec![
        (message(GET_FEATURES, 0, 0, &[]), &[]),
        (message(GET_FEATURES, 2, 0, &[]), &[]),
        (message(GET_FEATURES, 5, 0, &[]), &[]),
        (message(GET_FEATURES, 1, u32::MAX, &[]), &[]),
        (message(GET_FEATURES, 1, 4097, &[]), &[]),
        (message(GET_FEATURES, 1, 8, &[0; 8]), &[]),
        (message(GET_FEATURES, 1, 0, &[]), &many[..1]),
        (message(GET_FEATURES, 1, 0, &[]), &many),
        (message(GET_FEATURES, 1, 0, &[]), &most),
        (message(SET_MEM_TABLE, 1, 8, &words(&[0])), &[]),
        (message(SET_MEM_TABLE, 1, 8, &words(&[u64::MAX])), &many[..8]),
        (message(SET_MEM_TABLE, 1, 40, &words(&[1, 0, 4096, USER, 0])), &many[..1]),
        (message(SET_MEM_TABLE, 1, 40, &words(&[1, 0, 4096, USER, 0])), &[]),
        (message(SET_VRING_NUM, 1, 8, &pair(16, 64)), &[]),
        (message(SET_VRING_NUM, 1, 8, &pair(u32::MAX, 64)), &[]),
        (message(SET_VRING_NUM, 1, 8, &pair(0, 63)), &[]),
        (message(SET_VRING_NUM, 1, 8, &pair(0, 0)), &[]),
        (message(SET_VRING_NUM, 1, 8, &pair(0, 0x10040)), &[]),
        (message(SET_VRING_BASE, 1, 8, &pair(0, 0x10000)), &[]),
        (message(SET_VRING_KICK, 1, 8, &words(&[0])), &many[..1]),
        (message(SET_VRING_KICK, 1, 8, &words(&[0x100])), &[]),
        (message(SET_BACKEND_REQ_FD, 1, 0, &[]), &many[..1]),
        (message(SET_FEATURES, 1, 8, &words(&[1 << 34])), &[]),
        (message(SET_PROTOCOL_FEATURES, 1, 8, &words(&[1 << 1])), &[]),
        (message(SET_CONFIG, 1, 13, &[&pair(0, 1)[..], &[0; 5]].concat()), &[]),
        (message(GET_CONFIG, 1, 12, &[&pair(256, 1)[..], &[0; 4]].concat()), &[]),
        (message(GET_CONFIG, 1, 12, &[&pair(u32::MAX, 256)[..], &[0; 4]].concat()), &[]),
        (message(GET_INFLIGHT_FD, 1, 24, &words(&[0, 0, u64::MAX])), &[]),
        (message(GET_INFLIGHT_FD, 1, 24, &[0; 24]), &[]),
        (message(SET_INFLIGHT_FD, 1, 24, &words(&[4096, 0, 0x0040_0001])), &many[..1]),
        (message(6, 1, 0, &[]), &[]),
        (message(u32::MAX, 1, 0, &[]), &[]),
    ];
    for (i, (bytes, fds)) in bad.iter().enumerate() {
        eventually("the one before is gone", || fixture.client().is_none());
        let front_end = fixture.connect();
        front_end.send_raw(bytes, fds);
        assert!(front_end.is_closed(), "case {i}");
    }
    fixture.serves_others();
    eventually("nothing is left", || held().0 <= before.0 + 1 && held().1 <= before.1);
}

#[test]
fn what_is_no_memory_eventfd_or_unix_socket_is_not_taken() {
    let fixture = Fixture::new();
    let (pipe, _writer) = std::io::pipe().unwrap();
    let strange: [OwnedFd; 4] = [
        File::open("/proc/self/exe").unwrap().into(),
        TcpListener::bind("127.0.0.1:0").unwrap().into(),
        pipe.into(),
        File::open("/dev/zero").unwrap().into(),
    ];
    for fd in &strange {
        for (request, body) in [(SET_VRING_KICK, words(&[0])), (SET_MEM_TABLE, words(&[1, 0, 4096, USER, 0]))] {
            eventually("the one before is gone", || fixture.client().is_none());
            let front_end = fixture.connect();
            front_end.send(request, 0, &body, &[fd.as_fd()]);
            assert!(front_end.is_closed());
        }
    }
    fixture.serves_others();
}

#[test]
fn half_messages_keep_nobody_else_waiting() {
    let fixture = Fixture::new();
    let other = {
        let volume = cairn_engine::VolumeOptions::default();
        drop(pollster::block_on(fixture.pool.create_volume("log", 1 << 20, volume)).unwrap());
        pollster::block_on(fixture.server.export("log")).unwrap()
    };
    let whole = [message(GET_FEATURES, 1, 0, &[]), message(SET_FEATURES, 9, 8, &words(&[FEATURES]))].concat();
    for cut in 1..whole.len() {
        eventually("the one before is gone", || fixture.client().is_none());
        let slow = fixture.connect();
        slow.write(&whole[..cut]);
        // Meanwhile.
        assert_eq!(FrontEnd::connect(&other).number(GET_QUEUE_NUM), 16);
        eventually("that one is gone", || {
            fixture.server.exports().iter().all(|e| e.name == "db" || e.client.is_none())
        });
        slow.write(&whole[cut..]);
        assert_eq!(slow.reply(GET_FEATURES).0.len(), 8);
    }
    // A byte at a time, with descriptors in the middle of it.
    eventually("the one before is gone", || fixture.client().is_none());
    let slow = fixture.connect();
    let memory = memfd_create("some", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&memory, 4096).unwrap();
    let bytes = message(SET_MEM_TABLE, 1, 40, &words(&[1, 0, 4096, USER, 0]));
    for (i, byte) in bytes.iter().enumerate() {
        let fds = [memory.as_fd()];
        slow.send_raw(&[*byte], if i == 20 { &fds } else { &[] });
    }
    assert_eq!(slow.number(GET_QUEUE_NUM), 16);
}

#[test]
fn who_takes_no_replies_waits_alone() {
    let fixture = Fixture::new();
    let greedy = fixture.connect();
    greedy.stream.set_nonblocking(true).unwrap();
    let request = message(GET_CONFIG, 1, 268, &[&pair(0, 256)[..], &[0; 260]].concat());
    // Until neither side can send any more.
    let mut full = 0;
    while full < 1000 {
        match std::io::Write::write(&mut &greedy.stream, &request) {
            Ok(_) => full = 0,
            Err(_) => full += 1,
        }
        std::thread::yield_now();
    }
    assert_eq!(fixture.read(0, 4096), [0; 4096]);
    // Stopping does not wait for it: the fixture's end proves it.
}

#[test]
fn rings_that_make_no_sense_are_given_up() {
    type Breaks = fn(&mut Ring);
    let cases: [(&str, Breaks); 3] = [
        ("beyond the table", |ring| ring.offer(64)),
        ("before it was given back", |ring| {
            // Two times the same chain, the first of which takes its time.
            let head = ring.put(OUT, 0, DATA, 4 << 20, false).unwrap();
            ring.offer(head);
        }),
        ("index", |ring| ring.memory.store(65u16, GuestAddress(ring.avail() + 2), Ordering::SeqCst).unwrap()),
    ];
    let fixture = Fixture::new();
    for (why, breaks) in cases {
        eventually("the one before is gone", || fixture.client().is_none());
        let (guest, front_end) = (Guest::new(), fixture.connect());
        front_end.set_up(&guest, FEATURES);
        let mut ring = Ring::new(&guest, 0, 64, 0x10000);
        ring.start(&front_end, 0);
        breaks(&mut ring);
        ring.kick();
        let fault = || fixture.client().and_then(|client| client.last_fault).unwrap_or_default();
        eventually("the fault is told", || fault().contains(why));
        eventually("the driver is told", || rustix::io::read(&ring.error, &mut [0; 8]).is_ok());
        // The connection lives on, and the ring can be set up anew.
        let _base = ring.stop(&front_end);
        let mut anew = Ring::new(&guest, 0, 64, 0x40000);
        anew.start(&front_end, 0);
        assert_eq!(anew.run(FLUSH, 0, 0, 0), 0, "{why}");
    }
    fixture.serves_others();
}

#[test]
fn rings_outside_of_memory_do_not_start() {
    let fixture = Fixture::new();
    for (descriptors, used, available, refused) in [
        // As if the other part were still to come.
        (MEMORY - 16, 0x2000, 0x3000, false),
        (0x1000, MEMORY - 8, 0x3000, false),
        (0x1000, 0x2000, MEMORY - 2, false),
        (0x1008, 0x2000, 0x3000, true),
        (0x1000, 0x2002, 0x3000, true),
        (0x1000, 0x2000, 0x3001, true),
    ] {
        eventually("the one before is gone", || fixture.client().is_none());
        let (guest, front_end) = (Guest::new(), fixture.connect());
        front_end.set_up(&guest, FEATURES);
        let ring = Ring::new(&guest, 0, 64, 0x10000);
        front_end.must(SET_VRING_NUM, &pair(0, 64), &[]);
        let addresses = [pair(0, 0), words(&[USER + descriptors, USER + used, USER + available, 0])].concat();
        front_end.must(SET_VRING_ADDR, &addresses, &[]);
        front_end.must(SET_VRING_KICK, &words(&[0]), &[ring.kick.as_fd()]);
        assert_eq!(front_end.tell(SET_VRING_ENABLE, &pair(0, 1), &[]), !refused);
        assert_eq!(fixture.client().unwrap().queues, 0);
    }
}

#[test]
fn chains_that_make_no_sense_come_back_empty() {
    let fixture = Fixture::new();
    let (guest, front_end) = (Guest::new(), fixture.connect());
    front_end.set_up(&guest, FEATURES);
    let mut ring = Ring::new(&guest, 0, 64, 0x10000);
    ring.start(&front_end, 0);
    let far = MEMORY - 8;
    let header = DATA + 4096;
    guest.memory.write_slice(&[0; 16], GuestAddress(header)).unwrap();
    let chains: [&[(u64, u32, u16, u16)]; 12] = [
        &[(header, 16, NEXT, 1)],
        &[(header, 16, NEXT, 3), (header, 16, NEXT, 1)],
        &[(header, 16, NEXT, 64)],
        &[(header, 16, 0, 0)],
        &[(header, 15, NEXT, 3), (header, 1, WRITE, 0)],
        &[(header, 1, WRITE, 0)],
        &[(header, 1, WRITE | NEXT, 3), (header, 16, 0, 0)],
        &[(far, 16, NEXT, 3), (header, 1, WRITE, 0)],
        &[(far, 32, INDIRECT, 0)],
        &[(u64::MAX - 7, 32, INDIRECT, 0)],
        &[(DATA, 16 * 1024 + 16, INDIRECT, 0)],
        &[(header, 16, NEXT, 3), (u64::MAX - 7, 16, WRITE, 0)],
    ];
    for (i, chain) in chains.iter().enumerate() {
        // The head is 1, which the driver does not use for itself; the second descriptor is 3.
        for (&entry, index) in chain.iter().zip([1, 3]) {
            ring.put_descriptor(ring.descriptors(), index, entry);
        }
        ring.offer(1);
        ring.kick();
        let (head, length, _) = ring.wait();
        assert_eq!((head, length), (1, 0), "chain {i}");
    }
    assert_eq!(ring.run(OUT, 0, DATA, 4096), 0, "and the ring goes on");
    let client = fixture.client().unwrap();
    assert_eq!((client.faults, client.in_flight), (12, 0));
}

/// Random, and the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }
}

#[test]
fn a_guest_that_writes_anything_anywhere_harms_itself_only() {
    let fixture = Fixture::new();
    let (guest, front_end) = (Guest::new(), fixture.connect());
    front_end.set_up(&guest, FEATURES | F_EVENT_INDEX);
    let mut random = Random(1);
    for _round in 0..60 {
        let mut ring = Ring::new(&guest, 0, 64, 0x10000);
        // What the last round left.
        guest.memory.write_slice(&[0; 0x20000], GuestAddress(0x10000)).unwrap();
        ring.start(&front_end, 0);
        for _ in 0..50 {
            // Mostly requests that make sense; their parts are written over while they are looked at.
            for _ in 0..random.below(8) {
                let kind = [IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES][random.below(6) as usize];
                let (sector, length) = (random.below(SIZE / 512 + 8), random.below(20) * 512);
                let data = DATA + random.below(64) * 4096;
                ring.put(kind, sector, data, length as u32, random.below(2) == 0);
            }
            for _ in 0..random.below(6) {
                // A wrong index ends the ring at once, so these are rare.
                let at = match random.below(20) {
                    0 => ring.avail() + random.below(4 + 64 * 2),
                    1 => ring.used() + random.below(64 * 8),
                    2..10 => ring.descriptors() + random.below(64 * 16),
                    _ => 0x20000 + random.below(64 * 32),
                };
                let byte = [0, 1, 4, 64, 255, random.below(256) as u8][random.below(6) as usize];
                guest.memory.write_slice(&[byte], GuestAddress(at)).unwrap();
            }
            ring.kick();
            // Time for the server to look.
            assert_eq!(front_end.number(GET_QUEUE_NUM), 16);
            while random.below(2) == 0 && ring.next_used().is_some() {}
        }
        let _base = ring.stop(&front_end);
        assert_eq!(fixture.client().unwrap().in_flight, 0);
    }
    let client = fixture.client().unwrap();
    assert!(client.faults > 10 && client.failed > 50 && client.requests > 300, "not hostile enough: {client:?}");
    drop(front_end);
    fixture.serves_others();
}

#[test]
fn memory_that_shrinks_ends_its_rings_and_nothing_else() {
    let fixture = Fixture::new();
    let (guest, front_end) = (Guest::new(), fixture.connect());
    front_end.set_up(&guest, FEATURES);
    let mut ring = Ring::new(&guest, 0, 64, 0x10000);
    ring.start(&front_end, 0);
    assert_eq!(ring.run(OUT, 0, DATA, 4096), 0);
    fixture.write(0, &[7; 4096]);
    // What the request gives is beyond the end by the time it is read.
    ftruncate(&guest.file, DATA).unwrap();
    let _head = ring.put(OUT, 0, DATA, 4096, false).unwrap();
    ring.kick();
    let fault = || fixture.client().and_then(|client| client.last_fault).unwrap_or_default();
    eventually("the fault is told", || fault().contains("lost its bytes"));
    assert_eq!(fixture.read(0, 4096), [7; 4096], "zeros that nobody wrote are not stored");
    drop(front_end);
    fixture.serves_others();
}

#[test]
fn full_counters_hold_nobody_up() {
    let fixture = Fixture::new();
    let (guest, front_end) = (Guest::new(), fixture.connect());
    front_end.set_up(&guest, FEATURES);
    let mut ring = Ring::new(&guest, 0, 64, 0x10000);
    // One that would have its writer wait.
    ring.call = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    write(&ring.call, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    ring.start(&front_end, 0);
    for _ in 0..100 {
        ring.put(OUT, 0, DATA, 4096, false);
        ring.kick();
        eventually("it comes back all the same", || ring.next_used().is_some());
    }
    assert_eq!(ring.stop(&front_end), 100);
    drop(front_end);
    fixture.serves_others();
}

/// What it has not taken stays with it after the connection: files of the server's, and bytes that count as the server's.
#[test]
fn who_takes_no_replies_gets_few() {
    const REPLY: u64 = 12 + 24;
    let fixture = Fixture::new();
    let front_end = fixture.connect();
    front_end.agree(FEATURES);
    let shape = [&words(&[0, 0])[..], &1u16.to_ne_bytes(), &64u16.to_ne_bytes(), &[0; 4]].concat();
    for _ in 0..200 {
        front_end.send(GET_INFLIGHT_FD, 0, &shape, &[]);
    }
    // Until no more come: in each turn the server sends what it can.
    let there = || ioctl_fionread(&front_end.stream).unwrap();
    let mut before = 0;
    while there() == 0 || there() > before {
        before = there();
        (0..1000).for_each(|_| pollster::block_on(fixture.pool.run(|_| async {})).unwrap());
    }
    assert!(before <= 32 * REPLY, "{} replies wait", before / REPLY);
    for _ in 0..200 {
        assert!(front_end.reply(GET_INFLIGHT_FD).1.is_some());
    }
}

#[test]
fn a_channel_that_nobody_reads_is_given_up() {
    let fixture = Fixture::new();
    let (guest, front_end) = (Guest::new(), fixture.connect());
    front_end.set_up(&guest, FEATURES);
    let (ours, theirs) = UnixStream::pair().unwrap();
    front_end.must(SET_BACKEND_REQ_FD, &[], &[theirs.as_fd()]);
    drop(ours);
    pollster::block_on(fixture.pool.resize("db", SIZE * 2)).unwrap();
    let mut ring = Ring::new(&guest, 0, 64, 0x10000);
    ring.start(&front_end, 0);
    assert_eq!(ring.run(OUT, SIZE / 512, DATA, 4096), 0);
}
