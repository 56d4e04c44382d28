//! A snapshot with more clones than nodes fit into memory: what it alone holds is counted, it is deleted, its branch point is pruned.

#![allow(missing_docs, clippy::unwrap_used)]

use std::time::Duration;

use cairn_engine::{BLOCK, GIB, IoBuf, LocalPool, MIB, OpenOptions, PoolOptions, Target, VolumeOptions, sim};

const CLONES: u64 = 600;
const LEAVES: u64 = 8;

fn block(value: u64) -> IoBuf {
    IoBuf::from(&value.to_le_bytes().repeat(BLOCK as usize / 8)[..])
}

/// The smallest cache: 4,096 nodes.
fn options() -> OpenOptions {
    OpenOptions::new().cache_bytes(16 * MIB)
}

/// Two blocks in each of the leaves, and a snapshot; in all clones and in the volume the first of the two is written anew.
async fn make(machine: sim::Machine) -> LocalPool {
    let pool = machine.create_pool(PoolOptions::new().open(options())).await.unwrap();
    let volume = pool.create_volume("a", GIB, VolumeOptions::default()).await.unwrap();
    for leaf in 0..LEAVES {
        volume.write(leaf * MIB, block(leaf + 1), false).await.unwrap();
        volume.write(leaf * MIB + 2 * BLOCK, block(leaf + 1), false).await.unwrap();
    }
    let golden: Target = "a@s".parse().unwrap();
    pool.snapshot(std::slice::from_ref(&golden)).await.unwrap();
    for i in 0..CLONES {
        pool.clone_volume(&golden, &format!("c{i}"), None).await.unwrap();
        let clone = pool.open(&format!("c{i}").parse().unwrap()).unwrap();
        for leaf in 0..LEAVES {
            clone.write(leaf * MIB, block(i * 100 + leaf + 1), false).await.unwrap();
        }
    }
    for leaf in 0..LEAVES {
        volume.write(leaf * MIB, block(7 * leaf + 1), false).await.unwrap();
    }
    pool.checkpoint().await.unwrap();
    pool
}

#[test]
fn more_clones_than_nodes_fit_into_memory() {
    let disk = sim::Disk::new(256 * MIB, 1);
    sim::run(&disk, |machine| async move { drop(make(machine).await) }).unwrap();
    let disk = disk.crash(sim::Survivors::All);
    let ended = sim::run_for(&disk, Duration::from_secs(10), |machine| async move {
        let pool = machine.open_pool(options()).await.unwrap();
        let golden: Target = "a@s".parse().unwrap();
        // A block and a leaf in each, and the two nodes above.
        let info = pool.snapshot_info(&golden).await.unwrap();
        assert_eq!(info.exclusive, Some((2 * LEAVES + 2) * BLOCK));
        let before = pool.stats().used;
        pool.delete_snapshot(&golden).await.unwrap();
        pool.wait_deleted().await.unwrap();
        let stats = pool.stats();
        assert_eq!((stats.deleting, stats.branch_points), (0, 1));
        assert_eq!(before - stats.used, LEAVES * BLOCK, "the blocks that no one else holds");
        assert!(pool.check(true, |_, _| {}).await.unwrap().is_clean());
    });
    assert_eq!(ended, Ok(()), "deletion does not end");
}
