//! `kill -9` of the server: what was flushed is there, and what is there is a prefix of what was acknowledged.

use cairn_tests::{
    fixture::TempPool,
    nbd::{Client, Request},
    pattern::{self, SECTOR, Tag},
};
use fastrand::Rng;

use crate::clients_fio::{fio, start_fio};

/// Where a write went, in sectors.
type Written = (u64, u64);

/// Applies the first `count` writes to a volume of zeros.
fn after(writes: &[Written], count: usize, sectors: usize) -> Vec<Tag> {
    let mut tags = vec![0; sectors];
    for ((first, length), tag) in writes.iter().take(count).zip(1..) {
        tags[*first as usize..(first + length) as usize].fill(tag);
    }
    tags
}

/// A client writes one request after the other, each after the reply to the one before, flushes now and then, and the server
/// is killed at a random place. What is there afterwards must be exactly the first so many writes, at least those before the
/// last flush.
#[test]
fn a_killed_server_is_at_a_prefix_and_not_before_the_last_flush() {
    const SECTORS: u64 = 8 << 11;
    let pool = TempPool::create("128MiB");
    pool.cairn(["volume", "create", "v", "--size", &(SECTORS * SECTOR as u64).to_string()]);
    let mut writes: Vec<Written> = Vec::new();
    let mut server = pool.serve();
    for round in 0..8 {
        let mut rng = Rng::with_seed(0xc4a5 + round);
        let mut client = Client::connect(&server.address(), "v").unwrap();
        let mut flushed = writes.len();
        for _ in 0..rng.usize(20..600) {
            if rng.u32(0..25) == 0 {
                client.flush();
                flushed = writes.len();
            }
            let length = *rng.choice([1, 3, 8, 8, 16, 40, 256].iter()).unwrap();
            let first = rng.u64(0..SECTORS - length);
            let fua = rng.u32(0..50) == 0;
            let data = pattern::bytes(first, length, writes.len() as Tag + 1);
            client.call(&Request::Write { offset: first * SECTOR as u64, data, fua }).unwrap();
            writes.push((first, length));
            if fua {
                flushed = writes.len();
            }
        }
        server = server.restart_after_kill9();
        let mut client = Client::connect(&server.address(), "v").unwrap();
        let tags = pattern::tags_of(&client.read(0, (SECTORS * SECTOR as u64) as u32), 0).unwrap();
        // The last write of a prefix shows, for nothing came after it.
        let prefix = tags.iter().copied().max().unwrap_or(0) as usize;
        let expected = after(&writes, prefix, tags.len());
        if let Some(sector) = (0..tags.len()).find(|sector| tags[*sector] != expected[*sector]) {
            let (found, expected) = (tags[sector], expected[sector]);
            panic!("round {round}: write {prefix} is there, but sector {sector} is of write {found}, not {expected}");
        }
        assert!(
            prefix >= flushed,
            "round {round}: {prefix} of {} writes are there, {flushed} were flushed",
            writes.len()
        );
        writes.truncate(prefix);
    }
    drop(server);
    pool.assert_clean();
}

/// fio writes a first part and flushes; while it writes a second part, the server is killed. fio finds the first part whole.
#[test]
fn fio_verifies_what_it_flushed_before_the_kill() {
    let pool = TempPool::create("512MiB");
    pool.cairn(["volume", "create", "v", "--size", "192MiB"]);
    let server = pool.serve();
    let first = ["--rw=randwrite", "--bs=4k", "--iodepth=32", "--verify=crc32c", "--do_verify=0", "--end_fsync=1"];
    fio(&server, "64M", &first);
    let before = pool.stat("used");
    let mut second = start_fio(
        &server,
        "64M",
        &["--offset=64M", "--rw=randwrite", "--bs=4k", "--iodepth=64", "--loops=1000", "--fsync=16"],
    );
    // It has come some way.
    while pool.stat("used") < before + (16 << 20) {
        assert!(second.try_wait().unwrap().is_none(), "fio ended before the server was killed");
    }
    let server = server.restart_after_kill9();
    assert!(!second.wait().unwrap().success(), "fio notices that its server is gone");
    fio(&server, "64M", &["--rw=randwrite", "--bs=4k", "--iodepth=32", "--verify=crc32c", "--verify_only"]);
    server.stop();
    pool.assert_clean();
}

#[test]
fn versions_survive_a_kill_as_soon_as_the_command_has_answered() {
    let pool = TempPool::create("256MiB");
    pool.cairn(["volume", "create", "v", "--size", "4MiB"]);
    let mut server = pool.serve();
    let mut names = Vec::new();
    for round in 0..6u64 {
        let mut client = Client::connect(&server.address(), "v").unwrap();
        client.write(0, &pattern::bytes(0, 512, round + 1));
        // Not flushed: the snapshot commits what it froze.
        let name = format!("v@s{round}");
        pool.cairn(["snapshot", "create", &name]);
        if round % 2 == 1 {
            pool.cairn(["clone", &name, &format!("c{round}")]);
            pool.cairn(["volume", "rename", &format!("c{round}"), &format!("d{round}")]);
        }
        names.push(name);
        server = server.restart_after_kill9();
        for (name, tag) in names.iter().zip(1..) {
            let mut client = Client::connect(&server.address(), name).unwrap();
            assert_eq!(
                pattern::tags_of(&client.read(0, 512 * 512), 0),
                Ok(vec![tag; 512]),
                "{name} after kill {round}"
            );
        }
        let volumes = pool.json(["volume", "list"]);
        let found: Vec<&str> =
            volumes["volumes"].as_array().unwrap().iter().map(|v| v["name"].as_str().unwrap()).collect();
        let clones = (0..=round).filter(|n| n % 2 == 1).map(|n| format!("d{n}"));
        assert_eq!(found, clones.chain(["v".to_owned()]).collect::<Vec<_>>(), "after kill {round}");
    }
    drop(server);
    pool.assert_clean();
}
