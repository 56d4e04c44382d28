//! What is refused: with which exit code, kind and words, and without any harm.

use crate::harness::{BUSY, EXISTS, INVALID, NO_SPACE, NOT_FOUND, Site, noise, text};
use std::{os::unix::fs::MetadataExt, process::Command};

#[test]
fn usage() {
    let site = Site::new();
    for args in [
        &["volume"][..],
        &["volume", "create", "x"],
        &["volume", "create", "x", "--size", "10GB"],
        &["volume", "create", "x", "--size", "1MiB", "--sync", "sometimes"],
        &["snapshot", "create"],
        &["frobnicate"],
        &["volume", "import", "x", "y", "--allow-backing"],
        &["serve", "--tls-cert", "x"],
        &["completions", "tcsh-from-1983"],
        &["pool", "check", "--yes"],
        &["pool", "scrub", "--rate", "0"],
        &["pool", "scrub", "--rate", "fast"],
        &["pool", "scrub", "--status", "--cancel"],
        &["pool", "scrub", "--set-rate", "1MiB", "--detach"],
        &["pool", "scrub", "--status", "--rate", "1MiB"],
        &["regroup"],
        &["regroup", "db", "--status"],
        &["regroup", "--cancel", "--status"],
        &["regroup", "--status", "--dry-run"],
        &["regroup", "--status", "--rate", "1MiB"],
        &["regroup", "db", "--rate", "0"],
        &["qos", "set", "db"],
        &["qos", "set", "db", "total_iops_sec"],
        &["qos", "clear"],
        &["top", "--interval", "0"],
        &["top", "--interval", "NaN"],
        &["top", "--interval", "1e9"],
        &["top", "--count", "0"],
        &["top", "--sort", "colour"],
    ] {
        let output = site.run(args);
        assert_eq!(output.status.code(), Some(INVALID), "{args:?}");
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{args:?}");
    }
    let output =
        Command::new(env!("CARGO_BIN_EXE_cairn")).env_remove("CAIRN_POOL").args(["pool", "info"]).output().unwrap();
    assert_eq!(output.status.code(), Some(INVALID));
    assert!(String::from_utf8_lossy(&output.stderr).contains("CAIRN_POOL"));
}

#[test]
fn help_and_completions() {
    let site = Site::empty();
    let help = site.ok(&["--help"]);
    for words in ["Exit codes:", "CAIRN_POOL", "Examples:", "7  corrupt"] {
        assert!(help.contains(words), "{words} in {help}");
    }
    assert!(site.ok(&["volume", "import", "--help"]).contains("Examples:"));
    assert!(site.ok(&["--version"]).starts_with("cairn "));
    for (shell, word) in [("bash", "_cairn"), ("zsh", "#compdef cairn"), ("fish", "complete -c cairn")] {
        assert!(site.ok(&["completions", shell]).contains(word), "{shell}");
    }
}

#[test]
fn on_pools() {
    let site = Site::empty();
    site.fails(NOT_FOUND, "not-found", &["volume", "list"]);
    site.fails(NOT_FOUND, "not-found", &["serve"]);
    site.fails(NOT_FOUND, "not-found", &["status"]);
    site.fails(INVALID, "invalid", &["pool", "create", "--size", "4096"]);
    assert!(!site.pool.exists(), "nothing is left of a pool that was refused");
    site.ok(&["pool", "create", text(&site.pool), "--size", "64MiB", "--preallocate"]);
    let before = std::fs::read(&site.pool).unwrap();
    site.fails(EXISTS, "exists", &["pool", "create", "--size", "64MiB"]);
    site.fails(EXISTS, "exists", &["pool", "create", "--size", "64MiB", "--prewrite"]);
    assert!(std::fs::read(&site.pool).unwrap() == before, "an existing pool is not touched");
    // One that is written once has all of its room, and is as any other.
    let whole = site.path("whole.pool");
    site.ok(&["pool", "create", text(&whole), "--size", "40MiB", "--prewrite"]);
    assert!(std::fs::metadata(&whole).unwrap().blocks() * 512 >= 40 << 20);
    site.ok(&["--pool", text(&whole), "volume", "create", "v", "--size", "8MiB"]);
    site.ok(&["--pool", text(&whole), "pool", "check", "--read-data"]);
    let other = site.path("letter.txt");
    std::fs::write(&other, noise(9, 1 << 20)).unwrap();
    let output = site.run(&["--pool", text(&other), "volume", "list"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(matches!(output.status.code(), Some(2 | 7 | 9)), "{:?} {error}", output.status);
    assert!(error.contains("letter.txt"), "{error}");
    assert!(std::fs::read(&other).unwrap() == noise(9, 1 << 20), "a file that is no pool is not touched");
}

#[test]
fn unserved() {
    let site = Site::new();
    refuse(&site);
    let message = site.fails(INVALID, "invalid", &["pool", "scrub", "--detach"]);
    assert!(message.contains("cairn serve"), "{message}");
    let message = site.fails(NOT_FOUND, "not-found", &["top", "--count", "1"]);
    assert!(message.contains("cairn serve"), "{message}");
}

#[test]
fn served() {
    refuse(&Site::served());
}

fn refuse(site: &Site) {
    site.ok(&["volume", "create", "db", "--size", "8MiB"]);
    site.ok(&["snapshot", "create", "db@a"]);
    let long = "x".repeat(129);
    for (code, kind, args) in [
        (NOT_FOUND, "not-found", &["volume", "info", "none"][..]),
        (NOT_FOUND, "not-found", &["volume", "info", "none", "--exclusive"]),
        (NOT_FOUND, "not-found", &["volume", "resize", "none", "--size", "16MiB"]),
        (NOT_FOUND, "not-found", &["volume", "rename", "none", "new"]),
        (NOT_FOUND, "not-found", &["volume", "set", "none", "--sync", "flush"]),
        (NOT_FOUND, "not-found", &["volume", "delete", "none"]),
        (NOT_FOUND, "not-found", &["volume", "export", "none", "-"]),
        (NOT_FOUND, "not-found", &["volume", "export", "db@none", "-"]),
        (NOT_FOUND, "not-found", &["volume", "import", "/nonexistent/disk", "new"]),
        (NOT_FOUND, "not-found", &["snapshot", "list", "none"]),
        (NOT_FOUND, "not-found", &["snapshot", "create", "db@b", "none@b"]),
        (NOT_FOUND, "not-found", &["snapshot", "delete", "db@none"]),
        (NOT_FOUND, "not-found", &["snapshot", "revert", "db@none"]),
        (NOT_FOUND, "not-found", &["snapshot", "diff", "db@none", "db"]),
        (NOT_FOUND, "not-found", &["clone", "db@none", "new"]),
        (EXISTS, "exists", &["volume", "create", "db", "--size", "8MiB"]),
        (EXISTS, "exists", &["snapshot", "create", "db@a"]),
        (EXISTS, "exists", &["clone", "db@a", "db"]),
        (INVALID, "invalid", &["volume", "create", "a@b", "--size", "8MiB"]),
        (INVALID, "invalid", &["volume", "create", "a/b", "--size", "8MiB"]),
        (INVALID, "invalid", &["volume", "create", "", "--size", "8MiB"]),
        (INVALID, "invalid", &["volume", "create", "new\nline", "--size", "8MiB"]),
        (INVALID, "invalid", &["volume", "create", &long, "--size", "8MiB"]),
        (INVALID, "invalid", &["volume", "create", "new", "--size", "1000"]),
        (INVALID, "invalid", &["volume", "create", "new", "--size", "1048577"]),
        (INVALID, "invalid", &["volume", "create", "new", "--size", "65TiB"]),
        (INVALID, "invalid", &["volume", "resize", "db", "--size", "4MiB"]),
        (INVALID, "invalid", &["volume", "rename", "db", "a@b"]),
        (INVALID, "invalid", &["snapshot", "create", "db"]),
        (INVALID, "invalid", &["snapshot", "create", "db@b", "db@b"]),
        (INVALID, "invalid", &["snapshot", "delete", "db"]),
        (INVALID, "invalid", &["snapshot", "revert", "db"]),
        (INVALID, "invalid", &["clone", "db", "new"]),
        (INVALID, "invalid", &["clone", "db@a", "new", "--size", "4MiB"]),
        (INVALID, "invalid", &["volume", "export", "db", "-", "--format", "qcow2"]),
        (BUSY, "busy", &["volume", "delete", "db"]),
        (NOT_FOUND, "not-found", &["pool", "scrub", "--cancel"]),
        (NOT_FOUND, "not-found", &["pool", "scrub", "--set-rate", "1MiB"]),
    ] {
        let message = site.fails(code, kind, args);
        assert!(message.len() > 10, "{args:?}: {message}");
    }
    // None of it left anything behind.
    let volumes = site.json(&["volume", "list"]);
    assert_eq!(volumes["volumes"].as_array().unwrap().len(), 1, "{volumes}");
    assert_eq!(site.json(&["snapshot", "list"])["snapshots"].as_array().unwrap().len(), 1);
}

#[test]
fn a_full_pool_takes_no_more_and_loses_nothing() {
    let site = Site::new();
    site.volume("kept", &noise(1, 5 << 20));
    let image = site.path("big.raw");
    std::fs::write(&image, noise(2, 300 << 20)).unwrap();
    let message = site.fails(NO_SPACE, "no-space", &["volume", "import", text(&image), "big"]);
    assert!(message.contains("big"), "{message}");
    assert_eq!(site.json(&["volume", "list"])["volumes"].as_array().unwrap().len(), 1, "what was begun is gone");
    assert_eq!(site.content("kept")[..5 << 20], noise(1, 5 << 20));
    site.volume("after", &noise(3, 5 << 20));
    site.check();
}
