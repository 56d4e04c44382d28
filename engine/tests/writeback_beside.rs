//! Volumes that are written straight to the device, beside one whose writes are acknowledged from memory.

#![allow(missing_docs, clippy::unwrap_used)]

use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

use cairn_engine::{
    BLOCK, CacheMode, ErrorKind, IoBuf, MIB, PoolOptions, VolumeOptions,
    sim::{self, Disk, Faults, Machine},
};

const FAILS: Faults = Faults {
    latency_us: 1_000..20_000,
    stall: 0,
    read_error: 0,
    write_error: 1_000_000,
    short_write: 0,
    sync_error: 0,
    bit_rot: 0,
    lost_write: 0,
    misdirected_write: 0,
    damage_budget: 0,
    room: None,
};

fn from_memory() -> VolumeOptions {
    VolumeOptions { cache: CacheMode::Writeback, ..VolumeOptions::default() }
}

fn bytes(value: u8, length: u64) -> IoBuf {
    let mut buf = IoBuf::zeroed(length as usize);
    buf.fill(value);
    buf
}

fn run<T: 'static, F: Future<Output = T> + 'static>(disk: &Disk, program: impl FnOnce(Machine) -> F) -> T {
    sim::run(disk, program).expect("it hangs")
}

/// What an entry keeps back for nodes is mostly not needed: it comes back within moments, and is no reason to refuse others.
#[test]
fn what_is_kept_back_for_a_moment_is_not_a_full_pool() {
    let disk = Disk::new(64 * MIB, 11);
    run(&disk, |machine| async move {
        let pool = machine.create_pool(PoolOptions::new()).await.unwrap();
        let filler = pool.create_volume("filler", 64 * MIB, VolumeOptions::default()).await.unwrap();
        let direct = pool.create_volume("direct", 16 * MIB, VolumeOptions::default()).await.unwrap();
        let buffered = pool.create_volume("buffered", 16 * MIB, from_memory()).await.unwrap();
        let mut at = 0;
        loop {
            match filler.write(at * BLOCK, bytes(1, 8 * BLOCK), false).await {
                Ok(()) => at += 8,
                Err(error) => break assert_eq!(error.kind(), ErrorKind::NoSpace),
            }
        }
        filler.discard(0, 220 * BLOCK, true).await.unwrap();
        for _ in 0..3 {
            pool.checkpoint().await.unwrap();
        }
        assert_eq!((pool.stats().releasing, pool.stats().dirty_memory), (0, 0));
        // The others have been idle for long enough to leave the device's window to this one.
        machine.reactor().sleep(Duration::from_millis(200)).await;
        // Until one would have to wait.
        let mut written = 0;
        while written < 60 {
            let mut write = pin!(buffered.write(written * BLOCK, bytes(2, BLOCK), false));
            if poll_fn(|cx| Poll::Ready(write.as_mut().poll(cx))).await.is_pending() {
                break;
            }
            written += 1;
        }
        assert!((20..60).contains(&written), "{written} blocks");
        let beside = direct.write(0, bytes(3, 8 * BLOCK), false).await;
        buffered.flush().await.unwrap();
        direct.write(8 * BLOCK, bytes(3, 8 * BLOCK), false).await.expect("there is room");
        beside.expect("there was room beside what is kept back for a moment");
    });
}

/// A volume that cannot be written is no reason for the pool to do without checkpoints.
#[test]
fn a_checkpoint_is_made_beside_a_failure_and_tells_it() {
    let disk = Disk::new(64 * MIB, 12);
    run(&disk, |machine| async move {
        let pool = machine.create_pool(PoolOptions::new()).await.unwrap();
        let direct = pool.create_volume("direct", MIB, VolumeOptions::default()).await.unwrap();
        let buffered = pool.create_volume("buffered", MIB, from_memory()).await.unwrap();
        machine.disk().set_faults(FAILS);
        buffered.write(0, bytes(1, BLOCK), false).await.unwrap();
        assert!(buffered.flush().await.is_err());
        machine.disk().set_faults(Faults { write_error: 0, ..FAILS });
        direct.write(0, bytes(2, BLOCK), false).await.unwrap();
        let before = pool.stats().checkpoint;
        assert!(pool.checkpoint().await.is_err(), "told");
        assert!(pool.stats().checkpoint > before, "made all the same");
    });
}
