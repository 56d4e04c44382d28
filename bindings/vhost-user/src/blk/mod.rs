//! The virtio block device: its features and configuration space, its requests, and what they do to a volume.
//!
//! Reference: "Virtual I/O Device (VIRTIO) Version 1.2", section 5.2.

mod config;
mod execute;
mod request;

pub(crate) use {
    config::{WRITEBACK, config_space, features, serial},
    execute::{PIECE, cost, execute, limited},
    request::{Request, Status},
};

/// Bytes of the sectors in which the device counts.
pub(crate) const SECTOR: u64 = 512;

/// The driver flushes; without it, every write has to be durable before it is answered.
pub(crate) const F_FLUSH: u64 = 1 << 9;
/// Both sides suppress notifications by index.
pub(crate) const F_EVENT_INDEX: u64 = 1 << 29;

/// Ranges in one discard at most.
pub(crate) const MAX_DISCARD_RANGES: u32 = 64;
/// Sectors in one range of a discard or a write of zeros at most (4 GiB).
pub(crate) const MAX_RANGE_SECTORS: u32 = 8 << 20;
