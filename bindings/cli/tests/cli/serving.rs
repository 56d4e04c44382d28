//! `serve`, `status`, `stop`: what they say, and what is left behind.

use crate::harness::{BUSY, EXISTS, INVALID, NOT_FOUND, Site, installed, noise, text, tool, wait_until};
use cairn_engine::{MIB, OpenOptions, Pool, VolumeOptions};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::{
    io::Read,
    net::TcpListener,
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    process::Stdio,
};

#[test]
fn it_says_where_and_leaves_nothing() {
    let mut site = Site::new();
    site.ok(&["volume", "create", "my disk", "--size", "8MiB"]);
    let control = site.path("main.pool.ctl");
    let nbd = site.path("main.pool.nbd");
    let ready = site.serve(&[]).clone();
    assert_eq!((&ready["ready"], &ready["control"]), (&json!(true), &json!(text(&control))));
    assert_eq!(ready["listeners"][0]["address"], format!("unix:{}", text(&nbd)));
    let uri = ready["exports"][0]["uris"][0].as_str().unwrap();
    assert!(uri.starts_with("nbd+unix:///my%20disk?socket=/"), "{uri}");
    assert_eq!(std::fs::metadata(&control).unwrap().permissions().mode() & 0o777, 0o600);
    if installed("nbdinfo") {
        assert_eq!(tool("nbdinfo", &["--size", uri]).trim(), (8 << 20).to_string());
    }
    site.stop_server();
    assert!(!control.exists() && !nbd.exists());
    site.check();
}

#[test]
fn status_tells_who_is_connected() {
    let mut site = Site::new();
    assert_eq!(site.json(&["status"])["served"], false);
    assert!(site.ok(&["status"]).contains("not served"));
    site.serve(&["--nbd", &format!("unix:{}", text(&site.path("n.sock"))), "--nbd", "tcp:127.0.0.1:0"]);
    let pid = site.server().id();
    let status = site.json(&["status"]);
    assert_eq!((&status["served"], &status["pid"], &status["clients"]), (&json!(true), &json!(pid), &json!([])));
    let tcp = status["listeners"][1]["address"].as_str().unwrap();
    assert!(tcp.starts_with("tcp:127.0.0.1:") && !tcp.ends_with(":0"), "{tcp}");
    let mut client = UnixStream::connect(site.path("n.sock")).unwrap();
    // The greeting comes when the server has taken it in.
    client.read_exact(&mut [0; 8]).unwrap();
    let status = site.json(&["status"]);
    assert_eq!((&status["clients"][0]["export"], &status["clients"][0]["tls"]), (&json!(null), &json!(false)));
    assert!(site.ok(&["status"]).contains("(negotiating)"));
    drop(client);
    wait_until(|| site.json(&["status"])["clients"] == json!([]));
}

#[test]
fn with_tls_strangers_are_turned_away() {
    let mut site = Site::new();
    site.ok(&["volume", "create", "v", "--size", "8MiB"]);
    let keys = site.path("keys.psk");
    std::fs::write(&keys, format!("alice:{}\n", "5a".repeat(32))).unwrap();
    let ready = site.serve(&["--tls", "require", "--tls-psk", text(&keys)]).clone();
    let uri = ready["exports"][0]["uris"][0].as_str().unwrap().to_owned();
    assert!(uri.starts_with("nbds+unix:///v?socket="), "{uri}");
    if installed("nbdinfo") {
        let known = format!("{}&tls-psk-file={}", uri.replace(":///", "://alice@/"), text(&keys));
        assert_eq!(tool("nbdinfo", &["--size", &known]).trim(), (8 << 20).to_string());
        let stranger = std::process::Command::new("nbdinfo").args(["--size", &uri.replace("nbds+", "nbd+")]).output();
        assert!(!stranger.unwrap().status.success(), "without TLS nothing is served");
    }
    site.stop_server();
}

#[test]
fn one_server_a_pool() {
    let mut site = Site::served();
    let pid = site.server().id();
    let message = site.fails(BUSY, "busy", &["serve"]);
    assert!(message.contains(&pid.to_string()), "{message}");
    site.fails(EXISTS, "exists", &["pool", "create", "--size", "64MiB"]);
    assert_eq!(site.json(&["stop"]), json!({"stopped": pid}));
    assert_eq!(site.server().wait(), Some(0));
    site.fails(NOT_FOUND, "not-found", &["stop"]);
    site.ok(&["volume", "list"]);
}

#[test]
fn every_signal_that_asks_is_heard() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut site = Site::served();
        site.volume("v", &noise(1, 1 << 20));
        site.server().signal(signal);
        assert_eq!(site.server().wait(), Some(0));
        assert!(site.content("v")[..1 << 20] == noise(1, 1 << 20));
    }
}

#[test]
fn a_client_does_not_hold_up_the_end() {
    let mut site = Site::served();
    let mut client = UnixStream::connect(site.path("main.pool.nbd")).unwrap();
    client.read_exact(&mut [0; 8]).unwrap();
    let control = UnixStream::connect(site.path("main.pool.ctl")).unwrap();
    site.stop_server();
    drop((client, control));
}

#[test]
fn what_a_killed_server_left_confuses_nobody() {
    let mut site = Site::served();
    site.volume("v", &noise(1, 1 << 20));
    site.kill_server();
    assert!(site.path("main.pool.ctl").exists() && site.path("main.pool.nbd").exists(), "left behind");
    assert_eq!(site.json(&["status"])["served"], false);
    assert!(site.content("v")[..1 << 20] == noise(1, 1 << 20), "an import is committed before it is reported");
    site.fails(NOT_FOUND, "not-found", &["stop"]);
    site.serve(&[]);
    assert_eq!(site.json(&["volume", "list"])["volumes"][0]["name"], "v");
    site.stop_server();
    site.check();
}

#[test]
fn addresses_and_files_are_refused_by_name() {
    let site = Site::new();
    for address in ["/just/a/path", "unix:", "tcp:localhost", "tcp::1:x"] {
        let message = site.fails(INVALID, "invalid", &["serve", "--nbd", address]);
        assert!(message.contains(address), "{message}");
    }
    let taken = site.path("taken.sock");
    let _other = UnixListener::bind(&taken).unwrap();
    site.fails(BUSY, "busy", &["serve", "--nbd", &format!("unix:{}", text(&taken))]);
    let file = site.path("file");
    std::fs::write(&file, "precious").unwrap();
    site.fails(EXISTS, "exists", &["serve", "--nbd", &format!("unix:{}", text(&file))]);
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    site.fails(INVALID, "invalid", &["serve", "--tls", "require"]);
    site.fails(INVALID, "invalid", &["serve", "--tls-psk", "/nonexistent"]);
    assert!(!site.path("main.pool.ctl").exists(), "a server that did not start leaves nothing");
    site.check();
}

/// A volume whose content is to come from a store that takes connections, and says nothing.
#[test]
fn a_server_that_starts_ends_when_it_is_told_so() {
    let mut site = Site::new();
    let store = TcpListener::bind("127.0.0.1:0").unwrap();
    store.set_nonblocking(true).unwrap();
    let notes = site.path("main.pool.restores");
    std::fs::create_dir(&notes).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let pool = Pool::open(&site.pool, OpenOptions::default()).await.unwrap();
        let filling = VolumeOptions { filling: true, ..VolumeOptions::default() };
        drop(pool.create_volume("v", MIB, filling).await.unwrap());
        let id = pool.volume_info("v").await.unwrap().id.0;
        let options = json!({
            "aws_endpoint": format!("http://{}", store.local_addr().unwrap()),
            "aws_allow_http": "true",
            "aws_access_key_id": "test",
            "aws_secret_access_key": "test",
            "aws_region": "us-east-1",
        });
        let repository = json!({"url": "s3://bucket/r", "options": options});
        let note = json!({"restore": {"repository": repository, "backup": "abcd", "volume": "v"}});
        std::fs::write(notes.join(format!("{id}.json")), note.to_string()).unwrap();
        pool.close().await.unwrap();
    });
    let mut command = site.command(&["serve"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It has begun, and waits.
    let mut asked = None;
    wait_until(|| {
        asked = store.accept().ok();
        asked.is_some()
    });
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    wait_until(|| child.try_wait().unwrap().is_some());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.ends_with("stopped\n"), "{} {said}", output.status);
    assert!(!site.path("main.pool.ctl").exists());
    // It is served all the same, if nobody says otherwise.
    site.serve(&[]);
    assert!(site.json(&["status"])["filling"][0]["backup"] == "abcd");
    site.ok(&["volume", "delete", "v"]);
    site.stop_server();
    site.check();
}
