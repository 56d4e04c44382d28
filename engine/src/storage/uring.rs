//! Storage over `io_uring`: the pool's file and the exports' sockets in one ring. The only file that imports `io_uring`.
//! Events are signalled past the ring, in which that could wait ([`event`](super::event)).
//!
//! Invariant: everything that the kernel may touch (buffers, `iovec`s, message headers) is owned by the entry in
//! `in_flight` under the operation's token, and leaves it only with the completion.

use std::{collections::VecDeque, fs::File, io, os::fd::AsRawFd, sync::Arc, time::Duration};

use io_uring::{IoUring, opcode, squeue, types};

use super::{
    ALLOCATE_MODE, Completion, MAX_PARTS, Op, PUNCH_MODE, Storage, Token, event::Events, part_vectors, send_vectors,
};
use crate::storage::wake::Waker;

const ENTRIES: u32 = 1024;
/// User data of the read on the wake-up descriptor, and of cancellations.
const WAKE: u64 = u64::MAX;
const CANCEL: u64 = u64::MAX - 1;
const FILE: types::Fixed = types::Fixed(0);
/// So many reads go to the device without waiting for the turn's end, at least: it works on them while others are prepared.
const EARLY: usize = 4;

/// What the kernel reads or writes on behalf of one operation.
struct InFlight {
    op: Op,
    vectors: Vec<libc::iovec>,
    message: Option<Box<libc::msghdr>>,
}

pub(crate) struct UringStorage {
    ring: IoUring,
    in_flight: Vec<Option<InFlight>>,
    count: usize,
    /// Reads among them, and those in the ring that the kernel has not been told of.
    reads: usize,
    untold: usize,
    backlog: VecDeque<squeue::Entry>,
    wake: Arc<Waker>,
    events: Events,
    /// Events that were signalled when they were submitted.
    signalled: Vec<Completion>,
    /// Receives the value of the wake-up descriptor.
    wake_value: Box<u64>,
    _file: File,
}

impl UringStorage {
    /// Whether there is such a thing here.
    pub(crate) fn probe() -> io::Result<()> {
        IoUring::new(2).map(drop)
    }

    pub(crate) fn new(file: File, wake: Arc<Waker>) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_cqsize(ENTRIES * 4)
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(ENTRIES)?;
        ring.submitter().register_files(&[file.as_raw_fd()])?;
        let mut this = Self {
            ring,
            in_flight: Vec::new(),
            count: 0,
            reads: 0,
            untold: 0,
            backlog: VecDeque::new(),
            wake,
            events: Events::default(),
            signalled: Vec::new(),
            wake_value: Box::new(0),
            _file: file,
        };
        this.arm_wake();
        Ok(this)
    }

    fn arm_wake(&mut self) {
        let target: *mut u64 = &raw mut *self.wake_value;
        let entry = opcode::Read::new(types::Fd(self.wake.fd()), target.cast(), 8).build().user_data(WAKE);
        self.push(entry);
    }

    fn push(&mut self, entry: squeue::Entry) {
        if !self.backlog.is_empty() {
            self.backlog.push_back(entry);
            return;
        }
        // SAFETY: what the entry refers to is kept in `in_flight` (or `wake_value`) until its completion.
        if unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.backlog.push_back(entry);
        }
    }

    fn push_backlog(&mut self) {
        while let Some(entry) = self.backlog.front() {
            // SAFETY: as in `push`.
            if unsafe { self.ring.submission().push(entry) }.is_err() {
                break;
            }
            let _pushed = self.backlog.pop_front();
        }
    }

    fn entry(flight: &mut InFlight) -> squeue::Entry {
        match &mut flight.op {
            Op::Read { offset, buf } => {
                opcode::Read::new(FILE, buf.as_mut_ptr(), buf.len() as u32).offset(*offset).build()
            }
            Op::Write { offset, parts } => {
                flight.vectors = part_vectors(parts);
                match flight.vectors.as_slice() {
                    [one] => opcode::Write::new(FILE, one.iov_base.cast(), one.iov_len as u32).offset(*offset).build(),
                    many => opcode::Writev::new(FILE, many.as_ptr(), many.len() as u32).offset(*offset).build(),
                }
            }
            Op::Sync => opcode::Fsync::new(FILE).flags(types::FsyncFlags::DATASYNC).build(),
            Op::Allocate { offset, len } => {
                opcode::Fallocate::new(FILE, *len).offset(*offset).mode(ALLOCATE_MODE).build()
            }
            Op::Punch { offset, len } => opcode::Fallocate::new(FILE, *len).offset(*offset).mode(PUNCH_MODE).build(),
            Op::Recv { fd, buf, range } => {
                let target = &mut buf[range.clone()];
                opcode::Recv::new(types::Fd(*fd), target.as_mut_ptr(), target.len() as u32).build()
            }
            Op::Poll { fd, events } => opcode::PollAdd::new(types::Fd(*fd), *events as u16 as u32).build(),
            Op::TakeEvent { fd, value } => {
                let target: *mut u64 = &raw mut **value;
                opcode::Read::new(types::Fd(fd.as_raw_fd()), target.cast(), 8).build()
            }
            // Done by `submit`.
            Op::SignalEvent { .. } => opcode::Nop::new().build(),
            Op::Send { fd, bufs, skip } => {
                flight.vectors = send_vectors(bufs, *skip);
                // SAFETY: all-zero is a valid `msghdr`.
                let mut message: Box<libc::msghdr> = Box::new(unsafe { std::mem::zeroed() });
                message.msg_iov = flight.vectors.as_mut_ptr();
                message.msg_iovlen = flight.vectors.len();
                let entry =
                    opcode::SendMsg::new(types::Fd(*fd), &raw const *message).flags(libc::MSG_NOSIGNAL as u32).build();
                flight.message = Some(message);
                entry
            }
        }
    }

    fn reap(&mut self, done: &mut Vec<Completion>) {
        let mut woken = false;
        let mut completions = self.ring.completion();
        for cqe in &mut completions {
            match cqe.user_data() {
                WAKE => woken = true,
                CANCEL => {}
                token => {
                    let token = token as Token;
                    if let Some(flight) = self.in_flight.get_mut(token).and_then(Option::take) {
                        self.count -= 1;
                        self.reads -= usize::from(matches!(flight.op, Op::Read { .. }));
                        let result =
                            usize::try_from(cqe.result()).map_err(|_| io::Error::from_raw_os_error(-cqe.result()));
                        done.push(Completion { token, op: flight.op, result });
                    }
                }
            }
        }
        drop(completions);
        if woken {
            self.arm_wake();
        }
    }
}

impl Storage for UringStorage {
    fn name(&self) -> &'static str {
        "io_uring"
    }

    fn submit(&mut self, token: Token, op: Op) {
        debug_assert!(!matches!(&op, Op::Write { parts, .. } if parts.len() > MAX_PARTS));
        if let Op::SignalEvent { fd } = &op {
            let result = self.events.signal(fd.as_raw_fd());
            self.signalled.push(Completion { token, op, result });
            return;
        }
        let mut flight = InFlight { op, vectors: Vec::new(), message: None };
        let entry = Self::entry(&mut flight).user_data(token as u64);
        if self.in_flight.len() <= token {
            self.in_flight.resize_with(token + 1, || None);
        }
        debug_assert!(self.in_flight[token].is_none(), "a token in use");
        let read = usize::from(matches!(flight.op, Op::Read { .. }));
        self.in_flight[token] = Some(flight);
        self.count += 1;
        self.push(entry);
        self.reads += read;
        self.untold += read;
        // The more are under way, the less each call of the kernel is worth.
        if read > 0 && self.untold >= EARLY.max(self.reads / 8) {
            self.hand_over();
        }
    }

    fn hand_over(&mut self) {
        self.untold = 0;
        if !self.ring.submission().is_empty() {
            // What the kernel does not take now it takes in `wait`.
            let _submitted = self.ring.submit();
        }
    }

    fn prepare_events(&mut self) -> io::Result<()> {
        self.events.prepare()
    }

    fn cancel(&mut self, token: Token) {
        let entry = opcode::AsyncCancel::new(token as u64).build().user_data(CANCEL);
        self.push(entry);
    }

    fn wait(&mut self, timeout: Option<Duration>, done: &mut Vec<Completion>) {
        self.untold = 0;
        self.push_backlog();
        let signalled = !self.signalled.is_empty();
        done.append(&mut self.signalled);
        let block = timeout != Some(Duration::ZERO)
            && !signalled
            && self.ring.completion().is_empty()
            && self.backlog.is_empty();
        let submission = self.ring.submission();
        let idle = submission.is_empty() && !submission.taskrun() && !submission.cq_overflow();
        drop(submission);
        // An error here is EINTR, ETIME or EBUSY: in each case what has completed is read below and the caller calls again.
        let _submitted = match (block, timeout) {
            (false, _) if idle => Ok(0),
            (false, _) => self.ring.submitter().submit_with_args(0, &types::SubmitArgs::new()),
            (true, None) => self.ring.submitter().submit_and_wait(1),
            (true, Some(limit)) => {
                let limit = types::Timespec::from(limit);
                self.ring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&limit))
            }
        };
        self.reap(done);
        while !self.backlog.is_empty() && self.ring.submission().is_empty() {
            self.push_backlog();
        }
    }
}

impl Drop for UringStorage {
    /// Operations in flight own memory that the kernel may still write: wait for them.
    fn drop(&mut self) {
        let mut rest = Vec::new();
        for token in 0..self.in_flight.len() {
            if self.in_flight[token].as_ref().is_some_and(|flight| flight.op.may_wait()) {
                self.cancel(token);
            }
        }
        while self.count > 0 {
            self.wait(Some(Duration::from_millis(100)), &mut rest);
        }
        // The read on the wake-up descriptor is ended by a last wake-up, so that `wake_value` may go.
        self.wake.notify();
        let _submitted = self.ring.submit_and_wait(1);
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::storage::{Part, buffer::IoBuf};

    #[test]
    fn reads_and_what_is_handed_over_do_not_wait_for_the_turn_to_end() {
        if UringStorage::probe().is_err() {
            return;
        }
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let mut storage = UringStorage::new(file, Arc::new(Waker::new().unwrap())).unwrap();
        let untold = |storage: &mut UringStorage| storage.ring.submission().len();
        storage.hand_over();
        for token in 0..EARLY {
            assert_eq!(untold(&mut storage), token);
            storage.submit(token, Op::Read { offset: 0, buf: IoBuf::with_len(4096) });
        }
        assert_eq!(untold(&mut storage), 0, "a few together");
        let part = Part { buf: Rc::new(IoBuf::zeroed(4096)), range: 0..4096 };
        storage.submit(EARLY, Op::Write { offset: 0, parts: vec![part] });
        assert_eq!(untold(&mut storage), 1);
        storage.hand_over();
        assert_eq!(untold(&mut storage), 0);
        let mut done = Vec::new();
        while done.len() <= EARLY {
            storage.wait(None, &mut done);
        }
        assert!(done.iter().all(|done| matches!(done.result, Ok(4096))));
        assert_eq!((storage.count, storage.reads), (0, 0));
    }
}
