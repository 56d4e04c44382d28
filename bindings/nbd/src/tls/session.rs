//! One TLS session over memory.

use super::Acceptor;
use cairn_engine::IoBuf;
use openssl::ssl::{ErrorCode, Ssl, SslStream};
use std::{
    fmt,
    io::{self, Read, Write},
};

/// How many bytes of records are received at once.
const RECEIVE: usize = 64 * 1024;

/// Records on their way in and out.
struct Records {
    /// Received records, `start..end`; absent while the caller receives into it.
    incoming: Option<IoBuf>,
    start: usize,
    end: usize,
    /// Records to be sent.
    outgoing: Vec<u8>,
}

impl Read for Records {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let received = self.incoming.as_deref().and_then(|buf| buf.get(self.start..self.end)).unwrap_or_default();
        if received.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let n = received.len().min(out.len());
        if let (Some(to), Some(from)) = (out.get_mut(..n), received.get(..n)) {
            to.copy_from_slice(from);
        }
        self.start += n;
        Ok(n)
    }
}

impl Write for Records {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.outgoing.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a step came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Progress {
    /// Done; for a read, with so many bytes.
    Done(usize),
    /// Records must be received first.
    NeedRecords,
    /// The peer ended the session.
    Closed,
}

/// One connection's TLS, on the server's side.
pub(crate) struct TlsSession {
    stream: SslStream<Records>,
}

impl fmt::Debug for TlsSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsSession")
    }
}

impl TlsSession {
    /// A session about to shake hands; `received` came after the message that started it.
    pub(crate) fn new(acceptor: &Acceptor, received: &[u8]) -> io::Result<Self> {
        let mut incoming = IoBuf::with_len(RECEIVE.max(received.len()));
        incoming[..received.len()].copy_from_slice(received);
        let records = Records { incoming: Some(incoming), start: 0, end: received.len(), outgoing: Vec::new() };
        Ok(Self { stream: SslStream::new(Ssl::new(acceptor)?, records)? })
    }

    /// Goes on with the handshake.
    pub(crate) fn handshake(&mut self) -> io::Result<Progress> {
        progress(self.stream.accept().map(|()| 0))
    }

    /// Decrypts what was received.
    pub(crate) fn read(&mut self, out: &mut [u8]) -> io::Result<Progress> {
        progress(self.stream.ssl_read(out))
    }

    /// Encrypts `bytes`, to be fetched with [`take_outgoing`](Self::take_outgoing).
    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match progress(self.stream.ssl_write(bytes))? {
                Progress::Done(n) if n > 0 => bytes = bytes.get(n..).unwrap_or_default(),
                // Memory takes everything, and nothing is renegotiated: writing never has to wait for the peer.
                _ => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
        Ok(())
    }

    /// Tells the peer that nothing more will come.
    pub(crate) fn close(&mut self) {
        // A session that failed cannot say good-bye; the connection is closed in any case.
        drop(self.stream.shutdown());
    }

    /// Whether records wait to be sent.
    pub(crate) fn has_outgoing(&self) -> bool {
        !self.stream.get_ref().outgoing.is_empty()
    }

    /// The records to send.
    pub(crate) fn take_outgoing(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.stream.get_mut().outgoing)
    }

    /// Lends the buffer that records are received into. Everything received before must have been used up.
    pub(crate) fn lend(&mut self) -> IoBuf {
        self.stream.get_mut().incoming.take().unwrap_or_else(|| IoBuf::with_len(RECEIVE))
    }

    /// Takes the buffer back with `received` bytes in it.
    pub(crate) fn give_back(&mut self, buf: IoBuf, received: usize) {
        let records = self.stream.get_mut();
        (records.start, records.end) = (0, received.min(buf.len()));
        records.incoming = Some(buf);
    }
}

fn progress(result: Result<usize, openssl::ssl::Error>) -> io::Result<Progress> {
    match result {
        Ok(n) => Ok(Progress::Done(n)),
        Err(e) if e.code() == ErrorCode::WANT_READ => Ok(Progress::NeedRecords),
        Err(e) if e.code() == ErrorCode::ZERO_RETURN => Ok(Progress::Closed),
        Err(e) => Err(e.into_io_error().unwrap_or_else(io::Error::other)),
    }
}
