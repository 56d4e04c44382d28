//! A run: the target is opened, filled if wanted, measured, and read back if wanted. Each of these is a pass of the one loop.

use std::{
    sync::{Arc, Barrier, mpsc},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use cairn_engine::{Error, ErrorKind, Result};
use rustix::time::{ClockId, clock_gettime};

use crate::{
    bench::{Bench, Order, Spread, Verify},
    board::{Board, Live},
    drive::drive,
    lane::{Lane, Shape},
    noise::spread,
    report::json::{self, Report},
    slice::Slice,
    stats::Series,
    target::{Site, Subject, Target},
    verify::{
        ledger::{Findings, Ledger, MAX_PLACES},
        unit::Stamp,
    },
    work::{Ended, Plan, Work, report},
};

/// Between two looks at the jobs.
const LOOK: Duration = Duration::from_millis(250);
/// Requests of the passes before and after the measurement.
const LARGE: u64 = 1 << 20;
const LARGE_DEPTH: usize = 8;

/// What a pass came to.
pub(crate) struct Passed {
    pub(crate) name: &'static str,
    pub(crate) series: Series,
    /// Until the last counted request ended.
    pub(crate) elapsed: Duration,
    pub(crate) unsent: u64,
    /// Processor time of this process, of all of the pass.
    pub(crate) cpu: Duration,
    /// What that is to be set against.
    pub(crate) wall: Duration,
    pub(crate) stopped: bool,
}

/// Carries out what is asked for. `watch` is told four times a second how far it is; when it says `false`, the run ends early, with what it has.
///
/// # Errors
/// `Invalid` for what cannot be done and for writes over data that nobody has given up, `ReadOnly`, `Busy`; what the target says.
/// Blocks that were read wrong are no error of this function: see [`Report::verify`].
pub fn run(target: Target, bench: &Bench, watch: &mut dyn FnMut(&Live) -> bool) -> Result<Report> {
    bench.check()?;
    let scratch = matches!(target, Target::Scratch { .. });
    // Reads of a volume that was never written to would measure nothing.
    let bench = &Bench { fill: bench.fill || scratch && bench.read_percent > 0, ..bench.clone() };
    let (site, subject) = Site::open(target, bench)?;
    let outcome = measure(&site, &subject, bench, watch);
    let closed = site.close();
    outcome.and_then(|report| closed.map(|()| report))
}

fn measure(site: &Site, subject: &Subject, bench: &Bench, watch: &mut dyn FnMut(&Live) -> bool) -> Result<Report> {
    subject.consent(bench)?;
    let size = subject.working_set(bench)?;
    let whole = Slice { offset: bench.offset, places: size / bench.block, block: bench.block };
    let mut run = Run::new(site, subject, bench, whole)?;
    let mut passes = Vec::new();
    // A file that was just made has no blocks yet.
    if bench.fill || subject.made && subject.kind == "file" {
        passes.push(run.large("fill", watch)?);
    }
    let stopped = |passes: &[Passed]| passes.iter().any(|pass| pass.stopped);
    if !stopped(&passes) {
        passes.push(run.pattern(watch)?);
    }
    if bench.verify == Verify::All && bench.read_percent < 100 && !stopped(&passes) {
        passes.push(run.large("verify", watch)?);
    }
    Ok(json::report(subject, bench, run.seed, size, &passes, run.findings()))
}

/// What passes have in common.
struct Run<'a> {
    site: &'a Site,
    subject: &'a Subject,
    bench: &'a Bench,
    whole: Slice,
    seed: u64,
    /// One for each job, if anything is verified.
    ledgers: Vec<Option<Ledger>>,
}

impl<'a> Run<'a> {
    fn new(site: &'a Site, subject: &'a Subject, bench: &'a Bench, whole: Slice) -> Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
        let mut state = now ^ (u64::from(std::process::id()) << 40);
        let (run, other) = (spread(&mut state), spread(&mut state));
        let seed = bench.seed.unwrap_or(other);
        let jobs = u64::from(bench.jobs);
        let ledgers = match bench.verify {
            Verify::Off => (0..jobs).map(|_| None).collect(),
            _ if whole.places > MAX_PLACES => vec![Some(Ledger::new(whole, Stamp { seed, run })?)],
            _ => whole
                .share(jobs)
                .map(|slice| Ledger::new(slice, Stamp { seed, run }).map(Some))
                .collect::<Result<_>>()?,
        };
        Ok(Self { site, subject, bench, whole, seed, ledgers })
    }

    fn findings(&self) -> Option<Findings> {
        let mut all = None;
        for ledger in self.ledgers.iter().flatten() {
            all.get_or_insert_with(Findings::default).merge(&ledger.findings);
        }
        all
    }

    /// Writes everything once, or reads back what was written.
    fn large(&mut self, name: &'static str, watch: &mut dyn FnMut(&Live) -> bool) -> Result<Passed> {
        let place = self.bench.block;
        let largest = LARGE.min(self.subject.max_request).max(place);
        let fills = name == "fill";
        let plan = Plan {
            name,
            order: Order::Sequential,
            spread: Spread::Uniform,
            read_percent: if fills { 0 } else { 100 },
            depth: LARGE_DEPTH,
            jobs: self.bench.jobs as usize,
            flush_every: None,
            once: true,
            known_only: !fills,
            flush_at_end: fills && self.subject.flushes,
            warm_up: Duration::ZERO,
            limit: None,
            requests: None,
            rate: None,
            interval: self.bench.interval,
            seed: self.seed ^ 0xf111,
        };
        self.pass(plan, largest / place * place, watch)
    }

    /// The pattern that is measured.
    fn pattern(&mut self, watch: &mut dyn FnMut(&Live) -> bool) -> Result<Passed> {
        let bench = self.bench;
        let plan = Plan {
            name: "measure",
            order: bench.order,
            spread: bench.spread,
            read_percent: bench.read_percent,
            depth: bench.depth as usize,
            jobs: bench.jobs as usize,
            flush_every: bench.flush_every,
            once: false,
            known_only: false,
            flush_at_end: false,
            warm_up: bench.warm_up,
            limit: bench.limit(),
            requests: bench.requests,
            rate: bench.rate,
            interval: bench.interval,
            seed: self.seed,
        };
        self.pass(plan, bench.block, watch)
    }

    fn pass(&mut self, plan: Plan, block: u64, watch: &mut dyn FnMut(&Live) -> bool) -> Result<Passed> {
        let (jobs, plan) = (plan.jobs, Arc::new(plan));
        let shape = Shape { depth: plan.depth, block: block as usize };
        // Random jobs that verify nothing share all places; others have parts of their own, so that none meets what another does.
        let apart = plan.order == Order::Sequential || self.bench.verify != Verify::Off;
        let slices: Vec<Slice> = match apart {
            true => self.whole.share(jobs as u64).collect(),
            false => vec![self.whole; jobs],
        };
        let ledgers = std::mem::take(&mut self.ledgers);
        let works = slices
            .into_iter()
            .zip(ledgers)
            .enumerate()
            .map(|(job, (slice, ledger))| Work::new(job, plan.clone(), slice, block, ledger));
        let works: Vec<Work> = works.collect();
        let board = Arc::new(Board::new(jobs));
        let (cpu, began) = (processor_time(), Instant::now());
        let (works, series, stopped) = carry_out(self.site, works, shape, &board, self.whole, watch)?;
        let (cpu, wall) = (processor_time().saturating_sub(cpu), began.elapsed());
        let mut all = Ended::default();
        for work in works {
            let (ledger, ended) = work.end();
            self.ledgers.push(ledger);
            all = Ended { unsent: all.unsent + ended.unsent, elapsed: all.elapsed.max(ended.elapsed) };
        }
        Ok(Passed { name: plan.name, series, elapsed: all.elapsed, unsent: all.unsent, cpu, wall, stopped })
    }
}

/// Runs the jobs on threads of their own, or on the reactor, and watches them.
fn carry_out(
    site: &Site,
    works: Vec<Work>,
    shape: Shape,
    board: &Arc<Board>,
    whole: Slice,
    watch: &mut dyn FnMut(&Live) -> bool,
) -> Result<(Vec<Work>, Series, bool)> {
    let Some(plan) = works.first().map(|work| work.plan.clone()) else {
        return Ok((works, Series::new(), false));
    };
    let (tell, told) = mpsc::channel::<()>();
    let mut series = Series::new();
    let mut stopped = false;
    let outcome = thread::scope(|scope| {
        let jobs = scope.spawn(move || {
            // Dropped when the jobs have ended, in whichever way.
            let _tell = tell;
            on_site(site, works, shape, board)
        });
        let mut last = (Instant::now(), board.counts());
        while told.recv_timeout(LOOK) == Err(mpsc::RecvTimeoutError::Timeout) {
            board.collect(&mut series);
            let now = (Instant::now(), board.counts());
            if !watch(&live(&plan, board, whole, last, now)) {
                stopped = true;
                board.stop();
            }
            last = now;
        }
        jobs.join().unwrap_or_else(|_| Err(Error::new(ErrorKind::Closed, "a job failed")))
    });
    board.collect(&mut series);
    series.close_before(u64::MAX);
    outcome.map(|works| (works, series, stopped))
}

type Look = (Instant, (u64, u64));

fn live(plan: &Plan, board: &Board, whole: Slice, (before, last): Look, (now, (requests, bytes)): Look) -> Live {
    let elapsed = board.started().map_or(Duration::ZERO, |start| now.saturating_duration_since(start));
    let by_time = plan.limit.map(|limit| elapsed.as_secs_f64() / (limit + plan.warm_up).as_secs_f64());
    let by_count = plan.requests.map(|all| requests as f64 / all as f64);
    let by_bytes = plan.once.then(|| bytes as f64 / whole.length() as f64);
    let part = [by_time, by_count, by_bytes].into_iter().flatten().fold(0.0, f64::max).min(1.0);
    let seconds = now.saturating_duration_since(before).as_secs_f64().max(1e-9);
    Live {
        pass: if elapsed < plan.warm_up { "warm-up" } else { plan.name },
        part,
        elapsed,
        requests,
        bytes,
        rate: (requests - last.0) as f64 / seconds,
        bandwidth: (bytes - last.1) as f64 / seconds,
    }
}

fn on_site(site: &Site, works: Vec<Work>, shape: Shape, board: &Arc<Board>) -> Result<Vec<Work>> {
    match site {
        Site::Inside(inside) => inside.run(works, shape, board.clone()),
        Site::Disk(disk) => on_threads(works, board, |_| disk.lane(shape)),
        Site::Remote(remote) => on_threads(works, board, |_| remote.lane(shape)),
        Site::Socket(socket) => {
            let lanes = socket.lanes(shape, works.len())?;
            let lanes: Vec<_> = lanes.into_iter().map(|lane| std::sync::Mutex::new(Some(lane))).collect();
            on_threads(works, board, |work| {
                let lane = lanes.get(work.job).and_then(|lane| lane.lock().ok()?.take());
                lane.ok_or_else(|| Error::new(ErrorKind::Invalid, "a job without a queue"))
            })
        }
    }
}

/// A thread for each job, which makes its own lane: rings belong to the thread that makes them. The load begins when all are ready.
fn on_threads<L: Lane>(works: Vec<Work>, board: &Board, lane: impl Fn(&Work) -> Result<L> + Sync) -> Result<Vec<Work>> {
    let ready = Barrier::new(works.len());
    thread::scope(|scope| {
        let jobs: Vec<_> = works
            .into_iter()
            .map(|mut work| {
                let (ready, lane) = (&ready, &lane);
                scope.spawn(move || {
                    let lane = lane(&work);
                    if lane.is_err() {
                        board.stop();
                    }
                    let _leader = ready.wait();
                    let outcome = lane.and_then(|mut lane| pollster::block_on(drive(&mut lane, &mut work, board)));
                    report(board, &outcome);
                    outcome.map(|()| work)
                })
            })
            .collect();
        let ended: Vec<_> = jobs
            .into_iter()
            .map(|job| job.join().unwrap_or_else(|_| Err(Error::new(ErrorKind::Closed, "a job's thread failed"))))
            .collect();
        ended.into_iter().collect()
    })
}

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
