//! The hand-over between threads, in every order: a model checker runs `reactor/queue.rs`, compiled here with its own primitives,
//! through all interleavings of a few threads. A thread that waits for ever is a deadlock, which the checker reports. Two broken
//! reactors show that it would.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

use std::sync::{self as plain, Arc, atomic::Ordering};

use loom::{
    model,
    sync::{Condvar, Mutex, atomic::AtomicBool},
    thread::{JoinHandle, spawn},
};
use queue::{Bell, Queue};

// Its items are crate-wide there; here the crate is this test.
#[allow(dead_code)]
#[path = "../src/reactor/queue.rs"]
mod queue;

/// What `queue.rs` is made of here.
mod sync {
    pub(super) use loom::{
        sync::{Mutex, MutexGuard},
        thread::yield_now,
    };
}

/// Something that one thread waits for and others announce: an `eventfd`, or the answer to a job.
struct Signal {
    on: Mutex<bool>,
    changed: Condvar,
}

impl Signal {
    fn new() -> Arc<Self> {
        Arc::new(Self { on: Mutex::new(false), changed: Condvar::new() })
    }

    fn set(&self) {
        *self.on.lock().unwrap() = true;
        self.changed.notify_one();
    }

    fn wait(&self) {
        let mut on = self.on.lock().unwrap();
        while !*on {
            on = self.changed.wait(on).unwrap();
        }
        *on = false;
    }
}

impl Bell for Arc<Signal> {
    fn ring(&self) {
        self.set();
    }
}

/// A task, reduced to what its wakers share: it stands in the queue at most once.
struct Task {
    number: u32,
    scheduled: AtomicBool,
    dropped: AtomicBool,
}

/// A task in the queue. The model's tasks end with their first turn, or with the reactor.
struct Turn(Arc<Task>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.dropped.store(true, Ordering::Release);
    }
}

impl Task {
    fn new(number: u32) -> Arc<Self> {
        Arc::new(Self { number, scheduled: AtomicBool::new(false), dropped: AtomicBool::new(false) })
    }

    /// As a waker does it: the mark first, then the queue.
    fn wake(self: &Arc<Self>, shared: &Shared) {
        if !self.scheduled.swap(true, Ordering::AcqRel) {
            shared.schedule(Turn(self.clone()));
        }
    }
}

type Shared = Queue<Turn, Arc<Signal>>;

/// A reactor, and what ran on it.
struct Reactor {
    shared: Arc<Shared>,
    /// Touched by the reactor's thread alone, so nothing for the checker to try.
    ran: Arc<plain::Mutex<Vec<u32>>>,
    /// Whether it looks for work once more before it sleeps.
    careful: bool,
}

impl Reactor {
    fn new(careful: bool) -> Self {
        Self { shared: Arc::new(Queue::new(Signal::new())), ran: Arc::default(), careful }
    }

    /// Another thread that posts jobs of these numbers.
    fn poster(&self, numbers: &[u32]) -> JoinHandle<()> {
        let (shared, ran, numbers) = (self.shared.clone(), self.ran.clone(), numbers.to_vec());
        spawn(move || {
            for number in numbers {
                let ran = ran.clone();
                assert!(shared.post(Box::new(move || ran.lock().unwrap().push(number))).is_ok());
            }
        })
    }

    /// Another thread that wakes these tasks.
    fn waker(&self, numbers: &[u32]) -> JoinHandle<()> {
        let (shared, numbers) = (self.shared.clone(), numbers.to_vec());
        spawn(move || numbers.into_iter().for_each(|n| Task::new(n).wake(&shared)))
    }

    fn run_jobs(&self) {
        for job in self.shared.take_jobs() {
            job();
        }
    }

    /// Turns like those of the real one, each with at most one task, until `count` jobs and tasks ran.
    fn run(&self, count: usize) -> Vec<u32> {
        loop {
            self.run_jobs();
            let mut batch = self.shared.take_ready().into_iter();
            if let Some(turn) = batch.next() {
                self.ran.lock().unwrap().push(turn.0.number);
            }
            if batch.len() > 0 {
                self.shared.put_back(batch);
            }
            let ran = self.ran.lock().unwrap().clone();
            if ran.len() == count {
                return ran;
            }
            let may_sleep = if self.careful {
                self.shared.prepare_sleep()
            } else {
                let idle = !self.shared.has_work();
                let _too_late = self.shared.prepare_sleep();
                idle
            };
            if may_sleep {
                self.shared.wake.wait();
                self.shared.awake();
            }
        }
    }
}

/// Other threads post and wake, the reactor sleeps in between.
fn work_from_others(careful: bool, jobs: &'static [&'static [u32]], tasks: &'static [&'static [u32]]) {
    model(move || {
        let reactor = Reactor::new(careful);
        let mut others: Vec<_> = jobs.iter().map(|numbers| reactor.poster(numbers)).collect();
        others.extend(tasks.iter().map(|numbers| reactor.waker(numbers)));
        let threads = || jobs.iter().chain(tasks);
        let ran = reactor.run(threads().map(|numbers| numbers.len()).sum());
        for &numbers in threads() {
            let of_thread: Vec<u32> = ran.iter().copied().filter(|n| numbers.contains(n)).collect();
            assert_eq!(of_thread, numbers, "all, in the order of that thread");
        }
        others.into_iter().for_each(|t| t.join().unwrap());
    });
}

#[test]
fn jobs_run_in_the_order_of_posting() {
    work_from_others(true, &[&[1, 2, 3]], &[]);
}

#[test]
fn jobs_of_several_threads_run() {
    work_from_others(true, &[&[1], &[2]], &[]);
}

#[test]
fn tasks_woken_by_another_thread_run() {
    work_from_others(true, &[], &[&[1, 2, 3]]);
}

#[test]
fn tasks_and_jobs_run_beside_one_another() {
    work_from_others(true, &[&[1]], &[&[2]]);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_reactor_that_looks_before_it_says_that_it_sleeps_loses_a_job() {
    work_from_others(false, &[&[1]], &[]);
}

/// The answer to a job: whoever waits for it learns of the job's end, done or not.
struct Answer(Arc<Signal>);

impl Drop for Answer {
    fn drop(&mut self) {
        self.0.set();
    }
}

#[test]
fn at_the_end_jobs_are_done_refused_or_dropped_and_nobody_waits() {
    model(|| {
        let reactor = Reactor::new(true);
        let (shared, ran) = (reactor.shared.clone(), reactor.ran.clone());
        let other = spawn(move || {
            let answers: Vec<_> = (0..2)
                .filter_map(|number| {
                    let (answered, ran) = (Signal::new(), ran.clone());
                    let answer = Answer(answered.clone());
                    let job = Box::new(move || {
                        ran.lock().unwrap().push(number);
                        drop(answer);
                    });
                    shared.post(job).is_ok().then_some(answered)
                })
                .collect();
            answers.iter().for_each(|a| a.wait());
            answers.len()
        });
        reactor.run_jobs();
        reactor.shared.close();
        assert!(reactor.shared.post(Box::new(|| ())).is_err());
        assert!(other.join().unwrap() >= reactor.ran.lock().unwrap().len());
        assert!(!reactor.shared.has_work());
    });
}

/// The end of the reactor while another thread wakes a task: the reactor wakes it too, and drops what stands in the queue until
/// `left` says of its tasks that there are none.
fn the_end_during_a_wake(left: fn(&[Arc<Task>]) -> bool) {
    model(move || {
        let reactor = Reactor::new(true);
        let tasks = [Task::new(1), Task::new(2)];
        let (shared, task) = (reactor.shared.clone(), tasks[0].clone());
        let other = spawn(move || task.wake(&shared));
        reactor.shared.close();
        tasks.iter().for_each(|t| t.wake(&reactor.shared));
        reactor.shared.drop_tasks(|| left(&tasks));
        assert!(tasks.iter().all(|t| t.dropped.load(Ordering::Acquire)), "a task outlives its reactor");
        other.join().unwrap();
        assert!(!reactor.shared.has_work());
    });
}

#[test]
fn no_task_outlives_the_reactor() {
    the_end_during_a_wake(|tasks| tasks.iter().any(|t| !t.dropped.load(Ordering::Acquire)));
}

#[test]
#[should_panic(expected = "a task outlives its reactor")]
fn a_reactor_that_ends_with_an_empty_queue_leaves_a_task_behind() {
    the_end_during_a_wake(|_| false);
}
