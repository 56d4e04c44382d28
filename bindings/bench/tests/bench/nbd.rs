//! NBD exports: those of this project's server, and of QEMU's where that is installed.

use cairn_bench::{Bench, Target};
use cairn_engine::{ErrorKind, Pool};
use cairn_nbd::Server;
use pollster::block_on;
use std::{
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::{
    file::directory,
    inside::pool,
    site::{SIZE, every_pattern, filled_and_read_again, go, pattern},
};

fn target(uri: &str) -> Target {
    uri.parse().unwrap()
}

fn serve(pool: &Pool, listen: &str) -> Server {
    block_on(Server::start(pool, listen.parse().unwrap(), Default::default())).unwrap()
}

#[test]
fn this_server_over_a_unix_socket_and_tcp() {
    let (directory, pool) = pool();
    for listen in [format!("unix:{}", directory.path().join("nbd.sock").display()), "tcp:127.0.0.1:0".to_owned()] {
        let server = serve(&pool, &listen);
        for jobs in [1, 3] {
            every_pattern(|| target(&server.uri("db")), jobs);
        }
        filled_and_read_again(|| target(&server.uri("db")));
        block_on(server.stop()).unwrap();
    }
    block_on(pool.close()).unwrap();
}

#[test]
fn large_requests_at_depth_go_both_ways_at_once() {
    let (directory, pool) = pool();
    let server = serve(&pool, &format!("unix:{}", directory.path().join("nbd.sock").display()));
    // More than any socket holds, in both directions: neither side may wait for the other.
    let bench = Bench { block: 2 << 20, depth: 64, fill: true, ..pattern("randrw", 300) };
    assert_eq!(go(target(&server.uri("db")), &bench).unwrap().total.requests, 300);
    block_on(server.stop()).unwrap();
    block_on(pool.close()).unwrap();
}

#[test]
fn refusals_are_told() {
    let (directory, pool) = pool();
    let server = serve(&pool, &format!("unix:{}", directory.path().join("nbd.sock").display()));
    let fails = |uri: &str, bench: &Bench| go(target(uri), bench).unwrap_err();
    let missing = fails(&server.uri("nobody"), &pattern("randread", 1));
    assert!(missing.kind() == ErrorKind::NotFound && missing.to_string().contains("nobody"), "{missing}");
    let polite = fails(&server.uri("db"), &Bench { destroy: false, ..pattern("randwrite", 1) });
    assert!(polite.to_string().contains("--destroy"), "{polite}");
    drop(block_on(async { pool.volume("db").await.unwrap().snapshot("s").await }).unwrap());
    assert_eq!(fails(&server.uri("db@s"), &pattern("randwrite", 1)).kind(), ErrorKind::ReadOnly);
    block_on(server.stop()).unwrap();
    let gone = fails(&server.uri("db"), &pattern("randread", 1));
    assert_eq!(gone.kind(), ErrorKind::NotFound, "{gone}");
    block_on(pool.close()).unwrap();
}

#[test]
fn a_server_that_goes_away_ends_the_run() {
    let (directory, pool) = pool();
    let server = serve(&pool, &format!("unix:{}", directory.path().join("nbd.sock").display()));
    let uri = server.uri("db");
    let mut stop = Some(server);
    let mut watch = |live: &cairn_bench::Live| {
        if live.requests > 0
            && let Some(server) = stop.take()
        {
            block_on(server.stop()).unwrap();
        }
        true
    };
    let bench = Bench { requests: None, runtime: Some(std::time::Duration::from_secs(3600)), ..pattern("randread", 1) };
    let error = cairn_bench::run(target(&uri), &bench, &mut watch).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    block_on(pool.close()).unwrap();
}

/// A server in a process of its own, ended with the test.
struct Foreign(Child);

impl Drop for Foreign {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Starts a program that makes a socket; none when it is not installed, which is told.
fn foreign(program: &str, args: &[String], socket: &Path) -> Option<Foreign> {
    let child = Command::new(program).args(args).stdin(Stdio::null()).spawn();
    let mut foreign = match child {
        Ok(child) => Foreign(child),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("{program} is not installed: not tested with it");
            return None;
        }
        Err(error) => panic!("{program}: {error}"),
    };
    while std::os::unix::net::UnixStream::connect(socket).is_err() {
        assert!(foreign.0.try_wait().unwrap().is_none(), "{program} has ended");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    Some(foreign)
}

#[test]
fn servers_of_others() {
    let directory = directory();
    let (raw, socket) = (directory.path().join("raw"), directory.path().join("s"));
    std::fs::write(&raw, vec![0x11; SIZE as usize]).unwrap();
    let (image, path) = (raw.display(), socket.display());
    let uri = format!("nbd+unix:///?socket={path}");
    let qemu: Vec<_> = ["-f", "raw", "--persistent", "--shared=8", "-k"].map(str::to_owned).to_vec();
    let servers = [
        ("qemu-nbd", [qemu, vec![path.to_string(), image.to_string()]].concat()),
        (
            "nbdkit",
            ["-f", "-U"]
                .map(str::to_owned)
                .into_iter()
                .chain([path.to_string(), "file".into(), image.to_string()])
                .collect(),
        ),
    ];
    for (program, args) in servers {
        let Some(server) = foreign(program, &args, &socket) else { continue };
        for jobs in [1, 3] {
            every_pattern(|| target(&uri), jobs);
        }
        filled_and_read_again(|| target(&uri));
        drop(server);
        drop(std::fs::remove_file(&socket));
    }
}
