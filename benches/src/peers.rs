//! Servers that are measured: `cairn serve`, and `qemu-storage-daemon` with qcow2.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// A running server, ended by its process id when it is dropped.
pub struct Server {
    child: Child,
    /// URI of the export, if it is over NBD.
    pub uri: String,
}

impl Server {
    /// Processor time that it has taken, in seconds.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn processor(&self) -> Result<f64, String> {
        let path = format!("/proc/{}/stat", self.child.id());
        let text = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
        // The second field, the command's name, may hold anything; user and system time are the 12th and 13th after it.
        let fields = text.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().skip(11).take(2));
        let ticks: Option<u64> = fields.and_then(|fields| fields.map(|field| field.parse::<u64>().ok()).sum());
        // SAFETY: no pointers.
        let a_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
        ticks.map(|ticks| ticks as f64 / a_second as f64).ok_or(format!("{path}: {text:?} is not understood"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGTERM lets it finish its work; a server that is gone already is fine.
        let _asked = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ended = self.child.wait();
    }
}

fn spawn(mut command: Command) -> Result<Child, String> {
    command.stdout(Stdio::piped()).spawn().map_err(|e| format!("cannot run {command:?}: {e}"))
}

/// Runs a command to its end.
///
/// # Errors
/// Its output when it fails.
pub fn run(program: &Path, args: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(args).output().map_err(|e| format!("{}: {e}", program.display()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{} {args:?}: {}", program.display(), String::from_utf8_lossy(&output.stderr)))
}

/// Serves a pool with `cairn serve`.
///
/// # Errors
/// When it does not become ready.
pub fn cairn(program: &Path, pool: &Path, volume: &str, dir: &Path) -> Result<Server, String> {
    let socket = dir.join("cairn.sock");
    let mut command = Command::new(program);
    let _args = command.arg("--pool").arg(pool).arg("serve").arg("--nbd").arg(format!("unix:{}", socket.display()));
    ready(command, format!("nbd+unix:///{volume}?socket={}", socket.display()))
}

/// Starts `cairn serve` and waits until it says that it is ready.
///
/// # Errors
/// When it does not.
pub fn ready(command: Command, uri: String) -> Result<Server, String> {
    let mut child = spawn(command)?;
    let lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
    let ready = lines.map_while(Result::ok).any(|line| line == "ready");
    let server = Server { child, uri };
    if ready { Ok(server) } else { Err("cairn serve did not become ready".to_owned()) }
}

/// Serves a qcow2 image with `qemu-storage-daemon` over NBD.
///
/// # Errors
/// When it does not become ready.
pub fn qcow2(image: &Path, dir: &Path) -> Result<Server, String> {
    let socket = dir.join("qsd.sock");
    let server = format!("addr.type=unix,addr.path={}", socket.display());
    let export = "type=nbd,id=e,node-name=disk,name=disk,writable=on";
    let uri = format!("nbd+unix:///disk?socket={}", socket.display());
    daemon(image, "qcow2", dir, &["--nbd-server", &server, "--export", export], uri)
}

/// Where [`vhost_user`] makes its socket.
#[must_use]
pub fn vhost_user_socket(dir: &Path) -> PathBuf {
    dir.join("qsd.vhost")
}

/// Serves an image of a format with `qemu-storage-daemon` over vhost-user-blk.
///
/// # Errors
/// When it does not become ready.
pub fn vhost_user(image: &Path, format: &str, dir: &Path) -> Result<Server, String> {
    let socket = vhost_user_socket(dir);
    drop(std::fs::remove_file(&socket));
    let address = format!("addr.type=unix,addr.path={}", socket.display());
    let export = format!("type=vhost-user-blk,id=e,node-name=disk,writable=on,{address}");
    daemon(image, format, dir, &["--export", &export], String::new())
}

fn daemon(image: &Path, format: &str, dir: &Path, exports: &[&str], uri: String) -> Result<Server, String> {
    let pid = dir.join("qsd.pid");
    drop(std::fs::remove_file(&pid));
    let mut command = Command::new("qemu-storage-daemon");
    let _args = command
        .arg("--blockdev")
        .arg(format!("driver=file,node-name=file,filename={},cache.direct=on,aio=io_uring", image.display()))
        .args(["--blockdev", &format!("driver={format},node-name=disk,file=file,discard=unmap")])
        .args(exports)
        .arg("--pidfile")
        .arg(&pid);
    let mut child = spawn(command)?;
    // The daemon writes its process id when everything on its command line is done.
    while !pid.exists() {
        if let Ok(Some(status)) = child.try_wait() {
            return Err(format!("qemu-storage-daemon ended: {status}"));
        }
        std::thread::yield_now();
    }
    Ok(Server { child, uri })
}
