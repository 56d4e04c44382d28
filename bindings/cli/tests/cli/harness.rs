//! A pool in a directory of its own, and the program run on it.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Exit codes as `cairn --help` documents them.
pub(crate) const INVALID: i32 = 2;
pub(crate) const NOT_FOUND: i32 = 3;
pub(crate) const EXISTS: i32 = 4;
pub(crate) const BUSY: i32 = 5;
pub(crate) const NO_SPACE: i32 = 6;

/// A pool, and perhaps its server.
pub(crate) struct Site {
    pub(crate) directory: TempDir,
    pub(crate) pool: PathBuf,
    server: Option<Server>,
}

/// A server that has said that it is ready. Killed when it was not stopped.
pub(crate) struct Server {
    child: Child,
    pub(crate) ready: Value,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Server {
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Exit code; `None` when a signal ended it.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Site {
    /// A new pool of 256 MiB.
    pub(crate) fn new() -> Self {
        let site = Self::empty();
        site.ok(&["pool", "create", "--size", "256MiB"]);
        site
    }

    /// No pool yet.
    pub(crate) fn empty() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { pool: directory.path().join("main.pool"), directory, server: None }
    }

    /// A new pool that is served.
    pub(crate) fn served() -> Self {
        let mut site = Self::new();
        site.serve(&[]);
        site
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The program, about this pool.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cairn"));
        command.env("CAIRN_POOL", &self.pool).args(args);
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// What it says when it succeeds, which it must.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        succeeded(args, self.run(args))
    }

    /// What it answers in JSON: one line, one value.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let text = self.ok(&[&["--json"], args].concat());
        assert_eq!(text.matches('\n').count(), 1, "{args:?}: {text}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?}: {error}: {text}"))
    }

    /// Its failure, which it must, with this exit code and kind; nothing on standard output. Returns the sentence.
    pub(crate) fn fails(&self, code: i32, kind: &str, args: &[&str]) -> String {
        let output = self.run(&[&["--json"], args].concat());
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
        assert!(output.stdout.is_empty(), "{args:?}: {}", String::from_utf8_lossy(&output.stdout));
        let value: Value = serde_json::from_str(&error).unwrap_or_else(|e| panic!("{args:?}: {e}: {error}"));
        assert_eq!(value["error"]["kind"], kind, "{args:?}: {error}");
        // The same for people, in one line.
        let output = self.run(args);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        assert!(
            text.starts_with("cairn: ") && text.ends_with('\n') && text.matches('\n').count() == 1,
            "{args:?}: {text}"
        );
        value["error"]["message"].as_str().unwrap().to_owned()
    }

    /// Runs it with `input` as its standard input.
    pub(crate) fn feed(&self, args: &[&str], input: &[u8]) -> Output {
        let mut command = self.command(args);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // A program that refuses its arguments reads nothing.
        drop(child.stdin.take().unwrap().write_all(input));
        child.wait_with_output().unwrap()
    }

    /// Makes a volume of 8 MiB that holds `data` from its beginning.
    pub(crate) fn volume(&self, name: &str, data: &[u8]) {
        let args = ["volume", "import", "-", name, "--size", "8MiB"];
        succeeded(&args, self.feed(&args, data));
    }

    /// Content of a volume or snapshot.
    pub(crate) fn content(&self, target: &str) -> Vec<u8> {
        let output = self.run(&["volume", "export", target, "-"]);
        assert!(output.status.success(), "{target}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// Starts a server and waits until it is ready.
    pub(crate) fn serve(&mut self, args: &[&str]) -> &Value {
        let server = self.start_server(args);
        &self.server.insert(server).ready
    }

    fn start_server(&self, args: &[&str]) -> Server {
        let mut command = self.command(&[&["--json", "serve"], args].concat());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready = serde_json::from_str(&line).unwrap_or_else(|error| panic!("serve {args:?}: {error}: {line}"));
        Server { child, ready }
    }

    pub(crate) fn server(&mut self) -> &mut Server {
        self.server.as_mut().expect("a server was started")
    }

    /// Stops the server as a service manager does.
    pub(crate) fn stop_server(&mut self) {
        let mut server = self.server.take().expect("a server was started");
        server.signal(Signal::TERM);
        assert_eq!(server.wait(), Some(0));
    }

    /// Ends the server with no chance to put anything away.
    pub(crate) fn kill_server(&mut self) {
        let mut server = self.server.take().expect("a server was started");
        server.signal(Signal::KILL);
        assert_eq!(server.wait(), None);
    }

    /// The pool is whole and no block is lost.
    pub(crate) fn check(&self) {
        let report = self.json(&["pool", "check", "--read-data"]);
        assert_eq!(report["problems"], serde_json::json!([]), "{report}");
        assert_eq!(report["leaked_blocks"], 0, "{report}");
    }
}

fn succeeded(args: &[&str], output: Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {} {error}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// Whether a program that some tests compare with is installed; says so when it is not.
pub(crate) fn installed(program: &str) -> bool {
    let found =
        std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|d| d.join(program).is_file()));
    if !found {
        eprintln!("{program} is not installed: this comparison is left out");
    }
    found
}

/// Runs another program, which must succeed; what it prints.
pub(crate) fn tool(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {args:?}: {text} {}", String::from_utf8_lossy(&output.stderr));
    text
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Bytes that look random and are the same in every run.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..length.div_ceil(8)).flat_map(|_| next().to_le_bytes()).take(length).collect()
}

/// Waits for a state that must come; gives up after a minute.
pub(crate) fn wait_until(mut reached: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !reached() {
        assert!(Instant::now() < deadline, "it did not come to that within a minute");
    }
}
