//! One request at a time: what most tests need.

use std::{io, sync::mpsc, time::Duration};

use super::{Address, Connection, Export, Incoming, Outcome, Request, Wish};

/// How long a reply may take. Only there so that nothing hangs for ever.
const DEADLINE: Duration = Duration::from_secs(120);

/// A connection on which each call waits for its reply.
pub struct Client {
    connection: Connection,
    incoming: mpsc::Receiver<Incoming>,
    next: u64,
}

impl Client {
    /// Connects to an export with structured replies.
    ///
    /// # Errors
    /// Nobody listens, or the export is refused.
    pub fn connect(address: &Address, export: &str) -> io::Result<Self> {
        Self::connect_as(address, &Wish { export: export.to_owned(), structured: true })
    }

    /// Connects as asked.
    ///
    /// # Errors
    /// Nobody listens, or the export is refused.
    pub fn connect_as(address: &Address, wish: &Wish) -> io::Result<Self> {
        let (sender, incoming) = mpsc::channel();
        // The receiver is gone only when the client is.
        let connection = Connection::open(address, wish, move |event| drop(sender.send(event)))?;
        Ok(Self { connection, incoming, next: 0 })
    }

    /// What the server told about the export.
    #[must_use]
    pub fn export(&self) -> Export {
        self.connection.export()
    }

    /// Carries out one request; `None` when the connection ended first.
    ///
    /// # Panics
    /// The server breaks the protocol, or does not answer for two minutes.
    pub fn try_call(&mut self, request: &Request) -> Option<Outcome> {
        self.next += 1;
        if self.connection.submit(self.next, request).is_err() {
            return None;
        }
        match self.incoming.recv_timeout(DEADLINE) {
            Ok(Incoming::Reply(cookie, outcome)) => {
                assert_eq!(cookie, self.next, "the reply to another request");
                Some(outcome)
            }
            Ok(Incoming::Ended) | Err(mpsc::RecvTimeoutError::Disconnected) => None,
            Ok(Incoming::Violation(text)) => panic!("the server broke the protocol: {text}"),
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("no answer within {DEADLINE:?} to {request:?}"),
        }
    }

    /// Carries out one request.
    ///
    /// # Errors
    /// The protocol's error number.
    ///
    /// # Panics
    /// The connection ended; see also [`Client::try_call`].
    #[track_caller]
    pub fn call(&mut self, request: &Request) -> Outcome {
        match self.try_call(request) {
            Some(outcome) => outcome,
            None => panic!("the server hung up instead of answering"),
        }
    }

    /// Reads.
    ///
    /// # Panics
    /// It fails.
    #[track_caller]
    pub fn read(&mut self, offset: u64, length: u32) -> Vec<u8> {
        self.call(&Request::Read { offset, length }).unwrap_or_else(|error| panic!("read at {offset}: error {error}"))
    }

    /// Writes.
    ///
    /// # Panics
    /// It fails.
    #[track_caller]
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let request = Request::Write { offset, data: data.to_vec(), fua: false };
        drop(self.call(&request).unwrap_or_else(|error| panic!("write at {offset}: error {error}")));
    }

    /// Flushes.
    ///
    /// # Panics
    /// It fails.
    #[track_caller]
    pub fn flush(&mut self) {
        drop(self.call(&Request::Flush).unwrap_or_else(|error| panic!("flush: error {error}")));
    }

    /// The connection itself, for saying things that no honest client says.
    pub fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }
}
