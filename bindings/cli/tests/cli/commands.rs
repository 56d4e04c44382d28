//! One story through all commands, on a pool that each command opens and on one that is served.

use crate::harness::{BUSY, Site, noise};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

fn names<'a>(list: &'a Value, of: &str) -> Vec<&'a str> {
    list[of].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap()).collect()
}

#[test]
fn unserved() {
    story(&Site::new());
}

#[test]
fn served() {
    let mut site = Site::served();
    story(&site);
    site.stop_server();
    site.check();
}

fn story(site: &Site) {
    volumes(site);
    snapshots(site);
    deletions(site);
    the_pool(site);
    site.check();
}

fn volumes(site: &Site) {
    let made = site.json(&["volume", "create", "db", "--size", "8MiB", "--sync", "always"]);
    assert_eq!(
        (&made["name"], &made["size"], &made["options"]),
        (&json!("db"), &json!(8 * MIB), &json!({"sync": "always", "cache": "direct"}))
    );
    assert_eq!((&made["allocated"], &made["attached"], &made["snapshots"]), (&json!(0), &json!(0), &json!(0)));
    assert_eq!(made["parent"], Value::Null);
    assert!(made["created_ms"].as_u64().unwrap() > 1_600_000_000_000, "{made}");
    assert!(site.ok(&["volume", "create", "log file é", "--size", "1M"]).contains("created volume log file é: 1 MiB"));

    let list = site.json(&["volume", "list"]);
    assert_eq!(names(&list, "volumes"), ["db", "log file é"]);
    assert_eq!(list["volumes"][0]["exclusive"], Value::Null);
    assert!(site.json(&["volume", "list", "--exclusive"])["volumes"][0]["exclusive"].is_u64());
    let table = site.ok(&["volume", "list"]);
    assert!(table.starts_with("NAME") && table.lines().count() == 3 && table.contains("8 MiB"), "{table}");

    assert_eq!(site.json(&["volume", "info", "db"])["id"], made["id"]);
    assert!(site.json(&["volume", "info", "log file é", "--exclusive"])["exclusive"].is_u64());
    assert!(site.ok(&["volume", "info", "db"]).contains("8 MiB (8388608)"));

    assert_eq!(site.json(&["volume", "set", "db", "--sync", "never"])["options"]["sync"], "never");
    let cached = site.json(&["volume", "set", "db", "--cache", "writeback"]);
    assert_eq!(cached["options"], json!({"sync": "never", "cache": "writeback"}));
    assert!(site.ok(&["volume", "info", "db"]).contains("writeback"));
    assert!(site.ok(&["volume", "set", "db", "--cache", "direct"]).contains("sync never, cache direct"));
    assert_eq!(site.json(&["volume", "resize", "db", "--size", "16MiB"])["size"], 16 * MIB);
    assert!(site.ok(&["volume", "rename", "log file é", "log"]).contains("renamed volume log file é to log"));
    assert_eq!(names(&site.json(&["volume", "list"]), "volumes"), ["db", "log"]);
}

fn snapshots(site: &Site) {
    let first = noise(1, 3 << 20);
    site.volume("disk", &first);
    let made = site.json(&["snapshot", "create", "disk@a", "log@a"]);
    assert_eq!(names(&made, "snapshots"), ["a", "a"]);
    assert_eq!(made["snapshots"][0]["created_ms"], made["snapshots"][1]["created_ms"], "at one moment");
    let list = site.json(&["snapshot", "list"]);
    assert_eq!(list["snapshots"].as_array().unwrap().len(), 2);
    let list = site.json(&["snapshot", "list", "disk", "--exclusive"]);
    assert_eq!((&list["snapshots"][0]["volume"], &list["snapshots"][0]["exclusive"]), (&json!("disk"), &json!(0)));
    assert!(site.ok(&["snapshot", "list", "disk"]).contains("disk@a"));

    let clone = site.json(&["clone", "disk@a", "copy", "--size", "9MiB"]);
    assert_eq!((&clone["size"], &clone["parent"]), (&json!(9 * MIB), &json!("disk@a")));
    assert_eq!(site.content("copy")[..3 << 20], first);

    let same = site.json(&["snapshot", "diff", "disk@a", "disk"]);
    assert_eq!((&same["extents"], &same["total"]), (&json!([]), &json!(0)));
    let diff = site.json(&["snapshot", "diff", "log@a", "disk@a"]);
    assert_eq!((&diff["from"], &diff["to"], &diff["data"]), (&json!("log@a"), &json!("disk@a"), &json!(3 * MIB)));
    let sum: u64 = diff["extents"].as_array().unwrap().iter().map(|extent| extent["length"].as_u64().unwrap()).sum();
    assert_eq!(diff["total"], sum);
    let text = site.ok(&["snapshot", "diff", "log@a", "disk"]);
    assert!(text.contains("OFFSET") && text.contains("3 MiB data"), "{text}");

    site.json(&["volume", "resize", "disk", "--size", "10MiB"]);
    let back = site.json(&["snapshot", "revert", "disk@a"]);
    assert_eq!((&back["size"], &back["parent"]), (&json!(8 * MIB), &json!("disk@a")));
    assert_eq!(site.content("disk")[..3 << 20], first);
    assert!(site.ok(&["snapshot", "revert", "disk@a", "--force"]).contains("reverted volume disk to disk@a"));
}

fn deletions(site: &Site) {
    let message = site.fails(BUSY, "busy", &["volume", "delete", "disk"]);
    assert!(message.contains("disk"), "{message}");
    // In an awkward order: the snapshot first that a clone stands on.
    assert!(site.ok(&["snapshot", "delete", "disk@a"]).contains("deleted disk@a"));
    site.ok(&["snapshot", "create", "disk@b", "log@b"]);
    let gone = site.json(&["volume", "delete", "disk", "--cascade", "--wait-space"]);
    assert_eq!(gone, json!({"deleted": ["disk@b", "disk"]}));
    assert_eq!(site.content("copy")[..3 << 20], noise(1, 3 << 20));
    assert_eq!(site.json(&["snapshot", "delete", "log@b", "--wait-space"]), json!({"deleted": ["log@b"]}));
    assert_eq!(names(&site.json(&["volume", "list"]), "volumes"), ["copy", "db", "log"]);
}

fn the_pool(site: &Site) {
    let info = site.json(&["pool", "info"]);
    assert_eq!((&info["volumes"], &info["snapshots"], &info["size"]), (&json!(3), &json!(1), &json!(256 * MIB)));
    assert_eq!(info["uuid"].as_str().unwrap().len(), 32);
    assert!(site.ok(&["pool", "info"]).contains("256 MiB (268435456)"));
    assert!(site.json(&["pool", "events"])["events"].is_array());
    assert!(site.ok(&["pool", "events", "--since", "0"]).contains("EVENT"));
    let report = site.json(&["pool", "check"]);
    assert_eq!((&report["problems"], &report["data_verified"]), (&json!([]), &json!(0)));
    let report = site.json(&["pool", "check", "--read-data"]);
    assert_eq!(report["data_verified"], report["data_blocks"]);
    assert!(report["data_blocks"].as_u64().unwrap() >= 768, "{report}");
    assert!(site.ok(&["pool", "check"]).ends_with("clean\n"));
    let outcome = site.json(&["pool", "scrub", "--rate", "unlimited"]);
    assert_eq!((&outcome["cancelled"], &outcome["report"]["damaged"]), (&json!(false), &json!([])));
    assert_eq!(outcome["report"]["data_blocks"], report["data_blocks"]);
    assert!(site.ok(&["pool", "scrub"]).ends_with("clean\n"));
    assert!(site.ok(&["pool", "scrub", "--status"]).starts_with("no scrub is under way\n"));
    assert_eq!(site.json(&["pool", "check", "--repair"])["plan"], json!({"actions": [], "unrepaired": []}));
    assert!(site.ok(&["pool", "check", "--repair", "--read-data"]).ends_with("nothing to repair\n"));
}
