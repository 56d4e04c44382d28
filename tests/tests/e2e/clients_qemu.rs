//! `qemu-img` and `qemu-io`, over unix sockets and TCP.

use cairn_tests::{
    fixture::{Serve, TempPool},
    tool::{Finished, run},
};
use serde_json::Value;

use crate::images::{MIB, assert_same, disk};

/// Runs commands of qemu-io on an export, and fails when one of them does, or reads another pattern than it asked for.
#[track_caller]
fn io(uri: &str, options: &[&str], commands: &[&str]) -> Finished {
    let commands = commands.iter().flat_map(|command| ["-c", command]);
    let finished =
        run("qemu-io", ["-f", "raw"].into_iter().chain(options.iter().copied()).chain(commands).chain([uri])).ok();
    let said = finished.said();
    assert!(!said.contains("verification failed") && !said.contains("failed:"), "{finished}");
    finished
}

#[test]
fn qemu_img_converts_and_compares() {
    for serve in [Serve::unix(), Serve::tcp()] {
        let pool = TempPool::create("512MiB");
        let disk = disk(21, 48);
        let file = pool.file_with("disk", &disk);
        pool.cairn(["volume", "create", "v", "--size", "48MiB"]);
        let server = serve.start(&pool);
        let uri = server.uri("v");
        run("qemu-img", ["convert", "-n", "-f", "raw", "-O", "raw", &file, &uri]).ok();
        run("qemu-img", ["compare", "-f", "raw", "-F", "raw", &file, &uri]).ok();
        run("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", &uri, &pool.file_text("out.qcow2")]).ok();
        run("qemu-img", ["compare", "-f", "qcow2", "-F", "raw", &pool.file_text("out.qcow2"), &uri]).ok();
        let told = run("qemu-img", ["info", "--output=json", &uri]).ok();
        let told: Value = serde_json::from_slice(&told.stdout).unwrap();
        assert_eq!((&told["virtual-size"], &told["format"]), (&disk.len().into(), &"raw".into()), "{told}");

        io(&uri, &[], &["write -P 0xee 1M 512"]);
        let differs = run("qemu-img", ["compare", "-f", "raw", "-F", "raw", &file, &uri]);
        assert_eq!(differs.code(), 1, "a compare that finds a difference: {differs}");
    }
}

#[test]
fn qemu_img_maps_data_and_zeros() {
    for serve in [Serve::unix(), Serve::tcp()] {
        let pool = TempPool::create("128MiB");
        pool.cairn(["volume", "create", "v", "--size", "8MiB"]);
        let server = serve.start(&pool);
        io(&server.uri("v"), &[], &["write -P 1 2M 128k"]);
        let told = run("qemu-img", ["map", "-f", "raw", "--output=json", &server.uri("v")]).ok();
        let extents: Vec<Value> = serde_json::from_slice(&told.stdout).unwrap();
        let data: Vec<(u64, u64)> = extents
            .iter()
            .filter(|extent| extent["data"] == true && extent["zero"] == false)
            .map(|extent| (extent["start"].as_u64().unwrap(), extent["length"].as_u64().unwrap()))
            .collect();
        assert_eq!(data, [(2 * MIB as u64, 128 << 10)], "{told}");
    }
}

#[test]
fn qemu_io_reads_what_it_wrote() {
    for serve in [Serve::unix(), Serve::tcp()] {
        let pool = TempPool::create("128MiB");
        pool.cairn(["volume", "create", "v", "--size", "16MiB"]);
        let server = serve.start(&pool);
        let uri = server.uri("v");
        io(
            &uri,
            &["-d", "unmap"],
            &[
                "read -P 0 0 16M",
                "write -P 0xaa 0 64k",
                "write -P 0xbb 512 512",
                "write -P 0xcc 7k 3k",
                "read -P 0xaa 0 512",
                "read -P 0xbb 512 512",
                "read -P 0xaa 1k 6k",
                "read -P 0xcc 7k 3k",
                "read -P 0xaa 10k 54k",
                "discard 16k 16k",
                "read -P 0 16k 16k",
                "read -P 0xaa 32k 32k",
                "write -z 33k 1k",
                "read -P 0xaa 32k 1k",
                "read -P 0 33k 1k",
                "read -P 0xaa 34k 30k",
                "write -z -u 48k 16k",
                "read -P 0 48k 16k",
                "write -f -P 0xdd 15M 1M",
                "flush",
                "read -P 0xdd 15M 1M",
            ],
        );
        // Many in flight, overlapping, then read back on another connection.
        io(&uri, &[], &["aio_write -P 1 4M 1M", "aio_write -P 2 6M 1M", "aio_write -P 3 8M 1M", "aio_flush"]);
        io(&uri, &[], &["read -P 1 4M 1M", "read -P 2 6M 1M", "read -P 3 8M 1M", "read -P 0xcc 7k 3k"]);
        let beyond = run("qemu-io", ["-f", "raw", "-c", "write 16M 4k", &uri]);
        assert!(!beyond.said().contains("wrote"), "{beyond}");
    }
}

#[test]
fn snapshots_are_read_only_exports() {
    for serve in [Serve::unix(), Serve::tcp()] {
        let pool = TempPool::create("128MiB");
        pool.cairn(["volume", "create", "v", "--size", "4MiB"]);
        let server = serve.start(&pool);
        io(&server.uri("v"), &[], &["write -P 1 0 1M"]);
        pool.cairn(["snapshot", "create", "v@one"]);
        io(&server.uri("v"), &[], &["write -P 2 0 512k", "write -P 2 2M 64k"]);
        io(&server.uri("v@one"), &["-r"], &["read -P 1 0 1M", "read -P 0 1M 3M"]);
        let refused = run("qemu-io", ["-f", "raw", "-c", "write 0 4k", &server.uri("v@one")]);
        assert!(!refused.said().contains("wrote"), "{refused}");
        io(&server.uri("v@one"), &["-r"], &["read -P 1 0 1M"]);
    }
}

#[test]
fn two_clients_see_each_others_writes() {
    for serve in [Serve::unix(), Serve::tcp()] {
        let pool = TempPool::create("256MiB");
        let disk = disk(22, 32);
        let file = pool.file_with("disk", &disk);
        pool.cairn(["volume", "create", "v", "--size", "64MiB"]);
        pool.cairn(["volume", "create", "w", "--size", "32MiB"]);
        let server = serve.start(&pool);
        let copied = std::thread::scope(|scope| {
            let copy = scope.spawn(|| run("nbdcopy", [&file, &server.uri("w")]));
            for round in 1..6 {
                let pattern = format!("write -P {round} 32M 4M");
                io(&server.uri("v"), &[], &[&pattern]);
                io(&server.uri("v"), &[], &[&format!("read -P {round} 32M 4M")]);
            }
            copy.join().unwrap()
        });
        copied.ok();
        run("nbdcopy", [&server.uri("w"), &pool.file_text("back")]).ok();
        assert_same(&pool.read_file("back"), &disk, "the other client's volume");
    }
}

#[test]
fn growth_is_seen_by_new_connections() {
    for serve in [Serve::unix(), Serve::tcp()] {
        let pool = TempPool::create("128MiB");
        pool.cairn(["volume", "create", "v", "--size", "4MiB"]);
        let server = serve.start(&pool);
        io(&server.uri("v"), &[], &["write -P 7 3M 1M"]);
        pool.cairn(["volume", "resize", "v", "--size", "2GiB"]);
        let size = run("nbdinfo", ["--size", &server.uri("v")]).ok().text();
        assert_eq!(size.trim(), (2u64 << 30).to_string());
        io(
            &server.uri("v"),
            &[],
            &["read -P 7 3M 1M", "read -P 0 4M 64M", "write -P 8 2047M 1M", "read -P 8 2047M 1M"],
        );
        assert_eq!(pool.refused(["volume", "resize", "v", "--size", "1GiB"]).0, "invalid");
    }
}
