//! Damaged pools: found, named, never returned as data; the other copies are used where there are any.

use cairn_tests::{
    fixture::{Server, TempPool},
    nbd::{Client, Request, errno},
    pattern,
};
use fastrand::Rng;
use std::os::unix::fs::FileExt;

use crate::images::MIB;

const BLOCK: usize = 4096;

/// Where in the pool's file a block of this content lies.
fn find(pool: &TempPool, content: &[u8]) -> Vec<u64> {
    let file = std::fs::read(pool.path()).unwrap();
    let blocks = file.chunks_exact(BLOCK).zip(0u64..);
    blocks.filter(|(block, _)| block.starts_with(content)).map(|(_, number)| number * BLOCK as u64).collect()
}

/// Flips one bit of the pool's file.
fn flip(pool: &TempPool, offset: u64) {
    let file = pool.open_file();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
}

fn client(server: &Server<'_>) -> Client {
    Client::connect(&server.address(), "v").unwrap()
}

/// A volume of 8 MiB with 1 MiB of data, closed well.
fn pool_with_data() -> TempPool {
    let pool = TempPool::create("64MiB");
    pool.cairn(["volume", "create", "v", "--size", "8MiB"]);
    let server = pool.serve();
    let mut client = client(&server);
    client.write(0, &pattern::bytes(0, 2048, 77));
    client.flush();
    drop(client);
    server.stop();
    pool
}

#[test]
fn a_damaged_data_block_is_an_error_that_names_it() {
    let pool = pool_with_data();
    // The block at 400 KiB of the volume.
    let block = 100u64;
    let places = find(&pool, &pattern::bytes(block * 8, 1, 77));
    assert_eq!(places.len(), 1, "data is stored once");
    flip(&pool, places[0] + 1234);

    let server = pool.serve();
    let mut client = client(&server);
    let offset = block * BLOCK as u64;
    assert_eq!(client.call(&Request::Read { offset, length: 512 }), Err(errno::EIO), "in the damaged block");
    assert_eq!(client.call(&Request::Read { offset: 0, length: MIB as u32 }), Err(errno::EIO), "a read that holds it");
    let (before, after) = (client.read(0, offset as u32), client.read(offset + BLOCK as u64, 64 << 10));
    assert_eq!(pattern::tags_of(&before, 0), Ok(vec![77; 800]), "the blocks before it");
    assert_eq!(pattern::tags_of(&after, 808), Ok(vec![77; 128]), "the blocks after it");
    // A write of a part of the block would make its damage look sound: refused too.
    let part = Request::Write { offset, data: vec![1; 512], fua: false };
    assert_eq!(client.call(&part), Err(errno::EIO));
    assert!(pool.stat("checksum_errors") > 0);

    let events = pool.json(["pool", "events"]).to_string();
    assert!(events.contains("corrupt") && events.contains(&offset.to_string()), "{events}");
    let checked = pool.try_cairn(["--json", "pool", "check", "--read-data"]);
    assert_eq!(checked.code(), 7, "{checked}");
    let report: serde_json::Value = serde_json::from_slice(&checked.stdout).unwrap();
    assert_eq!(report["problems"].as_array().map(Vec::len), Some(1), "{report}");
    let problem = report["problems"][0].as_str().unwrap();
    assert!(problem.contains('v') && problem.contains(&(places[0] / BLOCK as u64).to_string()), "{problem}");

    // Written as a whole it is sound again.
    client.write(offset, &pattern::bytes(block * 8, 8, 78));
    assert_eq!(pattern::tags_of(&client.read(offset, BLOCK as u32), block * 8), Ok(vec![78; 8]));
    drop(client);
    server.stop();
    pool.assert_clean();
}

#[test]
fn an_export_of_damaged_data_fails_and_leaves_no_image() {
    let pool = pool_with_data();
    flip(&pool, find(&pool, &pattern::bytes(8, 1, 77))[0]);
    let (kind, message) = pool.refused(["volume", "export", "v", &pool.file_text("out.raw")]);
    assert_eq!(kind, "corrupt", "{message}");
    assert!(!pool.file("out.raw").exists(), "an image that is not complete does not appear");
}

#[test]
fn any_copy_of_the_superblock_may_be_damaged() {
    let pool = pool_with_data();
    let copies = find(&pool, b"CAIRNPL1");
    assert!(copies.len() >= 2, "the superblock has copies: {copies:?}");
    let sound = std::fs::read(pool.path()).unwrap();
    for copy in &copies {
        std::fs::write(pool.path(), &sound).unwrap();
        flip(&pool, copy + 50);
        let server = pool.serve();
        assert_eq!(
            pattern::tags_of(&client(&server).read(0, MIB as u32), 0),
            Ok(vec![77; 2048]),
            "without the copy at {copy}"
        );
        server.stop();
        pool.assert_clean();
    }
    // The two newest of a checkpoint are there for each other; without all of them there is nothing to open.
    std::fs::write(pool.path(), &sound).unwrap();
    for copy in &copies {
        flip(&pool, copy + 50);
    }
    let (kind, message) = pool.refused(["pool", "info"]);
    assert!(kind == "corrupt" && message.contains("t.pool"), "{kind}: {message}");
}

/// How many of the first writes of [`pool_of_writes`] the pool holds, as it is now; none when it tells of damage.
///
/// # Errors
/// It does neither: what is wrong.
fn prefix_of(pool: &TempPool, blocks: u64) -> Result<Option<u64>, String> {
    let exported = pool.try_cairn(["volume", "export", "v", &pool.file_text("out.raw"), "--force"]);
    match exported.code() {
        0 => {}
        7 => return Ok(None),
        _ => return Err(format!("neither data nor \"corrupt\": {exported}")),
    }
    let tags = pattern::tags_of(&pool.read_file("out.raw"), 0)?;
    let written = (0..blocks).take_while(|block| tags[*block as usize * 8] != 0).count() as u64;
    for (place, tag) in tags.iter().zip(0u64..).map(|(tag, sector)| (sector / 8, *tag)) {
        let expected = if place < written { place + 1 } else { 0 };
        if tag != expected {
            return Err(format!("{written} writes are there, but block {place} is of write {tag}, not {expected}"));
        }
    }
    Ok(Some(written))
}

/// Writes one block after the other, a flush after each.
fn pool_of_writes(blocks: u64, kill: bool) -> TempPool {
    let pool = TempPool::create("32MiB");
    pool.cairn(["volume", "create", "v", "--size", "4MiB"]);
    let server = pool.serve();
    let mut client = client(&server);
    for block in 0..blocks {
        client.write(block * BLOCK as u64, &pattern::bytes(block * 8, 8, block + 1));
        client.flush();
    }
    drop(client);
    if kill {
        server.kill9()
    } else {
        server.stop()
    };
    pool
}

/// Damages one block of the pool's file after the other, of those that hold anything: superblocks, map, journal, nodes, data.
/// Whatever it is, the answer is "corrupt" or the right data, less at most the last `may_lose` writes.
fn damage_everywhere(kill: bool, may_lose: u64) {
    const BLOCKS: u64 = 40;
    let pool = pool_of_writes(BLOCKS, kill);
    let sound = std::fs::read(pool.path()).unwrap();
    let mut used: Vec<u64> =
        sound.chunks(BLOCK).zip(0..).filter(|(block, _)| block.iter().any(|byte| *byte != 0)).map(|(_, n)| n).collect();
    let mut rng = Rng::with_seed(0xda3a);
    rng.shuffle(&mut used);
    let (mut told, mut wrong) = (0, Vec::new());
    for block in used.iter().take(100) {
        std::fs::write(pool.path(), &sound).unwrap();
        let within = rng.u64(0..BLOCK as u64);
        flip(&pool, block * BLOCK as u64 + within);
        match prefix_of(&pool, BLOCKS) {
            Ok(None) => told += 1,
            Ok(Some(written)) if written + may_lose >= BLOCKS => {}
            Ok(Some(written)) => {
                wrong.push(format!("block {block}, byte {within}: {written} of {BLOCKS} writes, and no error"));
            }
            Err(text) => wrong.push(format!("block {block}, byte {within}: {text}")),
        }
    }
    assert!(wrong.is_empty(), "with one bit changed:\n{}", wrong.join("\n"));
    assert!(told > 0, "no damage was noticed");
}

#[test]
fn damage_anywhere_is_never_returned_as_data() {
    damage_everywhere(false, 0);
}

#[test]
fn damage_anywhere_after_a_kill_costs_at_most_the_last_group() {
    damage_everywhere(true, 1);
}

#[test]
fn a_truncated_pool_is_told_as_such() {
    let pool = pool_with_data();
    let length = std::fs::metadata(pool.path()).unwrap().len();
    for kept in [length / 2, 8192, 4096, 100, 0] {
        pool.open_file().set_len(kept).unwrap();
        let (kind, message) = pool.refused(["pool", "info"]);
        assert!(
            ["corrupt", "invalid"].contains(&kind.as_str()) && message.contains("t.pool"),
            "{kept} bytes: {kind}: {message}"
        );
    }
}

/// A pool whose volume, snapshots and clone share what [`pool_with_data`] wrote, but for block 100: the volume has it anew.
fn pool_of_four() -> TempPool {
    let pool = pool_with_data();
    pool.cairn(["snapshot", "create", "v@a"]);
    let server = pool.serve();
    let mut client = client(&server);
    client.write(100 * BLOCK as u64, &pattern::bytes(800, 8, 78));
    client.flush();
    drop(client);
    server.stop();
    pool.cairn(["snapshot", "create", "v@b"]);
    pool.cairn(["clone", "v@a", "copy"]);
    pool
}

/// The damaged ranges of a scrub's report: whose, offset and length.
fn ranges(report: &serde_json::Value) -> Vec<(String, u64, u64)> {
    let name = |damage: &serde_json::Value| match (damage["volume"].as_str(), damage["snapshot"].as_str()) {
        (Some(volume), Some(snapshot)) => format!("{volume}@{snapshot}"),
        (volume, _) => volume.unwrap_or("-").to_owned(),
    };
    let number = |damage: &serde_json::Value, field: &str| damage[field].as_u64().unwrap();
    let damaged = report["damaged"].as_array().unwrap();
    damaged.iter().map(|d| (name(d), number(d, "offset"), number(d, "length"))).collect()
}

#[test]
fn a_scrub_tells_everyone_who_reads_damaged_data() {
    let pool = pool_of_four();
    let (shared, old) = (find(&pool, &pattern::bytes(50 * 8, 1, 77)), find(&pool, &pattern::bytes(800, 1, 77)));
    assert_eq!((shared.len(), old.len()), (1, 1), "each is stored once, whoever shares it");
    let (at_shared, at_old) = (50 * BLOCK as u64, 100 * BLOCK as u64);
    let expected = [
        ("copy", at_shared),
        ("copy", at_old),
        ("v", at_shared),
        ("v@a", at_shared),
        ("v@a", at_old),
        ("v@b", at_shared),
    ]
    .map(|(whose, offset)| (whose.to_owned(), offset, BLOCK as u64));

    // A client works on while the server scrubs, and damage comes while it is served.
    let server = pool.serve();
    let mut client = client(&server);
    flip(&pool, shared[0] + 17);
    flip(&pool, old[0] + 4000);
    let scrubbed = pool.try_cairn(["--json", "pool", "scrub", "--rate", "8MiB"]);
    assert_eq!(scrubbed.code(), 7, "{scrubbed}");
    let outcome: serde_json::Value = serde_json::from_slice(&scrubbed.stdout).unwrap();
    assert_eq!(ranges(&outcome["report"]), expected, "{outcome}");
    assert_eq!((&outcome["report"]["damaged_blocks"], &outcome["report"]["data_blocks"]), (&2.into(), &257.into()));
    let status = pool.try_cairn(["--json", "pool", "scrub", "--status"]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!((&status["running"], &status["last"]), (&serde_json::Value::Null, &outcome));
    let events = pool.cairn(["pool", "events"]);
    assert_eq!(events.matches("a scrub has found damage").count(), 2, "{events}");

    // The client writes the block anew; the past keeps its damage.
    client.write(at_shared, &pattern::bytes(50 * 8, 8, 79));
    client.flush();
    drop(client);
    let text = pool.try_cairn(["pool", "scrub"]);
    assert_eq!(text.code(), 7, "{text}");
    let told: Vec<String> =
        text.text().lines().filter(|line| line.starts_with("damaged: ")).map(str::to_owned).collect();
    assert_eq!(told.len(), 5, "{text}");
    assert!(told.iter().all(|line| !line.starts_with("damaged: v:")), "{text}");
    server.stop();
    // Unserved it is the same.
    let scrubbed = pool.try_cairn(["--json", "pool", "scrub", "--rate", "unlimited"]);
    let outcome: serde_json::Value = serde_json::from_slice(&scrubbed.stdout).unwrap();
    assert_eq!((scrubbed.code(), ranges(&outcome["report"]).len()), (7, 5), "{outcome}");
}

#[test]
fn a_repair_mends_the_copies_and_waits_for_clients() {
    let pool = pool_of_four();
    let server = pool.serve();
    let mut client = client(&server);
    // Two checkpoints, so that all four copies were written by this server.
    for round in 0..2 {
        client.write(0, &pattern::bytes(0, 8, 90 + round));
        client.flush();
        pool.cairn(["volume", "delete", "copy", "--wait-space"]);
        pool.cairn(["clone", "v@a", "copy"]);
    }
    for copy in &find(&pool, b"CAIRNPL1")[1..3] {
        flip(&pool, copy + 600);
    }
    let checked = pool.try_cairn(["pool", "check"]);
    assert_eq!((checked.code(), checked.text().matches("problem: superblock copy").count()), (7, 2), "{checked}");
    let (kind, message) = pool.refused(["pool", "check", "--repair", "--yes"]);
    assert!(kind == "busy" && message.contains("open: v;"), "{message}");
    assert_eq!(pattern::tags_of(&client.read(0, BLOCK as u32), 0), Ok(vec![91; 8]), "the client has not noticed");
    drop(client);
    pool.cairn_when_free(&["pool", "check", "--repair", "--yes"]);
    pool.assert_clean();
    let pool = server.restart_after_kill9();
    assert_eq!(pool.pool().stat("checksum_errors"), 0);
    pool.stop();
}
