//! The backlogs of a pool: what they may hold together, who waits, and how entries come and go.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use rustc_hash::FxHashMap;

use super::{Backlog, ENTRY, Entry, Failure, Piece, SLOT};
use crate::{
    error::Error,
    locks::{BlockLock, BlockLocks},
    qos::Permit,
    reactor::notify::Notify,
    sabotage::{Sabotage, broken},
    units::VolumeId,
};

/// What one backlog counts for.
#[derive(Default)]
pub(super) struct Share {
    /// Memory that its entries take.
    bytes: Cell<u64>,
    /// It is one of those that share the memory.
    active: Cell<bool>,
    /// Memory that it holds since a failure, for nobody knows how long.
    stuck: Cell<u64>,
}

/// Whether a write may be taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Room {
    Yes,
    /// Others have to leave first.
    Wait,
    /// It is larger than its volume's share.
    Never,
}

pub(crate) struct Backlogs {
    limit: u64,
    bytes: Cell<u64>,
    active: Cell<u64>,
    stuck: Cell<u64>,
    all: RefCell<FxHashMap<VolumeId, Rc<Backlog>>>,
    /// Lines of those who cannot go at once, one for each volume.
    doors: BlockLocks,
    /// Entries left, somebody who went around has ended, or a drain has failed.
    pub(crate) changed: Notify,
}

/// Something goes around a backlog until this is dropped.
pub(crate) struct Through {
    backlogs: Rc<Backlogs>,
    backlog: Rc<Backlog>,
}

impl Drop for Through {
    fn drop(&mut self) {
        let left = self.backlog.through.get() - 1;
        self.backlog.through.set(left);
        if left == 0 && !self.backlog.nobody_in_line() {
            self.backlogs.changed.notify();
        }
    }
}

/// Somebody stands in line, and counts as one who wants a share.
pub(crate) struct InLine<'a> {
    backlogs: &'a Backlogs,
    backlog: &'a Backlog,
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.backlog.in_line.set(self.backlog.in_line.get() - 1);
        self.backlogs.note(self.backlog);
    }
}

impl Backlogs {
    pub(crate) fn new(limit: u64) -> Self {
        Self {
            limit,
            bytes: Cell::new(0),
            active: Cell::new(0),
            stuck: Cell::new(0),
            all: RefCell::default(),
            doors: BlockLocks::default(),
            changed: Notify::default(),
        }
    }

    /// The backlog of a volume. Made when it is first asked for.
    pub(crate) fn of(&self, volume: VolumeId) -> Rc<Backlog> {
        self.all.borrow_mut().entry(volume).or_default().clone()
    }

    /// All that are not empty, in the order of their volumes.
    pub(crate) fn not_empty(&self) -> Vec<(VolumeId, Rc<Backlog>)> {
        let all = self.all.borrow();
        let mut found: Vec<_> =
            all.iter().filter(|(_, backlog)| !backlog.is_empty()).map(|(id, backlog)| (*id, backlog.clone())).collect();
        found.sort_unstable_by_key(|(id, _)| *id);
        found
    }

    /// From here on everything goes around.
    pub(crate) fn turn_off(&self) {
        self.all.borrow().values().for_each(|backlog| backlog.set_on(false));
        self.changed.notify();
    }

    /// Memory that all of them hold.
    pub(crate) fn memory(&self) -> u64 {
        self.bytes.get()
    }

    // ---- who may go ----

    /// Stands in line before a volume's door.
    pub(crate) fn stand_in_line<'a>(&'a self, backlog: &'a Backlog) -> InLine<'a> {
        backlog.in_line.set(backlog.in_line.get() + 1);
        self.note(backlog);
        InLine { backlogs: self, backlog }
    }

    /// The door: whoever has it is the first in line.
    pub(crate) async fn door(&self, volume: VolumeId) -> BlockLock<'_> {
        self.doors.lock(volume, 0).await
    }

    /// Somebody goes around: no entry is taken until the end of what is returned.
    pub(crate) fn go_around(self: &Rc<Self>, backlog: &Rc<Backlog>) -> Through {
        backlog.through.set(backlog.through.get() + 1);
        Through { backlogs: self.clone(), backlog: backlog.clone() }
    }

    /// What pieces will take of memory; `capacity` is that of the buffer that they have in common.
    pub(crate) fn memory_of(pieces: &[Piece], capacity: u64) -> u64 {
        capacity + pieces.iter().map(|piece| ENTRY + SLOT * piece.count).sum::<u64>()
    }

    /// Whether a backlog may take so much more.
    pub(crate) fn room(&self, backlog: &Backlog, bytes: u64, now: Duration) -> Room {
        let limit = self.limit.saturating_sub(self.stuck.get());
        let sharers = self.active.get() + u64::from(!backlog.share.active.get());
        let share = limit / sharers.max(1);
        if bytes > share {
            return Room::Never;
        }
        let fits = self.bytes.get() + bytes <= self.limit && backlog.share.bytes.get() + bytes <= share;
        if fits && !backlog.waits_too_long(now) { Room::Yes } else { Room::Wait }
    }

    // ---- entries ----

    /// Acknowledges pieces; `nodes` are kept back for each. Returns the number of the last one.
    pub(crate) fn take(
        &self,
        backlog: &Backlog,
        pieces: Vec<Piece>,
        capacity: u64,
        nodes: u64,
        permit: Option<Permit>,
        now: Duration,
    ) -> u64 {
        let (turn, before) = backlog.turn.get();
        backlog.turn.set((now, if turn == now { before + 1 } else { 1 }));
        let (mut number, last, mut permit) = (backlog.taken.get(), pieces.len() - 1, permit);
        let mut queue = backlog.queue.borrow_mut();
        let mut bytes = 0;
        for (i, piece) in pieces.into_iter().enumerate() {
            number += 1;
            // The buffer goes with the last of them.
            let memory = Self::memory_of(std::slice::from_ref(&piece), if i == last { capacity } else { 0 });
            bytes += memory;
            let permit = RefCell::new(if i == last { permit.take() } else { None });
            let entry = Rc::new(Entry { piece, number, since: now, memory, nodes, permit });
            for block in entry.piece.block..entry.piece.end() {
                let _older = queue.newest.insert(block, entry.clone());
            }
            queue.entries.push_back(entry);
        }
        drop(queue);
        backlog.taken.set(number);
        self.count(backlog, bytes as i64);
        number
    }

    /// The front entry is in the tree.
    pub(crate) fn drained(&self, backlog: &Backlog, entry: &Rc<Entry>) {
        let permit = entry.permit.take();
        {
            let mut queue = backlog.queue.borrow_mut();
            if let Some(at) = queue.entries.iter().position(|other| Rc::ptr_eq(other, entry)) {
                debug_assert!(at == 0 || broken(Sabotage::DrainOutOfOrder), "drained out of turn");
                let _drained = queue.entries.remove(at);
                queue.begun -= 1;
            }
            for block in entry.piece.block..entry.piece.end() {
                if queue.newest.get(&block).is_some_and(|newest| Rc::ptr_eq(newest, entry)) {
                    let _gone = queue.newest.remove(&block);
                }
            }
        }
        backlog.drained.set(entry.number);
        self.count(backlog, -(entry.memory as i64));
        drop(permit);
        self.changed.notify();
    }

    /// The front entry cannot be written. Requests do not count as under way any more.
    pub(crate) fn fail(&self, backlog: &Backlog, error: Error) {
        *backlog.failure.borrow_mut() = Some(Failure { error, told: Cell::new(false) });
        backlog.drop_permits();
        self.note(backlog);
        self.changed.notify();
    }

    /// The failure is forgotten, if somebody was told of it or `anyhow`; says whether there was one.
    pub(crate) fn forgive(&self, backlog: &Backlog, anyhow: bool) -> bool {
        let forgiven = backlog.failure.borrow_mut().take_if(|failure| anyhow || failure.told.get()).is_some();
        self.note(backlog);
        forgiven
    }

    /// Its volume was deleted. What was kept back and is not on its way; none while a task drains it, which calls [`Backlogs::empty`].
    pub(crate) fn volume_gone(&self, volume: VolumeId) -> u64 {
        let Some(backlog) = self.all.borrow_mut().remove(&volume) else { return 0 };
        backlog.gone.set(true);
        backlog.set_on(false);
        backlog.drop_permits();
        if backlog.draining.get() { 0 } else { self.empty(&backlog) }
    }

    /// Drops what is in a backlog whose volume is gone, with nothing on its way; returns what was kept back for it.
    pub(crate) fn empty(&self, backlog: &Backlog) -> u64 {
        let queue = backlog.queue.take();
        backlog.drained.set(backlog.taken.get());
        let _failure = backlog.failure.take();
        self.count(backlog, -(backlog.share.bytes.get() as i64));
        self.changed.notify();
        queue.entries.iter().map(|entry| entry.kept()).sum()
    }

    // ---- counting ----

    fn count(&self, backlog: &Backlog, more: i64) {
        self.bytes.set(self.bytes.get().saturating_add_signed(more));
        backlog.share.bytes.set(backlog.share.bytes.get().saturating_add_signed(more));
        self.note(backlog);
    }

    /// Keeps the number of those that share, and what is stuck.
    fn note(&self, backlog: &Backlog) {
        let (failed, bytes) = (backlog.has_failed(), backlog.share.bytes.get());
        let active = !failed && (bytes > 0 || backlog.in_line.get() > 0);
        if active != backlog.share.active.replace(active) {
            self.active.set(if active { self.active.get() + 1 } else { self.active.get() - 1 });
        }
        let stuck = if failed { bytes } else { 0 };
        let before = backlog.share.stuck.replace(stuck);
        self.stuck.set(self.stuck.get() + stuck - before);
    }
}
