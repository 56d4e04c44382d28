//! What happens when a file behind a mapping has lost its bytes.
//!
//! A front-end can cut its memory's file short, and a file system in memory can be full: then the page that this process touches does not
//! exist, and the kernel sends it `SIGBUS`, which ends it, with every volume that it serves. For a mapping that is [`Guarded`] the
//! handler puts anonymous memory in the page's place instead and notes that it did; whoever used the mapping asks
//! [`Guarded::is_whole`] before it believes what it read there.
//!
//! Invariants:
//! - The handler touches nothing but the atomics below and the system call `mmap`.
//! - It replaces memory of a front-end only: a range counts while its mapping exists, and only as it was read in one piece.
//! - Each loss of a mapping replaces twice as much of it as the one before, so that a mapping falls into few pieces, wherever pages are
//!   missing (the kernel has a bound on the pieces of a process), and a few lost pages cost no more than they are.
//! - Signals that are no mapping's go to the handler that was there before, and leave this one in its place.

#![allow(unsafe_code)]

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, OwnedFd},
    ptr,
    sync::{
        Once,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
    },
};
use vm_memory::MmapRegion;

/// Mappings that can be guarded at once, by all servers of a process.
const SLOTS: usize = 16384;

// The state of a slot: in its low bits one of these, above them how often it was claimed.
const FREE: usize = 0;
const CLAIMED: usize = 1;
const LIVE: usize = 2;
const STATES: usize = 3;
const GENERATION: usize = 4;

#[derive(Debug)]
struct Slot {
    state: AtomicUsize,
    start: AtomicUsize,
    length: AtomicUsize,
    page: AtomicUsize,
    lost: AtomicU32,
}

/// What a slot guards. In bytes, all of them multiples of `page`.
#[derive(Clone, Copy, Debug)]
struct Range {
    start: usize,
    length: usize,
    page: usize,
}

impl Slot {
    const fn new() -> Self {
        Self {
            state: AtomicUsize::new(FREE),
            start: AtomicUsize::new(0),
            length: AtomicUsize::new(0),
            page: AtomicUsize::new(0),
            lost: AtomicU32::new(0),
        }
    }

    /// Whether it was free, and guards this from now on.
    fn claim(&self, range: Range) -> bool {
        let state = self.state.load(Ordering::Relaxed);
        let claimed = (state & !STATES).wrapping_add(GENERATION) | CLAIMED;
        let order = (Ordering::Acquire, Ordering::Relaxed);
        if state & STATES != FREE || self.state.compare_exchange(state, claimed, order.0, order.1).is_err() {
            return false;
        }
        // Whoever sees any of the following sees that the slot was claimed.
        fence(Ordering::Release);
        self.start.store(range.start, Ordering::Relaxed);
        self.length.store(range.length, Ordering::Relaxed);
        self.page.store(range.page, Ordering::Relaxed);
        self.lost.store(0, Ordering::Relaxed);
        self.state.store(claimed - CLAIMED + LIVE, Ordering::Release);
        true
    }

    fn release(&self) {
        let state = self.state.load(Ordering::Relaxed);
        self.state.store(state - LIVE + FREE, Ordering::Release);
    }

    /// What it guards. None also when that changes meanwhile: then it is not what the caller is using.
    fn range(&self) -> Option<Range> {
        let state = self.state.load(Ordering::Acquire);
        let range = Range {
            start: self.start.load(Ordering::Relaxed),
            length: self.length.load(Ordering::Relaxed),
            page: self.page.load(Ordering::Relaxed),
        };
        fence(Ordering::Acquire);
        (state & STATES == LIVE && self.state.load(Ordering::Relaxed) == state).then_some(range)
    }
}

static TABLE: [Slot; SLOTS] = [const { Slot::new() }; SLOTS];

/// How often anything was replaced.
static LOSSES: AtomicU64 = AtomicU64::new(0);

/// The handler that was there before: its address, and whether it takes three arguments.
static PREVIOUS: AtomicUsize = AtomicUsize::new(libc::SIG_DFL);
static PREVIOUS_INFO: AtomicBool = AtomicBool::new(false);

/// How often anything in any mapping of this process was replaced: while this stays the same, every mapping is as it was.
pub(crate) fn losses() -> u64 {
    LOSSES.load(Ordering::Relaxed)
}

/// A mapping whose loss does not end the process. Dropped, it is unmapped.
#[derive(Debug)]
pub(crate) struct Guarded {
    slot: &'static Slot,
    range: Range,
    /// Bytes that were asked for.
    size: usize,
}

impl Guarded {
    /// Maps `size` bytes of a file from `offset` on, which is a multiple of its pages' size.
    ///
    /// # Errors
    /// They cannot be mapped, there are too many mappings, or the handler cannot be installed.
    pub(crate) fn map(file: &OwnedFd, offset: u64, size: u64, page: u64) -> io::Result<Self> {
        install()?;
        let invalid = |e| io::Error::new(io::ErrorKind::InvalidInput, e);
        let (size, page) = (usize::try_from(size).map_err(invalid)?, usize::try_from(page).map_err(invalid)?);
        let offset = libc::off_t::try_from(offset).map_err(invalid)?;
        let length = size.checked_next_multiple_of(page).ok_or(io::ErrorKind::InvalidInput)?;
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_NORESERVE);
        // SAFETY: a new mapping at a place that the kernel chooses.
        let at = unsafe { libc::mmap(ptr::null_mut(), length, protection, flags, file.as_raw_fd(), offset) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let range = Range { start: at.expose_provenance(), length, page };
        match TABLE.iter().find(|slot| slot.claim(range)) {
            Some(slot) => Ok(Self { slot, range, size }),
            None => {
                unmap(range);
                Err(io::Error::other(format!("more than {SLOTS} regions of memory are mapped")))
            }
        }
    }

    /// What is mapped. To be kept no longer than this.
    ///
    /// # Errors
    /// None that is known: what the kernel mapped is at the bounds of its pages.
    pub(crate) fn bytes(&self) -> io::Result<MmapRegion> {
        let (start, protection) =
            (ptr::with_exposed_provenance_mut(self.range.start), libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: the range is mapped for as long as this exists. It is used as bytes that anybody may change at any time.
        let region =
            unsafe { MmapRegion::build_raw(start, self.size, protection, libc::MAP_SHARED | libc::MAP_NORESERVE) };
        region.map_err(io::Error::other)
    }

    /// Whether all of it is still that of its file.
    pub(crate) fn is_whole(&self) -> bool {
        self.slot.lost.load(Ordering::Relaxed) == 0
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // Before it is unmapped: what is mapped there next is not guarded.
        self.slot.release();
        unmap(self.range);
    }
}

fn unmap(range: Range) {
    // SAFETY: mapped by `Guarded::map`, and used by nobody any more.
    let _unmapped = unsafe { libc::munmap(ptr::with_exposed_provenance_mut(range.start), range.length) };
}

fn install() -> io::Result<()> {
    static ONCE: Once = Once::new();
    static INSTALLED: AtomicBool = AtomicBool::new(false);
    ONCE.call_once(|| {
        let mut previous = MaybeUninit::<libc::sigaction>::zeroed();
        if set_handler(previous.as_mut_ptr()) {
            // SAFETY: the kernel filled it in.
            let previous = unsafe { previous.assume_init() };
            PREVIOUS_INFO.store(previous.sa_flags & libc::SA_SIGINFO != 0, Ordering::Relaxed);
            PREVIOUS.store(previous.sa_sigaction, Ordering::Release);
            INSTALLED.store(true, Ordering::Release);
        }
    });
    if INSTALLED.load(Ordering::Acquire) {
        Ok(())
    } else {
        Err(io::Error::other("no handler for SIGBUS can be installed"))
    }
}

/// Makes [`on_bus_error`] the handler, and says which one it was before, if there is room for that. Whether it is.
fn set_handler(previous: *mut libc::sigaction) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: an all-zero `sigaction` is valid: an empty mask, no flags; it is local, and `previous` is null or large enough.
    unsafe {
        (*action.as_mut_ptr()).sa_sigaction = on_bus_error as *const () as usize;
        (*action.as_mut_ptr()).sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGBUS, action.as_ptr(), previous) == 0
    }
}

extern "C" fn on_bus_error(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a valid `siginfo_t`.
    let code = unsafe { (*info).si_code };
    if code <= 0 {
        // Somebody sent it: there is no address.
        return pass_on(signal, info, context, false);
    }
    // SAFETY: one of the kernel has an address.
    let address = unsafe { (*info).si_addr() } as usize;
    for slot in &TABLE {
        let Some(range) = slot.range().filter(|range| address.wrapping_sub(range.start) < range.length) else {
            continue;
        };
        if replace(address, range, slot.lost.load(Ordering::Relaxed)) {
            let _before = slot.lost.fetch_add(1, Ordering::Relaxed);
            let _before = LOSSES.fetch_add(1, Ordering::Relaxed);
            return;
        }
    }
    pass_on(signal, info, context, true);
}

/// The part of a range around an address that is replaced when it was `lost` before so often.
fn part(address: usize, range: Range, lost: u32) -> Range {
    let size = range.page.checked_shl(lost).filter(|size| *size >= range.page && *size <= range.length);
    let size = size.unwrap_or_else(|| range.length.checked_next_power_of_two().unwrap_or(range.page));
    let first = address & !(size - 1);
    let start = first.max(range.start);
    let end = first.saturating_add(size).min(range.start + range.length);
    Range { start, length: end - start, ..range }
}

/// Puts anonymous memory in the place of an address, and of what is around it.
fn replace(address: usize, range: Range, lost: u32) -> bool {
    // If the system has no memory for more, then for the page alone.
    put_anonymous(part(address, range, lost)) || put_anonymous(part(address, range, 0))
}

fn put_anonymous(range: Range) -> bool {
    let flags = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the range is within a mapping that exists while anybody uses it, as whoever got this signal does; what is there is read and
    // written as bytes that anybody may change at any time. `errno` is what the interrupted code may be about to look at, so it is put back.
    unsafe {
        let errno = *libc::__errno_location();
        let at = libc::mmap(ptr::with_exposed_provenance_mut(range.start), range.length, protection, flags, -1, 0);
        *libc::__errno_location() = errno;
        at != libc::MAP_FAILED
    }
}

/// Does what would have happened without this handler, which stays for the next signal. With a `fault`, the instruction runs again.
fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void, fault: bool) {
    match PREVIOUS.load(Ordering::Acquire) {
        libc::SIG_IGN if !fault => return,
        libc::SIG_DFL | libc::SIG_IGN => {
            // SAFETY: allowed in a handler by POSIX, and `SIG_DFL` is a valid disposition.
            let _was = unsafe { libc::signal(signal, libc::SIG_DFL) };
            if !fault {
                // SAFETY: as above. It ends the process.
                let _raised = unsafe { libc::raise(signal) };
            }
        }
        handler if PREVIOUS_INFO.load(Ordering::Relaxed) => {
            // SAFETY: it was installed as a handler with three arguments, and is called with those of the kernel.
            let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                unsafe { std::mem::transmute(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: it was installed as a handler with one argument.
            let handler: extern "C" fn(libc::c_int) = unsafe { std::mem::transmute(handler) };
            handler(signal);
        }
    }
    if !fault {
        // Some handlers restore the default, and count on the fault to come again: that of Rust's library does.
        let _installed = set_handler(ptr::null_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_replace_the_page_and_then_twice_as_much_each_time() {
        let range = Range { start: 0x10_3000, length: 0xa000, page: 0x1000 };
        let cases = [
            (0x10_3fff, 0, 0x10_3000, 0x1000),
            (0x10_5008, 0, 0x10_5000, 0x1000),
            (0x10_5008, 1, 0x10_4000, 0x2000),
            (0x10_3000, 2, 0x10_3000, 0x1000),
            (0x10_c000, 2, 0x10_c000, 0x1000),
            (0x10_7000, 3, 0x10_3000, 0x5000),
            (0x10_8000, 4, 0x10_3000, 0xa000),
            (0x10_8000, 63, 0x10_3000, 0xa000),
            (0x10_8000, 64, 0x10_3000, 0xa000),
            (0x10_8000, u32::MAX, 0x10_3000, 0xa000),
        ];
        for (address, lost, start, length) in cases {
            let part = part(address, range, lost);
            assert_eq!((part.start, part.length), (start, length), "{address:#x} after {lost}");
        }
        let huge = Range { start: 0x4000_0000, length: 0x60_0000, page: 0x20_0000 };
        assert_eq!(part(0x4030_0000, huge, 0).start, 0x4020_0000);
        assert_eq!(part(0x4030_0000, huge, 0).length, 0x20_0000);
        assert_eq!(part(0x4030_0000, huge, 1).length, 0x40_0000);
    }

    /// Slots change hands while others look at them; what is seen was there.
    #[test]
    fn ranges_are_seen_whole_or_not_at_all() {
        static SLOT: Slot = Slot::new();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let looking = scope.spawn(|| {
                let mut seen = 0;
                while !over.load(Ordering::Relaxed) || seen == 0 {
                    if let Some(range) = SLOT.range() {
                        assert_eq!((range.start, range.length), (range.page << 20, range.page << 10));
                        seen += 1;
                    }
                }
            });
            // Until it was seen at least once, and then often.
            for i in 1..200_000usize {
                assert!(SLOT.claim(Range { start: i << 20, length: i << 10, page: i }));
                assert!(!SLOT.claim(Range { start: 0, length: 1, page: 2 }));
                SLOT.release();
            }
            assert!(SLOT.claim(Range { start: 1 << 20, length: 1 << 10, page: 1 }));
            over.store(true, Ordering::Relaxed);
            looking.join().unwrap();
        });
    }
}
