#![doc = include_str!("../README.md")]

mod bucket;
mod lanes;
mod leaf;
mod limiter;
mod limits;
mod lines;
mod nodes;
mod request;
mod share;
mod spare;
mod standing;
mod stats;
mod tree;

pub use limits::{Effective, Invalid, Key, Limits};
pub use request::{Decision, Kind, Leaf, Node, Request, Ticket};
pub use stats::{Credits, Held, Snapshot};
pub use tree::Tree;

/// Nanoseconds of a clock that never goes back; only differences count.
pub type Nanos = u64;

/// Nanoseconds in a second.
pub const SECOND: Nanos = 1_000_000_000;
