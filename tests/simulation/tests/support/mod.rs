//! What directed tests on a simulated disk have in common.

#![allow(dead_code, missing_docs, unreachable_pub)]

use std::{future::Future, time::Duration};

use cairn_engine::{
    BLOCK, ErrorKind, GIB, IoBuf, LocalPool, LocalVolume, MIB, OpenOptions, PoolOptions, Result, Task, VolumeOptions,
    sim::{self, Disk, Faults, Machine},
};

pub fn micros(n: u64) -> Duration {
    Duration::from_micros(n)
}

/// Runs a program to its end. Ten minutes of virtual time are far more than any of them takes.
pub fn run<T: 'static, F: Future<Output = T> + 'static>(disk: &Disk, program: impl FnOnce(Machine) -> F) -> T {
    sim::run_for(disk, Duration::from_secs(600), program).expect("the pool hangs")
}

/// Every operation that begins from here on takes this long.
pub fn set_latency(disk: &Disk, time: Duration) {
    let us = time.as_micros() as u64;
    disk.set_faults(Faults { latency_us: us..us + 1, ..Faults::default() });
}

/// A pool on the whole disk with a volume `a`.
pub async fn create(machine: &Machine, options: PoolOptions, size: u64) -> (LocalPool, LocalVolume) {
    let pool = machine.create_pool(options).await.unwrap();
    let volume = pool.create_volume("a", size, VolumeOptions::default()).await.unwrap();
    (pool, volume)
}

pub async fn open(machine: &Machine) -> (LocalPool, LocalVolume) {
    let pool = machine.open_pool(OpenOptions::new()).await.unwrap();
    let volume = pool.open(&"a".parse().unwrap()).unwrap();
    (pool, volume)
}

/// A block full of a number.
pub fn block(tag: u64) -> IoBuf {
    IoBuf::from(&tag.to_le_bytes().repeat(BLOCK as usize / 8)[..])
}

/// Starts to write blocks, all at once: `(index, tag)`.
pub fn start_writes(
    pool: &LocalPool,
    volume: &LocalVolume,
    blocks: impl Iterator<Item = (u64, u64)>,
) -> Vec<Task<Result<()>>> {
    let start = |(at, tag)| {
        let volume = volume.clone();
        pool.reactor().spawn(async move { volume.write(at * BLOCK, block(tag), false).await })
    };
    blocks.map(start).collect()
}

/// Waits for all; says how many found no room. Nothing else may have failed.
pub async fn refused(tasks: Vec<Task<Result<()>>>) -> usize {
    let mut refused = 0;
    for task in tasks {
        if let Err(e) = task.await {
            assert_eq!(e.kind(), ErrorKind::NoSpace, "{e}");
            refused += 1;
        }
    }
    refused
}

/// Writes blocks all at once, for which there is room.
pub async fn write_all(pool: &LocalPool, volume: &LocalVolume, blocks: impl Iterator<Item = (u64, u64)>) {
    assert_eq!(refused(start_writes(pool, volume, blocks)).await, 0);
}

/// The pool takes writes, its map and all data are in order, and no block is lost until it is opened again.
pub async fn check(pool: &LocalPool) {
    let report = pool.check(true, |_, _| {}).await.unwrap();
    assert!(report.is_clean(), "{:#?}", report.problems);
    let stats = pool.stats();
    assert_eq!(stats.read_only, None);
    assert_eq!(stats.free + stats.used + stats.releasing, stats.capacity, "{stats:?}");
}

/// A volume that is renamed over and over: long records that need no data.
pub struct Renamed {
    pub pool: LocalPool,
    pub name: String,
    pub number: u64,
}

impl Renamed {
    /// Bytes of a record: 11, and the name's.
    const RECORD: u64 = 11 + 118 * 4 + 10;

    /// Begins to rename, so often that the records fill up to `blocks` blocks of one group.
    pub fn start(&mut self, blocks: u64) -> Vec<Task<Result<()>>> {
        let often = (blocks * BLOCK - 32) / Self::RECORD;
        let start = |_| {
            self.number += 1;
            let new = format!("{}{:010}", "\u{1f5fb}".repeat(118), self.number);
            let (old, pool) = (std::mem::replace(&mut self.name, new.clone()), self.pool.clone());
            self.pool.reactor().spawn(async move { pool.rename(&old, &new).await.map(drop) })
        };
        (0..often).map(start).collect()
    }

    /// Fills the journal up to the block where commits wait for a checkpoint. What is left is for the checkpoint's own group (an eighth), and
    /// for opening (two blocks).
    pub async fn fill_journal(&mut self) {
        loop {
            let stats = self.pool.stats();
            let left = (stats.journal_size / 8 * 7 - stats.journal_used) / BLOCK - 2;
            if left == 0 {
                return;
            }
            let renames = self.start(left.min(80));
            assert_eq!(refused(renames).await, 0);
        }
    }
}

/// How long the slow checkpoint takes.
pub const SLOW: Duration = Duration::from_secs(10);

/// A pool with a checkpoint under way that began with an empty journal and takes long, so that the journal can be filled meanwhile.
pub async fn with_a_slow_checkpoint(machine: &Machine) -> (LocalPool, LocalVolume, Renamed) {
    let options = PoolOptions::new().journal_size(4 * MIB);
    let (pool, volume) = create(machine, options, 64 * GIB).await;
    pool.checkpoint().await.unwrap();
    set_latency(machine.disk(), SLOW);
    let slow = pool.clone();
    pool.reactor().spawn(async move { slow.checkpoint().await.unwrap() }).detach();
    machine.reactor().sleep(micros(1000)).await;
    machine.disk().set_faults(Faults::default());
    let renamed = Renamed { pool: pool.clone(), name: "a".to_owned(), number: 0 };
    (pool, volume, renamed)
}
