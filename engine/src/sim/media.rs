//! What a simulated disk holds: the durable image, and writes that no sync has covered yet.

use std::sync::Arc;

use super::{disk::Disk, rng::Rng};
use crate::units::{BLOCK_SIZE, SECTOR};

/// The bytes of a block; `None` is all zeros.
pub(super) type Block = Option<Arc<[u8; BLOCK_SIZE]>>;

/// Blocks that are cloned together.
const CHUNK: usize = 64;

/// The content of a disk at one moment. Clones are cheap: they share what is equal.
#[derive(Clone)]
pub struct Image {
    chunks: Vec<Arc<[Block; CHUNK]>>,
    blocks: u64,
}

impl Image {
    /// A disk of zeros with this many blocks of 4 KiB.
    #[must_use]
    pub fn new(blocks: u64) -> Self {
        let empty = Arc::new([const { None }; CHUNK]);
        Self { chunks: vec![empty; blocks.div_ceil(CHUNK as u64) as usize], blocks }
    }

    /// Size in blocks.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    pub(super) fn get(&self, block: u64) -> Block {
        let chunk = self.chunks.get(block as usize / CHUNK)?;
        chunk.get(block as usize % CHUNK)?.clone()
    }

    pub(super) fn set(&mut self, block: u64, content: Block) {
        if let Some(chunk) = self.chunks.get_mut(block as usize / CHUNK) {
            Arc::make_mut(chunk)[block as usize % CHUNK] = content;
        }
    }

    /// The bytes of one block, for tests that look at the disk.
    #[must_use]
    pub fn block(&self, block: u64) -> [u8; BLOCK_SIZE] {
        self.get(block).map_or([0; BLOCK_SIZE], |b| *b)
    }

    /// Changes one block behind everybody's back, for tests that damage the disk.
    pub fn damage(&mut self, block: u64, change: impl FnOnce(&mut [u8; BLOCK_SIZE])) {
        let mut bytes = self.block(block);
        change(&mut bytes);
        self.set(block, Some(Arc::new(bytes)));
    }
}

/// A write (or a punched range) that no completed sync has covered.
#[derive(Clone)]
pub(super) struct Unsynced {
    pub(super) id: u64,
    pub(super) start: u64,
    pub(super) content: Arc<[Block]>,
    pub(super) done: bool,
}

/// What a power cut leaves of the writes that were not durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survivors {
    /// All of them, in flight or not.
    All,
    /// None.
    None,
    /// Those that had completed: what the end of a process leaves.
    Completed,
    /// All but the one with this number (in the order in which they were submitted).
    AllBut(usize),
    /// Only the one with this number.
    Only(usize),
    /// Any of them, as the seed says, each whole.
    Random(u64),
    /// Any of them, as the seed says, some (for every third seed: all) torn between sectors.
    Torn(u64),
}

/// A step in the life of a disk, as far as it decides what a crash leaves.
#[derive(Clone)]
pub(super) enum Event {
    Start(Unsynced),
    Done(u64),
    SyncStart(u64),
    SyncDone(u64),
}

/// The durable image and what is on the way to it.
#[derive(Clone)]
pub(super) struct Media {
    pub(super) durable: Image,
    pub(super) unsynced: Vec<Unsynced>,
    /// Syncs under way, and which writes each will have made durable.
    syncs: Vec<(u64, Vec<u64>)>,
}

impl Media {
    pub(super) fn new(durable: Image) -> Self {
        Self { durable, unsynced: Vec::new(), syncs: Vec::new() }
    }

    /// Number of the last write.
    pub(super) fn last_id(&self) -> u64 {
        self.unsynced.iter().map(|w| w.id).max().unwrap_or(0)
    }

    pub(super) fn apply(&mut self, event: &Event) {
        match event {
            Event::Start(write) => self.unsynced.push(write.clone()),
            Event::Done(id) => {
                if let Some(write) = self.unsynced.iter_mut().find(|w| w.id == *id) {
                    write.done = true;
                }
            }
            Event::SyncStart(id) => {
                let covered = self.unsynced.iter().filter(|w| w.done).map(|w| w.id).collect();
                self.syncs.push((*id, covered));
            }
            Event::SyncDone(id) => {
                let covered = self.take_sync(*id);
                let (now, later) =
                    std::mem::take(&mut self.unsynced).into_iter().partition(|w| covered.contains(&w.id));
                self.unsynced = later;
                let now: Vec<Unsynced> = now;
                for write in &now {
                    put(&mut self.durable, write);
                }
            }
        }
    }

    /// Ends a sync; returns what it covers.
    fn take_sync(&mut self, id: u64) -> Vec<u64> {
        match self.syncs.iter().position(|(s, _)| *s == id) {
            Some(at) => self.syncs.swap_remove(at).1,
            None => Vec::new(),
        }
    }

    /// A sync failed: what it should have made durable may be gone, for the reader too.
    pub(super) fn sync_failed(&mut self, id: u64, rng: &mut Rng) {
        let covered = self.take_sync(id);
        self.unsynced.retain(|w| !covered.contains(&w.id) || rng.below(2) == 0);
    }

    /// The end of a process: what was in flight is done, or never will be; what was not durable still is not.
    pub(super) fn kill(&self, rng: &mut Rng) -> Self {
        let mut unsynced = self.unsynced.clone();
        unsynced.retain_mut(|w| {
            w.done = w.done || rng.below(2) == 0;
            w.done
        });
        Self { durable: self.durable.clone(), unsynced, syncs: Vec::new() }
    }

    /// What reads see now: completed writes, durable or not.
    pub(super) fn visible(&self) -> Image {
        let mut image = self.durable.clone();
        for write in self.unsynced.iter().filter(|w| w.done) {
            put(&mut image, write);
        }
        image
    }

    /// What is there after a crash.
    pub(super) fn crash(&self, survivors: Survivors) -> Image {
        let mut image = self.durable.clone();
        let mut rng = match survivors {
            Survivors::Random(seed) | Survivors::Torn(seed) => Rng::new(seed),
            _ => Rng::new(0),
        };
        for (i, write) in self.unsynced.iter().enumerate() {
            let lives = match survivors {
                Survivors::All => true,
                Survivors::None => false,
                Survivors::Completed => write.done,
                Survivors::AllBut(n) => i != n,
                Survivors::Only(n) => i == n,
                Survivors::Random(_) => rng.below(2) == 0,
                // Some seeds tear everything: both copies of a superblock, say.
                Survivors::Torn(seed) => match if seed % 3 == 0 { 2 } else { rng.below(3) } {
                    0 => false,
                    1 => true,
                    _ => {
                        tear(&mut image, write, &mut rng);
                        false
                    }
                },
            };
            if lives {
                put(&mut image, write);
            }
        }
        image
    }
}

fn put(image: &mut Image, write: &Unsynced) {
    for (block, content) in (write.start..).zip(write.content.iter()) {
        image.set(block, content.clone());
    }
}

/// Writes some sectors of a write.
fn tear(image: &mut Image, write: &Unsynced, rng: &mut Rng) {
    const SECTOR_SIZE: usize = SECTOR as usize;
    for (block, content) in (write.start..).zip(write.content.iter()) {
        match rng.below(4) {
            0 => {}
            1 => image.set(block, content.clone()),
            _ => {
                let mut bytes = image.block(block);
                let new = content.as_ref().map_or([0; BLOCK_SIZE], |c| **c);
                let chosen = rng.next_u64();
                for sector in 0..BLOCK_SIZE / SECTOR_SIZE {
                    if chosen >> sector & 1 == 1 {
                        let range = sector * SECTOR_SIZE..(sector + 1) * SECTOR_SIZE;
                        bytes[range.clone()].copy_from_slice(&new[range]);
                    }
                }
                image.set(block, Some(Arc::new(bytes)));
            }
        }
    }
}

/// What happened to a disk while it was recorded: enough to tell what a crash at any moment would have left.
#[derive(Clone)]
pub struct Recording {
    pub(super) start: Media,
    pub(super) events: Vec<Event>,
}

impl Recording {
    /// Moments at which a crash can be looked at: before each event, and after the last one.
    #[must_use]
    pub fn moments(&self) -> usize {
        self.events.len() + 1
    }

    /// Goes through all moments in order.
    #[must_use]
    pub fn replay(&self) -> Replay<'_> {
        Replay { media: self.start.clone(), rest: &self.events, moment: 0 }
    }
}

/// A walk over a [`Recording`].
pub struct Replay<'a> {
    media: Media,
    rest: &'a [Event],
    moment: usize,
}

impl Replay<'_> {
    /// Number of the present moment; 0 is the start of the recording.
    #[must_use]
    pub fn moment(&self) -> usize {
        self.moment
    }

    /// Goes on by one event; false at the end.
    pub fn advance(&mut self) -> bool {
        let Some((event, rest)) = self.rest.split_first() else { return false };
        self.media.apply(event);
        self.rest = rest;
        self.moment += 1;
        true
    }

    /// Whether a crash before the next event differs, in what it may leave, from a crash before the one after it.
    #[must_use]
    pub fn is_distinct(&self) -> bool {
        !matches!(self.rest.first(), Some(Event::Done(_) | Event::SyncStart(_)))
    }

    /// Writes that a crash now may lose.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        self.media.unsynced.len()
    }

    /// The disk as the end of the process now leaves it: nothing more is durable than was.
    #[must_use]
    pub fn kill(&self, seed: u64) -> Disk {
        Disk::from_media(self.media.kill(&mut Rng::new(seed)), seed)
    }

    /// What a crash now leaves.
    #[must_use]
    pub fn crash(&self, survivors: Survivors) -> Image {
        self.media.crash(survivors)
    }
}
