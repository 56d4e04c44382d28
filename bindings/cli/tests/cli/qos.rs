//! `qos set|show|clear`: on a pool that each command opens, on one that is served, and over restarts of its server.

use crate::harness::{INVALID, NOT_FOUND, Site, noise};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

#[test]
fn unserved() {
    let site = Site::new();
    story(&site);
    refuse(&site);
    site.check();
}

#[test]
fn served() {
    let mut site = Site::served();
    story(&site);
    refuse(&site);
    site.stop_server();
    site.check();
}

fn cells(line: &str) -> Vec<&str> {
    line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
}

fn story(site: &Site) {
    site.ok(&["volume", "create", "db", "--size", "8MiB"]);
    site.ok(&["volume", "create", "my log", "--size", "8MiB"]);
    assert_eq!(targets(site), ["/"], "the pool is always there");
    assert!(site.ok(&["qos", "show", "db"]).ends_with("no limits of its own\n"));

    let info = site.json(&["qos", "set", "db", "total_iops_sec=500", "read_bytes_sec=64MiB", "group=/gold"]);
    assert_eq!(info["limits"], json!({"read_bytes_sec": 64 * MIB, "total_iops_sec": 500}));
    assert_eq!((&info["group"], &info["rates"]["total_iops_sec"]), (&json!("gold"), &json!(500)));
    // What is not named stays.
    let text = site.ok(&["qos", "set", "db", "total_iops_sec_max=2000", "total_iops_sec_max_length=30"]);
    let said =
        "read_bytes_sec=64MiB total_iops_sec=500 total_iops_sec_max=2000 total_iops_sec_max_length=30 group=gold";
    assert_eq!(text, format!("db: {said}\n"));
    site.ok(&["qos", "set", "my log", "write_iops_sec_per_gb=10000", "group=gold", "weight=3"]);
    site.ok(&["qos", "set", "/gold", "total_bytes_sec=1GiB"]);
    site.ok(&["qos", "set", "/", "write_bytes_sec=4GiB", "queue_depth=17"]);

    assert_eq!(targets(site), ["/", "/gold", "db", "my log"]);
    let text = site.ok(&["qos", "show"]);
    assert_eq!(cells(text.lines().nth(2).unwrap()), ["/gold", "-", "2", "-", "-", "total_bytes_sec=1GiB"], "{text}");
    let text = site.ok(&["qos", "show", "db"]);
    let line = text.lines().find(|line| line.starts_with("total_iops_sec")).unwrap();
    assert_eq!(cells(line), ["total_iops_sec", "500/s", "2000/s for 30 s", "-", "45000"], "{text}");
    // 10,000 for each GiB, of 8 MiB.
    assert_eq!(site.json(&["qos", "show", "my log"])["rates"]["write_iops_sec"], 78);
    assert!(site.ok(&["qos", "show", "/gold"]).contains("db, my log"));
    assert_eq!(site.json(&["qos", "show", "/"])["queue_depth"], 17);

    site.ok(&["volume", "rename", "my log", "log"]);
    site.ok(&["volume", "resize", "log", "--size", "80MiB"]);
    let log = site.json(&["qos", "show", "log"]);
    assert_eq!((&log["rates"]["write_iops_sec"], &log["limits"]["weight"]), (&json!(781), &json!(3)));

    site.ok(&["qos", "clear", "db", "total_iops_sec_max", "total_iops_sec_max_length", "group"]);
    assert_eq!(site.ok(&["qos", "clear", "db", "weight"]), "db: read_bytes_sec=64MiB total_iops_sec=500\n");
    assert_eq!(site.ok(&["qos", "clear", "log"]), "log: no limits\n");
    assert_eq!(site.json(&["qos", "show", "/gold"])["members"], json!([]));
    assert_eq!(site.ok(&["qos", "clear", "/gold"]), "/gold: no limits\n");
    assert_eq!(targets(site), ["/", "db"]);
    site.ok(&["qos", "clear", "/"]);
    site.ok(&["volume", "delete", "db"]);
    assert_eq!(targets(site), ["/"]);
    site.ok(&["volume", "create", "db", "--size", "8MiB"]);
    assert_eq!(site.json(&["qos", "show", "db"])["limits"], json!({}), "another volume of that name");
}

fn targets(site: &Site) -> Vec<String> {
    let list = site.json(&["qos", "show"]);
    list["qos"].as_array().unwrap().iter().map(|info| info["target"].as_str().unwrap().to_owned()).collect()
}

fn refuse(site: &Site) {
    site.ok(&["qos", "set", "db", "total_iops_sec=500"]);
    let before = site.json(&["qos", "show"]);
    for (target, change, words) in [
        ("db", "iops=5", "iops is no key"),
        ("db", "total_iops_sec=", "whole number above zero"),
        ("db", "total_iops_sec=0", "take it out"),
        ("db", "total_iops_sec=-5", "above zero"),
        ("db", "total_iops_sec=1.5", "whole number"),
        ("db", "total_iops_sec=5MiB", "whole number"),
        ("db", "total_iops_sec=18446744073709551616", "cannot be counted"),
        ("db", "write_bytes_sec=5MB", "1MiB"),
        ("db", "write_bytes_sec=99999999TiB", "cannot be counted"),
        ("db", "read_iops_sec=5", "total_iops_sec and read_iops_sec exclude each other"),
        ("db", "total_iops_sec_max=499", "below total_iops_sec=500"),
        ("db", "total_iops_sec_max_length=5", "needs total_iops_sec_max"),
        ("db", "weight=1001", "weight"),
        ("db", "queue_depth=5", "queue_depth"),
        ("db", "group=", "empty"),
        ("db", "group=a/b", "a/b"),
        ("/", "group=gold", "no volume"),
        ("/", "queue_depth=0", "queue_depth=0"),
        ("/gold", "read_iops_sec_per_gb=5", "read_iops_sec_per_gb"),
        ("/a/b", "read_iops_sec=5", "a/b"),
        ("db@a", "read_iops_sec=5", "db@a"),
        ("", "read_iops_sec=5", "empty"),
    ] {
        let message = site.fails(INVALID, "invalid", &["qos", "set", target, change]);
        assert!(message.contains(words), "{target} {change}: {message}");
    }
    let message = site.fails(INVALID, "invalid", &["qos", "set", "db", "write_bytes_sec=5", "weight=0"]);
    assert!(message.contains("weight=0"), "{message}");
    let message = site.fails(INVALID, "invalid", &["qos", "set", "db", "group=a", "group=b"]);
    assert!(message.contains("group is given twice"), "{message}");
    site.fails(INVALID, "invalid", &["qos", "clear", "db", "iops"]);
    for args in [&["qos", "set", "none", "weight=1"][..], &["qos", "show", "none"], &["qos", "clear", "none"]] {
        let message = site.fails(NOT_FOUND, "not-found", args);
        assert!(message.contains("none"), "{message}");
    }
    assert_eq!(site.json(&["qos", "show"]), before, "all of a change, or nothing");
}

#[test]
fn limits_survive_the_server() {
    let mut site = Site::served();
    site.volume("db", &noise(1, MIB as usize));
    site.ok(&["qos", "set", "db", "read_bytes_sec=64MiB", "group=gold", "weight=3"]);
    site.ok(&["qos", "set", "/gold", "total_iops_sec=5000"]);
    site.ok(&["qos", "set", "/", "queue_depth=17"]);
    let set = |site: &Site| -> Vec<Value> {
        let list = site.json(&["qos", "show"])["qos"].as_array().unwrap().clone();
        list.iter()
            .map(|info| json!([info["target"], info["limits"], info["group"], info["queue_depth"], info["members"]]))
            .collect()
    };
    let before = set(&site);
    assert_eq!(before.len(), 3);
    site.kill_server();
    assert_eq!(set(&site), before, "after a kill, by a command that opens the pool");
    site.serve(&[]);
    assert_eq!(set(&site), before);
    site.stop_server();
    site.serve(&[]);
    assert_eq!(set(&site), before);
    site.stop_server();
    site.check();
}
