//! What deleted backups leave in the repository goes by itself.

use super::harness::{Daemon, PATIENCE, Place};
use serde_json::json;
use std::{
    fs,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

const MIB: u64 = 1 << 20;

fn stored(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(
            |entry| if entry.path().is_dir() { stored(&entry.path()) } else { entry.metadata().map_or(0, |m| m.len()) },
        )
        .sum()
}

fn metric(daemon: &Daemon, name: &str) -> f64 {
    let answer = daemon.request_with("GET", "/metrics", &[], None);
    let text = answer.body.as_str().unwrap();
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap().parse().unwrap()
}

/// Bytes that do not compress.
fn noise(mut seed: u64) -> Vec<u8> {
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 56) as u8
    };
    (0..8 * MIB).map(|_| next()).collect()
}

fn backup(daemon: &Daemon, seed: u64) -> String {
    let made = daemon.request("POST", "/v3/p/volumes", Some(&json!({"volume": {"size": 1}})));
    let id = made.body["volume"]["id"].as_str().unwrap().to_owned();
    drop(daemon.wait(&format!("/v3/p/volumes/{id}"), |answer| answer.body["volume"]["status"] == "available"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let pool = daemon.ready["pool"].as_str().unwrap();
        let (client, _) = cairn_service::control::find_server(Path::new(pool)).await.unwrap().unwrap();
        client.write(&format!("volume-{id}"), 0, noise(seed).into()).await.unwrap();
    });
    let made = daemon.request("POST", "/v3/p/backups", Some(&json!({"backup": {"volume_id": id}})));
    let id = made.body["backup"]["id"].as_str().unwrap().to_owned();
    drop(daemon.wait(&format!("/v3/p/backups/{id}"), |answer| answer.body["backup"]["status"] == "available"));
    id
}

#[test]
fn the_room_of_a_deleted_backup_comes_back() {
    let place = Place::new();
    let daemon = place.start_with(&["--dev", "--collect-every", "1"], "warn", Stdio::inherit());
    let packs = place.path().join("repository/packs");
    let [gone, kept] = [1, 2].map(|seed| backup(&daemon, seed));
    assert!(stored(&packs) >= 16 * MIB, "{}", stored(&packs));
    assert_eq!(metric(&daemon, "cairn_repository_deletions"), 0.0);
    assert_eq!(daemon.request("DELETE", &format!("/v3/p/backups/{gone}"), None).status, 202);
    let began = Instant::now();
    while stored(&packs) >= 9 * MIB || metric(&daemon, "cairn_repository_deletions") > 0.0 {
        assert!(began.elapsed() < PATIENCE, "{} bytes are there", stored(&packs));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(metric(&daemon, "cairn_repository_freed_bytes_total") >= (8 * MIB) as f64);
    assert!(metric(&daemon, "cairn_repository_collected_timestamp_seconds") > 0.0);
    assert_eq!(metric(&daemon, "cairn_repository_collection_failures_total"), 0.0);
    // The other one is whole.
    let made = daemon.request("POST", &format!("/v3/p/backups/{kept}/restore"), Some(&json!({"restore": {}})));
    let volume = made.body["restore"]["volume_id"].as_str().unwrap().to_owned();
    drop(daemon.wait(&format!("/v3/p/volumes/{volume}"), |answer| answer.body["volume"]["status"] == "available"));
    assert!(daemon.stop());
}
