//! A connection with requests in flight: what is asked goes out in one system call for each turn of the loop, and what comes in is read in large
//! pieces.
//!
//! Sending never waits while there is something to receive, or client and server could wait for one another.

use std::{
    io::{self, IoSlice, IoSliceMut},
    time::{Duration, Instant},
};

use cairn_engine::{Error, ErrorKind, IoBuf, Result};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags, recvmsg, sendmsg},
};

use super::{
    connection::Connection,
    handshake::Export,
    protocol,
    reply::{self, Event, Next, Waiting},
};
use crate::lane::{Ask, Done, Kind, Lane, Shape, TICK};

const REQUEST: u32 = 0x2560_9513;
const CMD_READ: u16 = 0;
const CMD_WRITE: u16 = 1;
const CMD_FLUSH: u16 = 3;

/// Bytes of a request's header.
const HEADER: usize = 28;
/// Bytes that are received at a time, beside those that go straight to a slot.
const INPUT: usize = 256 << 10;
/// Parts of a message: the kernel takes 1,024.
const MAX_PARTS: usize = 512;

/// A request's header.
pub(crate) fn request(command: u16, handle: u64, offset: u64, length: u32) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    let fields: [&[u8]; 6] = [
        &REQUEST.to_be_bytes(),
        &[0, 0],
        &command.to_be_bytes(),
        &handle.to_be_bytes(),
        &offset.to_be_bytes(),
        &length.to_be_bytes(),
    ];
    for (to, from) in header.iter_mut().zip(fields.into_iter().flatten()) {
        *to = *from;
    }
    header
}

/// A request that is not sent to its end.
struct Outgoing {
    header: [u8; HEADER],
    /// The slot whose buffer follows, and how much of it.
    payload: Option<(usize, usize)>,
}

impl Outgoing {
    fn length(&self) -> usize {
        HEADER + self.payload.map_or(0, |(_, length)| length)
    }
}

/// Data of a read that is still to come.
#[derive(Clone, Copy)]
struct Incoming {
    slot: usize,
    at: usize,
    length: usize,
    last: bool,
}

pub(crate) struct NbdLane {
    connection: Option<Connection>,
    structured: bool,
    shape: Shape,
    buffers: IoBuf,
    waiting: Vec<Option<Waiting>>,
    outgoing: std::collections::VecDeque<Outgoing>,
    /// Bytes of the first outgoing request that are sent.
    sent: usize,
    input: Vec<u8>,
    /// Bytes of the input that are used up, and that are there.
    used: usize,
    filled: usize,
    incoming: Option<Incoming>,
}

impl NbdLane {
    pub(super) fn new(connection: Connection, export: Export, shape: Shape) -> Self {
        Self {
            connection: Some(connection),
            structured: export.structured,
            shape,
            buffers: IoBuf::zeroed(shape.depth * shape.block),
            waiting: vec![None; shape.depth],
            outgoing: std::collections::VecDeque::with_capacity(shape.depth),
            sent: 0,
            input: vec![0; INPUT],
            used: 0,
            filled: 0,
            incoming: None,
        }
    }

    fn connection(&self) -> Result<&Connection> {
        self.connection.as_ref().ok_or_else(|| Error::new(ErrorKind::Closed, "the connection is closed"))
    }

    /// Sends what the socket takes without waiting.
    fn push(&mut self) -> Result<()> {
        while !self.outgoing.is_empty() {
            let mut parts = Vec::with_capacity(MAX_PARTS.min(self.outgoing.len() * 2));
            let mut skip = self.sent;
            for request in &self.outgoing {
                if parts.len() + 2 > MAX_PARTS {
                    break;
                }
                let payload = request.payload.map(|(slot, length)| {
                    let at = slot * self.shape.block;
                    self.buffers.get(at..at + length).unwrap_or_default()
                });
                for part in [Some(&request.header[..]), payload].into_iter().flatten() {
                    let left = part.get(skip.min(part.len())..).unwrap_or_default();
                    skip -= part.len() - left.len();
                    if !left.is_empty() {
                        parts.push(IoSlice::new(left));
                    }
                }
            }
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match sendmsg(self.connection()?.fd(), &parts, &mut SendAncillaryBuffer::default(), flags) {
                Ok(sent) => self.account(sent),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(Error::io("the connection", error.into())),
            }
        }
        Ok(())
    }

    /// Forgets what is sent.
    fn account(&mut self, sent: usize) {
        self.sent += sent;
        while let Some(length) = self.outgoing.front().map(Outgoing::length).filter(|length| *length <= self.sent) {
            self.sent -= length;
            let _gone = self.outgoing.pop_front();
        }
    }

    /// Receives once: first what a read still waits for, straight into its buffer, then what follows. Whether there was anything.
    fn pull(&mut self, waits: bool) -> Result<bool> {
        if self.used == self.filled {
            (self.used, self.filled) = (0, 0);
        } else if self.used > 0 {
            self.input.copy_within(self.used..self.filled, 0);
            (self.used, self.filled) = (0, self.filled - self.used);
        }
        // Data is only incoming when the input is used up.
        let direct = self.incoming.map_or(0..0, |incoming| {
            let at = incoming.slot * self.shape.block + incoming.at;
            at..at + incoming.length
        });
        let straight = self.buffers.get_mut(direct).unwrap_or_default();
        let wanted = straight.len();
        let rest = self.input.get_mut(self.filled..).unwrap_or_default();
        let mut parts = [IoSliceMut::new(straight), IoSliceMut::new(rest)];
        let flags = if waits { RecvFlags::empty() } else { RecvFlags::DONTWAIT };
        let fd =
            self.connection.as_ref().ok_or_else(|| Error::new(ErrorKind::Closed, "the connection is closed"))?.fd();
        let came = match recvmsg(fd, &mut parts, &mut RecvAncillaryBuffer::default(), flags) {
            Ok(message) if message.bytes == 0 => return Err(Error::new(ErrorKind::Io, "the server has hung up")),
            Ok(message) => message.bytes,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
            Err(error) => return Err(Error::io("the connection", error.into())),
        };
        if let Some(incoming) = &mut self.incoming {
            let direct = came.min(wanted);
            incoming.at += direct;
            incoming.length -= direct;
        }
        self.filled += came.saturating_sub(wanted);
        Ok(true)
    }

    /// Takes replies out of what was received.
    fn parse(&mut self, done: &mut Vec<Done>) -> Result<()> {
        loop {
            if let Some(incoming) = self.incoming {
                let taken = self.copy(incoming);
                let left = incoming.length - taken;
                if left > 0 {
                    self.incoming = Some(Incoming { at: incoming.at + taken, length: left, ..incoming });
                    return Ok(());
                }
                self.incoming = None;
                if incoming.last {
                    self.end(incoming.slot, done);
                }
            }
            let bytes = self.input.get(self.used..self.filled).unwrap_or_default();
            let (used, event) = match reply::next(bytes, self.structured, &self.waiting)? {
                Next::Need(_) => return Ok(()),
                Next::Event { used, event } => (used, event),
            };
            self.used += used;
            self.take(event, done)?;
        }
    }

    /// Copies what came along with a header; how much.
    fn copy(&mut self, incoming: Incoming) -> usize {
        let Incoming { slot, at, length, .. } = incoming;
        let from = self.input.get(self.used..self.filled.min(self.used + length)).unwrap_or_default();
        let to = slot * self.shape.block + at;
        if let Some(to) = self.buffers.get_mut(to..to + from.len()) {
            to.copy_from_slice(from);
        }
        self.used += from.len();
        from.len()
    }

    fn take(&mut self, event: Event, done: &mut Vec<Done>) -> Result<()> {
        let (Event::Data { slot, .. } | Event::Hole { slot, .. } | Event::Plain { slot, .. }) = event;
        let Some(waiting) = self.waiting.get_mut(slot).and_then(Option::as_mut) else {
            return Err(protocol("a reply to a request that is not in flight"));
        };
        match event {
            Event::Data { slot, at, length, last } => {
                waiting.came += length;
                self.incoming = Some(Incoming { slot, at, length, last });
                return Ok(());
            }
            Event::Hole { at, length, .. } => {
                waiting.came += length;
                let at = slot * self.shape.block + at;
                self.buffers.get_mut(at..at + length).unwrap_or_default().fill(0);
            }
            Event::Plain { error, .. } => waiting.failed = waiting.failed.max(error),
        }
        let (Event::Data { last, .. } | Event::Hole { last, .. } | Event::Plain { last, .. }) = event;
        if last {
            self.end(slot, done);
        }
        Ok(())
    }

    fn end(&mut self, slot: usize, done: &mut Vec<Done>) {
        if let Some(waiting) = self.waiting.get_mut(slot).and_then(Option::take) {
            done.push(Done { slot, outcome: reply::outcome(waiting) });
        }
    }

    /// Waits until the socket can be used, or until the moment.
    fn poll(&self, left: Duration) -> Result<()> {
        let events = if self.outgoing.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
        let mut fds = [PollFd::from_borrowed_fd(self.connection()?.fd(), events)];
        let limit = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut fds, Some(&limit)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(Error::io("the connection", io::Error::from(error))),
        }
    }
}

impl Lane for NbdLane {
    const KEEPS: bool = true;

    fn buffer(&mut self, slot: usize) -> &mut [u8] {
        let at = slot * self.shape.block;
        self.buffers.get_mut(at..at + self.shape.block).unwrap_or_default()
    }

    fn submit(&mut self, slot: usize, ask: Ask) -> Result<()> {
        let (command, payload) = match ask.kind {
            Kind::Read => (CMD_READ, None),
            Kind::Write => (CMD_WRITE, Some((slot, ask.length))),
            Kind::Flush => (CMD_FLUSH, None),
        };
        let header = request(command, slot as u64, ask.offset, ask.length as u32);
        self.outgoing.push_back(Outgoing { header, payload });
        let waiting =
            Waiting { is_read: ask.kind == Kind::Read, offset: ask.offset, length: ask.length, came: 0, failed: 0 };
        if let Some(place) = self.waiting.get_mut(slot) {
            *place = Some(waiting);
        }
        Ok(())
    }

    async fn wait(&mut self, until: Option<Instant>, done: &mut Vec<Done>) -> Result<()> {
        let end = until.unwrap_or_else(|| Instant::now() + TICK);
        loop {
            self.push()?;
            // A plain receive waits by itself, for a tick at most: the socket was set up so.
            let waits = until.is_none() && self.outgoing.is_empty();
            let came = self.pull(waits)?;
            self.parse(done)?;
            let left = end.saturating_duration_since(Instant::now());
            if !done.is_empty() || left.is_zero() {
                return Ok(());
            }
            if !came && !waits {
                self.poll(left)?;
            }
        }
    }
}

impl Drop for NbdLane {
    fn drop(&mut self) {
        // With requests left to send there is no polite moment for it.
        if let Some(connection) = self.connection.take().filter(|_| self.outgoing.is_empty()) {
            connection.leave();
        }
    }
}
