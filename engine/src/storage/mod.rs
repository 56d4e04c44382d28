//! Storage: operations with owned buffers, submitted and completed later with the exact result.
//!
//! The contract, for every implementation:
//! - An operation owns its buffers until its completion hands them back; the caller cannot touch them meanwhile.
//! - Every submitted operation completes exactly once, also after [`Storage::cancel`].
//! - Results are exact: a short transfer is its byte count, an error its `errno`. Nothing is retried here.
//! - Nothing is durable before a [`Op::Sync`] that was submitted after its completion has completed without an error.
//! - Operations on sockets and other descriptors are there so that exports share the ring of their pool; a storage without them answers
//!   `ENOSYS`.

pub(crate) mod buffer;
mod event;
pub(crate) mod sync;
pub(crate) mod uring;
pub(crate) mod wake;

use std::{
    io,
    ops::Range,
    os::fd::{AsRawFd, RawFd},
    rc::Rc,
    time::Duration,
};

use buffer::IoBuf;

/// A part of a gathered write: a range of a buffer that several owners may read.
#[derive(Clone)]
pub(crate) struct Part {
    pub(crate) buf: Rc<IoBuf>,
    pub(crate) range: Range<usize>,
}

impl Part {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buf[self.range.clone()]
    }
}

/// What to send over a socket: small byte strings and aligned buffers, gathered into few system calls.
#[derive(Debug)]
pub enum SendBuf {
    /// Bytes, such as a reply's header.
    Bytes(Vec<u8>),
    /// A buffer, such as data that was read.
    Block(IoBuf),
}

impl SendBuf {
    /// The bytes to send.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Block(buf) => buf,
        }
    }
}

/// Names an operation in flight.
pub(crate) type Token = usize;

/// An operation with everything that it needs. Offsets and lengths in bytes, aligned to 4 KiB for the pool's file.
pub(crate) enum Op {
    /// Fills `buf` from `offset` on.
    Read { offset: u64, buf: IoBuf },
    /// Writes the parts one after the other from `offset` on.
    Write { offset: u64, parts: Vec<Part> },
    /// Makes all completed writes durable (`fdatasync`).
    Sync,
    /// Has the file system set room aside for a range.
    Allocate { offset: u64, len: u64 },
    /// Gives a range back to the file system or device; it reads as anything afterwards.
    Punch { offset: u64, len: u64 },
    /// Receives into `buf[range]`.
    Recv { fd: RawFd, buf: IoBuf, range: Range<usize> },
    /// Sends what `skip` bytes of the buffers leave.
    Send { fd: RawFd, bufs: Vec<SendBuf>, skip: usize },
    /// Waits until a descriptor has one of these events, or an error; the result is which.
    Poll { fd: RawFd, events: libc::c_short },
    /// Waits until the counter of an `eventfd` is not zero and takes it.
    TakeEvent { fd: Rc<dyn AsRawFd>, value: Box<u64> },
    /// Adds one to the counter of an `eventfd`, at once: one that is full stays full.
    SignalEvent { fd: Rc<dyn AsRawFd> },
}

impl Op {
    /// Whether it concerns a descriptor that is not the pool's, and may wait for ever.
    pub(crate) fn may_wait(&self) -> bool {
        match self {
            Self::Read { .. } | Self::Write { .. } | Self::Sync | Self::Allocate { .. } | Self::Punch { .. } => false,
            Self::SignalEvent { .. } => false,
            Self::Recv { .. } | Self::Send { .. } => true,
            Self::Poll { .. } | Self::TakeEvent { .. } => true,
        }
    }
}

/// The end of an operation: its buffers back, and what the kernel said.
pub(crate) struct Completion {
    pub(crate) token: Token,
    pub(crate) op: Op,
    pub(crate) result: io::Result<usize>,
}

/// A pool's file or device, and the sockets of its exports.
pub(crate) trait Storage {
    /// Name for people.
    fn name(&self) -> &'static str;
    /// Whether operations are under way at once. If not, each on the file is carried out when it is submitted.
    fn overlaps(&self) -> bool {
        true
    }
    /// Starts `op`. `token` is not in use by another operation in flight.
    fn submit(&mut self, token: Token, op: Op);
    /// Begins with what was submitted, where that would otherwise wait for [`wait`](Self::wait).
    fn hand_over(&mut self) {}
    /// Asks for the early end of an operation that may wait for ever; it still completes.
    fn cancel(&mut self, token: Token);
    /// Makes what [`Op::SignalEvent`] needs.
    fn prepare_events(&mut self) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(libc::ENOSYS))
    }
    /// Appends what has completed. Waits up to `timeout` (`None`: for ever) for the first completion or a wake-up;
    /// with a zero timeout it only looks.
    fn wait(&mut self, timeout: Option<Duration>, done: &mut Vec<Completion>);
}

/// At most this many buffers go into one system call.
pub(crate) const MAX_PARTS: usize = 1024;

/// The `iovec`s of what is left of `bufs` after `skip` bytes.
pub(crate) fn send_vectors(bufs: &[SendBuf], mut skip: usize) -> Vec<libc::iovec> {
    let mut out = Vec::with_capacity(bufs.len().min(MAX_PARTS));
    for buf in bufs {
        let bytes = buf.bytes();
        if skip >= bytes.len() {
            skip -= bytes.len();
            continue;
        }
        let rest = &bytes[skip..];
        skip = 0;
        out.push(libc::iovec { iov_base: rest.as_ptr().cast_mut().cast(), iov_len: rest.len() });
        if out.len() == MAX_PARTS {
            break;
        }
    }
    out
}

/// The `iovec`s of the parts of a write.
pub(crate) fn part_vectors(parts: &[Part]) -> Vec<libc::iovec> {
    parts
        .iter()
        .map(|p| libc::iovec { iov_base: p.bytes().as_ptr().cast_mut().cast(), iov_len: p.range.len() })
        .collect()
}

/// Mode bits of `fallocate` that set room aside without changing the size.
pub(crate) const ALLOCATE_MODE: i32 = libc::FALLOC_FL_KEEP_SIZE;
/// Mode bits of `fallocate` that give room back.
pub(crate) const PUNCH_MODE: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
