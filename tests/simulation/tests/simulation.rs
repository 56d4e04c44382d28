//! Seeded runs with every fault. `CAIRN_SIM_SEEDS` sets how many (400).

#![allow(missing_docs)]

use std::sync::atomic::{AtomicU64, Ordering};

use cairn_simulation::simulate::simulate;

#[test]
fn seeds() {
    let seeds: u64 = std::env::var("CAIRN_SIM_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(400);
    let next = AtomicU64::new(0);
    let operations = AtomicU64::new(0);
    let jobs = std::thread::available_parallelism().map_or(1, Into::into);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            let _job = scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    match simulate(seed) {
                        Ok(outcome) => operations.fetch_add(outcome.operations, Ordering::Relaxed),
                        Err(failure) => panic!("{failure}"),
                    };
                }
            });
        }
    });
    let operations = operations.into_inner();
    assert!(operations > seeds * 20, "{operations} operations in {seeds} seeds: hardly anything was done");
}

/// A piece of the free map damaged together with nodes that it would follow from; a checkpoint right after a full file system had room again.
#[test]
fn seeds_that_once_failed() {
    for seed in [841, 5448] {
        if let Err(failure) = simulate(seed) {
            panic!("{failure}");
        }
    }
}

/// The same seed does the same: operations, data, order, times, and what is there in the end.
#[test]
fn the_same_seed_is_the_same_run() {
    let runs: Vec<_> = [3, 11, 42].map(|seed| (simulate(seed), simulate(seed))).into();
    for (first, second) in &runs {
        assert_eq!(first, second);
    }
    assert_ne!(runs[0].0, runs[1].0, "different seeds are different runs");
}
