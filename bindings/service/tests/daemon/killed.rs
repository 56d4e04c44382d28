//! Killed again and again while clients work: everything comes to its end, counts stay exact.

use super::harness::{Daemon, Place};
use serde_json::{Value, json};

fn all(daemon: &Daemon, collection: &str) -> Vec<Value> {
    let answer = daemon.request("GET", &format!("/v3/p/{collection}/detail"), None);
    answer.body[collection].as_array().unwrap().clone()
}

/// Waits until nothing is under way.
fn rests(daemon: &Daemon) {
    for collection in ["volumes", "snapshots", "backups"] {
        let at_rest = |object: &Value| matches!(object["status"].as_str(), Some("available"));
        drop(daemon.wait(&format!("/v3/p/{collection}/detail"), |answer| {
            answer.body[collection].as_array().unwrap().iter().all(at_rest)
        }));
    }
}

#[test]
fn a_daemon_that_is_killed_goes_on_where_it_was() {
    let place = Place::new();
    let mut daemon = place.start();
    let quota =
        json!({"quota_set": {"volumes": -1, "snapshots": -1, "gigabytes": -1, "backups": -1, "backup_gigabytes": -1}});
    assert_eq!(daemon.request("PUT", "/v3/p/os-quota-sets/p", Some(&quota)).status, 200);
    for round in 0..6_u64 {
        let mut made = Vec::new();
        for _ in 0..3 {
            let answer = daemon.request("POST", "/v3/p/volumes", Some(&json!({"volume": {"size": 1}})));
            assert_eq!(answer.status, 202, "{}", answer.body);
            made.push(answer.body["volume"]["id"].as_str().unwrap().to_owned());
        }
        rests(&daemon);
        // Each of these takes several steps; how far each gets before the end differs from run to run.
        let snapshot = json!({"snapshot": {"volume_id": made[0]}});
        assert_eq!(daemon.request("POST", "/v3/p/snapshots", Some(&snapshot)).status, 202);
        let clone = json!({"volume": {"source_volid": made[1]}});
        assert_eq!(daemon.request("POST", "/v3/p/volumes", Some(&clone)).status, 202);
        let backup = json!({"backup": {"volume_id": made[2]}});
        assert_eq!(daemon.request("POST", "/v3/p/backups", Some(&backup)).status, 202);
        std::thread::sleep(std::time::Duration::from_millis(round * 3));
        daemon.kill();
        daemon = place.start();
        rests(&daemon);
    }
    let (volumes, snapshots, backups) = (all(&daemon, "volumes"), all(&daemon, "snapshots"), all(&daemon, "backups"));
    assert_eq!((volumes.len(), snapshots.len(), backups.len()), (24, 6, 6));
    let used = daemon.request("GET", "/v3/p/os-quota-sets/p?usage=true", None).body["quota_set"].clone();
    for (name, expected) in
        [("volumes", 24), ("snapshots", 6), ("gigabytes", 30), ("backups", 6), ("backup_gigabytes", 6)]
    {
        assert_eq!((&used[name]["in_use"], &used[name]["reserved"]), (&json!(expected), &json!(0)), "{name}");
    }
    // Nothing else is in the pool.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (client, _) =
        runtime.block_on(cairn_service::control::find_server(&place.path().join("pool"))).unwrap().unwrap();
    assert_eq!(runtime.block_on(client.volumes(false)).unwrap().len(), 24);
    for volume in volumes {
        let path = format!("/v3/p/volumes/{}?cascade=true", volume["id"].as_str().unwrap());
        assert_eq!(daemon.request("DELETE", &path, None).status, 202);
    }
    daemon.kill();
    let daemon = place.start();
    drop(daemon.wait("/v3/p/volumes", |answer| answer.body["volumes"] == json!([])));
    assert!(runtime.block_on(async {
        let (client, _) = cairn_service::control::find_server(&place.path().join("pool")).await.unwrap().unwrap();
        client.volumes(false).await.unwrap().is_empty()
    }));
    assert!(daemon.stop());
}
