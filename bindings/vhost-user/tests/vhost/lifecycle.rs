//! Sockets, front-ends and rings that come and go.

use crate::{fixture::*, front_end::*, ring::*};
use cairn_engine::{ErrorKind, VolumeOptions};
use cairn_vhost_user::{Options, Server};
use pollster::block_on;
use std::os::{fd::AsFd, unix::net::UnixListener};
use vm_memory::{Bytes, GuestAddress};

const DATA: u64 = 4 << 20;

#[test]
fn one_front_end_at_a_time() {
    let fixture = Fixture::new();
    let first = fixture.connect();
    assert!(first.number(GET_FEATURES) > 0);
    assert!(fixture.connect().is_closed());
    drop(first);
    eventually("the next one is let in", || {
        let next = fixture.connect();
        next.send(GET_QUEUE_NUM, 0, &[], &[]);
        let mut header = [0; 12];
        std::io::Read::read_exact(&mut &next.stream, &mut header).is_ok()
    });
}

#[test]
fn a_volume_without_front_end_can_be_deleted() {
    let fixture = Fixture::new();
    let front_end = fixture.connect();
    assert!(front_end.number(GET_FEATURES) > 0);
    assert_eq!(block_on(fixture.pool.delete_volume("db", false)).unwrap_err().kind(), ErrorKind::Busy);
    assert_eq!(block_on(fixture.server.withdraw("db", false)).unwrap_err().kind(), ErrorKind::Busy);
    block_on(fixture.server.withdraw("db", true)).unwrap();
    assert!(front_end.is_closed() && !fixture.socket.exists());
    block_on(fixture.server.export("db")).unwrap();
    eventually("it is let go", || fixture.client().is_none());
    let refused = || fixture.server.exports().remove(0).refused;
    assert_eq!(refused(), None);
    block_on(fixture.pool.delete_volume("db", false)).unwrap();
    assert!(fixture.connect().is_closed());
    assert!(refused().unwrap().contains("deleted"));
    assert_eq!(block_on(fixture.server.export("nothing")).unwrap_err().kind(), ErrorKind::NotFound);
    block_on(fixture.server.withdraw("db", false)).unwrap();
    assert!(!fixture.socket.exists());
    assert_eq!(block_on(fixture.server.withdraw("db", false)).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn sockets_of_the_dead_are_taken_over_and_those_of_the_living_are_not() {
    let fixture = Fixture::new();
    let other = block_on(Server::start(&fixture.pool, fixture.server.directory(), Options::default())).unwrap();
    assert_eq!(block_on(other.export("db")).unwrap_err().kind(), ErrorKind::Busy);
    assert!(fixture.socket.exists());
    block_on(fixture.server.withdraw("db", true)).unwrap();
    drop(UnixListener::bind(&fixture.socket).unwrap());
    assert_eq!(block_on(other.export("db")).unwrap(), fixture.socket);
    assert!(fixture.connect().number(GET_FEATURES) > 0);
    block_on(other.stop()).unwrap();
    assert!(!fixture.socket.exists());
    assert_eq!(block_on(other.export("db")).unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn stopping_gives_back_what_was_taken_and_leaves_the_rest() {
    let fixture = Fixture::new();
    let (guest, front_end) = (Guest::new(), fixture.connect());
    front_end.set_up(&guest, FEATURES);
    let mut ring = Ring::new(&guest, 0, 256, 0x10000);
    ring.start(&front_end, 0);
    for n in 0..64 {
        ring.put(OUT, n * 128, DATA, 65536, false).unwrap();
        ring.kick();
    }
    // Two at once: both wait for the end.
    let other = std::thread::spawn({
        let server = fixture.server.clone();
        move || (block_on(server.stop()), server.exports().len())
    });
    block_on(fixture.server.stop()).unwrap();
    assert!(fixture.server.exports().is_empty());
    assert!(matches!(other.join().unwrap(), (Ok(()), 0)));
    assert!(front_end.is_closed() && !fixture.socket.exists());
    let used = ring.used_index();
    assert!(used <= 64);
    while let Some((_, _, status)) = ring.next_used() {
        assert_eq!(status, 0);
    }
    // The next one goes on where this one stopped.
    let server = block_on(Server::start(&fixture.pool, fixture.server.directory(), Options::default())).unwrap();
    let front_end = FrontEnd::connect(&block_on(server.export("db")).unwrap());
    front_end.set_up(&guest, FEATURES);
    ring.start(&front_end, used);
    for _ in used..64 {
        assert_eq!(ring.wait().2, 0);
    }
    assert_eq!(ring.next_used(), None);
    assert_eq!(ring.stop(&front_end), 64);
    drop(front_end);
    block_on(server.stop()).unwrap();
}

#[test]
fn rings_stop_and_go_on_as_they_are_told() {
    let fixture = Fixture::new();
    let (guest, front_end) = (Guest::new(), fixture.connect());
    front_end.set_up(&guest, FEATURES);
    let mut ring = Ring::new(&guest, 0, 64, 0x10000);
    ring.start(&front_end, 0);
    assert_eq!(ring.run(FLUSH, 0, 0, 0), 0);
    // Disabled: what is put in stays there.
    front_end.must(SET_VRING_ENABLE, &pair(0, 0), &[]);
    ring.put(FLUSH, 0, 0, 0, false).unwrap();
    ring.kick();
    assert_eq!(fixture.client().unwrap().queues, 0);
    assert_eq!(ring.next_used(), None);
    front_end.must(SET_VRING_ENABLE, &pair(0, 1), &[]);
    assert_eq!(ring.wait().2, 0);
    // Stopped, and begun again from its base, with another eventfd for calls.
    assert_eq!(ring.stop(&front_end), 2);
    ring.call = event();
    ring.start(&front_end, 2);
    assert_eq!(ring.run(FLUSH, 0, 0, 0), 0);
    for (request, body) in
        [(SET_VRING_NUM, pair(0, 128)), (SET_VRING_BASE, pair(0, 0)), (SET_VRING_ADDR, ring.addresses())]
    {
        assert!(!front_end.tell(request, &body, &[]), "a ring that runs cannot be changed");
    }
    // All of memory is given again, as it is when a guest gets more of it.
    front_end.must(SET_MEM_TABLE, &words(&[1, 0, MEMORY, USER, 0]), &[guest.file.as_fd()]);
    assert_eq!(ring.run(FLUSH, 0, 0, 0), 0);
    front_end.must(RESET_DEVICE, &[], &[]);
    assert_eq!(fixture.client().unwrap().queues, 0);
    assert_eq!(fixture.client().unwrap().faults, 3);
}

#[test]
fn regions_come_and_go_one_by_one() {
    let fixture = Fixture::new();
    let (guest, front_end) = (Guest::new(), fixture.connect());
    front_end.agree(FEATURES);
    let half = MEMORY / 2;
    let region = |i: u64| words(&[0, i * half, half, USER + i * half, i * half]);
    let mut ring = Ring::new(&guest, 0, 64, 0x10000);
    // In any order: the ring begins when its memory is there.
    ring.start(&front_end, 0);
    ring.put(OUT, 0, half - 2048, 4096, false).unwrap();
    guest.memory.write_slice(&[7; 4096], GuestAddress(half - 2048)).unwrap();
    ring.kick();
    front_end.must(ADD_MEM_REG, &region(1), &[guest.file.as_fd()]);
    assert_eq!(fixture.client().unwrap().queues, 0);
    front_end.must(ADD_MEM_REG, &region(0), &[guest.file.as_fd()]);
    assert_eq!(ring.wait().2, 0);
    assert_eq!(fixture.read(0, 4096), [7; 4096]);
    front_end.must(REM_MEM_REG, &region(1), &[]);
    assert!(!front_end.tell(REM_MEM_REG, &region(1), &[]));
    assert_eq!(ring.run(OUT, 0, half, 4096), 1, "no memory there any more");
    // The region of the ring comes back in another shape; meanwhile it is served where it was.
    front_end.must(REM_MEM_REG, &region(0), &[]);
    assert_eq!(ring.run(OUT, 0, DATA, 4096), 0);
    front_end.must(ADD_MEM_REG, &words(&[0, 0, MEMORY, USER, 0]), &[guest.file.as_fd()]);
    assert_eq!(ring.run(OUT, 0, half, 4096), 0);
    let client = fixture.client().unwrap();
    assert_eq!((client.queues, client.faults), (1, 1));
}

#[test]
fn a_pool_that_is_closed_takes_its_sockets_along() {
    let fixture = Fixture::new();
    let (guest, front_end) = (Guest::new(), fixture.connect());
    front_end.set_up(&guest, FEATURES);
    let ring = Ring::new(&guest, 0, 64, 0x10000);
    ring.start(&front_end, 0);
    block_on(fixture.pool.clone().close()).unwrap();
    assert!(front_end.is_closed());
    eventually("the socket is gone", || !fixture.socket.exists());
    eventually("nothing is listed", || fixture.server.exports().is_empty());
}

/// Stops the server and starts the next one; what it could not serve again.
fn restart(fixture: &mut Fixture) -> Vec<String> {
    block_on(async {
        fixture.server.stop().await.unwrap();
        assert!(!fixture.socket.exists());
        let directory = fixture.server.directory().to_owned();
        fixture.server = Server::start(&fixture.pool, directory, Options::default()).await.unwrap();
        fixture.server.restore().await.unwrap()
    })
}

fn names(fixture: &Fixture) -> Vec<String> {
    fixture.server.exports().into_iter().map(|export| export.name).collect()
}

#[test]
fn the_next_server_has_the_same_sockets() {
    let mut fixture = Fixture::new();
    block_on(fixture.pool.snapshot(&["db@monday".parse().unwrap()])).unwrap();
    block_on(fixture.server.export("db@monday")).unwrap();
    drop(block_on(fixture.pool.create_volume("other", SIZE, VolumeOptions::default())).unwrap());
    block_on(fixture.server.export("other")).unwrap();
    block_on(fixture.server.withdraw("other", false)).unwrap();
    assert!(restart(&mut fixture).is_empty());
    assert_eq!(names(&fixture), ["db", "db@monday"]);
    assert!(fixture.connect().number(GET_FEATURES) > 0);
    // What is deleted is told of once.
    eventually("it is let go", || fixture.client().is_none());
    block_on(fixture.pool.delete_snapshot(&"db@monday".parse().unwrap())).unwrap();
    let faults = restart(&mut fixture);
    assert!(faults.len() == 1 && faults[0].contains("db@monday"), "{faults:?}");
    assert!(restart(&mut fixture).is_empty());
    assert_eq!(names(&fixture), ["db"]);
}

#[test]
fn a_socket_stays_with_its_volume_whatever_it_is_called() {
    let mut fixture = Fixture::new();
    fixture.write(0, &[7; 4096]);
    block_on(fixture.pool.rename("db", "old")).unwrap();
    drop(block_on(fixture.pool.create_volume("db", 2 * SIZE, VolumeOptions::default())).unwrap());
    let size = |fixture: &Fixture| {
        let front_end = fixture.connect();
        front_end.agree(FEATURES);
        u64::from_le_bytes(front_end.config(0, 8)[..].try_into().unwrap()) * 512
    };
    assert_eq!(size(&fixture), SIZE);
    assert!(restart(&mut fixture).is_empty());
    assert_eq!(size(&fixture), SIZE);
    // One socket a volume, and it is not another's.
    assert_eq!(block_on(fixture.server.export("old")).unwrap(), fixture.socket);
    let error = block_on(fixture.server.export("db")).unwrap_err();
    assert!(error.kind() == ErrorKind::Exists && error.to_string().contains("old"), "{error}");
    block_on(fixture.server.withdraw("old", true)).unwrap();
    assert_eq!(block_on(fixture.server.export("db")).unwrap(), fixture.socket);
    assert_eq!(size(&fixture), 2 * SIZE);
    // A new volume of the same name takes the place of one that is gone.
    eventually("it is let go", || fixture.client().is_none());
    block_on(fixture.pool.delete_volume("db", false)).unwrap();
    block_on(fixture.pool.rename("old", "db")).unwrap();
    assert!(fixture.connect().is_closed());
    assert_eq!(block_on(fixture.server.export("db")).unwrap(), fixture.socket);
    assert_eq!(size(&fixture), SIZE);
    assert!(restart(&mut fixture).is_empty());
    assert_eq!(size(&fixture), SIZE);
}
