//! Sockets: binding them, taking over what a killed server left, removing them.

use cairn_engine::{Error, ErrorKind, Result};
use rustix::{
    fs::{FileType, lstat},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with},
};
use std::{
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::{Path, PathBuf},
};

/// The file of a socket that listens: removed when this is dropped, but only while it is still the one that was bound.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

fn identity(path: &Path) -> Result<(u64, u64)> {
    let stat = lstat(path).map_err(|e| Error::io(format!("socket {}", path.display()), e.into()))?;
    Ok((stat.st_dev, stat.st_ino))
}

impl SocketFile {
    /// Listens at a path, with a socket that keeps nobody waiting. A socket that nobody listens on any more is replaced.
    pub(crate) fn bind(path: PathBuf) -> Result<(OwnedFd, Self)> {
        let address = SocketAddrUnix::new(&path).map_err(|_| {
            let text =
                format!("{}: the path of a socket has 107 bytes at most; choose a shorter directory", path.display());
            Error::new(ErrorKind::Invalid, text)
        })?;
        make_way(&path, &address)?;
        let failed = |e| Error::io(format!("cannot listen on {}", path.display()), e);
        let socket = UnixListener::bind(&path).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        let identity = identity(&path)?;
        Ok((socket.into(), Self { path, identity }))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| now == self.identity) {
            // Nothing is lost if it stays: the next server replaces a socket that nobody listens on.
            drop(std::fs::remove_file(&self.path));
        }
    }
}

/// Removes a dead socket; refuses anything else that is in the way.
fn make_way(path: &Path, address: &SocketAddrUnix) -> Result<()> {
    let failed = |e: Errno| Error::io(format!("socket {}", path.display()), e.into());
    match lstat(path) {
        Err(Errno::NOENT) => return Ok(()),
        Err(e) => return Err(failed(e)),
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Socket => {
            let text = format!("{} exists and is no socket: choose another directory or remove it", path.display());
            return Err(Error::new(ErrorKind::Exists, text));
        }
        Ok(_) => {}
    }
    // Not blocking: a live server whose queue is full must not hold this up.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(failed)?;
    match connect(&probe, address) {
        Err(Errno::NOENT) => Ok(()),
        Err(Errno::CONNREFUSED) => match std::fs::remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(format!("dead socket {}", path.display()), e))
            }
            _ => Ok(()),
        },
        Err(Errno::ACCESS) => Err(failed(Errno::ACCESS)),
        _ => {
            let text = format!("another server listens on {}: stop it or choose another directory", path.display());
            Err(Error::new(ErrorKind::Busy, text))
        }
    }
}

/// The process and user at the other end. (Not by `rustix`, whose process ids are never 0: that is what the kernel reports for a process
/// outside this one's namespace, as that of a machine in a container.)
#[allow(unsafe_code)]
pub(crate) fn peer(socket: &OwnedFd) -> String {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    let (to, level) = ((&raw mut peer).cast(), libc::SOL_SOCKET);
    // SAFETY: `peer` has room for `length` bytes, and any bytes make a valid `ucred`.
    let result = unsafe { libc::getsockopt(socket.as_raw_fd(), level, libc::SO_PEERCRED, to, &raw mut length) };
    match (result, peer.pid) {
        (0, 0) => format!("uid {}", peer.uid),
        (0, pid) => format!("pid {pid} uid {}", peer.uid),
        _ => "unix".into(),
    }
}

/// Whether accepting can never succeed again.
pub(crate) fn is_lasting(error: &std::io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::BADF | Errno::INVAL | Errno::NOTSOCK | Errno::OPNOTSUPP | Errno::CANCELED)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn dead_sockets_are_replaced_and_nothing_else_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db.sock");
        let (socket, file) = SocketFile::bind(path.clone()).unwrap();
        assert_eq!(SocketFile::bind(path.clone()).unwrap_err().kind(), ErrorKind::Busy);
        drop(socket);
        assert!(path.exists(), "as a killed server leaves it");
        let (_socket, replaced) = SocketFile::bind(path.clone()).unwrap();
        let _client = UnixStream::connect(&path).unwrap();
        if file.identity != replaced.identity {
            drop(file);
            assert!(path.exists(), "it is not the one that the first one made");
        }
        drop(replaced);
        assert!(!path.exists());
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(SocketFile::bind(path.clone()).unwrap_err().kind(), ErrorKind::Exists);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        let long = directory.path().join("x".repeat(100));
        assert!(SocketFile::bind(long).unwrap_err().to_string().contains("107"));
    }
}
