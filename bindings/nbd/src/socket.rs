//! Settings of accepted sockets, and who is at their other end.

use rustix::{
    io::Errno,
    net::{getpeername, sockopt},
};
use std::{
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

/// Room for replies in the socket: a large read goes out in few steps. The system may allow less.
const SEND_BUFFER: usize = 2 << 20;

/// Sets a client's socket up, and names the peer.
pub(crate) fn prepare(socket: &OwnedFd) -> String {
    // All of these make a connection better; none makes it correct.
    sockopt::set_socket_send_buffer_size(socket, SEND_BUFFER).ok();
    match getpeername(socket).ok().flatten().and_then(|address| SocketAddr::try_from(address).ok()) {
        Some(address) => {
            sockopt::set_tcp_nodelay(socket, true).ok();
            // A machine that vanished without a word is noticed after about two minutes.
            sockopt::set_socket_keepalive(socket, true).ok();
            sockopt::set_tcp_keepidle(socket, Duration::from_secs(60)).ok();
            sockopt::set_tcp_keepintvl(socket, Duration::from_secs(15)).ok();
            sockopt::set_tcp_keepcnt(socket, 4).ok();
            address.to_string()
        }
        None => unix_peer(socket).unwrap_or_else(|_| "unix".to_owned()),
    }
}

/// The process and user at the other end of a unix socket. (Not by `rustix`, whose process ids are never 0: that is what the
/// kernel reports for a process outside this one's namespace.)
#[allow(unsafe_code)]
fn unix_peer(socket: &OwnedFd) -> io::Result<String> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: `peer` is valid for writes of `length` bytes, and any bytes the kernel writes make a valid `ucred`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut length,
        )
    };
    match result {
        0 if peer.pid != 0 => Ok(format!("pid {} uid {}", peer.pid, peer.uid)),
        0 => Ok(format!("uid {}", peer.uid)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether accepting can never succeed again.
pub(crate) fn is_lasting(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::BADF | Errno::INVAL | Errno::NOTSOCK | Errno::OPNOTSUPP | Errno::CANCELED)
    )
}
