//! Reading chunks: from whichever pack has them whole.

use std::{
    borrow::Cow,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use futures_util::{TryStreamExt, stream};

use crate::{
    chunk::ChunkId,
    crypt::Keys,
    error::{Error, ErrorKind, Result, corrupt},
    index::{Index, Located},
    job::Job,
    log::{
        packs::PackName,
        state::{PackState, State},
    },
    pack::{self, Entry, Kind, TAIL, Tail},
    repository::Repository,
    store::Store,
};

/// Read of a pack's end at once: the footers of most packs, whole.
const END: u64 = 64 << 10;
/// Footers that are read at the same time.
const FOOTERS: usize = 16;
/// Looks for a chunk while garbage collections move it.
const ATTEMPTS: u32 = 5;
/// Stored chunks of one pack that lie no further apart are read in one request.
const GAP: u32 = 64 << 10;
/// Longest request.
const LONGEST_READ: u32 = 2 << 20;
/// Most content that one request brings: what compresses well is much more than what is read.
const LONGEST_CONTENT: u32 = 8 << 20;

/// Reads chunks, as the log stood when it was made, or later. Clones share everything.
#[derive(Clone)]
pub(crate) struct Chunks {
    repository: Repository,
    state: Arc<Mutex<Arc<State>>>,
    job: Job,
    /// Its packs are seen, too.
    session: Option<String>,
}

/// Chunks of one pack that one request brings.
pub(crate) struct Batch<T> {
    pack: PackName,
    range: Range<u32>,
    /// Bytes, decoded.
    content: u32,
    wanted: Vec<(Entry, T)>,
}

/// Requests, and chunks that no pack has.
pub(crate) type Plan<T> = (Vec<Batch<T>>, Vec<Outcome<T>>);

/// What reading some chunks of a pack came to.
#[derive(Default)]
pub(crate) struct PackRead {
    pub(crate) chunks: u64,
    /// Of content.
    pub(crate) bytes: u64,
    pub(crate) damaged: Vec<(ChunkId, Error)>,
}

/// The content of a chunk, or why there is none.
pub(crate) type Outcome<T> = (ChunkId, T, Result<Vec<u8>>);

impl Chunks {
    pub(crate) fn new(repository: &Repository, state: Arc<State>, job: &Job) -> Self {
        let state = Arc::new(Mutex::new(state));
        Self { repository: repository.clone(), state, job: job.clone(), session: None }
    }

    /// The same for a session: packs that it has stored, and not committed yet, are seen.
    pub(crate) fn with_session(self, session: &str) -> Self {
        Self { session: Some(session.to_owned()), ..self }
    }

    pub(crate) fn state(&self) -> Arc<State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The name of some content.
    pub(crate) fn name(&self, content: &[u8]) -> ChunkId {
        self.repository.keys().name(content)
    }

    /// Packs that hold a chunk and that backups may rely on: those known to be damaged last, before them those about to be deleted.
    pub(crate) fn copies(&self, id: &ChunkId) -> Result<Vec<Located>> {
        let state = self.state();
        let mut copies = self.repository.index().find(id)?;
        copies.retain(|c| self.session.as_ref() == Some(&c.pack.session) || state.packs.contains(&c.pack));
        if copies.len() > 1 {
            copies.sort_by_cached_key(|c| (is_damaged(&state, c), is_condemned(&state, &c.pack), c.pack.clone()));
        }
        Ok(copies)
    }

    pub(crate) fn is_damaged(&self, copy: &Located) -> bool {
        is_damaged(&self.state(), copy)
    }

    /// The content of a chunk.
    pub(crate) async fn get(&self, id: &ChunkId) -> Result<Vec<u8>> {
        let mut attempt = 1;
        loop {
            let seen = self.state().number;
            match self.any_copy(id, None).await {
                // A garbage collection may have moved it to another pack since.
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    if attempt >= ATTEMPTS || !self.look_again(seen).await? {
                        return Err(error);
                    }
                }
                other => return other,
            }
            attempt += 1;
        }
    }

    /// Reads the log again; says whether it has gone on since it was `seen`. Clones may have looked meanwhile.
    async fn look_again(&self, seen: u64) -> Result<bool> {
        if self.repository.state().await?.number == seen {
            return Ok(false);
        }
        let (new, _unreadable) = self.repository.update().await?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if new.number > state.number {
            *state = new;
        }
        Ok(true)
    }

    /// A chunk from any pack but one, which has failed already.
    async fn any_copy(&self, id: &ChunkId, failed: Option<(&PackName, Error)>) -> Result<Vec<u8>> {
        let (failed_pack, mut failure) = failed.unzip();
        for copy in self.copies(id)? {
            if Some(&copy.pack) == failed_pack {
                continue;
            }
            match self.read(&copy).await {
                Ok(content) => return Ok(content),
                Err(error) if error.kind() == ErrorKind::Corrupt => failure = failure.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        Err(failure.unwrap_or_else(|| self.nowhere(id)))
    }

    pub(crate) fn nowhere(&self, id: &ChunkId) -> Error {
        corrupt(format!("chunk {id} is in no pack of {} that can be read", self.repository.url()))
    }

    /// One copy of a chunk.
    pub(crate) async fn read(&self, copy: &Located) -> Result<Vec<u8>> {
        let entry = copy.entry;
        self.job.transfer(u64::from(entry.stored)).await?;
        let stored =
            self.repository.store().get_range(&copy.pack.object(), entry.offset.into(), entry.stored.into()).await?;
        pack::content(&copy.pack.to_string(), &entry, &stored, self.repository.keys()).map(Cow::into_owned)
    }

    /// Reads chunks of one pack for nothing but to see whether they are whole.
    pub(crate) async fn read_pack(&self, pack: &PackName, wanted: &[Located], job: &Job) -> Result<PackRead> {
        let mut read = PackRead::default();
        let mut rest = wanted;
        while let Some(first) = rest.first() {
            let start = first.entry.offset;
            let end = |copy: &Located| copy.entry.offset + copy.entry.stored;
            let together = rest.iter().take_while(|copy| end(copy) - start <= LONGEST_READ).count().max(1);
            let (some, more) = rest.split_at(together);
            rest = more;
            let length = some.iter().map(end).max().unwrap_or(start) - start;
            job.transfer(length.into()).await?;
            let stored = self.repository.store().get_range(&pack.object(), start.into(), length.into()).await;
            let stored = match stored {
                Err(error) if error.kind() != ErrorKind::Corrupt => return Err(error),
                other => other,
            };
            let (entries, keys, name) =
                (some.iter().map(|c| c.entry).collect::<Vec<_>>(), self.repository.keys().clone(), pack.to_string());
            let worker = tokio::task::spawn_blocking(move || {
                let whole = |entry: &Entry| match &stored {
                    Ok(stored) => pack::content(&name, entry, slice(stored, start, entry), &keys).map(drop),
                    Err(error) => Err(error.clone()),
                };
                entries.into_iter().map(|entry| (entry, whole(&entry))).collect::<Vec<_>>()
            });
            let outcomes = worker.await.map_err(|e| Error::new(ErrorKind::Store, format!("a worker failed: {e}")))?;
            for (entry, outcome) in outcomes {
                read.chunks += 1;
                read.bytes += u64::from(entry.length);
                if entry.kind == Kind::Data {
                    job.advance(entry.length.into());
                }
                read.damaged.extend(outcome.err().map(|error| (entry.id, error)));
            }
        }
        Ok(read)
    }

    /// Requests that bring some chunks, as few as need be, in order of their packs. Each chunk is named once.
    pub(crate) async fn plan<T>(&self, wanted: impl IntoIterator<Item = (ChunkId, T)>) -> Result<Plan<T>> {
        let mut located = Vec::new();
        let mut wanted: Vec<(ChunkId, T)> = wanted.into_iter().collect();
        for _attempt in 0..ATTEMPTS {
            let seen = self.state().number;
            let mut missing = Vec::new();
            for (id, what) in wanted {
                match self.copies(&id)?.into_iter().next() {
                    Some(copy) => located.push((copy, what)),
                    None => missing.push((id, what)),
                }
            }
            wanted = missing;
            // A garbage collection may have moved them.
            if wanted.is_empty() || !self.look_again(seen).await? {
                break;
            }
        }
        let missing = wanted.into_iter().map(|(id, what)| (id, what, Err(self.nowhere(&id)))).collect();
        located.sort_by(|(a, _), (b, _)| (&a.pack, a.entry.offset).cmp(&(&b.pack, b.entry.offset)));
        let mut batches: Vec<Batch<T>> = Vec::new();
        for (copy, what) in located {
            let range = copy.entry.offset..copy.entry.offset + copy.entry.stored;
            match batches.last_mut() {
                Some(last)
                    if last.pack == copy.pack
                        && range.start.saturating_sub(last.range.end) <= GAP
                        && range.end - last.range.start <= LONGEST_READ
                        && last.content + copy.entry.length <= LONGEST_CONTENT =>
                {
                    last.content += copy.entry.length;
                    last.range.end = last.range.end.max(range.end);
                    last.wanted.push((copy.entry, what));
                }
                _ => batches.push(Batch {
                    pack: copy.pack,
                    range,
                    content: copy.entry.length,
                    wanted: vec![(copy.entry, what)],
                }),
            }
        }
        Ok((batches, missing))
    }

    /// What one request brings. A chunk that is damaged here is looked for elsewhere.
    pub(crate) async fn fetch<T: Send + 'static>(&self, batch: Batch<T>) -> Result<Vec<Outcome<T>>> {
        let Batch { pack, range, wanted, .. } = batch;
        let length = range.end - range.start;
        self.job.transfer(length.into()).await?;
        let stored = self.repository.store().get_range(&pack.object(), range.start.into(), length.into()).await;
        let (keys, name) = (self.repository.keys().clone(), pack.to_string());
        let decoded = tokio::task::spawn_blocking(move || {
            let content = |entry: &Entry| match &stored {
                Ok(stored) => {
                    pack::content(&name, entry, slice(stored, range.start, entry), &keys).map(Cow::into_owned)
                }
                Err(error) => Err(error.clone()),
            };
            wanted.into_iter().map(|(entry, what)| (entry.id, what, content(&entry))).collect::<Vec<_>>()
        });
        let mut outcomes = decoded.await.map_err(|e| Error::new(ErrorKind::Store, format!("a worker failed: {e}")))?;
        for (id, _, content) in &mut outcomes {
            if let Err(error) = content {
                self.job.check()?;
                *content = match self.any_copy(id, Some((&pack, error.clone()))).await {
                    Err(error) if error.kind() == ErrorKind::Corrupt => self.get(id).await,
                    other => other,
                };
            }
        }
        Ok(outcomes)
    }
}

fn is_damaged(state: &State, copy: &Located) -> bool {
    !state.damaged.is_empty() && state.is_damaged(&copy.pack, &copy.entry.id.to_string())
}

fn is_condemned(state: &State, pack: &PackName) -> bool {
    matches!(state.packs.get(pack), Some(PackState { condemned: Some(_), .. }))
}

/// The stored bytes of a chunk within what was read from `start` on; fewer, if fewer came.
fn slice<'a>(bytes: &'a Bytes, start: u32, entry: &Entry) -> &'a [u8] {
    let from = (entry.offset - start) as usize;
    bytes.get(from..from + entry.stored as usize).unwrap_or_default()
}

/// What a pack says is in it.
pub(crate) async fn footer(store: &Store, keys: &Keys, pack: &PackName) -> Result<Vec<Entry>> {
    let (object, name) = (pack.object(), pack.to_string());
    let size = store.size(&object).await?;
    let mut at = size.saturating_sub(END);
    let mut end = store.get_range(&object, at, size - at).await?;
    let tail = Tail::decode(&name, &end[end.len().saturating_sub(TAIL)..], size)?;
    let need = u64::from(tail.footer) + TAIL as u64;
    if need > size - at {
        at = size - need;
        end = store.get_range(&object, at, need).await?;
    }
    let footer_at = (size - need - at) as usize;
    let footer = end.get(footer_at..end.len().saturating_sub(TAIL));
    tail.entries(&name, footer.unwrap_or_default(), size, keys)
}

/// Brings the index up to date with the log: packs that came are read, packs that went are taken out. Packs that cannot be read are left
/// out, and named.
pub(crate) async fn update_index(
    store: &Store,
    keys: &Keys,
    index: &Index,
    state: &State,
    is_own: impl Fn(&str) -> bool,
) -> Result<Vec<(PackName, Error)>> {
    for pack in index.packs()? {
        if !state.packs.contains(&pack) && !is_own(&pack.session) {
            index.remove(&pack)?;
        }
    }
    let missing = state.packs.names().filter_map(|pack| match index.has_pack(&pack) {
        Ok(true) => None,
        Ok(false) => Some(Ok(pack)),
        Err(error) => Some(Err(error)),
    });
    stream::iter(missing)
        .map_ok(|pack| async move {
            let entries = footer(store, keys, &pack).await;
            Ok((pack, entries))
        })
        .try_buffer_unordered(FOOTERS)
        .try_fold(Vec::new(), |mut unreadable, (pack, entries)| async move {
            match entries {
                Ok(entries) => index.add(&pack, &entries)?,
                Err(error) if error.kind() == ErrorKind::Corrupt => unreadable.push((pack, error)),
                // The store does not answer: an index with holes would call sound backups damaged.
                Err(error) => return Err(error),
            }
            Ok(unreadable)
        })
        .await
}
