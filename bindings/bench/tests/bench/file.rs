//! Files, by io_uring.

use cairn_bench::{Bench, Report, Target, Verify};
use cairn_engine::{ErrorKind, MIB, Pool, PoolOptions};
use std::{fs, path::Path};
use tempfile::TempDir;

use crate::site::{SIZE, every_pattern, filled_and_read_again, go, pattern};

/// A directory whose file system takes direct I/O: that of the build.
pub(crate) fn directory() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn raw(directory: &Path) -> std::path::PathBuf {
    let path = directory.join("raw");
    fs::write(&path, vec![0x11; SIZE as usize]).unwrap();
    path
}

#[test]
fn every_pattern_is_carried_out_and_verified() {
    let directory = directory();
    let path = raw(directory.path());
    for jobs in [1, 3] {
        every_pattern(|| Target::File(path.clone()), jobs);
    }
    filled_and_read_again(|| Target::File(path.clone()));
}

#[test]
fn data_is_overwritten_only_with_consent() {
    let directory = directory();
    let path = raw(directory.path());
    let before = fs::read(&path).unwrap();
    let bench = Bench { destroy: false, ..pattern("randwrite", 10) };
    let filling = Bench { destroy: false, fill: true, ..pattern("randread", 10) };
    for bench in [bench, filling] {
        let error = go(Target::File(path.clone()), &bench).unwrap_err();
        assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("--destroy"), "{error}");
    }
    go(Target::File(path.clone()), &Bench { destroy: false, ..pattern("randread", 10) }).unwrap();
    assert!(fs::read(&path).unwrap() == before);
    go(Target::File(path.clone()), &pattern("randwrite", 10)).unwrap();
    assert!(fs::read(&path).unwrap() != before);
}

#[test]
fn a_pool_is_named_and_an_open_one_is_never_written_to() {
    let directory = directory();
    let path = directory.path().join("pool");
    let pool = pollster::block_on(Pool::create(&path, PoolOptions::new().size(64 * MIB))).unwrap();
    let error = go(Target::File(path.clone()), &pattern("randwrite", 10)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    pollster::block_on(pool.close()).unwrap();
    let error = go(Target::File(path), &Bench { destroy: false, ..pattern("randwrite", 10) }).unwrap_err();
    assert!(error.to_string().contains("a Cairn pool"), "{error}");
}

#[test]
fn a_file_that_is_not_there_is_made_and_written_whole() {
    let directory = directory();
    let path = directory.path().join("new");
    let refuse = |bench: &Bench, kind, text: &str| {
        let error = go(Target::File(path.clone()), bench).unwrap_err();
        assert!(error.kind() == kind && error.to_string().contains(text), "{error}");
        assert!(!path.exists());
    };
    refuse(&pattern("randread", 10), ErrorKind::NotFound, "is not there");
    refuse(&pattern("randwrite", 10), ErrorKind::Invalid, "--size");
    let bench = Bench { destroy: false, size: Some(SIZE), ..pattern("randwrite", 10) };
    let report = go(Target::File(path.clone()), &bench).unwrap();
    assert_eq!(report.passes[0].name, "fill");
    let content = fs::read(&path).unwrap();
    assert!(content.len() as u64 == SIZE && content.chunks(4096).all(|block| block.iter().any(|byte| *byte != 0)));
    let error = go(Target::File("/dev/no-such-device".into()), &bench).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn writes_stay_within_the_working_set() {
    let directory = directory();
    let path = raw(directory.path());
    let (offset, size) = (4 << 20, (4 << 20) + 4096);
    for name in ["write", "randwrite"] {
        let bench = Bench { offset, size: Some(size), block: 8192, jobs: 2, fill: true, ..pattern(name, 2000) };
        let report = go(Target::File(path.clone()), &bench).unwrap();
        assert_eq!(report.pattern.size, 4 << 20, "whole requests");
        let content = fs::read(&path).unwrap();
        for (number, block) in content.chunks(4096).enumerate() {
            let inside = (offset..offset + (4 << 20)).contains(&(number as u64 * 4096));
            assert_eq!(block.iter().any(|byte| *byte != 0x11), inside, "{name}: block {number}");
        }
    }
}

#[test]
fn damage_lost_writes_and_stale_data_are_found_by_later_runs() {
    let directory = directory();
    let path = raw(directory.path());
    let fill = Bench { fill: true, verify: Verify::Reads, ..pattern("randread", 1) };
    go(Target::File(path.clone()), &fill).unwrap();
    let mut content = fs::read(&path).unwrap();
    content[5000] ^= 0x10;
    content.copy_within(8192..12_288, 16_384);
    fs::write(&path, &content).unwrap();
    let read = Bench { verify: Verify::Reads, block: 4096, depth: 4, ..pattern("read", SIZE / 4096) };
    let verified = go(Target::File(path), &read).unwrap().verify.unwrap();
    assert_eq!(verified.failures, 1 + 8, "{verified:?}");
    assert!(
        verified.told.iter().any(|told| told.starts_with("offset 4608") && told.contains("checksum")),
        "{verified:?}"
    );
    assert!(
        verified.told.iter().any(|told| told.starts_with("offset 16384") && told.contains("written to offset 8192"))
    );
}

#[test]
fn what_cannot_be_done_says_why() {
    let directory = directory();
    let path = raw(directory.path());
    let cases: [(&str, Bench); 4] = [
        ("size", Bench { size: Some(SIZE * 2), ..pattern("randread", 1) }),
        ("offset", Bench { offset: SIZE, ..pattern("randread", 1) }),
        ("bs", Bench { block: 1000, ..pattern("randread", 1) }),
        ("jobs", Bench { jobs: 200, size: Some(1 << 16), ..pattern("randread", 1) }),
    ];
    for (key, bench) in cases {
        let error = go(Target::File(path.clone()), &bench).unwrap_err();
        assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains(key), "{key}: {error}");
    }
    let error = go(Target::File(directory.path().to_owned()), &pattern("randread", 1)).unwrap_err();
    assert!(error.to_string().contains("neither a file nor a block device"), "{error}");
}

#[test]
fn the_same_seed_makes_the_same_file() {
    let directory = directory();
    let content = |name: &str, seed| {
        let path = directory.path().join(name);
        let bench = Bench { size: Some(1 << 20), seed: Some(seed), depth: 1, ..pattern("randwrite", 300) };
        let report: Report = go(Target::File(path.clone()), &bench).unwrap();
        assert_eq!(report.pattern.seed, seed);
        fs::read(path).unwrap()
    };
    let first = content("a", 5);
    assert!(first == content("b", 5) && first != content("c", 6));
}
