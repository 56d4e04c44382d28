//! Handles on several threads at once: posting, cloning, dropping, closing. Every call must be answered, every handle must be droppable
//! anywhere, and when the last one is gone the file is free.
//!
//! This is also what a thread sanitizer looks at (`scripts/tsan`).

#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    future::Future,
    path::{Path, PathBuf},
    sync::mpsc,
    task::{Context, Poll, Waker},
    thread,
};

use cairn_engine::{
    BLOCK, Error, ErrorKind, IoBuf, MIB, OpenOptions, Pool, PoolOptions, StorageKind, Target, Volume, VolumeOptions,
};
use futures_channel::oneshot;
use pollster::block_on;
use tempfile::TempDir;

const THREADS: u64 = 4;
const ROUNDS: u64 = 40;
/// What a thread has of the volume that all share.
const REGION: u64 = 256 * 1024;

fn place() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir_in(if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" }).unwrap();
    let path = dir.path().join("pool.cairn");
    (dir, path)
}

fn create(path: &Path, storage: StorageKind) -> Pool {
    let options = PoolOptions::new().size(64 * MIB).open(OpenOptions::new().storage(storage));
    block_on(Pool::create(path, options)).unwrap()
}

fn open(path: &Path, storage: StorageKind) -> Pool {
    block_on(Pool::open(path, OpenOptions::new().storage(storage))).unwrap()
}

/// What thread `thread` writes in `round`.
fn block(thread: u64, round: u64) -> IoBuf {
    let mut buf = IoBuf::zeroed(BLOCK as usize);
    for (at, word) in buf.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        *word = (thread << 48 | round << 16 | at as u64).to_le_bytes();
    }
    buf
}

/// Where thread `thread` writes in `round`: each place several times.
fn offset(thread: u64, round: u64) -> u64 {
    thread * REGION + round * 7 % 16 * BLOCK
}

/// The last round, up to `rounds`, that wrote where `round` writes.
fn last_there(thread: u64, round: u64, rounds: u64) -> u64 {
    (0..rounds).rev().find(|&r| offset(thread, r) == offset(thread, round)).unwrap()
}

fn on_both_storages(test: fn(StorageKind)) {
    test(StorageKind::Pread);
    test(StorageKind::Uring);
}

/// Polls a future once, then drops it.
fn begin_only<T>(future: impl Future<Output = T>) {
    let mut future = std::pin::pin!(future);
    drop(future.as_mut().poll(&mut Context::from_waker(Waker::noop())));
}

/// One thread's work on the shared volume and on one of its own.
async fn work(pool: Pool, shared: Volume, thread: u64) {
    let own = format!("own{thread}");
    for round in 0..ROUNDS {
        // Other handles for the same things, dropped at the end of the round.
        let (pool, shared) = (pool.clone(), shared.clone());
        shared.write(offset(thread, round), block(thread, round)).await.unwrap();
        match round % 8 {
            0 => drop(pool.create_volume(&own, MIB, VolumeOptions::default()).await.unwrap()),
            1 => {
                let volume = pool.volume(&own).await.unwrap();
                volume.write_fua(0, block(thread, round)).await.unwrap();
                assert_eq!(volume.snapshot("s").await.unwrap().name, "s");
                volume.discard(0, BLOCK).await.unwrap();
            }
            2 => {
                let snapshot = pool.volume(&format!("{own}@s")).await.unwrap();
                assert_eq!(snapshot.read(0, BLOCK as usize).await.unwrap()[..], block(thread, round - 1)[..]);
            }
            3 => assert!(pool.stats().await.unwrap().free < 64 * MIB),
            4 => shared.flush().await.unwrap(),
            5 => pool.delete_snapshot(&Target { volume: own.clone(), snapshot: Some("s".to_owned()) }).await.unwrap(),
            6 => assert_eq!(pool.delete_volume(&own, false).await.unwrap(), std::slice::from_ref(&own)),
            _ => assert_eq!(pool.volume(&own).await.err().unwrap().kind(), ErrorKind::NotFound),
        }
        let read = shared.read(offset(thread, round), BLOCK as usize).await.unwrap();
        assert_eq!(read[..], block(thread, round)[..], "thread {thread} round {round}");
    }
}

async fn verify(volume: &Volume, rounds: impl Fn(u64) -> u64) {
    for thread in 0..THREADS {
        for round in 0..rounds(thread) {
            let read = volume.read(offset(thread, round), BLOCK as usize).await.unwrap();
            let expected = block(thread, last_there(thread, round, rounds(thread)));
            assert_eq!(read[..], expected[..], "thread {thread} round {round}");
        }
    }
}

#[test]
fn threads_share_a_pool_and_a_volume() {
    on_both_storages(|storage| {
        let (_dir, path) = place();
        let pool = create(&path, storage);
        let shared = block_on(pool.create_volume("shared", 4 * MIB, VolumeOptions::default())).unwrap();
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let (pool, shared) = (pool.clone(), shared.clone());
                scope.spawn(move || block_on(work(pool, shared, thread)));
            }
        });
        block_on(async {
            verify(&shared, |_| ROUNDS).await;
            assert!(pool.check(true, |_, _| ()).await.unwrap().problems.is_empty());
        });
    });
}

#[test]
fn the_last_handle_to_go_closes_wherever_it_is() {
    on_both_storages(|storage| {
        let (_dir, path) = place();
        let mut pool = create(&path, storage);
        drop(block_on(pool.create_volume("shared", 4 * MIB, VolumeOptions::default())).unwrap());
        for round in 0..10 {
            let volume = block_on(pool.volume("shared")).unwrap();
            thread::scope(|scope| {
                for thread in 0..THREADS {
                    let (pool, volume) = (pool.clone(), volume.clone());
                    scope.spawn(move || {
                        // The handle of a volume keeps its pool open.
                        drop(pool);
                        block_on(volume.write(offset(thread, round), block(thread, round))).unwrap();
                    });
                }
                drop((volume, pool));
            });
            pool = open(&path, storage);
        }
        block_on(async {
            let volume = pool.volume("shared").await.unwrap();
            verify(&volume, |_| 10).await;
        });
    });
}

/// Writes until the pool is closed; every eighth write is flushed. Returns how many rounds were begun and how many were flushed.
fn write_until_closed(volume: &Volume, thread: u64, warm: &mpsc::Sender<()>) -> (u64, u64) {
    let mut flushed = 0;
    for round in 0.. {
        let done = block_on(async {
            volume.write(offset(thread, round), block(thread, round)).await?;
            if round % 8 == 7 {
                volume.flush().await?;
                flushed = round + 1;
            }
            Ok::<_, Error>(())
        });
        if let Err(error) = done {
            assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
            return (round + 1, flushed);
        }
        if round == 10 {
            warm.send(()).unwrap();
        }
    }
    unreachable!("the pool is closed before the numbers run out")
}

#[test]
fn closing_ends_the_work_of_others_and_frees_the_file() {
    on_both_storages(|storage| {
        let (_dir, path) = place();
        let pool = create(&path, storage);
        let shared = block_on(pool.create_volume("shared", 4 * MIB, VolumeOptions::default())).unwrap();
        let (warm, warmed) = mpsc::channel();
        let rounds: Vec<_> = thread::scope(|scope| {
            let writers: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let (volume, warm) = (shared.clone(), warm.clone());
                    scope.spawn(move || write_until_closed(&volume, thread, &warm))
                })
                .collect();
            warmed.iter().take(THREADS as usize).for_each(drop);
            for pool in [pool.clone(), pool.clone()] {
                scope.spawn(move || block_on(pool.close()).unwrap());
            }
            writers.into_iter().map(|w| w.join().unwrap()).collect()
        });
        assert_eq!(block_on(pool.stats()).err().unwrap().kind(), ErrorKind::Closed);
        let again = open(&path, storage);
        assert_eq!(
            block_on(shared.read(0, 4096)).err().unwrap().kind(),
            ErrorKind::Closed,
            "a handle of the closed one"
        );
        let volume = block_on(again.volume("shared")).unwrap();
        for (thread, (begun, flushed)) in (0..).zip(rounds) {
            for round in 0..flushed {
                let read = block_on(volume.read(offset(thread, round), BLOCK as usize)).unwrap();
                let at_least = last_there(thread, round, flushed);
                let there = (at_least..begun).filter(|&r| offset(thread, r) == offset(thread, round));
                assert!(there.map(|r| block(thread, r)).any(|b| b[..] == read[..]), "thread {thread} round {round}");
            }
        }
    });
}

#[test]
fn a_pool_that_a_call_nobody_waits_for_closed_is_closed_well() {
    on_both_storages(|storage| {
        let (_dir, path) = place();
        let pool = create(&path, storage);
        {
            let mut closing = std::pin::pin!(pool.close());
            let polled = block_on(std::future::poll_fn(|cx| Poll::Ready(closing.as_mut().poll(cx))));
            assert!(matches!(polled, Poll::Pending | Poll::Ready(Ok(()))));
        }
        while block_on(pool.stats()).is_ok() {}
        block_on(pool.close()).unwrap();
    });
}

#[test]
fn a_task_that_another_thread_wakes_at_the_end_is_answered() {
    on_both_storages(|storage| {
        let (_dir, path) = place();
        drop(create(&path, storage));
        for _ in 0..20 {
            let pool = open(&path, storage);
            thread::scope(|scope| {
                let mut wakers = Vec::new();
                for _ in 0..THREADS {
                    let (waker, woken) = oneshot::channel::<()>();
                    let (pool, (begun, began)) = (pool.clone(), mpsc::channel());
                    scope.spawn(move || {
                        let task = pool.run(move |_| async move {
                            begun.send(()).unwrap();
                            woken.await
                        });
                        let answer = block_on(task);
                        assert!(matches!(&answer, Ok(Ok(()))) || answer.err().unwrap().kind() == ErrorKind::Closed);
                    });
                    began.recv().unwrap();
                    wakers.push(waker);
                }
                scope.spawn(|| wakers.into_iter().for_each(|w| w.send(()).unwrap_or(())));
                block_on(pool.close()).unwrap();
            });
        }
    });
}

#[test]
fn calls_that_are_given_up_leave_nothing_behind() {
    on_both_storages(|storage| {
        let (_dir, path) = place();
        let pool = create(&path, storage);
        let old = block(1, 1);
        block_on(async {
            let volume = pool.create_volume("shared", MIB, VolumeOptions::default()).await.unwrap();
            volume.write(0, old.clone()).await.unwrap();
            for round in 0..10 {
                begin_only(volume.write(0, block(2, round)));
                begin_only(volume.read(0, BLOCK as usize));
            }
            let read = volume.read(0, BLOCK as usize).await.unwrap();
            let mut written = (0..10).map(|round| block(2, round)).chain([old]);
            assert!(written.any(|b| b[..] == read[..]), "not one of the blocks that were written");
            drop(volume);
            begin_only(pool.volume("shared"));
            begin_only(pool.create_volume("another", MIB, VolumeOptions::default()));
            // What was begun has a few turns to come to its end.
            let mut attached = 0;
            for _ in 0..1000 {
                attached = pool.volumes(false).await.unwrap().iter().map(|v| v.attached).sum();
                if attached == 0 {
                    break;
                }
            }
            assert_eq!(attached, 0, "volumes that nobody holds are open");
            assert_eq!(pool.delete_volume("shared", false).await.unwrap(), ["shared"]);
            begin_only(pool.close());
        });
        drop(pool);
        for _ in 0..10 {
            begin_only(Pool::open(&path, OpenOptions::new().storage(storage)));
        }
        drop(open(&path, storage));
    });
}

/// The statistics of all volumes are read in parts. None is left out or shows twice, however many there are, and whoever comes and goes
/// (a new name in between may move a volume from one part to another).
#[test]
fn statistics_of_many_volumes_come_in_parts_and_are_whole() {
    let (_dir, path) = place();
    let pool = create(&path, StorageKind::Uring);
    let names = |pool: &Pool| -> Vec<String> {
        block_on(pool.volume_stats()).unwrap().into_iter().map(|stats| stats.name).collect()
    };
    assert_eq!(names(&pool), ["background"]);
    let name = |n: usize| format!("v{n:03}");
    for many in 1..=96 {
        drop(block_on(pool.create_volume(&name(many), MIB, VolumeOptions::default())).unwrap());
        let all: Vec<String> = (1..=many).map(name).chain(["background".to_owned()]).collect();
        assert_eq!(names(&pool), all);
    }
    let volume = block_on(pool.volume(&name(40))).unwrap();
    block_on(volume.write(0, block(0, 0))).unwrap();
    let one = block_on(pool.volume_stats_of(&name(40))).unwrap();
    assert_eq!((one.flows.write.requests, one.flows.write.bytes), (1, BLOCK));
    assert_eq!(one, block_on(pool.volume_stats()).unwrap()[39]);
    drop(volume);
    assert_eq!(block_on(pool.volume_stats_of("v000")).unwrap_err().kind(), ErrorKind::NotFound);
    let changing = thread::spawn({
        let pool = pool.clone();
        move || {
            for n in 1..=48 {
                block_on(pool.delete_volume(&name(n * 2), false)).unwrap();
            }
        }
    });
    while !changing.is_finished() {
        let stay = names(&pool).into_iter().filter(|name| name[1..].parse::<u32>().is_ok_and(|n| n % 2 == 1));
        assert!(stay.eq((1..=96).step_by(2).map(name)), "those that stay show once each");
    }
    changing.join().unwrap();
}
