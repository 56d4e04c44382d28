//! A repository that is open: store, keys, log and index.

use std::{
    collections::{BTreeMap, HashSet},
    fmt, fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
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
    keyring::{Keyring, put_key},
    log::{
        Log, Unwritten,
        packs::{PackName, Packs},
        record::{Backup, Change},
        state::{Refusal, State},
    },
    store::{Put, Store},
};

const IDENTITY: &str = "repo.json";
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
    /// A name for the key that everything is sealed with: keys that lead to another one are left aside. It tells nothing about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master: Option<String>,
}

impl Identity {
    /// It is part of paths in the cache, and whoever writes to the store could put anything there.
    fn is_sound(&self) -> bool {
        self.uuid.len() == 32 && self.uuid.bytes().all(|b| b.is_ascii_hexdigit())
    }
}

struct Inner {
    store: Store,
    identity: Identity,
    keys: Keys,
    log: tokio::sync::Mutex<Log>,
    index: Index,
    /// Held while the index is brought up to date: one that is behind must not take out what another has just added. The record after
    /// which it was complete.
    updating: tokio::sync::Mutex<Option<u64>>,
    /// The last record that the index has noted as seen.
    seen: AtomicU64,
    /// Held by whoever uses the index's marks.
    marking: tokio::sync::Mutex<()>,
    cache: PathBuf,
    /// Sessions of this process.
    live: Mutex<HashSet<String>>,
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
        let mut identity = Identity {
            uuid: new_id(),
            created_ms: now_ms(),
            encrypted: location.secret.is_some(),
            level: options.level,
            master: None,
        };
        if let Some(secret) = &location.secret {
            secret.check()?;
            let master = new_master();
            // What is made at the same time, or was cut off here, leaves a key that leads to another master key.
            identity.master = Some(crypt::master_name(&master));
            put_key(&store, &Wrap::new(&options.key_label, secret, &master)?).await?;
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
        if !identity.is_sound() {
            let text = format!("{} is damaged: {:?} is no identity", store.shown(IDENTITY), identity.uuid);
            return Err(Error::new(ErrorKind::Corrupt, text));
        }
        let keys = match identity.encrypted {
            true => Keys::from_master(&Keyring::read(&store, &identity).await?.master(location.secret.as_ref())?),
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
        has_all_seen(&log, &index, &cache)?;
        let log = tokio::sync::Mutex::new(log);
        let inner = Inner {
            store,
            identity,
            keys,
            log,
            index,
            updating: tokio::sync::Mutex::new(None),
            seen: AtomicU64::new(0),
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

    /// What is kept of it on this machine.
    pub(crate) fn cache(&self) -> &Path {
        &self.inner.cache
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
        self.note_seen(&log);
        Ok(log.state().clone())
    }

    /// Remembers on this machine how far the log went: one that is shorter later has lost something. A note that fails takes nothing away.
    fn note_seen(&self, log: &Log) {
        let state = log.state();
        if self.inner.seen.swap(state.number, Ordering::Relaxed) != state.number {
            drop(self.index().note_seen(state.number, &state.last));
        }
    }

    /// The state as of now, and an index that has all of its packs but those that cannot be read, which are named.
    pub(crate) async fn update(&self) -> Result<(Arc<State>, Vec<(PackName, Error)>)> {
        let mut complete = self.inner.updating.lock().await;
        let state = self.state().await?;
        if *complete == Some(state.number) {
            return Ok((state, Vec::new()));
        }
        let is_own = |session: &str| self.live().contains(session);
        let inner = &self.inner;
        let unreadable = chunks::update_index(&inner.store, &inner.keys, &inner.index, &state, is_own).await?;
        // Packs that cannot be read are looked at again each time.
        *complete = unreadable.is_empty().then_some(state.number);
        Ok((state, unreadable))
    }

    /// What reads chunks, as of now.
    pub(crate) async fn chunks(&self, job: &Job) -> Result<Chunks> {
        let (state, _unreadable) = self.update().await?;
        Ok(Chunks::new(self, state, job))
    }

    /// Writes a change, or says why it is not lawful.
    pub(crate) async fn try_write(&self, session: &str, change: Change) -> Result<Result<u64, Refusal>> {
        let mut log = self.inner.log.lock().await;
        match log.write(session, change, now_ms()).await {
            Ok(number) => {
                self.note_seen(&log);
                Ok(Ok(number))
            }
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
                let text = format!(
                    "another garbage collection of {url} came first, or damage was found there meanwhile: nothing was condemned; run it again"
                );
                Error::new(ErrorKind::InUse, text)
            }
            Refusal::NoSuchPacks => invalid(format!("a record of {url} cannot name so many packs, or such")),
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

    pub(crate) fn live(&self) -> MutexGuard<'_, HashSet<String>> {
        self.inner.live.lock().unwrap_or_else(PoisonError::into_inner)
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

/// Whether the log is still what this machine has seen of it: what was lost at its end leaves no gap.
fn has_all_seen(log: &Log, index: &Index, cache: &Path) -> Result<()> {
    let (Some((number, hash)), state) = (index.seen()?, log.state()) else { return Ok(()) };
    if number < state.number || (number == state.number && hash == state.last) {
        return Ok(());
    }
    let why = format!(
        "the log ends at record {}, and this machine has seen more of it, or another one. If an older state was put back on purpose, \
         delete the cache {} and run `import --all` before garbage is collected",
        state.number,
        cache.display()
    );
    Err(log.lost(number).within(why))
}
