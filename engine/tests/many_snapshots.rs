//! Ten thousand snapshots of one volume: the last costs what the first cost, reading does not depend on them, and opening, checking and
//! deleting still work.

#![allow(missing_docs, clippy::unwrap_used)]

use std::path::Path;

use cairn_engine::{
    BLOCK, GIB, IoBuf, MIB, OpenOptions, Pace, Pool, PoolOptions, PoolStats, Target, Volume, VolumeOptions,
};

const SNAPSHOTS: u64 = 10_000;

fn target(n: u64) -> Target {
    Target { volume: "disk".to_owned(), snapshot: Some(format!("s{n}")) }
}

/// Writes one block, takes a snapshot, and says what that took: journal blocks and changed nodes.
async fn write_and_snapshot(pool: &Pool, volume: &Volume, n: u64) -> (u64, u64) {
    pool.checkpoint().await.unwrap();
    let before = pool.stats().await.unwrap();
    volume.write(n % 512 * BLOCK, IoBuf::from(&[n as u8 | 1; 4096][..])).await.unwrap();
    pool.snapshot(&[target(n)]).await.unwrap();
    let after = pool.stats().await.unwrap();
    let cost = |f: fn(&PoolStats) -> u64| f(&after) - f(&before);
    (cost(|s| s.journal_used), cost(|s| s.dirty_memory))
}

/// Bytes of metadata that reading one block of `name` loads when nothing is in memory.
async fn cold_read(path: &Path, name: &str) -> u64 {
    let pool = Pool::open(path, OpenOptions::new()).await.unwrap();
    assert_eq!(pool.stats().await.unwrap().cache_memory, 0);
    let _block = pool.volume(name).await.unwrap().read(0, 4096).await.unwrap();
    let loaded = pool.stats().await.unwrap().cache_memory;
    pool.close().await.unwrap();
    loaded
}

#[test]
fn ten_thousand_snapshots() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = dir.path().join("pool");
    pollster::block_on(async {
        let pool = Pool::create(&path, PoolOptions::new().size(512 * MIB)).await.unwrap();
        let volume = pool.create_volume("disk", 4 * GIB, VolumeOptions::default()).await.unwrap();
        // The first one makes the path to the leaf; from the second on they are alike.
        let _first = write_and_snapshot(&pool, &volume, 0).await;
        let second = write_and_snapshot(&pool, &volume, 1).await;
        for n in 2..SNAPSHOTS - 1 {
            volume.write(n % 512 * BLOCK, IoBuf::from(&[n as u8 | 1; 4096][..])).await.unwrap();
            pool.snapshot(&[target(n)]).await.unwrap();
        }
        let last = write_and_snapshot(&pool, &volume, SNAPSHOTS - 1).await;
        assert_eq!(second, last, "journal bytes and changed metadata of one write and one snapshot");
        drop(volume);
        pool.close().await.unwrap();

        // Three levels of nodes and the neighbouring leaf that is read ahead, however long the chain of snapshots.
        for name in ["disk", "disk@s600", "disk@s5000", "disk@s9999"] {
            assert_eq!(cold_read(&path, name).await, 4 * BLOCK, "{name}");
        }

        let pool = Pool::open(&path, OpenOptions::new()).await.unwrap();
        let list = pool.snapshots(Some("disk"), false).await.unwrap();
        assert_eq!(list.len() as u64, SNAPSHOTS);
        assert_eq!(list[5000].parent.as_deref(), Some("disk@s4999"));
        for n in [0, 1, 600, 5000, SNAPSHOTS - 1] {
            let snapshot = pool.volume(&target(n).to_string()).await.unwrap();
            let block = snapshot.read(n % 512 * BLOCK, 4096).await.unwrap();
            assert!(block.iter().all(|b| *b == n as u8 | 1), "snapshot {n}");
        }
        let report = pool.check(true, |_, _| {}).await.unwrap();
        assert!(report.is_clean(), "{:?}", report.problems);
        assert_eq!(report.versions, SNAPSHOTS + 1);
        assert_eq!(report.data_blocks, SNAPSHOTS);
        // A scrub reads what they share once, too.
        let scrubbed = pool.scrub(Pace::unlimited()).await.unwrap().report;
        assert!(scrubbed.is_clean(), "{:?}", scrubbed.damaged);
        assert_eq!(
            (scrubbed.versions, scrubbed.nodes, scrubbed.data_blocks),
            (report.versions, report.nodes, report.data_verified)
        );
        assert_eq!(
            scrubbed.data_blocks + scrubbed.nodes + scrubbed.table_blocks,
            pool.stats().await.unwrap().used / BLOCK
        );

        // Each but the newest 512 writes is held by one snapshot alone, or by those up to the next write of its block.
        let middle = pool.snapshot_info(&target(5000)).await.unwrap();
        assert!(middle.exclusive.unwrap() > 0);
        pool.delete_snapshot(&target(5000)).await.unwrap();
        pool.delete_volume("disk", true).await.unwrap();
        pool.wait_deleted().await.unwrap();
        let report = pool.check(true, |_, _| {}).await.unwrap();
        assert!(report.is_clean(), "{:?}", report.problems);
        assert_eq!((report.versions, report.data_blocks), (0, 0));
        pool.close().await.unwrap();
    });
}
