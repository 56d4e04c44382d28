//! A start over volumes whose content is to come from a store that takes connections, and says nothing.

use super::harness::{PATIENCE, Place};
use cairn_engine::{MIB, OpenOptions, Pool, VolumeOptions};
use serde_json::json;
use std::{
    fs,
    io::ErrorKind,
    net::{TcpListener, TcpStream},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

const PAUSE: Duration = Duration::from_millis(10);

/// Two volumes that were being filled when the process before this one ended; the store.
fn half_restored(place: &Place) -> TcpListener {
    let store = TcpListener::bind("127.0.0.1:0").unwrap();
    store.set_nonblocking(true).unwrap();
    let options = json!({
        "aws_endpoint": format!("http://{}", store.local_addr().unwrap()),
        "aws_allow_http": "true",
        "aws_access_key_id": "test",
        "aws_secret_access_key": "test",
        "aws_region": "us-east-1",
    });
    let notes = place.path().join("pool.restores");
    fs::create_dir(&notes).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let pool = Pool::open(place.path().join("pool"), OpenOptions::default()).await.unwrap();
        for name in ["one", "two"] {
            let filling = VolumeOptions { filling: true, ..VolumeOptions::default() };
            drop(pool.create_volume(name, MIB, filling).await.unwrap());
            let id = pool.volume_info(name).await.unwrap().id.0;
            let repository = json!({"url": "s3://bucket/r", "options": options});
            let note = json!({"restore": {"repository": repository, "backup": "abcd", "volume": name}});
            fs::write(notes.join(format!("{id}.json")), note.to_string()).unwrap();
        }
        pool.close().await.unwrap();
    });
    store
}

/// Somebody asks the store.
fn asked(store: &TcpListener) -> TcpStream {
    let since = Instant::now();
    loop {
        match store.accept() {
            Ok((stream, _)) => return stream,
            Err(error) => assert!(error.kind() == ErrorKind::WouldBlock && since.elapsed() < PATIENCE, "{error}"),
        }
        std::thread::sleep(PAUSE);
    }
}

#[test]
fn others_are_served() {
    let place = Place::new();
    let store = half_restored(&place);
    let daemon = place.start();
    let _asked = asked(&store);
    let made = daemon.request("POST", "/v3/p/volumes", Some(&json!({"volume": {"size": 1}})));
    assert_eq!(made.status, 202, "{}", made.body);
    let path = format!("/v3/p/volumes/{}", made.body["volume"]["id"].as_str().unwrap());
    drop(daemon.wait(&path, |answer| answer.body["volume"]["status"] == "available"));
    assert!(daemon.stop());
}

#[test]
fn it_ends_when_it_is_told_so() {
    let place = Place::new();
    let store = half_restored(&place);
    let mut child = place.command(&["--dev"], "warn", Stdio::inherit()).spawn().unwrap();
    // It has begun, and waits.
    let _asked = asked(&store);
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    let since = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if since.elapsed() > PATIENCE {
            child.kill().unwrap();
            drop(child.wait());
            panic!("it does not end");
        }
        std::thread::sleep(PAUSE);
    };
    assert!(status.success(), "{status}");
    // Nothing of it is left in the way of the next one.
    assert!(!place.path().join("pool.ctl").exists() && !place.path().join("nbd.sock").exists());
    let daemon = place.start();
    assert!(daemon.stop());
}
