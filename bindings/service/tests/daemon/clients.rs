//! The clients that platforms use, from PyPI (`scripts/setup` installs them), against a daemon.

use super::harness::{Daemon, Place};
use std::{
    path::PathBuf,
    process::{Command, Output},
};

/// Where `scripts/setup` has put them.
pub(crate) fn clients() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"));
    let clients = cache.join("cairn/openstack-10.5.0");
    assert!(clients.join("complete").exists(), "{} is missing: run scripts/setup", clients.display());
    clients
}

pub(crate) fn with_login(command: &mut Command, daemon: &Daemon) {
    let url = daemon.url();
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", std::env::temp_dir())
        .env("OS_AUTH_TYPE", "password")
        .env("OS_AUTH_URL", format!("{url}/identity/v3"))
        .env("OS_USERNAME", "me")
        .env("OS_PASSWORD", "anything")
        .env("OS_PROJECT_NAME", "demo")
        .env("OS_USER_DOMAIN_ID", "default")
        .env("OS_PROJECT_DOMAIN_ID", "default")
        .env("OS_IDENTITY_API_VERSION", "3")
        .env("OS_VOLUME_API_VERSION", "3.71")
        .env("CINDER_ENDPOINT", format!("{url}/v3"));
}

pub(crate) fn succeed(output: &Output, what: &str) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{what}: {out}\n{err}");
    out
}

pub(crate) fn script(name: &str) {
    script_with(name, 1000);
}

/// With a pool of which so many times its capacity may be promised.
fn script_with(name: &str, over_subscription: u64) {
    let mut place = Place::new();
    place.over_subscription = over_subscription;
    let daemon = place.start();
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/daemon/clients").join(name);
    let mut command = Command::new(clients().join("bin/python"));
    with_login(&mut command, &daemon);
    let _ = command.arg("-B").arg(&path);
    let _said = succeed(&command.output().unwrap(), name);
    assert!(daemon.stop());
}

#[test]
fn the_sdk() {
    script("sdk.py");
}

#[test]
fn attachments() {
    script("attachments.py");
}

#[test]
fn restores() {
    script("restores.py");
}

#[test]
fn room() {
    // More than the largest volume, of a pool of 256 MiB.
    script_with("room.py", 300_000);
}

#[test]
fn the_client_of_cinder() {
    script("cinder.py");
}

#[test]
fn images() {
    script("images.py");
}

#[test]
fn images_by_the_command_line() {
    let place = Place::new();
    let daemon = place.start();
    let openstack = |arguments: &[&str]| {
        let mut command = Command::new(clients().join("bin/openstack"));
        with_login(&mut command, &daemon);
        let _ = command.args(arguments);
        command.output().unwrap()
    };
    let plain = |arguments: &[&str]| succeed(&openstack(arguments), &arguments.join(" "));
    let json = |arguments: &[&str]| -> serde_json::Value {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["-f", "json"]).collect();
        serde_json::from_str(&succeed(&openstack(&arguments), &arguments.join(" "))).unwrap()
    };
    let (file, out) = (place.path().join("disk"), place.path().join("out"));
    let disk: Vec<u8> = (0..3_000_000_u32).flat_map(|n| (n / 999).to_le_bytes()).collect();
    std::fs::write(&file, &disk).unwrap();
    let (file, out) = (file.to_str().unwrap(), out.to_str().unwrap());
    let made = json(&["image", "create", "--disk-format", "raw", "--file", file, "--property", "a=b", "debian"]);
    assert_eq!((made["name"].as_str(), made["visibility"].as_str()), (Some("debian"), Some("private")), "{made}");
    let shown = json(&["image", "show", "debian"]);
    assert_eq!(
        (shown["status"].as_str(), shown["size"].as_u64()),
        (Some("active"), Some(disk.len() as u64)),
        "{shown}"
    );
    assert_eq!(json(&["image", "list"])[0]["Name"], "debian");
    drop(plain(&["image", "save", "--file", out, "debian"]));
    assert!(std::fs::read(out).unwrap() == disk);
    drop(plain(&["image", "set", "--name", "debian-13", "--property", "os_distro=debian", "--tag", "t", "debian"]));
    let volume = json(&["volume", "create", "--image", "debian-13", "--size", "1", "root"]);
    let id = volume["id"].as_str().unwrap();
    let rests = |status: &str| {
        while json(&["volume", "show", id])["status"] != status {
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    };
    rests("available");
    let volume = json(&["volume", "show", id]);
    assert_eq!(volume["volume_image_metadata"]["os_distro"], "debian", "{volume}");
    assert_eq!(volume["bootable"].to_string().replace('"', ""), "true", "{volume}");
    let told = json(&["image", "create", "--volume", id, "--disk-format", "qcow2", "back"]);
    assert_eq!(told["image_name"], "back", "{told}");
    while json(&["image", "show", "back"])["status"] != "active" {
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    rests("available");
    drop(plain(&["image", "save", "--file", out, "back"]));
    let whole = format!("{out}.raw");
    let convert = ["convert", "-f", "qcow2", "-O", "raw", out, &whole];
    assert!(Command::new("qemu-img").args(convert).status().unwrap().success());
    assert!(std::fs::read(whole).unwrap()[..disk.len()] == disk);
    drop(plain(&["image", "delete", "back", "debian-13"]));
    assert_eq!(json(&["image", "list"]), serde_json::json!([]));
    let refused = openstack(&["image", "show", "back"]);
    assert!(!refused.status.success());
    assert!(daemon.stop());
}

#[test]
fn groups() {
    script("groups.py");
}

#[test]
fn each_command() {
    script("command_line.py");
}

#[test]
fn the_readme() {
    script("readme.py");
}

#[test]
fn the_command_line() {
    let place = Place::new();
    let daemon = place.start();
    let openstack = |arguments: &[&str]| {
        let mut command = Command::new(clients().join("bin/openstack"));
        with_login(&mut command, &daemon);
        let _ = command.args(arguments);
        command.output().unwrap()
    };
    let json = |arguments: &[&str]| -> serde_json::Value {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["-f", "json"]).collect();
        serde_json::from_str(&succeed(&openstack(&arguments), &arguments.join(" "))).unwrap()
    };
    let made = json(&["volume", "create", "--size", "1", "--property", "a=b", "db"]);
    assert_eq!((made["name"].as_str(), made["size"].as_u64()), (Some("db"), Some(1)));
    let id = made["id"].as_str().unwrap();
    drop(daemon.request_with("GET", "/v3/demo/volumes", &["X-Auth-Token: me:demo"], None));
    let available = |volume: &str| loop {
        if json(&["volume", "show", volume])["status"] == "available" {
            break;
        }
    };
    available(id);
    assert_eq!(json(&["volume", "list"])[0]["Name"], "db");
    drop(succeed(&openstack(&["volume", "set", "--size", "2", "--name", "db2", id]), "volume set"));
    available(id);
    assert_eq!(json(&["volume", "show", id])["size"], 2);
    let snapshot = json(&["volume", "snapshot", "create", "--volume", id, "before"]);
    assert_eq!(snapshot["name"], "before");
    assert_eq!(json(&["volume", "snapshot", "list"])[0]["Name"], "before");
    assert_eq!(
        json(&["quota", "show", "--volume"])
            .as_array()
            .unwrap()
            .iter()
            .find(|line| line["Resource"] == "volumes")
            .unwrap()["Limit"],
        10
    );
    let refused = openstack(&["volume", "delete", id]);
    assert!(!refused.status.success(), "it has a snapshot");
    drop(succeed(&openstack(&["volume", "delete", "--purge", id]), "volume delete"));
}
