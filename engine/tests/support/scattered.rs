//! Volumes whose data lies in another order than it is read in, on a simulated disk.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

use cairn_engine::{
    BLOCK, BLOCK_SIZE, IoBuf, LocalPool, LocalVolume, MIB, Pace, RegroupEnd, RegroupOptions, RegroupReport,
    sim::{self, Disk, Machine, Rng},
};

/// Blocks of a leaf.
pub const LEAF: u64 = 256;

pub fn run<T: 'static, F: Future<Output = T> + 'static>(disk: &Disk, program: impl FnOnce(Machine) -> F) -> T {
    sim::run(disk, program).expect("it hangs")
}

/// What a block holds: its number and a tag tell it from all others.
pub fn content(block: u64, tag: u64) -> IoBuf {
    IoBuf::from(&[block + 1, tag].map(u64::to_le_bytes).concat().repeat(BLOCK_SIZE / 16)[..])
}

pub fn at_once() -> RegroupOptions {
    RegroupOptions { pace: Pace::unlimited(), dry_run: false }
}

pub fn shuffled(blocks: std::ops::Range<u64>, rng: &mut Rng) -> Vec<u64> {
    let mut order: Vec<u64> = blocks.collect();
    for at in (1..order.len()).rev() {
        order.swap(at, rng.below(at as u64 + 1) as usize);
    }
    order
}

/// Overwrites all of a range, one block at a time, in any order.
pub async fn scatter(volume: &LocalVolume, blocks: std::ops::Range<u64>, tag: u64, seed: u64) {
    for block in shuffled(blocks, &mut Rng::new(seed)) {
        volume.write(block * BLOCK, content(block, tag), false).await.unwrap();
    }
}

pub async fn expect(volume: &LocalVolume, blocks: std::ops::Range<u64>, tag: u64) {
    for block in blocks {
        let found = volume.read(block * BLOCK, BLOCK_SIZE).await.unwrap();
        assert!(found[..] == content(block, tag)[..], "{}: block {block} is not {tag}", volume.name());
    }
}

/// Regroups a volume, to its end.
pub async fn regroup(pool: &LocalPool, volume: &str) -> RegroupReport {
    let outcome = pool.regroup(volume, at_once(), |_| {}).await.unwrap();
    assert_eq!((outcome.end, &outcome.why), (RegroupEnd::Finished, &None));
    outcome.report
}

pub async fn check_clean(pool: &LocalPool) {
    let report = pool.check(true, |_, _| {}).await.unwrap();
    assert!(report.is_clean(), "{:#?}", report.problems);
}

/// Requests that reading a volume takes, a MiB at a time.
pub async fn reads_of(machine: &Machine, volume: &LocalVolume) -> u64 {
    let before = machine.disk().counters().reads;
    for offset in (0..volume.size() / MIB).map(|n| n * MIB) {
        let _data = volume.read(offset, MIB as usize).await.unwrap();
    }
    machine.disk().counters().reads - before
}
