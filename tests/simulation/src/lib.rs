//! Proof by simulation. See `README.md` beside this crate.

mod choices;
mod client;
pub mod explore;
mod history;
mod model;
pub mod simulate;
mod verify;
