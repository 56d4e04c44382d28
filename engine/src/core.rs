//! What all parts of an open pool share: the state, the reactor, and the signals between background tasks.
//!
//! Discipline: `state` is borrowed only within synchronous sections, never across an await.

use std::{
    cell::{Cell, RefCell},
    fs::File,
    path::PathBuf,
    rc::Rc,
    time::Duration,
};

use rustc_hash::FxHashMap;

use crate::{
    checkpoint::{map::Map, table::Table},
    error::{Error, Result, corrupt, read_only},
    format::{node, pointer::Pointer, superblock::Superblock},
    gate::Gates,
    gather::Gather,
    info::Event,
    journal::Ring,
    locks::BlockLocks,
    qos::Qos,
    reactor::{Pending, Reactor, notify::Notify},
    sabotage::{Sabotage, broken},
    state::{State, Step},
    storage::{Op, Part, buffer::IoBuf},
    tree::Missing,
    units::{BLOCK, BLOCK_SIZE, VersionId, VolumeId},
    upkeep::{RegroupOutcome, RegroupProgress, ScrubOutcome, ScrubProgress},
    writeback::Backlogs,
};

/// Limits of an open pool.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) dirty_bytes: u64,
    /// Longest time that a change stays out of a checkpoint while there is journal left.
    pub(crate) checkpoint_age: Duration,
    /// Longest time that an acknowledged change stays uncommitted.
    pub(crate) commit_age: Duration,
}

/// State of commits. Group numbers count up without gaps.
pub(crate) struct Commit {
    pub(crate) ring: Ring,
    /// Number of the open group.
    pub(crate) open: u64,
    /// All groups up to this one are durable.
    pub(crate) committed: u64,
    /// Somebody waits for this group.
    pub(crate) wanted: u64,
}

/// Handles to what is open: how often each volume and each snapshot.
#[derive(Default)]
pub(crate) struct Attached {
    pub(crate) volumes: FxHashMap<VolumeId, u64>,
    pub(crate) snapshots: FxHashMap<VersionId, u64>,
}

/// What opening found in the superblock's slots.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Inherited {
    /// The checkpoint that was opened; later ones were written by this process.
    pub(crate) checkpoint: u64,
    /// Slots without a usable copy.
    pub(crate) unusable: [bool; 4],
}

/// The scrub that runs, if one does, and how the last one ended.
#[derive(Default)]
pub(crate) struct Scrubbing {
    pub(crate) running: Option<ScrubProgress>,
    /// It has been asked to end.
    pub(crate) cancelled: bool,
    pub(crate) last: Option<ScrubOutcome>,
    /// Scrubs begun since the pool was opened.
    pub(crate) count: u64,
}

/// The regroup that runs, if one does, and how the last one ended.
#[derive(Default)]
pub(crate) struct Regrouping {
    pub(crate) running: Option<RegroupProgress>,
    /// It has been asked to end.
    pub(crate) cancelled: bool,
    pub(crate) last: Option<RegroupOutcome>,
    /// Regroups begun since the pool was opened.
    pub(crate) count: u64,
}

#[derive(Default)]
pub(crate) struct Signals {
    pub(crate) commit_wanted: Notify,
    pub(crate) committed: Notify,
    pub(crate) checkpoint_wanted: Notify,
    pub(crate) checkpointed: Notify,
    pub(crate) deletion: Notify,
    pub(crate) deletion_idle: Notify,
    pub(crate) grown: Notify,
    pub(crate) gave_back: Notify,
    /// A check or a repair is over.
    pub(crate) checked: Notify,
    pub(crate) admitted: Notify,
    /// A scrub went on, ended, or was told something.
    pub(crate) scrub: Notify,
    /// The same of a regroup; and it has let go of what it held.
    pub(crate) regroup: Notify,
}

/// A write of parts that has begun.
pub(crate) struct WritingParts {
    offset: u64,
    total: usize,
    pending: Pending,
}

pub(crate) struct Core {
    pub(crate) reactor: Reactor,
    pub(crate) state: RefCell<State>,
    pub(crate) gather: RefCell<Gather>,
    pub(crate) superblock: RefCell<Superblock>,
    pub(crate) map: RefCell<Map>,
    pub(crate) table: RefCell<Table>,
    pub(crate) commit: RefCell<Commit>,
    pub(crate) attached: RefCell<Attached>,
    pub(crate) gates: Gates,
    pub(crate) backlogs: Rc<Backlogs>,
    pub(crate) qos: Rc<Qos>,
    pub(crate) signals: Signals,
    pub(crate) limits: Limits,
    pub(crate) path: PathBuf,
    pub(crate) thin: bool,
    /// Whether nothing is written: the pool was opened for reading only, or for a repair that nobody has asked for yet.
    pub(crate) opened_read_only: Cell<bool>,
    /// Whether the latter.
    pub(crate) opened_for_repair: bool,
    /// A recovered journal has to be closed before anything is written.
    pub(crate) journal_to_close: Cell<bool>,
    pub(crate) inherited: Cell<Inherited>,
    pub(crate) latch: RefCell<Option<Error>>,
    pub(crate) checkpoint_wanted: Cell<bool>,
    pub(crate) checkpoint_running: Cell<bool>,
    pub(crate) checkpoints_begun: Cell<u64>,
    pub(crate) checkpoints_ended: Cell<u64>,
    /// It counts as running only so that none is made.
    pub(crate) checkpoints_held: Cell<bool>,
    pub(crate) committing: Cell<bool>,
    pub(crate) growing: Cell<bool>,
    /// How the last growing ended.
    pub(crate) grew: Cell<bool>,
    /// The pool is being closed: what can wait for ever gives up.
    pub(crate) closing: Cell<bool>,
    /// Empty segments are being given back to the file system.
    pub(crate) giving_back: Cell<bool>,
    /// Blocks of a version are being counted.
    pub(crate) counting: Cell<bool>,
    /// When background deletion, which an error has stopped, tries again.
    pub(crate) deletion_retry: Cell<Option<Duration>>,
    /// Why background deletion stopped last.
    pub(crate) deletion_failed: RefCell<Option<Error>>,
    /// A check holds back the reuse of blocks; it gives way when space runs out.
    pub(crate) check_running: Cell<bool>,
    pub(crate) check_yield: Cell<bool>,
    /// A repair is under way: nothing may be opened.
    pub(crate) repairing: Cell<bool>,
    pub(crate) scrub: RefCell<Scrubbing>,
    /// A scrub holds back the reuse of blocks, until its next signal.
    pub(crate) scrub_holds: Cell<bool>,
    pub(crate) regroup: RefCell<Regrouping>,
    /// The same of a regroup.
    pub(crate) regroup_holds: Cell<bool>,
    /// Blocks that a read-merge-write is under way on.
    pub(crate) block_locks: BlockLocks,
    pub(crate) last_checkpoint: Cell<Duration>,
    pub(crate) watermark: Cell<u8>,
    pub(crate) replayed: Cell<u64>,
    pub(crate) open_time: Cell<Duration>,
    /// Held for as long as the pool is open: its lock keeps others out.
    pub(crate) _lock: Option<File>,
}

/// Ends a read era when it is dropped.
pub(crate) struct ReadGuard {
    core: Rc<Core>,
    era: u64,
}

impl Drop for ReadGuard {
    fn drop(&mut self) {
        self.core.state.borrow_mut().space.end_read(self.era);
    }
}

impl Core {
    // ---- the latch ----

    /// Fails once the pool takes no writes.
    pub(crate) fn writable(&self) -> Result<()> {
        match &*self.latch.borrow() {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    /// Whether the map and the table in memory are those of the last durable checkpoint, or of one that is being made. They are not after a
    /// failure that ended one half-way.
    pub(crate) fn is_settled(&self) -> bool {
        self.opened_read_only.get() || self.latch.borrow().is_none()
    }

    /// Why the pool takes no writes, if it takes none.
    pub(crate) fn latched(&self) -> Option<String> {
        self.latch.borrow().as_ref().map(Error::to_string)
    }

    /// The first failure of a metadata write or of a sync: from here on nothing is written.
    pub(crate) fn latch(&self, what: &str, error: &Error) {
        if self.latch.borrow().is_some() {
            return;
        }
        let cause = format!("{what}: {error}");
        *self.latch.borrow_mut() = Some(read_only(format!(
            "pool {} takes no writes since a failure ({cause}); mend the device, then open the pool again",
            self.path.display()
        )));
        self.state.borrow_mut().event(Event::ReadOnly { cause });
        for signal in [
            &self.signals.committed,
            &self.signals.checkpointed,
            &self.signals.commit_wanted,
            &self.signals.checkpoint_wanted,
            &self.signals.deletion_idle,
            &self.signals.grown,
            &self.signals.admitted,
        ] {
            signal.notify();
        }
    }

    // ---- steps over trees ----

    /// Runs a synchronous step, loading the nodes that it asks for, until it succeeds.
    pub(crate) async fn step<T>(self: &Rc<Self>, mut f: impl FnMut(&mut State) -> Step<T>) -> Result<T> {
        loop {
            let result = f(&mut self.state.borrow_mut());
            match result {
                Ok(value) => return Ok(value),
                Err(missing) => self.load(missing).await?,
            }
        }
    }

    /// Runs a step that changes something, with room for its record and its nodes: what waits for nodes is let in anew.
    pub(crate) async fn change<T>(self: &Rc<Self>, f: impl FnMut(&mut State) -> Step<T>) -> Result<T> {
        self.change_counting(&mut 0, f).await
    }

    /// The same; adds the nodes that had to be read to `loaded`.
    pub(crate) async fn change_counting<T>(
        self: &Rc<Self>,
        loaded: &mut u64,
        mut f: impl FnMut(&mut State) -> Step<T>,
    ) -> Result<T> {
        loop {
            self.admit().await?;
            let result = f(&mut self.state.borrow_mut());
            match result {
                Ok(value) => return Ok(value),
                Err(missing) => {
                    *loaded += missing.nodes.len() as u64;
                    self.load(missing).await?;
                }
            }
        }
    }

    /// Keeps blocks that are in use now from being handed out again until the guard is dropped.
    pub(crate) fn hold(self: &Rc<Self>) -> ReadGuard {
        let era = self.state.borrow_mut().space.begin_read();
        ReadGuard { core: self.clone(), era }
    }

    /// Waits until a scrub and a regroup have let go of what they hold, which is never more than one batch. Both hold it while the device
    /// reads or writes, and wait for nothing else meanwhile.
    pub(crate) async fn batches_over(&self) {
        if self.scrub_holds.get() {
            self.signals.scrub.notified().await;
        }
        if self.regroup_holds.get() {
            self.signals.regroup.notified().await;
        }
    }

    /// Reads nodes into the cache, all at once. Only a failure of the first one named counts: the others are read ahead.
    pub(crate) async fn load(self: &Rc<Self>, missing: Missing) -> Result<()> {
        let guard = self.hold();
        let mut nodes = missing.nodes;
        let needed = nodes.first().map(|(p, _)| block_of(*p));
        nodes.sort_by_key(|(p, _)| block_of(*p));
        nodes.dedup_by_key(|(p, _)| block_of(*p));
        let reads: Vec<_> = nodes
            .into_iter()
            .map(|(pointer, level)| {
                let buf = IoBuf::with_len(BLOCK_SIZE);
                (pointer, level, self.reactor.submit(Op::Read { offset: block_of(pointer) * BLOCK, buf }))
            })
            .collect();
        let mut result = Ok(());
        for (pointer, level, read) in reads {
            let done = read.await;
            let Op::Read { buf, .. } = done.op else { continue };
            let place = block_of(pointer);
            let outcome = match done.result {
                Ok(n) if n == BLOCK_SIZE => self.verify_node(&buf, pointer, level, place),
                Ok(n) => Err(corrupt(format!("metadata node at block {place}: only {n} bytes could be read"))),
                Err(e) => Err(Error::io(format!("cannot read the metadata node at block {place}"), e)),
            };
            match outcome {
                Ok(()) => self.state.borrow_mut().nodes.cache.insert(place, pointer.crc(), Rc::new(buf)),
                Err(e) if needed == Some(place) => result = Err(e),
                // Only read ahead: whoever needs it will ask for it.
                Err(_) => {}
            }
        }
        drop(guard);
        result
    }

    fn verify_node(&self, bytes: &IoBuf, pointer: Pointer, level: u32, place: u64) -> Result<()> {
        let crc = crc32fast::hash(bytes);
        let fault = if crc != pointer.crc() && !broken(Sabotage::IgnoreNodeCrc) {
            format!(
                "metadata node at physical block {place} fails its checksum (stored {:08x}, found {crc:08x})",
                pointer.crc()
            )
        } else if !node::is_sound(bytes, level) {
            format!("metadata node at physical block {place} is not a node of level {level}")
        } else {
            return Ok(());
        };
        self.corruption(&fault);
        Err(corrupt(format!("{fault}; restore the volume from a backup")))
    }

    /// Counts and reports damage.
    pub(crate) fn corruption(&self, what: &str) {
        let mut state = self.state.borrow_mut();
        state.checksum_errors += 1;
        state.event(Event::Corrupt { what: what.to_owned() });
    }

    // ---- raw I/O ----

    /// Writes all of `parts` at `offset`; a short write is continued once and its error kept.
    pub(crate) async fn write_parts(&self, offset: u64, parts: Vec<Part>) -> Result<(), std::io::Error> {
        self.finish_parts(self.begin_parts(offset, parts)).await
    }

    /// The same in two steps.
    pub(crate) fn begin_parts(&self, offset: u64, parts: Vec<Part>) -> WritingParts {
        let total = parts.iter().map(|p| p.range.len()).sum();
        WritingParts { offset, total, pending: self.reactor.submit(Op::Write { offset, parts }) }
    }

    pub(crate) async fn finish_parts(&self, writing: WritingParts) -> Result<(), std::io::Error> {
        let WritingParts { offset, total, pending } = writing;
        let done = pending.await;
        let mut written = done.result?;
        let Op::Write { parts, .. } = done.op else { return Err(std::io::ErrorKind::Other.into()) };
        while written < total {
            // A short write says that the rest would fail: ask for the rest alone to learn why.
            if written % BLOCK_SIZE != 0 || written == 0 {
                return Err(std::io::ErrorKind::WriteZero.into());
            }
            let rest = after(&parts, written);
            let done = self.reactor.submit(Op::Write { offset: offset + written as u64, parts: rest }).await;
            match done.result? {
                0 => return Err(std::io::ErrorKind::WriteZero.into()),
                n => written += n,
            }
        }
        Ok(())
    }

    /// Writes one buffer at a block; a failure latches the pool.
    pub(crate) async fn write_metadata(&self, block: u64, buf: IoBuf, what: &str) -> Result<()> {
        let range = 0..buf.len();
        let part = Part { buf: Rc::new(buf), range };
        self.write_metadata_parts(block, vec![part], what).await
    }

    pub(crate) async fn write_metadata_parts(&self, block: u64, parts: Vec<Part>, what: &str) -> Result<()> {
        self.writable()?;
        self.write_parts(block * BLOCK, parts).await.map_err(|e| {
            let error = Error::io(format!("cannot write {what} at block {block}"), e);
            self.latch(&format!("writing {what}"), &error);
            error
        })
    }

    /// Makes everything that was written durable; a failure latches the pool and is never retried.
    pub(crate) async fn sync(&self) -> Result<()> {
        self.writable()?;
        let done = self.reactor.submit(Op::Sync).await;
        match done.result {
            Ok(_) => Ok(()),
            Err(_) if broken(Sabotage::ForgetSyncError) => Ok(()),
            Err(e) => {
                let error = Error::io(format!("fdatasync of {} failed", self.path.display()), e);
                self.latch("fdatasync", &error);
                Err(error)
            }
        }
    }
}

/// Reads whole blocks before there is a pool.
pub(crate) async fn read_blocks(reactor: &Reactor, block: u64, count: usize) -> Result<IoBuf> {
    let len = count * BLOCK_SIZE;
    let done = reactor.submit(Op::Read { offset: block * BLOCK, buf: IoBuf::with_len(len) }).await;
    let n = done.result.map_err(|e| Error::io(format!("cannot read {count} blocks at block {block}"), e))?;
    match done.op {
        Op::Read { buf, .. } if n == len => Ok(buf),
        _ => Err(corrupt(format!("only {n} of {len} bytes could be read at block {block}: the pool is truncated"))),
    }
}

/// The physical block of a pointer on disk.
fn block_of(pointer: Pointer) -> u64 {
    use crate::format::pointer::Place;
    match pointer.place() {
        Place::Data(block) | Place::Node(block) => block.0,
        Place::Hole | Place::Dirty(_) => 0,
    }
}

/// What `skip` bytes leave of `parts`.
fn after(parts: &[Part], mut skip: usize) -> Vec<Part> {
    let mut rest = Vec::new();
    for part in parts {
        let cut = skip.min(part.range.len());
        skip -= cut;
        if cut < part.range.len() {
            rest.push(Part { buf: part.buf.clone(), range: part.range.start + cut..part.range.end });
        }
    }
    rest
}
