//! Scrubs in a time of their own: the clock goes on only when nothing else can.

use std::{
    cell::{Cell, RefCell},
    fs::File,
    future::Future,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use super::*;
use crate::{
    error::ErrorKind,
    info::VolumeOptions,
    open::prepare_create,
    options::{OpenOptions, PoolOptions, StorageKind},
    reactor::{Reactor, Shared, clock::Clock, notify::yield_now},
    storage::{Completion, Op, Storage, Token, buffer::IoBuf, sync::SyncStorage, wake::Waker},
    units::{BLOCK_SIZE, MIB},
    upkeep::DamageKind,
    volume::LocalVolume,
};

/// A hundred blocks a second, ten at a time.
const SLOW: Pace = Pace { bytes_per_second: Some(100 * BLOCK) };

#[derive(Clone, Default)]
struct Time(Rc<Cell<Duration>>);

impl Clock for Time {
    fn now(&self) -> Duration {
        self.0.get()
    }

    fn unix_ms(&self) -> u64 {
        self.0.get().as_millis() as u64
    }
}

/// Storage that never waits: where it would, time goes on instead.
struct Jumping {
    file: SyncStorage,
    time: Time,
    /// How many blocks each operation has read.
    reads: Rc<RefCell<Vec<u64>>>,
    /// Whether reads are done only when there is nothing else to do.
    slow: Rc<Cell<bool>>,
    later: Vec<(Token, Op)>,
    /// A block that cannot be read.
    bad: Rc<Cell<Option<u64>>>,
    failed: Vec<Completion>,
}

impl Storage for Jumping {
    fn name(&self) -> &'static str {
        "jumping"
    }

    fn submit(&mut self, token: Token, op: Op) {
        if let Op::Read { buf, offset } = &op {
            self.reads.borrow_mut().push((buf.len() / BLOCK_SIZE) as u64);
            if self.bad.get().is_some_and(|bad| (*offset..*offset + buf.len() as u64).contains(&(bad * BLOCK))) {
                let result = Err(std::io::Error::from_raw_os_error(libc::EIO));
                self.failed.push(Completion { token, op, result });
                return;
            }
            if self.slow.get() {
                self.later.push((token, op));
                return;
            }
        }
        self.file.submit(token, op);
    }

    fn cancel(&mut self, token: Token) {
        self.file.cancel(token);
    }

    fn wait(&mut self, timeout: Option<Duration>, done: &mut Vec<Completion>) {
        if timeout != Some(Duration::ZERO) {
            for (token, op) in self.later.drain(..) {
                self.file.submit(token, op);
            }
        }
        self.file.wait(Some(Duration::ZERO), done);
        done.append(&mut self.failed);
        if done.is_empty() {
            let step = timeout.unwrap_or(Duration::from_secs(1)).max(Duration::from_micros(1));
            self.time.0.set(self.time.0.get() + step);
        }
    }
}

struct World {
    pool: LocalPool,
    time: Time,
    reads: Rc<RefCell<Vec<u64>>>,
    slow: Rc<Cell<bool>>,
    bad: Rc<Cell<Option<u64>>>,
    path: PathBuf,
}

/// Runs a story on a new pool of 256 MiB.
fn story<F: Future<Output = ()> + 'static>(f: impl FnOnce(World) -> F + 'static) {
    story_in(256 * MIB, f);
}

fn story_in<F: Future<Output = ()> + 'static>(size: u64, f: impl FnOnce(World) -> F + 'static) {
    let shm = Path::new("/dev/shm");
    let dir = tempfile::tempdir_in(if shm.is_dir() { shm } else { Path::new("/tmp") }).unwrap();
    let path = dir.path().join("pool.cairn");
    let open = OpenOptions::new().storage(StorageKind::Pread);
    let opening = prepare_create(&path, &PoolOptions::new().size(size).open(open)).unwrap();
    let shared = Shared::new(Arc::new(Waker::new().unwrap()));
    let (time, reads, slow, bad) = (Time::default(), Rc::default(), Rc::default(), Rc::default());
    let file = SyncStorage::new(opening.file.try_clone().unwrap(), shared.wake.clone());
    let storage = Jumping {
        file,
        time: time.clone(),
        reads: Rc::clone(&reads),
        slow: Rc::clone(&slow),
        later: Vec::new(),
        bad: Rc::clone(&bad),
        failed: Vec::new(),
    };
    let reactor = Reactor::new(Arc::new(shared), Box::new(storage), Box::new(time.clone()));
    let handle = reactor.clone();
    reactor
        .spawn(async move {
            let core = opening.open(handle.clone()).await.unwrap();
            f(World { pool: LocalPool { core }, time, reads, slow, bad, path }).await;
            handle.stop();
        })
        .detach();
    reactor.run();
}

fn content(block: u64, tag: u64) -> IoBuf {
    IoBuf::from(&[block + 1, tag].map(u64::to_le_bytes).concat().repeat(BLOCK_SIZE / 16)[..])
}

/// Writes blocks one after the other, so that neighbours in the volume lie side by side.
async fn fill(volume: &LocalVolume, blocks: std::ops::Range<u64>, tag: u64) {
    for block in blocks {
        volume.write(block * BLOCK, content(block, tag), false).await.unwrap();
    }
}

/// Flips a bit of the block that holds this content; there is one.
fn damage(path: &Path, content: &[u8]) -> u64 {
    let bytes = std::fs::read(path).unwrap();
    let mut places = bytes.chunks_exact(BLOCK_SIZE).zip(0u64..).filter(|(b, _)| *b == content).map(|(_, n)| n);
    let place = places.next().unwrap();
    assert!(places.next().is_none(), "stored twice");
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(&[content[77] ^ 4], place * BLOCK + 77).unwrap();
    file.sync_all().unwrap();
    place
}

impl World {
    async fn volume(&self, name: &str, blocks: u64) -> LocalVolume {
        let volume = self.pool.create_volume(name, 64 * MIB, VolumeOptions::default()).await.unwrap();
        fill(&volume, 0..blocks, 1).await;
        self.pool.checkpoint().await.unwrap();
        volume
    }

    fn done(&self) -> u64 {
        self.pool.scrub_status().running.map_or(u64::MAX, |running| running.done)
    }

    /// Waits until the scrub has read so many bytes; from then on its next batch is due in hours.
    async fn until(&self, bytes: u64) {
        while self.done() < bytes {
            self.pool.core.signals.scrub.notified().await;
        }
        self.pool.set_scrub_pace(Pace::bytes_per_second(1)).unwrap();
    }

    /// The same, for when it has come to a volume.
    async fn until_at(&self, volume: &str) {
        while self.pool.scrub_status().running.is_some_and(|r| r.current.as_deref() != Some(volume)) {
            self.pool.core.signals.scrub.notified().await;
        }
        self.pool.set_scrub_pace(Pace::bytes_per_second(1)).unwrap();
    }
}

#[test]
fn it_reads_as_fast_as_it_may_and_no_faster() {
    story(|world| async move {
        let _volume = world.volume("v", 2560).await;
        // A moment after the last write the scrub yields to the volume.
        world.pool.core.reactor.sleep(Duration::from_secs(1)).await;
        let started = world.time.now();
        let outcome = world.pool.scrub(Pace::bytes_per_second(MIB), |_| {}).await.unwrap();
        let took = world.time.now() - started;
        let due = Duration::from_secs_f64(outcome.report.bytes as f64 / MIB as f64);
        assert!(outcome.report.bytes > 10 * MIB && outcome.report.is_clean() && !outcome.cancelled);
        // The last batch, of a tenth of a second, is not waited for.
        assert!(
            took <= due + Duration::from_millis(1) && took + Duration::from_millis(101) >= due,
            "{took:?} instead of {due:?}"
        );
        assert_eq!(outcome.ended_ms - outcome.started_ms, took.as_millis() as u64);
        assert!(world.reads.take().iter().all(|&blocks| blocks <= 25), "a batch is a tenth of a second");
        // Without a pace it does not wait.
        let started = world.time.now();
        let again = world.pool.scrub(Pace::unlimited(), |_| {}).await.unwrap();
        assert!(world.time.now() - started < Duration::from_millis(1));
        assert_eq!((again.report.bytes, again.number), (outcome.report.bytes, outcome.number + 1));
    });
}

#[test]
fn a_new_pace_and_the_wish_to_end_count_at_once() {
    story(|world| async move {
        let _volume = world.volume("v", 512).await;
        let started = world.time.now();
        let first = world.pool.start_scrub(SLOW).unwrap();
        assert_eq!((first.number, first.done, first.damaged_blocks), (1, 0, 0));
        let busy = world.pool.start_scrub(Pace::default()).unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::Busy);
        assert!(busy.to_string().contains("cancel"), "{busy}");
        world.until(4 * BLOCK).await;
        // The next batch is due in hours.
        let told = world.pool.set_scrub_pace(Pace::unlimited()).unwrap();
        assert_eq!(told.pace, Pace::unlimited());
        let outcome = world.pool.watch_scrub(|_| {}).await.unwrap();
        assert!(!outcome.cancelled && outcome.report.data_blocks == 512, "{outcome:?}");
        assert!(world.time.now() - started < Duration::from_secs(10), "it slept on");
        assert_eq!(world.pool.scrub_status().last.as_ref(), Some(&outcome));

        world.pool.start_scrub(SLOW).unwrap();
        world.until(4 * BLOCK).await;
        let outcome = world.pool.cancel_scrub().await.unwrap();
        assert!(outcome.cancelled && outcome.number == 2 && outcome.report.data_blocks < 512, "{outcome:?}");
        assert!(world.time.now() - started < Duration::from_secs(10), "it slept on");
        for refused in [world.pool.cancel_scrub().await, world.pool.watch_scrub(|_| {}).await] {
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::NotFound);
        }
        assert_eq!(world.pool.set_scrub_pace(Pace::default()).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(world.pool.start_scrub(Pace::bytes_per_second(0)).unwrap_err().kind(), ErrorKind::Invalid);
        assert!(world.pool.scrub_status().running.is_none());
    });
}

#[test]
fn what_only_a_new_snapshot_keeps_is_read_too() {
    story(|world| async move {
        let volume = world.volume("v", 2048).await;
        let block = damage(&world.path, &content(1900, 1));
        world.pool.start_scrub(SLOW).unwrap();
        world.until(30 * BLOCK).await;
        // The damaged block lies ahead; by the time the walk of the volume comes to it, the volume no longer has it.
        world.pool.snapshot(&["v@s".parse().unwrap()]).await.unwrap();
        fill(&volume, 0..2048, 2).await;
        world.pool.checkpoint().await.unwrap();
        world.pool.clone_volume(&"v@s".parse().unwrap(), "copy", None).await.unwrap();
        world.pool.delete_snapshot(&"v@s".parse().unwrap()).await.unwrap();
        world.pool.set_scrub_pace(Pace::unlimited()).unwrap();
        let report = world.pool.watch_scrub(|_| {}).await.unwrap().report;
        let found: Vec<_> = report.damaged.iter().map(|d| (d.volume.as_deref(), d.offset, d.physical)).collect();
        assert_eq!(found, [(Some("copy"), 1900 * BLOCK, block)]);
        // Every block that was there when it began and is there now has been read: 2,048 of each.
        assert!(report.data_blocks >= 2048 && report.data_blocks <= 4096, "{report:?}");
    });
}

#[test]
fn snapshots_of_what_was_read_are_not_walked_again() {
    story(|world| async move {
        let first = world.volume("a", 300).await;
        let _second = world.volume("b", 2048).await;
        world.pool.start_scrub(SLOW).unwrap();
        // The first volume is through when the second is begun.
        world.until_at("b").await;
        for number in 0..20 {
            fill(&first, 0..300, 100 + number).await;
            world.pool.snapshot(&[format!("a@{number}").parse().unwrap()]).await.unwrap();
        }
        world.pool.clone_volume(&"a@7".parse().unwrap(), "c", None).await.unwrap();
        world
            .pool
            .revert("a", "a@9".parse::<crate::Target>().unwrap().snapshot.as_deref().unwrap(), true)
            .await
            .unwrap();
        world.pool.checkpoint().await.unwrap();
        world.pool.set_scrub_pace(Pace::unlimited()).unwrap();
        let report = world.pool.watch_scrub(|_| {}).await.unwrap().report;
        assert_eq!((report.versions, report.data_blocks), (2, 300 + 2048), "{report:?}");
        // The next scrub walks them all.
        let report = world.pool.scrub(Pace::unlimited(), |_| {}).await.unwrap().report;
        assert_eq!((report.versions, report.data_blocks), (2 + 20 + 1, 300 * 20 + 2048), "{report:?}");
    });
}

#[test]
fn space_comes_back_while_it_waits() {
    story(|world| async move {
        let _kept = world.volume("kept", 2048).await;
        drop(world.volume("gone", 2048).await);
        world.pool.start_scrub(SLOW).unwrap();
        world.until(30 * BLOCK).await;
        let before = world.pool.stats();
        world.pool.delete_volume("gone", false).await.unwrap();
        world.pool.wait_deleted().await.unwrap();
        let after = world.pool.stats();
        assert!(after.free >= before.free + 2048 * BLOCK && after.releasing == 0, "{before:?}\n{after:?}");
        assert_eq!(world.pool.scrub_status().running.map(|r| r.number), Some(1), "it still runs");
        world.pool.set_scrub_pace(Pace::unlimited()).unwrap();
        let report = world.pool.watch_scrub(|_| {}).await.unwrap().report;
        assert_eq!((report.data_blocks, report.versions), (2048, 1), "{report:?}");
    });
}

#[test]
fn what_is_deleted_under_it_is_left_alone() {
    story(|world| async move {
        let kept = world.volume("kept", 64).await;
        let gone = world.volume("gone", 2048).await;
        world.pool.start_scrub(SLOW).unwrap();
        world.until_at("gone").await;
        drop(gone);
        world.pool.delete_volume("gone", false).await.unwrap();
        // Its blocks hold other things before the scrub goes on.
        world.pool.wait_deleted().await.unwrap();
        let next = world.pool.create_volume("next", 64 * MIB, VolumeOptions::default()).await.unwrap();
        for round in 0..20 {
            fill(&next, 0..2048, 50 + round).await;
            fill(&kept, 0..64, 50 + round).await;
            world.pool.checkpoint().await.unwrap();
        }
        world.pool.set_scrub_pace(Pace::unlimited()).unwrap();
        let outcome = world.pool.watch_scrub(|_| {}).await.unwrap();
        assert!(outcome.report.is_clean() && !outcome.cancelled, "{outcome:?}");
        assert_eq!(world.pool.stats().checksum_errors, 0);
    });
}

#[test]
fn blocks_stay_until_their_batch_was_read_and_who_needs_them_waits() {
    story_in(32 * MIB, |world| async move {
        let volume = world.volume("v", 2000).await;
        world.pool.start_scrub(SLOW).unwrap();
        world.until(30 * BLOCK).await;
        // A batch that the device takes its time for.
        world.slow.set(true);
        world.pool.set_scrub_pace(Pace::unlimited()).unwrap();
        while !world.pool.core.scrub_holds.get() {
            yield_now().await;
        }
        let (before, writes) = (world.done(), 6 * 2000 * BLOCK);
        assert!(writes > world.pool.stats().capacity, "every free block is used, and what is given back is used again");
        for round in 2..8 {
            for some in 0..20 {
                fill(&volume, some * 100..(some + 1) * 100, round).await;
                volume.flush().await.unwrap();
            }
        }
        assert!(world.done() > before, "the batch was waited for");
        world.slow.set(false);
        let outcome = world.pool.watch_scrub(|_| {}).await.unwrap();
        assert!(outcome.report.is_clean() && !outcome.cancelled, "{:?}", outcome.report);
    });
}

#[test]
fn a_block_that_cannot_be_read_is_damaged_and_its_neighbours_are_not() {
    story(|world| async move {
        let volume = world.volume("v", 300).await;
        world.pool.snapshot(&["v@s".parse().unwrap()]).await.unwrap();
        fill(&volume, 0..10, 2).await;
        world.pool.checkpoint().await.unwrap();
        let place = damage(&world.path, &content(77, 1));
        world.bad.set(Some(place));
        let report = world.pool.scrub(Pace::unlimited(), |_| {}).await.unwrap().report;
        let told: Vec<String> = report.damaged.iter().map(ToString::to_string).collect();
        let error = std::io::Error::from_raw_os_error(libc::EIO);
        let expected = ["v", "v@s"].map(|whose| {
            format!(
                "{whose}: 4096 bytes at offset {}: data at physical block {place} cannot be read: {error}",
                77 * BLOCK
            )
        });
        assert_eq!(told, expected);
        assert_eq!((report.damaged_blocks, report.data_blocks), (1, 310));
        let checked = world.pool.check(true, |_, _| {}).await.unwrap();
        assert_eq!(checked.problems.len(), 1, "{:?}", checked.problems);
        assert!(checked.problems[0].contains("cannot be read"), "{:?}", checked.problems);
        assert_eq!(world.pool.stats().checksum_errors, 0, "nothing was read wrongly");
        // A copy of the superblock.
        for (block, what) in [(0, DamageKind::Superblock), (16, DamageKind::Superblock)] {
            world.bad.set(Some(block));
            let damaged = world.pool.scrub(Pace::unlimited(), |_| {}).await.unwrap().report.damaged;
            let found: Vec<_> = damaged.iter().filter(|d| d.volume.is_none()).map(|d| (d.what, d.physical)).collect();
            assert_eq!(found, [(what, block)]);
            assert!(damaged.iter().any(|d| d.cause.contains("cannot be read")), "{damaged:?}");
        }
    });
}
