//! Import and export: what goes in comes out, holes stay holes, and no image chooses what is read.

use crate::harness::{EXISTS, INVALID, Site, installed, noise, text, tool, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::{FileExt, MetadataExt},
    process::Stdio,
};

/// A sparse disk of 64 MiB and 700 bytes, with data in odd places.
fn sparse_disk(site: &Site, name: &str) -> std::path::PathBuf {
    let path = site.path(name);
    let file = File::create(&path).unwrap();
    file.set_len((64 << 20) + 700).unwrap();
    for (seed, offset, length) in
        [(1, 0, 512), (2, 5 << 20, 3 << 20), (3, (20 << 20) + 4000, 100), (4, (64 << 20) + 650, 50)]
    {
        file.write_all_at(&noise(seed, length), offset).unwrap();
    }
    file.write_all_at(&vec![0; 2 << 20], 30 << 20).unwrap();
    path
}

fn stored(path: &std::path::Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

#[test]
fn unserved() {
    round_trips(&Site::new());
}

#[test]
fn served() {
    round_trips(&Site::served());
}

fn round_trips(site: &Site) {
    let disk = sparse_disk(site, "disk.raw");
    let made = site.json(&["volume", "import", text(&disk), "disk"]);
    assert_eq!((&made["format"], &made["volume"]["name"]), (&json!("raw"), &json!("disk")));
    assert_eq!(made["volume"]["size"], (64 << 20) + 1024, "whole sectors");
    assert!(made["volume"]["allocated"].as_u64().unwrap() <= (3 << 20) + 5 * 4096, "{made}");

    for name in ["out.raw", "out.qcow2"] {
        let out = site.path(name);
        let told = site.json(&["volume", "export", "disk", text(&out)]);
        assert_eq!(told["format"], name.split_once('.').unwrap().1);
        assert!(stored(&out) < 8 << 20, "{name} takes {}", stored(&out));
        site.fails(EXISTS, "exists", &["volume", "export", "disk", text(&out)]);
        site.ok(&["volume", "export", "disk", text(&out), "--force"]);
        let again = format!("again-{name}");
        let made = site.json(&["volume", "import", text(&out), &again]);
        assert_eq!(made["format"], told["format"]);
        let diff = site.json(&["snapshot", "diff", "disk", &again]);
        assert!(diff["total"].as_u64().unwrap() <= 4 << 20, "holes came back as holes: {diff}");
        assert!(site.content(&again) == site.content("disk"));
    }
    let exported = fs::read(site.path("out.raw")).unwrap();
    let original = fs::read(&disk).unwrap();
    assert!(exported[..original.len()] == original[..] && exported[original.len()..].iter().all(|byte| *byte == 0));
    let left = fs::read_dir(site.directory.path()).unwrap();
    assert!(left.flatten().all(|entry| !entry.file_name().to_string_lossy().starts_with(".cairn")), "temporary files");
    assert_eq!(site.json(&["snapshot", "list"]), json!({"snapshots": []}), "no snapshot is left of an export");
}

#[test]
fn other_programs_agree() {
    if !installed("qemu-img") {
        return;
    }
    let site = Site::new();
    let disk = sparse_disk(&site, "disk.raw");
    for (name, options) in [
        ("plain", &[][..]),
        ("compressed", &["-c"]),
        ("small", &["-o", "cluster_size=4096"]),
        ("old", &["-o", "compat=0.10"]),
    ] {
        let image = site.path(&format!("{name}.qcow2"));
        tool("qemu-img", &[&["convert", "-f", "raw", "-O", "qcow2"], options, &[text(&disk), text(&image)]].concat());
        site.ok(&["volume", "import", text(&image), name]);
        for ending in ["raw", "qcow2"] {
            let out = site.path(&format!("{name}.out.{ending}"));
            site.ok(&["volume", "export", name, text(&out)]);
            tool("qemu-img", &["compare", "-f", "raw", "-F", ending, text(&disk), text(&out)]);
        }
        tool("qemu-img", &["check", "-f", "qcow2", text(&site.path(&format!("{name}.out.qcow2")))]);
    }
}

#[test]
fn an_image_does_not_choose_what_is_read() {
    if !installed("qemu-img") {
        return;
    }
    let site = Site::new();
    let secret = site.path("secret");
    fs::write(&secret, noise(7, 2 << 20)).unwrap();
    let image = site.path("evil.qcow2");
    tool("qemu-img", &["create", "-q", "-f", "qcow2", "-b", text(&secret), "-F", "raw", text(&image)]);
    let message = site.fails(INVALID, "invalid", &["volume", "import", text(&image), "v"]);
    assert!(message.contains("--allow-backing") && message.contains("secret"), "{message}");
    assert_eq!(site.json(&["volume", "list"]), json!({"volumes": []}));
    site.ok(&["volume", "import", text(&image), "v", "--format", "qcow2", "--allow-backing"]);
    assert!(site.content("v") == noise(7, 2 << 20));

    // An external data file is the same trap.
    let image = site.path("data.qcow2");
    let option = format!("data_file={},data_file_raw=on", text(&site.path("data.raw")));
    tool("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &option, text(&image), "2M"]);
    let message = site.fails(INVALID, "invalid", &["volume", "import", text(&image), "w"]);
    assert!(message.contains("data.raw"), "{message}");
}

#[test]
fn standard_input_and_output() {
    let site = Site::new();
    let data = noise(5, (3 << 20) + 100);
    site.volume("v", &data);
    let content = site.content("v");
    assert_eq!(content.len(), 8 << 20);
    assert!(content[..data.len()] == data && content[data.len()..].iter().all(|byte| *byte == 0));
    let without_size = site.feed(&["volume", "import", "-", "w"], &data);
    assert_eq!(without_size.status.code(), Some(INVALID));
    let too_long = site.feed(&["volume", "import", "-", "w", "--size", "2MiB"], &data);
    assert_eq!(too_long.status.code(), Some(INVALID));
    assert!(String::from_utf8_lossy(&too_long.stderr).contains("longer than the volume"));
    assert_eq!(
        site.json(&["volume", "list"])["volumes"].as_array().unwrap().len(),
        1,
        "the half of an image is deleted"
    );
}

#[test]
fn sizes_and_names() {
    let site = Site::new();
    let small = site.path("small.raw");
    fs::write(&small, noise(6, 700)).unwrap();
    assert_eq!(site.json(&["volume", "import", text(&small), "small"])["volume"]["size"], 1 << 20);
    assert_eq!(site.json(&["volume", "import", text(&small), "large", "--size", "4MiB"])["volume"]["size"], 4 << 20);
    assert!(site.content("large")[..700] == noise(6, 700));
    let disk = sparse_disk(&site, "disk.raw");
    let message = site.fails(INVALID, "invalid", &["volume", "import", text(&disk), "v", "--size", "1MiB"]);
    assert!(message.contains("does not fit"), "{message}");
    site.fails(EXISTS, "exists", &["volume", "import", text(&disk), "small"]);
    assert!(site.content("small")[..700] == noise(6, 700), "the volume that was there is not touched");
    site.fails(INVALID, "invalid", &["volume", "import", text(site.directory.path()), "v"]);
    site.fails(INVALID, "invalid", &["volume", "export", "small", text(site.directory.path()), "--force"]);
    let damaged = site.path("damaged.qcow2");
    fs::write(&damaged, [b"QFI\xfb".to_vec(), noise(8, 100_000)].concat()).unwrap();
    let output = site.run(&["volume", "import", text(&damaged), "v"]);
    assert!(!output.status.success() && output.status.code() != Some(101), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("damaged.qcow2"), "{output:?}");
    assert_eq!(site.json(&["volume", "list"])["volumes"].as_array().unwrap().len(), 2);
}

#[test]
fn an_interrupted_import_leaves_nothing() {
    let site = Site::served();
    let mut command = site.command(&["volume", "import", "-", "half", "--size", "64MiB"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(&noise(1, 4 << 20)).unwrap();
    // When some of it has arrived, it is in the middle of its work.
    let begun = || {
        let volumes = site.json(&["volume", "list"]);
        volumes["volumes"].as_array().unwrap().first().is_some_and(|volume| volume["allocated"].as_u64().unwrap() > 0)
    };
    wait_until(begun);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("interrupted"), "{output:?}");
    assert_eq!(site.json(&["volume", "list"]), json!({"volumes": []}));
    drop(input);
}
