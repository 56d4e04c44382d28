//! A driver's load on a vhost-user-blk socket, without a virtual machine: one queue, requests in the memory that the back-end maps.

use std::{
    error::Error,
    fs::File,
    os::fd::AsRawFd,
    path::Path,
    time::{Duration, Instant},
};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use virtio_driver::{VhostUser, VirtioBlkFeatureFlags, VirtioBlkQueue, VirtioBlkTransport, VirtioFeatureFlags};
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

use crate::{
    row::{Kind, Row},
    spread::Spread,
};

/// Descriptors of the queue: three for each of the deepest row's requests.
const QUEUE: u16 = 256;

type Queue<'a> = VirtioBlkQueue<'a, Slot>;

/// A request's place among those in flight.
#[derive(Clone, Copy, Debug)]
struct Slot {
    number: usize,
    /// A flush, which follows a write.
    flush: bool,
}

/// The load: where each request goes and comes from.
struct Load {
    row: Row,
    size: u64,
    /// A buffer of `row.block` bytes for each slot.
    buffers: MmapRegion,
    spread: Spread,
    cursor: u64,
}

impl Load {
    fn next_offset(&mut self) -> u64 {
        let places = self.size / self.row.block;
        let place = match self.row.kind {
            Kind::RandomRead | Kind::RandomWrite => self.spread.next() % places,
            Kind::Read | Kind::Write => {
                let place = self.cursor;
                self.cursor = (place + 1) % places;
                place
            }
        };
        place * self.row.block
    }

    /// Puts a slot's next request into the queue.
    fn submit(&mut self, queue: &mut Queue<'_>, number: usize) -> Result<(), Box<dyn Error>> {
        let (offset, length) = (self.next_offset(), self.row.block as usize);
        let buffer = self.buffers.as_ptr().wrapping_add(number * length);
        let slot = Slot { number, flush: false };
        // SAFETY: the buffer is the slot's part of the mapping, and the slot has no other request in flight. The back-end reaches it by a mapping
        // of its own.
        unsafe {
            match self.row.kind {
                Kind::RandomRead | Kind::Read => queue.read_raw(offset, buffer, length, slot)?,
                Kind::RandomWrite | Kind::Write => queue.write_raw(offset, buffer, length, slot)?,
            }
        }
        Ok(())
    }
}

/// Runs a row for `seconds`; requests a second. A write with its flush is one.
///
/// # Errors
/// What the back-end or the system says.
pub fn measure(socket: &Path, row: &Row, size: u64, seconds: u32) -> Result<f64, Box<dyn Error>> {
    let start = Instant::now();
    let end = start + Duration::from_secs(u64::from(seconds));
    let done = run(socket, row, size, |_| Instant::now() < end)?;
    Ok(done as f64 / start.elapsed().as_secs_f64())
}

/// Writes the whole disk once, sequentially.
///
/// # Errors
/// As [`measure`].
pub fn fill(socket: &Path, size: u64) -> Result<(), Box<dyn Error>> {
    let row = Row {
        name: "fill",
        kind: Kind::Write,
        before: crate::row::Before::Fresh,
        block: 1 << 20,
        depth: 8,
        fsync: false,
    };
    run(socket, &row, size, |begun| begun < size >> 20).map(drop)
}

/// Keeps `row.depth` requests in flight while `go_on`, given how many were begun, says so; how many were done.
fn run(socket: &Path, row: &Row, size: u64, go_on: impl Fn(u64) -> bool) -> Result<u64, Box<dyn Error>> {
    let features =
        (VirtioFeatureFlags::VERSION_1 | VirtioFeatureFlags::RING_EVENT_IDX | VirtioFeatureFlags::RING_INDIRECT_DESC)
            .bits()
            | VirtioBlkFeatureFlags::all().bits();
    let path = socket.to_str().ok_or("the path of the socket is no text")?;
    let mut transport: Box<VirtioBlkTransport> = Box::new(VhostUser::new(path, features)?);
    let mut queues = Queue::setup_queues(&mut *transport, 1, QUEUE)?;
    let queue = queues.first_mut().ok_or("no queue")?;
    queue.set_used_notif_enabled(true);
    let length = row.depth as usize * row.block as usize;
    let file = File::from(memfd_create("load", MemfdFlags::CLOEXEC)?);
    ftruncate(&file, length as u64)?;
    let buffers = MmapRegion::from_file(FileOffset::new(file.try_clone()?, 0), length)?;
    let mut spread = Spread::new(0xca1c);
    let noise: Vec<u8> = (0..length / 8).flat_map(|_| spread.next().to_le_bytes()).collect();
    buffers.as_volatile_slice().copy_from(&noise);
    transport.map_mem_region(buffers.as_ptr().addr(), length, file.as_raw_fd(), 0)?;
    let mut load = Load { row: *row, size, buffers, spread, cursor: 0 };
    let (mut begun, mut done, mut in_flight) = (0, 0, 0u32);
    let mut free: Vec<usize> = (0..row.depth as usize).collect();
    loop {
        while !free.is_empty() && go_on(begun) {
            let Some(number) = free.pop() else { break };
            load.submit(queue, number)?;
            begun += 1;
            in_flight += 1;
        }
        if in_flight == 0 {
            return Ok(done);
        }
        if queue.avail_notif_needed() {
            transport.get_submission_notifier(0).notify()?;
        }
        let back: Vec<(Slot, i32)> = queue.completions().map(|end| (end.context, end.ret)).collect();
        if back.is_empty() {
            transport.get_completion_fd(0).read()?;
        }
        for (slot, outcome) in back {
            if outcome != 0 {
                return Err(format!("a request failed with {outcome}").into());
            }
            if row.fsync && !slot.flush {
                queue.flush(Slot { flush: true, ..slot })?;
            } else {
                done += 1;
                in_flight -= 1;
                free.push(slot.number);
            }
        }
    }
}
