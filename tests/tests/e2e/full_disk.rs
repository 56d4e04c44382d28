//! The file system under a thin pool's file is full, though the pool itself has room.
//!
//! The file system is a tmpfs of 96 MiB in a mount namespace of its own, in which the server runs; it is reached over TCP,
//! and commands enter the namespace. It ends with the server.

use cairn_tests::{
    fixture::{TempPool, cairn_binary},
    nbd::{Address, Client, Request, errno},
    pattern,
    tool::{self, Finished},
};
use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use crate::images::MIB;

const SECTORS: u64 = MIB as u64 / 512;

/// A server in its own mount namespace.
struct Confined {
    child: Child,
    address: Address,
    /// The pool, within the namespace.
    pool: String,
}

impl Confined {
    fn start(directory: &str) -> Self {
        let script = r#"set -e
            mount -t tmpfs -o size=96m cairn-test "$1"
            "$2" --pool "$1/p" pool create --size 1GiB >&2
            "$2" --pool "$1/p" volume create v --size 512MiB >&2
            exec "$2" --json --pool "$1/p" serve --nbd tcp:127.0.0.1:0"#;
        let mut command = Command::new("unshare");
        if !is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["--mount", "sh", "-c", script, "sh", directory]).arg(cairn_binary());
        let mut child = tool::start(command.env_remove("CAIRN_POOL").stdin(Stdio::null()).stdout(Stdio::piped()));
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        let ready: serde_json::Value = serde_json::from_str(&ready)
            .unwrap_or_else(|error| panic!("not ready ({error}): {ready:?}; this test mounts a tmpfs in a namespace of its own, which needs a kernel that allows it"));
        let address = ready["listeners"][0]["address"].as_str().and_then(|text| text.strip_prefix("tcp:"));
        let address = Address::Tcp(address.unwrap_or_else(|| panic!("{ready}")).to_owned());
        let pool = format!("{directory}/p");
        Self { child, address, pool }
    }

    fn cairn(&self, args: &[&str]) -> Finished {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.child.id().to_string(), "--mount"]);
        if !is_root() {
            command.args(["--user", "--preserve-credentials"]);
        }
        tool::finish(command.arg(cairn_binary()).args(["--pool", &self.pool]).args(args), &[])
    }
}

fn is_root() -> bool {
    // SAFETY: takes no memory and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

impl Drop for Confined {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn a_full_disk_is_no_space_and_loses_nothing() {
    let place = TempPool::absent();
    let directory = place.file_text("mounted");
    std::fs::create_dir(&directory).unwrap();
    let server = Confined::start(&directory);
    let mut client = Client::connect(&server.address, "v").unwrap();
    let write = |client: &mut Client, piece: u64| {
        let data = pattern::bytes(piece * SECTORS, SECTORS, piece + 1);
        client.call(&Request::Write { offset: piece * MIB as u64, data, fua: false }).map(drop)
    };
    let mut pieces = 0;
    loop {
        match write(&mut client, pieces) {
            Ok(()) => pieces += 1,
            Err(error) => {
                assert_eq!(error, errno::ENOSPC, "the disk is full, and nothing is broken");
                break;
            }
        }
        assert!(pieces < 128, "a disk of 96 MiB has taken 128");
        if pieces % 8 == 0 {
            client.flush();
        }
    }
    assert!(pieces > 32, "only {pieces} MiB fitted");
    let check = |client: &mut Client, pieces: std::ops::Range<u64>| {
        for piece in pieces {
            let tags = pattern::tags_of(&client.read(piece * MIB as u64, MIB as u32), piece * SECTORS).unwrap();
            assert!(tags.iter().all(|tag| *tag == piece + 1), "piece {piece}");
        }
    };
    client.flush();
    check(&mut client, 0..pieces);
    assert_eq!(write(&mut client, 200), Err(errno::ENOSPC), "still full");
    // Space that comes back can be used.
    client.call(&Request::Trim { offset: 0, length: 16 * MIB as u32 }).unwrap();
    client.flush();
    let outcome = (0..200).find_map(|_| {
        client.flush();
        write(&mut client, 201).ok()
    });
    assert!(outcome.is_some(), "no space came back after discarding 16 MiB");
    client.flush();
    check(&mut client, 16..pieces);
    check(&mut client, 201..202);
    server.cairn(&["pool", "check", "--read-data"]).ok();
}
