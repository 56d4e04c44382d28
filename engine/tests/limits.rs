//! Limits in a pool on a simulated disk, by its clock: exact, live, over restarts, for whoever uses the pool.

#![allow(missing_docs, clippy::unwrap_used)]

#[path = "support/limited.rs"]
mod limited;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    time::Duration,
};

use cairn_engine::{
    BLOCK, ErrorKind, GIB, IoBuf, LocalPool, LocalVolume, MIB, OpenOptions, Pace, PoolOptions, QosTarget, Target,
    VolumeOptions,
    sim::{self, Disk, Machine, Survivors},
};
use limited::{flood, on, seconds, set, volume};

/// What was done in each of the next seconds.
async fn each_second(machine: &Machine, done: &Cell<u64>, n: u64) -> Vec<u64> {
    let mut list = Vec::new();
    for _ in 0..n {
        let before = done.get();
        seconds(machine, 1).await;
        list.push(done.get() - before);
    }
    list
}

#[track_caller]
fn about(found: u64, wanted: u64, slack: u64) {
    assert!(found.abs_diff(wanted) <= slack, "{found} instead of {wanted}");
}

#[test]
fn rates_and_bursts_are_exact_at_any_depth_and_change_at_once() {
    let disk = Disk::new(256 * MIB, 1);
    on(&disk, |machine| async move {
        let pool = machine.create_pool(PoolOptions::new()).await.unwrap();
        for (name, depth) in [("one", 1), ("many", 64)] {
            let volume = volume(&pool, name).await;
            set(&pool, name, "total_iops_sec=100").await.unwrap();
            let done = flood(&machine, &volume, depth, 1);
            seconds(&machine, 10).await;
            about(done.get(), 1000, 6);
            // From the next request on, and what was used stays used.
            set(&pool, name, "total_iops_sec=50 total_iops_sec_max=400 total_iops_sec_max_length=3").await.unwrap();
            about(each_second(&machine, &done, 10).await.iter().sum(), 3 * 400 + 7 * 50, 30);
            set(&pool, name, "total_iops_sec_max total_iops_sec_max_length total_iops_sec").await.unwrap();
            assert!(each_second(&machine, &done, 1).await[0] > 1000, "nothing holds it back any more");
            set(&pool, name, "total_bytes_sec=1MiB").await.unwrap();
            seconds(&machine, 1).await;
            about(each_second(&machine, &done, 4).await.iter().sum(), 4 * 256, 15);
            let info = pool.qos(&name.parse().unwrap()).unwrap();
            assert_eq!(info.waiting, depth);
            assert!(info.held["volume:total_bytes_sec"].nanos > 4_000_000_000, "also what waits now: {:?}", info.held);
        }
    });
}

#[test]
fn groups_and_the_pool_hold_for_all_of_their_volumes_and_for_snapshots() {
    let disk = Disk::new(256 * MIB, 2);
    on(&disk, |machine| async move {
        let pool = machine.create_pool(PoolOptions::new()).await.unwrap();
        let (a, b, c) = (volume(&pool, "a").await, volume(&pool, "b").await, volume(&pool, "c").await);
        pool.snapshot(&["b@s".parse().unwrap()]).await.unwrap();
        let snapshot = pool.open(&"b@s".parse().unwrap()).unwrap();
        set(&pool, "a", "group=gold").await.unwrap();
        set(&pool, "b", "group=gold read_iops_sec=40").await.unwrap();
        set(&pool, "/gold", "total_iops_sec=300").await.unwrap();
        set(&pool, "/", "total_iops_sec=1000").await.unwrap();
        let done = [&a, &snapshot, &c].map(|volume| flood(&machine, volume, 1, 1));
        let also = flood(&machine, &b, 1, 1);
        seconds(&machine, 10).await;
        about(done[1].get() + also.get(), 400, 4);
        about(done[0].get() + done[1].get() + also.get(), 3000, 20);
        about(done.iter().map(|done| done.get()).sum::<u64>() + also.get(), 10_000, 60);
        let gold = pool.qos(&QosTarget::Group("gold".to_owned())).unwrap();
        assert_eq!((gold.members.join(" "), gold.rates["total_iops_sec"]), ("a b".to_owned(), 300));
        let held = pool.qos(&"b".parse().unwrap()).unwrap().held;
        assert!(held["volume:read_iops_sec"].requests > 300, "{held:?}");
        // Out of the group, nothing but the pool is left.
        set(&pool, "a", "group").await.unwrap();
        let before = done[0].get();
        seconds(&machine, 10).await;
        assert!(done[0].get() - before > 4000, "{}", done[0].get() - before);
        let list: Vec<String> = pool.qos_list().into_iter().map(|info| info.target).collect();
        assert_eq!(list, ["/", "/gold", "b"]);
    });
}

#[test]
fn limits_and_what_was_used_of_them_are_there_after_a_restart() {
    // Closed, killed after the journal had it, killed after a checkpoint had it.
    for (seed, end) in [(3, "close"), (4, "journal"), (5, "checkpoint")] {
        let disk = Disk::new(256 * MIB, seed);
        on(&disk, move |machine| async move {
            let pool = machine.create_pool(PoolOptions::new()).await.unwrap();
            let volume = volume(&pool, "db").await;
            set(&pool, "db", "read_iops_sec=10 read_iops_sec_max=1000 read_iops_sec_max_length=10 group=gold")
                .await
                .unwrap();
            set(&pool, "/gold", "write_bytes_sec=1MiB").await.unwrap();
            set(&pool, "/", "queue_depth=17").await.unwrap();
            let done = flood(&machine, &volume, 1, 1);
            seconds(&machine, 9).await;
            about(done.get(), 9000, 60);
            match end {
                "close" => seconds(&machine, 0).await,
                "journal" => seconds(&machine, 3).await,
                _ => pool.checkpoint().await.unwrap(),
            }
            volume.flush().await.unwrap();
        });
        let disk = if end == "close" { disk.kill() } else { disk.crash(Survivors::None) };
        on(&disk, move |machine| async move {
            let pool = machine.open_pool(OpenOptions::new()).await.unwrap();
            let info = pool.qos(&"db".parse().unwrap()).unwrap();
            assert_eq!(info.group.as_deref(), Some("gold"));
            assert_eq!(
                info.limits,
                "read_iops_sec=10 read_iops_sec_max=1000 read_iops_sec_max_length=10".parse().unwrap()
            );
            assert_eq!(pool.qos(&QosTarget::Group("gold".into())).unwrap().members, ["db"]);
            assert_eq!(pool.qos(&QosTarget::Pool).unwrap().queue_depth, Some(17));
            // About a second of a burst of ten is left, and not all of it.
            let volume = pool.open(&"db".parse().unwrap()).unwrap();
            let done = flood(&machine, &volume, 1, 1);
            seconds(&machine, 10).await;
            assert!(done.get() < 2500, "{end}: {}", done.get());
            let left = pool.qos(&"db".parse().unwrap()).unwrap().credits["read_iops_sec"];
            assert!(left < 100, "{left}");
        });
    }
}

#[test]
fn who_gives_up_takes_nothing_and_nobody_waits_for_it() {
    let disk = Disk::new(256 * MIB, 6);
    on(&disk, |machine| async move {
        let pool = machine.create_pool(PoolOptions::new()).await.unwrap();
        let volume = volume(&pool, "db").await;
        set(&pool, "db", "write_iops_sec=1").await.unwrap();
        let write = |volume: LocalVolume| async move { volume.write(0, IoBuf::zeroed(4096), false).await };
        write(volume.clone()).await.unwrap();
        // A day of requests, given up.
        let waiting: Vec<_> = (0..86_400).map(|_| machine.reactor().spawn(write(volume.clone()))).collect();
        seconds(&machine, 2).await;
        drop(waiting);
        seconds(&machine, 1).await;
        let done = machine.reactor().spawn(write(volume));
        seconds(&machine, 3).await;
        assert!(done.is_finished());
        assert_eq!(pool.qos(&"db".parse().unwrap()).unwrap().waiting, 0);
    });
}

#[test]
fn background_work_goes_by_the_pools_limits_and_yields() {
    let disk = Disk::new(256 * MIB, 7);
    on(&disk, |machine| async move {
        let pool = machine.create_pool(PoolOptions::new()).await.unwrap();
        let volume = volume(&pool, "db").await;
        let data: Vec<u8> = (0..16 * MIB).map(|at| (at / BLOCK) as u8 | 1).collect();
        volume.write(0, IoBuf::from(&data[..]), false).await.unwrap();
        pool.snapshot(&["db@s".parse().unwrap()]).await.unwrap();
        set(&pool, "/", "total_bytes_sec=4MiB").await.unwrap();
        let began = pool.volume_stats();
        let scrub = pool.start_scrub(Pace::unlimited()).unwrap();
        seconds(&machine, 2).await;
        let running = pool.scrub_status().running.unwrap();
        assert_eq!(running.number, scrub.number);
        about(running.done, 8 * MIB, 2 * MIB);
        // A backup reads so; its volume has limits of its own, which are for its users.
        set(&pool, "db", "total_iops_sec=1").await.unwrap();
        let reader = pool.open(&"db@s".parse().unwrap()).unwrap().in_background();
        for block in 0..8 {
            assert_eq!(reader.read(block * MIB, 4096).await.unwrap()[0], data[(block * MIB) as usize]);
        }
        set(&pool, "/", "total_bytes_sec").await.unwrap();
        seconds(&machine, 2).await;
        assert!(pool.scrub_status().last.unwrap().report.is_clean());
        let stats = pool.volume_stats();
        assert_eq!(stats.last().unwrap().name, "background");
        let read = |stats: &[cairn_engine::VolumeStats]| stats.last().unwrap().flows.read.clone();
        assert!(read(&stats).since(&read(&began)).bytes >= 16 * MIB);
        assert_eq!(stats[0].flows.read.requests, 0);
        assert_eq!(stats[0].flows.write.bytes, 17 * MIB);
    });
}

#[test]
fn limits_follow_their_volume_and_go_with_it() {
    let disk = Disk::new(256 * MIB, 8);
    on(&disk, |machine| async move {
        let pool = machine.create_pool(PoolOptions::new()).await.unwrap();
        drop(volume(&pool, "db").await);
        let rates = |name: &str| pool.qos(&name.parse().unwrap()).map(|info| info.rates);
        set(&pool, "db", "total_iops_sec_per_gb=100 total_iops_sec_per_gb_min=10 group=gold").await.unwrap();
        assert_eq!(rates("db").unwrap()["total_iops_sec"], 10);
        pool.snapshot(&["db@small".parse().unwrap()]).await.unwrap();
        pool.resize("db", 3 * GIB).await.unwrap();
        assert_eq!(rates("db").unwrap()["total_iops_sec"], 300);
        pool.rename("db", "database").await.unwrap();
        assert_eq!(rates("database").unwrap()["total_iops_sec"], 300);
        pool.revert("database", "small", false).await.unwrap();
        assert_eq!(rates("database").unwrap()["total_iops_sec"], 10);
        let clone: Target = "database@small".parse().unwrap();
        pool.clone_volume(&clone, "copy", None).await.unwrap();
        assert!(rates("copy").unwrap().is_empty());
        pool.delete_volume("database", true).await.unwrap();
        assert_eq!(rates("database").unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(pool.qos_list().len(), 1);
        drop(volume(&pool, "database").await);
        assert!(rates("database").unwrap().is_empty(), "another volume of that name");
    });
    let disk = disk.crash(Survivors::None);
    on(&disk, |machine| async move {
        let pool = machine.open_pool(OpenOptions::new()).await.unwrap();
        assert_eq!(pool.qos_list().len(), 1);
    });
}

#[test]
fn many_sheets_survive_checkpoints_and_crashes() {
    let disk = Disk::new(256 * MIB, 9);
    let names = || (0..300).map(|n| format!("v{n}"));
    on(&disk, move |machine| async move {
        let pool = machine.create_pool(PoolOptions::new()).await.unwrap();
        for (n, name) in names().enumerate() {
            pool.create_volume(&name, MIB, VolumeOptions::default()).await.unwrap();
            let group = "g".repeat(n % 128 + 1);
            set(&pool, &name, &format!("read_iops_sec={} write_bytes_sec=1MiB weight=2 group={group}", n + 1))
                .await
                .unwrap();
            if n % 100 == 50 {
                pool.checkpoint().await.unwrap();
            }
        }
        for name in names().step_by(3) {
            set(&pool, &name, "read_iops_sec write_bytes_sec weight group").await.unwrap();
        }
        for name in names().skip(1).step_by(3) {
            set(&pool, &name, "read_iops_sec=7 read_iops_sec_max=8 read_iops_sec_max_length=9").await.unwrap();
        }
    });
    let mut disk = disk;
    for round in 0..2 {
        disk = disk.crash(Survivors::None);
        on(&disk, move |machine| async move {
            let pool = machine.open_pool(OpenOptions::new()).await.unwrap();
            for (n, name) in names().enumerate() {
                let info = pool.qos(&name.parse().unwrap()).unwrap();
                let wanted = match n % 3 {
                    0 => String::new(),
                    1 => "read_iops_sec=7 read_iops_sec_max=8 read_iops_sec_max_length=9 write_bytes_sec=1048576 weight=2".to_owned(),
                    _ => format!("read_iops_sec={} write_bytes_sec=1048576 weight=2", n + 1),
                };
                assert_eq!(info.limits, wanted.parse().unwrap(), "{name} in round {round}");
                assert_eq!(info.group.is_some(), n % 3 != 0);
            }
            assert!(pool.check(true, |_, _| {}).await.unwrap().is_clean());
            pool.checkpoint().await.unwrap();
        });
    }
}

#[test]
fn what_breaks_a_rule_is_refused_and_changes_nothing() {
    let disk = Disk::new(256 * MIB, 10);
    on(&disk, |machine| async move {
        let pool = machine.create_pool(PoolOptions::new()).await.unwrap();
        drop(volume(&pool, "db").await);
        set(&pool, "db", "read_iops_sec=100").await.unwrap();
        for (target, changes, parts) in [
            ("db", "total_iops_sec=5", &["total_iops_sec", "read_iops_sec", "exclude"][..]),
            ("db", "read_iops_sec=0", &["read_iops_sec=0"]),
            ("db", "read_iops_sec=-1", &["read_iops_sec=-1"]),
            ("db", "read_iops_sec=99999999999999999999", &["read_iops_sec"]),
            ("db", "read_iops_sec_max=99", &["read_iops_sec_max=99", "read_iops_sec=100"]),
            ("db", "speed=9", &["speed", "size_iops_sec"]),
            ("db", "group=a group=b", &["group", "twice"]),
            ("db", "group=a/b", &["group", "'/'"]),
            ("db", "queue_depth=5", &["queue_depth", "set it for /"]),
            ("/", "queue_depth=0", &["queue_depth=0", "1 to 65536"]),
            ("/", "group=gold", &["group", "/ is no volume"]),
            ("/gold", "group=gold", &["group", "/gold is no volume"]),
            ("/gold", "weight=2", &["weight", "/gold"]),
            ("/", "total_iops_sec_per_gb=2", &["total_iops_sec_per_gb", "no size"]),
            ("db", "write_iops_sec=5 group=gold weight=5000", &["weight"]),
        ] {
            let error = set(&pool, target, changes).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{changes}");
            assert!(parts.iter().all(|part| error.to_string().contains(part)), "{changes}: {error}");
        }
        assert_eq!(set(&pool, "nobody", "weight=1").await.unwrap_err().kind(), ErrorKind::NotFound);
        let info = pool.qos(&"db".parse().unwrap()).unwrap();
        assert_eq!((info.limits, info.group), ("read_iops_sec=100".parse().unwrap(), None));
        assert_eq!(pool.qos_list().len(), 2);
        // Asked as one thing, used as another.
        let volume = pool.open(&"db".parse().unwrap()).unwrap();
        let mut admitted = volume.admit(cairn_engine::RequestKind::Read, 8192).await;
        assert_eq!(admitted.read(0, 12288).await.unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(admitted.discard(0, 4096, false).await.unwrap_err().kind(), ErrorKind::Invalid);
        // In parts, but no more than was asked for.
        for at in [0, 4096] {
            assert_eq!(admitted.read(at, 4096).await.unwrap().len(), 4096);
        }
        assert_eq!(admitted.read(8192, 4096).await.unwrap_err().kind(), ErrorKind::Invalid);
    });
}

/// One client's changes: what was acknowledged, and what is under way.
#[derive(Default)]
struct Books {
    done: BTreeMap<String, String>,
    begun: BTreeMap<String, String>,
}

type Shown = BTreeMap<String, String>;

fn shown(pool: &LocalPool) -> Shown {
    let list = pool.qos_list().into_iter().map(|info| {
        let depth = info.queue_depth.filter(|_| info.target == "/").map(|depth| format!(" depth={depth}"));
        let group = info.group.map(|group| format!(" group={group}"));
        (info.target, format!("{}{}{}", info.limits, depth.unwrap_or_default(), group.unwrap_or_default()))
    });
    list.collect()
}

/// Changes limits, makes, deletes and reverts volumes, and writes, until the machine ends.
async fn change_at_random(machine: Machine, pool: LocalPool, mut rng: sim::Rng, books: Rc<RefCell<Books>>) {
    let mut flooded = Vec::new();
    loop {
        let name = format!("v{}", rng.below(4));
        let exists = pool.list_volumes().iter().any(|volume| volume.name == name);
        let begin = |next: Shown| books.borrow_mut().begun = next;
        let mut next = books.borrow().done.clone();
        match rng.below(8) {
            0 if !exists => {
                begin(next);
                drop(pool.create_volume(&name, 4 * MIB, VolumeOptions::default()).await.unwrap());
            }
            1 if exists && !flooded.contains(&name) => {
                next.remove(&name);
                begin(next);
                pool.delete_volume(&name, true).await.unwrap();
            }
            2 => {
                next.insert("/".to_owned(), format!("write_iops_sec=90000 depth={}", rng.below(3) + 1));
                begin(next);
                let depth = books.borrow().begun["/"].rsplit_once('=').unwrap().1.to_owned();
                set(&pool, "/", &format!("write_iops_sec=90000 queue_depth={depth}")).await.unwrap();
            }
            3 if exists => {
                begin(next);
                let snapshot = Target { volume: name.clone(), snapshot: Some("s".to_owned()) };
                if pool.snapshots(Some(&name), false).await.unwrap().is_empty() {
                    pool.snapshot(&[snapshot]).await.unwrap();
                } else if !flooded.contains(&name) {
                    pool.revert(&name, "s", false).await.unwrap();
                }
            }
            4 => {
                begin(next);
                pool.checkpoint().await.unwrap();
            }
            5 if exists && !flooded.contains(&name) => {
                begin(next);
                let volume = pool.open(&name.parse().unwrap()).unwrap();
                flooded.push(name);
                volume.write(0, IoBuf::from(&[1; MIB as usize][..]), false).await.unwrap();
                flood(&machine, &volume, 2, 1);
            }
            6 if exists => {
                next.remove(&name);
                begin(next);
                set(&pool, &name, "total_iops_sec total_iops_sec_max group").await.unwrap();
            }
            _ if exists => {
                let (rate, group) = (rng.below(50) + 1, rng.below(3));
                next.insert(name.clone(), format!("total_iops_sec={rate} total_iops_sec_max=99 group=g{group}"));
                begin(next);
                let changes = format!("total_iops_sec={rate} total_iops_sec_max=99 group=g{group}");
                set(&pool, &name, &changes).await.unwrap();
            }
            _ => continue,
        }
        let begun = books.borrow().begun.clone();
        books.borrow_mut().done = begun;
        machine.reactor().sleep(Duration::from_millis(rng.below(400))).await;
    }
}

/// Groups are there for as long as somebody is in them.
fn with_groups(books: &Shown) -> Shown {
    let groups = books.values().filter_map(|text| Some((format!("/{}", text.split_once("group=")?.1), String::new())));
    let mut all: Shown = groups.collect();
    all.insert("/".to_owned(), " depth=32".to_owned());
    all.extend(books.clone());
    all
}

#[test]
fn whatever_happens_limits_are_those_that_were_acknowledged() {
    for seed in 0..16 {
        let mut disk = Disk::new(96 * MIB, seed);
        let books = Rc::new(RefCell::new(Books::default()));
        let options = || PoolOptions::new().journal_size(4 * MIB);
        on(&disk, move |machine| async move { drop(machine.create_pool(options()).await.unwrap()) });
        for life in 0..6 {
            let mut rng = sim::Rng::new(seed * 100 + life);
            let limit = Duration::from_millis(rng.below(6000));
            let (books, rng) = (books.clone(), rng);
            let ended = sim::run_for(&disk, limit, {
                let books = books.clone();
                move |machine| async move {
                    let pool = machine.open_pool(OpenOptions::new()).await.unwrap();
                    let found = shown(&pool);
                    let (done, begun) = (with_groups(&books.borrow().done), with_groups(&books.borrow().begun));
                    assert!(
                        found == done || found == begun,
                        "seed {seed}: {found:?} is neither {done:?} nor {begun:?}"
                    );
                    let now = if found == done { books.borrow().done.clone() } else { books.borrow().begun.clone() };
                    *books.borrow_mut() = Books { done: now.clone(), begun: now };
                    assert!(pool.check(true, |_, _| {}).await.unwrap().is_clean());
                    change_at_random(machine, pool, rng, books).await;
                }
            });
            assert!(ended.is_err(), "it goes on for ever");
            disk = disk.crash(if life % 2 == 0 { Survivors::Random(seed + life) } else { Survivors::None });
        }
    }
}
