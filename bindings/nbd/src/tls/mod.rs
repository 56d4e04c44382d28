//! TLS without input or output of its own: records go in and out of memory, the caller moves them.
//!
//! Invariants: a failure of the TLS layer is final for its connection; no session is resumed and none is renegotiated,
//! so every connection proves who it is.

mod credentials;
mod session;

#[cfg(test)]
mod tests;

pub(crate) use self::{
    credentials::{Acceptor, acceptor},
    session::{Progress, TlsSession},
};
