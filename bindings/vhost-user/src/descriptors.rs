//! Descriptors that a front-end sends: what they are is found out before anything is done with them, closing included.
//!
//! Only three kinds are taken, and with none of them can a system call wait for somebody else's good will: eventfds (used through the
//! reactor only), files in memory (`memfd`, `/dev/shm`, hugetlbfs) and unix sockets (used with `MSG_DONTWAIT`). A file of a network or
//! user-space file system could hold up its reader, and even who closes it.

use rustix::{
    fs::fcntl_get_seals,
    io::Errno,
    net::{AddressFamily, Shutdown, shutdown, sockopt},
};
use std::{
    os::fd::{AsRawFd, OwnedFd},
    thread,
};

/// What a descriptor refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Event,
    Memory,
    Socket,
}

impl Kind {
    /// Asks the kernel, without anything that a file system would have to answer.
    pub(crate) fn of(fd: &OwnedFd) -> Option<Self> {
        // Seals are what files in memory have and no others.
        if fcntl_get_seals(fd).is_ok() {
            return Some(Self::Memory);
        }
        match sockopt::socket_domain(fd) {
            Ok(AddressFamily::UNIX) => return Some(Self::Socket),
            Ok(_) => return None,
            Err(Errno::NOTSOCK) => {}
            Err(_) => return None,
        }
        // No file can have this name: theirs begin with a slash.
        let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok()?;
        (link.as_os_str() == "anon_inode:[eventfd]").then_some(Self::Event)
    }
}

/// Keeps those that are of a kind that is taken; the others are closed by a thread of their own, which may wait for that. Whether all were kept.
pub(crate) fn keep_known(fds: &mut Vec<OwnedFd>) -> bool {
    let strange: Vec<OwnedFd> = fds.extract_if(.., |fd| Kind::of(fd).is_none()).collect();
    let all = strange.is_empty();
    if !all {
        // Without a thread, they are closed here when the closure is dropped.
        let _closing = thread::Builder::new().name("cairn-close".into()).spawn(move || drop(strange));
    }
    all
}

/// Lets nobody connect to a listening socket any more, whoever else has it open.
pub(crate) fn deafen(listener: &OwnedFd) {
    // One that is not listening is as deaf.
    shutdown(listener, Shutdown::Both).ok();
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::{
        event::{EventfdFlags, eventfd},
        fs::{MemfdFlags, memfd_create},
    };
    use std::{fs::File, net::TcpListener, os::unix::net::UnixStream};

    #[test]
    fn only_three_kinds_are_known() {
        let event = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        assert_eq!(Kind::of(&event), Some(Kind::Event));
        let memory = memfd_create("[eventfd]", MemfdFlags::CLOEXEC).unwrap();
        assert_eq!(Kind::of(&memory), Some(Kind::Memory));
        let socket = OwnedFd::from(UnixStream::pair().unwrap().0);
        assert_eq!(Kind::of(&socket), Some(Kind::Socket));
        let (pipe, _) = std::io::pipe().unwrap();
        let strange: [OwnedFd; 4] = [
            File::open("/proc/self/exe").unwrap().into(),
            File::open("/dev/null").unwrap().into(),
            TcpListener::bind("127.0.0.1:0").unwrap().into(),
            pipe.into(),
        ];
        for fd in &strange {
            assert_eq!(Kind::of(fd), None, "{fd:?}");
        }
        let mut fds = vec![event, socket];
        assert!(keep_known(&mut fds));
        fds.extend(strange);
        assert!(!keep_known(&mut fds));
        assert_eq!(fds.len(), 2);
    }
}
