//! Several volumes whose writes are acknowledged from memory, cut off at every moment: each is at a prefix of what was acknowledged, with all
//! that was flushed; and a set of snapshots is of one moment.

#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use cairn_engine::{
    BLOCK, CacheMode, IoBuf, LocalPool, LocalVolume, MIB, OpenOptions, PoolOptions, SECTOR, Target, VolumeOptions,
    sim::{self, Disk, Faults, Machine, Sabotage, Survivors, sabotage},
};

/// Blocks that a volume's client writes to; the one behind them is written by somebody else.
const BLOCKS: u64 = 12;
const SECTORS: u64 = BLOCKS * BLOCK / SECTOR;
const PAIR: u64 = BLOCKS * BLOCK;
const CLIENTS: [&str; 2] = ["a", "b"];

type Content = Vec<u64>;

/// One request of a client: what the volume holds after it, and when it began and was answered, by moments of the disk and by a clock of all.
struct Step {
    after: Content,
    began: (usize, u64),
    ended: Option<(usize, u64)>,
    /// With its answer, it and all before it is durable.
    durable: bool,
}

struct Taken {
    name: String,
    began: u64,
    ended: u64,
    moment: usize,
}

#[derive(Default)]
struct Story {
    steps: [RefCell<Vec<Step>>; 2],
    taken: RefCell<Vec<Taken>>,
    clock: Cell<u64>,
    over: Cell<u32>,
}

impl Story {
    fn now(&self) -> u64 {
        self.clock.set(self.clock.get() + 1);
        self.clock.get()
    }
}

fn sectors(first: u64, values: &[u64]) -> IoBuf {
    let mut buf = IoBuf::zeroed(values.len() * SECTOR as usize);
    for ((sector, value), bytes) in (first..).zip(values).zip(buf.chunks_exact_mut(SECTOR as usize)) {
        if *value > 0 {
            bytes[..8].copy_from_slice(&value.to_le_bytes());
            bytes[504..].copy_from_slice(&sector.to_le_bytes());
        }
    }
    buf
}

async fn content(volume: &LocalVolume) -> (Content, u64) {
    let data = volume.read(0, (PAIR + SECTOR) as usize).await.unwrap();
    let value = |bytes: &[u8]| u64::from_le_bytes(bytes[..8].try_into().unwrap());
    let found = (0..).zip(data.chunks_exact(SECTOR as usize)).map(|(sector, bytes)| {
        assert!(*bytes == sectors(sector, &[value(bytes)])[..], "sector {sector} is torn");
        value(bytes)
    });
    let mut found: Content = found.collect();
    let pair = found.pop().unwrap();
    (found, pair)
}

async fn client(number: usize, volume: LocalVolume, disk: Disk, story: Rc<Story>, mut rng: sim::Rng) {
    let mut now: Content = vec![0; SECTORS as usize];
    for step in 1..=70 {
        let first = rng.below(SECTORS);
        let mut count = (1 + rng.below(40)).min(SECTORS - first);
        let whole = rng.below(3) > 0;
        let first = if whole { first / 8 * 8 } else { first };
        if whole {
            count = (count.next_multiple_of(8)).min(SECTORS - first);
        }
        let range = first as usize..(first + count) as usize;
        let (kind, mut durable) = (rng.below(16), false);
        let mut values = vec![step; count as usize];
        match kind {
            0 => durable = true,
            1 | 2 => values.fill(0),
            3 => values[count as usize / 2..].fill(0),
            4 => durable = true,
            _ => {}
        }
        if kind == 1 {
            let (start, end) = (first.next_multiple_of(8), (first + count) / 8 * 8);
            now[(start as usize)..(end.max(start) as usize)].fill(0);
        } else if kind != 0 {
            now[range].copy_from_slice(&values);
        }
        let began = (disk.moment(), story.now());
        story.steps[number].borrow_mut().push(Step { after: now.clone(), began, ended: None, durable });
        let (offset, length) = (first * SECTOR, count * SECTOR);
        match kind {
            0 => volume.flush().await.unwrap(),
            1 => volume.discard(offset, length, false).await.unwrap(),
            2 => volume.write_zeroes(offset, length, false).await.unwrap(),
            _ => volume.write(offset, sectors(first, &values), kind == 4).await.unwrap(),
        }
        let ended = (disk.moment(), story.now());
        story.steps[number].borrow_mut().last_mut().unwrap().ended = Some(ended);
    }
    story.over.set(story.over.get() + 1);
}

/// Counts up, first in one volume, then in the other.
async fn pair(volumes: [LocalVolume; 2], story: Rc<Story>) {
    let mut count = 0;
    while story.over.get() < 2 {
        count += 1;
        for volume in &volumes {
            volume.write(PAIR, sectors(SECTORS, &[count]), false).await.unwrap();
        }
        // Now and then it is faster than the drain.
        if count % 8 == 0 {
            volumes[0].flush().await.unwrap();
        }
    }
}

async fn snapshots(pool: LocalPool, disk: Disk, story: Rc<Story>) {
    for number in 0..6 {
        pool.reactor().sleep(std::time::Duration::from_millis(7)).await;
        let name = format!("s{number}");
        let targets = CLIENTS.map(|v| Target { volume: v.to_owned(), snapshot: Some(name.clone()) });
        let began = story.now();
        let _taken = pool.snapshot(&targets).await.unwrap();
        story.taken.borrow_mut().push(Taken { name, began, ended: story.now(), moment: disk.moment() });
    }
}

async fn live(machine: Machine, seed: u64, story: Rc<Story>) {
    let disk = machine.disk().clone();
    let pool = machine.create_pool(PoolOptions::new()).await.unwrap();
    let options = VolumeOptions { cache: CacheMode::Writeback, ..VolumeOptions::default() };
    let mut open = Vec::new();
    for name in CLIENTS {
        open.push(pool.create_volume(name, MIB, options.clone()).await.unwrap());
    }
    disk.set_faults(Faults { latency_us: 1..3000, ..Faults::default() });
    disk.record();
    let mut rng = sim::Rng::new(seed);
    let mut tasks = Vec::new();
    for (number, volume) in open.iter().enumerate() {
        let client = client(number, volume.clone(), disk.clone(), story.clone(), rng.fork());
        tasks.push(machine.reactor().spawn(client));
    }
    tasks.push(machine.reactor().spawn(pair([open[0].clone(), open[1].clone()], story.clone())));
    tasks.push(machine.reactor().spawn(snapshots(pool.clone(), disk, story.clone())));
    for task in tasks {
        task.await;
    }
}

/// Whether a content is what a volume held after some step from `least` to `most`, or within the step after it.
fn is_prefix(steps: &[Step], found: &Content, least: usize, most: usize) -> bool {
    let empty = vec![0; SECTORS as usize];
    let after = |n: usize| if n == 0 { &empty } else { &steps[n - 1].after };
    (least..=most).any(|n| {
        let (then, next) = (after(n), after((n + 1).min(most)));
        found.iter().zip(then.iter().zip(next)).all(|(now, (then, next))| now == then || now == next)
    })
}

struct Found {
    live: Vec<Content>,
    snapshots: Vec<(String, [(Content, u64); 2])>,
}

async fn look(machine: Machine) -> Found {
    let pool = machine.open_pool(OpenOptions::new()).await.unwrap();
    assert!(pool.check(true, |_, _| {}).await.unwrap().is_clean());
    let mut found = Found { live: Vec::new(), snapshots: Vec::new() };
    for name in CLIENTS {
        found.live.push(content(&pool.open(&name.parse().unwrap()).unwrap()).await.0);
    }
    for snapshot in pool.list_snapshots(Some(CLIENTS[0])).unwrap() {
        let mut of = Vec::new();
        for name in CLIENTS {
            of.push(content(&pool.open(&format!("{name}@{}", snapshot.name).parse().unwrap()).unwrap()).await);
        }
        found.snapshots.push((snapshot.name, of.try_into().unwrap()));
    }
    found
}

/// Checks what a crash at `now` left.
fn verify(story: &Story, found: &Found, now: usize) -> Result<(), String> {
    for (number, live) in found.live.iter().enumerate() {
        let steps = story.steps[number].borrow();
        let durable = |s: &Step| s.durable && s.ended.is_some_and(|(at, _)| at <= now);
        let least = steps.iter().rposition(durable).map_or(0, |n| n + 1);
        let most = steps.partition_point(|s| s.began.0 <= now);
        if !is_prefix(&steps, live, least, most) {
            return Err(format!("{} is at no prefix from step {least} to {most}", CLIENTS[number]));
        }
    }
    for taken in story.taken.borrow().iter() {
        let there = found.snapshots.iter().find(|(name, _)| *name == taken.name);
        let Some((name, of)) = there else {
            if taken.moment <= now {
                return Err(format!("{} is gone", taken.name));
            }
            continue;
        };
        let [(_, first), (_, second)] = of;
        if *first != *second && *first != second + 1 {
            return Err(format!("{name} is of several moments: {first} and {second}"));
        }
        for (number, (content, _)) in of.iter().enumerate() {
            let steps = story.steps[number].borrow();
            let least = steps.iter().take_while(|s| s.ended.is_some_and(|(_, at)| at < taken.began)).count();
            let most = steps.partition_point(|s| s.began.1 < taken.ended);
            if !is_prefix(&steps, content, least, most) {
                return Err(format!("{}@{name} is not what was there, step {least} to {most}", CLIENTS[number]));
            }
        }
    }
    Ok(())
}

/// Lives through a history and cuts it off at every moment; how many crashes, and how many snapshots were looked at.
fn explore(seed: u64) -> Result<(u64, u64), String> {
    let (disk, story) = (Disk::new(32 * MIB, seed), Rc::new(Story::default()));
    let of = story.clone();
    sim::run(&disk, move |machine| live(machine, seed, of)).map_err(|_| "it hangs".to_owned())?;
    let recording = disk.take_recording().unwrap();
    let (mut replay, mut crashes, mut looked) = (recording.replay(), 0, 0);
    loop {
        let now = replay.moment();
        if replay.is_distinct() {
            for survivors in [Survivors::None, Survivors::All, Survivors::Torn(now as u64)] {
                let disk = Disk::from_image(replay.crash(survivors), seed);
                let found = sim::run(&disk, look).map_err(|_| "it hangs".to_owned())?;
                (crashes, looked) = (crashes + 1, looked + found.snapshots.len() as u64);
                verify(&story, &found, now).map_err(|e| format!("seed {seed}, moment {now}, {survivors:?}: {e}"))?;
            }
        }
        if !replay.advance() {
            return Ok((crashes, looked));
        }
    }
}

#[test]
fn a_crash_leaves_a_prefix_of_each_volume() {
    for seed in 0..3 {
        let (crashes, looked) = explore(seed).unwrap_or_else(|failure| panic!("{failure}"));
        assert!(crashes > 200 && looked > 100, "{crashes} crashes, {looked} snapshots");
    }
}

/// The proof of the proof: each rule broken, and some seed notices.
#[test]
fn broken_rules_are_noticed() {
    for rule in [Sabotage::DrainOutOfOrder, Sabotage::PassBacklog, Sabotage::FlushPastBacklog] {
        sabotage(Some(rule));
        let noticed = (0..6).any(|seed| {
            let explored = std::panic::catch_unwind(|| explore(seed));
            explored.is_err() || explored.is_ok_and(|explored| explored.is_err())
        });
        sabotage(None);
        assert!(noticed, "{rule:?}: nobody noticed");
    }
}
