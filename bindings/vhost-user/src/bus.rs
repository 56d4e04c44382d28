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
//! - A mapping falls into three pieces at most (the kernel has a bound on the pieces of a process): the first loss replaces the page and
//!   what is behind it, but no more than takes a moment; the second one all of the mapping. Who saw a loss touches nothing more of it, so
//!   that a second one is rare.
//! - What is replaced is never the last of its file, which would be freed here: a page of it is mapped once more for as long as the mapping
//!   exists. (A descriptor would do as well. Processes have fewer of those.)
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

/// Mappings that can be guarded at once, by all servers of a process. Each is two of the kernel's (it allows 65,530 of a process, unless
/// `vm.max_map_count` says otherwise).
const SLOTS: usize = 16384;
/// When so many are there, the rest is for front-ends that have few.
const CROWDED: usize = SLOTS / 2;
/// Mappings of which a part was replaced, at once: each is two of the kernel's more. Of others, all is replaced.
const MAX_SPLIT: usize = 4096;
/// Bytes that the first loss of a mapping replaces at most: more than anybody copies before the next look at what was lost, and little
/// enough to be done in a moment.
const BLOCK: usize = 64 << 20;
/// Bytes that are unmapped at once: who maps something meanwhile waits for no more.
const UNMAP_PIECE: usize = 64 << 20;

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
    /// Counts as [`SPLIT`].
    split: AtomicBool,
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
            split: AtomicBool::new(false),
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

    /// What it guarded is unmapped; or it is about to be, so that whatever is mapped there next is not guarded.
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

/// Slots that are not free.
static USED: AtomicUsize = AtomicUsize::new(0);

/// Mappings of which a part was replaced.
static SPLIT: AtomicUsize = AtomicUsize::new(0);

/// How often anything was replaced.
static LOSSES: AtomicU64 = AtomicU64::new(0);

/// The handler that was there before: its address, and whether it takes three arguments.
static PREVIOUS: AtomicUsize = AtomicUsize::new(libc::SIG_DFL);
static PREVIOUS_INFO: AtomicBool = AtomicBool::new(false);

/// How often anything in any mapping of this process was replaced: while this stays the same, every mapping is as it was.
pub(crate) fn losses() -> u64 {
    LOSSES.load(Ordering::Relaxed)
}

/// Whether so many mappings are there that who has many gets no more.
pub(crate) fn is_crowded() -> bool {
    USED.load(Ordering::Relaxed) >= CROWDED
}

/// A mapping whose loss does not end the process. Dropped, it is unmapped.
#[derive(Debug)]
pub(crate) struct Guarded {
    slot: &'static Slot,
    range: Range,
    /// A page of the file, which nobody touches: it keeps the file from being freed where the range is replaced.
    kept: Range,
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
        let kept = map_new(file, offset, page, page, libc::PROT_NONE)?;
        let mapped = map_new(file, offset, length, page, libc::PROT_READ | libc::PROT_WRITE);
        let range = mapped.inspect_err(|_| unmap(kept))?;
        match TABLE.iter().find(|slot| slot.claim(range)) {
            Some(slot) => {
                let _before = USED.fetch_add(1, Ordering::Relaxed);
                Ok(Self { slot, range, kept, size })
            }
            None => {
                unmap(range);
                unmap(kept);
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
        let was_split = self.slot.split.swap(false, Ordering::Relaxed);
        // Before it is unmapped: what is mapped there next is not guarded.
        self.slot.release();
        unmap(self.range);
        unmap(self.kept);
        let _before = USED.fetch_sub(1, Ordering::Relaxed);
        if was_split {
            let _before = SPLIT.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Maps `length` bytes of a file at a place that the kernel chooses.
fn map_new(file: &OwnedFd, offset: libc::off_t, length: usize, page: usize, protection: i32) -> io::Result<Range> {
    let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
    // SAFETY: a new mapping, which is in nobody's way.
    let at = unsafe { libc::mmap(ptr::null_mut(), length, protection, flags, file.as_raw_fd(), offset) };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(Range { start: at.expose_provenance(), length, page })
}

fn unmap(range: Range) {
    for piece in pieces(range) {
        // SAFETY: mapped by `Guarded::map`, and used by nobody any more.
        let _unmapped = unsafe { libc::munmap(ptr::with_exposed_provenance_mut(piece.start), piece.length) };
    }
}

/// A range in parts that are unmapped at once.
fn pieces(range: Range) -> impl Iterator<Item = Range> {
    let (step, end) = (UNMAP_PIECE.max(range.page), range.start + range.length);
    (range.start..end).step_by(step).map(move |start| Range { start, length: step.min(end - start), ..range })
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
        let in_part = slot.lost.load(Ordering::Relaxed) == 0 && may_split(slot);
        if replace(address, range, in_part) {
            let _before = slot.lost.fetch_add(1, Ordering::Relaxed);
            let _before = LOSSES.fetch_add(1, Ordering::Relaxed);
            return;
        }
    }
    pass_on(signal, info, context, true);
}

/// Whether a mapping may fall into pieces, as it does then.
fn may_split(slot: &Slot) -> bool {
    if SPLIT.fetch_add(1, Ordering::Relaxed) < MAX_SPLIT {
        slot.split.store(true, Ordering::Relaxed);
        return true;
    }
    let _before = SPLIT.fetch_sub(1, Ordering::Relaxed);
    false
}

/// The part of a range from the page of an address on that the first loss replaces.
fn part(address: usize, range: Range) -> Range {
    let start = address & !(range.page - 1);
    let left = range.start + range.length - start;
    Range { start, length: BLOCK.max(range.page).min(left), ..range }
}

/// Puts anonymous memory in the place of an address, and of what is around it.
fn replace(address: usize, range: Range, in_part: bool) -> bool {
    let wanted = if in_part { part(address, range) } else { range };
    // If the system has no memory for more, then for the page alone.
    put_anonymous(wanted) || put_anonymous(Range { length: range.page, ..part(address, range) })
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
    fn the_first_loss_replaces_the_page_and_some_of_what_is_behind_it() {
        let range = Range { start: 0x10_3000, length: 0xa000, page: 0x1000 };
        for (address, start, length) in
            [(0x10_3fff, 0x10_3000, 0xa000), (0x10_5008, 0x10_5000, 0x8000), (0x10_c000, 0x10_c000, 0x1000)]
        {
            let part = part(address, range);
            assert_eq!((part.start, part.length), (start, length), "{address:#x}");
        }
        let large = Range { start: 0x4000_0000, length: 1 << 40, page: 0x20_0000 };
        assert_eq!((part(0x4030_0000, large).start, part(0x4030_0000, large).length), (0x4020_0000, BLOCK));
        let giant = Range { start: 1 << 40, length: 4 << 30, page: 1 << 30 };
        assert_eq!(part((1 << 40) + 5, giant).length, 1 << 30);
    }

    #[test]
    fn ranges_are_unmapped_in_pieces_that_are_all_of_them() {
        let lengths = |length, page| pieces(Range { start: 1 << 40, length, page }).map(|piece| piece.length);
        assert_eq!(lengths(0x3000, 0x1000).collect::<Vec<_>>(), [0x3000]);
        assert_eq!(lengths((64 << 20) + 4096, 4096).collect::<Vec<_>>(), [64 << 20, 4096]);
        assert_eq!(lengths(2 << 30, 1 << 30).collect::<Vec<_>>(), [1 << 30, 1 << 30]);
        let range = Range { start: 1 << 40, length: 200 << 20, page: 4096 };
        assert_eq!(pieces(range).map(|piece| piece.start).last(), Some((1 << 40) + (192 << 20)));
    }

    /// Pieces of what is mapped of a file with this name.
    fn mapped(name: &str) -> usize {
        std::fs::read_to_string("/proc/self/maps").unwrap().lines().filter(|line| line.contains(name)).count()
    }

    /// One after the other: what may be in pieces is counted for all of the process.
    #[test]
    fn pieces_are_few() {
        a_mapping_falls_into_three_pieces_at_most();
        so_many_mappings_may_be_in_pieces_and_no_more();
    }

    fn a_mapping_falls_into_three_pieces_at_most() {
        let file = rustix::fs::memfd_create("cairn-pieces", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, 1 << 30).unwrap();
        let memory = Guarded::map(&file, 0, 1 << 30, 4096).unwrap();
        assert_eq!(mapped("cairn-pieces"), 2);
        rustix::fs::ftruncate(&file, 0).unwrap();
        let touch = |at: usize| {
            // SAFETY: within the mapping, which exists.
            unsafe { ptr::with_exposed_provenance_mut::<u8>(memory.range.start + at).write_volatile(1) };
        };
        touch(512 << 20);
        assert!(!memory.is_whole());
        assert_eq!(mapped("cairn-pieces"), 3, "before and behind what was replaced, and the page that is kept");
        touch((512 << 20) + (4 << 20));
        assert_eq!(memory.slot.lost.load(Ordering::Relaxed), 1, "as much as is copied at once was replaced");
        touch(1 << 20);
        assert_eq!(mapped("cairn-pieces"), 1, "the page that is kept");
        (0..1 << 30).step_by(16 << 20).for_each(touch);
        assert_eq!(memory.slot.lost.load(Ordering::Relaxed), 2);
        drop(memory);
        assert_eq!(mapped("cairn-pieces"), 0);
    }

    fn so_many_mappings_may_be_in_pieces_and_no_more() {
        let file = rustix::fs::memfd_create("cairn-many", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, 256 << 20).unwrap();
        let map = || Guarded::map(&file, 0, 256 << 20, 4096).unwrap();
        let many: Vec<_> = (0..MAX_SPLIT + 100).map(|_| map()).collect();
        rustix::fs::ftruncate(&file, 0).unwrap();
        for memory in &many {
            // SAFETY: within a mapping that exists.
            unsafe { ptr::with_exposed_provenance_mut::<u8>(memory.range.start + (100 << 20)).write_volatile(1) };
            assert!(!memory.is_whole());
        }
        // Other tests may have some.
        assert!((MAX_SPLIT - 10..=MAX_SPLIT).contains(&SPLIT.load(Ordering::Relaxed)));
        // Of each that is in pieces, two and the page that is kept; of the others, that page.
        assert!(mapped("cairn-many") <= 2 * MAX_SPLIT + many.len());
        assert!(mapped("cairn-many") >= many.len() && !is_crowded());
        drop(many);
        assert!(SPLIT.load(Ordering::Relaxed) < 10 && mapped("cairn-many") == 0);
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
