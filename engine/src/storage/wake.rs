//! Waking the reactor's thread from others: an `eventfd` that its storage waits for.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};

/// Wakes one reactor.
pub(crate) struct Waker {
    fd: OwnedFd,
}

impl Waker {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: plain system call; a descriptor or -1.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just made, owned by nobody else.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Ends a wait for the descriptor, or else the next one.
    pub(crate) fn notify(&self) {
        let one = 1u64;
        // SAFETY: eight bytes from a local. It fails only when the counter is full, and then the reactor wakes anyway.
        let _written = unsafe { libc::write(self.fd.as_raw_fd(), (&raw const one).cast(), 8) };
    }

    /// Empties the descriptor without blocking.
    pub(crate) fn drain(&self) {
        let mut entry = libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let mut value = 0u64;
        // SAFETY: one entry; then eight bytes into a local, only when they are there.
        unsafe {
            if libc::poll(&raw mut entry, 1, 0) == 1 {
                let _read = libc::read(self.fd.as_raw_fd(), (&raw mut value).cast(), 8);
            }
        }
    }
}
