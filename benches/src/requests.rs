//! A fixed number of requests of 4 KiB in-process, for what counts rather than times: the same ones in each run, and nothing beside them.
//!
//! What a request costs is the difference of two runs of different lengths, by the difference of their lengths: opening the pool, loading its
//! nodes and closing it are in both, and cancel out.

use cairn_engine::{Error, ErrorKind, IoBuf, LocalPool, LocalVolume, OpenOptions, Pool, Result, Target};
use serde::{Deserialize, Serialize};
use std::{
    path::Path,
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

/// Bytes of a request.
pub const BLOCK: u64 = 4096;
/// The volume of the pool that requests go to.
pub const VOLUME: &str = "disk";

/// What requests do, and how many at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Name in the table.
    pub name: &'static str,
    /// Whether they write.
    pub writes: bool,
    /// Requests in flight.
    pub depth: u64,
}

/// The rows of the table.
pub const ROWS: [Row; 4] = [
    Row { name: "4K randread QD1", writes: false, depth: 1 },
    Row { name: "4K randread QD32", writes: false, depth: 32 },
    Row { name: "4K randwrite QD1", writes: true, depth: 1 },
    Row { name: "4K randwrite QD32", writes: true, depth: 32 },
];

/// What a run came to, or a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Calls of the allocator that gave memory.
    pub allocations: f64,
    /// Bytes that they gave.
    pub bytes: f64,
}

/// How much of a counter a request takes, by two runs.
///
/// ```
/// assert_eq!(cairn_benches::requests::each((20_000, 1_100_000.0), (60_000, 1_300_000.0)), 5.0);
/// ```
#[must_use]
pub fn each((short, less): (u64, f64), (long, more): (u64, f64)) -> f64 {
    (more - less) / long.saturating_sub(short).max(1) as f64
}

/// Instructions of a run, as the files of callgrind and cachegrind have them.
#[must_use]
pub fn instructions(profile: &str) -> Option<u64> {
    let line = |name: &str| profile.lines().find_map(|line| line.strip_prefix(name));
    // Of threads that ended before the process did, `summary` may lack what `totals` has.
    let total = line("totals:").or_else(|| line("summary:"))?;
    total.split_whitespace().next()?.parse().ok()
}

/// Makes `count` requests of a row on a pool, which is opened for them and closed.
///
/// # Errors
/// The pool's.
pub fn make(path: &Path, row: Row, count: u64) -> Result<()> {
    let pool = finish(Pool::open(path, OpenOptions::new()))?;
    let made = finish(pool.run(move |pool| all(pool, row, count)))?;
    finish(pool.close()).and(made)
}

/// How long a thread that has woken another one stays away.
const AWAY: Duration = Duration::from_millis(20);

/// Wakes a thread, and lets it run.
///
/// Under valgrind one thread runs at a time, and the reactor keeps others from running while it waits in its ring. So it must not go there
/// before the thread that it has woken has done its part: it sleeps in a system call of which valgrind knows that it waits.
struct Polite(Thread);

impl Wake for Polite {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
        thread::sleep(AWAY);
    }
}

/// Runs a future to its end on this thread.
fn finish<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Polite(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

async fn all(pool: LocalPool, row: Row, count: u64) -> Result<()> {
    let volume = Rc::new(pool.open(&VOLUME.parse::<Target>()?)?);
    let tasks = (0..row.depth).map(|number| {
        let own = count / row.depth + u64::from(number < count % row.depth);
        pool.reactor().spawn(some(volume.clone(), row.writes, own, number))
    });
    let tasks: Vec<_> = tasks.collect();
    for task in tasks {
        task.await?;
    }
    Ok(())
}

/// One request after the other.
async fn some(volume: Rc<LocalVolume>, writes: bool, count: u64, seed: u64) -> Result<()> {
    let places = volume.size() / BLOCK;
    if places == 0 {
        return Err(Error::new(ErrorKind::Invalid, "a volume without a block of 4 KiB"));
    }
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..count {
        let offset = random.u64(0..places) * BLOCK;
        if writes {
            let mut buffer = IoBuf::with_len(BLOCK as usize);
            if let Some(bytes) = buffer.first_chunk_mut() {
                *bytes = random.u64(..).to_le_bytes();
            }
            volume.write(offset, buffer, false).await?;
        } else {
            drop(volume.read(offset, BLOCK as usize).await?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_engine::{GIB, MIB, PoolOptions, VolumeOptions};

    #[test]
    fn instructions_are_read_from_both_tools() {
        let callgrind =
            "# callgrind format\nversion: 1\nevents: Ir\nsummary: 5\n\nfn=(1) main\n0 5\n\ntotals: 123456789012\n";
        assert_eq!(instructions(callgrind), Some(123_456_789_012));
        assert_eq!(instructions("cmd: x\nevents: Ir\nfl=x\nsummary: 42\n"), Some(42));
        assert_eq!(instructions("summary: 1 2 3"), Some(1));
        for text in ["", "summary:", "summary: x", "events: Ir"] {
            assert_eq!(instructions(text), None, "{text:?}");
        }
    }

    #[test]
    fn what_is_in_both_runs_cancels_out() {
        assert_eq!(each((10, 1000.0), (30, 1100.0)), 5.0);
        assert_eq!(each((10, 1000.0), (30, 1000.0)), 0.0);
        assert!(each((10, 1.0), (10, 2.0)).is_finite());
    }

    #[test]
    fn as_many_requests_are_made_as_were_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pool");
        pollster::block_on(async {
            let pool = Pool::create(&path, PoolOptions::new().size(64 * MIB)).await.unwrap();
            drop(pool.create_volume(VOLUME, GIB, VolumeOptions::default()).await.unwrap());
            pool.close().await.unwrap();
        });
        let allocated = || {
            pollster::block_on(async {
                let pool = Pool::open(&path, OpenOptions::new()).await.unwrap();
                let allocated = pool.volume_info(VOLUME).await.unwrap().allocated;
                pool.close().await.unwrap();
                allocated
            })
        };
        for row in ROWS {
            let before = allocated();
            make(&path, row, 101).unwrap();
            // 101 blocks among 262,144: a few may be met twice.
            let new = (allocated() - before) / BLOCK;
            assert_eq!(new > 0, row.writes, "{row:?}");
            assert!(new <= 101 && (new == 0 || new > 90), "{row:?}: {new}");
        }
    }
}
