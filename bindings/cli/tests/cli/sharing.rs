//! Several processes and one pool: never two that hold it, none that waits for ever.

use crate::harness::{BUSY, Site, wait_until};
use cairn_engine::{OpenOptions, Pool, StorageKind};
use std::process::{Child, Stdio};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

#[test]
fn a_pool_held_without_a_socket_is_waited_for_but_not_for_ever() {
    let site = Site::new();
    let runtime = runtime();
    let mut opened = None;
    // The kernel may keep the lock of a process that has just ended until it has taken down its io_uring.
    wait_until(|| {
        let open = Pool::open(&site.pool, OpenOptions::new().storage(StorageKind::Pread));
        opened = runtime.block_on(open).ok();
        opened.is_some()
    });
    let pool = opened.unwrap();
    let message = site.fails(BUSY, "busy", &["--wait", "0", "volume", "list"]);
    assert!(message.contains("no control socket") && message.contains("main.pool"), "{message}");
    site.fails(BUSY, "busy", &["--wait", "0", "serve"]);
    let waiting = site.command(&["--wait", "60", "volume", "create", "v", "--size", "1MiB"]).spawn().unwrap();
    runtime.block_on(pool.close()).unwrap();
    finish(waiting);
    assert_eq!(site.json(&["volume", "list"])["volumes"][0]["name"], "v");
}

#[test]
fn commands_at_the_same_moment_take_turns() {
    let site = Site::new();
    let start = |number: usize| {
        let name = format!("v{number}");
        site.command(&["--wait", "60", "volume", "create", &name, "--size", "1MiB"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    };
    let children: Vec<Child> = (0..8).map(start).collect();
    children.into_iter().for_each(finish);
    assert_eq!(site.json(&["volume", "list"])["volumes"].as_array().unwrap().len(), 8);
    site.check();
}

#[test]
fn a_server_that_comes_or_goes_in_between_is_found() {
    let mut site = Site::new();
    for round in 0..3 {
        let start = |number: usize| {
            let name = format!("v{round}-{number}");
            site.command(&["--wait", "60", "volume", "create", &name, "--size", "1MiB"])
                .stdout(Stdio::null())
                .spawn()
                .unwrap()
        };
        let before: Vec<Child> = (0..3).map(start).collect();
        site.serve(&["--nbd", "tcp:127.0.0.1:0"]);
        before.into_iter().for_each(finish);
        let names = site.json(&["volume", "list"]);
        assert_eq!(names["volumes"].as_array().unwrap().len(), 3 * (round + 1));
        site.stop_server();
    }
    site.check();
}

fn finish(mut child: Child) {
    assert!(child.wait().unwrap().success());
}
