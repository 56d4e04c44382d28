//! A connection in the transmission phase: what is in flight, and the replies on their way out.
//!
//! Invariants:
//! - A request counts as in flight from the moment it is admitted until its reply was sent (or could not be sent), so the
//!   memory of requests and replies together stays within the options' bounds.
//! - A request that was given to the engine runs to its end, whether or not the client is still there.
//! - The volume is let go when the last request has ended and the writer has stopped.

use crate::{
    client::Record,
    exports::Base,
    handshake::{Context, Opened},
    options::Options,
    protocol::{self, ReplyStyle, RequestId},
    transport::Transport,
    wake::Signal,
};
use cairn_engine::{Error, ErrorKind, IoBuf, LocalVolume, SendBuf};
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
};

/// What a fresh byte string for short replies holds: 32 acknowledgements.
const SHORT_REPLIES: usize = 512;

/// Replies that wait for the writer.
#[derive(Default)]
struct Outbox {
    bufs: Vec<SendBuf>,
    /// Short replies after the last of `bufs`: neighbours share one byte string.
    tail: Vec<u8>,
    /// Requests that they answer.
    requests: u32,
    /// Bytes in flight that end with them.
    bytes: usize,
}

impl Outbox {
    fn tail(&mut self) -> &mut Vec<u8> {
        if self.tail.capacity() == 0 {
            self.tail.reserve(SHORT_REPLIES);
        }
        &mut self.tail
    }

    fn block(&mut self, data: IoBuf) {
        self.close_tail();
        self.bufs.push(SendBuf::Block(data));
    }

    /// Puts the short replies in their place in the order.
    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            self.bufs.push(SendBuf::Bytes(std::mem::take(&mut self.tail)));
        }
    }
}

pub(crate) struct Connection {
    pub(crate) transport: Transport,
    pub(crate) volume: LocalVolume,
    pub(crate) style: ReplyStyle,
    pub(crate) contexts: Vec<Context<Base>>,
    pub(crate) options: Rc<Options>,
    pub(crate) record: Arc<Record>,
    read_only: bool,
    outbox: RefCell<Outbox>,
    requests: Cell<u32>,
    bytes: Cell<usize>,
    room: Signal,
    /// No request will follow.
    ended: Cell<bool>,
}

impl Connection {
    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only
    }

    pub(crate) fn new(
        transport: Transport,
        export: Opened<LocalVolume>,
        style: ReplyStyle,
        contexts: Vec<Context<Base>>,
        options: Rc<Options>,
        record: Arc<Record>,
    ) -> Self {
        Self {
            transport,
            volume: export.export,
            read_only: export.read_only,
            style,
            contexts,
            options,
            record,
            outbox: RefCell::default(),
            requests: Cell::new(0),
            bytes: Cell::new(0),
            room: Signal::default(),
            ended: Cell::new(false),
        }
    }

    /// Waits until one more request of `bytes` bytes fits, and counts it. A request that is alone always fits.
    pub(crate) async fn admit(&self, bytes: usize) {
        let fits = || {
            let requests = self.requests.get();
            requests == 0
                || (requests < self.options.in_flight_requests
                    && self.bytes.get() + bytes <= self.options.in_flight_bytes)
        };
        if !fits() {
            self.room.until(fits).await;
        }
        self.requests.set(self.requests.get() + 1);
        self.bytes.set(self.bytes.get() + bytes);
        self.record.started();
    }

    /// A payload of `bytes` bytes is done with before its request is answered.
    pub(crate) fn release_payload(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() - bytes);
        self.room.notify();
    }

    /// Queues a whole reply that `put` appends; with it, `bytes` bytes in flight end.
    fn reply(&self, bytes: usize, put: impl FnOnce(&mut Vec<u8>)) {
        let mut outbox = self.outbox.borrow_mut();
        put(outbox.tail());
        outbox.requests += 1;
        outbox.bytes += bytes;
        drop(outbox);
        self.transport.to_send.notify();
    }

    /// Answers a request that succeeded and has nothing to send; `content` marks a read (of no bytes).
    pub(crate) fn succeed(&self, id: RequestId, content: bool, bytes: usize) {
        self.reply(bytes, |out| protocol::put_success(out, self.style, id, content));
    }

    /// Answers a request that was refused.
    pub(crate) fn refuse(&self, id: RequestId, errno: u32, text: &str, bytes: usize) {
        self.reply(bytes, |out| protocol::put_error(out, self.style, id, errno, text));
    }

    /// Answers a request that the engine could not carry out.
    pub(crate) fn fail(&self, id: RequestId, error: &Error, bytes: usize) {
        self.refuse(id, errno(error.kind()), &error.to_string(), bytes);
    }

    /// Answers with what `put` appends.
    pub(crate) fn answer(&self, bytes: usize, put: impl FnOnce(&mut Vec<u8>)) {
        self.reply(bytes, put);
    }

    /// Answers a read.
    pub(crate) fn answer_data(&self, id: RequestId, data: IoBuf) {
        let length = data.len();
        let mut outbox = self.outbox.borrow_mut();
        protocol::put_data_header(outbox.tail(), self.style, id, length as u32);
        outbox.block(data);
        outbox.requests += 1;
        outbox.bytes += length;
        drop(outbox);
        self.transport.to_send.notify();
    }

    /// No request will follow: the writer stops when the last one is answered.
    pub(crate) fn end(&self) {
        self.ended.set(true);
        self.transport.to_send.notify();
    }

    /// Wakes every task that waits for another one of this connection.
    pub(crate) fn wake_all(&self) {
        self.room.notify();
        self.transport.to_send.notify();
    }

    /// Sends replies until the last one: everything that is ready goes out together.
    pub(crate) async fn write_replies(self: Rc<Self>) {
        let mut broken = false;
        loop {
            let finished = || self.ended.get() && self.requests.get() == 0;
            let ready = || self.outbox.borrow().requests > 0 || (!broken && self.transport.has_records());
            self.transport.to_send.until(|| ready() || finished()).await;
            if finished() {
                return;
            }
            let mut outbox = self.outbox.take();
            outbox.close_tail();
            if !broken && self.transport.send(outbox.bufs).await.is_err() {
                // The receiving side learns of it from its socket; requests in flight go on to their end.
                broken = true;
                self.transport.abort();
            }
            self.requests.set(self.requests.get() - outbox.requests);
            self.bytes.set(self.bytes.get() - outbox.bytes);
            self.record.finished(outbox.requests);
            self.room.notify();
        }
    }
}

/// The protocol's number for an error of the engine.
pub(crate) fn errno(kind: ErrorKind) -> u32 {
    match kind {
        ErrorKind::NoSpace => protocol::ENOSPC,
        ErrorKind::ReadOnly => protocol::EPERM,
        ErrorKind::Invalid | ErrorKind::Unsupported => protocol::EINVAL,
        ErrorKind::Closed => protocol::ESHUTDOWN,
        // Busy, too: the protocol has no "try again", and a guest that is told EIO does.
        _ => protocol::EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_engine_have_numbers_that_clients_understand() {
        for (kind, expected) in [
            (ErrorKind::NoSpace, 28),
            (ErrorKind::ReadOnly, 1),
            (ErrorKind::Invalid, 22),
            (ErrorKind::Closed, 108),
            (ErrorKind::Corrupt, 5),
            (ErrorKind::Io, 5),
            (ErrorKind::Busy, 5),
            (ErrorKind::NotFound, 5),
        ] {
            assert_eq!(errno(kind), expected, "{kind:?}");
        }
    }

    #[test]
    fn neighbouring_short_replies_share_a_buffer() {
        let mut outbox = Outbox::default();
        outbox.tail().extend_from_slice(b"one");
        outbox.tail().extend_from_slice(b"two");
        outbox.block(IoBuf::zeroed(512));
        outbox.tail().extend_from_slice(b"three");
        outbox.close_tail();
        outbox.close_tail();
        assert!(matches!(&outbox.bufs[..], [SendBuf::Bytes(first), SendBuf::Block(_), SendBuf::Bytes(last)]
            if first == b"onetwo" && last == b"three"));
    }
}
