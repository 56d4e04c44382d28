//! The load generator against real targets. Nothing here judges how fast anything was.

#![allow(missing_docs, clippy::unwrap_used)]

mod faults;
mod file;
mod inside;
mod nbd;
mod pace;
mod site;
mod vhost;
