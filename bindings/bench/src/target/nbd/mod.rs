//! An NBD export, by a client of its own: pipelined, one connection for each job, without the server's code, so that one mistake cannot hide in
//! both.
//!
//! Bytes of the server are foreign: lengths, handles and counts are checked before they are used.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

mod connection;
mod handshake;
mod lane;
mod reply;
pub(crate) mod uri;

use std::time::Duration;

use cairn_engine::{Error, ErrorKind, Result};

use crate::{
    bench::SECTOR,
    lane::{Shape, TICK},
    target::{Holds, Subject},
};
use handshake::Export;
pub(crate) use lane::NbdLane;
use uri::NbdUri;

/// How long a server may take to answer in the handshake.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where an export is.
pub(crate) struct Remote {
    uri: NbdUri,
}

impl Remote {
    /// Asks the server what the export is.
    pub(crate) fn open(uri: NbdUri) -> Result<(Self, Subject)> {
        let remote = Self { uri };
        let (connection, export) = remote.connect()?;
        connection.leave();
        let subject = Subject {
            kind: "nbd",
            name: remote.uri.to_string(),
            size: export.size,
            granularity: u64::from(export.minimum).max(SECTOR),
            read_only: export.is_read_only(),
            flushes: export.can_flush(),
            made: false,
            holds: Holds::Unknown,
            sparse: false,
            max_request: u64::from(export.maximum),
        };
        Ok((remote, subject))
    }

    fn connect(&self) -> Result<(connection::Connection, Export)> {
        let mut connection = connection::Connection::open(&self.uri).map_err(|e| self.within(e))?;
        let export = handshake::enter(&mut connection, &self.uri.export).map_err(|e| self.within(e))?;
        Ok((connection, export))
    }

    fn within(&self, error: Error) -> Error {
        error.within(&self.uri)
    }

    /// A connection of its own for a job.
    pub(crate) fn lane(&self, shape: Shape) -> Result<NbdLane> {
        let (connection, export) = self.connect()?;
        connection.receive_for(TICK).map_err(|e| Error::io(self.uri.to_string(), e))?;
        Ok(NbdLane::new(connection, export, shape))
    }
}

/// What a server says that the protocol does not allow.
fn protocol(text: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Io, format!("the server breaks the protocol: {text}"))
}
