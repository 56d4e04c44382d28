//! A pool, a repository, and daemons over them, one after another.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use cairn_benches::peers;
use serde_json::Value;

pub(crate) struct Site {
    pub(crate) cairn: PathBuf,
    cairnd: PathBuf,
    dir: tempfile::TempDir,
}

/// A running daemon; ended by its process id when it is dropped.
pub(crate) struct Daemon {
    child: Child,
    pub(crate) url: String,
    /// From its start to the moment at which clients may come.
    pub(crate) took: Duration,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Daemon {
    /// Ends as it ends in service.
    pub(crate) fn stop(mut self) -> Result<(), String> {
        let asked = Command::new("kill").arg(self.child.id().to_string()).status().map_err(|e| e.to_string())?;
        let ended = self.child.wait().map_err(|e| e.to_string())?;
        match asked.success() && ended.success() {
            true => Ok(()),
            false => Err(format!("cairnd ended with {ended}")),
        }
    }

    /// Ends as `kill -9` ends it.
    pub(crate) fn kill(self) {
        drop(self);
    }
}

impl Site {
    pub(crate) fn new(cairn: &Path, cairnd: &Path, dir: &Path, pool_gib: u64) -> Result<Self, String> {
        let dir = tempfile::tempdir_in(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        let site = Self { cairn: cairn.to_owned(), cairnd: cairnd.to_owned(), dir };
        let pool = site.path("pool");
        peers::run(cairn, &["--pool", &pool, "pool", "create", "--size", &format!("{pool_gib}GiB")])?;
        peers::run(cairn, &["backup", "init", "--repo", &site.repository()])?;
        Ok(site)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn repository(&self) -> String {
        format!("file://{}", self.path("repository"))
    }

    pub(crate) fn start(&self) -> Result<Daemon, String> {
        let began = Instant::now();
        let mut child = Command::new(&self.cairnd)
            .args(["--dev", "--listen", "127.0.0.1:0", "--over-subscription", "100000", "--wait", "60"])
            .args(["--pool", &self.path("pool"), "--backup-url", &self.repository()])
            .args(["--nbd", &format!("unix:{}", self.path("nbd"))])
            .env("CAIRN_LOG", "error")
            .env("XDG_CACHE_HOME", self.path("cache"))
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("{}: {e}", self.cairnd.display()))?;
        let mut line = String::new();
        let output = child.stdout.take().ok_or("no output")?;
        let read = BufReader::new(output).read_line(&mut line);
        let ready: Value = serde_json::from_str(&line).unwrap_or_default();
        let took = began.elapsed();
        let url = ready["url"].as_str().unwrap_or_default().to_owned();
        let daemon = Daemon { child, url, took };
        match read.is_ok() && !daemon.url.is_empty() {
            true => Ok(daemon),
            false => Err(format!("cairnd did not become ready: {line}")),
        }
    }
}
