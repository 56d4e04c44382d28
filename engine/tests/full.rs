//! A full pool: writes get a distinct error, everything else goes on, space comes back, nothing that was acknowledged is lost.

#![allow(missing_docs, clippy::unwrap_used)]

#[path = "support/panicking.rs"]
mod panicking;

use std::{collections::BTreeMap, path::Path};

use cairn_engine::{
    BLOCK, ErrorKind, GIB, IoBuf, MIB, OpenOptions, Pace, Pool, PoolOptions, StorageKind, Target, Volume, VolumeOptions,
};
use panicking::end_on_panic;

fn block(value: u64) -> IoBuf {
    IoBuf::from(&value.to_le_bytes().repeat(BLOCK as usize / 8)[..])
}

type Model = BTreeMap<u64, u64>;

async fn verify(volume: &Volume, model: &Model) {
    for (&at, &value) in model {
        assert!(volume.read(at * BLOCK, BLOCK as usize).await.unwrap()[..] == block(value)[..], "block {at}");
    }
}

async fn clean(pool: &Pool) {
    let report = pool.check(true, |_, _| {}).await.unwrap();
    assert!(report.is_clean(), "{:#?}", report.problems);
    assert_eq!(pool.stats().await.unwrap().read_only, None);
}

/// Writes single blocks `stride` apart until there is no space; returns how many fitted.
async fn fill(volume: &Volume, model: &mut Model, first: u64, stride: u64) -> u64 {
    let blocks = volume.size().await.unwrap() / BLOCK;
    let mut count = 0;
    for at in (first..blocks).step_by(stride as usize) {
        match volume.write(at * BLOCK, block(at + 1)).await {
            Ok(()) => {
                model.insert(at, at + 1);
                count += 1;
            }
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::NoSpace, "{e}");
                return count;
            }
        }
    }
    panic!("the volume was smaller than the pool");
}

/// Scrubs a pool over and over, as fast as it can, until it is closed.
fn scrub_until_closed(pool: &Pool) -> std::thread::JoinHandle<u64> {
    let pool = pool.clone();
    std::thread::spawn(move || {
        let mut rounds = 0;
        loop {
            match pollster::block_on(pool.scrub(Pace::unlimited())) {
                Ok(outcome) => assert!(outcome.report.is_clean(), "{:?}", outcome.report.damaged),
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::Closed, "{e}");
                    return rounds;
                }
            }
            rounds += 1;
        }
    })
}

/// `stride` 1 makes full leaves; 256 makes a leaf of each block, so that metadata takes as much as data. With `scrubs`, something is being
/// read and held all the time.
fn full(storage: StorageKind, stride: u64, scrubs: bool) {
    end_on_panic();
    let shm = Path::new("/dev/shm");
    let dir = tempfile::tempdir_in(if shm.is_dir() { shm } else { Path::new("/tmp") }).unwrap();
    let path = dir.path().join("pool.cairn");
    let open = OpenOptions::new().storage(storage).dirty_bytes(4 * MIB);
    pollster::block_on(async {
        let options = PoolOptions::new().size(48 * MIB).open(open.clone());
        let pool = Pool::create(&path, options).await.unwrap();
        let scrubbing = scrubs.then(|| scrub_until_closed(&pool));
        let volume = pool.create_volume("a", 64 * GIB, VolumeOptions::default()).await.unwrap();
        // Writes of the same class as the scrubs, which would yield to them otherwise.
        let volume = if scrubs { volume.in_background() } else { volume };
        let mut model = Model::new();
        let count = fill(&volume, &mut model, 0, stride).await;
        assert!(count > 2000, "{count} blocks fitted");
        volume.flush().await.unwrap();
        verify(&volume, &model).await;
        pool.checkpoint().await.unwrap();
        // Blocks that are owned can be written again, over and over.
        let keys: Vec<u64> = model.keys().copied().collect();
        for round in 0..3 {
            for &at in keys.iter().step_by(3) {
                volume.write(at * BLOCK, block(at + round + 7)).await.unwrap();
                model.insert(at, at + round + 7);
            }
        }
        volume.flush().await.unwrap();
        pool.checkpoint().await.unwrap();
        clean(&pool).await;
        // A snapshot makes all of it shared: overwrites then need new space and are refused, discards are not.
        let target: Target = "a@full".parse().unwrap();
        match pool.snapshot(std::slice::from_ref(&target)).await {
            Ok(_) => {
                let frozen = model.clone();
                for &at in keys.iter().step_by(5) {
                    match volume.write(at * BLOCK, block(at + 99)).await {
                        Ok(()) => drop(model.insert(at, at + 99)),
                        Err(e) => assert_eq!(e.kind(), ErrorKind::NoSpace, "{e}"),
                    }
                }
                for &at in keys.iter().skip(1).step_by(7) {
                    volume.discard(at * BLOCK, BLOCK).await.unwrap();
                    model.remove(&at);
                }
                volume.flush().await.unwrap();
                pool.checkpoint().await.unwrap();
                verify(&volume, &model).await;
                let snapshot = pool.volume("a@full").await.unwrap();
                verify(&snapshot, &frozen).await;
                drop(snapshot);
                pool.delete_snapshot(&target).await.unwrap();
                pool.wait_deleted().await.unwrap();
            }
            Err(e) => assert_eq!(e.kind(), ErrorKind::NoSpace, "{e}"),
        }
        clean(&pool).await;
        let _more = fill(&volume, &mut model, 1, stride).await;
        drop(volume);
        pool.close().await.unwrap();
        let rounds = scrubbing.map(|thread| thread.join().unwrap());
        assert!(rounds.is_none_or(|rounds| rounds > 10), "{rounds:?} scrubs");
        let pool = Pool::open(&path, open).await.unwrap();
        let volume = pool.volume("a").await.unwrap();
        verify(&volume, &model).await;
        clean(&pool).await;
        volume.discard(0, 32 * GIB).await.unwrap();
        model.retain(|at, _| *at >= 32 * GIB / BLOCK);
        pool.wait_deleted().await.unwrap();
        let again = fill(&volume, &mut model, 2, stride).await;
        assert!(again > 2000, "{again} blocks fitted after discarding");
        verify(&volume, &model).await;
        drop(volume);
        let _deleted = pool.delete_volume("a", true).await.unwrap();
        pool.wait_deleted().await.unwrap();
        clean(&pool).await;
        assert!(pool.stats().await.unwrap().used < MIB);
        pool.close().await.unwrap();
    });
}

#[test]
fn full_leaves_on_pread() {
    full(StorageKind::Pread, 1, false);
}

#[test]
fn full_leaves_on_uring() {
    full(StorageKind::Uring, 1, false);
}

#[test]
fn a_leaf_for_each_block_on_pread() {
    full(StorageKind::Pread, 256, false);
}

#[test]
fn a_leaf_for_each_block_on_uring() {
    full(StorageKind::Uring, 256, false);
}

#[test]
fn full_leaves_under_scrubs() {
    full(StorageKind::Uring, 1, true);
}

#[test]
fn a_leaf_for_each_block_under_scrubs() {
    full(StorageKind::Pread, 256, true);
}

/// Pairs of blocks, each pair in a leaf of its own, until the pool is full.
async fn fill_pairs(volume: &Volume, model: &mut Model) -> Vec<u64> {
    for at in (0..).step_by(256) {
        for at in [at, at + 1] {
            match volume.write(at * BLOCK, block(at + 1)).await {
                Ok(()) => drop(model.insert(at, at + 1)),
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::NoSpace, "{e}");
                    return model.keys().copied().filter(|at| at.is_multiple_of(256)).collect();
                }
            }
        }
    }
    Vec::new()
}

/// Discards change a node each: on a full pool they must neither fail nor use up the room that the next checkpoint needs.
fn discards_on_a_full_pool(storage: StorageKind, snapshot: bool) {
    end_on_panic();
    let shm = Path::new("/dev/shm");
    let dir = tempfile::tempdir_in(if shm.is_dir() { shm } else { Path::new("/tmp") }).unwrap();
    let path = dir.path().join("pool.cairn");
    pollster::block_on(async {
        let options = PoolOptions::new().size(48 * MIB).open(OpenOptions::new().storage(storage));
        let pool = Pool::create(&path, options).await.unwrap();
        let volume = pool.create_volume("a", 64 * GIB, VolumeOptions::default()).await.unwrap();
        let mut model = Model::new();
        let pairs = fill_pairs(&volume, &mut model).await;
        assert!(pairs.len() > 1000);
        volume.flush().await.unwrap();
        pool.checkpoint().await.unwrap();
        let frozen = model.clone();
        if snapshot {
            let _taken = volume.snapshot("s").await.unwrap();
        }
        for &at in &pairs {
            match volume.discard(at * BLOCK, BLOCK).await {
                Ok(()) => drop(model.remove(&at)),
                // Where everything is shared, a discard needs room for the nodes that it changes.
                Err(e) => assert!(snapshot && e.kind() == ErrorKind::NoSpace, "{e}"),
            }
        }
        volume.flush().await.unwrap();
        pool.checkpoint().await.unwrap();
        clean(&pool).await;
        verify(&volume, &model).await;
        if snapshot {
            verify(&pool.volume("a@s").await.unwrap(), &frozen).await;
            pool.delete_snapshot(&"a@s".parse().unwrap()).await.unwrap();
            pool.wait_deleted().await.unwrap();
            clean(&pool).await;
            verify(&volume, &model).await;
        }
        drop(volume);
        pool.close().await.unwrap();
    });
}

#[test]
fn discards_of_owned_blocks() {
    discards_on_a_full_pool(StorageKind::Pread, false);
}

#[test]
fn discards_of_shared_blocks() {
    discards_on_a_full_pool(StorageKind::Pread, true);
}

/// Overwrites of owned blocks, each in a leaf of its own and many at once.
#[test]
fn overwrites_at_once() {
    end_on_panic();
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = dir.path().join("pool.cairn");
    pollster::block_on(async {
        let options = PoolOptions::new().size(48 * MIB).open(OpenOptions::new().storage(StorageKind::Pread));
        let pool = Pool::create(&path, options).await.unwrap();
        let volume = pool.create_volume("a", 64 * GIB, VolumeOptions::default()).await.unwrap();
        let mut model = Model::new();
        let pairs = fill_pairs(&volume, &mut model).await;
        volume.flush().await.unwrap();
        pool.checkpoint().await.unwrap();
        let keys = pairs.clone();
        let refused = pool
            .run(move |local| async move {
                let volume = local.open(&"a".parse().unwrap()).unwrap();
                let tasks: Vec<_> = keys
                    .into_iter()
                    .map(|at| {
                        let volume = volume.clone();
                        local.reactor().spawn(async move { volume.write(at * BLOCK, block(at + 50), false).await })
                    })
                    .collect();
                let mut refused = Vec::new();
                for task in tasks {
                    if let Err(e) = task.await {
                        refused.push(e.to_string());
                    }
                }
                refused
            })
            .await
            .unwrap();
        assert!(refused.is_empty(), "{} of {}: {}", refused.len(), pairs.len(), refused[0]);
        for at in pairs {
            model.insert(at, at + 50);
        }
        volume.flush().await.unwrap();
        pool.checkpoint().await.unwrap();
        clean(&pool).await;
        verify(&volume, &model).await;
    });
}
