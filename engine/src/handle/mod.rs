//! Handles for any thread: `Send + Sync`, cheap to clone, their methods usable under any executor.
//!
//! Each call is a job posted to the pool's reactor thread; the answer comes back through a one-shot channel. A call that is dropped
//! before its answer still runs to its end, but for a check, which is of use to nobody then.

mod filling;
mod limiting;
mod regroup;
mod upkeep;
mod volume;

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    thread::{self, JoinHandle},
};

use futures_channel::oneshot;
use rustc_hash::FxHashMap;

use crate::{
    admin::LocalPool,
    error::{Error, Result, closed},
    info::{Event, ExtentPage, PoolStats, SnapshotInfo, VolumeInfo, VolumeOptions},
    names::Target,
    open::{Opening, prepare_create, prepare_open},
    options::{OpenOptions, PoolOptions},
    reactor::Shared,
    storage::wake::Waker,
    volume::LocalVolume,
};
pub use filling::{FillRequest, FillRequests};
use volume::Handle;
pub use volume::Volume;

thread_local! {
    /// The pool of the reactor that runs on this thread.
    static LOCAL: RefCell<Option<LocalPool>> = const { RefCell::new(None) };
    /// Volumes that handles on other threads hold open.
    static OPEN: RefCell<FxHashMap<u64, LocalVolume>> = RefCell::default();
    /// The number of the next of them.
    static NEXT: Cell<u64> = const { Cell::new(0) };
}

struct Inner {
    shared: Arc<Shared>,
    path: PathBuf,
    thread: Mutex<Option<JoinHandle<()>>>,
    ended: Mutex<Ended>,
    /// The pool was closed with everything durable. Set before the reactor ends: whoever finds the pool closed knows it.
    closed_well: Arc<AtomicBool>,
}

/// Who waits for the reactor's end.
enum Ended {
    Waiting(Vec<oneshot::Sender<()>>),
    Done,
}

/// An open pool. Clones refer to the same one; when the last handle goes (volumes included), it is closed.
///
/// ```
/// use cairn_engine::{IoBuf, Pool, PoolOptions, VolumeOptions, GIB, MIB};
/// # fn main() -> cairn_engine::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("pool.cairn");
/// # pollster::block_on(async {
/// let pool = Pool::create(&path, PoolOptions::new().size(64 * MIB)).await?;
/// let vol = pool.create_volume("db", 10 * GIB, VolumeOptions::default()).await?;
/// vol.write(4096, IoBuf::from(&[7; 512][..])).await?;
/// vol.flush().await?;
/// let before = vol.snapshot("before").await?;
/// vol.discard(0, 8192).await?;
/// let snapshot = pool.volume("db@before").await?;
/// assert_eq!(snapshot.read(4096, 512).await?[..], [7; 512]);
/// assert_eq!(before.name, "before");
/// # drop(snapshot);
/// pool.close().await
/// # })
/// # }
/// ```
#[derive(Clone)]
pub struct Pool {
    inner: Arc<Inner>,
}

impl Pool {
    /// Makes a pool in a new file, or on a block device, and opens it.
    ///
    /// # Errors
    /// `Exists` when there is a file already, `Invalid` for sizes out of range, `NoSpace`, `Io`, `Unsupported` without `io_uring`.
    pub async fn create(path: impl AsRef<Path>, options: PoolOptions) -> Result<Self> {
        let path = path.as_ref();
        let opening = prepare_create(path, &options)?;
        let device = std::fs::metadata(path).is_ok_and(|m| !m.is_file());
        let made = Self::start(opening).await;
        if made.is_err() && !device {
            // It never was a pool: leave the path free for the next try.
            drop(std::fs::remove_file(path));
        }
        made
    }

    /// Opens a pool. What was committed before a crash is there again.
    ///
    /// # Errors
    /// `NotFound`, `Busy` when it is open already, `Invalid` when it is no pool, `Unsupported` for a newer format, `Corrupt`, `Io`.
    pub async fn open(path: impl AsRef<Path>, options: OpenOptions) -> Result<Self> {
        Self::start(prepare_open(path.as_ref(), &options)?).await
    }

    async fn start(opening: Opening) -> Result<Self> {
        let wake = Waker::new().map_err(|e| Error::io("cannot make an eventfd", e))?;
        let shared = Arc::new(Shared::new(Arc::new(wake)));
        let inner = Arc::new(Inner {
            shared: shared.clone(),
            path: opening.plan.path.clone(),
            thread: Mutex::new(None),
            ended: Mutex::new(Ended::Waiting(Vec::new())),
            closed_well: Arc::default(),
        });
        let (ready, opened) = oneshot::channel();
        let weak = Arc::downgrade(&inner);
        let thread = thread::Builder::new()
            .name("cairn-reactor".to_owned())
            .spawn(move || {
                // A panic was reported by its hook; here it only must not keep anybody waiting.
                let _panicked = catch_unwind(AssertUnwindSafe(|| run_reactor(opening, &shared, ready)));
                if let Some(inner) = weak.upgrade() {
                    let mut ended = inner.ended.lock().unwrap_or_else(PoisonError::into_inner);
                    *ended = Ended::Done;
                }
            })
            .map_err(|e| Error::io("cannot start the reactor's thread", e))?;
        *inner.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        let pool = Self { inner };
        match opened.await {
            Ok(Ok(())) => Ok(pool),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(closed("the reactor stopped while the pool was being opened")),
        }
    }

    /// Path of the pool's file or device.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Runs a future on the reactor's thread, with the pool's local interface: how exports are started.
    ///
    /// # Errors
    /// `Closed` when the pool is closed.
    pub async fn run<T, F>(&self, f: impl FnOnce(LocalPool) -> F + Send + 'static) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        self.inner.run(f).await
    }

    async fn call<T, F>(&self, f: impl FnOnce(LocalPool) -> F + Send + 'static) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + 'static,
    {
        self.inner.run(f).await?
    }

    /// Like [`Pool::call`], for what is of no use once nobody waits for it: it ends when the future is dropped.
    async fn call_while_wanted<T, F>(&self, f: impl FnOnce(LocalPool) -> F + Send + 'static) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + 'static,
    {
        let (wanted, unwanted) = oneshot::channel::<()>();
        let outcome = self.inner.run(move |pool| async move {
            let (mut work, mut unwanted) = (pin!(f(pool)), unwanted);
            poll_fn(move |cx| match work.as_mut().poll(cx) {
                Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
                Poll::Pending => Pin::new(&mut unwanted).poll(cx).map(|_| None),
            })
            .await
        });
        let outcome = outcome.await?;
        drop(wanted);
        outcome.unwrap_or_else(|| Err(closed("nobody waits for the answer")))
    }

    fn handle(&self, kept: Kept, name: String, read_only: bool) -> Volume {
        Volume { inner: Arc::new(Handle { kept, pool: self.inner.clone(), name, read_only }), background: false }
    }

    /// Makes an empty volume of `size` bytes (1 MiB to 64 TiB, a multiple of 512).
    ///
    /// # Errors
    /// See [`LocalPool::create_volume`].
    pub async fn create_volume(&self, name: &str, size: u64, options: VolumeOptions) -> Result<Volume> {
        let (shared, owned) = (self.inner.shared.clone(), name.to_owned());
        let kept = self.call(move |pool| async move {
            let volume = pool.create_volume(&owned, size, options).await?;
            Ok(Kept::new(volume, shared))
        });
        Ok(self.handle(kept.await?, name.to_owned(), false))
    }

    /// Opens `volume`, or `volume@snapshot` for reading.
    ///
    /// # Errors
    /// `NotFound`, `Invalid`.
    pub async fn volume(&self, target: &str) -> Result<Volume> {
        let (shared, parsed) = (self.inner.shared.clone(), target.parse::<Target>()?);
        let opened = self.call(move |pool| async move {
            let volume = pool.open(&parsed)?;
            let read_only = volume.is_read_only();
            Ok((Kept::new(volume, shared), read_only))
        });
        let (kept, read_only) = opened.await?;
        Ok(self.handle(kept, target.to_owned(), read_only))
    }

    /// All volumes, by name; with `exclusive`, also what deleting each would free.
    ///
    /// # Errors
    /// See [`LocalPool::volumes`].
    pub async fn volumes(&self, exclusive: bool) -> Result<Vec<VolumeInfo>> {
        self.call(move |pool| async move { pool.volumes(exclusive).await }).await
    }

    /// One volume, with its exclusive bytes.
    ///
    /// # Errors
    /// See [`LocalPool::volume_info`].
    pub async fn volume_info(&self, name: &str) -> Result<VolumeInfo> {
        let name = name.to_owned();
        self.call(move |pool| async move { pool.volume_info(&name).await }).await
    }

    /// Snapshots of one volume, or of all; with `exclusive`, also what deleting each would free.
    ///
    /// # Errors
    /// See [`LocalPool::snapshots`].
    pub async fn snapshots(&self, volume: Option<&str>, exclusive: bool) -> Result<Vec<SnapshotInfo>> {
        let volume = volume.map(str::to_owned);
        self.call(move |pool| async move { pool.snapshots(volume.as_deref(), exclusive).await }).await
    }

    /// One snapshot, with its exclusive bytes.
    ///
    /// # Errors
    /// See [`LocalPool::snapshot_info`].
    pub async fn snapshot_info(&self, target: &Target) -> Result<SnapshotInfo> {
        let target = target.clone();
        self.call(move |pool| async move { pool.snapshot_info(&target).await }).await
    }

    /// Takes snapshots of one or several volumes at one moment.
    ///
    /// # Errors
    /// See [`LocalPool::snapshot`].
    pub async fn snapshot(&self, targets: &[Target]) -> Result<Vec<SnapshotInfo>> {
        let targets = targets.to_vec();
        self.call(move |pool| async move { pool.snapshot(&targets).await }).await
    }

    /// Makes a volume that starts as a snapshot.
    ///
    /// # Errors
    /// See [`LocalPool::clone_volume`].
    pub async fn clone_volume(&self, snapshot: &Target, name: &str, size: Option<u64>) -> Result<VolumeInfo> {
        let (snapshot, name) = (snapshot.clone(), name.to_owned());
        self.call(move |pool| async move { pool.clone_volume(&snapshot, &name, size).await }).await
    }

    /// Sets a volume back to one of its snapshots.
    ///
    /// # Errors
    /// See [`LocalPool::revert`].
    pub async fn revert(&self, volume: &str, snapshot: &str, force: bool) -> Result<VolumeInfo> {
        let (volume, snapshot) = (volume.to_owned(), snapshot.to_owned());
        self.call(move |pool| async move { pool.revert(&volume, &snapshot, force).await }).await
    }

    /// Gives a volume another name.
    ///
    /// # Errors
    /// See [`LocalPool::rename`].
    pub async fn rename(&self, volume: &str, new_name: &str) -> Result<VolumeInfo> {
        let (volume, new_name) = (volume.to_owned(), new_name.to_owned());
        self.call(move |pool| async move { pool.rename(&volume, &new_name).await }).await
    }

    /// Grows a volume.
    ///
    /// # Errors
    /// See [`LocalPool::resize`].
    pub async fn resize(&self, volume: &str, size: u64) -> Result<VolumeInfo> {
        let volume = volume.to_owned();
        self.call(move |pool| async move { pool.resize(&volume, size).await }).await
    }

    /// Changes a volume's options.
    ///
    /// # Errors
    /// See [`LocalPool::set_options`].
    pub async fn set_options(&self, volume: &str, options: VolumeOptions) -> Result<VolumeInfo> {
        let volume = volume.to_owned();
        self.call(move |pool| async move { pool.set_options(&volume, options).await }).await
    }

    /// Deletes a volume; returns what was deleted.
    ///
    /// # Errors
    /// See [`LocalPool::delete_volume`].
    pub async fn delete_volume(&self, name: &str, cascade: bool) -> Result<Vec<String>> {
        let name = name.to_owned();
        self.call(move |pool| async move { pool.delete_volume(&name, cascade).await }).await
    }

    /// Deletes a snapshot.
    ///
    /// # Errors
    /// See [`LocalPool::delete_snapshot`].
    pub async fn delete_snapshot(&self, target: &Target) -> Result<()> {
        let target = target.clone();
        self.call(move |pool| async move { pool.delete_snapshot(&target).await }).await
    }

    /// What `to` holds that `from` does not: a page, from `offset` on.
    ///
    /// # Errors
    /// See [`LocalPool::diff`].
    pub async fn diff(&self, from: Option<&Target>, to: &Target, offset: u64) -> Result<ExtentPage> {
        let (from, to) = (from.cloned(), to.clone());
        self.call(move |pool| async move { pool.diff(from.as_ref(), &to, offset).await }).await
    }

    /// The state of the pool.
    ///
    /// # Errors
    /// `Closed`.
    pub async fn stats(&self) -> Result<PoolStats> {
        self.call(|pool| async move { Ok(pool.stats()) }).await
    }

    /// Events from number `since` on.
    ///
    /// # Errors
    /// `Closed`.
    pub async fn events(&self, since: u64) -> Result<Vec<(u64, Event)>> {
        self.call(move |pool| async move { Ok(pool.events(since)) }).await
    }

    /// Waits until everything deleted so far has given back its space.
    ///
    /// # Errors
    /// See [`LocalPool::wait_deleted`].
    pub async fn wait_deleted(&self) -> Result<()> {
        self.call(|pool| async move { pool.wait_deleted().await }).await
    }

    /// Commits everything and makes a checkpoint.
    ///
    /// # Errors
    /// See [`LocalPool::checkpoint`].
    pub async fn checkpoint(&self) -> Result<()> {
        self.call(|pool| async move { pool.checkpoint().await }).await
    }

    /// Commits, makes a checkpoint and stops the reactor. Later calls on any handle fail with `Closed`. When it returns, the file
    /// is free to be opened again.
    ///
    /// # Errors
    /// Those of the last checkpoint; the pool is closed all the same.
    pub async fn close(&self) -> Result<()> {
        let closed_well = self.inner.closed_well.clone();
        let shut_down = self.inner.run(|pool| async move {
            let outcome = pool.shut_down().await;
            let _before = closed_well.fetch_or(outcome.is_ok(), Ordering::SeqCst);
            outcome
        });
        let outcome = shut_down.await;
        let (sender, ended) = oneshot::channel();
        let waiting = match &mut *self.inner.ended.lock().unwrap_or_else(PoisonError::into_inner) {
            Ended::Waiting(list) => {
                list.push(sender);
                true
            }
            Ended::Done => false,
        };
        if waiting {
            // Sent, or dropped with the list: the thread has ended in both cases.
            let _ended = ended.await;
        }
        match outcome {
            Ok(result) => result,
            // Closed by another call.
            Err(_) if self.inner.closed_well.load(Ordering::SeqCst) => Ok(()),
            Err(gone) => Err(gone),
        }
    }
}

impl LocalPool {
    /// The end: everything durable, then the reactor stops after this turn.
    async fn shut_down(self) -> Result<()> {
        let core = self.core;
        OPEN.with_borrow_mut(FxHashMap::clear);
        core.closing.set(true);
        core.backlogs.turn_off();
        let drained = core.drain_all(true).await;
        while !core.note_credits() && core.flush().await.is_ok() {}
        let outcome = if core.opened_read_only.get() { Ok(()) } else { core.checkpoint().await };
        core.reactor.stop();
        drained.and(outcome)
    }
}

/// Gives up the lock of the pool's file. Closing the descriptor would do, but the kernel takes a ring apart after its end and keeps the
/// file open until then.
struct Unlock(std::fs::File);

impl Drop for Unlock {
    fn drop(&mut self) {
        // A failure leaves the lock to the end of the descriptor.
        drop(self.0.unlock());
    }
}

/// The reactor thread's life.
fn run_reactor(opening: Opening, shared: &Arc<Shared>, ready: oneshot::Sender<Result<()>>) {
    let lock = opening.file.try_clone().map(Unlock);
    let reactor = match opening.reactor(shared) {
        Ok(reactor) => reactor,
        Err(error) => {
            let _nobody_waits = ready.send(Err(error));
            return;
        }
    };
    let handle = reactor.clone();
    reactor
        .spawn(async move {
            match opening.open(handle.clone()).await {
                Ok(core) => {
                    LOCAL.set(Some(LocalPool { core }));
                    if ready.send(Ok(())).is_err() {
                        handle.stop();
                    }
                }
                Err(error) => {
                    let _nobody_waits = ready.send(Err(error));
                    handle.stop();
                }
            }
        })
        .detach();
    reactor.run();
    OPEN.with_borrow_mut(FxHashMap::clear);
    if let Some(pool) = LOCAL.take() {
        pool.core.gates.clear();
    }
    drop(reactor);
    drop(lock);
}

/// A volume that is kept open for another thread: until this goes, also when nobody waited for it any more.
struct Kept {
    id: u64,
    shared: Arc<Shared>,
}

impl Kept {
    /// On the reactor's thread.
    fn new(volume: LocalVolume, shared: Arc<Shared>) -> Self {
        let id = NEXT.replace(NEXT.get() + 1);
        OPEN.with_borrow_mut(|open| drop(open.insert(id, volume)));
        Self { id, shared }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let id = self.id;
        let _closed = self.shared.post(Box::new(move || {
            let gone = OPEN.with_borrow_mut(|open| open.remove(&id));
            drop(gone);
        }));
    }
}

fn kept(id: u64) -> Result<LocalVolume> {
    OPEN.with_borrow(|open| open.get(&id).cloned()).ok_or_else(|| closed("the pool is closed"))
}

impl Inner {
    async fn run<T, F>(&self, f: impl FnOnce(LocalPool) -> F + Send + 'static) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        let gone = || closed(format!("pool {} is closed", self.path.display()));
        let (sender, answer) = oneshot::channel();
        let job = Box::new(move || {
            let Some(pool) = LOCAL.with_borrow(Option::clone) else { return };
            let reactor = pool.core.reactor.clone();
            reactor
                .spawn(async move {
                    let _nobody_waits = sender.send(f(pool).await);
                })
                .detach();
        });
        self.shared.post(job).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }
}

impl Drop for Inner {
    /// The last handle is gone: close, and wait for the thread so that the file is free.
    fn drop(&mut self) {
        let job = Box::new(|| {
            let Some(pool) = LOCAL.with_borrow(Option::clone) else { return };
            let reactor = pool.core.reactor.clone();
            reactor
                .spawn(async move {
                    // Nobody is left to tell; what was committed stays committed.
                    let _outcome = pool.shut_down().await;
                })
                .detach();
        });
        let _stopped_already = self.shared.post(job);
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread.filter(|t| t.thread().id() != thread::current().id()) {
            let _panicked = thread.join();
        }
    }
}
