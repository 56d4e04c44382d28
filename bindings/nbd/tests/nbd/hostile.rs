use crate::{client::*, fixture::*};
use cairn_nbd::{Options, protocol::*};
use pollster::block_on;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg, sockopt::set_socket_linger};
use std::{
    io::{IoSlice, Write},
    mem::MaybeUninit,
    net::{Shutdown, TcpListener, TcpStream},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::mpsc,
    thread,
    time::Duration,
};

/// That the server still serves others.
fn still_serves(fixture: &Fixture) {
    let mut client = fixture.client().agree_on(ReplyStyle::Structured).go("db");
    client.write(0, 0, &[1; 512]);
    assert_eq!(client.read(0, 512), [1; 512]);
    client.disconnect();
}

#[test]
fn noise_instead_of_a_handshake_closes_the_connection() {
    let fixture = Fixture::new();
    for noise in
        [&b"GET / HTTP/1.1\r\nHost: nbd\r\n\r\n"[..], &[0xff; 64], &[0; 64], b"\0\0\0\x03IHAVEOP!\0\0\0\x01\0\0\0\0"]
    {
        let mut stream = fixture.stream();
        // The server may close before it has read everything.
        stream.write_all(noise).ok();
        let mut client = Client::over(Box::new(stream));
        assert!(client.is_closed());
    }
    let mut huge = option_bytes(OPT_LIST, &[]);
    huge[12..16].copy_from_slice(&u32::MAX.to_be_bytes());
    let mut client = fixture.client();
    client.send(&huge);
    assert!(client.is_closed(), "4 GiB of option data");
    still_serves(&fixture);
}

#[test]
fn long_options_are_refused_and_passed_over() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    assert_eq!(client.outcome(OPT_SET_META_CONTEXT, &vec![b'x'; 1 << 20]), REP_ERR_TOO_BIG);
    assert_eq!(client.outcome(OPT_STRUCTURED_REPLY, &[]), REP_ACK);
    let mut counted = string("db");
    counted.extend_from_slice(&u32::MAX.to_be_bytes());
    assert_eq!(client.outcome(OPT_SET_META_CONTEXT, &counted), REP_ERR_TOO_BIG);
    assert_eq!(client.outcome(OPT_GO, &u32::MAX.to_be_bytes()), REP_ERR_INVALID);
    client.go("db").disconnect();
}

#[test]
fn a_request_without_its_magic_closes_the_connection() {
    let fixture = Fixture::new();
    for style in [ReplyStyle::Simple, ReplyStyle::Structured, ReplyStyle::Extended] {
        let mut client = fixture.client().agree_on(style).go("db");
        client.send(&[0x41; 64]);
        assert!(client.is_closed());
    }
    let mut mixed = fixture.client().agree_on(ReplyStyle::Extended).go("db");
    mixed.style = ReplyStyle::Simple;
    let (compact, _) = mixed.request(CMD_READ, 0, 0, 512, &[]);
    mixed.send(&[&compact[..], &[0; 8]].concat());
    assert!(mixed.is_closed(), "a compact request under extended headers");
    still_serves(&fixture);
}

#[test]
fn oversized_payloads_are_passed_over_or_cut_off() {
    let fixture = Fixture::with(Options { max_request: 1 << 20, in_flight_bytes: 2 << 20, ..Options::default() });
    let mut client = fixture.client().agree_on(ReplyStyle::Structured).go("db");
    let data = vec![7; (1 << 20) + 512];
    assert_eq!(client.call(CMD_WRITE, 0, 0, data.len() as u64, &data).errno, EINVAL);
    assert_eq!(client.call(CMD_READ, 0, 0, data.len() as u64, &[]).errno, EOVERFLOW);
    assert_eq!(client.read(0, 512), [0; 512], "nothing of it was written");
    let (header, _) = client.request(CMD_WRITE, 0, 0, u64::from(u32::MAX), &[]);
    client.send(&header);
    assert!(client.is_closed(), "4 GiB");
    let mut extended = fixture.client().agree_on(ReplyStyle::Extended).go("db");
    let (header, _) = extended.request(CMD_WRITE, CMD_FLAG_PAYLOAD_LEN, 0, u64::MAX, &[]);
    extended.send(&header);
    assert!(extended.is_closed(), "16 EiB");
    still_serves(&fixture);
}

#[test]
fn payloads_where_none_belong_are_passed_over() {
    let fixture = Fixture::new();
    let mut client = fixture.client().agree_on(ReplyStyle::Extended).go("db");
    for command in [CMD_READ, CMD_FLUSH, CMD_TRIM, CMD_CACHE, CMD_WRITE_ZEROES, 42] {
        assert_eq!(client.call(command, 0, 0, 4096, &[9; 4096]).errno, EINVAL, "command {command}");
    }
    client.ok(CMD_FLUSH, 0, 0, 0);
    // As QEMU sends it: without the flag, with the payload.
    let (mut bytes, cookie) = client.request(CMD_WRITE, 0, 0, 512, &[8; 512]);
    bytes[5] = 0;
    client.send(&bytes);
    assert_eq!(client.answer(&|_| (0, 0)), (cookie, Answer { chunks: 1, ..Answer::default() }));
    assert_eq!(client.read(0, 512), [8; 512]);
}

#[test]
fn ranges_that_wrap_around_are_refused() {
    let fixture = Fixture::new();
    let mut client = fixture.client().agree_on(ReplyStyle::Extended);
    client.select("db", &["base:allocation"]);
    let mut client = client.go("db");
    for (offset, length) in [(u64::MAX - 511, 512), (!511, 1024), (512, !511), (SIZE, !511)] {
        for command in [CMD_READ, CMD_TRIM, CMD_CACHE, CMD_WRITE_ZEROES, CMD_BLOCK_STATUS] {
            let answer = client.call(command, 0, offset, length, &[]);
            assert!([EINVAL, ENOSPC, EOVERFLOW].contains(&answer.errno), "{command} {offset} {length}: {answer:?}");
        }
    }
    assert_eq!(client.call(CMD_WRITE, 0, u64::MAX - 511, 512, &[1; 512]).errno, ENOSPC);
    client.ok(CMD_FLUSH, 0, 0, 0);
}

#[test]
fn clients_that_vanish_half_way_leave_nothing() {
    let fixture = Fixture::new();
    for cut in [1, 27, 28, 100, 28 + 4095] {
        let stream = fixture.stream();
        let control = stream.try_clone().unwrap();
        let mut client = Client::new(Box::new(stream)).agree_on(ReplyStyle::Structured).go("db");
        let (bytes, _) = client.request(CMD_WRITE, 0, 0, 4096, &[0xee; 4096]);
        client.send(&bytes[..cut]);
        control.shutdown(Shutdown::Both).unwrap();
        drop((client, control));
    }
    eventually("every client is gone", || fixture.server.clients().is_empty() && fixture.attached() == 0);
    let mut client = fixture.client().go("db");
    assert_eq!(client.read(0, 4096), [0; 4096], "no half of a write was carried out");
}

#[test]
fn clients_that_vanish_with_requests_in_flight_leave_nothing() {
    let fixture = Fixture::new();
    for _ in 0..20 {
        let mut client = fixture.client().agree_on(ReplyStyle::Structured).go("db");
        let mut bytes = Vec::new();
        for i in 0..100 {
            bytes.extend(client.request(CMD_WRITE, 0, i * 65536, 65536, &[1; 65536]).0);
            bytes.extend(client.request(CMD_READ, 0, i * 65536, 65536, &[]).0);
        }
        // The server stops reading when nobody takes its answers: send what it takes.
        client.send(&bytes[..100_000]);
    }
    eventually("every client is gone", || fixture.server.clients().is_empty() && fixture.attached() == 0);
    still_serves(&fixture);
}

#[test]
fn a_client_that_never_reads_holds_up_only_itself() {
    let fixture = Fixture::with(Options { in_flight_requests: 8, ..Options::default() });
    let stream = fixture.stream();
    stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let mut greedy = Client::new(Box::new(stream)).go("db");
    fixture.write(0, &vec![1; 1 << 20]);
    let (read, _) = greedy.request(CMD_READ, CMD_FLAG_FUA, 0, 1 << 20, &[]);
    // Until the server takes no more.
    while writer.write_all(&read).is_ok() {}
    let in_flight = || fixture.server.clients().iter().map(|client| client.in_flight).max();
    assert_eq!(in_flight(), Some(8), "as many as allowed, and no more");
    still_serves(&fixture);
    drop((greedy, writer));
    eventually("it is gone", || fixture.server.clients().is_empty() && fixture.attached() == 0);
}

/// A TCP socket whose last close waits for a peer that does not read, and that peer.
fn lingering() -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (peer, _) = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    while stream.write(&[0; 1 << 16]).is_ok() {}
    set_socket_linger(&stream, Some(Duration::from_secs(600))).unwrap();
    (stream.into(), peer)
}

/// Sends bytes and a descriptor. Where the kernel refuses to, it lingers no more.
fn pass(to: &UnixStream, bytes: &[u8], fd: &OwnedFd, flags: SendFlags) {
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut room);
    let fds = [fd.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    if sendmsg(to, &[IoSlice::new(bytes)], &mut control, flags | SendFlags::NOSIGNAL).is_err() {
        set_socket_linger(fd, None).unwrap();
    }
}

/// Has the reactor do something else until `work` is done: what that sends is the test's no more when it is found.
fn while_busy(fixture: &Fixture, work: impl FnOnce()) {
    let ((begin, begun), (end, ended)) = (mpsc::channel(), mpsc::channel::<()>());
    let pool = fixture.pool.clone();
    let busy = thread::spawn(move || {
        block_on(pool.run(move |_| async move {
            begin.send(()).unwrap();
            // Ends with an error, when nothing more can come.
            ended.recv().unwrap_err();
        }))
    });
    begun.recv().unwrap();
    work();
    drop(end);
    busy.join().unwrap().unwrap();
}

#[test]
fn descriptors_that_nobody_asked_for_hold_nobody_up() {
    let fixture = Fixture::new();
    let closed = Cut { unread: false, accepted: true };
    for Cut { unread, accepted } in [closed, Cut { unread: true, ..closed }, Cut { unread: true, accepted: false }] {
        for flags in [SendFlags::empty(), SendFlags::OOB] {
            let (lingers, peer) = lingering();
            let stream = accepted.then(|| {
                let stream = fixture.stream();
                let _client = Client::new(Box::new(stream.try_clone().unwrap()));
                stream
            });
            while_busy(&fixture, || {
                let stream = stream.unwrap_or_else(|| fixture.stream());
                if unread {
                    // Option data of 4 GiB: the server reads no further.
                    let mut huge = option_bytes(OPT_LIST, &[]);
                    huge[12..16].copy_from_slice(&u32::MAX.to_be_bytes());
                    (&stream).write_all(&huge).unwrap();
                }
                pass(&stream, &[0xff; 16], &lingers, flags);
                drop((stream, lingers));
            });
            let (pool, (tell, told)) = (fixture.pool.clone(), mpsc::channel());
            let clients = fixture.server.clone();
            thread::spawn(move || {
                eventually("they are gone", || clients.clients().is_empty());
                tell.send(block_on(pool.run(|_| async {})).is_ok())
            });
            let answers = told.recv_timeout(PATIENCE).is_ok();
            drop(peer);
            assert!(answers, "{flags:?}, unread: {unread}, accepted: {accepted}");
        }
    }
    still_serves(&fixture);
}

/// Where descriptors are when their client goes.
#[derive(Clone, Copy)]
struct Cut {
    /// Behind what the server reads.
    unread: bool,
    /// On a connection that it has accepted.
    accepted: bool,
}
