//! Letting go of what takes its time: by threads of their own, while there is something to let go of.
//!
//! The last close of a descriptor may wait for whoever made it (a socket that lingers, a file of FUSE, either of them in the queue of a unix
//! socket; an eventfd that somebody watches who answers slowly), and the last use of a guest's memory gives all of it back to the kernel, for
//! seconds where there is much. The reactor's thread serves all volumes and does neither.

#![allow(unsafe_code)]

use std::{
    collections::VecDeque,
    mem::ManuallyDrop,
    ops::Deref,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    thread,
};

/// Where memory is unmapped and its files are closed, that of all front-ends. It waits for nobody, so that what counts until then comes free.
pub(crate) fn freeing() -> Lane {
    static FREEING: LazyLock<Lane> = LazyLock::new(|| Lane::new("cairn-free"));
    FREEING.clone()
}

/// What is let go of in order by one thread, which is there while there is something left.
#[derive(Clone, Debug)]
pub(crate) struct Lane(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// That of the thread.
    name: &'static str,
    queue: Mutex<Queue>,
}

struct Queue {
    things: VecDeque<Box<dyn Send>>,
    /// There is a thread, which will look once more.
    running: bool,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} things", self.things.len())
    }
}

impl Lane {
    pub(crate) fn new(name: &'static str) -> Self {
        let queue = Queue { things: VecDeque::new(), running: false };
        Self(Arc::new(Shared { name, queue: Mutex::new(queue) }))
    }

    fn take(&self, thing: Box<dyn Send>) {
        let mut queue = self.0.queue();
        queue.things.push_back(thing);
        self.run(&mut queue);
    }

    /// Tries once more where there could be no thread when something came: for those who wait until it is gone, when nothing else may come.
    pub(crate) fn go_on(&self) {
        self.run(&mut self.0.queue());
    }

    fn run(&self, queue: &mut Queue) {
        if !queue.running && !queue.things.is_empty() {
            let shared = Arc::clone(&self.0);
            // If there can be no thread now, then later.
            queue.running = thread::Builder::new().name(self.0.name.into()).spawn(move || shared.run()).is_ok();
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Whole after each of its changes.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<Box<dyn Send>> {
        let mut queue = self.queue();
        let next = queue.things.pop_front();
        queue.running = next.is_some();
        next
    }

    fn run(&self) {
        while let Some(thing) = self.next() {
            drop(thing);
        }
    }
}

/// What is dropped on a lane's thread, wherever this is.
pub(crate) struct Aside<T: Send + 'static> {
    thing: ManuallyDrop<T>,
    lane: Lane,
}

impl<T: Send + 'static> Aside<T> {
    pub(crate) fn new(thing: T, lane: Lane) -> Self {
        Self { thing: ManuallyDrop::new(thing), lane }
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

    struct Waits(mpsc::Receiver<()>);

    impl Drop for Waits {
        fn drop(&mut self) {
            // Ends with an error, when nothing more can come.
            self.0.recv().unwrap_err();
        }
    }

    #[test]
    fn things_go_in_order_on_one_thread_that_is_another() {
        let lane = Lane::new("test");
        let (tell, told) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        // So that the thread finds all of them.
        drop(Aside::new(Waits(ended), lane.clone()));
        for _ in 0..100 {
            drop(Aside::new(Tells(tell.clone()), lane.clone()));
        }
        assert!(told.try_recv().is_err(), "they wait for the first one");
        drop((end, tell));
        let by: Vec<_> = told.iter().collect();
        assert_eq!(by.len(), 100);
        assert!(by.iter().all(|&id| id == by[0] && id != thread::current().id()));
    }

    #[test]
    fn lanes_do_not_wait_for_one_another_and_begin_again() {
        let (one, two) = (Lane::new("test"), Lane::new("test"));
        let (tell, told) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        drop(Aside::new(Waits(ended), one.clone()));
        for _ in 0..100 {
            drop(Aside::new(Tells(tell.clone()), two.clone()));
            // Its thread may have ended by the next one.
            let _by = told.recv().unwrap();
        }
        drop(Aside::new(Tells(tell), one));
        assert!(told.try_recv().is_err());
        drop(end);
        let _by = told.recv().unwrap();
    }
}
