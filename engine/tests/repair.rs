//! Repairs: the plan first, then exactly what it says, and nothing that could lose what a backup does not hold.

#![allow(missing_docs, clippy::unwrap_used)]

#[path = "support/disk.rs"]
mod disk;

use std::path::{Path, PathBuf};

use cairn_engine::{
    BLOCK, ErrorKind, Event, GIB, IoBuf, MIB, OpenOptions, Pool, PoolOptions, RepairPlan, RepairReport, RepairStep,
    StorageKind, Volume, VolumeOptions,
};
use disk::Disk;
use tempfile::TempDir;

struct Site {
    _dir: TempDir,
    path: PathBuf,
}

fn options() -> OpenOptions {
    OpenOptions::new().storage(StorageKind::Pread)
}

impl Site {
    /// A closed pool with a volume of 300 blocks, a snapshot of it, and what was written since.
    async fn new(size: u64) -> Self {
        let shm = Path::new("/dev/shm");
        let dir = tempfile::tempdir_in(if shm.is_dir() { shm } else { Path::new("/tmp") }).unwrap();
        let path = dir.path().join("pool.cairn");
        let create = PoolOptions::new().size(size).journal_size(4 * MIB).open(options());
        let pool = Pool::create(&path, create).await.unwrap();
        let volume = pool.create_volume("db", 64 * MIB, VolumeOptions::default()).await.unwrap();
        fill(&volume, 0..300, 1).await;
        volume.snapshot("a").await.unwrap();
        fill(&volume, 100..200, 2).await;
        drop(volume);
        pool.close().await.unwrap();
        Self { _dir: dir, path }
    }

    fn disk(&self) -> Disk {
        Disk::open(&self.path)
    }

    async fn open(&self) -> Pool {
        Pool::open(&self.path, options()).await.unwrap()
    }

    async fn open_for_repair(&self) -> Pool {
        Pool::open(&self.path, options().repair(true)).await.unwrap()
    }
}

fn content(block: u64, tag: u64) -> IoBuf {
    IoBuf::from(&[block + 1, tag].map(u64::to_le_bytes).concat().repeat(BLOCK as usize / 16)[..])
}

async fn fill(volume: &Volume, blocks: std::ops::Range<u64>, tag: u64) {
    for block in blocks {
        volume.write(block * BLOCK, content(block, tag)).await.unwrap();
    }
}

async fn plan(pool: &Pool) -> RepairPlan {
    pool.plan_repair(false, |_, _| {}).await.unwrap()
}

async fn repair(pool: &Pool, plan: &RepairPlan) -> RepairReport {
    pool.repair(plan, |_, _| {}).await.unwrap()
}

fn steps(plan: &RepairPlan) -> Vec<RepairStep> {
    assert!(plan.actions.iter().all(|action| action.why.len() > 20), "{plan:?}");
    plan.actions.iter().map(|action| action.step).collect()
}

/// All that was written is there.
async fn verify(pool: &Pool) {
    for (target, tag) in [("db", 2), ("db@a", 1)] {
        let volume = pool.volume(target).await.unwrap();
        for block in 0..300 {
            let tag = if (100..200).contains(&block) { tag } else { 1 };
            assert!(
                volume.read(block * BLOCK, BLOCK as usize).await.unwrap()[..] == content(block, tag)[..],
                "{block}"
            );
        }
    }
}

async fn clean(pool: &Pool, untouched: bool) {
    let report = pool.check(true, |_, _| {}).await.unwrap();
    assert!(report.is_clean() && report.leaked_blocks == 0, "{:#?}", report.problems);
    let stats = pool.stats().await.unwrap();
    assert_eq!((stats.free + stats.used + stats.releasing, stats.read_only.is_some()), (stats.capacity, untouched));
}

#[test]
fn leaked_blocks_are_given_back() {
    pollster::block_on(async {
        let site = Site::new(64 * MIB).await;
        let pool = site.open().await;
        let free = pool.stats().await.unwrap().free;
        pool.close().await.unwrap();
        let disk = site.disk();
        let leaked: Vec<u64> = (disk.data_area().end - 40..disk.data_area().end - 3).collect();
        disk.set_in_map(&leaked, true);
        let pool = site.open().await;
        let report = pool.check(false, |_, _| {}).await.unwrap();
        assert_eq!((report.leaked_blocks, report.problems.len()), (37, 1), "{report:?}");
        let plan = plan(&pool).await;
        assert_eq!(steps(&plan), [RepairStep::FreeBlocks { blocks: 37 }]);
        assert!(plan.unrepaired.is_empty() && !plan.is_clean());
        assert_eq!(pool.check(false, |_, _| {}).await.unwrap(), report, "a plan changes nothing");
        let done = repair(&pool, &plan).await;
        assert_eq!(done.done, plan.actions);
        assert!(done.check.is_clean(), "{:?}", done.check);
        let events = pool.events(0).await.unwrap();
        assert!(events.iter().any(|(_, e)| matches!(e, Event::Repaired { what } if what.contains("37 blocks"))));
        clean(&pool, false).await;
        assert_eq!(pool.stats().await.unwrap().free, free);
        verify(&pool).await;
        pool.close().await.unwrap();
        let pool = site.open().await;
        clean(&pool, false).await;
        assert!(self::plan(&pool).await.is_clean());
        pool.close().await.unwrap();
    });
}

#[test]
fn blocks_that_count_as_free_are_kept_from_being_written_over() {
    pollster::block_on(async {
        let site = Site::new(64 * MIB).await;
        let disk = site.disk();
        let db = disk.version("db", None);
        let mut hidden: Vec<u64> = [0, 120, 299].map(|block| disk.pointer(&db, 0, block).block).to_vec();
        hidden.extend([disk.pointer(&db, 1, 0).block, disk.version("db", Some("a")).root.block, disk.table_page()]);
        disk.set_in_map(&hidden, false);
        // Opened as always, the pool would write over them.
        let pool = site.open_for_repair().await;
        let plan = plan(&pool).await;
        assert_eq!(steps(&plan), [RepairStep::MarkUsed { blocks: hidden.len() as u64 }]);
        let done = repair(&pool, &plan).await;
        assert!(done.check.is_clean(), "{:?}", done.check);
        clean(&pool, false).await;
        // From the repair on it is a pool like any other: filled to the brim, it has kept everything.
        let more = pool.create_volume("more", GIB, VolumeOptions::default()).await.unwrap();
        let mut written = 0;
        while more.write(written * BLOCK, content(written, 7)).await.is_ok() {
            written += 1;
        }
        assert!(written > 10_000, "{written}");
        verify(&pool).await;
        drop(more);
        pool.delete_volume("more", false).await.unwrap();
        pool.wait_deleted().await.unwrap();
        pool.delete_snapshot(&"db@a".parse().unwrap()).await.unwrap();
        pool.delete_volume("db", false).await.unwrap();
        pool.wait_deleted().await.unwrap();
        clean(&pool, false).await;
        pool.close().await.unwrap();
    });
}

#[test]
fn copies_are_written_again_while_the_pool_is_in_service() {
    pollster::block_on(async {
        let site = Site::new(64 * MIB).await;
        let pool = site.open().await;
        pool.checkpoint().await.unwrap();
        pool.checkpoint().await.unwrap();
        let disk = site.disk();
        let [head, tail] = disk.newest_slots();
        let (number, older, piece) = (disk.newest(), 1 - head, disk.top_piece(0, 0));
        for block in [disk.slot_block(tail), disk.slot_block(older), piece] {
            disk.flip(block);
        }
        let plan = plan(&pool).await;
        let map = RepairStep::RewriteMap { level: 0, index: 0 };
        let slot = |slot: u64| RepairStep::RewriteSuperblock { slot: slot as u32 };
        assert_eq!(steps(&plan), [slot(older), slot(tail), map]);
        let done = repair(&pool, &plan).await;
        assert!(done.check.is_clean() && done.done.len() == 3, "{:?}", done.check);
        // The copy of the checkpoint that was the newest, and both of the one that the repair ended with.
        assert_eq!(
            [tail, head, older, older + 2].map(|slot| disk.checkpoint_in(slot)),
            [number, number, number + 1, number + 1]
        );
        assert_ne!(disk.top_piece(0, 0), piece);
        clean(&pool, false).await;
        verify(&pool).await;
        pool.close().await.unwrap();
        // Without the copy that was never damaged, what was written again serves.
        disk.flip(disk.slot_block(head));
        let pool = site.open().await;
        verify(&pool).await;
        pool.close().await.unwrap();
    });
}

#[test]
fn a_closed_pool_is_not_touched_before_its_repair() {
    pollster::block_on(async {
        let site = Site::new(64 * MIB).await;
        // A crash: a copy taken while the pool is open, with a journal to be replayed and closed.
        let pool = site.open().await;
        let volume = pool.volume("db").await.unwrap();
        fill(&volume, 300..310, 3).await;
        volume.flush().await.unwrap();
        let crashed = site.path.with_extension("crashed");
        std::fs::copy(&site.path, &crashed).unwrap();
        drop(volume);
        pool.close().await.unwrap();
        std::fs::rename(&crashed, &site.path).unwrap();
        let disk = site.disk();
        let slot = disk.newest_slots()[1];
        disk.flip(disk.slot_block(slot));
        let before = disk.bytes();

        let pool = site.open_for_repair().await;
        let found = plan(&pool).await;
        assert_eq!(steps(&found), [RepairStep::RewriteSuperblock { slot: slot as u32 }]);
        verify(&pool).await;
        for refused in [
            pool.create_volume("new", MIB, VolumeOptions::default()).await.map(drop),
            pool.checkpoint().await,
            pool.snapshot(&["db@b".parse().unwrap()]).await.map(drop),
        ] {
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::ReadOnly);
        }
        let second = Pool::open(&site.path, options().read_only(true)).await;
        assert_eq!(second.map(drop).unwrap_err().kind(), ErrorKind::Busy, "it is held for the repair");
        pool.close().await.unwrap();
        assert!(disk.bytes() == before, "nobody asked for a repair");

        let pool = site.open_for_repair().await;
        let done = repair(&pool, &found).await;
        assert!(done.check.is_clean());
        clean(&pool, false).await;
        verify(&pool).await;
        let volume = pool.volume("db").await.unwrap();
        assert!(
            volume.read(305 * BLOCK, BLOCK as usize).await.unwrap()[..] == content(305, 3)[..],
            "the journal counts"
        );
        fill(&volume, 310..320, 3).await;
        drop(volume);
        pool.close().await.unwrap();
        let pool = site.open().await;
        clean(&pool, false).await;
        pool.close().await.unwrap();

        // A copy of the checkpoint before, torn when the pool is opened: a crash may have left that, so it is no problem, but a repair makes
        // it whole.
        let older = 1 - disk.newest() % 2;
        disk.flip(disk.slot_block(older));
        let pool = site.open_for_repair().await;
        clean(&pool, true).await;
        let found = plan(&pool).await;
        assert_eq!(steps(&found), [RepairStep::RewriteSuperblock { slot: older as u32 }]);
        assert!(repair(&pool, &found).await.check.is_clean());
        assert!(plan(&pool).await.is_clean());
        pool.close().await.unwrap();

        // A sound pool has nothing to repair, and stays as it is.
        let before = disk.bytes();
        let pool = site.open_for_repair().await;
        let found = plan(&pool).await;
        assert!(found.is_clean());
        let done = repair(&pool, &found).await;
        assert!(done.done.is_empty() && done.check.is_clean());
        pool.close().await.unwrap();
        assert!(disk.bytes() == before);
    });
}

/// A map with two levels, as pools from 56 GiB on have.
#[test]
fn a_damaged_directory_of_the_map_is_rebuilt_from_the_versions() {
    pollster::block_on(async {
        let site = Site::new(60 * GIB).await;
        let disk = site.disk();
        assert_eq!(disk.map_levels(), 1);
        let directory = disk.top_piece(480, 0);
        disk.flip(directory);
        let error = Pool::open(&site.path, options()).await.map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("--repair"), "{error}");
        let pool = site.open_for_repair().await;
        let found = plan(&pool).await;
        assert_eq!(steps(&found), [RepairStep::RewriteMap { level: 1, index: 0 }]);
        assert!(found.unrepaired.is_empty());
        pool.close().await.unwrap();
        assert!(Pool::open(&site.path, options()).await.is_err(), "nobody asked for a repair");

        let pool = site.open_for_repair().await;
        let done = repair(&pool, &found).await;
        assert!(done.check.is_clean(), "{:?}", done.check);
        pool.close().await.unwrap();
        let pool = site.open().await;
        clean(&pool, false).await;
        verify(&pool).await;
        let volume = pool.volume("db").await.unwrap();
        fill(&volume, 200..300, 1).await;
        drop(volume);
        pool.checkpoint().await.unwrap();
        clean(&pool, false).await;
        verify(&pool).await;
        // The other level, and both in a pool that is open.
        let disk = site.disk();
        disk.flip(disk.top_piece(480, 0));
        let found = plan(&pool).await;
        assert_eq!(steps(&found), [RepairStep::RewriteMap { level: 1, index: 0 }]);
        assert!(repair(&pool, &found).await.check.is_clean());
        pool.close().await.unwrap();
        let pool = site.open().await;
        clean(&pool, false).await;
        verify(&pool).await;
        pool.close().await.unwrap();
    });
}

#[test]
fn behind_a_damaged_node_nothing_is_given_back() {
    pollster::block_on(async {
        let site = Site::new(64 * MIB).await;
        let disk = site.disk();
        let db = disk.version("db", None);
        let (leaf, kept) = (disk.pointer(&db, 1, 0).block, disk.pointer(&db, 0, 290).block);
        let behind = disk.pointer(&db, 0, 150).block;
        // 100 blocks behind the leaf are the volume's alone; 7 blocks leak; one that is in use counts as free.
        let end = disk.data_area().end;
        disk.set_in_map(&(end - 10..end - 3).collect::<Vec<_>>(), true);
        disk.set_in_map(&[kept], false);
        disk.flip(leaf);
        let pool = site.open_for_repair().await;
        let found = plan(&pool).await;
        assert_eq!(steps(&found), [RepairStep::MarkUsed { blocks: 1 }]);
        assert_eq!(found.unrepaired.len(), 2, "{found:?}");
        assert!(found.unrepaired[0].contains(&leaf.to_string()) && found.unrepaired[0].contains("backup"));
        assert!(found.unrepaired[1].contains("107 blocks"), "{found:?}");
        let used = pool.stats().await.unwrap().used;
        let done = repair(&pool, &found).await;
        assert_eq!((done.done, done.check.problems.len()), (found.actions, 1), "{:?}", done.check.problems);
        // A checkpoint has written no node, and the table over again.
        assert_eq!(pool.stats().await.unwrap().used, used + BLOCK);
        // Were the leaf to be read again, everything behind it would be there.
        disk.flip(leaf);
        verify(&pool).await;
        let found = plan(&pool).await;
        assert_eq!(steps(&found), [RepairStep::FreeBlocks { blocks: 7 }]);
        assert!(repair(&pool, &found).await.check.is_clean());
        assert_eq!(disk.pointer(&disk.version("db", None), 0, 150).block, behind);
        clean(&pool, false).await;
        verify(&pool).await;
        pool.close().await.unwrap();
    });
}

#[test]
fn damage_that_stays_is_named_with_its_remedy() {
    pollster::block_on(async {
        let site = Site::new(64 * MIB).await;
        let disk = site.disk();
        let block = disk.pointer(&disk.version("db", None), 0, 7).block;
        disk.flip(block);
        let pool = site.open().await;
        assert!(plan(&pool).await.is_clean(), "without --read-data it is not looked for");
        let found = pool.plan_repair(true, |_, _| {}).await.unwrap();
        assert!(found.actions.is_empty() && found.unrepaired.len() == 1, "{found:?}");
        let told = &found.unrepaired[0];
        assert!(told.contains(&block.to_string()) && told.contains("db") && told.contains("backup"), "{told}");
        // Nothing to do is done, and nothing is hidden by it.
        let done = repair(&pool, &found).await;
        assert!(done.done.is_empty());
        assert!(!pool.check(true, |_, _| {}).await.unwrap().is_clean());
        pool.close().await.unwrap();
    });
}

#[test]
fn a_repair_has_the_pool_for_itself_and_keeps_to_its_plan() {
    pollster::block_on(async {
        let site = Site::new(64 * MIB).await;
        let disk = site.disk();
        let end = disk.data_area().end;
        disk.set_in_map(&[end - 9, end - 8], true);
        let pool = site.open().await;
        let found = plan(&pool).await;
        let before = pool.check(false, |_, _| {}).await.unwrap();
        let (volume, snapshot) = (pool.volume("db").await.unwrap(), pool.volume("db@a").await.unwrap());
        let refused = pool.repair(&found, |_, _| {}).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Busy);
        for words in ["db, db@a", "detach"] {
            assert!(refused.to_string().contains(words), "{refused}");
        }
        drop(volume);
        assert_eq!(pool.repair(&found, |_, _| {}).await.unwrap_err().kind(), ErrorKind::Busy, "a snapshot is open");
        drop(snapshot);
        // One plan for another state of the pool.
        let mut other = found.clone();
        other.actions[0].step = RepairStep::FreeBlocks { blocks: 3 };
        for wrong in [other, RepairPlan::default()] {
            let refused = pool.repair(&wrong, |_, _| {}).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Busy);
            assert!(refused.to_string().contains("new plan"), "{refused}");
        }
        assert_eq!(pool.check(false, |_, _| {}).await.unwrap(), before, "no refusal has changed anything");
        // While it runs nothing can be opened, and there is no second one.
        let (sender, asked) = std::sync::mpsc::channel();
        let (second, third, plan) = (pool.clone(), pool.clone(), found.clone());
        let outcome = pool.repair(&found, move |done, _| {
            if done > 0 {
                // Posted from the reactor's own thread, answered in the midst of the repair.
                let (second, third, plan, sender) = (second.clone(), third.clone(), plan.clone(), sender.clone());
                drop(std::thread::spawn(move || {
                    let opened = pollster::block_on(second.volume("db")).map(drop);
                    let again = pollster::block_on(third.repair(&plan, |_, _| {})).map(drop);
                    sender.send((opened, again)).unwrap();
                }));
            }
        });
        assert!(outcome.await.unwrap().check.is_clean());
        for (opened, again) in asked.iter() {
            // Whatever came in the midst of it was refused; what came after it was not, and had nothing to do.
            for refused in [opened.err(), again.err()].into_iter().flatten() {
                assert_eq!(refused.kind(), ErrorKind::Busy, "{refused}");
            }
        }
        clean(&pool, false).await;
        verify(&pool).await;
        pool.close().await.unwrap();

        disk.set_in_map(&[end - 9], true);
        let pool = Pool::open(&site.path, options().read_only(true)).await.unwrap();
        let found = self::plan(&pool).await;
        assert_eq!(steps(&found), [RepairStep::FreeBlocks { blocks: 1 }]);
        assert_eq!(pool.repair(&found, |_, _| {}).await.unwrap_err().kind(), ErrorKind::ReadOnly);
        pool.close().await.unwrap();
    });
}
