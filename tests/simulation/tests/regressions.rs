//! What once went wrong, each on a simulated disk and in virtual time. A comment at each test says what it was.

mod support;

use std::{cell::Cell, collections::BTreeSet, rc::Rc, time::Duration};

use cairn_engine::{
    BLOCK, GIB, IoBuf, MIB, OpenOptions, PoolOptions, Result, Task,
    sim::{Disk, Faults, Survivors},
};

use support::{
    Renamed, SLOW, block, check, create, micros, open, refused, run, set_latency, start_writes, with_a_slow_checkpoint,
    write_all,
};

/// The largest volume in whole GiB: its tree has the most levels.
const LARGEST: u64 = 65_536 * GIB;
/// Blocks that a leaf covers.
const LEAF: u64 = 256;

/// A discard in data that a snapshot holds frees nothing and needs new nodes. Each asked for room before its nodes were read: thousands
/// were let in together, and the next checkpoint found no blocks for what they had dirtied.
#[test]
fn cold_discards_at_once_on_a_full_pool() {
    let disk = Disk::new(32 * MIB, 2);
    let leaves = run(&disk, |machine| async move {
        let (pool, volume) = create(&machine, PoolOptions::new(), LARGEST).await;
        let mut leaves = 0;
        loop {
            let two_each =
                (leaves..leaves + 64).flat_map(|leaf| [(leaf * LEAF, leaf + 1), (leaf * LEAF + 1, leaf + 1)]);
            if refused(start_writes(&pool, &volume, two_each)).await > 0 {
                break;
            }
            leaves += 64;
        }
        let _taken = pool.snapshot(&["a@s".parse().unwrap()]).await.unwrap();
        pool.checkpoint().await.unwrap();
        leaves
    });
    run(&disk.kill(), move |machine| async move {
        let (pool, volume) = open(&machine).await;
        assert_eq!(pool.stats().cache_memory, 0, "no node is in memory");
        let discards = (0..leaves).map(|leaf| {
            let volume = volume.clone();
            pool.reactor().spawn(async move { volume.discard(leaf * LEAF * BLOCK, BLOCK, false).await })
        });
        let refused = refused(discards.collect()).await;
        pool.checkpoint().await.unwrap();
        check(&pool).await;
        assert!(0 < refused && refused < leaves as usize, "{refused} of {leaves} found no room");
    });
}

/// The process ends between the writes of the superblock and the sync after them. Opened again, the pool built on a superblock that was
/// in the device's cache only: it overwrote what the checkpoint before referred to, and then the power went.
#[test]
fn a_kill_and_then_a_power_cut() {
    const LEAVES: u64 = 300;
    let disk = Disk::new(32 * MIB, 4);
    let durable = run(&disk, |machine| async move {
        let (pool, volume) = create(&machine, PoolOptions::new(), GIB).await;
        write_all(&pool, &volume, (0..LEAVES).map(|leaf| (leaf * LEAF, leaf + 1))).await;
        pool.checkpoint().await.unwrap();
        write_all(&pool, &volume, (0..LEAVES).map(|leaf| (leaf * LEAF, leaf + 2))).await;
        volume.flush().await.unwrap();
        let durable = pool.stats().checkpoint;
        set_latency(machine.disk(), micros(1000));
        let before = machine.disk().counters();
        let last = pool.clone();
        pool.reactor().spawn(async move { last.checkpoint().await }).detach();
        while machine.disk().counters().syncs == before.syncs {
            machine.reactor().sleep(micros(100)).await;
        }
        let written = machine.disk().counters().writes;
        while machine.disk().counters().writes < written + 2 {
            machine.reactor().sleep(micros(100)).await;
        }
        assert_eq!(machine.disk().counters().syncs, before.syncs + 1, "the superblock is written, and not yet durable");
        durable
    });
    let disk = disk.kill();
    disk.set_faults(Faults::default());
    run(&disk, move |machine| async move {
        let (pool, volume) = open(&machine).await;
        assert_eq!(pool.stats().checkpoint, durable + 1);
        // From the start of the pool on: data of the first round, then the nodes of the checkpoint before.
        for leaf in LEAVES..LEAVES + 4 {
            let data = IoBuf::from(&[3; (LEAF * BLOCK) as usize][..]);
            volume.write(leaf * LEAF * BLOCK, data, false).await.unwrap();
        }
    });
    let each_alone = (0..16).map(Survivors::Only);
    for survivors in each_alone.chain([Survivors::None, Survivors::All]) {
        run(&disk.crash(survivors), move |machine| async move {
            let (pool, volume) = open(&machine).await;
            check(&pool).await;
            for leaf in 0..LEAVES {
                let data = volume.read(leaf * LEAF * BLOCK, BLOCK as usize).await.unwrap();
                assert!(data[..] == block(leaf + 2)[..], "{survivors:?}: leaf {leaf} is not what was flushed");
            }
        });
    }
}

/// The clock that commits after a second waited for blocks to be counted: on a large volume, whose nodes were not in memory, for long.
#[test]
fn a_commit_by_age_while_blocks_are_counted() {
    const LEAVES: u64 = 1500;
    const FAR: u64 = 32 * GIB;
    let disk = Disk::new(48 * MIB, 6);
    run(&disk, |machine| async move {
        let (pool, volume) = create(&machine, PoolOptions::new(), 64 * GIB).await;
        write_all(&pool, &volume, (0..LEAVES).map(|leaf| (leaf * LEAF, leaf + 1))).await;
        pool.checkpoint().await.unwrap();
    });
    let disk = disk.kill();
    run(&disk, |machine| async move {
        let (pool, volume) = open(&machine).await;
        let allocated = || pool.list_volumes()[0].allocated / BLOCK;
        // A whole subtree at once: how many blocks are left has to be counted, when the pool has been quiet for a second.
        volume.discard(0, LEAF * LEAF * BLOCK, false).await.unwrap();
        pool.wait_deleted().await.unwrap();
        set_latency(machine.disk(), Duration::from_millis(200));
        let before = machine.disk().counters().reads;
        machine.reactor().sleep(Duration::from_millis(1500)).await;
        assert!(machine.disk().counters().reads > before, "counting has begun");
        volume.write(FAR, block(9), false).await.unwrap();
        machine.reactor().sleep(Duration::from_secs(2)).await;
        assert_eq!(allocated(), LEAVES + 1, "counting has not ended");
    });
    run(&disk.crash(Survivors::None), |machine| async move {
        machine.disk().set_faults(Faults::default());
        let (pool, volume) = open(&machine).await;
        assert!(volume.read(FAR, BLOCK as usize).await.unwrap()[..] == block(9)[..], "two seconds of writes were lost");
        machine.reactor().sleep(Duration::from_secs(5)).await;
        assert_eq!(pool.list_volumes()[0].allocated / BLOCK, LEAVES - LEAF + 1);
    });
}

/// A write over two leaves waited for admission when its blocks were in the tree and still its own: given up there, it took them
/// back, and they were handed out again.
#[test]
fn a_write_given_up_while_it_waits_for_admission() {
    const WRITES: u64 = 700;
    // Which of its leaves a write waits at depends on how many nodes are dirty before.
    for before in 0..2 {
        run(&Disk::new(64 * MIB, 7), move |machine| async move {
            let options = PoolOptions::new().open(OpenOptions::new().dirty_bytes(4 * MIB));
            let (pool, volume) = create(&machine, options, LARGEST).await;
            write_all(&pool, &volume, (0..before).map(|leaf| ((1_000_000 + leaf) * LEAF, leaf + 1))).await;
            let done = Rc::new(Cell::new(0));
            let tasks: Vec<_> = (0..WRITES)
                .map(|i| {
                    let (volume, done) = (volume.clone(), done.clone());
                    let data = IoBuf::from(&[block(i + 1), block(i + 1)].map(|b| b.to_vec()).concat()[..]);
                    pool.reactor().spawn(async move {
                        volume.write((i * 2 * LEAF + LEAF - 1) * BLOCK, data, false).await.unwrap();
                        done.set(done.get() + 1);
                    })
                })
                .collect();
            while pool.stats().dirty_memory <= 4 * MIB {
                machine.reactor().sleep(micros(5)).await;
            }
            // Nothing more is let in until a checkpoint has ended, and the one under way takes long from here on.
            set_latency(machine.disk(), Duration::from_secs(10));
            machine.reactor().sleep(micros(1000)).await;
            assert!(done.get() < WRITES - 100, "{} of {WRITES} were let in", done.get());
            drop(tasks);
            machine.disk().set_faults(Faults::default());
            pool.checkpoint().await.unwrap();
            check(&pool).await;
            write_all(&pool, &volume, (0..4000).map(|i| ((2_000_000 * LEAF) + i, i + 1))).await;
            check(&pool).await;
        });
    }
}

/// A checkpoint was made by whoever asked for it: when he gave up half-way it went on for ever, and nobody could make another.
#[test]
fn a_caller_gives_up_during_a_checkpoint() {
    run(&Disk::new(64 * MIB, 10), |machine| async move {
        let (pool, volume) = create(&machine, PoolOptions::new(), 64 * GIB).await;
        set_latency(machine.disk(), micros(50));
        let mut given_up = 0;
        for moment in 0..40 {
            write_all(&pool, &volume, (0..40).map(|leaf| (leaf * LEAF, moment + 1))).await;
            let done = Rc::new(Cell::new(false));
            let (asked, end) = (pool.clone(), done.clone());
            let task = pool.reactor().spawn(async move {
                asked.checkpoint().await.unwrap();
                end.set(true);
            });
            machine.reactor().sleep(micros(moment * 20)).await;
            drop(task);
            given_up += u32::from(!done.get());
            pool.checkpoint().await.unwrap();
        }
        assert!((20..40).contains(&given_up), "{given_up} of 40 gave up");
        check(&pool).await;
    });
}

/// The same with growing: the write that began it gave up, and no other write ever got room.
#[test]
fn a_caller_gives_up_during_growing() {
    let disk = Disk::new(256 * MIB, 11);
    run(&disk, |machine| async move {
        let (pool, _volume) = create(&machine, PoolOptions::new(), GIB).await;
        pool.checkpoint().await.unwrap();
    });
    for moment in 0..20 {
        let disk = disk.kill();
        // Opened again, only segments that are in use have their room: all of it is kept back.
        run(&disk, move |machine| async move {
            let (pool, volume) = open(&machine).await;
            set_latency(machine.disk(), micros(100));
            let first = start_writes(&pool, &volume, [(0, 1)].into_iter());
            machine.reactor().sleep(micros(moment * 5)).await;
            assert!(!first[0].is_finished());
            drop(first);
            write_all(&pool, &volume, [(1, 2)].into_iter()).await;
            pool.checkpoint().await.unwrap();
            check(&pool).await;
        });
    }
}

/// Blocks were kept back for nodes that were dirty, not for those that writes in flight were about to dirty: with many in flight, each in a
/// leaf of its own, the pool filled up so far that the next checkpoint found no blocks.
#[test]
fn filling_a_pool_with_many_writes_in_flight() {
    run(&Disk::new(32 * MIB, 12), |machine| async move {
        let (pool, volume) = create(&machine, PoolOptions::new(), LARGEST).await;
        let next = Rc::new(Cell::new(0));
        let writers = (0..512).map(|_| {
            let (volume, next) = (volume.clone(), next.clone());
            pool.reactor().spawn(async move {
                loop {
                    let leaf = next.replace(next.get() + 1);
                    volume.write(leaf * LEAF * BLOCK, block(leaf + 1), false).await?;
                }
            })
        });
        assert_eq!(refused(writers.collect()).await, 512, "all end when the pool is full");
        pool.checkpoint().await.unwrap();
        check(&pool).await;
    });
}

/// Writes had been let in when the open group was small, and put their records into it when it was full: the checkpoint that was to make
/// room in the journal could not commit so large a group, and the pool stopped.
#[test]
fn a_group_that_is_too_large() {
    run(&Disk::new(128 * MIB, 13), |machine| async move {
        let (pool, volume, mut renamed) = with_a_slow_checkpoint(&machine).await;
        let before = pool.stats().checkpoint;
        // On their way to the device for two seconds.
        set_latency(machine.disk(), Duration::from_secs(2));
        let writes = start_writes(&pool, &volume, (0..6000).map(|i| (i, i + 1)));
        machine.reactor().sleep(micros(1000)).await;
        machine.disk().set_faults(Faults::default());
        renamed.fill_journal().await;
        let renames = renamed.start(95);
        machine.reactor().sleep(Duration::from_secs(1)).await;
        let waiting = |tasks: &[Task<Result<()>>]| tasks.iter().all(|t| !t.is_finished());
        assert!(waiting(&writes) && waiting(&renames), "nothing is answered before there is room");
        assert_eq!(pool.stats().checkpoint, before);
        assert_eq!(refused(writes).await + refused(renames).await, 0);
        volume.flush().await.unwrap();
        check(&pool).await;
    });
}

/// A crash in a checkpoint whose own group fills the journal, then another one in the first checkpoint after opening. Now the journal had
/// no room for the records of the first thing that happened, and opening did not make any before it.
#[test]
fn a_second_crash_with_a_full_journal() {
    let disk = Disk::new(64 * MIB, 3);
    let name = run(&disk, |machine| async move {
        let (pool, _volume, mut renamed) = with_a_slow_checkpoint(&machine).await;
        renamed.fill_journal().await;
        let full = pool.stats().journal_used;
        let _renames = renamed.start(90);
        // The slow checkpoint ends, and the next one commits what is open.
        machine.reactor().sleep(SLOW - Duration::from_millis(500)).await;
        assert_eq!(pool.stats().journal_used, full);
        while pool.stats().journal_used <= full {
            machine.reactor().sleep(micros(5)).await;
        }
        renamed.name
    });
    let disk = disk.crash(Survivors::All);
    let (size, used, records) = run(&disk, |machine| async move {
        let pool = machine.open_pool(OpenOptions::new()).await.unwrap();
        let stats = pool.stats();
        (stats.journal_size, stats.journal_used, stats.replayed_records)
    });
    assert!(size - used < 45 * BLOCK, "{used} of {size} bytes of the journal are used");
    run(&disk.crash(Survivors::All), move |machine| async move {
        let pool = machine.open_pool(OpenOptions::new()).await.unwrap();
        assert_eq!(pool.stats().replayed_records, records, "no checkpoint was made");
        let mut renamed = Renamed { pool: pool.clone(), name, number: 1 << 32 };
        assert_eq!(refused(renamed.start(60)).await, 0);
        check(&pool).await;
    });
}

/// The number of the live version was looked up before nodes were read: a write went into the tree of a version that a revert had
/// replaced meanwhile, and its data was lost, or its blocks.
#[test]
fn a_revert_while_writes_wait_for_nodes() {
    const LEAVES: u64 = 200;
    let disk = Disk::new(64 * MIB, 1);
    run(&disk, |machine| async move {
        let (pool, volume) = create(&machine, PoolOptions::new(), 2 * GIB).await;
        write_all(&pool, &volume, (0..LEAVES).map(|leaf| (leaf * LEAF, 1))).await;
        let _taken = pool.snapshot(&["a@s".parse().unwrap()]).await.unwrap();
        write_all(&pool, &volume, (0..LEAVES).map(|leaf| (leaf * LEAF, 2))).await;
        pool.checkpoint().await.unwrap();
    });
    // The last one comes when all is done.
    let all = revert_after(&disk.kill(), Duration::from_secs(1));
    assert_eq!(all.answered, LEAVES as usize);
    let mut amounts = BTreeSet::new();
    for moment in (60..260).step_by(20) {
        let seen = revert_after(&disk.kill(), micros(moment));
        assert!(seen.reads < all.reads && seen.answered < all.answered, "after {moment} us: {seen:?} of {all:?}");
        let _new = amounts.insert(seen.reads);
    }
    assert!(amounts.len() > 2 && amounts.last() > Some(&0), "at different depths of the tree: {amounts:?}");
}

/// How far things were when a revert came.
#[derive(Debug)]
struct Seen {
    /// Nodes read by then.
    reads: u64,
    /// Writes answered by then.
    answered: usize,
}

fn revert_after(disk: &Disk, moment: Duration) -> Seen {
    run(disk, move |machine| async move {
        let (pool, volume) = open(&machine).await;
        set_latency(machine.disk(), micros(50));
        let before = machine.disk().counters().reads;
        let leaves = 0..200;
        let writes = start_writes(&pool, &volume, leaves.clone().map(|leaf| (leaf * LEAF, 9)));
        machine.reactor().sleep(moment).await;
        let reads = machine.disk().counters().reads - before;
        let answered: Vec<bool> = writes.iter().map(Task::is_finished).collect();
        let _info = pool.revert("a", "s", true).await.unwrap();
        assert_eq!(refused(writes).await, 0);
        for leaf in leaves {
            let data = volume.read(leaf * LEAF * BLOCK, BLOCK as usize).await.unwrap();
            let expected = if answered[leaf as usize] { 1 } else { 9 };
            assert!(data[..] == block(expected)[..], "leaf {leaf}, after {moment:?}, is not {expected}");
        }
        pool.wait_deleted().await.unwrap();
        check(&pool).await;
        Seen { reads, answered: answered.into_iter().filter(|a| *a).count() }
    })
}
