//! Proof by simulation. See `README.md` beside this crate.

mod choices;
mod client;
pub mod damage;
pub mod explore;
mod history;
mod model;
pub mod nets;
pub mod operations;
mod restore;
pub mod simulate;
pub mod soak;
mod verify;
