//! The fuzz targets without a fuzzer: every input kept for them, its beginnings, and changes of it that are the same in every run.

#[path = "../../../fuzz/checks/mod.rs"]
mod checks;
mod mutate;

use mutate::Mutator;
use std::{
    collections::BTreeSet,
    env, fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

/// One target: how much of it there is time for in every run of the tests.
struct Target {
    name: &'static str,
    check: fn(&[u8]) -> bool,
    /// Also each input cut off behind every so many bytes.
    cuts: usize,
    /// Changed inputs.
    changes: u32,
}

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

/// Names of the entries of a directory, in order.
fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    entries.map(|entry| entry.expect("it can be listed").file_name().into_string().expect("plain names")).collect()
}

impl Target {
    fn corpus(&self) -> Vec<(String, Vec<u8>)> {
        let directory = fuzz().join("corpus").join(self.name);
        let inputs = names(&directory).into_iter();
        inputs.map(|name| (name.clone(), fs::read(directory.join(name)).expect("an input can be read"))).collect()
    }

    /// Checks one input; a panic tells which it was.
    fn run(&self, input: &[u8], which: impl FnOnce() -> String) -> bool {
        catch_unwind(AssertUnwindSafe(|| (self.check)(input))).unwrap_or_else(|_| {
            let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz.{}", self.name));
            fs::write(&kept, input).expect("a finding can be kept");
            panic!("{}, {}: kept as {}", self.name, which(), kept.display())
        })
    }

    fn replay(&self) {
        let corpus = self.corpus();
        assert!(corpus.len() >= 6, "the corpus of {} holds only {} inputs", self.name, corpus.len());
        let mut understood = 0;
        for (name, input) in &corpus {
            understood += usize::from(self.run(input, || name.clone()));
            for end in (0..input.len()).step_by(self.cuts) {
                let _understood = self.run(&input[..end], || format!("the first {end} bytes of {name}"));
            }
        }
        // Otherwise a format has changed and the inputs have not.
        assert!(
            understood * 3 >= corpus.len(),
            "{understood} of {} inputs of {} are understood",
            corpus.len(),
            self.name
        );
    }

    fn change(&self) {
        let inputs: Vec<Vec<u8>> = self.corpus().into_iter().map(|(_, input)| input).collect();
        let mut mutator = Mutator::new(&inputs);
        for n in 0..self.changes {
            let input = mutator.next();
            let _understood = self.run(&input, || format!("change {n}"));
        }
    }
}

macro_rules! targets {
    ($($name:ident: $cuts:expr, $changes:expr;)*) => {
        const TARGETS: &[&str] = &[$(stringify!($name)),*];
        $(
            #[test]
            fn $name() {
                let target = Target { name: stringify!($name), check: checks::$name, cuts: $cuts, changes: $changes };
                target.replay();
                target.change();
            }
        )*
    };
}

targets! {
    superblock: 7, 20_000;
    node: 7, 20_000;
    journal: 1, 20_000;
    table: 7, 20_000;
    backup_record: 61, 5_000;
    backup_pack: 7, 20_000;
    backup_page: 97, 5_000;
    pool: 3, 200;
    operations: 97, 150;
    nbd_protocol: 1, 100_000;
    nbd_handshake: 1, 50_000;
    nbd_transmission: 5, 2_000;
    vhost_user_message: 1, 20_000;
    vhost_user_chain: 61, 10_000;
    vhost_user_in_flight: 7, 20_000;
    control: 5, 1_000;
    service_requests: 97, 300;
    qcow2: 97, 10_000;
    names_and_sizes: 1, 100_000;
    cli_arguments: 1, 500;
}

#[test]
fn every_target_is_here() {
    let expected: BTreeSet<String> = TARGETS.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(names(&fuzz().join("corpus")), expected);
    let files = names(&fuzz().join("fuzz_targets"));
    assert_eq!(files.iter().map(|file| file.trim_end_matches(".rs").to_owned()).collect::<BTreeSet<_>>(), expected);
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).expect("a manifest");
    let programs =
        manifest.lines().filter_map(|line| line.strip_prefix("path = \"fuzz_targets/")?.strip_suffix(".rs\""));
    assert_eq!(programs.map(str::to_owned).collect::<BTreeSet<_>>(), expected);
}

/// Inputs that encoders made are what they make today: the bytes on disk have not changed by accident. `CAIRN_SEEDS=write` writes them
/// anew.
#[test]
fn seeds_are_what_the_encoders_write() {
    let made = cairn_engine::fuzzing::seeds().into_iter().chain(cairn_backup::fuzzing::seeds());
    let made = made.map(|(target, name, bytes)| (target, name.to_owned(), bytes));
    for (target, name, bytes) in made.chain(cairn_service::fuzzing::seeds()) {
        let path = fuzz().join("corpus").join(target).join(name);
        if env::var_os("CAIRN_SEEDS").is_some_and(|value| value == "write") {
            fs::create_dir_all(path.parent().expect("a corpus")).expect("a directory");
            fs::write(&path, &bytes).expect("a seed can be written");
        }
        let kept = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(kept == bytes, "{} is not what is written today", path.display());
    }
}
