//! Regrouping beside everything else that is done to a volume: nothing that was acknowledged is lost, changed or brought back, whatever way
//! writes take.

#![allow(missing_docs, clippy::unwrap_used)]

#[path = "support/scattered.rs"]
mod scattered;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
};

use cairn_engine::{
    BLOCK, CacheMode, ErrorKind, IoBuf, LocalPool, LocalVolume, MIB, OpenOptions, PoolOptions, RegroupEnd,
    RegroupReport, SECTOR, SyncMode, VolumeOptions,
    sim::{Disk, Faults, Machine, Rng, Sabotage, sabotage},
};
use scattered::{at_once, check_clean, run};

const SIZE: u64 = 4 * MIB + 3 * SECTOR;
const SECTORS: u64 = SIZE / SECTOR;

/// One byte stands for a sector.
type Content = Vec<u8>;

fn bytes(values: &[u8]) -> IoBuf {
    let mut buf = IoBuf::zeroed(values.len() * SECTOR as usize);
    for (sector, value) in buf.chunks_exact_mut(SECTOR as usize).zip(values) {
        sector.fill(*value);
    }
    buf
}

async fn compare(volume: &LocalVolume, expected: &Content, when: &str) {
    let found = volume.read(0, expected.len() * SECTOR as usize).await.unwrap();
    for (number, (sector, value)) in found.chunks_exact(SECTOR as usize).zip(expected).enumerate() {
        assert!(
            sector == [*value; SECTOR as usize],
            "{} {when}: sector {number}, {value}: {:?}",
            volume.name(),
            &sector[..8]
        );
    }
}

/// Regroups one volume after the other, again and again.
async fn regroups(pool: LocalPool, over: Rc<Cell<bool>>, seen: Rc<RefCell<RegroupReport>>) {
    while !over.get() {
        for volume in pool.list_volumes() {
            match pool.regroup(&volume.name, at_once(), |_| {}).await {
                Ok(outcome) => {
                    let early = matches!(outcome.end, RegroupEnd::Deleted | RegroupEnd::NoSpace);
                    assert!(early || outcome.end == RegroupEnd::Finished, "{outcome:?}");
                    let mut all = seen.borrow_mut();
                    all.moved_blocks += outcome.report.moved_blocks;
                    all.changed_blocks += outcome.report.changed_blocks;
                    all.shared_blocks += outcome.report.shared_blocks;
                    assert_eq!(outcome.report.damaged_blocks, 0, "{outcome:?}");
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error}"),
            }
        }
        pool.reactor().sleep(std::time::Duration::from_micros(300)).await;
    }
}

struct Client {
    pool: LocalPool,
    rng: Rng,
    options: VolumeOptions,
    now: Content,
    snapshots: BTreeMap<String, Content>,
    names: u64,
}

impl Client {
    fn name(&mut self, kind: &str) -> String {
        self.names += 1;
        format!("{kind}{}", self.names)
    }

    fn range(&mut self) -> (u64, u64) {
        let first = self.rng.below(SECTORS);
        let first = if self.rng.below(3) > 0 { first / 8 * 8 } else { first };
        let longest = [8, 8, 40, 600][self.rng.below(4) as usize];
        (first, (1 + self.rng.below(longest)).min(SECTORS - first))
    }

    async fn step(&mut self, volume: &LocalVolume, step: u64) {
        let (first, count) = self.range();
        let range = first as usize..(first + count) as usize;
        let (offset, length) = (first * SECTOR, count * SECTOR);
        match self.rng.below(40) {
            0 => volume.flush().await.unwrap(),
            1 | 2 => {
                volume.discard(offset, length, false).await.unwrap();
                let end = if first + count == SECTORS { SECTORS } else { (first + count) / 8 * 8 };
                let start = first.next_multiple_of(8).min(SECTORS);
                self.now[start as usize..end.max(start) as usize].fill(0);
            }
            3 => {
                volume.write_zeroes(offset, length, false).await.unwrap();
                self.now[range].fill(0);
            }
            4 => {
                let name = self.name("s");
                let _taken = self.pool.snapshot(&[format!("a@{name}").parse().unwrap()]).await.unwrap();
                let _new = self.snapshots.insert(name, self.now.clone());
            }
            5 if self.snapshots.len() > 2 => {
                let (name, _) = self.snapshots.pop_first().unwrap();
                self.pool.delete_snapshot(&format!("a@{name}").parse().unwrap()).await.unwrap();
            }
            6 => {
                let Some((name, content)) = self.snapshots.last_key_value() else { return };
                let (name, content) = (name.clone(), content.clone());
                let clone = self.name("c");
                let _info = self.pool.clone_volume(&format!("a@{name}").parse().unwrap(), &clone, None).await.unwrap();
                compare(&self.pool.open(&clone.parse().unwrap()).unwrap(), &content, "cloned").await;
                if self.rng.below(2) == 0 {
                    let _names = self.pool.delete_volume(&clone, false).await.unwrap();
                }
            }
            7 => compare(volume, &self.now, "between").await,
            _ => {
                let values: Vec<u8> = (0..count).map(|n| ((step + n) % 255 + 1) as u8).collect();
                volume.write(offset, bytes(&values), self.rng.below(16) == 0).await.unwrap();
                self.now[range].copy_from_slice(&values);
            }
        }
    }

    async fn live(mut self, machine: &Machine) {
        let volume = self.pool.create_volume("a", SIZE, self.options.clone()).await.unwrap();
        machine.disk().set_faults(Faults { latency_us: 1..2000, ..Faults::default() });
        for step in 0..400 {
            self.step(&volume, step).await;
            if step % 50 == 49 {
                // The live volume goes back to a snapshot, or grows a new name.
                if let Some((name, content)) = self.snapshots.last_key_value().map(|(n, c)| (n.clone(), c.clone()))
                    && self.rng.below(2) == 0
                    && self.pool.revert("a", &name, true).await.is_ok()
                {
                    self.now = content;
                }
            }
        }
        compare(&volume, &self.now, "in the end").await;
        for (name, content) in &self.snapshots {
            compare(&self.pool.open(&format!("a@{name}").parse().unwrap()).unwrap(), content, "in the end").await;
        }
    }
}

/// One seed; what the regroups came to.
fn beside(seed: u64, options: VolumeOptions) -> RegroupReport {
    let disk = Disk::new(96 * MIB, seed);
    let found = Rc::new(RefCell::new(RegroupReport::default()));
    let (seen, over) = (found.clone(), Rc::new(Cell::new(false)));
    run(&disk, move |machine| async move {
        let pool = machine.create_pool(PoolOptions::new()).await.unwrap();
        let regroups = machine.reactor().spawn(regroups(pool.clone(), over.clone(), seen));
        let client = Client {
            pool: pool.clone(),
            rng: Rng::new(seed),
            options,
            now: vec![0; SECTORS as usize],
            snapshots: BTreeMap::new(),
            names: 0,
        };
        client.live(&machine).await;
        over.set(true);
        regroups.await;
        pool.wait_deleted().await.unwrap();
        check_clean(&pool).await;
    });
    found.take()
}

fn ways() -> [VolumeOptions; 3] {
    let plain = VolumeOptions::default();
    [
        plain.clone(),
        VolumeOptions { cache: CacheMode::Writeback, ..plain.clone() },
        VolumeOptions { sync: SyncMode::Always, ..plain },
    ]
}

#[test]
fn whatever_is_done_meanwhile_stays_done() {
    for options in ways() {
        let mut all = RegroupReport::default();
        for seed in 0..8 {
            let report = beside(seed, options.clone());
            all.moved_blocks += report.moved_blocks;
            all.changed_blocks += report.changed_blocks;
            all.shared_blocks += report.shared_blocks;
        }
        println!("{options:?}: {all:?}");
        assert!(all.moved_blocks > 1000 && all.changed_blocks > 10 && all.shared_blocks > 100, "{options:?}: {all:?}");
    }
}

/// The proof of the proof: without a second look, writes are lost, and some seed notices.
#[test]
fn a_second_look_is_needed() {
    for options in ways() {
        sabotage(Some(Sabotage::RegroupBlindly));
        let noticed = (0..8).any(|seed| std::panic::catch_unwind(|| beside(seed, options.clone())).is_err());
        sabotage(None);
        assert!(noticed, "{options:?}: nobody noticed");
    }
}

/// Acknowledged writes wait in memory while what they replace is moved: they are in front of it, and get into the tree after it.
#[test]
fn a_backlog_is_neither_waited_for_nor_passed() {
    let disk = Disk::new(96 * MIB, 77);
    run(&disk, |machine| async move {
        let pool = machine.create_pool(PoolOptions::new()).await.unwrap();
        let options = VolumeOptions { cache: CacheMode::Writeback, ..VolumeOptions::default() };
        let volume = pool.create_volume("a", 4 * MIB, options).await.unwrap();
        scattered::scatter(&volume, 0..4 * scattered::LEAF, 1, 1).await;
        volume.flush().await.unwrap();
        // The device fails all writes of data for a while: what is acknowledged stays in memory.
        machine.disk().set_faults(Faults { write_error: 1_000_000, ..Faults::default() });
        volume.write(5 * BLOCK, scattered::content(5, 2), false).await.unwrap();
        machine.reactor().sleep(std::time::Duration::from_millis(20)).await;
        assert!(volume.flush().await.is_err() && pool.stats().writeback_memory > 0);
        machine.disk().set_faults(Faults::default());
        let report = scattered::regroup(&pool, "a").await;
        assert_eq!((report.moved_blocks, report.runs_after), (4 * scattered::LEAF, 4), "{report:?}");
        scattered::expect(&volume, 0..5, 1).await;
        scattered::expect(&volume, 5..6, 2).await;
        scattered::expect(&volume, 6..4 * scattered::LEAF, 1).await;
        // Closed and opened again, it is tried once more, and replaces what was moved.
        drop(volume);
        let volume = pool.open(&"a".parse().unwrap()).unwrap();
        volume.flush().await.unwrap();
        scattered::expect(&volume, 5..6, 2).await;
        scattered::expect(&volume, 6..4 * scattered::LEAF, 1).await;
        pool.checkpoint().await.unwrap();
        check_clean(&pool).await;
    });
    run(&disk.crash(cairn_engine::sim::Survivors::None), |machine| async move {
        let pool = machine.open_pool(OpenOptions::new()).await.unwrap();
        let volume = pool.open(&"a".parse().unwrap()).unwrap();
        scattered::expect(&volume, 5..6, 2).await;
    });
}
