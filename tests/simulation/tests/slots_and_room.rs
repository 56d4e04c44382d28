//! What once went wrong with slots of memory, room in the file, and copies of the superblock; each on a simulated disk and in virtual time.

mod support;

use std::{future::poll_fn, task::Poll};

use cairn_engine::{
    BLOCK, GIB, MIB, PoolOptions,
    sim::{Disk, Survivors},
};

use support::{check, create, open, run, write_all};

const LEAF: u64 = 256;

async fn turn() {
    let mut yielded = false;
    poll_fn(|cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// A snapshot that no checkpoint has written is being walked. Behind the cursor its child owns what both share, and lets go of a leaf that
/// exists in memory only; the snapshot's node above still names the leaf's slot, and then a checkpoint writes that node.
#[test]
fn a_child_lets_go_of_a_dirty_leaf_behind_the_cursor() {
    const LEAVES: u64 = 1500;
    let disk = Disk::new(48 * MIB, 6);
    run(&disk, |machine| async move {
        let (pool, volume) = create(&machine, PoolOptions::new(), 64 * GIB).await;
        write_all(&pool, &volume, (0..LEAVES).map(|leaf| (leaf * LEAF, leaf + 1))).await;
        let _taken = pool.snapshot(&["a@s".parse().unwrap()]).await.unwrap();
        write_all(&pool, &volume, (1..LEAVES).map(|leaf| (leaf * LEAF, leaf + 2))).await;
        let before = pool.stats();
        pool.delete_snapshot(&"a@s".parse().unwrap()).await.unwrap();
        for _ in 0..3 {
            turn().await;
        }
        let now = pool.stats();
        assert!(now.used < before.used && now.deleting == 1, "the walk is under way");
        // Leaf 0 is shared, and the cursor is behind it.
        volume.discard(0, LEAF * BLOCK, false).await.unwrap();
        assert_eq!(pool.stats().deleting, 1, "the walk is still under way");
        pool.checkpoint().await.unwrap();
        volume.flush().await.unwrap();
        check(&pool).await;
    });
    run(&disk.crash(Survivors::None), |machine| async move {
        let (pool, _volume) = open(&machine).await;
        pool.wait_deleted().await.unwrap();
        check(&pool).await;
    });
}

/// A subtree that a discard cut off waits for its walk behind a snapshot that shares leaves with it. The snapshot's walk frees those, which
/// exist in memory only; the detached node still names their slots, and then a checkpoint writes it.
#[test]
fn a_detached_subtree_waits_behind_the_owner_of_its_dirty_leaves() {
    const LEAVES: u64 = 1500;
    let disk = Disk::new(48 * MIB, 6);
    run(&disk, |machine| async move {
        let (pool, volume) = create(&machine, PoolOptions::new(), 64 * GIB).await;
        write_all(&pool, &volume, (0..LEAVES).map(|leaf| (leaf * LEAF, leaf + 1))).await;
        let _taken = pool.snapshot(&["a@s".parse().unwrap()]).await.unwrap();
        write_all(&pool, &volume, (1..2).chain(300..LEAVES).map(|leaf| (leaf * LEAF, leaf + 2))).await;
        pool.delete_snapshot(&"a@s".parse().unwrap()).await.unwrap();
        // 256 leaves at once; of them the volume owns one and the node above all.
        volume.discard(0, 256 * LEAF * BLOCK, false).await.unwrap();
        assert_eq!(pool.stats().deleting, 2, "the snapshot, and what was cut off");
        for _ in 0..12 {
            turn().await;
        }
        assert_eq!(pool.stats().deleting, 2, "the snapshot is being walked");
        pool.checkpoint().await.unwrap();
        volume.flush().await.unwrap();
        check(&pool).await;
    });
    run(&disk.crash(Survivors::None), |machine| async move {
        let (pool, _volume) = open(&machine).await;
        pool.wait_deleted().await.unwrap();
        check(&pool).await;
    });
}

/// As before, but the slots are taken by new leaves of the volume before the checkpoint. It writes the detached node with pointers to those
/// leaves, born now and so the detached subtree's own: its walk frees them, and their data.
#[test]
fn a_detached_subtree_takes_over_new_leaves_in_reused_slots() {
    const FAR: u64 = 50_000;
    const NEW: u64 = 20_000;
    let disk = Disk::new(48 * MIB, 6);
    run(&disk, |machine| async move {
        let (pool, volume) = create(&machine, PoolOptions::new(), 64 * GIB).await;
        write_all(&pool, &volume, (0..1).map(|i| ((FAR + i) * LEAF, i + 7))).await;
        pool.checkpoint().await.unwrap();
    });
    run(&disk.kill(), |machine| async move {
        let (pool, volume) = open(&machine).await;
        write_all(&pool, &volume, (0..256).map(|leaf| (leaf * LEAF, leaf + 1))).await;
        let _taken = pool.snapshot(&["a@s".parse().unwrap()]).await.unwrap();
        write_all(&pool, &volume, (1..2).map(|leaf| (leaf * LEAF, leaf + 2))).await;
        // The snapshot alone holds what is far, and it is not in memory.
        volume.discard(FAR / 256 * 256 * LEAF * BLOCK, 256 * LEAF * BLOCK, false).await.unwrap();
        machine.reactor().sleep(support::micros(1000)).await;
        pool.delete_snapshot(&"a@s".parse().unwrap()).await.unwrap();
        volume.discard(0, 256 * LEAF * BLOCK, false).await.unwrap();
        assert_eq!(pool.stats().deleting, 2, "the snapshot, and what was cut off");
        support::set_latency(machine.disk(), support::SLOW);
        machine.reactor().sleep(support::micros(100)).await;
        machine.disk().set_faults(cairn_engine::sim::Faults::default());
        assert_eq!(pool.stats().deleting, 2, "the snapshot's walk waits for the disk");
        write_all(&pool, &volume, (NEW..NEW + 300).map(|leaf| (leaf * LEAF, leaf))).await;
        pool.checkpoint().await.unwrap();
        assert_eq!(pool.stats().deleting, 2, "the snapshot's walk still waits for the disk");
        pool.wait_deleted().await.unwrap();
        // Others write, until the pool is full.
        let other = (30_000 * LEAF..30_000 * LEAF + 11_000).map(|block| (block, block));
        let _full = support::refused(support::start_writes(&pool, &volume, other)).await;
        let mut wrong = 0;
        for leaf in NEW..NEW + 300 {
            match volume.read(leaf * LEAF * BLOCK, BLOCK as usize).await {
                Ok(data) if data[..] == support::block(leaf)[..] => {}
                _ => wrong += 1,
            }
        }
        let report = pool.check(true, |_, _| {}).await.unwrap();
        assert!(
            report.is_clean() && wrong == 0,
            "{wrong} leaves lost; {} problems: {:#?}",
            report.problems.len(),
            report.problems.iter().take(6).collect::<Vec<_>>()
        );
    });
}

/// The file system under a sparse pool is full. Discards in data that a snapshot holds free nothing and need nodes; whether there is room
/// for those is judged by all free blocks, and not by those that have their room in the file.
#[test]
fn discards_on_a_full_file_system() {
    use cairn_engine::sim::Faults;
    let disk = Disk::new(256 * MIB, 2);
    disk.set_faults(Faults { room: Some(64 * MIB), ..Faults::default() });
    run(&disk, |machine| async move {
        let (pool, volume) = create(&machine, PoolOptions::new(), 64 * GIB).await;
        let mut leaves = 0;
        loop {
            let two_each =
                (leaves..leaves + 64).flat_map(|leaf| [(leaf * LEAF, leaf + 1), (leaf * LEAF + 1, leaf + 1)]);
            if support::refused(support::start_writes(&pool, &volume, two_each)).await > 0 {
                break;
            }
            leaves += 64;
        }
        let _taken = pool.snapshot(&["a@s".parse().unwrap()]).await.unwrap();
        pool.checkpoint().await.unwrap();
        let discards = (0..leaves).map(|leaf| {
            let volume = volume.clone();
            pool.reactor().spawn(async move { volume.discard(leaf * LEAF * BLOCK, BLOCK, false).await })
        });
        let refused = support::refused(discards.collect()).await;
        pool.checkpoint().await.unwrap();
        assert!(0 < refused && refused < leaves as usize, "{refused} of {leaves} found no room");
    });
    // The process ends, the file system stays full.
    run(&disk.kill(), |machine| async move {
        let (pool, _volume) = open(&machine).await;
        let made = pool.checkpoint().await;
        assert!(made.is_ok(), "opened again: {made:?}");
        check(&pool).await;
    });
}

/// A scrub goes on while blocks that it has read are freed and used again, for nodes that lead to what it has not read. It takes those for
/// read, with everything under them.
#[test]
fn a_scrub_meets_a_node_in_a_block_that_it_read_before() {
    use cairn_engine::{Pace, VolumeOptions};
    let disk = Disk::new(32 * MIB, 6);
    run(&disk, |machine| async move {
        let (pool, volume) = create(&machine, PoolOptions::new(), 64 * MIB).await;
        write_all(&pool, &volume, (0..4000).map(|block| (block, block + 1))).await;
        let other = pool.create_volume("b", 64 * MIB, VolumeOptions::default()).await.unwrap();
        write_all(&pool, &other, (0..1000).map(|block| (block, block + 100_000))).await;
        pool.checkpoint().await.unwrap();
        let _began = pool.start_scrub(Pace::bytes_per_second(MIB)).unwrap();
        while pool.scrub_status().running.unwrap().current.as_deref() != Some("b") {
            machine.reactor().sleep(support::micros(1000)).await;
        }
        let _told = pool.set_scrub_pace(Pace::bytes_per_second(1)).unwrap();
        // What was read is freed, and used again.
        for round in 1..4 {
            write_all(&pool, &volume, (0..2000).map(|block| (block, round * 10_000 + block))).await;
            write_all(&pool, &other, std::iter::once((0, round))).await;
            pool.checkpoint().await.unwrap();
        }
        let image = machine.disk().image();
        let place = (0..image.blocks()).find(|b| image.block(*b)[..] == support::block(100_900)[..]).unwrap();
        machine.disk().rot(place);
        let _told = pool.set_scrub_pace(Pace::unlimited()).unwrap();
        let report = pool.watch_scrub(|_| {}).await.unwrap().report;
        assert_eq!(report.damaged_blocks, 1, "{report:?}");
    });
}

/// Segments are given back when the journal says that they are free. Opened again, the pool takes them for backed, since the checkpoint
/// has their blocks in use, and replay frees them. A file system that is full refuses what is written there.
#[test]
fn segments_given_back_since_the_last_checkpoint_count_as_backed() {
    use cairn_engine::{VolumeOptions, sim::Faults};
    let disk = Disk::new(256 * MIB, 2);
    run(&disk, |machine| async move {
        let (pool, volume) = create(&machine, PoolOptions::new(), 64 * MIB).await;
        let other = pool.create_volume("b", 64 * MIB, VolumeOptions::default()).await.unwrap();
        write_all(&pool, &volume, (0..16_000).map(|block| (block, block + 1))).await;
        drop(volume);
        pool.checkpoint().await.unwrap();
        let _names = pool.delete_volume("a", false).await.unwrap();
        for block in 0..3 {
            machine.reactor().sleep(std::time::Duration::from_millis(10)).await;
            write_all(&pool, &other, std::iter::once((block, 1))).await;
            other.flush().await.unwrap();
        }
        machine.reactor().sleep(std::time::Duration::from_secs(10)).await;
        assert!(pool.stats().free > 50_000 * BLOCK, "{:?}", pool.stats());
    });
    // Others have taken the room: the file gets no more.
    let disk = disk.kill();
    disk.set_faults(Faults { room: Some(0), ..Faults::default() });
    run(&disk, |machine| async move {
        let pool = machine.open_pool(cairn_engine::OpenOptions::new()).await.unwrap();
        let volume = pool.open(&"b".parse().unwrap()).unwrap();
        let writes = support::start_writes(&pool, &volume, (0..16_000).map(|block| (block, block + 1)));
        assert!(support::refused(writes).await > 0, "there is no room for all");
        pool.checkpoint().await.unwrap();
        check(&pool).await;
        assert_eq!(machine.disk().counters().without_room, 0, "room is set aside before anything is written");
    });
}

/// A crash leaves the newest checkpoint in one slot only, and that slot cannot be read when the pool is opened (here: it is damaged, and
/// whole again later; both are an unusable slot). The pool is opened at the checkpoint before, used, and flushed. Opened again with the
/// slot readable, the stale checkpoint is the newest, and what it refers to has been overwritten.
#[test]
fn a_slot_that_could_not_be_read_once_comes_back() {
    const LEAVES: u64 = 300;
    let disk = Disk::new(64 * MIB, 4);
    run(&disk, |machine| async move {
        let (pool, volume) = create(&machine, PoolOptions::new(), GIB).await;
        write_all(&pool, &volume, (0..LEAVES).map(|leaf| (leaf * LEAF, leaf + 1))).await;
        pool.checkpoint().await.unwrap();
        write_all(&pool, &volume, (0..LEAVES).map(|leaf| (leaf * LEAF, leaf + 2))).await;
        volume.flush().await.unwrap();
        support::set_latency(machine.disk(), support::micros(1000));
        let before = machine.disk().counters();
        let last = pool.clone();
        pool.reactor().spawn(async move { last.checkpoint().await }).detach();
        while machine.disk().counters().syncs == before.syncs {
            machine.reactor().sleep(support::micros(100)).await;
        }
        let written = machine.disk().counters().writes;
        while machine.disk().counters().writes < written + 2 {
            machine.reactor().sleep(support::micros(100)).await;
        }
    });
    let crashed = disk.crash(Survivors::Only(0)).image();
    let none = disk.crash(Survivors::None).image();
    let slot = (0..crashed.blocks()).find(|b| crashed.block(*b) != none.block(*b)).unwrap();
    assert!(slot == 0 || slot == 16, "a head copy of the newest checkpoint: {slot}");
    let mut unreadable = crashed.clone();
    unreadable.damage(slot, |bytes| bytes[100] ^= 1);
    let as_read = unreadable.block(slot);
    let disk = Disk::from_image(unreadable, 5);
    run(&disk, |machine| async move {
        let (pool, volume) = open(&machine).await;
        // In one go, so that no checkpoint comes in between.
        write_all(&pool, &volume, (0..1200).map(|block| (block + 400 * LEAF, block + 9))).await;
        volume.flush().await.unwrap();
    });
    let mut back = disk.crash(Survivors::None).image();
    // Nobody has written there: then what stood there can be read again.
    if back.block(slot) == as_read {
        let readable = crashed.block(slot);
        back.damage(slot, |bytes| *bytes = readable);
    }
    run(&Disk::from_image(back, 6), |machine| async move {
        let (pool, volume) = open(&machine).await;
        for block in 0..1200 {
            let data = volume.read((block + 400 * LEAF) * BLOCK, BLOCK as usize).await.unwrap();
            assert!(data[..] == support::block(block + 9)[..], "block {block} was flushed");
        }
        check(&pool).await;
    });
}
