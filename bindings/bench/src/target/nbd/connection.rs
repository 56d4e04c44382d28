//! A stream to a server, whichever kind.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
};

use cairn_engine::{Error, Result};

use super::{
    PATIENCE,
    handshake::CMD_DISC,
    lane::request,
    uri::{NbdUri, Place},
};

enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// A connection.
pub(crate) struct Connection {
    stream: Stream,
}

impl Connection {
    pub(crate) fn open(uri: &NbdUri) -> Result<Self> {
        let failed = |e| Error::io("cannot connect", e);
        let stream = match &uri.place {
            Place::Unix(path) => {
                let stream = UnixStream::connect(path).map_err(failed)?;
                stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
                Stream::Unix(stream)
            }
            Place::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).map_err(failed)?;
                stream.set_nodelay(true).map_err(failed)?;
                stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
                Stream::Tcp(stream)
            }
        };
        Ok(Self { stream })
    }

    /// Sends all of it.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let sent = match &mut self.stream {
            Stream::Unix(stream) => stream.write_all(bytes),
            Stream::Tcp(stream) => stream.write_all(bytes),
        };
        sent.map_err(|e| Error::io("the connection", e))
    }

    /// Receives so many bytes.
    pub(crate) fn receive<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.receive_into(&mut bytes)?;
        Ok(bytes)
    }

    pub(crate) fn receive_into(&mut self, bytes: &mut [u8]) -> Result<()> {
        let received = match &mut self.stream {
            Stream::Unix(stream) => stream.read_exact(bytes),
            Stream::Tcp(stream) => stream.read_exact(bytes),
        };
        received.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => super::protocol("it hung up in the handshake"),
            io::ErrorKind::WouldBlock => super::protocol(format!("no answer within {} s", PATIENCE.as_secs())),
            _ => Error::io("the connection", error),
        })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        match &self.stream {
            Stream::Unix(stream) => stream.as_fd(),
            Stream::Tcp(stream) => stream.as_fd(),
        }
    }

    /// Says goodbye. A server that is gone needs none.
    pub(crate) fn leave(mut self) {
        drop(self.send(&request(CMD_DISC, 0, 0, 0)));
    }

    /// A receive that has waited for so long ends without bytes.
    pub(crate) fn receive_for(&self, limit: std::time::Duration) -> io::Result<()> {
        match &self.stream {
            Stream::Unix(stream) => stream.set_read_timeout(Some(limit)),
            Stream::Tcp(stream) => stream.set_read_timeout(Some(limit)),
        }
    }
}
