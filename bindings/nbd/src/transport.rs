//! A connection's bytes, plain or under TLS.
//!
//! Invariants: one task receives and one task sends at a time; a TLS session is only borrowed between two awaits.

use crate::{
    tls::{Acceptor, Progress, TlsSession},
    wake::Signal,
};
use cairn_engine::{IoBuf, Reactor, SendBuf};
use std::{
    cell::{Cell, RefCell},
    io,
    ops::Range,
    os::fd::{AsRawFd, OwnedFd},
    rc::Rc,
    time::Duration,
};

/// How many bytes are encrypted before they are sent: what bounds the memory that records take.
const ENCRYPT_AHEAD: usize = 128 * 1024;

/// How long a peer that has closed its sending side waits for limits.
const HALF_CLOSED: Duration = Duration::from_secs(30);
const LOOKS: u32 = 120;

pub(crate) struct Transport {
    reactor: Reactor,
    socket: Rc<OwnedFd>,
    tls: Option<RefCell<TlsSession>>,
    /// Notified when there is something to send, TLS's own records included.
    pub(crate) to_send: Signal,
}

impl Transport {
    pub(crate) fn new(reactor: Reactor, socket: Rc<OwnedFd>) -> Self {
        Self { reactor, socket, tls: None, to_send: Signal::default() }
    }

    pub(crate) fn reactor(&self) -> &Reactor {
        &self.reactor
    }

    /// Shakes hands; `received` are the bytes that came after `STARTTLS`, which TLS must explain.
    pub(crate) async fn start_tls(&mut self, acceptor: &Acceptor, received: &[u8]) -> io::Result<()> {
        let session = self.tls.insert(RefCell::new(TlsSession::new(acceptor, received)?));
        loop {
            let step = session.get_mut().handshake();
            let records = session.get_mut().take_outgoing();
            if !records.is_empty() {
                self.reactor.send(self.socket.as_raw_fd(), vec![SendBuf::Bytes(records)]).await?;
            }
            match step? {
                Progress::Done(_) => return Ok(()),
                Progress::Closed => return Err(io::ErrorKind::UnexpectedEof.into()),
                Progress::NeedRecords => {
                    if receive_records(&self.reactor, &self.socket, session).await? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
            }
        }
    }

    /// Receives up to `range.len()` bytes into `buf[range]`; 0 means that the peer closed.
    pub(crate) async fn recv(&self, buf: IoBuf, range: Range<usize>) -> (io::Result<usize>, IoBuf) {
        match &self.tls {
            None => self.reactor.recv(self.socket.as_raw_fd(), buf, range).await,
            Some(session) => self.recv_encrypted(session, buf, range).await,
        }
    }

    async fn recv_encrypted(
        &self,
        session: &RefCell<TlsSession>,
        mut buf: IoBuf,
        range: Range<usize>,
    ) -> (io::Result<usize>, IoBuf) {
        loop {
            let step = buf.get_mut(range.clone()).map_or(Ok(Progress::Done(0)), |out| decrypt(session, out));
            if session.borrow().has_outgoing() {
                self.to_send.notify();
            }
            match step {
                Ok(Progress::Done(n)) => return (Ok(n), buf),
                Ok(Progress::Closed) => return (Ok(0), buf),
                Ok(Progress::NeedRecords) => match receive_records(&self.reactor, &self.socket, session).await {
                    Ok(0) => return (Ok(0), buf),
                    Ok(_) => {}
                    Err(e) => return (Err(e), buf),
                },
                Err(e) => return (Err(e), buf),
            }
        }
    }

    /// Sends everything, in order.
    pub(crate) async fn send(&self, bufs: Vec<SendBuf>) -> io::Result<()> {
        let Some(session) = &self.tls else {
            return if bufs.is_empty() { Ok(()) } else { self.reactor.send(self.socket.as_raw_fd(), bufs).await };
        };
        let mut ahead = 0;
        for buf in &bufs {
            let bytes: &[u8] = match buf {
                SendBuf::Bytes(bytes) => bytes,
                SendBuf::Block(block) => block,
            };
            for piece in bytes.chunks(ENCRYPT_AHEAD) {
                session.borrow_mut().write(piece)?;
                ahead += piece.len();
                if ahead >= ENCRYPT_AHEAD {
                    ahead = 0;
                    self.send_records(session).await?;
                }
            }
        }
        self.send_records(session).await
    }

    async fn send_records(&self, session: &RefCell<TlsSession>) -> io::Result<()> {
        let records = session.borrow_mut().take_outgoing();
        if records.is_empty() {
            return Ok(());
        }
        self.reactor.send(self.socket.as_raw_fd(), vec![SendBuf::Bytes(records)]).await
    }

    /// Whether TLS has records of its own to send.
    pub(crate) fn has_records(&self) -> bool {
        self.tls.as_ref().is_some_and(|session| session.borrow().has_outgoing())
    }

    /// Says good-bye: nothing can be sent any more.
    pub(crate) async fn finish(&self) {
        if let Some(session) = &self.tls {
            session.borrow_mut().close();
            // The connection ends here, whether the peer takes this or not.
            drop(self.send_records(session).await);
        }
        rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Write).ok();
    }

    /// Waits until nobody is there any more to be answered. One that has only closed its sending side may still wait for answers, but over TCP
    /// it cannot be told from one that is gone: it has a while. `stopping` says that the server closed this side itself.
    pub(crate) async fn hung_up(&self, stopping: &Cell<bool>) {
        let fd = self.socket.as_raw_fd();
        for _ in 0..LOOKS {
            // That it cannot be asked for is found out by whoever receives next.
            let events = self.reactor.poll(fd, libc::POLLRDHUP).await.unwrap_or(libc::POLLERR);
            if events & (libc::POLLHUP | libc::POLLERR) != 0 || stopping.get() {
                return;
            }
            // io_uring tells of a closed half whether it was asked to or not: so the rest is not waited for, but looked for.
            self.reactor.sleep(HALF_CLOSED / LOOKS).await;
        }
    }

    /// Ends the connection at once: pending and later transfers end too.
    pub(crate) fn abort(&self) {
        rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both).ok();
    }
}

/// Decrypts as much as was received and fits.
fn decrypt(session: &RefCell<TlsSession>, out: &mut [u8]) -> io::Result<Progress> {
    let mut session = session.borrow_mut();
    let mut filled = 0;
    while filled < out.len() {
        match session.read(out.get_mut(filled..).unwrap_or_default()) {
            Ok(Progress::Done(n)) => filled += n,
            // What came before an error or the end is served first; the next call meets it again.
            _ if filled > 0 => break,
            other => return other,
        }
    }
    Ok(Progress::Done(filled))
}

async fn receive_records(reactor: &Reactor, socket: &OwnedFd, session: &RefCell<TlsSession>) -> io::Result<usize> {
    let records = session.borrow_mut().lend();
    let length = records.len();
    let (result, records) = reactor.recv(socket.as_raw_fd(), records, 0..length).await;
    session.borrow_mut().give_back(records, *result.as_ref().unwrap_or(&0));
    result
}
