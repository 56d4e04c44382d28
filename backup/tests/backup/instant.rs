//! Instant restores: the volume has its content from the start, whatever its users do meanwhile.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Sender},
    },
    task::{Context, Poll, Wake},
};

use cairn_backup::{ErrorKind, Job, Repository};
use cairn_engine::{IoBuf, MIB, OpenOptions, Pool, VolumeOptions};

use crate::world::{Random, World, back_up, content, noise, world, write};

const SIZE: u64 = 24 * MIB + 1536;
/// What each of several users may touch: ranges that lie between those of the others.
const STRIDE: u64 = 8 * 4096;

/// A volume with data, zeros and holes, and a backup of it.
async fn backed_up() -> (World, Repository, String, Vec<u8>) {
    let (world, repository) = world(None).await;
    drop(world.pool.create_volume("v", SIZE, VolumeOptions::default()).await.unwrap());
    let mut held = vec![0; SIZE as usize];
    let mut random = Random::new(7);
    for seed in 0..200 {
        let offset = random.below(SIZE / 512 - 300) * 512;
        let length = (random.below(256) + 1) * 512;
        let bytes = if random.one_in(6) { vec![0; length as usize] } else { noise(length as usize, seed) };
        write(&world.pool, "v", offset, &bytes).await;
        held[offset as usize..][..bytes.len()].copy_from_slice(&bytes);
    }
    write(&world.pool, "v", SIZE - 512, &[7; 512]).await;
    held[SIZE as usize - 512..].fill(7);
    let id = back_up(&repository, &world.pool, "v").await.unwrap().id;
    (world, repository, id, held)
}

/// Reads, overwrites, zeroes and discards, as fast as it can, until it is told to stop; what its ranges hold in the end.
async fn user(pool: Pool, name: &str, number: u64, mut held: Vec<u8>, stop: Arc<AtomicBool>) -> (u64, Vec<u8>) {
    let volume = pool.volume(name).await.unwrap();
    let mut random = Random::new(1000 + number);
    let mut steps = 0;
    while !stop.load(Ordering::Relaxed) || steps < 100 {
        let slot = random.below(SIZE / STRIDE / 4) * 4 + number;
        let first = random.below(STRIDE / 512);
        let sectors = random.below(STRIDE / 512 - first) + 1;
        let (offset, length) = (slot * STRIDE + first * 512, sectors * 512);
        let range = offset as usize..(offset + length) as usize;
        match random.below(5) {
            0 => volume.write_zeroes(offset, length).await.unwrap(),
            1 => volume.discard(offset, length).await.unwrap(),
            2 => {
                let bytes = noise(length as usize, steps);
                volume.write(offset, IoBuf::from(&bytes[..])).await.unwrap();
                held[range].copy_from_slice(&bytes);
                steps += 1;
                continue;
            }
            _ => {
                assert!(volume.read(offset, length as usize).await.unwrap()[..] == held[range], "{offset}, {length}");
                steps += 1;
                continue;
            }
        }
        // A discard may leave alone what is no whole block.
        let now = volume.read(offset, length as usize).await.unwrap();
        assert!(now.iter().zip(&held[range.clone()]).all(|(now, before)| *now == 0 || now == before));
        held[range].copy_from_slice(&now);
        steps += 1;
    }
    (number, held)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_volume_becomes_full_and_loses_nothing() {
    let (world, repository, id, held) = backed_up().await;
    let filling = repository.restore_instantly(&id, &world.pool, "now", &Job::new()).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let users: Vec<_> = (0..4)
        .map(|number| tokio::spawn(user(world.pool.clone(), "now", number, held.clone(), stop.clone())))
        .collect();
    // Ends although there is never a moment without requests.
    filling.run().await.unwrap();
    stop.store(true, Ordering::Relaxed);
    let mut expected = held;
    for user in users {
        let (number, theirs) = user.await.unwrap();
        for at in (number * STRIDE..SIZE).step_by(4 * STRIDE as usize) {
            let range = at as usize..(at + STRIDE).min(SIZE) as usize;
            expected[range.clone()].copy_from_slice(&theirs[range]);
        }
    }
    let info = world.pool.volume_info("now").await.unwrap();
    assert!(!info.options.filling);
    let volume = world.pool.volume("now").await.unwrap();
    for at in (0..SIZE).step_by(MIB as usize) {
        let length = (SIZE - at).min(MIB) as usize;
        assert!(volume.read(at, length).await.unwrap()[..] == expected[at as usize..][..length], "at {at}");
    }
}

#[tokio::test]
async fn a_cancelled_filling_goes_on_and_another_size_is_refused() {
    let (world, repository, id, _held) = backed_up().await;
    let job = Job::new();
    let filling = repository.restore_instantly(&id, &world.pool, "now", &job).await.unwrap();
    let other = repository.resume_filling(&id, &world.pool, "now", &Job::new()).await.err().unwrap();
    assert_eq!(other.kind(), ErrorKind::InUse);
    job.cancel();
    assert_eq!(filling.run().await.unwrap_err().kind(), ErrorKind::Cancelled);
    // Nobody brings anything: users are told.
    let refused = world.pool.volume("now").await.err().unwrap();
    assert_eq!(refused.kind(), cairn_engine::ErrorKind::Busy);
    drop(world.pool.create_volume("small", MIB, VolumeOptions::default()).await.unwrap());
    let small = back_up(&repository, &world.pool, "small").await.unwrap().id;
    let wrong = repository.resume_filling(&small, &world.pool, "now", &Job::new()).await.err().unwrap();
    assert_eq!(wrong.kind(), ErrorKind::Invalid);
    let full = repository.resume_filling(&id, &world.pool, "v", &Job::new()).await.err().unwrap();
    assert_eq!(full.kind(), ErrorKind::Invalid, "{full}");
    repository.resume_filling(&id, &world.pool, "now", &Job::new()).await.unwrap().run().await.unwrap();
    assert_eq!(content(&world.pool, "now").await, content(&world.pool, "v").await);
}

/// Tells of each wake-up, and holds a reactor that wakes until the test has looked.
struct Hold(Sender<Option<Sender<()>>>);

impl Wake for Hold {
    fn wake(self: Arc<Self>) {
        if std::thread::current().name() != Some("cairn-reactor") {
            let _test_ended = self.0.send(None);
            return;
        }
        let (go_on, held) = mpsc::channel();
        if self.0.send(Some(go_on)).is_ok() {
            let _let_go = held.recv();
        }
    }
}

/// Users pass before the commit that says so is written. Who calls it full then, and forgets what it was filled from, loses it in a crash.
#[test]
fn a_volume_is_called_full_when_a_crash_finds_it_full() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let _entered = runtime.enter();
    let (world, repository, id, _held) = runtime.block_on(backed_up());
    let filling = runtime.block_on(repository.restore_instantly(&id, &world.pool, "now", &Job::new())).unwrap();
    let (tell, told) = mpsc::channel();
    let waker = Arc::new(Hold(tell)).into();
    let mut run = std::pin::pin!(filling.run());
    let mut reactor = None;
    let outcome = loop {
        if let Poll::Ready(outcome) = run.as_mut().poll(&mut Context::from_waker(&waker)) {
            break outcome;
        }
        // Goes on to its next wake-up.
        drop(reactor);
        reactor = told.recv().unwrap();
    };
    outcome.unwrap();
    // The power goes in this moment: the reactor that said so writes nothing more.
    let path = world.dir.path().join("crashed.cairn");
    let _bytes = std::fs::copy(world.pool.path(), &path).unwrap();
    let crashed = runtime.block_on(Pool::open(&path, OpenOptions::default())).unwrap();
    assert!(!runtime.block_on(crashed.volume_info("now")).unwrap().options.filling);
    runtime.block_on(crashed.close()).unwrap();
    drop((reactor, told));
}
