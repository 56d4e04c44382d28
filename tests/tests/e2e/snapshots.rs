//! Snapshots while clients write, and everything about versions that shows outside.

use cairn_tests::{
    fixture::{Server, TempPool},
    nbd::Client,
    pattern::{self, SECTOR},
    tool::run,
};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{
    clients_fio::fio,
    images::{MIB, assert_same, disk},
};

/// Sectors in a block.
const PER_BLOCK: u64 = 8;

/// How many of the blocks of an export, from the first on, hold the tag of their place plus one.
fn written_blocks(server: &Server<'_>, export: &str) -> Vec<bool> {
    let mut client = Client::connect(&server.address(), export).unwrap();
    let size = client.export().size;
    let data: Vec<u8> = (0..size).step_by(MIB).flat_map(|offset| client.read(offset, MIB as u32)).collect();
    let tags = pattern::tags_of(&data, 0).unwrap_or_else(|wrong| panic!("{export}: {wrong}"));
    let blocks = tags.chunks(PER_BLOCK as usize).enumerate();
    blocks
        .map(|(block, tags)| {
            let all = |tag| tags.iter().all(|found| *found == tag);
            assert!(all(0) || all(block as u64 + 1), "{export}: block {block} holds {tags:?}");
            !all(0)
        })
        .collect()
}

/// One client writes one block after the other, in turn to two volumes, each after the reply to the one before. Snapshots of
/// both, taken meanwhile, must hold the first so many of them: a moment, the same for both.
#[test]
fn a_snapshot_of_several_volumes_is_one_moment() {
    let pool = TempPool::create("512MiB");
    for name in ["a", "b"] {
        pool.cairn(["volume", "create", name, "--size", "32MiB"]);
    }
    let server = pool.serve();
    let done = AtomicBool::new(false);
    let taken = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut clients = ["a", "b"].map(|name| Client::connect(&server.address(), name).unwrap());
            let mut written = 0;
            for block in 0..32 * MIB as u64 / 4096 {
                for client in &mut clients {
                    client.write(block * 4096, &pattern::bytes(block * PER_BLOCK, PER_BLOCK, block + 1));
                }
                written = block + 1;
                if done.load(Ordering::Relaxed) {
                    break;
                }
            }
            written
        });
        let names: Vec<String> = (0..12).map(|number| format!("s{number}")).collect();
        for name in &names {
            pool.cairn(["snapshot", "create", &format!("a@{name}"), &format!("b@{name}")]);
        }
        done.store(true, Ordering::Relaxed);
        assert!(writer.join().unwrap() > 0, "the writer wrote");
        names
    });
    let mut before = 0;
    for name in taken {
        let [a, b] = ["a", "b"].map(|volume| written_blocks(&server, &format!("{volume}@{name}")));
        let [count_a, count_b] = [&a, &b].map(|blocks| blocks.iter().filter(|written| **written).count());
        for (blocks, count) in [(&a, count_a), (&b, count_b)] {
            assert!(blocks[..count].iter().all(|written| *written), "{name}: not the first {count} blocks");
        }
        assert!(count_a == count_b || count_a == count_b + 1, "{name}: {count_a} of a, {count_b} of b");
        assert!(count_a >= before, "{name} is older than the snapshot before it");
        before = count_a;
    }
}

#[test]
fn snapshots_under_fio_hold_what_they_held() {
    let pool = TempPool::create("1GiB");
    pool.cairn(["volume", "create", "v", "--size", "64MiB"]);
    let server = pool.serve();
    let hashes = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            fio(
                &server,
                "64M",
                &["--rw=randwrite", "--bs=4k", "--iodepth=32", "--verify=crc32c", "--loops=2", "--verify_backlog=1024"],
            )
        });
        let mut hashes = Vec::new();
        while !load.is_finished() && hashes.len() < 20 {
            let name = format!("v@s{}", hashes.len());
            pool.cairn(["snapshot", "create", &name]);
            let data = run("nbdcopy", [server.uri(&name).as_str(), "-"]).ok().stdout;
            assert_eq!(data.len(), 64 * MIB);
            hashes.push((name, crc(&data)));
        }
        load.join().unwrap();
        hashes
    });
    assert!(!hashes.is_empty());
    for (name, hash) in &hashes {
        assert_eq!(crc(&run("nbdcopy", [server.uri(name).as_str(), "-"]).ok().stdout), *hash, "{name} has changed");
    }
    // In an awkward order: every other one first, then the rest.
    for odd in [1, 0] {
        for (name, _) in hashes.iter().skip(odd).step_by(2) {
            pool.cairn_when_free(&["snapshot", "delete", name]);
        }
    }
    server.stop();
    pool.assert_clean();
}

/// A number that differs when the bytes do, for all that a test can tell.
fn crc(data: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hasher};
    let mut hasher = DefaultHasher::new();
    hasher.write(data);
    hasher.finish()
}

#[test]
fn everything_can_be_deleted_in_any_order() {
    let pool = TempPool::create("512MiB");
    let empty = pool.used_when_empty();
    let disk = disk(31, 16);
    let file = pool.file_with("disk", &disk);
    pool.cairn(["volume", "import", &file, "v"]);
    let server = pool.serve();
    let mut kept = disk.clone();
    for (number, at) in [(1u8, 1), (2, 5), (3, 9)] {
        pool.cairn(["snapshot", "create", &format!("v@s{number}")]);
        let mut client = Client::connect(&server.address(), "v").unwrap();
        kept[at * MIB..(at + 1) * MIB].fill(number);
        client.write((at * MIB) as u64, &vec![number; MIB]);
    }
    pool.cairn(["clone", "v@s2", "c"]);
    pool.cairn(["snapshot", "create", "c@own"]);
    let clone = run("nbdcopy", [server.uri("c").as_str(), "-"]).ok().stdout;

    // The middle one, which is the base of a clone; then the volume under the clone.
    pool.cairn_when_free(&["snapshot", "delete", "v@s2"]);
    assert_same(&run("nbdcopy", [server.uri("v").as_str(), "-"]).ok().stdout, &kept, "the volume");
    assert_same(&run("nbdcopy", [server.uri("c").as_str(), "-"]).ok().stdout, &clone, "the clone");
    let (kind, message) = pool.refused(["volume", "delete", "v"]);
    assert!(kind == "busy" && message.contains("cascade"), "{kind}: {message}");
    pool.cairn_when_free(&["volume", "delete", "v", "--cascade", "--wait-space"]);
    assert_same(&run("nbdcopy", [server.uri("c").as_str(), "-"]).ok().stdout, &clone, "the clone on its own");
    pool.cairn_when_free(&["snapshot", "delete", "c@own"]);
    pool.cairn_when_free(&["volume", "delete", "c", "--wait-space"]);
    server.stop();
    pool.assert_clean();
    assert_eq!(pool.stat("used"), empty, "all space came back");
}

#[test]
fn revert_goes_back_and_keeps_its_rules() {
    let pool = TempPool::create("256MiB");
    let first = disk(32, 8);
    let file = pool.file_with("disk", &first);
    pool.cairn(["volume", "import", &file, "v"]);
    pool.cairn(["snapshot", "create", "v@first"]);
    pool.cairn(["volume", "resize", "v", "--size", "12MiB"]);
    let server = pool.serve();
    let mut client = Client::connect(&server.address(), "v").unwrap();
    client.write(0, &pattern::bytes(0, 64, 5));
    client.write(10 * MIB as u64, &pattern::bytes(0, 64, 6));
    pool.cairn(["snapshot", "create", "v@second"]);
    assert_eq!(pool.refused(["snapshot", "revert", "v@first"]).0, "busy", "a client is attached");
    drop(client);
    pool.cairn_when_free(&["snapshot", "revert", "v@first"]);
    assert_same(
        &run("nbdcopy", [server.uri("v").as_str(), "-"]).ok().stdout,
        &first,
        "the volume as it was, in its old size",
    );
    pool.cairn_when_free(&["snapshot", "revert", "v@second"]);
    let mut client = Client::connect(&server.address(), "v").unwrap();
    assert_eq!(client.export().size, 12 * MIB as u64);
    assert_eq!(pattern::tags_of(&client.read(0, (64 * SECTOR) as u32), 0), Ok(vec![5; 64]));
    assert_eq!(pool.refused(["snapshot", "revert", "v@third"]).0, "not-found");
}
