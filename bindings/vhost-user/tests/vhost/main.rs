//! The server over real sockets: a driver of other people, a front-end of our own that can break every rule, and a server that is killed.

#![allow(missing_docs, clippy::unwrap_used)]

mod attacker;
mod calls;
mod closing;
mod driver;
mod fixture;
mod front_end;
mod hostile;
mod kicks;
mod killed;
mod lifecycle;
mod limits;
mod list;
mod lost;
mod memory;
mod reactor;
mod regions;
mod ring;
mod transfer;
mod turns;
