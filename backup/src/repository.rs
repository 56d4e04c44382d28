//! A repository that is open: store, keys, log and index.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use object_store::ObjectStore;
use serde::{Deserialize, Serialize};

use crate::{
    chunks::{self, Chunks},
    crypt::{self, Keys, Secret, Wrap, new_master, to_hex},
    envelope,
    error::{Error, ErrorKind, Result, invalid},
    index::Index,
    job::{Job, now_ms},
    log::{
        Log, Unwritten,
        packs::{PackName, Packs},
        record::{Backup, Change},
        state::{Refusal, State},
    },
    store::{Put, Store},
};

const IDENTITY: &str = "repo.json";
const KEYS: &str = "keys";
/// Of zstd.
const LEVELS: std::ops::RangeInclusive<i32> = 1..=19;

/// Where a repository is, and what opens it.
#[derive(Clone, Debug, Default)]
pub struct Location {
    /// `file:///DIRECTORY`, `s3://BUCKET/PREFIX`, `gs://…`, `az://…`; a path is a directory.
    pub url: String,
    /// Options of the store, as `aws_endpoint`. Those of the environment (`AWS_…`, `GOOGLE_…`, `AZURE_…`) count too.
    pub options: Vec<(String, String)>,
    /// For an encrypted repository.
    pub secret: Option<Secret>,
    /// Where caches of repositories are kept; `None`: under the user's cache directory.
    pub cache: Option<PathBuf>,
}

impl Location {
    /// A repository without encryption, with caches in the usual place.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), ..Self::default() }
    }
}

/// What is chosen when a repository is made.
#[derive(Clone, Debug)]
pub struct InitOptions {
    /// Level of zstd, 1 to 19.
    pub level: i32,
    /// Name of the first key, if the location has a secret.
    pub key_label: String,
}

impl Default for InitOptions {
    fn default() -> Self {
        Self { level: 1, key_label: "first".to_owned() }
    }
}

/// What `repo.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// 32 hexadecimal digits.
    pub uuid: String,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// Whether chunks, maps and records are sealed.
    pub encrypted: bool,
    /// Level of zstd.
    pub level: i32,
}

struct Inner {
    store: Store,
    identity: Identity,
    keys: Keys,
    log: tokio::sync::Mutex<Log>,
    index: Index,
    /// Held while the index is brought up to date: one that is behind must not take out what another has just added.
    updating: tokio::sync::Mutex<()>,
    /// Held by whoever uses the index's marks.
    marking: tokio::sync::Mutex<()>,
    cache: PathBuf,
    /// Sessions of this process.
    live: Mutex<HashSet<String>>,
}

/// A session of this process: others see that it lives. Dropped without having ended, it is taken over by whoever comes next.
pub(crate) struct Alive {
    repository: Repository,
    id: String,
    _locked: File,
}

impl Drop for Alive {
    fn drop(&mut self) {
        let _was_live = self.repository.live().remove(&self.id);
    }
}

/// An open repository. Clones are the same one.
#[derive(Clone)]
pub struct Repository {
    inner: Arc<Inner>,
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Repository({})", self.url())
    }
}

pub(crate) fn new_id() -> String {
    to_hex(&new_master()[..16])
}

/// Who writes, for people.
pub(crate) fn client() -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{} process {}", host.trim(), std::process::id())
}

fn cache_root(location: &Location) -> PathBuf {
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let usual =
        || std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home).unwrap_or_else(std::env::temp_dir);
    location.cache.clone().unwrap_or_else(|| usual().join("cairn/backup"))
}

impl Repository {
    /// Makes a repository at a place that has none, and opens it.
    ///
    /// # Errors
    /// `Exists`, `Invalid` for options or URL, `Store`.
    pub async fn init(location: &Location, options: &InitOptions) -> Result<Self> {
        let store = Store::open(&location.url, &location.options, true)?;
        Self::init_in(store, location, options).await
    }

    /// The same in a store that is open already; the location's URL is what errors call it.
    ///
    /// # Errors
    /// Those of [`Repository::init`].
    pub async fn init_with(store: Arc<dyn ObjectStore>, location: &Location, options: &InitOptions) -> Result<Self> {
        Self::init_in(Store::from_parts(store, &location.url), location, options).await
    }

    async fn init_in(store: Store, location: &Location, options: &InitOptions) -> Result<Self> {
        if !LEVELS.contains(&options.level) {
            return Err(invalid(format!("compression level {} is not one of 1 to 19", options.level)));
        }
        if store.get(IDENTITY).await?.is_some() {
            return Err(Error::new(ErrorKind::Exists, format!("{} is a repository already", store.url())));
        }
        let identity = Identity {
            uuid: new_id(),
            created_ms: now_ms(),
            encrypted: location.secret.is_some(),
            level: options.level,
        };
        if let Some(secret) = &location.secret {
            secret.check()?;
            put_key(&store, &Wrap::new(&options.key_label, secret, &new_master())?).await?;
        }
        let bytes = Bytes::from(envelope::wrap("repository", IDENTITY, &identity, &Keys::none()));
        match store.put_new(IDENTITY, bytes.clone()).await? {
            Put::Done => {}
            Put::Exists if store.get(IDENTITY).await?.as_ref() == Some(&bytes) => {}
            Put::Exists => {
                return Err(Error::new(ErrorKind::Exists, format!("{} became a repository just now", store.url())));
            }
        }
        Self::open_in(store, location).await
    }

    /// Opens a repository: reads its log, and brings the index of chunks up to date.
    ///
    /// # Errors
    /// `NotFound` when there is none, `Key` when the secret does not fit, `Unsupported` for a newer format, `Corrupt` with the name of the
    /// damaged object, `Store`.
    pub async fn open(location: &Location) -> Result<Self> {
        Self::open_in(Store::open(&location.url, &location.options, false)?, location).await
    }

    /// The same in a store that is open already; the location's URL is what errors call it.
    ///
    /// # Errors
    /// Those of [`Repository::open`].
    pub async fn open_with(store: Arc<dyn ObjectStore>, location: &Location) -> Result<Self> {
        Self::open_in(Store::from_parts(store, &location.url), location).await
    }

    async fn open_in(store: Store, location: &Location) -> Result<Self> {
        let Some(bytes) = store.get(IDENTITY).await? else {
            let text = format!("{} is no repository: `cairn backup init` makes one", store.url());
            return Err(Error::new(ErrorKind::NotFound, text));
        };
        let identity: Identity =
            envelope::unwrap("repository", IDENTITY, &store.shown(IDENTITY), &bytes, &Keys::none())?;
        let keys = match identity.encrypted {
            true => {
                let wraps: Vec<Wrap> = read_keys(&store).await?.into_iter().map(|(_, wrap)| wrap).collect();
                Keys::from_master(&crypt::master(&wraps, location.secret.as_ref())?)
            }
            // Whoever can write to the store could put one there that is readable to them.
            false if location.secret.is_some() => {
                let text = format!(
                    "{} is not encrypted, and a key or passphrase was given: is it the right one?",
                    store.url()
                );
                return Err(Error::new(ErrorKind::Key, text));
            }
            false => Keys::none(),
        };
        let log = Log::open(&store, &keys).await?;
        let cache = cache_root(location).join(&identity.uuid);
        let index = Index::open(&cache)?;
        let log = tokio::sync::Mutex::new(log);
        let inner = Inner {
            store,
            identity,
            keys,
            log,
            index,
            updating: tokio::sync::Mutex::new(()),
            marking: tokio::sync::Mutex::new(()),
            cache,
            live: Mutex::default(),
        };
        let repository = Self { inner: Arc::new(inner) };
        let _unreadable = repository.update().await?;
        Ok(repository)
    }

    /// The repository's URL.
    #[must_use]
    pub fn url(&self) -> &str {
        self.inner.store.url()
    }

    /// What it says of itself.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.inner.identity
    }

    pub(crate) fn store(&self) -> &Store {
        &self.inner.store
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.inner.keys
    }

    pub(crate) fn index(&self) -> &Index {
        &self.inner.index
    }

    pub(crate) fn level(&self) -> i32 {
        self.inner.identity.level
    }

    /// The index's marks are this caller's alone until what is answered is dropped; there are none.
    pub(crate) async fn begin_marking(&self) -> Result<tokio::sync::MutexGuard<'_, ()>> {
        let guard = self.inner.marking.lock().await;
        self.index().clear_marks()?;
        Ok(guard)
    }

    // ---- log ----

    /// The state as of now.
    pub(crate) async fn state(&self) -> Result<Arc<State>> {
        let mut log = self.inner.log.lock().await;
        log.refresh().await?;
        Ok(log.state().clone())
    }

    /// The state as of now, and an index that has all of its packs but those that cannot be read, which are named.
    pub(crate) async fn update(&self) -> Result<(Arc<State>, Vec<(PackName, Error)>)> {
        let _one_at_a_time = self.inner.updating.lock().await;
        let state = self.state().await?;
        let is_own = |session: &str| self.live().contains(session);
        let inner = &self.inner;
        let unreadable = chunks::update_index(&inner.store, &inner.keys, &inner.index, &state, is_own).await?;
        Ok((state, unreadable))
    }

    /// What reads chunks, as of now.
    pub(crate) async fn chunks(&self, job: &Job) -> Result<Chunks> {
        let (state, _unreadable) = self.update().await?;
        Ok(Chunks::new(self, state, job))
    }

    /// Writes a change, or says why it is not lawful.
    pub(crate) async fn try_write(&self, session: &str, change: Change) -> Result<Result<u64, Refusal>> {
        match self.inner.log.lock().await.write(session, change, now_ms()).await {
            Ok(number) => Ok(Ok(number)),
            Err(Unwritten::Refused(refusal)) => Ok(Err(refusal)),
            Err(Unwritten::Failed(error)) => Err(error),
        }
    }

    pub(crate) async fn write(&self, session: &str, change: Change) -> Result<u64> {
        self.try_write(session, change).await?.map_err(|refusal| self.explain(&refusal))
    }

    /// A refusal for people.
    pub(crate) fn explain(&self, refusal: &Refusal) -> Error {
        let url = self.url();
        let list = |packs: &Packs| packs.names().take(3).map(|p| p.to_string()).collect::<Vec<_>>().join(", ");
        match refusal {
            Refusal::NoBackup(id) => Error::new(ErrorKind::NotFound, format!("there is no backup {id} in {url}")),
            Refusal::HasChildren { backup, children } => Error::new(
                ErrorKind::InUse,
                format!(
                    "backup {backup} cannot be deleted: {} hang{} on it. Delete them first or with it (--cascade), or `merge` it",
                    children.join(", "),
                    if children.len() == 1 { "s" } else { "" },
                ),
            ),
            Refusal::IsFull(id) => invalid(format!("backup {id} is a full one already")),
            Refusal::Exists(id) => Error::new(ErrorKind::Exists, format!("{id} is in {url} already")),
            Refusal::ParentGone(id) => Error::new(
                ErrorKind::InUse,
                format!("backup {id}, on which the new one was to hang, was deleted meanwhile: run the backup again"),
            ),
            Refusal::PacksGone(packs) => Error::new(
                ErrorKind::InUse,
                format!("packs {} of {url} were deleted meanwhile: try again", list(packs)),
            ),
            Refusal::PacksInUse(packs) => {
                Error::new(ErrorKind::InUse, format!("packs {} of {url} are in use: they are kept", list(packs)))
            }
            Refusal::NotItsPack(pack) => {
                Error::new(ErrorKind::InUse, format!("pack {pack} of {url} belongs to a session that goes on"))
            }
            Refusal::Collected => {
                Error::new(ErrorKind::InUse, format!("another garbage collection of {url} came first: run it again"))
            }
            Refusal::NoSession(id) => Error::new(
                ErrorKind::InUse,
                format!("session {id} was ended by somebody else (gc --end-session): run it again"),
            ),
        }
    }

    // ---- backups ----

    /// All backups, oldest commit first.
    ///
    /// # Errors
    /// `Store`, `Corrupt` when the log is damaged.
    pub async fn backups(&self) -> Result<Vec<Backup>> {
        let state = self.state().await?;
        let mut backups: Vec<Backup> = state.backups.values().cloned().collect();
        backups.sort_by_key(|backup| backup.number);
        Ok(backups)
    }

    /// A backup by its id, or by how that begins.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` when several begin so; those of [`Repository::backups`].
    pub async fn backup(&self, id: &str) -> Result<Backup> {
        find(&*self.state().await?, id, self.url()).cloned()
    }

    // ---- sessions ----

    fn live(&self) -> MutexGuard<'_, HashSet<String>> {
        self.inner.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sessions(&self) -> PathBuf {
        self.inner.cache.join("sessions")
    }

    /// Lets others of this machine see that a session's program runs.
    pub(crate) fn announce(&self, id: &str) -> Result<Alive> {
        let path = self.sessions().join(id);
        let made = fs::create_dir_all(self.sessions()).and_then(|()| File::create(&path)).and_then(|file| {
            file.lock()?;
            Ok(file)
        });
        let locked = made.map_err(|e| Error::new(ErrorKind::Store, format!("cannot write {}: {e}", path.display())))?;
        let _new = self.live().insert(id.to_owned());
        Ok(Alive { repository: self.clone(), id: id.to_owned(), _locked: locked })
    }

    pub(crate) fn forget_session(&self, id: &str) {
        // One that stays is found again, and its session has ended.
        drop(fs::remove_file(self.sessions().join(id)));
    }

    /// Ends the sessions of this machine whose programs are gone, and keeps the packs that they left: whoever runs the same backup again
    /// finds their chunks there.
    pub(crate) async fn take_over_dead_sessions(&self, own: &str) -> Result<()> {
        let Ok(entries) = fs::read_dir(self.sessions()) else { return Ok(()) };
        for entry in entries.flatten() {
            let Ok(id) = entry.file_name().into_string() else { continue };
            if self.live().contains(&id) {
                continue;
            }
            let Ok(file) = File::open(entry.path()) else { continue };
            if file.try_lock().is_err() {
                continue;
            }
            self.take_over(&id, own).await?;
            drop(fs::remove_file(entry.path()));
        }
        Ok(())
    }

    async fn take_over(&self, id: &str, own: &str) -> Result<()> {
        if self.try_write(id, Change::End).await?.is_err() {
            // It has ended, or never began.
            return Ok(());
        }
        let listed = self.store().list(&format!("packs/{id}"), None).await?;
        let state = self.state().await?;
        let mut packs = Packs::default();
        for pack in listed.iter().filter_map(|object| PackName::of_object(&object.name)) {
            let unknown = !state.packs.contains(&pack) && !state.dropped.contains(&pack);
            // One that is not whole is left to the garbage collection.
            if unknown && chunks::footer(self.store(), self.keys(), &pack).await.is_ok() {
                packs.insert(&pack);
            }
        }
        if !packs.is_empty() {
            let _refused = self.try_write(own, Change::Add { packs }).await?;
        }
        Ok(())
    }

    /// Those of some packs that have reached the store.
    pub(crate) fn uploaded(&self, packs: &Packs) -> Result<Packs> {
        let there = packs.names().filter_map(|pack| match self.index().has_pack(&pack) {
            Ok(true) => Some(Ok(pack)),
            Ok(false) => None,
            Err(error) => Some(Err(error)),
        });
        there.collect()
    }

    /// Sessions that have begun and not ended, with who they are.
    ///
    /// # Errors
    /// Those of [`Repository::backups`].
    pub async fn open_sessions(&self) -> Result<BTreeMap<String, String>> {
        Ok(self.state().await?.sessions.clone())
    }

    /// Ends a session whose program is gone: what it uploaded without a backup becomes garbage. If it lives after all, it can commit
    /// nothing any more.
    ///
    /// # Errors
    /// `InUse` when there is no such session, `Store`.
    pub async fn end_session(&self, id: &str) -> Result<()> {
        self.write(id, Change::End).await.map(drop)
    }

    // ---- keys ----

    /// Names of the keys that open it.
    ///
    /// # Errors
    /// `Corrupt`, `Store`.
    pub async fn key_labels(&self) -> Result<Vec<String>> {
        Ok(read_keys(self.store()).await?.into_iter().map(|(_, wrap)| wrap.label).collect())
    }

    /// Adds a passphrase or key. `opening` is one that fits already.
    ///
    /// # Errors
    /// `Invalid` when the repository is not encrypted or the passphrase is short, `Exists` for a label, `Key`, `Store`.
    pub async fn add_key(&self, opening: &Secret, label: &str, secret: &Secret) -> Result<()> {
        secret.check()?;
        let wraps: Vec<Wrap> = read_keys(self.store()).await?.into_iter().map(|(_, wrap)| wrap).collect();
        if !self.identity().encrypted {
            return Err(invalid(format!("{} is not encrypted: a key can be given only when it is made", self.url())));
        }
        if wraps.iter().any(|wrap| wrap.label == label) {
            return Err(Error::new(ErrorKind::Exists, format!("there is a key {label:?} already")));
        }
        let master = crypt::master(&wraps, Some(opening))?;
        put_key(self.store(), &Wrap::new(label, secret, &master)?).await
    }

    /// Takes a key away: it opens the repository no more. Whoever has noted the master key while it did can still read.
    ///
    /// # Errors
    /// `NotFound`, `InUse` for the last one, `Store`.
    pub async fn remove_key(&self, label: &str) -> Result<()> {
        let wraps = read_keys(self.store()).await?;
        let Some((name, _)) = wraps.iter().find(|(_, wrap)| wrap.label == label) else {
            return Err(Error::new(ErrorKind::NotFound, format!("there is no key {label:?}")));
        };
        if wraps.len() == 1 {
            return Err(Error::new(ErrorKind::InUse, format!("{label:?} is the last key: add another one first")));
        }
        self.store().delete(name).await
    }
}

/// A backup of a state by its id, or by how that begins.
pub(crate) fn find<'a>(state: &'a State, id: &str, url: &str) -> Result<&'a Backup> {
    if let Some(backup) = state.backups.get(id) {
        return Ok(backup);
    }
    let mut found =
        state.backups.range(id.to_owned()..).map(|(_, b)| b).take_while(|b| !id.is_empty() && b.id.starts_with(id));
    match (found.next(), found.next()) {
        (Some(backup), None) => Ok(backup),
        (Some(a), Some(b)) => {
            Err(invalid(format!("several backups begin with {id:?}, as {} and {}: give more of the id", a.id, b.id)))
        }
        _ => Err(Error::new(
            ErrorKind::NotFound,
            format!("there is no backup {id:?} in {url}: `cairn backup list` names all"),
        )),
    }
}

async fn put_key(store: &Store, wrap: &Wrap) -> Result<()> {
    let name = format!("{KEYS}/{}", new_id());
    let bytes = Bytes::from(envelope::wrap("key", &name, wrap, &Keys::none()));
    // Nobody else has this name: it is ours also after an answer that was lost.
    store.put_new(&name, bytes).await.map(drop)
}

async fn read_keys(store: &Store) -> Result<Vec<(String, Wrap)>> {
    let mut wraps = Vec::new();
    for object in store.list(KEYS, None).await? {
        if let Some(bytes) = store.get(&object.name).await? {
            let wrap = envelope::unwrap("key", &object.name, &store.shown(&object.name), &bytes, &Keys::none())?;
            wraps.push((object.name, wrap));
        }
    }
    Ok(wraps)
}
