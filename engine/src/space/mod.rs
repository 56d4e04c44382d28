//! Space: which blocks are in use, which may be handed out, and when a released block may be handed out again.
//!
//! A block goes through these states:
//!
//! ```text
//! free --reserve--> reserved --acquire--> in use --release--> releasing --(commits or checkpoint, reads over)--> free
//!                      \---forfeit---------------------------------------------------------------------------> free
//! ```
//!
//! Invariants:
//! - `taken` is set for every block that is not free; `reach` for exactly those in use.
//! - A released data block becomes free when two further journal groups are committed (the group that released it, so that
//!   replay never needs its old content, and one more, so that the *last* group of a journal can always be verified against
//!   the data that it names) and no read that began before is in flight.
//! - A released node becomes free when a checkpoint that no longer refers to it is durable.
//! - Blocks are handed out only from *backed* segments (4 MiB), for which the file system has set room aside.

pub(crate) mod bitmap;
mod growing;
pub(crate) mod reach;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};

use bitmap::{Bitmap, Run};
use reach::Reach;

use crate::sabotage::{Sabotage, broken};

/// Blocks in a segment, the unit of growth and of giving back: 4 MiB.
pub(crate) const SEGMENT: u64 = 1024;
/// Longest run handed out at once.
const LONGEST_RUN: u64 = 4096;

/// Who asks for blocks, and how deep into the reserve they may go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    /// New data: leaves the reserve alone.
    Data,
    /// Data that was acknowledged, whose blocks are kept back for it.
    Backlog,
    /// Data that replaces data owned by the same volume: may use half of the reserve, since as much comes free.
    Overwrite,
    /// Nodes and tables of a checkpoint: may use everything.
    Metadata,
}

/// Why no blocks could be handed out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shortage {
    /// Room must be set aside in the file first.
    Unbacked,
    /// Blocks are on their way to being free: commit or checkpoint, then ask again.
    Releasing,
    /// The pool is full.
    Full,
}

/// Blocks released while one journal group was open.
#[derive(Default)]
struct Released {
    /// The group that holds the records.
    group: u64,
    /// The read era that was current when the group was sealed.
    era: u64,
    runs: Vec<Run>,
}

pub(crate) struct Space {
    taken: Bitmap,
    pub(crate) reach: Reach,
    data_start: u64,
    data_end: u64,
    cursor: u64,
    /// The free run ahead of the cursor that is being handed out.
    current: Run,
    /// What the bitmap's `came_free` was when no long run was found in all that is backed. Until that changes, or what is backed does, none
    /// is looked for: where only short ones are left there may be a search for each block.
    without_long: Option<u64>,
    backed: Vec<bool>,
    /// How many segments are backed.
    backed_count: u64,
    /// Free blocks in backed segments.
    backed_free: u64,
    /// Segments whose room is being given back: taken, and not to be backed before that is done.
    leaving: BTreeSet<u64>,
    /// Segments whose room the file system refused: not asked for again for a while.
    refused: BTreeSet<u64>,
    /// The file system refused the last segment that it was asked for.
    refusing: bool,
    reserve: u64,
    /// Dirty nodes in memory: each will need a block at the next checkpoint.
    promised: u64,
    /// Nodes that writes under way will dirty at most.
    expected: u64,
    /// What writes that were acknowledged will need: blocks, and nodes that they will dirty at most.
    kept: u64,
    open: Vec<Run>,
    sealed: VecDeque<Released>,
    nodes_open: Vec<Run>,
    nodes_frozen: Vec<Run>,
    releasing: u64,
    /// Blocks handed out and not yet in use.
    reserved: u64,
    last_committed: u64,
    eras: VecDeque<(u64, u64)>,
    thin: bool,
    /// What the scrub under way has read, and need not read again: blocks that are handed out anew are no longer among it.
    pub(crate) scrubbed: Option<Reach>,
    /// The journal is being replayed: data that it releases is free at once, since its record is committed.
    replaying: bool,
}

impl Space {
    /// The space of a pool whose allocatable blocks are `data_start..data_end`, with `reach` in use. `thin`: the pool is a file that
    /// grows as it is used.
    pub(crate) fn new(total: u64, data_start: u64, data_end: u64, reach: Reach, thin: bool) -> Self {
        let mut taken = Bitmap::new(total, data_start..data_end);
        let mut backed = vec![!thin; total.div_ceil(SEGMENT) as usize];
        reach.for_runs(|run| {
            let _changed = taken.set(run);
            // A segment is given back only when all of it is free: one with a block in use still has its room.
            for segment in run.start / SEGMENT..=(run.end() - 1) / SEGMENT {
                backed[segment as usize] = true;
            }
        });
        let blocks = data_end - data_start;
        let mut this = Self {
            taken,
            reach,
            data_start,
            data_end,
            cursor: data_start,
            current: Run { start: data_start, len: 0 },
            without_long: None,
            backed,
            backed_count: 0,
            backed_free: 0,
            leaving: BTreeSet::new(),
            refused: BTreeSet::new(),
            refusing: false,
            reserve: (blocks / 64).clamp(blocks.min(256), 65_536),
            promised: 0,
            expected: 0,
            kept: 0,
            open: Vec::new(),
            sealed: VecDeque::new(),
            nodes_open: Vec::new(),
            nodes_frozen: Vec::new(),
            releasing: 0,
            reserved: 0,
            last_committed: 0,
            eras: VecDeque::from([(0, 0)]),
            thin,
            scrubbed: None,
            replaying: false,
        };
        this.count_backed();
        this
    }

    // ---- what there is ----

    pub(crate) fn capacity(&self) -> u64 {
        self.data_end - self.data_start
    }

    pub(crate) fn free(&self) -> u64 {
        self.taken.free()
    }

    pub(crate) fn reserve(&self) -> u64 {
        self.reserve
    }

    pub(crate) fn releasing(&self) -> u64 {
        self.releasing
    }

    /// Blocks handed out and not yet in use.
    pub(crate) fn reserved(&self) -> u64 {
        self.reserved
    }

    pub(crate) fn is_allocatable(&self, block: u64) -> bool {
        (self.data_start..self.data_end).contains(&block)
    }

    /// Tells how many dirty nodes wait for the next checkpoint.
    pub(crate) fn set_promised(&mut self, nodes: u64) {
        self.promised = nodes;
    }

    fn floor(&self, purpose: Purpose) -> u64 {
        match purpose {
            Purpose::Data if broken(Sabotage::NoReserve) => 0,
            Purpose::Data => self.promised + self.expected + self.kept + self.reserve,
            Purpose::Overwrite => self.promised + self.expected + self.kept + self.reserve / 2,
            Purpose::Backlog => self.promised + self.expected,
            Purpose::Metadata => 0,
        }
    }

    /// Whether plain writes are at the point where only overwrites may go on: in the pool, or since the file system refuses more room.
    pub(crate) fn is_tight(&self, blocks: u64) -> bool {
        let free = if self.refusing { self.backed_free } else { self.free() };
        free < self.floor(Purpose::Data) + blocks
    }

    // ---- reserving ----

    /// Blocks that may be handed out now.
    pub(crate) fn room(&self, purpose: Purpose) -> u64 {
        // What is kept back has its room in the file already: a full file system must not find a checkpoint without blocks.
        self.backed_free.saturating_sub(self.floor(purpose))
    }

    /// Why there is no room.
    pub(crate) fn shortage(&self) -> Shortage {
        match self.next_unbacked() {
            Some(_) => Shortage::Unbacked,
            // What is kept back is more than will be needed, and the rest comes free within moments.
            None if self.releasing + self.reserved + self.kept > 0 || !self.leaving.is_empty() => Shortage::Releasing,
            None => Shortage::Full,
        }
    }

    /// Writes that got their blocks will dirty so many nodes; hand the number back to [`Space::expect_no_more`].
    pub(crate) fn expect_nodes(&mut self, nodes: u64) {
        self.expected += nodes;
    }

    /// These nodes are dirty now, or will not be.
    pub(crate) fn expect_no_more(&mut self, nodes: u64) {
        self.expected -= nodes;
    }

    /// Keeps blocks back for a write that is about to be acknowledged, if there are so many beside the reserve. They are handed out for
    /// [`Purpose::Backlog`], and handed back to [`Space::let_go`] as they are.
    pub(crate) fn try_keep_back(&mut self, blocks: u64) -> bool {
        let there = self.room(Purpose::Data) >= blocks;
        if there {
            self.kept += blocks;
        }
        there
    }

    /// Blocks that were handed out for an acknowledged write were not used, and are kept back again.
    pub(crate) fn keep_back(&mut self, blocks: u64) {
        self.kept += blocks;
    }

    /// These are no longer kept back.
    pub(crate) fn let_go(&mut self, blocks: u64) {
        debug_assert!(blocks <= self.kept, "more is let go of than was kept back");
        self.kept = self.kept.saturating_sub(blocks);
    }

    /// Hands out one run of 1 to `want` blocks ahead of the cursor.
    pub(crate) fn reserve_run(&mut self, want: u64, purpose: Purpose) -> Result<Run, Shortage> {
        let room = self.room(purpose);
        if room == 0 {
            return Err(self.shortage());
        }
        if self.current.len == 0 || !self.taken.all_clear(Run { start: self.current.start, len: 1 }) {
            self.current = self.next_run()?;
        }
        let run = Run { start: self.current.start, len: want.min(room).min(self.current.len) };
        self.current = Run { start: run.end(), len: self.current.len - run.len };
        self.cursor = run.end();
        let fresh = self.taken.set(run);
        debug_assert_eq!(fresh, run.len, "handed out twice");
        self.backed_free -= run.len;
        self.reserved += run.len;
        if let Some(scrubbed) = &mut self.scrubbed {
            let _read = scrubbed.remove(run);
        }
        Ok(run)
    }

    /// Long free runs first: ahead in backed segments, then (if much of what is backed is in use) by growing, then behind; single
    /// blocks last. Once the file system has refused a segment, all that is backed goes before asking for another one.
    fn next_run(&mut self) -> Result<Run, Shortage> {
        let came_free = self.taken.came_free();
        let searches = self.without_long != Some(came_free);
        if searches && let Some(run) = self.find_backed_long(self.cursor, self.data_end) {
            return Ok(run);
        }
        let unbacked = self.next_unbacked().is_some();
        let much_free = self.backed_free * 4 >= self.backed_count * SEGMENT && self.backed_free > 4 * SEGMENT;
        let grows = unbacked && self.refused.is_empty();
        if grows && !much_free {
            return Err(Shortage::Unbacked);
        }
        if searches && let Some(run) = self.find_backed_long(self.data_start, self.data_end) {
            return Ok(run);
        }
        self.without_long = Some(came_free);
        if grows {
            return Err(Shortage::Unbacked);
        }
        let coming = self.releasing > 0 || !self.leaving.is_empty();
        self.find_backed_any().ok_or(match (unbacked, coming) {
            (true, _) => Shortage::Unbacked,
            (false, true) => Shortage::Releasing,
            (false, false) => Shortage::Full,
        })
    }

    /// Whether what is written next finds long free runs for so many blocks, or will when the file has grown.
    pub(crate) fn has_long_runs(&self, blocks: u64) -> bool {
        if self.refused.is_empty() && self.next_unbacked().is_some() {
            return true;
        }
        let (mut at, mut there) = (self.data_start, 0);
        while there < blocks
            && let Some(run) = self.find_backed_long(at, self.data_end)
        {
            there += run.len;
            at = run.end();
        }
        there >= blocks
    }

    fn find_backed_long(&self, from: u64, to: u64) -> Option<Run> {
        let mut at = from;
        while let Some(run) = self.taken.find_long(at, to, LONGEST_RUN) {
            let mut len = 0;
            while len < run.len && self.backed[((run.start + len) / SEGMENT) as usize] {
                len = ((run.start + len) / SEGMENT + 1) * SEGMENT - run.start;
            }
            if len > 0 {
                return Some(Run { start: run.start, len: len.min(run.len) });
            }
            at = (run.start / SEGMENT + 1) * SEGMENT;
        }
        None
    }

    fn find_backed_any(&self) -> Option<Run> {
        for (from, to) in [(self.cursor, self.data_end), (self.data_start, self.cursor)] {
            let mut at = from;
            while let Some(run) = self.taken.find_any(at, to) {
                if self.backed[(run.start / SEGMENT) as usize] {
                    return Some(run);
                }
                at = (run.start / SEGMENT + 1) * SEGMENT;
            }
        }
        None
    }

    /// Counts anew what the other changes keep count of.
    fn count_backed(&mut self) {
        let backed = (0..self.backed.len() as u64).filter(|&s| self.backed[s as usize]);
        let (segments, free) = backed.fold((0, 0), |(n, free), segment| (n + 1, free + self.free_in(segment)));
        (self.backed_count, self.backed_free) = (segments, free);
        self.without_long = None;
    }

    /// Free blocks in a segment.
    fn free_in(&self, segment: u64) -> u64 {
        let part = self.allocatable_in(segment);
        let (mut at, mut free) = (part.start, 0);
        while let Some(run) = self.taken.find_any(at, part.end()) {
            free += run.len;
            at = run.end();
        }
        free
    }

    // ---- scrubs ----

    /// The scrub under way has read this block; a node, only when everything under it was read.
    pub(crate) fn note_scrubbed(&mut self, block: u64) {
        if self.is_allocatable(block)
            && let Some(scrubbed) = &mut self.scrubbed
        {
            let _new = scrubbed.add(Run { start: block, len: 1 });
        }
    }

    pub(crate) fn was_scrubbed(&self, block: u64) -> bool {
        self.scrubbed.as_ref().is_some_and(|scrubbed| scrubbed.contains(block))
    }

    // ---- the life of blocks ----

    /// Reserved blocks are in use from now on.
    pub(crate) fn acquire(&mut self, run: Run) {
        let fresh = self.reach.add(run);
        debug_assert_eq!(fresh, run.len, "acquired twice");
        self.reserved -= run.len;
    }

    /// Blocks named by a replayed record or a checkpoint are in use; says whether they were free.
    pub(crate) fn acquire_exact(&mut self, run: Run) -> bool {
        let inside = self.is_allocatable(run.start) && run.end() <= self.data_end;
        if !inside {
            return false;
        }
        let _fresh = self.taken.set(run);
        for segment in run.start / SEGMENT..=(run.end() - 1) / SEGMENT {
            self.backed[segment as usize] = true;
        }
        self.reach.add(run) == run.len
    }

    /// Blocks that versions refer to and that count as free (or as on their way there) are in use, as a repair has found.
    pub(crate) fn claim(&mut self, runs: &[Run]) {
        // What was to be handed out next may hold some of them.
        self.current.len = 0;
        for block in runs.iter().flat_map(|run| run.start..run.end()) {
            let one = Run { start: block, len: 1 };
            if !self.is_allocatable(block) || self.reach.add(one) == 0 {
                continue;
            }
            if self.taken.set(one) == 0 && self.forget_release(block) {
                self.releasing -= 1;
            }
            self.backed[(block / SEGMENT) as usize] = true;
        }
        self.count_backed();
    }

    /// Takes a block out of the lists of what is being released.
    fn forget_release(&mut self, block: u64) -> bool {
        let sealed = self.sealed.iter_mut().map(|batch| &mut batch.runs);
        sealed
            .chain([&mut self.open, &mut self.nodes_open, &mut self.nodes_frozen])
            .any(|runs| remove_from_runs(runs, block))
    }

    /// Reserved blocks were not used after all.
    pub(crate) fn forfeit(&mut self, run: Run) {
        self.backed_free += self.taken.clear(run);
        // Runs in destructors too: a second panic there would take the whole process along.
        self.reserved = self.reserved.saturating_sub(run.len);
    }

    /// The journal is (or is no longer) being replayed. What it has freed may have been given back to the file system before the crash: only
    /// a segment with a block in use is sure to have its room.
    pub(crate) fn set_replaying(&mut self, on: bool) {
        self.replaying = on;
        if self.thin && !on {
            for segment in 0..self.backed.len() as u64 {
                self.backed[segment as usize] = !self.taken.all_clear(self.allocatable_in(segment));
            }
        }
        self.count_backed();
    }

    /// The part of a segment that can be handed out.
    fn allocatable_in(&self, segment: u64) -> Run {
        let start = (segment * SEGMENT).max(self.data_start);
        let end = ((segment + 1) * SEGMENT).min(self.data_end);
        Run { start: start.min(end), len: end.saturating_sub(start) }
    }

    /// Whether fewer than `blocks` are there beside what checkpoints need, with their room in the file.
    pub(crate) fn is_short_of(&self, blocks: u64) -> bool {
        self.backed_free < self.promised + self.expected + self.kept + blocks
    }

    /// A data block is no longer in use; its record belongs to the open group.
    pub(crate) fn release_data(&mut self, block: u64) {
        if !self.leave(block) {
            return;
        }
        if self.replaying || broken(Sabotage::FreeDataEarly) {
            let _freed = self.taken.clear(Run { start: block, len: 1 });
            return;
        }
        self.releasing += 1;
        push_run(&mut self.open, block);
    }

    /// A node is no longer in use; the next checkpoint will not refer to it.
    pub(crate) fn release_node(&mut self, block: u64) {
        if broken(Sabotage::FreeNodesEarly) {
            return self.release_data(block);
        }
        if self.leave(block) {
            self.releasing += 1;
            push_run(&mut self.nodes_open, block);
        }
    }

    /// A metadata block that the running checkpoint replaces: it is free once that checkpoint is durable.
    pub(crate) fn release_frozen(&mut self, block: u64) {
        if self.leave(block) {
            self.releasing += 1;
            push_run(&mut self.nodes_frozen, block);
        }
    }

    /// Takes a block out of use. A block that is not in use is left alone: on a damaged pool, freeing too little is the safe mistake.
    fn leave(&mut self, block: u64) -> bool {
        let gone = self.is_allocatable(block) && self.reach.remove(Run { start: block, len: 1 }) == 1;
        debug_assert!(gone, "block {block} is released twice");
        gone
    }

    /// The open group was sealed with number `group`.
    pub(crate) fn seal(&mut self, group: u64) {
        let runs = std::mem::take(&mut self.open);
        let era = self.next_era();
        if !runs.is_empty() {
            self.sealed.push_back(Released { group, era, runs });
        }
    }

    /// All groups up to `group` are committed: what was released two groups ago may become free.
    pub(crate) fn committed(&mut self, group: u64) {
        self.last_committed = group;
        let oldest_read = if broken(Sabotage::IgnoreReads) { u64::MAX } else { self.oldest_read() };
        while let Some(front) = self.sealed.front() {
            let held = if broken(Sabotage::FreeDataOneGroupEarly) { front.group > group } else { front.group >= group };
            if held || front.era >= oldest_read {
                break;
            }
            let Some(batch) = self.sealed.pop_front() else { break };
            for run in batch.runs {
                self.free_run(run);
            }
        }
    }

    /// Whether released blocks wait only for commits and reads.
    pub(crate) fn has_sealed(&self) -> bool {
        !self.sealed.is_empty() || !self.open.is_empty()
    }

    /// A checkpoint begins: node releases from here on belong to the next one.
    pub(crate) fn freeze(&mut self) {
        debug_assert!(self.nodes_frozen.is_empty());
        self.nodes_frozen = std::mem::take(&mut self.nodes_open);
    }

    /// The checkpoint is durable: what only its predecessor referred to needs no further commit, but reads may still be under way.
    pub(crate) fn checkpointed(&mut self) {
        let runs = std::mem::take(&mut self.nodes_frozen);
        let era = self.next_era();
        self.sealed.push_back(Released { group: 0, era, runs });
        self.committed(self.last_committed);
    }

    fn free_run(&mut self, run: Run) {
        let freed = self.taken.clear(run);
        debug_assert_eq!(freed, run.len, "freed twice");
        self.releasing -= freed;
        self.backed_free += freed;
    }

    // ---- reads in flight ----

    /// A read begins; hand the era back to [`Space::end_read`].
    pub(crate) fn begin_read(&mut self) -> u64 {
        match self.eras.back_mut() {
            Some((era, reads)) => {
                *reads += 1;
                *era
            }
            None => 0,
        }
    }

    pub(crate) fn end_read(&mut self, era: u64) {
        if let Ok(at) = self.eras.binary_search_by_key(&era, |(e, _)| *e) {
            self.eras[at].1 -= 1;
        }
        while self.eras.len() > 1 && self.eras.front().is_some_and(|(_, reads)| *reads == 0) {
            let _over = self.eras.pop_front();
        }
    }

    fn next_era(&mut self) -> u64 {
        let era = self.eras.back().map_or(0, |(e, _)| *e);
        self.eras.push_back((era + 1, 0));
        while self.eras.len() > 1 && self.eras.front().is_some_and(|(_, reads)| *reads == 0) {
            let _over = self.eras.pop_front();
        }
        era
    }

    /// The oldest era with a read in flight, or the current one.
    fn oldest_read(&self) -> u64 {
        self.eras.iter().find(|(_, reads)| *reads > 0).or(self.eras.back()).map_or(0, |(e, _)| *e)
    }
}

/// Takes a block out of a list of runs; says whether it was there.
fn remove_from_runs(runs: &mut Vec<Run>, block: u64) -> bool {
    let Some(at) = runs.iter().position(|run| (run.start..run.end()).contains(&block)) else { return false };
    let run = runs[at];
    let parts =
        [Run { start: run.start, len: block - run.start }, Run { start: block + 1, len: run.end() - block - 1 }];
    let _taken = runs.splice(at..=at, parts.into_iter().filter(|part| part.len > 0));
    true
}

/// Adds a block to a list of runs, joining it with the last one where they touch.
fn push_run(runs: &mut Vec<Run>, block: u64) {
    match runs.last_mut() {
        Some(last) if last.end() == block => last.len += 1,
        _ => runs.push(Run { start: block, len: 1 }),
    }
}
