//! `compare-backup`: full and incremental backups, restores and verification beside restic and borg, on the same data, all tools in turn
//! within each round; medians at the end.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Write,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use cairn_engine::{IoBuf, OpenOptions, Pool};
use clap::Parser;

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 4096;
const TOOLS: [&str; 4] = ["cairn", "cairn sealed", "restic", "borg"];
const ROWS: [&str; 12] = [
    "full, s",
    "full, peak MB",
    "full, stored MB",
    "incremental of 1 %, s",
    "incremental of 1 %, peak MB",
    "incremental of 1 %, stored MB",
    "restore, s",
    "restore, peak MB",
    "verify, s",
    "restore in place of 1 %, s",
    "restore in place of 0.1 %, s",
    "incremental of 1 %, pool served, s",
];

/// Measures Cairn's backups beside restic's and borg's.
#[derive(Parser)]
#[command(
    after_help = "Example:\n  make compare-backup\n  compare-backup --cairn target/release/cairn --dir /var/tmp --rounds 3\n  compare-backup --cairn target/release/cairn --chain 1000"
)]
struct Args {
    /// The program cairn
    #[arg(long)]
    cairn: PathBuf,
    /// Directory for images, pools and repositories (about twelve times the image)
    #[arg(long, default_value = "/var/tmp")]
    dir: PathBuf,
    /// Rounds
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Size of the image in MiB: 40 % random, 30 % compressible, 30 % zeros
    #[arg(long, default_value_t = 2048)]
    mib: u64,
    /// Instead: a chain of so many incrementals of 1 MiB each, and how long restoring its ends takes
    #[arg(long)]
    chain: Option<u32>,
    /// Also write all values to this file as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

type Outcome<T> = Result<T, String>;

fn main() {
    let args = Args::parse();
    let outcome = match args.chain {
        Some(length) => chain(&args, length),
        None => compare(&args),
    };
    if let Err(error) = outcome {
        eprintln!("compare-backup: {error}");
        std::process::exit(1);
    }
}

fn fail<E: std::fmt::Display>(what: impl std::fmt::Display) -> impl FnOnce(E) -> String {
    move |error| format!("{what}: {error}")
}

/// Seconds, and the most memory that the program had, in MB.
#[derive(Clone, Copy)]
struct Cost {
    seconds: f64,
    peak: f64,
}

/// A directory with one tool's repository, and what its commands need.
struct Place<'a> {
    args: &'a Args,
    dir: PathBuf,
}

impl Place<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Runs a program to its end.
    fn run(&self, program: impl AsRef<OsStr>, words: &[&str]) -> Outcome<(Cost, String)> {
        let program = program.as_ref();
        let mut command = Command::new(program);
        command
            .args(words)
            .current_dir(&self.dir)
            .env("RESTIC_PASSWORD", "comparison")
            .env("RESTIC_CACHE_DIR", self.path("restic-cache"))
            .env("BORG_BASE_DIR", self.path("borg-base"))
            .env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes")
            .env("CAIRN_POOL", self.path("pool"))
            .env("CAIRN_BACKUP_CACHE", self.path("cairn-cache"))
            .stdin(Stdio::null())
            .stdout(File::create(self.path("out")).map_err(fail("out"))?)
            .stderr(File::create(self.path("err")).map_err(fail("err"))?);
        let began = Instant::now();
        let child = command.spawn().map_err(fail(program.display()))?;
        let mut status = 0;
        // SAFETY: a zeroed rusage is a valid one, and both pointers are to values that live through the call.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: see above; the child is this process's own, and nobody else waits for it.
        let waited = unsafe { libc::wait4(child.id() as libc::pid_t, &raw mut status, 0, &raw mut usage) };
        let seconds = began.elapsed().as_secs_f64();
        let said = fs::read_to_string(self.path("out")).unwrap_or_default();
        if waited < 0 || status != 0 {
            let why = fs::read_to_string(self.path("err")).unwrap_or_default();
            return Err(format!("{} {words:?}: {why} {said}", program.display()));
        }
        Ok((Cost { seconds, peak: usage.ru_maxrss as f64 / 1024.0 }, said))
    }

    fn cairn(&self, words: &[&str]) -> Outcome<(Cost, String)> {
        self.run(&self.args.cairn, words)
    }

    /// What is read next comes from the disk: who restores or verifies did not write the repository a moment ago. Needs root; says so else.
    fn cold(&self) {
        // SAFETY: it takes no arguments.
        unsafe { libc::sync() };
        if let Err(error) = fs::write("/proc/sys/vm/drop_caches", "3") {
            eprintln!("caches stay warm for restores and verification: {error}");
        }
    }

    /// Does something while the pool is served.
    fn served<T>(&self, work: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
        let socket = self.path("nbd.sock");
        let mut server = Command::new(&self.args.cairn)
            .args(["serve", "--nbd", &format!("unix:{}", socket.display())])
            .env("CAIRN_POOL", self.path("pool"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(fail("cairn serve"))?;
        for _ in 0..600 {
            if socket.exists() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let outcome = work();
        // SAFETY: no memory is passed; the child has not been waited for, so the number is still its own.
        let _sent = unsafe { libc::kill(server.id() as libc::pid_t, libc::SIGTERM) };
        let _status = server.wait().map_err(fail("cairn serve"))?;
        outcome
    }
}

/// Bytes under a directory, in MB.
fn size_of(directory: &Path) -> f64 {
    fn bytes(directory: &Path) -> u64 {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        entries
            .map(|entry| match entry.metadata() {
                Ok(meta) if meta.is_dir() => bytes(&entry.path()),
                Ok(meta) => meta.len(),
                Err(_) => 0,
            })
            .sum()
    }
    bytes(directory) as f64 / MIB as f64
}

/// A generator that is the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        bytes.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]));
    }
}

fn make_image(path: &Path, mib: u64) -> Outcome<()> {
    let file = File::create(path).map_err(fail(path.display()))?;
    file.set_len(mib * MIB).map_err(fail(path.display()))?;
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut piece = vec![0; MIB as usize];
    for at in 0..mib {
        match at % 10 {
            0..=3 => random.fill(&mut piece),
            4..=6 => {
                // Lines of a log: some of each differs from the last.
                let mut text = Vec::with_capacity(piece.len() + 100);
                while text.len() < piece.len() {
                    let n = random.next();
                    writeln!(
                        text,
                        "{:>12} host-{} service[{}]: request {:x} done in {} ms",
                        n >> 40,
                        n % 7,
                        n % 999,
                        n,
                        n % 5000
                    )
                    .map_err(fail("text"))?;
                }
                piece.copy_from_slice(&text[..MIB as usize]);
            }
            _ => continue,
        }
        file.write_all_at(&piece, at * MIB).map_err(fail(path.display()))?;
    }
    file.sync_all().map_err(fail(path.display()))
}

/// One percent of the blocks, each with new random content.
fn changes(mib: u64, seed: u64) -> Vec<(u64, Vec<u8>)> {
    let blocks = mib * MIB / BLOCK;
    let mut random = Random(seed | 1);
    let mut chosen = std::collections::BTreeMap::new();
    while (chosen.len() as u64) < blocks / 100 {
        let mut content = vec![0; BLOCK as usize];
        random.fill(&mut content);
        let _other = chosen.insert(random.next() % blocks, content);
    }
    chosen.into_iter().collect()
}

fn change_image(path: &Path, changes: &[(u64, Vec<u8>)]) -> Outcome<()> {
    let file = File::options().write(true).open(path).map_err(fail(path.display()))?;
    changes
        .iter()
        .try_for_each(|(block, content)| file.write_all_at(content, block * BLOCK))
        .map_err(fail(path.display()))?;
    file.sync_all().map_err(fail(path.display()))
}

fn change_volume(pool: &Path, changes: &[(u64, Vec<u8>)]) -> Outcome<()> {
    pollster::block_on(async {
        let pool = Pool::open(pool, OpenOptions::new()).await?;
        let volume = pool.volume("db").await?;
        for (block, content) in changes {
            volume.write(block * BLOCK, IoBuf::from(&content[..])).await?;
        }
        drop(volume);
        pool.close().await
    })
    .map_err(|e: cairn_engine::Error| e.to_string())
}

/// The values of one tool in one round, in the order of the rows.
type Column = [Option<f64>; ROWS.len()];

fn compare(args: &Args) -> Outcome<()> {
    let mut columns: Vec<Vec<Column>> = vec![Vec::new(); TOOLS.len()];
    for round in 1..=args.rounds {
        for (tool, columns) in TOOLS.iter().zip(&mut columns) {
            eprintln!("round {round}: {tool}");
            let dir = tempfile::tempdir_in(&args.dir).map_err(fail(args.dir.display()))?;
            let place = Place { args, dir: dir.path().to_owned() };
            make_image(&place.path("image"), args.mib)?;
            columns.push(match *tool {
                "restic" => restic(&place)?,
                "borg" => borg(&place)?,
                sealed => cairn(&place, sealed == "cairn sealed")?,
            });
        }
    }
    println!("{}", table(&columns));
    if let Some(path) = &args.json {
        let values = serde_json::json!({ "tools": TOOLS, "rows": ROWS, "values": columns });
        fs::write(path, format!("{values:#}\n")).map_err(fail(path.display()))?;
    }
    Ok(())
}

fn cairn(place: &Place<'_>, sealed: bool) -> Outcome<Column> {
    let repo = format!("file://{}", place.path("repo").display());
    let key = place.path("key");
    fs::write(&key, "5a".repeat(32)).map_err(fail("key"))?;
    let key = key.display().to_string();
    let mut options = vec!["--repo", repo.as_str()];
    if sealed {
        options.extend(["--key-file", key.as_str()]);
    }
    let backup = |words: &[&str]| place.cairn(&[&["--json", "backup"], words, &options].concat());
    let size = format!("{}MiB", place.args.mib * 4 + 512);
    let _made = place.cairn(&["pool", "create", "--size", &size])?;
    let image = place.path("image").display().to_string();
    let _imported = place.cairn(&["volume", "import", &image, "db"])?;
    let _made = backup(&["init"])?;
    let (full, said) = backup(&["create", "db"])?;
    let first = id(&said)?;
    let full_stored = size_of(&place.path("repo"));
    let changes = changes(place.args.mib, 77);
    change_image(&place.path("image"), &changes)?;
    change_volume(&place.path("pool"), &changes)?;
    let (incremental, said) = backup(&["create", "db"])?;
    let second = id(&said)?;
    let stored = size_of(&place.path("repo")) - full_stored;
    place.cold();
    let (restore, _) = backup(&["restore", &second, "new"])?;
    place.cold();
    let (verify, _) = backup(&["verify"])?;
    place.cold();
    let (in_place, _) = backup(&["restore", &first, "db", "--in-place"])?;
    let _equal = backup(&["restore", &second, "db", "--in-place"])?;
    // Every tenth of other changes, to be undone.
    let few: Vec<_> = self::changes(place.args.mib, 79).into_iter().step_by(10).collect();
    change_volume(&place.path("pool"), &few)?;
    place.cold();
    let (in_place_few, _) = backup(&["restore", &second, "db", "--in-place"])?;
    let out = place.path("restored").display().to_string();
    for volume in ["new", "db"] {
        let _exported = place.cairn(&["volume", "export", volume, &out, "--force"])?;
        let _same = place.run("cmp", &[&out, &image])?;
    }
    change_volume(&place.path("pool"), &self::changes(place.args.mib, 78))?;
    let served = place.served(|| backup(&["create", "db"]))?.0;
    let mut column = column(full, full_stored, incremental, stored, restore, verify);
    column[9] = Some(in_place.seconds);
    column[10] = Some(in_place_few.seconds);
    column[11] = Some(served.seconds);
    Ok(column)
}

fn id(said: &str) -> Outcome<String> {
    let value: serde_json::Value = serde_json::from_str(said).map_err(fail(said))?;
    Ok(value["id"].as_str().unwrap_or_default().to_owned())
}

fn restic(place: &Place<'_>) -> Outcome<Column> {
    let restic = |words: &[&str]| place.run("restic", &[&["-r", "repo", "-q"], words].concat());
    let _made = restic(&["init"])?;
    let (full, _) = restic(&["backup", "image"])?;
    let full_stored = size_of(&place.path("repo"));
    change_image(&place.path("image"), &changes(place.args.mib, 77))?;
    let (incremental, _) = restic(&["backup", "image"])?;
    let stored = size_of(&place.path("repo")) - full_stored;
    place.cold();
    let (restore, _) = restic(&["restore", "latest", "--target", "restored"])?;
    let found = place.run("find", &["restored", "-name", "image"])?.1;
    let _same = place.run("cmp", &[found.trim(), "image"])?;
    place.cold();
    let (verify, _) = restic(&["check", "--read-data"])?;
    Ok(column(full, full_stored, incremental, stored, restore, verify))
}

fn borg(place: &Place<'_>) -> Outcome<Column> {
    let borg = |words: &[&str]| place.run("borg", words);
    let _made = borg(&["init", "-e", "none", "repo"])?;
    let (full, _) = borg(&["create", "repo::full", "image"])?;
    let full_stored = size_of(&place.path("repo"));
    change_image(&place.path("image"), &changes(place.args.mib, 77))?;
    let (incremental, _) = borg(&["create", "repo::second", "image"])?;
    let stored = size_of(&place.path("repo")) - full_stored;
    fs::rename(place.path("image"), place.path("kept")).map_err(fail("image"))?;
    place.cold();
    let (restore, _) = borg(&["extract", "repo::second"])?;
    let _same = place.run("cmp", &["image", "kept"])?;
    place.cold();
    let (verify, _) = borg(&["check", "--verify-data", "repo"])?;
    Ok(column(full, full_stored, incremental, stored, restore, verify))
}

fn column(full: Cost, full_stored: f64, incremental: Cost, stored: f64, restore: Cost, verify: Cost) -> Column {
    [
        Some(full.seconds),
        Some(full.peak),
        Some(full_stored),
        Some(incremental.seconds),
        Some(incremental.peak),
        Some(stored),
        Some(restore.seconds),
        Some(restore.peak),
        Some(verify.seconds),
        None,
        None,
        None,
    ]
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn table(columns: &[Vec<Column>]) -> String {
    let mut lines = vec![format!("| | {} |", TOOLS.join(" | ")), format!("|{}", " --- |".repeat(TOOLS.len() + 1))];
    for (row, name) in ROWS.iter().enumerate() {
        let cell = |rounds: &Vec<Column>| {
            let values: Option<Vec<f64>> = rounds.iter().map(|column| column[row]).collect();
            values.map_or_else(|| "-".to_owned(), |values| format!("{:.2}", median(values)))
        };
        lines.push(format!("| {name} | {} |", columns.iter().map(cell).collect::<Vec<_>>().join(" | ")));
    }
    lines.join("\n")
}

/// Restoring the end of a long chain beside restoring its beginning, and the same content as one full backup.
fn chain(args: &Args, length: u32) -> Outcome<()> {
    let dir = tempfile::tempdir_in(&args.dir).map_err(fail(args.dir.display()))?;
    let place = Place { args, dir: dir.path().to_owned() };
    make_image(&place.path("image"), args.mib)?;
    let repo = format!("file://{}", place.path("repo").display());
    let backup = |words: &[&str]| place.cairn(&[&["--json", "backup"], words, &["--repo", &repo]].concat());
    let size = format!("{}MiB", args.mib * 8 + 4096);
    let _made = place.cairn(&["pool", "create", "--size", &size])?;
    let image = place.path("image").display().to_string();
    let _imported = place.cairn(&["volume", "import", &image, "db"])?;
    let _made = backup(&["init"])?;
    let first = id(&backup(&["create", "db"])?.1)?;
    let (mut last, mut spent) = (first.clone(), 0.0);
    for number in 0..length {
        let all = changes(args.mib, 1000 + u64::from(number));
        change_volume(&place.path("pool"), &all[..all.len().min(256)])?;
        let (cost, said) = backup(&["create", "db"])?;
        spent += cost.seconds;
        last = id(&said)?;
    }
    let full = id(&backup(&["create", "db", "--full"])?.1)?;
    let mut times: [Vec<f64>; 3] = Default::default();
    for _ in 0..args.rounds {
        for (id, times) in [&first, &last, &full].into_iter().zip(&mut times) {
            times.push(backup(&["restore", id, "restored"])?.0.seconds);
            let _deleted = place.cairn(&["volume", "delete", "restored"])?;
        }
    }
    let [first, last, full] = times.map(median);
    println!("| restore of | s |\n| --- | --- |");
    println!("| the full backup at the beginning | {first:.2} |");
    println!("| the last of {length} incrementals | {last:.2} |");
    println!("| the same content as one full backup | {full:.2} |");
    println!("\none incremental of 1 MiB took {:.3} s on average", spent / f64::from(length.max(1)));
    Ok(())
}
