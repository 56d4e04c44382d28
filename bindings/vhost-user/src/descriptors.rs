//! Descriptors that a front-end sends: what they are is found out before anything is done with them.
//!
//! Only three kinds are taken, and none is used in a way that could wait for somebody else's good will: eventfds (through the reactor only),
//! files in memory (`memfd`, `/dev/shm`, hugetlbfs), which are mapped and nothing else, and unix sockets (with `MSG_DONTWAIT`). A file of a
//! network or user-space file system could hold up its reader.
//!
//! Closing is another matter: a unix socket closes what is in its queue, and a file in memory gives that memory back, which takes its time. So
//! only eventfds are closed by whoever drops them. Of all others, an export has a bounded number open.

use crate::aside::{Aside, CLOSING, FREEING};
use rustix::{
    fs::fcntl_get_seals,
    io::Errno,
    net::{AddressFamily, Shutdown, shutdown, sockopt},
};
use std::{
    ops::Deref,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Descriptors that an export may have open when it takes more.
const MAX_OPEN: usize = 64;

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

/// Counts the descriptors that an export has open, those that are still to be closed among them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Count(Arc<AtomicUsize>);

impl Count {
    /// Whether so few are open that there may be more: otherwise, whoever connects and goes, or sends some again and again, would have the
    /// process run out of descriptors while closing one of them waits.
    pub(crate) fn has_room(&self) -> bool {
        self.0.load(Ordering::Relaxed) < MAX_OPEN
    }
}

/// A descriptor, open until this is dropped.
#[derive(Debug)]
struct Open {
    fd: OwnedFd,
    // Behind the descriptor, so that it is counted until it is closed.
    counted: Counted,
}

#[derive(Debug)]
struct Counted(Count);

impl Drop for Counted {
    fn drop(&mut self) {
        let _before = self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A descriptor whose last close may wait: whoever drops it does not.
pub(crate) struct Foreign(Aside<Open>);

impl Foreign {
    pub(crate) fn new(fd: OwnedFd, count: &Count) -> Self {
        let lane = if Kind::of(&fd) == Some(Kind::Memory) { &FREEING } else { &CLOSING };
        let _before = count.0.fetch_add(1, Ordering::Relaxed);
        Self(Aside::new(Open { fd, counted: Counted(count.clone()) }, lane))
    }

    /// Another one that counts for the same export.
    pub(crate) fn beside(&self, fd: OwnedFd) -> Self {
        Self::new(fd, &self.0.counted.0)
    }

    /// Whether its export may have more.
    pub(crate) fn has_room(&self) -> bool {
        self.0.counted.0.has_room()
    }

    /// An eventfd, which may be closed anywhere.
    pub(crate) fn into_event(self) -> Rc<OwnedFd> {
        Rc::new(self.0.into_inner().fd)
    }
}

impl Deref for Foreign {
    type Target = OwnedFd;

    fn deref(&self) -> &OwnedFd {
        &self.0.fd
    }
}

impl AsFd for Foreign {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}

impl AsRawFd for Foreign {
    fn as_raw_fd(&self) -> RawFd {
        self.0.fd.as_raw_fd()
    }
}

impl std::fmt::Debug for Foreign {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fd.fmt(f)
    }
}

#[cfg(any(test, feature = "fuzzing"))]
impl From<OwnedFd> for Foreign {
    fn from(fd: OwnedFd) -> Self {
        Self::new(fd, &Count::default())
    }
}

/// The socket of a front-end. The other end sees the end of it when this is dropped, however long closing takes.
pub(crate) struct Connection(Foreign);

impl Connection {
    pub(crate) fn new(fd: OwnedFd, count: &Count) -> Self {
        Self(Foreign::new(fd, count))
    }
}

impl Deref for Connection {
    type Target = Foreign;

    fn deref(&self) -> &Foreign {
        &self.0
    }
}

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // The other end may be gone already.
        shutdown(&self.0, Shutdown::Both).ok();
    }
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
    use std::{fs::File, io::Read, net::TcpListener, os::unix::net::UnixStream};

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
    }

    #[test]
    fn descriptors_count_until_they_are_closed() {
        let count = Count::default();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let connection = Connection::new(ours.into(), &count);
        let others: Vec<_> = (1..MAX_OPEN).map(|_| connection.beside(theirs.try_clone().unwrap().into())).collect();
        assert!(!count.has_room());
        drop(connection);
        assert_eq!((&theirs).read(&mut [0]).unwrap(), 0, "told at once");
        drop((theirs, others));
        while count.0.load(Ordering::Relaxed) > 0 {
            std::thread::yield_now();
        }
        let event = Foreign::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap(), &count).into_event();
        assert!(Kind::of(&event) == Some(Kind::Event) && count.has_room());
    }
}
