//! Files of front-ends, mapped: within what one front-end may have, and given back by a thread of their own.
//!
//! The file's locks are its front-end's: whoever allocates or writes holds them for as long as it likes. So nothing is asked of a file that
//! needs them; it is not sealed against shrinking, which changes nothing (there is the [`bus`]).

use crate::{
    aside::{Aside, FREEING},
    bus::Guarded,
    descriptors::Foreign,
};
use rustix::fs::{fstat, fstatfs};
use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};
use vm_memory::MmapRegion;

/// Bytes that a table of one front-end may have.
pub(crate) const MAX_BYTES: u64 = 4 << 40;
/// Regions of a table.
pub(crate) const MAX_REGIONS: usize = 64;
/// What may be mapped at once is twice that: rings and requests under way keep the tables that were before.
const LIVE: usize = 2;
/// `f_type` of hugetlbfs.
const HUGETLBFS: u64 = 0x958458f6;

/// What one front-end has mapped.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    regions: AtomicUsize,
    bytes: AtomicU64,
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
        let total = budget.bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if regions > LIVE * MAX_REGIONS || total > LIVE as u64 * MAX_BYTES {
            let (most, most_bytes) = (LIVE * MAX_REGIONS, LIVE as u64 * MAX_BYTES);
            let text = format!("{regions} mappings of {total} bytes, with those that rings and requests still use");
            return Err(format!("{text}: {most} of {most_bytes} bytes are the most"));
        }
        Ok(share)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let _before = self.budget.regions.fetch_sub(1, Ordering::Relaxed);
        let _before = self.budget.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Mapped {
    memory: Guarded,
    // Behind the memory, so that it counts until that is unmapped.
    _share: Share,
}

/// A file in memory, mapped as a whole or in part. The file need not stay open.
pub(crate) struct Mapping(Aside<Mapped>);

impl std::fmt::Debug for Mapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.memory.fmt(f)
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
        Ok(Self(Aside::new(Mapped { memory, _share: share }, &FREEING)))
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
