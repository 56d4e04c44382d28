//! The server against a real pool, driven by a hand-written client that can also say what no honest client would.

mod client;
mod fixture;

mod handshake;
mod hostile;
mod lifecycle;
mod limits;
mod offers;
mod status;
mod tls;
mod transfer;
