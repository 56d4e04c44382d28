//! An NBD client of our own: many requests in flight, several connections, and every reply checked against the protocol.
//!
//! It shares no code with the server, so that the two cannot be wrong together. A server that breaks the protocol (a reply
//! to nothing, a chunk outside its request, bytes sent twice or never) is reported as [`Incoming::Violation`].

mod address;
mod client;
mod connection;
mod handshake;
mod reply;

pub use address::{Address, Socket};
pub use client::Client;
pub use connection::{Connection, Request};
pub use handshake::{Export, Wish, shake_hands};
pub use reply::{Incoming, Outcome};

/// Error numbers as the protocol writes them.
pub mod errno {
    /// Not allowed: the export is read-only.
    pub const EPERM: u32 = 1;
    /// Input or output failed.
    pub const EIO: u32 = 5;
    /// The request is wrong.
    pub const EINVAL: u32 = 22;
    /// No space left, or a write beyond the end.
    pub const ENOSPC: u32 = 28;
}
