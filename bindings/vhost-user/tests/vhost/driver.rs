//! A driver that others wrote (`virtio-driver`, of libblkio's authors): it adds regions one by one and uses blocking eventfds.

use crate::fixture::*;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{MemfdFlags, ftruncate, memfd_create},
};
use std::{
    collections::HashMap,
    fs::File,
    os::fd::{AsRawFd, BorrowedFd},
};
use virtio_driver::{VhostUser, VirtioBlkFeatureFlags, VirtioBlkQueue, VirtioBlkTransport, VirtioFeatureFlags};
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

const DATA: usize = 8 << 20;

/// Waits until `n` requests have come back; what each returned.
fn complete(
    transport: &VirtioBlkTransport,
    index: usize,
    queue: &mut VirtioBlkQueue<'_, u64>,
    n: usize,
) -> HashMap<u64, i32> {
    let mut done = HashMap::new();
    while done.len() < n {
        done.extend(queue.completions().map(|completion| (completion.context, completion.ret)));
        if done.len() < n {
            let fd = transport.get_completion_fd(index);
            // SAFETY: the eventfd is open while `fd` is.
            #[allow(unsafe_code)]
            let borrowed = unsafe { BorrowedFd::borrow_raw(fd.as_raw_fd()) };
            let limit = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
            let ready = poll(&mut [PollFd::new(&borrowed, PollFlags::IN)], Some(&limit)).unwrap();
            assert!(ready > 0, "{} of {n} requests came back", done.len());
            fd.read().unwrap();
        }
    }
    done
}

/// Kicks, if the device wants that.
fn kick(transport: &VirtioBlkTransport, index: usize, queue: &mut VirtioBlkQueue<'_, u64>) {
    if queue.avail_notif_needed() {
        transport.get_submission_notifier(index).notify().unwrap();
    }
}

fn run(features: VirtioFeatureFlags) {
    let fixture = Fixture::new();
    let bits = features.bits() | VirtioBlkFeatureFlags::all().bits();
    let transport = VhostUser::new(fixture.socket.to_str().unwrap(), bits).unwrap();
    let mut transport: Box<VirtioBlkTransport> = Box::new(transport);
    assert_eq!(u64::from(transport.get_config().unwrap().capacity), SIZE / 512);
    assert_eq!(transport.max_queues(), Some(16));
    let mut queues = VirtioBlkQueue::<u64>::setup_queues(&mut *transport, 4, 128).unwrap();
    // Memory for data, in a region of its own.
    let file = File::from(memfd_create("data", MemfdFlags::CLOEXEC).unwrap());
    ftruncate(&file, DATA as u64).unwrap();
    let mapping = MmapRegion::<()>::from_file(FileOffset::new(file.try_clone().unwrap(), 0), DATA).unwrap();
    let data = mapping.as_ptr();
    transport.map_mem_region(data.addr(), DATA, file.as_raw_fd(), 0).unwrap();
    let write =
        |at: usize, bytes: &[u8]| mapping.as_volatile_slice().subslice(at, bytes.len()).unwrap().copy_from(bytes);
    let read = |at: usize, n: usize| {
        let mut bytes = vec![0u8; n];
        mapping.as_volatile_slice().subslice(at, n).unwrap().copy_to(&mut bytes[..]);
        bytes
    };
    // SAFETY (of all raw requests here): the addresses are within the mapping, which outlives them.
    #[allow(unsafe_code)]
    for (i, queue) in queues.iter_mut().enumerate() {
        queue.set_used_notif_enabled(true);
        let base = i as u64 * (2 << 20);
        let content: Vec<u8> = (0..1 << 20).map(|at: u32| (at / 512 + i as u32) as u8 | 1).collect();
        write(0, &content);
        for n in 0..32usize {
            // SAFETY: as above.
            unsafe { queue.write_raw(base + n as u64 * 32768, data.wrapping_add(n * 32768), 32768, n as u64).unwrap() };
        }
        kick(&*transport, i, queue);
        let done = complete(&*transport, i, queue, 32);
        assert!(done.values().all(|&ret| ret == 0), "{done:?}");
        assert_eq!(fixture.read(base, 1 << 20), content);
        queue.flush(1).unwrap();
        queue.discard(base, 65536, 2).unwrap();
        queue.write_zeroes(base + 131072, 65536, true, 3).unwrap();
        kick(&*transport, i, queue);
        let done = complete(&*transport, i, queue, 3);
        assert!(done.values().all(|&ret| ret == 0), "{done:?}");
        write(0, &vec![0xff; 1 << 20]);
        // SAFETY: as above.
        unsafe { queue.read_raw(base, data, 1 << 20, 9).unwrap() };
        // SAFETY: as above.
        unsafe { queue.read_raw(SIZE, data, 512, 10).unwrap() };
        kick(&*transport, i, queue);
        let done = complete(&*transport, i, queue, 2);
        assert_eq!((done[&9], done[&10]), (0, -libc::EIO));
        let mut expected = content;
        expected[..65536].fill(0);
        expected[131072..196608].fill(0);
        assert!(read(0, 1 << 20) == expected, "queue {i}");
    }
    let client = fixture.client().unwrap();
    assert_eq!((client.queues, client.requests, client.failed, client.faults), (4, 4 * 37, 4, 0));
    assert_eq!(client.written_bytes, 4 << 20);
    drop(queues);
    drop(transport);
    eventually("the front-end is forgotten", || fixture.client().is_none());
}

#[test]
fn a_driver_of_others_reads_and_writes() {
    run(VirtioFeatureFlags::VERSION_1);
}

#[test]
fn also_with_everything_that_it_knows() {
    run(VirtioFeatureFlags::all() - VirtioFeatureFlags::RING_PACKED);
}
