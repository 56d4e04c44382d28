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
    sync::Arc,
    time::Duration,
};

use crate::{
    checkpoint::{
        map::{self, Map},
        table::Table,
    },
    core::{Attached, Commit, Core, Limits, Signals, read_blocks},
    error::{Error, ErrorKind, Result, busy, corrupt, exists, invalid, read_only, unsupported},
    format::{
        pointer::{Place, Pointer},
        superblock::{MARGIN, Superblock, slot_block},
    },
    gather::Gather,
    info::Event,
    journal::{Pending, Ring},
    options::{MIN_POOL, OpenOptions, PoolOptions, StorageKind},
    reactor::{Reactor, Shared, clock::SystemClock},
    replay::Journal,
    space::{
        Space,
        reach::{PIECE_BLOCKS, Reach},
    },
    state::State,
    storage::{Op, Storage, buffer::IoBuf, sync::SyncStorage, uring::UringStorage},
    tree::Nodes,
    units::{BLOCK, BLOCK_SIZE, Epoch, GIB, MIB},
    versions::{Lineage, table::decode_page},
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
        thin: !device && !options.preallocate,
    };
    Ok(Opening { plan, file })
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
        let ahead = if options.preallocate { bytes } else { superblock.data_start * BLOCK };
        allocate(file, 0, ahead, path)?;
        allocate(file, superblock.data_end * BLOCK, bytes - superblock.data_end * BLOCK, path)?;
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
            StorageKind::Uring => Box::new(UringStorage::new(file, shared.wake.clone()).map_err(|e| {
                Error::new(ErrorKind::Unsupported, format!("io_uring cannot be used here ({e}): use --storage pread"))
            })?),
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
        let (superblock, events) = match self.fresh {
            Some(mut superblock) => {
                superblock.created_ms = reactor.unix_ms();
                (superblock, Vec::new())
            }
            None => read_superblock(&reactor, self.size, &self.path).await?,
        };
        let core = build(reactor, superblock, &self.options, self.path, lock, self.thin);
        let close_journal = if fresh {
            core.first_checkpoint().await?;
            false
        } else {
            core.recover(self.size).await?
        };
        core.start(close_journal).await?;
        for event in events {
            core.state.borrow_mut().event(event);
        }
        core.open_time.set(core.reactor.now().saturating_sub(start));
        Ok(core)
    }
}

/// The newest valid superblock, and events for copies that are not.
async fn read_superblock(reactor: &Reactor, size: u64, path: &Path) -> Result<(Superblock, Vec<Event>)> {
    let total = size / BLOCK;
    if total < MARGIN * 2 {
        return Err(invalid(format!("{} is not a Cairn pool: it has only {size} bytes", path.display())));
    }
    let mut valid: Vec<Superblock> = Vec::new();
    let mut faults: Vec<(u32, Error)> = Vec::new();
    for slot in 0..4 {
        // The tail copies are found through a head copy, or where the file ends.
        let total = valid.first().map_or(total, |sb| sb.total_blocks);
        let copy = match read_blocks(reactor, slot_block(slot, total), 1).await {
            Ok(bytes) => Superblock::decode(&bytes, slot),
            Err(e) => Err(e),
        };
        match copy {
            Ok(superblock) => valid.push(superblock),
            Err(error) => faults.push((slot, error)),
        }
    }
    if let Some((_, error)) = faults.iter().find(|(_, e)| e.kind() == ErrorKind::Unsupported)
        && valid.is_empty()
    {
        return Err(unsupported(format!("{}: {error}", path.display())));
    }
    // Damage is told from a write that was cut short by the other copy. What cannot be read may be the newest there is: the
    // device has to be mended first, or acknowledged writes would be lost without a word.
    let unreadable = |slot: u32| faults.iter().any(|(s, e)| *s == slot && e.kind() == ErrorKind::Io);
    if (unreadable(0) && unreadable(2)) || (unreadable(1) && unreadable(3)) {
        let reason =
            faults.iter().find(|(_, e)| e.kind() == ErrorKind::Io).map(|(_, e)| e.to_string()).unwrap_or_default();
        return Err(Error::new(
            ErrorKind::Io,
            format!(
                "{}: both copies of a superblock cannot be read ({reason}): mend the device, then try again",
                path.display()
            ),
        ));
    }
    let Some(best) = valid.iter().max_by_key(|sb| sb.checkpoint).cloned() else {
        let reason = faults.first().map(|(_, e)| e.to_string()).unwrap_or_default();
        let kind = if faults.iter().any(|(_, e)| e.kind() == ErrorKind::Corrupt) {
            ErrorKind::Corrupt
        } else {
            ErrorKind::Invalid
        };
        return Err(Error::new(
            kind,
            format!("{}: no usable superblock in any of its four places ({reason})", path.display()),
        ));
    };
    if valid.iter().any(|sb| sb.uuid != best.uuid) {
        return Err(corrupt(format!(
            "{} holds superblocks of two different pools: restore from a backup",
            path.display()
        )));
    }
    if best.total_blocks > total {
        return Err(corrupt(format!(
            "{} is truncated: the pool has {} bytes, the file {size}",
            path.display(),
            best.total_blocks * BLOCK
        )));
    }
    // The first checkpoint leaves the other parity's slots empty.
    let newest = crate::format::superblock::slots_of(best.checkpoint);
    let expected = |slot: &u32| newest.contains(slot) || best.checkpoint > 1;
    let events = faults.iter().filter(|(slot, _)| expected(slot)).map(|(slot, error)| Event::CopyUsed {
        what: format!("superblock copy {slot} is unusable ({error}); another one was used"),
    });
    Ok((best.clone(), events.collect()))
}

fn build(
    reactor: Reactor,
    superblock: Superblock,
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
    let latch = options.read_only.then(|| read_only(format!("pool {} was opened for reading only", path.display())));
    Rc::new(Core {
        map: RefCell::new(Map::new(superblock.map_start, total)),
        table: RefCell::new(Table::default()),
        superblock: RefCell::new(superblock),
        reactor,
        state: RefCell::new(state),
        gather: RefCell::new(Gather::default()),
        commit: RefCell::new(commit),
        attached: RefCell::new(Attached::default()),
        signals: Signals::default(),
        limits: Limits {
            dirty_bytes: options.dirty_bytes.clamp(4 * MIB, 64 * GIB),
            checkpoint_age: Duration::from_secs(60),
            commit_age: Duration::from_secs(1),
        },
        path,
        thin,
        opened_read_only: options.read_only,
        latch: RefCell::new(latch),
        checkpoint_wanted: Cell::new(false),
        checkpoint_running: Cell::new(false),
        checkpoints_begun: Cell::new(0),
        committing: Cell::new(false),
        growing: Cell::new(false),
        grew: Cell::new(false),
        counting: Cell::new(false),
        deletion_retry: Cell::new(None),
        deletion_failed: RefCell::default(),
        check_running: Cell::new(false),
        check_yield: Cell::new(false),
        locked_blocks: RefCell::default(),
        last_checkpoint: Cell::new(Duration::ZERO),
        watermark: Cell::new(0),
        replayed: Cell::new(0),
        open_time: Cell::new(Duration::ZERO),
        _lock: lock,
    })
}

impl Core {
    /// Makes a new pool. What an earlier pool left in the superblocks' places goes first, or it could be taken for the newer one.
    async fn first_checkpoint(self: &Rc<Self>) -> Result<()> {
        let total = self.superblock.borrow().total_blocks;
        for slot in 0..4 {
            self.write_metadata(slot_block(slot, total), IoBuf::zeroed(BLOCK_SIZE), "the superblock").await?;
        }
        self.sync().await?;
        self.run_checkpoint().await
    }

    /// From the superblock to the state at the last commit; says whether the journal held any group, complete or not.
    async fn recover(self: &Rc<Self>, size: u64) -> Result<bool> {
        debug_assert!(size >= self.superblock.borrow().total_blocks * BLOCK);
        let mut damaged = Vec::new();
        let reach = self.read_map(&mut damaged).await?;
        self.set_reach(reach);
        self.read_table().await?;
        if !damaged.is_empty() {
            self.rebuild_map(&damaged).await;
        }
        let journal = Journal::read(self).await?;
        {
            let mut commit = self.commit.borrow_mut();
            for group in &journal.groups {
                let _at = commit.ring.take(group.header.blocks());
                commit.committed = group.header.seq;
                commit.open = group.header.seq + 1;
            }
            commit.wanted = commit.committed;
        }
        let replayed = journal.replay(self).await?;
        self.replayed.set(replayed);
        self.state.borrow_mut().space.committed(self.commit.borrow().committed);
        // An empty last group is closed as it is, so that opening again and again does not fill the ring.
        Ok(journal.dropped || journal.groups.last().is_some_and(|g| g.header.records > 0))
    }

    fn set_reach(&self, reach: Reach) {
        let sb = self.superblock.borrow();
        self.state.borrow_mut().space = Space::new(sb.total_blocks, sb.data_start, sb.data_end, reach, self.thin);
    }

    /// What damaged pieces of the free map held follows from the versions. Where those are damaged too, the pieces stay all in use:
    /// that wastes space, but overwrites nothing.
    async fn rebuild_map(self: &Rc<Self>, damaged: &[u64]) {
        match crate::check::reachable(self).await {
            Ok(seen) => {
                let mut reach = self.state.borrow().space.reach.clone();
                for &piece in damaged {
                    reach.replace(piece, &seen);
                }
                self.set_reach(reach);
                let what = format!("pieces {damaged:?} of the free map were damaged; they were rebuilt from the versions");
                self.state.borrow_mut().event(Event::CopyUsed { what });
            }
            Err(error) => self.corruption(&format!(
                "pieces {damaged:?} of the free map are damaged and cannot be rebuilt ({error}): their blocks count as in use"
            )),
        }
    }

    /// Reads the free map. A damaged piece counts as all in use for now, and is named in `damaged`.
    async fn read_map(self: &Rc<Self>, damaged: &mut Vec<u64>) -> Result<Reach> {
        let superblock = self.superblock.borrow().clone();
        let mut reach = Reach::new(superblock.total_blocks);
        let levels = self.map.borrow().levels.len();
        if let Some(top) = self.map.borrow_mut().levels.last_mut() {
            if top.len() != superblock.map_top.len() {
                return Err(corrupt("the superblock lists a free map of another size"));
            }
            top.clone_from(&superblock.map_top);
        }
        for level in (0..levels).rev() {
            let count = self.map.borrow().levels[level].len();
            let mut reads = std::collections::VecDeque::new();
            let mut next = 0;
            while next < count || !reads.is_empty() {
                if next < count && reads.len() < 64 {
                    let entry = self.map.borrow().levels[level][next];
                    if entry.place != 0 {
                        let block = self.map.borrow().block(level, next, entry.place);
                        let op = Op::Read { offset: block * BLOCK, buf: IoBuf::with_len(BLOCK_SIZE) };
                        reads.push_back((next, entry.crc, block, self.reactor.submit(op)));
                    }
                    next += 1;
                    continue;
                }
                let Some((index, crc, block, read)) = reads.pop_front() else { break };
                let done = read.await;
                let Op::Read { buf, .. } = done.op else { continue };
                let sound = done.result.is_ok_and(|n| n == BLOCK_SIZE) && crc32fast::hash(&buf) == crc;
                if level == 0 && !sound {
                    damaged.push(index as u64);
                }
                self.take_piece(&mut reach, (level, index), block, sound.then_some(&buf[..]))?;
            }
        }
        Ok(reach)
    }

    fn take_piece(
        &self,
        reach: &mut Reach,
        (level, index): (usize, usize),
        block: u64,
        bytes: Option<&[u8]>,
    ) -> Result<()> {
        match (level, bytes) {
            (0, Some(bytes)) => reach.load(index as u64, bytes),
            (0, None) => {
                self.corruption(&format!("piece {index} of the free map (block {block}) is damaged"));
                let sb = self.superblock.borrow();
                let start = (index as u64 * PIECE_BLOCKS).max(sb.data_start);
                let end = ((index as u64 + 1) * PIECE_BLOCKS).min(sb.data_end);
                if start < end {
                    let _count = reach.add(crate::space::bitmap::Run { start, len: end - start });
                }
            }
            (_, Some(bytes)) if self.map.borrow_mut().load_entries(level - 1, index, bytes) => {}
            _ => {
                return Err(corrupt(format!(
                    "the directory of the free map is damaged (block {block}): restore from a backup"
                )));
            }
        }
        Ok(())
    }

    /// Reads the version table.
    async fn read_table(self: &Rc<Self>) -> Result<()> {
        let superblock = self.superblock.borrow().clone();
        let pages = superblock.table_pages as usize;
        if superblock.table_pages > 1 << 24 {
            return Err(corrupt("the superblock names more table pages than there can be"));
        }
        self.table.borrow_mut().resize(pages);
        let top = self.table.borrow().levels.len();
        if top == 0 {
            return Ok(());
        }
        self.table.borrow_mut().levels[top - 1][0] = superblock.table_root;
        for level in (0..top).rev() {
            let count = self.table.borrow().levels[level].len();
            for first in (0..count).step_by(64) {
                let batch: Vec<_> = (first..count.min(first + 64))
                    .map(|i| {
                        let pointer = self.table.borrow().levels[level][i];
                        let block = match pointer.place() {
                            Place::Data(b) | Place::Node(b) => b.0,
                            _ => 0,
                        };
                        let op = Op::Read { offset: block * BLOCK, buf: IoBuf::with_len(BLOCK_SIZE) };
                        (i, pointer, block, self.reactor.submit(op))
                    })
                    .collect();
                for (index, pointer, block, read) in batch {
                    let done = read.await;
                    let n = done
                        .result
                        .map_err(|e| Error::io(format!("cannot read the version table at block {block}"), e))?;
                    let Op::Read { buf, .. } = done.op else { continue };
                    if n != BLOCK_SIZE || crc32fast::hash(&buf) != pointer.crc() {
                        return Err(corrupt(format!(
                            "the version table is damaged at block {block} (level {level}, entry {index}): restore from a backup"
                        )));
                    }
                    self.take_table_block(level, index, &buf)?;
                }
            }
        }
        Ok(())
    }

    fn take_table_block(&self, level: usize, index: usize, bytes: &[u8]) -> Result<()> {
        if level == 0 {
            let mut state = self.state.borrow_mut();
            for version in decode_page(bytes, index as u64)? {
                if state.lineage.get(version.id).is_some() {
                    return Err(corrupt(format!("version {} stands twice in the version table", version.id)));
                }
                state.lineage.load(version, index as u32);
            }
            return Ok(());
        }
        let mut table = self.table.borrow_mut();
        let below = &mut table.levels[level - 1];
        for (i, chunk) in bytes.as_chunks::<16>().0.iter().enumerate() {
            if let Some(slot) = below.get_mut(index * 256 + i) {
                *slot = Pointer::from_bytes(*chunk);
            }
        }
        Ok(())
    }

    /// Starts the background tasks. A recovered journal is closed with an empty group before anything can be written, so that its
    /// last group is never again the one whose data decides whether it counts.
    async fn start(self: &Rc<Self>, close_journal: bool) -> Result<()> {
        let core = Rc::downgrade(self);
        self.reactor.at_turn_end(Some(Rc::new(move || {
            if let Some(core) = core.upgrade() {
                core.send_gathered();
            }
        })));
        if self.opened_read_only {
            self.reactor.spawn(self.clone().tick_task()).detach();
            return Ok(());
        }
        // After the end of a process, what was read may be in the device's cache only. Nothing that builds on it may outlive it.
        self.sync().await?;
        if close_journal {
            self.close_journal().await?;
        }
        // A ring that is rather full is emptied before anything else can write a record: the state is frozen without a group.
        if self.commit.borrow().ring.used() * 2 > self.commit.borrow().ring.blocks {
            self.want_checkpoint();
        }
        self.reactor.spawn(self.clone().checkpoint_task()).detach();
        self.reactor.spawn(self.clone().commit_task()).detach();
        self.reactor.spawn(self.clone().deletion_task()).detach();
        self.reactor.spawn(self.clone().tick_task()).detach();
        Ok(())
    }
}
