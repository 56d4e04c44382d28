//! Volumes whose writes are acknowledged from memory, on a simulated disk that is slow: what is read, what waits, what fails, what is
//! given up.

#![allow(missing_docs, clippy::unwrap_used)]

use std::{cell::Cell, collections::BTreeMap, rc::Rc, time::Duration};

use cairn_engine::{
    BLOCK, CacheMode, ErrorKind, Event, ExtentKind, IoBuf, LocalPool, LocalVolume, MIB, OpenOptions, Pool, PoolOptions,
    QosTarget, SECTOR, StorageKind, SyncMode, VolumeOptions,
    sim::{self, Disk, Faults, Machine, Survivors},
};

const SLOW: Faults = Faults {
    latency_us: 1_000..20_000,
    stall: 0,
    read_error: 0,
    write_error: 0,
    short_write: 0,
    sync_error: 0,
    bit_rot: 0,
    lost_write: 0,
    misdirected_write: 0,
    damage_budget: 0,
    room: None,
};

fn from_memory() -> VolumeOptions {
    VolumeOptions { cache: CacheMode::Writeback, ..VolumeOptions::default() }
}

fn bytes(value: u8, length: u64) -> IoBuf {
    let mut buf = IoBuf::zeroed(length as usize);
    buf.fill(value);
    buf
}

fn run<T: 'static, F: Future<Output = T> + 'static>(disk: &Disk, program: impl FnOnce(Machine) -> F) -> T {
    sim::run(disk, program).expect("it hangs")
}

/// What a crash now would leave of a volume.
fn after_a_crash(disk: &Disk, name: &'static str, length: usize) -> Vec<u8> {
    run(&disk.crash(Survivors::None), move |machine| async move {
        let pool = machine.open_pool(OpenOptions::new()).await.unwrap();
        assert!(pool.check(true, |_, _| {}).await.unwrap().is_clean());
        pool.open(&name.parse().unwrap()).unwrap().read(0, length).await.unwrap().to_vec()
    })
}

#[test]
fn a_write_waits_for_nothing_and_a_flush_for_all_of_it() {
    let disk = Disk::new(64 * MIB, 1);
    run(&disk, |machine| async move {
        let pool = machine.create_pool(PoolOptions::new()).await.unwrap();
        let volume = pool.create_volume("a", MIB, from_memory()).await.unwrap();
        machine.disk().set_faults(SLOW);
        for (at, value) in [(0, 1), (BLOCK, 2), (0, 3)] {
            let (before, writes) = (machine.disk().now(), machine.disk().counters().writes);
            volume.write(at, bytes(value, BLOCK), false).await.unwrap();
            assert_eq!(
                (machine.disk().now(), machine.disk().counters().writes),
                (before, writes),
                "nothing was waited for"
            );
        }
        assert!(pool.stats().writeback_memory >= 3 * BLOCK);
        assert_eq!(
            volume.read(0, 2 * BLOCK as usize).await.unwrap()[..],
            [bytes(3, BLOCK), bytes(2, BLOCK)].map(|b| b.to_vec()).concat()
        );
        let found = after_a_crash(machine.disk(), "a", BLOCK as usize);
        assert_eq!(found, [0; BLOCK as usize], "so far nothing is durable");
        volume.flush().await.unwrap();
        assert_eq!(pool.stats().writeback_memory, 0);
        assert_eq!(
            after_a_crash(machine.disk(), "a", 2 * BLOCK as usize)[..],
            volume.read(0, 2 * BLOCK as usize).await.unwrap()[..]
        );
        // Through, and all that was before it.
        volume.write(2 * BLOCK, bytes(4, BLOCK), false).await.unwrap();
        volume.write(3 * BLOCK, bytes(5, SECTOR), true).await.unwrap();
        assert_eq!(
            after_a_crash(machine.disk(), "a", 4 * BLOCK as usize)[..],
            volume.read(0, 4 * BLOCK as usize).await.unwrap()[..]
        );
        // It is on its way without being asked for.
        volume.write(0, bytes(6, BLOCK), false).await.unwrap();
        machine.reactor().sleep(Duration::from_millis(50)).await;
        assert_eq!(pool.stats().writeback_memory, 0);
        machine.reactor().sleep(Duration::from_secs(2)).await;
        assert_eq!(after_a_crash(machine.disk(), "a", BLOCK as usize), [6; BLOCK as usize], "committed by age");
    });
}

/// One client and a plain array: overlapping writes of any length, discards, zeros, snapshots, while everything is still on its way.
async fn history(machine: Machine, seed: u64, memory: u64) {
    const SIZE: u64 = 3 * MIB + 3 * SECTOR;
    let open = OpenOptions::new().writeback_bytes(memory);
    let pool = machine.create_pool(PoolOptions::new().open(open)).await.unwrap();
    let volume = pool.create_volume("a", SIZE, from_memory()).await.unwrap();
    machine.disk().set_faults(Faults { latency_us: 1..[300, 3_000, 30_000][(seed % 3) as usize], ..SLOW });
    let mut rng = sim::Rng::new(seed);
    let mut model = vec![0u8; SIZE as usize];
    let mut snapshots: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for step in 0..300 {
        let sectors = SIZE / SECTOR;
        let first = match rng.below(4) {
            0 => sectors - 1 - rng.below(40),
            1 => 2040 + rng.below(16),
            _ => rng.below(300),
        };
        let longest = [8, 30, 900][rng.below(3) as usize];
        let mut count = (1 + rng.below(longest)).min(sectors - first);
        let first = if rng.below(2) == 0 { first / 8 * 8 } else { first };
        if rng.below(2) == 0 && count > 8 {
            count = count / 8 * 8;
        }
        let (from, to) = ((first * SECTOR) as usize, ((first + count) * SECTOR) as usize);
        let value = (step % 255 + 1) as u8;
        match rng.below(20) {
            0 => volume.flush().await.unwrap(),
            1 => {
                volume.discard(first * SECTOR, count * SECTOR, rng.below(4) == 0).await.unwrap();
                let start = first.next_multiple_of(8);
                let end = if first + count == sectors { sectors } else { (first + count) / 8 * 8 };
                if start < end {
                    model[(start * SECTOR) as usize..(end * SECTOR) as usize].fill(0);
                }
            }
            2 => {
                volume.write_zeroes(first * SECTOR, count * SECTOR, false).await.unwrap();
                model[from..to].fill(0);
            }
            3 => {
                let name = format!("s{step}");
                let _taken = pool.snapshot(&[format!("a@{name}").parse().unwrap()]).await.unwrap();
                let _old = snapshots.insert(name, model.clone());
            }
            4 => {
                let cache = [CacheMode::Direct, CacheMode::Writeback][rng.below(2) as usize];
                let sync = [SyncMode::Flush, SyncMode::Always, SyncMode::Never][rng.below(3) as usize];
                let options = VolumeOptions { sync, cache, filling: false };
                assert_eq!(pool.set_options("a", options.clone()).await.unwrap().options, options);
            }
            5 => {
                let page = volume.extents(0, SIZE).await.unwrap();
                assert_eq!(page.next, None);
                for block in 0..SIZE.div_ceil(BLOCK) {
                    let at = (block * BLOCK) as usize;
                    let data = model[at..(at + BLOCK as usize).min(model.len())].iter().any(|b| *b != 0);
                    let extent = page.extents.iter().find(|e| (e.offset..e.offset + e.length).contains(&(at as u64)));
                    assert_eq!(extent.unwrap().kind == ExtentKind::Data, data, "block {block}");
                }
            }
            6 => {
                // Data, zeros, data: in one request.
                let mut buf = bytes(value, count * SECTOR);
                let third = buf.len() / 3;
                buf[third..2 * third].fill(0);
                model[from..to].copy_from_slice(&buf);
                volume.write(first * SECTOR, buf, false).await.unwrap();
            }
            kind => {
                model[from..to].fill(value);
                volume.write(first * SECTOR, bytes(value, count * SECTOR), kind == 7).await.unwrap();
            }
        }
        let at = rng.below(sectors);
        let length = (1 + rng.below(200)).min(sectors - at);
        let (from, to) = ((at * SECTOR) as usize, ((at + length) * SECTOR) as usize);
        assert!(volume.read(at * SECTOR, to - from).await.unwrap()[..] == model[from..to], "step {step}");
    }
    assert!(volume.read(0, SIZE as usize).await.unwrap()[..] == model[..]);
    for (name, content) in snapshots {
        let snapshot = pool.open(&format!("a@{name}").parse().unwrap()).unwrap();
        assert!(snapshot.read(0, SIZE as usize).await.unwrap()[..] == content[..], "{name}");
    }
    assert!(pool.check(true, |_, _| {}).await.unwrap().is_clean());
}

#[test]
fn reads_see_what_was_acknowledged() {
    for seed in 0..12 {
        let memory = if seed % 2 == 0 { MIB } else { 32 * MIB };
        run(&Disk::new(128 * MIB, seed), |machine| history(machine, seed, memory));
    }
}

fn unwritten(pool: &LocalPool) -> usize {
    pool.events(0).iter().filter(|(_, event)| matches!(event, Event::Unwritten { .. })).count()
}

#[test]
fn what_cannot_be_written_is_told_until_it_is_tried_again() {
    let disk = Disk::new(64 * MIB, 4);
    run(&disk, |machine| async move {
        let pool = machine.create_pool(PoolOptions::new()).await.unwrap();
        let volume = pool.create_volume("a", MIB, from_memory()).await.unwrap();
        let other = pool.create_volume("b", MIB, from_memory()).await.unwrap();
        machine.disk().set_faults(Faults { write_error: 1_000_000, ..SLOW });
        volume.write(BLOCK, bytes(1, BLOCK), false).await.unwrap();
        volume.write(2 * BLOCK, bytes(2, BLOCK), false).await.unwrap();
        let error = volume.flush().await.unwrap_err();
        assert!(error.kind() == ErrorKind::Io && error.to_string().contains("\"a\": bytes 4096 to 8192"), "{error}");
        machine.disk().set_faults(SLOW);
        // It stays so, for all that would come after it.
        assert_eq!(volume.flush().await.unwrap_err().to_string(), error.to_string());
        assert!(volume.write(0, bytes(3, BLOCK), false).await.is_err());
        assert!(volume.discard(0, MIB, false).await.is_err() && volume.write_zeroes(0, BLOCK, false).await.is_err());
        assert!(pool.snapshot(&["b@s".parse().unwrap(), "a@s".parse().unwrap()]).await.is_err());
        assert!(pool.list_snapshots(None).unwrap().is_empty());
        assert!(pool.set_options("a", VolumeOptions::default()).await.is_err() && pool.checkpoint().await.is_err());
        assert_eq!((unwritten(&pool), pool.stats().read_only), (1, None));
        // What was acknowledged is there, and other volumes have nothing to do with it.
        assert_eq!(volume.read(BLOCK, BLOCK as usize).await.unwrap()[..], bytes(1, BLOCK)[..]);
        other.write(0, bytes(9, BLOCK), false).await.unwrap();
        other.flush().await.unwrap();
        // Another handle changes nothing as long as one is open.
        assert!(pool.open(&"a".parse().unwrap()).unwrap().flush().await.is_err());
        drop(volume);
        let volume = pool.open(&"a".parse().unwrap()).unwrap();
        volume.flush().await.unwrap();
        let found = after_a_crash(machine.disk(), "a", 3 * BLOCK as usize);
        assert_eq!(found, [0, 1, 2].map(|value| bytes(value, BLOCK).to_vec()).concat());
        assert_eq!(pool.stats().writeback_memory, 0);
    });
}

#[test]
fn a_failure_that_nobody_saw_is_told_to_who_comes_next() {
    let disk = Disk::new(64 * MIB, 5);
    run(&disk, |machine| async move {
        let pool = machine.create_pool(PoolOptions::new()).await.unwrap();
        let volume = pool.create_volume("a", MIB, from_memory()).await.unwrap();
        machine.disk().set_faults(Faults { write_error: 1_000_000, ..SLOW });
        volume.write(0, bytes(1, BLOCK), false).await.unwrap();
        drop(volume);
        machine.reactor().sleep(Duration::from_millis(100)).await;
        machine.disk().set_faults(SLOW);
        assert_eq!(unwritten(&pool), 1);
        let open = || pool.open(&"a".parse().unwrap()).unwrap();
        assert!(open().write(BLOCK, bytes(2, BLOCK), false).await.is_err());
        let volume = open();
        volume.write(BLOCK, bytes(2, BLOCK), false).await.unwrap();
        volume.flush().await.unwrap();
        let found = after_a_crash(machine.disk(), "a", 2 * BLOCK as usize);
        assert_eq!(found, [1, 2].map(|value| bytes(value, BLOCK).to_vec()).concat());
        // Deleting it is a way out, too.
        machine.disk().set_faults(Faults { write_error: 1_000_000, ..SLOW });
        volume.write(0, bytes(3, BLOCK), false).await.unwrap();
        assert!(volume.flush().await.is_err());
        drop(volume);
        machine.disk().set_faults(SLOW);
        let _deleted = pool.delete_volume("a", true).await.unwrap();
        assert_eq!(pool.stats().writeback_memory, 0);
        pool.wait_deleted().await.unwrap();
        assert!(pool.check(true, |_, _| {}).await.unwrap().is_clean());
    });
}

#[test]
fn a_volume_is_deleted_while_its_writes_are_on_their_way() {
    for seed in 0..10 {
        run(&Disk::new(64 * MIB, seed), |machine| async move {
            let pool = machine.create_pool(PoolOptions::new()).await.unwrap();
            machine.disk().set_faults(SLOW);
            let free = pool.stats().free;
            for round in 0..6 {
                let volume = pool.create_volume("a", 16 * MIB, from_memory()).await.unwrap();
                for at in 0..500 {
                    volume.write(at * 3 * BLOCK, bytes((at % 3) as u8, 2 * BLOCK), false).await.unwrap();
                }
                drop(volume);
                machine.reactor().sleep(Duration::from_millis(round * 4)).await;
                let _deleted = pool.delete_volume("a", false).await.unwrap();
                machine.reactor().sleep(Duration::from_secs(1)).await;
                assert_eq!((pool.stats().writeback_memory, unwritten(&pool)), (0, 0));
            }
            pool.wait_deleted().await.unwrap();
            assert!(pool.check(true, |_, _| {}).await.unwrap().is_clean());
            assert!(pool.stats().free + MIB > free, "{} of {free} bytes", pool.stats().free);
        });
    }
}

/// Writes until there is no room; returns how many blocks were acknowledged.
async fn fill(volume: &LocalVolume) -> u64 {
    let mut written = 0u64;
    loop {
        let mut data = bytes((written % 251 + 1) as u8, BLOCK);
        data[..8].copy_from_slice(&(written + 1).to_le_bytes());
        match volume.write(written * BLOCK, data, false).await {
            Ok(()) => written += 1,
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::NoSpace, "{e}");
                return written;
            }
        }
    }
}

#[test]
fn an_acknowledged_write_never_meets_a_full_pool() {
    for (seed, room) in [(6, None), (7, Some(20 * MIB)), (8, Some(27 * MIB))] {
        let disk = Disk::new(32 * MIB, seed);
        run(&disk, move |machine| async move {
            let pool = machine.create_pool(PoolOptions::new()).await.unwrap();
            machine.disk().set_faults(Faults { latency_us: 1..3_000, room, ..SLOW });
            let mut rounds = Vec::new();
            for _ in 0..3 {
                let volume = pool.create_volume("a", 64 * MIB, from_memory()).await.unwrap();
                let beside = pool.create_volume("b", 64 * MIB, VolumeOptions::default()).await.unwrap();
                let full = Rc::new(Cell::new(false));
                let (other, over) = (beside.clone(), full.clone());
                let beside_it = machine.reactor().spawn(async move {
                    let mut at = 0;
                    while !over.get() && at < 64 * MIB {
                        drop(other.write(at, bytes(7, BLOCK), false).await);
                        at += 256 * BLOCK;
                    }
                });
                let written = fill(&volume).await;
                full.set(true);
                beside_it.await;
                volume.flush().await.unwrap();
                assert_eq!(unwritten(&pool), 0);
                let found = after_a_crash(machine.disk(), "a", (written * BLOCK) as usize);
                for (i, block) in (0..).zip(found.chunks(BLOCK as usize)) {
                    assert_eq!(u64::from_le_bytes(block[..8].try_into().unwrap()), i + 1);
                }
                // Overwrites go on, unless the file system is full too.
                let overwritten = volume.write(0, bytes(1, BLOCK), false).await;
                assert!(overwritten.is_ok() || room.is_some());
                volume.flush().await.unwrap();
                drop((volume, beside));
                for name in ["a", "b"] {
                    let _deleted = pool.delete_volume(name, true).await.unwrap();
                }
                pool.wait_deleted().await.unwrap();
                assert!(pool.check(true, |_, _| {}).await.unwrap().is_clean());
                rounds.push(written);
            }
            // Nothing stays kept back.
            let least = rounds.iter().min().unwrap();
            assert!(rounds[0] > 1000 && least * 10 > rounds[0] * 9, "{rounds:?}");
        });
    }
}

#[test]
fn memory_is_bounded_and_shared() {
    let disk = Disk::new(512 * MIB, 9);
    run(&disk, |machine| async move {
        let open = OpenOptions::new().writeback_bytes(MIB);
        let pool = machine.create_pool(PoolOptions::new().open(open)).await.unwrap();
        let one = pool.create_volume("one", 64 * MIB, from_memory()).await.unwrap();
        let other = pool.create_volume("other", 64 * MIB, from_memory()).await.unwrap();
        machine.disk().set_faults(SLOW);
        let (over, flooded) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(0u64)));
        let flood: Vec<_> = (0..8)
            .map(|task| {
                let (volume, over, flooded, pool) = (one.clone(), over.clone(), flooded.clone(), pool.clone());
                machine.reactor().spawn(async move {
                    let mut at = task;
                    while !over.get() {
                        let length = if at % 5 == 0 { 64 * 1024 } else { BLOCK };
                        volume.write(at * 64 * 1024 % (63 * MIB), bytes(1, length), false).await.unwrap();
                        assert!(pool.stats().writeback_memory <= MIB, "more than there may be");
                        (at, _) = (at + 8, flooded.set(flooded.get() + 1));
                    }
                })
            })
            .collect();
        machine.reactor().sleep(Duration::from_millis(100)).await;
        // What is larger than all of it goes around.
        for at in 0..100 {
            let length = if at % 25 == 24 { 2 * MIB } else { BLOCK };
            other.write(at * BLOCK, bytes(2, length), false).await.unwrap();
        }
        assert!(flooded.get() > 100, "{}", flooded.get());
        over.set(true);
        for task in flood {
            task.await;
        }
        one.flush().await.unwrap();
        other.flush().await.unwrap();
        assert_eq!(pool.stats().writeback_memory, 0);
    });
}

#[test]
fn limits_count_requests_once() {
    let disk = Disk::new(256 * MIB, 10);
    run(&disk, |machine| async move {
        let pool = machine.create_pool(PoolOptions::new()).await.unwrap();
        let volume = pool.create_volume("a", 64 * MIB, from_memory()).await.unwrap();
        let limit = ("write_iops_sec".to_owned(), Some("100".to_owned()));
        let _info = pool.set_qos(&QosTarget::Volume("a".to_owned()), &[limit]).await.unwrap();
        let done = Rc::new(Cell::new(0u64));
        for task in 0..4 {
            let (volume, done) = (volume.clone(), done.clone());
            let writes = async move {
                for at in 0.. {
                    volume.write((at * 4 + task) * BLOCK % (64 * MIB), bytes(1, BLOCK), false).await.unwrap();
                    done.set(done.get() + 1);
                }
            };
            machine.reactor().spawn(writes).detach();
        }
        machine.reactor().sleep(Duration::from_secs(20)).await;
        assert!(done.get().abs_diff(2000) <= 12, "{}", done.get());
        let stats = pool.volume_stats();
        let write = &stats.iter().find(|stats| stats.name == "a").unwrap().flows.write;
        assert!(write.requests >= done.get() && write.requests <= done.get() + 4, "{}", write.requests);
    });
}

#[test]
fn who_gives_up_leaves_nothing_behind() {
    for seed in 0..20 {
        run(&Disk::new(64 * MIB, seed), |machine| async move {
            let open = OpenOptions::new().writeback_bytes(MIB);
            let pool = machine.create_pool(PoolOptions::new().open(open)).await.unwrap();
            let volume = pool.create_volume("a", 16 * MIB, from_memory()).await.unwrap();
            machine.disk().set_faults(SLOW);
            let mut rng = sim::Rng::new(seed);
            for _ in 0..40 {
                let tasks: Vec<_> = (0..20)
                    .map(|_| {
                        let (volume, pool, kind) = (volume.clone(), pool.clone(), rng.below(12));
                        let (at, sectors) = (rng.below(4000), 1 + rng.below(400));
                        machine.reactor().spawn(async move {
                            let (offset, length) = (at * SECTOR, sectors * SECTOR);
                            match kind {
                                0 => volume.discard(offset, length, false).await.unwrap(),
                                1 => volume.flush().await.unwrap(),
                                2 => drop(pool.snapshot(&["a@s".parse().unwrap()]).await),
                                3 => drop(pool.delete_snapshot(&"a@s".parse().unwrap()).await),
                                4 => drop(volume.extents(0, MIB).await.unwrap()),
                                _ => volume.write(offset, bytes(kind as u8, length), kind == 5).await.unwrap(),
                            }
                        })
                    })
                    .collect();
                machine.reactor().sleep(Duration::from_micros(rng.below(30_000))).await;
                for task in tasks {
                    if rng.below(3) > 0 {
                        drop(task);
                    } else {
                        task.await;
                    }
                }
            }
            volume.write(0, bytes(99, BLOCK), false).await.unwrap();
            volume.flush().await.unwrap();
            assert_eq!(pool.stats().writeback_memory, 0);
            assert_eq!(volume.read(0, BLOCK as usize).await.unwrap()[..], bytes(99, BLOCK)[..]);
            // From memory still, as ever.
            let before = machine.disk().counters().writes;
            volume.write(0, bytes(98, BLOCK), false).await.unwrap();
            assert_eq!(machine.disk().counters().writes, before);
            assert!(pool.check(true, |_, _| {}).await.unwrap().is_clean());
        });
    }
}

#[test]
fn closing_a_pool_writes_what_was_acknowledged() {
    for storage in [StorageKind::Uring, StorageKind::Pread] {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = dir.path().join("pool");
        let open = OpenOptions::new().storage(storage);
        pollster::block_on(async {
            let pool = Pool::create(&path, PoolOptions::new().size(64 * MIB).open(open.clone())).await.unwrap();
            let volume = pool.create_volume("a", 16 * MIB, from_memory()).await.unwrap();
            for at in 0..1000 {
                volume.write(at * BLOCK, bytes((at % 250 + 1) as u8, BLOCK)).await.unwrap();
            }
            pool.close().await.unwrap();
            drop(volume);
            let pool = Pool::open(&path, open).await.unwrap();
            assert_eq!(pool.volume_info("a").await.unwrap().options, from_memory());
            let volume = pool.volume("a").await.unwrap();
            for at in 0..1000 {
                let found = volume.read(at * BLOCK, BLOCK as usize).await.unwrap();
                assert_eq!(found[..], bytes((at % 250 + 1) as u8, BLOCK)[..], "block {at}");
            }
        });
    }
}

#[test]
fn a_volume_that_fills_writes_through_until_it_is_full() {
    run(&Disk::new(64 * MIB, 11), |machine| async move {
        let pool = machine.create_pool(PoolOptions::new()).await.unwrap();
        let options = VolumeOptions { filling: true, ..from_memory() };
        let inner = pool.create_volume("a", MIB, options).await.unwrap();
        machine.disk().set_faults(SLOW);
        let before = machine.disk().counters().writes;
        inner.write(0, bytes(1, MIB), false).await.unwrap();
        assert!(machine.disk().counters().writes > before);
        let info = pool.filled("a").await.unwrap();
        assert_eq!(info.options, from_memory());
        let volume = pool.open(&"a".parse().unwrap()).unwrap();
        let before = machine.disk().counters().writes;
        volume.write(0, bytes(2, BLOCK), false).await.unwrap();
        assert_eq!(machine.disk().counters().writes, before);
        // What a filler still brings is left out.
        let late = inner.write(0, bytes(3, BLOCK), false).await.unwrap_err();
        assert_eq!(late.kind(), ErrorKind::Invalid);
        assert_eq!(volume.read(0, BLOCK as usize).await.unwrap()[..], bytes(2, BLOCK)[..]);
    });
}
