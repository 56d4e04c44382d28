//! Full pools, full file systems, and waiting for checkpoints under load; each on a simulated disk and in virtual time.

mod support;

use std::{cell::Cell, rc::Rc, time::Duration};

use cairn_engine::{
    BLOCK, ErrorKind, GIB, LocalPool, LocalVolume, MIB, OpenOptions, PoolOptions, Result, Target, Task, VolumeOptions,
    sim::{Disk, Faults, Machine},
};

use support::{SLOW, block, create, micros, open, refused, run, set_latency, start_writes};

const LEAF: u64 = 256;

/// So long that a page of the version table holds few.
fn long_name(number: u64) -> String {
    format!("{}{number:010}", "\u{1f5fb}".repeat(118))
}

/// Writes blocks one behind the other until new data is refused; returns how many.
async fn fill(pool: &LocalPool, volume: &LocalVolume) -> u64 {
    let mut at = 0;
    while refused(start_writes(pool, volume, (at..at + 256).map(|b| (b, b + 1)))).await == 0 {
        at += 256;
    }
    at
}

/// Writes two blocks into each leaf until new data is refused; returns how many leaves.
async fn fill_leaves(pool: &LocalPool, volume: &LocalVolume) -> u64 {
    let mut leaves = 0;
    loop {
        let two = (leaves..leaves + 64).flat_map(|leaf| [(leaf * LEAF, leaf + 1), (leaf * LEAF + 1, leaf + 1)]);
        if refused(start_writes(pool, volume, two)).await > 0 {
            return leaves;
        }
        leaves += 64;
    }
}

/// Does something with many versions at once, on a full pool; says how many were refused for want of room. Nothing else may go wrong, and
/// checkpoints can be made, then and after the pool was opened again.
fn on_a_full_pool<F: Future<Output = Result<()>> + 'static>(
    disk: &Disk,
    volumes: u64,
    many: u64,
    change: impl Fn(LocalPool, u64) -> F + 'static,
) -> usize {
    let refused = run(disk, move |machine| async move {
        let (pool, volume) = create(&machine, PoolOptions::new().journal_size(8 * MIB), GIB).await;
        for number in 0..volumes {
            drop(pool.create_volume(&long_name(number), MIB, VolumeOptions::default()).await.unwrap());
        }
        let _blocks = fill(&pool, &volume).await;
        pool.checkpoint().await.unwrap();
        let start = |number| pool.reactor().spawn(change(pool.clone(), number));
        let tasks: Vec<Task<Result<()>>> = (0..many).map(start).collect();
        let refused = refused(tasks).await;
        pool.checkpoint().await.unwrap();
        refused
    });
    run(&disk.kill(), |machine| async move {
        let (pool, _volume) = open(&machine).await;
        machine.reactor().sleep(Duration::from_secs(90)).await;
        pool.checkpoint().await.unwrap();
        support::check(&pool).await;
    });
    refused
}

/// Pages of the version table were not among what is kept back for a checkpoint.
#[test]
fn many_snapshots_on_a_full_pool() {
    let disk = Disk::new(48 * MIB, 6);
    let refused = on_a_full_pool(&disk, 0, 2600, |pool, number| async move {
        let target: Target = format!("a@{}", long_name(number)).parse()?;
        pool.snapshot(&[target]).await.map(drop)
    });
    assert!(0 < refused && refused < 2600, "{refused}");
}

/// Deleting is what makes room: it goes on.
#[test]
fn many_volumes_deleted_on_a_full_pool() {
    let disk = Disk::new(48 * MIB, 6);
    let delete = |pool: LocalPool, number| async move { pool.delete_volume(&long_name(number), false).await.map(drop) };
    assert_eq!(on_a_full_pool(&disk, 2600, 2600, delete), 0);
}

#[test]
fn many_volumes_resized_on_a_full_pool() {
    let disk = Disk::new(48 * MIB, 6);
    let resize = |pool: LocalPool, number| async move { pool.resize(&long_name(number), 2 * MIB).await.map(drop) };
    assert_eq!(on_a_full_pool(&disk, 2600, 2600, resize), 0);
}

/// All who had waited for room wrote their records at once, without asking whether the open group took so many.
#[test]
fn many_who_waited_for_room_write_their_records() {
    run(&Disk::new(48 * MIB, 6), |machine| async move {
        let options = PoolOptions::new().journal_size(4 * MIB);
        let (pool, volume) = create(&machine, options, 64 * GIB).await;
        let leaves = fill_leaves(&pool, &volume).await;
        pool.checkpoint().await.unwrap();
        // Overwrites dirty nodes until there is no room for more.
        for leaf in 0..leaves {
            let _full = volume.write(leaf * LEAF * BLOCK, block(7), false).await;
        }
        let snapshot = |number| {
            let snapshots = pool.clone();
            pool.reactor().spawn(async move {
                let target: Target = format!("a@{}", long_name(number)).parse()?;
                snapshots.snapshot(&[target]).await.map(drop)
            })
        };
        let tasks: Vec<Task<Result<()>>> = (0..9000).map(snapshot).collect();
        let _refused = refused(tasks).await;
        pool.checkpoint().await.unwrap();
    });
}

/// Under a load that keeps more than half of the dirty memory in use, a checkpoint began in the moment that the last one ended, and nobody
/// who waited for one ever saw an end.
#[test]
fn waiting_for_a_checkpoint_under_load() {
    run(&Disk::new(256 * MIB, 3), |machine| async move {
        let options = PoolOptions::new().open(OpenOptions::new().dirty_bytes(4 * MIB));
        let (pool, volume) = create(&machine, options, 64 * GIB).await;
        machine.disk().set_faults(Faults { latency_us: 50..200, ..Faults::default() });
        let over = Rc::new(Cell::new(false));
        let writers: Vec<Task<()>> = (0..64).map(|number| write_at_random(&pool, &volume, &over, number)).collect();
        machine.reactor().sleep(Duration::from_secs(1)).await;
        let before = pool.stats().checkpoint;
        pool.checkpoint().await.unwrap();
        assert!(pool.stats().checkpoint <= before + 2, "one under way, and one that began when it was asked for");
        // It may have to give way to the writers, but it ends.
        match pool.check(false, |_, _| {}).await {
            Ok(report) => assert!(report.is_clean(), "{:#?}", report.problems),
            Err(e) => assert_eq!(e.kind(), ErrorKind::Busy, "{e}"),
        }
        over.set(true);
        for writer in writers {
            writer.await;
        }
    });
}

fn write_at_random(pool: &LocalPool, volume: &LocalVolume, over: &Rc<Cell<bool>>, number: u64) -> Task<()> {
    let (volume, over) = (volume.clone(), over.clone());
    pool.reactor().spawn(async move {
        let mut n = number;
        while !over.get() {
            n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            volume.write((n >> 33) % 3000 * LEAF * BLOCK, block(n), false).await.unwrap();
        }
    })
}

/// The file system is full, the pool is not: overwrites go on, on the reserve, also right after the pool has asked the file system again.
#[test]
fn overwrites_on_a_full_file_system() {
    let disk = Disk::new(256 * MIB, 2);
    disk.set_faults(Faults { room: Some(64 * MIB), ..Faults::default() });
    run(&disk, |machine| async move {
        let (pool, volume) = create(&machine, PoolOptions::new(), GIB).await;
        let blocks = fill(&pool, &volume).await;
        pool.checkpoint().await.unwrap();
        for n in 0..200 {
            if n % 2 == 0 {
                machine.reactor().sleep(Duration::from_millis(2010)).await;
            }
            volume.write(n % blocks * BLOCK, block(n + 1_000_000), false).await.unwrap();
        }
    });
}

/// A check that waits for a slow disk, and holds blocks back meanwhile.
async fn start_slow_check(machine: &Machine, pool: &LocalPool) {
    set_latency(machine.disk(), SLOW);
    let checked = pool.clone();
    pool.reactor().spawn(async move { drop(checked.check(true, |_, _| {}).await) }).detach();
    machine.reactor().sleep(micros(1000)).await;
    machine.disk().set_faults(Faults::default());
}

/// A check gave way to writes that found no space, and not to discards.
#[test]
fn discards_on_a_full_pool_during_a_check() {
    for check in [false, true] {
        run(&Disk::with_all_room(48 * MIB, 6), move |machine| async move {
            let (pool, volume) = create(&machine, PoolOptions::new(), 64 * GIB).await;
            let leaves = fill_leaves(&pool, &volume).await;
            pool.checkpoint().await.unwrap();
            if check {
                start_slow_check(&machine, &pool).await;
            }
            for leaf in 0..leaves {
                volume.discard(leaf * LEAF * BLOCK, BLOCK, false).await.unwrap();
            }
            assert_ne!(volume.discard(1, 1, false).await.map_err(|e| e.kind()), Err(ErrorKind::NoSpace));
        });
    }
}
