//! Volumes that are filled while they are in use: nobody sees a hole that is not the backup's, and nobody's writes are filled over,
//! whenever the power goes.

#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    future::{Future, poll_fn},
    path::{Path, PathBuf},
    pin::Pin,
    rc::Rc,
    sync::{Arc, mpsc},
    task::Poll,
    thread::{self, JoinHandle},
};

use cairn_engine::{
    BLOCK, Error, ErrorKind, ExtentKind, ExtentPage, FillRequests, Filler, IoBuf, LocalPool, LocalVolume, MIB,
    OpenOptions, Pool, PoolOptions, Result, SECTOR, StorageKind, SyncMode, Target, Volume, VolumeOptions, sim,
};
use pollster::block_on;
use tempfile::TempDir;

/// A short last block, and 256 before it.
const SIZE: u64 = MIB + SECTOR;
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

fn to_be_filled() -> VolumeOptions {
    VolumeOptions { filling: true, ..VolumeOptions::default() }
}

fn on_both_storages(test: fn(StorageKind)) {
    test(StorageKind::Pread);
    test(StorageKind::Uring);
}

fn open_options(storage: StorageKind) -> OpenOptions {
    OpenOptions::new().storage(storage)
}

/// A pool with the volume `db` that is to be filled, and the handle of its maker.
fn world(storage: StorageKind) -> (TempDir, PathBuf, Pool, Volume) {
    let dir = tempfile::tempdir_in(if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" }).unwrap();
    let path = dir.path().join("pool.cairn");
    let options = PoolOptions::new().size(64 * MIB).open(open_options(storage));
    let pool = block_on(Pool::create(&path, options)).unwrap();
    let inner = block_on(pool.create_volume("db", SIZE, to_be_filled())).unwrap();
    (dir, path, pool, inner)
}

fn kind<T>(outcome: Result<T>) -> ErrorKind {
    outcome.err().expect("to be refused").kind()
}

fn is_filling(pool: &Pool) -> bool {
    block_on(pool.volume_info("db")).unwrap().options.filling
}

fn data_in(page: &ExtentPage) -> BTreeSet<u64> {
    let data = page.extents.iter().filter(|e| e.kind == ExtentKind::Data);
    data.flat_map(|e| e.offset / BLOCK..(e.offset + e.length).div_ceil(BLOCK)).collect()
}

/// The blocks that need no filling: those with data.
fn with_data(volume: &Volume) -> BTreeSet<u64> {
    let page = block_on(volume.extents(0, SIZE)).unwrap();
    assert_eq!(page.next, None);
    data_in(&page)
}

/// Fills what is asked for, each block once and none that has data, until nobody asks any more; returns what was asked for.
fn serve(mut requests: FillRequests, inner: Volume) -> JoinHandle<Vec<(u64, u64)>> {
    thread::spawn(move || {
        let mut full = with_data(&inner);
        let mut asked = Vec::new();
        block_on(async {
            while let Some(request) = requests.next().await {
                for block in request.offset / BLOCK..(request.offset + request.length).div_ceil(BLOCK) {
                    if full.insert(block) && backup(block) != 0 {
                        inner.write(block * BLOCK, bytes(backup(block), length_of(block))).await.unwrap();
                    }
                }
                asked.push((request.offset, request.length));
                request.done(Ok(()));
            }
        });
        asked
    })
}

/// What users have written, over the backup, as one word for each sector.
#[derive(Clone)]
struct Expected(BTreeMap<u64, u64>);

impl Expected {
    fn set(&mut self, offset: u64, length: u64, word: u64) {
        self.0.extend((offset / SECTOR..(offset + length) / SECTOR).map(|sector| (sector, word)));
    }

    fn verify(&self, volume: &Volume) {
        let read = block_on(volume.read(0, SIZE as usize)).unwrap();
        for (sector, found) in (0..).zip(read.chunks(SECTOR as usize)) {
            let word = self.0.get(&sector).copied().unwrap_or_else(|| backup(sector * SECTOR / BLOCK));
            assert!(found == &bytes(word, SECTOR)[..], "sector {sector} is not {word}");
        }
    }
}

/// Users change a volume that is filling, in each way there is.
fn use_it(volume: &Volume, expected: &mut Expected) {
    block_on(async {
        volume.write(16 * BLOCK, bytes(5, 2 * BLOCK)).await.unwrap();
        expected.set(16 * BLOCK, 2 * BLOCK, 5);
        volume.write(21 * BLOCK + SECTOR, bytes(6, SECTOR)).await.unwrap();
        expected.set(21 * BLOCK + SECTOR, SECTOR, 6);
        // Zeros in a whole block, one that is zeros in the backup among them; then sector by sector.
        volume.write(24 * BLOCK, bytes(0, 4 * BLOCK)).await.unwrap();
        expected.set(24 * BLOCK, 4 * BLOCK, 0);
        for sector in 0..8 {
            volume.write(32 * BLOCK + sector * SECTOR, bytes(0, SECTOR)).await.unwrap();
        }
        expected.set(32 * BLOCK, BLOCK, 0);
        volume.write_zeroes(40 * BLOCK + SECTOR, 3 * BLOCK).await.unwrap();
        expected.set(40 * BLOCK + SECTOR, 3 * BLOCK, 0);
        volume.discard(48 * BLOCK + SECTOR, 3 * BLOCK).await.unwrap();
        expected.set(49 * BLOCK, 2 * BLOCK, 0);
        volume.discard(SIZE - SECTOR - BLOCK, SECTOR + BLOCK).await.unwrap();
        expected.set(SIZE - SECTOR - BLOCK, SECTOR + BLOCK, 0);
    });
}

#[test]
fn what_is_touched_is_filled_first() {
    on_both_storages(|storage| {
        let (_dir, _path, pool, inner) = world(storage);
        let filler = serve(block_on(pool.fill_requests("db")).unwrap(), inner);
        let volume = block_on(pool.volume("db")).unwrap();
        block_on(async {
            assert_eq!(volume.read(2 * BLOCK + SECTOR, 512).await.unwrap()[..], bytes(backup(2), 512)[..]);
            assert_eq!(volume.read(SIZE - SECTOR, 512).await.unwrap()[..], bytes(backup(BLOCKS - 1), 512)[..]);
            volume.write(4 * BLOCK - SECTOR, bytes(7, 2 * SECTOR)).await.unwrap();
            volume.write_zeroes(8 * BLOCK, BLOCK).await.unwrap();
            volume.discard(12 * BLOCK + SECTOR, 3 * BLOCK).await.unwrap();
            // No whole block, no block at all, nothing that is looked at.
            volume.discard(20 * BLOCK + SECTOR, BLOCK).await.unwrap();
            volume.read(20 * BLOCK, 0).await.unwrap();
            volume.flush().await.unwrap();
            let page = volume.extents(SECTOR, SIZE - SECTOR).await.unwrap();
            let all: Vec<_> = page.extents.iter().map(|e| (e.offset, e.length, e.kind)).collect();
            assert_eq!((all, page.next), (vec![(SECTOR, SIZE - SECTOR, ExtentKind::Data)], None));
            let read = volume.read(3 * BLOCK, 2 * BLOCK as usize).await.unwrap();
            let around = [bytes(0, BLOCK - SECTOR), bytes(7, 2 * SECTOR), bytes(backup(4), BLOCK - SECTOR)];
            assert!(read[..] == around.iter().flat_map(|b| b[..].to_vec()).collect::<Vec<_>>()[..]);
            assert_eq!(kind(volume.read(SIZE, 512).await), ErrorKind::Invalid);
        });
        drop(volume);
        block_on(pool.close()).unwrap();
        let asked: Vec<_> = filler.join().unwrap();
        let blocks = |first: u64, count: u64| (first * BLOCK, count * BLOCK);
        let expected = [blocks(2, 1), (SIZE - SECTOR, SECTOR), blocks(3, 2), blocks(8, 1), blocks(13, 2), blocks(3, 2)];
        assert_eq!(asked, expected);
    });
}

#[test]
fn a_restore_that_goes_on_leaves_what_users_wrote() {
    on_both_storages(|storage| {
        let (_dir, path, pool, inner) = world(storage);
        let filler = serve(block_on(pool.fill_requests("db")).unwrap(), inner);
        let volume = block_on(pool.volume("db")).unwrap();
        let mut expected = Expected(BTreeMap::new());
        use_it(&volume, &mut expected);
        block_on(volume.flush()).unwrap();
        let copy = path.with_extension("crashed");
        let _bytes = std::fs::copy(&path, &copy).unwrap();
        drop(volume);
        block_on(pool.close()).unwrap();
        let _asked = filler.join().unwrap();

        for path in [copy, path] {
            let pool = block_on(Pool::open(&path, open_options(storage))).unwrap();
            let refused = block_on(pool.volume("db")).err().unwrap();
            assert_eq!(refused.kind(), ErrorKind::Busy);
            assert!(refused.to_string().contains("\"db\" is being filled from a backup"), "{refused}");
            let inner = block_on(pool.volume_to_fill("db")).unwrap();
            assert!(with_data(&inner).contains(&24) && !with_data(&inner).contains(&27), "{:?}", with_data(&inner));
            let filler = serve(block_on(pool.fill_requests("db")).unwrap(), inner.clone());
            let volume = block_on(pool.volume("db")).unwrap();
            expected.verify(&volume);
            assert_eq!(block_on(inner.filled()).unwrap().name, "db");
            let _asked = filler.join().unwrap();
            drop(inner);
            expected.verify(&volume);
            drop(volume);
            assert!(block_on(pool.check(true, |_, _| ())).unwrap().is_clean());
            block_on(pool.close()).unwrap();
            let pool = block_on(Pool::open(&path, open_options(storage))).unwrap();
            assert!(!is_filling(&pool));
            expected.verify(&block_on(pool.volume("db")).unwrap());
        }
    });
}

#[test]
fn only_filled_ends_it_and_that_is_durable() {
    on_both_storages(|storage| {
        let (_dir, path, pool, inner) = world(storage);
        let options = VolumeOptions { sync: SyncMode::Always, ..VolumeOptions::default() };
        let info = block_on(pool.set_options("db", options)).unwrap();
        assert_eq!(info.options, VolumeOptions { sync: SyncMode::Always, ..to_be_filled() });
        block_on(pool.checkpoint()).unwrap();
        assert!(is_filling(&pool));
        block_on(pool.filled("db")).unwrap();
        assert_eq!(kind(block_on(pool.filled("db"))), ErrorKind::Invalid);
        assert_eq!(kind(block_on(inner.filled())), ErrorKind::Invalid);
        let copy = path.with_extension("crashed");
        let _bytes = std::fs::copy(&path, &copy).unwrap();
        let crashed = block_on(Pool::open(&copy, open_options(storage))).unwrap();
        assert!(!is_filling(&crashed));
        let options = VolumeOptions { sync: SyncMode::Never, ..to_be_filled() };
        let info = block_on(crashed.set_options("db", options)).unwrap();
        assert_eq!(info.options, VolumeOptions { sync: SyncMode::Never, ..VolumeOptions::default() });
        assert_eq!(kind(block_on(crashed.fill_requests("db"))), ErrorKind::Invalid);
        assert_eq!(kind(block_on(crashed.volume_to_fill("db"))), ErrorKind::Invalid);
    });
}

#[test]
fn what_takes_all_of_its_content_is_refused() {
    let (_dir, _path, pool, inner) = world(StorageKind::Pread);
    let target = |name: &str| name.parse::<Target>().unwrap();
    block_on(async {
        let full = pool.create_volume("full", SIZE, VolumeOptions::default()).await.unwrap();
        let _snapshot = full.snapshot("s").await.unwrap();
        let requests = pool.fill_requests("db").await.unwrap();
        let user = pool.volume("db").await.unwrap();
        assert_eq!(kind(user.filled().await), ErrorKind::Invalid, "only its filler knows");
        drop((user, requests));
        let refused = [
            inner.snapshot("s").await.map(drop),
            pool.snapshot(&[target("full@t"), target("db@t")]).await.map(drop),
            pool.clone_volume(&target("db@s"), "clone", None).await.map(drop),
            pool.revert("db", "s", true).await.map(drop),
            pool.resize("db", 2 * SIZE).await.map(drop),
            pool.diff(None, &target("db"), 0).await.map(drop),
            pool.diff(Some(&target("db")), &target("full"), 0).await.map(drop),
            pool.volume("db").await.map(drop),
        ];
        for outcome in refused {
            let error = outcome.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
            assert!(error.to_string().contains("volume \"db\" is being filled from a backup"), "{error}");
        }
        assert_eq!(pool.snapshots(None, false).await.unwrap().len(), 1, "a set is taken whole or not at all");
        // Its name is its user's, and so is its end.
        pool.rename("db", "restored").await.unwrap();
        let requests = pool.fill_requests("restored").await.unwrap();
        assert_eq!(kind(pool.delete_volume("restored", false).await), ErrorKind::Busy, "its filler has it open");
        drop(inner);
        pool.delete_volume("restored", false).await.unwrap();
        let mut requests = requests;
        assert!(requests.next().await.is_none(), "the volume is gone");
        pool.wait_deleted().await.unwrap();
        assert!(pool.check(true, |_, _| ()).await.unwrap().is_clean());
    });
}

#[test]
fn operations_fail_with_their_filler() {
    on_both_storages(|storage| {
        let (_dir, _path, pool, inner) = world(storage);
        let mut requests = block_on(pool.fill_requests("db")).unwrap();
        assert_eq!(kind(block_on(pool.fill_requests("db"))), ErrorKind::Busy, "one filler at a time");
        let volume = block_on(pool.volume("db")).unwrap();
        thread::scope(|scope| {
            let read = scope.spawn(|| block_on(volume.read(0, 512)));
            let request = block_on(requests.next()).unwrap();
            request.done(Err(Error::new(ErrorKind::Corrupt, "the repository is damaged")));
            let error = read.join().unwrap().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.to_string().starts_with("db: bytes 0 to 4096 cannot be filled"), "{error}");

            let write = scope.spawn(|| block_on(volume.write(0, bytes(9, BLOCK))));
            drop(block_on(requests.next()).unwrap());
            assert_eq!(kind(write.join().unwrap()), ErrorKind::Busy, "not answered");

            // One that is with the filler, and one that is on its way to it: the filler is gone before it looks.
            let two = [0, 1].map(|at| {
                let volume = &volume;
                scope.spawn(move || block_on(volume.discard(at * BLOCK, BLOCK)))
            });
            let first = block_on(requests.next()).unwrap();
            drop((first, requests));
            for discard in two {
                assert_eq!(kind(discard.join().unwrap()), ErrorKind::Busy);
            }
        });
        let error = block_on(volume.read(0, 512)).unwrap_err();
        assert!(error.to_string().contains("volume \"db\" is being filled from a backup"), "{error}");
        assert_eq!(kind(block_on(pool.volume("db"))), ErrorKind::Busy);
        // What was refused has changed nothing, and a new filler serves those who still have it open.
        assert!(with_data(&inner).is_empty());
        let filler = serve(block_on(pool.fill_requests("db")).unwrap(), inner);
        Expected(BTreeMap::new()).verify(&volume);
        block_on(pool.close()).unwrap();
        assert_eq!(filler.join().unwrap(), [(0, SIZE)]);
    });
}

#[test]
fn a_full_volume_is_like_any_other() {
    on_both_storages(|storage| {
        let (_dir, _path, pool, inner) = world(storage);
        let mut requests = block_on(pool.fill_requests("db")).unwrap();
        let volume = block_on(pool.volume("db")).unwrap();
        thread::scope(|scope| {
            let waiting: Vec<_> = (0..4)
                .map(|block| {
                    let volume = &volume;
                    scope.spawn(move || block_on(volume.read(block * BLOCK, 512)))
                })
                .collect();
            // Two are with the filler, the others in the queue: becoming full answers all of them, whatever the filler does then.
            let (first, second) = (block_on(requests.next()).unwrap(), block_on(requests.next()).unwrap());
            block_on(async {
                inner.write(0, bytes(8, MIB)).await.unwrap();
                pool.filled("db").await.unwrap();
                first.done(Err(Error::new(ErrorKind::Io, "too late")));
                drop(second);
                while let Some(request) = requests.next().await {
                    drop(request);
                }
            });
            for read in waiting {
                assert_eq!(read.join().unwrap().unwrap()[..], bytes(8, 512)[..]);
            }
        });
        block_on(async {
            volume.discard(0, 4 * BLOCK).await.unwrap();
            volume.write(4 * BLOCK, bytes(0, BLOCK)).await.unwrap();
            let first: Vec<_> = with_data(&volume).into_iter().take(1).collect();
            assert_eq!(first, [5], "what was discarded, and what is zeros, is a hole again");
            pool.resize("db", 2 * SIZE).await.unwrap();
            let _snapshot = volume.snapshot("s").await.unwrap();
            drop(requests);
            assert_eq!(volume.read(0, 512).await.unwrap()[..], [0; 512]);
        });
    });
}

#[test]
fn closing_waits_for_no_filler() {
    on_both_storages(|storage| {
        let (_dir, path, pool, inner) = world(storage);
        let mut requests = block_on(pool.fill_requests("db")).unwrap();
        let volume = block_on(pool.volume("db")).unwrap();
        thread::scope(|scope| {
            let waiting = [0, 1].map(|block| {
                let volume = &volume;
                scope.spawn(move || block_on(volume.write(block * BLOCK, bytes(3, BLOCK))))
            });
            let first = block_on(requests.next()).unwrap();
            block_on(pool.close()).unwrap();
            for write in waiting {
                assert_eq!(kind(write.join().unwrap()), ErrorKind::Closed);
            }
            assert!(block_on(requests.next()).is_none());
            first.done(Ok(()));
        });
        assert_eq!(kind(block_on(inner.write(0, bytes(3, BLOCK)))), ErrorKind::Closed);
        // Dropping the last handle closes as well; the requests do not keep the pool open.
        drop((volume, inner, requests, pool));
        let pool = block_on(Pool::open(&path, open_options(storage))).unwrap();
        let mut requests = block_on(pool.fill_requests("db")).unwrap();
        drop(pool);
        assert!(block_on(requests.next()).is_none());
        let pool = block_on(Pool::open(&path, open_options(storage))).unwrap();
        assert!(is_filling(&pool));
    });
}

async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        cx.waker().wake_by_ref();
        if std::mem::replace(&mut yielded, true) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

#[test]
fn requests_that_nobody_waits_for_are_not_kept() {
    let (_dir, _path, pool, _inner) = world(StorageKind::Pread);
    let mut requests = block_on(pool.fill_requests("db")).unwrap();
    let (asked, answers) = mpsc::channel();
    let given_up = pool.run(move |local| async move {
        let volume = local.open(&"db".parse().unwrap()).unwrap();
        for block in 0..50 {
            let read = volume.clone();
            let task = local.reactor().spawn(async move { read.read(block * BLOCK, 512).await });
            // It asks when it first has its turn; then its client goes.
            yield_now().await;
            drop(task.cancel().await);
        }
        let last = local.reactor().spawn(async move { volume.read(60 * BLOCK, 512).await });
        local.reactor().spawn(async move { asked.send(last.await).unwrap() }).detach();
    });
    block_on(given_up).unwrap();
    let request = block_on(requests.next()).unwrap();
    assert_eq!(request.offset, 60 * BLOCK, "the only one that somebody waits for");
    request.done(Ok(()));
    assert_eq!(answers.recv().unwrap().unwrap()[..], [0; 512]);
}

/// A filler on the reactor's thread.
struct Local {
    inner: LocalVolume,
    full: RefCell<BTreeSet<u64>>,
    asked: Cell<u64>,
    /// Shows whether it is still there.
    _alive: Arc<()>,
}

impl Local {
    async fn new(pool: &LocalPool, alive: Arc<()>) -> Rc<Self> {
        let inner = pool.open_to_fill("db").unwrap();
        let full = RefCell::new(data_in(&inner.extents(0, SIZE).await.unwrap()));
        Rc::new(Self { inner, full, asked: Cell::new(0), _alive: alive })
    }
}

struct Shared(Rc<Local>);

impl Filler for Shared {
    fn fill(&self, offset: u64, length: u64) -> Pin<Box<dyn Future<Output = Result<()>>>> {
        let local = self.0.clone();
        Box::pin(async move {
            local.asked.set(local.asked.get() + 1);
            for block in offset / BLOCK..(offset + length).div_ceil(BLOCK) {
                if backup(block) != 0 && !local.full.borrow().contains(&block) {
                    local.inner.write(block * BLOCK, bytes(backup(block), length_of(block)), false).await?;
                }
                // Not before: who waits for this may go away, and others ask again.
                let _new = local.full.borrow_mut().insert(block);
            }
            Ok(())
        })
    }
}

#[test]
fn a_filler_on_the_reactors_thread() {
    on_both_storages(|storage| {
        let (_dir, path, pool, _inner) = world(storage);
        let alive = Arc::new(());
        let theirs = alive.clone();
        let tried = pool.run(|pool| async move {
            let filler = Local::new(&pool, theirs).await;
            let target: Target = "db".parse().unwrap();
            assert_eq!(kind(pool.open(&target)), ErrorKind::Busy);
            pool.set_filler("db", Some(Rc::new(Shared(filler.clone())))).unwrap();
            assert_eq!(kind(pool.set_filler("db", Some(Rc::new(Shared(filler.clone()))))), ErrorKind::Busy);
            let volume = pool.open(&target).unwrap();
            assert_eq!(volume.read(BLOCK, 512).await.unwrap()[..], bytes(backup(1), 512)[..]);
            pool.set_filler("db", None).unwrap();
            for outcome in [
                volume.read(BLOCK, 512).await.map(drop),
                volume.write(BLOCK, bytes(1, BLOCK), false).await,
                volume.discard(BLOCK, BLOCK, false).await,
                volume.write_zeroes(BLOCK, BLOCK, false).await,
            ] {
                assert_eq!(kind(outcome), ErrorKind::Busy, "there is nobody to ask");
            }
            assert_eq!(filler.asked.get(), 1);
            pool.set_filler("db", Some(Rc::new(Shared(filler)))).unwrap();
            assert_eq!(volume.read(BLOCK, 512).await.unwrap()[..], bytes(backup(1), 512)[..]);
        });
        block_on(tried).unwrap();
        // The filler has the volume open, and the volume the pool: closing lets go of both.
        block_on(pool.close()).unwrap();
        assert_eq!(Arc::strong_count(&alive), 1);
        drop(block_on(Pool::open(&path, open_options(storage))).unwrap());
    });
}

/// Values that a block may have after a crash: the last that was durable, and what was begun since, with the moments at which that was.
type History = Vec<(usize, u64)>;

/// Fills and changes a volume on a recorded disk; returns what was begun when, and when everything before was durable.
async fn live(machine: sim::Machine, disk: sim::Disk, seed: u64) -> (BTreeMap<u64, History>, Vec<usize>, usize) {
    let pool = machine.create_pool(PoolOptions::new()).await.unwrap();
    drop(pool.create_volume("db", SIZE, to_be_filled()).await.unwrap());
    disk.record();
    let filler = Local::new(&pool, Arc::default()).await;
    pool.set_filler("db", Some(Rc::new(Shared(filler.clone())))).unwrap();
    let volume = pool.open(&"db".parse().unwrap()).unwrap();
    let mut rng = sim::Rng::new(seed);
    let mut written: BTreeMap<u64, History> = BTreeMap::new();
    let mut durable = Vec::new();
    for step in 0..60 {
        let block = rng.below(12);
        let mut begin = |word| written.entry(block).or_default().push((disk.moment(), word));
        match rng.below(8) {
            0 => {
                volume.flush().await.unwrap();
                durable.push(disk.moment());
            }
            1 => {
                begin(0);
                volume.discard(block * BLOCK, BLOCK, false).await.unwrap();
            }
            2 | 3 => {
                begin(0);
                volume.write_zeroes(block * BLOCK, BLOCK, false).await.unwrap();
            }
            4 => {
                begin(0);
                volume.write(block * BLOCK, bytes(0, BLOCK), false).await.unwrap();
            }
            5 => drop(volume.read(block * BLOCK, BLOCK as usize).await.unwrap()),
            _ => {
                begin(step + 1);
                volume.write(block * BLOCK, bytes(step + 1, BLOCK), false).await.unwrap();
            }
        }
    }
    Shared(filler).fill(0, SIZE).await.unwrap();
    let full = disk.moment();
    pool.filled("db").await.unwrap();
    durable.push(disk.moment());
    // From here on a hole is a hole.
    written.entry(0).or_default().push((disk.moment(), 0));
    volume.discard(0, BLOCK, true).await.unwrap();
    durable.push(disk.moment());
    (written, durable, full)
}

/// After a crash somebody goes on filling, if the volume still is; then each block must be what it was at some moment since the last flush.
async fn recovered(machine: sim::Machine) -> (bool, Vec<u64>) {
    let pool = machine.open_pool(OpenOptions::new()).await.unwrap();
    let filling = pool.list_volumes()[0].options.filling;
    if filling {
        let filler = Local::new(&pool, Arc::default()).await;
        pool.set_filler("db", Some(Rc::new(Shared(filler)))).unwrap();
    }
    let volume = pool.open(&"db".parse().unwrap()).unwrap();
    let read = volume.read(0, SIZE as usize).await.unwrap();
    let words = read.chunks(BLOCK as usize).map(|block| {
        let word = u64::from_le_bytes(block[..8].try_into().unwrap());
        assert!(block == &bytes(word, block.len() as u64)[..], "a torn block");
        word
    });
    if filling {
        pool.set_filler("db", None).unwrap();
    }
    (filling, words.collect())
}

#[test]
fn nothing_comes_back_after_a_power_cut() {
    let (mut crashes, mut full_ones) = (0, 0);
    for seed in 0..2 {
        let disk = sim::Disk::new(64 * MIB, seed);
        let recorded = disk.clone();
        let (written, durable, full) = sim::run(&disk, |machine| live(machine, recorded, seed)).unwrap();
        let recording = disk.take_recording().unwrap();
        let mut replay = recording.replay();
        loop {
            let now = replay.moment();
            for survivors in [sim::Survivors::None, sim::Survivors::All, sim::Survivors::Random(now as u64)] {
                let disk = sim::Disk::from_image(replay.crash(survivors), seed);
                let (filling, words) = sim::run(&disk, recovered).unwrap();
                crashes += 1;
                full_ones += usize::from(!filling);
                assert!(filling || now >= full, "seed {seed}, moment {now}: full before it was");
                let since = durable.iter().copied().filter(|at| *at <= now).max().unwrap_or(0);
                for (block, word) in (0..).zip(words) {
                    let mut history = vec![(0, backup(block))];
                    history.extend(written.get(&block).into_iter().flatten().filter(|(at, _)| *at <= now));
                    let first = history.iter().rposition(|(at, _)| *at < since).unwrap_or(0);
                    assert!(
                        history[first..].iter().any(|(_, w)| *w == word),
                        "seed {seed}, moment {now}, {survivors:?}: block {block} is {word}, not one of {:?}",
                        &history[first..]
                    );
                }
            }
            if !replay.advance() {
                break;
            }
        }
    }
    assert!(crashes > 300 && full_ones > 0, "{crashes} crashes, {full_ones} after the end of the filling");
}
