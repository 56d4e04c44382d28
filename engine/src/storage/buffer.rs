//! Owned I/O buffers, aligned for direct I/O.
//!
//! Invariant: the memory of an [`IoBuf`] is always initialised, aligned to [`ALIGN`], and owned by exactly one value;
//! an operation in flight owns its buffer, so the kernel never writes into memory that somebody else sees.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    cell::{Cell, RefCell},
    collections::VecDeque,
    ops::{Deref, DerefMut},
    ptr::NonNull,
};

/// Alignment of every buffer in bytes; enough for the direct I/O of any device met so far.
pub const ALIGN: usize = 4096;

/// Buffers of up to this many bytes are kept for reuse by the thread that drops them.
const KEPT_CAPACITY: usize = 64 * 1024;
/// How many of each size are kept per thread.
const KEPT: usize = 256;
/// Larger ones, up to this many bytes, are kept too, each for its own size: fresh memory costs more than all else that a request of 1 MiB does
/// (a fault and a zeroed page for each 4 KiB).
const MOST_KEPT: usize = 4 << 20;
/// Bytes of those that are kept per thread.
const KEPT_BYTES: usize = 32 << 20;

/// Free buffers of one size, kept by a thread.
struct Kept<const CAPACITY: usize> {
    free: RefCell<Vec<NonNull<u8>>>,
    /// Buffers that the thread had to ask the allocator for. One that never needs any keeps none of those that others hand it.
    made: Cell<usize>,
}

impl<const CAPACITY: usize> Kept<CAPACITY> {
    const fn new() -> Self {
        Self { free: RefCell::new(Vec::new()), made: Cell::new(0) }
    }

    fn take(&self) -> Option<NonNull<u8>> {
        let free = self.free.borrow_mut().pop();
        if free.is_none() {
            self.made.set(self.made.get() + 1);
        }
        free
    }

    /// Takes the buffer unless there are enough already.
    fn put(&self, ptr: NonNull<u8>) -> bool {
        let mut list = self.free.borrow_mut();
        let room = list.len() < KEPT.min(self.made.get());
        if room {
            list.push(ptr);
        }
        room
    }
}

impl<const CAPACITY: usize> Drop for Kept<CAPACITY> {
    fn drop(&mut self) {
        for ptr in self.free.take() {
            // SAFETY: `put` took over a buffer of this capacity from an `IoBuf` that let go of it.
            unsafe { dealloc(ptr.as_ptr(), layout(CAPACITY)) }
        }
    }
}

/// Free buffers of any size above [`KEPT_CAPACITY`], kept by a thread, the oldest first.
struct KeptApart {
    free: RefCell<VecDeque<(usize, NonNull<u8>)>>,
    /// Bytes of them.
    bytes: Cell<usize>,
    /// Bytes that the thread had to ask the allocator for, as in [`Kept`].
    made: Cell<usize>,
}

impl KeptApart {
    const fn new() -> Self {
        Self { free: RefCell::new(VecDeque::new()), bytes: Cell::new(0), made: Cell::new(0) }
    }

    /// The last one of just this capacity: its memory may still be in the processor's caches.
    fn take(&self, capacity: usize) -> Option<NonNull<u8>> {
        let mut free = self.free.borrow_mut();
        let found = free.iter().rposition(|(size, _)| *size == capacity).and_then(|at| free.remove(at));
        match found {
            Some(_) => self.bytes.set(self.bytes.get() - capacity),
            None => self.made.set(self.made.get().saturating_add(capacity)),
        }
        found.map(|(_, ptr)| ptr)
    }

    /// Takes the buffer, in the place of the oldest ones if need be: sizes that nobody asks for any more make room.
    fn put(&self, capacity: usize, ptr: NonNull<u8>) -> bool {
        let most = KEPT_BYTES.min(self.made.get());
        if capacity > most {
            return false;
        }
        let mut free = self.free.borrow_mut();
        while self.bytes.get() + capacity > most {
            let Some((size, oldest)) = free.pop_front() else { break };
            self.bytes.set(self.bytes.get() - size);
            // SAFETY: `put` took over a buffer of this capacity from an `IoBuf` that let go of it.
            unsafe { dealloc(oldest.as_ptr(), layout(size)) }
        }
        self.bytes.set(self.bytes.get() + capacity);
        free.push_back((capacity, ptr));
        true
    }
}

impl Drop for KeptApart {
    fn drop(&mut self) {
        for (capacity, ptr) in self.free.take() {
            // SAFETY: as in `put`.
            unsafe { dealloc(ptr.as_ptr(), layout(capacity)) }
        }
    }
}

thread_local! {
    static APART: KeptApart = const { KeptApart::new() };
    static SINGLE: Kept<ALIGN> = const { Kept::new() };
    static LARGE: Kept<KEPT_CAPACITY> = const { Kept::new() };
}

/// An owned, aligned, initialised byte buffer.
///
/// ```
/// use cairn_engine::IoBuf;
/// let mut buf = IoBuf::zeroed(8192);
/// buf[0] = 1;
/// assert_eq!(buf.as_ptr() as usize % 4096, 0);
/// assert_eq!(IoBuf::from(&buf[..512]).len(), 512);
/// ```
pub struct IoBuf {
    ptr: NonNull<u8>,
    len: usize,
    capacity: usize,
}

// SAFETY: an IoBuf owns its memory exclusively, as a Vec<u8> does.
unsafe impl Send for IoBuf {}
// SAFETY: shared access gives out only `&[u8]`.
unsafe impl Sync for IoBuf {}

fn layout(capacity: usize) -> Layout {
    Layout::from_size_align(capacity, ALIGN).expect("buffer size within isize")
}

impl IoBuf {
    /// A buffer of `len` bytes with unspecified (but initialised) contents: for data about to be read into it.
    #[must_use]
    pub fn with_len(len: usize) -> Self {
        let capacity = Self::footprint(len);
        let kept = match capacity {
            ALIGN => SINGLE.try_with(Kept::take).ok().flatten(),
            KEPT_CAPACITY => LARGE.try_with(Kept::take).ok().flatten(),
            ..=MOST_KEPT => APART.try_with(|k| k.take(capacity)).ok().flatten(),
            _ => None,
        };
        let ptr = kept.unwrap_or_else(|| {
            let layout = layout(capacity);
            // SAFETY: the layout's size is never zero.
            NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap_or_else(|| handle_alloc_error(layout))
        });
        Self { ptr, len, capacity }
    }

    /// Bytes of memory that a buffer of `len` bytes takes.
    #[must_use]
    pub const fn footprint(len: usize) -> usize {
        match len {
            0..=ALIGN => ALIGN,
            _ if len <= KEPT_CAPACITY => KEPT_CAPACITY,
            _ => len.next_multiple_of(ALIGN),
        }
    }

    /// Bytes of memory that it takes.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// A buffer of `len` zero bytes.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        let mut buf = Self::with_len(len);
        buf.fill(0);
        buf
    }

    /// Shortens the buffer; does nothing when it is not longer than `len`.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

impl Drop for IoBuf {
    fn drop(&mut self) {
        let kept = match self.capacity {
            ALIGN => SINGLE.try_with(|k| k.put(self.ptr)).unwrap_or(false),
            KEPT_CAPACITY => LARGE.try_with(|k| k.put(self.ptr)).unwrap_or(false),
            ..=MOST_KEPT => APART.try_with(|k| k.put(self.capacity, self.ptr)).unwrap_or(false),
            _ => false,
        };
        if !kept {
            // SAFETY: allocated in `with_len` by the same allocator with the same layout, and dropped once.
            unsafe { dealloc(self.ptr.as_ptr(), layout(self.capacity)) }
        }
    }
}

impl Deref for IoBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `len <= capacity`, and the memory is initialised and owned by `self`.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl DerefMut for IoBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

impl Clone for IoBuf {
    fn clone(&self) -> Self {
        Self::from(&self[..])
    }
}

impl From<&[u8]> for IoBuf {
    fn from(bytes: &[u8]) -> Self {
        let mut buf = Self::with_len(bytes.len());
        buf.copy_from_slice(bytes);
        buf
    }
}

impl std::fmt::Debug for IoBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IoBuf({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lengths around the capacities that are kept.
    const LENGTHS: [usize; 8] =
        [0, 1, ALIGN - 1, ALIGN, ALIGN + 1, KEPT_CAPACITY, KEPT_CAPACITY + 1, 3 * KEPT_CAPACITY];

    fn apart() -> Vec<usize> {
        APART.with(|k| k.free.borrow().iter().map(|(size, _)| *size).collect())
    }

    #[test]
    fn large_ones_are_kept_for_their_size_and_make_room_when_nobody_asks() {
        const MANY: usize = KEPT_BYTES / MOST_KEPT;
        let odd = IoBuf::with_len(KEPT_CAPACITY + 1);
        let (size, place) = (odd.capacity, odd.as_ptr().addr());
        drop(odd);
        assert_eq!(apart(), [size]);
        assert_ne!(IoBuf::with_len(3 * KEPT_CAPACITY).as_ptr().addr(), place, "of another size");
        assert_eq!(apart(), [size, 3 * KEPT_CAPACITY]);
        let again = IoBuf::with_len(size);
        assert_eq!((again.as_ptr().addr(), apart()), (place, vec![3 * KEPT_CAPACITY]));
        drop(again);
        let most: Vec<_> = (0..MANY + 1).map(|_| IoBuf::with_len(MOST_KEPT)).collect();
        assert_eq!(apart(), [3 * KEPT_CAPACITY, size]);
        drop((most, IoBuf::with_len(MOST_KEPT + 1)));
        assert_eq!(apart(), [MOST_KEPT; MANY], "the oldest have gone, and no more than the bound is kept");
        let foreign = IoBuf::with_len(MOST_KEPT);
        let there = std::thread::spawn(move || {
            drop(foreign);
            apart()
        });
        assert!(there.join().unwrap().is_empty(), "a thread that needs none keeps none");
        assert_eq!(apart(), [MOST_KEPT; MANY - 1]);
    }

    fn kept() -> [usize; 2] {
        [SINGLE.with(|k| k.free.borrow().len()), LARGE.with(|k| k.free.borrow().len())]
    }

    #[test]
    fn every_buffer_is_aligned_whole_and_its_own() {
        for round in 1..=3 {
            let bufs: Vec<IoBuf> = LENGTHS
                .iter()
                .map(|&len| {
                    let mut buf = IoBuf::zeroed(len);
                    assert_eq!(buf[..], vec![0; len][..], "{len} bytes, used before");
                    buf.fill(round);
                    buf
                })
                .collect();
            for (buf, len) in bufs.iter().zip(LENGTHS) {
                assert_eq!((buf.len(), buf.as_ptr().addr() % ALIGN), (len, 0));
                assert_eq!(buf[..], vec![round; len][..]);
            }
        }
    }

    #[test]
    fn copies_are_apart_and_shortening_keeps_the_rest() {
        let mut one = IoBuf::from(&[1, 2, 3][..]);
        let mut two = one.clone();
        two[0] = 9;
        one.truncate(2);
        one.truncate(3);
        assert_eq!((&one[..], &two[..]), (&[1, 2][..], &[9, 2, 3][..]));
        drop(one);
        assert_eq!(two[..], [9, 2, 3]);
    }

    #[test]
    fn a_thread_keeps_a_bounded_number_for_itself() {
        let few = [0, 0];
        assert_eq!(kept(), few, "tests have threads of their own");
        let singles = if cfg!(miri) { KEPT / 64 } else { KEPT + 10 };
        let bufs: Vec<IoBuf> = (0..singles).map(|_| IoBuf::with_len(ALIGN)).collect();
        let places: Vec<usize> = bufs.iter().map(|b| b.as_ptr().addr()).collect();
        drop(bufs);
        drop((IoBuf::with_len(KEPT_CAPACITY), IoBuf::with_len(KEPT_CAPACITY + 1)));
        assert_eq!(kept(), [singles.min(KEPT), 1], "larger ones are kept apart");
        let again = IoBuf::with_len(1);
        assert!(places.contains(&again.as_ptr().addr()), "one that was kept");
        // Buffers end on another thread, also while it ends.
        let there = std::thread::spawn(move || {
            thread_local!(static LATE: RefCell<Option<IoBuf>> = const { RefCell::new(None) });
            LATE.set(Some(IoBuf::with_len(ALIGN)));
            drop(again);
            kept()
        });
        assert_eq!(there.join().unwrap(), [1, 0]);
        assert_eq!(kept(), [singles.min(KEPT) - 1, 1]);
    }
}
