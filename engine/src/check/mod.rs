//! Check: everything that the versions refer to, rebuilt from their roots and compared with the free map, and every copy of metadata.
//!
//! It looks at the state of one moment ([`view`]) while the pool goes on working. When space runs out it gives way.

pub(crate) mod copies;
pub(crate) mod verify;
mod view;
pub(crate) mod walk;

use std::rc::Rc;

use rustc_hash::FxHashSet;

use crate::{
    admin::LocalPool,
    core::Core,
    error::{Result, busy, corrupt},
    format::pointer::Place,
    info::CheckReport,
    reactor::notify::yield_now,
    space::{bitmap::Run, reach::Reach},
    storage::buffer::IoBuf,
    units::BLOCK,
};
use copies::{PieceFault, SlotFault};
use verify::Fault;
use view::View;
use walk::{Found, Stretch, Visitor, Walk};

/// Problems listed at most.
const MOST_PROBLEMS: usize = 1000;
/// Nodes read at once, and data blocks.
const NODES: usize = 64;
const DATA: usize = 4096;

/// What a check found, in a form that a repair can use.
pub(crate) struct Findings {
    pub(crate) report: CheckReport,
    pub(crate) slots: Vec<SlotFault>,
    pub(crate) pieces: Vec<PieceFault>,
    /// Places behind which nothing could be looked at: damaged nodes, and pointers that lead nowhere.
    pub(crate) hidden: u64,
    /// Problems that nothing in the pool can mend.
    pub(crate) lost: Vec<String>,
    /// In use according to the map, and nothing refers to them.
    pub(crate) leaked: Vec<Run>,
    /// Referred to, and free according to the map.
    pub(crate) unmapped: Vec<Run>,
}

impl LocalPool {
    /// Verifies all metadata (with `read_data`, all data too) and compares the free map with what is reachable. `progress(done, total)`
    /// counts blocks. The pool stays in use.
    ///
    /// # Errors
    /// `Busy` when another check or a repair runs, or when space ran out meanwhile. Damage is not an error: it is in the report.
    pub async fn check(&self, read_data: bool, progress: impl Fn(u64, u64)) -> Result<CheckReport> {
        let _running = Running::begin(&self.core)?;
        self.core.between_checkpoints().await;
        Ok(examine(&self.core, read_data, &progress).await?.report)
    }
}

/// The one check (or repair) that runs.
pub(crate) struct Running(Rc<Core>);

impl Running {
    pub(crate) fn begin(core: &Rc<Core>) -> Result<Self> {
        if core.check_running.replace(true) {
            return Err(busy("a check or a repair of this pool is under way: wait for it"));
        }
        core.check_yield.set(false);
        Ok(Self(core.clone()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.check_running.set(false);
        self.0.signals.checked.notify();
    }
}

impl Core {
    /// Waits for the end of the check that runs, if one does.
    pub(crate) async fn check_over(&self) {
        loop {
            let signal = self.signals.checked.notified();
            if !self.check_running.get() {
                return;
            }
            signal.await;
        }
    }
}

/// Checks everything. To be called between checkpoints.
pub(crate) async fn examine(core: &Rc<Core>, read_data: bool, progress: &dyn Fn(u64, u64)) -> Result<Findings> {
    let mut checker = Checker::new(core, read_data, progress);
    checker.walk_all().await?;
    let slots = copies::superblocks(core).await;
    checker.report.superblocks = 4;
    let mut pieces = Vec::new();
    core.between_checkpoints().await;
    if core.is_settled() {
        let written = copies::pieces(core);
        checker.report.map_pieces = written.len() as u64;
        pieces = copies::damaged_pieces(core, &written).await;
    }
    for fault in slots.iter().filter(|fault| !fault.may_be_a_crash) {
        checker.problem(format!("superblock copy {} (block {}) {}", fault.slot, fault.block, fault.cause));
    }
    for PieceFault { piece: (level, index), block, cause } in &pieces {
        checker.problem(format!("the free map: piece {index} of level {level}, block {block}, {cause}"));
    }
    let leaked = checker.view.reach.without(&checker.seen);
    checker.report.leaked_blocks = blocks_in(&leaked);
    // Behind a damaged node nothing can be reached: only an undamaged pool can be said to leak.
    // A pool that stopped after a failure holds the blocks of the checkpoint that failed; the next opening knows nothing of them.
    let stopped = core.latch.borrow().is_some() && !core.opened_read_only.get();
    if !leaked.is_empty() && checker.report.problems.is_empty() && !stopped {
        let examples: Vec<u64> = leaked.iter().flat_map(|run| run.start..run.end()).take(5).collect();
        checker.problem(format!(
            "{} blocks are in use but nothing refers to them (physical blocks {examples:?} …)",
            checker.report.leaked_blocks
        ));
    }
    progress(checker.total, checker.total);
    let unmapped = checker.seen.without(&checker.view.reach);
    let Checker { report, hidden, lost, .. } = checker;
    Ok(Findings { report, slots, pieces, hidden, lost, leaked, unmapped })
}

pub(crate) fn blocks_in(runs: &[Run]) -> u64 {
    runs.iter().map(|run| run.len).sum()
}

/// Every block that the versions and their table refer to, found from the roots: what a damaged piece of the free map is rebuilt from.
/// For opening, before anything changes.
pub(crate) async fn reachable(core: &Rc<Core>) -> Result<Reach> {
    let mut checker = Checker::new(core, false, &|_, _| {});
    checker.walk_all().await?;
    match checker.hidden {
        0 => Ok(checker.seen),
        n => Err(corrupt(format!("{n} metadata nodes are damaged as well"))),
    }
}

struct Checker<'a> {
    core: Rc<Core>,
    view: View,
    seen: Reach,
    report: CheckReport,
    read_data: bool,
    total: u64,
    progress: &'a dyn Fn(u64, u64),
    /// Nodes in memory that were entered, and those that were walked to their end.
    dirty_entered: FxHashSet<u32>,
    dirty_done: FxHashSet<u32>,
    /// What is being walked: its name, and its size in blocks.
    name: String,
    blocks: u64,
    hidden: u64,
    lost: Vec<String>,
}

impl<'a> Checker<'a> {
    fn new(core: &Rc<Core>, read_data: bool, progress: &'a dyn Fn(u64, u64)) -> Self {
        let view = View::take(core);
        Self {
            core: core.clone(),
            total: view.reach.count(),
            seen: Reach::new(core.superblock.borrow().total_blocks),
            view,
            report: CheckReport::default(),
            read_data,
            progress,
            dirty_entered: FxHashSet::default(),
            dirty_done: FxHashSet::default(),
            name: String::new(),
            blocks: u64::MAX,
            hidden: 0,
            lost: Vec::new(),
        }
    }

    fn problem(&mut self, text: String) {
        if self.report.problems.len() < MOST_PROBLEMS {
            self.report.problems.push(text);
        }
    }

    /// A block that is not what it should be.
    fn damage(&mut self, text: String, fault: &Fault) {
        if !matches!(fault, Fault::Unreadable(_)) {
            self.core.corruption(&text);
        }
        self.loss(text);
    }

    /// A problem that nothing in the pool can mend.
    fn loss(&mut self, text: String) {
        if self.lost.len() < MOST_PROBLEMS {
            self.lost.push(text.clone());
        }
        self.problem(text);
    }

    fn may_go_on(&self) -> Result<()> {
        if self.core.check_yield.get() {
            return Err(busy(
                "the pool ran out of space while it was being checked: free some space, then check again",
            ));
        }
        Ok(())
    }

    async fn walk_all(&mut self) -> Result<()> {
        let trees = std::mem::take(&mut self.view.trees);
        self.report.versions = trees.len() as u64;
        self.check_table().await;
        for tree in trees {
            self.name = tree.name;
            self.blocks = tree.blocks;
            let mut walk = Walk::new(tree.from, NODES, DATA);
            while let Some(stretch) = walk.find(&tree.root, self) {
                self.may_go_on()?;
                self.read(&mut walk, &stretch).await;
                walk.advance(&stretch);
                (self.progress)(self.seen.count().min(self.total), self.total);
                yield_now().await;
            }
        }
        Ok(())
    }

    async fn check_table(&mut self) {
        let table = std::mem::take(&mut self.view.table);
        "the version table".clone_into(&mut self.name);
        for found in &table {
            let _new = self.mark(*found);
        }
        if !self.core.is_settled() {
            return;
        }
        for (found, fault) in verify::blocks(&self.core, &table).await {
            self.damage(format!("the version table: physical block {} {fault}", found.block().unwrap_or(0)), &fault);
        }
    }

    async fn read(&mut self, walk: &mut Walk, stretch: &Stretch) {
        for (found, outcome) in verify::nodes(&self.core, &stretch.nodes).await {
            self.report.nodes += 1;
            match outcome {
                Ok(bytes) => walk.opened(found, bytes),
                Err(fault) => {
                    self.hidden += 1;
                    self.damage(self.describe("node", found, &fault), &fault);
                }
            }
        }
        self.report.data_verified += stretch.data.len() as u64;
        for (found, fault) in verify::blocks(&self.core, &stretch.data).await {
            self.damage(self.describe("data", found, &fault), &fault);
        }
    }

    fn describe(&self, what: &str, found: Found, fault: &Fault) -> String {
        let (block, offset) = (found.block().unwrap_or(0), found.base * BLOCK);
        format!("{}: {what} at offset {offset}, physical block {block}, {fault}", self.name)
    }

    /// Marks a block as reached; says whether it was new.
    fn mark(&mut self, found: Found) -> bool {
        let Some(block) = found.block() else { return false };
        let name = &self.name;
        if !self.core.state.borrow().space.is_allocatable(block) {
            self.loss(format!("{name} refers to physical block {block}, which lies outside of the data area"));
            self.hidden += 1;
            return false;
        }
        let new = self.seen.add(Run { start: block, len: 1 }) == 1;
        if new && !self.view.reach.contains(block) {
            self.problem(format!("{name} refers to physical block {block}, which the free map calls free"));
        }
        new
    }

    fn within_the_end(&mut self, found: Found) {
        if found.base >= self.blocks {
            let (name, base, blocks) = (&self.name, found.base, self.blocks);
            self.loss(format!("{name}: something is stored at block {base}, behind the end ({blocks} blocks)"));
        }
    }
}

impl Visitor for Checker<'_> {
    fn enter_dirty(&mut self, found: Found, slot: u32) -> Option<Rc<IoBuf>> {
        if self.dirty_done.contains(&slot) {
            return None;
        }
        if self.dirty_entered.insert(slot) {
            self.report.nodes += 1;
            self.within_the_end(found);
        }
        let bytes = self.view.dirty.get(&slot).cloned();
        if bytes.is_none() {
            let _done = self.dirty_done.insert(slot);
            self.hidden += 1;
            self.problem(format!("{}: a changed node is missing from memory", self.name));
        }
        bytes
    }

    fn wants(&mut self, found: Found) -> bool {
        let new = self.mark(found);
        if new {
            self.within_the_end(found);
        }
        if found.height > 0 {
            return new;
        }
        self.report.data_blocks += u64::from(new);
        new && self.read_data
    }

    fn completed(&mut self, found: Found) {
        if let Place::Dirty(slot) = found.pointer.place() {
            let _new = self.dirty_done.insert(slot);
        }
    }
}
