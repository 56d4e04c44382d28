//! Descriptors whose last close waits for somebody else: it is never the reactor's thread that closes them.

use crate::{attacker::*, fixture::*, front_end::*, ring::Ring};
use cairn_engine::VolumeOptions;
use pollster::block_on;
use rustix::{
    event::{PollFd, PollFlags, Timespec, epoll, poll},
    fs::{MemfdFlags, memfd_create},
    io::write,
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
};
use std::{
    io::{ErrorKind, IoSlice, Read, Write},
    mem::MaybeUninit,
    net::TcpStream,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    thread,
};

#[track_caller]
fn holds_nobody_up(fixture: &Fixture, peer: TcpStream) {
    let answers = answers(&fixture.pool);
    drop(peer);
    assert!(answers, "the reactor waits in a system call for somebody else's good will");
}

/// With a byte that is urgent, to be met within a message or before one.
fn pass_urgent(to: &UnixStream, fds: &[BorrowedFd<'_>]) {
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = SendAncillaryBuffer::new(&mut room);
    assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    sendmsg(to, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL | SendFlags::OOB).unwrap();
}

#[test]
fn with_an_urgent_byte() {
    let fixture = Fixture::new();
    let front_end = fixture.connect();
    assert!(front_end.number(GET_FEATURES) > 0);
    let (socket, peer) = lingering();
    while_busy(&fixture, || {
        pass_urgent(&front_end.stream, &[socket.as_fd()]);
        drop(socket);
    });
    holds_nobody_up(&fixture, peer);
}

#[test]
fn beyond_the_descriptors_that_a_message_may_have() {
    let fixture = Fixture::new();
    let memory = memfd_create("some", MemfdFlags::CLOEXEC).unwrap();
    for count in [1, 9, 19, 253] {
        eventually("the one before is gone", || fixture.client().is_none());
        let front_end = fixture.connect();
        let (socket, peer) = lingering();
        while_busy(&fixture, || {
            let mut fds = vec![memory.as_fd(); count - 1];
            fds.push(socket.as_fd());
            pass(&front_end.stream, &header(GET_FEATURES, 0), &fds);
            drop(fds);
            drop(socket);
        });
        assert!(front_end.is_closed(), "{count} descriptors");
        holds_nobody_up(&fixture, peer);
    }
}

#[test]
fn in_messages_that_are_never_received() {
    let fixture = Fixture::new();
    let front_end = fixture.connect();
    let (socket, peer) = lingering();
    while_busy(&fixture, || {
        front_end.write(&[0xff; 12]);
        pass(&front_end.stream, &[0xff], &[socket.as_fd()]);
        drop(socket);
    });
    assert!(front_end.is_closed());
    holds_nobody_up(&fixture, peer);
}

#[test]
fn from_those_who_are_turned_away() {
    let fixture = Fixture::new();
    let first = fixture.connect();
    assert!(first.number(GET_FEATURES) > 0);
    let (socket, peer) = lingering();
    let mut second = None;
    while_busy(&fixture, || {
        let stream = FrontEnd::connect(&fixture.socket);
        pass(&stream.stream, &[0], &[socket.as_fd()]);
        drop(socket);
        second = Some(stream);
    });
    assert!(second.unwrap().is_closed());
    holds_nobody_up(&fixture, peer);
}

#[test]
fn within_the_queues_of_unix_sockets() {
    let fixture = Fixture::new();
    let front_end = fixture.connect();
    front_end.agree(FEATURES);
    let (socket, peer) = lingering();
    let (ours, theirs) = UnixStream::pair().unwrap();
    pass(&ours, &[0], &[socket.as_fd()]);
    drop(socket);
    front_end.must(SET_BACKEND_REQ_FD, &[], &[theirs.as_fd()]);
    drop(theirs);
    drop(front_end);
    eventually("it is let go", || fixture.client().is_none());
    holds_nobody_up(&fixture, peer);
}

/// Also where the kernel still polls the socket when the server lets go of it, and where a connection was never accepted.
#[test]
fn of_a_server_that_stops() {
    let fixture = Fixture::new();
    let first = fixture.connect();
    assert!(first.number(GET_FEATURES) > 0);
    let ((one, one_peer), (two, two_peer)) = (lingering(), lingering());
    let mut second = None;
    let (server, mut stopping) = (fixture.server.clone(), None);
    while_busy(&fixture, || {
        // Taken up before what comes now.
        stopping = Some(std::thread::spawn(move || block_on(server.stop())));
        let stream = UnixStream::connect(&fixture.socket).unwrap();
        pass(&stream, &[0], &[one.as_fd()]);
        pass(&first.stream, &[0], &[two.as_fd()]);
        drop((one, two));
        second = Some(stream);
    });
    stopping.unwrap().join().unwrap().unwrap();
    assert!(first.is_closed());
    holds_nobody_up(&fixture, one_peer);
    holds_nobody_up(&fixture, two_peer);
}

/// Whether the other end has closed.
fn is_closed(stream: &UnixStream) -> bool {
    match (&*stream).read(&mut [0; 64]) {
        Ok(n) => n == 0,
        Err(e) => e.kind() != ErrorKind::WouldBlock,
    }
}

/// Threads of this process that close.
fn closing() -> usize {
    let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    tasks.map(name).filter(|name| name.trim() == "cairn-close").count()
}

/// One thread closes what is an export's, and it has no more open than it may, whoever comes and goes. Others are served meanwhile, and
/// theirs is closed.
fn one_thread_and_few_descriptors() {
    let fixture = Fixture::new();
    drop(block_on(fixture.pool.create_volume("other", 1 << 20, VolumeOptions::default())).unwrap());
    let other = block_on(fixture.server.export("other")).unwrap();
    let front_end = fixture.connect();
    let (socket, peer) = lingering();
    while_busy(&fixture, || {
        pass(&front_end.stream, &header(GET_FEATURES, 0), &[socket.as_fd()]);
        drop(socket);
    });
    assert!(front_end.is_closed());
    // All that come now are to be closed behind that one, whether they are let in first or not.
    let come = || {
        let stream = UnixStream::connect(&fixture.socket).unwrap();
        stream.set_nonblocking(true).unwrap();
        (&stream).write_all(&[0xff; 12]).ok();
        stream
    };
    let streams: Vec<_> = (0..100).map(|_| come()).collect();
    let closed = || streams.iter().filter(|stream| is_closed(stream)).count();
    eventually("many come and go", || closed() >= 50);
    assert_eq!(closing(), 1);
    // More than an export may have open.
    for _ in 0..200 {
        assert!(FrontEnd::connect(&other).number(GET_FEATURES) > 0);
    }
    eventually("what the other had is closed, and its thread has ended", || closing() == 1);
    assert!(closed() < 64, "{} have come and gone", closed());
    drop(peer);
    eventually("the others are let in, and out", || closed() == streams.len());
    eventually("there is nothing left to be done", || closing() == 0);
}

/// Whether this process may start threads. (Of the superuser no number of them is asked.)
#[allow(unsafe_code)]
fn allow_threads(allowed: bool) {
    let user = if allowed { 0 } else { 65534 };
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: plain system calls, one of them with a local.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NPROC, &raw mut limit), 0);
        limit.rlim_cur = if allowed { limit.rlim_max } else { 0 };
        assert_eq!(libc::setrlimit(libc::RLIMIT_NPROC, &raw const limit), 0);
        if libc::getuid() == 0 || allowed && libc::geteuid() == 65534 {
            assert_eq!(libc::setresuid(user, user, 0), 0);
        }
    }
}

/// What could not be closed as it came, since there was no thread for that, is closed when there can be one.
fn without_threads() {
    let fixture = Fixture::new();
    let front_end = fixture.connect();
    let many: Vec<_> = (0..100).map(|_| event()).collect();
    let many: Vec<_> = many.iter().map(|event| event.as_fd()).collect();
    allow_threads(false);
    assert!(thread::Builder::new().spawn(|| ()).is_err());
    front_end.send(GET_FEATURES, 0, &[], &many);
    assert!(front_end.is_closed());
    eventually("it is let go", || fixture.client().is_none());
    // And the turn is over in which it was.
    block_on(fixture.pool.run(|_| async {})).unwrap();
    allow_threads(true);
    assert!(fixture.connect().number(GET_FEATURES) > 0);
}

/// Tells the process of [`in_a_process_of_its_own`] what to do.
const WHAT: &str = "CAIRN_VHOST_USER_CLOSES";

/// Not a test but the other process of the next two, which counts threads, or has none.
#[test]
fn in_a_process_of_its_own() {
    match std::env::var(WHAT).as_deref() {
        Ok("once") => one_thread_and_few_descriptors(),
        Ok("later") => without_threads(),
        _ => {}
    }
}

#[test]
fn takes_one_thread_and_few_descriptors() {
    assert!(run_alone("closing::in_a_process_of_its_own", WHAT, "once").success());
}

#[test]
fn goes_on_when_there_can_be_a_thread() {
    assert!(run_alone("closing::in_a_process_of_its_own", WHAT, "later").success());
}

/// Has an `eventfd` watched by an `epoll` that is busy telling somebody who never listens, for as long as the other descriptor is open: who
/// closes the eventfd as the last one waits. None where this user may not have pages that do not come.
#[allow(unsafe_code)]
fn watched() -> Option<(OwnedFd, OwnedFd, thread::JoinHandle<()>)> {
    let (page, faults) = page_that_never_comes()?;
    let event = event();
    write(&event, &1u64.to_ne_bytes()).unwrap();
    let watching = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    epoll::add(&watching, &event, epoll::EventData::new_u64(0), epoll::EventFlags::IN).unwrap();
    // SAFETY: the page stays mapped.
    let told = thread::spawn(move || unsafe {
        let _told = libc::epoll_wait(watching.as_raw_fd(), page as *mut _, 1, -1);
    });
    let limit = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    assert_eq!(poll(&mut [PollFd::new(&faults, PollFlags::IN)], Some(&limit)).unwrap(), 1, "it waits for the page");
    Some((event, faults, told))
}

/// Calls, errors and kicks, of a ring that is given others and of one that ends.
#[test]
fn of_eventfds_that_somebody_watches() {
    let requests = [SET_VRING_CALL, SET_VRING_ERR, SET_VRING_KICK];
    for (request, ends) in requests.into_iter().flat_map(|request| [(request, false), (request, true)]) {
        // Dropped last: where it is held up, it ends with the page.
        let fixture = Fixture::new();
        let Some((watched, faults, told)) = watched() else {
            return println!("skipped: this user may not handle page faults (vm.unprivileged_userfaultfd)");
        };
        let (guest, front_end) = (Guest::new(), fixture.connect());
        front_end.set_up(&guest, FEATURES);
        let ring = Ring::new(&guest, 0, 64, 0x10000);
        ring.start(&front_end, 0);
        front_end.must(request, &words(&[0]), &[watched.as_fd()]);
        drop(watched);
        let served = thread::spawn(move || match ends {
            true => drop(front_end),
            false => front_end.must(request, &words(&[0]), &[event().as_fd()]),
        });
        eventually("it is let go", || if ends { fixture.client().is_none() } else { served.is_finished() });
        let answers = answers(&fixture.pool);
        let waits = !told.is_finished();
        drop(faults);
        told.join().unwrap();
        served.join().unwrap();
        assert!(answers && waits, "message {request}, at the end: {ends}: the reactor waits");
    }
}

/// Nor does whoever stays connected have more, whatever it sends: meanwhile it waits.
#[test]
fn of_those_who_send_more_and_more() {
    let fixture = Fixture::new();
    let front_end = fixture.connect();
    front_end.agree(FEATURES);
    let (socket, peer) = lingering();
    let (ours, theirs) = UnixStream::pair().unwrap();
    pass(&ours, &[0], &[socket.as_fd()]);
    drop(socket);
    front_end.must(SET_BACKEND_REQ_FD, &[], &[theirs.as_fd()]);
    drop((ours, theirs));
    // Each takes the place of the one before, which is to be closed then.
    let keeps = || {
        let (ours, theirs) = UnixStream::pair().unwrap();
        front_end.send(SET_BACKEND_REQ_FD, NEED_REPLY, &[], &[theirs.as_fd()]);
        ours
    };
    let channels: Vec<_> = (0..100).map(|_| keeps()).collect();
    let answered = |n: usize| (0..n).for_each(|_| assert_eq!(front_end.reply(SET_BACKEND_REQ_FD).0, [0; 8]));
    // Itself, its listening socket, the first channel and the last one.
    answered(60);
    let hung_up = || channels.iter().filter(|channel| is_hung_up(channel)).count();
    assert_eq!(hung_up(), 0, "they wait behind the first one");
    assert!(answers(&fixture.pool));
    drop(peer);
    answered(40);
    eventually("all but the last are closed", || hung_up() == 99);
}

fn is_hung_up(stream: &UnixStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    is_closed(stream)
}
