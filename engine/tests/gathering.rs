//! How many writes the device gets for what arrives in one turn.

#![allow(missing_docs, clippy::unwrap_used)]

use cairn_engine::{
    BLOCK, Error, IoBuf, MIB, PoolOptions, VolumeOptions,
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
