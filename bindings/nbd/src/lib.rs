//! NBD server on the pool's reactor.
//!
//! [`Server::start`] exports every volume of a pool as `volume` and every snapshot, read-only, as `volume@snapshot`, on a
//! unix socket or TCP. It runs as tasks of the pool's own reactor, so a request crosses no thread between the client's
//! socket and the device. With [`Options::offers`] clients can open what is offered to them, under the names that they were told, and
//! nothing else.
//!
//! [`protocol`] and [`handshake`] are the protocol without any input or output: parsers, encoders and a state machine over
//! byte strings.
//!
//! `DESIGN.md` beside this crate's manifest tells what is supported, what is bounded, and what a client leaves behind.

#![deny(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod aside;
mod client;
mod commands;
mod connection;
mod exports;
pub mod handshake;
mod input;
mod listen;
mod options;
pub mod protocol;
mod server;
mod serving;
mod session;
mod socket;
mod status;
mod tls;
mod transport;
mod wake;

pub use crate::{
    client::ClientInfo,
    exports::{Offer, Offers},
    listen::Listen,
    options::{Certificates, Options, TlsMode},
    server::Server,
};
