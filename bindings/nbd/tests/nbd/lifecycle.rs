use crate::{client::*, fixture::*};
use cairn_engine::ErrorKind;
use cairn_nbd::{Listen, Options, Server, protocol::*};
use pollster::block_on;
use std::{net::TcpStream, os::unix::net::UnixListener, time::Duration};

#[test]
fn silent_clients_are_let_go() {
    let fixture = Fixture::with(Options { handshake_limit: Duration::from_millis(50), ..Options::default() });
    let mut silent = fixture.client();
    let mut half = fixture.client();
    half.send(&option_bytes(OPT_GO, &info("db", &[]))[..20]);
    assert!(silent.is_closed() && half.is_closed());
    eventually("both are forgotten", || fixture.server.clients().is_empty());
}

#[test]
fn clients_beyond_the_limit_are_turned_away() {
    let fixture = Fixture::with(Options { max_clients: 2, ..Options::default() });
    let (one, _two) = (fixture.client().go("db"), fixture.client().go("db"));
    assert!(Client::over(Box::new(fixture.stream())).is_closed());
    one.disconnect();
    eventually("a place is free", || fixture.server.clients().len() == 1);
    fixture.client().go("db").disconnect();
}

#[test]
fn stopping_answers_what_was_received_and_removes_the_socket() {
    let fixture = Fixture::new();
    let mut idle = fixture.client().agree_on(ReplyStyle::Structured).go("db");
    let mut haggling = fixture.client();
    let mut busy = fixture.client().agree_on(ReplyStyle::Structured).go("db");
    let mut bytes = Vec::new();
    for i in 0..50 {
        bytes.extend(busy.request(CMD_WRITE, 0, i * 4096, 4096, &[3; 4096]).0);
    }
    busy.send(&bytes);
    block_on(fixture.server.stop()).unwrap();
    assert!(!fixture.socket().exists());
    assert!(fixture.server.clients().is_empty() && fixture.attached() == 0);
    assert!(idle.is_closed() && haggling.is_closed());
    for _ in 0..50 {
        let errno = busy.answer(&|_| (0, 0)).1.errno;
        assert!(errno == 0 || errno == ESHUTDOWN, "{errno}");
    }
    assert!(busy.is_closed());
    block_on(fixture.server.stop()).unwrap();
}

#[test]
fn stopping_cuts_off_clients_that_take_nothing() {
    let fixture = Fixture::with(Options { stop_limit: Duration::from_millis(50), ..Options::default() });
    fixture.write(0, &vec![1; 1 << 20]);
    let mut greedy = fixture.client().go("db");
    for _ in 0..20 {
        let (read, _) = greedy.request(CMD_READ, 0, 0, 1 << 20, &[]);
        greedy.send(&read);
    }
    eventually("answers wait", || fixture.server.clients()[0].in_flight > 0);
    block_on(fixture.server.stop()).unwrap();
    assert!(fixture.server.clients().is_empty() && fixture.attached() == 0);
}

#[test]
fn sockets_of_the_dead_are_replaced_and_those_of_the_living_are_not() {
    let fixture = Fixture::new();
    let start = |path: &std::path::Path| {
        let listen = Listen::Unix(path.into());
        block_on(Server::start(&fixture.pool, listen, Options::default()))
    };
    let refused = start(&fixture.socket()).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Busy, "{refused}");
    fixture.client().go("db").disconnect();
    let dead = fixture.directory.path().join("dead.sock");
    drop(UnixListener::bind(&dead).unwrap());
    let second = start(&dead).unwrap();
    assert!(dead.exists());
    block_on(second.stop()).unwrap();
    assert!(!dead.exists() && fixture.socket().exists());
}

#[test]
fn tcp_gives_its_port_and_serves() {
    let fixture = Fixture::new();
    let server =
        block_on(Server::start(&fixture.pool, "tcp:127.0.0.1:0".parse().unwrap(), Options::default())).unwrap();
    let address = server.address();
    let port = address.strip_prefix("nbd://").unwrap().strip_suffix('/').unwrap();
    let stream = TcpStream::connect(port).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let peer = stream.local_addr().unwrap().to_string();
    let mut client = Client::new(Box::new(stream)).agree_on(ReplyStyle::Extended).go("db");
    client.write(0, 0, &vec![4; 8 << 20]);
    assert!(client.read(0, 8 << 20).iter().all(|&byte| byte == 4));
    assert_eq!(server.clients()[0].peer, peer);
    client.disconnect();
    block_on(server.stop()).unwrap();
    assert!(TcpStream::connect(port).is_err());
}

#[test]
fn closing_the_pool_ends_the_server_whatever_its_clients_do() {
    let fixture = Fixture::with(Options { in_flight_requests: 2, ..Options::default() });
    fixture.write(0, &vec![1; 1 << 20]);
    let mut idle = fixture.client().agree_on(ReplyStyle::Structured).go("db");
    idle.write(0, 0, &[1; 512]);
    let mut haggling = fixture.client();
    // One whose answers wait for it, so that the server waits for room.
    let mut greedy = fixture.client().go("db");
    for _ in 0..20 {
        let (read, _) = greedy.request(CMD_READ, 0, 0, 1 << 20, &[]);
        greedy.send(&read);
    }
    eventually("answers wait", || fixture.server.clients().iter().any(|client| client.in_flight == 2));
    block_on(fixture.pool.close()).unwrap();
    assert!(idle.is_closed() && haggling.is_closed() && greedy.is_closed());
    eventually("the socket is gone", || !fixture.socket().exists());
    assert!(fixture.server.clients().is_empty());
    block_on(fixture.server.stop()).unwrap();
    let path = fixture.directory.path().join("x");
    let error = block_on(Server::start(&fixture.pool, Listen::Unix(path.clone()), Options::default()));
    assert_eq!(error.err().unwrap().kind(), ErrorKind::Closed);
    assert!(!path.exists());
}
