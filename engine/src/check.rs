//! Check: everything that the versions refer to, rebuilt from their roots and compared with the free map.
//!
//! It looks at the state of one moment while the pool goes on working: roots, dirty nodes and the map are taken by reference (changes
//! copy them), and blocks released meanwhile are not handed out again until the check is over. When space runs out it gives way.

use std::{cell::Cell, collections::VecDeque, rc::Rc};

use rustc_hash::FxHashMap;

use crate::{
    admin::LocalPool,
    core::{Core, ReadGuard},
    error::{Result, busy, corrupt},
    format::{
        node::{self, FANOUT},
        pointer::{Place, Pointer},
    },
    info::CheckReport,
    reactor::notify::yield_now,
    space::{bitmap::Run, reach::Reach},
    storage::{Op, buffer::IoBuf},
    units::{BLOCK, BLOCK_SIZE, Epoch},
    versions::{State, span},
};

/// Problems listed at most.
const MOST_PROBLEMS: usize = 1000;
/// Nodes and runs of data read at once.
const DEPTH: usize = 64;
/// Longest run of data read at once, in blocks.
const RUN: u64 = 64;

/// One tree to be walked.
struct Root {
    name: String,
    pointer: Pointer,
    height: u32,
    /// Blocks before this one are given back already.
    from: u64,
    /// Pointers born up to this epoch belong to others, and may be gone.
    floor: Option<Epoch>,
    /// Blocks of the volume; nothing may be stored behind them.
    blocks: u64,
}

/// The state at the moment of the check.
struct View {
    dirty: FxHashMap<u32, Rc<IoBuf>>,
    reach: Reach,
    roots: Vec<Root>,
    table: Vec<Pointer>,
    _hold: ReadGuard,
}

struct Checker<'a, F: Fn(u64, u64)> {
    core: Rc<Core>,
    view: View,
    seen: Reach,
    report: CheckReport,
    read_data: bool,
    total: u64,
    progress: &'a F,
    /// Dirty nodes that were walked.
    dirty_seen: rustc_hash::FxHashSet<u32>,
    /// Data pointers to be read: block and checksum.
    data: Vec<(u64, u32, String)>,
    /// Nodes that could not be read or verified.
    unreadable: u64,
}

/// A node on the walk's list.
struct Task {
    pointer: Pointer,
    height: u32,
    base: u64,
    root: usize,
}

impl LocalPool {
    /// Verifies all metadata (with `read_data`, all data too) and compares the free map with what is reachable. `progress(done, total)`
    /// counts blocks. The pool stays in use.
    ///
    /// # Errors
    /// `Busy` when another check runs, or when space ran out meanwhile. Damage is not an error: it is in the report.
    pub async fn check(&self, read_data: bool, progress: impl Fn(u64, u64)) -> Result<CheckReport> {
        let core = &self.core;
        if core.check_running.get() {
            return Err(busy("a check of this pool is under way: wait for it"));
        }
        core.check_running.set(true);
        core.check_yield.set(false);
        let _running = Running(&core.check_running);
        // While a checkpoint runs, blocks are in use that only it knows of.
        loop {
            let signal = core.signals.checkpointed.notified();
            if !core.checkpoint_running.get() {
                break;
            }
            signal.await;
        }
        let view = take_view(core);
        let total = view.reach.count();
        let blocks = core.superblock.borrow().total_blocks;
        let mut checker = Checker {
            core: core.clone(),
            view,
            seen: Reach::new(blocks),
            report: CheckReport::default(),
            read_data,
            total,
            progress: &progress,
            dirty_seen: rustc_hash::FxHashSet::default(),
            data: Vec::new(),
            unreadable: 0,
        };
        checker.run().await?;
        Ok(checker.report)
    }
}

/// Every block that the versions and their table refer to, found from the roots: what a damaged piece of the free map is rebuilt from.
/// For opening, before anything changes.
pub(crate) async fn reachable(core: &Rc<Core>) -> Result<Reach> {
    let view = take_view(core);
    let blocks = core.superblock.borrow().total_blocks;
    let mut checker = Checker {
        core: core.clone(),
        total: view.reach.count(),
        view,
        seen: Reach::new(blocks),
        report: CheckReport::default(),
        read_data: false,
        progress: &|_, _| {},
        dirty_seen: rustc_hash::FxHashSet::default(),
        data: Vec::new(),
        unreadable: 0,
    };
    checker.walk_all().await?;
    match checker.unreadable {
        0 => Ok(checker.seen),
        n => Err(corrupt(format!("{n} metadata nodes are damaged as well"))),
    }
}

struct Running<'a>(&'a Cell<bool>);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

fn take_view(core: &Rc<Core>) -> View {
    let hold = core.hold();
    let state = core.state.borrow();
    let roots = state.lineage.iter().map(|v| Root {
        name: if v.is_visible() { format!("{:?} ({})", v.name, v.id) } else { format!("deleted version {}", v.id) },
        pointer: v.root,
        height: v.depth,
        from: if state.lineage.children(v.id).len() < 2 { v.cursor } else { 0 },
        floor: (v.state == State::Detached || v.state == State::Deleting && v.parent.is_none()).then_some(v.floor),
        blocks: if v.is_visible() { v.blocks() } else { u64::MAX },
    });
    View {
        roots: roots.collect(),
        dirty: state.nodes.dirty_view(),
        reach: state.space.reach.clone(),
        table: core.table.borrow().levels.iter().flatten().copied().filter(|p| !p.is_hole()).collect(),
        _hold: hold,
    }
}

impl<F: Fn(u64, u64)> Checker<'_, F> {
    async fn run(&mut self) -> Result<()> {
        self.walk_all().await?;
        self.compare();
        (self.progress)(self.total, self.total);
        Ok(())
    }

    async fn walk_all(&mut self) -> Result<()> {
        self.report.versions = self.view.roots.len() as u64;
        self.check_table().await?;
        for root in 0..self.view.roots.len() {
            let r = &self.view.roots[root];
            let task = Task { pointer: r.pointer, height: r.height, base: 0, root };
            self.walk(task).await?;
            self.read_queued(true).await?;
        }
        Ok(())
    }

    fn problem(&mut self, text: String) {
        if self.report.problems.len() < MOST_PROBLEMS {
            self.report.problems.push(text);
        }
    }

    fn may_go_on(&self) -> Result<()> {
        if self.core.check_yield.get() {
            return Err(busy(
                "the pool ran out of space while it was being checked: free some space, then check again",
            ));
        }
        Ok(())
    }

    async fn check_table(&mut self) -> Result<()> {
        for pointer in std::mem::take(&mut self.view.table) {
            self.mark(pointer, "the version table");
            if let Place::Data(block) | Place::Node(block) = pointer.place() {
                let what = "the version table".to_owned();
                self.data.push((block.0, pointer.crc(), what));
            }
        }
        let read_data = std::mem::replace(&mut self.read_data, true);
        let verified = self.report.data_verified;
        self.read_queued(true).await?;
        self.report.data_verified = verified;
        self.read_data = read_data;
        Ok(())
    }

    /// Marks a block as reached; says whether it was new.
    fn mark(&mut self, pointer: Pointer, what: &str) -> bool {
        let (Place::Data(block) | Place::Node(block)) = pointer.place() else { return false };
        if !self.core.state.borrow().space.is_allocatable(block.0) {
            self.problem(format!("{what} refers to physical block {}, which is outside of the data area", block.0));
            return false;
        }
        if !self.view.reach.contains(block.0) && !self.seen.contains(block.0) {
            self.problem(format!("{what} refers to physical block {}, which the free map calls free", block.0));
        }
        self.seen.add(Run { start: block.0, len: 1 }) == 1
    }

    async fn walk(&mut self, first: Task) -> Result<()> {
        let mut list = vec![first];
        while !list.is_empty() {
            self.may_go_on()?;
            let batch: Vec<Task> = list.split_off(list.len().saturating_sub(DEPTH));
            let nodes = self.fetch(batch).await;
            for (task, bytes) in nodes {
                self.expand(&task, &bytes, &mut list);
            }
            self.read_queued(false).await?;
            (self.progress)(self.seen.count().min(self.total), self.total);
            yield_now().await;
        }
        Ok(())
    }

    /// The nodes of a batch that were not walked before, read and verified.
    async fn fetch(&mut self, batch: Vec<Task>) -> Vec<(Task, Rc<IoBuf>)> {
        let mut found = Vec::new();
        let mut reads = Vec::new();
        for task in batch {
            let root = &self.view.roots[task.root];
            let (name, skipped) = (root.name.clone(), root.floor.is_some_and(|f| task.pointer.birth() <= f));
            if skipped {
                continue;
            }
            match task.pointer.place() {
                Place::Dirty(slot) if self.dirty_seen.insert(slot) => match self.view.dirty.get(&slot).cloned() {
                    Some(bytes) => found.push((task, bytes)),
                    None => self.problem(format!("{name}: a changed node is missing from memory")),
                },
                Place::Node(block) if self.mark(task.pointer, &name) => {
                    let op = Op::Read { offset: block.0 * BLOCK, buf: IoBuf::with_len(BLOCK_SIZE) };
                    reads.push((task, block.0, name, self.core.reactor.submit(op)));
                }
                _ => {}
            }
        }
        for (task, block, name, read) in reads {
            let done = read.await;
            let Op::Read { buf, .. } = done.op else { continue };
            self.report.nodes += 1;
            let at = task.base * BLOCK;
            self.unreadable += 1;
            match done.result {
                Err(e) => {
                    self.problem(format!("{name}: node at physical block {block} (offset {at}) cannot be read: {e}"));
                }
                Ok(_) if crc32fast::hash(&buf) != task.pointer.crc() => {
                    self.core.corruption(&format!("{name}: node at physical block {block}"));
                    self.problem(format!("{name}: node at physical block {block} (offset {at}) fails its checksum"));
                }
                Ok(_) if !node::is_sound(&buf, task.height - 1) => {
                    self.problem(format!(
                        "{name}: node at physical block {block} (offset {at}) is not a node of its level"
                    ));
                }
                Ok(_) => {
                    self.unreadable -= 1;
                    found.push((task, Rc::new(buf)));
                }
            }
        }
        found
    }

    fn expand(&mut self, task: &Task, bytes: &IoBuf, list: &mut Vec<Task>) {
        let root = &self.view.roots[task.root];
        let (name, from, floor, blocks) = (root.name.clone(), root.from, root.floor, root.blocks);
        let height = task.height - 1;
        for index in 0..FANOUT {
            let pointer = node::get(bytes, index);
            let base = task.base + index as u64 * span(height);
            let foreign = floor.is_some_and(|f| pointer.birth() <= f);
            if pointer.is_hole() || base.saturating_add(span(height)) <= from || foreign {
                continue;
            }
            if base >= blocks {
                self.problem(format!("{name}: something is stored at block {base}, behind the end ({blocks} blocks)"));
            }
            if height > 0 {
                list.push(Task { pointer, height, base, root: task.root });
            } else if self.mark(pointer, &name) {
                self.report.data_blocks += 1;
                if let (true, Place::Data(block)) = (self.read_data, pointer.place()) {
                    self.data.push((block.0, pointer.crc(), format!("{name} at offset {}", base * BLOCK)));
                }
            }
        }
    }

    /// Reads and verifies queued data: all of it, or only when much is queued.
    async fn read_queued(&mut self, all: bool) -> Result<()> {
        if !self.read_data || self.data.is_empty() || !all && self.data.len() < 4096 {
            return Ok(());
        }
        let mut data = std::mem::take(&mut self.data);
        data.sort_unstable_by_key(|d| d.0);
        let mut runs: VecDeque<(usize, usize)> = VecDeque::new();
        for i in 0..data.len() {
            match runs.back_mut() {
                Some((start, len)) if data[*start].0 + *len as u64 == data[i].0 && (*len as u64) < RUN => *len += 1,
                _ => runs.push_back((i, 1)),
            }
        }
        while !runs.is_empty() {
            self.may_go_on()?;
            let batch: Vec<_> = runs.drain(..runs.len().min(DEPTH)).collect();
            let reads: Vec<_> = batch
                .into_iter()
                .map(|(start, len)| {
                    let op = Op::Read { offset: data[start].0 * BLOCK, buf: IoBuf::with_len(len * BLOCK_SIZE) };
                    (start, len, self.core.reactor.submit(op))
                })
                .collect();
            for (start, len, read) in reads {
                let done = read.await;
                let Op::Read { buf, .. } = done.op else { continue };
                self.verify_run(&data[start..start + len], &buf, done.result);
            }
        }
        Ok(())
    }

    fn verify_run(&mut self, data: &[(u64, u32, String)], buf: &IoBuf, result: std::io::Result<usize>) {
        if let Err(e) = result {
            let (block, _, what) = &data[0];
            self.problem(format!("{what}: {} physical blocks from {block} on cannot be read: {e}", data.len()));
            return;
        }
        for ((block, crc, what), bytes) in data.iter().zip(buf.chunks_exact(BLOCK_SIZE)) {
            self.report.data_verified += 1;
            if crc32fast::hash(bytes) != *crc {
                self.core.corruption(&format!("{what}: physical block {block} fails its checksum"));
                self.problem(format!("{what}: physical block {block} fails its checksum"));
            }
        }
    }

    /// What the map holds and no version refers to.
    fn compare(&mut self) {
        let mut leaked = 0;
        let mut examples = Vec::new();
        let seen = &self.seen;
        self.view.reach.for_runs(|run| {
            for block in run.start..run.end() {
                if !seen.contains(block) {
                    leaked += 1;
                    if examples.len() < 5 {
                        examples.push(block);
                    }
                }
            }
        });
        self.report.leaked_blocks = leaked;
        // Behind a damaged node nothing can be reached: only an undamaged pool can be said to leak.
        if leaked > 0 && self.report.problems.is_empty() {
            self.problem(format!(
                "{leaked} blocks are in use but nothing refers to them (physical blocks {examples:?} …)"
            ));
        }
    }
}
