//! Requests that make no sense: each is refused with its kind, a sentence that names the thing, and no change.

use cairn_engine::{ErrorKind, OpenOptions, Pool};
use cairn_tests::{
    fixture::{Serve, TempPool},
    nbd::Client,
    tool::run,
};
use std::{
    os::unix::fs::FileExt,
    time::{Duration, Instant},
};

/// Fails unless the command is refused with this kind, in words that hold `about`.
#[track_caller]
fn refused(pool: &TempPool, args: &[&str], kind: &str, about: &str) {
    let (found, message) = pool.refused(args);
    assert!(found == kind && message.contains(about), "{args:?}: {found}: {message}\nexpected {kind}, about {about:?}");
}

/// Fails unless clap refuses the command line itself, with the exit code of wrong usage.
#[track_caller]
fn unusable(pool: &TempPool, args: &[&str], about: &str) {
    let finished = pool.try_cairn(args);
    assert!(finished.code() == 2 && finished.stderr.contains(about), "expected {about:?}:\n{finished}");
}

#[test]
fn files_that_are_no_pools() {
    let pool = TempPool::absent();
    refused(&pool, &["pool", "info"], "not-found", "t.pool");
    for (what, bytes) in [
        ("empty", Vec::new()),
        ("text", b"hello\n".to_vec()),
        ("noise", (0..1 << 20).map(|n: u32| ((n * 7) >> 3) as u8).collect()),
    ] {
        std::fs::write(pool.path(), &bytes).unwrap();
        let (kind, message) = pool.refused(["pool", "info"]);
        assert!(
            ["invalid", "corrupt"].contains(&kind.as_str()) && message.contains("t.pool"),
            "{what}: {kind}: {message}"
        );
        let unchanged = pool.read_file("t.pool");
        assert_eq!(unchanged, bytes, "{what}: nothing was written to it");
    }
    refused(&pool, &["pool", "create", "--size", "64MiB"], "exists", "t.pool");
    std::fs::remove_file(pool.path()).unwrap();
    std::fs::create_dir(pool.path()).unwrap();
    let (_, message) = pool.refused(["pool", "info"]);
    assert!(message.contains("t.pool"), "{message}");
}

#[test]
fn a_pool_of_a_newer_format() {
    let pool = TempPool::create("64MiB");
    let file = pool.open_file();
    let blocks = pool.read_file("t.pool");
    for (block, number) in blocks.chunks_exact(4096).zip(0u64..).filter(|(block, _)| block.starts_with(b"CAIRNPL1")) {
        // Format version at 8, CRC-32 of the block with its own field zero at 12; see engine/DESIGN.md.
        let mut newer = block.to_vec();
        let version = u32::from_le_bytes(newer[8..12].try_into().unwrap());
        newer[8..12].copy_from_slice(&(version + 1).to_le_bytes());
        newer[12..16].fill(0);
        let crc = crc32fast::hash(&newer);
        newer[12..16].copy_from_slice(&crc.to_le_bytes());
        file.write_all_at(&newer, number * 4096).unwrap();
    }
    refused(&pool, &["pool", "info"], "unsupported", "t.pool");
}

#[test]
fn a_pool_that_is_open_already() {
    let pool = TempPool::create("64MiB");
    let server = pool.serve();
    let second = Serve::tcp().try_start(&pool).err().expect("a pool is served once");
    assert!(second.contains(&server.pid().to_string()), "it says by whom: {second}");
    // Past the control socket, straight at the file.
    let error = pollster::block_on(Pool::open(pool.path(), OpenOptions::new())).err().expect("a pool is opened once");
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    server.stop();
    let deadline = Instant::now() + Duration::from_secs(60);
    let here = loop {
        match pollster::block_on(Pool::open(pool.path(), OpenOptions::new())) {
            // The kernel gives back the lock of a process that used io_uring a moment after its end.
            Err(error) if error.kind() == ErrorKind::Busy && Instant::now() < deadline => {}
            opened => break opened.unwrap(),
        }
    };
    refused(&pool, &["volume", "list"], "busy", "t.pool");
    pollster::block_on(here.close()).unwrap();
    pool.cairn(["volume", "list"]);
}

#[test]
fn sizes_out_of_range() {
    let pool = TempPool::create("64MiB");
    for size in ["0", "512KiB", "1048575", "1048577", "65TiB", "15EiB"] {
        refused(&pool, &["volume", "create", "v", "--size", size], "invalid", "a volume of ");
    }
    for size in ["10GB", "ten", "-1", "", "1.3B", "99999999999999999999"] {
        unusable(&pool, &["volume", "create", "v", &format!("--size={size}")], "--size");
    }
    for (name, size) in [("least", "1MiB"), ("odd", "1049088"), ("most", "64TiB")] {
        pool.cairn(["volume", "create", name, "--size", size]);
    }
    for size in ["1MiB", "1049089", "65TiB"] {
        refused(&pool, &["volume", "resize", "odd", "--size", size], "invalid", "volume");
    }
    let small = TempPool::absent();
    refused(&small, &["pool", "create", "--size", "4096"], "invalid", "at least");
    assert!(!small.path().exists(), "nothing is left behind");
    refused(&small, &["pool", "create"], "invalid", "size");
    assert!(!small.path().exists(), "nothing is left behind");
}

#[test]
fn names_that_are_none() {
    let pool = TempPool::create("64MiB");
    let long = "n".repeat(129);
    for name in ["", "a@b", "a/b", "a\nb", &long] {
        refused(&pool, &["volume", "create", name, "--size", "1MiB"], "invalid", "name");
    }
    let longest = "n".repeat(128);
    for name in [&longest, "with space", "Größe", "a:b", "-"] {
        pool.cairn(["volume", "create", "--size", "1MiB", "--", name]);
        pool.cairn(["snapshot", "create", "--", &format!("{name}@{longest}")]);
    }
    for target in ["-@", &format!("-@{long}"), "-@a/b", "-@a@b"] {
        refused(&pool, &["snapshot", "create", "--", target], "invalid", "name");
    }
    refused(&pool, &["volume", "rename", "a:b", "a@b"], "invalid", "name");
    refused(&pool, &["volume", "rename", "a:b", "Größe"], "exists", "Größe");
    refused(&pool, &["clone", &format!("a:b@{longest}"), "Größe"], "exists", "Größe");
    assert_eq!(pool.json(["volume", "list"])["volumes"].as_array().map(Vec::len), Some(5));
}

#[test]
fn things_that_are_not_there() {
    let pool = TempPool::create("64MiB");
    pool.cairn(["volume", "create", "v", "--size", "2MiB"]);
    pool.cairn(["snapshot", "create", "v@s"]);
    let out = pool.file_text("out.raw");
    for args in [
        &["volume", "info", "w"][..],
        &["volume", "delete", "w"],
        &["volume", "resize", "w", "--size", "4MiB"],
        &["volume", "rename", "w", "x"],
        &["volume", "export", "w", &out],
        &["snapshot", "create", "w@s"],
        &["snapshot", "list", "w"],
        &["clone", "w@s", "x"],
    ] {
        refused(&pool, args, "not-found", "\"w\"");
    }
    for args in [
        &["snapshot", "delete", "v@t"][..],
        &["snapshot", "revert", "v@t"],
        &["snapshot", "diff", "v@t", "v"],
        &["clone", "v@t", "x"],
    ] {
        refused(&pool, args, "not-found", "\"t\"");
    }
    refused(&pool, &["snapshot", "create", "v"], "invalid", "\"v\"");
    refused(&pool, &["snapshot", "create", "v@s"], "exists", "v@s");
    refused(&pool, &["snapshot", "create", "v@new", "w@new"], "not-found", "\"w\"");
    refused(&pool, &["clone", "v@s", "c", "--size", "1MiB"], "invalid", "smaller");
    let snapshots = pool.json(["snapshot", "list"]);
    assert_eq!(snapshots["snapshots"].as_array().map(Vec::len), Some(1), "all or none: {snapshots}");
}

#[test]
fn things_that_are_in_use() {
    let pool = TempPool::create("64MiB");
    pool.cairn(["volume", "create", "v", "--size", "2MiB"]);
    pool.cairn(["volume", "create", "w", "--size", "2MiB"]);
    pool.cairn(["snapshot", "create", "w@s"]);
    let server = pool.serve();
    let attached = Client::connect(&server.address(), "v").unwrap();
    refused(&pool, &["volume", "delete", "v"], "busy", "v is attached");
    refused(&pool, &["volume", "delete", "v", "--cascade"], "busy", "v is attached");
    refused(&pool, &["volume", "delete", "w"], "busy", "cascade");
    let status = pool.json(["status"]);
    assert_eq!(status["clients"][0]["export"], "v", "{status}");
    drop(attached);
    pool.cairn_when_free(&["volume", "delete", "v"]);
    pool.cairn_when_free(&["volume", "delete", "w", "--cascade"]);
    let gone = run("nbdinfo", ["--list", &server.uri("")]).ok().text();
    assert!(!gone.contains("export=\"v\""), "{gone}");
}
