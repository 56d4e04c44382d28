//! A file or a block device: io_uring and direct I/O, the physical limit.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use cairn_engine::{ALIGN, Error, ErrorKind, IoBuf, Result};
use io_uring::{IoUring, opcode, squeue, types};
use rustix::fs::{FlockOperation, StatxFlags};

use crate::{
    bench::{Bench, invalid},
    lane::{Ask, Done, Kind, Lane, Shape, TICK},
    target::{Holds, Subject},
};

/// Registered buffers hold so much at most.
const MAX_REGISTERED: usize = 1 << 30;

/// An open file or device.
pub(crate) struct Disk {
    file: File,
    path: PathBuf,
}

impl Disk {
    /// Opens what is to be measured, or makes it: see [`made`](Subject::made).
    pub(crate) fn open(path: &Path, bench: &Bench) -> Result<(Self, Subject)> {
        let failed = |e| Error::io(path.display().to_string(), e);
        let found = match std::fs::metadata(path) {
            Ok(found) => Some(found),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
        let made = found.is_none();
        let device = found.as_ref().is_some_and(|found| found.file_type().is_block_device());
        if found.is_some_and(|found| !found.is_file() && !device) {
            return Err(invalid(format!("{} is neither a file nor a block device", path.display())));
        }
        let mut options = OpenOptions::new();
        let mut flags = libc::O_DIRECT;
        if bench.writes() && device {
            // Refused by the kernel while the device is mounted, or part of another one.
            flags |= libc::O_EXCL;
        }
        let _options =
            options.read(true).write(bench.writes()).create_new(made && may_make(path, bench)?).custom_flags(flags);
        let file = options.open(path).map_err(|error| explain(path, device, error))?;
        let disk = Self { file, path: path.to_owned() };
        if bench.writes() {
            disk.lock()?;
        }
        let length = if made {
            disk.grow(bench)?
        } else {
            io::Seek::seek(&mut &disk.file, io::SeekFrom::End(0)).map_err(failed)?
        };
        let holds = if made || length == 0 { Holds::Nothing } else { disk.content() };
        let sparse = !device && !made && disk.file.metadata().is_ok_and(|m| m.blocks() * 512 < length);
        let subject = Subject {
            kind: if device { "device" } else { "file" },
            name: path.display().to_string(),
            size: length,
            granularity: disk.granularity(),
            read_only: false,
            flushes: true,
            made,
            holds,
            sparse,
            max_request: u64::MAX,
        };
        Ok((disk, subject))
    }

    /// Two processes that write to one file would each measure, and destroy, the other's work; a pool that is open holds the same lock.
    fn lock(&self) -> Result<()> {
        match rustix::fs::flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::new(
                ErrorKind::Busy,
                format!("{} is locked by another process: let that end (fuser {0} names it)", self.path.display()),
            )),
            Err(error) => Err(Error::io(format!("cannot lock {}", self.path.display()), error.into())),
        }
    }

    fn grow(&self, bench: &Bench) -> Result<u64> {
        let length = bench.offset.saturating_add(bench.size.unwrap_or(0));
        self.file.set_len(length).map_err(|e| Error::io(format!("cannot make {}", self.path.display()), e))?;
        Ok(length)
    }

    /// What the beginning looks like: for the refusal to write over it.
    fn content(&self) -> Holds {
        use std::os::unix::fs::FileExt;
        let mut head = IoBuf::zeroed(ALIGN);
        match self.file.read_at(&mut head, 0) {
            Ok(length) if head.get(..length).is_some_and(|head| head.starts_with(b"CAIRNPL")) => {
                Holds::Something("a Cairn pool")
            }
            _ => Holds::Something("data"),
        }
    }

    /// What offsets, lengths and addresses of direct I/O must be multiples of.
    fn granularity(&self) -> u64 {
        let all = StatxFlags::BASIC_STATS | StatxFlags::DIOALIGN;
        let told = rustix::fs::statx(&self.file, "", rustix::fs::AtFlags::EMPTY_PATH, all);
        told.map_or(0, |told| u64::from(told.stx_dio_offset_align)).max(512)
    }

    /// A ring of its own for a job.
    pub(crate) fn lane(&self, shape: Shape) -> Result<FileLane> {
        FileLane::new(&self.file, shape)
            .map_err(|e| Error::io(format!("cannot set up io_uring for {}", self.path.display()), e))
    }
}

impl Drop for Disk {
    /// A ring lets go of its files some time after its end, and the lock would last as long.
    fn drop(&mut self) {
        // There may have been none.
        let _unlocked = rustix::fs::flock(&self.file, FlockOperation::NonBlockingUnlock);
    }
}

/// Whether a file that is not there is made.
fn may_make(path: &Path, bench: &Bench) -> Result<bool> {
    if !bench.writes() {
        let text = format!(
            "{} is not there: name a file, a device, an NBD URL or a volume that is, or give --fill and --size to make a file",
            path.display()
        );
        return Err(Error::new(ErrorKind::NotFound, text));
    }
    if path.starts_with("/dev") && !path.starts_with("/dev/shm") {
        let text = format!("{} is not there: no device of this name, and no file is made in /dev", path.display());
        return Err(Error::new(ErrorKind::NotFound, text));
    }
    if bench.size.is_none() {
        return Err(invalid(format!("{} is not there: give --size to make it", path.display())));
    }
    Ok(true)
}

fn explain(path: &Path, device: bool, error: io::Error) -> Error {
    match error.raw_os_error() {
        Some(libc::EBUSY) if device => Error::new(
            ErrorKind::Busy,
            format!(
                "{} is in use, mounted or part of another device: it is not written to; unmount it, or measure reads only",
                path.display()
            ),
        ),
        Some(libc::EINVAL) => Error::new(
            ErrorKind::Unsupported,
            format!("the file system of {} takes no direct I/O: choose a file on another one", path.display()),
        ),
        _ => Error::io(path.display().to_string(), error),
    }
}

/// A ring, and buffers that are registered with it where the system lets them.
pub(crate) struct FileLane {
    ring: IoUring,
    buffers: IoBuf,
    shape: Shape,
    registered: bool,
    lengths: Vec<usize>,
    in_flight: usize,
}

impl FileLane {
    fn new(file: &File, shape: Shape) -> io::Result<Self> {
        let entries = (shape.depth as u32).next_power_of_two();
        let ring =
            IoUring::builder().setup_single_issuer().setup_coop_taskrun().setup_defer_taskrun().build(entries)?;
        ring.submitter().register_files(&[file.as_raw_fd()])?;
        let mut buffers = IoBuf::zeroed(shape.depth * shape.block);
        let vector = libc::iovec { iov_base: buffers.as_mut_ptr().cast(), iov_len: buffers.len() };
        // SAFETY: the buffers live as long as the ring, which is dropped first (see the order of the fields) and drained before that.
        let registered =
            buffers.len() <= MAX_REGISTERED && unsafe { ring.submitter().register_buffers(&[vector]) }.is_ok();
        Ok(Self { ring, buffers, shape, registered, lengths: vec![0; shape.depth], in_flight: 0 })
    }

    fn entry(&mut self, slot: usize, ask: Ask) -> squeue::Entry {
        const FILE: types::Fixed = types::Fixed(0);
        let address = self.buffer(slot).as_mut_ptr();
        let length = ask.length as u32;
        let entry = match (ask.kind, self.registered) {
            (Kind::Flush, _) => opcode::Fsync::new(FILE).flags(types::FsyncFlags::DATASYNC).build(),
            (Kind::Read, true) => opcode::ReadFixed::new(FILE, address, length, 0).offset(ask.offset).build(),
            (Kind::Read, false) => opcode::Read::new(FILE, address, length).offset(ask.offset).build(),
            (Kind::Write, true) => opcode::WriteFixed::new(FILE, address, length, 0).offset(ask.offset).build(),
            (Kind::Write, false) => opcode::Write::new(FILE, address, length).offset(ask.offset).build(),
        };
        entry.user_data(slot as u64)
    }

    fn enter(&mut self, until: Option<Instant>) -> io::Result<()> {
        let left = until.map_or(TICK, |until| until.saturating_duration_since(Instant::now()).min(TICK));
        let submitter = self.ring.submitter();
        let entered = if left.is_zero() || self.in_flight == 0 && until.is_none() {
            submitter.submit_with_args(0, &types::SubmitArgs::new())
        } else {
            let limit = types::Timespec::from(left);
            submitter.submit_with_args(1, &types::SubmitArgs::new().timespec(&limit))
        };
        match entered {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // Nothing ended in time, a signal came, or ended requests have to be taken first.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY) => Ok(()),
                _ => Err(error),
            },
        }
    }

    fn reap(&mut self, done: &mut Vec<Done>) {
        for entry in self.ring.completion() {
            let slot = entry.user_data() as usize;
            let wanted = self.lengths.get(slot).copied().unwrap_or(0);
            let outcome = match usize::try_from(entry.result()) {
                Err(_) => Err(Error::io("the file", io::Error::from_raw_os_error(-entry.result()))),
                Ok(length) if length == wanted => Ok(()),
                Ok(length) => {
                    Err(Error::new(ErrorKind::Io, format!("only {length} of {wanted} bytes were transferred")))
                }
            };
            self.in_flight -= 1;
            done.push(Done { slot, outcome });
        }
    }
}

impl Lane for FileLane {
    const KEEPS: bool = true;

    fn buffer(&mut self, slot: usize) -> &mut [u8] {
        let at = slot * self.shape.block;
        self.buffers.get_mut(at..at + self.shape.block).unwrap_or_default()
    }

    fn submit(&mut self, slot: usize, ask: Ask) -> Result<()> {
        let entry = self.entry(slot, ask);
        if let Some(length) = self.lengths.get_mut(slot) {
            *length = ask.length;
        }
        // SAFETY: the buffer belongs to the slot, which has no other request, and outlives the ring; nobody touches it until the end of the
        // request is told.
        unsafe { self.ring.submission().push(&entry) }
            .map_err(|_| Error::new(ErrorKind::Io, "the ring is full, though it has room for every slot"))?;
        self.in_flight += 1;
        Ok(())
    }

    async fn wait(&mut self, until: Option<Instant>, done: &mut Vec<Done>) -> Result<()> {
        self.enter(until).map_err(|e| Error::io("io_uring", e))?;
        self.reap(done);
        Ok(())
    }
}

impl Drop for FileLane {
    /// Requests in flight use the buffers: waits for them.
    fn drop(&mut self) {
        let mut done = Vec::new();
        while self.in_flight > 0 {
            if self.enter(Some(Instant::now() + Duration::from_secs(1))).is_err() {
                // The kernel may still write there: the memory stays.
                std::mem::forget(std::mem::replace(&mut self.buffers, IoBuf::zeroed(0)));
                return;
            }
            self.reap(&mut done);
        }
        // So that a device is free for the next exclusive use at once. A ring that is broken lets go by itself, later.
        drop(self.ring.submitter().unregister_files());
    }
}
