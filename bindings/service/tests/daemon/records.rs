//! A backup that its service has forgotten: its record brings it back.

use super::{
    clients::{clients, succeed, with_login},
    harness::{Daemon, Place},
};
use serde_json::{Value, json};
use std::{path::PathBuf, process::Command};

/// Runs the script; what its last line says.
fn records(daemon: &Daemon, deed: &str, given: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/daemon/clients/records.py");
    let mut command = Command::new(clients().join("bin/python"));
    with_login(&mut command, daemon);
    let _ = command.arg("-B").arg(&path).args([deed, given]);
    let said = succeed(&command.output().unwrap(), "records.py");
    serde_json::from_str(said.lines().last().unwrap()).unwrap()
}

/// Bytes with a pattern of their own, at the begin, in the middle and at the end of a volume of 1 GiB.
const PLACES: [u64; 3] = [0, 500 << 20, (1 << 30) - 4096];

async fn client(place: &Place) -> cairn_service::Client {
    cairn_service::control::find_server(&place.path().join("pool")).await.unwrap().unwrap().0
}

#[test]
fn a_forgotten_backup_is_imported_and_restored() {
    let place = Place::new();
    let daemon = place.start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let made = daemon.request("POST", "/v3/p/volumes", Some(&json!({"volume": {"size": 1}})));
    let id = made.body["volume"]["id"].as_str().unwrap().to_owned();
    let done = |answer: &super::harness::Answer| answer.body["volume"]["status"] == "available";
    drop(daemon.wait(&format!("/v3/p/volumes/{id}"), done));
    runtime.block_on(async {
        let client = client(&place).await;
        for (n, offset) in (1..).zip(PLACES) {
            client.write(&format!("volume-{id}"), offset, vec![n; 4096].into()).await.unwrap();
        }
        client.flush(&format!("volume-{id}")).await.unwrap();
    });
    let told = records(&daemon, "export", &id);
    assert!(daemon.stop());
    // The catalog is lost, and with it all that the service knew. Pool and repository stay.
    let catalog = place.path().join("pool.catalog");
    assert!(catalog.is_dir(), "{}", catalog.display());
    std::fs::remove_dir_all(catalog).unwrap();
    let daemon = place.start();
    let volumes = records(&daemon, "import", &told.to_string())["volumes"].clone();
    runtime.block_on(async {
        let client = client(&place).await;
        for volume in volumes.as_array().unwrap() {
            let volume = format!("volume-{}", volume.as_str().unwrap());
            for (n, offset) in (1..).zip(PLACES) {
                let bytes = client.read(&volume, offset, 4096).await.unwrap();
                assert!(bytes.len() == 4096 && bytes.iter().all(|byte| *byte == n), "{volume} at {offset}");
            }
            assert!(client.read(&volume, 100 << 20, 4096).await.unwrap().iter().all(|byte| *byte == 0));
        }
    });
    assert!(daemon.stop());
}
