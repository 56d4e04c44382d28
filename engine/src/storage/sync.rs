//! Storage over `pread` and `pwrite`: the reference, and the way out where `io_uring` is not allowed.
//!
//! File operations run when they are submitted; socket operations run when `poll` says that they can.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    os::fd::{AsRawFd, RawFd},
    sync::Arc,
    time::Duration,
};

use super::{ALLOCATE_MODE, Completion, Op, PUNCH_MODE, Storage, Token, event::Events, part_vectors, send_vectors};
use crate::storage::wake::Waker;

pub(crate) struct SyncStorage {
    file: File,
    wake: Arc<Waker>,
    done: VecDeque<Completion>,
    /// Socket operations that would block.
    waiting: Vec<(Token, Op)>,
    events: Events,
}

fn result(n: isize) -> io::Result<usize> {
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

impl SyncStorage {
    pub(crate) fn new(file: File, wake: Arc<Waker>) -> Self {
        Self { file, wake, done: VecDeque::new(), waiting: Vec::new(), events: Events::default() }
    }

    fn run_file(&self, op: &mut Op) -> io::Result<usize> {
        let fd = self.file.as_raw_fd();
        match op {
            Op::Read { offset, buf } => {
                // SAFETY: `buf` is writable memory of `buf.len()` bytes that this operation owns.
                result(unsafe { libc::pread(fd, buf.as_mut_ptr().cast(), buf.len(), *offset as libc::off_t) })
            }
            Op::Write { offset, parts } => {
                let vectors = part_vectors(parts);
                // SAFETY: the vectors point into buffers that `parts` keeps alive and nobody changes.
                result(unsafe {
                    libc::pwritev(fd, vectors.as_ptr(), vectors.len() as libc::c_int, *offset as libc::off_t)
                })
            }
            Op::Sync => self.file.sync_data().map(|()| 0),
            Op::Allocate { offset, len } => self.fallocate(ALLOCATE_MODE, *offset, *len),
            Op::Punch { offset, len } => self.fallocate(PUNCH_MODE, *offset, *len),
            _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        }
    }

    fn fallocate(&self, mode: i32, offset: u64, len: u64) -> io::Result<usize> {
        // SAFETY: plain system call without pointers.
        result(unsafe {
            libc::fallocate(self.file.as_raw_fd(), mode, offset as libc::off_t, len as libc::off_t) as isize
        })
    }

    /// Tries every waiting socket operation once.
    fn run_sockets(&mut self) {
        let mut kept = Vec::new();
        for (token, mut op) in std::mem::take(&mut self.waiting) {
            match run_socket(&mut op) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => kept.push((token, op)),
                result => self.done.push_back(Completion { token, op, result }),
            }
        }
        self.waiting.extend(kept);
    }
}

fn run_socket(op: &mut Op) -> io::Result<usize> {
    match op {
        Op::Poll { fd, events } => match poll_one(*fd, *events)? {
            Some(happened) => Ok(happened as u16 as usize),
            None => Err(io::ErrorKind::WouldBlock.into()),
        },
        Op::TakeEvent { fd, value } => {
            let target: *mut u64 = &raw mut **value;
            let vector = libc::iovec { iov_base: target.cast(), iov_len: 8 };
            // Not by `read`: who shares the descriptor decides whether that blocks, and may take the counter first.
            // SAFETY: the vector is the eight bytes of `value`, which this operation owns.
            result(unsafe { libc::preadv2(fd.as_raw_fd(), &raw const vector, 1, -1, libc::RWF_NOWAIT) })
        }
        Op::Recv { fd, buf, range } => {
            let target = &mut buf[range.clone()];
            // SAFETY: `target` is writable memory that this operation owns.
            result(unsafe { libc::recv(*fd, target.as_mut_ptr().cast(), target.len(), libc::MSG_DONTWAIT) })
        }
        Op::Send { fd, bufs, skip } => {
            let mut vectors = send_vectors(bufs, *skip);
            // SAFETY: all-zero is a valid `msghdr`.
            let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
            message.msg_iov = vectors.as_mut_ptr();
            message.msg_iovlen = vectors.len();
            // SAFETY: the header points to `vectors`, which point into `bufs`; all outlive the call.
            result(unsafe { libc::sendmsg(*fd, &raw const message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) })
        }
        _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    }
}

/// Which of `events` (or errors) are there now, if any.
fn poll_one(fd: RawFd, events: libc::c_short) -> io::Result<Option<libc::c_short>> {
    let mut entry = libc::pollfd { fd, events, revents: 0 };
    // SAFETY: one entry, as said.
    let ready = result(unsafe { libc::poll(&raw mut entry, 1, 0) as isize })?;
    Ok((ready > 0).then_some(entry.revents))
}

impl Storage for SyncStorage {
    fn name(&self) -> &'static str {
        "pread"
    }

    fn overlaps(&self) -> bool {
        false
    }

    fn submit(&mut self, token: Token, mut op: Op) {
        if op.may_wait() {
            self.waiting.push((token, op));
            return;
        }
        let result = match &op {
            Op::SignalEvent { fd } => self.events.signal(fd.as_raw_fd()),
            _ => self.run_file(&mut op),
        };
        self.done.push_back(Completion { token, op, result });
    }

    fn prepare_events(&mut self) -> io::Result<()> {
        self.events.prepare()
    }

    fn cancel(&mut self, token: Token) {
        if let Some(at) = self.waiting.iter().position(|(t, _)| *t == token) {
            let (token, op) = self.waiting.swap_remove(at);
            self.done.push_back(Completion { token, op, result: Err(io::Error::from_raw_os_error(libc::ECANCELED)) });
        }
    }

    fn wait(&mut self, timeout: Option<Duration>, done: &mut Vec<Completion>) {
        self.run_sockets();
        if self.done.is_empty() && timeout != Some(Duration::ZERO) {
            let mut entries = vec![libc::pollfd { fd: self.wake.fd(), events: libc::POLLIN, revents: 0 }];
            entries.extend(self.waiting.iter().map(|(_, op)| match op {
                Op::Send { fd, .. } => libc::pollfd { fd: *fd, events: libc::POLLOUT, revents: 0 },
                Op::Recv { fd, .. } => libc::pollfd { fd: *fd, events: libc::POLLIN, revents: 0 },
                Op::Poll { fd, events } => libc::pollfd { fd: *fd, events: *events, revents: 0 },
                Op::TakeEvent { fd, .. } => libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 },
                _ => libc::pollfd { fd: -1, events: 0, revents: 0 },
            }));
            let millis = timeout.map_or(-1, |t| t.as_millis().clamp(1, 60_000) as libc::c_int);
            // SAFETY: `entries` is an array of the length given. An interrupted call is a wake-up like any other.
            let _ready = unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as libc::nfds_t, millis) };
            self.wake.drain();
            self.run_sockets();
        }
        done.extend(self.done.drain(..));
    }
}
