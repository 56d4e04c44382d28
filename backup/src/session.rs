//! A session: writes chunks into packs, packs into the repository, and what they are for into the log.

use std::{collections::HashSet, fmt, mem, sync::Arc};

use object_store::PutPayload;
use tokio::task::JoinSet;

use crate::{
    alive::Alive,
    chunk::{ChunkId, Content},
    chunks::Chunks,
    error::{Error, ErrorKind, Result},
    job::Job,
    log::{
        packs::{PackName, Packs},
        record::Change,
        state::Refusal,
    },
    pack::{self, Entry, Kind, Prepared},
    repository::Repository,
};

/// Packs that are under way to the store at the same time.
const UPLOADS: usize = 2;

/// Content that was named and looked up, and compressed if the repository does not have it.
pub(crate) struct Ready {
    pub(crate) id: ChunkId,
    /// The pack that has it, or else the chunk to be stored.
    place: Result<PackName, Prepared>,
}

/// What readies content, on any thread.
#[derive(Clone)]
pub(crate) struct Readier {
    /// That sees what the session has stored.
    chunks: Chunks,
    repository: Repository,
}

impl Readier {
    pub(crate) fn ready(&self, kind: Kind, content: Content) -> Result<Ready> {
        let id = self.repository.keys().name(&content);
        // A copy that is known to be damaged is as good as none: this is how it is healed.
        let copies = self.chunks.copies(&id)?;
        if let Some(copy) = copies.into_iter().find(|copy| !self.chunks.is_damaged(copy)) {
            return Ok(Ready { id, place: Ok(copy.pack) });
        }
        let prepared = Prepared::new(id, kind, content, self.repository.level(), self.repository.keys());
        Ok(Ready { id, place: Err(prepared) })
    }
}

/// A session that has begun. Dropped, it stays open in the log until somebody ends it: the next one of this machine does.
pub(crate) struct Session {
    repository: Repository,
    id: String,
    chunks: Chunks,
    job: Job,
    open: pack::Writer,
    next: u32,
    /// Chunks that are in no finished pack yet.
    pending: Arc<std::sync::Mutex<HashSet<ChunkId>>>,
    uploads: JoinSet<Result<()>>,
    /// The first upload that failed. Chunks that it was to bring were answered as stored, so nothing that may rely on them is recorded.
    failed: Option<Error>,
    pub(crate) new: Packs,
    pub(crate) uses: Packs,
    /// Bytes of content that was stored, data and pages.
    pub(crate) stored_data: u64,
    pub(crate) stored_pages: u64,
    pub(crate) uploaded: u64,
    /// Held while it lives: others of this machine see that it does.
    _alive: Alive,
}

impl Session {
    /// Announces a session. Those of this machine whose programs have ended are ended, and what they left is kept.
    pub(crate) async fn begin(repository: &Repository, job: &Job) -> Result<Self> {
        let id = crate::repository::new_id();
        let alive = repository.announce(&id)?;
        let change = Change::Begin { client: crate::repository::client() };
        repository.write(&id, change).await?;
        repository.take_over_dead_sessions(&id).await?;
        let chunks = repository.chunks(job).await?.with_session(&id);
        let open =
            pack::Writer::new(PackName { session: id.clone(), number: 1 }.to_string(), repository.keys().clone());
        Ok(Self {
            repository: repository.clone(),
            id,
            chunks,
            job: job.clone(),
            open,
            next: 1,
            pending: Arc::default(),
            uploads: JoinSet::new(),
            failed: None,
            new: Packs::default(),
            uses: Packs::default(),
            stored_data: 0,
            stored_pages: 0,
            uploaded: 0,
            _alive: alive,
        })
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// The name that content has or would have.
    pub(crate) fn name(&self, content: &[u8]) -> ChunkId {
        self.repository.keys().name(content)
    }

    pub(crate) fn readier(&self) -> Readier {
        Readier { chunks: self.chunks.clone(), repository: self.repository.clone() }
    }

    /// Reads what the repository has, and what this session has brought to it.
    pub(crate) fn chunks(&self) -> &Chunks {
        &self.chunks
    }

    /// Stores content, unless the repository has it.
    pub(crate) async fn put(&mut self, kind: Kind, content: Vec<u8>) -> Result<ChunkId> {
        let ready = self.readier().ready(kind, Content::Made(content))?;
        self.store(ready).await
    }

    /// Stores what was made ready.
    ///
    /// # Errors
    /// From the first upload that failed on, always that upload's error: never one that a caller could take for damage of what it reads.
    pub(crate) async fn store(&mut self, ready: Ready) -> Result<ChunkId> {
        self.check()?;
        let Ready { id, place } = ready;
        match place {
            Ok(pack) if pack.session == self.id => {}
            Ok(pack) => self.uses.insert(&pack),
            Err(prepared) => {
                let new = self.pending.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(id);
                // The same content twice in what is under way is stored once.
                if new {
                    match prepared.kind {
                        Kind::Data => self.stored_data += u64::from(prepared.length),
                        Kind::Page => self.stored_pages += u64::from(prepared.length),
                    }
                    self.open.add(prepared);
                    if self.open.is_full() {
                        self.close_pack().await?;
                    }
                }
            }
        }
        Ok(id)
    }

    /// Stores content even if other packs have it: those are to go.
    pub(crate) async fn store_again(&mut self, kind: Kind, content: Vec<u8>) -> Result<()> {
        let (id, keys) = (self.name(&content), self.repository.keys());
        let prepared = Prepared::new(id, kind, Content::Made(content), self.repository.level(), keys);
        self.store(Ready { id, place: Err(prepared) }).await.map(drop)
    }

    async fn close_pack(&mut self) -> Result<()> {
        if self.open.is_empty() {
            return Ok(());
        }
        while self.uploads.len() >= UPLOADS {
            self.one_upload().await?;
        }
        let name = PackName { session: self.id.clone(), number: self.next };
        self.next += 1;
        let following = PackName { session: self.id.clone(), number: self.next };
        let next = pack::Writer::new(following.to_string(), self.repository.keys().clone());
        let (parts, entries) = mem::replace(&mut self.open, next).finish();
        let bytes: PutPayload = parts.into_iter().collect();
        self.uploaded += bytes.content_length() as u64;
        self.new.insert(&name);
        let (repository, job, pending) = (self.repository.clone(), self.job.clone(), self.pending.clone());
        let upload = async move {
            upload(&repository, &job, &name, bytes, &entries).await?;
            let mut pending = pending.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            for entry in &entries {
                let _was_there = pending.remove(&entry.id);
            }
            Ok(())
        };
        let _handle = self.uploads.spawn(upload);
        Ok(())
    }

    async fn one_upload(&mut self) -> Result<()> {
        let outcome = match self.uploads.join_next().await {
            Some(Ok(outcome)) => outcome,
            Some(Err(error)) => Err(Error::new(ErrorKind::Store, format!("an upload failed: {error}"))),
            None => Ok(()),
        };
        if let Err(error) = outcome {
            let _first = self.failed.get_or_insert(error);
        }
        self.check()
    }

    /// Whether all that was answered as stored is there, or on its way.
    fn check(&self) -> Result<()> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// Brings everything to the store.
    pub(crate) async fn flush(&mut self) -> Result<()> {
        self.check()?;
        self.close_pack().await?;
        while !self.uploads.is_empty() {
            self.one_upload().await?;
        }
        Ok(())
    }

    /// Writes a change as this session; one that relies on what was stored comes after [`Session::flush`].
    pub(crate) async fn write(&self, change: Change) -> Result<Result<u64, Refusal>> {
        if matches!(change, Change::Commit { .. } | Change::Repack { .. }) {
            self.check()?;
            assert!(self.open.is_empty() && self.uploads.is_empty(), "what is relied on was not brought to the store");
        }
        self.repository.try_write(&self.id, change).await
    }

    /// Nothing more will come. What was uploaded without a backup that needs it is kept for the next attempt if `keep` says so.
    pub(crate) async fn end(mut self, keep: bool) -> Result<()> {
        if keep {
            // Those that fail are simply not there.
            while self.uploads.join_next().await.is_some() {}
            let packs: Packs = self.repository.uploaded(&self.new)?;
            if !packs.is_empty() {
                let _refused = self.write(Change::Add { packs }).await?;
            }
        }
        let _refused = self.write(Change::End).await?;
        self.repository.forget_session(&self.id);
        Ok(())
    }
}

/// Puts a pack, and reads back what it says is in it.
async fn upload(
    repository: &Repository,
    job: &Job,
    name: &PackName,
    bytes: PutPayload,
    entries: &[Entry],
) -> Result<()> {
    job.transfer(bytes.content_length() as u64).await?;
    let store = repository.store();
    // A name that is taken is this very pack: an answer was lost. Whatever is there is read back now.
    let _put = store.put_new(&name.object(), bytes).await?;
    // Nothing that counts is damaged if this fails: callers that go on without what is damaged must not go on without this.
    let not_sent = |why: &dyn fmt::Display| {
        let text = format!(
            "{} is not what was sent there ({why}): try again, and check the store",
            store.shown(&name.object())
        );
        Error::new(ErrorKind::Store, text)
    };
    let there = match crate::chunks::footer(store, repository.keys(), name).await {
        Err(error) if error.kind() != ErrorKind::Store => return Err(not_sent(&error)),
        there => there?,
    };
    if there != entries {
        return Err(not_sent(&"it holds other chunks"));
    }
    repository.index().add(name, entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{InitOptions, Location};

    #[tokio::test]
    async fn after_an_upload_that_failed_nothing_is_stored_or_relied_on() {
        let dir = tempfile::tempdir().unwrap();
        let location =
            Location { url: "memory:".to_owned(), cache: Some(dir.path().to_owned()), ..Location::default() };
        let store = Arc::new(object_store::memory::InMemory::new());
        let repository = Repository::init_with(store, &location, &InitOptions::default()).await.unwrap();
        let job = Job::new();
        let mut session = Session::begin(&repository, &job).await.unwrap();
        let _id = session.put(Kind::Data, vec![7; 4096]).await.unwrap();
        job.cancel();
        let cancelled = |outcome: Result<()>| assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Cancelled);
        cancelled(session.flush().await);
        // It was called stored.
        cancelled(session.put(Kind::Data, vec![7; 4096]).await.map(drop));
        cancelled(session.put(Kind::Data, vec![8; 4096]).await.map(drop));
        cancelled(session.flush().await);
        let repack = Change::Repack { new: session.new.clone(), old: Packs::default(), seen: 1 };
        cancelled(session.write(repack).await.map(drop));
        session.end(true).await.unwrap();
        let state = repository.state().await.unwrap();
        assert!(state.packs.is_empty() && state.sessions.is_empty());
    }
}
