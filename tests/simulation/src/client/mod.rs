//! A client: volumes of its own, one operation (or burst of writes) after the other, each checked against the model.

mod restores;
mod upkeep;
mod versions;
mod writes;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use cairn_engine::{
    BLOCK, CacheMode, Error, ErrorKind, ExtentKind, LocalPool, LocalVolume, MIB, Pace, QosTarget, RegroupEnd,
    RegroupOptions, Result, SECTOR, SyncMode, Target, VolumeOptions,
    sim::{Counters, Disk, Faults},
};

use restores::{AsItIs, is_restored, kind_of};

use crate::{
    choices::Choices,
    history::{History, Step},
    model::{Effect, PER_BLOCK, buffer, tag_of},
    restore,
};

/// What a run is like: how large things are, and what happens how often.
#[derive(Clone, Default, Debug)]
pub(crate) struct Habits {
    /// Volumes of one client at most.
    pub(crate) volumes: usize,
    /// Sizes of volumes in MiB.
    pub(crate) sizes: &'static [u64],
    /// Longest write in sectors.
    pub(crate) longest: u64,
    /// Writes out of a hundred operations; the rest is everything else.
    pub(crate) writes: u64,
    /// Flushes without end, to fill the journal: one operation in so many is a series of small flushed writes (0: never).
    pub(crate) flush_series: u64,
    /// Whether some volumes are filled from a backup while they are used.
    pub(crate) restores: bool,
    /// Whether writes are acknowledged from memory. Then each client has one volume: between volumes there is an order by flushes alone.
    pub(crate) writeback: bool,
}

impl Habits {
    pub(crate) fn with_writeback(self, writeback: bool) -> Self {
        if writeback { Self { writeback, volumes: 1, ..self } } else { self }
    }
}

/// What all clients of a run share.
pub(crate) struct Shared {
    pub(crate) pool: LocalPool,
    pub(crate) disk: Disk,
    pub(crate) habits: Habits,
    /// Orders the steps of all clients.
    pub(crate) tick: Rc<Cell<u64>>,
    pub(crate) operations: Rc<Cell<u64>>,
    /// What the disk had done when this machine was started.
    pub(crate) began: Counters,
}

/// One client. Its history outlives the machine.
pub(crate) struct Client {
    pub(crate) shared: Rc<Shared>,
    pub(crate) history: Rc<RefCell<History>>,
    pub(crate) number: usize,
    pub(crate) choices: RefCell<Choices>,
    names: Cell<u64>,
    /// Reads that were left in flight.
    readers: Rc<Cell<u64>>,
}

/// The client goes on, or cannot.
#[derive(PartialEq, Eq, Clone, Copy, Debug)]
pub(crate) enum Go {
    On,
    /// The pool takes no writes any more.
    Stop,
}

fn target(volume: &str, snapshot: Option<&str>) -> Target {
    Target { volume: volume.to_owned(), snapshot: snapshot.map(str::to_owned) }
}

/// Chosen errors and damage of the disk so far: what excuses an error.
/// The same when this machine was started.
fn began(shared: &Shared) -> u64 {
    shared.began.errors + shared.began.damage_read
}

fn excuses(disk: &Disk) -> u64 {
    let counters = disk.counters();
    counters.errors + counters.damage_read
}

impl Client {
    pub(crate) fn new(shared: Rc<Shared>, history: Rc<RefCell<History>>, number: usize, choices: Choices) -> Self {
        // Names and tags are never used twice, also not by the next life of the same client.
        let names = Cell::new(shared.tick.get() << 12);
        history.borrow_mut().writeback = shared.habits.writeback;
        Self { shared, history, number, choices: RefCell::new(choices), names, readers: Rc::default() }
    }

    /// Does operations until the choices (or `most`) are used up, or the pool stops.
    pub(crate) async fn live(&self, most: u64) -> Go {
        for _ in 0..most {
            if self.choices.borrow().is_empty() {
                return Go::On;
            }
            if self.operation().await == Go::Stop {
                return Go::Stop;
            }
            self.shared.operations.set(self.shared.operations.get() + 1);
        }
        Go::On
    }

    fn below(&self, n: u64) -> u64 {
        self.choices.borrow_mut().below(n)
    }

    fn tick(&self) -> u64 {
        let tick = &self.shared.tick;
        tick.set(tick.get() + 1);
        tick.get()
    }

    fn name(&self, kind: &str) -> String {
        self.names.set(self.names.get() + 1);
        format!("c{}-{kind}{:x}", self.number, self.names.get())
    }

    fn tag(&self) -> u64 {
        self.names.set(self.names.get() + 1);
        (self.names.get() << 8) | (self.number as u64 + 1)
    }

    fn pool(&self) -> &LocalPool {
        &self.shared.pool
    }

    // ---- steps ----

    /// Begins a step; its effect counts as possible from here on.
    fn begin(&self, effect: Effect) -> usize {
        let step = Step {
            effect,
            started: self.tick(),
            start_moment: self.shared.disk.moment(),
            ended: None,
            durable: false,
            unsettled: false,
            digest: 0,
        };
        let mut history = self.history.borrow_mut();
        let mut family = history.now();
        family.apply(&step.effect);
        history.push(Step { digest: family.digest(), ..step }, family);
        history.steps.len() - 1
    }

    fn end(&self, step: usize, durable: bool) {
        let end = (self.tick(), self.shared.disk.moment());
        let mut history = self.history.borrow_mut();
        let step = &mut history.steps[step];
        step.ended = Some(end);
        step.durable = durable;
    }

    /// A whole step around an operation on versions, which is durable when it is answered.
    async fn versions<T>(&self, effect: Effect, operation: impl Future<Output = Result<T>>) -> Go {
        let excuses_before = excuses(&self.shared.disk);
        let may_wait = self.readers.get() > 0 || self.has_restored();
        let step = self.begin(effect);
        match operation.await {
            Ok(_) => {
                self.end(step, true);
                Go::On
            }
            Err(e) if self.stopped() => {
                self.expect_cause(&e);
                Go::Stop
            }
            Err(e) => {
                // Nothing has changed, and nothing will.
                let busy = e.kind() == ErrorKind::Busy && (may_wait || self.readers.get() > 0);
                assert!(busy || self.is_full(&e) || self.excused(&e, excuses_before), "{e}");
                self.history.borrow_mut().take_back();
                Go::On
            }
        }
    }

    fn stopped(&self) -> bool {
        self.pool().stats().read_only.is_some()
    }

    fn excused(&self, error: &Error, before: u64) -> bool {
        // A failed sync has lost data for good, and the pool has stopped over it.
        // What was acknowledged from memory may have failed long ago.
        let before = if self.shared.habits.writeback { began(&self.shared) } else { before };
        let cause = excuses(&self.shared.disk) > before || self.stopped();
        matches!(error.kind(), ErrorKind::Io | ErrorKind::Corrupt) && cause
    }

    /// Something was refused for want of room: then there is little, in the pool or in the file system.
    fn is_full(&self, error: &Error) -> bool {
        let stats = self.pool().stats();
        let little = stats.free < stats.capacity / 4 || self.shared.disk.counters().no_room > self.shared.began.no_room;
        // What was acknowledged has its room.
        error.kind() == ErrorKind::NoSpace && little && !error.to_string().contains("acknowledged from memory")
    }

    /// The pool stopped: then the disk must have given cause for it, since this machine was started.
    fn expect_cause(&self, error: &Error) {
        let (now, began) = (self.shared.disk.counters(), self.shared.began);
        let more = |count: fn(&Counters) -> u64| count(&now) > count(&began);
        assert!(more(|c| c.errors) || more(|c| c.damage_read) || more(|c| c.no_room), "without a cause: {error}");
    }

    // ---- the operations ----

    async fn operation(&self) -> Go {
        let habits = self.shared.habits.clone();
        let (volumes, snapshots) = self.history.borrow().now_counts();
        if volumes == 0 {
            return self.create().await;
        }
        if habits.flush_series > 0 && self.below(habits.flush_series) == 0 {
            return self.flush_series().await;
        }
        if habits.restores && self.below(25) == 0 {
            return self.restore_again();
        }
        if self.below(100) < habits.writes {
            return match self.below(8) {
                0 => self.burst().await,
                1 => self.spray().await,
                2 => self.zeroes().await,
                3 => self.leave_a_read().await,
                _ => self.write_one().await,
            };
        }
        match self.below(43) {
            0..=5 => self.read().await,
            6..=9 => self.flush().await,
            10..=14 if snapshots < 12 => self.snapshot().await,
            15 | 16 if volumes < habits.volumes => self.clone_one().await,
            17..=20 => self.delete_snapshot().await,
            21 if volumes > 1 => self.delete_volume().await,
            22 | 23 if volumes < habits.volumes => self.create().await,
            24 | 25 => self.revert().await,
            26 => self.resize().await,
            27 => self.rename().await,
            28 | 29 => self.diff().await,
            30 => self.compare_snapshot().await,
            31 | 32 => self.checkpoint().await,
            33 => self.check().await,
            34 => self.wait_deleted().await,
            35 => self.scrub().await,
            36 => {
                self.pool().reactor().sleep(Duration::from_millis(self.below(2500))).await;
                Go::On
            }
            37 => self.limit().await,
            38 | 39 => self.discard_much().await,
            _ => self.regroup().await,
        }
    }

    fn pick(&self) -> String {
        let names = self.history.borrow().volume_names();
        names[self.below(names.len() as u64) as usize].clone()
    }

    fn pick_snapshot(&self) -> Option<(String, String)> {
        let all = self.history.borrow().snapshot_names();
        (!all.is_empty()).then(|| all[self.below(all.len() as u64) as usize].clone())
    }

    fn open(&self, volume: &str, snapshot: Option<&str>) -> LocalVolume {
        match self.pool().open(&target(volume, snapshot)) {
            Ok(open) => open,
            Err(e) => panic!("{volume} {snapshot:?} cannot be opened: {e}"),
        }
    }

    /// A place where things happen: dense at the start, at the ends of leaves, nodes and the volume, sparse elsewhere.
    fn place(&self, size: u64) -> u64 {
        let sectors = size / SECTOR;
        let at = match self.below(8) {
            0..=3 => self.below(1500),
            4 => (256 * MIB / SECTOR).saturating_sub(60) + self.below(200),
            5 => sectors.saturating_sub(1 + self.below(80)),
            6 => (self.below(4) * 2048).saturating_sub(20) + self.below(40),
            _ => self.below(sectors / 512 + 1) * 512,
        };
        at.min(sectors - 1)
    }

    fn range(&self, size: u64) -> (u64, u64) {
        let first = self.place(size);
        let longest = self.shared.habits.longest;
        let (first, count) = match self.below(4) {
            0 => (first, 1 + self.below(10)),
            1 => (first, 1 + self.below(longest)),
            _ => (first / PER_BLOCK * PER_BLOCK, PER_BLOCK * (1 + self.below(longest / PER_BLOCK))),
        };
        (first, count.min(size / SECTOR - first))
    }

    async fn create(&self) -> Go {
        let sizes = self.shared.habits.sizes;
        let size = sizes[self.below(sizes.len() as u64) as usize] * MIB + SECTOR * [0, 0, 7, 8][self.below(4) as usize];
        let sync = [SyncMode::Flush, SyncMode::Flush, SyncMode::Flush, SyncMode::Always, SyncMode::Never];
        let sync = sync[self.below(5) as usize];
        let filling = self.shared.habits.restores && self.below(2) == 0;
        let name = self.name(if filling { "r" } else { "v" });
        let cache = if self.shared.habits.writeback { CacheMode::Writeback } else { CacheMode::Direct };
        let options = VolumeOptions { sync, cache, filling };
        let effect = Effect::Create { name: name.clone(), size, sync, backup: filling.then_some(self.number) };
        let go = self.versions(effect, self.pool().create_volume(&name, size, options)).await;
        self.start_restore(&name);
        go
    }

    fn live_of(&self, volume: &str) -> (u64, SyncMode) {
        self.history.borrow().live_of(volume)
    }

    /// A read that stays in flight while the client goes on: what it returns was there at some time since.
    async fn leave_a_read(&self) -> Go {
        let volume = self.pick();
        let (size, _) = self.live_of(&volume);
        let (first, count) = self.range(size);
        let open = self.open(&volume, None);
        let (history, disk, pool) = (self.history.clone(), self.shared.disk.clone(), self.pool().clone());
        let (from, old) = (history.borrow().steps.len(), history.borrow().content(&volume, None));
        let (before, readers) = (excuses(&disk), self.readers.clone());
        readers.set(readers.get() + 1);
        let read = async move {
            let result = open.read(first * SECTOR, (count * SECTOR) as usize).await;
            drop(open);
            readers.set(readers.get() - 1);
            let data = match result {
                Ok(data) => data,
                Err(e) => {
                    let cause = excuses(&disk) > before || pool.stats().read_only.is_some();
                    // Reverted to a smaller size or deleted meanwhile.
                    let gone = matches!(e.kind(), ErrorKind::Invalid | ErrorKind::NotFound);
                    // Not to be brought, for want of room, or since the volume is about to be deleted.
                    let unfilled = is_restored(&volume) && matches!(e.kind(), ErrorKind::NoSpace | ErrorKind::Busy);
                    assert!(cause || gone || unfilled, "{volume}, read in the background: {e}");
                    return;
                }
            };
            for (sector, bytes) in (first..).zip(data.chunks_exact(SECTOR as usize)) {
                let tag = tag_of(sector, bytes).unwrap_or_else(|e| panic!("{volume}, read in the background: {e}"));
                let allowed = old.get(sector) == tag || history.borrow().may_have_had(&volume, from, sector, tag);
                assert!(allowed, "{volume}: sector {sector} reads {tag:#x} in the background, which it never had");
            }
        };
        self.pool().reactor().spawn(read).detach();
        Go::On
    }

    async fn read(&self) -> Go {
        let volume = self.pick();
        let (size, _) = self.live_of(&volume);
        let (first, count) = self.range(size);
        let open = self.open(&volume, None);
        self.read_and_compare(&open, &volume, None, first, count).await;
        Go::On
    }

    async fn compare_snapshot(&self) -> Go {
        let Some((volume, snapshot)) = self.pick_snapshot() else { return Go::On };
        let open = self.open(&volume, Some(&snapshot));
        let (first, count) = self.range(open.size());
        self.read_and_compare(&open, &volume, Some(&snapshot), first, count).await;
        Go::On
    }

    async fn read_and_compare(&self, open: &LocalVolume, volume: &str, snapshot: Option<&str>, first: u64, count: u64) {
        let before = excuses(&self.shared.disk);
        match open.read(first * SECTOR, (count * SECTOR) as usize).await {
            Ok(data) => {
                let content = self.history.borrow().content(volume, snapshot);
                for (sector, bytes) in (first..).zip(data.chunks_exact(SECTOR as usize)) {
                    let tag = tag_of(sector, bytes).unwrap_or_else(|e| panic!("{volume} {snapshot:?}: {e}"));
                    let expected = content.get(sector);
                    assert!(
                        tag == expected,
                        "{volume} {snapshot:?}: sector {sector} reads {tag:#x}, not {expected:#x}"
                    );
                }
            }
            Err(e) => {
                let excused = self.excused(&e, before) || self.is_unfilled(volume, &e);
                assert!(excused, "{volume} {snapshot:?}: {e}");
            }
        }
    }

    async fn flush(&self) -> Go {
        let volume = self.pick();
        let (_, sync) = self.live_of(&volume);
        let open = self.open(&volume, None);
        let step = self.begin(Effect::None);
        match open.flush().await {
            Ok(()) => {
                self.end(step, sync != SyncMode::Never);
                Go::On
            }
            Err(e) if self.stopped() => {
                self.expect_cause(&e);
                Go::Stop
            }
            Err(e) => {
                // An acknowledged write has failed: it stays in memory, and nothing is durable by this.
                assert!(self.shared.habits.writeback && self.excused(&e, 0), "{volume}: {e}");
                self.end(step, false);
                Go::On
            }
        }
    }
}

/// A disk without faults but the latency.
pub(crate) fn calm() -> Faults {
    Faults::default()
}
