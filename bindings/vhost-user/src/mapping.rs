//! Files of front-ends, mapped: within what one front-end may have, and given back by a thread of their own.
//!
//! The file's locks are its front-end's: whoever allocates or writes holds them for as long as it likes. So nothing is asked of a file that
//! needs them; it is not sealed against shrinking, which changes nothing (there is the [`bus`]).

use crate::{
    aside::{Aside, Lane, freeing},
    bus::{Guarded, is_crowded},
    descriptors::Foreign,
};
use cairn_engine::Reactor;
use rustix::fs::{fstat, fstatfs};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use vm_memory::MmapRegion;

/// Bytes that a table of one front-end may have.
pub(crate) const MAX_BYTES: u64 = 4 << 40;
/// Regions of a table.
pub(crate) const MAX_REGIONS: usize = 64;
/// What may be mapped at once is twice that: rings and requests under way keep the tables that were before.
const LIVE: usize = 2;
/// Regions that a front-end may have mapped however many others there are in the process.
const FEW: usize = 16;
/// Bytes that all front-ends of a process may have mapped. Where it has no address left, of the 128 TiB that there are for everything, it ends
/// with the next buffer that it makes.
const MOST_BYTES: u64 = 96 << 40;
/// When so many are mapped, the rest is for front-ends that have few.
const CROWDED_BYTES: u64 = 64 << 40;
/// Bytes that a front-end may have mapped then.
const FEW_BYTES: u64 = 64 << 30;
/// How long to wait for something to be unmapped, before the next look.
const UNMAPPING_PAUSE: Duration = Duration::from_millis(5);
/// `f_type` of hugetlbfs.
const HUGETLBFS: u64 = 0x958458f6;

/// What the front-ends of one export have mapped, one after the other: who connects anew begins with what is still to be unmapped.
#[derive(Debug)]
pub(crate) struct Budget {
    regions: AtomicUsize,
    bytes: AtomicU64,
    /// Mappings among them that nobody uses any more.
    parting: AtomicUsize,
    /// Where they are unmapped.
    lane: Lane,
}

impl Default for Budget {
    fn default() -> Self {
        Self { regions: AtomicUsize::new(0), bytes: AtomicU64::new(0), parting: AtomicUsize::new(0), lane: freeing() }
    }
}

/// Bytes that all front-ends have mapped.
static MAPPED: AtomicU64 = AtomicU64::new(0);

/// Why a front-end may not have so much mapped, of `all` bytes in the process.
fn refusal(regions: usize, bytes: u64, all: u64) -> Option<String> {
    let (most, most_bytes) = (LIVE * MAX_REGIONS, LIVE as u64 * MAX_BYTES);
    if regions > most || bytes > most_bytes {
        let text = format!("{regions} mappings of {bytes} bytes, with those that rings and requests still use");
        return Some(format!("{text}: {most} of {most_bytes} bytes are the most"));
    }
    let text = "this process has mapped so much that each front-end has";
    if regions > FEW && is_crowded() {
        return Some(format!("{text} {FEW} regions at most"));
    }
    if all > MOST_BYTES || (bytes > FEW_BYTES && all > CROWDED_BYTES) {
        return Some(format!("{text} {FEW_BYTES} bytes at most"));
    }
    None
}

impl Budget {
    fn has_room(&self, regions: usize, bytes: u64) -> bool {
        let regions = self.regions.load(Ordering::Relaxed).saturating_add(regions);
        let with = |mapped: &AtomicU64| mapped.load(Ordering::Relaxed).saturating_add(bytes);
        refusal(regions, with(&self.bytes), with(&MAPPED)).is_none()
    }

    /// Waits until there is room for so much more, if what nobody uses any more may leave it: unmapping takes its time.
    pub(crate) async fn room(&self, reactor: &Reactor, regions: usize, bytes: u64) {
        while !self.has_room(regions, bytes) && self.parting.load(Ordering::Relaxed) > 0 {
            self.lane.go_on();
            reactor.sleep(UNMAPPING_PAUSE).await;
        }
    }
}

/// A mapping's part of it, until it is unmapped.
#[derive(Debug)]
struct Share {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Share {
    fn of(budget: &Arc<Budget>, bytes: u64) -> Result<Self, String> {
        // Made first: dropped, it gives back what was added.
        let share = Self { budget: Arc::clone(budget), bytes };
        let regions = budget.regions.fetch_add(1, Ordering::Relaxed) + 1;
        let with = |mapped: &AtomicU64| mapped.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if let Some(why) = refusal(regions, with(&budget.bytes), with(&MAPPED)) {
            return Err(why);
        }
        Ok(share)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let _before = self.budget.regions.fetch_sub(1, Ordering::Relaxed);
        let _before = self.budget.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        let _before = MAPPED.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Counts a mapping as parting no more, when it is gone.
#[derive(Debug)]
struct Parting(Arc<Budget>);

impl Drop for Parting {
    fn drop(&mut self) {
        let _before = self.0.parting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Mapped {
    memory: Guarded,
    // Behind the memory, so that it counts until that is unmapped.
    _share: Share,
    // And then so that whoever finds nothing parting finds room.
    parting: Parting,
}

/// A file in memory, mapped as a whole or in part. The file need not stay open.
pub(crate) struct Mapping(Aside<Mapped>);

impl std::fmt::Debug for Mapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.memory.fmt(f)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let _before = self.0.parting.0.parting.fetch_add(1, Ordering::Relaxed);
    }
}

impl Mapping {
    pub(crate) fn of(file: &Foreign, offset: u64, size: u64, budget: &Arc<Budget>) -> Result<Self, String> {
        let failed = |what: &str, e: &dyn std::fmt::Display| format!("{what}: {e}");
        let end = offset.checked_add(size).filter(|&end| size > 0 && i64::try_from(end).is_ok());
        let end = end.ok_or_else(|| format!("{size} bytes at {offset} of a file are none that can be mapped"))?;
        let length = fstat(file).map_err(|e| failed("a memory file's size", &e))?.st_size;
        if i64::try_from(end).is_ok_and(|end| end > length) {
            return Err(format!("a memory file of {length} bytes has none at {offset} to {end}"));
        }
        let system = fstatfs(file).map_err(|e| failed("a memory file's file system", &e))?;
        let page = if system.f_type as u64 & 0xffff_ffff == HUGETLBFS { system.f_bsize as u64 } else { 4096 };
        if !page.is_power_of_two() || !offset.is_multiple_of(page) || (page > 4096 && !size.is_multiple_of(page)) {
            return Err(format!(
                "{size} bytes at {offset} of a memory file are not at the bounds of its pages ({page})"
            ));
        }
        let share = Share::of(budget, size)?;
        let memory =
            Guarded::map(file, offset, size, page).map_err(|e| failed("a memory file cannot be mapped", &e))?;
        let parting = Parting(Arc::clone(budget));
        Ok(Self(Aside::new(Mapped { memory, _share: share, parting }, budget.lane.clone())))
    }

    /// What is mapped, to be kept no longer than this.
    pub(crate) fn bytes(&self) -> Result<MmapRegion, String> {
        self.0.memory.bytes().map_err(|e| format!("a mapping: {e}"))
    }

    /// Whether all of it is still its file's.
    pub(crate) fn is_whole(&self) -> bool {
        self.0.memory.is_whole()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_engine::{Pool, PoolOptions};
    use pollster::block_on;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use std::{pin::pin, sync::mpsc, task::Poll};

    struct Waits(mpsc::Receiver<()>);

    impl Drop for Waits {
        fn drop(&mut self) {
            // Ends with an error, when nothing more can come.
            self.0.recv().ok();
        }
    }

    /// A front-end that gives its memory anew waits until what it had is unmapped, and is not refused.
    #[test]
    fn room_is_waited_for_when_something_is_still_to_be_unmapped() {
        let file = memfd_create("giant", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, MAX_BYTES).unwrap();
        let (file, lane) = (Foreign::from(file), Lane::new("test"));
        let budget = Arc::new(Budget { lane: lane.clone(), ..Budget::default() });
        let map = |budget: &_| Mapping::of(&file, 0, MAX_BYTES, budget);
        let (one, two) = (map(&budget).unwrap(), map(&budget).unwrap());
        assert!(map(&budget).is_err());
        // Keeps the thread that unmaps.
        let (end, ended) = mpsc::channel();
        drop(Aside::new(Waits(ended), lane));
        drop(one);
        let directory = tempfile::tempdir().unwrap();
        let pool = block_on(Pool::create(directory.path().join("p"), PoolOptions::new().size(64 << 20))).unwrap();
        let waited = Arc::clone(&budget);
        let waited = block_on(pool.run(move |pool| async move {
            let reactor = pool.reactor().clone();
            let mut room = pin!(waited.room(&reactor, 1, MAX_BYTES));
            let first = std::future::poll_fn(|cx| Poll::Ready(room.as_mut().poll(cx).is_pending())).await;
            drop(end);
            room.await;
            // What is in use is not waited for.
            waited.room(&reactor, 1, 2 * MAX_BYTES).await;
            first
        }));
        assert!(waited.unwrap(), "it was there at once");
        let _three = map(&budget).unwrap();
        drop(two);
        block_on(pool.close()).unwrap();
    }
}
