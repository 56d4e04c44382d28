//! Repair: what follows from other things in the pool is written again. First a plan, made by a check; then, if it is wanted, what the plan
//! says, on a pool that nobody uses; last a checkpoint and another check.
//!
//! Derivable are the copies of the superblock (from one another) and the free map (from the versions). There is one copy of data, nodes
//! and version table: damage there is named in the plan, and stays.
//!
//! Invariants:
//! - A block is given back only if every node of every version was read: what lies behind a damaged node is not known.
//! - Between the look and the change nothing is handed out or released: checkpoints are held, deletions wait, nothing is open.

use std::rc::Rc;

use crate::{
    admin::LocalPool,
    check::{Findings, Running, blocks_in, copies::PieceFault, examine},
    checkpoint::map::ENTRIES,
    core::Core,
    error::{Result, busy, read_only},
    format::superblock::slots_of,
    info::Event,
    reactor::notify::channel,
    upkeep::{RepairAction, RepairPlan, RepairReport, RepairStep},
};

impl LocalPool {
    /// Checks the pool (with `read_data`, all data too) and says what a repair would do. Changes nothing.
    ///
    /// # Errors
    /// As [`LocalPool::check`].
    pub async fn plan_repair(&self, read_data: bool, progress: impl Fn(u64, u64)) -> Result<RepairPlan> {
        let _running = Running::begin(&self.core)?;
        self.core.between_checkpoints().await;
        Ok(plan(&examine(&self.core, read_data, &progress).await?))
    }

    /// Does what a plan says, makes a checkpoint, and checks again. A plan without actions changes nothing.
    ///
    /// # Errors
    /// `Busy` while volumes or snapshots are open, during a check, or when the pool is not as it was when the plan was made;
    /// `ReadOnly` for a pool opened for reading only; `Io` and `NoSpace` from the checkpoint.
    pub async fn repair(&self, plan: &RepairPlan, progress: impl Fn(u64, u64)) -> Result<RepairReport> {
        let core = &self.core;
        let _running = Running::begin(core)?;
        match core.opened_read_only.get() {
            true if !core.opened_for_repair => {
                return Err(read_only("the pool was opened for reading only: open it for a repair"));
            }
            true => {}
            false => core.writable()?,
        }
        let alone = Alone::with(core)?;
        // Closed volumes may have acknowledged writes on their way.
        core.drain_all(false).await?;
        // What is being punched, or was handed out to a write whose client has gone, is in use for nobody who could be asked.
        core.given_back().await;
        if core.state.borrow().space.reserved() > 0 {
            return Err(busy("writes of a client that has gone are still under way: repair again in a moment"));
        }
        let held = core.hold_checkpoints().await;
        let findings = examine(core, false, &progress).await?;
        let now = self::plan(&findings);
        if !now.actions.iter().map(|a| a.step).eq(plan.actions.iter().map(|a| a.step)) {
            return Err(busy("the pool is not as it was when the plan was made: make a new plan"));
        }
        if now.actions.is_empty() {
            return Ok(RepairReport { done: Vec::new(), check: findings.report });
        }
        core.begin_writing().await?;
        mend_map(core, &findings, &now);
        let newest = slots_of(core.superblock.borrow().checkpoint);
        for fault in findings.slots.iter().filter(|fault| newest.contains(&fault.slot)) {
            core.rewrite_superblock(fault.slot).await?;
        }
        drop(held);
        // It writes the other two slots, and the pieces of the map.
        self.checkpoint().await?;
        for action in &now.actions {
            core.state.borrow_mut().event(Event::Repaired { what: format!("{} ({})", action.step, action.why) });
        }
        core.between_checkpoints().await;
        let check = examine(core, false, &progress).await?.report;
        drop(alone);
        Ok(RepairReport { done: now.actions, check })
    }
}

/// Keeps everybody else out for as long as it is there.
struct Alone(Rc<Core>);

impl Alone {
    fn with(core: &Rc<Core>) -> Result<Self> {
        let open: Vec<String> = {
            let (attached, state) = (core.attached.borrow(), core.state.borrow());
            let volumes = attached.volumes.iter().filter(|(_, n)| **n > 0);
            let snapshots = attached.snapshots.iter().filter(|(_, n)| **n > 0);
            let mut names: Vec<String> = volumes
                .filter_map(|(id, _)| Some(state.lineage.live_of(*id)?.name.clone()))
                .chain(snapshots.filter_map(|(id, _)| {
                    let snapshot = state.lineage.get(*id)?;
                    Some(format!("{}@{}", state.lineage.live_of(snapshot.volume)?.name, snapshot.name))
                }))
                .collect();
            names.sort_unstable();
            names
        };
        if !open.is_empty() {
            let more = if open.len() > 5 { ", …" } else { "" };
            return Err(busy(format!(
                "a repair needs the pool for itself, and these are open: {}{more}; detach their clients, or stop the server, and \
                 repair again",
                open.iter().take(5).map(String::as_str).collect::<Vec<_>>().join(", ")
            )));
        }
        if let Some(regroup) = core.regroup.borrow().running.as_ref().filter(|regroup| !regroup.dry_run) {
            return Err(busy(format!(
                "a repair needs the pool for itself, and volume {:?} is being regrouped: wait for that or cancel it, and repair again",
                regroup.volume
            )));
        }
        core.repairing.set(true);
        Ok(Self(core.clone()))
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.0.repairing.set(false);
        self.0.signals.deletion.notify();
    }
}

impl Core {
    /// A pool that was opened for a repair takes writes from here on. In a task of its own: whoever waits may go away, and a pool that takes
    /// writes and never commits them would be left.
    async fn begin_writing(self: &Rc<Self>) -> Result<()> {
        if self.opened_read_only.replace(false) {
            *self.latch.borrow_mut() = None;
            let (tell, told) = channel();
            let core = self.clone();
            self.reactor.spawn(async move { tell.send(core.start_writing().await) }).detach();
            told.await?;
        }
        self.writable()
    }
}

/// What is to be done about findings, and what cannot be.
fn plan(findings: &Findings) -> RepairPlan {
    let mut actions = Vec::new();
    for fault in &findings.slots {
        let or = if fault.may_be_a_crash { " (or a crash left it so)" } else { "" };
        let why = format!("the one at block {} {}{or}", fault.block, fault.cause);
        actions.push(RepairAction { step: RepairStep::RewriteSuperblock { slot: fault.slot }, why });
    }
    for PieceFault { piece: (level, index), block, cause } in &findings.pieces {
        let step = RepairStep::RewriteMap { level: *level as u64, index: *index as u64 };
        let why = format!("the piece at block {block} {cause}; what it holds follows from the versions");
        actions.push(RepairAction { step, why });
    }
    let (leaked, unmapped) = (blocks_in(&findings.leaked), blocks_in(&findings.unmapped));
    if unmapped > 0 {
        let why = "versions refer to them, and the free map would have them written over".to_owned();
        actions.push(RepairAction { step: RepairStep::MarkUsed { blocks: unmapped }, why });
    }
    let mut unrepaired: Vec<String> =
        findings.lost.iter().map(|problem| format!("{problem}; restore it from a backup")).collect();
    if leaked > 0 && findings.hidden == 0 {
        let why = "they are marked as used, and no version refers to them".to_owned();
        actions.push(RepairAction { step: RepairStep::FreeBlocks { blocks: leaked }, why });
    } else if leaked > 0 {
        unrepaired.push(format!(
            "{leaked} blocks are marked as used, and nothing that can be read refers to them; they are not given back, since {} damaged \
             metadata nodes may refer to them: restore the volumes and snapshots behind those from a backup into a new pool",
            findings.hidden
        ));
    }
    RepairPlan { actions, unrepaired }
}

/// Makes the free map what the versions say it is, and has its damaged pieces written again by the next checkpoint.
fn mend_map(core: &Core, findings: &Findings, plan: &RepairPlan) {
    let mut state = core.state.borrow_mut();
    let space = &mut state.space;
    space.claim(&findings.unmapped);
    if plan.actions.iter().any(|action| matches!(action.step, RepairStep::FreeBlocks { .. })) {
        for block in findings.leaked.iter().flat_map(|run| run.start..run.end()) {
            space.release_node(block);
        }
    }
    for PieceFault { piece: (level, index), .. } in &findings.pieces {
        // A directory is written with any piece that it leads to.
        space.reach.touch((*index * ENTRIES.pow(*level as u32)) as u64);
    }
}
