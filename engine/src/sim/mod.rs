//! A machine in a box: a pool on a simulated disk with a simulated clock, wholly determined by a seed. For tests, of any crate.
//!
//! # What the disk does wrong, and what it never does
//!
//! Every failure of a simulation is a bug of the engine, because the disk keeps to this budget ([`Faults`] says how much of each):
//!
//! - **Latency and order.** Each operation takes a time of its own, a few very long; operations in flight complete in any order.
//! - **Power cut** ([`Disk::crash`]). Writes that were completed before a sync was submitted, and that sync completed: are there. Of all
//!   other writes, in flight or answered, any subset is there ([`Survivors`]), each whole, or torn between sectors of 512 bytes, or
//!   some of its blocks. A punched range is a write of zeros.
//! - **Process kill** ([`Disk::kill`]). What was in flight is done or not; what was answered is there, but no more durable than it was.
//! - **Read errors.** `EIO`, for that one try.
//! - **Write errors.** `EIO`, with the first few blocks of the write on the disk or none; *short writes*: a byte count below what was asked.
//! - **Failed syncs.** `EIO`; any subset of what the sync should have made durable is lost at once, for readers too.
//! - **No room.** [`Faults::room`] bounds what the file system can set aside, for `fallocate` and for writes; a write to what is set aside never fails
//!   for want of room.
//! - **Bit rot.** One bit of a block that is in use.
//! - **Lost writes.** One block of a write that was answered keeps its old bytes.
//! - **Misdirected writes.** One block of a write lands on another block instead; both are wrong then.
//!
//! Damage (the last three) is bounded so that the engine can always know: at most [`Faults::damage_budget`] blocks at a time; never the
//! journal; at most one copy of the superblock; bit rot and the victims of misdirected writes only where nothing was written since the
//! checkpoint before the last; and a crash makes damage whole that is younger than that. (The engine says openly that it cannot tell
//! damage to the last group before a crash, or to data that it names, from a group that never was complete.) Nobody ever forges
//! a checksum. Writing a damaged block again makes it whole. [`Disk::damaged_blocks`] says what is damaged, [`Counters::damage_read`]
//! whether anybody has read any of it: an error for which there was no cause is a bug too.
//!
//! # Time
//!
//! Nothing waits: the clock jumps to the next completion or timer. A run that takes longer than its limit of virtual time, or more than
//! [`MOST_TURNS`] turns of the reactor, is stopped and counts as hanging.
//!
//! ```
//! use cairn_engine::{IoBuf, MIB, PoolOptions, VolumeOptions, sim};
//! let disk = sim::Disk::new(64 * MIB, 1);
//! let made = sim::run(&disk, |machine| async move {
//!     let pool = machine.create_pool(PoolOptions::new()).await?;
//!     let volume = pool.create_volume("db", MIB, VolumeOptions::default()).await?;
//!     volume.write(0, IoBuf::from(&[7; 4096][..]), false).await?;
//!     volume.flush().await
//! });
//! made.unwrap().unwrap();
//! let disk = disk.crash(sim::Survivors::None);
//! let read = sim::run(&disk, |machine| async move {
//!     let pool = machine.open_pool(cairn_engine::OpenOptions::new()).await?;
//!     pool.open(&"db".parse()?)?.read(0, 4096).await
//! });
//! assert_eq!(read.unwrap().unwrap()[..], [7; 4096]);
//! ```

mod damage;
mod disk;
mod media;
mod rng;

use std::{cell::RefCell, future::Future, path::PathBuf, rc::Rc, sync::Arc, time::Duration};

pub use crate::sabotage::{Sabotage, sabotage};
pub use disk::{Counters, Disk, Faults};
pub use media::{Image, Recording, Replay, Survivors};
pub use rng::Rng;

use crate::{
    admin::LocalPool,
    error::Result,
    open::{Plan, geometry},
    options::{OpenOptions, PoolOptions},
    reactor::{Reactor, Shared},
    storage::wake::Waker,
    units::BLOCK,
};
use damage::Layout;
use disk::{SimClock, SimStorage};

/// Turns of the reactor after which a run counts as hanging.
pub const MOST_TURNS: u64 = 20_000_000;
/// Virtual time after which a run counts as hanging, unless [`run_for`] says otherwise.
pub const TIME_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// Why a machine ended before its program did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// Its program waits for something that does not come: it used up its time or its turns.
    Hangs,
}

/// The computer that a simulated program runs on.
#[derive(Clone)]
pub struct Machine {
    reactor: Reactor,
    disk: Disk,
}

impl Machine {
    /// The reactor: tasks and timers, in virtual time.
    #[must_use]
    pub fn reactor(&self) -> &Reactor {
        &self.reactor
    }

    /// The disk.
    #[must_use]
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Makes a pool on the whole disk.
    ///
    /// # Errors
    /// As [`Pool::create`](crate::Pool::create).
    pub async fn create_pool(&self, options: PoolOptions) -> Result<LocalPool> {
        let total = self.disk.bytes() / BLOCK;
        let mut fresh = geometry(total, options.journal_size)?;
        fresh.uuid[..8].copy_from_slice(&self.disk.random().to_le_bytes());
        fresh.uuid[8..].copy_from_slice(&self.disk.random().to_le_bytes());
        // The fixed areas have their room from the start.
        self.disk.set_aside(0..fresh.data_start);
        self.disk.set_aside(fresh.data_end..total);
        self.start(options.open, Some(fresh)).await
    }

    /// Opens the pool on the disk.
    ///
    /// # Errors
    /// As [`Pool::open`](crate::Pool::open).
    pub async fn open_pool(&self, options: OpenOptions) -> Result<LocalPool> {
        self.start(options, None).await
    }

    async fn start(
        &self,
        options: OpenOptions,
        fresh: Option<crate::format::superblock::Superblock>,
    ) -> Result<LocalPool> {
        let plan =
            Plan { path: PathBuf::from("sim"), size: self.disk.bytes(), options, fresh, thin: self.disk.is_thin() };
        let core = plan.open(self.reactor.clone(), None).await?;
        let superblock = core.superblock.borrow();
        let (total, start) = (superblock.total_blocks, superblock.journal_start);
        self.disk.set_layout(Layout { total, journal: start..start + superblock.journal_blocks });
        drop(superblock);
        Ok(LocalPool { core })
    }
}

/// Runs a program on a machine with this disk until it returns. What it left running ends there and then, as by a power cut: nothing is
/// closed in order. The disk keeps what was in flight for [`Disk::crash`].
///
/// # Errors
/// `Hangs` when the program used up [`TIME_LIMIT`] or [`MOST_TURNS`].
///
/// # Panics
/// When the system has no descriptor left for an eventfd.
pub fn run<T: 'static, F>(disk: &Disk, program: impl FnOnce(Machine) -> F) -> Result<T, Stopped>
where
    F: Future<Output = T> + 'static,
{
    run_for(disk, TIME_LIMIT, program)
}

/// Like [`run`], with a limit of virtual time.
///
/// # Errors
/// `Hangs` when the program used up its time.
///
/// # Panics
/// When the system has no descriptor left for an eventfd.
pub fn run_for<T: 'static, F>(disk: &Disk, limit: Duration, program: impl FnOnce(Machine) -> F) -> Result<T, Stopped>
where
    F: Future<Output = T> + 'static,
{
    let wake = Arc::new(Waker::new().expect("an eventfd"));
    let shared = Arc::new(Shared::new(wake));
    let storage = Box::new(SimStorage(disk.clone()));
    let reactor = Reactor::new(shared, storage, Box::new(SimClock(disk.clone())));
    disk.attach(limit, reactor.stopper());
    let result = Rc::new(RefCell::new(None));
    let program = program(Machine { reactor: reactor.clone(), disk: disk.clone() });
    let (slot, handle) = (result.clone(), reactor.clone());
    let main = async move {
        let value = program.await;
        *slot.borrow_mut() = Some(value);
        handle.stop();
    };
    reactor.spawn(main).detach();
    reactor.run();
    disk.detach();
    result.take().ok_or(Stopped::Hangs)
}
