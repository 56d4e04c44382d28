//! Settings of accepted sockets, and who is at their other end.
//!
//! Over a unix socket, a peer can send descriptors, also before anybody accepts. Whoever receives past them, or closes the socket with them in
//! its queue, closes them, which may wait for whoever made them. So listening sockets refuse them, which the connections inherit. Where the
//! kernel cannot (before Linux 6.16), they are received, and they and the sockets closed by another thread.

use crate::aside::Closing;
use rustix::{
    cmsg_space,
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, accept_with, getpeername,
        recvmsg, sockopt,
    },
};
use std::{
    io::{self, IoSliceMut},
    mem::{ManuallyDrop, MaybeUninit},
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    time::Duration,
};

/// Room for replies in the socket: a large read goes out in few steps. The system may allow less.
const SEND_BUFFER: usize = 2 << 20;

/// Descriptors that can be sent at once (the kernel's `SCM_MAX_FD`).
const MOST_FDS: usize = 253;

/// Whether a unix socket takes descriptors (`asm-generic/socket.h`).
const SO_PASSRIGHTS: libc::c_int = 83;

/// A socket, of clients or for them.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: ManuallyDrop<OwnedFd>,
    /// Where descriptors are closed, if peers can send some.
    closing: Option<Closing>,
}

impl Socket {
    /// One that listens, or that nobody else has. If the kernel can refuse descriptors, it does; of one that listens, it did before anybody
    /// could connect ([`Listen::bind`](crate::Listen)).
    pub(crate) fn new(fd: OwnedFd, closing: &Closing) -> Self {
        let refused = sockopt::socket_domain(&fd) != Ok(AddressFamily::UNIX) || refuse_descriptors(&fd);
        Self { fd: ManuallyDrop::new(fd), closing: (!refused).then(|| closing.clone()) }
    }

    /// As with a kernel that cannot refuse descriptors.
    #[cfg(test)]
    pub(crate) fn taking_descriptors(fd: OwnedFd, closing: &Closing) -> Self {
        sockopt::set_socket_oobinline(&fd, true).unwrap();
        Self { fd: ManuallyDrop::new(fd), closing: Some(closing.clone()) }
    }

    /// Accepts a connection, if there is one; never waits, if this is not blocking.
    pub(crate) fn accept(&self) -> rustix::io::Result<Self> {
        let fd = accept_with(self, SocketFlags::CLOEXEC)?;
        let socket = Self { fd: ManuallyDrop::new(fd), closing: self.closing.clone() };
        if socket.takes_descriptors() {
            // Else the kernel throws an urgent byte away when it is met, and closes here what came with it.
            sockopt::set_socket_oobinline(&socket, true)?;
        }
        Ok(socket)
    }

    /// Whether peers can send descriptors: then only [`receive`](Self::receive) receives.
    pub(crate) fn takes_descriptors(&self) -> bool {
        self.closing.is_some()
    }

    /// Receives what there is, without waiting; 0 means that the peer closed.
    ///
    /// # Errors
    /// Those of `recvmsg`; `InvalidData` where descriptors came, which mean nothing here.
    pub(crate) fn receive(&self, to: &mut [u8]) -> io::Result<usize> {
        let mut room = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut room);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = recvmsg(self, &mut [IoSliceMut::new(to)], &mut control, flags)?;
        let rights = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        let fds: Vec<_> = rights.flatten().collect();
        if fds.is_empty() {
            return Ok(received.bytes);
        }
        match &self.closing {
            Some(closing) => closing.close(fds),
            None => drop(fds),
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "a peer sent descriptors"))
    }
}

impl Drop for Socket {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: taken once: nobody sees this again.
        let fd = unsafe { ManuallyDrop::take(&mut self.fd) };
        match &self.closing {
            Some(closing) => closing.close([fd]),
            None => drop(fd),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Has the kernel refuse descriptors that somebody sends to a socket, or to those that connect to it from here on. Whether it does.
#[allow(unsafe_code)]
pub(crate) fn refuse_descriptors(socket: &OwnedFd) -> bool {
    let takes: libc::c_int = 0;
    let (from, length) = ((&raw const takes).cast(), size_of::<libc::c_int>() as libc::socklen_t);
    // SAFETY: `length` readable bytes.
    unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_PASSRIGHTS, from, length) == 0 }
}

/// Sets a client's socket up, and names the peer.
pub(crate) fn prepare(socket: &Socket) -> String {
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
fn unix_peer(socket: &Socket) -> io::Result<String> {
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
