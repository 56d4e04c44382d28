//! Killed again and again while clients work: everything comes to its end, counts stay exact.

use super::harness::{Daemon, Place};
use serde_json::{Value, json};
use std::{collections::BTreeSet, io::Write, net::TcpStream, time::Duration};

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
        std::thread::sleep(Duration::from_millis(round * 3));
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

/// What the pool has.
fn stored(place: &Place) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let volumes = runtime.block_on(async {
        let (client, _) = cairn_service::control::find_server(&place.path().join("pool")).await.unwrap().unwrap();
        client.volumes(false).await.unwrap()
    });
    volumes.into_iter().map(|volume| volume.name).collect()
}

fn new_image(daemon: &Daemon, format: &str) -> String {
    let fields = json!({"name": "i", "disk_format": format, "container_format": "bare"});
    let answer = daemon.request("POST", "/image/v2/images", Some(&fields));
    assert_eq!(answer.status, 201, "{}", answer.body);
    answer.body["id"].as_str().unwrap().to_owned()
}

/// The head of a request that sends so many bytes.
pub(crate) fn upload(id: &str, length: usize) -> Vec<u8> {
    let head = format!(
        "PUT /image/v2/images/{id}/file HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Auth-Token: u:p\r\n\
         Content-Type: application/octet-stream\r\nContent-Length: {length}\r\n\r\n"
    );
    head.into_bytes()
}

/// Images, and GiB of them, of the project.
fn counted(daemon: &Daemon) -> [Value; 2] {
    let quota = daemon.request("GET", "/cairn/v1/quotas/p/images", None).body;
    ["images", "image_gigabytes"].map(|name| json!([quota[name]["in_use"], quota[name]["reserved"]]))
}

fn becomes(daemon: &Daemon, image: &str, status: &str) {
    drop(daemon.wait(&format!("/image/v2/images/{image}"), |answer| answer.body["status"] == status));
}

#[test]
fn what_a_kill_cuts_off_of_an_upload_leaves_nothing() {
    const LENGTH: usize = 32 << 20;
    let place = Place::new();
    let mut daemon = place.start();
    let mut images = Vec::new();
    for round in 0..6_usize {
        let id = new_image(&daemon, if round % 2 == 0 { "raw" } else { "qcow2" });
        let mut stream = TcpStream::connect(daemon.url().strip_prefix("http://").unwrap()).unwrap();
        stream.write_all(&upload(&id, LENGTH)).unwrap();
        becomes(&daemon, &id, "saving");
        // How much of it has been written by the end differs from round to round.
        for _ in 0..round {
            stream.write_all(&vec![7; 3 << 20]).unwrap();
        }
        daemon.kill();
        daemon = place.start();
        becomes(&daemon, &id, "queued");
        images.push(id);
        assert_eq!(counted(&daemon), [json!([images.len(), 0]), json!([0, 0])]);
        assert_eq!(stored(&place), Vec::<String>::new());
    }
    // It is sent once more, and whole.
    let bytes = vec![7; LENGTH];
    assert_eq!(daemon.raw(&[upload(&images[0], LENGTH), bytes].concat()).unwrap().status, 204);
    becomes(&daemon, &images[0], "active");
    assert_eq!(counted(&daemon), [json!([6, 0]), json!([1, 0])]);
    assert_eq!(stored(&place), [format!("image-{}", images[0])]);
    for image in images {
        assert_eq!(daemon.request("DELETE", &format!("/image/v2/images/{image}"), None).status, 204);
    }
    assert_eq!((counted(&daemon), stored(&place)), ([json!([0, 0]), json!([0, 0])], Vec::new()));
    assert!(daemon.stop());
}

#[test]
fn an_image_of_a_volume_is_made_over_a_kill() {
    let place = Place::new();
    let mut daemon = place.start();
    let made = daemon.request("POST", "/v3/p/volumes", Some(&json!({"volume": {"size": 1}})));
    let id = made.body["volume"]["id"].as_str().unwrap().to_owned();
    rests(&daemon);
    for round in 0..5_u64 {
        let wanted = json!({"os-volume_upload_image": {"image_name": "i", "disk_format": "qcow2"}});
        let answer = daemon.request("POST", &format!("/v3/p/volumes/{id}/action"), Some(&wanted));
        assert_eq!(answer.status, 202, "{}", answer.body);
        let image = answer.body["os-volume_upload_image"]["image_id"].as_str().unwrap().to_owned();
        std::thread::sleep(Duration::from_millis(round * 3));
        daemon.kill();
        daemon = place.start();
        becomes(&daemon, &image, "active");
        rests(&daemon);
        // Its file is small, and its disk that of the volume.
        assert_eq!(counted(&daemon), [json!([1, 0]), json!([2, 0])]);
        let names = [format!("image-{image}"), format!("image-file-{image}"), format!("volume-{id}")];
        assert_eq!(stored(&place).into_iter().collect::<BTreeSet<_>>(), BTreeSet::from(names));
        assert_eq!(daemon.request("DELETE", &format!("/image/v2/images/{image}"), None).status, 204);
        assert_eq!(stored(&place), [format!("volume-{id}")]);
    }
    assert!(daemon.stop());
}
