//! A connection's receive buffer: many requests a receive, large payloads straight into their own blocks.

use crate::transport::Transport;
use cairn_engine::IoBuf;
use std::io;

/// Bytes of the buffer.
const CAPACITY: usize = 256 * 1024;
/// A payload of which at least this many bytes are still to come is received into its own buffer.
const DIRECT: usize = 32 * 1024;
/// After a payload that went past the buffer, so many bytes are received at first: the next header, and little that
/// would have to be copied.
const AFTER_DIRECT: usize = 4096;

const _: () = assert!(DIRECT < CAPACITY && crate::protocol::MAX_OPTION_DATA as usize + 16 <= CAPACITY);

/// What was received and not used yet: `buf[start..end]`.
pub(crate) struct Input {
    buf: IoBuf,
    start: usize,
    end: usize,
    after_direct: bool,
}

fn gone() -> io::Error {
    io::ErrorKind::UnexpectedEof.into()
}

impl Input {
    pub(crate) fn new() -> Self {
        Self { buf: IoBuf::with_len(CAPACITY), start: 0, end: 0, after_direct: false }
    }

    /// The bytes at hand.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.buf.get(self.start..self.end).unwrap_or_default()
    }

    /// Passes over `n` of them.
    pub(crate) fn consume(&mut self, n: usize) {
        self.start += n.min(self.end - self.start);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Receives more.
    ///
    /// # Errors
    /// Those of the socket; "unexpected end" when the peer closed.
    pub(crate) async fn fill(&mut self, transport: &Transport) -> io::Result<()> {
        if self.start > 0 {
            self.buf.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let most = if std::mem::take(&mut self.after_direct) { AFTER_DIRECT } else { CAPACITY };
        let until = (self.end + most).min(CAPACITY);
        if until == self.end {
            return Err(io::Error::other("a message is larger than the receive buffer"));
        }
        // No allocation: a buffer of no bytes takes one from the pool of single blocks.
        let buf = std::mem::replace(&mut self.buf, IoBuf::with_len(0));
        let (result, buf) = transport.recv(buf, self.end..until).await;
        self.buf = buf;
        match result? {
            0 => Err(gone()),
            n => {
                self.end += n;
                Ok(())
            }
        }
    }

    /// Takes a payload of `length` bytes.
    ///
    /// # Errors
    /// As [`fill`](Self::fill).
    pub(crate) async fn payload(&mut self, transport: &Transport, length: usize) -> io::Result<IoBuf> {
        let missing = length.saturating_sub(self.bytes().len());
        if missing >= DIRECT {
            return self.direct(transport, length).await;
        }
        if missing > 0 && length > CAPACITY {
            // Nearly all of it is here, but it cannot all be here at once.
            return self.direct(transport, length).await;
        }
        while self.bytes().len() < length {
            self.fill(transport).await?;
        }
        let payload = IoBuf::from(self.bytes().get(..length).unwrap_or_default());
        self.consume(length);
        Ok(payload)
    }

    async fn direct(&mut self, transport: &Transport, length: usize) -> io::Result<IoBuf> {
        let mut payload = IoBuf::with_len(length);
        let mut filled = self.bytes().len().min(length);
        if let (Some(to), Some(from)) = (payload.get_mut(..filled), self.bytes().get(..filled)) {
            to.copy_from_slice(from);
        }
        self.consume(filled);
        while filled < length {
            let (result, back) = transport.recv(payload, filled..length).await;
            payload = back;
            match result? {
                0 => return Err(gone()),
                n => filled += n,
            }
        }
        self.after_direct = true;
        Ok(payload)
    }

    /// Reads past `length` bytes.
    ///
    /// # Errors
    /// As [`fill`](Self::fill).
    pub(crate) async fn skip(&mut self, transport: &Transport, mut length: u64) -> io::Result<()> {
        while length > 0 {
            let n = self.bytes().len().min(usize::try_from(length).unwrap_or(usize::MAX));
            self.consume(n);
            length -= n as u64;
            if length > 0 {
                self.fill(transport).await?;
            }
        }
        Ok(())
    }
}
