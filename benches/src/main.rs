//! `compare`: the rows of the comparison, all targets in turn within each round, medians at the end.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use cairn_bench::Target;
use cairn_benches::{
    load, peers,
    row::{Before, ROWS, Row},
    section::Files,
    stored::{Comparison, Extent, Stored},
};
use cairn_engine::{GIB, OpenOptions, Pace, Pool, PoolOptions, RegroupEnd, RegroupOptions, VolumeOptions};
use clap::Parser;

/// Measures the raw file, Cairn in-process, Cairn over NBD and qcow2 over NBD side by side.
#[derive(Parser)]
#[command(
    after_help = "Example:\n  make compare\n  compare --cairn target/release/cairn --dir /var/tmp --rounds 5 --seconds 5"
)]
struct Args {
    /// The program cairn
    #[arg(long, required_unless_present = "from")]
    cairn: Option<PathBuf>,
    /// Directory for the files under test (about four times the working set)
    #[arg(long, default_value = "/var/tmp")]
    dir: PathBuf,
    /// Rounds
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds for each row and target in a round
    #[arg(long, default_value_t = 4)]
    seconds: u32,
    /// Working set in GiB
    #[arg(long, default_value_t = 4)]
    gib: u64,
    #[command(flatten)]
    files: Files,
}

const INSIDE: &str = "Cairn in-process";
const TARGETS: [&str; 4] = ["the raw file", INSIDE, "Cairn over NBD", "qcow2 over NBD"];
const COMPARISON: Comparison =
    Comparison { targets: &TARGETS, ratios: &[(INSIDE, TARGETS[0]), (TARGETS[2], TARGETS[3])] };

fn main() {
    let args = Args::parse();
    if let Err(error) = run(&args) {
        eprintln!("compare: {error}");
        std::process::exit(1);
    }
}

fn run(args: &Args) -> Result<(), String> {
    if args.files.told("compare")? {
        return Ok(());
    }
    let cairn = args.cairn.as_deref().ok_or("--cairn is missing: where the program cairn is")?;
    let extent = Extent { gib: args.gib, rounds: args.rounds, seconds: args.seconds };
    let mut stored = Stored::new("compare", COMPARISON, extent, &args.dir);
    for round in 1..=args.rounds {
        let dir = tempfile::tempdir_in(&args.dir).map_err(|e| format!("{}: {e}", args.dir.display()))?;
        let this = Round { args, cairn, dir: dir.path(), size: args.gib * GIB };
        one_round(&this, round, &mut stored)?;
    }
    println!("{}", stored.table());
    args.files.json.as_ref().map_or(Ok(()), |path| stored.write(path))
}

/// The four targets of a round; each is made anew, and made again where a row wants it fresh.
struct Round<'a> {
    args: &'a Args,
    cairn: &'a Path,
    dir: &'a Path,
    size: u64,
}

fn one_round(this: &Round<'_>, round: u32, stored: &mut Stored) -> Result<(), String> {
    for target in [false, true] {
        this.make(target)?;
    }
    let mut before = Before::Fresh;
    for row in &ROWS {
        if row.before == Before::Fresh && before == Before::Fresh && row.block > 4096 {
            for nbd in [false, true] {
                this.make(nbd)?;
            }
        }
        let prepare = (row.before != before).then_some(row.before);
        let prepare = prepare.filter(|b| !(*b == Before::Written && before == Before::Snapshot));
        before = row.before;
        let values = [
            this.raw(row, prepare)?,
            this.in_process(row, prepare)?,
            this.nbd(row, prepare)?,
            this.qcow2(row, prepare)?,
        ];
        eprintln!("round {round}: {}: {}", row.name, values.map(|v| row.show(v)).join(", "));
        for (target, value) in TARGETS.into_iter().zip(values) {
            stored.add(row, target, value);
        }
    }
    Ok(())
}

fn text(error: cairn_engine::Error) -> String {
    error.to_string()
}

impl Round<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Makes new pools and images (or, the first time, the raw file as well).
    fn make(&self, nbd: bool) -> Result<(), String> {
        let name = if nbd { "nbd.pool" } else { "inside.pool" };
        drop(std::fs::remove_file(self.path(name)));
        pollster::block_on(async {
            // As for the raw file.
            let options = PoolOptions::new().size(self.size * 3).prewrite(Arc::default());
            let pool = Pool::create(self.path(name), options).await.map_err(text)?;
            drop(pool.create_volume("disk", self.size, VolumeOptions::default()).await.map_err(text)?);
            pool.close().await.map_err(text)
        })?;
        if nbd {
            let image = self.path("disk.qcow2");
            drop(std::fs::remove_file(&image));
            let size = self.size.to_string();
            peers::run(Path::new("qemu-img"), &["create", "-q", "-f", "qcow2", &image.to_string_lossy(), &size])?;
        } else if !self.path("raw").exists() {
            // The raw file is measured as a device is: all its blocks exist.
            load::fill(Target::File(self.path("raw")), self.size)?;
        }
        Ok(())
    }

    fn raw(&self, row: &Row, _prepare: Option<Before>) -> Result<f64, String> {
        load::measure(Target::File(self.path("raw")), row, self.size, self.args.seconds)
    }

    fn in_process(&self, row: &Row, prepare: Option<Before>) -> Result<f64, String> {
        let pool = pollster::block_on(Pool::open(self.path("inside.pool"), OpenOptions::new())).map_err(text)?;
        let target = || Target::Volume { pool: pool.clone(), name: "disk".to_owned() };
        match prepare {
            Some(Before::Written) => load::fill(target(), self.size)?,
            Some(Before::Scattered) => load::scatter(target(), self.size)?,
            Some(Before::Regrouped) => {
                let options = RegroupOptions { pace: Pace::unlimited(), dry_run: false };
                let outcome = pollster::block_on(pool.regroup("disk", options)).map_err(text)?;
                if outcome.end != RegroupEnd::Finished {
                    return Err(format!("the regroup ended early: {outcome:?}"));
                }
            }
            Some(Before::Snapshot) => {
                let taken = pollster::block_on(async { pool.volume("disk").await?.snapshot("s").await });
                drop(taken.map_err(text)?);
            }
            _ => {}
        }
        let rate = load::measure(target(), row, self.size, self.args.seconds)?;
        pollster::block_on(pool.close()).map_err(text)?;
        Ok(rate)
    }

    fn nbd(&self, row: &Row, prepare: Option<Before>) -> Result<f64, String> {
        let pool = self.path("nbd.pool");
        let server = peers::cairn(self.cairn, &pool, "disk", self.dir)?;
        if prepare == Some(Before::Snapshot) {
            peers::run(self.cairn, &["--pool", &pool.to_string_lossy(), "snapshot", "create", "disk@s"])?;
        }
        if prepare == Some(Before::Regrouped) {
            let args = ["--pool", &pool.to_string_lossy(), "regroup", "disk", "--rate", "unlimited"];
            peers::run(self.cairn, &args)?;
        }
        self.over_nbd(&server, row, prepare)
    }

    fn qcow2(&self, row: &Row, prepare: Option<Before>) -> Result<f64, String> {
        let image = self.path("disk.qcow2");
        if prepare == Some(Before::Snapshot) {
            peers::run(Path::new("qemu-img"), &["snapshot", "-c", "s", &image.to_string_lossy()])?;
        }
        let server = peers::qcow2(&image, self.dir)?;
        self.over_nbd(&server, row, prepare)
    }

    fn over_nbd(&self, server: &peers::Server, row: &Row, prepare: Option<Before>) -> Result<f64, String> {
        let target = || server.uri.parse::<Target>().map_err(text);
        match prepare {
            Some(Before::Written) => load::fill(target()?, self.size)?,
            Some(Before::Scattered) => load::scatter(target()?, self.size)?,
            _ => {}
        }
        load::measure(target()?, row, self.size, self.args.seconds)
    }
}
