//! vhost-user-blk back-end on the pool's reactor.
//!
//! A [`Server`] gives virtual machines disks without a network protocol in between: the guest's own requests, in the guest's own memory, are
//! taken from its virtqueues by tasks of the pool's reactor. So a request crosses no thread between the guest's ring and the
//! device, and an idle disk costs nothing.
//!
//! A back-end can be stopped or killed and started again under a running guest, whose requests in flight are not lost.
//!
//! `DESIGN.md` beside this crate's manifest tells what is supported, what is never trusted, and why no request is lost.

#![deny(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod aside;
mod blk;
mod blocking;
mod bus;
mod client;
mod descriptors;
mod device;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod list;
mod listen;
mod mapping;
mod memory;
mod options;
mod protocol;
mod ring;
mod server;
mod serving;
mod session;
mod source;
mod turns;
mod vring;
mod wake;
mod wire;

pub use crate::{
    client::{ClientInfo, ExportInfo},
    options::Options,
    server::Server,
};
