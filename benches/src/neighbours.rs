//! A volume beside one that floods, in-process: nothing of what is measured is a client's, or the network's.

use std::{thread, time::Duration};

use cairn_bench::{Bench, Target, run};
use cairn_engine::{Error, ErrorKind, Pool, Result};

/// Random requests of one size, so many at a time.
#[derive(Clone, Copy)]
pub struct Load {
    /// Whether they write.
    pub writes: bool,
    /// Bytes of each.
    pub block: u64,
    /// How many at a time.
    pub depth: u32,
    /// How many a second, begun when they are due; none: as fast as they go.
    pub rate: Option<f64>,
}

/// What a load came to.
#[derive(Clone, Copy, Default)]
pub struct Came {
    /// Requests a second.
    pub rate: f64,
    /// The 99th percentile of their times, in milliseconds: with a rate from when they were due.
    pub p99: f64,
}

/// For how long what floods has been there when the other comes.
const BEFORE: Duration = Duration::from_secs(1);

/// Runs a load on a volume of `size` bytes for `seconds`, beside another load on another volume, if there is one, which has the device for
/// itself for a second before; what each came to in the time in which both were there.
///
/// # Errors
/// The volumes'.
pub fn measure(
    pool: &Pool,
    own: (&str, Load),
    beside: Option<(&str, Load)>,
    size: u64,
    seconds: u64,
) -> Result<[Came; 2]> {
    let one = |(volume, load): (&str, Load), warm_up: Duration| {
        let bench = Bench {
            block: load.block,
            depth: load.depth,
            rate: load.rate,
            size: Some(size),
            runtime: Some(Duration::from_secs(seconds)),
            warm_up,
            destroy: true,
            ..Bench::named(if load.writes { "randwrite" } else { "randread" })?
        };
        let report = run(Target::Volume { pool: pool.clone(), name: volume.to_owned() }, &bench, &mut |_| true)?;
        let p99 = report.total.latency.map_or(0.0, |latency| latency.p99 as f64 / 1e6);
        Ok(Came { rate: report.total.iops, p99 })
    };
    thread::scope(|scope| {
        let beside = beside.map(|load| {
            let flood = scope.spawn(move || one(load, BEFORE));
            thread::sleep(BEFORE);
            flood
        });
        let own = one(own, Duration::ZERO)?;
        let failed = |_| Err(Error::new(ErrorKind::Closed, "a load's thread failed"));
        let beside = beside.map(|load| load.join().unwrap_or_else(failed)).transpose()?;
        Ok([own, beside.unwrap_or_default()])
    })
}
