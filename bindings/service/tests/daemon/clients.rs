//! The clients that platforms use, from PyPI (`scripts/setup` installs them), against a daemon.

use super::harness::{Daemon, Place};
use std::{
    path::PathBuf,
    process::{Command, Output},
};

/// Where `scripts/setup` has put them.
fn clients() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"));
    let clients = cache.join("cairn/openstack-10.5.0");
    assert!(clients.join("complete").exists(), "{} is missing: run scripts/setup", clients.display());
    clients
}

fn with_login(command: &mut Command, daemon: &Daemon) {
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

fn succeed(output: &Output, what: &str) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{what}: {out}\n{err}");
    out
}

fn script(name: &str) {
    let place = Place::new();
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
fn the_client_of_cinder() {
    script("cinder.py");
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
