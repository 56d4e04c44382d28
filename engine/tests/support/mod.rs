//! The model: what a pool must hold, as plain maps, and operations that are done to both.
//!
//! One generator serves the model test and the fuzzers: an operation is a kind and two numbers, whatever they are.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use cairn_engine::{
    BLOCK, CacheMode, ExtentKind, ExtentPage, GIB, IoBuf, MIB, OpenOptions, Pace, Pool, PoolOptions, RegroupEnd,
    RegroupOptions, StorageKind, Target, Volume, VolumeOptions,
};

/// A step of a history.
pub type Op = (u8, u32, u32);

/// Sectors that are not zero, by their number, with the value that fills them.
type Content = BTreeMap<u64, u64>;

const SECTOR: u64 = 512;
const SECTORS_PER_BLOCK: u64 = BLOCK / SECTOR;

#[derive(Clone)]
struct Frozen {
    name: String,
    size: u64,
    content: Content,
}

#[derive(Clone)]
struct Live {
    name: String,
    size: u64,
    content: Content,
    snapshots: Vec<Frozen>,
}

/// A pool and what it must hold.
pub struct World {
    pub pool: Option<Pool>,
    path: PathBuf,
    storage: StorageKind,
    volumes: Vec<Live>,
    next_name: u32,
    next_value: u64,
    open: BTreeMap<String, Volume>,
    cache: u64,
}

fn fill(value: u64) -> [u8; SECTOR as usize] {
    let mut out = [0; SECTOR as usize];
    for chunk in out.chunks_exact_mut(8) {
        chunk.copy_from_slice(&value.to_le_bytes());
    }
    out
}

/// Positions that matter: ends of leaves, of nodes, of the volume, and anything between; in sectors.
fn place(a: u32, size: u64) -> u64 {
    let sectors = size / SECTOR;
    let anchor = match a % 8 {
        0 => 0,
        1 => MIB / SECTOR,
        2 => 256 * MIB / SECTOR,
        3 => sectors - sectors.min(64),
        4 => 3 * MIB / SECTOR,
        _ => u64::from(a) % sectors,
    };
    (anchor + u64::from(a >> 3) % 600).min(sectors - 1)
}

impl World {
    pub async fn new(dir: &Path, storage: StorageKind) -> Self {
        let path = dir.join("pool.cairn");
        let open = OpenOptions::new().storage(storage);
        let pool = Pool::create(&path, PoolOptions::new().size(96 * MIB).open(open)).await.unwrap();
        Self {
            pool: Some(pool),
            path,
            storage,
            volumes: Vec::new(),
            next_name: 0,
            next_value: 1,
            open: BTreeMap::new(),
            cache: 16 * MIB,
        }
    }

    pub fn pool(&self) -> &Pool {
        self.pool.as_ref().unwrap()
    }

    fn name(&mut self, prefix: &str) -> String {
        self.next_name += 1;
        format!("{prefix}{}", self.next_name)
    }

    async fn volume(&mut self, name: &str) -> Volume {
        if let Some(volume) = self.open.get(name) {
            return volume.clone();
        }
        let volume = self.pool().volume(name).await.unwrap();
        self.open.insert(name.to_owned(), volume.clone());
        volume
    }

    /// Does one operation to the pool and to the model.
    pub async fn step(&mut self, (kind, a, b): Op) {
        if self.volumes.is_empty() {
            return self.create(a, b).await;
        }
        let at = a as usize % self.volumes.len();
        match kind % 32 {
            0..=9 => self.write(at, b, a).await,
            10..=12 => self.zero(at, b, a, kind % 2 == 0).await,
            13 => self.zero(at, 0, u32::MAX, true).await,
            14 if self.volumes.len() < 6 => self.create(a, b).await,
            14..=18 => self.snapshot(at, b).await,
            19 | 20 => self.clone_one(at, b).await,
            21 | 22 => self.delete_snapshot(at, b).await,
            23 => self.delete_volume(at).await,
            24 => self.revert(at, b).await,
            25 => self.resize(at, b).await,
            26 => {
                self.pool().checkpoint().await.unwrap();
                self.scrub().await;
                self.regroup().await;
            }
            27 => self.diff(a, b).await,
            28 => self.rename(at).await,
            29 => self.pool().wait_deleted().await.unwrap(),
            30 => self.reopen(b).await,
            _ => self.crash().await,
        }
    }

    async fn create(&mut self, a: u32, b: u32) {
        let size = match a % 5 {
            0 => MIB,
            1 => 3 * MIB + 512 * u64::from(b % 9),
            2 => 300 * MIB,
            3 => 70 * GIB,
            _ => 2 * MIB,
        };
        let name = self.name("vol");
        let cache = if (a / 5).is_multiple_of(2) { CacheMode::Writeback } else { CacheMode::Direct };
        let options = VolumeOptions { cache, ..VolumeOptions::default() };
        drop(self.pool().create_volume(&name, size, options).await.unwrap());
        self.volumes.push(Live { name, size, content: Content::new(), snapshots: Vec::new() });
    }

    async fn write(&mut self, at: usize, b: u32, a: u32) {
        let (name, size) = (self.volumes[at].name.clone(), self.volumes[at].size);
        let first = place(b, size);
        let longest = size / SECTOR - first;
        let mut count = match a % 4 {
            0 => 1 + u64::from(a >> 8) % 8,
            1 => SECTORS_PER_BLOCK,
            2 => SECTORS_PER_BLOCK * (1 + u64::from(a >> 8) % 40),
            _ => 1 + u64::from(a >> 8) % 300,
        };
        let first = if a % 4 == 1 || a % 4 == 2 { first / SECTORS_PER_BLOCK * SECTORS_PER_BLOCK } else { first };
        count = count.min(longest).max(1);
        let mut data = Vec::new();
        for sector in first..first + count {
            // One in eight sectors is zero, so that blocks become holes now and then.
            self.next_value += 1;
            let value = if self.next_value.is_multiple_of(8) { 0 } else { self.next_value };
            data.extend_from_slice(&fill(value));
            set(&mut self.volumes[at].content, sector, value);
        }
        let volume = self.volume(&name).await;
        let buf = IoBuf::from(&data[..]);
        if a.is_multiple_of(16) {
            volume.write_fua(first * SECTOR, buf).await.unwrap();
        } else {
            volume.write(first * SECTOR, buf).await.unwrap();
        }
    }

    async fn zero(&mut self, at: usize, b: u32, a: u32, discard: bool) {
        let (name, size) = (self.volumes[at].name.clone(), self.volumes[at].size);
        let sectors = size / SECTOR;
        let first = if a == u32::MAX { 0 } else { place(b, size) };
        let count = match a % 3 {
            _ if a == u32::MAX => sectors,
            0 => 1 + u64::from(a >> 4) % 100,
            1 => 1 + u64::from(a >> 4) % 5000,
            _ => sectors,
        };
        let count = count.min(sectors - first);
        let volume = self.volume(&name).await;
        let (mut from, mut to) = (first, first + count);
        if discard {
            volume.discard(first * SECTOR, count * SECTOR).await.unwrap();
            from = from.div_ceil(SECTORS_PER_BLOCK) * SECTORS_PER_BLOCK;
            if to != sectors {
                to = to / SECTORS_PER_BLOCK * SECTORS_PER_BLOCK;
            }
        } else {
            volume.write_zeroes(first * SECTOR, count * SECTOR).await.unwrap();
        }
        if from < to {
            let gone: Vec<u64> = self.volumes[at].content.range(from..to).map(|(s, _)| *s).collect();
            for sector in gone {
                self.volumes[at].content.remove(&sector);
            }
        }
    }

    /// One volume, or all of them at one moment.
    async fn snapshot(&mut self, at: usize, b: u32) {
        let chosen: Vec<usize> = if b.is_multiple_of(5) { (0..self.volumes.len()).collect() } else { vec![at] };
        if self.volumes.iter().map(|v| v.snapshots.len()).sum::<usize>() > 12 {
            return self.delete_snapshot(at, b).await;
        }
        let name = self.name("s");
        let targets: Vec<Target> = chosen
            .iter()
            .map(|&i| Target { volume: self.volumes[i].name.clone(), snapshot: Some(name.clone()) })
            .collect();
        let taken = self.pool().snapshot(&targets).await.unwrap();
        assert_eq!(taken.len(), targets.len());
        for i in chosen {
            let v = &mut self.volumes[i];
            v.snapshots.push(Frozen { name: name.clone(), size: v.size, content: v.content.clone() });
        }
    }

    async fn clone_one(&mut self, at: usize, b: u32) {
        if self.volumes[at].snapshots.is_empty() || self.volumes.len() >= 8 {
            return;
        }
        let origin = self.volumes[at].snapshots[b as usize % self.volumes[at].snapshots.len()].clone();
        let from = Target { volume: self.volumes[at].name.clone(), snapshot: Some(origin.name.clone()) };
        let name = self.name("clone");
        let size = if b.is_multiple_of(3) { origin.size * 3 } else { origin.size };
        let info = self.pool().clone_volume(&from, &name, Some(size)).await.unwrap();
        assert_eq!(info.size, size);
        self.volumes.push(Live { name, size, content: origin.content, snapshots: Vec::new() });
    }

    async fn delete_snapshot(&mut self, at: usize, b: u32) {
        if self.volumes[at].snapshots.is_empty() {
            return;
        }
        let index = b as usize % self.volumes[at].snapshots.len();
        let snapshot = self.volumes[at].snapshots.remove(index);
        let target = Target { volume: self.volumes[at].name.clone(), snapshot: Some(snapshot.name) };
        self.pool().delete_snapshot(&target).await.unwrap();
    }

    async fn delete_volume(&mut self, at: usize) {
        let volume = self.volumes.remove(at);
        self.open.remove(&volume.name);
        let deleted = self.pool().delete_volume(&volume.name, true).await.unwrap();
        assert_eq!(deleted.len(), volume.snapshots.len() + 1);
    }

    async fn revert(&mut self, at: usize, b: u32) {
        if self.volumes[at].snapshots.is_empty() {
            return;
        }
        let v = &mut self.volumes[at];
        let snapshot = v.snapshots[b as usize % v.snapshots.len()].clone();
        v.content = snapshot.content;
        v.size = snapshot.size;
        let name = v.name.clone();
        self.pool().revert(&name, &snapshot.name, true).await.unwrap();
    }

    async fn resize(&mut self, at: usize, b: u32) {
        let v = &mut self.volumes[at];
        v.size = (v.size + u64::from(b % 700) * 512 * 1024).min((80 * GIB).max(v.size));
        let (name, size) = (v.name.clone(), v.size);
        self.pool().resize(&name, size).await.unwrap();
    }

    async fn rename(&mut self, at: usize) {
        let new = self.name("renamed");
        let old = std::mem::replace(&mut self.volumes[at].name, new.clone());
        self.open.remove(&old);
        self.pool().rename(&old, &new).await.unwrap();
    }

    /// The difference of any two versions must be exactly the blocks that differ, or were written again with the same bytes.
    async fn diff(&mut self, a: u32, b: u32) {
        let mut all: Vec<(Target, u64, Content)> = Vec::new();
        for v in &self.volumes {
            all.push((Target { volume: v.name.clone(), snapshot: None }, v.size, v.content.clone()));
            for s in &v.snapshots {
                let target = Target { volume: v.name.clone(), snapshot: Some(s.name.clone()) };
                all.push((target, s.size, s.content.clone()));
            }
        }
        let (from, _, old) = &all[a as usize % all.len()];
        let (to, size, new) = &all[b as usize % all.len()];
        let mut changed: BTreeMap<u64, ExtentKind> = BTreeMap::new();
        let mut offset = 0;
        loop {
            let page = self.pool().diff(Some(from), to, offset).await.unwrap();
            collect(&page, &mut changed);
            match page.next {
                Some(next) => offset = next,
                None => break,
            }
        }
        for block in 0..=new.keys().chain(old.keys()).max().map_or(0, |s| s / SECTORS_PER_BLOCK) {
            if block * BLOCK >= *size {
                break;
            }
            let (was, is) = (block_of(old, block), block_of(new, block));
            match changed.get(&block) {
                None => assert_eq!(was, is, "{from} -> {to}: block {block} differs and is not in the difference"),
                Some(ExtentKind::Hole) => assert!(is.iter().all(|v| *v == 0), "block {block} is called a hole"),
                Some(ExtentKind::Data) => assert!(is.iter().any(|v| *v != 0), "block {block} is called data"),
            }
        }
        if from == to {
            assert!(changed.is_empty(), "a version differs from itself");
        }
    }

    async fn scrub(&self) {
        let report = self.pool().scrub(Pace::unlimited()).await.unwrap().report;
        assert!(report.is_clean(), "{:#?}", report.damaged);
    }

    async fn regroup(&self) {
        for volume in self.pool().volumes(false).await.unwrap() {
            let options = RegroupOptions { pace: Pace::unlimited(), dry_run: false };
            let outcome = self.pool().regroup(&volume.name, options).await.unwrap();
            let sound = matches!(outcome.end, RegroupEnd::Finished | RegroupEnd::NoSpace);
            assert!(sound && outcome.report.damaged_blocks == 0, "{outcome:#?}");
        }
    }

    async fn reopen(&mut self, b: u32) {
        self.open.clear();
        self.cache = if b.is_multiple_of(2) { 16 * MIB } else { 64 * MIB };
        self.pool.take().unwrap().close().await.unwrap();
        let options = OpenOptions::new().storage(self.storage).cache_bytes(self.cache);
        self.pool = Some(Pool::open(&self.path, options).await.unwrap());
    }

    /// A copy of the file after flushes is what a crash would leave: opened, it must hold everything.
    async fn crash(&mut self) {
        let names: Vec<String> = self.volumes.iter().map(|v| v.name.clone()).collect();
        for name in names {
            self.volume(&name).await.flush().await.unwrap();
        }
        let copy = self.path.with_extension("crashed");
        std::fs::copy(&self.path, &copy).unwrap();
        let pool = Pool::open(&copy, OpenOptions::new().storage(self.storage)).await.unwrap();
        self.verify_pool(&pool).await;
        pool.wait_deleted().await.unwrap();
        self.verify_pool(&pool).await;
        pool.close().await.unwrap();
        std::fs::remove_file(&copy).unwrap();
    }

    /// Every version reads back what the model says, and what is allocated is what is reachable.
    pub async fn verify(&self) {
        self.verify_pool(self.pool()).await;
    }

    async fn verify_pool(&self, pool: &Pool) {
        let report = pool.check(false, |_, _| {}).await.unwrap();
        assert!(report.is_clean(), "{:#?}", report.problems);
        let mut names: Vec<String> = pool.volumes(false).await.unwrap().into_iter().map(|v| v.name).collect();
        let mut expected: Vec<String> = self.volumes.iter().map(|v| v.name.clone()).collect();
        names.sort();
        expected.sort();
        assert_eq!(names, expected);
        for v in &self.volumes {
            verify_version(pool, &v.name, v.size, &v.content).await;
            let listed = pool.snapshots(Some(&v.name), false).await.unwrap();
            assert_eq!(listed.len(), v.snapshots.len());
            for s in &v.snapshots {
                verify_version(pool, &format!("{}@{}", v.name, s.name), s.size, &s.content).await;
            }
        }
    }

    /// Deletes everything; nothing may be left.
    pub async fn finish(mut self) {
        self.verify().await;
        // With nothing in between, a scrub reads what a check reads. The pool prunes branch points by itself now and then: then once more.
        loop {
            self.pool().wait_deleted().await.unwrap();
            let before = self.pool().check(true, |_, _| {}).await.unwrap();
            let report = self.pool().scrub(Pace::unlimited()).await.unwrap().report;
            assert!(report.is_clean(), "{:#?}", report.damaged);
            let after = self.pool().check(true, |_, _| {}).await.unwrap();
            let [before, after] = [before, after].map(|r| (r.versions, r.nodes, r.data_verified));
            if before == after {
                assert_eq!((report.versions, report.nodes, report.data_blocks), after);
                break;
            }
        }
        while !self.volumes.is_empty() {
            self.delete_volume(0).await;
        }
        self.pool().wait_deleted().await.unwrap();
        let report = self.pool().check(true, |_, _| {}).await.unwrap();
        assert!(report.is_clean(), "{:#?}", report.problems);
        assert_eq!((report.versions, report.nodes, report.data_blocks), (0, 0, 0));
        let stats = self.pool().stats().await.unwrap();
        assert_eq!((stats.volumes, stats.snapshots, stats.deleting, stats.branch_points), (0, 0, 0, 0));
        self.pool.take().unwrap().close().await.unwrap();
    }
}

fn set(content: &mut Content, sector: u64, value: u64) {
    if value == 0 {
        content.remove(&sector);
    } else {
        content.insert(sector, value);
    }
}

fn block_of(content: &Content, block: u64) -> [u64; SECTORS_PER_BLOCK as usize] {
    let mut out = [0; SECTORS_PER_BLOCK as usize];
    for (sector, value) in content.range(block * SECTORS_PER_BLOCK..(block + 1) * SECTORS_PER_BLOCK) {
        out[(sector % SECTORS_PER_BLOCK) as usize] = *value;
    }
    out
}

fn collect(page: &ExtentPage, out: &mut BTreeMap<u64, ExtentKind>) {
    for e in &page.extents {
        for block in e.offset / BLOCK..(e.offset + e.length).div_ceil(BLOCK) {
            assert!(out.insert(block, e.kind).is_none(), "block {block} twice");
        }
    }
}

async fn verify_version(pool: &Pool, name: &str, size: u64, content: &Content) {
    let volume = pool.volume(name).await.unwrap();
    assert_eq!(volume.size().await.unwrap(), size, "{name}");
    let mut data = Vec::new();
    let mut offset = 0;
    loop {
        let page = volume.extents(offset, size - offset).await.unwrap();
        let mut at = offset;
        for e in page.extents {
            assert_eq!(e.offset, at, "{name}: extents leave no gap");
            at += e.length;
            if e.kind == ExtentKind::Data {
                data.push((e.offset, e.length));
            }
        }
        match page.next {
            Some(next) => {
                assert_eq!(next, at);
                offset = next;
            }
            None => {
                assert_eq!(at, size);
                break;
            }
        }
    }
    let mut stored = Content::new();
    for (offset, length) in data {
        let bytes = volume.read(offset, length as usize).await.unwrap();
        for (i, sector) in bytes.chunks(SECTOR as usize).enumerate() {
            let value = u64::from_le_bytes(sector[..8].try_into().unwrap());
            assert!(sector == fill(value), "{name}: a torn sector at {}", offset + i as u64 * SECTOR);
            set(&mut stored, offset / SECTOR + i as u64, value);
        }
        for block in offset / BLOCK..(offset + length).div_ceil(BLOCK) {
            assert!(block_of(&stored, block).iter().any(|v| *v != 0), "{name}: block {block} stores zeros");
        }
    }
    if stored != *content {
        let wrong = stored.iter().find(|(s, v)| content.get(s) != Some(v));
        let lost = content.iter().find(|(s, v)| stored.get(s) != Some(v));
        panic!("{name}: stored (sector, value) {wrong:?}, expected {lost:?}");
    }
}
