//! Restoring: what a map refers to is read from its packs in their order, and written where it belongs.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use cairn_engine::{ExtentKind, IoBuf, Pool, Target, Volume, VolumeInfo, VolumeOptions};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use crate::{
    chunk::{ChunkId, LONGEST},
    chunks::{Batch, Chunks},
    error::{Error, ErrorKind, Result, corrupt, invalid},
    job::{Job, now_ms},
    log::record::Backup,
    map::{
        BLOCK, Map,
        page::{Content, LEAF},
        read,
    },
    ranges::Ranges,
    repository::{Repository, find},
    source::{engine, is_of},
    unfinished::Unfinished,
};

/// Requests to the store at the same time.
const FETCHES: usize = 6;
/// Writes to the volume at the same time, of one request.
const WRITES: usize = 16;
/// Pieces of a volume that are gathered, so that chunks which serve many of them are read once.
const GATHERED: usize = 256 * 1024;
/// Longest read of the volume when it is compared.
const COMPARED: u64 = 256;

/// How a backup is restored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RestoreOptions {
    /// Over a volume that is there: only blocks that differ are written, after a snapshot for undoing it was taken. Else the volume is made.
    pub in_place: bool,
    /// In place: also while the volume is open elsewhere.
    pub force: bool,
    /// Damaged parts are left out and listed, instead of ending it.
    pub salvage: bool,
}

/// A part of a volume that could not be read from the repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hole {
    /// First byte in the volume.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// What is wrong.
    pub cause: String,
}

/// What a restore did. Bytes, but for the time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// The volume.
    pub volume: String,
    /// The backup.
    pub backup: String,
    /// Data that was written.
    pub written: u64,
    /// Data that was compared and found right.
    pub unchanged: u64,
    /// Ranges that were made to hold nothing.
    pub cleared: u64,
    /// In place: the volume as it was before.
    pub undo_snapshot: Option<String>,
    /// With `salvage`: what could not be restored.
    pub holes: Vec<Hole>,
    /// How long it took, in milliseconds.
    pub millis: u64,
}

/// Where part of a chunk belongs.
#[derive(Clone, Copy)]
struct Place {
    block: u64,
    blocks: u32,
    /// Within the chunk.
    first: u16,
}

/// A restore under way.
struct Restore<'a> {
    chunks: Chunks,
    backup: &'a Backup,
    volume: Volume,
    size: u64,
    compare: bool,
    salvage: bool,
    job: Job,
    outcome: Restored,
}

impl Repository {
    /// Restores a backup into a volume.
    ///
    /// # Errors
    /// `NotFound`; `Exists` or `InUse` for the volume; `Corrupt` with the damaged range, unless it is to be salvaged; `Cancelled`;
    /// `Volume` and `Store`. A volume that was made for it can be used only when it is whole, and is deleted again; one restored in place is
    /// as the undo snapshot says or in part as the backup: run it again, or revert to that snapshot, which the error names.
    pub async fn restore(
        &self,
        backup: &str,
        pool: &Pool,
        volume: &str,
        options: &RestoreOptions,
        job: &Job,
    ) -> Result<Restored> {
        let began = Instant::now();
        let chunks = self.chunks(job).await?;
        let backup = find(&chunks.state(), backup, self.url())?.clone();
        let restored = match options.in_place {
            true => self.restore_in_place(&chunks, &backup, pool, volume, options, job).await,
            false => restore_new(&chunks, &backup, pool, volume, options, job).await,
        };
        match restored {
            Ok(restored) => Ok(Restored { millis: began.elapsed().as_millis() as u64, ..restored }),
            Err(error)
                if error.kind() == ErrorKind::Corrupt && !self.state().await?.backups.contains_key(&backup.id) =>
            {
                Err(Error::new(ErrorKind::NotFound, format!("backup {} was deleted meanwhile", backup.id)))
            }
            Err(error) => Err(error),
        }
    }

    async fn restore_in_place(
        &self,
        chunks: &Chunks,
        backup: &Backup,
        pool: &Pool,
        name: &str,
        options: &RestoreOptions,
        job: &Job,
    ) -> Result<Restored> {
        let info = pool.volume_info(name).await.map_err(|e| engine(&e))?;
        if info.attached > 0 && !options.force {
            let text =
                format!("volume {name} is open: detach it, or say --force if whoever uses it can bear the change");
            return Err(Error::new(ErrorKind::InUse, text));
        }
        let undo = format!("before-restore-{}", now_ms());
        let target = Target { volume: name.to_owned(), snapshot: Some(undo.clone()) };
        let _taken = pool.snapshot(std::slice::from_ref(&target)).await.map_err(|e| engine(&e))?;
        let restored = async {
            if info.size < backup.size {
                let _info = pool.resize(name, backup.size).await.map_err(|e| engine(&e))?;
            }
            let differing = self.may_differ(chunks, backup, pool, &info, &target, job).await?;
            let volume = pool.volume(name).await.map_err(|e| engine(&e))?;
            let mut restore = Restore::new(chunks, backup, volume, name, true, options, job).await?;
            restore.outcome.undo_snapshot = Some(undo);
            restore.fill(&differing).await?;
            let (first, end) = (backup.size.div_ceil(BLOCK), info.size.div_ceil(BLOCK));
            if end > first {
                restore.clear(first, end - first).await?;
            }
            restore.finish().await
        };
        let part = || format!("volume {name} may hold a part of the backup now; {target} holds what it held before");
        restored.await.map_err(|error| error.within(part()))
    }

    /// Where a volume may differ from a backup: what has changed since a snapshot that was backed up, and what that backup and this one
    /// differ in. Everywhere, if there is no such snapshot.
    async fn may_differ(
        &self,
        chunks: &Chunks,
        backup: &Backup,
        pool: &Pool,
        volume: &VolumeInfo,
        now: &Target,
        job: &Job,
    ) -> Result<Ranges> {
        let all = Ranges::all(backup.size.div_ceil(BLOCK));
        let uuid = pool.stats().await.map_err(|e| engine(&e))?.uuid;
        let snapshots = pool.snapshots(Some(&volume.name), false).await.map_err(|e| engine(&e))?;
        let of_it = |b: &&Backup| b.origin.pool == uuid && b.origin.volume_id == volume.id.0;
        let kept = |b: &Backup| snapshots.iter().find(|s| is_of(b, s)).cloned();
        let state = chunks.state();
        let mut bases: Vec<_> = state.backups.values().filter(of_it).filter_map(|b| Some((b, kept(b)?))).collect();
        // The backup itself, else the newest.
        bases.sort_by_key(|(b, _)| (b.id == backup.id, b.number));
        let Some((base, snapshot)) = bases.pop() else { return Ok(all) };
        let (from, to) = (Map::of(base)?, Map::of(backup)?);
        if from.height != to.height {
            return Ok(all);
        }
        let mut ranges = Ranges::default();
        for (number, ours, theirs) in read::differing(chunks, from, to).await? {
            let (ours, theirs) = (read::leaf(chunks, &ours).await, read::leaf(chunks, &theirs).await);
            let first = number * u64::from(LEAF);
            match (ours, theirs) {
                (Ok(ours), Ok(theirs)) => {
                    let parts = ours.differing(&theirs);
                    parts.iter().for_each(|(at, count)| ranges.add(first + u64::from(*at), (*count).into()));
                }
                // Reading it again is what tells of damage.
                _ => ranges.add(first, u64::from(LEAF)),
            }
        }
        // What lay beyond its end when the snapshot for undoing was taken went when it became smaller: no difference tells of it.
        let end = volume.size / BLOCK;
        ranges.add(end, backup.size.div_ceil(BLOCK).saturating_sub(end));
        let from = Target { volume: volume.name.clone(), snapshot: Some(snapshot.name.clone()) };
        let mut next = Some(0);
        while let Some(offset) = next {
            job.check()?;
            let page = pool.diff(Some(&from), now, offset).await.map_err(|e| engine(&e))?;
            for extent in page.extents {
                let (first, end) = (extent.offset / BLOCK, (extent.offset + extent.length).div_ceil(BLOCK));
                ranges.add(first, end - first);
            }
            next = page.next;
        }
        Ok(ranges)
    }
}

async fn restore_new(
    chunks: &Chunks,
    backup: &Backup,
    pool: &Pool,
    name: &str,
    options: &RestoreOptions,
    job: &Job,
) -> Result<Restored> {
    // Nobody can use it, also after a crash, before it has its content.
    let filling = VolumeOptions { filling: true, ..VolumeOptions::default() };
    let volume = pool.create_volume(name, backup.size, filling).await.map_err(|e| engine(&e))?;
    let made = Unfinished::volume(pool, &pool.volume_info(name).await.map_err(|e| engine(&e))?);
    let fill = async {
        let mut restore = Restore::new(chunks, backup, volume, name, false, options, job).await?;
        restore.fill(&Ranges::all(backup.size.div_ceil(BLOCK))).await?;
        restore.finish().await
    };
    let restored = fill.await;
    match restored {
        Ok(_) => made.finished(),
        Err(_) => made.remove().await,
    }
    restored
}

impl<'a> Restore<'a> {
    async fn new(
        chunks: &Chunks,
        backup: &'a Backup,
        volume: Volume,
        name: &str,
        compare: bool,
        options: &RestoreOptions,
        job: &Job,
    ) -> Result<Self> {
        let volume = volume.in_background();
        let size = volume.size().await.map_err(|e| engine(&e))?;
        let outcome = Restored { volume: name.to_owned(), backup: backup.id.clone(), ..Restored::default() };
        let (chunks, job, salvage) = (chunks.clone(), job.clone(), options.salvage);
        Ok(Self { chunks, backup, volume, size, compare, salvage, job, outcome })
    }

    async fn finish(mut self) -> Result<Restored> {
        self.volume.flush().await.map_err(|e| engine(&e))?;
        if !self.compare {
            let _info = self.volume.filled().await.map_err(|e| engine(&e))?;
        }
        self.outcome.holes.sort_by_key(|hole| hole.offset);
        Ok(self.outcome)
    }

    /// Makes some blocks of the volume what they are in the backup.
    async fn fill(&mut self, ranges: &Ranges) -> Result<()> {
        self.job.set_total(ranges.count() * BLOCK);
        let map = Map::of(self.backup)?;
        let chunks = self.chunks.clone();
        let mut leaves = std::pin::pin!(read::leaves(&chunks, map, 0));
        let mut wanted: HashMap<ChunkId, Vec<Place>> = HashMap::new();
        let (mut pieces, mut reached) = (0, 0);
        while let Some((leaf, count)) = leaves.next().await {
            self.nothing(ranges, reached, leaf.block()).await?;
            reached = leaf.block() + count * u64::from(LEAF);
            match leaf.leaf {
                Err(ref error) => self.lost(ranges.within(leaf.block(), reached), error)?,
                Ok(ref content) => {
                    let mut block = leaf.block();
                    for run in &content.runs {
                        pieces += self.want(&mut wanted, ranges, block, run.blocks, run.content).await?;
                        block += u64::from(run.blocks);
                    }
                }
            }
            if pieces >= GATHERED {
                pieces = 0;
                self.bring(std::mem::take(&mut wanted)).await?;
            }
        }
        self.nothing(ranges, reached, u64::MAX).await?;
        self.bring(wanted).await
    }

    /// Blocks of which the map has no pages hold nothing.
    async fn nothing(&mut self, ranges: &Ranges, from: u64, to: u64) -> Result<()> {
        for (block, count) in ranges.within(from, to) {
            self.clear(block, count).await?;
        }
        Ok(())
    }

    async fn want(
        &mut self,
        wanted: &mut HashMap<ChunkId, Vec<Place>>,
        ranges: &Ranges,
        start: u64,
        blocks: u32,
        content: Content,
    ) -> Result<usize> {
        let parts = ranges.within(start, start + u64::from(blocks));
        let count = parts.len();
        for (block, blocks) in parts {
            match content.after((block - start) as u32) {
                Content::Data { chunk, first } => {
                    wanted.entry(chunk).or_default().push(Place { block, blocks: blocks as u32, first });
                }
                Content::Unallocated | Content::Zero => self.clear(block, blocks).await?,
            }
        }
        Ok(count)
    }

    /// Makes blocks hold nothing, where they hold something.
    async fn clear(&mut self, block: u64, count: u64) -> Result<()> {
        let (offset, end) = (block * BLOCK, ((block + count) * BLOCK).min(self.size));
        if self.compare {
            let mut next = Some(offset);
            while let Some(at) = next.filter(|at| *at < end) {
                self.job.check()?;
                let page = self.volume.extents(at, end - at).await.map_err(|e| engine(&e))?;
                for extent in page.extents.iter().filter(|extent| extent.kind == ExtentKind::Data) {
                    self.volume.write_zeroes(extent.offset, extent.length).await.map_err(|e| engine(&e))?;
                    self.outcome.cleared += extent.length;
                }
                next = page.next;
            }
        }
        self.job.advance(end.saturating_sub(offset));
        Ok(())
    }

    /// Notes what cannot be restored, or ends the restore.
    fn lost(&mut self, parts: Vec<(u64, u64)>, error: &Error) -> Result<()> {
        for (block, count) in parts {
            let (offset, end) = (block * BLOCK, ((block + count) * BLOCK).min(self.size));
            let of = &self.backup.origin;
            if error.kind() != ErrorKind::Corrupt {
                return Err(error.clone());
            }
            if !self.salvage {
                return Err(corrupt(format!(
                    "backup {} of volume {} is damaged at bytes {offset} to {end}: {error}. Another backup may hold the range; \
                     --salvage restores all the rest",
                    self.backup.id, of.volume
                )));
            }
            self.outcome.holes.push(Hole { offset, length: end - offset, cause: error.to_string() });
            self.job.advance(end - offset);
        }
        Ok(())
    }

    /// Reads chunks and writes what is wanted of them.
    async fn bring(&mut self, mut wanted: HashMap<ChunkId, Vec<Place>>) -> Result<()> {
        if self.compare {
            wanted = self.without_what_is_there(wanted).await?;
        }
        let (batches, missing) = self.chunks.plan(wanted).await?;
        for (_, places, outcome) in missing {
            if let Err(error) = outcome {
                self.lost(places.iter().map(|p| (p.block, p.blocks.into())).collect(), &error)?;
            }
        }
        let (volume, chunks, job) = (self.volume.clone(), self.chunks.clone(), self.job.clone());
        let (size, compare) = (self.size, self.compare);
        let stop = AtomicBool::new(false);
        let mut brought = stream::iter(batches)
            .take_while(|_| std::future::ready(!stop.load(Ordering::Relaxed)))
            .map(|batch| bring_batch(batch, chunks.clone(), volume.clone(), size, compare, job.clone()))
            .buffer_unordered(FETCHES);
        let mut outcome = Ok(());
        // What is under way is waited for after an error too: a volume that is written to cannot be deleted.
        while let Some(brought) = brought.next().await {
            outcome = outcome.and(brought.and_then(|brought| self.count(brought)));
            stop.store(outcome.is_err(), Ordering::Relaxed);
        }
        outcome
    }

    fn count(&mut self, (counts, lost): Brought) -> Result<()> {
        self.outcome.written += counts.0;
        self.outcome.unchanged += counts.1;
        for (places, error) in lost {
            self.lost(places.iter().map(|p| (p.block, p.blocks.into())).collect(), &error)?;
        }
        Ok(())
    }

    /// Leaves out chunks that the volume holds already: their names tell it, without a look into the repository.
    async fn without_what_is_there(
        &mut self,
        wanted: HashMap<ChunkId, Vec<Place>>,
    ) -> Result<HashMap<ChunkId, Vec<Place>>> {
        let (volume, size, job) = (self.volume.clone(), self.size, self.job.clone());
        let looks = stream::iter(wanted).map(|(id, places)| {
            let (volume, job, chunks) = (volume.clone(), job.clone(), self.chunks.clone());
            async move {
                job.check()?;
                let whole =
                    places.iter().try_fold(0, |next, p| (u32::from(p.first) == next).then_some(next + p.blocks));
                let is_there = match whole {
                    Some(blocks) if u64::from(blocks) * BLOCK <= LONGEST as u64 => {
                        let mut content = Vec::new();
                        for place in &places {
                            content.extend_from_slice(
                                &read_blocks(&volume, size, place.block, place.blocks.into()).await?,
                            );
                        }
                        let worker = tokio::task::spawn_blocking(move || chunks.name(&content) == id);
                        worker.await.map_err(|e| Error::new(ErrorKind::Store, format!("a worker failed: {e}")))?
                    }
                    _ => false,
                };
                Ok::<_, Error>((id, places, is_there))
            }
        });
        let mut looks = looks.buffer_unordered(WRITES);
        let mut rest = HashMap::new();
        while let Some((id, places, is_there)) = looks.try_next().await? {
            if is_there {
                let bytes = places.iter().map(|p| u64::from(p.blocks) * BLOCK).sum();
                self.outcome.unchanged += bytes;
                self.job.advance(bytes);
            } else {
                let _none = rest.insert(id, places);
            }
        }
        Ok(rest)
    }
}

/// Bytes written and bytes found right; and what is lost.
type Brought = ((u64, u64), Vec<(Vec<Place>, Error)>);

async fn bring_batch(
    batch: Batch<Vec<Place>>,
    chunks: Chunks,
    volume: Volume,
    size: u64,
    compare: bool,
    job: Job,
) -> Result<Brought> {
    let (mut writes, mut lost) = (Vec::new(), Vec::new());
    for (_, places, content) in chunks.fetch(batch).await? {
        let beyond = |content: &Vec<u8>| {
            places.iter().any(|p| (u64::from(p.first) + u64::from(p.blocks)) * BLOCK > content.len() as u64)
        };
        match content {
            Ok(content) if beyond(&content) => {
                lost.push((places, corrupt("the map refers to more than a chunk has")));
            }
            Ok(content) => {
                let content = std::sync::Arc::new(content);
                writes.extend(places.into_iter().map(|place| (place, content.clone())));
            }
            Err(error) => lost.push((places, error)),
        }
    }
    let counts = stream::iter(writes).map(|(place, content)| {
        let (volume, job) = (volume.clone(), job.clone());
        async move {
            let from = usize::from(place.first) * BLOCK as usize;
            let content = &content[from..from + (u64::from(place.blocks) * BLOCK) as usize];
            let written = put(&volume, size, place, content, compare).await?;
            job.advance(content.len() as u64);
            Ok::<_, Error>((written, content.len() as u64 - written))
        }
    });
    let counts: Vec<Result<(u64, u64)>> = counts.buffer_unordered(WRITES).collect().await;
    let counts = counts.into_iter().try_fold((0, 0), |a, b| b.map(|b| (a.0 + b.0, a.1 + b.1)))?;
    Ok((counts, lost))
}

/// Writes blocks, with `compare` only those that differ. Answers how many bytes were written.
async fn put(volume: &Volume, size: u64, place: Place, content: &[u8], compare: bool) -> Result<u64> {
    let there = match compare {
        true => Some(read_blocks(volume, size, place.block, place.blocks.into()).await?),
        false => None,
    };
    let (mut at, mut written) = (0, 0);
    while at < content.len() {
        let differs = |at: usize| {
            let end = (at + BLOCK as usize).min(content.len());
            there.as_ref().is_none_or(|there| there[at..end] != content[at..end])
        };
        if !differs(at) {
            at += BLOCK as usize;
            continue;
        }
        let mut end = at;
        while end < content.len() && differs(end) {
            end += BLOCK as usize;
        }
        let offset = place.block * BLOCK + at as u64;
        let length = ((end - at) as u64).min(size.saturating_sub(offset)) as usize;
        if length == 0 {
            return Err(invalid("the volume became smaller while it was restored"));
        }
        volume.write(offset, IoBuf::from(&content[at..at + length])).await.map_err(|e| engine(&e))?;
        written += (end - at) as u64;
        at = end;
    }
    Ok(written)
}

async fn read_blocks(volume: &Volume, size: u64, block: u64, count: u64) -> Result<Vec<u8>> {
    let mut content = Vec::with_capacity((count * BLOCK) as usize);
    let mut at = block;
    while at < block + count {
        let n = COMPARED.min(block + count - at);
        let there = (n * BLOCK).min(size.saturating_sub(at * BLOCK)) as usize;
        content.extend_from_slice(&volume.read(at * BLOCK, there).await.map_err(|e| engine(&e))?);
        at += n;
    }
    content.resize((count * BLOCK) as usize, 0);
    Ok(content)
}
