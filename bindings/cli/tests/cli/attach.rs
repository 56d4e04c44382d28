//! `attach` and `detach`: sockets for virtual machines. (That these can use them is shown where one is booted.)

use crate::harness::{BUSY, INVALID, NOT_FOUND, Site, text, wait_until};
use serde_json::json;
use std::os::unix::net::UnixStream;

/// A server with vhost-user sockets, beside the pool.
fn serve(site: &mut Site) -> serde_json::Value {
    let directory = site.path("vhost");
    site.serve(&["--vhost-user", text(&directory)]).clone()
}

#[test]
fn sockets_come_with_attach_and_go_with_detach() {
    let mut site = Site::new();
    site.volume("db", &[1; 4096]);
    site.ok(&["snapshot", "create", "db@before"]);
    assert_eq!(serve(&mut site)["disks"], json!([]));
    assert!(site.ok(&["status"]).contains("vhost-user  nothing in"));
    let socket = site.path("vhost/db.sock");
    let made = site.json(&["attach", "db", "--queues", "2"]);
    assert_eq!(
        (&made["name"], &made["socket"], &made["read_only"]),
        (&json!("db"), &json!(text(&socket)), &json!(false))
    );
    assert_eq!(made["use"]["qemu"][7], "vhost-user-blk-pci,chardev=cairn-db,num-queues=2");
    assert_eq!(site.json(&["attach", "db@before"])["read_only"], true);
    let said = site.ok(&["attach", "db"]);
    assert!(said.contains("must be shared") && said.contains(text(&socket)), "{said}");
    let status = site.json(&["status"]);
    let names: Vec<_> = status["vhost_user"]["exports"].as_array().unwrap().iter().map(|e| &e["name"]).collect();
    assert_eq!(names, ["db", "db@before"]);
    assert_eq!(status["vhost_user"]["exports"][0]["client"], json!(null));
    let machine = UnixStream::connect(&socket).unwrap();
    wait_until(|| !site.json(&["status"])["vhost_user"]["exports"][0]["client"].is_null());
    assert!(site.ok(&["status"]).contains("MACHINE"));
    let message = site.fails(BUSY, "busy", &["detach", "db"]);
    assert!(message.contains("virtual machine"), "{message}");
    drop(machine);
    wait_until(|| site.json(&["status"])["vhost_user"]["exports"][0]["client"].is_null());
    site.ok(&["detach", "db@before"]);
    assert_eq!(site.json(&["detach", "db"]), json!({"detached": "db"}));
    assert!(!socket.exists());
    site.fails(NOT_FOUND, "not-found", &["detach", "db"]);
    site.fails(NOT_FOUND, "not-found", &["attach", "nothing"]);
    site.fails(INVALID, "invalid", &["attach", "a/b"]);
    site.stop_server();
    site.check();
}

#[test]
fn without_vhost_user_it_says_what_to_do() {
    let mut site = Site::new();
    site.volume("db", &[]);
    let message = site.fails(NOT_FOUND, "not-found", &["attach", "db"]);
    assert!(message.contains("cairn serve --vhost-user"), "{message}");
    site.serve(&[]);
    for command in ["attach", "detach"] {
        let message = site.fails(INVALID, "invalid", &[command, "db"]);
        assert!(message.contains("cairn serve --vhost-user"), "{message}");
    }
    assert_eq!(site.json(&["status"])["vhost_user"], json!(null));
}

#[test]
fn sockets_are_there_again_when_the_server_is() {
    let mut site = Site::new();
    for name in ["db", "gone"] {
        site.volume(name, &[]);
    }
    serve(&mut site);
    site.ok(&["attach", "db"]);
    site.ok(&["attach", "gone"]);
    let socket = site.path("vhost/db.sock");
    for stop in [Site::kill_server, Site::stop_server] {
        stop(&mut site);
        let ready = serve(&mut site);
        assert_eq!(
            (ready["disks"][0]["socket"].as_str(), ready["disks"].as_array().unwrap().len()),
            (Some(text(&socket)), 2)
        );
        UnixStream::connect(&socket).unwrap();
    }
    // One that was renamed keeps its socket; one that was deleted is forgotten.
    wait_until(|| site.json(&["status"])["vhost_user"]["exports"][0]["client"].is_null());
    site.ok(&["volume", "rename", "db", "other"]);
    site.ok(&["volume", "delete", "gone"]);
    site.stop_server();
    assert!(!socket.exists());
    let ready = serve(&mut site);
    assert_eq!((&ready["disks"][0]["name"], &ready["disks"][1]), (&json!("db"), &json!(null)));
    assert_eq!(site.json(&["attach", "other"])["socket"], text(&socket));
    site.ok(&["detach", "other", "--force"]);
    site.stop_server();
    assert_eq!(serve(&mut site)["disks"], json!([]));
}
