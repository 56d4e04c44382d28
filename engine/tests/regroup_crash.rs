//! A volume that is regrouped while it is written, cut off at every moment: it is at a prefix of what was acknowledged, with all that was
//! flushed, and its snapshot is what it was.

#![allow(missing_docs, clippy::unwrap_used)]

#[path = "support/scattered.rs"]
mod scattered;

use std::{cell::RefCell, rc::Rc};

use cairn_engine::{
    BLOCK, BLOCK_SIZE, CacheMode, IoBuf, LocalVolume, MIB, OpenOptions, PoolOptions, RegroupEnd, VolumeOptions,
    sim::{Disk, Faults, Machine, Rng, Survivors},
};
use scattered::{LEAF, at_once, check_clean, content, run, shuffled};

const BLOCKS: u64 = 3 * LEAF;
/// What was there when the regroup began.
const OLD: u64 = 1;

/// The tag of each block; 0: zeros.
type Content = Vec<u64>;

/// A request: what the volume holds after it, when it began and ended by moments of the disk, and whether it makes all before it durable.
struct Step {
    after: Content,
    began: usize,
    ended: Option<usize>,
    durable: bool,
}

#[derive(Default)]
struct Story {
    steps: RefCell<Vec<Step>>,
    moved: RefCell<u64>,
}

async fn found(volume: &LocalVolume) -> Content {
    let data = volume.read(0, (BLOCKS * BLOCK) as usize).await.unwrap();
    let of = |(block, bytes): (u64, &[u8])| {
        if bytes.iter().all(|byte| *byte == 0) {
            return 0;
        }
        let tag = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
        assert!(*bytes == content(block, tag)[..], "block {block} is torn");
        tag
    };
    (0..).zip(data.chunks_exact(BLOCK_SIZE)).map(of).collect()
}

async fn client(volume: LocalVolume, disk: Disk, story: Rc<Story>, mut rng: Rng) {
    let mut now: Content = vec![OLD; BLOCKS as usize];
    for tag in 2..50 {
        let first = rng.below(BLOCKS);
        // Within a leaf: such a request is there as a whole, or not.
        let count = (1 + rng.below(6)).min(LEAF - first % LEAF);
        let kind = rng.below(8);
        match kind {
            0 => {}
            1 => now[first as usize..(first + count) as usize].fill(0),
            _ => now[first as usize..(first + count) as usize].fill(tag),
        }
        let durable = kind == 0 || kind == 2;
        story.steps.borrow_mut().push(Step { after: now.clone(), began: disk.moment(), ended: None, durable });
        match kind {
            0 => volume.flush().await.unwrap(),
            1 => volume.discard(first * BLOCK, count * BLOCK, false).await.unwrap(),
            _ => {
                let data =
                    (first..first + count).map(|block| content(block, tag).to_vec()).collect::<Vec<_>>().concat();
                volume.write(first * BLOCK, IoBuf::from(&data[..]), durable).await.unwrap();
            }
        }
        story.steps.borrow_mut().last_mut().unwrap().ended = Some(disk.moment());
    }
}

async fn live(machine: Machine, seed: u64, story: Rc<Story>) {
    let disk = machine.disk().clone();
    let pool = machine.create_pool(PoolOptions::new()).await.unwrap();
    let cache = if seed % 2 == 1 { CacheMode::Writeback } else { CacheMode::Direct };
    let volume = pool.create_volume("v", 4 * MIB, VolumeOptions { cache, ..VolumeOptions::default() }).await.unwrap();
    let mut rng = Rng::new(seed);
    for block in shuffled(0..LEAF, &mut rng) {
        volume.write(block * BLOCK, content(block, OLD), false).await.unwrap();
    }
    let _taken = pool.snapshot(&["v@s".parse().unwrap()]).await.unwrap();
    for block in shuffled(0..BLOCKS, &mut rng) {
        volume.write(block * BLOCK, content(block, OLD), false).await.unwrap();
    }
    pool.checkpoint().await.unwrap();
    disk.set_faults(Faults { latency_us: 1..2000, ..Faults::default() });
    disk.record();
    let writes = machine.reactor().spawn(client(volume, disk, story.clone(), rng.fork()));
    let mut done = writes;
    loop {
        let outcome = pool.regroup("v", at_once(), |_| {}).await.unwrap();
        assert_eq!(outcome.end, RegroupEnd::Finished);
        *story.moved.borrow_mut() += outcome.report.moved_blocks;
        if rng.below(3) == 0 {
            pool.checkpoint().await.unwrap();
        }
        let over = std::future::poll_fn(|cx| std::task::Poll::Ready(std::pin::Pin::new(&mut done).poll(cx).is_ready()));
        if over.await {
            return;
        }
        machine.reactor().sleep(std::time::Duration::from_millis(1)).await;
    }
}

/// The content, and that of the snapshot; the pool is used a little and looked at again: what was taken for free was free.
async fn look(machine: Machine) -> (Content, Content) {
    let pool = machine.open_pool(OpenOptions::new()).await.unwrap();
    check_clean(&pool).await;
    let volume = pool.open(&"v".parse().unwrap()).unwrap();
    let snapshot = pool.open(&"v@s".parse().unwrap()).unwrap();
    let both = (found(&volume).await, found(&snapshot).await);
    let other = pool.create_volume("other", 16 * MIB, VolumeOptions::default()).await.unwrap();
    for block in 0..64 {
        other.write(block * BLOCK, content(block, 9), false).await.unwrap();
    }
    other.flush().await.unwrap();
    assert_eq!((found(&volume).await, found(&snapshot).await), both, "it changed after the recovery");
    both
}

fn is_prefix(steps: &[Step], found: &Content, least: usize, most: usize) -> bool {
    let old = vec![OLD; BLOCKS as usize];
    let after = |n: usize| if n == 0 { &old } else { &steps[n - 1].after };
    (least..=most).any(|n| {
        let (then, next) = (after(n), after((n + 1).min(most)));
        found.iter().zip(then.iter().zip(next)).all(|(now, (then, next))| now == then || now == next)
    })
}

fn explore(seed: u64) -> (u64, u64) {
    let (disk, story) = (Disk::new(64 * MIB, seed), Rc::new(Story::default()));
    let of = story.clone();
    run(&disk, move |machine| live(machine, seed, of));
    let recording = disk.take_recording().unwrap();
    let (mut replay, mut crashes) = (recording.replay(), 0);
    let mut frozen: Content = vec![OLD; LEAF as usize];
    frozen.resize(BLOCKS as usize, 0);
    let steps = story.steps.borrow();
    loop {
        let now = replay.moment();
        if replay.is_distinct() {
            for survivors in
                [Survivors::None, Survivors::All, Survivors::Torn(now as u64), Survivors::Random(now as u64)]
            {
                let crashed = Disk::from_image(replay.crash(survivors), seed);
                let (live, snapshot) = run(&crashed, look);
                crashes += 1;
                let durable = |s: &Step| s.durable && s.ended.is_some_and(|at| at <= now);
                let least = steps.iter().rposition(durable).map_or(0, |n| n + 1);
                let most = steps.partition_point(|s| s.began <= now);
                let at = format!("seed {seed}, moment {now}, {survivors:?}");
                assert!(is_prefix(&steps, &live, least, most), "{at}: at no prefix from step {least} to {most}");
                assert_eq!(snapshot, frozen, "{at}: the snapshot is not what it was");
            }
        }
        if !replay.advance() {
            return (crashes, *story.moved.borrow());
        }
    }
}

#[test]
fn a_crash_leaves_a_prefix_of_what_was_acknowledged() {
    for seed in 0..4 {
        let (crashes, moved) = explore(seed);
        assert!(crashes > 100 && moved > 2 * LEAF, "{crashes} crashes, {moved} blocks moved");
    }
}
