//! `compare-vhost-user`: the rows of the comparison over vhost-user-blk, with the same driver on all targets, in turn within each round.
//! `--idle`: what the server takes of a processor while many virtual machines do nothing.

use std::{
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use cairn_bench::{Bench, Target as Load};
use cairn_benches::{
    load, peers,
    row::{Before, ROWS, Row},
    section::Files,
    stored::{Comparison, Extent, Stored},
};
use cairn_engine::{GIB, Pool, PoolOptions, VolumeOptions};
use clap::Parser;

/// Measures disks of virtual machines: `cairn serve --vhost-user`, and qemu-storage-daemon with a raw file and with qcow2.
#[derive(Parser)]
#[command(
    after_help = "Example:\n  make compare-vhost-user\n  compare-vhost-user --cairn target/release/cairn --dir /var/tmp --rounds 5"
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
    /// Instead: the server's processor time in so many seconds, with 64 disks that are attached and idle
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=400))]
    idle: Option<u64>,
    #[command(flatten)]
    files: Files,
}

#[derive(Clone, Copy)]
enum Target {
    Cairn,
    Qcow2,
    Raw,
}

const TARGETS: [Target; 3] = [Target::Cairn, Target::Qcow2, Target::Raw];

const NAMES: [&str; 3] = ["Cairn", "qcow2", "the raw file"];
const COMPARISON: Comparison = Comparison { targets: &NAMES, ratios: &[(NAMES[0], NAMES[1]), (NAMES[0], NAMES[2])] };

fn main() {
    let args = Args::parse();
    if let Err(error) = run(&args) {
        eprintln!("compare-vhost-user: {error}");
        std::process::exit(1);
    }
}

fn run(args: &Args) -> Result<(), String> {
    if args.files.told("compare-vhost-user")? {
        return Ok(());
    }
    let cairn = args.cairn.as_deref().ok_or("--cairn is missing: where the program cairn is")?;
    if let Some(seconds) = args.idle {
        return idle(cairn, &args.dir, seconds);
    }
    let extent = Extent { gib: args.gib, rounds: args.rounds, seconds: args.seconds };
    let mut stored = Stored::new("compare-vhost-user", COMPARISON, extent, &args.dir);
    for round in 1..=args.rounds {
        let dir = tempfile::tempdir_in(&args.dir).map_err(|e| format!("{}: {e}", args.dir.display()))?;
        let this = Round { args, cairn, dir: dir.path(), size: args.gib * GIB };
        one_round(&this, round, &mut stored)?;
    }
    println!("{}", stored.table());
    args.files.json.as_ref().map_or(Ok(()), |path| stored.write(path))
}

fn one_round(this: &Round<'_>, round: u32, stored: &mut Stored) -> Result<(), String> {
    this.make()?;
    let mut before = Before::Fresh;
    // How blocks lie in the pool is no matter of how it is reached.
    for row in ROWS.iter().filter(|row| !matches!(row.before, Before::Scattered | Before::Regrouped)) {
        if row.before == Before::Fresh && row.block > 4096 {
            this.make()?;
        }
        let prepare = (row.before != before).then_some(row.before);
        let prepare = prepare.filter(|b| !(*b == Before::Written && before == Before::Snapshot));
        before = row.before;
        for (target, name) in TARGETS.into_iter().zip(NAMES) {
            let rate = this.measure(target, row, prepare)?;
            eprintln!("round {round}: {}: {name}: {}", row.name, row.show(rate));
            stored.add(row, name, rate);
        }
    }
    Ok(())
}

/// Disks that are attached and idle.
const IDLE: usize = 64;

/// What the server takes of a processor while all of its disks have a front-end that asks for nothing.
fn idle(cairn: &Path, dir: &Path, seconds: u64) -> Result<(), String> {
    let dir = tempfile::tempdir_in(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let pool = dir.path().join("pool");
    let name = |disk: usize| format!("disk{disk}");
    pollster::block_on(async {
        let made = Pool::create(&pool, PoolOptions::new().size(GIB)).await?;
        for disk in 0..IDLE {
            drop(made.create_volume(&name(disk), GIB, VolumeOptions::default()).await?);
        }
        made.close().await
    })
    .map_err(|e| e.to_string())?;
    let sockets = dir.path().join("vhost");
    let mut command = Command::new(cairn);
    let _args = command.arg("--pool").arg(&pool).args(["serve", "--vhost-user"]).arg(&sockets);
    let server = peers::ready(command, String::new())?;
    for disk in 0..IDLE {
        peers::run(cairn, &["--pool", &pool.to_string_lossy(), "attach", &name(disk)])?;
    }
    let settled = Duration::from_secs(5);
    let front_end = |disk: usize| {
        let socket = sockets.join(format!("{}.sock", name(disk)));
        // One request at the beginning, and the next one after the end.
        let length = 2 * settled + Duration::from_secs(seconds);
        let bench = Bench {
            rate: Some(1.0 / (2.0 * length.as_secs_f64())),
            runtime: Some(length),
            ..Bench::named("randread")?
        };
        cairn_bench::run(Load::VhostUser(socket), &bench, &mut |_| true)
    };
    thread::scope(|scope| {
        let front_ends: Vec<_> = (0..IDLE).map(|disk| scope.spawn(move || front_end(disk))).collect();
        thread::sleep(settled);
        let before = server.processor()?;
        thread::sleep(Duration::from_secs(seconds));
        let taken = server.processor()? - before;
        for end in front_ends {
            let report = end.join().map_err(|_| "a front-end failed")?.map_err(|e| e.to_string())?;
            if report.total.requests != 1 {
                return Err(format!("an idle front-end made {} requests", report.total.requests));
            }
        }
        let part = taken / seconds as f64 * 100.0;
        println!("{IDLE} disks attached and idle: {taken:.2} s of a processor in {seconds} s, {part:.2} %");
        Ok(())
    })
}

struct Round<'a> {
    args: &'a Args,
    cairn: &'a Path,
    dir: &'a Path,
    size: u64,
}

impl Round<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Makes new pools and images, and the first time the raw file, all of whose blocks exist.
    fn make(&self) -> Result<(), String> {
        drop(std::fs::remove_file(self.path("pool")));
        drop(std::fs::remove_dir_all(self.path("vhost")));
        pollster::block_on(async {
            let pool = Pool::create(self.path("pool"), PoolOptions::new().size(self.size * 3)).await?;
            drop(pool.create_volume("disk", self.size, VolumeOptions::default()).await?);
            pool.close().await
        })
        .map_err(|e| e.to_string())?;
        let image = self.path("qcow2");
        drop(std::fs::remove_file(&image));
        let size = self.size.to_string();
        peers::run(Path::new("qemu-img"), &["create", "-q", "-f", "qcow2", &image.to_string_lossy(), &size])?;
        let raw = self.path("raw");
        if raw.exists() { Ok(()) } else { load::fill(Load::File(raw), self.size) }
    }

    fn measure(&self, target: Target, row: &Row, prepare: Option<Before>) -> Result<f64, String> {
        let _server = match target {
            Target::Cairn => self.cairn(prepare)?,
            Target::Qcow2 => {
                let image = self.path("qcow2");
                if prepare == Some(Before::Snapshot) {
                    peers::run(Path::new("qemu-img"), &["snapshot", "-c", "s", &image.to_string_lossy()])?;
                }
                peers::vhost_user(&image, "qcow2", self.dir)?
            }
            Target::Raw => peers::vhost_user(&self.path("raw"), "raw", self.dir)?,
        };
        let socket = match target {
            Target::Cairn => self.path("vhost").join("disk.sock"),
            Target::Qcow2 | Target::Raw => peers::vhost_user_socket(self.dir),
        };
        if prepare == Some(Before::Written) && !matches!(target, Target::Raw) {
            load::fill(Load::VhostUser(socket.clone()), self.size)?;
        }
        load::measure(Load::VhostUser(socket), row, self.size, self.args.seconds)
    }

    fn cairn(&self, prepare: Option<Before>) -> Result<peers::Server, String> {
        let (pool, sockets) = (self.path("pool"), self.path("vhost"));
        let mut command = Command::new(self.cairn);
        let _args = command.arg("--pool").arg(&pool).args(["serve", "--vhost-user"]).arg(&sockets);
        let server = peers::ready(command, String::new())?;
        let cairn = |args: &[&str]| peers::run(self.cairn, &[&["--pool", &pool.to_string_lossy()], args].concat());
        cairn(&["attach", "disk"])?;
        if prepare == Some(Before::Snapshot) {
            cairn(&["snapshot", "create", "disk@s"])?;
        }
        Ok(server)
    }
}
