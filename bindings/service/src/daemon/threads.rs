//! Threads of the control plane. They stand back: who reads and writes does not wait for who lists and creates, backs up and restores.

use crate::priority::stand_back;
use std::io;
use tokio::runtime::{Builder, Runtime};

/// How far they stand back unless the operator says otherwise, as `nice` has it. They get 3 % of a processor that virtual machines keep
/// busy, and all of one that is idle.
pub const NICE: u8 = 15;

/// A runtime for a daemon. All of its threads have this niceness; the caller's, which opens the pool, and the pool's reactors do not.
///
/// # Errors
/// What the system refuses.
///
/// # Examples
/// ```
/// let runtime = cairn_service::daemon::runtime(cairn_service::daemon::NICE)?;
/// assert_eq!(runtime.block_on(async { 7 }), 7);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn runtime(nice: u8) -> io::Result<Runtime> {
    Builder::new_multi_thread().enable_all().on_thread_start(move || stand_back(i32::from(nice))).build()
}
