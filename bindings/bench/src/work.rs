//! What a job does: which request comes next, what it carries, and what its end means.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use cairn_engine::Result;

use crate::{
    bench::{Order, Spread},
    board::Board,
    lane::{Ask, Kind},
    noise::Noise,
    places::Places,
    slice::Slice,
    stats::Recorder,
    verify::ledger::Ledger,
};

/// What all jobs of a pass have in common.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) name: &'static str,
    pub(crate) order: Order,
    pub(crate) spread: Spread,
    pub(crate) read_percent: u8,
    pub(crate) depth: usize,
    pub(crate) jobs: usize,
    pub(crate) flush_every: Option<u64>,
    /// Every place once, then the pass is over.
    pub(crate) once: bool,
    /// Only places that this run wrote.
    pub(crate) known_only: bool,
    /// A flush of each job at its end.
    pub(crate) flush_at_end: bool,
    pub(crate) warm_up: Duration,
    pub(crate) limit: Option<Duration>,
    pub(crate) requests: Option<u64>,
    pub(crate) rate: Option<f64>,
    pub(crate) interval: Duration,
    pub(crate) seed: u64,
}

/// What is measured beside latencies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Requests that were due and never begun, for want of a free slot.
    pub(crate) unsent: u64,
    /// When the last counted request ended, since measuring began.
    pub(crate) elapsed: Duration,
}

/// A job's state in a pass.
pub(crate) struct Work {
    pub(crate) job: usize,
    pub(crate) plan: Arc<Plan>,
    /// The longest requests of the pass, in bytes: multiples of a place.
    pub(crate) block: u64,
    slice: Slice,
    places: Places,
    noise: Noise,
    ledger: Option<Ledger>,
    /// Requests that may still be begun.
    left: u64,
    pub(crate) ended: Ended,
}

impl Work {
    /// A job on `slice`, whose requests are of up to `block` bytes. A ledger makes it verify.
    pub(crate) fn new(job: usize, plan: Arc<Plan>, slice: Slice, block: u64, ledger: Option<Ledger>) -> Self {
        let seed = plan.seed.wrapping_add((job as u64 + 1).wrapping_mul(0xd134_2543_de82_ef95));
        let count = slice.length().div_ceil(block);
        let jobs = plan.jobs as u64;
        let left = match (plan.once, plan.requests) {
            (true, _) => count,
            (false, None) => u64::MAX,
            // The first jobs take what does not divide.
            (false, Some(all)) => all / jobs + u64::from((job as u64) < all % jobs),
        };
        let noise = Noise::new(if ledger.is_some() { 8 } else { block as usize }, seed);
        let places = Places::new(plan.order, plan.spread, count, seed);
        Self { job, block, slice, places, noise, ledger, left, ended: Ended::default(), plan }
    }

    /// What is left of a job when its pass is over.
    pub(crate) fn end(self) -> (Option<Ledger>, Ended) {
        (self.ledger, self.ended)
    }

    /// Whether there is nothing left to begin.
    pub(crate) fn is_done(&self) -> bool {
        self.left == 0
    }

    /// The next request; none when there is none left, or when every place has a request in flight.
    pub(crate) fn next(&mut self) -> Option<Ask> {
        while self.left > 0 {
            let wanted = self.places.next();
            let place = match &self.ledger {
                Some(ledger) if !self.plan.once => ledger.take_free(wanted)?,
                _ => wanted,
            };
            let at = place * self.block;
            let offset = self.slice.offset + at;
            let length = self.block.min(self.slice.length() - at) as usize;
            self.left -= 1;
            let kind = if self.places.reads(self.plan.read_percent) { Kind::Read } else { Kind::Write };
            match &mut self.ledger {
                Some(ledger) if self.plan.known_only && !ledger.knows(offset, length) => continue,
                Some(ledger) => ledger.begin(offset, length),
                None => {}
            }
            return Some(Ask { kind, offset, length });
        }
        None
    }

    /// Makes the bytes of a write. `holds_noise`: the buffer holds noise already. Says whether that took a while.
    pub(crate) fn prepare(&mut self, ask: Ask, buffer: &mut [u8], holds_noise: bool) -> bool {
        match &self.ledger {
            Some(ledger) => ledger.fill(buffer, ask.offset),
            None => {
                if !holds_noise {
                    self.noise.fill(buffer);
                }
                self.noise.mark(buffer);
            }
        }
        self.ledger.is_some() || !holds_noise
    }

    /// A request has ended well; a read's bytes are in `buffer`.
    pub(crate) fn ended(&mut self, ask: Ask, buffer: &[u8]) {
        if let Some(ledger) = &mut self.ledger {
            match ask.kind {
                Kind::Read => drop(ledger.read(buffer, ask.offset, self.plan.known_only)),
                Kind::Write => ledger.written(ask.offset, ask.length),
                Kind::Flush => {}
            }
        }
    }

    /// Whether reads have to be looked at.
    pub(crate) fn verifies(&self) -> bool {
        self.ledger.is_some()
    }

    /// When requests of this job are due: the first, and the time between two; none: whenever a slot is free.
    pub(crate) fn pace(&self, start: Instant) -> Option<(Instant, Duration)> {
        let between = Duration::from_secs_f64(self.plan.jobs as f64 / self.plan.rate?);
        Some((start + between.mul_f64(self.job as f64 / self.plan.jobs as f64), between))
    }

    /// A counter for what is measured from `from` on.
    pub(crate) fn recorder(&self, from: Instant) -> Recorder {
        Recorder::new(from, self.plan.interval, self.plan.limit)
    }
}

/// Tells the board how a job ended.
pub(crate) fn report(board: &Board, outcome: &Result<()>) {
    if outcome.is_err() {
        board.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bench::Bench, verify::unit::Stamp};
    use std::collections::BTreeMap;

    fn plan(name: &str) -> Plan {
        let bench = Bench::named(name).unwrap();
        Plan {
            name: "measure",
            order: bench.order,
            spread: bench.spread,
            read_percent: bench.read_percent,
            depth: 4,
            jobs: 3,
            flush_every: None,
            once: false,
            known_only: false,
            flush_at_end: false,
            warm_up: Duration::ZERO,
            limit: None,
            requests: None,
            rate: None,
            interval: Duration::from_secs(1),
            seed: 1,
        }
    }

    const WHOLE: Slice = Slice { offset: 4096, places: 10, block: 4096 };

    fn all(mut work: Work) -> Vec<Ask> {
        std::iter::from_fn(|| work.next()).collect()
    }

    #[test]
    fn a_pass_over_everything_meets_each_byte_once() {
        let plan = Arc::new(Plan { once: true, ..plan("write") });
        let mut bytes = BTreeMap::new();
        for (job, slice) in WHOLE.share(3).enumerate() {
            for ask in all(Work::new(job, plan.clone(), slice, 8192, None)) {
                assert_eq!(ask.kind, Kind::Write);
                for at in (ask.offset..ask.offset + ask.length as u64).step_by(4096) {
                    *bytes.entry(at).or_insert(0) += 1;
                }
            }
        }
        assert_eq!(bytes, (1..=10).map(|place| (place * 4096, 1)).collect());
    }

    #[test]
    fn requests_are_shared_out() {
        let plan = Arc::new(Plan { requests: Some(100), ..plan("randrw") });
        let counts: Vec<_> = (0..3).map(|job| all(Work::new(job, plan.clone(), WHOLE, 4096, None)).len()).collect();
        assert_eq!(counts, [34, 33, 33]);
    }

    #[test]
    fn jobs_go_to_different_places() {
        let plan = Arc::new(Plan { requests: Some(300), ..plan("randread") });
        let slice = Slice { offset: 0, places: 1 << 40, block: 4096 };
        let mut offsets: Vec<_> =
            (0..3).flat_map(|job| all(Work::new(job, plan.clone(), slice, 4096, None))).map(|ask| ask.offset).collect();
        offsets.sort_unstable();
        offsets.dedup();
        assert_eq!(offsets.len(), 300);
    }

    #[test]
    fn what_is_verified_never_overlaps() {
        let plan = Arc::new(plan("randrw"));
        let ledger = Ledger::new(WHOLE, Stamp { seed: 1, run: 1 }).unwrap();
        let mut work = Work::new(0, plan, WHOLE, 4096, Some(ledger));
        let mut offsets: Vec<_> = std::iter::from_fn(|| work.next()).map(|ask| ask.offset).collect();
        assert_eq!(offsets.len(), 10, "each place once, then none is free");
        offsets.sort_unstable();
        offsets.dedup();
        assert_eq!(offsets.len(), 10);
        let mut buffer = vec![0; 4096];
        let ask = Ask { kind: Kind::Write, offset: 8192, length: 4096 };
        assert!(work.prepare(ask, &mut buffer, true));
        work.ended(ask, &[]);
        assert_eq!(work.next().map(|ask| ask.offset), Some(8192));
    }

    #[test]
    fn due_times_of_jobs_interleave() {
        let start = Instant::now();
        let plan = Arc::new(Plan { rate: Some(30.0), ..plan("randread") });
        let paces: Vec<_> =
            (0..3).map(|job| Work::new(job, plan.clone(), WHOLE, 4096, None).pace(start).unwrap()).collect();
        for (job, (first, between)) in paces.into_iter().enumerate() {
            assert_eq!(between, Duration::from_millis(100));
            assert_eq!(first - start, between.mul_f64(job as f64 / 3.0));
        }
    }
}
