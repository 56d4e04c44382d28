//! The reactor: one thread that owns a pool's storage, its state and its exports; a single-threaded executor.
//!
//! A *turn* runs every task that is ready, then the turn's end (where small writes that arrived in it are gathered), then
//! submits and reaps I/O. After work the reactor polls before it sleeps, where work mostly comes soon: a wake-up costs as much as many
//! requests.

pub(crate) mod clock;
pub(crate) mod notify;
mod queue;
mod spin;
#[cfg(test)]
mod tests;

use std::{
    any::Any,
    cell::{Cell, RefCell},
    collections::BTreeMap,
    future::{Future, poll_fn},
    io,
    ops::Range,
    os::fd::{AsRawFd, RawFd},
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use async_task::{Runnable, Task};

use crate::storage::{Completion, Op, SendBuf, Storage, Token, buffer::IoBuf, wake::Waker};
use clock::Clock;
use queue::{Bell, Queue};
use spin::Spin;

/// Tasks run in one turn before I/O is looked at.
const TASKS_PER_TURN: usize = 512;

/// What other threads may touch.
pub(crate) type Shared = Queue<Runnable, Arc<Waker>>;

impl Bell for Arc<Waker> {
    fn ring(&self) {
        self.notify();
    }
}

/// What the queue is made of; a model checker brings its own (`tests/queue.rs`).
mod sync {
    pub(super) use std::{
        sync::{Mutex, MutexGuard},
        thread::yield_now,
    };
}

/// State of one operation: in flight, or completed and not yet fetched.
enum OpState {
    Free,
    Waiting(Option<std::task::Waker>),
    /// Nobody waits any more; the completion frees the slot, and what had to be kept until then.
    Abandoned {
        _held: Option<Rc<dyn Any>>,
    },
    Done(Completion),
}

struct Inner {
    shared: Arc<Shared>,
    storage: RefCell<Box<dyn Storage>>,
    storage_name: &'static str,
    storage_overlaps: bool,
    clock: Box<dyn Clock>,
    ops: RefCell<Vec<OpState>>,
    free_ops: RefCell<Vec<Token>>,
    timers: RefCell<BTreeMap<(Duration, u64), std::task::Waker>>,
    next_timer: Cell<u64>,
    turn_end: RefCell<Option<Rc<dyn Fn()>>>,
    stopping: Cell<bool>,
    /// When the present turn began.
    turn: Cell<Duration>,
    active: RefCell<Active>,
}

/// Wakers of all tasks that have not ended. Tasks wait for one another in circles; the end of the reactor breaks them by waking every
/// task once more, not to run it but to drop it.
#[derive(Default)]
struct Active {
    wakers: Vec<Option<std::task::Waker>>,
    free: Vec<usize>,
}

impl Active {
    fn reserve(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.wakers.push(None);
            self.wakers.len() - 1
        })
    }
}

/// Ends a task's entry when its future is dropped.
struct ActiveTask {
    inner: Rc<Inner>,
    index: usize,
}

impl Drop for ActiveTask {
    fn drop(&mut self) {
        let mut active = self.inner.active.borrow_mut();
        let waker = active.wakers[self.index].take();
        active.free.push(self.index);
        drop(active);
        drop(waker);
    }
}

/// Handle to the reactor, for code that runs on its thread: tasks, timers, sockets and the pool's file.
///
/// It is neither `Send` nor `Sync`; other threads reach a pool through [`Pool`](crate::Pool).
#[derive(Clone)]
pub struct Reactor {
    inner: Rc<Inner>,
}

impl Reactor {
    pub(crate) fn new(shared: Arc<Shared>, storage: Box<dyn Storage>, clock: Box<dyn Clock>) -> Self {
        let (storage_name, storage_overlaps, now) = (storage.name(), storage.overlaps(), clock.now());
        Self {
            inner: Rc::new(Inner {
                shared,
                storage: RefCell::new(storage),
                storage_name,
                storage_overlaps,
                clock,
                ops: RefCell::default(),
                free_ops: RefCell::default(),
                timers: RefCell::default(),
                next_timer: Cell::new(0),
                turn_end: RefCell::default(),
                stopping: Cell::new(false),
                turn: Cell::new(now),
                active: RefCell::default(),
            }),
        }
    }

    /// Runs a future on this thread. The task is cancelled when its handle is dropped; `detach` lets it run on.
    pub fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> Task<T> {
        let shared = self.inner.shared.clone();
        let index = self.inner.active.borrow_mut().reserve();
        let guard = ActiveTask { inner: self.inner.clone(), index };
        let tracked = async move {
            let _guard = guard;
            future.await
        };
        let (runnable, task) = async_task::spawn_local(tracked, move |r| shared.schedule(r));
        self.inner.active.borrow_mut().wakers[index] = Some(runnable.waker());
        runnable.schedule();
        task
    }

    /// Waits for `duration`; when it is over, the present turn has begun after it.
    pub async fn sleep(&self, duration: Duration) {
        let at = self.inner.clock.now() + duration;
        let number = self.inner.next_timer.get();
        self.inner.next_timer.set(number + 1);
        let timer = Timer { reactor: self.clone(), key: (at, number) };
        timer.await;
    }

    pub(crate) fn now(&self) -> Duration {
        self.inner.clock.now()
    }

    /// When the present turn began: a clock that costs nothing, for what happens with every request.
    pub(crate) fn turn(&self) -> Duration {
        self.inner.turn.get()
    }

    pub(crate) fn unix_ms(&self) -> u64 {
        self.inner.clock.unix_ms()
    }

    pub(crate) fn storage_name(&self) -> &'static str {
        self.inner.storage_name
    }

    /// Whether operations are under way at once; if not, each that is submitted keeps this thread until it is over.
    pub(crate) fn storage_overlaps(&self) -> bool {
        self.inner.storage_overlaps
    }

    /// Starts an operation. The future hands back its buffers; dropped early, an operation that may wait for ever is cancelled and any other
    /// runs to its end unobserved.
    pub(crate) fn submit(&self, op: Op) -> Pending {
        let cancellable = op.may_wait();
        let token = self.inner.free_ops.borrow_mut().pop().unwrap_or_else(|| {
            let mut ops = self.inner.ops.borrow_mut();
            ops.push(OpState::Free);
            ops.len() - 1
        });
        self.inner.ops.borrow_mut()[token] = OpState::Waiting(None);
        self.inner.storage.borrow_mut().submit(token, op);
        Pending { reactor: self.clone(), token, cancellable, finished: false, held: None }
    }

    /// Has the device begin with what was submitted, instead of at the turn's end.
    pub(crate) fn hand_over(&self) {
        self.inner.storage.borrow_mut().hand_over();
    }

    /// As [`submit`](Self::submit), with what is to be kept until the operation is over.
    fn submit_held<T: 'static>(&self, held: &Rc<T>, op: Op) -> Pending {
        let mut pending = self.submit(op);
        pending.held = Some(held.clone());
        pending
    }

    /// Receives up to `range.len()` bytes into `buf[range]`; 0 means that the peer closed. Gives the buffer back. What has the socket is kept
    /// until the kernel is done with it, as for [`poll_held`](Self::poll_held). Descriptors that a peer sends over a unix socket are closed
    /// on this thread, where that may wait: it must not be able to send any.
    pub async fn recv<T: AsRawFd + 'static>(
        &self,
        fd: &Rc<T>,
        buf: IoBuf,
        range: Range<usize>,
    ) -> (io::Result<usize>, IoBuf) {
        if range.start > range.end || range.end > buf.len() {
            return (Err(io::ErrorKind::InvalidInput.into()), buf);
        }
        let done = self.submit_held(fd, Op::Recv { fd: fd.as_raw_fd(), buf, range }).await;
        match done.op {
            Op::Recv { buf, .. } => (done.result, buf),
            _ => (Err(io::ErrorKind::Other.into()), IoBuf::with_len(0)),
        }
    }

    /// Sends all of `bufs` in order. Only one send at a time may be under way on a socket, which is kept as for [`poll_held`](Self::poll_held).
    ///
    /// # Errors
    /// What `sendmsg` reports; part of the bytes may have been sent.
    pub async fn send<T: AsRawFd + 'static>(&self, fd: &Rc<T>, mut bufs: Vec<SendBuf>) -> io::Result<()> {
        let total: usize = bufs.iter().map(|b| b.bytes().len()).sum();
        let mut sent = 0;
        while sent < total {
            let done = self.submit_held(fd, Op::Send { fd: fd.as_raw_fd(), bufs, skip: sent }).await;
            let Op::Send { bufs: back, .. } = done.op else { return Err(io::ErrorKind::Other.into()) };
            bufs = back;
            match done.result? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                n => sent += n,
            }
        }
        Ok(())
    }

    /// Waits until a descriptor has one of these events (`POLLIN`, `POLLRDHUP`, …), or an error or a hang-up, which are always told. The events
    /// that there are.
    ///
    /// # Errors
    /// What `poll` reports; `ECANCELED` when the reactor stops.
    pub async fn poll(&self, fd: RawFd, events: libc::c_short) -> io::Result<libc::c_short> {
        self.submit(Op::Poll { fd, events }).await.result.map(|happened| happened as u16 as libc::c_short)
    }

    /// As [`poll`](Self::poll); what has the descriptor is kept until the kernel is done with it, also when this is dropped early. So it is
    /// never the reactor's thread on which the last of a descriptor goes, in a close that may wait.
    ///
    /// # Errors
    /// As for [`poll`](Self::poll).
    pub async fn poll_held<T: AsRawFd + 'static>(
        &self,
        fd: &Rc<T>,
        events: libc::c_short,
    ) -> io::Result<libc::c_short> {
        let happened = self.submit_held(fd, Op::Poll { fd: fd.as_raw_fd(), events }).await.result;
        happened.map(|happened| happened as u16 as libc::c_short)
    }

    /// Waits until the counter of an `eventfd` is not zero; takes it. The descriptor stays open until the kernel is done with it. Dropped
    /// early, it may take the counter all the same, then or later: see [`take_event_until`](Self::take_event_until).
    ///
    /// # Errors
    /// What `read` reports; `ECANCELED` when the reactor stops.
    pub async fn take_event<T: AsRawFd + 'static>(&self, fd: &Rc<T>) -> io::Result<u64> {
        let taken = self.take_event_until(fd, std::future::pending()).await?;
        taken.ok_or_else(|| io::ErrorKind::Interrupted.into())
    }

    /// As [`take_event`](Self::take_event), for as long as `over` has not ended: then it gives up, and returns when the kernel has, so that
    /// what is counted from then on is left for others. None when it gave up and had taken nothing.
    ///
    /// # Errors
    /// As [`take_event`](Self::take_event).
    pub async fn take_event_until<T: AsRawFd + 'static>(
        &self,
        fd: &Rc<T>,
        over: impl Future<Output = ()>,
    ) -> io::Result<Option<u64>> {
        let (mut over, mut given_up) = (pin!(over), false);
        loop {
            let mut taking = self.submit(Op::TakeEvent { fd: fd.clone(), value: Box::new(0) });
            let done = poll_fn(|cx| {
                if !given_up && over.as_mut().poll(cx).is_ready() {
                    given_up = true;
                    taking.cancel();
                }
                Pin::new(&mut taking).poll(cx)
            });
            let done = done.await;
            match (done.result, done.op) {
                (Ok(8), Op::TakeEvent { value, .. }) => return Ok(Some(*value)),
                (Ok(_), _) => return Err(io::ErrorKind::InvalidData.into()),
                (Err(_), _) if given_up => return Ok(None),
                // Somebody else took it first. Waiting for the next one takes nothing.
                (Err(e), _) if e.kind() == io::ErrorKind::WouldBlock => {
                    let mut there = pin!(self.poll_held(fd, libc::POLLIN));
                    let there = poll_fn(|cx| match over.as_mut().poll(cx) {
                        Poll::Ready(()) => Poll::Ready(None),
                        Poll::Pending => there.as_mut().poll(cx).map(Some),
                    });
                    match there.await {
                        Some(events) => drop(events?),
                        None => return Ok(None),
                    }
                }
                (Err(e), _) => return Err(e),
            }
        }
    }

    /// Makes what signalling needs, if it is not there yet: whoever is going to signal learns before that it cannot.
    ///
    /// # Errors
    /// There is no asynchronous I/O, or the system has no more contexts for it (`fs.aio-max-nr`).
    pub fn prepare_events(&self) -> io::Result<()> {
        self.inner.storage.borrow_mut().prepare_events()
    }

    /// Adds one to the counter of an `eventfd`. It waits for nobody, whoever else has the descriptor: a counter that is full stays full.
    ///
    /// # Errors
    /// `EINVAL` for what is no `eventfd`. It is signalled as a completion of the kernel's asynchronous I/O: an error where there is none, or
    /// the system has no more contexts for it (`fs.aio-max-nr`).
    pub async fn signal_event<T: AsRawFd + 'static>(&self, fd: &Rc<T>) -> io::Result<()> {
        self.submit(Op::SignalEvent { fd: fd.clone() }).await.result.map(drop)
    }

    /// Sets what runs at the end of each turn.
    pub(crate) fn at_turn_end(&self, f: Option<Rc<dyn Fn()>>) {
        *self.inner.turn_end.borrow_mut() = f;
    }

    /// Ends [`Reactor::run`] after the current turn.
    pub(crate) fn stop(&self) {
        self.inner.stopping.set(true);
    }

    /// What ends [`Reactor::run`], for a storage that decides so.
    #[cfg(feature = "sim")]
    pub(crate) fn stopper(&self) -> Box<dyn Fn()> {
        let inner = Rc::downgrade(&self.inner);
        Box::new(move || {
            if let Some(inner) = inner.upgrade() {
                inner.stopping.set(true);
            }
        })
    }

    /// Runs tasks and I/O until [`Reactor::stop`]; then refuses jobs and drops what is left.
    pub(crate) fn run(&self) {
        let _ending = Ending(self);
        let mut done = Vec::new();
        let mut spin = Spin::new();
        // Since when there has been nothing to do.
        let mut idle: Option<Duration> = None;
        while !self.inner.stopping.get() {
            self.inner.turn.set(self.now());
            let ran = self.run_ready();
            let turn_end = self.inner.turn_end.borrow().clone();
            if let Some(f) = turn_end {
                f();
            }
            let fired = self.fire_timers();
            let busy = ran || fired || self.inner.shared.has_work();
            if !busy {
                let _since = idle.get_or_insert(self.turn());
            } else if let Some(since) = idle.take() {
                spin.waited(self.turn().saturating_sub(since));
            }
            let timeout = self.sleep_time(idle.map(|since| since + spin.limit()));
            self.inner.storage.borrow_mut().wait(timeout, &mut done);
            if timeout != Some(Duration::ZERO) {
                self.inner.shared.awake();
            }
            for completion in done.drain(..) {
                self.complete(completion);
            }
        }
    }

    /// How long to wait for I/O: not at all with work at hand (no time to poll until) or while it is polled for, else until the next timer.
    fn sleep_time(&self, polls_until: Option<Duration>) -> Option<Duration> {
        if self.inner.stopping.get() || polls_until.is_none_or(|end| self.turn() < end) {
            return Some(Duration::ZERO);
        }
        if !self.inner.shared.prepare_sleep() {
            return Some(Duration::ZERO);
        }
        let next = self.inner.timers.borrow().keys().next().map(|&(at, _)| at);
        next.map(|at| at.saturating_sub(self.now()).max(Duration::from_micros(1)))
    }

    fn run_ready(&self) -> bool {
        for job in self.inner.shared.take_jobs() {
            job();
        }
        let mut ran = 0;
        loop {
            let batch = self.inner.shared.take_ready();
            if batch.is_empty() {
                return ran > 0;
            }
            let mut batch = batch.into_iter();
            for runnable in batch.by_ref().take(TASKS_PER_TURN - ran) {
                let _rescheduled = runnable.run();
                ran += 1;
            }
            // Also where nobody is left over: tasks that wake one another, each alone in its batch, would keep I/O waiting for ever.
            if ran == TASKS_PER_TURN {
                self.inner.shared.put_back(batch);
                return true;
            }
        }
    }

    fn fire_timers(&self) -> bool {
        if self.inner.timers.borrow().is_empty() {
            return false;
        }
        let now = self.turn();
        let mut fired = false;
        loop {
            let mut timers = self.inner.timers.borrow_mut();
            let Some(entry) = timers.first_entry().filter(|e| e.key().0 <= now) else { return fired };
            let waker = entry.remove();
            drop(timers);
            waker.wake();
            fired = true;
        }
    }

    fn complete(&self, completion: Completion) {
        let token = completion.token;
        let state = std::mem::replace(&mut self.inner.ops.borrow_mut()[token], OpState::Free);
        let waker = match state {
            OpState::Waiting(waker) => {
                self.inner.ops.borrow_mut()[token] = OpState::Done(completion);
                waker
            }
            _ => {
                self.inner.free_ops.borrow_mut().push(token);
                None
            }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Drops every task that is still there, so that sockets close and locks are released.
    fn drain_tasks(&self) {
        self.at_turn_end(None);
        let wakers: Vec<_> = self.inner.active.borrow().wakers.iter().flatten().cloned().collect();
        for waker in wakers {
            waker.wake();
        }
        self.inner.shared.drop_tasks(|| self.inner.active.borrow().wakers.iter().any(Option::is_some));
    }
}

/// The end of a reactor, also by a panic: nobody must wait for it for ever.
struct Ending<'a>(&'a Reactor);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.inner.shared.close();
        self.0.drain_tasks();
    }
}

/// An operation in flight.
pub(crate) struct Pending {
    reactor: Reactor,
    token: Token,
    cancellable: bool,
    finished: bool,
    /// Kept until the operation is over.
    held: Option<Rc<dyn Any>>,
}

impl Pending {
    /// Has it end soon, with its result or with `ECANCELED`. Only for one that may wait.
    fn cancel(&self) {
        debug_assert!(self.cancellable && !self.finished);
        if matches!(self.reactor.inner.ops.borrow()[self.token], OpState::Waiting(_)) {
            self.reactor.inner.storage.borrow_mut().cancel(self.token);
        }
    }
}

impl Future for Pending {
    type Output = Completion;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Completion> {
        let inner = self.reactor.inner.clone();
        let mut ops = inner.ops.borrow_mut();
        let state = &mut ops[self.token];
        match state {
            OpState::Waiting(waker) => {
                if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
                    *waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
            _ => match std::mem::replace(state, OpState::Free) {
                OpState::Done(completion) => {
                    inner.free_ops.borrow_mut().push(self.token);
                    self.finished = true;
                    Poll::Ready(completion)
                }
                _ => unreachable!("an operation is polled after its end"),
            },
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let mut ops = self.reactor.inner.ops.borrow_mut();
        match std::mem::replace(&mut ops[self.token], OpState::Free) {
            OpState::Waiting(_) => {
                ops[self.token] = OpState::Abandoned { _held: self.held.take() };
                drop(ops);
                if self.cancellable {
                    self.reactor.inner.storage.borrow_mut().cancel(self.token);
                }
            }
            OpState::Done(_) => self.reactor.inner.free_ops.borrow_mut().push(self.token),
            OpState::Free | OpState::Abandoned { .. } => {}
        }
    }
}

struct Timer {
    reactor: Reactor,
    key: (Duration, u64),
}

impl Future for Timer {
    type Output = ();
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // By the turn's clock: whoever goes by that and waits for a moment after it would wait again and again, all within the turn.
        if self.reactor.turn() >= self.key.0 {
            return Poll::Ready(());
        }
        let _previous = self.reactor.inner.timers.borrow_mut().insert(self.key, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let _removed = self.reactor.inner.timers.borrow_mut().remove(&self.key);
    }
}
