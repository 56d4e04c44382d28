//! The report, as programs get it. `DESIGN.md` has the schema; fields are added and not changed while `schema` stays the same.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::{
    bench::{Bench, Verify},
    lane::Kind,
    run::Passed,
    stats::{Point, Series, Tally},
    target,
    verify::ledger::Findings,
};

/// The schema that this writes.
const SCHEMA: u32 = 1;

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of these fields.
    pub schema: u32,
    /// What was measured.
    pub target: Subject,
    /// What was asked for.
    pub pattern: Pattern,
    /// All that was done, the measurement included.
    pub passes: Vec<Pass>,
    /// Seconds from the end of the warm-up to the end of the last request that was begun after it.
    pub seconds: f64,
    /// It was ended early.
    pub stopped: bool,
    /// Reads.
    pub read: Flow,
    /// Writes.
    pub write: Flow,
    /// Reads and writes together.
    pub total: Flow,
    /// Flushes; they are not among the requests.
    pub flush: Flow,
    /// With a rate: requests that were due and not begun when time was up.
    pub unsent: u64,
    /// What verification found, if it was asked for.
    pub verify: Option<Verified>,
    /// The measurement, interval by interval.
    pub series: Vec<Moment>,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// `file`, `device`, `volume`, `scratch`, `nbd` or `vhost-user-blk`.
    pub kind: String,
    /// Path, URL or name.
    pub name: String,
    /// Bytes of all of it.
    pub size: u64,
    /// The file has holes, reads of which reach no device.
    pub sparse: bool,
    /// A volume to which nothing had been written before.
    pub empty: bool,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pattern {
    /// `read`, `write`, `rw`, `randread`, `randwrite` or `randrw`.
    pub rw: String,
    /// Reads among a hundred requests.
    pub rwmix: u8,
    /// Bytes of a request.
    pub bs: u64,
    /// Requests in flight, of each job.
    pub depth: u32,
    /// Jobs.
    pub jobs: u32,
    /// Writes of a job between two of its flushes.
    pub fsync: Option<u64>,
    /// First byte of the working set.
    pub offset: u64,
    /// Bytes of the working set.
    pub size: u64,
    /// `uniform` or `zipf:THETA`.
    pub dist: String,
    /// `off`, `reads` or `all`.
    pub verify: String,
    /// Seconds asked for, at most.
    pub runtime: Option<f64>,
    /// Requests asked for, at most.
    pub requests: Option<u64>,
    /// Seconds of load before the measurement.
    pub warm_up: f64,
    /// Requests a second, begun when due.
    pub iops: Option<f64>,
    /// What makes the same requests again.
    pub seed: u64,
}

/// Something that was done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pass {
    /// `fill`, `measure` or `verify`.
    pub name: String,
    /// Seconds, warm-up and connecting included.
    pub seconds: f64,
    /// Reads and writes that were counted.
    pub requests: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Processor time of the process that measures, in seconds: the engine's too for a volume in-process, and never a server's.
    pub cpu_seconds: f64,
}

/// Requests of one kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Flow {
    /// How many ended.
    pub requests: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Requests a second.
    pub iops: f64,
    /// Bytes a second.
    pub bandwidth: f64,
    /// How long they took; none if there were none.
    pub latency: Option<Latency>,
}

/// How long requests took, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// The shortest.
    pub min: u64,
    /// The mean.
    pub mean: f64,
    /// The standard deviation.
    pub stddev: f64,
    /// Half of them took no longer.
    pub p50: u64,
    /// 90 %.
    pub p90: u64,
    /// 95 %.
    pub p95: u64,
    /// 99 %.
    pub p99: u64,
    /// 99.9 %.
    pub p99_9: u64,
    /// 99.99 %.
    pub p99_99: u64,
    /// The longest.
    pub max: u64,
}

/// What verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Bytes that were compared with what this run wrote, or with their own checksum.
    pub checked: u64,
    /// Bytes read that this run had not written and that do not describe themselves.
    pub unknown: u64,
    /// Units of 512 bytes that were wrong.
    pub failures: u64,
    /// The first of them.
    pub told: Vec<String>,
}

/// An interval of the measurement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Moment {
    /// Its end, in seconds from the end of the warm-up.
    pub end: f64,
    /// Reads a second.
    pub read_iops: f64,
    /// Writes a second.
    pub write_iops: f64,
    /// Flushes a second.
    pub flush_iops: f64,
    /// Bytes read a second.
    pub read_bandwidth: f64,
    /// Bytes written a second.
    pub write_bandwidth: f64,
    /// Half of its reads and writes took no longer, in nanoseconds; 0 if there were none.
    pub p50: u64,
    /// 99 %.
    pub p99: u64,
    /// 99.9 %.
    pub p99_9: u64,
    /// The longest.
    pub max: u64,
}

impl From<&Histogram<u64>> for Latency {
    fn from(latency: &Histogram<u64>) -> Self {
        let at = |quantile| latency.value_at_quantile(quantile);
        Self {
            min: latency.min(),
            mean: latency.mean(),
            stddev: latency.stdev(),
            p50: at(0.5),
            p90: at(0.9),
            p95: at(0.95),
            p99: at(0.99),
            p99_9: at(0.999),
            p99_99: at(0.9999),
            max: latency.max(),
        }
    }
}

impl Flow {
    fn new(requests: u64, bytes: u64, seconds: f64, latency: Option<Latency>) -> Self {
        let rate = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        Self { requests, bytes, iops: rate(requests), bandwidth: rate(bytes), latency }
    }

    fn of(tally: Option<&Tally>, seconds: f64) -> Self {
        match tally {
            Some(tally) => Self::new(tally.requests, tally.bytes, seconds, Some((&tally.latency).into())),
            None => Self::default(),
        }
    }
}

/// The report of passes, one of which is the measurement, unless the run was ended before.
pub(crate) fn report(
    subject: &target::Subject,
    bench: &Bench,
    seed: u64,
    size: u64,
    passes: &[Passed],
    findings: Option<Findings>,
) -> Report {
    let measured = passes.iter().find(|pass| pass.name == "measure");
    let seconds = measured.map_or(0.0, |pass| pass.elapsed.as_secs_f64());
    let flow = |kind| Flow::of(measured.and_then(|pass| pass.series.total.of(kind)), seconds);
    let (read, write) = (flow(Kind::Read), flow(Kind::Write));
    let both = measured.and_then(|pass| pass.series.total.requests());
    let total =
        Flow::new(read.requests + write.requests, read.bytes + write.bytes, seconds, both.as_ref().map(Latency::from));
    Report {
        schema: SCHEMA,
        target: Subject {
            kind: subject.kind.to_owned(),
            name: subject.name.clone(),
            size: subject.size,
            sparse: subject.sparse,
            empty: subject.holds == target::Holds::Nothing && !subject.made,
        },
        pattern: pattern(bench, seed, size),
        passes: passes.iter().map(pass).collect(),
        seconds,
        stopped: passes.iter().any(|pass| pass.stopped),
        read,
        write,
        total,
        flush: flow(Kind::Flush),
        unsent: measured.map_or(0, |pass| pass.unsent),
        verify: findings.map(|findings| Verified {
            checked: findings.checked,
            unknown: findings.unknown,
            failures: findings.failures,
            told: findings.told,
        }),
        series: measured.map(|pass| series(&pass.series, bench.interval, pass.elapsed)).unwrap_or_default(),
    }
}

fn pattern(bench: &Bench, seed: u64, size: u64) -> Pattern {
    Pattern {
        rw: bench.name().to_owned(),
        rwmix: bench.read_percent,
        bs: bench.block,
        depth: bench.depth,
        jobs: bench.jobs,
        fsync: bench.flush_every,
        offset: bench.offset,
        size,
        dist: bench.spread.to_string(),
        verify: match bench.verify {
            Verify::Off => "off",
            Verify::Reads => "reads",
            Verify::All => "all",
        }
        .to_owned(),
        runtime: bench.limit().map(|limit| limit.as_secs_f64()),
        requests: bench.requests,
        warm_up: bench.warm_up.as_secs_f64(),
        iops: bench.rate,
        seed,
    }
}

fn pass(pass: &Passed) -> Pass {
    let [read, write] = [Kind::Read, Kind::Write].map(|kind| pass.series.total.of(kind));
    let sum = |of: fn(&Tally) -> u64| read.map_or(0, of) + write.map_or(0, of);
    Pass {
        name: pass.name.to_owned(),
        seconds: pass.wall.as_secs_f64(),
        requests: sum(|tally| tally.requests),
        bytes: sum(|tally| tally.bytes),
        cpu_seconds: pass.cpu.as_secs_f64(),
    }
}

/// Rates of the intervals. The last one ends with the last request, not with the clock.
fn series(series: &Series, interval: Duration, elapsed: Duration) -> Vec<Moment> {
    let interval = interval.as_secs_f64();
    let last = series.points.last().map_or(0, |point| point.index);
    series
        .points
        .iter()
        .map(|point| {
            let begin = point.index as f64 * interval;
            let end = if point.index == last { elapsed.as_secs_f64().max(begin) } else { begin + interval };
            moment(point, end, end - begin)
        })
        .collect()
}

fn moment(point: &Point, end: f64, seconds: f64) -> Moment {
    let rate = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
    let [p50, p99, p99_9, max] = point.percentiles;
    Moment {
        end,
        read_iops: rate(point.reads),
        write_iops: rate(point.writes),
        flush_iops: rate(point.flushes),
        read_bandwidth: rate(point.read_bytes),
        write_bandwidth: rate(point.written_bytes),
        p50,
        p99,
        p99_9,
        max,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A report with a series of so many seconds.
    pub(crate) fn sample(seconds: u32) -> Report {
        let mut latency = Histogram::new(3).unwrap();
        (1..=1000u64).for_each(|number| latency.record(number * 1000).unwrap());
        let latency = Some(Latency::from(&latency));
        let moment = |number: u32| Moment {
            end: f64::from(number + 1),
            read_iops: 1000.0 + f64::from(number % 7),
            write_iops: 500.0,
            flush_iops: 1.0,
            read_bandwidth: 4_096_000.0,
            write_bandwidth: 2_048_000.0,
            p50: 100_000,
            p99: 900_000 + u64::from(number) * 100,
            p99_9: 2_000_000,
            max: 5_000_000,
        };
        let bench = Bench { read_percent: 67, ..Bench::named("randrw").unwrap() };
        let both = f64::from(seconds);
        Report {
            schema: SCHEMA,
            target: Subject { kind: "file".into(), name: "/a<b>&c".into(), size: 1 << 30, sparse: false, empty: false },
            pattern: pattern(&bench, 1, 1 << 30),
            passes: vec![Pass { name: "measure".into(), seconds: both, requests: 1500, bytes: 1, cpu_seconds: 0.5 }],
            seconds: both,
            stopped: false,
            read: Flow::new(1000 * u64::from(seconds), 4_096_000, both, latency),
            write: Flow::new(500 * u64::from(seconds), 2_048_000, both, latency),
            total: Flow::new(1500 * u64::from(seconds), 6_144_000, both, latency),
            flush: Flow::default(),
            unsent: 0,
            verify: None,
            series: (0..seconds).map(moment).collect(),
        }
    }

    #[test]
    fn reports_go_through_json() {
        let report = sample(3);
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    }

    #[test]
    fn the_last_interval_ends_with_the_last_request() {
        let mut points = Series::new();
        points.points =
            vec![Point { index: 0, reads: 100, ..Point::default() }, Point { index: 1, reads: 50, ..Point::default() }];
        let moments = series(&points, Duration::from_secs(1), Duration::from_millis(1500));
        assert_eq!(moments.iter().map(|m| (m.end, m.read_iops)).collect::<Vec<_>>(), [(1.0, 100.0), (1.5, 100.0)]);
    }
}
