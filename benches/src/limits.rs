//! `measure-limits`: what limits let through, by fio's client over NBD, all in one run.
//!
//! What the limiter's presence takes of the processor; each limit alone and with others, small and large requests, at several depths; bursts second by second; both in memory, where the device is never what
//! is short, and on a disk, with what a probe of that disk met meanwhile. On the disk a volume beside one that floods, too.

use std::{
    fs,
    hint::black_box,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Instant,
};

use cairn_benches::{
    neighbours::{Load, measure},
    peers,
    probe::{Probe, SHORT},
};
use cairn_engine::{GIB, MIB, OpenOptions, Pool, PoolOptions, VolumeOptions};
use cairn_qos::{Kind, Request, Tree};
use clap::Parser;
use serde_json::Value;

/// Measures limits of volumes over NBD with fio.
#[derive(Parser)]
#[command(
    after_help = "Example:\n  make measure-limits\n  measure-limits --cairn target/release/cairn --dir /var/tmp --seconds 10"
)]
struct Args {
    /// The program cairn
    #[arg(long)]
    cairn: PathBuf,
    /// Directory for the pool (some 6 GiB)
    #[arg(long, default_value = "/var/tmp")]
    dir: PathBuf,
    /// Directory in memory for another one
    #[arg(long, default_value = "/dev/shm")]
    memory: PathBuf,
    /// Seconds for each measurement
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Rounds of the measurement beside a flood
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only what is beside a flood
    #[arg(long)]
    floods: bool,
    /// Requests of 4 KiB under way at the device while several volumes want it (`queue_depth` of the pool; the engine's default otherwise)
    #[arg(long)]
    queue_depth: Option<u32>,
}

/// Depths, one volume each: they are measured at the same time.
const DEPTHS: [u32; 4] = [1, 8, 32, 128];
const VOLUME: u64 = GIB;

/// Limits, and what fio does under them: reads, writes, both in equal parts, or both as fast as each may, through a connection each. Large requests come
/// first, while volumes are in large pieces: after writes of 4 KiB at random places, 1 MiB is 256 reads for the device, and 200 of them a second more than it does.
const ROWS: [(&str, u64, &str); 16] = [
    ("total_iops_sec=50", 1 << 20, "randrw"),
    ("read_iops_sec=50", 1 << 20, "randread"),
    ("write_iops_sec=50", 1 << 20, "randwrite"),
    ("total_bytes_sec=50MiB", 1 << 20, "randrw"),
    ("read_bytes_sec=50MiB", 1 << 20, "randread"),
    ("write_bytes_sec=50MiB", 1 << 20, "randwrite"),
    ("total_iops_sec=50 total_bytes_sec=80MiB", 1 << 20, "randrw"),
    ("read_iops_sec=30 write_iops_sec=20 read_bytes_sec=25MiB write_bytes_sec=25MiB", 1 << 20, "apart"),
    ("total_iops_sec=2000", 4096, "randrw"),
    ("read_iops_sec=2000", 4096, "randread"),
    ("write_iops_sec=2000", 4096, "randwrite"),
    ("total_bytes_sec=8MiB", 4096, "randrw"),
    ("read_bytes_sec=8MiB", 4096, "randread"),
    ("write_bytes_sec=8MiB", 4096, "randwrite"),
    ("total_iops_sec=2000 total_bytes_sec=6MiB", 4096, "randrw"),
    ("read_iops_sec=1500 write_iops_sec=900 read_bytes_sec=4MiB write_bytes_sec=4MiB", 4096, "apart"),
];

fn main() {
    let args = Args::parse();
    if let Err(error) = run(&args) {
        eprintln!("measure-limits: {error}");
        std::process::exit(1);
    }
}

/// A served pool with volumes that are all written.
struct Site {
    cairn: PathBuf,
    pool: PathBuf,
    socket: PathBuf,
    dir: PathBuf,
    server: peers::Server,
}

impl Site {
    fn new(args: &Args, dir: &Path) -> Result<Self, String> {
        let pool = dir.join("limits.pool");
        pollster::block_on(async {
            let made = Pool::create(&pool, PoolOptions::new().size(VOLUME * 6)).await?;
            for depth in DEPTHS {
                drop(made.create_volume(&name(depth), VOLUME, VolumeOptions::default()).await?);
            }
            made.close().await
        })
        .map_err(|e| e.to_string())?;
        let server = peers::cairn(&args.cairn, &pool, "disk", dir)?;
        let site = Self { cairn: args.cairn.clone(), pool, socket: dir.join("cairn.sock"), dir: dir.into(), server };
        if let Some(depth) = args.queue_depth {
            site.qos(&["set", "/", &format!("queue_depth={depth}")])?;
        }
        for depth in DEPTHS {
            site.fio(&name(depth), "write", 1 << 20, 8, &["--end_fsync=1".to_owned()])?;
        }
        Ok(site)
    }

    fn qos(&self, args: &[&str]) -> Result<(), String> {
        peers::run(&self.cairn, &[&["--pool", &self.pool.to_string_lossy(), "qos"], args].concat())
    }

    /// Sets limits from nothing, with full credits.
    fn limit(&self, target: &str, limits: &str) -> Result<(), String> {
        self.qos(&["clear", target])?;
        let keys: Vec<&str> = limits.split(' ').filter(|key| !key.is_empty()).collect();
        if keys.is_empty() { Ok(()) } else { self.qos(&[&["set", target], &keys[..]].concat()) }
    }

    /// Requests a second of both kinds.
    fn rate(&self, volume: &str, rw: &str, block: u64, depth: u32, seconds: u64) -> Result<f64, String> {
        if rw == "apart" {
            let one = |rw: &'static str| move || self.rate(volume, rw, block, depth, seconds);
            return thread::scope(|scope| {
                let writes = scope.spawn(one("randwrite"));
                let reads = one("randread")()?;
                Ok(reads + writes.join().unwrap_or_else(|_| Err("a thread failed".into()))?)
            });
        }
        let job = self.fio(volume, rw, block, depth, &timed(seconds))?;
        Ok(iops(&job, "read") + iops(&job, "write"))
    }

    /// Runs fio; its first job's results.
    fn fio(&self, volume: &str, rw: &str, block: u64, depth: u32, more: &[String]) -> Result<Value, String> {
        let uri = format!("nbd+unix:///{volume}?socket={}", self.socket.display());
        let mut fio = Command::new("fio");
        let _args = fio.args(["--name=limits", "--output-format=json", "--norandommap", "--randrepeat=0"]);
        let _args = fio.args(["--ioengine=nbd", &format!("--uri={uri}"), &format!("--size={VOLUME}")]);
        let _args = fio.args([&format!("--rw={rw}"), &format!("--bs={block}"), &format!("--iodepth={depth}")]);
        let output = fio.args(more).output().map_err(|e| format!("cannot run fio ({e}): run scripts/setup"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let json = text.find('{').filter(|_| output.status.success()).map(|start| &text[start..]);
        let json = json.ok_or_else(|| format!("fio failed: {text}{}", String::from_utf8_lossy(&output.stderr)))?;
        let mut all: Value = serde_json::from_str(json).map_err(|e| format!("fio's JSON: {e}"))?;
        Ok(all["jobs"][0].take())
    }
}

fn name(depth: u32) -> String {
    format!("disk{depth}")
}

fn timed(seconds: u64) -> Vec<String> {
    vec!["--time_based".to_owned(), format!("--runtime={seconds}")]
}

fn iops(job: &Value, direction: &str) -> f64 {
    job[direction]["iops"].as_f64().unwrap_or(0.0)
}

fn p99(job: &Value, direction: &str) -> f64 {
    job[direction]["clat_ns"]["percentile"]["99.000000"].as_f64().unwrap_or(0.0) / 1e6
}

fn run(args: &Args) -> Result<(), String> {
    let in_dir = |dir: &Path| tempfile::tempdir_in(dir).map_err(|e| format!("{}: {e}", dir.display()));
    if !args.floods {
        let memory = in_dir(&args.memory)?;
        println!("# In memory ({})\n", args.memory.display());
        limits(args, &Site::new(args, memory.path())?)?;
    }
    let dir = in_dir(&args.dir)?;
    println!("# On a disk ({})\n", args.dir.display());
    let site = Site::new(args, dir.path())?;
    if !args.floods {
        limits(args, &site)?;
    }
    beside_a_flood(args, &site)?;
    drop(site);
    within_the_process(args, &dir.path().join("limits.pool")).map_err(|e| e.to_string())
}

fn limits(args: &Args, site: &Site) -> Result<(), String> {
    presence(args, site)?;
    bursts(site)?;
    rates(args, site)
}

/// The same without clients: what of it is the engine's.
fn within_the_process(args: &Args, pool: &Path) -> cairn_engine::Result<()> {
    println!("\nIn-process:\n");
    println!(
        "| flood (what it has beside the closed loop, beside 45 %) | alone, /s | beside it, closed loop | of alone | p99 alone at 45 % | p99 beside it | ratio |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    let (victim, flooder) = (name(32), name(128));
    let own = Load { writes: false, block: 4096, depth: 32, rate: None };
    let floods = [("4 KiB randread", false, 4096), ("4 KiB randwrite", true, 4096), ("1 MiB randread", false, 1 << 20)];
    pollster::block_on(async {
        let pool = Pool::open(pool, OpenOptions::new()).await?;
        for (what, writes, block) in floods {
            let flood = Load { writes, block, depth: 128, rate: None };
            let beside = Some((flooder.as_str(), flood));
            let mut columns: [Vec<f64>; 4] = Default::default();
            let mut floods = [Vec::new(), Vec::new()];
            for _ in 0..args.rounds {
                let run = |own, beside| measure(&pool, (&victim, own), beside, VOLUME, args.seconds);
                let [alone, _] = run(own, None)?;
                let paced = Load { rate: Some(alone.rate * 0.45), ..own };
                let [quiet, _] = run(paced, None)?;
                let [closed, flood_closed] = run(own, beside)?;
                let [loud, flood_paced] = run(paced, beside)?;
                let values = [alone.rate, closed.rate, quiet.p99, loud.p99];
                columns.iter_mut().zip(values).for_each(|(column, value)| column.push(value));
                floods.iter_mut().zip([flood_closed, flood_paced]).for_each(|(column, came)| column.push(came.rate));
            }
            let [beside_closed, beside_paced] = floods.map(median);
            tell(&format!("{what} QD128 ({beside_closed:.0}/s, {beside_paced:.0}/s)"), columns);
        }
        pool.close().await
    })
}

fn tell(what: &str, columns: [Vec<f64>; 4]) {
    let [alone, closed, quiet, beside] = columns.map(median);
    let (part, ratio) = (closed / alone * 100.0, beside / quiet);
    println!("| {what} | {alone:.0} | {closed:.0} | {part:.1} % | {quiet:.2} ms | {beside:.2} ms | {ratio:.2} |");
}

/// What asking the limiter takes of the server's processor time, for a volume without limits.
fn presence(args: &Args, site: &Site) -> Result<(), String> {
    println!("| without limits | processor time of the server | of it the limiter | part |\n| --- | --- | --- | --- |");
    for rw in ["randread", "randwrite"] {
        let before = site.server.processor()?;
        let job = site.fio(&name(32), rw, 4096, 32, &timed(args.seconds))?;
        let requests = iops(&job, "read").max(iops(&job, "write")) * args.seconds as f64;
        let each = (site.server.processor()? - before) / requests * 1e9;
        let kind = if rw == "randread" { Kind::Read } else { Kind::Write };
        let asking = asking(Request { kind, bytes: 4096 });
        let part = asking / each * 100.0;
        println!("| 4 KiB {rw} QD32 | {:.2} µs a request | {asking:.0} ns | {part:.2} % |", each / 1e3);
    }
    println!();
    Ok(())
}

/// What asking for a request and telling of its end takes, in nanoseconds: the median of many goes.
fn asking(request: Request) -> f64 {
    const GO: u32 = 10_000;
    let mut tree = Tree::new();
    let leaf = tree.add_leaf(None);
    let mut now = 0;
    let goes = (0..200).map(|_| {
        let start = Instant::now();
        for _ in 0..GO {
            now += 10_000;
            let _go = black_box(tree.submit(black_box(leaf), request, now));
            tree.done(leaf, request, now);
        }
        start.elapsed().as_nanos() as f64 / f64::from(GO)
    });
    median(goes.collect())
}

/// What a set of limits allows of requests of this size, a second.
fn allowed(limits: &str, block: u64, rw: &str) -> f64 {
    let limit = |key: &str| {
        let value = limits.split(' ').find_map(|word| word.strip_prefix(&format!("{key}=")))?;
        match value.strip_suffix("MiB") {
            Some(mib) => mib.parse::<f64>().ok().map(|mib| mib * MIB as f64 / block as f64),
            None => value.parse::<f64>().ok(),
        }
    };
    let side = |side: &str| {
        let (requests, bytes) = (limit(&format!("{side}_iops_sec")), limit(&format!("{side}_bytes_sec")));
        requests.unwrap_or(f64::MAX).min(bytes.unwrap_or(f64::MAX))
    };
    match rw {
        "randread" => side("total").min(side("read")),
        "randwrite" => side("total").min(side("write")),
        _ => side("total").min(side("read") + side("write")),
    }
}

fn rates(args: &Args, site: &Site) -> Result<(), String> {
    let depths = DEPTHS.map(|depth| format!("QD {depth}")).join(" | ");
    let pauses = format!("device: longest answer, pauses beyond {} ms", SHORT.as_millis());
    println!("| limits | request | allowed, /s | {depths} | {pauses} |");
    println!("| --- | --- | --- | {} | --- |", DEPTHS.map(|_| "---").join(" | "));
    let mut worst: f64 = 0.0;
    for (limits, block, rw) in &ROWS {
        for depth in DEPTHS {
            site.limit(&name(depth), limits)?;
        }
        let probe = Probe::start(&site.dir)?;
        let rates: Vec<Result<f64, String>> = thread::scope(|scope| {
            let runs =
                DEPTHS.map(|depth| scope.spawn(move || site.rate(&name(depth), rw, *block, depth, args.seconds)));
            runs.into_iter().map(|run| run.join().unwrap_or_else(|_| Err("a thread failed".into()))).collect()
        });
        let device = probe.stop()?;
        let allowed = allowed(limits, *block, rw);
        let mut cells = Vec::new();
        for rate in rates {
            let rate = rate?;
            let off = (rate / allowed - 1.0) * 100.0;
            worst = worst.max(off.abs());
            cells.push(format!("{rate:.1} ({off:+.2} %)"));
        }
        let (row, pauses) = (cells.join(" | "), format!("{:.1}, {:.0} ms", device.longest, device.lost));
        println!("| {limits} | {} KiB {rw} | {allowed:.0} | {row} | {pauses} |", block / 1024);
    }
    println!("\nFarthest from what is allowed: {worst:.2} %\n");
    for depth in DEPTHS {
        site.limit(&name(depth), "")?;
    }
    Ok(())
}

/// A burst from rest, second by second.
fn bursts(site: &Site) -> Result<(), String> {
    println!("| burst | in its length | wanted | the seconds after it |\n| --- | --- | --- | --- |");
    let burst = |key: &str, rate: &str, max: &str, length: usize| {
        format!("{key}={rate} {key}_max={max} {key}_max_length={length}")
    };
    let cases = [
        (burst("read_bytes_sec", "20MiB", "200MiB", 2), 1 << 20, "randread", 2, 200.0),
        (burst("total_iops_sec", "500", "4000", 3), 4096, "randread", 3, 4000.0),
        (burst("write_bytes_sec", "4MiB", "40MiB", 5), 4096, "randwrite", 5, 10_240.0),
    ];
    for (limits, block, rw, length, max) in cases {
        site.limit(&name(32), &limits)?;
        let log = site.dir.join("burst");
        let logs = ["--log_avg_msec=1000".to_owned(), format!("--write_iops_log={}", log.display())];
        let _job = site.fio(&name(32), rw, block, 32, &[timed(length as u64 + 5), logs.to_vec()].concat())?;
        let path = site.dir.join("burst_iops.1.log");
        let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let seconds: Vec<f64> = text.lines().filter_map(|line| line.split(',').nth(1)?.trim().parse().ok()).collect();
        let (during, after) = seconds.split_at(length.min(seconds.len()));
        let after: Vec<String> = after.iter().map(|rate| format!("{rate:.0}")).collect();
        let sum: f64 = during.iter().sum();
        let wanted = max * length as f64;
        println!(
            "| {limits} | {sum:.0} ({:+.2} %) | {wanted:.0} | {} |",
            (sum / wanted - 1.0) * 100.0,
            after.join(" ")
        );
        site.limit(&name(32), "")?;
    }
    println!();
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// A volume beside one that floods, with equal weights.
fn beside_a_flood(args: &Args, site: &Site) -> Result<(), String> {
    println!("| flood | alone, /s | beside it, closed loop | of alone | p99 alone at 45 % | p99 beside it | ratio |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    let (victim, flooder) = (name(32), name(128));
    let floods = [
        ("4 KiB randread QD128", "randread", 4096),
        ("4 KiB randwrite QD128", "randwrite", 4096),
        ("1 MiB randread QD128", "randread", 1 << 20),
    ];
    for (what, rw, block) in floods {
        let mut columns: [Vec<f64>; 4] = Default::default();
        for _ in 0..args.rounds {
            let alone = iops(&site.fio(&victim, "randread", 4096, 32, &timed(args.seconds))?, "read");
            let paced = [timed(args.seconds), vec![format!("--rate_iops={}", (alone * 0.45) as u64)]].concat();
            let quiet = p99(&site.fio(&victim, "randread", 4096, 32, &paced)?, "read");
            let (closed, beside) = thread::scope(|scope| {
                let flood = scope.spawn(|| site.fio(&flooder, rw, block, 128, &timed(args.seconds * 2 + 2)));
                let closed = site.fio(&victim, "randread", 4096, 32, &timed(args.seconds));
                let beside = site.fio(&victim, "randread", 4096, 32, &paced);
                flood
                    .join()
                    .unwrap_or_else(|_| Err("a thread failed".into()))
                    .and(closed.and_then(|c| Ok((c, beside?))))
            })?;
            let values = [alone, iops(&closed, "read"), quiet, p99(&beside, "read")];
            columns.iter_mut().zip(values).for_each(|(column, value)| column.push(value));
        }
        tell(what, columns);
    }
    Ok(())
}
