//! How threads of the control plane stand back behind the data path.
//!
//! Niceness alone does not do it. Since Linux 6.6 the scheduler goes by what each was to have: who serves I/O and has had a microsecond more than that
//! waits, and the nice thread that is taken in its place goes on until the next tick, 4 ms later as most kernels are built. A slice of its own
//! would end sooner, but nobody looks at it between ticks. So the nice threads themselves ask, ten thousand times a second, whether somebody else
//! is to go on ([`let_others`]).

use std::{
    cell::Cell,
    io,
    time::{Duration, Instant},
};

/// How long a thread that stands back may go on while somebody else wants the processor. The shortest slice that Linux knows; it does before 6.12
/// what it did.
const SLICE: Duration = Duration::from_micros(100);

thread_local! {
    /// When the calling thread let others go first last, if it stands back.
    static SINCE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Lets others go first who wait for this processor, if the calling thread stands back and has not done so for a slice. To be called every some
/// microseconds in what takes long.
pub(crate) fn let_others() {
    let Some(since) = SINCE.get() else { return };
    if since.elapsed() >= SLICE {
        std::thread::yield_now();
        SINCE.set(Some(Instant::now()));
    }
}

/// Does something without letting others go first, since they may wait for what is held meanwhile.
pub(crate) fn without_a_break<T>(work: impl FnOnce() -> T) -> T {
    let since = SINCE.take();
    let outcome = work();
    SINCE.set(since.map(|_| Instant::now()));
    outcome
}

/// The calling thread alone. One that stands back further already stays there; one to which the operator gave a policy for real time, or for
/// idle processors alone, keeps it.
pub(crate) fn stand_back(nice: i32) {
    if nice > 0 {
        SINCE.set(Some(Instant::now()));
    }
    let outcome = attributes().and_then(|mut attributes| {
        if !matches!(attributes.sched_policy.cast_signed(), libc::SCHED_OTHER | libc::SCHED_BATCH) {
            return Ok(());
        }
        attributes.sched_nice = nice.max(attributes.sched_nice);
        // 0: the usual one.
        attributes.sched_runtime = if nice > 0 { SLICE.as_nanos() as u64 } else { 0 };
        set_attributes(&attributes)
    });
    // Some sandboxes know the older call alone.
    if let Err(error) = outcome.or_else(|_| set_niceness(nice)) {
        tracing::warn!(%error, "a thread of the control plane has the priority of the data path");
    }
}

/// How the calling thread is scheduled.
#[allow(unsafe_code)]
fn attributes() -> io::Result<libc::sched_attr> {
    let size = u32::try_from(size_of::<libc::sched_attr>()).map_err(io::Error::other)?;
    let mut attributes = libc::sched_attr {
        size,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel writes at most `size` bytes of what is ours alone. 0 is the calling thread.
    match unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) } {
        0 => Ok(attributes),
        _ => Err(io::Error::last_os_error()),
    }
}

#[allow(unsafe_code)]
fn set_niceness(nice: i32) -> io::Result<()> {
    // SAFETY: both take numbers alone. On Linux, 0 is the calling thread. -1 is a niceness, or tells of a failure: the wanted one is more.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice.max(libc::getpriority(libc::PRIO_PROCESS, 0))) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[allow(unsafe_code)]
fn set_attributes(attributes: &libc::sched_attr) -> io::Result<()> {
    // SAFETY: the kernel reads as many bytes as `size` in it says, which are there. 0 is the calling thread.
    match unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const *attributes, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
