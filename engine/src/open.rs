//! Creating and opening pools.
//!
//! Opening: the newest valid superblock, the free map, the version table, then the journal. Time is bounded by the size of the journal
//! and of the map of what is in use (32 MiB a TiB), not by what volumes hold.

use std::{
    cell::{Cell, RefCell},
    fs::{File, OpenOptions as FileOptions},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustc_hash::FxHashSet;

use crate::{
    checkpoint::{
        map::{self, Map},
        table::Table,
    },
    core::{Attached, Commit, Core, Inherited, Limits, Signals},
    error::{Error, ErrorKind, Result, busy, exists, invalid, read_only},
    format::{
        pointer::Pointer,
        superblock::{MARGIN, Superblock, slot_block},
    },
    gate::Gates,
    gather::Gather,
    journal::{Pending, Ring},
    options::{MIN_POOL, OpenOptions, PoolOptions, StorageKind},
    qos::Qos,
    reactor::{Reactor, Shared, clock::SystemClock},
    recover::read_superblock,
    space::{Space, reach::Reach},
    state::State,
    storage::{Storage, buffer::IoBuf, sync::SyncStorage, uring::UringStorage},
    tree::Nodes,
    units::{BLOCK, BLOCK_SIZE, Epoch, GIB, MIB},
    versions::Lineage,
    writeback::Backlogs,
};

/// Opens the pool's file or device: with direct I/O where the file system takes it, and locked against others.
fn open_file(path: &Path, read_only: bool, create: bool) -> Result<File> {
    let mut options = FileOptions::new();
    let _options = options.read(true).write(!read_only).create_new(create);
    let direct = options.clone().custom_flags(libc::O_DIRECT | libc::O_CLOEXEC).open(path);
    let file = match direct {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
            options.create_new(false).custom_flags(libc::O_CLOEXEC).open(path)
        }
        other => other,
    };
    let file = file.map_err(|e| match e.kind() {
        io::ErrorKind::AlreadyExists => {
            exists(format!("{} exists already: choose another path, or remove it", path.display()))
        }
        io::ErrorKind::NotFound if !create => Error::new(
            ErrorKind::NotFound,
            format!("there is no pool at {}: make one with `cairn pool create`", path.display()),
        ),
        _ => Error::io(format!("cannot open {}", path.display()), e),
    })?;
    let kind = if read_only { libc::LOCK_SH } else { libc::LOCK_EX };
    // SAFETY: plain system call on a descriptor that we own.
    if unsafe { libc::flock(file.as_raw_fd(), kind | libc::LOCK_NB) } != 0 {
        return Err(busy(format!(
            "pool {} is open already, here or in another process: use it through that one (its control socket), or stop it",
            path.display()
        )));
    }
    Ok(file)
}

/// Size of a file or device.
fn size_of(file: &File, path: &Path) -> Result<u64> {
    use std::io::Seek;
    let mut file = file;
    file.seek(io::SeekFrom::End(0)).map_err(|e| Error::io(format!("cannot tell the size of {}", path.display()), e))
}

/// Where everything goes in a pool of `total` blocks.
pub(crate) fn geometry(total: u64, journal_size: Option<u64>) -> Result<Superblock> {
    let bytes = total * BLOCK;
    let journal = journal_size.unwrap_or((bytes / 64).clamp(4 * MIB, 64 * MIB)) / BLOCK;
    if journal < 4 * MIB / BLOCK || journal > total / 4 {
        return Err(invalid(format!(
            "a journal of {} bytes does not suit a pool of {bytes} bytes: at least 4 MiB, at most a quarter of the pool",
            journal * BLOCK
        )));
    }
    let map_start = MARGIN + journal;
    let data_start = (map_start + map::blocks(total)).next_multiple_of(64);
    let levels = Map::new(map_start, total);
    Ok(Superblock {
        format: crate::format::FORMAT,
        uuid: [0; 16],
        checkpoint: 0,
        total_blocks: total,
        journal_start: MARGIN,
        journal_blocks: journal,
        map_start,
        data_start,
        data_end: (total - MARGIN) / 64 * 64,
        group_seq: 1,
        group_at: 0,
        epoch: Epoch(1),
        slot: 0,
        next_version: 1,
        next_volume: 1,
        created_ms: 0,
        table_root: Pointer::HOLE,
        table_pages: 0,
        next_deletion: 1,
        map_levels: levels.levels.len() as u32 - 1,
        map_top: levels.top(),
    })
}

fn random_uuid() -> Result<[u8; 16]> {
    let mut uuid = [0; 16];
    // SAFETY: sixteen bytes into a local.
    let n = unsafe { libc::getrandom(uuid.as_mut_ptr().cast(), uuid.len(), 0) };
    if n == 16 { Ok(uuid) } else { Err(Error::io("cannot get randomness", io::Error::last_os_error())) }
}

/// Everything needed to run a pool on the reactor's thread.
pub(crate) struct Opening {
    pub(crate) plan: Plan,
    pub(crate) file: File,
}

/// What a pool is opened with, wherever it lies.
pub(crate) struct Plan {
    pub(crate) path: PathBuf,
    /// Bytes of the file or device.
    pub(crate) size: u64,
    pub(crate) options: OpenOptions,
    /// The superblock of a new pool.
    pub(crate) fresh: Option<Superblock>,
    /// Whether the pool grows as it is used.
    pub(crate) thin: bool,
}

/// Makes the file ready for a new pool. Nothing is there to be opened until the first checkpoint.
pub(crate) fn prepare_create(path: &Path, options: &PoolOptions) -> Result<Opening> {
    let existing = std::fs::metadata(path).ok();
    let device = existing.as_ref().is_some_and(|m| m.file_type().is_block_device());
    if options.prewritten.is_some() && options.open.storage == StorageKind::Uring {
        // Not after all has been written.
        UringStorage::probe().map_err(|e| without_uring(&e))?;
    }
    let file = open_file(path, false, !device)?;
    let made = prepare_file(path, &file, device, options);
    if made.is_err() && !device {
        // Nothing was stored yet; the caller is told why, and the path is free again.
        drop(std::fs::remove_file(path));
    }
    let plan = Plan {
        path: path.to_owned(),
        fresh: Some(made?),
        size: size_of(&file, path)?,
        options: options.open.clone(),
        thin: !device && !options.sets_all_aside(),
    };
    Ok(Opening { plan, file })
}

fn without_uring(cause: &io::Error) -> Error {
    Error::new(ErrorKind::Unsupported, format!("io_uring cannot be used here ({cause}): use --storage pread"))
}

fn prepare_file(path: &Path, file: &File, device: bool, options: &PoolOptions) -> Result<Superblock> {
    let actual = if device { size_of(file, path)? } else { 0 };
    let size = match (options.size, device) {
        (Some(size), true) if size > actual => {
            return Err(invalid(format!("{} has {actual} bytes: a pool of {size} bytes does not fit", path.display())));
        }
        (Some(size), _) => size,
        (None, true) => actual,
        (None, false) => return Err(invalid("a new pool in a file needs a size, for example --size 64GiB")),
    };
    if !(MIN_POOL..=1 << 59).contains(&size) {
        return Err(invalid(format!("a pool of {size} bytes is out of range: at least 32 MiB")));
    }
    let mut superblock = geometry(size / BLOCK, options.journal_size)?;
    if device && has_superblock(file, superblock.total_blocks) {
        return Err(exists(format!("{} holds a Cairn pool already: wipe it first (wipefs -a)", path.display())));
    }
    superblock.uuid = random_uuid()?;
    if !device {
        let bytes = superblock.total_blocks * BLOCK;
        file.set_len(bytes).map_err(|e| Error::io(format!("cannot make {} {bytes} bytes long", path.display()), e))?;
        // The fixed areas always have their room; the rest only when asked for.
        let ahead = if options.sets_all_aside() { bytes } else { superblock.data_start * BLOCK };
        allocate(file, 0, ahead, path)?;
        allocate(file, superblock.data_end * BLOCK, bytes - superblock.data_end * BLOCK, path)?;
        if let Some(written) = &options.prewritten {
            prewrite(file, bytes, written)
                .map_err(|e| Error::io(format!("cannot write all of {} once", path.display()), e))?;
        }
    }
    Ok(superblock)
}

fn allocate(file: &File, offset: u64, len: u64, path: &Path) -> Result<()> {
    // SAFETY: plain system call without pointers.
    let failed = unsafe { libc::fallocate(file.as_raw_fd(), 0, offset as libc::off_t, len as libc::off_t) } != 0;
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        _ if !failed => Ok(()),
        // Such a file system finds out when it is written to.
        Some(libc::EOPNOTSUPP | libc::ENOSYS) => Ok(()),
        _ => Err(Error::io(format!("cannot set aside {len} bytes for {}", path.display()), error)),
    }
}

fn prewrite(file: &File, bytes: u64, written: &AtomicU64) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let zeros = IoBuf::zeroed(4 << 20);
    let mut at = 0;
    while at < bytes {
        let n = (zeros.len() as u64).min(bytes - at);
        file.write_all_at(&zeros[..n as usize], at)?;
        at += n;
        written.store(at, Ordering::Relaxed);
    }
    file.sync_all()
}

fn has_superblock(file: &File, total: u64) -> bool {
    use std::os::unix::fs::FileExt;
    let mut buf = IoBuf::zeroed(BLOCK_SIZE);
    (0..4).any(|slot| {
        file.read_exact_at(&mut buf, slot_block(slot, total) * BLOCK).is_ok() && Superblock::decode(&buf, slot).is_ok()
    })
}

/// Opens the file of a pool that exists.
pub(crate) fn prepare_open(path: &Path, options: &OpenOptions) -> Result<Opening> {
    let meta = std::fs::metadata(path);
    if meta.as_ref().is_ok_and(|m| !m.is_file() && !m.file_type().is_block_device()) {
        return Err(invalid(format!("{} is neither a file nor a block device", path.display())));
    }
    // A file that has all of its blocks already (made so, or grown so) is not given back piece by piece.
    let thin = meta.is_ok_and(|m| m.is_file() && m.blocks() * 512 < m.len());
    let file = open_file(path, options.read_only, false)?;
    let size = size_of(&file, path)?;
    Ok(Opening { plan: Plan { path: path.to_owned(), size, options: options.clone(), fresh: None, thin }, file })
}

impl Opening {
    /// The reactor over this file, for the thread that runs it.
    pub(crate) fn reactor(&self, shared: &Arc<Shared>) -> Result<Reactor> {
        let file = self.file.try_clone().map_err(|e| Error::io("cannot duplicate a descriptor", e))?;
        let storage: Box<dyn Storage> = match self.plan.options.storage {
            StorageKind::Pread => Box::new(SyncStorage::new(file, shared.wake.clone())),
            StorageKind::Uring => {
                Box::new(UringStorage::new(file, shared.wake.clone()).map_err(|e| without_uring(&e))?)
            }
        };
        Ok(Reactor::new(shared.clone(), storage, Box::new(SystemClock::new())))
    }

    /// As [`Plan::open`].
    pub(crate) async fn open(self, reactor: Reactor) -> Result<Rc<Core>> {
        self.plan.open(reactor, Some(self.file)).await
    }
}

impl Plan {
    /// Reads the pool (or writes the first checkpoint of a new one) and starts its background tasks. `lock` is held for as long as
    /// the pool is open.
    pub(crate) async fn open(self, reactor: Reactor, lock: Option<File>) -> Result<Rc<Core>> {
        let start = reactor.now();
        let fresh = self.fresh.is_some();
        let (superblock, inherited, events) = match self.fresh {
            Some(mut superblock) => {
                superblock.created_ms = reactor.unix_ms();
                (superblock, Inherited { checkpoint: 0, unusable: [true; 4] }, Vec::new())
            }
            None => read_superblock(&reactor, self.size, &self.path).await?,
        };
        let core = build(reactor, superblock, inherited, &self.options, self.path, lock, self.thin);
        let close_journal = if fresh {
            core.first_checkpoint().await?;
            false
        } else {
            core.recover(self.size, self.options.repair).await?
        };
        core.start(close_journal).await?;
        for event in events {
            core.state.borrow_mut().event(event);
        }
        core.open_time.set(core.reactor.now().saturating_sub(start));
        Ok(core)
    }
}

fn build(
    reactor: Reactor,
    superblock: Superblock,
    inherited: Inherited,
    options: &OpenOptions,
    path: PathBuf,
    lock: Option<File>,
    thin: bool,
) -> Rc<Core> {
    let total = superblock.total_blocks;
    let space = Space::new(total, superblock.data_start, superblock.data_end, Reach::new(total), thin);
    let lineage =
        Lineage::new(superblock.epoch, superblock.next_version, superblock.next_volume, superblock.next_deletion);
    let state = State {
        nodes: Nodes::new(options.cache_bytes.max(16 * MIB)),
        space,
        lineage,
        journal: Pending::default(),
        events: std::collections::VecDeque::new(),
        next_event: 1,
        checksum_errors: 0,
        divergence: 0,
        scrubbed: FxHashSet::default(),
        counting: None,
        freed: 0,
        replaying: false,
    };
    let ring = Ring { blocks: superblock.journal_blocks, head: superblock.group_at, tail: superblock.group_at };
    let commit = Commit {
        ring,
        open: superblock.group_seq,
        committed: superblock.group_seq - 1,
        wanted: superblock.group_seq - 1,
    };
    let latch = match (options.read_only, options.repair) {
        (true, _) => Some(read_only(format!("pool {} was opened for reading only", path.display()))),
        (false, true) => Some(read_only(format!("pool {} is open for a repair: repair it first", path.display()))),
        (false, false) => None,
    };
    Rc::new(Core {
        map: RefCell::new(Map::new(superblock.map_start, total)),
        table: RefCell::new(Table::default()),
        superblock: RefCell::new(superblock),
        qos: Rc::new(Qos::new(reactor.clone())),
        reactor,
        state: RefCell::new(state),
        gather: RefCell::new(Gather::default()),
        commit: RefCell::new(commit),
        attached: RefCell::new(Attached::default()),
        gates: Gates::default(),
        backlogs: Rc::new(Backlogs::new(options.writeback_bytes.clamp(MIB, 64 * GIB))),
        signals: Signals::default(),
        limits: Limits {
            dirty_bytes: options.dirty_bytes.clamp(4 * MIB, 64 * GIB),
            checkpoint_age: Duration::from_secs(60),
            commit_age: Duration::from_secs(1),
        },
        path,
        thin,
        opened_read_only: Cell::new(options.read_only || options.repair),
        opened_for_repair: options.repair && !options.read_only,
        journal_to_close: Cell::new(false),
        inherited: Cell::new(inherited),
        latch: RefCell::new(latch),
        checkpoint_wanted: Cell::new(false),
        checkpoint_running: Cell::new(false),
        checkpoints_begun: Cell::new(0),
        checkpoints_ended: Cell::new(0),
        checkpoints_held: Cell::new(false),
        committing: Cell::new(false),
        growing: Cell::new(false),
        grew: Cell::new(false),
        closing: Cell::new(false),
        giving_back: Cell::new(false),
        counting: Cell::new(false),
        deletion_retry: Cell::new(None),
        deletion_failed: RefCell::default(),
        check_running: Cell::new(false),
        check_yield: Cell::new(false),
        repairing: Cell::new(false),
        scrub: RefCell::default(),
        scrub_holds: Cell::new(false),
        regroup: RefCell::default(),
        regroup_holds: Cell::new(false),
        block_locks: crate::locks::BlockLocks::default(),
        last_checkpoint: Cell::new(Duration::ZERO),
        watermark: Cell::new(0),
        replayed: Cell::new(0),
        open_time: Cell::new(Duration::ZERO),
        _lock: lock,
    })
}
