//! A pool filled to the last block: writes are refused, everything else goes on, nothing acknowledged is lost.

use cairn_tests::{
    fixture::{Server, TempPool},
    nbd::{Client, Request, errno},
    pattern::{self, SECTOR},
    tool::run,
};
use std::time::{Duration, Instant};

use crate::images::MIB;

const PIECE: u64 = MIB as u64;
const SECTORS: u64 = PIECE / SECTOR as u64;

/// How long space may take to come back. Only there so that nothing hangs for ever.
const DEADLINE: Duration = Duration::from_secs(60);

fn write(client: &mut Client, piece: u64, tag: u64) -> Result<(), u32> {
    write_in(client, piece, tag, 1)
}

/// Writes a piece in several requests.
fn write_in(client: &mut Client, piece: u64, tag: u64, requests: u64) -> Result<(), u32> {
    let sectors = SECTORS / requests;
    (0..requests).map(|request| piece * SECTORS + request * sectors).try_for_each(|first| {
        let data = pattern::bytes(first, sectors, tag);
        client.call(&Request::Write { offset: first * SECTOR as u64, data, fua: false }).map(drop)
    })
}

/// Fills the pool through a volume and gives how many pieces were acknowledged.
fn fill(client: &mut Client) -> u64 {
    let mut pieces = 0;
    loop {
        match write(client, pieces, pieces + 1) {
            Ok(()) => pieces += 1,
            Err(error) => {
                assert_eq!(error, errno::ENOSPC, "the error of a full pool");
                return pieces;
            }
        }
        assert!(pieces < 1024, "a pool of 64 MiB has taken a GiB");
    }
}

fn assert_pieces(client: &mut Client, pieces: impl Iterator<Item = (u64, u64)>) {
    for (piece, tag) in pieces {
        let tags = pattern::tags_of(&client.read(piece * PIECE, MIB as u32), piece * SECTORS);
        let tags = tags.unwrap_or_else(|wrong| panic!("piece {piece}: {wrong}"));
        assert!(tags.iter().all(|found| *found == tag), "piece {piece}: not all of write {tag}");
    }
}

/// Writes again and again until there is room, which freed space may need some commits for.
fn write_when_free(client: &mut Client, piece: u64, tag: u64) {
    let deadline = Instant::now() + DEADLINE;
    while let Err(error) = write(client, piece, tag) {
        assert_eq!(error, errno::ENOSPC);
        assert!(Instant::now() < deadline, "no space came back");
        client.flush();
    }
}

fn served(pool: &TempPool) -> (Server<'_>, Client) {
    let server = pool.serve();
    let client = Client::connect(&server.address(), "v").unwrap();
    (server, client)
}

#[test]
fn reads_flushes_overwrites_and_discards_go_on() {
    let pool = TempPool::create("64MiB");
    pool.cairn(["volume", "create", "v", "--size", "1GiB"]);
    let (server, mut client) = served(&pool);
    let pieces = fill(&mut client);
    assert!(pieces >= 32, "only {pieces} MiB of a pool of 64 MiB could be used");
    client.flush();
    assert_pieces(&mut client, (0..pieces).map(|piece| (piece, piece + 1)));
    // What the volume owns can be overwritten, for as long as one likes.
    for round in 1..=3 {
        for piece in 0..pieces {
            let outcome = write_in(&mut client, piece, 1000 * round + piece, 8);
            outcome.unwrap_or_else(|error| panic!("overwriting piece {piece}, round {round}: error {error}"));
        }
    }
    assert_pieces(&mut client, (0..pieces).map(|piece| (piece, 3000 + piece)));
    let refused = run("qemu-io", ["-f", "raw", "-c", "write 512M 8M", &server.uri("v")]);
    assert!(refused.said().contains("No space left on device"), "{refused}");
    // Discards give space back, which others can then use.
    client.call(&Request::Trim { offset: 0, length: 8 * MIB as u32 }).unwrap();
    for piece in 100..106 {
        write_when_free(&mut client, piece, piece);
    }
    client.flush();
    drop(client);
    let server = server.restart_after_kill9();
    let mut client = Client::connect(&server.address(), "v").unwrap();
    assert_pieces(&mut client, (0..8).map(|piece| (piece, 0)));
    assert_pieces(&mut client, (8..pieces).map(|piece| (piece, 3000 + piece)));
    assert_pieces(&mut client, (100..106).map(|piece| (piece, piece)));
    drop(client);
    server.stop();
    pool.assert_clean();
}

#[test]
fn overwrites_larger_than_the_reserve_go_on() {
    let pool = TempPool::create("64MiB");
    pool.cairn(["volume", "create", "v", "--size", "1GiB"]);
    let (server, mut client) = served(&pool);
    let pieces = fill(&mut client);
    for (round, requests) in [(1, 4), (2, 2), (3, 1)] {
        for piece in 0..pieces {
            let outcome = write_in(&mut client, piece, 1000 * round + piece, requests);
            outcome.unwrap_or_else(|error| panic!("piece {piece} in {requests} requests: error {error}"));
        }
    }
    assert_pieces(&mut client, (0..pieces).map(|piece| (piece, 3000 + piece)));
    drop(client);
    server.stop();
    pool.assert_clean();
}

#[test]
fn snapshots_and_volumes_can_be_deleted() {
    let pool = TempPool::create("64MiB");
    let empty = pool.used_when_empty();
    pool.cairn(["volume", "create", "v", "--size", "1GiB"]);
    let (server, mut client) = served(&pool);
    for piece in 0..10 {
        write(&mut client, piece, piece + 1).unwrap();
    }
    pool.cairn(["snapshot", "create", "v@s"]);
    let pieces = fill(&mut client);
    client.flush();
    // The first ten pieces of the snapshot are its own now, and all space is used. It goes, and its space comes back.
    pool.cairn_when_free(&["snapshot", "delete", "v@s", "--wait-space"]);
    write_when_free(&mut client, pieces, pieces + 1);
    assert_pieces(&mut client, (0..=pieces).map(|piece| (piece, piece + 1)));
    drop(client);
    pool.cairn_when_free(&["volume", "delete", "v", "--wait-space"]);
    server.stop();
    pool.assert_clean();
    assert_eq!(pool.stat("used"), empty, "all space came back");
}

#[test]
fn a_kill_on_a_full_pool_loses_nothing_that_was_flushed() {
    let pool = TempPool::create("64MiB");
    pool.cairn(["volume", "create", "v", "--size", "1GiB"]);
    let (server, mut client) = served(&pool);
    let pieces = fill(&mut client);
    client.flush();
    drop(client);
    let server = server.restart_after_kill9();
    let mut client = Client::connect(&server.address(), "v").unwrap();
    assert_pieces(&mut client, (0..pieces).map(|piece| (piece, piece + 1)));
    assert_eq!(write(&mut client, pieces + 100, 1), Err(errno::ENOSPC), "it is still full");
    assert_eq!(pool.refused(["clone", "v@missing", "c"]).0, "not-found", "commands are answered");
    drop(client);
    pool.cairn_when_free(&["volume", "delete", "v", "--wait-space"]);
    drop(server);
    pool.assert_clean();
}
