use crate::{client::*, fixture::*};
use cairn_nbd::{Options, protocol::*};
use pollster::block_on;
use std::collections::HashMap;

const STYLES: [ReplyStyle; 3] = [ReplyStyle::Simple, ReplyStyle::Structured, ReplyStyle::Extended];

/// Numbers that look random and are the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

fn pattern(length: u64, seed: u64) -> Vec<u8> {
    (0..length).map(|i| (i / 512 * 7 + i % 251 + seed) as u8 | 1).collect()
}

#[test]
fn a_model_holds_under_all_reply_styles() {
    const SPAN: u64 = 1 << 20;
    for (seed, style) in STYLES.into_iter().enumerate() {
        let fixture = Fixture::new();
        let mut client = fixture.client().agree_on(style).go("db");
        let mut model = vec![0u8; SPAN as usize];
        let mut random = Random(0x9e37_79b9_7f4a_7c15 + seed as u64);
        for step in 0..400 {
            let offset = random.below(SPAN / 512) * 512;
            let length = (random.below(96) + 1) * 512;
            let length = length.min(SPAN - offset);
            let range = offset as usize..(offset + length) as usize;
            match random.below(8) {
                0..3 => {
                    let data = pattern(length, step);
                    client.write(if random.below(4) == 0 { CMD_FLAG_FUA } else { 0 }, offset, &data);
                    model[range].copy_from_slice(&data);
                }
                3 => {
                    client.ok(CMD_WRITE_ZEROES, 0, offset, length);
                    model[range].fill(0);
                }
                4 => client.ok(CMD_FLUSH, 0, 0, 0),
                5 => client.ok(CMD_CACHE, 0, offset, length),
                _ => assert_eq!(client.read(offset, length), model[range], "step {step} under {style:?}"),
            }
        }
        client.ok(CMD_TRIM, CMD_FLAG_FUA, 0, SPAN);
        assert!(client.read(0, SPAN).iter().all(|&byte| byte == 0), "whole blocks were discarded");
        client.disconnect();
    }
}

#[test]
fn many_requests_in_one_packet_are_all_answered() {
    for style in STYLES {
        let fixture = Fixture::new();
        let mut client = fixture.client().agree_on(style).go("db");
        let (mut packet, mut asked) = (Vec::new(), HashMap::new());
        for i in 0..200 {
            let (bytes, cookie) = client.request(CMD_WRITE, 0, i * 4096, 4096, &pattern(4096, i));
            packet.extend(bytes);
            asked.insert(cookie, (i * 4096, 0));
        }
        client.send(&packet);
        let mut answered = HashMap::new();
        for _ in 0..200 {
            let (cookie, answer) = client.answer(&|cookie| asked[&cookie]);
            assert_eq!(answer.errno, 0);
            assert!(answered.insert(cookie, ()).is_none(), "answered twice");
        }
        let (mut packet, mut asked) = (Vec::new(), HashMap::new());
        for i in 0..200 {
            let (bytes, cookie) = client.request(CMD_READ, 0, i * 4096, 4096, &[]);
            packet.extend(bytes);
            asked.insert(cookie, (i * 4096, 4096));
        }
        client.send(&packet);
        for _ in 0..200 {
            let (cookie, answer) = client.answer(&|cookie| asked[&cookie]);
            let (offset, _) = asked.remove(&cookie).unwrap();
            assert_eq!(answer.data, pattern(4096, offset / 4096));
        }
        let info = &fixture.server.clients()[0];
        assert_eq!((info.requests, info.read_bytes, info.written_bytes), (400, 200 * 4096, 200 * 4096));
        client.disconnect();
    }
}

#[test]
fn payloads_of_any_size_arrive_however_they_are_cut() {
    let fixture = Fixture::new();
    let mut client = fixture.client().agree_on(ReplyStyle::Structured).go("db");
    for (seed, length) in
        [512, 4096, 65536, 200 << 10, 256 << 10, (256 << 10) + 512, 1 << 20, 32 << 20].into_iter().enumerate()
    {
        let data = pattern(length, seed as u64);
        client.write(0, 4096, &data);
        assert!(client.read(4096, length) == data, "{length} bytes in one piece");
    }
    for cut in [1, 27, 28, 29, 4000, 28 + 65536, 300_000] {
        let data = pattern(400 << 10, cut as u64);
        let (bytes, cookie) = client.request(CMD_WRITE, 0, 0, data.len() as u64, &data);
        let (first, second) = bytes.split_at(cut);
        client.send(first);
        // The server has seen the first piece for sure once another client was answered after it.
        fixture.client().go("db").disconnect();
        client.send(second);
        assert_eq!(client.answer(&|_| (0, 0)).0, cookie);
        assert!(client.read(0, data.len() as u64) == data, "cut at {cut}");
    }
}

#[test]
fn zeros_travel_as_holes_unless_the_client_wants_them_whole() {
    let fixture = Fixture::new();
    fixture.write(8192, &[1; 512]);
    let mut client = fixture.client().agree_on(ReplyStyle::Structured).go("db");
    let hole = client.call(CMD_READ, 0, 1 << 20, 1 << 20, &[]);
    assert_eq!((hole.holes, hole.chunks, hole.data.len()), (1, 1, 1 << 20));
    let whole = client.call(CMD_READ, CMD_FLAG_DF, 1 << 20, 1 << 20, &[]);
    assert_eq!((whole.holes, whole.chunks), (0, 1));
    assert!(whole.data.len() == 1 << 20 && whole.data.iter().all(|&byte| byte == 0));
    let mixed = client.call(CMD_READ, 0, 0, 16384, &[]);
    assert_eq!((mixed.holes, mixed.data[8192]), (0, 1));
    assert_eq!(client.call(CMD_READ, 0, 0, 0, &[]), Answer { chunks: 1, ..Answer::default() }, "nothing, successfully");
}

#[test]
fn errors_carry_numbers_and_texts() {
    let fixture = Fixture::new();
    fixture.snapshot("s");
    for style in STYLES {
        let mut client = fixture.client().agree_on(style).go("db");
        let data = [0; 1024];
        for (answer, errno, text) in [
            (client.call(CMD_READ, 0, SIZE, 512, &[]), EINVAL, "beyond"),
            (client.call(CMD_WRITE, 0, SIZE - 512, 1024, &data), ENOSPC, "beyond"),
            (client.call(CMD_READ, 0, 1, 512, &[]), EINVAL, "512"),
            (client.call(8, 0, SIZE * 2, 0, &[]), EINVAL, "command 8"),
            (client.call(CMD_BLOCK_STATUS, 0, 0, 512, &[]), EINVAL, "context"),
            (client.call(CMD_WRITE_ZEROES, CMD_FLAG_FAST_ZERO, 512, 512, &[]), ENOTSUP, "not faster"),
        ] {
            assert_eq!(answer.errno, errno, "{answer:?}");
            assert!(style == ReplyStyle::Simple || answer.text.contains(text), "{answer:?}");
        }
        let mut snapshot = fixture.client().agree_on(style).go("db@s");
        assert_eq!(snapshot.call(CMD_WRITE, 0, 0, 1024, &data).errno, EPERM);
        snapshot.ok(CMD_FLUSH, 0, 0, 0);
        assert_eq!(snapshot.read(0, 512), [0; 512]);
        client.ok(CMD_FLUSH, 0, 0, 0);
    }
}

#[test]
fn growth_shows_at_once_and_to_new_clients() {
    let fixture = Fixture::new();
    let mut client = fixture.client().agree_on(ReplyStyle::Structured).go("db");
    assert_eq!(client.call(CMD_READ, 0, SIZE, 512, &[]).errno, EINVAL);
    block_on(fixture.pool.resize("db", SIZE * 2)).unwrap();
    client.write(0, SIZE, &[5; 512]);
    let mut later = fixture.client().go("db");
    assert_eq!(later.size, SIZE * 2);
    assert_eq!(later.read(SIZE, 512), [5; 512]);
}

#[test]
fn a_flush_on_one_connection_covers_the_others() {
    let fixture = Fixture::new();
    let (mut one, mut other) = (fixture.client().go("db"), fixture.client().go("db"));
    assert!(one.flags & TRANSMIT_MULTI_CONN != 0);
    one.write(0, 0, &[8; 4096]);
    other.ok(CMD_FLUSH, 0, 0, 0);
    assert_eq!(other.read(0, 4096), [8; 4096]);
}

#[test]
fn tight_bounds_slow_a_client_down_and_lose_nothing() {
    let options =
        Options { max_request: 1 << 20, in_flight_bytes: 1 << 20, in_flight_requests: 3, ..Options::default() };
    let fixture = Fixture::with(options);
    let mut client = fixture.client().agree_on(ReplyStyle::Structured).go("db");
    let mut bytes = Vec::new();
    // More than three requests, and more than 1 MiB, at once; nothing is read back before all is sent.
    for i in 0..100 {
        bytes.extend(client.request(CMD_WRITE, 0, i << 16, 1 << 16, &pattern(1 << 16, i)).0);
    }
    client.send(&bytes);
    for _ in 0..100 {
        assert_eq!(client.answer(&|_| (0, 0)).1.errno, 0);
    }
    for i in 0..100 {
        assert!(client.read(i << 16, 1 << 16) == pattern(1 << 16, i));
    }
    assert_eq!(client.read(0, 1 << 20).len(), 1 << 20, "one request may take all of the room");
}
