//! Instant restore: the volume is usable at once, and holds its content before anybody sees it. What is asked for is brought first; all the
//! rest follows in the background.
//!
//! The engine's rules for a volume that is filling are kept: only holes are written, never zeros, and nothing in a range that was called
//! filled. So a hole says that the content of the backup belongs there, and a restore that was interrupted goes on without a list of its own.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cairn_engine::{ExtentKind, FillRequest, FillRequests, IoBuf, Pool, RequestKind, Volume, VolumeOptions};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::{sync::Notify, task::JoinSet};

use crate::{
    chunk::ChunkId,
    chunks::Chunks,
    error::{Error, ErrorKind, Result, corrupt, invalid},
    job::Job,
    log::record::Backup,
    map::{
        BLOCK, Map, covers,
        page::{Content, FANOUT, LEAF, Leaf},
        read,
    },
    repository::{Repository, find},
    source::{WINDOW, engine},
    unfinished::Unfinished,
};

/// Windows that the background brings at once: 4 MiB.
const PORTION: u64 = 16;
/// Requests of users that are worked on at the same time.
const USERS: usize = 16;
/// Requests to the store at the same time, of one portion.
const FETCHES: usize = 4;
/// Leaves and chunks that are kept.
const LEAVES: usize = 32;
const CHUNKS: usize = 64;

/// A volume that is usable and being filled.
pub struct Filling {
    shared: Arc<Shared>,
    requests: FillRequests,
}

/// What all tasks of one restore share.
struct Shared {
    chunks: Chunks,
    backup: Backup,
    map: Map,
    pool: Pool,
    /// Not held back by what is missing.
    volume: Volume,
    size: u64,
    job: Job,
    windows: Mutex<Windows>,
    /// A window became full, or a user's request came or went.
    changed: Notify,
    cache: tokio::sync::Mutex<Cache>,
}

#[derive(Default)]
struct Windows {
    /// A bit for each: whether it holds its content.
    full: Vec<u64>,
    /// Those that somebody is bringing.
    busy: HashSet<u64>,
    /// Requests of users that wait for content.
    users: u64,
}

impl Windows {
    fn is_full(&self, window: u64) -> bool {
        self.full.get((window / 64) as usize).is_some_and(|word| word >> (window % 64) & 1 != 0)
    }

    fn set_full(&mut self, window: u64) {
        if let Some(word) = self.full.get_mut((window / 64) as usize) {
            *word |= 1 << (window % 64);
        }
    }
}

/// What was read of late.
#[derive(Default)]
struct Cache {
    leaves: Recent<u64, Leaf>,
    chunks: Recent<ChunkId, Vec<u8>>,
}

struct Recent<K, V> {
    known: HashMap<K, Arc<V>>,
    order: VecDeque<K>,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self { known: HashMap::new(), order: VecDeque::new() }
    }
}

impl<K: Copy + Eq + std::hash::Hash, V> Recent<K, V> {
    fn put(&mut self, key: K, value: Arc<V>, most: usize) {
        if self.known.insert(key, value).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > most {
            let oldest = self.order.pop_front();
            drop(oldest.and_then(|key| self.known.remove(&key)));
        }
    }
}

impl Repository {
    /// Makes a volume that has a backup's content from the start. It can be opened from now on; [`Filling::run`] brings the content.
    ///
    /// # Errors
    /// `NotFound`, `Exists`, `Corrupt`, `Store`, `Volume`.
    pub async fn restore_instantly(&self, backup: &str, pool: &Pool, volume: &str, job: &Job) -> Result<Filling> {
        let backup = self.backup(backup).await?;
        let options = VolumeOptions { filling: true, ..VolumeOptions::default() };
        drop(pool.create_volume(volume, backup.size, options).await.map_err(|e| engine(&e))?);
        let made = Unfinished::volume(pool, &pool.volume_info(volume).await.map_err(|e| engine(&e))?);
        let filling = self.resume_filling(&backup.id, pool, volume, job).await;
        match filling {
            Ok(_) => made.finished(),
            Err(_) => made.remove().await,
        }
        filling
    }

    /// Goes on with an instant restore that was interrupted, after the pool was opened again. It has to be the backup that the restore was
    /// begun with: which one that was the volume does not know.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` when the volume is not filling or has another size; `InUse` when another restore fills it; `Corrupt`, `Store`,
    /// `Volume`.
    pub async fn resume_filling(&self, backup: &str, pool: &Pool, volume: &str, job: &Job) -> Result<Filling> {
        let chunks = self.chunks(job).await?;
        let backup = find(&chunks.state(), backup, self.url())?.clone();
        let requests = pool.fill_requests(volume).await.map_err(|e| engine(&e))?;
        let to_fill = pool.volume_to_fill(volume).await.map_err(|e| engine(&e))?;
        let size = to_fill.size().await.map_err(|e| engine(&e))?;
        if size != backup.size {
            let text = format!("volume {volume} has {size} bytes, and backup {} has {}", backup.id, backup.size);
            return Err(invalid(text));
        }
        let windows = size.div_ceil(WINDOW * BLOCK);
        let full = vec![0; windows.div_ceil(64) as usize];
        let shared = Shared {
            chunks,
            map: Map::of(&backup)?,
            backup,
            pool: pool.clone(),
            volume: to_fill,
            size,
            job: job.clone(),
            windows: Mutex::new(Windows { full, ..Windows::default() }),
            changed: Notify::new(),
            cache: tokio::sync::Mutex::default(),
        };
        Ok(Filling { shared: Arc::new(shared), requests })
    }
}

impl Filling {
    /// Brings what users ask for and, in the background, all the rest; ends when the volume is full, durably: what it was filled from is not
    /// needed any more from then on, and not a moment before. It goes on beside damage: who asks for a
    /// damaged range is told so, and at the end the first of them is the error; the volume stays one that is filling then.
    ///
    /// # Errors
    /// `Corrupt` for a damaged range; `Cancelled`; `Volume` and `Store`. [`Repository::resume_filling`] goes on.
    pub async fn run(self) -> Result<()> {
        let shared = self.shared.clone();
        let mut background = std::pin::pin!(shared.fill_all());
        let mut users = std::pin::pin!(self.serve());
        let outcome = tokio::select! {
            outcome = &mut background => outcome,
            // Nobody asks any more: the volume was deleted, or the pool is closed.
            () = &mut users => Err(Error::new(ErrorKind::Cancelled, "the volume or its pool is gone")),
        };
        outcome?;
        let filled = async {
            shared.volume.flush().await?;
            shared.volume.filled().await
        };
        let mut filled = std::pin::pin!(filled);
        let outcome = tokio::select! {
            outcome = &mut filled => outcome,
            // Users pass from the moment the engine calls it full, which is before that is durable. Until it is, whoever goes on after a crash
            // needs what this one needed.
            () = &mut users => filled.await,
        };
        outcome.map(drop).map_err(|e| engine(&e))
    }

    /// Brings only what users ask for, until the volume or the pool goes.
    pub async fn serve(self) {
        let Self { shared, mut requests } = self;
        let mut tasks: JoinSet<()> = JoinSet::new();
        while let Some(request) = requests.next().await {
            while tasks.len() >= USERS {
                let _done = tasks.join_next().await;
            }
            let shared = shared.clone();
            let _handle = tasks.spawn(async move { shared.answer(request).await });
        }
        while tasks.join_next().await.is_some() {}
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Windows> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self) -> u64 {
        self.size.div_ceil(WINDOW * BLOCK)
    }

    async fn answer(&self, request: FillRequest) {
        let (first, end) =
            (request.offset / (WINDOW * BLOCK), (request.offset + request.length).div_ceil(WINDOW * BLOCK));
        // A steady load on what is there already does not keep the background waiting.
        let waits = {
            let mut state = self.lock();
            let waits = (first..end).any(|window| !state.is_full(window));
            state.users += u64::from(waits);
            waits
        };
        let mut outcome = Ok(());
        // A discard may be of the whole volume.
        for at in (first..end).step_by(PORTION as usize) {
            outcome = self.ensure(at..(at + PORTION).min(end)).await.map(drop);
            if outcome.is_err() {
                break;
            }
        }
        request.done(outcome.map_err(|error| {
            let kind = match error.kind() {
                ErrorKind::Corrupt => cairn_engine::ErrorKind::Corrupt,
                _ => cairn_engine::ErrorKind::Io,
            };
            cairn_engine::Error::new(kind, format!("backup {}: {error}", self.backup.id))
        }));
        if waits {
            self.lock().users -= 1;
            self.changed.notify_waiters();
        }
    }

    async fn fill_all(&self) -> Result<()> {
        self.job.set_total(self.size);
        let (mut damaged, mut owed) = (None, 0);
        for at in (0..self.count()).step_by(PORTION as usize) {
            self.give_way().await;
            // A portion pays for what the one before it wrote. While it is being brought it waits for nothing, since users may wait for it.
            self.pool.background_turn(RequestKind::Write, std::mem::take(&mut owed)).await.map_err(|e| engine(&e))?;
            self.job.check()?;
            let windows = at..(at + PORTION).min(self.count());
            match self.ensure(windows.clone()).await {
                Ok(written) => owed = written,
                Err(error) if error.kind() == ErrorKind::Corrupt => damaged = damaged.or(Some(error)),
                Err(error) => return Err(error),
            }
            self.job.advance((windows.end * WINDOW * BLOCK).min(self.size) - at * WINDOW * BLOCK);
        }
        damaged.map_or(Ok(()), Err)
    }

    /// Waits while users wait.
    async fn give_way(&self) {
        loop {
            let changed = self.changed.notified();
            if self.lock().users == 0 {
                return;
            }
            changed.await;
        }
    }

    /// Has some windows hold their content; returns how many bytes were written for that.
    async fn ensure(&self, windows: Range<u64>) -> Result<u64> {
        let mut written = 0;
        loop {
            let changed = self.changed.notified();
            let (mine, others) = {
                let mut state = self.lock();
                let missing: Vec<u64> = windows.clone().filter(|w| !state.is_full(*w)).collect();
                let (others, mine): (Vec<u64>, Vec<u64>) = missing.into_iter().partition(|w| state.busy.contains(w));
                state.busy.extend(&mine);
                (mine, !others.is_empty())
            };
            if !mine.is_empty() {
                let claim = Claim { shared: self, windows: mine };
                written += self.bring(&claim.windows).await?;
                claim.filled();
            } else if others {
                changed.await;
            } else {
                return Ok(written);
            }
        }
    }

    /// Writes the content of windows into the holes that they have; returns how many bytes.
    async fn bring(&self, windows: &[u64]) -> Result<u64> {
        let mut wanted: BTreeMap<ChunkId, Vec<(u64, u32, u16)>> = BTreeMap::new();
        for &window in windows {
            let first = window * WINDOW;
            let leaf = self.leaf(first / u64::from(LEAF)).await?;
            for (block, count) in self.holes(first).await? {
                for (at, blocks, content) in parts(&leaf, block % u64::from(LEAF), count) {
                    if let Content::Data { chunk, first } = content {
                        let block = block - block % u64::from(LEAF) + at;
                        wanted.entry(chunk).or_default().push((block, blocks, first));
                    }
                }
            }
        }
        let contents = self.contents(wanted.keys().copied().collect()).await?;
        let writes = wanted.into_iter().flat_map(|(chunk, places)| places.into_iter().map(move |place| (chunk, place)));
        stream::iter(writes)
            .map(|(chunk, place)| self.write(contents.get(&chunk).cloned(), place))
            .buffer_unordered(PORTION as usize)
            .try_fold(0, |sum, written| std::future::ready(Ok(sum + written)))
            .await
    }

    async fn write(&self, content: Option<Arc<Vec<u8>>>, (block, blocks, first): (u64, u32, u16)) -> Result<u64> {
        let from = usize::from(first) * BLOCK as usize;
        let to = from + blocks as usize * BLOCK as usize;
        let Some(bytes) = content.as_ref().and_then(|content| content.get(from..to)) else {
            return Err(corrupt(format!("the map of backup {} refers to more than a chunk has", self.backup.id)));
        };
        let (mut at, mut written) = (0, 0);
        while at < bytes.len() {
            let is_zero = |at: usize| bytes[at..at + BLOCK as usize].iter().all(|byte| *byte == 0);
            if is_zero(at) {
                at += BLOCK as usize;
                continue;
            }
            let mut end = at;
            while end < bytes.len() && !is_zero(end) {
                end += BLOCK as usize;
            }
            let offset = block * BLOCK + at as u64;
            let length = ((end - at) as u64).min(self.size.saturating_sub(offset)) as usize;
            self.volume.write(offset, IoBuf::from(&bytes[at..at + length])).await.map_err(|e| engine(&e))?;
            written += length as u64;
            at = end;
        }
        Ok(written)
    }

    /// What a window lacks, as first blocks and counts.
    async fn holes(&self, first: u64) -> Result<Vec<(u64, u64)>> {
        let (mut next, end) = (Some(first * BLOCK), ((first + WINDOW) * BLOCK).min(self.size));
        let mut holes = Vec::new();
        while let Some(offset) = next.filter(|offset| *offset < end) {
            let page = self.volume.extents(offset, end - offset).await.map_err(|e| engine(&e))?;
            for extent in page.extents.iter().filter(|extent| extent.kind == ExtentKind::Hole) {
                let block = extent.offset / BLOCK;
                holes.push((block, (extent.offset + extent.length).div_ceil(BLOCK) - block));
            }
            next = page.next;
        }
        Ok(holes)
    }

    async fn leaf(&self, number: u64) -> Result<Arc<Leaf>> {
        if let Some(leaf) = self.cache.lock().await.leaves.known.get(&number) {
            return Ok(leaf.clone());
        }
        let mut id = self.map.root;
        for height in (1..=self.map.height).rev() {
            let below = covers(height - 1) / u64::from(LEAF);
            id = read::inner(&self.chunks, &id).await?[(number / below % FANOUT as u64) as usize];
        }
        let leaf = Arc::new(read::leaf(&self.chunks, &id).await?);
        self.cache.lock().await.leaves.put(number, leaf.clone(), LEAVES);
        Ok(leaf)
    }

    async fn contents(&self, ids: Vec<ChunkId>) -> Result<HashMap<ChunkId, Arc<Vec<u8>>>> {
        let (mut found, mut missing) = (HashMap::new(), Vec::new());
        {
            let cache = self.cache.lock().await;
            for id in ids {
                match cache.chunks.known.get(&id) {
                    Some(content) => drop(found.insert(id, content.clone())),
                    None => missing.push((id, ())),
                }
            }
        }
        let (batches, nowhere) = self.chunks.plan(missing).await?;
        if let Some((_, (), Err(error))) = nowhere.into_iter().next() {
            return Err(error);
        }
        let mut brought = stream::iter(batches).map(|batch| self.chunks.fetch(batch)).buffer_unordered(FETCHES);
        while let Some(outcomes) = brought.try_next().await? {
            for (id, (), content) in outcomes {
                let content = Arc::new(content?);
                self.cache.lock().await.chunks.put(id, content.clone(), CHUNKS);
                let _none = found.insert(id, content);
            }
        }
        Ok(found)
    }
}

/// Windows that one task is bringing. Given up half-way, they are anybody's again.
struct Claim<'a> {
    shared: &'a Shared,
    windows: Vec<u64>,
}

impl Claim<'_> {
    fn filled(&self) {
        let mut state = self.shared.lock();
        self.windows.iter().for_each(|window| state.set_full(*window));
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        for window in &self.windows {
            let _was_there = state.busy.remove(window);
        }
        drop(state);
        self.shared.changed.notify_waiters();
    }
}

/// What a part of a leaf holds: first blocks within the leaf, counts, and contents.
fn parts(leaf: &Leaf, first: u64, count: u64) -> Vec<(u64, u32, Content)> {
    let (mut at, end) = (0, first + count);
    let mut found = Vec::new();
    for run in &leaf.runs {
        let (start, stop) = (first.max(at), end.min(at + u64::from(run.blocks)));
        if start < stop {
            found.push((start, (stop - start) as u32, run.content.after((start - at) as u32)));
        }
        at += u64::from(run.blocks);
    }
    found
}
