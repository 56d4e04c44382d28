//! A volume within this process: requests are tasks of the pool's reactor, as those of an export are.
//!
//! All jobs run on the reactor's one thread. What the engine does for requests, and what the generator does, share it: that is what an
//! application that embeds the engine gets.

use std::{
    cell::RefCell,
    future::poll_fn,
    path::Path,
    rc::Rc,
    sync::Arc,
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use cairn_engine::{Error, ErrorKind, IoBuf, LocalPool, LocalVolume, Pool, PoolOptions, Result, Task, VolumeOptions};

use crate::{
    bench::{Bench, SECTOR, invalid},
    board::Board,
    drive::drive,
    lane::{Ask, Done, Kind, Lane, Shape, TICK},
    target::{Holds, Subject},
    work::{Work, report},
};

/// Size of a scratch volume when none is asked for.
const SCRATCH: u64 = 1 << 30;
/// Its name.
const NAME: &str = "bench";

/// A volume of an open pool.
pub(crate) struct Inside {
    pool: Pool,
    name: String,
    /// A pool for this run only, gone after it.
    scratch: Option<tempfile::TempDir>,
}

impl Inside {
    /// A volume or snapshot that is there.
    pub(crate) fn open(pool: Pool, name: String) -> Result<(Self, Subject)> {
        pollster::block_on(async {
            let volume = pool.volume(&name).await?;
            let (size, read_only) = (volume.size().await?, volume.is_read_only());
            let empty = !read_only && pool.volume_info(&name).await?.allocated == 0;
            let subject = subject(&name, size, read_only, empty);
            Ok((Self { pool, name, scratch: None }, subject))
        })
    }

    /// A volume in a new pool, in a new directory within `directory`.
    pub(crate) fn scratch(directory: &Path, bench: &Bench) -> Result<(Self, Subject)> {
        let failed = |e| Error::io(format!("cannot make a scratch pool in {}", directory.display()), e);
        let scratch = tempfile::Builder::new().prefix("cairn-bench-").tempdir_in(directory).map_err(failed)?;
        let asked = bench.size.unwrap_or(SCRATCH).checked_add(bench.offset);
        let size = asked.and_then(|size| size.checked_next_multiple_of(1 << 20));
        let pool_size = size.and_then(|size| size.checked_mul(2)?.checked_add(256 << 20));
        let (Some(size), Some(pool_size)) = (size, pool_size) else {
            return Err(invalid("size and offset come to more than any volume has: lower them"));
        };
        pollster::block_on(async {
            let pool = Pool::create(scratch.path().join("pool"), PoolOptions::new().size(pool_size)).await?;
            drop(pool.create_volume(NAME, size, VolumeOptions::default()).await?);
            let subject = Subject { kind: "scratch", made: true, ..subject(NAME, size, false, true) };
            Ok((Self { pool, name: NAME.to_owned(), scratch: Some(scratch) }, subject))
        })
    }

    /// Runs all jobs on the reactor.
    pub(crate) fn run(&self, works: Vec<Work>, shape: Shape, board: Arc<Board>) -> Result<Vec<Work>> {
        let target = self.name.parse()?;
        pollster::block_on(self.pool.run(move |pool| async move {
            let volume = pool.open(&target)?;
            let jobs = works.into_iter().map(|mut work| {
                let (local, volume, board) = (pool.clone(), volume.clone(), board.clone());
                pool.reactor().spawn(async move {
                    let mut lane = VolumeLane::new(local, volume, shape);
                    let outcome = drive(&mut lane, &mut work, &board).await;
                    report(&board, &outcome);
                    outcome.map(|()| work)
                })
            });
            let jobs: Vec<_> = jobs.collect();
            let mut ended = Vec::new();
            for job in jobs {
                ended.push(job.await);
            }
            ended.into_iter().collect()
        }))?
    }

    /// Lets go of a scratch pool.
    pub(crate) fn close(self) -> Result<()> {
        let Some(scratch) = self.scratch else { return Ok(()) };
        pollster::block_on(self.pool.close())?;
        let path = scratch.path().to_owned();
        scratch.close().map_err(|e| Error::io(format!("cannot remove {}", path.display()), e))
    }
}

fn subject(name: &str, size: u64, read_only: bool, empty: bool) -> Subject {
    Subject {
        kind: "volume",
        name: name.to_owned(),
        size,
        granularity: SECTOR,
        read_only,
        flushes: true,
        made: false,
        holds: if empty { Holds::Nothing } else { Holds::Something("data") },
        sparse: false,
        max_request: u64::MAX,
    }
}

/// Lets the reactor do what else there is.
async fn turn() {
    let mut begun = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut begun, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// What tasks of requests tell the loop.
#[derive(Default)]
struct Ends {
    done: Vec<(usize, Result<Option<IoBuf>>)>,
    waker: Option<Waker>,
}

struct VolumeLane {
    pool: LocalPool,
    volume: LocalVolume,
    block: usize,
    /// The engine takes a write's buffer over, as it does from a client's connection; the next write has another one.
    buffers: Vec<Option<IoBuf>>,
    tasks: Vec<Option<Task<()>>>,
    ends: Rc<RefCell<Ends>>,
}

impl VolumeLane {
    fn new(pool: LocalPool, volume: LocalVolume, shape: Shape) -> Self {
        Self {
            pool,
            volume,
            block: shape.block,
            buffers: (0..shape.depth).map(|_| None).collect(),
            tasks: (0..shape.depth).map(|_| None).collect(),
            ends: Rc::default(),
        }
    }

    /// Waits until a request has ended.
    async fn ended(&self) {
        poll_fn(|cx| {
            let mut ends = self.ends.borrow_mut();
            if !ends.done.is_empty() {
                return Poll::Ready(());
            }
            ends.waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn take(&mut self, done: &mut Vec<Done>) {
        for (slot, outcome) in self.ends.borrow_mut().done.drain(..) {
            let outcome = outcome.map(|buffer| {
                if let (Some(place), Some(buffer)) = (self.buffers.get_mut(slot), buffer) {
                    *place = Some(buffer);
                }
            });
            done.push(Done { slot, outcome });
        }
    }
}

impl Lane for VolumeLane {
    const KEEPS: bool = false;

    fn buffer(&mut self, slot: usize) -> &mut [u8] {
        let block = self.block;
        match self.buffers.get_mut(slot) {
            Some(place) => {
                if place.as_ref().is_none_or(|buffer| buffer.len() < block) {
                    *place = Some(IoBuf::with_len(block));
                }
                place.as_deref_mut().unwrap_or_default()
            }
            None => &mut [],
        }
    }

    fn answer(&mut self, slot: usize) -> &[u8] {
        self.buffers.get(slot).and_then(Option::as_deref).unwrap_or_default()
    }

    fn submit(&mut self, slot: usize, ask: Ask) -> Result<()> {
        let (volume, ends) = (self.volume.clone(), self.ends.clone());
        let buffer = self.buffers.get_mut(slot).and_then(Option::take);
        let request = async move {
            let outcome = match (ask.kind, buffer) {
                (Kind::Read, _) => volume.read(ask.offset, ask.length).await.map(Some),
                (Kind::Write, Some(mut buffer)) => {
                    buffer.truncate(ask.length);
                    volume.write(ask.offset, buffer, false).await.map(|()| None)
                }
                (Kind::Write, None) => Err(Error::new(ErrorKind::Invalid, "a write without a buffer")),
                (Kind::Flush, _) => volume.flush().await.map(|()| None),
            };
            let mut ends = ends.borrow_mut();
            ends.done.push((slot, outcome));
            if let Some(waker) = ends.waker.take() {
                waker.wake();
            }
        };
        let task = self.pool.reactor().spawn(request);
        if let Some(place) = self.tasks.get_mut(slot) {
            *place = Some(task);
        }
        Ok(())
    }

    async fn wait(&mut self, until: Option<Instant>, done: &mut Vec<Done>) -> Result<()> {
        match until.map(|until| until.saturating_duration_since(Instant::now())) {
            // Requests of a pool end, if only with an error: nothing else has to be looked at meanwhile.
            None => self.ended().await,
            Some(Duration::ZERO) => turn().await,
            Some(left) => {
                let reactor = self.pool.reactor().clone();
                let mut ended = std::pin::pin!(self.ended());
                let mut late = std::pin::pin!(reactor.sleep(left.min(TICK)));
                poll_fn(|cx| match (ended.as_mut().poll(cx), late.as_mut().poll(cx)) {
                    (Poll::Pending, Poll::Pending) => Poll::Pending,
                    _ => Poll::Ready(()),
                })
                .await;
            }
        }
        self.take(done);
        Ok(())
    }
}
