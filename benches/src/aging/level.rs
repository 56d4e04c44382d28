//! One level: a new pool is filled, then overwritten while snapshots come and go and someone looks on.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use cairn_bench::{Bench, Live, Moment, Report, Target};
use cairn_engine::{Error, Pool, PoolOptions, PoolStats, Result, VolumeOptions};

use super::{Level, Plan, Sample, Turn, verdict::Verdict, volume_size};
use crate::machine;

/// The volume.
const VOLUME: &str = "disk";
/// Bytes of a write.
const BLOCK: u64 = 4096;
/// How long a thread sleeps at a time, before it looks whether the load has ended.
const NAP: Duration = Duration::from_millis(50);

/// How far a level is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// The level.
    pub percent: u8,
    /// `fill`, with the number of the copy and how many there are, or `overwrite`.
    pub copy: Option<(u64, u64)>,
    /// Part of this step that is done, from 0 to 1.
    pub part: f64,
    /// Requests a second, lately.
    pub rate: f64,
    /// In use, percent of the pool's room.
    pub used: f64,
}

/// Fills a new pool in `directory` to `percent`, and overwrites it.
///
/// # Errors
/// The pool's, by what was being done.
pub fn run(directory: &Path, plan: &Plan, percent: u8, watch: &mut dyn FnMut(Progress)) -> Result<Level> {
    // Set aside whole: growing the file is not what is looked at.
    let options = PoolOptions::new().size(plan.pool).preallocate(true);
    let pool = pollster::block_on(Pool::create(directory.join("pool"), options))?;
    let outcome = on_pool(&pool, plan, percent, watch);
    let closed = pollster::block_on(pool.close());
    outcome.and_then(|level| closed.map(|()| level)).map_err(|e| within(e, percent))
}

fn within(error: Error, percent: u8) -> Error {
    Error::new(error.kind(), format!("at {percent} %: {error}"))
}

fn on_pool(pool: &Pool, plan: &Plan, percent: u8, watch: &mut dyn FnMut(Progress)) -> Result<Level> {
    let capacity = stats(pool)?.capacity;
    let volume = volume_size(capacity, percent, plan.kept);
    drop(pollster::block_on(pool.create_volume(VOLUME, volume, VolumeOptions::default()))?);
    let used = |used: u64| used as f64 / capacity as f64 * 100.0;
    for copy in 0..=plan.kept {
        if copy > 0 {
            let _info = pollster::block_on(pool.snapshot(&[snapshot(copy)?]))?;
        }
        let before = stats(pool)?.used;
        let mut told = |live: &Live| {
            let (rate, copy) = (live.rate, Some((copy + 1, plan.kept + 1)));
            watch(Progress { percent, copy, part: live.part, rate, used: used(before) });
            true
        };
        let fill = Bench { fill: true, requests: Some(1), size: Some(volume), destroy: true, ..Bench::named("read")? };
        drop(cairn_bench::run(target(pool), &fill, &mut told)?);
    }
    pollster::block_on(pool.checkpoint())?;
    let filled = stats(pool)?.used;
    let aged = overwrite(pool, plan, volume, &mut |live, in_use| {
        watch(Progress { percent, copy: None, part: live.part, rate: live.rate, used: used(in_use) });
    })?;
    let samples = joined(&aged.report.series, &aged.looks);
    Ok(Level {
        percent,
        capacity,
        volume,
        filled,
        seconds: aged.report.seconds,
        requests: aged.report.write.requests,
        longest: aged.report.write.latency.map_or(0, |latency| latency.max),
        verdict: Verdict::of(&samples, plan.window),
        samples,
        turns: aged.turns,
    })
}

fn target(pool: &Pool) -> Target {
    Target::Volume { pool: pool.clone(), name: VOLUME.to_owned() }
}

fn snapshot(number: u64) -> Result<cairn_engine::Target> {
    format!("{VOLUME}@{number}").parse()
}

fn stats(pool: &Pool) -> Result<PoolStats> {
    pollster::block_on(pool.stats())
}

/// The pool and the process at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Look {
    at: f64,
    used: u64,
    taken: u64,
    memory: u64,
}

struct Aged {
    report: Report,
    looks: Vec<Look>,
    turns: Vec<Turn>,
}

/// What the threads beside the load have in common.
struct Beside<'a> {
    pool: &'a Pool,
    /// When the load began.
    origin: Instant,
    over: AtomicBool,
    /// In use, as was seen last.
    used: AtomicU64,
}

impl Beside<'_> {
    /// Waits until so many seconds of the load are over; `false` when the load is.
    fn wait_until(&self, at: f64) -> bool {
        while !self.over.load(Ordering::Relaxed) {
            let left = at - self.since();
            if left <= 0.0 {
                return true;
            }
            thread::sleep(Duration::try_from_secs_f64(left).unwrap_or(NAP).min(NAP));
        }
        false
    }

    fn since(&self) -> f64 {
        self.origin.elapsed().as_secs_f64()
    }

    /// Looks once a second.
    fn look(&self) -> Result<Vec<Look>> {
        let mut looks = Vec::new();
        let mut second = 0.0;
        while self.wait_until(second) {
            let at = self.since();
            let stats = stats(self.pool)?;
            self.used.store(stats.used, Ordering::Relaxed);
            let taken = stats.capacity.saturating_sub(stats.free);
            looks.push(Look { at, used: stats.used, taken, memory: machine::resident() });
            // After a pause the next look is at the next second, not at all that were missed.
            second = self.since().floor() + 1.0;
        }
        Ok(looks)
    }

    /// Deletes the oldest snapshot and takes a new one, whenever it is time.
    fn take_turns(&self, plan: &Plan) -> Result<Vec<Turn>> {
        let mut turns = Vec::new();
        while plan.kept > 0 && self.wait_until(plan.snapshot_every * (turns.len() + 1) as f64) {
            let at = self.since();
            let oldest = turns.len() as u64 + 1;
            pollster::block_on(self.pool.delete_snapshot(&snapshot(oldest)?))?;
            let deleted = self.since();
            let _info = pollster::block_on(self.pool.snapshot(&[snapshot(oldest + plan.kept)?]))?;
            turns.push(Turn { at, delete: deleted - at, snapshot: self.since() - deleted });
        }
        Ok(turns)
    }
}

/// Overwrites the volume, with snapshots that come and go.
fn overwrite(pool: &Pool, plan: &Plan, volume: u64, watch: &mut dyn FnMut(&Live, u64)) -> Result<Aged> {
    let requests = (plan.pool as f64 * plan.overwrite / BLOCK as f64).max(1.0) as u64;
    let bench = Bench {
        block: BLOCK,
        depth: plan.depth,
        size: Some(volume),
        requests: Some(requests),
        destroy: true,
        ..Bench::named("randwrite")?
    };
    let beside = Beside { pool, origin: Instant::now(), over: AtomicBool::new(false), used: AtomicU64::new(0) };
    let beside = &beside;
    let (report, looks, turns) = thread::scope(|scope| {
        let looks = scope.spawn(|| stopping(beside, beside.look()));
        let turns = scope.spawn(|| stopping(beside, beside.take_turns(plan)));
        let report = cairn_bench::run(target(pool), &bench, &mut |live| {
            watch(live, beside.used.load(Ordering::Relaxed));
            !beside.over.load(Ordering::Relaxed)
        });
        beside.over.store(true, Ordering::Relaxed);
        (report, looks.join(), turns.join())
    });
    let failed = |_| Error::new(cairn_engine::ErrorKind::Closed, "a thread beside the load failed");
    let (looks, turns) = (looks.map_err(failed)?, turns.map_err(failed)?);
    // First what the load met: where it fails, snapshots fail for the same reason.
    Ok(Aged { report: report?, looks: looks?, turns: turns? })
}

/// Has the load end where something beside it failed.
fn stopping<T>(beside: &Beside<'_>, outcome: Result<T>) -> Result<T> {
    if outcome.is_err() {
        beside.over.store(true, Ordering::Relaxed);
    }
    outcome
}

/// Seconds of the load, each with the last look that was taken until its end, or the first one.
fn joined(series: &[Moment], looks: &[Look]) -> Vec<Sample> {
    let mut looks = looks.iter().copied().peekable();
    let mut last = looks.peek().copied();
    let samples = series.iter().map(|moment| {
        while let Some(look) = looks.next_if(|look| look.at <= moment.end) {
            last = Some(look);
        }
        let Look { used, taken, memory, .. } = last.unwrap_or(Look { at: 0.0, used: 0, taken: 0, memory: 0 });
        Sample { end: moment.end, iops: moment.write_iops, p99: moment.p99, used, taken, memory }
    });
    samples.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_engine::{ErrorKind, MIB};

    const PLAN: Plan = Plan { pool: 256 * MIB, overwrite: 0.2, depth: 32, snapshot_every: 0.05, kept: 2, window: 0.1 };

    #[test]
    fn a_level_is_filled_overwritten_and_watched() {
        let dir = tempfile::tempdir().unwrap();
        let mut copies = Vec::new();
        let level = run(dir.path(), &PLAN, 60, &mut |progress| copies.extend(progress.copy)).unwrap();
        assert_eq!(level.requests, PLAN.pool / 5 / BLOCK);
        let part = level.filled as f64 / level.capacity as f64;
        assert!((0.57..=0.6).contains(&part), "{part}: the volume of {} and two snapshots", level.volume);
        assert!(!level.samples.is_empty() && level.samples.iter().all(|sample| sample.memory > 0), "{level:?}");
        assert!(level.samples.iter().all(|sample| sample.used <= sample.taken && sample.taken <= level.capacity));
        assert!(copies.iter().all(|copy| (1..=3).contains(&copy.0) && copy.1 == 3), "{copies:?}");
    }

    #[test]
    fn what_fails_beside_the_load_ends_the_run_and_names_the_level() {
        // The pool has no room for ten times as much as it has.
        let dir = tempfile::tempdir().unwrap();
        let plan = Plan { pool: 4096, ..PLAN };
        assert_eq!(run(dir.path(), &plan, 60, &mut |_| {}).unwrap_err().kind(), ErrorKind::Invalid);
        let error = within(Error::new(ErrorKind::NoSpace, "full"), 90);
        assert!(error.kind() == ErrorKind::NoSpace && error.to_string().contains("at 90 %: "), "{error}");
    }

    #[test]
    fn each_second_has_the_last_look_before_its_end() {
        let moment = |end: f64| Moment {
            end,
            read_iops: 0.0,
            write_iops: end,
            flush_iops: 0.0,
            read_bandwidth: 0.0,
            write_bandwidth: 0.0,
            p50: 0,
            p99: 1,
            p99_9: 0,
            max: 0,
        };
        let look = |at: f64, used| Look { at, used, taken: used, memory: 1 };
        let looks = [look(0.4, 1), look(1.0, 2), look(1.2, 3), look(9.0, 4)];
        let used = |ends: &[f64], looks: &[Look]| -> Vec<u64> {
            joined(&ends.iter().map(|end| moment(*end)).collect::<Vec<_>>(), looks).iter().map(|s| s.used).collect()
        };
        assert_eq!(used(&[0.2, 1.0, 2.0, 3.0, 10.0], &looks), [1, 2, 3, 3, 4]);
        assert_eq!(used(&[1.0], &[]), [0]);
    }
}
