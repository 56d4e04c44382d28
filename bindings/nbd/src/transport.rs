//! A connection's bytes, plain or under TLS.
//!
//! Invariants: one task receives and one task sends at a time; a TLS session is only borrowed between two awaits.

use crate::{
    socket::Socket,
    tls::{Acceptor, Progress, TlsSession},
    wake::Signal,
};
use cairn_engine::{IoBuf, Reactor, SendBuf};
use std::{
    cell::{Cell, RefCell},
    io,
    ops::Range,
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
    socket: Rc<Socket>,
    tls: Option<RefCell<TlsSession>>,
    /// Notified when there is something to send, TLS's own records included.
    pub(crate) to_send: Signal,
}

impl Transport {
    pub(crate) fn new(reactor: Reactor, socket: Rc<Socket>) -> Self {
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
                self.reactor.send(&self.socket, vec![SendBuf::Bytes(records)]).await?;
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
            None => receive(&self.reactor, &self.socket, buf, range).await,
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
            return if bufs.is_empty() { Ok(()) } else { self.reactor.send(&self.socket, bufs).await };
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
        self.reactor.send(&self.socket, vec![SendBuf::Bytes(records)]).await
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
        for _ in 0..LOOKS {
            // That it cannot be asked for is found out by whoever receives next.
            let events = self.reactor.poll_held(&self.socket, libc::POLLRDHUP).await.unwrap_or(libc::POLLERR);
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

async fn receive_records(reactor: &Reactor, socket: &Rc<Socket>, session: &RefCell<TlsSession>) -> io::Result<usize> {
    let records = session.borrow_mut().lend();
    let length = records.len();
    let (result, records) = receive(reactor, socket, records, 0..length).await;
    session.borrow_mut().give_back(records, *result.as_ref().unwrap_or(&0));
    result
}

/// Receives up to `range.len()` bytes into `buf[range]`; descriptors that come with them are an error.
async fn receive(
    reactor: &Reactor,
    socket: &Rc<Socket>,
    mut buf: IoBuf,
    range: Range<usize>,
) -> (io::Result<usize>, IoBuf) {
    if !socket.takes_descriptors() {
        return reactor.recv(socket, buf, range).await;
    }
    loop {
        if let Err(e) = reactor.poll_held(socket, libc::POLLIN).await {
            return (Err(e), buf);
        }
        let received = buf.get_mut(range.clone()).map_or(Ok(0), |to| socket.receive(to));
        match received {
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            outcome => return (outcome, buf),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aside::Closing;
    use cairn_engine::{Pool, PoolOptions};
    use pollster::block_on;
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg, sockopt::set_socket_linger};
    use std::{
        io::{IoSlice, Read, Write},
        mem::MaybeUninit,
        net::{TcpListener, TcpStream},
        os::{
            fd::{AsFd, OwnedFd},
            unix::net::UnixStream,
        },
        sync::mpsc,
    };

    /// A TCP socket whose last close waits for a peer that does not read, and that peer.
    fn lingering() -> (OwnedFd, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (peer, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        while stream.write(&[0; 1 << 16]).is_ok() {}
        set_socket_linger(&stream, Some(Duration::from_secs(600))).unwrap();
        (stream.into(), peer)
    }

    fn pass(to: &UnixStream, bytes: &[u8], fd: OwnedFd, flags: SendFlags) {
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut room);
        let fds = [fd.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        assert_eq!(
            sendmsg(to, &[IoSlice::new(bytes)], &mut control, flags | SendFlags::NOSIGNAL).unwrap(),
            bytes.len()
        );
    }

    /// As with a kernel that cannot refuse descriptors: they are an error, and neither they nor the socket are closed on the reactor's
    /// thread, which would wait for ever here.
    #[test]
    fn descriptors_of_peers_hold_nobody_up() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("p.cairn");
        let pool = block_on(Pool::create(path, PoolOptions::new().size(64 << 20))).unwrap();
        for (flags, received) in [(SendFlags::empty(), true), (SendFlags::OOB, true), (SendFlags::empty(), false)] {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let (lingers, peer) = lingering();
            let (tell, told) = mpsc::channel();
            (&theirs).write_all(b"before").unwrap();
            let running = pool.clone();
            let passing = theirs.try_clone().unwrap();
            let run = std::thread::spawn(move || {
                block_on(running.run(move |pool| async move {
                    let closing = Closing::default();
                    let socket = Rc::new(Socket::taking_descriptors(ours.into(), &closing));
                    let transport = Transport::new(pool.reactor().clone(), socket);
                    let (before, buf) = transport.recv(IoBuf::with_len(4096), 0..4096).await;
                    assert_eq!(&buf[..before.unwrap()], b"before");
                    pass(&passing, b"x", lingers, flags);
                    if received {
                        let (with, _) = transport.recv(buf, 0..4096).await;
                        assert_eq!(with.unwrap_err().kind(), io::ErrorKind::InvalidData);
                    }
                    drop((transport, passing));
                }))
            });
            let running = pool.clone();
            let _asking = std::thread::spawn(move || {
                run.join().unwrap().unwrap();
                tell.send(block_on(running.run(|_| async {})).is_ok()).unwrap();
            });
            let answers = told.recv_timeout(Duration::from_secs(30)).is_ok();
            drop(peer);
            assert!(answers, "{flags:?}, received: {received}");
            assert_eq!((&theirs).read(&mut [0]).unwrap_or(0), 0);
        }
        block_on(pool.close()).unwrap();
    }
}
