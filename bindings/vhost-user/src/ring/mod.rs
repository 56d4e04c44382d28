//! A split virtqueue: taking descriptor chains from it, giving them back, and what a restart needs to know of them.
//!
//! Nothing here does I/O or waits; whoever drives a ring is in [`vring`](crate::vring).

mod chain;
mod inflight;
mod split;

pub(crate) use {
    chain::{Chain, MAX_DESCRIPTORS, Malformed},
    inflight::{InflightRegion, Tracker},
    split::{Broken, Place, Ring, whole},
};
