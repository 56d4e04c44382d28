//! Many real clients at once: what they race for is given as often as it may be, and what is left is whole.

use super::{
    clients::{clients, script, succeed, with_login},
    harness::{Answer, Daemon, Place},
};
use cairn_backup::{Location, Repository};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

/// Clients of the storm, each a process with several threads.
const PROCESSES: u64 = 3;
/// What the storm's project may have. Little, so that many requests come to its end.
const LIMITS: [(&str, i64); 5] =
    [("volumes", 8), ("snapshots", 8), ("gigabytes", 30), ("backups", 5), ("backup_gigabytes", 9)];
const PROJECT: &str = "demo";

#[test]
fn of_those_who_want_the_same_as_many_get_it_as_may() {
    script("racing.py");
}

#[test]
fn names_are_given_once_and_credentials_as_many_as_are_allowed() {
    const PASSWORD: &str = "Xq7-the-first-password";
    let place = Place::new();
    place.bootstrap(PASSWORD);
    let daemon = place.start_with(&[], "warn", Stdio::inherit());
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/daemon/clients/names.py");
    let mut command = Command::new(clients().join("bin/python"));
    let _ = command.arg("-B").arg(path).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    let _ = command.env("HOME", std::env::temp_dir());
    let _ = command.env("CAIRN_URL", daemon.url()).env("CAIRN_PASSWORD", PASSWORD);
    let _said = succeed(&command.output().unwrap(), "names.py");
    assert!(daemon.stop());
}

fn ask(daemon: &Daemon, method: &str, path: &str, body: Option<&Value>) -> Answer {
    let token = format!("X-Auth-Token: me:{PROJECT}");
    let answer = daemon.request_with(method, path, &[&token, "OpenStack-API-Version: volume 3.71"], body);
    assert_eq!(answer.status, 200, "{method} {path}: {}", answer.body);
    answer
}

fn all(daemon: &Daemon, collection: &str) -> Vec<Value> {
    let answer = ask(daemon, "GET", &format!("/v3/{PROJECT}/{collection}/detail"), None);
    let mut objects = answer.body[collection].as_array().unwrap().clone();
    // They name the daemon's address, which is another one after each start.
    objects.iter_mut().filter_map(Value::as_object_mut).for_each(|object| drop(object.remove("links")));
    objects
}

fn used(daemon: &Daemon) -> Value {
    let answer = ask(daemon, "GET", &format!("/v3/{PROJECT}/os-quota-sets/{PROJECT}?usage=true"), None);
    answer.body["quota_set"].clone()
}

/// No quota is exceeded, whatever is under way.
fn within_limits(daemon: &Daemon) {
    let used = used(daemon);
    for (name, limit) in LIMITS {
        let part = |key: &str| used[name][key].as_i64().unwrap();
        assert!(part("in_use") >= 0 && part("reserved") >= 0, "{name}: {used}");
        assert!(part("in_use") + part("reserved") <= limit, "{name}: {used}");
    }
}

fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object[key].as_str().unwrap_or_else(|| panic!("{key} of {object}"))
}

fn gib(object: &Value) -> i64 {
    object["size"].as_i64().unwrap()
}

/// Waits until nothing is under way.
fn rests(daemon: &Daemon) {
    let since = std::time::Instant::now();
    loop {
        let answer = ask(daemon, "GET", "/cairn/v1/tasks", None);
        if answer.body["tasks"] == json!([]) {
            return;
        }
        assert!(since.elapsed() < super::harness::PATIENCE, "{}", answer.body);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// What the interface says of the project fits together, and with the pool and the repository.
fn is_whole(place: &Place, daemon: &Daemon) -> BTreeMap<&'static str, Vec<Value>> {
    let kinds = ["volumes", "snapshots", "backups", "attachments"];
    let found: BTreeMap<_, _> = kinds.into_iter().map(|kind| (kind, all(daemon, kind))).collect();
    let (volumes, snapshots, backups) = (&found["volumes"], &found["snapshots"], &found["backups"]);
    quota_is_exact(daemon, &found);
    for volume in volumes {
        let own: Vec<_> = found["attachments"].iter().filter(|a| a["volume_id"] == volume["id"]).collect();
        assert!(own.len() <= 1, "one consumer at a time: {volume} {own:?}");
        let is = match own.first().map(|attachment| text(attachment, "status")) {
            None => "available",
            Some("attached") => "in-use",
            Some(other) => other,
        };
        assert_eq!(text(volume, "status"), is, "{volume} {own:?}");
    }
    for other in snapshots.iter().chain(backups) {
        assert_eq!(text(other, "status"), "available", "{other}");
    }
    for snapshot in snapshots {
        assert!(volumes.iter().any(|volume| volume["id"] == snapshot["volume_id"]), "{snapshot} has no volume");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(same_objects_below(place, volumes, snapshots, backups));
    found
}

fn quota_is_exact(daemon: &Daemon, found: &BTreeMap<&str, Vec<Value>>) {
    let used = used(daemon);
    let (volumes, snapshots, backups) = (&found["volumes"], &found["snapshots"], &found["backups"]);
    let count = |of: &[Value]| i64::try_from(of.len()).unwrap();
    let sum = |of: &[Value]| of.iter().map(gib).sum::<i64>();
    let expected = [
        ("volumes", count(volumes)),
        ("snapshots", count(snapshots)),
        ("gigabytes", sum(volumes) + sum(snapshots)),
        ("backups", count(backups)),
        ("backup_gigabytes", sum(backups)),
    ];
    for (name, expected) in expected {
        assert_eq!(used[name]["in_use"], json!(expected), "{name}: {used}");
    }
    for (name, count) in used.as_object().unwrap() {
        assert!(name == "id" || count["reserved"] == json!(0), "{name}: {used}");
    }
    let kinds = ask(daemon, "GET", &format!("/v3/{PROJECT}/types"), None).body["volume_types"].clone();
    let kinds: Vec<&str> = kinds.as_array().unwrap().iter().map(|kind| text(kind, "name")).collect();
    for kind in &kinds {
        let own = volumes.iter().filter(|volume| text(volume, "volume_type") == *kind).count();
        assert_eq!(used[format!("volumes_{kind}")]["in_use"], json!(own), "{kind}: {used}");
    }
    // Snapshots have the type that their volume had then, which the interface does not show.
    for name in ["volumes", "snapshots", "gigabytes"] {
        let of_types = kinds.iter().map(|kind| used[format!("{name}_{kind}")]["in_use"].as_i64().unwrap()).sum::<i64>();
        assert_eq!(used[name]["in_use"], json!(of_types), "{name}: {used}");
    }
}

async fn same_objects_below(place: &Place, volumes: &[Value], snapshots: &[Value], backups: &[Value]) {
    let (client, _) = cairn_service::control::find_server(&place.path().join("pool")).await.unwrap().unwrap();
    let stored: BTreeMap<String, u64> =
        client.volumes(false).await.unwrap().into_iter().map(|volume| (volume.name, volume.size >> 30)).collect();
    let known: BTreeMap<String, u64> =
        volumes.iter().map(|v| (format!("volume-{}", text(v, "id")), v["size"].as_u64().unwrap())).collect();
    assert_eq!(stored, known, "pool and interface have the same volumes");
    // Backups keep the last snapshot of each volume for the next one.
    let stored: BTreeSet<String> = client.snapshots(None, false).await.unwrap().into_iter().map(|s| s.name).collect();
    let stored: BTreeSet<String> = stored.into_iter().filter(|name| !name.starts_with("cairn-backup-")).collect();
    let known: BTreeSet<String> = snapshots.iter().map(|s| format!("snapshot-{}", text(s, "id"))).collect();
    assert_eq!(stored, known, "pool and interface have the same snapshots");
    client.wait_deleted().await.unwrap();
    let report = client.check(true, |_, _| {}).await.unwrap();
    assert!(report.is_clean() && report.leaked_blocks == 0, "{report:?}");
    let mut location = Location::new(format!("file://{}", place.path().join("repository").display()));
    location.cache = Some(place.path().join("cache-of-test"));
    let repository = Repository::open(&location).await.unwrap();
    assert_eq!(repository.backups().await.unwrap().len(), backups.len(), "the repository has no others");
}

fn storm(daemon: &Daemon, seed: u64) -> Child {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/daemon/clients/storm.py");
    let mut command = Command::new(clients().join("bin/python"));
    with_login(&mut command, daemon);
    let _ = command.arg("-B").arg(path).arg(seed.to_string()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

#[test]
fn a_storm_of_clients_leaves_a_whole() {
    let place = Place::new();
    let daemon = place.start();
    let limits: serde_json::Map<_, _> =
        LIMITS.into_iter().map(|(name, limit)| (name.to_owned(), limit.into())).collect();
    let limits = json!({"quota_set": limits});
    drop(ask(&daemon, "PUT", &format!("/v3/{PROJECT}/os-quota-sets/{PROJECT}"), Some(&limits)));
    let kind = json!({"volume_type": {"name": "other"}});
    drop(ask(&daemon, "POST", &format!("/v3/{PROJECT}/types"), Some(&kind)));
    let mut running: Vec<Child> = (1..=PROCESSES).map(|seed| storm(&daemon, seed)).collect();
    while running.iter_mut().any(|client| client.try_wait().unwrap().is_none()) {
        within_limits(&daemon);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    for client in running {
        let said = succeed(&client.wait_with_output().unwrap(), "storm.py");
        let done: u64 = said.trim().parse().unwrap();
        assert!(done >= 30, "only {done} requests of a client were carried out: nothing raced");
    }
    rests(&daemon);
    within_limits(&daemon);
    let before = is_whole(&place, &daemon);
    // All of it is there after the end of the process, too.
    daemon.kill();
    let daemon = place.start();
    rests(&daemon);
    assert!(is_whole(&place, &daemon) == before, "all objects are as they were: {before:?}");
    assert!(daemon.stop());
}
