//! Counts and latencies: of a job and an interval, then of all jobs together, interval by interval.
//!
//! Invariant: a request is in exactly one interval, and the sum of the intervals is the total.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

use crate::lane::Kind;

/// Requests of one kind.
#[derive(Clone)]
pub(crate) struct Tally {
    pub(crate) requests: u64,
    pub(crate) bytes: u64,
    /// In nanoseconds, to three digits.
    pub(crate) latency: Histogram<u64>,
}

impl Tally {
    fn new() -> Option<Box<Self>> {
        // Three digits are within what the histogram offers, so this is never none; it grows to hold any value.
        let latency = Histogram::new(3).ok()?;
        Some(Box::new(Self { requests: 0, bytes: 0, latency }))
    }
}

/// What ended in an interval.
#[derive(Clone, Default)]
pub(crate) struct Chunk {
    tallies: [Option<Box<Tally>>; Kind::COUNT],
}

impl Chunk {
    /// Counts a request that took `nanos`.
    pub(crate) fn record(&mut self, kind: Kind, bytes: u64, nanos: u64) {
        let Some(slot) = self.tallies.get_mut(kind as usize) else { return };
        if slot.is_none() {
            *slot = Tally::new();
        }
        let Some(tally) = slot else { return };
        tally.requests += 1;
        tally.bytes += bytes;
        // The histogram grows to hold any value; were there no memory for that, the value would count as the longest that it holds.
        if tally.latency.record(nanos.max(1)).is_err() {
            tally.latency.saturating_record(nanos);
        }
    }

    /// Adds what another chunk counted.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (own, other) in self.tallies.iter_mut().zip(&other.tallies) {
            match (own, other) {
                (_, None) => {}
                (own @ None, Some(other)) => *own = Some(other.clone()),
                (Some(own), Some(other)) => {
                    own.requests += other.requests;
                    own.bytes += other.bytes;
                    // The own histogram grows as needed, so this takes anything.
                    let _added = own.latency.add(&other.latency);
                }
            }
        }
    }

    pub(crate) fn of(&self, kind: Kind) -> Option<&Tally> {
        self.tallies.get(kind as usize)?.as_deref()
    }

    /// Latencies of reads and writes together.
    pub(crate) fn requests(&self) -> Option<Histogram<u64>> {
        let (read, write) = (self.of(Kind::Read), self.of(Kind::Write));
        match (read, write) {
            (Some(read), Some(write)) => {
                let mut both = read.latency.clone();
                let _added = both.add(&write.latency);
                Some(both)
            }
            (one, other) => one.or(other).map(|tally| tally.latency.clone()),
        }
    }
}

/// A job's counting: the interval that it is in, and those that it has left.
pub(crate) struct Recorder {
    /// Where the first interval begins.
    from: Instant,
    interval: Duration,
    /// The last interval; what ends after it counts in it.
    last: u64,
    index: u64,
    ends: Instant,
    chunk: Chunk,
    left: Vec<(u64, Chunk)>,
}

impl Recorder {
    pub(crate) fn new(from: Instant, interval: Duration, limit: Option<Duration>) -> Self {
        let last = limit.map_or(u64::MAX, |limit| {
            let whole = limit.as_nanos().div_ceil(interval.as_nanos().max(1)).max(1);
            u64::try_from(whole - 1).unwrap_or(u64::MAX)
        });
        Self { from, interval, last, index: 0, ends: from + interval, chunk: Chunk::default(), left: Vec::new() }
    }

    /// Goes on to the interval that `now` is in.
    pub(crate) fn turn(&mut self, now: Instant) {
        if now < self.ends || self.index >= self.last {
            return;
        }
        let passed = now.saturating_duration_since(self.from).as_nanos() / self.interval.as_nanos().max(1);
        let index = u64::try_from(passed).unwrap_or(u64::MAX).min(self.last);
        self.left.push((self.index, std::mem::take(&mut self.chunk)));
        self.index = index;
        self.ends = self.from + self.interval.saturating_mul(u32::try_from(index + 1).unwrap_or(u32::MAX));
    }

    /// Counts a request that ended in the present interval.
    pub(crate) fn record(&mut self, kind: Kind, bytes: u64, took: Duration) {
        self.chunk.record(kind, bytes, u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    /// The present interval.
    pub(crate) fn index(&self) -> u64 {
        self.index
    }

    /// Intervals that were left since the last call.
    pub(crate) fn take_left(&mut self) -> Vec<(u64, Chunk)> {
        std::mem::take(&mut self.left)
    }

    /// All that is not taken yet.
    pub(crate) fn end(mut self) -> Vec<(u64, Chunk)> {
        self.left.push((self.index, self.chunk));
        self.left
    }
}

/// A point of the series.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Point {
    pub(crate) index: u64,
    pub(crate) reads: u64,
    pub(crate) writes: u64,
    pub(crate) flushes: u64,
    pub(crate) read_bytes: u64,
    pub(crate) written_bytes: u64,
    /// Nanoseconds within which half of the reads and writes ended, then 99 %, 99.9 %, all.
    pub(crate) percentiles: [u64; 4],
}

/// What all jobs counted: the total, and the series.
pub(crate) struct Series {
    pub(crate) total: Chunk,
    open: BTreeMap<u64, Chunk>,
    pub(crate) points: Vec<Point>,
}

impl Series {
    pub(crate) fn new() -> Self {
        Self { total: Chunk::default(), open: BTreeMap::new(), points: Vec::new() }
    }

    /// Takes chunks of a job.
    pub(crate) fn add(&mut self, chunks: Vec<(u64, Chunk)>) {
        for (index, chunk) in chunks {
            self.open.entry(index).or_default().merge(&chunk);
        }
    }

    /// Intervals below `index` have all their chunks: keeps a point of each, and the sum. Those in which nothing ended are points too.
    pub(crate) fn close_before(&mut self, index: u64) {
        while let Some(entry) = self.open.first_entry() {
            if *entry.key() >= index {
                return;
            }
            let (number, chunk) = entry.remove_entry();
            let first = self.points.last().map_or(0, |point| point.index + 1);
            self.points.extend((first..number).map(|index| Point { index, ..Point::default() }));
            self.points.push(point(number, &chunk));
            self.total.merge(&chunk);
        }
    }
}

fn point(index: u64, chunk: &Chunk) -> Point {
    let [read, write, flush] = [Kind::Read, Kind::Write, Kind::Flush].map(|kind| chunk.of(kind));
    let percentiles = chunk.requests().map_or([0; 4], |latency| {
        [
            latency.value_at_quantile(0.5),
            latency.value_at_quantile(0.99),
            latency.value_at_quantile(0.999),
            latency.max(),
        ]
    });
    Point {
        index,
        reads: read.map_or(0, |tally| tally.requests),
        writes: write.map_or(0, |tally| tally.requests),
        flushes: flush.map_or(0, |tally| tally.requests),
        read_bytes: read.map_or(0, |tally| tally.bytes),
        written_bytes: write.map_or(0, |tally| tally.bytes),
        percentiles,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn merged_chunks_are_what_one_would_have_counted() {
        let (mut all, mut merged) = (Chunk::default(), Chunk::default());
        for job in 0..4u64 {
            let mut part = Chunk::default();
            for number in 0..1000 {
                let nanos = 1000 + job * 1_000_000 + number * 977;
                let kind = if number % 3 == 0 { Kind::Read } else { Kind::Write };
                part.record(kind, 4096, nanos);
                all.record(kind, 4096, nanos);
            }
            merged.merge(&part);
        }
        for kind in [Kind::Read, Kind::Write] {
            let (all, merged) = (all.of(kind).unwrap(), merged.of(kind).unwrap());
            assert_eq!((all.requests, all.bytes), (merged.requests, merged.bytes));
            assert_eq!(all.latency, merged.latency);
        }
        assert_eq!(merged.requests().unwrap().len(), 4000);
        assert!(merged.of(Kind::Flush).is_none());
    }

    #[test]
    fn percentiles_are_within_a_thousandth() {
        let mut chunk = Chunk::default();
        for nanos in 1..=100_000u64 {
            chunk.record(Kind::Read, 1, nanos * 1000);
        }
        let latency = &chunk.of(Kind::Read).unwrap().latency;
        for (quantile, exact) in [(0.5, 50_000_000.0), (0.99, 99_000_000.0), (0.999, 99_900_000.0)] {
            let found = latency.value_at_quantile(quantile) as f64;
            assert!((found / exact - 1.0).abs() < 0.001, "{quantile}: {found}");
        }
        // The longest value there can be is kept, and does not get in the way of others.
        chunk.record(Kind::Read, 1, u64::MAX);
        assert_eq!(chunk.of(Kind::Read).unwrap().latency.len(), 100_001);
    }

    #[test]
    fn intervals_without_an_end_are_zeros_and_the_sum_is_the_total() {
        let from = Instant::now();
        let mut recorders = [0, 1].map(|_| Recorder::new(from, SECOND, Some(SECOND * 5)));
        for (number, recorder) in recorders.iter_mut().enumerate() {
            for (at, count) in [(0.5, 3), (2.5, 2 + number), (9.0, 1)] {
                recorder.turn(from + Duration::from_secs_f64(at));
                (0..count).for_each(|_| recorder.record(Kind::Write, 512, SECOND));
            }
        }
        let mut series = Series::new();
        for mut recorder in recorders {
            series.add(recorder.take_left());
            series.add(recorder.end());
        }
        series.close_before(u64::MAX);
        let writes: Vec<_> = series.points.iter().map(|point| (point.index, point.writes)).collect();
        // What ended after the last interval counts in it.
        assert_eq!(writes, [(0, 6), (1, 0), (2, 5), (3, 0), (4, 2)]);
        assert_eq!(series.total.of(Kind::Write).unwrap().requests, 13);
    }

    #[test]
    fn an_interval_is_open_until_all_jobs_have_left_it() {
        let mut series = Series::new();
        let mut chunk = Chunk::default();
        chunk.record(Kind::Read, 1, 5);
        series.add(vec![(0, chunk.clone()), (1, chunk.clone())]);
        series.close_before(1);
        assert_eq!(series.points.len(), 1);
        series.add(vec![(1, chunk)]);
        series.close_before(2);
        assert_eq!(series.points[1].reads, 2);
    }
}
