//! `over-time`: a pool filled to several levels, each overwritten at random for long, with snapshots that come and go.

use std::{
    io::{IsTerminal, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use cairn_benches::{
    aging::{
        Level, Plan, Run,
        level::{self, Progress},
        picture::svg,
    },
    machine::Machine,
};
use cairn_engine::GIB;
use clap::Parser;

/// Between two lines of progress where nobody sees them move.
const TELL: Duration = Duration::from_secs(10);

/// Fills a pool to several levels and overwrites each at random for long, with a snapshot every minute and the oldest of ten deleted; rate,
/// latency, space and memory over time.
///
/// Filled to L % means: the volume and its snapshots, each with content of its own, take L % of the pool's room.
#[derive(Parser)]
#[command(
    after_help = "Example:\n  make over-time\n  over-time --dir /var/tmp --gib 32 --fill 90 --json aged.json --svg aged.svg"
)]
struct Args {
    /// Directory for the pool
    #[arg(long, default_value = "/var/tmp")]
    dir: PathBuf,
    /// Size of the pool in GiB
    #[arg(long, default_value_t = 16.0)]
    gib: f64,
    /// Levels, in percent of the pool's room
    #[arg(long, value_delimiter = ',', default_values_t = [30u8, 60, 90], value_parser = clap::value_parser!(u8).range(1..=95))]
    fill: Vec<u8>,
    /// How many times the pool's size is overwritten
    #[arg(long, default_value_t = 10.0)]
    overwrite: f64,
    /// Writes in flight
    #[arg(long, default_value_t = 32)]
    depth: u32,
    /// Seconds between two snapshots
    #[arg(long, default_value_t = 60.0)]
    snapshot_every: f64,
    /// Snapshots that are kept
    #[arg(long, default_value_t = 10)]
    keep: u64,
    /// Seconds of a window: the worst is compared with the median of all
    #[arg(long, default_value_t = 60.0)]
    window: f64,
    /// Write all samples to this file as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Draw them to this file as SVG
    #[arg(long)]
    svg: Option<PathBuf>,
}

fn main() {
    if let Err(error) = run(&Args::parse()) {
        eprintln!("over-time: {error}");
        std::process::exit(1);
    }
}

fn run(args: &Args) -> Result<(), String> {
    let plan = plan(args)?;
    let levels: Vec<String> = args.fill.iter().map(u8::to_string).collect();
    let command = format!(
        "over-time --gib {} --fill {} --overwrite {} --depth {} --snapshot-every {} --keep {} --window {}",
        args.gib,
        levels.join(","),
        args.overwrite,
        args.depth,
        args.snapshot_every,
        args.keep,
        args.window
    );
    let date = time::OffsetDateTime::now_utc().date().to_string();
    let mut run = Run { schema: 1, command, date, machine: Machine::here(&args.dir), plan, levels: Vec::new() };
    for percent in &args.fill {
        let dir = tempfile::tempdir_in(&args.dir).map_err(|e| format!("{}: {e}", args.dir.display()))?;
        let mut screen = Screen::new();
        let level = level::run(dir.path(), &plan, *percent, &mut |progress| screen.show(progress));
        screen.end();
        let level = level.map_err(|e| e.to_string())?;
        println!("{}", told(&level));
        run.levels.push(level);
        // After each level: a run of hours that is ended leaves what it has.
        store(args, &run)?;
    }
    Ok(())
}

fn plan(args: &Args) -> Result<Plan, String> {
    let positive = |name: &str, value: f64| {
        let sound = value.is_finite() && value > 0.0;
        sound.then_some(value).ok_or_else(|| format!("--{name} must be more than 0"))
    };
    Ok(Plan {
        pool: (positive("gib", args.gib)? * GIB as f64) as u64,
        overwrite: positive("overwrite", args.overwrite)?,
        depth: args.depth,
        snapshot_every: positive("snapshot-every", args.snapshot_every)?,
        kept: args.keep,
        window: positive("window", args.window)?,
    })
}

fn told(level: &Level) -> String {
    let verdict = level.verdict.map_or_else(
        || "too short for a verdict: raise --overwrite, or lower --window".to_owned(),
        |verdict| verdict.to_string(),
    );
    format!(
        "filled to {} %: {verdict}; {} snapshots taken, longest write {:.1} ms",
        level.percent,
        level.turns.len(),
        level.longest as f64 / 1e6
    )
}

fn store(args: &Args, run: &Run) -> Result<(), String> {
    let write = |path: &Path, text: String| std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()));
    if let Some(path) = &args.json {
        let text = serde_json::to_string(run).map_err(|e| e.to_string())?;
        write(path, text + "\n")?;
    }
    args.svg.as_ref().map_or(Ok(()), |path| write(path, svg(run)))
}

/// Progress on stderr: a line that changes on a terminal, now and then a new one elsewhere.
struct Screen {
    terminal: bool,
    told: Option<Instant>,
}

impl Screen {
    fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), told: None }
    }

    fn show(&mut self, progress: Progress) {
        let Progress { percent, copy, part, rate, used } = progress;
        let step = copy.map_or("overwriting".to_owned(), |(copy, of)| format!("filling, {copy} of {of}"));
        let line = format!("{percent} %: {step}: {:.0} %, {rate:.0}/s, {used:.1} % of the pool in use", part * 100.0);
        let mut out = std::io::stderr().lock();
        // Where nobody reads it, nobody misses it.
        let _shown = if self.terminal {
            write!(out, "\r\x1b[K{line}")
        } else if self.told.is_none_or(|told| told.elapsed() >= TELL) {
            self.told = Some(Instant::now());
            writeln!(out, "{line}")
        } else {
            Ok(())
        };
    }

    fn end(&self) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
    }
}
