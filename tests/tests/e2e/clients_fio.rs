//! fio over its nbd engine, checking what it reads.

use cairn_tests::{
    fixture::{Serve, Server, TempPool},
    tool::{self, Finished, run},
};
use std::process::{Child, Command, Stdio};

/// Arguments that all runs have. `size` is the part of the volume that fio uses.
pub(crate) fn arguments(uri: &str, size: &str) -> Vec<String> {
    [
        "--name=job",
        "--ioengine=nbd",
        &format!("--uri={uri}"),
        &format!("--size={size}"),
        "--verify_fatal=1",
        "--randseed=7",
        // Or it would leave a file in the current directory.
        "--verify_state_save=0",
    ]
    .map(ToOwned::to_owned)
    .to_vec()
}

/// Runs fio on the volume `v`, and fails when fio finds a byte that it has not written.
#[track_caller]
pub(crate) fn fio(server: &Server<'_>, size: &str, more: &[&str]) -> Finished {
    let arguments = arguments(&server.uri("v"), size);
    let finished = run("fio", arguments.iter().map(String::as_str).chain(more.iter().copied())).ok();
    assert!(!finished.said().contains("verify:"), "{finished}");
    finished
}

/// Starts fio on the volume `v`.
pub(crate) fn start_fio(server: &Server<'_>, size: &str, more: &[&str]) -> Child {
    let mut command = Command::new("fio");
    command.args(arguments(&server.uri("v"), size)).args(more);
    tool::start(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))
}

#[test]
fn random_writes_at_depth_verify() {
    for serve in [Serve::unix(), Serve::tcp()] {
        let pool = TempPool::create("512MiB");
        pool.cairn(["volume", "create", "v", "--size", "128MiB"]);
        let server = serve.start(&pool);
        fio(&server, "128M", &["--rw=randwrite", "--bs=4k", "--iodepth=32", "--verify=crc32c"]);
        // Once more over what is there, in the blocks of a snapshot.
        pool.cairn(["snapshot", "create", "v@s"]);
        fio(
            &server,
            "128M",
            &["--rw=randwrite", "--bs=4k", "--iodepth=64", "--verify=crc32c", "--randseed=8", "--fsync=64"],
        );
        server.stop();
        pool.assert_clean();
    }
}

#[test]
fn sizes_that_fit_no_block_verify() {
    for serve in [Serve::unix(), Serve::tcp()] {
        let pool = TempPool::create("512MiB");
        pool.cairn(["volume", "create", "v", "--size", "48MiB"]);
        let server = serve.start(&pool);
        let split = "--bssplit=512/20:1k/10:3k/10:4k/30:5k/10:64k/15:1m/5";
        fio(&server, "48M", &["--rw=randwrite", split, "--blockalign=512", "--iodepth=16", "--verify=crc32c"]);
        server.stop();
        pool.assert_clean();
    }
}

#[test]
fn two_jobs_at_once_verify() {
    let pool = TempPool::create("512MiB");
    pool.cairn(["volume", "create", "v", "--size", "128MiB"]);
    let server = pool.serve();
    fio(
        &server,
        "64M",
        &["--rw=randrw", "--bs=8k", "--iodepth=16", "--verify=crc32c", "--numjobs=2", "--offset_increment=64M"],
    );
    fio(
        &server,
        "64M",
        &["--rw=write", "--bs=1m", "--iodepth=8", "--verify=crc32c", "--numjobs=2", "--offset_increment=64M"],
    );
}
