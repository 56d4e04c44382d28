//! The socket of a front-end: whole messages with their descriptors, without ever waiting in a system call.
//!
//! Bytes are received only after the reactor was told that there are some, with `MSG_DONTWAIT`, and no more of them than the message that
//! is being received needs: so descriptors are those of that message. A message that arrives in pieces is gathered; whoever sends
//! half of one keeps nobody waiting but itself. There is room for all descriptors that the kernel lets one send at once: what had none
//! would be closed within the system call.

use crate::{
    descriptors::{Connection, Foreign, Kind},
    protocol::{HEADER, Header, MAX_FDS, Message, Violation},
};
use cairn_engine::Reactor;
use rustix::{
    cmsg_space,
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, recvmsg, sendmsg,
    },
};
use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    rc::Rc,
    time::Duration,
};

/// Descriptors that can be sent at once (the kernel's `SCM_MAX_FD`).
const MOST_FDS: usize = 253;

/// How long to wait for descriptors to be closed before more are taken.
const CLOSING_PAUSE: Duration = Duration::from_millis(100);

/// Why no further message comes.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The front-end closed, or is gone.
    Gone,
    Violation(String),
}

impl From<Violation> for Ended {
    fn from(Violation(why): Violation) -> Self {
        Self::Violation(why)
    }
}

/// What was received of a message.
#[derive(Default)]
struct Partial {
    head: [u8; HEADER],
    header: Option<Header>,
    body: Vec<u8>,
    filled: usize,
    fds: Vec<Foreign>,
}

/// How a step of receiving ended.
enum Step {
    Message(Header, Message),
    /// There is nothing there now.
    Wait,
    More,
}

impl Partial {
    /// Where the next bytes belong.
    fn space(&mut self) -> &mut [u8] {
        let whole = if self.header.is_some() { &mut self.body[..] } else { &mut self.head[..] };
        whole.get_mut(self.filled..).unwrap_or_default()
    }

    fn receive(&mut self, socket: &Connection) -> Result<Step, Ended> {
        if !self.space().is_empty() {
            let mut room = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST_FDS))];
            let mut control = RecvAncillaryBuffer::new(&mut room);
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            let received = match recvmsg(socket.as_fd(), &mut [IoSliceMut::new(self.space())], &mut control, flags) {
                Ok(received) => received,
                Err(Errno::AGAIN | Errno::INTR) => return Ok(Step::Wait),
                Err(_) => return Err(Ended::Gone),
            };
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(fds) = message {
                    self.fds.extend(fds.map(|fd| socket.beside(fd)));
                }
            }
            if self.fds.iter().any(|fd| Kind::of(fd).is_none()) {
                return Err(Ended::Violation("a descriptor that is neither eventfd, memory nor unix socket".into()));
            }
            if received.flags.contains(ReturnFlags::CTRUNC) {
                let text = "descriptors of a message could not be received: does RLIMIT_NOFILE leave room for them?";
                return Err(Ended::Violation(text.into()));
            }
            if self.fds.len() > MAX_FDS {
                return Err(Ended::Violation(format!("a message with more than {MAX_FDS} descriptors")));
            }
            if received.bytes == 0 {
                return Err(Ended::Gone);
            }
            self.filled += received.bytes;
        }
        if !self.space().is_empty() {
            return Ok(Step::More);
        }
        match self.header {
            None => {
                let header = Header::parse(&self.head)?;
                self.header = Some(header);
                self.body = vec![0; header.size];
                self.filled = 0;
                Ok(Step::More)
            }
            Some(header) => {
                let Self { body, fds, .. } = std::mem::take(self);
                Ok(Step::Message(header, Message::parse(header.request, &body, fds)?))
            }
        }
    }
}

/// A front-end's socket.
pub(crate) struct Wire {
    reactor: Reactor,
    socket: Rc<Connection>,
    partial: Partial,
}

impl Wire {
    pub(crate) fn new(reactor: Reactor, socket: Rc<Connection>) -> Self {
        Self { reactor, socket, partial: Partial::default() }
    }

    /// The next message. Dropped early, it loses nothing.
    pub(crate) async fn receive(&mut self) -> Result<(Header, Message), Ended> {
        loop {
            while !self.socket.has_room() {
                self.reactor.sleep(CLOSING_PAUSE).await;
            }
            // Before each message, also when more are there already: nobody keeps the reactor from its other work.
            let _events = self.reactor.poll_held(&self.socket, libc::POLLIN).await.map_err(|_| Ended::Gone)?;
            loop {
                match self.partial.receive(&self.socket)? {
                    Step::Message(header, message) => return Ok((header, message)),
                    Step::Wait => break,
                    Step::More => {}
                }
            }
        }
    }

    /// Sends all of `bytes`, with a descriptor.
    pub(crate) async fn send(&self, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut sent = 0;
        while let Some(rest @ [_, ..]) = bytes.get(sent..) {
            match send_now(&self.socket, rest, fd.filter(|_| sent == 0)) {
                Ok(n) => sent += n,
                Err(Errno::AGAIN | Errno::INTR) => {
                    let _events = self.reactor.poll_held(&self.socket, libc::POLLOUT).await?;
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }
}

/// Sends what can be sent without waiting.
pub(crate) fn send_now(socket: &OwnedFd, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> rustix::io::Result<usize> {
    let mut room = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut room);
    let fds = fd.map(|fd| [fd]);
    if let Some(fds) = &fds {
        let _fits = control.push(SendAncillaryMessage::ScmRights(fds));
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
}
