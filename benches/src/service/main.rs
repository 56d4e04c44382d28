//! `service`: what the daemon's interface costs with many objects in its catalog, and what it costs the I/O beside it.

mod http;
mod site;

use std::{
    path::PathBuf,
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use clap::Parser;
use http::Client;
use serde_json::{Value, json};
use site::{Daemon, Site};

/// Measures the control service: pages of lists, creation, start, and I/O beside a loaded interface.
#[derive(Parser)]
#[command(
    after_help = "Examples:\n  service --cairn target/release/cairn --cairnd target/release/cairnd\n  service --cairn … --cairnd … --volumes 50 --snapshots 200 --backups 20 --seconds 2 --rounds 2 --json out.json"
)]
struct Args {
    /// The program cairn
    #[arg(long)]
    cairn: PathBuf,
    /// The program cairnd
    #[arg(long)]
    cairnd: PathBuf,
    /// Directory for everything
    #[arg(long, default_value = "/var/tmp")]
    dir: PathBuf,
    /// Volumes in the catalog
    #[arg(long, default_value_t = 1000)]
    volumes: usize,
    /// Snapshots in the catalog
    #[arg(long, default_value_t = 10_000)]
    snapshots: usize,
    /// Backups in the catalog
    #[arg(long, default_value_t = 5_000)]
    backups: usize,
    /// Requests of each kind that is measured
    #[arg(long, default_value_t = 200)]
    samples: usize,
    /// Clients that fill the catalog, and that load the interface
    #[arg(long, default_value_t = 8)]
    clients: usize,
    /// Seconds of I/O, each time
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// How often I/O is measured alone and beside each load, in turn
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Requests a second of the steady load
    #[arg(long, default_value_t = 100)]
    rate: u64,
    /// Requests of I/O a second; 0: as many as can be made, which leaves the interface no processor time of its own
    #[arg(long, default_value_t = 5000)]
    iops: u64,
    /// Keep all values in this file
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Most objects of a page.
const PAGE: usize = 100;
/// How long what was begun may take to end.
const PATIENCE: Duration = Duration::from_secs(600);

fn main() {
    let args = Args::parse();
    if let Err(error) = run(&args) {
        eprintln!("service: {error}");
        std::process::exit(1);
    }
}

fn run(args: &Args) -> Result<(), String> {
    let site = Site::new(&args.cairn, &args.cairnd, &args.dir, 64)?;
    let mut told = serde_json::Map::new();
    let mut tell = |name: &str, value: Value| {
        println!("{name}: {value}");
        drop(told.insert(name.to_owned(), value));
    };
    tell("catalog", json!({"volumes": args.volumes, "snapshots": args.snapshots, "backups": args.backups}));
    let daemon = site.start()?;
    tell("start empty", json!({"ms": millis(daemon.took)}));
    fill(args, &daemon, &mut tell)?;
    lists(args, &daemon, &mut tell)?;
    creations(args, &daemon, &mut tell)?;
    daemon.stop()?;
    let mut after_stop = Vec::new();
    for _ in 0..3 {
        let daemon = site.start()?;
        after_stop.push(millis(daemon.took));
        daemon.stop()?;
    }
    let daemon = site.start()?;
    daemon.kill();
    let daemon = site.start()?;
    tell("start", json!({"after stop, ms": after_stop, "after kill -9, ms": millis(daemon.took)}));
    beside(args, &site, &daemon, &mut tell)?;
    daemon.stop()?;
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&Value::Object(told)).map_err(|e| e.to_string())?;
        std::fs::write(path, text + "\n").map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}

fn millis(took: Duration) -> f64 {
    (took.as_secs_f64() * 1e6).round() / 1e3
}

/// Percentiles of what each request took, in milliseconds.
fn percentiles(mut all: Vec<Duration>) -> Value {
    all.sort_unstable();
    let at = |part: f64| {
        let place = ((all.len() as f64 * part).ceil() as usize).clamp(1, all.len().max(1)) - 1;
        all.get(place).copied().map_or(0.0, millis)
    };
    json!({"requests": all.len(), "p50 ms": at(0.5), "p99 ms": at(0.99), "max ms": at(1.0)})
}

/// Does something `count` times, by several clients at once. Answers what it made, in no order, and what each took.
fn at_once<T: Send>(
    args: &Args,
    daemon: &Daemon,
    count: usize,
    make: impl Fn(&mut Client, usize) -> Result<T, String> + Sync,
) -> Result<(Vec<T>, Vec<Duration>), String> {
    let (next, made) = (AtomicUsize::new(0), Mutex::new((Vec::new(), Vec::new())));
    let work = || -> Result<(), String> {
        let mut client = Client::new(&daemon.url);
        loop {
            let number = next.fetch_add(1, Ordering::SeqCst);
            if number >= count {
                return Ok(());
            }
            let began = Instant::now();
            let one = make(&mut client, number)?;
            let took = began.elapsed();
            let mut made = made.lock().map_err(|_| "a client failed")?;
            made.0.push(one);
            made.1.push(took);
        }
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..args.clients.max(1)).map(|_| scope.spawn(work)).collect();
        clients.into_iter().try_for_each(|client| client.join().map_err(|_| "a client failed".to_owned())?)
    })?;
    made.into_inner().map_err(|_| "a client failed".to_owned())
}

fn id(body: &Value, kind: &str) -> Result<String, String> {
    body[kind]["id"].as_str().map(str::to_owned).ok_or_else(|| format!("no id: {body}"))
}

/// Waits until nothing of a kind is under way.
fn rests(daemon: &Daemon, collection: &str) -> Result<(), String> {
    let (mut client, began) = (Client::new(&daemon.url), Instant::now());
    loop {
        let path = format!("/v3/bench/{collection}?status=creating&limit=1");
        if client.ok("GET", &path, None)?[collection].as_array().is_none_or(Vec::is_empty) {
            return Ok(());
        }
        if began.elapsed() > PATIENCE {
            return Err(format!("{collection} are still being made"));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn fill(args: &Args, daemon: &Daemon, tell: &mut impl FnMut(&str, Value)) -> Result<(), String> {
    let mut client = Client::new(&daemon.url);
    let limits =
        json!({"quota_set": {"volumes": -1, "snapshots": -1, "gigabytes": -1, "backups": -1, "backup_gigabytes": -1}});
    drop(client.ok("PUT", "/v3/bench/os-quota-sets/bench", Some(&limits))?);
    let begun = Instant::now();
    let (volumes, took) = at_once(args, daemon, args.volumes.max(1), |client, n| {
        let body = json!({"volume": {"size": 1, "name": format!("v{n}")}});
        id(&client.ok("POST", "/v3/bench/volumes", Some(&body))?, "volume")
    })?;
    rests(daemon, "volumes")?;
    tell("fill volumes", json!({"until available, s": begun.elapsed().as_secs_f64(), "request": percentiles(took)}));
    let of = |n: usize| &volumes[n % volumes.len()];
    let begun = Instant::now();
    let (_, took) = at_once(args, daemon, args.snapshots, |client, n| {
        let body = json!({"snapshot": {"volume_id": of(n), "name": format!("s{n}")}});
        client.ok("POST", "/v3/bench/snapshots", Some(&body)).map(drop)
    })?;
    rests(daemon, "snapshots")?;
    tell("fill snapshots", json!({"until available, s": begun.elapsed().as_secs_f64(), "request": percentiles(took)}));
    let begun = Instant::now();
    let (_, took) = at_once(args, daemon, args.backups, |client, n| {
        let body = json!({"backup": {"volume_id": of(n), "name": format!("b{n}"), "incremental": true, "force": true}});
        let began = Instant::now();
        loop {
            // A volume that is being backed up takes no second one meanwhile.
            match client.request("POST", "/v3/bench/backups", Some(&body))? {
                (202, _) => return Ok(()),
                (400 | 409, _) if began.elapsed() < PATIENCE => thread::sleep(Duration::from_millis(20)),
                (status, body) => return Err(format!("{status} {body}")),
            }
        }
    })?;
    rests(daemon, "backups")?;
    tell("fill backups", json!({"until available, s": begun.elapsed().as_secs_f64(), "request": percentiles(took)}));
    Ok(())
}

/// Pages of each kind: the first one, one in the middle, in another order, counted, and those of the native interface.
fn lists(args: &Args, daemon: &Daemon, tell: &mut impl FnMut(&str, Value)) -> Result<(), String> {
    let mut client = Client::new(&daemon.url);
    let mut measure = |name: &str, path: &str| -> Result<(), String> {
        let mut took = Vec::new();
        for _ in 0..args.samples {
            let began = Instant::now();
            drop(client.ok("GET", path, None)?);
            took.push(began.elapsed());
        }
        tell(name, percentiles(took));
        Ok(())
    };
    for collection in ["volumes", "snapshots", "backups"] {
        let base = format!("/v3/bench/{collection}/detail?limit={PAGE}");
        measure(&format!("list {collection}, first page"), &base)?;
        let middle = middle_of(&mut Client::new(&daemon.url), collection)?;
        measure(&format!("list {collection}, a page in the middle"), &format!("{base}&marker={middle}"))?;
        measure(&format!("list {collection}, by name"), &format!("{base}&sort=name:asc"))?;
        measure(&format!("list {collection}, counted"), &format!("{base}&with_count=true"))?;
    }
    measure("list types", "/v3/bench/types")?;
    measure("list events, first page", &format!("/cairn/v1/events?limit={PAGE}"))?;
    measure("list metering, first page", &format!("/cairn/v1/metering?limit={PAGE}"))?;
    measure("list tasks", "/cairn/v1/tasks")
}

/// An object half-way through a list.
fn middle_of(client: &mut Client, collection: &str) -> Result<String, String> {
    let total = client.ok("GET", &format!("/v3/bench/{collection}?limit=1&with_count=true"), None)?["count"].as_u64();
    let half = total.unwrap_or(0) / 2;
    let page = client.ok("GET", &format!("/v3/bench/{collection}?limit=1&offset={half}"), None)?;
    page[collection][0]["id"].as_str().map(str::to_owned).ok_or_else(|| format!("no {collection}: {page}"))
}

/// One after the other: how long the answer takes, and how long until it is there.
fn creations(args: &Args, daemon: &Daemon, tell: &mut impl FnMut(&str, Value)) -> Result<(), String> {
    let mut client = Client::new(&daemon.url);
    let mut parent = String::new();
    for kind in ["volume", "snapshot"] {
        let (mut answered, mut there) = (Vec::new(), Vec::new());
        for n in 0..args.samples {
            let body = match kind {
                "volume" => json!({"volume": {"size": 1, "name": format!("new{n}")}}),
                _ => json!({"snapshot": {"volume_id": parent}}),
            };
            let began = Instant::now();
            let made = id(&client.ok("POST", &format!("/v3/bench/{kind}s"), Some(&body))?, kind)?;
            answered.push(began.elapsed());
            let path = format!("/v3/bench/{kind}s/{made}");
            while client.ok("GET", &path, None)?[kind]["status"] == "creating" {
                thread::sleep(Duration::from_micros(200));
            }
            there.push(began.elapsed());
            if kind == "volume" {
                parent = made;
            }
        }
        tell(&format!("create {kind}, until answered"), percentiles(answered));
        tell(&format!("create {kind}, until available"), percentiles(there));
    }
    Ok(())
}

/// I/O on an attached volume, alone and beside clients that list, create and delete: as many requests a second as were asked for, then as many
/// as they can make. In turn, so that what the machine does by itself comes to all of them.
fn beside(args: &Args, site: &Site, daemon: &Daemon, tell: &mut impl FnMut(&str, Value)) -> Result<(), String> {
    let mut client = Client::new(&daemon.url);
    let volume = id(&client.ok("POST", "/v3/bench/volumes", Some(&json!({"volume": {"size": 1}})))?, "volume")?;
    rests(daemon, "volumes")?;
    let wanted =
        json!({"attachment": {"volume_uuid": volume, "instance_uuid": "bench", "connector": {"host": "bench"}}});
    let attachment = client.ok("POST", "/v3/bench/attachments", Some(&wanted))?;
    let url = attachment["attachment"]["connection_info"]["url"].as_str().ok_or("no address")?.to_owned();
    // What was never written costs nothing to read.
    drop(io(site, &url, args.seconds, &["--rw", "write", "--bs", "1MiB"])?);
    let loads = [("alone", None), ("steady", Some(Some(args.rate))), ("full", Some(None))];
    let mut measured: [Vec<Value>; 3] = Default::default();
    let mut rates: [Vec<f64>; 3] = Default::default();
    for _ in 0..args.rounds.max(1) {
        for (((_, rate), measured), rates) in loads.iter().zip(&mut measured).zip(&mut rates) {
            let (outcome, requests) = match rate {
                None => (mixed(args, site, &url)?, 0.0),
                Some(rate) => loaded(args, daemon, *rate, || mixed(args, site, &url))?,
            };
            measured.push(outcome);
            rates.push(requests);
        }
    }
    for (((name, _), measured), rates) in loads.iter().zip(&measured).zip(&rates) {
        let of = |kind: &str| {
            let part = |key: &str| median(measured.iter().filter_map(|one| one[kind][key].as_f64()).collect());
            json!({"iops": part("iops"), "p50 us": part("p50 us"), "p99 us": part("p99 us")})
        };
        let all = json!({"requests a second": median(rates.clone()), "read": of("read"), "write": of("write"), "rounds": measured});
        tell(&format!("I/O, {name}"), all);
    }
    let p99 = |measured: &[Value], kind: &str| {
        median(measured.iter().filter_map(|one| one[kind]["p99 us"].as_f64()).collect())
    };
    let [alone, steady, full] = &measured;
    for (name, beside) in [("steady", steady), ("full", full)] {
        let part = |kind: &str| ((p99(beside, kind) / p99(alone, kind) - 1.0) * 1000.0).round() / 10.0;
        tell(&format!("p99, {name} against alone, %"), json!({"read": part("read"), "write": part("write")}));
    }
    let attached = attachment["attachment"]["id"].as_str().unwrap_or_default();
    // The first connection was idle for longer than the daemon keeps it.
    let mut client = Client::new(&daemon.url);
    client.ok("DELETE", &format!("/v3/bench/attachments/{attached}"), None).map(drop)
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or_default()
}

fn io(site: &Site, url: &str, seconds: u64, how: &[&str]) -> Result<Value, String> {
    let output = Command::new(&site.cairn)
        .args(["--json", "bench", url, "--destroy", "--runtime", &seconds.to_string()])
        .args(how)
        .output()
        .map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text)
        .map_err(|e| format!("cairn bench: {e}: {text}{}", String::from_utf8_lossy(&output.stderr)))
}

/// At a rate, latency begins when a request was due: what keeps one late is in the percentiles of all that wait behind it.
fn mixed(args: &Args, site: &Site, url: &str) -> Result<Value, String> {
    let iops = args.iops.to_string();
    let mut how = vec!["--rw", "randrw", "--rwmix", "70", "--depth", "8"];
    if args.iops > 0 {
        how.extend(["--iops", &iops]);
    }
    let all = io(site, url, args.seconds, &how)?;
    let of = |kind: &str| {
        let part = &all[kind];
        json!({"iops": part["iops"], "p50 us": micros(&part["latency"]["p50"]), "p99 us": micros(&part["latency"]["p99"])})
    };
    Ok(json!({"read": of("read"), "write": of("write")}))
}

/// Does something beside clients that ask for `rate` requests a second together, or for as many as they can. Answers how many it was, too.
fn loaded(
    args: &Args,
    daemon: &Daemon,
    rate: Option<u64>,
    measure: impl FnOnce() -> Result<Value, String>,
) -> Result<(Value, f64), String> {
    let (done, requests) = (AtomicBool::new(false), AtomicU64::new(0));
    let clients = args.clients.max(1);
    // Each does so many a second.
    let pace = rate.map(|rate| Duration::from_secs_f64(clients as f64 / rate.max(1) as f64));
    let busy = |number: usize| -> Result<(), String> {
        stand_back();
        let mut client = Client::new(&daemon.url);
        let mut next = Instant::now() + pace.unwrap_or_default().mul_f64(number as f64 / clients as f64);
        let mut ask = |method: &str, path: &str, body: Option<&Value>| {
            if let Some(pace) = pace {
                thread::sleep(next.saturating_duration_since(Instant::now()));
                next += pace;
            }
            let _before = requests.fetch_add(1, Ordering::SeqCst);
            client.ok(method, path, body)
        };
        while !done.load(Ordering::SeqCst) {
            drop(ask("GET", &format!("/v3/bench/volumes/detail?limit={PAGE}"), None)?);
            drop(ask("GET", &format!("/v3/bench/snapshots/detail?limit={PAGE}"), None)?);
            let made = id(&ask("POST", "/v3/bench/volumes", Some(&json!({"volume": {"size": 1}})))?, "volume")?;
            let path = format!("/v3/bench/volumes/{made}");
            while ask("GET", &path, None)?["volume"]["status"] == "creating" {}
            drop(ask("DELETE", &path, None)?);
        }
        Ok(())
    };
    let began = Instant::now();
    let busy = &busy;
    thread::scope(|scope| {
        let clients: Vec<_> = (0..clients).map(|number| scope.spawn(move || busy(number))).collect();
        let outcome = measure();
        let rate = requests.load(Ordering::SeqCst) as f64 / began.elapsed().as_secs_f64();
        done.store(true, Ordering::SeqCst);
        for client in clients {
            client.join().map_err(|_| "a client failed".to_owned())??;
        }
        Ok((outcome?, rate.round()))
    })
}

/// Clients of the interface are on other machines: here, they take only the processor time that is left.
fn stand_back() {
    let none = libc::sched_param { sched_priority: 0 };
    // SAFETY: it reads what is there. 0 is the calling thread. That it does not stand back is seen in the figures.
    let _done = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &none) };
}

fn micros(nanos: &Value) -> f64 {
    nanos.as_f64().unwrap_or(0.0) / 1e3
}
