//! `bench`: what it measures, what it refuses, what it answers. Not how fast anything is.

use crate::harness::{BUSY, EXISTS, INVALID, NOT_FOUND, Site, noise};
use serde_json::Value;
use std::fs;

const FEW: [&str; 2] = ["--requests", "300"];

fn bench(site: &Site, args: &[&str]) -> Value {
    site.json(&[&["bench"], args, &FEW].concat())
}

#[test]
fn volumes_snapshots_files_and_scratch() {
    let site = Site::new();
    site.ok(&["volume", "create", "db", "--size", "16MiB"]);
    let report = bench(&site, &["db", "--rw", "randwrite", "--verify"]);
    assert_eq!((&report["target"]["kind"], &report["write"]["requests"]), (&"volume".into(), &300.into()));
    assert_eq!(report["verify"]["failures"], 0);
    site.ok(&["snapshot", "create", "db@s"]);
    assert_eq!(bench(&site, &["db@s"])["read"]["requests"], 300);
    let raw = site.path("raw");
    let raw = raw.to_str().unwrap();
    let report = bench(&site, &[raw, "--rw", "randrw", "--rwmix", "70", "--size", "8MiB", "--jobs", "2"]);
    assert_eq!((&report["target"]["kind"], &report["total"]["requests"]), (&"file".into(), &300.into()));
    let directory = site.directory.path().to_str().unwrap();
    let report = bench(&site, &["--size", "8MiB", "--dir", directory]);
    assert_eq!((&report["target"]["kind"], &report["read"]["requests"]), (&"scratch".into(), &300.into()));
}

#[test]
fn a_served_pool_is_measured_through_its_export() {
    let mut site = Site::served();
    site.volume("db", &noise(1, 8 << 20));
    let message = site.fails(BUSY, "busy", &["bench", "db"]);
    let uri = message.split('"').nth(1).unwrap_or_else(|| panic!("{message}"));
    assert_eq!(bench(&site, &[uri])["read"]["requests"], 300);
    let disks = site.path("vhost");
    site.stop_server();
    site.serve(&["--vhost-user", disks.to_str().unwrap()]);
    site.ok(&["attach", "db"]);
    let socket = format!("vhost-user:{}", disks.join("db.sock").display());
    let report = bench(&site, &[&socket, "--rw", "randwrite", "--fsync", "1", "--destroy"]);
    assert_eq!((&report["target"]["kind"], &report["flush"]["requests"]), (&"vhost-user-blk".into(), &300.into()));
}

#[test]
fn a_table_and_a_picture() {
    let site = Site::new();
    site.ok(&["volume", "create", "db", "--size", "16MiB"]);
    let picture = site.path("x.svg");
    let svg = picture.to_str().unwrap();
    let text = site.ok(&[&["bench", "db", "--rw", "randwrite", "--svg", svg], &FEW[..]].concat());
    assert!(text.starts_with("volume db: randwrite of 4 KiB") && text.contains("P99.9"), "{text}");
    assert!(fs::read_to_string(&picture).unwrap().starts_with("<svg "));
    fs::write(&picture, "notes").unwrap();
    site.fails(EXISTS, "exists", &["bench", "db", "--svg", svg]);
    assert_eq!(fs::read_to_string(&picture).unwrap(), "notes");
}

#[test]
fn refusals_name_the_key_and_the_remedy() {
    let site = Site::new();
    site.volume("db", &noise(1, 1 << 20));
    let before = site.content("db");
    let refused = |args: &[&str], key: &str| {
        let message = site.fails(INVALID, "invalid", &[&["bench"], args].concat());
        assert!(message.contains(key), "{args:?}: {message}");
    };
    refused(&["db", "--rw", "randwrite"], "--destroy");
    refused(&["db", "--fill"], "--destroy");
    refused(&["db", "--rwmix", "70"], "rwmix");
    refused(&["db", "--fsync", "1"], "fsync");
    refused(&["db", "--bs", "1000"], "bs");
    refused(&["db", "--size", "1GiB"], "size");
    refused(&["db", "--dist", "pareto"], "zipf");
    refused(&["db", "--rw", "read", "--dist", "zipf:1"], "dist");
    refused(&["nbd://"], "NBD URI");
    site.fails(NOT_FOUND, "not-found", &["bench", "nobody"]);
    site.fails(NOT_FOUND, "not-found", &["bench", "./nothing-here"]);
    assert!(site.content("db") == before);
}

#[test]
fn damage_ends_with_its_own_code() {
    let site = Site::new();
    let raw = site.path("raw");
    let path = raw.to_str().unwrap();
    bench(&site, &[path, "--size", "4MiB", "--rw", "randwrite", "--verify", "--fill"]);
    let mut content = fs::read(&raw).unwrap();
    content[123_456] ^= 1;
    fs::write(&raw, content).unwrap();
    let args = ["bench", path, "--rw", "read", "--bs", "64KiB", "--verify=reads", "--requests", "64"];
    let output = site.run(&args);
    assert_eq!(output.status.code(), Some(7));
    assert!(String::from_utf8(output.stdout).unwrap().contains("offset 123392: "));
}
