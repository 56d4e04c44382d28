//! Where a server listens: parsing addresses, binding sockets, writing NBD URIs.

use crate::socket::refuse_descriptors;
use cairn_engine::{Error, ErrorKind, Result};
use rustix::{
    fs::{FileType, lstat},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with},
};
use std::{
    fmt,
    net::{SocketAddr, TcpListener, ToSocketAddrs},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    str::FromStr,
};

/// Connections that may wait to be accepted; the system may allow fewer.
const MANY_WAITING: i32 = 4096;

/// Where to listen. Anyone who can connect can read and write every volume of the pool, unless TLS says who that is or
/// [`Options::offers`](crate::Options::offers) what may be opened: keep
/// unix sockets in a directory of your own, and TCP to loopback or to TLS with client certificates or pre-shared keys.
///
/// ```
/// use cairn_nbd::Listen;
/// assert_eq!("unix:/run/cairn.sock".parse::<Listen>().unwrap(), Listen::Unix("/run/cairn.sock".into()));
/// assert_eq!("tcp:[::1]:10809".parse::<Listen>().unwrap(), Listen::Tcp { host: "::1".into(), port: 10809 });
/// assert!("tcp:::1:10809".parse::<Listen>().is_err());
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Listen {
    /// A unix socket at a path.
    Unix(PathBuf),
    /// TCP.
    Tcp {
        /// Name or address, without brackets.
        host: String,
        /// Port; 0 lets the system choose one.
        port: u16,
    },
}

impl FromStr for Listen {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = |why: &str| {
            let text = format!(
                "listening address {text:?}: {why}; write unix:/path or tcp:HOST:PORT (IPv6 as tcp:[ADDRESS]:PORT)"
            );
            Err(Error::new(ErrorKind::Invalid, text))
        };
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => invalid("the path is empty"),
                path if SocketAddrUnix::new(path).is_err() => {
                    invalid("the path is longer than a socket's may be (107 bytes)")
                }
                path => Ok(Self::Unix(path.into())),
            };
        }
        let Some(rest) = text.strip_prefix("tcp:") else { return invalid("neither unix nor tcp") };
        let Some((host, port)) = rest.rsplit_once(':') else { return invalid("no port (10809 is NBD's own)") };
        let host = match host.strip_prefix('[').map(|host| host.strip_suffix(']')) {
            Some(Some(host)) => host,
            Some(None) => return invalid("the bracket is not closed"),
            None if host.contains(':') => return invalid("an IPv6 address needs brackets"),
            None => host,
        };
        if host.is_empty() {
            return invalid("no host (127.0.0.1 serves this machine only)");
        }
        match port.parse() {
            Ok(port) => Ok(Self::Tcp { host: host.into(), port }),
            Err(_) => invalid("the port is not a number up to 65535"),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp:{host}:{port}"),
        }
    }
}

/// A socket that listens.
pub(crate) struct Bound {
    pub(crate) socket: OwnedFd,
    pub(crate) address: Address,
}

/// Where a bound socket is found.
#[derive(Clone, Debug)]
pub(crate) enum Address {
    Unix(SocketPath),
    Tcp(SocketAddr),
}

/// A unix socket's file: removed only while it is still the one that was bound.
#[derive(Clone, Debug)]
pub(crate) struct SocketPath {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketPath {
    fn of(path: &Path) -> Result<Self> {
        let stat = lstat(path).map_err(|e| Error::io(format!("socket {}", path.display()), e.into()))?;
        Ok(Self { path: path.into(), device: stat.st_dev, inode: stat.st_ino })
    }

    /// Removes the file, unless somebody else put another one there.
    pub(crate) fn remove(&self) {
        let same = Self::of(&self.path).is_ok_and(|now| (now.device, now.inode) == (self.device, self.inode));
        if same {
            // Nothing is lost if it stays: the next server replaces a socket that nobody listens on.
            drop(std::fs::remove_file(&self.path));
        }
    }
}

impl Listen {
    /// Binds and listens, with a socket that keeps nobody waiting. A unix socket that nobody listens on any more is replaced.
    pub(crate) fn bind(&self) -> Result<Bound> {
        let failed = |e| Error::io(format!("cannot listen on {self}"), e);
        match self {
            Self::Unix(path) => {
                clear_stale(path)?;
                let socket = listen_on(path).map_err(|e| failed(e.into()))?;
                Ok(Bound { socket, address: Address::Unix(SocketPath::of(path)?) })
            }
            Self::Tcp { host, port } => {
                let addresses: Vec<_> = (host.as_str(), *port).to_socket_addrs().map_err(failed)?.collect();
                let listener = TcpListener::bind(&addresses[..]).map_err(failed)?;
                listener.set_nonblocking(true).map_err(failed)?;
                let address = listener.local_addr().map_err(failed)?;
                Ok(Bound { socket: listener.into(), address: Address::Tcp(address) })
            }
        }
    }
}

/// A socket that listens at `path`. Whoever connects can send no descriptors, if the kernel can refuse them: that is settled before anybody
/// can connect, since a connection inherits it as it is made.
fn listen_on(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    refuse_descriptors(&socket);
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, MANY_WAITING)?;
    Ok(socket)
}

/// Makes way for a new socket at `path`: removes a dead one, refuses anything else that is there.
fn clear_stale(path: &Path) -> Result<()> {
    let failed = |e: Errno| Error::io(format!("socket {}", path.display()), e.into());
    match lstat(path) {
        Err(Errno::NOENT) => return Ok(()),
        Err(e) => return Err(failed(e)),
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Socket => {
            let text = format!("{} exists and is no socket: choose another path or remove it", path.display());
            return Err(Error::new(ErrorKind::Exists, text));
        }
        Ok(_) => {}
    }
    // Not blocking: a live server whose queue is full must not hold this up.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(failed)?;
    match connect(&probe, &SocketAddrUnix::new(path).map_err(failed)?) {
        Err(Errno::CONNREFUSED) => match std::fs::remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(format!("dead socket {}", path.display()), e))
            }
            _ => Ok(()),
        },
        Err(Errno::NOENT) => Ok(()),
        Err(Errno::ACCESS) => Err(failed(Errno::ACCESS)),
        _ => {
            let text = format!("another server listens on {}: stop it or choose another path", path.display());
            Err(Error::new(ErrorKind::Busy, text))
        }
    }
}

impl Address {
    /// The NBD URI of an export; with an empty name, of the default export.
    pub(crate) fn uri(&self, tls: bool, export: &str) -> String {
        let scheme = if tls { "nbds" } else { "nbd" };
        let export = percent_encoded(export.as_bytes(), b"");
        match self {
            Self::Unix(socket) => {
                use std::os::unix::ffi::OsStrExt;
                let path = percent_encoded(socket.path.as_os_str().as_bytes(), b"/");
                format!("{scheme}+unix:///{export}?socket={path}")
            }
            Self::Tcp(address) => format!("{scheme}://{address}/{export}"),
        }
    }
}

fn percent_encoded(bytes: &[u8], also_plain: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || also_plain.contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{aside::Closing, socket::Socket};
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use std::{
        io::IoSlice,
        mem::MaybeUninit,
        os::{fd::AsFd, unix::net::UnixStream},
    };

    #[test]
    fn addresses_round_trip_or_say_what_is_wrong() {
        for text in ["unix:/run/x.sock", "tcp:127.0.0.1:0", "tcp:localhost:10809", "tcp:[::1]:5"] {
            assert_eq!(text.parse::<Listen>().unwrap().to_string(), text);
        }
        for (text, why) in [
            ("", "neither"),
            ("unix:", "empty"),
            ("tcp:localhost", "no port"),
            ("tcp::10809", "no host"),
            ("tcp:::1:10809", "brackets"),
            ("tcp:[::1:10809", "not closed"),
            ("tcp:localhost:70000", "65535"),
            ("udp:localhost:1", "neither"),
        ] {
            let error = text.parse::<Listen>().unwrap_err();
            assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains(why), "{text}: {error}");
        }
        assert!(format!("unix:/{}", "x".repeat(200)).parse::<Listen>().unwrap_err().to_string().contains("107"));
    }

    #[test]
    fn dead_sockets_are_replaced_and_live_ones_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listen = Listen::Unix(path.clone());
        let first = listen.bind().unwrap();
        assert_eq!(listen.bind().err().unwrap().kind(), ErrorKind::Busy);
        drop(first.socket);
        assert!(path.exists(), "as a killed server leaves it");
        let second = listen.bind().unwrap();
        UnixStream::connect(&path).unwrap();
        let (Address::Unix(old), Address::Unix(new)) = (first.address, second.address) else { panic!() };
        if (old.device, old.inode) != (new.device, new.inode) {
            old.remove();
            assert!(path.exists(), "not the socket that the first one made");
        }
        new.remove();
        assert!(!path.exists());
        std::fs::write(&path, b"precious").unwrap();
        assert_eq!(listen.bind().err().unwrap().kind(), ErrorKind::Exists);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    /// Also from whoever comes before the server's first turn.
    #[test]
    fn the_first_to_connect_can_send_no_descriptors() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let bound = Listen::Unix(path.clone()).bind().unwrap();
        let client = UnixStream::connect(&path).unwrap();
        let listener = Socket::new(bound.socket, &Closing::default());
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut room);
        let fds = [client.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        let sent = sendmsg(&client, &[IoSlice::new(b"x")], &mut control, SendFlags::NOSIGNAL);
        // Where the kernel cannot refuse them, the server receives them.
        assert_eq!(sent, if listener.takes_descriptors() { Ok(1) } else { Err(Errno::PERM) });
    }

    #[test]
    fn uris_name_exports() {
        let tcp = Address::Tcp("[::1]:10809".parse().unwrap());
        assert_eq!(tcp.uri(false, "db@monday"), "nbd://[::1]:10809/db%40monday");
        let unix = Address::Unix(SocketPath { path: "/run/a b".into(), device: 0, inode: 0 });
        assert_eq!(unix.uri(true, ""), "nbds+unix:///?socket=/run/a%20b");
    }

    #[test]
    fn port_zero_becomes_a_real_port() {
        let bound = "tcp:127.0.0.1:0".parse::<Listen>().unwrap().bind().unwrap();
        assert!(matches!(bound.address, Address::Tcp(address) if address.port() != 0));
    }
}
