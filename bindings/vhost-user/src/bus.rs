//! What happens when a file behind a mapping has lost its bytes.
//!
//! A front-end can cut its memory's file short, and a file system in memory can be full: then the page that this process touches does not
//! exist, and the kernel sends it `SIGBUS`, which ends it, with every volume that it serves. A [`Guard`] over a mapping has the
//! handler put anonymous memory in the whole mapping's place instead and note that it did; whoever used the mapping asks
//! [`Guard::is_whole`] before it believes what it read there.
//!
//! Invariants: the handler touches nothing but the atomics below and the system call `mmap`. A guard exists only while its mapping does, so
//! the handler never replaces anything but memory of a front-end. Signals that are no guard's go to the handler that was there before.

#![allow(unsafe_code)]

use std::{
    io,
    mem::MaybeUninit,
    ptr,
    sync::{
        Once,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

/// Mappings that can be guarded at once, by all servers of a process.
const SLOTS: usize = 4096;

const FREE: usize = 0;
const CLAIMED: usize = 1;
const LIVE: usize = 2;

struct Slot {
    state: AtomicUsize,
    start: AtomicUsize,
    length: AtomicUsize,
    lost: AtomicBool,
}

static TABLE: [Slot; SLOTS] = [const {
    Slot {
        state: AtomicUsize::new(FREE),
        start: AtomicUsize::new(0),
        length: AtomicUsize::new(0),
        lost: AtomicBool::new(false),
    }
}; SLOTS];

/// How often any mapping was replaced.
static LOSSES: AtomicU64 = AtomicU64::new(0);

/// The handler that was there before: its address, and whether it takes three arguments.
static PREVIOUS: AtomicUsize = AtomicUsize::new(libc::SIG_DFL);
static PREVIOUS_INFO: AtomicBool = AtomicBool::new(false);

/// How often any mapping of this process was replaced: while this stays the same, every guard's mapping is as it was.
pub(crate) fn losses() -> u64 {
    LOSSES.load(Ordering::Relaxed)
}

/// Keeps a mapping's loss from ending the process.
#[derive(Debug)]
pub(crate) struct Guard(usize);

impl Guard {
    /// Guards a mapping of `length` bytes at `start`. To be dropped before the mapping is.
    ///
    /// # Errors
    /// There are too many mappings, or the handler cannot be installed.
    pub(crate) fn over(start: usize, length: usize) -> io::Result<Self> {
        install()?;
        let claim =
            |slot: &&Slot| slot.state.compare_exchange(FREE, CLAIMED, Ordering::Acquire, Ordering::Relaxed).is_ok();
        let (index, slot) = TABLE
            .iter()
            .enumerate()
            .find(|(_, slot)| claim(slot))
            .ok_or_else(|| io::Error::other(format!("more than {SLOTS} regions of memory are mapped")))?;
        slot.start.store(start, Ordering::Relaxed);
        slot.length.store(length.next_multiple_of(4096), Ordering::Relaxed);
        slot.lost.store(false, Ordering::Relaxed);
        slot.state.store(LIVE, Ordering::Release);
        Ok(Self(index))
    }

    /// Whether the mapping is still that of its file.
    pub(crate) fn is_whole(&self) -> bool {
        TABLE.get(self.0).is_some_and(|slot| !slot.lost.load(Ordering::Relaxed))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(slot) = TABLE.get(self.0) {
            slot.state.store(FREE, Ordering::Release);
        }
    }
}

fn install() -> io::Result<()> {
    static ONCE: Once = Once::new();
    static INSTALLED: AtomicBool = AtomicBool::new(false);
    ONCE.call_once(|| {
        let mut previous = MaybeUninit::<libc::sigaction>::zeroed();
        let mut action = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: an all-zero `sigaction` is valid: an empty mask, no flags; both are local and large enough for the call.
        let result = unsafe {
            (*action.as_mut_ptr()).sa_sigaction = on_bus_error as *const () as usize;
            (*action.as_mut_ptr()).sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER | libc::SA_ONSTACK;
            libc::sigaction(libc::SIGBUS, action.as_ptr(), previous.as_mut_ptr())
        };
        if result == 0 {
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

extern "C" fn on_bus_error(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a valid `siginfo_t`, which for this signal has an address.
    let address = unsafe { (*info).si_addr() } as usize;
    for slot in &TABLE {
        if slot.state.load(Ordering::Acquire) != LIVE {
            continue;
        }
        let (start, length) = (slot.start.load(Ordering::Relaxed), slot.length.load(Ordering::Relaxed));
        if address.wrapping_sub(start) < length && replace(start, length) {
            slot.lost.store(true, Ordering::Relaxed);
            LOSSES.fetch_add(1, Ordering::Relaxed);
            return;
        }
    }
    pass_on(signal, info, context);
}

/// Puts anonymous memory in the place of a mapping.
fn replace(start: usize, length: usize) -> bool {
    let flags = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: the range is that of a mapping which its guard outlives nobody's use of; what is there is read and written as bytes that
    // anybody may change at any time. `errno` is what the interrupted code may be about to look at, so it is put back.
    unsafe {
        let errno = *libc::__errno_location();
        let at = libc::mmap(
            ptr::with_exposed_provenance_mut(start),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            flags,
            -1,
            0,
        );
        *libc::__errno_location() = errno;
        at != libc::MAP_FAILED
    }
}

/// Does what would have happened without this handler.
fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let previous = PREVIOUS.load(Ordering::Acquire);
    match previous {
        libc::SIG_DFL | libc::SIG_IGN => {
            // The faulting instruction runs again when this returns, and ends the process.
            // SAFETY: `signal` is allowed by POSIX in a handler, and `SIG_DFL` is a valid disposition.
            let _was = unsafe { libc::signal(signal, libc::SIG_DFL) };
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
}
