//! Gathering: the blocks that arrive in one turn of the reactor leave as few large vectored writes, straight from the callers' buffers, to
//! neighbouring blocks ahead of the cursor.
//!
//! What is written at a time is about half of what is usually under way, so that the device has work while the answers to the other half are
//! worked on and what they bring is gathered.

use std::{cell::RefCell, collections::VecDeque, rc::Rc};

use crate::{
    core::Core,
    error::{Error, Result, no_space},
    reactor::notify::{Receiver, Sender, channel},
    sabotage::{Sabotage, broken},
    space::{Purpose, Shortage, Space, bitmap::Run},
    storage::{MAX_PARTS, Part},
    units::{BLOCK, BLOCK_SIZE},
};

/// Gathered writes under way at once; more would only make each of them smaller.
const DEPTH: usize = 8;
/// Longest gathered write, in blocks: 1 MiB.
const LONGEST: u64 = 256;
/// Pieces that a gathered write comes in at most, where what is free is in pieces.
const PIECES: usize = 64;
/// Fewer blocks than these never leave before the turn ends.
const SHORTEST: u64 = 8;

/// What of one caller's blocks has no place yet.
struct Item {
    part: Part,
    purpose: Purpose,
    /// Nodes that it will dirty at most, as long as they are not counted.
    nodes: u64,
    waiting: Rc<RefCell<Waiting>>,
}

/// Where a caller's blocks went (reserved, written, not yet in use), or why not.
type Outcome = Result<Reserved, Failure>;

/// Written blocks that no tree refers to yet; those that are still here when it is dropped are forfeited, whoever drops it.
pub(crate) struct Reserved {
    core: Rc<Core>,
    pub(crate) runs: Vec<Run>,
    /// Nodes that are counted for these blocks until they are in use.
    nodes: u64,
    /// They were kept back for an acknowledged write, and are kept back again when they are not used.
    kept: bool,
}

impl Reserved {
    /// Nothing.
    pub(crate) fn new(core: &Rc<Core>) -> Self {
        Self { core: core.clone(), runs: Vec::new(), nodes: 0, kept: false }
    }

    /// All of them are in use now.
    pub(crate) fn used(mut self) {
        self.runs.clear();
        self.kept = false;
    }

    /// The first `n` blocks are in use now.
    pub(crate) fn advance(&mut self, n: u64) {
        if let Some(first) = self.runs.first_mut() {
            *first = Run { start: first.start + n, len: first.len - n };
            if first.len == 0 {
                let _done = self.runs.remove(0);
            }
        }
    }

    /// The first `n` blocks, of the first run, are not wanted.
    pub(crate) fn give_up(&mut self, n: u64) {
        if let Some(first) = self.runs.first() {
            self.core.state.borrow_mut().space.forfeit(Run { start: first.start, len: n });
            self.advance(n);
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let mut state = self.core.state.borrow_mut();
        state.space.expect_no_more(self.nodes);
        if self.kept {
            state.space.keep_back(self.nodes);
        }
        for run in self.runs.drain(..) {
            state.space.forfeit(run);
            if self.kept {
                state.space.keep_back(run.len);
            }
        }
    }
}

#[derive(Debug)]
enum Failure {
    Shortage(Shortage),
    Io(Error),
}

/// One caller, shared by the writes that its blocks were split over.
struct Waiting {
    runs: Vec<Run>,
    /// Nodes that are counted for it.
    nodes: u64,
    kept: bool,
    failure: Option<Failure>,
    /// Writes under way, plus one while a rest is queued.
    outstanding: usize,
    reply: Option<Sender<Outcome>>,
}

#[derive(Default)]
pub(crate) struct Gather {
    queue: VecDeque<Item>,
    in_flight: usize,
    /// Blocks that came and have not been written yet.
    blocks: u64,
    /// Of them, those that came since writes were sent.
    arrived: u64,
    /// Whether any came in this turn.
    came: bool,
    /// What `blocks` usually is when a turn ends in which some came.
    usual: u64,
}

impl Gather {
    /// Whether those that came are to leave without waiting for the turn's end.
    fn is_enough(&self) -> bool {
        self.arrived >= (self.usual / 2).clamp(SHORTEST, LONGEST) && self.in_flight < DEPTH
    }

    fn take(&mut self, item: Item) {
        let blocks = blocks_of(&item.part);
        self.blocks += blocks;
        self.arrived += blocks;
        self.came = true;
        self.queue.push_back(item);
    }

    fn turn_ends(&mut self) {
        if std::mem::take(&mut self.came) {
            self.usual = (self.usual * 7 + self.blocks).div_ceil(8);
        }
    }
}

/// A gathered write under way, held by each of its pieces.
struct Flight(Rc<Core>);

impl Flight {
    fn begin(core: &Rc<Core>) -> Rc<Self> {
        core.gather.borrow_mut().in_flight += 1;
        Rc::new(Self(core.clone()))
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.0.gather.borrow_mut().in_flight -= 1;
    }
}

/// A gathered write, or a piece of one: what goes to neighbouring blocks.
struct Batch {
    run: Run,
    parts: Vec<Part>,
    callers: Vec<Rc<RefCell<Waiting>>>,
}

/// Takes items from the queue until `run` is full or the queue is empty. An item that is only partly placed keeps its rest at the front.
/// Its nodes are counted with its first blocks.
fn fill(queue: &mut VecDeque<Item>, run: Run, space: &mut Space) -> Batch {
    let mut batch = Batch { run: Run { start: run.start, len: 0 }, parts: Vec::new(), callers: Vec::new() };
    while batch.run.len < run.len && batch.parts.len() < MAX_PARTS {
        let Some(mut item) = queue.pop_front() else { break };
        let bytes = item.part.range.len().min(((run.len - batch.run.len) * BLOCK) as usize);
        let placed = Run { start: batch.run.end(), len: (bytes / BLOCK_SIZE) as u64 };
        let start = item.part.range.start;
        batch.parts.push(Part { buf: item.part.buf.clone(), range: start..start + bytes });
        batch.run.len += placed.len;
        batch.callers.push(item.waiting.clone());
        item.part.range.start += bytes;
        let mut waiting = item.waiting.borrow_mut();
        let nodes = std::mem::take(&mut item.nodes);
        space.expect_nodes(nodes);
        if item.purpose == Purpose::Backlog {
            space.let_go(placed.len + nodes);
        }
        waiting.nodes += nodes;
        waiting.runs.push(placed);
        if item.part.range.is_empty() {
            // What stood for the queued rest now stands for this write.
            continue;
        }
        waiting.outstanding += 1;
        drop(waiting);
        queue.push_front(item);
    }
    batch
}

/// Blocks that the first items of the queue need, up to `limit`, as far as there is room for them and for the nodes that they will dirty.
fn wanted(queue: &VecDeque<Item>, purpose: Purpose, room: u64, limit: u64) -> u64 {
    let (mut blocks, mut nodes) = (0, 0);
    for item in queue.iter().take(MAX_PARTS).take_while(|i| i.purpose == purpose) {
        nodes += item.nodes;
        let left = room.saturating_sub(blocks + nodes);
        let need = blocks_of(&item.part);
        blocks += need.min(left);
        if left < need || blocks >= limit {
            break;
        }
    }
    blocks.min(limit)
}

fn blocks_of(part: &Part) -> u64 {
    (part.range.len() / BLOCK_SIZE) as u64
}

/// A write that has begun.
pub(crate) struct Writing {
    part: Part,
    purpose: Purpose,
    nodes: u64,
    outcome: Receiver<Outcome>,
}

impl Writing {
    /// Waits for its end; what finds no room makes some, and begins anew.
    pub(crate) async fn finish(mut self, core: &Rc<Core>) -> Result<Reserved> {
        let mut attempts = 0;
        loop {
            match self.outcome.await {
                Ok(reserved) => return Ok(reserved),
                Err(Failure::Io(error)) => return Err(error),
                Err(Failure::Shortage(shortage)) => {
                    attempts += 1;
                    if !core.make_room(shortage, self.purpose, attempts).await? {
                        return Err(core.full());
                    }
                    self = core.begin_write(self.part, self.purpose, self.nodes);
                }
            }
        }
    }

    /// Waits for its end, for those who must not wait for room: what finds none is told why.
    pub(crate) async fn once(self) -> Result<Result<Reserved, Shortage>> {
        match self.outcome.await {
            Ok(reserved) => Ok(Ok(reserved)),
            Err(Failure::Shortage(shortage)) => Ok(Err(shortage)),
            Err(Failure::Io(error)) => Err(error),
        }
    }

    /// Waits for its end and gives up what was written.
    pub(crate) async fn give_up(self) {
        drop(self.outcome.await);
    }
}

impl Core {
    /// Writes `part` (whole blocks) to newly reserved blocks and says which. The caller acquires or forfeits them.
    /// `nodes` is how many nodes that will dirty at most: until then the next checkpoint's blocks are kept back.
    pub(crate) async fn write_new(self: &Rc<Self>, part: Part, purpose: Purpose, nodes: u64) -> Result<Reserved> {
        self.begin_write(part, purpose, nodes).finish(self).await
    }

    /// The same in two steps: it leaves with this turn at the latest, and its end is looked at later.
    pub(crate) fn begin_write(self: &Rc<Self>, part: Part, purpose: Purpose, nodes: u64) -> Writing {
        let (reply, outcome) = channel();
        let kept = purpose == Purpose::Backlog;
        let waiting = Waiting { runs: Vec::new(), nodes: 0, kept, failure: None, outstanding: 1, reply: Some(reply) };
        let waiting = Rc::new(RefCell::new(waiting));
        let mut gather = self.gather.borrow_mut();
        gather.take(Item { part: part.clone(), purpose, nodes, waiting });
        let enough = gather.is_enough();
        drop(gather);
        if enough {
            self.send_gathered();
            self.reactor.hand_over();
        }
        Writing { part, purpose, nodes, outcome }
    }

    pub(crate) fn full(&self) -> Error {
        let state = self.state.borrow();
        no_space(format!(
            "pool {} is full ({} blocks of 4 KiB free, {} of them kept back for deletions and overwrites): delete snapshots or volumes, \
             discard, or use a larger pool",
            self.path.display(),
            state.space.free(),
            state.space.reserve()
        ))
    }

    /// The end of a turn: what was gathered leaves.
    pub(crate) fn turn_ends(self: &Rc<Self>) {
        self.gather.borrow_mut().turn_ends();
        if !self.gather.borrow().queue.is_empty() {
            self.send_gathered();
        }
    }

    fn send_gathered(self: &Rc<Self>) {
        self.gather.borrow_mut().arrived = 0;
        self.update_promise();
        while self.gather.borrow().in_flight < DEPTH && self.send_one() {}
        let wants = self.state.borrow().space.wants_backing(8192);
        if wants && !self.growing.get() {
            let core = self.clone();
            self.reactor.spawn(async move { core.grow().await }).detach();
        }
    }

    /// Sends what is first in the queue as one gathered write. Where no free run is long enough it comes in pieces: they are under way at
    /// once, as what the device is given then is no larger for waiting. Says whether there was any.
    fn send_one(self: &Rc<Self>) -> bool {
        let flight = Flight::begin(self);
        let mut left = LONGEST;
        // Where they would come one after the other all the same, others are to go in between.
        let pieces = if self.reactor.storage_overlaps() { PIECES } else { 1 };
        for _ in 0..pieces {
            let Some(Batch { run, parts, callers }) = self.next_batch(left) else { break };
            left -= run.len;
            // Before the task runs: that is in a later round of the turn.
            let writing = self.begin_parts(run.start * BLOCK, parts);
            let (core, flight) = (self.clone(), flight.clone());
            let ended = async move { core.end_batch(flight, run, &callers, core.finish_parts(writing).await) };
            self.reactor.spawn(ended).detach();
            if left == 0 {
                break;
            }
        }
        left < LONGEST
    }

    /// Reserves a run of at most `limit` blocks for what is first in the queue and fills it.
    fn next_batch(self: &Rc<Self>, limit: u64) -> Option<Batch> {
        loop {
            let mut gather = self.gather.borrow_mut();
            let purpose = gather.queue.front()?.purpose;
            let mut state = self.state.borrow_mut();
            let want = wanted(&gather.queue, purpose, state.space.room(purpose), limit);
            let reserved = if want == 0 { Err(state.space.shortage()) } else { state.space.reserve_run(want, purpose) };
            match reserved {
                Ok(run) => {
                    let batch = fill(&mut gather.queue, run, &mut state.space);
                    let unused = Run { start: batch.run.end(), len: run.len - batch.run.len };
                    if unused.len > 0 {
                        state.space.forfeit(unused);
                    }
                    return Some(batch);
                }
                Err(shortage) => {
                    let item = gather.queue.pop_front()?;
                    gather.blocks -= blocks_of(&item.part);
                    drop((gather, state));
                    self.finish(&item.waiting, Some(Failure::Shortage(shortage)));
                }
            }
        }
    }

    fn end_batch(
        self: &Rc<Self>,
        flight: Rc<Flight>,
        run: Run,
        callers: &[Rc<RefCell<Waiting>>],
        result: std::io::Result<()>,
    ) {
        drop(flight);
        self.gather.borrow_mut().blocks -= run.len;
        let error = result
            .err()
            .filter(|_| !broken(Sabotage::AckFailedWrite))
            .map(|e| Error::io(format!("cannot write data at block {}", run.start), e));
        for caller in callers {
            self.finish(caller, error.clone().map(Failure::Io));
        }
    }

    /// One of a caller's writes (or its queued rest) has ended; the last one answers.
    fn finish(self: &Rc<Self>, caller: &Rc<RefCell<Waiting>>, failure: Option<Failure>) {
        let mut waiting = caller.borrow_mut();
        waiting.outstanding -= 1;
        if waiting.failure.is_none() {
            waiting.failure = failure;
        }
        if waiting.outstanding > 0 {
            return;
        }
        let Some(reply) = waiting.reply.take() else { return };
        let reserved = Reserved {
            core: self.clone(),
            runs: std::mem::take(&mut waiting.runs),
            nodes: std::mem::take(&mut waiting.nodes),
            kept: waiting.kept,
        };
        reply.send(match waiting.failure.take() {
            None => Ok(reserved),
            Some(failure) => Err(failure),
        });
    }
}
