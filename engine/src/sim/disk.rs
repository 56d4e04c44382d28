//! The simulated disk: operations with latency, reordering and faults, all from one seed.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    io,
    ops::Range,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use super::{
    damage::{Damage, Layout},
    media::{Block, Event, Image, Media, Recording, Survivors, Unsynced},
    rng::{Rng, mix},
};
use crate::{
    reactor::clock::Clock,
    storage::{Completion, Op, Storage, Token},
    units::{BLOCK, BLOCK_SIZE},
};

/// Blocks that room is set aside for at once.
const SEGMENT: u64 = 1024;
/// How much of virtual time a look that finds nothing takes.
const LOOK: Duration = Duration::from_micros(5);
/// The wall clock at the start of every simulation: 2026-01-01.
const START_MS: u64 = 1_767_225_600_000;

/// Which faults a disk injects. Chances are parts in a million of the operations that they can befall; all are zero by default.
#[derive(Clone, Debug)]
pub struct Faults {
    /// How long an operation takes, at least and at most, in microseconds of virtual time. Operations overtake one another.
    pub latency_us: Range<u64>,
    /// Operations that take a thousand to five thousand times as long.
    pub stall: u32,
    /// Reads that fail with `EIO`; the next try may succeed.
    pub read_error: u32,
    /// Writes that fail with `EIO` after some of their blocks were written.
    pub write_error: u32,
    /// Writes that end early, with a byte count, as a full or failing device lets them.
    pub short_write: u32,
    /// Syncs that fail with `EIO`, and lose some of what they should have made durable.
    pub sync_error: u32,
    /// Reads after which a block somewhere has a flipped bit.
    pub bit_rot: u32,
    /// Writes of which one block is never written, though they are answered.
    pub lost_write: u32,
    /// Writes of which one block lands in another place instead.
    pub misdirected_write: u32,
    /// Damaged blocks at most at any moment.
    pub damage_budget: usize,
    /// Bytes that the file system has room for, if it has less than the pool's size.
    pub room: Option<u64>,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            latency_us: 1..100,
            stall: 0,
            read_error: 0,
            write_error: 0,
            short_write: 0,
            sync_error: 0,
            bit_rot: 0,
            lost_write: 0,
            misdirected_write: 0,
            damage_budget: 0,
            room: None,
        }
    }
}

/// What a disk has done so far.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Reads that were answered.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Syncs.
    pub syncs: u64,
    /// Errors that were answered on purpose, short writes included.
    pub errors: u64,
    /// Blocks that were damaged on purpose.
    pub damaged: u64,
    /// Times that damaged bytes were read.
    pub damage_read: u64,
    /// Refusals for want of room.
    pub no_room: u64,
    /// Writes among those: to where no room had been set aside before.
    pub without_room: u64,
    /// Operations in flight at once, at most.
    pub at_once: u64,
}

/// How an operation in flight will end.
enum Fate {
    Read,
    /// Answer that so many bytes were written (or this error), and keep `Done` for the write.
    Write(u64, Result<usize, i32>),
    Sync(u64, bool),
    Allocate(Range<u64>),
    Refused(i32),
}

struct InFlight {
    token: Token,
    op: Op,
    fate: Fate,
}

pub(super) struct State {
    pub(super) media: Media,
    visible: Image,
    pub(super) damage: Damage,
    rng: Rng,
    now: Duration,
    next_id: u64,
    in_flight: BTreeMap<(Duration, u64), InFlight>,
    faults: Faults,
    recording: Option<Recording>,
    position: u64,
    trace: u64,
    counters: Counters,
    /// Segments that the file system has set room aside for.
    backed: BTreeSet<u64>,
    /// Whether the pool is a file that grows.
    thin: bool,
    turns: u64,
    time_limit: Duration,
    stop: Option<Box<dyn Fn()>>,
}

/// A disk that outlives the pools on it. Clones are the same disk.
#[derive(Clone)]
pub struct Disk {
    pub(super) state: Rc<RefCell<State>>,
}

impl Disk {
    /// An empty disk of `bytes` bytes.
    #[must_use]
    pub fn new(bytes: u64, seed: u64) -> Self {
        Self::from_image(Image::new(bytes / BLOCK), seed)
    }

    /// The same, for a pool that is no file which grows: a device, or a file with all its room.
    #[must_use]
    pub fn with_all_room(bytes: u64, seed: u64) -> Self {
        let disk = Self::new(bytes, seed);
        disk.state.borrow_mut().thin = false;
        disk
    }

    /// A disk that holds `image`, all of it durable.
    #[must_use]
    pub fn from_image(image: Image, seed: u64) -> Self {
        Self::from_media(Media::new(image), seed)
    }

    pub(super) fn from_media(media: Media, seed: u64) -> Self {
        let image = media.visible();
        let backed = (0..image.blocks()).filter(|b| image.get(*b).is_some()).map(|b| b / SEGMENT).collect();
        let state = State {
            damage: Damage::default(),
            next_id: media.last_id(),
            media,
            visible: image,
            rng: Rng::new(seed),
            now: Duration::ZERO,
            in_flight: BTreeMap::new(),
            faults: Faults::default(),
            recording: None,
            position: 0,
            trace: 0,
            counters: Counters::default(),
            backed,
            thin: true,
            turns: 0,
            time_limit: Duration::MAX,
            stop: None,
        };
        Self { state: Rc::new(RefCell::new(state)) }
    }

    /// Sets the faults from here on.
    pub fn set_faults(&self, faults: Faults) {
        self.state.borrow_mut().faults = faults;
    }

    /// Starts to record what decides about crashes.
    pub fn record(&self) {
        let mut state = self.state.borrow_mut();
        let start = state.media.clone();
        state.recording = Some(Recording { start, events: Vec::new() });
    }

    /// Ends recording.
    #[must_use]
    pub fn take_recording(&self) -> Option<Recording> {
        self.state.borrow_mut().recording.take()
    }

    /// Events recorded so far: the moment at which a crash now would be.
    #[must_use]
    pub fn moment(&self) -> usize {
        self.state.borrow().recording.as_ref().map_or(0, |r| r.events.len())
    }

    /// A hash over everything that happened: operations, their data, their order and their times.
    #[must_use]
    pub fn trace(&self) -> u64 {
        self.state.borrow().trace
    }

    /// What was done so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.state.borrow().counters
    }

    /// Virtual time since the disk was made.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.state.borrow().now
    }

    /// Blocks whose present content is not what was written there.
    #[must_use]
    pub fn damaged_blocks(&self) -> Vec<u64> {
        self.state.borrow().damage.blocks()
    }

    /// Makes all damage undone, as if the device had been mended from a mirror.
    pub fn heal(&self) {
        self.state.borrow_mut().damage.heal();
    }

    /// Damages a block now, whatever the budget says: flips a bit of what reads return.
    pub fn rot(&self, block: u64) {
        let mut state = self.state.borrow_mut();
        let State { damage, visible, rng, .. } = &mut *state;
        damage.rot(block, visible, rng);
        state.counters.damaged += 1;
    }

    /// A disk as a crash leaves it: a new one, with the same damage. What was damaged so lately that the loss of the last journal group
    /// would be in order is whole again (see the head of this module).
    #[must_use]
    pub fn crash(&self, survivors: Survivors) -> Self {
        let media = Media::new(self.state.borrow().media.crash(survivors));
        self.after(media)
    }

    /// The disk after the end of the process, with the machine still running: what was in flight is done or never will be, and nothing
    /// more is durable than was.
    #[must_use]
    pub fn kill(&self) -> Self {
        let media = {
            let mut state = self.state.borrow_mut();
            let mut rng = state.rng.fork();
            state.media.kill(&mut rng)
        };
        self.after(media)
    }

    fn after(&self, media: Media) -> Self {
        let mut state = self.state.borrow_mut();
        let seed = state.rng.next_u64();
        let next = Self::from_media(media, seed);
        {
            let mut new = next.state.borrow_mut();
            new.damage = state.damage.after_crash();
            new.now = state.now;
            new.trace = state.trace;
            new.counters = state.counters;
            new.position = state.position;
            // Numbers of writes go on: damage is judged by them.
            new.next_id = state.next_id;
            // Room that was set aside stays so.
            new.backed.extend(&state.backed);
            new.thin = state.thin;
            new.faults = state.faults.clone();
        }
        next
    }

    /// What reads return now, damage left out.
    #[must_use]
    pub fn image(&self) -> Image {
        self.state.borrow().visible.clone()
    }

    pub(super) fn set_layout(&self, layout: Layout) {
        self.state.borrow_mut().damage.layout = Some(layout);
    }

    pub(super) fn is_thin(&self) -> bool {
        self.state.borrow().thin
    }

    /// Room is set aside for these blocks, whatever the faults say.
    pub(super) fn set_aside(&self, blocks: Range<u64>) {
        self.state.borrow_mut().backed.extend(blocks.start / SEGMENT..blocks.end.div_ceil(SEGMENT));
    }

    pub(super) fn bytes(&self) -> u64 {
        self.state.borrow().visible.blocks() * BLOCK
    }

    pub(super) fn random(&self) -> u64 {
        self.state.borrow_mut().rng.next_u64()
    }

    /// Attaches the machine that runs now: `stop` is called when it has run for longer than `limit`.
    pub(super) fn attach(&self, limit: Duration, stop: Box<dyn Fn()>) {
        let mut state = self.state.borrow_mut();
        state.time_limit = state.now + limit;
        state.turns = 0;
        state.stop = Some(stop);
    }

    /// Detaches it. Nobody waits any more for what is in flight; it stays so on the disk, and a crash may keep or lose it.
    pub(super) fn detach(&self) {
        let mut state = self.state.borrow_mut();
        state.stop = None;
        state.in_flight.clear();
    }
}

impl State {
    fn event(&mut self, event: Event) {
        self.position += 1;
        self.media.apply(&event);
        if let Some(recording) = &mut self.recording {
            recording.events.push(event);
        }
    }

    fn note(&mut self, what: u64, a: u64, b: u64) {
        let time = self.now.as_nanos() as u64;
        self.trace = mix(self.trace ^ mix(what ^ mix(a ^ mix(b ^ mix(time)))));
    }

    fn start(&mut self, token: Token, op: Op) {
        let fate = match &op {
            Op::Read { offset, buf } => {
                self.note(1, *offset, buf.len() as u64);
                self.maybe_rot();
                if self.rng.chance(self.faults.read_error) { Fate::Refused(libc::EIO) } else { Fate::Read }
            }
            Op::Write { offset, parts } => {
                let bytes: usize = parts.iter().map(|p| p.range.len()).sum();
                let mut hasher = crc32fast::Hasher::new();
                parts.iter().for_each(|p| hasher.update(p.bytes()));
                self.note(2, *offset, u64::from(hasher.finalize()) << 32 | bytes as u64);
                let content = blocks_of(parts.iter().map(|p| p.bytes()));
                self.start_write(offset / BLOCK, content)
            }
            Op::Sync => {
                self.note(3, 0, 0);
                let id = self.id();
                self.event(Event::SyncStart(id));
                Fate::Sync(id, self.rng.chance(self.faults.sync_error))
            }
            Op::Allocate { offset, len } => {
                self.note(4, *offset, *len);
                Fate::Allocate(offset / BLOCK / SEGMENT..(offset + len).div_ceil(BLOCK * SEGMENT))
            }
            Op::Punch { offset, len } => {
                self.note(5, *offset, *len);
                for segment in offset / BLOCK / SEGMENT..(offset + len) / BLOCK / SEGMENT {
                    let _was = self.backed.remove(&segment);
                }
                let id = self.id();
                let content = vec![None; (len / BLOCK) as usize].into();
                self.event(Event::Start(Unsynced { id, start: offset / BLOCK, content, done: false }));
                Fate::Write(id, Ok(0))
            }
            // There are no sockets in a simulation.
            Op::Recv { .. } | Op::Send { .. } => Fate::Refused(libc::ENOSYS),
            Op::Poll { .. } | Op::TakeEvent { .. } | Op::SignalEvent { .. } => Fate::Refused(libc::ENOSYS),
        };
        let Range { start, end } = self.faults.latency_us;
        let stall = if self.rng.chance(self.faults.stall) { 1000 + self.rng.below(4000) as u32 } else { 1 };
        let latency = Duration::from_micros(start + self.rng.below(end.saturating_sub(start))) * stall;
        let key = (self.now + latency, self.id());
        let _none = self.in_flight.insert(key, InFlight { token, op, fate });
        self.counters.at_once = self.counters.at_once.max(self.in_flight.len() as u64);
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn start_write(&mut self, start: u64, mut content: Vec<Block>) -> Fate {
        if content.is_empty() {
            return Fate::Refused(libc::EINVAL);
        }
        // A file system sets room aside for what is written where there is none, if it can.
        let end = start + content.len() as u64;
        if let Err(refusal) = self.allocate(start / SEGMENT..end.div_ceil(SEGMENT)) {
            self.counters.without_room += 1;
            return Fate::Refused(refusal);
        }
        let id = self.id();
        let mut result = Ok(content.len() * BLOCK_SIZE);
        if self.rng.chance(self.faults.write_error) {
            let written = self.rng.below(content.len() as u64 + 1);
            content.truncate(written as usize);
            result = Err(libc::EIO);
            self.counters.errors += 1;
        } else if content.len() > 1 && self.rng.chance(self.faults.short_write) {
            let written = 1 + self.rng.below(content.len() as u64 - 1);
            content.truncate(written as usize);
            result = Ok(content.len() * BLOCK_SIZE);
            self.counters.errors += 1;
        }
        self.event(Event::Start(Unsynced { id, start, content: content.into(), done: false }));
        Fate::Write(id, result)
    }

    fn maybe_rot(&mut self) {
        if self.damage.count() < self.faults.damage_budget && self.rng.chance(self.faults.bit_rot) {
            let State { damage, visible, rng, .. } = self;
            if let Some(block) = damage.victim(visible, rng) {
                damage.rot(block, visible, rng);
                self.counters.damaged += 1;
            }
        }
    }

    fn finish(&mut self, mut entry: InFlight) -> Completion {
        let result = match entry.fate {
            Fate::Refused(errno) => {
                self.counters.errors += 1;
                Err(io::Error::from_raw_os_error(errno))
            }
            Fate::Read => {
                self.counters.reads += 1;
                if let Op::Read { offset, buf } = &mut entry.op {
                    for (block, bytes) in (*offset / BLOCK..).zip(buf.chunks_mut(BLOCK_SIZE)) {
                        let (content, damaged) = self.damage.read(block, &self.visible);
                        self.counters.damage_read += u64::from(damaged);
                        match content {
                            Some(content) => bytes.copy_from_slice(&content[..bytes.len()]),
                            None => bytes.fill(0),
                        }
                    }
                    let inside = (self.visible.blocks() * BLOCK).saturating_sub(*offset).min(buf.len() as u64);
                    Ok(inside as usize)
                } else {
                    Ok(0)
                }
            }
            Fate::Write(id, result) => {
                self.counters.writes += 1;
                self.finish_write(id);
                result.map_err(io::Error::from_raw_os_error)
            }
            Fate::Sync(id, false) => {
                self.counters.syncs += 1;
                self.event(Event::SyncDone(id));
                self.damage.synced();
                Ok(0)
            }
            Fate::Sync(id, true) => {
                self.counters.errors += 1;
                let mut rng = self.rng.fork();
                self.media.sync_failed(id, &mut rng);
                self.visible = self.media.visible();
                Err(io::Error::from_raw_os_error(libc::EIO))
            }
            Fate::Allocate(segments) => self.allocate(segments).map(|()| 0).map_err(io::Error::from_raw_os_error),
        };
        self.note(6, entry.token as u64, result.as_ref().map_or(u64::MAX, |n| *n as u64));
        Completion { token: entry.token, op: entry.op, result }
    }

    /// A write reaches the disk: reads see it from here on.
    fn finish_write(&mut self, id: u64) {
        self.event(Event::Done(id));
        let Some(write) = self.media.unsynced.iter().find(|w| w.id == id).cloned() else { return };
        let chosen = write.start + self.rng.below(write.content.len() as u64);
        let before = self.visible.get(chosen);
        for (block, content) in (write.start..).zip(write.content.iter()) {
            self.visible.set(block, content.clone());
        }
        self.damage.written(&write, id);
        if write.content.is_empty() || self.damage.count() >= self.faults.damage_budget {
            return;
        }
        let (lost, misdirected) = (self.faults.lost_write, self.faults.misdirected_write);
        if self.rng.chance(lost) {
            self.counters.damaged += u64::from(self.damage.lose(chosen, before));
        } else if self.rng.chance(misdirected) {
            let State { damage, visible, rng, .. } = self;
            let hit = damage.misdirect(chosen, before, visible, rng);
            self.counters.damaged += u64::from(hit);
        }
    }

    fn allocate(&mut self, segments: Range<u64>) -> Result<(), i32> {
        let more = segments.clone().filter(|s| !self.backed.contains(s)).count() as u64;
        let bytes = (self.backed.len() as u64 + more) * SEGMENT * BLOCK;
        if more > 0 && self.thin && self.faults.room.is_some_and(|room| bytes > room) {
            self.counters.no_room += 1;
            return Err(libc::ENOSPC);
        }
        self.backed.extend(segments);
        Ok(())
    }
}

/// Whole blocks of what the parts hold one after the other.
fn blocks_of<'a>(parts: impl Iterator<Item = &'a [u8]>) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut partial: Vec<u8> = Vec::new();
    for mut bytes in parts {
        while !bytes.is_empty() {
            let n = bytes.len().min(BLOCK_SIZE - partial.len());
            partial.extend_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            if partial.len() == BLOCK_SIZE {
                let whole: Result<[u8; BLOCK_SIZE], _> = std::mem::take(&mut partial).try_into();
                blocks.push(whole.ok().filter(|b| b.iter().any(|x| *x != 0)).map(Arc::new));
            }
        }
    }
    debug_assert!(partial.is_empty(), "writes are whole blocks");
    blocks
}

/// The disk as a pool's storage.
pub(super) struct SimStorage(pub(super) Disk);

impl Storage for SimStorage {
    fn name(&self) -> &'static str {
        "sim"
    }

    fn submit(&mut self, token: Token, op: Op) {
        self.0.state.borrow_mut().start(token, op);
    }

    fn cancel(&mut self, _token: Token) {}

    fn wait(&mut self, timeout: Option<Duration>, done: &mut Vec<Completion>) {
        let mut state = self.0.state.borrow_mut();
        state.turns += 1;
        let next = state.in_flight.first_key_value().map(|((at, _), _)| *at);
        // Nothing waits in real time: the clock jumps to what comes next.
        let until = match timeout {
            Some(Duration::ZERO) => state.now + LOOK,
            Some(timeout) => state.now + timeout,
            None => next.unwrap_or(Duration::MAX),
        };
        state.now = next.map_or(until, |at| at.clamp(state.now, until.max(state.now)));
        let now = state.now;
        while let Some(entry) = state.in_flight.first_entry().filter(|e| e.key().0 <= now) {
            let entry = entry.remove();
            done.push(state.finish(entry));
        }
        let hangs = state.now >= state.time_limit || state.turns > super::MOST_TURNS;
        if hangs && let Some(stop) = &state.stop {
            stop();
        }
    }
}

/// The disk's virtual time.
pub(super) struct SimClock(pub(super) Disk);

impl Clock for SimClock {
    fn now(&self) -> Duration {
        self.0.now()
    }

    fn unix_ms(&self) -> u64 {
        START_MS + self.0.now().as_millis() as u64
    }
}
