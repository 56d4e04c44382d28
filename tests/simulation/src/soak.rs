//! Everything, with new seeds, for a time.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    damage::{Swept, sweep},
    explore::{Explored, Plan, explore},
    simulate::simulate,
};

/// What a soak did.
#[derive(Default, Debug)]
pub struct Soak {
    /// Simulation seeds.
    pub seeds: u64,
    /// Operations of clients in simulations.
    pub operations: u64,
    /// Crash exploration.
    pub explored: Explored,
    /// The damage sweep.
    pub swept: Swept,
    /// What failed, each with its replay.
    pub failures: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

/// Simulation seeds in a batch, and how much exploration goes with it.
const BATCH: u64 = 25;
/// One crash point in so many of each run; the next runs look at the others.
const STRIDE: u64 = 7;

/// Runs batches on `jobs` threads until the time is over. Each batch is some simulation seeds, a share of one run's crash points,
/// and now and then a damage sweep. `tell` gets a line now and then.
pub fn soak(time: Duration, from: u64, jobs: usize, tell: impl Fn(String) + Sync) -> Soak {
    let started = Instant::now();
    let total = Mutex::new(Soak::default());
    let next = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            let _job = scope.spawn(|| {
                while started.elapsed() < time {
                    let batch = next.fetch_add(1, Ordering::Relaxed);
                    let done = run_batch(from, batch);
                    let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                    for failure in &done.failures {
                        tell(format!("FAILED {failure}"));
                    }
                    total.add(done);
                    if batch % 20 == 19 {
                        tell(format!(
                            "{:5.0} s: {} seeds, {} crash points, {} flipped bits, {} failures",
                            started.elapsed().as_secs_f64(),
                            total.seeds,
                            total.explored.points + total.explored.recovery_points,
                            total.swept.bits,
                            total.failures.len()
                        ));
                    }
                }
            });
        }
    });
    let mut total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    total.took = started.elapsed();
    total
}

fn run_batch(from: u64, batch: u64) -> Soak {
    let mut done = Soak::default();
    for seed in from + batch * BATCH..from + (batch + 1) * BATCH {
        done.seeds += 1;
        match simulate(seed) {
            Ok(outcome) => done.operations += outcome.operations,
            Err(failure) => done.failures.push(failure),
        }
    }
    // Each run is looked at by several batches, at other crash points.
    let plan = Plan {
        seed: from + batch / STRIDE,
        operations: 80,
        stride: (STRIDE as usize, batch as usize),
        recoveries: 60,
        only: None,
    };
    match explore(&plan) {
        Ok(explored) => done.explored = explored,
        Err(failure) => done.failures.push(failure),
    }
    if batch.is_multiple_of(10) {
        match sweep(from + batch) {
            Ok(swept) => done.swept = swept,
            Err(failure) => done.failures.push(failure),
        }
    }
    done
}

impl Soak {
    fn add(&mut self, other: Self) {
        self.seeds += other.seeds;
        self.operations += other.operations;
        self.explored.add(&other.explored);
        self.swept.bits += other.swept.bits;
        self.swept.refused += other.swept.refused;
        self.swept.reported += other.swept.reported;
        self.swept.harmless += other.swept.harmless;
        self.swept.shortened += other.swept.shortened;
        self.failures.extend(other.failures);
    }
}
