//! Letting go of what takes its time: by threads of their own, one for all of a kind.
//!
//! The last close of a descriptor may wait for whoever made it (a socket that lingers, a file of FUSE, and either of them in the queue of a
//! unix socket), and the last use of a guest's memory gives all of it back to the kernel, for seconds where there is much. The reactor's
//! thread serves all volumes and does neither.

#![allow(unsafe_code)]

use std::{
    collections::VecDeque,
    mem::ManuallyDrop,
    ops::Deref,
    sync::{Condvar, Mutex, PoisonError},
    thread,
};

/// Closes descriptors. It may wait for ever.
pub(crate) static CLOSING: Lane = Lane::new("cairn-close");
/// Unmaps memory and closes its files. It waits for nobody, so that what counts until then comes free.
pub(crate) static FREEING: Lane = Lane::new("cairn-free");

/// A thread, once there is something for it to do, and what waits for it.
pub(crate) struct Lane {
    name: &'static str,
    queue: Mutex<Queue>,
    filled: Condvar,
}

struct Queue {
    things: VecDeque<Box<dyn Send>>,
    running: bool,
}

impl Lane {
    const fn new(name: &'static str) -> Self {
        let queue = Queue { things: VecDeque::new(), running: false };
        Self { name, queue: Mutex::new(queue), filled: Condvar::new() }
    }

    fn take(&'static self, thing: Box<dyn Send>) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.things.push_back(thing);
        if !queue.running {
            // If there can be no thread now, then with the next thing.
            queue.running = thread::Builder::new().name(self.name.into()).spawn(|| self.run()).is_ok();
        }
        drop(queue);
        self.filled.notify_one();
    }

    fn run(&self) {
        loop {
            let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            let filled = self.filled.wait_while(queue, |queue| queue.things.is_empty());
            let thing = filled.unwrap_or_else(PoisonError::into_inner).things.pop_front();
            drop(thing);
        }
    }
}

/// What is dropped on a lane's thread, wherever this is.
pub(crate) struct Aside<T: Send + 'static> {
    thing: ManuallyDrop<T>,
    lane: &'static Lane,
}

impl<T: Send + 'static> Aside<T> {
    pub(crate) fn new(thing: T, lane: &'static Lane) -> Self {
        Self { thing: ManuallyDrop::new(thing), lane }
    }

    /// What may be dropped anywhere after all.
    pub(crate) fn into_inner(self) -> T {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: taken once, since `this` is not dropped.
        unsafe { ManuallyDrop::take(&mut this.thing) }
    }
}

impl<T: Send + 'static> Deref for Aside<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.thing
    }
}

impl<T: Send + 'static> Drop for Aside<T> {
    fn drop(&mut self) {
        // SAFETY: taken once: nobody sees this again.
        let thing = unsafe { ManuallyDrop::take(&mut self.thing) };
        self.lane.take(Box::new(thing));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    struct Tells(mpsc::Sender<thread::ThreadId>);

    impl Drop for Tells {
        fn drop(&mut self) {
            self.0.send(thread::current().id()).unwrap();
        }
    }

    #[test]
    fn things_go_in_order_on_one_thread_that_is_another() {
        static HERE: Lane = Lane::new("test");
        let (tell, told) = mpsc::channel();
        for _ in 0..100 {
            drop(Aside::new(Tells(tell.clone()), &HERE));
        }
        drop(Aside::new(Tells(tell.clone()), &HERE).into_inner());
        drop(Aside::new(Tells(tell), &HERE));
        let by: Vec<_> = told.iter().collect();
        let here: Vec<_> = by.iter().filter(|&&id| id == thread::current().id()).collect();
        assert_eq!((by.len(), here.len()), (102, 1));
        assert!(by.iter().filter(|&&id| id != thread::current().id()).all(|&id| id == by[101] || id == by[0]));
    }
}
