//! A vhost-user-blk socket, as the driver of a virtual machine uses it, without the machine: a queue for each job, and requests in memory that
//! the back-end maps.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
    ptr::NonNull,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use cairn_engine::{Error, Result};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{MemfdFlags, ftruncate, memfd_create},
};
use virtio_driver::{
    EventFd, QueueNotifier, VhostUser, VirtioBlkFeatureFlags, VirtioBlkQueue, VirtioBlkTransport, VirtioFeatureFlags,
    virtio_blk_max_queues,
};
use vm_memory::{FileOffset, MmapRegion};

use crate::{
    bench::{SECTOR, invalid},
    lane::{Ask, Done, Kind, Lane, Shape, TICK},
    target::{Holds, Subject},
};

/// Fewest descriptors of a queue.
const MIN_QUEUE: usize = 256;
/// Most: back-ends commonly take no more.
const MAX_QUEUE: usize = 1024;
/// Descriptors of a request: header, data, status.
const CHAIN: usize = 3;

/// Where a back-end listens.
pub(crate) struct Socket {
    path: PathBuf,
}

fn features() -> u64 {
    let ring =
        VirtioFeatureFlags::VERSION_1 | VirtioFeatureFlags::RING_EVENT_IDX | VirtioFeatureFlags::RING_INDIRECT_DESC;
    ring.bits() | VirtioBlkFeatureFlags::all().bits()
}

impl Socket {
    fn connect(&self) -> Result<Box<VirtioBlkTransport>> {
        let path = self.path.to_str().ok_or_else(|| invalid("the path of the socket is no text"))?;
        let transport = VhostUser::new(path, features()).map_err(|e| {
            Error::io(format!("vhost-user socket {}: is it attached, and used by nobody else?", self.path.display()), e)
        })?;
        Ok(Box::new(transport))
    }

    /// Asks the back-end what its disk is.
    pub(crate) fn open(path: &Path) -> Result<(Self, Subject)> {
        let socket = Self { path: path.to_owned() };
        let transport = socket.connect()?;
        let config = transport.get_config().map_err(|e| socket.failed(e))?;
        let flags = VirtioBlkFeatureFlags::from_bits_truncate(transport.get_features());
        let subject = Subject {
            kind: "vhost-user-blk",
            name: path.display().to_string(),
            size: u64::from(config.capacity).saturating_mul(SECTOR),
            granularity: match flags.contains(VirtioBlkFeatureFlags::BLK_SIZE) {
                true => u64::from(u32::from(config.blk_size)).max(SECTOR),
                false => SECTOR,
            },
            read_only: flags.contains(VirtioBlkFeatureFlags::RO),
            flushes: flags.contains(VirtioBlkFeatureFlags::FLUSH),
            made: false,
            holds: Holds::Unknown,
            sparse: false,
            max_request: u64::MAX,
        };
        Ok((socket, subject))
    }

    fn failed(&self, error: io::Error) -> Error {
        Error::io(format!("vhost-user socket {}", self.path.display()), error)
    }

    /// Connects, with a queue for each job.
    pub(crate) fn lanes(&self, shape: Shape, jobs: usize) -> Result<Vec<VhostLane>> {
        let descriptors = (shape.depth * CHAIN).next_power_of_two().max(MIN_QUEUE);
        if descriptors > MAX_QUEUE {
            let text = format!(
                "depth {} needs a queue of {descriptors} descriptors, and {MAX_QUEUE} is the most: lower depth to {}, and raise jobs",
                shape.depth,
                MAX_QUEUE / CHAIN
            );
            return Err(invalid(text));
        }
        let mut transport = self.connect()?;
        let most = virtio_blk_max_queues(&*transport).map_err(|e| self.failed(e))?;
        if jobs > most {
            let text =
                format!("{} has {most} queues, and each job needs one: lower jobs to {most}", self.path.display());
            return Err(invalid(text));
        }
        let queues =
            VirtioBlkQueue::setup_queues(&mut *transport, jobs, descriptors as u16).map_err(|e| self.failed(e))?;
        let memory = queues.iter().map(|_| Memory::new(&mut *transport, shape).map_err(|e| self.failed(e)));
        let memory: Vec<_> = memory.collect::<Result<_>>()?;
        let transport = Arc::new(Mutex::new(transport));
        let lanes = queues.into_iter().zip(memory).enumerate().map(|(number, (mut queue, memory))| {
            queue.set_used_notif_enabled(true);
            let connection = transport.lock().unwrap_or_else(PoisonError::into_inner);
            VhostLane {
                queue,
                kick: connection.get_submission_notifier(number),
                call: connection.get_completion_fd(number),
                memory,
                transport: transport.clone(),
            }
        });
        Ok(lanes.collect())
    }
}

/// Buffers that the back-end maps too.
struct Memory {
    region: MmapRegion,
    shape: Shape,
}

impl Memory {
    fn new(transport: &mut VirtioBlkTransport, shape: Shape) -> io::Result<Self> {
        let length = shape.depth * shape.block;
        let file = File::from(memfd_create("cairn-bench", MemfdFlags::CLOEXEC)?);
        ftruncate(&file, length as u64)?;
        let region = MmapRegion::from_file(FileOffset::new(file.try_clone()?, 0), length).map_err(io::Error::other)?;
        let _address = transport.map_mem_region(region.as_ptr().addr(), length, file.as_raw_fd(), 0)?;
        Ok(Self { region, shape })
    }

    fn at(&self, slot: usize) -> *mut u8 {
        self.region.as_ptr().wrapping_add(slot * self.shape.block)
    }
}

/// A queue of a connection. The queue refers to memory of the transport, which every lane keeps.
pub(crate) struct VhostLane {
    queue: VirtioBlkQueue<'static, usize>,
    kick: Box<dyn QueueNotifier>,
    call: Arc<EventFd>,
    memory: Memory,
    transport: Arc<Mutex<Box<VirtioBlkTransport>>>,
}

impl VhostLane {
    fn take(&mut self, done: &mut Vec<Done>) {
        done.extend(self.queue.completions().map(|end| Done {
            slot: end.context,
            outcome: match end.ret {
                0 => Ok(()),
                code => Err(Error::io("the back-end", io::Error::from_raw_os_error(code.saturating_abs()))),
            },
        }));
    }
}

impl Lane for VhostLane {
    const KEEPS: bool = true;

    fn buffer(&mut self, slot: usize) -> &mut [u8] {
        if slot >= self.memory.shape.depth {
            return &mut [];
        }
        let start = NonNull::new(self.memory.at(slot)).unwrap_or(NonNull::dangling());
        // SAFETY: the range is the slot's part of the mapping, which lives as long as the lane and is never null. The slot has no request in
        // flight, so the back-end does not touch it; a back-end that does anyway spoils bytes that are only compared and sent.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), self.memory.shape.block) }
    }

    fn submit(&mut self, slot: usize, ask: Ask) -> Result<()> {
        let buffer = self.memory.at(slot);
        // SAFETY: the buffer is the slot's part of the mapping, at least as long as the request, and the slot has no other request in flight.
        let queued = unsafe {
            match ask.kind {
                Kind::Read => self.queue.read_raw(ask.offset, buffer, ask.length, slot),
                Kind::Write => self.queue.write_raw(ask.offset, buffer, ask.length, slot),
                Kind::Flush => self.queue.flush(slot),
            }
        };
        queued.map_err(|e| Error::io("the queue", e))
    }

    async fn wait(&mut self, until: Option<Instant>, done: &mut Vec<Done>) -> Result<()> {
        if self.queue.avail_notif_needed() {
            self.kick.notify().map_err(|e| Error::io("cannot notify the back-end", e))?;
        }
        self.take(done);
        if !done.is_empty() {
            return Ok(());
        }
        let left = until.map_or(TICK, |until| until.saturating_duration_since(Instant::now()).min(TICK));
        let mut fds = [PollFd::from_borrowed_fd(self.call.as_fd(), PollFlags::IN)];
        let limit = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut fds, Some(&limit)) {
            Err(rustix::io::Errno::INTR) => {}
            // Nothing tells that a back-end is gone but its silence: ask it something.
            Ok(0) if until.is_none() => {
                let transport = self.transport.lock().unwrap_or_else(PoisonError::into_inner);
                let _alive = transport.get_config().map_err(|e| Error::io("the back-end is gone", e))?;
            }
            Ok(0) => {}
            Ok(_) => drop(self.call.read().map_err(|e| Error::io("the back-end's notifications", e))?),
            Err(error) => return Err(Error::io("cannot wait for the back-end", error.into())),
        }
        self.take(done);
        Ok(())
    }
}
