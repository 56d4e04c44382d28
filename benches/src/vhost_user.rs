//! `compare-vhost-user`: the rows of the comparison over vhost-user-blk, with the same driver on all targets, in turn within each round.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use cairn_bench::Target as Load;
use cairn_benches::{
    load, peers,
    row::{Before, ROWS, Row},
    table::median,
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
    #[arg(long)]
    cairn: PathBuf,
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
}

#[derive(Clone, Copy)]
enum Target {
    Cairn,
    Qcow2,
    Raw,
}

const TARGETS: [Target; 3] = [Target::Cairn, Target::Qcow2, Target::Raw];

type Values = [Vec<f64>; TARGETS.len()];

fn main() {
    if let Err(error) = run(&Args::parse()) {
        eprintln!("compare-vhost-user: {error}");
        std::process::exit(1);
    }
}

fn run(args: &Args) -> Result<(), String> {
    // How blocks lie in the pool is no matter of how it is reached.
    let rows = ROWS.iter().filter(|row| !matches!(row.before, Before::Scattered | Before::Regrouped));
    let mut results: Vec<(Row, Values)> = rows.map(|row| (*row, Values::default())).collect();
    for round in 1..=args.rounds {
        let dir = tempfile::tempdir_in(&args.dir).map_err(|e| format!("{}: {e}", args.dir.display()))?;
        let this = Round { args, dir: dir.path(), size: args.gib * GIB };
        this.make()?;
        let mut before = Before::Fresh;
        for (row, values) in &mut results {
            if row.before == Before::Fresh && row.block > 4096 {
                this.make()?;
            }
            let prepare = (row.before != before).then_some(row.before);
            let prepare = prepare.filter(|b| !(*b == Before::Written && before == Before::Snapshot));
            before = row.before;
            for (target, list) in TARGETS.into_iter().zip(values) {
                let rate = this.measure(target, row, prepare)?;
                eprintln!("round {round}: {}: {}", row.name, row.show(rate));
                list.push(rate);
            }
        }
    }
    println!("| | Cairn | qcow2 | ratio to qcow2 | raw file | ratio to raw |\n| --- | --- | --- | --- | --- | --- |");
    for (row, values) in &results {
        let [cairn, qcow2, raw] = values.each_ref().map(|list| median(list));
        let (a, b, c) = (row.show(cairn), row.show(qcow2), row.show(raw));
        println!("| {} | {a} | {b} | {:.2} | {c} | {:.2} |", row.name, cairn / qcow2, cairn / raw);
    }
    Ok(())
}

struct Round<'a> {
    args: &'a Args,
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
        let mut command = Command::new(&self.args.cairn);
        let _args = command.arg("--pool").arg(&pool).args(["serve", "--vhost-user"]).arg(&sockets);
        let server = peers::ready(command, String::new())?;
        let cairn =
            |args: &[&str]| peers::run(&self.args.cairn, &[&["--pool", &pool.to_string_lossy()], args].concat());
        cairn(&["attach", "disk"])?;
        if prepare == Some(Before::Snapshot) {
            cairn(&["snapshot", "create", "disk@s"])?;
        }
        Ok(server)
    }
}
