//! `measure-engine`: what no peer takes part in, on a volume in-process. Deep queues and the write-back cache beside the raw file, reads of a
//! long chain beside those of none, snapshots under load, and processor time where the device costs nothing.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use cairn_bench::{Bench, Latency, Report, Target};
use cairn_benches::{load, machine::Machine, median::median};
use cairn_engine::{CacheMode, GIB, Pool, PoolOptions, VolumeOptions};
use clap::Parser;
use serde::Serialize;

/// Snapshots of the long chain.
const CHAIN: u32 = 1000;
/// Blocks written between two of them.
const BETWEEN: u64 = 64;
/// Between two snapshots under load.
const EVERY: Duration = Duration::from_millis(100);

/// Measures the engine by itself: deep queues, write-back, a long chain, snapshots under load, processor time.
#[derive(Parser)]
#[command(
    after_help = "Example:\n  make measure-engine\n  measure-engine --dir /var/tmp --memory /dev/shm --rounds 5 --seconds 4"
)]
struct Args {
    /// Directory for the files under test (about six times the working set)
    #[arg(long, default_value = "/var/tmp")]
    dir: PathBuf,
    /// Directory in memory, for processor time (2 GiB)
    #[arg(long, default_value = "/dev/shm")]
    memory: PathBuf,
    /// Rounds
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds for each value
    #[arg(long, default_value_t = 4)]
    seconds: u32,
    /// Working set in GiB
    #[arg(long, default_value_t = 4)]
    gib: u64,
    /// Also write all values to this file as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

/// One line of the table: a value and what it is set against, for each round.
#[derive(Serialize)]
struct Line {
    what: &'static str,
    against: &'static str,
    unit: &'static str,
    ours: Vec<f64>,
    theirs: Vec<f64>,
}

#[derive(Serialize)]
struct Stored {
    schema: u32,
    command: String,
    date: String,
    machine: Machine,
    lines: Vec<Line>,
}

fn main() {
    if let Err(error) = run(&Args::parse()) {
        eprintln!("measure-engine: {error}");
        std::process::exit(1);
    }
}

fn run(args: &Args) -> Result<(), String> {
    let mut stored = Stored {
        schema: 1,
        command: format!("measure-engine --rounds {} --seconds {} --gib {}", args.rounds, args.seconds, args.gib),
        date: time::OffsetDateTime::now_utc().date().to_string(),
        machine: Machine::here(&args.dir),
        lines: Vec::new(),
    };
    let dir = tempfile::tempdir_in(&args.dir).map_err(|e| format!("{}: {e}", args.dir.display()))?;
    let disk = Site { dir: dir.path(), size: args.gib * GIB, seconds: args.seconds };
    load::fill(Target::File(disk.raw()), disk.size)?;
    disk.make("chain.pool", 1)?;
    disk.chain()?;
    // At once, and both in turn: whoever is under a virtual machine's disk may keep what was written lately nearer than the rest.
    for _ in 0..args.rounds {
        long_chain(&disk, &mut stored)?;
    }
    drop(std::fs::remove_file(disk.dir.join("chain.pool")));
    for round in 1..=args.rounds {
        eprintln!("round {round} of {}", args.rounds);
        deep(&disk, &mut stored)?;
        write_back(&disk, &mut stored)?;
        snapshots(&disk, &mut stored)?;
        let dir = tempfile::tempdir_in(&args.memory).map_err(|e| format!("{}: {e}", args.memory.display()))?;
        let memory = Site { dir: dir.path(), size: GIB / 2, seconds: args.seconds };
        processor(&memory, &mut stored)?;
    }
    println!("On {}, {}.\n\n{}", stored.machine, stored.command, table(&stored.lines));
    let Some(path) = &args.json else { return Ok(()) };
    let text = serde_json::to_string_pretty(&stored).map_err(|e| e.to_string())?;
    std::fs::write(path, text + "\n").map_err(|e| format!("{}: {e}", path.display()))
}

fn table(lines: &[Line]) -> String {
    let mut out = "| | medians | against | | ratio |\n| --- | --- | --- | --- | --- |\n".to_owned();
    for line in lines {
        let (ours, theirs) = (median(&line.ours), median(&line.theirs));
        let (what, against, unit) = (line.what, line.against, line.unit);
        out += &format!("| {what} | {ours:.2} {unit} | {against} | {theirs:.2} {unit} | {:.2} |\n", ours / theirs);
    }
    out
}

impl Stored {
    fn add(&mut self, what: &'static str, against: &'static str, unit: &'static str, ours: f64, theirs: f64) {
        match self.lines.iter_mut().find(|line| line.what == what) {
            Some(line) => {
                line.ours.push(ours);
                line.theirs.push(theirs);
            }
            None => self.lines.push(Line { what, against, unit, ours: vec![ours], theirs: vec![theirs] }),
        }
    }
}

fn text(error: cairn_engine::Error) -> String {
    error.to_string()
}

/// Files in one directory, and how they are measured.
struct Site<'a> {
    dir: &'a Path,
    size: u64,
    seconds: u32,
}

impl Site<'_> {
    fn raw(&self) -> PathBuf {
        self.dir.join("raw")
    }

    /// A new pool, written once as the raw file is, with a volume for nothing but random writes (`db`). It has room for that many times the
    /// working set twice over, and half a one: with all of them written it is somewhat less than half full.
    fn make(&self, name: &str, times: u64) -> Result<(), String> {
        let path = self.dir.join(name);
        drop(std::fs::remove_file(&path));
        pollster::block_on(async {
            let options = PoolOptions::new().size(self.size * 2 * times + self.size / 2).prewrite(Arc::default());
            let pool = Pool::create(path, options).await?;
            drop(pool.create_volume("db", self.size, VolumeOptions::default()).await?);
            pool.close().await
        })
        .map_err(text)
    }

    fn open(&self, name: &str) -> Result<Pool, String> {
        pollster::block_on(Pool::open(self.dir.join(name), cairn_engine::OpenOptions::new())).map_err(text)
    }

    fn measure(&self, target: Target, pattern: &str, depth: u32) -> Result<Report, String> {
        let bench = Bench {
            depth,
            size: Some(self.size),
            destroy: true,
            runtime: Some(Duration::from_secs(self.seconds.into())),
            ..Bench::named(pattern).map_err(text)?
        };
        cairn_bench::run(target, &bench, &mut |_| true).map_err(text)
    }

    fn rate(&self, target: Target, pattern: &str, depth: u32) -> Result<f64, String> {
        Ok(self.measure(target, pattern, depth)?.total.iops)
    }

    fn raw_rate(&self, pattern: &str, depth: u32) -> Result<f64, String> {
        self.rate(Target::File(self.raw()), pattern, depth)
    }

    /// Two volumes with the same in them; one has a chain of snapshots, each with blocks of its own.
    fn chain(&self) -> Result<(), String> {
        let pool = self.open("chain.pool")?;
        let size = self.size / 2;
        pollster::block_on(async {
            drop(pool.create_volume("plain", size, VolumeOptions::default()).await?);
            pool.create_volume("chain", size, VolumeOptions::default()).await.map(drop)
        })
        .map_err(text)?;
        for name in ["plain", "chain"] {
            load::fill(volume(&pool, name), size)?;
        }
        for name in ["plain", "chain"] {
            for number in 0..CHAIN {
                let few = Bench {
                    requests: Some(BETWEEN),
                    size: Some(size),
                    destroy: true,
                    seed: Some(number.into()),
                    ..Bench::named("randwrite").map_err(text)?
                };
                drop(cairn_bench::run(volume(&pool, name), &few, &mut |_| true).map_err(text)?);
                if name == "chain" {
                    let taken =
                        pollster::block_on(async { pool.volume(name).await?.snapshot(&format!("s{number}")).await });
                    drop(taken.map_err(text)?);
                }
            }
        }
        pollster::block_on(pool.close()).map_err(text)
    }
}

fn volume(pool: &Pool, name: &str) -> Target {
    Target::Volume { pool: pool.clone(), name: name.to_owned() }
}

/// 128 random writes at a time: to a new volume, to one that was written in a pool that is half full, and after a snapshot, in a pool that is
/// half full when snapshot and volume have nothing in common any more.
fn deep(site: &Site<'_>, stored: &mut Stored) -> Result<(), String> {
    let what = ["4K randwrite fresh QD128", "4K randwrite allocated QD128", "4K randwrite after a snapshot QD128"];
    for (step, what) in what.into_iter().enumerate() {
        match step {
            0 => site.make("deep.pool", 1)?,
            1 => {}
            _ => site.make("deep.pool", 2)?,
        }
        let pool = site.open("deep.pool")?;
        if step > 0 {
            load::fill(volume(&pool, "db"), site.size)?;
        }
        if step > 1 {
            drop(pollster::block_on(async { pool.volume("db").await?.snapshot("s").await }).map_err(text)?);
        }
        // Right before, and after all that was to be made ready.
        let theirs = site.raw_rate("randwrite", 128)?;
        let ours = site.rate(volume(&pool, "db"), "randwrite", 128)?;
        pollster::block_on(pool.close()).map_err(text)?;
        stored.add(what, "raw file, the same", "/s", ours, theirs);
    }
    drop(std::fs::remove_file(site.dir.join("deep.pool")));
    Ok(())
}

/// One write at a time that is acknowledged from memory.
fn write_back(site: &Site<'_>, stored: &mut Stored) -> Result<(), String> {
    site.make("back.pool", 1)?;
    let theirs = site.raw_rate("randwrite", 1)?;
    let pool = site.open("back.pool")?;
    let options = VolumeOptions { cache: CacheMode::Writeback, ..VolumeOptions::default() };
    drop(pollster::block_on(pool.create_volume("back", site.size, options)).map_err(text)?);
    let ours = site.rate(volume(&pool, "back"), "randwrite", 1)?;
    pollster::block_on(pool.close()).map_err(text)?;
    drop(std::fs::remove_file(site.dir.join("back.pool")));
    stored.add("4K randwrite QD1, cache=writeback", "raw file, the same", "/s", ours, theirs);
    Ok(())
}

/// Random reads of the newest of a thousand versions.
fn long_chain(site: &Site<'_>, stored: &mut Stored) -> Result<(), String> {
    let half = Site { size: site.size / 2, ..*site };
    let pool = site.open("chain.pool")?;
    let theirs = half.rate(volume(&pool, "plain"), "randread", 32)?;
    let ours = half.rate(volume(&pool, "chain"), "randread", 32)?;
    pollster::block_on(pool.close()).map_err(text)?;
    stored.add("4K randread QD32, 1,000 snapshots", "without snapshots", "/s", ours, theirs);
    Ok(())
}

/// Snapshots, one each tenth of a second, while 32 random writes are under way all the time; and what the writes notice.
fn snapshots(site: &Site<'_>, stored: &mut Stored) -> Result<(), String> {
    site.make("deep.pool", 1)?;
    let pool = site.open("deep.pool")?;
    let alone = latency(&site.measure(volume(&pool, "db"), "randwrite", 32)?)?;
    let over = AtomicBool::new(false);
    let (beside, mut took) = thread::scope(|scope| {
        let taking = scope.spawn(|| take(&pool, &over));
        let report = site.measure(volume(&pool, "db"), "randwrite", 32);
        over.store(true, Ordering::Relaxed);
        let took = taking.join().map_err(|_| "the thread that takes snapshots failed".to_owned());
        Ok::<_, String>((latency(&report?)?, took??))
    })?;
    pollster::block_on(pool.close()).map_err(text)?;
    took.sort_by(f64::total_cmp);
    let p99 = took.get((took.len() * 99).div_ceil(100).saturating_sub(1)).copied().ok_or("no snapshot was taken")?;
    let ms = |nanos: u64| nanos as f64 / 1e6;
    stored.add("snapshot under load, p99", "p99 of the writes alone", "ms", p99, ms(alone.p99));
    stored.add("p99 of the writes beside snapshots", "the same alone", "ms", ms(beside.p99), ms(alone.p99));
    stored.add("longest write beside snapshots", "the same alone", "ms", ms(beside.max), ms(alone.max));
    Ok(())
}

fn latency(report: &Report) -> Result<Latency, String> {
    report.total.latency.ok_or_else(|| "nothing was written".to_owned())
}

/// Milliseconds that each took.
fn take(pool: &Pool, over: &AtomicBool) -> Result<Vec<f64>, String> {
    let db = pollster::block_on(pool.volume("db")).map_err(text)?;
    let mut took = Vec::new();
    while !over.load(Ordering::Relaxed) {
        thread::sleep(EVERY);
        let begun = Instant::now();
        drop(pollster::block_on(db.snapshot(&format!("s{}", took.len()))).map_err(text)?);
        took.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    Ok(took)
}

/// Processor time of a request where the device is memory: of the engine and the load, beside the load alone.
fn processor(site: &Site<'_>, stored: &mut Stored) -> Result<(), String> {
    site.make("pool", 1)?;
    load::fill(Target::File(site.raw()), site.size)?;
    let pool = site.open("pool")?;
    load::fill(volume(&pool, "db"), site.size)?;
    for (what, pattern) in [
        ("processor time of a 4K randread QD32 in memory", "randread"),
        ("processor time of a 4K randwrite QD32 in memory", "randwrite"),
    ] {
        let theirs = micros(&site.measure(Target::File(site.raw()), pattern, 32)?)?;
        let ours = micros(&site.measure(volume(&pool, "db"), pattern, 32)?)?;
        stored.add(what, "raw file, the same", "µs", ours, theirs);
    }
    pollster::block_on(pool.close()).map_err(text)
}

fn micros(report: &Report) -> Result<f64, String> {
    let pass = report.passes.iter().find(|pass| pass.name == "measure").ok_or("nothing was measured")?;
    Ok(pass.cpu_seconds * 1e6 / pass.requests as f64)
}
