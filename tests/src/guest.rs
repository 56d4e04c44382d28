//! A virtual machine: QEMU without acceleration, a kernel of the distribution, and a shell on the serial line (`scripts/guest` makes it).

use std::{
    io::{BufRead, BufReader, Read, Write},
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::tool;

/// What the guest has, as QEMU's options take it.
const MEMORY: &str = "256M";

/// How long the guest may take for anything. An emulated processor is slow; only there so that nothing hangs for ever.
const DEADLINE: Duration = Duration::from_secs(240);

/// A guest that runs. Killed when dropped.
pub struct Guest {
    child: Child,
    stdin: ChildStdin,
    lines: mpsc::Receiver<String>,
    /// Everything that it said.
    said: Vec<String>,
    commands: u32,
}

/// What `scripts/guest` has made: `vmlinuz`, `initrd`, and `disk`, an ext4 file system with the whole distribution.
///
/// # Panics
/// It has not.
#[must_use]
#[track_caller]
pub fn prepared(name: &str) -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from);
    let path = cache.join("cairn/guest-2").join(name);
    assert!(path.exists(), "{} is missing: run scripts/setup", path.display());
    path
}

impl Guest {
    /// Boots a guest whose disks, `/dev/vda` and so on, are these, as QEMU's option `-drive` takes them (`file=nbd:unix:…,format=raw`).
    ///
    /// # Panics
    /// It cannot be started, or does not come up.
    #[must_use]
    #[track_caller]
    pub fn boot(drives: &[String]) -> Self {
        let drives = drives.iter().map(|drive| format!("{drive},if=virtio,cache=none,discard=unmap"));
        let args: Vec<String> = drives.flat_map(|drive| ["-drive".to_owned(), drive]).collect();
        Self::start(&args, "")
    }

    /// Boots a guest whose disks are what `cairn --json attach` answered, with the very arguments that it names.
    ///
    /// # Panics
    /// It cannot be started, or does not come up.
    #[must_use]
    #[track_caller]
    pub fn boot_attached(disks: &[Value]) -> Self {
        Self::start(&arguments(disks), "")
    }

    /// Boots the distribution that is installed on the disk that `cairn --json attach` answered with.
    ///
    /// # Panics
    /// It cannot be started, or does not come up.
    #[must_use]
    #[track_caller]
    pub fn boot_from(disk: &Value) -> Self {
        Self::start(&arguments(std::slice::from_ref(disk)), " root=/dev/vda")
    }

    #[track_caller]
    fn start(args: &[String], kernel: &str) -> Self {
        let mut command = Command::new("qemu-system-x86_64");
        command.args([
            "-accel",
            "tcg",
            "-m",
            MEMORY,
            "-display",
            "none",
            "-nodefaults",
            "-no-reboot",
            "-serial",
            "stdio",
        ]);
        command.arg("-kernel").arg(prepared("vmlinuz")).arg("-initrd").arg(prepared("initrd"));
        command.arg("-append").arg(format!("console=ttyS0 quiet panic=-1{kernel}"));
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = tool::start(&mut command);
        let stdin = child.stdin.take().expect("it is piped");
        let (sender, lines) = mpsc::channel();
        listen(child.stdout.take().expect("it is piped"), sender.clone());
        listen(child.stderr.take().expect("it is piped"), sender);
        let mut guest = Self { child, stdin, lines, said: Vec::new(), commands: 0 };
        let _boot = guest.until(|line| line.contains("guest is up").then_some(()));
        guest
    }

    /// Runs a command line in the guest's shell, successfully; what it said.
    ///
    /// # Panics
    /// It fails or does not end.
    #[track_caller]
    pub fn run(&mut self, command: &str) -> String {
        self.commands += 1;
        let (first, end) = (format!("[{}]", self.commands), format!("[/{}] ", self.commands));
        // The marks are put together by the guest's shell, so that an echo of the line is none.
        let number = self.commands;
        let line = format!("echo '['{number}']'; {{ {command}\n}} 2>&1; echo '[/'{number}'] '$?\n");
        self.stdin.write_all(line.as_bytes()).unwrap_or_else(|error| panic!("{error}: {}", self.said.join("\n")));
        let _before = self.until(|line| (line == first).then_some(()));
        let (said, status) = self.until(|line| line.strip_prefix(&end).map(str::to_owned));
        assert_eq!(status, "0", "in the guest: {command}\n{}", said.join("\n"));
        said.join("\n")
    }

    /// Lines up to one in which something is found, and what was found.
    #[track_caller]
    fn until<T>(&mut self, find: impl Fn(&str) -> Option<T>) -> (Vec<String>, T) {
        let mut before = Vec::new();
        loop {
            let Ok(line) = self.lines.recv_timeout(DEADLINE) else {
                panic!("the guest says nothing more:\n{}", self.said.join("\n"));
            };
            self.said.push(line.clone());
            match find(&line) {
                Some(found) => return (before, found),
                None => before.push(line),
            }
        }
    }

    /// Switches it off in order, and waits until QEMU has ended.
    ///
    /// # Panics
    /// It does not end.
    #[track_caller]
    pub fn power_off(self) {
        self.end_with("sync; poweroff -f");
    }

    /// Waits until QEMU has ended after a command that switches the guest off.
    ///
    /// # Panics
    /// It does not end.
    #[track_caller]
    pub fn end_with(mut self, command: &str) {
        writeln!(self.stdin, "{command}").expect("it runs");
        // QEMU's output ends with it.
        while self.lines.recv_timeout(DEADLINE).is_ok_and(|line| {
            self.said.push(line);
            true
        }) {}
        let status = self.child.wait().expect("it is a child");
        assert!(status.success(), "{status}:\n{}", self.said.join("\n"));
    }
}

/// The very arguments for QEMU that the server names, but for the size of memory.
fn arguments(disks: &[Value]) -> Vec<String> {
    let mut args: Vec<String> = Vec::new();
    for disk in disks {
        let words = disk["use"]["qemu"].as_array().expect("arguments for QEMU").iter();
        let words: Vec<_> = words.map(|word| word.as_str().expect("a word").replace("4G", MEMORY)).collect();
        // Memory is there once, whatever the number of disks.
        let fresh: Vec<_> = words.chunks(2).filter(|pair| !args.chunks(2).any(|have| have == *pair)).collect();
        args.extend(fresh.concat());
    }
    args
}

impl Drop for Guest {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if thread::panicking() {
            eprintln!("the guest said:\n{}", self.said.join("\n"));
        }
    }
}

fn listen(stream: impl Read + Send + 'static, sender: mpsc::Sender<String>) {
    thread::spawn(move || {
        let mut lines = BufReader::new(stream).split(b'\n');
        while let Some(Ok(line)) = lines.next() {
            let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
            if sender.send(line).is_err() {
                return;
            }
        }
    });
}
