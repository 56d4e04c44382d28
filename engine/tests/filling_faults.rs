//! Volumes that are filled while something goes wrong: fillers and users that give up half-way, damage, a full pool.

#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    cell::Cell,
    collections::BTreeSet,
    future::Future,
    pin::Pin,
    rc::{Rc, Weak},
    time::Duration,
};

use cairn_engine::{
    BLOCK, ErrorKind, ExtentKind, Filler, IoBuf, LocalPool, LocalVolume, MIB, OpenOptions, PoolOptions, Result, SECTOR,
    VolumeOptions,
    sim::{self, Disk, Faults, Machine, Survivors},
};

/// Two leaves and a short last block.
const SIZE: u64 = 2 * MIB + SECTOR;
const BLOCKS: u64 = SIZE.div_ceil(BLOCK);

/// What the backup has in a block, as the word that it is made of; each fourth block is zeros.
fn backup(block: u64) -> u64 {
    if block % 4 == 3 { 0 } else { 1000 + block }
}

fn bytes(word: u64, length: u64) -> IoBuf {
    IoBuf::from(&word.to_le_bytes().repeat(length as usize / 8)[..])
}

fn length_of(block: u64) -> u64 {
    BLOCK.min(SIZE - block * BLOCK)
}

/// The backup's content of some blocks.
fn content(blocks: std::ops::Range<u64>) -> IoBuf {
    let all: Vec<u8> = blocks.flat_map(|block| bytes(backup(block), length_of(block)).to_vec()).collect();
    IoBuf::from(&all[..])
}

fn to_be_filled() -> VolumeOptions {
    VolumeOptions { filling: true, ..VolumeOptions::default() }
}

fn kind<T>(outcome: Result<T>) -> ErrorKind {
    outcome.err().expect("to be refused").kind()
}

/// A filler that keeps no list, and does not know what else is being brought.
struct Bring {
    /// Kept by the test: a filler that holds the pool keeps it in memory.
    inner: Weak<LocalVolume>,
    asked: Rc<Cell<u64>>,
}

impl Filler for Bring {
    fn fill(&self, offset: u64, length: u64) -> Pin<Box<dyn Future<Output = Result<()>>>> {
        self.asked.set(self.asked.get() + 1);
        let inner = self.inner.upgrade().unwrap();
        Box::pin(async move { bring(&inner, offset, length).await })
    }
}

async fn bring(inner: &LocalVolume, offset: u64, length: u64) -> Result<()> {
    let page = inner.extents(offset, length).await?;
    assert_eq!(page.next, None);
    for hole in page.extents.iter().filter(|e| e.kind == ExtentKind::Hole) {
        let blocks = hole.offset / BLOCK..(hole.offset + hole.length).div_ceil(BLOCK);
        inner.write(hole.offset, content(blocks), false).await?;
    }
    Ok(())
}

/// The volume as its filler and as a user sees it.
struct Scene {
    pool: LocalPool,
    inner: Rc<LocalVolume>,
    volume: LocalVolume,
    asked: Rc<Cell<u64>>,
}

impl Scene {
    async fn new(machine: &Machine, options: PoolOptions) -> Self {
        let pool = machine.create_pool(options).await.unwrap();
        drop(pool.create_volume("db", SIZE, to_be_filled()).await.unwrap());
        Self::resume(pool)
    }

    fn resume(pool: LocalPool) -> Self {
        let inner = Rc::new(pool.open_to_fill("db").unwrap());
        let asked = Rc::new(Cell::new(0));
        let filler = Bring { inner: Rc::downgrade(&inner), asked: asked.clone() };
        pool.set_filler("db", Some(Rc::new(filler))).unwrap();
        let volume = pool.open(&"db".parse().unwrap()).unwrap();
        Self { pool, inner, volume, asked }
    }

    async fn word(&self, block: u64) -> Result<u64> {
        let read = self.volume.read(block * BLOCK, length_of(block) as usize).await?;
        let word = u64::from_le_bytes(read[..8].try_into().unwrap());
        assert!(read[..] == bytes(word, length_of(block))[..], "block {block} is torn");
        Ok(word)
    }

    /// All but these blocks are as in the backup.
    async fn verify(&self, changed: &[(u64, u64)]) {
        for block in 0..BLOCKS {
            let expected = changed.iter().find(|(at, _)| *at == block).map_or(backup(block), |(_, word)| *word);
            assert_eq!(self.word(block).await.unwrap(), expected, "block {block}");
        }
    }
}

fn run<T: 'static, F: Future<Output = T> + 'static>(disk: &Disk, program: impl FnOnce(Machine) -> F) -> T {
    sim::run(disk, program).unwrap()
}

async fn moments(machine: &Machine, count: u64) {
    machine.reactor().sleep(Duration::from_micros(count)).await;
}

/// Everything that is submitted from here on takes this long.
fn latency(machine: &Machine, micros: u64) {
    machine.disk().set_faults(Faults { latency_us: micros..micros + 1, ..Faults::default() });
}

/// A filler's request to the pool ends even when the filler is gone: by then the range was brought by the next one, called filled, and used.
#[test]
fn what_a_filler_gave_up_comes_too_late() {
    run(&Disk::new(64 * MIB, 1), |machine| async move {
        let scene = Scene::new(&machine, PoolOptions::new()).await;
        latency(&machine, 1_000_000);
        let inner = scene.inner.clone();
        let whole = machine.reactor().spawn(async move { inner.write(0, content(0..BLOCKS), false).await });
        let inner = scene.inner.clone();
        let last = (BLOCKS - 1) * BLOCK;
        let short = machine.reactor().spawn(async move { inner.write(last, content(BLOCKS - 1..BLOCKS), false).await });
        moments(&machine, 1000).await;
        latency(&machine, 10);
        // Users write data, zeros, and a sector; the rest of what they touch is as in the backup.
        let mut changed = vec![(0, 7), (1, 0), (2, 0), (254, 8), (255, 8), (256, 8), (BLOCKS - 1, 9)];
        scene.volume.write(0, bytes(7, BLOCK), false).await.unwrap();
        scene.volume.write(BLOCK, bytes(0, BLOCK), false).await.unwrap();
        scene.volume.discard(2 * BLOCK, BLOCK, false).await.unwrap();
        scene.volume.write(254 * BLOCK, bytes(8, 3 * BLOCK), false).await.unwrap();
        scene.volume.write(last, bytes(9, SECTOR), false).await.unwrap();
        for block in 260..270 {
            scene.volume.write_zeroes(block * BLOCK, BLOCK, false).await.unwrap();
            changed.push((block, 0));
        }
        // What was written is left alone, what nobody has touched is brought.
        assert!(scene.pool.stats().used < 400 * BLOCK, "the late ones are still on their way");
        whole.await.unwrap();
        short.await.unwrap();
        let asked = scene.asked.get();
        scene.verify(&changed).await;
        assert!(scene.asked.get() > asked);
        scene.pool.filled("db").await.unwrap();
        scene.verify(&changed).await;
        assert!(scene.pool.check(true, |_, _| ()).await.unwrap().is_clean());
    });
}

/// The same, when the volume is full by then: holes are its users'.
#[test]
fn what_a_filler_gave_up_comes_after_the_end() {
    run(&Disk::new(64 * MIB, 2), |machine| async move {
        let scene = Scene::new(&machine, PoolOptions::new()).await;
        latency(&machine, 1_000_000);
        let inner = scene.inner.clone();
        let late = machine.reactor().spawn(async move { inner.write(0, content(0..BLOCKS), false).await });
        moments(&machine, 1000).await;
        latency(&machine, 10);
        bring(&scene.inner, 0, SIZE).await.unwrap();
        scene.pool.filled("db").await.unwrap();
        scene.volume.discard(0, 300 * BLOCK, false).await.unwrap();
        scene.volume.write(0, bytes(7, BLOCK), false).await.unwrap();
        let used = scene.pool.stats().used;
        late.await.unwrap();
        let mut changed: Vec<(u64, u64)> = (1..300).map(|block| (block, 0)).collect();
        changed.push((0, 7));
        scene.verify(&changed).await;
        assert_eq!(scene.pool.stats().used, used);
        // Nor does one begin now that has not heard of the end.
        for outcome in [scene.inner.write(0, content(0..4), false).await, scene.inner.discard(0, BLOCK, false).await] {
            assert_eq!(kind(outcome), ErrorKind::Invalid);
        }
        assert_eq!(scene.inner.read(0, BLOCK as usize).await.unwrap()[..], bytes(7, BLOCK)[..]);
        assert!(scene.pool.check(true, |_, _| ()).await.unwrap().is_clean());
    });
}

/// A filler makes no holes, and has no half blocks.
#[test]
fn a_filler_can_do_no_harm() {
    run(&Disk::new(64 * MIB, 3), |machine| async move {
        let scene = Scene::new(&machine, PoolOptions::new()).await;
        scene.volume.write(0, bytes(7, 2 * BLOCK), false).await.unwrap();
        let inner = &scene.inner;
        inner.write(0, bytes(0, 2 * BLOCK), false).await.unwrap();
        inner.write(0, bytes(1, 4 * BLOCK), true).await.unwrap();
        for outcome in [
            inner.write(SECTOR, bytes(1, BLOCK), false).await,
            inner.write(0, bytes(1, SECTOR), false).await,
            inner.discard(0, BLOCK, false).await,
            inner.write_zeroes(0, BLOCK, false).await,
        ] {
            assert_eq!(kind(outcome), ErrorKind::Invalid);
        }
        scene.verify(&[(0, 7), (1, 7), (2, 1), (3, 1)]).await;
    });
}

/// Users that go away while the filler works for them: others find what they need, now and after a crash.
#[test]
fn users_that_go_away_leave_nothing_half_done() {
    for after in (0..400).step_by(7) {
        let disk = Disk::new(64 * MIB, after);
        disk.set_faults(Faults { latency_us: 1..100, ..Faults::default() });
        run(&disk, move |machine| async move {
            let scene = Scene::new(&machine, PoolOptions::new()).await;
            let begin = |at: u64| {
                let (volume, word) = (scene.volume.clone(), 50 + at);
                machine.reactor().spawn(async move {
                    match at % 4 {
                        0 => volume.write(at * BLOCK, bytes(word, 2 * BLOCK), false).await,
                        1 => volume.write(at * BLOCK + SECTOR, bytes(word, SECTOR), false).await,
                        2 => volume.write_zeroes(at * BLOCK, 2 * BLOCK, false).await,
                        _ => volume.read(at * BLOCK, 2 * BLOCK as usize).await.map(drop),
                    }
                })
            };
            // In leaves of their own and across their border; twice in one place.
            let tasks: Vec<_> = [0, 0, 4, 5, 5, 6, 7, 7, 252, 253, 254, 254, 255, 256].map(begin).into();
            moments(&machine, after).await;
            for task in tasks {
                let _answer = task.cancel().await;
            }
            for block in 0..BLOCKS {
                let read = scene.volume.read(block * BLOCK, length_of(block) as usize).await.unwrap();
                for sector in read.chunks(SECTOR as usize) {
                    let word = u64::from_le_bytes(sector[..8].try_into().unwrap());
                    let written = [block, block.saturating_sub(1)].map(|at| 50 + at).contains(&word) || word == 0;
                    let touched = [0, 1, 4, 5, 6, 7, 252, 253, 254, 255, 256, 257].contains(&block);
                    assert!(
                        word == backup(block) || touched && written,
                        "after {after} us: block {block} has {word} of nobody's"
                    );
                }
            }
            assert!(scene.pool.check(true, |_, _| ()).await.unwrap().is_clean());
        });
    }
}

/// Blocks that users wrote over the backup's, some of them with zeros.
const CHANGED: [(u64, u64); 5] = [(0, 7), (1, 0), (5, 7), (255, 7), (256, 0)];

/// Any block that is damaged is reported where it is read, and for ever: neither a restore that goes on nor a repair takes it for a hole.
#[test]
fn damage_is_never_filled_over() {
    let disk = Disk::new(64 * MIB, 4);
    run(&disk, |machine| async move {
        let scene = Scene::new(&machine, PoolOptions::new()).await;
        for (block, word) in CHANGED {
            scene.volume.write(block * BLOCK, bytes(word, BLOCK), false).await.unwrap();
        }
        scene.pool.checkpoint().await.unwrap();
        scene.pool.checkpoint().await.unwrap();
    });
    let image = disk.crash(Survivors::All).image();
    let (mut refused, mut damaged) = (0, 0);
    let in_use: BTreeSet<u64> =
        (0..image.blocks()).filter(|block| image.block(*block).iter().any(|byte| *byte != 0)).collect();
    // Beside what shows that it is in use there are zeros that are.
    let around: BTreeSet<u64> = in_use.iter().flat_map(|block| block.saturating_sub(2)..=block + 2).collect();
    for block in around.into_iter().filter(|block| *block < image.blocks()) {
        let disk = Disk::from_image(image.clone(), block);
        disk.rot(block);
        let found = run(&disk, |machine| async move {
            let Ok(pool) = machine.open_pool(OpenOptions::new()).await else { return None };
            let plan = pool.plan_repair(true, |_, _| ()).await.unwrap();
            let _report = pool.repair(&plan, |_, _| ()).await.unwrap();
            let scene = Scene::resume(pool);
            let mut failed = 0;
            for block in 0..BLOCKS {
                let expected = CHANGED.iter().find(|(at, _)| *at == block).map_or(backup(block), |(_, word)| *word);
                match scene.word(block).await {
                    Ok(word) => assert_eq!(word, expected, "block {block}"),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
                        failed += 1;
                    }
                }
            }
            Some(failed)
        });
        match found {
            None => refused += 1,
            Some(failed) => damaged += u64::from(failed > 0),
        }
    }
    // The blocks that were written, two leaves and a node above them; the version table.
    assert!(damaged >= CHANGED.len() as u64 + 3 && refused > 0, "{damaged} with damage, {refused} refused");
}

/// Zeros and overwrites of what is there go on in a full pool; what would have to be brought is refused, until there is room.
#[test]
fn a_full_pool() {
    run(&Disk::new(32 * MIB, 5), |machine| async move {
        let scene = Scene::new(&machine, PoolOptions::new()).await;
        scene.volume.read(0, 64 * BLOCK as usize).await.unwrap();
        let other = scene.pool.create_volume("other", 64 * MIB, VolumeOptions::default()).await.unwrap();
        let mut at = 0;
        let full = loop {
            match other.write(at, bytes(1, BLOCK), false).await {
                Ok(()) => at += BLOCK,
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), ErrorKind::NoSpace);
        assert_eq!(kind(scene.volume.read(64 * BLOCK, 256 * BLOCK as usize).await), ErrorKind::NoSpace);
        for round in 1..5 {
            // Three blocks that the backup has, then one that it has not: that is new data.
            scene.volume.write(0, bytes(round, 3 * BLOCK), false).await.unwrap();
            assert_eq!(kind(scene.volume.write(3 * BLOCK, bytes(round, BLOCK), false).await), ErrorKind::NoSpace);
            scene.volume.discard(4 * BLOCK, 10 * BLOCK, false).await.unwrap();
            scene.volume.write_zeroes(20 * BLOCK + SECTOR, 20 * BLOCK, false).await.unwrap();
        }
        let zeros = (4..14).chain(21..40).map(|block| (block, 0));
        let changed: Vec<(u64, u64)> = zeros.chain((0..3).map(|block| (block, 4))).collect();
        let head = scene.volume.read(20 * BLOCK, SECTOR as usize).await.unwrap();
        assert!(head[..] == bytes(backup(20), SECTOR)[..]);
        drop(other);
        scene.pool.delete_volume("other", false).await.unwrap();
        scene.pool.wait_deleted().await.unwrap();
        // Blocks 20 and 40 are half zeros.
        scene.volume.write(20 * BLOCK, bytes(backup(20), BLOCK), false).await.unwrap();
        scene.volume.write(40 * BLOCK, bytes(backup(40), BLOCK), false).await.unwrap();
        scene.verify(&changed).await;
        scene.pool.filled("db").await.unwrap();
        assert!(scene.pool.check(true, |_, _| ()).await.unwrap().is_clean());
    });
}
