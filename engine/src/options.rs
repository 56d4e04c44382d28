//! How pools are made and opened: what a caller may choose.

use std::sync::{Arc, atomic::AtomicU64};

use crate::units::MIB;

/// Smallest pool.
pub const MIN_POOL: u64 = 32 * MIB;

/// Which system interface a pool uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum StorageKind {
    /// `io_uring`, the fast one.
    #[default]
    Uring,
    /// `pread` and `pwrite`, for systems where `io_uring` is not allowed.
    Pread,
}

/// How to open a pool.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    pub(crate) storage: StorageKind,
    pub(crate) cache_bytes: u64,
    pub(crate) dirty_bytes: u64,
    pub(crate) writeback_bytes: u64,
    pub(crate) read_only: bool,
    pub(crate) repair: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            storage: StorageKind::default(),
            cache_bytes: 256 * MIB,
            dirty_bytes: 128 * MIB,
            writeback_bytes: 32 * MIB,
            read_only: false,
            repair: false,
        }
    }
}

impl OpenOptions {
    /// The defaults: `io_uring`, 256 MiB of cached and 128 MiB of changed metadata, 32 MiB of writes on their way to the device, for writing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Which system interface to use.
    #[must_use]
    pub fn storage(mut self, kind: StorageKind) -> Self {
        self.storage = kind;
        self
    }

    /// Memory for cached metadata nodes, in bytes (at least 16 MiB).
    #[must_use]
    pub fn cache_bytes(mut self, bytes: u64) -> Self {
        self.cache_bytes = bytes;
        self
    }

    /// Memory for metadata nodes that no checkpoint has written yet, in bytes (at least 4 MiB). Writers wait at the bound.
    #[must_use]
    pub fn dirty_bytes(mut self, bytes: u64) -> Self {
        self.dirty_bytes = bytes;
        self
    }

    /// Memory for writes that were acknowledged and are on their way to the device, in bytes (at least 1 MiB), for all volumes with
    /// `cache=writeback` together. Writers wait at the bound.
    #[must_use]
    pub fn writeback_bytes(mut self, bytes: u64) -> Self {
        self.writeback_bytes = bytes;
        self
    }

    /// Opens without changing anything; others may do so at the same time.
    #[must_use]
    pub fn read_only(mut self, yes: bool) -> Self {
        self.read_only = yes;
        self
    }

    /// Opens for a repair: nothing is written (not even what opening after a crash writes) until [`Pool::repair`](crate::Pool::repair) is
    /// called, and damage that a repair can mend does not keep the pool from being opened. From the repair on it is open for writing.
    #[must_use]
    pub fn repair(mut self, yes: bool) -> Self {
        self.repair = yes;
        self
    }
}

/// How to make a pool.
#[derive(Clone, Debug, Default)]
pub struct PoolOptions {
    pub(crate) size: Option<u64>,
    pub(crate) preallocate: bool,
    pub(crate) prewritten: Option<Arc<AtomicU64>>,
    pub(crate) journal_size: Option<u64>,
    pub(crate) open: OpenOptions,
}

impl PoolOptions {
    /// A pool as large as its device; a file needs a [`size`](Self::size).
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Size in bytes, at least 32 MiB; rounded down to 4 KiB.
    #[must_use]
    pub fn size(mut self, bytes: u64) -> Self {
        self.size = Some(bytes);
        self
    }

    /// Sets all room aside at once instead of growing the file as it is used.
    #[must_use]
    pub fn preallocate(mut self, yes: bool) -> Self {
        self.preallocate = yes;
        self
    }

    /// As [`preallocate`](Self::preallocate), and has all of the file written once: a file system notes for each block when it is written for the
    /// first time, and a flush after that waits for the note. Then [`Pool::create`](crate::Pool::create) takes as long as writing the whole pool, in which
    /// its thread does nothing else; `written` counts the bytes. Without meaning for a device.
    #[must_use]
    pub fn prewrite(mut self, written: Arc<AtomicU64>) -> Self {
        self.prewritten = Some(written);
        self
    }

    pub(crate) fn sets_all_aside(&self) -> bool {
        self.preallocate || self.prewritten.is_some()
    }

    /// Size of the journal in bytes (at least 4 MiB, at most a quarter of the pool; by default 1/64 of the pool within 4 and 64 MiB).
    #[must_use]
    pub fn journal_size(mut self, bytes: u64) -> Self {
        self.journal_size = Some(bytes);
        self
    }

    /// How to open it afterwards.
    #[must_use]
    pub fn open(mut self, options: OpenOptions) -> Self {
        self.open = options;
        self
    }
}
