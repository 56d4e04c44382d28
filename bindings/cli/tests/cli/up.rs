//! `cairn up`: makes what is missing, serves it, ends cleanly, and goes on with what was there.

use crate::harness::{INVALID, Site};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
};

/// It, and what it says after it was ready.
struct Up {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Drop for Up {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Up {
    fn start(directory: &Path, args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cairn"));
        // Whatever else is set up on this machine has nothing to do with it.
        let _command = command.env("CAIRN_POOL", "/nowhere").env("XDG_CACHE_HOME", directory.join("cache"));
        let mut child = command.args(args).stdout(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        Self { child, said }
    }

    /// With a pool of 256 MiB, on any port; what it says for programs.
    fn json(directory: &Path) -> (Self, Value) {
        let home = directory.join("home");
        let mut up = Self::start(
            directory,
            &["--json", "up", home.to_str().unwrap(), "--size", "256MiB", "--listen", "127.0.0.1:0"],
        );
        let line = up.line();
        (up, serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}")))
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        let _length = self.said.read_line(&mut line).unwrap();
        line
    }

    /// As Ctrl-C; what it said at the end. It has to end well.
    fn stop(mut self) -> String {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        let mut rest = String::new();
        let _length = self.said.read_to_string(&mut rest).unwrap();
        assert!(self.child.wait().unwrap().success());
        rest
    }
}

fn request(ready: &Value, method: &str, path: &str, body: &str) -> (u16, Value) {
    let address = ready["url"].as_str().unwrap().strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Auth-Token: me:demo\r\n");
    stream.write_all(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes()).unwrap();
    let mut text = String::new();
    let _length = stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_default())
}

#[test]
fn it_makes_what_is_missing_and_finds_it_again() {
    let site = Site::empty();
    let (up, ready) = Up::json(site.directory.path());
    assert_eq!((&ready["ready"], &ready["created"]), (&json!(true), &json!(["pool", "repository"])));
    let environment = &ready["environment"];
    assert_eq!(environment["OS_AUTH_URL"], format!("{}/identity/v3", ready["url"].as_str().unwrap()));
    let (status, login) = request(
        &ready,
        "POST",
        "/identity/v3/auth/tokens",
        r#"{"auth":{"identity":{"methods":["password"],"password":{"user":{"name":"me","domain":{"id":"default"},"password":"any"}}}}}"#,
    );
    assert_eq!(status, 201, "{login}");
    let (status, made) = request(&ready, "POST", "/v3/demo/volumes", r#"{"volume":{"size":1,"name":"first"}}"#);
    assert_eq!(status, 202, "{made}");
    let id = made["volume"]["id"].as_str().unwrap().to_owned();
    let available = |ready: &Value| {
        request(ready, "GET", &format!("/v3/demo/volumes/{id}"), "").1["volume"]["status"] == "available"
    };
    while !available(&ready) {}
    // Backups have somewhere to go.
    let (status, backup) =
        request(&ready, "POST", "/v3/demo/backups", &format!(r#"{{"backup":{{"volume_id":"{id}"}}}}"#));
    assert_eq!(status, 202, "{backup}");
    // Another one finds the pool held.
    let home = site.directory.path().join("home");
    let second = Command::new(env!("CARGO_BIN_EXE_cairn"))
        .args(["--json", "up", home.to_str().unwrap(), "--listen", "127.0.0.1:0"])
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(5), "{second:?}");
    assert!(String::from_utf8_lossy(&second.stderr).contains("is served already"));
    assert_eq!(up.stop(), "");
    let (up, ready) = Up::json(site.directory.path());
    assert_eq!(ready["created"], json!([]));
    assert!(available(&ready), "it is there again");
    drop(up.stop());
    // Nothing is left that would keep anybody else from the pool.
    let pool = home.join("main.pool");
    let check =
        Command::new(env!("CARGO_BIN_EXE_cairn")).arg("--pool").arg(&pool).args(["pool", "check"]).output().unwrap();
    assert!(check.status.success(), "{check:?}");
    assert!(!home.join("main.pool.ctl").exists() && !home.join("nbd.sock").exists());
}

#[test]
fn people_get_lines_for_their_shell() {
    let site = Site::empty();
    let home = site.directory.path().join("it's here");
    let mut up = Up::start(
        site.directory.path(),
        &["up", home.to_str().unwrap(), "--size", "256MiB", "--listen", "127.0.0.1:0", "--project", "a b"],
    );
    let mut text = String::new();
    while !text.contains("ready; Ctrl-C ends it\n") {
        let line = up.line();
        assert!(!line.is_empty(), "{text}");
        text += &line;
    }
    assert!(text.contains("made the pool in ") && text.contains("made the repository in "), "{text}");
    let lines: String =
        text.lines().filter(|line| line.starts_with("export ")).map(|line| format!("{line}\n")).collect();
    let shell = Command::new("sh")
        .args(["-c", &format!("{lines}printf %s \"$OS_PROJECT_NAME|$OS_USERNAME\"")])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&shell.stdout), "a b|me");
    assert_eq!(up.stop(), "stopped\n");
}

#[test]
fn it_is_for_this_machine_alone() {
    let site = Site::empty();
    let directory = site.path("d");
    let message = site.fails(INVALID, "invalid", &["up", directory.to_str().unwrap(), "--listen", "0.0.0.0:0"]);
    assert!(message.contains("open to the network"), "{message}");
    assert!(!directory.exists(), "nothing was made");
}
