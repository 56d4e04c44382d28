//! A daemon in a directory of its own, and requests to it.

use cairn_backup::{InitOptions, Location, Repository};
use cairn_engine::{Pool, PoolOptions};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// How long anything may take. Only a test that fails waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A running daemon; killed when it is dropped.
pub(crate) struct Daemon {
    child: Child,
    pub(crate) ready: Value,
}

/// Where daemons run one after another.
pub(crate) struct Place {
    directory: tempfile::TempDir,
    /// How many times the pool's capacity may be promised.
    pub(crate) over_subscription: u64,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Value,
}

impl Answer {
    /// Value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

/// What came in pieces, each after its length.
fn unchunked(mut text: &str) -> String {
    let mut whole = String::new();
    loop {
        let (length, rest) = text.split_once("\r\n").expect("a length");
        let length = usize::from_str_radix(length, 16).expect("a length in hexadecimal digits");
        if length == 0 {
            return whole;
        }
        whole += &rest[..length];
        text = rest[length..].strip_prefix("\r\n").expect("the end of a piece");
    }
}

impl Place {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let pool = Pool::create(directory.path().join("pool"), PoolOptions::new().size(256 << 20)).await.unwrap();
            pool.close().await.unwrap();
            let mut location = Location::new(format!("file://{}", directory.path().join("repository").display()));
            location.cache = Some(directory.path().join("cache"));
            drop(Repository::init(&location, &InitOptions::default()).await.unwrap());
        });
        Self { directory, over_subscription: 1000 }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn start(&self) -> Daemon {
        self.start_with(&["--dev"], "warn", Stdio::inherit())
    }

    /// Makes the first administrator.
    pub(crate) fn bootstrap(&self, password: &str) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_cairnd"))
            .args(["bootstrap", "--password-stdin", "--pool"])
            .arg(self.path().join("pool"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(format!("{password}\n").as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((said["user"].as_str(), said["password"].as_str()), (Some("admin"), None), "{said}");
    }

    /// What starts a daemon, with these arguments, and a log.
    pub(crate) fn command(&self, more: &[&str], level: &str, log: Stdio) -> Command {
        let path = self.path();
        let mut command = Command::new(env!("CARGO_BIN_EXE_cairnd"));
        command
            .arg("--pool")
            .arg(path.join("pool"))
            .args(more)
            .args(["--listen", "127.0.0.1:0", "--host", "here"])
            .args(["--over-subscription", &self.over_subscription.to_string()])
            .args(["--nbd", &format!("unix:{}", path.join("nbd.sock").display()), "--nbd", "tcp:127.0.0.1:0"])
            .arg("--vhost-user")
            .arg(path.join("vhost"))
            .args(["--backup-url", &format!("file://{}", path.join("repository").display())])
            .env("XDG_CACHE_HOME", path.join("cache"))
            .env("CAIRN_LOG", level)
            .stdout(Stdio::piped())
            .stderr(log);
        command
    }

    /// With other arguments, and a log.
    pub(crate) fn start_with(&self, more: &[&str], level: &str, log: Stdio) -> Daemon {
        let mut child = self.command(more, level, log).spawn().unwrap();
        let mut line = String::new();
        let _length = BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready = serde_json::from_str(&line).expect("the daemon says that it is ready");
        Daemon { child, ready }
    }
}

impl Daemon {
    pub(crate) fn url(&self) -> &str {
        self.ready["url"].as_str().unwrap()
    }

    /// A request with the token `u:p`.
    pub(crate) fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        self.request_with(method, path, &["X-Auth-Token: u:p", "OpenStack-API-Version: volume 3.71"], body)
    }

    pub(crate) fn request_with(&self, method: &str, path: &str, headers: &[&str], body: Option<&Value>) -> Answer {
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut text = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
        headers.iter().for_each(|header| text += &format!("{header}\r\n"));
        text += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
        self.raw(text.as_bytes()).expect("an answer")
    }

    /// What comes back for these bytes; nothing when the connection was closed without an answer.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Option<Answer> {
        let mut stream = TcpStream::connect(self.url().strip_prefix("http://").unwrap()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // It may be answered, and closed, before it is all read.
        drop(stream.write_all(bytes));
        let mut text = Vec::new();
        drop(stream.read_to_end(&mut text));
        let text = String::from_utf8(text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut answer = Answer { status, head: head.to_owned(), body: Value::Null };
        let body = match answer.header("transfer-encoding") {
            Some("chunked") => unchunked(body),
            _ => body.to_owned(),
        };
        answer.body = serde_json::from_str(&body).unwrap_or(Value::String(body));
        Some(answer)
    }

    /// Asks until `done` says so.
    pub(crate) fn wait(&self, path: &str, done: impl Fn(&Answer) -> bool) -> Answer {
        let since = Instant::now();
        loop {
            let answer = self.request("GET", path, None);
            if done(&answer) {
                return answer;
            }
            assert!(since.elapsed() < PATIENCE, "{path} stays {}: {}", answer.status, answer.body);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// As `kill -9`.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        let _status = self.child.wait().unwrap();
    }

    /// As `kill`; whether it ended well.
    pub(crate) fn stop(mut self) -> bool {
        let kill = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(kill.success());
        self.child.wait().unwrap().success()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
