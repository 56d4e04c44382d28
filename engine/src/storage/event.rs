//! Signalling an `eventfd` that somebody else has open too, without ever waiting.
//!
//! A `write` waits while the counter is full, and whoever shares the descriptor decides that: it fills the counter, and says whether to wait
//! for room (`O_NONBLOCK`) between any two looks that are taken at either. The kernel's own way to signal, which drivers and completions
//! use, adds to the counter what fits and returns. User space has it as the notification of an asynchronous read: here one of no bytes, of a
//! file in memory, which is over when `io_submit` returns.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};

/// Completions that are kept until somebody takes them, at least.
const EVENTS: libc::c_long = 64;

const PREAD: u16 = 0;
/// The completion signals an `eventfd`.
const SIGNALS: u32 = 1;

/// `struct iocb` of `linux/aio_abi.h`, where words of 64 bits are little-endian or have no halves.
#[repr(C)]
#[derive(Default)]
struct ControlBlock {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: i16,
    file: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    event: u32,
}

/// `struct io_event`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Event {
    data: u64,
    object: u64,
    result: [i64; 2],
}

const _: () = assert!(size_of::<ControlBlock>() == 64 && size_of::<Event>() == 32);

/// A context for asynchronous reads, and what is read.
pub(crate) struct Signaller {
    context: libc::c_ulong,
    nothing: OwnedFd,
}

fn result(n: libc::c_long) -> io::Result<usize> {
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

impl Signaller {
    /// # Errors
    /// The kernel has no asynchronous reads, or no context for more of them (`fs.aio-max-nr`).
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: a name that ends with a zero; a descriptor or -1.
        let nothing = unsafe { libc::memfd_create(c"cairn-signal".as_ptr(), libc::MFD_CLOEXEC) };
        if nothing < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just made, owned by nobody else.
        let nothing = unsafe { OwnedFd::from_raw_fd(nothing) };
        let mut context: libc::c_ulong = 0;
        // SAFETY: `context` is a local that is zero, as the call wants it.
        let made = result(unsafe { libc::syscall(libc::SYS_io_setup, EVENTS, &raw mut context) });
        let _none = made.map_err(|e| {
            let text =
                "no context for asynchronous I/O, by which events are signalled: is there room in fs.aio-max-nr?";
            io::Error::new(e.kind(), format!("{text} ({e})"))
        })?;
        Ok(Self { context, nothing })
    }

    /// Adds one to the counter of an `eventfd`. One that is full stays full.
    ///
    /// # Errors
    /// What `io_submit` reports: `EINVAL` for what is no `eventfd`.
    pub(crate) fn signal(&self, event: RawFd) -> io::Result<()> {
        match self.submit(event) {
            // The completions before have taken all the room.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.take_completions()?;
                self.submit(event)
            }
            outcome => outcome,
        }
    }

    fn submit(&self, event: RawFd) -> io::Result<()> {
        let mut block = ControlBlock {
            opcode: PREAD,
            file: self.nothing.as_raw_fd() as u32,
            flags: SIGNALS,
            event: event as u32,
            ..ControlBlock::default()
        };
        let blocks = [&raw mut block];
        // SAFETY: one block, which the kernel copies before the call returns; it names no buffer, since it reads no bytes.
        result(unsafe { libc::syscall(libc::SYS_io_submit, self.context, 1 as libc::c_long, blocks.as_ptr()) })
            .map(drop)
    }

    fn take_completions(&self) -> io::Result<()> {
        let mut events = [Event::default(); EVENTS as usize];
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: room for `EVENTS` events, and a time that outlives the call.
        let taken = unsafe {
            libc::syscall(
                libc::SYS_io_getevents,
                self.context,
                0 as libc::c_long,
                EVENTS,
                events.as_mut_ptr(),
                &raw mut now,
            )
        };
        result(taken).map(drop)
    }
}

impl Drop for Signaller {
    fn drop(&mut self) {
        // SAFETY: the context is this one's, and nothing is under way in it.
        let _destroyed = unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
    }
}

/// Makes its [`Signaller`] when it is told to, or with the first event, so that pools without exports that signal have none.
#[derive(Default)]
pub(crate) struct Events(Option<Signaller>);

impl Events {
    /// As [`Signaller::new`], if there is none.
    pub(crate) fn prepare(&mut self) -> io::Result<()> {
        self.signaller().map(drop)
    }

    fn signaller(&mut self) -> io::Result<&Signaller> {
        match &mut self.0 {
            Some(signaller) => Ok(signaller),
            none => Ok(none.insert(Signaller::new()?)),
        }
    }

    /// As [`Signaller::signal`]; the result is that of a `write`.
    pub(crate) fn signal(&mut self, event: RawFd) -> io::Result<usize> {
        self.signaller()?.signal(event).map(|()| 8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eventfd(flags: libc::c_int) -> OwnedFd {
        // SAFETY: plain system call; a descriptor or -1.
        let fd = unsafe { libc::eventfd(0, flags) };
        assert!(fd >= 0);
        // SAFETY: just made, owned by nobody else.
        unsafe { OwnedFd::from_raw_fd(fd) }
    }

    fn take(fd: &OwnedFd) -> u64 {
        let mut value = 0u64;
        // SAFETY: eight bytes into a local.
        let n = unsafe { libc::read(fd.as_raw_fd(), (&raw mut value).cast(), 8) };
        assert_eq!(n, 8);
        value
    }

    #[test]
    fn every_signal_counts_and_full_counters_wait_for_nobody() {
        let mut events = Events::default();
        for flags in [0, libc::EFD_NONBLOCK] {
            let fd = eventfd(flags);
            for _ in 0..10 * EVENTS {
                assert_eq!(events.signal(fd.as_raw_fd()).unwrap(), 8);
            }
            assert_eq!(take(&fd), 10 * EVENTS as u64);
            let full = u64::MAX - 1;
            // SAFETY: eight readable bytes.
            assert_eq!(unsafe { libc::write(fd.as_raw_fd(), (&raw const full).cast(), 8) }, 8);
            for _ in 0..10 {
                assert_eq!(events.signal(fd.as_raw_fd()).unwrap(), 8);
            }
            assert!(take(&fd) >= full);
        }
        let no_event = tempfile::tempfile().unwrap();
        assert_eq!(events.signal(no_event.as_raw_fd()).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }
}
