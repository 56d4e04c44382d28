//! What happened between two looks at a pool.
//!
//! Rates go by the server's own clock, so that a slow answer does not falsify them. When the server was started again in between, counts are
//! taken from that start.

use cairn_engine::{Flow, Flows, Held, ScrubProgress, VolumeStats};
use cairn_service::{api::VolumesStats, backup::FillingVolume};
use serde::Serialize;
use std::{cmp::Reverse, collections::BTreeMap};

use super::sample::{Sample, Space};
use crate::args::SortKey;

/// Everything that is shown of an interval; the form of `--json`.
#[derive(Serialize)]
pub(super) struct Interval {
    /// Its end, in milliseconds since 1970.
    pub(super) time_ms: u64,
    pub(super) seconds: f64,
    pub(super) pool: Space,
    /// Of all volumes, without background work.
    pub(super) total: Total,
    pub(super) volumes: Vec<Line>,
    pub(super) background: Background,
}

#[derive(Serialize)]
pub(super) struct Total {
    #[serde(flatten)]
    pub(super) rates: Rates,
    pub(super) in_flight: u64,
    pub(super) waiting: u64,
    pub(super) allocated: u64,
    pub(super) size: u64,
}

/// A volume, or background work.
#[derive(Serialize)]
pub(super) struct Line {
    pub(super) id: Option<u64>,
    pub(super) name: String,
    #[serde(flatten)]
    pub(super) rates: Rates,
    pub(super) in_flight: u64,
    pub(super) waiting: u64,
    /// By what held requests back.
    pub(super) held: BTreeMap<String, HeldBack>,
    pub(super) allocated: u64,
    pub(super) size: u64,
}

#[derive(Serialize)]
pub(super) struct Background {
    #[serde(flatten)]
    pub(super) line: Line,
    pub(super) scrub: Option<ScrubProgress>,
    pub(super) filling: Vec<FillingVolume>,
}

#[derive(Serialize)]
pub(super) struct Rates {
    /// Reads and writes together.
    pub(super) io: Rate,
    pub(super) read: Rate,
    pub(super) write: Rate,
    pub(super) discard: Rate,
    pub(super) flush: Rate,
}

/// Requests a second and how long they took; zero where there were none.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Rate {
    pub(super) iops: f64,
    pub(super) bytes_per_second: f64,
    pub(super) mean_ns: u64,
    pub(super) p99_ns: u64,
}

/// Requests that were held back in this interval, and how many of them went.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct HeldBack {
    pub(super) requests: u64,
    pub(super) nanos: u64,
    /// Part of the interval for which one of them was waiting, 1 at most. For several that waited side by side it is what it would be if they had
    /// waited one after the other.
    pub(super) share: f64,
}

impl Interval {
    pub(super) fn between(earlier: &Sample, later: &Sample) -> Self {
        let same = later.volumes.since_ms == earlier.volumes.since_ms && later.volumes.up_ns >= earlier.volumes.up_ns;
        let (before, began) = match same {
            true => (by_id(&earlier.volumes), earlier.volumes.up_ns),
            false => (BTreeMap::new(), 0),
        };
        let seconds = (later.volumes.up_ns - began).max(1) as f64 / 1e9;
        let mut volumes = Vec::new();
        let mut background = None;
        let mut all = Flows::default();
        for stats in &later.volumes.volumes {
            let id = stats.id.map(|id| id.0);
            let (flows, line) = line(before.get(&id).copied(), stats, seconds);
            if id.is_none() {
                background = Some(line);
                continue;
            }
            all = Flows {
                read: together(&all.read, &flows.read),
                write: together(&all.write, &flows.write),
                discard: together(&all.discard, &flows.discard),
                flush: together(&all.flush, &flows.flush),
            };
            volumes.push(line);
        }
        let sum = |of: fn(&Line) -> u64| volumes.iter().map(of).fold(0, u64::saturating_add);
        let total = Total {
            rates: Rates::of(&all, seconds),
            in_flight: sum(|line| line.in_flight),
            waiting: sum(|line| line.waiting),
            allocated: sum(|line| line.allocated),
            size: sum(|line| line.size),
        };
        Self {
            time_ms: later.time_ms,
            seconds,
            pool: later.pool.clone(),
            total,
            volumes,
            background: Background {
                line: background.unwrap_or_else(idle),
                scrub: later.scrub.clone(),
                filling: later.filling.clone(),
            },
        }
    }

    /// The greatest first; equals by name.
    pub(super) fn sort(&mut self, key: SortKey) {
        let held = |line: &Line| line.held.values().map(|held| held.nanos).fold(0, u64::saturating_add) as f64;
        let value = |line: &Line| match key {
            SortKey::Name => 0.0,
            SortKey::Iops => line.rates.io.iops,
            SortKey::Read => line.rates.read.iops,
            SortKey::Write => line.rates.write.iops,
            SortKey::Bandwidth => line.rates.io.bytes_per_second,
            SortKey::Latency => line.rates.io.p99_ns as f64,
            SortKey::Waiting => line.waiting as f64,
            SortKey::Held => held(line),
            SortKey::Allocated => line.allocated as f64,
        };
        self.volumes.sort_by(|a, b| value(b).total_cmp(&value(a)).then_with(|| a.name.cmp(&b.name)));
    }
}

fn by_id(stats: &VolumesStats) -> BTreeMap<Option<u64>, &VolumeStats> {
    stats.volumes.iter().map(|stats| (stats.id.map(|id| id.0), stats)).collect()
}

fn line(before: Option<&VolumeStats>, now: &VolumeStats, seconds: f64) -> (Flows, Line) {
    let none = Flows::default();
    let was = before.map_or(&none, |before| &before.flows);
    let flows = Flows {
        read: now.flows.read.since(&was.read),
        write: now.flows.write.since(&was.write),
        discard: now.flows.discard.since(&was.discard),
        flush: now.flows.flush.since(&was.flush),
    };
    let held = |(what, held): (&String, &Held)| {
        let was = before.and_then(|before| before.held.get(what)).copied().unwrap_or_default();
        let requests = held.requests.saturating_sub(was.requests);
        let nanos = held.nanos.saturating_sub(was.nanos);
        let share = (nanos as f64 / 1e9 / seconds).min(1.0);
        (requests > 0 || nanos > 0).then(|| (what.clone(), HeldBack { requests, nanos, share }))
    };
    let line = Line {
        id: now.id.map(|id| id.0),
        name: now.name.clone(),
        rates: Rates::of(&flows, seconds),
        in_flight: now.in_flight,
        waiting: now.waiting,
        held: now.held.iter().filter_map(held).collect(),
        allocated: now.allocated,
        size: now.size,
    };
    (flows, line)
}

fn idle() -> Line {
    Line {
        id: None,
        name: "background".to_owned(),
        rates: Rates::of(&Flows::default(), 1.0),
        in_flight: 0,
        waiting: 0,
        held: BTreeMap::new(),
        allocated: 0,
        size: 0,
    }
}

fn together(a: &Flow, b: &Flow) -> Flow {
    let mut latencies = a.latencies;
    for (sum, more) in latencies.iter_mut().zip(b.latencies) {
        *sum = sum.saturating_add(more);
    }
    Flow {
        requests: a.requests.saturating_add(b.requests),
        bytes: a.bytes.saturating_add(b.bytes),
        nanos: a.nanos.saturating_add(b.nanos),
        latencies,
    }
}

impl Rates {
    fn of(flows: &Flows, seconds: f64) -> Self {
        Self {
            io: Rate::of(&together(&flows.read, &flows.write), seconds),
            read: Rate::of(&flows.read, seconds),
            write: Rate::of(&flows.write, seconds),
            discard: Rate::of(&flows.discard, seconds),
            flush: Rate::of(&flows.flush, seconds),
        }
    }
}

impl Rate {
    fn of(flow: &Flow, seconds: f64) -> Self {
        Self {
            iops: flow.requests as f64 / seconds,
            bytes_per_second: flow.bytes as f64 / seconds,
            mean_ns: flow.nanos.checked_div(flow.requests).unwrap_or(0),
            p99_ns: flow.quantile(0.99),
        }
    }
}

impl Line {
    /// What held requests back the longest, and how many other things did.
    pub(super) fn mostly_held(&self) -> Option<(&str, f64, usize)> {
        let (what, held) = self.held.iter().min_by_key(|(_, held)| Reverse(held.nanos))?;
        Some((what, held.share, self.held.len() - 1))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use cairn_engine::{OCTAVES, VolumeId};

    fn flow(requests: u64, bytes: u64, micros: u64) -> Flow {
        let mut latencies = [0; OCTAVES];
        latencies[micros.max(1).ilog2() as usize] = requests;
        Flow { requests, bytes: requests * bytes, nanos: requests * micros * 1000, latencies }
    }

    pub(in super::super) fn volume(id: Option<u64>, name: &str, read: Flow, held: &[(&str, u64, u64)]) -> VolumeStats {
        VolumeStats {
            id: id.map(VolumeId),
            name: name.to_owned(),
            flows: Flows { read, ..Flows::default() },
            in_flight: 2,
            waiting: 1,
            held: held
                .iter()
                .map(|(what, requests, nanos)| ((*what).to_owned(), Held { requests: *requests, nanos: *nanos }))
                .collect(),
            allocated: 4096,
            size: 1 << 20,
        }
    }

    pub(in super::super) fn sample(since_ms: u64, up_ns: u64, volumes: Vec<VolumeStats>) -> Sample {
        let pool = Space {
            path: "/srv/main.pool".into(),
            capacity: 1 << 30,
            used: 1 << 28,
            free: 3 << 28,
            deleting: 0,
            releasing: 0,
            read_only: None,
        };
        let volumes = VolumesStats { since_ms, up_ns, volumes };
        Sample { time_ms: 0, volumes, pool, scrub: None, filling: Vec::new() }
    }

    pub(in super::super) fn busy() -> Interval {
        let early = sample(
            7,
            1_000_000_000,
            vec![
                volume(Some(1), "old name", flow(100, 512, 3000), &[]),
                volume(None, "background", Flow::default(), &[]),
            ],
        );
        let limit = "volume:total_iops_sec";
        let mut later = flow(100, 512, 3000);
        later = together(&later, &flow(50, 4096, 10));
        let late = sample(
            7,
            3_000_000_000,
            vec![
                volume(Some(1), "db", later, &[(limit, 30, 1_500_000_000), ("share", 3, 1_000)]),
                volume(Some(2), "new", flow(200, 512, 3000), &[(limit, 30, 9_500_000_000)]),
                volume(None, "background", flow(10, 4096, 5), &[]),
            ],
        );
        Interval::between(&early, &late)
    }

    #[test]
    fn rates_are_of_the_interval_and_follow_a_volume_that_is_renamed() {
        let interval = busy();
        assert_eq!((interval.seconds, interval.volumes.len()), (2.0, 2));
        let db = &interval.volumes[0];
        assert_eq!(db.rates.read, Rate { iops: 25.0, bytes_per_second: 102_400.0, mean_ns: 10_000, p99_ns: 16_000 });
        assert_eq!((db.rates.io, db.rates.write.iops), (db.rates.read, 0.0));
        assert_eq!(db.mostly_held(), Some(("volume:total_iops_sec", 0.75, 1)));
        assert_eq!(interval.volumes[1].held["volume:total_iops_sec"].share, 1.0, "never more than all of it");
        let total = &interval.total;
        assert_eq!((total.rates.io.iops, total.in_flight, total.waiting, total.size), (125.0, 4, 2, 2 << 20));
        assert_eq!(total.rates.io.p99_ns, 4_096_000);
        assert_eq!(interval.background.line.rates.read.iops, 5.0);
    }

    #[test]
    fn after_another_start_counts_are_from_there() {
        let early = sample(7, 9_000_000_000, vec![volume(Some(1), "db", flow(10, 512, 10), &[("share", 10, 10)])]);
        let late = sample(8, 10_000_000_000, vec![volume(Some(1), "db", flow(40, 512, 10), &[("share", 30, 30)])]);
        let interval = Interval::between(&early, &late);
        assert_eq!((interval.seconds, interval.volumes[0].rates.read.iops), (10.0, 4.0));
        assert_eq!(interval.volumes[0].held["share"].requests, 30);
    }

    #[test]
    fn the_greatest_is_first() {
        let mut interval = busy();
        let names = |interval: &Interval| interval.volumes.iter().map(|line| line.name.clone()).collect::<Vec<_>>();
        for (key, order) in [
            (SortKey::Name, ["db", "new"]),
            (SortKey::Iops, ["new", "db"]),
            (SortKey::Write, ["db", "new"]),
            (SortKey::Bandwidth, ["db", "new"]),
            (SortKey::Latency, ["new", "db"]),
            (SortKey::Held, ["new", "db"]),
        ] {
            interval.sort(key);
            assert_eq!(names(&interval), order, "{key:?}");
        }
    }
}
