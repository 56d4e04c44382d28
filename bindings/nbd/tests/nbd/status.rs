use crate::{client::*, fixture::*};
use cairn_nbd::protocol::*;

const HOLE: u64 = (STATE_HOLE | STATE_ZERO) as u64;
const CHANGED: u64 = STATE_CHANGED as u64;
const M: u64 = 1 << 20;

/// Asks until the range is covered; the extents, neighbours joined.
fn map(client: &mut Client, context: u32, mut offset: u64, end: u64) -> Vec<(u64, u64)> {
    let mut extents: Vec<(u64, u64)> = Vec::new();
    while offset < end {
        let answer = client.call(CMD_BLOCK_STATUS, 0, offset, end - offset, &[]);
        let (_, part) = answer.status.iter().find(|(id, _)| *id == context).unwrap_or_else(|| panic!("{answer:?}"));
        for &(length, status) in part {
            assert!(length > 0);
            offset += length;
            match extents.last_mut() {
                Some(last) if last.1 == status => last.0 += length,
                _ => extents.push((length, status)),
            }
        }
    }
    extents
}

fn fixture() -> Fixture {
    let fixture = Fixture::new();
    fixture.write(M, &vec![1; M as usize]);
    fixture.snapshot("monday");
    fixture.write(M + 8192, &[2; 4096]);
    fixture.write(4 * M, &[2; 8192]);
    fixture
}

#[test]
fn both_contexts_are_exact_under_both_styles() {
    let fixture = fixture();
    for style in [ReplyStyle::Structured, ReplyStyle::Extended] {
        let mut client = fixture.client().agree_on(style);
        let ids =
            client.select("db", &["base:allocation", "cairn:changed-since=monday", "cairn:changed-since=db@monday"]);
        assert_eq!(ids.len(), 3);
        let mut client = client.go("db");
        let allocation = [(M, HOLE), (M, 0), (2 * M, HOLE), (8192, 0), (SIZE - 4 * M - 8192, HOLE)];
        assert_eq!(map(&mut client, ids[0], 0, SIZE), allocation, "{style:?}");
        let changed = [(M + 8192, 0), (4096, CHANGED), (3 * M - 12288, 0), (8192, CHANGED), (SIZE - 4 * M - 8192, 0)];
        assert_eq!(map(&mut client, ids[1], 0, SIZE), changed, "{style:?}");
        assert_eq!(map(&mut client, ids[2], 0, SIZE), changed, "{style:?}");
    }
}

#[test]
fn one_extent_is_never_longer_than_asked_for() {
    let fixture = fixture();
    let mut client = fixture.client().agree_on(ReplyStyle::Structured);
    let ids = client.select("db", &["base:allocation"]);
    let mut client = client.go("db");
    let one = |client: &mut Client, offset, length| {
        client.call(CMD_BLOCK_STATUS, CMD_FLAG_REQ_ONE, offset, length, &[]).status
    };
    assert_eq!(one(&mut client, 512, 512), [(ids[0], vec![(512, HOLE)])]);
    assert_eq!(one(&mut client, M - 4096, 8192), [(ids[0], vec![(4096, HOLE)])]);
    assert_eq!(client.call(CMD_BLOCK_STATUS, 0, SIZE - 512, 1024, &[]).errno, EINVAL);
}

#[test]
fn a_payload_chooses_among_the_contexts() {
    let fixture = fixture();
    let mut client = fixture.client().agree_on(ReplyStyle::Extended);
    let ids = client.select("db", &["base:allocation", "cairn:changed-since=monday"]);
    let mut client = client.go("db");
    assert!(client.flags & TRANSMIT_BLOCK_STATUS_PAYLOAD != 0);
    let payload = |ids: &[u32]| {
        let mut out = 4096u64.to_be_bytes().to_vec();
        ids.iter().for_each(|id| out.extend_from_slice(&id.to_be_bytes()));
        out
    };
    let some = payload(&ids[1..]);
    let answer = client.call(CMD_BLOCK_STATUS, 0, M + 8192, some.len() as u64, &some);
    assert_eq!(answer.status, [(ids[1], vec![(4096, CHANGED)])]);
    let unknown = payload(&[77]);
    assert_eq!(client.call(CMD_BLOCK_STATUS, 0, 0, unknown.len() as u64, &unknown).errno, EINVAL);
    let twice = payload(&[ids[0], ids[0]]);
    assert_eq!(client.call(CMD_BLOCK_STATUS, 0, 0, twice.len() as u64, &twice).errno, EINVAL);
    let long = [0; 500];
    assert_eq!(client.call(CMD_BLOCK_STATUS, 0, 0, 500, &long).errno, EINVAL, "read past, and refused");
    client.ok(CMD_FLUSH, 0, 0, 0);
}

#[test]
fn snapshots_compare_with_older_ones() {
    let fixture = fixture();
    fixture.snapshot("tuesday");
    fixture.write(8 * M, &[3; 4096]);
    let mut client = fixture.client().agree_on(ReplyStyle::Structured);
    let ids = client.select("db@tuesday", &["cairn:changed-since=monday"]);
    let mut client = client.go("db@tuesday");
    let changed: u64 = map(&mut client, ids[0], 0, SIZE).iter().filter(|e| e.1 == CHANGED).map(|e| e.0).sum();
    assert_eq!(changed, 4096 + 8192, "what came after the snapshot is not in it");
}

#[test]
fn snapshots_that_a_client_compares_with_are_held() {
    let fixture = fixture();
    let mut client = fixture.client().agree_on(ReplyStyle::Structured);
    client.select("db", &["cairn:changed-since=monday"]);
    let client = client.go("db");
    let target = "db@monday".parse().unwrap();
    let attached = || pollster::block_on(fixture.pool.snapshot_info(&target)).unwrap().attached;
    assert_eq!(attached(), 1);
    client.disconnect();
    eventually("the snapshot is let go", || attached() == 0);
}
