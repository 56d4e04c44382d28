//! Closing descriptors whose last close may wait, on a thread of its own: the reactor's serves everybody.

use std::{
    collections::VecDeque,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

/// Descriptors that may wait to be closed when more are taken.
const MANY: usize = 256;

/// Closes descriptors in order, by one thread that is there while there is something to be closed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Closing(Arc<Mutex<Queue>>);

#[derive(Debug, Default)]
struct Queue {
    left: VecDeque<OwnedFd>,
    /// There is a thread, which will look once more.
    running: bool,
}

impl Closing {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Whole after each of its changes.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether so few wait to be closed that there may be more.
    pub(crate) fn has_room(&self) -> bool {
        let mut queue = self.queue();
        let room = queue.left.len() < MANY;
        if !room {
            // Where there could be no thread when they came, and nothing more may come.
            self.go_on(&mut queue);
        }
        room
    }

    /// Has descriptors closed.
    pub(crate) fn close(&self, fds: impl IntoIterator<Item = OwnedFd>) {
        let mut queue = self.queue();
        queue.left.extend(fds);
        self.go_on(&mut queue);
    }

    fn go_on(&self, queue: &mut Queue) {
        if !queue.running && !queue.left.is_empty() {
            let this = self.clone();
            // If there can be no thread now, then later.
            queue.running = thread::Builder::new().name("cairn-nbd-close".into()).spawn(move || this.run()).is_ok();
        }
    }

    fn next(&self) -> Option<OwnedFd> {
        let mut queue = self.queue();
        let next = queue.left.pop_front();
        queue.running = next.is_some();
        next
    }

    fn run(&self) {
        while let Some(fd) = self.next() {
            drop(fd);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Read, os::unix::net::UnixStream};

    #[test]
    fn everything_is_closed_also_what_comes_later() {
        let closing = Closing::default();
        for _ in 0..100 {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            closing.close([ours.into()]);
            // Its thread may have ended by the next one.
            assert_eq!(theirs.read(&mut [0]).unwrap(), 0);
        }
        assert!(closing.has_room());
    }
}
