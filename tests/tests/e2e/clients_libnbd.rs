//! `nbdinfo` and `nbdcopy`, over unix sockets and TCP.

use cairn_tests::{
    fixture::{Serve, TempPool},
    tool::run,
};
use serde_json::Value;

use crate::images::{MIB, assert_same, disk, stored};

/// The map that nbdinfo shows, as (offset, length, type).
fn map(uri: &str, context: &str) -> Vec<(u64, u64, u64)> {
    let told = run("nbdinfo", [&format!("--map{context}"), "--json", uri]).ok();
    let extents: Vec<Value> = serde_json::from_slice(&told.stdout).unwrap_or_else(|error| panic!("{error}: {told}"));
    let number = |extent: &Value, name: &str| extent[name].as_u64().unwrap_or_else(|| panic!("{extent}"));
    // The server may cut a range of one kind into several.
    let mut joined: Vec<(u64, u64, u64)> = Vec::new();
    for extent in &extents {
        let (offset, length, kind) = (number(extent, "offset"), number(extent, "length"), number(extent, "type"));
        match joined.last_mut() {
            Some(last) if last.0 + last.1 == offset && last.2 == kind => last.1 += length,
            _ => joined.push((offset, length, kind)),
        }
    }
    joined
}

const DATA: u64 = 0;
const HOLE_OF_ZEROS: u64 = 3;
const UNCHANGED: u64 = 0;
const CHANGED: u64 = 1;

#[test]
fn nbdinfo_tells_what_an_export_is() {
    for serve in [Serve::unix(), Serve::tcp()] {
        let pool = TempPool::create("256MiB");
        pool.cairn(["volume", "create", "db", "--size", "64MiB"]);
        pool.cairn(["snapshot", "create", "db@before"]);
        let server = serve.start(&pool);
        let told = run("nbdinfo", [server.uri("db")]).ok().text();
        for line in [
            "export-size: 67108864",
            "is_read_only: false",
            "can_multi_conn: true",
            "can_flush: true",
            "can_fua: true",
            "can_trim: true",
            "can_zero: true",
        ] {
            assert!(told.contains(line), "no {line:?} in:\n{told}");
        }
        // Asked for the content it wants the program `file`, and prints no valid JSON where there is none.
        let told = run("nbdinfo", ["--no-content", "--json", &server.uri("db@before")]).ok();
        let told: Value = serde_json::from_slice(&told.stdout).unwrap();
        assert_eq!(told["structured"], true, "{told}");
        let export = &told["exports"][0];
        assert_eq!((&export["export-size"], &export["is_read_only"]), (&(64 * MIB).into(), &true.into()), "{export}");
        let contexts = export["contexts"].to_string();
        assert!(contexts.contains("base:allocation"), "{export}");
    }
}

#[test]
fn nbdinfo_lists_volumes_and_snapshots() {
    for serve in [Serve::unix(), Serve::tcp()] {
        let pool = TempPool::create("256MiB");
        for name in ["db", "log", "a b"] {
            pool.cairn(["volume", "create", name, "--size", "1MiB"]);
        }
        pool.cairn(["snapshot", "create", "db@monday", "log@monday"]);
        let server = serve.start(&pool);
        let told = run("nbdinfo", ["--list", "--json", &server.uri("")]).ok();
        let told: Value = serde_json::from_slice(&told.stdout).unwrap();
        let exports = told["exports"].as_array().unwrap();
        let mut names: Vec<&str> = exports.iter().map(|export| export["export-name"].as_str().unwrap()).collect();
        names.sort_unstable();
        assert_eq!(names, ["a b", "db", "db@monday", "log", "log@monday"]);
        let missing = run("nbdinfo", [server.uri("nothing")]).failed();
        assert!(missing.stderr.contains("nothing"), "the refusal names the export: {missing}");
    }
}

#[test]
fn nbdinfo_maps_show_data_holes_and_changes() {
    for serve in [Serve::unix(), Serve::tcp()] {
        let pool = TempPool::create("256MiB");
        pool.cairn(["volume", "create", "v", "--size", "8MiB"]);
        let server = serve.start(&pool);
        let uri = server.uri("v");
        let end = 8 * MIB as u64;
        assert_eq!(map(&uri, ""), [(0, end, HOLE_OF_ZEROS)]);
        run("qemu-io", ["-f", "raw", "-c", "write -P 1 1M 64k", "-c", "write -P 2 5M 1M", "-c", "flush", &uri]).ok();
        let (a, b) = (MIB as u64, 5 * MIB as u64);
        let written = [
            (0, a, HOLE_OF_ZEROS),
            (a, 65536, DATA),
            (a + 65536, b - a - 65536, HOLE_OF_ZEROS),
            (b, a, DATA),
            (b + a, end - a - b, HOLE_OF_ZEROS),
        ];
        assert_eq!(map(&uri, ""), written);
        pool.cairn(["snapshot", "create", "v@s"]);
        let since = "=cairn:changed-since=s";
        assert_eq!(map(&uri, since), [(0, end, UNCHANGED)]);
        // A new block, a discarded one, and half a block of 4 KiB.
        run(
            "qemu-io",
            ["-f", "raw", "-c", "write -P 3 0 4k", "-c", "discard 5M 64k", "-c", "write -P 4 6143k 1k", &uri],
        )
        .ok();
        let changed = [
            (0, 4096, CHANGED),
            (4096, b - 4096, UNCHANGED),
            (b, 65536, CHANGED),
            (b + 65536, a - 65536 - 4096, UNCHANGED),
            (b + a - 4096, 4096, CHANGED),
            (b + a, end - a - b, UNCHANGED),
        ];
        assert_eq!(map(&uri, since), changed);
        assert_eq!(map(&server.uri("v@s"), ""), written, "the snapshot's own map has not changed");
        assert_eq!(map(&uri, "")[0], (0, 4096, DATA));
    }
}

#[test]
fn nbdcopy_goes_both_ways() {
    for serve in [Serve::unix(), Serve::tcp()] {
        let pool = TempPool::create("512MiB");
        let disk = disk(11, 96);
        let file = pool.file_with("disk", &disk);
        pool.cairn(["volume", "create", "v", "--size", "96MiB"]);
        let server = serve.start(&pool);
        let uri = server.uri("v");
        run("nbdcopy", ["--flush", &file, &uri]).ok();
        assert_eq!(pool.json(["volume", "info", "v"])["allocated"], stored(&disk));
        run("nbdcopy", [&uri, &pool.file_text("back")]).ok();
        assert_same(&pool.read_file("back"), &disk, "what nbdcopy read");
        // From volume to volume, and synchronously over one connection.
        pool.cairn(["volume", "create", "w", "--size", "96MiB"]);
        run("nbdcopy", [&uri, &server.uri("w")]).ok();
        run("nbdcopy", ["--synchronous", "--no-extents", &server.uri("w"), &pool.file_text("again")]).ok();
        assert_same(&pool.read_file("again"), &disk, "what nbdcopy read synchronously");
        server.stop();
        pool.assert_clean();
    }
}
