//! Requests that limits hold back: they wait in the socket, and nobody has to wait for them.

use crate::{client::*, fixture::*};
use cairn_engine::VolumeOptions;
use cairn_nbd::protocol::*;
use pollster::block_on;

impl Fixture {
    fn limit(&self, key: &str, value: Option<&str>) {
        let change = [(key.to_owned(), value.map(str::to_owned))];
        block_on(self.pool.set_qos(&"db".parse().unwrap(), &change)).unwrap();
    }

    fn waiting(&self) -> u64 {
        block_on(self.pool.qos(&"db".parse().unwrap())).unwrap().waiting
    }

    /// A client that has used up a limit of a byte a second, and waits for years.
    fn held_back(&self, command: u16) -> Client {
        self.limit("total_bytes_sec", Some("1"));
        let mut client = self.client().agree_on(ReplyStyle::Structured).go("db");
        client.write(0, 0, &[1; 4096]);
        let payload: &[u8] = if command == CMD_WRITE { &[2; 4096] } else { &[] };
        let (request, _) = client.request(command, 0, 0, 4096, payload);
        client.send(&request);
        eventually("it waits", || self.waiting() == 1);
        client
    }
}

#[test]
fn a_lifted_limit_lets_go_what_waits() {
    let fixture = Fixture::new();
    for command in [CMD_READ, CMD_WRITE] {
        let mut client = fixture.held_back(command);
        // What is free goes on elsewhere; what is behind it on this connection waits.
        let mut other = fixture.client().agree_on(ReplyStyle::Structured).go("db");
        let (flush, _) = other.request(CMD_FLUSH, 0, 0, 0, &[]);
        other.send(&flush);
        assert_eq!(other.answer(&|_| (0, 0)).1.errno, 0);
        fixture.limit("total_bytes_sec", None);
        let length = if command == CMD_READ { 4096 } else { 0 };
        let (_, answer) = client.answer(&|_| (0, length));
        assert_eq!(answer.errno, 0, "{}", answer.text);
        client.disconnect();
        other.disconnect();
    }
    let stats = block_on(fixture.pool.volume_stats()).unwrap();
    assert_eq!((stats[0].name.as_str(), stats[0].flows.write.requests, stats[0].flows.read.requests), ("db", 3, 1));
    assert_eq!(stats[0].held["volume:total_bytes_sec"].requests, 2);
    assert_eq!(stats[0].in_flight, 0);
}

#[test]
fn a_client_that_goes_leaves_nothing_waiting() {
    let fixture = Fixture::new();
    for command in [CMD_READ, CMD_WRITE, CMD_READ] {
        drop(fixture.held_back(command));
        eventually("it is gone", || fixture.waiting() == 0 && fixture.attached() == 0);
        fixture.limit("total_bytes_sec", None);
    }
    assert!(fixture.server.clients().is_empty());
}

#[test]
fn a_client_that_only_stops_sending_gets_its_answers() {
    let fixture = Fixture::new();
    fixture.limit("total_bytes_sec", Some("1"));
    let stream = fixture.stream();
    let sending = stream.try_clone().unwrap();
    let mut client = Client::new(Box::new(stream)).agree_on(ReplyStyle::Structured).go("db");
    client.write(0, 0, &[1; 4096]);
    let (one, _) = client.request(CMD_READ, 0, 0, 4096, &[]);
    let (two, _) = client.request(CMD_FLUSH, 0, 0, 0, &[]);
    client.send(&[one, two].concat());
    sending.shutdown(std::net::Shutdown::Write).unwrap();
    eventually("it waits", || fixture.waiting() == 1);
    fixture.limit("total_bytes_sec", None);
    assert_eq!(client.answer(&|_| (0, 4096)).1.errno, 0);
    assert_eq!(client.answer(&|_| (0, 0)).1.errno, 0);
    assert!(client.is_closed());
}

#[test]
fn stopping_does_not_wait_for_limits() {
    let fixture = Fixture::new();
    let mut client = fixture.held_back(CMD_WRITE);
    block_on(fixture.server.stop()).unwrap();
    assert_eq!(client.answer(&|_| (0, 0)).1.errno, ESHUTDOWN);
    assert!(client.is_closed());
    assert_eq!((fixture.waiting(), fixture.attached()), (0, 0));
}

#[test]
fn closing_the_pool_does_not_wait_for_limits() {
    let fixture = Fixture::new();
    let mut client = fixture.held_back(CMD_READ);
    block_on(fixture.pool.close()).unwrap();
    assert!(client.is_closed());
}

/// A client says that it is going to write, and sends no data.
#[test]
fn a_client_whose_data_does_not_come_stops_nobody() {
    let fixture = Fixture::new();
    let others: Vec<String> = (0..30).map(|n| format!("other{n}")).collect();
    let mut stalling: Vec<Client> =
        (0..4).map(|_| fixture.client().agree_on(ReplyStyle::Structured).go("db")).collect();
    for client in &mut stalling {
        let (header, _) = client.request(CMD_WRITE, 0, 0, 1 << 20, &[]);
        client.send(&header);
    }
    let mut clients: Vec<Client> = others
        .iter()
        .map(|name| {
            drop(block_on(fixture.pool.create_volume(name, 1 << 20, VolumeOptions::default())).unwrap());
            fixture.client().agree_on(ReplyStyle::Structured).go(name)
        })
        .collect();
    // All at the same time, over and over, so that they are many that want the device.
    for _ in 0..20 {
        for client in &mut clients {
            let (write, _) = client.request(CMD_WRITE, 0, 0, 65536, &[3; 65536]);
            client.send(&write);
        }
        for client in &mut clients {
            assert_eq!(client.answer(&|_| (0, 0)).1.errno, 0);
        }
    }
    stalling.into_iter().for_each(drop);
    eventually("they are gone", || fixture.waiting() == 0);
}
