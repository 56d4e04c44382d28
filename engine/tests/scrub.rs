//! Scrubs on damaged pools: the exact report, for everyone who reads what is damaged; and a pool that works on meanwhile.

#![allow(missing_docs, clippy::unwrap_used)]

#[path = "support/disk.rs"]
mod disk;

use std::{
    path::{Path, PathBuf},
    sync::mpsc,
};

use cairn_engine::{
    BLOCK, CheckReport, Damage, DamageKind, ErrorKind, Event, IoBuf, MIB, OpenOptions, Pace, Pool, PoolOptions,
    ScrubReport, StorageKind, Target, Volume, VolumeOptions,
};
use disk::Disk;
use tempfile::TempDir;

struct Site {
    _dir: TempDir,
    path: PathBuf,
    pool: Pool,
}

impl Site {
    async fn new() -> Self {
        let shm = Path::new("/dev/shm");
        let dir = tempfile::tempdir_in(if shm.is_dir() { shm } else { Path::new("/tmp") }).unwrap();
        let path = dir.path().join("pool.cairn");
        let open = OpenOptions::new().storage(StorageKind::Pread);
        let pool = Pool::create(&path, PoolOptions::new().size(256 * MIB).open(open)).await.unwrap();
        Self { _dir: dir, path, pool }
    }

    async fn volume(&self, name: &str, size: u64) -> Volume {
        self.pool.create_volume(name, size, VolumeOptions::default()).await.unwrap()
    }

    fn disk(&self) -> Disk {
        Disk::open(&self.path)
    }

    async fn scrub(&self) -> ScrubReport {
        let outcome = self.pool.scrub(Pace::unlimited()).await.unwrap();
        assert!(!outcome.cancelled);
        outcome.report
    }

    async fn check(&self) -> CheckReport {
        self.pool.check(true, |_, _| {}).await.unwrap()
    }

    async fn snapshot(&self, name: &str) {
        self.pool.snapshot(&[name.parse().unwrap()]).await.unwrap();
    }
}

fn content(block: u64, tag: u64) -> IoBuf {
    IoBuf::from(&[block + 1, tag].map(u64::to_le_bytes).concat().repeat(BLOCK as usize / 16)[..])
}

async fn fill(volume: &Volume, blocks: impl IntoIterator<Item = u64>, tag: u64) {
    for block in blocks {
        volume.write(block * BLOCK, content(block, tag)).await.unwrap();
    }
}

/// A range of a volume or snapshot, as `volume` or `volume@snapshot`.
fn damage(whose: &str, range: std::ops::Range<u64>, physical: u64, blocks: u64, what: DamageKind) -> Damage {
    let target: Target = whose.parse().unwrap();
    Damage {
        volume: Some(target.volume),
        snapshot: target.snapshot,
        offset: range.start,
        length: range.end - range.start,
        physical,
        blocks,
        what,
        cause: "fails its checksum".into(),
    }
}

fn of_the_pool(physical: u64, what: DamageKind, cause: &str) -> Damage {
    let cause = cause.to_owned();
    Damage { volume: None, snapshot: None, offset: 0, length: 0, physical, blocks: 1, what, cause }
}

#[test]
fn each_block_is_read_once_whoever_shares_it() {
    pollster::block_on(async {
        let site = Site::new().await;
        let db = site.volume("db", 300 * MIB).await;
        fill(&db, (0..600).chain(70_000..70_100), 1).await;
        site.snapshot("db@a").await;
        fill(&db, 100..300, 2).await;
        site.snapshot("db@b").await;
        fill(&db, 0..50, 3).await;
        site.pool.clone_volume(&"db@a".parse().unwrap(), "copy", Some(400 * MIB)).await.unwrap();
        let copy = site.pool.volume("copy").await.unwrap();
        fill(&copy, 40..60, 4).await;
        site.volume("empty", 64 * MIB).await;
        // A base that only its descendants need.
        site.pool.delete_snapshot(&"db@a".parse().unwrap()).await.unwrap();
        site.pool.wait_deleted().await.unwrap();
        site.pool.checkpoint().await.unwrap();
        let (report, checked, stats) = (site.scrub().await, site.check().await, site.pool.stats().await.unwrap());
        assert!(report.is_clean() && checked.is_clean(), "{report:?} {checked:?}");
        assert_eq!(stats.branch_points, 1);
        assert_eq!((report.versions, report.nodes), (checked.versions, checked.nodes));
        assert_eq!((report.data_blocks, report.superblocks), (checked.data_verified, 4));
        assert_eq!((report.map_pieces, checked.superblocks), (checked.map_pieces, 4));
        assert_eq!(report.data_blocks + report.nodes + report.table_blocks, stats.used / BLOCK);
        assert_eq!(report.bytes, stats.used + (report.map_pieces + 4) * BLOCK);
        let events: Vec<Event> = site.pool.events(0).await.unwrap().into_iter().map(|(_, e)| e).collect();
        assert!(events.contains(&Event::ScrubStarted { total: report.bytes }), "{events:?}");
        assert!(events.contains(&Event::ScrubEnded { cancelled: false, damaged_blocks: 0 }), "{events:?}");
        // What no checkpoint has written yet is in memory alone, and what it leads to is read all the same.
        fill(&db, 1000..1010, 5).await;
        assert_eq!(site.scrub().await.data_blocks, report.data_blocks + 10);
        drop((db, copy));
        site.pool.close().await.unwrap();
    });
}

#[test]
fn damaged_data_is_told_for_everyone_who_reads_it() {
    pollster::block_on(async {
        let site = Site::new().await;
        // The last block is a partial one: damage ends where the volume does.
        let db = site.volume("db", 8 * MIB + 512).await;
        fill(&db, 0..40, 1).await;
        db.write(8 * MIB, IoBuf::from(&[9; 512][..])).await.unwrap();
        site.snapshot("db@a").await;
        fill(&db, 10..20, 2).await;
        site.snapshot("db@b").await;
        fill(&db, 12..14, 3).await;
        site.pool.clone_volume(&"db@a".parse().unwrap(), "copy", None).await.unwrap();
        let copy = site.pool.volume("copy").await.unwrap();
        fill(&copy, 5..6, 4).await;
        let other = site.volume("other", 8 * MIB).await;
        fill(&other, 0..40, 5).await;
        site.pool.checkpoint().await.unwrap();

        let disk = site.disk();
        let place = |volume: &str, snapshot: Option<&str>, block: u64| {
            disk.pointer(&disk.version(volume, snapshot), 0, block).block
        };
        // In all four; in all but the clone; in the first snapshot and its clone (neighbours); in the second snapshot alone; partial.
        let all = place("db", None, 30);
        let most = place("db", None, 5);
        let old = [place("copy", None, 11), place("copy", None, 12)];
        assert_eq!(old[0] + 1, old[1], "written together");
        let second = place("db", Some("b"), 13);
        let last = place("db", None, 2048);
        for block in [all, most, old[0], old[1], second, last] {
            disk.flip(block);
        }
        let report = site.scrub().await;
        let data = |whose: &str, block: u64, physical: u64| {
            damage(whose, block * BLOCK..(block + 1) * BLOCK, physical, 1, DamageKind::Data)
        };
        let partial = |whose: &str| damage(whose, 8 * MIB..8 * MIB + 512, last, 1, DamageKind::Data);
        let pair = |whose: &str| damage(whose, 11 * BLOCK..13 * BLOCK, old[0], 2, DamageKind::Data);
        let expected = [
            pair("copy"),
            data("copy", 30, all),
            partial("copy"),
            data("db", 5, most),
            data("db", 30, all),
            partial("db"),
            data("db@a", 5, most),
            pair("db@a"),
            data("db@a", 30, all),
            partial("db@a"),
            data("db@b", 5, most),
            data("db@b", 13, second),
            data("db@b", 30, all),
            partial("db@b"),
        ];
        assert_eq!(report.damaged, expected);
        assert_eq!((report.damaged_blocks, report.left_out), (6, 0));
        let status = site.pool.scrub_status().await.unwrap();
        assert_eq!(status.last.map(|last| last.report), Some(report));
        let events = site.pool.events(0).await.unwrap();
        let told: Vec<&str> = events
            .iter()
            .filter_map(|(_, e)| if let Event::ScrubDamage { what } = e { Some(&what[..]) } else { None })
            .collect();
        assert_eq!(told.len(), 6, "{told:?}");
        assert!(told.iter().any(|what| what.contains(&format!("physical block {second}"))), "{told:?}");
        assert_eq!(site.pool.stats().await.unwrap().checksum_errors, 6);

        // What is written again is sound again; what only the past holds goes with it.
        fill(&db, [5, 30], 6).await;
        site.pool.delete_snapshot(&"db@b".parse().unwrap()).await.unwrap();
        site.pool.wait_deleted().await.unwrap();
        let report = site.scrub().await;
        let left: Vec<_> =
            report.damaged.iter().map(|d| (d.volume.as_deref(), d.snapshot.as_deref(), d.offset)).collect();
        let a = Some("a");
        assert_eq!(
            left,
            [
                (Some("copy"), None, 11 * BLOCK),
                (Some("copy"), None, 30 * BLOCK),
                (Some("copy"), None, 8 * MIB),
                (Some("db"), None, 8 * MIB),
                (Some("db"), a, 5 * BLOCK),
                (Some("db"), a, 11 * BLOCK),
                (Some("db"), a, 30 * BLOCK),
                (Some("db"), a, 8 * MIB),
            ]
        );
        drop((db, copy, other));
        site.pool.close().await.unwrap();
    });
}

#[test]
fn a_damaged_node_covers_its_whole_range() {
    pollster::block_on(async {
        let site = Site::new().await;
        let db = site.volume("db", 600 * MIB).await;
        // Leaves at 0, 1 and 3 MiB, and one at 299 MiB under another inner node.
        fill(&db, [0, 7, 256, 700, 800, 76_600], 1).await;
        site.snapshot("db@a").await;
        fill(&db, [7], 2).await;
        site.pool.clone_volume(&"db@a".parse().unwrap(), "copy", None).await.unwrap();
        site.pool.checkpoint().await.unwrap();
        let disk = site.disk();
        let (live, old) = (disk.version("db", None), disk.version("db", Some("a")));
        let leaf = |version, block| disk.pointer(version, 1, block).block;
        let (shared, mine, inner) = (leaf(&live, 800), leaf(&live, 7), disk.pointer(&old, 2, 76_600).block);
        assert_eq!((shared, inner), (leaf(&old, 800), disk.pointer(&live, 2, 76_600).block));
        assert_ne!(mine, leaf(&old, 7));
        for block in [shared, mine, inner] {
            disk.flip(block);
        }
        let report = site.scrub().await;
        let node = |whose: &str, from: u64, to: u64, physical| damage(whose, from..to, physical, 1, DamageKind::Node);
        let both = |whose: &str| [node(whose, 3 * MIB, 4 * MIB, shared), node(whose, 256 * MIB, 512 * MIB, inner)];
        let mut expected = both("copy").to_vec();
        expected.push(node("db", 0, MIB, mine));
        expected.extend(both("db"));
        expected.extend(both("db@a"));
        assert_eq!(report.damaged, expected);
        assert_eq!(report.damaged_blocks, 3);
        // Sound data beside it was read: all but what lies behind the nodes, and the damaged nodes count as read.
        assert_eq!(report.data_blocks, 2 + 1 + 1, "{report:?}");

        // A damaged root leaves nothing of its version.
        disk.flip(live.root.block);
        let damaged = site.scrub().await.damaged;
        let of_db: Vec<&Damage> =
            damaged.iter().filter(|d| d.volume.as_deref() == Some("db") && d.snapshot.is_none()).collect();
        assert_eq!(of_db, [&node("db", 0, 600 * MIB, live.root.block)]);
        assert_eq!(damaged.len(), 1 + 2 + 2, "the others do not share it");
        drop(db);
        // Closing makes a checkpoint, which needs none of these nodes.
        site.pool.close().await.unwrap();
    });
}

#[test]
fn damage_of_the_pool_itself_is_named() {
    pollster::block_on(async {
        let site = Site::new().await;
        let db = site.volume("db", 8 * MIB).await;
        fill(&db, 0..10, 1).await;
        site.pool.checkpoint().await.unwrap();
        site.pool.checkpoint().await.unwrap();
        let disk = site.disk();
        let (page, piece) = (disk.table_page(), disk.top_piece(0, 0));
        let [head, tail] = disk.newest_slots();
        let older = 1 - head;
        for block in [page, piece, disk.slot_block(tail), disk.slot_block(older)] {
            disk.flip(block);
        }
        let report = site.scrub().await;
        let slot = |slot: u64| of_the_pool(disk.slot_block(slot), DamageKind::Superblock, "fails its checksum");
        let mut expected = vec![slot(older), slot(tail)];
        expected.push(of_the_pool(piece, DamageKind::Map, "fails its checksum"));
        expected.push(of_the_pool(page, DamageKind::Table, "fails its checksum"));
        assert_eq!(report.damaged, expected);
        assert_eq!(report.damaged_blocks, 4);
        // A check names the same.
        let problems = site.check().await.problems;
        assert_eq!(problems.len(), 4, "{problems:#?}");
        for words in [
            format!("version table: physical block {page}"),
            format!("superblock copy {tail}"),
            format!("block {piece}"),
        ] {
            assert!(problems.iter().any(|problem| problem.contains(&words)), "{words}: {problems:#?}");
        }
        // Two checkpoints write all of it again, at other places.
        fill(&db, 0..1, 2).await;
        site.pool.checkpoint().await.unwrap();
        site.pool.checkpoint().await.unwrap();
        assert!(site.scrub().await.is_clean() && site.check().await.is_clean());
        drop(db);
        site.pool.close().await.unwrap();
    });
}

#[test]
fn what_nobody_reads_any_more_is_told_as_such() {
    pollster::block_on(async {
        let site = Site::new().await;
        let db = site.volume("db", 8 * MIB).await;
        fill(&db, 0..10, 1).await;
        site.snapshot("db@a").await;
        site.pool.clone_volume(&"db@a".parse().unwrap(), "copy", None).await.unwrap();
        let copy = site.pool.volume("copy").await.unwrap();
        site.pool.delete_snapshot(&"db@a".parse().unwrap()).await.unwrap();
        site.pool.wait_deleted().await.unwrap();
        let disk = site.disk();
        let place = disk.pointer(&disk.version("db", None), 0, 4).block;
        // Both descendants of the branch point write over the block; it keeps it until it is pruned.
        fill(&db, [4], 2).await;
        fill(&copy, [4], 3).await;
        site.pool.checkpoint().await.unwrap();
        disk.flip(place);
        let mut expected = damage("db", 4 * BLOCK..5 * BLOCK, place, 1, DamageKind::Data);
        expected.volume = None;
        expected.cause += "; no volume or snapshot reads it any more";
        assert_eq!(site.scrub().await.damaged, [expected]);
        drop((db, copy));
        site.pool.close().await.unwrap();
    });
}

#[test]
fn a_long_list_is_cut_and_what_is_missing_is_counted() {
    pollster::block_on(async {
        let site = Site::new().await;
        let db = site.volume("db", 64 * MIB).await;
        // Every second block, so that no two damaged ranges are one.
        fill(&db, (0..6000).map(|n| n * 2), 1).await;
        site.snapshot("db@a").await;
        site.pool.checkpoint().await.unwrap();
        let disk = site.disk();
        let area = disk.data_area();
        let wanted: std::collections::HashSet<Vec<u8>> = (0..6000).map(|n| content(n * 2, 1).to_vec()).collect();
        let mut flipped = 0;
        for block in area {
            if wanted.contains(&disk.read(block)) {
                disk.write(block, &[5; BLOCK as usize]);
                flipped += 1;
            }
        }
        assert_eq!(flipped, 6000);
        let report = site.scrub().await;
        assert_eq!((report.damaged_blocks, report.damaged.len()), (6000, 1000));
        // 4,096 blocks were looked up, each in two versions; 1,000 ranges are listed.
        assert_eq!(report.left_out, 2 * 4096 - 1000 + (6000 - 4096));
        drop(db);
        site.pool.close().await.unwrap();
    });
}

#[test]
fn the_pool_works_on_meanwhile() {
    pollster::block_on(async {
        let site = Site::new().await;
        let db = site.volume("db", 64 * MIB).await;
        fill(&db, 0..2000, 1).await;
        let victim = site.volume("victim", 64 * MIB).await;
        fill(&victim, 0..3000, 1).await;
        drop(victim);
        site.pool.checkpoint().await.unwrap();
        let disk = site.disk();
        let place = disk.pointer(&disk.version("db", None), 0, 1999).block;
        // It stands still after its first batch, which is due again in an hour.
        let started = site.pool.start_scrub(Pace::bytes_per_second(1)).await.unwrap();
        assert_eq!((started.number, started.damaged_blocks), (1, 0));
        let refused = site.pool.start_scrub(Pace::default()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Busy);
        assert_eq!(site.pool.scrub(Pace::default()).await.unwrap_err().kind(), ErrorKind::Busy);
        for round in 2..5 {
            fill(&db, 0..1000, round).await;
            db.flush().await.unwrap();
            for block in (0..1000).step_by(17) {
                assert!(db.read(block * BLOCK, BLOCK as usize).await.unwrap()[..] == content(block, round)[..]);
            }
            site.snapshot(&format!("db@{round}")).await;
            site.pool.checkpoint().await.unwrap();
        }
        let before = site.pool.stats().await.unwrap();
        site.pool.delete_volume("victim", false).await.unwrap();
        site.pool.delete_snapshot(&"db@3".parse().unwrap()).await.unwrap();
        site.pool.wait_deleted().await.unwrap();
        let after = site.pool.stats().await.unwrap();
        assert!(after.free >= before.free + 3900 * BLOCK && after.releasing == 0, "{before:?}\n{after:?}");
        assert!(site.check().await.is_clean());
        let running = site.pool.scrub_status().await.unwrap().running.expect("it goes on");
        assert!(running.number == 1 && running.done < running.total, "{running:?}");
        // What was there when it began and is still there is read, at whatever pace.
        disk.flip(place);
        let mut watched = Box::pin(site.pool.watch_scrub(|_| {}));
        let begun = std::future::poll_fn(|cx| std::task::Poll::Ready(watched.as_mut().poll(cx).is_pending())).await;
        assert!(begun, "the scrub stands still");
        let told = site.pool.set_scrub_pace(Pace::unlimited()).await.unwrap();
        assert_eq!(told.number, 1);
        let outcome = watched.await.unwrap();
        let expected =
            ["db", "db@2", "db@4"].map(|whose| damage(whose, 1999 * BLOCK..2000 * BLOCK, place, 1, DamageKind::Data));
        assert_eq!(outcome.report.damaged, expected);
        assert!(site.pool.scrub_status().await.unwrap().running.is_none());
        drop(db);
        site.pool.close().await.unwrap();
    });
}

#[test]
fn a_scrub_that_is_cancelled_says_what_it_had_found() {
    pollster::block_on(async {
        let site = Site::new().await;
        let db = site.volume("db", 8 * MIB).await;
        fill(&db, 0..100, 1).await;
        site.pool.checkpoint().await.unwrap();
        let disk = site.disk();
        disk.flip(disk.slot_block(disk.newest_slots()[1]));
        site.pool.start_scrub(Pace::bytes_per_second(1)).await.unwrap();
        // The first batch are the superblocks.
        loop {
            let running = site.pool.scrub_status().await.unwrap().running.unwrap();
            if running.done > 0 {
                assert_eq!(running.damaged_blocks, 1);
                break;
            }
        }
        let outcome = site.pool.cancel_scrub().await.unwrap();
        assert!(outcome.cancelled, "{outcome:?}");
        assert_eq!((outcome.report.damaged.len(), outcome.report.data_blocks), (1, 0));
        assert_eq!(site.pool.cancel_scrub().await.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(site.pool.scrub_status().await.unwrap().last, Some(outcome));
        let again = site.pool.scrub(Pace::unlimited()).await.unwrap();
        assert_eq!((again.number, again.cancelled, again.report.data_blocks), (2, false, 100));
        drop(db);
        // A pool may be closed in the middle of a scrub.
        site.pool.start_scrub(Pace::bytes_per_second(1)).await.unwrap();
        site.pool.close().await.unwrap();
        let pool = Pool::open(&site.path, OpenOptions::new().read_only(true)).await.unwrap();
        let report = pool.scrub(Pace::unlimited()).await.unwrap().report;
        assert!(report.is_clean() && report.data_blocks == 100, "reading is enough: {report:?}");
        pool.close().await.unwrap();
    });
}

#[test]
fn a_check_that_nobody_waits_for_ends() {
    pollster::block_on(async {
        let site = Site::new().await;
        let db = site.volume("db", 64 * MIB).await;
        fill(&db, 0..4000, 1).await;
        for _ in 0..20 {
            // Held in its midst: it can be through neither before nobody waits for it nor while it is dropped.
            let ((tell, told), (hold, held)) = (mpsc::channel(), mpsc::channel::<()>());
            let mut check = Box::pin(site.pool.check(true, move |_, _| {
                tell.send(()).unwrap();
                let _released = held.recv();
            }));
            let begun = std::future::poll_fn(|cx| std::task::Poll::Ready(check.as_mut().poll(cx).is_pending())).await;
            assert!(begun, "it is held");
            told.recv().unwrap();
            drop(check);
            drop(hold);
            assert!(told.recv().is_err(), "it ends where it is");
            // One that went on would still be under way.
            assert!(site.check().await.is_clean());
        }
        drop(db);
        site.pool.close().await.unwrap();
    });
}

#[test]
fn a_check_counts_nodes_that_are_only_in_memory() {
    pollster::block_on(async {
        let site = Site::new().await;
        let db = site.volume("db", 600 * MIB).await;
        fill(&db, [0, 256, 76_800], 1).await;
        // Three leaves, two nodes above them, the root.
        let before = site.check().await;
        assert_eq!((before.nodes, before.data_blocks, before.problems.len()), (6, 3, 0));
        // A snapshot shares them all, and they count once; so they do when a checkpoint has written them.
        site.snapshot("db@a").await;
        assert_eq!(site.check().await.nodes, 6);
        site.pool.checkpoint().await.unwrap();
        assert_eq!(site.check().await.nodes, 6);
        drop(db);
        site.pool.close().await.unwrap();
    });
}
