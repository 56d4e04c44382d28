//! Many tasks at once on one pool: writers, discards, snapshots, clones, reverts, deletions, resizes, checkpoints and checks, and crashes
//! in the midst of it. Every sector must read as one of the values that the operations allow it to have.

#![allow(missing_docs, clippy::unwrap_used)]
// A crash copy is verified while the reactor's own thread waits: nothing else runs that could borrow.
#![allow(clippy::await_holding_refcell_ref)]

#[path = "support/allowed.rs"]
mod allowed;
#[path = "support/panicking.rs"]
mod panicking;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    path::{Path, PathBuf},
    rc::Rc,
};

use allowed::{Content, NEVER};
use cairn_engine::{
    CacheMode, CheckReport, ErrorKind, IoBuf, Limits, LocalPool, LocalVolume, MIB, OpenOptions, Pace, Pool,
    PoolOptions, QosTarget, RegroupEnd, RegroupOptions, StorageKind, Target, VolumeOptions,
};
use panicking::end_on_panic;

const SECTOR: u64 = 512;
const PER_BLOCK: u64 = 8;

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

struct Frozen {
    name: String,
    size: u64,
    content: Content,
}

struct Vol {
    name: String,
    open: LocalVolume,
    size: Cell<u64>,
    content: RefCell<Content>,
    snapshots: RefCell<Vec<Rc<Frozen>>>,
    /// The limits and the group; none while they are being changed.
    limits: RefCell<Option<(Limits, Option<String>)>>,
    /// Held by operations that must not meet others of their kind.
    busy: Cell<bool>,
    /// Its writes are acknowledged from memory, or were at some time: only its own flushes say something of it.
    cached: Cell<bool>,
}

impl Vol {
    fn new(name: String, open: LocalVolume, size: u64, content: Content) -> Self {
        Self {
            name,
            open,
            size: Cell::new(size),
            content: RefCell::new(content),
            snapshots: RefCell::default(),
            limits: RefCell::new(Some((Limits::default(), None))),
            busy: Cell::new(false),
            cached: Cell::new(false),
        }
    }
}

struct World {
    pool: LocalPool,
    path: PathBuf,
    volumes: RefCell<Vec<Rc<Vol>>>,
    clock: Cell<u64>,
    names: Cell<u64>,
    crashes: Cell<u64>,
    /// When the reads under way began.
    reads: RefCell<BTreeSet<u64>>,
}

fn bytes(value: u64, sectors: std::ops::Range<u64>) -> IoBuf {
    let mut buf = IoBuf::zeroed(((sectors.end - sectors.start) * SECTOR) as usize);
    if value != 0 {
        for (sector, chunk) in sectors.zip(buf.chunks_exact_mut(SECTOR as usize)) {
            for pair in chunk.chunks_exact_mut(16) {
                pair[..8].copy_from_slice(&value.to_le_bytes());
                pair[8..].copy_from_slice(&sector.to_le_bytes());
            }
        }
    }
    buf
}

fn value_of(sector: u64, data: &[u8], what: &str) -> u64 {
    let value = u64::from_le_bytes(data[..8].try_into().unwrap());
    assert!(data == &bytes(value, sector..sector + 1)[..], "{what}: sector {sector} is torn or from elsewhere");
    value
}

fn verify(what: &str, content: &Content, first: u64, data: &[u8], since: u64) {
    for (sector, chunk) in (first..).zip(data.chunks_exact(SECTOR as usize)) {
        let value = value_of(sector, chunk, what);
        assert!(
            content.allows(sector, value, since),
            "{what}: sector {sector} holds {value}, allowed since {since}: {:?}",
            content.sectors.get(&sector)
        );
    }
}

/// A place where things happen: dense at the start, around the ends of leaves and nodes, sparse elsewhere.
fn place(rng: &mut Rng, size: u64) -> u64 {
    let sectors = size / SECTOR;
    let at = match rng.below(8) {
        0..=3 => rng.below(3000),
        4 => 256 * MIB / SECTOR - 100 + rng.below(400),
        5 => sectors - 1 - rng.below(300),
        _ => rng.below(sectors / 2048) * 2048,
    };
    at.min(sectors - 1)
}

impl World {
    fn now(&self) -> u64 {
        self.clock.set(self.clock.get() + 1);
        self.clock.get()
    }

    fn name(&self, prefix: &str) -> String {
        self.names.set(self.names.get() + 1);
        format!("{prefix}{}", self.names.get())
    }

    fn pick(&self, rng: &mut Rng) -> Rc<Vol> {
        let volumes = self.volumes.borrow();
        volumes[rng.below(volumes.len() as u64) as usize].clone()
    }

    async fn write(&self, vol: &Vol, rng: &mut Rng) {
        let size = vol.open.size();
        let mut first = place(rng, size);
        let mut count = match rng.below(5) {
            0 => 1 + rng.below(9),
            1 => 1 + rng.below(700),
            _ => PER_BLOCK * (1 + rng.below(30)),
        };
        if count.is_multiple_of(PER_BLOCK) {
            first = first / PER_BLOCK * PER_BLOCK;
        }
        count = count.min(size / SECTOR - first);
        let start = self.now();
        let kind = rng.below(10);
        let value = if kind < 8 { start } else { 0 };
        let (mut from, mut to) = (first, first + count);
        if kind == 9 {
            if rng.below(6) == 0 {
                (first, count) = (0, size / SECTOR);
            }
            (from, to) = (first, first + count);
            from = from.next_multiple_of(PER_BLOCK);
            // A volume may grow before the discard looks: then its last block is a partial one.
            to = to / PER_BLOCK * PER_BLOCK;
            to = to.max(from);
        }
        let whole = kind == 9 && to - from > 100_000;
        if whole {
            vol.content.borrow_mut().begin_discard(from..to, start);
            let done = self.check(vol.open.discard(first * SECTOR, count * SECTOR, false).await);
            let end = self.now();
            vol.content.borrow_mut().end_discard(from..to, start, end, done);
            return;
        }
        vol.content.borrow_mut().begin(from..to, value, start);
        let result = match kind {
            8 => vol.open.write_zeroes(first * SECTOR, count * SECTOR, false).await,
            9 => vol.open.discard(first * SECTOR, count * SECTOR, false).await,
            _ => vol.open.write(first * SECTOR, bytes(value, first..first + count), rng.below(16) == 0).await,
        };
        let done = self.check(result);
        let end = self.now();
        vol.content.borrow_mut().end(from..to, start, end, done);
    }

    /// A revert may make a volume smaller under a request; nothing else may fail.
    fn check(&self, result: cairn_engine::Result<()>) -> bool {
        match result {
            Ok(()) => true,
            Err(e) if e.kind() == ErrorKind::Invalid => false,
            Err(e) => panic!("{e}"),
        }
    }

    async fn read(&self, vol: &Vol, rng: &mut Rng) {
        let size = vol.open.size();
        let first = place(rng, size);
        let count = (1 + rng.below(400)).min(size / SECTOR - first);
        let start = self.now();
        assert!(self.reads.borrow_mut().insert(start));
        let read = vol.open.read(first * SECTOR, (count * SECTOR) as usize).await;
        assert!(self.reads.borrow_mut().remove(&start));
        let content = vol.content.borrow();
        match read {
            Ok(data) => verify(&vol.name, &content, first, &data, start),
            Err(e) => {
                let reverted = content.reverting.is_some() || content.reverted > start;
                assert!(reverted && e.kind() == ErrorKind::Invalid, "{e}, and no revert since {start}");
            }
        }
    }

    async fn flush(&self, vol: &Vol) {
        let start = self.now();
        vol.open.flush().await.unwrap();
        let reading = self.reads.borrow().first().copied().unwrap_or(NEVER);
        for v in self.volumes.borrow().iter().filter(|v| v.name == vol.name || !v.cached.get()) {
            v.content.borrow_mut().committed(start, reading);
        }
    }

    /// From memory from here on, or from the device.
    async fn cache(&self, vol: &Vol, rng: &mut Rng) {
        let cache = [CacheMode::Direct, CacheMode::Writeback][rng.below(2) as usize];
        vol.cached.set(vol.cached.get() || cache == CacheMode::Writeback);
        let options = VolumeOptions { cache, ..VolumeOptions::default() };
        let info = self.pool.set_options(&vol.name, options).await.unwrap();
        assert_eq!(info.options.cache, cache);
    }

    async fn snapshot(&self, vol: &Vol) {
        if vol.snapshots.borrow().len() > 3 {
            return;
        }
        let name = self.name("s");
        let size = vol.open.size();
        let target = Target { volume: vol.name.clone(), snapshot: Some(name.clone()) };
        let since = self.now();
        vol.content.borrow_mut().freezing = true;
        let _taken = self.pool.snapshot(&[target]).await.unwrap();
        vol.content.borrow_mut().freezing = false;
        let content = vol.content.borrow().frozen(since, self.now());
        vol.snapshots.borrow_mut().push(Rc::new(Frozen { name, size, content }));
    }

    fn any_snapshot(&self, vol: &Vol, rng: &mut Rng) -> Option<Rc<Frozen>> {
        let snapshots = vol.snapshots.borrow();
        (!snapshots.is_empty()).then(|| snapshots[rng.below(snapshots.len() as u64) as usize].clone())
    }

    async fn verify_snapshot(&self, vol: &Vol, rng: &mut Rng) {
        let Some(s) = self.any_snapshot(vol, rng) else { return };
        let Ok(open) = self.pool.open(&Target { volume: vol.name.clone(), snapshot: Some(s.name.clone()) }) else {
            return;
        };
        assert_eq!(open.size(), s.size);
        let first = place(rng, s.size);
        let count = 600.min(s.size / SECTOR - first);
        let data = open.read(first * SECTOR, (count * SECTOR) as usize).await.unwrap();
        verify(&format!("{}@{}", vol.name, s.name), &s.content, first, &data, NEVER);
    }

    async fn delete_snapshot(&self, vol: &Vol, rng: &mut Rng) {
        let Some(s) = self.any_snapshot(vol, rng) else { return };
        vol.snapshots.borrow_mut().retain(|o| o.name != s.name);
        let target = Target { volume: vol.name.clone(), snapshot: Some(s.name.clone()) };
        match self.pool.delete_snapshot(&target).await {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::Busy => vol.snapshots.borrow_mut().push(s),
            Err(e) => panic!("{e}"),
        }
    }

    async fn clone_one(&self, vol: &Vol, rng: &mut Rng) {
        let Some(s) = self.any_snapshot(vol, rng) else { return };
        if self.volumes.borrow().len() > 6 {
            return;
        }
        let name = self.name("clone");
        let from = Target { volume: vol.name.clone(), snapshot: Some(s.name.clone()) };
        let _info = self.pool.clone_volume(&from, &name, None).await.unwrap();
        let open = self.pool.open(&name.parse().unwrap()).unwrap();
        let content = s.content.frozen(0, self.now());
        let clone = Vol::new(name, open, s.size, content);
        clone.cached.set(true);
        self.volumes.borrow_mut().push(Rc::new(clone));
    }

    async fn delete_volume(&self, rng: &mut Rng) {
        let at = {
            let volumes = self.volumes.borrow();
            if volumes.len() <= 3 {
                return;
            }
            3 + rng.below(volumes.len() as u64 - 3) as usize
        };
        let vol = self.volumes.borrow_mut().remove(at);
        match Rc::try_unwrap(vol) {
            Err(used) => self.volumes.borrow_mut().push(used),
            Ok(vol) => {
                drop(vol.open);
                let _deleted = self.pool.delete_volume(&vol.name, true).await.unwrap();
            }
        }
    }

    async fn revert(&self, vol: &Vol, rng: &mut Rng) {
        let Some(s) = self.any_snapshot(vol, rng) else { return };
        let start = self.now();
        vol.content.borrow_mut().begin_revert(&s.content, start);
        let _info = self.pool.revert(&vol.name, &s.name, true).await.unwrap();
        vol.content.borrow_mut().end_revert(start, self.now());
    }

    async fn resize(&self, vol: &Vol, rng: &mut Rng) {
        let size = (vol.open.size() + rng.below(200) * 64 * 1024).min(1 << 36).max(vol.open.size());
        match self.pool.resize(&vol.name, size).await {
            Ok(_) => vol.size.set(size),
            Err(e) => panic!("{e}"),
        }
    }

    /// Limits come and go, high enough that work goes on: of the volume, of a group that it joins or leaves, and the depth of the pool.
    async fn limit(&self, vol: &Vol, rng: &mut Rng) {
        let group = ["a", "b"][rng.below(2) as usize];
        let mut change = |key: &str, values: u64| {
            let value = (rng.below(3) > 0).then(|| (values / 4 + rng.below(values)).to_string());
            (key.to_owned(), value)
        };
        let own = [change("write_iops_sec", 4000), change("read_bytes_sec", 1 << 30), change("weight", 8)];
        let together = [change("total_iops_sec", 20_000)];
        let depth = [change("queue_depth", 64)];
        let joins = rng.below(3) > 0;
        let _old = vol.limits.take();
        let target = QosTarget::Volume(vol.name.clone());
        let member = ("group".to_owned(), joins.then(|| group.to_owned()));
        let changes: Vec<_> = own.into_iter().chain([member]).collect();
        let info = self.pool.set_qos(&target, &changes).await.unwrap();
        assert_eq!(info.group.as_deref(), joins.then_some(group));
        vol.limits.replace(Some((info.limits, info.group)));
        if joins {
            let info = self.pool.set_qos(&QosTarget::Group(group.to_owned()), &together).await.unwrap();
            assert!(info.members.contains(&vol.name), "{info:?}");
        }
        let _info = self.pool.set_qos(&QosTarget::Pool, &depth).await.unwrap();
    }

    async fn check_pool(&self) {
        match self.pool.check(true, |_, _| {}).await {
            Ok(report) => assert!(report.is_clean(), "{:#?}", report.problems),
            Err(e) => assert_eq!(e.kind(), ErrorKind::Busy),
        }
    }

    /// When nothing changes, both read the same. The pool prunes branch points by itself now and then: then once more.
    async fn compare_check_and_scrub(&self) {
        loop {
            self.pool.wait_deleted().await.unwrap();
            let before = self.pool.check(true, |_, _| {}).await.unwrap();
            let report = self.pool.scrub(Pace::unlimited(), |_| {}).await.unwrap().report;
            let after = self.pool.check(true, |_, _| {}).await.unwrap();
            assert!(before.is_clean() && report.is_clean() && after.is_clean(), "{before:#?} {report:#?} {after:#?}");
            let read = |r: &CheckReport| (r.versions, r.nodes, r.data_verified);
            if read(&before) == read(&after) && self.pool.stats().dirty_memory == 0 {
                assert_eq!((report.versions, report.nodes, report.data_blocks), read(&after));
                return;
            }
        }
    }

    /// As fast as it can, or in many small batches between everything else.
    async fn scrub_pool(&self, rng: &mut Rng) {
        let pace = if rng.below(2) == 0 { Pace::unlimited() } else { Pace::bytes_per_second(400 * MIB) };
        match self.pool.scrub(pace, |_| {}).await {
            Ok(outcome) => assert!(outcome.report.is_clean(), "{:#?}", outcome.report.damaged),
            Err(e) => assert_eq!(e.kind(), ErrorKind::Busy),
        }
    }

    async fn regroup(&self, vol: &Vol) {
        let options = RegroupOptions { pace: Pace::unlimited(), dry_run: false };
        match self.pool.regroup(&vol.name, options, |_| {}).await {
            Ok(outcome) => {
                let sound = outcome.report.damaged_blocks == 0 && outcome.end != RegroupEnd::Failed;
                assert!(sound, "{}: {outcome:#?}", vol.name);
            }
            Err(e) => assert_eq!(e.kind(), ErrorKind::Busy),
        }
    }

    /// With `pread` every write is in the file as soon as it was submitted, so a copy made here is what a crash now would leave.
    fn crash(&self) {
        self.crashes.set(self.crashes.get() + 1);
        let copy = self.path.with_extension("crashed");
        let _bytes = std::fs::copy(&self.path, &copy).unwrap();
        pollster::block_on(async {
            let pool = Pool::open(&copy, OpenOptions::new().storage(StorageKind::Pread)).await.unwrap();
            let report = pool.check(true, |_, _| {}).await.unwrap();
            assert!(report.is_clean(), "after a crash: {:#?}", report.problems);
            let found: Vec<String> = pool.volumes(false).await.unwrap().into_iter().map(|v| v.name).collect();
            for vol in self.volumes.borrow().iter() {
                assert!(found.contains(&vol.name), "{} was lost", vol.name);
                let open = pool.volume(&vol.name).await.unwrap();
                if let Some((limits, group)) = &*vol.limits.borrow() {
                    let found = pool.qos(&QosTarget::Volume(vol.name.clone())).await.unwrap();
                    assert_eq!((&found.limits, &found.group), (limits, group), "limits of {} after a crash", vol.name);
                }
                let sectors = open.size().await.unwrap() / SECTOR;
                let content = vol.content.borrow();
                let mut at = 0;
                while let Some((&first, _)) = content.sectors.range(at..).next() {
                    if first >= sectors {
                        break;
                    }
                    let count = 2048.min(sectors - first);
                    let data = open.read(first * SECTOR, (count * SECTOR) as usize).await.unwrap();
                    verify(&format!("{} after a crash", vol.name), &content, first, &data, content.durable);
                    at = first + count;
                }
            }
            pool.wait_deleted().await.unwrap();
            let report = pool.check(true, |_, _| {}).await.unwrap();
            assert!(report.is_clean(), "after a crash and deletions: {:#?}", report.problems);
            pool.close().await.unwrap();
        });
        std::fs::remove_file(&copy).unwrap();
    }

    async fn worker(self: Rc<Self>, mut rng: Rng, steps: u32, crashes: bool) {
        for _ in 0..steps {
            let vol = self.pick(&mut rng);
            match rng.below(100) {
                0..=64 => self.write(&vol, &mut rng).await,
                65..=75 => self.read(&vol, &mut rng).await,
                76..=79 => self.flush(&vol).await,
                80..=82 => self.verify_snapshot(&vol, &mut rng).await,
                kind => {
                    if vol.busy.replace(true) {
                        continue;
                    }
                    match kind {
                        83..=86 => self.snapshot(&vol).await,
                        87..=89 => self.delete_snapshot(&vol, &mut rng).await,
                        90 | 91 => self.clone_one(&vol, &mut rng).await,
                        92 => self.revert(&vol, &mut rng).await,
                        93 if rng.below(2) == 0 => self.resize(&vol, &mut rng).await,
                        93 => self.cache(&vol, &mut rng).await,
                        94 => self.pool.checkpoint().await.unwrap(),
                        95 => self.check_pool().await,
                        98 if rng.below(2) == 0 => self.scrub_pool(&mut rng).await,
                        98 => self.regroup(&vol).await,
                        96 if rng.below(2) == 0 => self.limit(&vol, &mut rng).await,
                        96 => self.pool.wait_deleted().await.unwrap(),
                        97 if crashes => self.crash(),
                        _ => {
                            vol.busy.set(false);
                            drop(vol);
                            self.delete_volume(&mut rng).await;
                            continue;
                        }
                    }
                    vol.busy.set(false);
                }
            }
        }
    }

    async fn run(self: Rc<Self>, seed: u64, workers: u64, steps: u32, crashes: bool) {
        for size in [3 * MIB, 300 * MIB, 40_000 * MIB] {
            let name = self.name("vol");
            let cache = if size == 300 * MIB { CacheMode::Direct } else { CacheMode::Writeback };
            let options = VolumeOptions { cache, ..VolumeOptions::default() };
            let open = self.pool.create_volume(&name, size, options).await.unwrap();
            let volume = Vol::new(name, open, size, Content::default());
            volume.cached.set(cache == CacheMode::Writeback);
            self.volumes.borrow_mut().push(Rc::new(volume));
        }
        let tasks: Vec<_> = (0..workers)
            .map(|i| {
                let rng = Rng((seed << 8 | i).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
                self.pool.reactor().spawn(self.clone().worker(rng, steps, crashes))
            })
            .collect();
        for task in tasks {
            task.await;
        }
        self.check_pool().await;
        self.compare_check_and_scrub().await;
        for vol in self.volumes.take() {
            let name = vol.name.clone();
            drop(vol);
            let _deleted = self.pool.delete_volume(&name, true).await.unwrap();
        }
        self.pool.wait_deleted().await.unwrap();
        let report = self.pool.check(true, |_, _| {}).await.unwrap();
        assert!(report.is_clean(), "{:#?}", report.problems);
        assert_eq!((report.versions, report.nodes, report.data_blocks), (0, 0, 0));
    }
}

fn history(seed: u64, storage: StorageKind, steps: u32, crashes: bool) {
    end_on_panic();
    let shm = Path::new("/dev/shm");
    let dir = tempfile::tempdir_in(if shm.is_dir() { shm } else { Path::new("/tmp") }).unwrap();
    let path = dir.path().join("pool.cairn");
    pollster::block_on(async {
        let open = OpenOptions::new().storage(storage).dirty_bytes(4 * MIB).cache_bytes(16 * MIB);
        let options = PoolOptions::new().size(256 * MIB).journal_size(4 * MIB).open(open);
        let pool = Pool::create(&path, options).await.unwrap();
        pool.run(move |local| async move {
            let world = World {
                pool: local,
                path,
                volumes: RefCell::default(),
                clock: Cell::new(1),
                names: Cell::new(0),
                crashes: Cell::new(0),
                reads: RefCell::default(),
            };
            Rc::new(world).run(seed, 16, steps, crashes).await;
        })
        .await
        .unwrap();
        pool.close().await.unwrap();
    });
}

fn seeds() -> std::ops::Range<u64> {
    let first = std::env::var("CAIRN_SEED").ok().and_then(|s| s.parse().ok());
    first.map_or(1..4, |s| s..s + 1)
}

#[test]
fn many_tasks_on_pread_with_crashes() {
    for seed in seeds() {
        eprintln!("seed {seed}");
        history(seed, StorageKind::Pread, 250, true);
    }
}

#[test]
fn many_tasks_on_uring() {
    for seed in seeds() {
        eprintln!("seed {seed}");
        history(seed, StorageKind::Uring, 600, false);
    }
}
