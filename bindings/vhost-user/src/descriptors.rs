//! Descriptors that a front-end sends: what they are is found out before anything is done with them.
//!
//! Only three kinds are taken, and none is used in a way that could wait for somebody else's good will: eventfds (through the reactor only),
//! files in memory (`memfd`, `/dev/shm`, hugetlbfs), which are mapped and nothing else, and unix sockets (with `MSG_DONTWAIT`). A file of a
//! network or user-space file system could hold up its reader.
//!
//! Closing is another matter: a unix socket closes what is in its queue, an eventfd is taken from whoever watches it, which takes locks that
//! he may hold, and a file in memory gives that memory back, which takes its time. So none is closed by whoever drops it: each export has a
//! thread for that, which may wait for ever, and memory another one. An export has a bounded number open.

use crate::aside::{Aside, Lane, freeing};
use rustix::{
    fs::fcntl_get_seals,
    io::Errno,
    net::{AddressFamily, Shutdown, shutdown, sockopt},
};
use std::{
    ops::Deref,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Descriptors that an export may have open when it takes more, besides the eventfds that its rings use.
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

/// The descriptors of an export: counts those that are open, also those that are still to be closed, and has them closed in order.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    open: Arc<AtomicUsize>,
    closing: Lane,
}

impl Default for Held {
    fn default() -> Self {
        Self { open: Arc::default(), closing: Lane::new("cairn-close") }
    }
}

impl Held {
    /// Whether so few are open that there may be more: otherwise, whoever connects and goes, or sends some again and again, would have the
    /// process run out of descriptors while closing one of them waits.
    pub(crate) fn has_room(&self) -> bool {
        let room = self.open.load(Ordering::Relaxed) < MAX_OPEN;
        if !room {
            self.closing.go_on();
            freeing().go_on();
        }
        room
    }

    fn add(&self) {
        let _before = self.open.fetch_add(1, Ordering::Relaxed);
    }

    fn remove(&self) {
        let _before = self.open.fetch_sub(1, Ordering::Relaxed);
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
struct Counted(Held);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.remove();
    }
}

/// A descriptor whose last close may wait: whoever drops it does not.
pub(crate) struct Foreign(Aside<Open>);

impl Foreign {
    pub(crate) fn new(fd: OwnedFd, held: &Held) -> Self {
        let lane = if Kind::of(&fd) == Some(Kind::Memory) { freeing() } else { held.closing.clone() };
        held.add();
        Self(Aside::new(Open { fd, counted: Counted(held.clone()) }, lane))
    }

    /// Another one of the same export.
    pub(crate) fn beside(&self, fd: OwnedFd) -> Self {
        Self::new(fd, &self.0.counted.0)
    }

    /// Whether its export may have more.
    pub(crate) fn has_room(&self) -> bool {
        self.0.counted.0.has_room()
    }

    /// An eventfd for a ring, which has a place for it.
    pub(crate) fn into_event(self) -> Event {
        self.0.counted.0.remove();
        Event(self)
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
        Self::new(fd, &Held::default())
    }
}

/// An eventfd that a ring uses. It counts again when it is to be closed.
#[derive(Debug)]
pub(crate) struct Event(Foreign);

impl AsRawFd for Event {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        self.0.0.counted.0.add();
    }
}

/// The socket of a front-end. The other end sees the end of it when this is dropped, however long closing takes.
pub(crate) struct Connection(Foreign);

impl Connection {
    pub(crate) fn new(fd: OwnedFd, held: &Held) -> Self {
        Self(Foreign::new(fd, held))
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

    fn all_are_closed(held: &Held) {
        while held.open.load(Ordering::Relaxed) > 0 {
            std::thread::yield_now();
        }
    }

    #[test]
    fn descriptors_count_until_they_are_closed() {
        let held = Held::default();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let connection = Connection::new(ours.into(), &held);
        let others: Vec<_> = (1..MAX_OPEN).map(|_| connection.beside(theirs.try_clone().unwrap().into())).collect();
        assert!(!held.has_room());
        drop(connection);
        assert_eq!((&theirs).read(&mut [0]).unwrap(), 0, "told at once");
        drop((theirs, others));
        all_are_closed(&held);
    }

    #[test]
    fn eventfds_count_but_while_a_ring_uses_them() {
        let held = Held::default();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let first = Foreign::new(ours.into(), &held);
        let event = || Foreign::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap(), &held);
        let used: Vec<_> = (0..100).map(|_| event().into_event()).collect();
        assert_eq!(held.open.load(Ordering::Relaxed), 1);
        assert_eq!(Kind::of(&used[0].0), Some(Kind::Event));
        drop(first);
        drop(used);
        assert_eq!(theirs.read(&mut [0]).unwrap(), 0);
        all_are_closed(&held);
    }
}
