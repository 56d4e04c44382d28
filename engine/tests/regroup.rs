//! Regrouping on a simulated disk: what it moves and what it leaves, what goes on beside it, what ends it.

#![allow(missing_docs, clippy::unwrap_used)]

#[path = "support/scattered.rs"]
mod scattered;

use std::{cell::Cell, rc::Rc, time::Duration};

use cairn_engine::{
    BLOCK, BLOCK_SIZE, Damage, DamageKind, ErrorKind, Event, IoBuf, LocalPool, MIB, OpenOptions, Pace, PoolOptions,
    RegroupEnd, RegroupOptions, VolumeOptions,
    sim::{Disk, Faults, Rng, Sabotage, Survivors, sabotage},
};
use scattered::{LEAF, at_once, check_clean, content, expect, reads_of, regroup, run, scatter, shuffled};

#[test]
fn what_was_overwritten_at_random_is_in_order_again() {
    let disk = Disk::new(128 * MIB, 1);
    let blocks = 16 * LEAF;
    run(&disk, move |machine| async move {
        let pool = machine.create_pool(PoolOptions::new()).await.unwrap();
        let volume = pool.create_volume("v", 16 * MIB, VolumeOptions::default()).await.unwrap();
        scatter(&volume, 0..blocks, 1, 1).await;
        scatter(&volume, 0..blocks, 2, 2).await;
        pool.checkpoint().await.unwrap();
        let used = pool.stats().used;
        assert!(reads_of(&machine, &volume).await > blocks / 2, "it is in no order");

        let planned = pool.regroup("v", RegroupOptions { dry_run: true, ..at_once() }, |_| {}).await.unwrap();
        assert!(planned.dry_run && planned.end == RegroupEnd::Finished, "{planned:?}");
        let report = regroup(&pool, "v").await;
        assert_eq!((report.ranges, report.scattered, report.moved_blocks), (16, 16, blocks));
        assert!(report.runs_before > blocks / 2 && report.runs_after <= 20, "{report:?}");
        assert_eq!((report.shared_blocks, report.changed_blocks, report.left_ranges), (0, 0, 0));
        let plan = planned.report;
        assert_eq!((plan.moved_blocks, plan.runs_before, plan.runs_after), (blocks, report.runs_before, 16));

        assert!(reads_of(&machine, &volume).await <= report.runs_after);
        expect(&volume, 0..blocks, 2).await;
        check_clean(&pool).await;
        pool.checkpoint().await.unwrap();
        assert_eq!(pool.stats().used, used, "nothing was gained or lost");

        // What is in order is not read again.
        let (reads, writes) = (machine.disk().counters().reads, machine.disk().counters().writes);
        let again = regroup(&pool, "v").await;
        assert_eq!((again.moved_blocks, again.scattered, again.runs_before), (0, 0, report.runs_after));
        assert_eq!(machine.disk().counters().reads, reads);
        assert_eq!(machine.disk().counters().writes, writes);
        let events: Vec<Event> = pool.events(0).into_iter().map(|(_, event)| event).collect();
        assert!(events.contains(&Event::RegroupEnded { volume: "v".into(), finished: true, moved: blocks * BLOCK }));
    });
    // After a restart a pass reads metadata: a node for each MiB, and the two above.
    run(&disk.crash(Survivors::None), move |machine| async move {
        let pool = machine.open_pool(OpenOptions::new()).await.unwrap();
        let before = machine.disk().counters();
        assert_eq!(regroup(&pool, "v").await.moved_blocks, 0);
        assert!(machine.disk().counters().reads - before.reads <= 16 + 2);
        expect(&pool.open(&"v".parse().unwrap()).unwrap(), 0..blocks, 2).await;
    });
}

/// Three quarters of a volume that has a snapshot, and a clone of that, were overwritten since; some of it in ranges that are otherwise shared.
async fn shared(pool: &LocalPool) -> u64 {
    let volume = pool.create_volume("v", 16 * MIB, VolumeOptions::default()).await.unwrap();
    scatter(&volume, 0..12 * LEAF, 1, 1).await;
    let _taken = pool.snapshot(&["v@s".parse().unwrap()]).await.unwrap();
    let _clone = pool.clone_volume(&"v@s".parse().unwrap(), "c", None).await.unwrap();
    scatter(&pool.open(&"c".parse().unwrap()).unwrap(), 0..LEAF, 5, 3).await;
    // Whole leaves, every other block of some, and a stretch in the midst of one.
    scatter(&volume, 0..6 * LEAF, 2, 2).await;
    for block in shuffled(6 * LEAF..8 * LEAF, &mut Rng::new(4)).into_iter().filter(|block| block % 2 == 0) {
        volume.write(block * BLOCK, content(block, 2), false).await.unwrap();
    }
    scatter(&volume, 9 * LEAF + 100..9 * LEAF + 200, 2, 5).await;
    pool.checkpoint().await.unwrap();
    6 * LEAF + 100
}

async fn accounts(pool: &LocalPool) -> (u64, Vec<Option<u64>>, Vec<Option<u64>>) {
    pool.checkpoint().await.unwrap();
    let snapshots = pool.snapshots(None, true).await.unwrap().iter().map(|s| s.exclusive).collect();
    let volumes = pool.volumes(true).await.unwrap().iter().map(|v| v.exclusive).collect();
    (pool.stats().used, snapshots, volumes)
}

fn what_is_shared_stays() {
    let disk = Disk::new(128 * MIB, 2);
    run(&disk, |machine| async move {
        let pool = machine.create_pool(PoolOptions::new()).await.unwrap();
        let owned = shared(&pool).await;
        let before = accounts(&pool).await;
        let target = |name: &str| name.parse().unwrap();
        let diff = pool.diff(Some(&target("v@s")), &target("v"), 0).await.unwrap();
        let report = regroup(&pool, "v").await;
        assert_eq!(report.moved_blocks, owned, "{report:?}");
        // Of the ranges that nobody has written to since, nothing was even looked at.
        assert_eq!((report.ranges, report.scattered, report.shared_blocks), (9, 7, 2 * 128 + 156));
        assert_eq!(accounts(&pool).await, before, "no sharing is undone");
        assert_eq!(pool.diff(Some(&target("v@s")), &target("v"), 0).await.unwrap(), diff);
        // The clone shares all but what was written to it.
        let clone = regroup(&pool, "c").await;
        assert_eq!((clone.moved_blocks, clone.ranges), (LEAF, 1));
        assert_eq!(accounts(&pool).await, before);
        let open = |name: &str| pool.open(&target(name)).unwrap();
        expect(&open("v"), 0..6 * LEAF, 2).await;
        expect(&open("v"), 9 * LEAF + 100..9 * LEAF + 200, 2).await;
        expect(&open("v"), 10 * LEAF..12 * LEAF, 1).await;
        expect(&open("v@s"), 0..12 * LEAF, 1).await;
        expect(&open("c"), 0..LEAF, 5).await;
        expect(&open("c"), LEAF..12 * LEAF, 1).await;
        check_clean(&pool).await;
        // What nobody else holds any more is the volume's own, and moves.
        let _gone = pool.delete_volume("c", false).await.unwrap();
        pool.delete_snapshot(&target("v@s")).await.unwrap();
        pool.wait_deleted().await.unwrap();
        let report = regroup(&pool, "v").await;
        assert_eq!((report.moved_blocks, report.shared_blocks), (5 * LEAF + 156, 0), "{report:?}");
        // One for each leaf, and two more of the one with a long run in its midst.
        assert!((14..=18).contains(&report.runs_after), "{report:?}");
        check_clean(&pool).await;
    });
}

#[test]
fn sharing_is_never_undone() {
    what_is_shared_stays();
    sabotage(Some(Sabotage::RegroupShared));
    let noticed = std::panic::catch_unwind(what_is_shared_stays);
    sabotage(None);
    assert!(noticed.is_err(), "nobody noticed");
}

/// One block damaged, of a leaf that is to be moved: it stays and is told, all else moves.
fn damage_is_left_and_told() {
    let disk = Disk::new(128 * MIB, 3);
    run(&disk, |machine| async move {
        let pool = machine.create_pool(PoolOptions::new()).await.unwrap();
        let volume = pool.create_volume("v", 4 * MIB, VolumeOptions::default()).await.unwrap();
        scatter(&volume, 0..4 * LEAF, 1, 1).await;
        // Two neighbours, in the volume and in the pool.
        volume
            .write(
                700 * BLOCK,
                IoBuf::from(&[content(700, 1), content(701, 1)].map(|b| b.to_vec()).concat()[..]),
                false,
            )
            .await
            .unwrap();
        pool.checkpoint().await.unwrap();
        let image = machine.disk().image();
        let place = |block: u64| (0..image.blocks()).rfind(|&at| image.block(at)[..] == content(block, 1)[..]).unwrap();
        let (lone, pair) = (place(77), place(700));
        for block in [lone, pair, pair + 1] {
            machine.disk().rot(block);
        }
        let report = regroup(&pool, "v").await;
        assert_eq!((report.damaged_blocks, report.left_out), (3, 0));
        let damage = |block: u64, physical: u64, blocks: u64| Damage {
            volume: Some("v".into()),
            snapshot: None,
            offset: block * BLOCK,
            length: blocks * BLOCK,
            physical,
            blocks,
            what: DamageKind::Data,
            cause: "fails its checksum".into(),
        };
        assert_eq!(report.damaged, [damage(77, lone, 1), damage(700, pair, 2)]);
        assert_eq!(report.moved_blocks, 4 * LEAF - 3);
        assert_eq!(pool.stats().checksum_errors, 3);
        let told = pool.events(0).into_iter().filter(|(_, e)| matches!(e, Event::RegroupDamage { .. })).count();
        assert_eq!(told, 3);
        for blocks in [0..77, 78..700, 702..4 * LEAF] {
            expect(&volume, blocks, 1).await;
        }
        for block in [77, 700, 701] {
            assert_eq!(volume.read(block * BLOCK, BLOCK_SIZE).await.unwrap_err().kind(), ErrorKind::Corrupt);
        }
        // What is written again is sound again, and moves with its leaf.
        for block in [77, 700, 701] {
            volume.write(block * BLOCK, content(block, 1), false).await.unwrap();
        }
        scatter(&volume, 0..4 * LEAF, 2, 2).await;
        let report = regroup(&pool, "v").await;
        assert_eq!((report.damaged_blocks, report.moved_blocks), (0, 4 * LEAF));
        expect(&volume, 0..4 * LEAF, 2).await;
        check_clean(&pool).await;
    });
}

#[test]
fn a_damaged_block_is_left_and_told() {
    damage_is_left_and_told();
    sabotage(Some(Sabotage::RegroupUnverified));
    let noticed = std::panic::catch_unwind(damage_is_left_and_told);
    sabotage(None);
    assert!(noticed.is_err(), "nobody noticed");
}

#[test]
fn a_damaged_node_is_passed_over() {
    let disk = Disk::new(128 * MIB, 4);
    run(&disk, |machine| async move {
        let pool = machine.create_pool(PoolOptions::new()).await.unwrap();
        let volume = pool.create_volume("v", 4 * MIB, VolumeOptions::default()).await.unwrap();
        scatter(&volume, 0..4 * LEAF, 1, 1).await;
        pool.checkpoint().await.unwrap();
    });
    let disk = disk.crash(Survivors::None);
    // The leaf of the second MiB: 256 pointers to data, the first of which names where block 256 lies.
    let image = disk.image();
    let data = (0..image.blocks()).find(|&at| image.block(at)[..] == content(256, 1)[..]).unwrap();
    let first = (data | 1 << 60).to_le_bytes();
    let leaves: Vec<u64> = (0..image.blocks()).filter(|&at| image.block(at)[..8] == first).collect();
    leaves.iter().for_each(|&leaf| disk.rot(leaf));
    run(&disk, move |machine| async move {
        let pool = machine.open_pool(OpenOptions::new()).await.unwrap();
        let report = regroup(&pool, "v").await;
        assert_eq!((report.damaged_blocks, report.moved_blocks), (1, 3 * LEAF));
        let damaged = &report.damaged[0];
        assert_eq!((damaged.what, damaged.offset, damaged.length), (DamageKind::Node, MIB, MIB), "{damaged:?}");
        assert!(leaves.contains(&damaged.physical));
    });
}

/// An error of the device while a block is read is told as a scrub tells it; one while it is written ends the regroup, and nothing is lost.
#[test]
fn errors_of_the_device() {
    for (read_error, write_error) in [(30_000, 0), (0, 1_000_000)] {
        let disk = Disk::new(128 * MIB, 5);
        run(&disk, move |machine| async move {
            let pool = machine.create_pool(PoolOptions::new()).await.unwrap();
            let volume = pool.create_volume("v", 4 * MIB, VolumeOptions::default()).await.unwrap();
            scatter(&volume, 0..4 * LEAF, 1, 1).await;
            pool.checkpoint().await.unwrap();
            machine.disk().set_faults(Faults { read_error, write_error, ..Faults::default() });
            let outcome = pool.regroup("v", at_once(), |_| {}).await.unwrap();
            machine.disk().set_faults(Faults::default());
            if write_error > 0 {
                assert_eq!(outcome.end, RegroupEnd::Failed);
                assert!(outcome.why.as_ref().unwrap().contains("cannot write data"), "{outcome:?}");
            } else {
                assert_eq!(outcome.end, RegroupEnd::Finished);
                assert!(outcome.report.damaged.iter().all(|d| d.cause.contains("cannot be read")), "{outcome:?}");
                assert!(outcome.report.damaged_blocks > 0);
            }
            if pool.stats().read_only.is_none() {
                expect(&volume, 0..4 * LEAF, 1).await;
                check_clean(&pool).await;
            }
        });
    }
}

#[test]
fn a_nearly_full_pool_is_left_alone_and_a_little_room_is_enough() {
    for (room, end) in [(0, RegroupEnd::NoSpace), (5 * MIB, RegroupEnd::Finished)] {
        let disk = Disk::new(64 * MIB, 6);
        run(&disk, move |machine| async move {
            let pool = machine.create_pool(PoolOptions::new()).await.unwrap();
            let volume = pool.create_volume("v", 64 * MIB, VolumeOptions::default()).await.unwrap();
            pool.checkpoint().await.unwrap();
            let stats = pool.stats();
            let blocks = (stats.free - stats.reserve - room) / BLOCK / 260 * 256;
            scatter(&volume, 0..blocks, 1, 1).await;
            pool.checkpoint().await.unwrap();
            let before = pool.stats();
            let outcome = pool.regroup("v", at_once(), |_| {}).await.unwrap();
            assert_eq!(outcome.end, end, "{outcome:?} {before:?}");
            if end == RegroupEnd::NoSpace {
                let why = outcome.why.unwrap();
                assert!(why.contains("nearly full") && why.contains("delete snapshots"), "{why}");
            } else {
                // As far as there are long free runs; what a leaf leaves behind are single blocks.
                assert!(outcome.report.moved_blocks >= 3 * LEAF, "{outcome:?}");
            }
            expect(&volume, 0..blocks, 1).await;
            // Whoever writes finds the room that there was.
            pool.checkpoint().await.unwrap();
            assert_eq!((pool.stats().used, pool.stats().free), (before.used, before.free));
            for block in blocks..blocks + 100 {
                volume.write(block * BLOCK, content(block, 1), false).await.unwrap();
            }
            check_clean(&pool).await;
        });
    }
}

/// Neighbours of as many other blocks: long runs, but fewer than a leaf has blocks.
const FEW: u64 = 100;

/// Free space in single blocks: what is written there would be no better off.
#[test]
fn free_space_in_pieces_too_small_is_told_and_not_used() {
    let disk = Disk::with_all_room(32 * MIB, 7);
    run(&disk, |machine| async move {
        let pool = machine.create_pool(PoolOptions::new()).await.unwrap();
        let volume = pool.create_volume("v", 64 * MIB, VolumeOptions::default()).await.unwrap();
        let other = pool.create_volume("other", 64 * MIB, VolumeOptions::default()).await.unwrap();
        let mut block = 0;
        // Blocks of both in turn, until there is no room for more.
        while volume.write(block * BLOCK, content(block, 1), false).await.is_ok()
            && other.write((block ^ 1) * BLOCK, content(block, 2), false).await.is_ok()
        {
            block += 1;
        }
        other.discard(0, 64 * MIB, true).await.unwrap();
        pool.wait_deleted().await.unwrap();
        // The last long runs are used up, and what comes free for them is single blocks, too.
        for block in (0..block).step_by(5) {
            volume.write(block * BLOCK, content(block, 1), false).await.unwrap();
        }
        pool.checkpoint().await.unwrap();
        let left_alone = async || {
            let reads = machine.disk().counters().reads;
            let outcome = pool.regroup("v", at_once(), |_| {}).await.unwrap();
            assert_eq!(outcome.end, RegroupEnd::Finished, "{outcome:?}");
            assert!(outcome.report.left_ranges > 3 && outcome.report.moved_blocks == 0, "{:?}", outcome.report);
            assert_eq!(machine.disk().counters().reads, reads, "nothing was read in vain");
        };
        left_alone().await;
        // Nor with a few long runs, in which a piece has no room.
        volume.discard((block - FEW) * BLOCK, FEW * BLOCK, true).await.unwrap();
        pool.checkpoint().await.unwrap();
        left_alone().await;
        expect(&volume, 0..block - FEW, 1).await;
    });
}

#[test]
fn it_can_be_slowed_down_watched_and_ended() {
    let disk = Disk::new(128 * MIB, 8);
    run(&disk, |machine| async move {
        let pool = machine.create_pool(PoolOptions::new()).await.unwrap();
        let volume = pool.create_volume("v", 16 * MIB, VolumeOptions::default()).await.unwrap();
        scatter(&volume, 0..16 * LEAF, 1, 1).await;
        let slow = RegroupOptions { pace: Pace::bytes_per_second(MIB), dry_run: false };
        let began = machine.disk().now();
        let first = pool.start_regroup("v", slow).unwrap();
        assert_eq!((first.number, first.done, first.total, first.dry_run), (1, 0, 16 * MIB, false));
        let busy = pool.start_regroup("v", slow).unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::Busy);
        assert!(busy.to_string().contains("cancel"), "{busy}");
        // Two MiB are read and written for each: six seconds are three pieces.
        machine.reactor().sleep(Duration::from_millis(5_500)).await;
        let running = pool.regroup_status().running.unwrap();
        assert_eq!((running.done, running.moved, &running.volume[..]), (3 * MIB, 3 * MIB, "v"));
        let repair = pool.plan_repair(false, |_, _| {}).await.unwrap();
        drop(volume);
        let refused = pool.repair(&repair, |_, _| {}).await.unwrap_err();
        assert!(refused.kind() == ErrorKind::Busy && refused.to_string().contains("regrouped"), "{refused}");
        let outcome = pool.cancel_regroup().await.unwrap();
        assert_eq!((outcome.end, outcome.report.moved_blocks), (RegroupEnd::Cancelled, 3 * LEAF));
        assert!(machine.disk().now() - began < Duration::from_secs(6), "it slept on");
        for refused in [pool.cancel_regroup().await, pool.watch_regroup(|_| {}).await] {
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::NotFound);
        }
        assert_eq!(pool.set_regroup_pace(Pace::default()).unwrap_err().kind(), ErrorKind::NotFound);
        let never = RegroupOptions { pace: Pace::bytes_per_second(0), dry_run: true };
        assert_eq!(pool.start_regroup("v", never).unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(pool.start_regroup("w", slow).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(pool.regroup_status().last, Some(outcome));

        // A new pace counts at once, and the next one goes on where there is something to do.
        let _second =
            pool.start_regroup("v", RegroupOptions { pace: Pace::bytes_per_second(1), dry_run: false }).unwrap();
        machine.reactor().sleep(Duration::from_secs(1)).await;
        pool.set_regroup_pace(Pace::unlimited()).unwrap();
        let seen = Rc::new(Cell::new(0));
        let told = seen.clone();
        let outcome = pool.watch_regroup(move |progress| told.set(told.get().max(progress.done))).await.unwrap();
        assert_eq!((outcome.number, outcome.end, outcome.report.scattered), (2, RegroupEnd::Finished, 13));
        assert!(seen.get() >= 15 * MIB, "{seen:?}");

        // Under it the volume is deleted.
        let volume = pool.open(&"v".parse().unwrap()).unwrap();
        scatter(&volume, 0..16 * LEAF, 2, 2).await;
        drop(volume);
        let _third = pool.start_regroup("v", slow).unwrap();
        machine.reactor().sleep(Duration::from_secs(3)).await;
        let _names = pool.delete_volume("v", false).await.unwrap();
        let outcome = pool.watch_regroup(|_| {}).await.unwrap();
        assert_eq!(outcome.end, RegroupEnd::Deleted, "{outcome:?}");
        pool.wait_deleted().await.unwrap();
        check_clean(&pool).await;
    });
}

#[test]
fn what_is_filling_or_read_only_is_refused() {
    let disk = Disk::new(64 * MIB, 9);
    run(&disk, |machine| async move {
        let pool = machine.create_pool(PoolOptions::new()).await.unwrap();
        let filling = VolumeOptions { filling: true, ..VolumeOptions::default() };
        let _filler = pool.create_volume("f", 4 * MIB, filling).await.unwrap();
        let refused = pool.start_regroup("f", at_once()).unwrap_err();
        assert!(refused.kind() == ErrorKind::Busy && refused.to_string().contains("filled"), "{refused}");
        let volume = pool.create_volume("v", 4 * MIB, VolumeOptions::default()).await.unwrap();
        scatter(&volume, 0..LEAF, 1, 1).await;
        pool.checkpoint().await.unwrap();
    });
    run(&disk.crash(Survivors::None), |machine| async move {
        let pool = machine.open_pool(OpenOptions::new().read_only(true)).await.unwrap();
        assert_eq!(pool.start_regroup("v", at_once()).unwrap_err().kind(), ErrorKind::ReadOnly);
        let writes = machine.disk().counters().writes;
        let plan = pool.regroup("v", RegroupOptions { dry_run: true, ..at_once() }, |_| {}).await.unwrap();
        assert_eq!((plan.end, plan.report.moved_blocks), (RegroupEnd::Finished, LEAF));
        assert_eq!(machine.disk().counters().writes, writes, "nothing is written");
    });
}

/// Limits of the pool count for it as for all background work, reads and writes each.
#[test]
fn it_goes_no_faster_than_the_limits_of_the_pool() {
    let disk = Disk::new(128 * MIB, 10);
    run(&disk, |machine| async move {
        let pool = machine.create_pool(PoolOptions::new()).await.unwrap();
        let volume = pool.create_volume("v", 8 * MIB, VolumeOptions::default()).await.unwrap();
        scatter(&volume, 0..8 * LEAF, 1, 1).await;
        for key in ["write_bytes_sec", "read_bytes_sec"] {
            let limit = |value: Option<String>| [(key.to_owned(), value)];
            let _set = pool.set_qos(&"/".parse().unwrap(), &limit(Some(MIB.to_string()))).await.unwrap();
            let began = machine.disk().now();
            let report = regroup(&pool, "v").await;
            let took = machine.disk().now() - began;
            assert_eq!(report.moved_blocks, 8 * LEAF);
            // The last piece is paid for by whoever comes next, and a second's worth is there from the start.
            assert!((Duration::from_secs(5)..Duration::from_secs(9)).contains(&took), "{key}: {took:?}");
            let _set = pool.set_qos(&"/".parse().unwrap(), &limit(None)).await.unwrap();
            scatter(&volume, 0..8 * LEAF, 2, 2).await;
        }
    });
}
