//! How many writes the device gets for what arrives in one turn, and how many at once.

#![allow(missing_docs, clippy::unwrap_used)]

use cairn_engine::{
    BLOCK, Error, IoBuf, LocalPool, LocalVolume, MIB, PoolOptions, VolumeOptions,
    sim::{self, Disk},
};

/// Writes of the device for each of a hundred turns in which `requests` of `blocks` blocks come.
fn writes_a_turn(requests: u64, blocks: u64) -> f64 {
    let disk = Disk::with_all_room(256 * MIB, 1);
    let ended = sim::run(&disk, move |machine| async move {
        let pool = machine.create_pool(PoolOptions::new()).await?;
        let volume = pool.create_volume("v", 64 * MIB, VolumeOptions::default()).await?;
        let before = machine.disk().counters().writes;
        for _ in 0..100 {
            let tasks: Vec<_> = (0..requests)
                .map(|at| {
                    let volume = volume.clone();
                    let data = IoBuf::from(&vec![7; (blocks * BLOCK) as usize][..]);
                    machine.reactor().spawn(async move { volume.write(at * blocks * BLOCK, data, false).await })
                })
                .collect();
            for task in tasks {
                task.await?;
            }
        }
        Ok::<_, Error>(machine.disk().counters().writes - before)
    });
    ended.unwrap().unwrap() as f64 / 100.0
}

#[test]
fn many_leave_in_halves() {
    for (requests, blocks) in [(32, 1), (128, 1), (8, 8), (16, 4)] {
        let writes = writes_a_turn(requests, blocks);
        assert!((1.9..=2.6).contains(&writes), "{requests} of {blocks} blocks: {writes} writes");
    }
}

#[test]
fn few_leave_together_and_large_ones_alone() {
    let few = writes_a_turn(6, 1);
    assert!((0.9..=1.2).contains(&few), "{few} writes");
    let large = writes_a_turn(8, 256);
    assert!((7.9..=9.0).contains(&large), "{large} writes");
}

/// Every other block of what was written comes free, and what was left beside it is used up but for single blocks.
async fn thin_out(pool: &LocalPool, volume: &LocalVolume) -> Result<(), Error> {
    let mut written = 0;
    while let Ok(()) = volume.write(written, IoBuf::from(&vec![7; MIB as usize][..]), false).await {
        written += MIB;
    }
    for block in (0..written / BLOCK).step_by(2) {
        volume.discard(block * BLOCK, BLOCK, false).await?;
    }
    for _ in 0..3 {
        pool.checkpoint().await?;
    }
    for at in (written..written + 4 * MIB).step_by(4 * BLOCK as usize) {
        volume.write(at, IoBuf::from(&[7; 4 * BLOCK as usize][..]), false).await?;
    }
    Ok(())
}

/// Single blocks take a write each. They must not take turns in eights, as if each were a megabyte.
#[test]
fn where_only_single_blocks_are_free_all_leave_at_once() {
    const REQUESTS: u64 = 128;
    let disk = Disk::with_all_room(64 * MIB, 1);
    let ended = sim::run(&disk, move |machine| async move {
        let pool = machine.create_pool(PoolOptions::new().journal_size(4 * MIB)).await?;
        let volume = pool.create_volume("v", 256 * MIB, VolumeOptions::default()).await?;
        thin_out(&pool, &volume).await?;
        let before = machine.disk().counters();
        assert!(before.at_once <= 8, "{before:?}");
        let tasks: Vec<_> = (0..REQUESTS)
            .map(|at| {
                let volume = volume.clone();
                let data = IoBuf::from(&[8; BLOCK as usize][..]);
                machine.reactor().spawn(async move { volume.write(at * 2 * BLOCK, data, false).await })
            })
            .collect();
        for task in tasks {
            task.await?;
        }
        let after = machine.disk().counters();
        assert!(after.writes - before.writes >= REQUESTS, "no single blocks: {before:?} {after:?}");
        assert!(after.at_once >= REQUESTS / 2, "{after:?}");
        Ok::<_, Error>(())
    });
    ended.unwrap().unwrap();
}
