//! `cairn backup`: on a directory and on a server of the S3 protocol, with a pool that is served and one that is not.

use serde_json::{Value, json};
use std::path::Path;

use crate::{
    harness::{BUSY, EXISTS, INVALID, NOT_FOUND, Site, installed, noise, text, tool, wait_until},
    s3::S3,
};

/// A site with a repository: its options, for every command.
struct Backups {
    site: Site,
    repo: Vec<String>,
}

impl Backups {
    fn at(site: Site, url: &str, more: &[String]) -> Self {
        let cache = text(&site.path("cache")).to_owned();
        let mut repo = vec!["--repo".to_owned(), url.to_owned(), "--cache".to_owned(), cache];
        repo.extend_from_slice(more);
        let backups = Self { site, repo };
        backups.json(&["init"]);
        backups
    }

    fn local(site: Site) -> Self {
        let url = format!("file://{}", text(&site.path("repository")));
        Self::at(site, &url, &[])
    }

    fn args<'a>(&'a self, args: &[&'a str]) -> Vec<&'a str> {
        ["backup"].into_iter().chain(args.iter().copied()).chain(self.repo.iter().map(String::as_str)).collect()
    }

    fn json(&self, args: &[&str]) -> Value {
        self.site.json(&self.args(args))
    }

    fn ok(&self, args: &[&str]) -> String {
        self.site.ok(&self.args(args))
    }

    fn fails(&self, code: i32, kind: &str, args: &[&str]) -> String {
        self.site.fails(code, kind, &self.args(args))
    }

    fn create(&self, volume: &str) -> String {
        self.json(&["create", volume])["id"].as_str().unwrap().to_owned()
    }
}

/// Full, two incrementals, restored; the middle merged away; all of it by the command line.
fn there_and_back(backups: &Backups) {
    let site = &backups.site;
    let mut content = noise(1, 3 << 20);
    content.resize(8 << 20, 0);
    site.volume("db", &content);
    let full = backups.json(&["create", "db", "--label", "why=first"]);
    assert_eq!((&full["parent"], &full["labels"]["why"]), (&json!(null), &json!("first")));
    assert!(full["reason"].as_str().unwrap().contains("first backup"), "{full}");
    let full = full["id"].as_str().unwrap();
    let first = site.content("db");

    let middle = backups.create("db");
    let tip = backups.create("db");
    let list = backups.json(&["list"]);
    assert_eq!(list["backups"].as_array().unwrap().len(), 3);
    let tree = backups.ok(&["chain"]);
    assert!(tree.contains("└─ ") && tree.contains(&tip[..12]), "{tree}");

    let refused = backups.fails(BUSY, "busy", &["delete", full]);
    assert!(refused.contains(&middle) && refused.contains("--cascade"), "{refused}");
    let planned = backups.json(&["delete", full, "--cascade", "--dry-run"]);
    assert_eq!(planned["backups"], json!([tip, middle, full]));
    assert!(planned["freed"].as_u64().unwrap() > 3 << 20, "{planned}");

    backups.ok(&["merge", &middle]);
    assert_eq!(backups.json(&["info", &tip[..10]])["parent"], full);
    backups.ok(&["promote", &tip]);
    assert_eq!(backups.json(&["info", &tip])["parent"], json!(null));
    assert!(backups.fails(INVALID, "invalid", &["promote", &tip]).contains("full one already"));
    backups.ok(&["delete", full]);
    let collected = backups.json(&["gc", "--max-unused", "0"]);
    assert_eq!((&collected["unused"], &collected["open_sessions"]), (&json!(0), &json!([])), "{collected}");

    assert_eq!(backups.json(&["verify"])["damaged"], json!([]));
    backups.ok(&["restore", &tip, "again"]);
    assert_eq!(site.content("again"), first);
    assert!(backups.fails(EXISTS, "exists", &["restore", &tip, "again"]).contains("again"));

    let record = backups.ok(&["info", &tip, "--record"]);
    std::fs::write(site.path("record"), record).unwrap();
    backups.ok(&["delete", &tip]);
    assert!(backups.fails(NOT_FOUND, "not-found", &["info", &tip]).contains(&tip));
    backups.ok(&["import", text(&site.path("record"))]);
    backups.ok(&["restore", &tip, "once-more"]);
    assert_eq!(site.content("once-more"), first);
    backups.ok(&["prune", "--keep-last", "1"]);
    assert!(backups.fails(INVALID, "invalid", &["prune"]).contains("--keep-last"));
    site.check();
}

#[test]
fn on_a_directory() {
    there_and_back(&Backups::local(Site::new()));
    there_and_back(&Backups::local(Site::served()));
}

#[test]
fn on_a_server_of_the_s3_protocol() {
    let s3 = S3::start();
    there_and_back(&Backups::at(Site::served(), "s3://bucket/some/where", &s3.options()));
}

#[test]
fn a_repository_alone_is_enough_and_damage_is_named() {
    let s3 = S3::start();
    let backups = Backups::at(Site::served(), "s3://bucket/r", &s3.options());
    let data = noise(7, 6 << 20);
    backups.site.volume("db", &data);
    let id = backups.create("db");
    let before = backups.site.content("db");
    // Another machine: no cache, another pool.
    let other = Backups { site: Site::new(), repo: backups.repo.clone() };
    std::fs::remove_dir_all(backups.site.path("cache")).unwrap();
    other.ok(&["restore", &id, "db"]);
    assert_eq!(other.site.content("db"), before);
    // The only pack goes.
    let packs = s3.keys("r/packs");
    packs.iter().for_each(|pack| s3.delete(pack));
    let output = other.site.run(&other.args(&["verify"]));
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(7), "{said}");
    assert!(said.contains(&id) && said.contains("volume db"), "{said}");
    assert!(other.fails(7, "corrupt", &["restore", &id, "x"]).contains("--salvage"));
}

#[test]
fn a_sealed_repository_opens_with_its_keys_only() {
    let site = Site::new();
    let key = |name: &str, byte: &str| -> String {
        std::fs::write(site.path(name), byte.repeat(64)).unwrap();
        text(&site.path(name)).to_owned()
    };
    let (first, second) = (key("first.key", "a"), key("second.key", "b"));
    std::fs::write(site.path("words"), "correct horse battery\nnot this\n").unwrap();
    let words = text(&site.path("words")).to_owned();
    let url = format!("file://{}", text(&site.path("repository")));
    let data = noise(3, 1 << 20);
    let backups = Backups::at(site, &url, &["--key-file".to_owned(), first.clone()]);
    backups.site.volume("secret", &data);
    let id = backups.create("secret");
    let stored: Vec<u8> = walk(&backups.site.path("repository")).concat();
    assert!(!contains(&stored, b"secret"), "names are sealed, too");
    let cache = text(&backups.site.path("cache")).to_owned();
    let run = |args: &[&str]| backups.site.run(&[&["backup"], args, &["--repo", &url, "--cache", &cache]].concat());
    assert_eq!(run(&["list"]).status.code(), Some(INVALID));
    assert_eq!(run(&["list", "--key-file", &second]).status.code(), Some(INVALID));
    backups.ok(&["key", "add", "words", "--new-passphrase-file", &words]);
    backups.ok(&["key", "add", "second", "--new-key-file", &second]);
    backups.ok(&["key", "remove", "first"]);
    assert_eq!(run(&["list", "--key-file", &first]).status.code(), Some(INVALID));
    for opening in [["--key-file", &second], ["--passphrase-file", &words]] {
        let name = opening[0].trim_start_matches('-');
        let output = run(&["restore", &id, name, opening[0], opening[1]]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(backups.site.content(name)[..1 << 20], data);
    }
}

fn walk(directory: &Path) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        match entry.path().is_dir() {
            true => found.extend(walk(&entry.path())),
            false => found.push(std::fs::read(entry.path()).unwrap()),
        }
    }
    found
}

fn contains(all: &[u8], part: &[u8]) -> bool {
    all.windows(part.len()).any(|window| window == part)
}

#[test]
fn an_instant_restore_is_usable_at_once_and_goes_on_after_a_kill() {
    if !installed("qemu-img") {
        return;
    }
    let backups = Backups::local(Site::served());
    let data = noise(5, 7 << 20);
    backups.site.volume("db", &data);
    let id = backups.create("db");
    let image = backups.site.path("db.raw");
    std::fs::write(&image, backups.site.content("db")).unwrap();
    let mut backups = backups;
    // So slow that it cannot be through before the kill.
    let filling = backups.json(&["restore", &id, "now", "--instant", "--limit", "1KiB"]);
    assert_eq!(filling["backup"], json!(id));
    assert_eq!(backups.site.json(&["status"])["filling"][0]["volume"], "now");
    assert!(backups.site.fails(BUSY, "busy", &["snapshot", "create", "now@s"]).contains("filled"));
    backups.site.kill_server();
    assert!(backups.site.fails(BUSY, "busy", &["volume", "export", "now", "-"]).contains("filled from a backup"));
    backups.site.ok(&["volume", "delete", "now"]);
    backups.site.serve(&[]);
    backups.ok(&["restore", &id, "fast", "--instant"]);
    let uri = format!("nbd+unix:///fast?socket={}", text(&backups.site.path("main.pool.nbd")));
    let said = tool("qemu-img", &["compare", "-f", "raw", "-F", "raw", text(&image), &uri]);
    assert!(said.contains("identical"), "{said}");
    wait_until(|| backups.site.json(&["status"])["filling"] == json!([]));
    backups.site.ok(&["snapshot", "create", "fast@s"]);
    backups.site.check();
}

#[test]
fn an_export_shows_a_backup_read_only() {
    if !installed("nbdcopy") {
        return;
    }
    let backups = Backups::local(Site::new());
    backups.site.volume("db", &noise(5, 7 << 20));
    let id = backups.create("db");
    let socket = backups.site.path("b.nbd");
    let listen = format!("unix:{}", text(&socket));
    let mut child = backups.site.command(&backups.args(&["export", &id, "--nbd", &listen])).spawn().unwrap();
    wait_until(|| socket.exists());
    let uri = format!("nbd+unix:///backup?socket={}", text(&socket));
    let copy = backups.site.path("copy.raw");
    tool("nbdcopy", &[&uri, text(&copy)]);
    assert_eq!(std::fs::read(&copy).unwrap(), backups.site.content("db"));
    assert_eq!(tool("nbdinfo", &["--json", &uri]).matches("\"is_read_only\": true").count(), 1);
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(!socket.exists());
}
