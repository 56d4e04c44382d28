//! `count-requests`: what a request of 4 KiB costs in-process, in allocations and in instructions. Nothing is timed, so a machine may be busy.
//!
//! The program runs itself for each row, twice, with different numbers of requests: as it is, counting allocations, and under valgrind, which
//! counts the instructions outside of the kernel, of all threads.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
};

use cairn_bench::Target;
use cairn_benches::{
    load,
    machine::Machine,
    requests::{self, Cost, ROWS, Row, each},
};
use cairn_engine::{MIB, Pool, PoolOptions, VolumeOptions};
use clap::{Parser, Subcommand};

/// The system's allocator, and how often it gave how much.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

fn count(bytes: usize) {
    let _before = ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    let _before = BYTES.fetch_add(bytes as u64, Ordering::Relaxed);
}

// SAFETY: every call goes to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises are the ones asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size);
        // SAFETY: as in `alloc`.
        unsafe { System.realloc(ptr, layout, new_size) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as in `alloc`.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Counts the allocations and the instructions of a 4 KiB request in-process, on a pool in memory.
#[derive(Parser)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Example:\n  make count-requests\n  count-requests --json | jq '.rows[0].instructions'"
)]
struct Args {
    #[command(subcommand)]
    own: Option<Own>,
    /// Directory for the pool, in memory (about three times the volume)
    #[arg(long, default_value = "/dev/shm")]
    dir: PathBuf,
    /// Size of the volume in MiB; all of it is written, then overwritten at random
    #[arg(long, default_value_t = 512)]
    mib: u64,
    /// Requests of the shorter run; the longer one makes three times as many
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..=u64::MAX / 4))]
    requests: u64,
    /// Count allocations only, without valgrind
    #[arg(long)]
    no_instructions: bool,
    /// Keep callgrind's profile of each longer run in this directory, for callgrind_annotate
    #[arg(long)]
    profiles: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum Own {
    /// One run of a row: what the program starts itself as
    #[command(hide = true)]
    Run { pool: PathBuf, row: usize, requests: u64 },
}

/// A row's figures, of each request.
struct Figures {
    cost: Cost,
    instructions: Option<f64>,
}

fn main() {
    let args = Args::parse();
    let outcome = match &args.own {
        Some(Own::Run { pool, row, requests }) => run_one(pool, *row, *requests),
        None => run(&args),
    };
    if let Err(error) = outcome {
        eprintln!("count-requests: {error}");
        std::process::exit(1);
    }
}

fn run_one(pool: &Path, row: usize, count: u64) -> Result<(), String> {
    let row = *ROWS.get(row).ok_or_else(|| format!("there are {} rows", ROWS.len()))?;
    requests::make(pool, row, count).map_err(|e| e.to_string())?;
    let [allocations, bytes] = [&ALLOCATIONS, &BYTES].map(|counter| counter.load(Ordering::Relaxed) as f64);
    println!("{}", serde_json::json!(Cost { allocations, bytes }));
    Ok(())
}

fn run(args: &Args) -> Result<(), String> {
    let version = if args.no_instructions { None } else { Some(valgrind()?) };
    let machine = Machine::here(&args.dir);
    if machine.file_system != "tmpfs" {
        eprintln!("count-requests: {} is not in memory (tmpfs): its waits are counted as polling", args.dir.display());
    }
    if let Some(profiles) = &args.profiles {
        std::fs::create_dir_all(profiles).map_err(|e| format!("{}: {e}", profiles.display()))?;
    }
    let dir = tempfile::tempdir_in(&args.dir).map_err(|e| format!("{}: {e}", args.dir.display()))?;
    let pool = dir.path().join("pool");
    eprintln!("making a volume of {} MiB", args.mib);
    prepare(&pool, args.mib.checked_mul(MIB).ok_or("--mib is more than any volume has")?)?;
    let mut rows = Vec::new();
    for (number, row) in ROWS.iter().enumerate() {
        eprintln!("{}", row.name);
        let this = Measured { args, dir: dir.path(), pool: &pool, number, row };
        let cost = this.cost()?;
        let instructions = version.is_some().then(|| this.instructions()).transpose()?;
        rows.push((*row, Figures { cost, instructions }));
    }
    let lengths = [args.requests, args.requests * 3];
    if args.json {
        let rows = rows.iter().map(|(row, figures)| {
            serde_json::json!({ "row": row.name, "allocations": figures.cost.allocations, "bytes": figures.cost.bytes,
                "instructions": figures.instructions })
        });
        let rows: Vec<_> = rows.collect();
        let command = format!("count-requests --mib {} --requests {}", args.mib, args.requests);
        let all = serde_json::json!({ "schema": 1, "command": command, "machine": machine, "valgrind": version,
            "requests": lengths, "rows": rows });
        println!("{all:#}");
    } else {
        print!("{}", table(&rows));
    }
    Ok(())
}

fn table(rows: &[(Row, Figures)]) -> String {
    let mut out =
        String::from("| of each request | allocations | bytes allocated | instructions |\n| --- | --- | --- | --- |\n");
    for (row, Figures { cost, instructions }) in rows {
        let instructions = instructions.map_or("-".to_owned(), |count| format!("{count:.0}"));
        out.push_str(&format!("| {} | {:.2} | {:.0} | {instructions} |\n", row.name, cost.allocations, cost.bytes));
    }
    out
}

/// The version of valgrind.
fn valgrind() -> Result<String, String> {
    let remedy = "instructions are counted with valgrind: apt-get install valgrind, or give --no-instructions";
    let output = Command::new("valgrind").arg("--version").output().map_err(|e| format!("valgrind: {e}; {remedy}"))?;
    if !output.status.success() {
        return Err(format!("valgrind --version: {}; {remedy}", output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A pool with a volume whose blocks all exist, in any order.
fn prepare(path: &Path, size: u64) -> Result<(), String> {
    let text = |e: cairn_engine::Error| e.to_string();
    let pool = pollster::block_on(async {
        let pool = Pool::create(path, PoolOptions::new().size(size.saturating_mul(3).max(64 * MIB))).await?;
        drop(pool.create_volume(requests::VOLUME, size, VolumeOptions::default()).await?);
        Ok(pool)
    })
    .map_err(text)?;
    let target = || Target::Volume { pool: pool.clone(), name: requests::VOLUME.to_owned() };
    load::fill(target(), size)?;
    load::scatter(target(), size)?;
    pollster::block_on(pool.close()).map_err(text)
}

/// A row that is being counted.
struct Measured<'a> {
    args: &'a Args,
    dir: &'a Path,
    pool: &'a Path,
    number: usize,
    row: &'a Row,
}

impl Measured<'_> {
    /// This program as a run of the row, within another command or by itself.
    fn command(&self, within: &[String], count: u64) -> Result<Command, String> {
        let own = std::env::current_exe().map_err(|e| format!("where this program is: {e}"))?;
        let mut command = match within.split_first() {
            None => Command::new(&own),
            Some((program, args)) => {
                let mut command = Command::new(program);
                let _args = command.args(args).arg(&own);
                command
            }
        };
        let _args = command.arg("run").arg(self.pool).arg(self.number.to_string()).arg(count.to_string());
        Ok(command)
    }

    fn output(mut command: Command) -> Result<String, String> {
        let output = command.output().map_err(|e| format!("cannot run {command:?}: {e}"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(format!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr)))
    }

    fn lengths(&self) -> [u64; 2] {
        [self.args.requests, self.args.requests * 3]
    }

    fn cost(&self) -> Result<Cost, String> {
        let [short, long] = self.lengths();
        let once = |count| -> Result<Cost, String> {
            let text = Self::output(self.command(&[], count)?)?;
            serde_json::from_str(&text).map_err(|e| format!("the answer of a run, {text:?}: {e}"))
        };
        let (less, more) = (once(short)?, once(long)?);
        let of = |counter: fn(&Cost) -> f64| each((short, counter(&less)), (long, counter(&more)));
        Ok(Cost { allocations: of(|c| c.allocations), bytes: of(|c| c.bytes) })
    }

    fn instructions(&self) -> Result<f64, String> {
        let [short, long] = self.lengths();
        let (less, more) = (self.profiled(short)?, self.profiled(long)?);
        Ok(each((short, less as f64), (long, more as f64)))
    }

    fn profiled(&self, count: u64) -> Result<u64, String> {
        let profile = self.dir.join("profile");
        let to = format!("--callgrind-out-file={}", profile.display());
        let within = ["valgrind", "--quiet", "--tool=callgrind", "--fair-sched=yes", &to].map(str::to_owned);
        let _cost = Self::output(self.command(&within, count)?)?;
        let text = std::fs::read_to_string(&profile).map_err(|e| format!("{}: {e}", profile.display()))?;
        if let Some(profiles) = &self.args.profiles
            && count > self.args.requests
        {
            let kept = profiles.join(format!("callgrind.out.{}", self.row.name.replace(' ', "-")));
            std::fs::write(&kept, &text).map_err(|e| format!("{}: {e}", kept.display()))?;
        }
        requests::instructions(&text).ok_or_else(|| format!("no count of instructions in {}", profile.display()))
    }
}
