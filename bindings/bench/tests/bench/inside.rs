//! Volumes of a pool within the process.

use cairn_bench::{Bench, Target, Verify};
use cairn_engine::{ErrorKind, Pool, PoolOptions, VolumeOptions};
use pollster::block_on;
use tempfile::TempDir;

use crate::{
    file::directory,
    site::{SIZE, every_pattern, filled_and_read_again, go, pattern},
};

pub(crate) fn pool() -> (TempDir, Pool) {
    let directory = directory();
    let pool = block_on(async {
        let pool = Pool::create(directory.path().join("pool"), PoolOptions::new().size(256 << 20)).await.unwrap();
        drop(pool.create_volume("db", SIZE, VolumeOptions::default()).await.unwrap());
        pool
    });
    (directory, pool)
}

#[test]
fn every_pattern_is_carried_out_and_verified() {
    let (_directory, pool) = pool();
    let target = || Target::Volume { pool: pool.clone(), name: "db".into() };
    for jobs in [1, 3] {
        every_pattern(target, jobs);
    }
    filled_and_read_again(target);
    block_on(pool.close()).unwrap();
}

#[test]
fn volumes_with_data_and_snapshots_are_kept() {
    let (_directory, pool) = pool();
    let target = |name: &str| Target::Volume { pool: pool.clone(), name: name.into() };
    let polite = |name| Bench { destroy: false, ..pattern(name, 100) };
    // Nothing was ever written to it: nothing can be lost. Reads of it say that they reach no device.
    assert!(go(target("db"), &polite("randread")).unwrap().target.empty);
    go(target("db"), &polite("randwrite")).unwrap();
    let error = go(target("db"), &polite("randwrite")).unwrap_err();
    assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("--destroy"), "{error}");
    drop(block_on(async { pool.volume("db").await.unwrap().snapshot("s").await }).unwrap());
    assert_eq!(go(target("db@s"), &pattern("randwrite", 1)).unwrap_err().kind(), ErrorKind::ReadOnly);
    assert!(!go(target("db@s"), &polite("randread")).unwrap().target.empty);
    assert_eq!(go(target("nobody"), &polite("randread")).unwrap_err().kind(), ErrorKind::NotFound);
    block_on(pool.close()).unwrap();
}

#[test]
fn a_scratch_pool_is_filled_for_reads_and_leaves_nothing() {
    let directory = directory();
    let target = || Target::Scratch { directory: directory.path().to_owned() };
    for name in ["randread", "randwrite", "randrw"] {
        let bench = Bench { size: Some(SIZE), destroy: false, verify: Verify::All, ..pattern(name, 500) };
        let report = go(target(), &bench).unwrap();
        assert_eq!(report.passes[0].name == "fill", name != "randwrite", "{name}");
        let verified = report.verify.unwrap();
        assert!(verified.failures == 0 && verified.checked > 0 && verified.unknown == 0, "{verified:?}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}

#[test]
fn a_run_that_is_ended_early_tells_what_it_has() {
    let directory = directory();
    let bench = Bench {
        size: Some(SIZE),
        runtime: Some(std::time::Duration::from_secs(3600)),
        requests: None,
        ..pattern("randwrite", 1)
    };
    let mut looks = 0;
    let mut watch = |live: &cairn_bench::Live| {
        looks += u32::from(live.requests > 0);
        looks < 2
    };
    let report =
        cairn_bench::run(Target::Scratch { directory: directory.path().to_owned() }, &bench, &mut watch).unwrap();
    assert!(report.stopped && report.write.requests > 0 && report.series.len() < 3600);
}
