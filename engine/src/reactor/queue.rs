//! The hand-over from other threads to the reactor: jobs that they post, tasks that they wake, and the sleep that they end.
//!
//! Invariants:
//! - Work comes, and the reactor decides to sleep, under one lock: it never sleeps while there is work, and whoever brings some
//!   while it sleeps rings.
//! - Jobs of one thread run in the order in which it posted them.
//! - Once the queue is closed, jobs are refused and those that were left are dropped: whoever waits for one learns that it is gone.
//! - Jobs and tasks are run and dropped without the lock, since they may bring work themselves.
//!
//! `tests/queue.rs` compiles this file with the primitives of a model checker, which tries every order of steps. So it uses those
//! of `super::sync` and no others.

use std::{collections::VecDeque, mem, sync::PoisonError};

use super::sync::{Mutex, MutexGuard, yield_now};

/// A job posted from another thread.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// What ends the reactor's sleep.
pub(crate) trait Bell {
    /// Ends the present sleep, or else the next one.
    fn ring(&self);
}

struct State<T> {
    /// `None` once the queue is closed.
    jobs: Option<Vec<Job>>,
    ready: VecDeque<T>,
    sleeping: bool,
}

impl<T> State<T> {
    fn has_work(&self) -> bool {
        !self.ready.is_empty() || self.jobs.as_ref().is_some_and(|jobs| !jobs.is_empty())
    }
}

/// What other threads may touch of a reactor whose tasks are `T`.
pub(crate) struct Queue<T, B> {
    state: Mutex<State<T>>,
    pub(crate) wake: B,
}

impl<T, B: Bell> Queue<T, B> {
    pub(crate) fn new(wake: B) -> Self {
        let state = State { jobs: Some(Vec::new()), ready: VecDeque::new(), sleeping: false };
        Self { state: Mutex::new(state), wake }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- any thread ----

    /// Runs `job` on the reactor's thread; gives it back when the reactor has stopped.
    pub(crate) fn post(&self, job: Job) -> Result<(), Job> {
        let mut state = self.lock();
        match &mut state.jobs {
            Some(jobs) => jobs.push(job),
            None => return Err(job),
        }
        self.end_sleep(state);
        Ok(())
    }

    /// Has the reactor run `task`.
    pub(crate) fn schedule(&self, task: T) {
        let mut state = self.lock();
        state.ready.push_back(task);
        self.end_sleep(state);
    }

    /// Ringing costs a system call: of all who bring work during one sleep, the first does it.
    fn end_sleep(&self, mut state: MutexGuard<'_, State<T>>) {
        let asleep = mem::take(&mut state.sleeping);
        drop(state);
        if asleep {
            self.wake.ring();
        }
    }

    // ---- the reactor's thread ----

    pub(crate) fn take_jobs(&self) -> Vec<Job> {
        self.lock().jobs.as_mut().map(mem::take).unwrap_or_default()
    }

    pub(crate) fn take_ready(&self) -> VecDeque<T> {
        mem::take(&mut self.lock().ready)
    }

    /// Puts tasks that did not get their turn before those that came since.
    pub(crate) fn put_back(&self, tasks: impl Iterator<Item = T>) {
        let mut state = self.lock();
        let newer = mem::take(&mut state.ready);
        state.ready.extend(tasks);
        state.ready.extend(newer);
    }

    pub(crate) fn has_work(&self) -> bool {
        self.lock().has_work()
    }

    /// Whether the reactor may sleep: there is no work, and from here on whoever brings some rings, until [`Queue::awake`]. If not,
    /// nothing has changed.
    #[must_use]
    pub(crate) fn prepare_sleep(&self) -> bool {
        let mut state = self.lock();
        state.sleeping = !state.has_work();
        state.sleeping
    }

    /// The reactor is awake: nobody needs to ring.
    pub(crate) fn awake(&self) {
        self.lock().sleeping = false;
    }

    // ---- the reactor's end ----

    /// Refuses jobs from here on, and drops those that were left.
    pub(crate) fn close(&self) {
        let left = self.lock().jobs.take();
        drop(left);
    }

    /// Drops tasks until `left` says that there are none. A task that another thread is waking at this moment is not in the queue
    /// yet, and no other thread may drop it: it is waited for.
    pub(crate) fn drop_tasks(&self, left: impl Fn() -> bool) {
        loop {
            let batch = self.take_ready();
            if !batch.is_empty() {
                drop(batch);
            } else if left() {
                yield_now();
            } else {
                return;
            }
        }
    }
}
