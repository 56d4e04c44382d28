//! The store: any `object_store`, of which only put-if-absent, get, range get, list and delete are used.
//!
//! Errors that may pass are tried again for a while. A put whose answer was lost may have been done: whoever needs to know reads the object
//! back.

use std::{fmt, io, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::{
    GetOptions, GetRange, ObjectStore, ObjectStoreExt, ObjectStoreScheme, PutMode, PutOptions, PutPayload,
    local::LocalFileSystem, path::Path, prefix::PrefixStore,
};
use url::Url;

use crate::error::{Error, ErrorKind, Result, corrupt, invalid};

/// How often an operation is tried.
const TRIES: u32 = 5;
/// Largest object that is read as a whole, in bytes: what is larger is none of ours, and would take the memory.
const LARGEST: u64 = 1 << 30;
/// Before the second try; each further one waits twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Options that users' own take the place of. A request has this time from its beginning to its end, and a pack is one request: so two packs of
/// 32 MiB at a time need an uplink of about 1 Mbit/s. A server that is not there is still told by the time for connecting.
const OPTIONS: [(&str, &str); 2] = [("timeout", "10 minutes"), ("connect_timeout", "5 seconds")];
/// Objects of so many bytes do not stay in the page cache of this machine.
const LARGE: usize = 1 << 20;

/// Whether an object was put, or one of that name was there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Put {
    Done,
    /// There is an object of this name. After an answer that was lost it may be the one that was to be put.
    Exists,
}

/// An object in a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) size: u64,
}

/// All objects of one repository. Clones are the same store.
#[derive(Clone)]
pub(crate) struct Store {
    inner: Arc<dyn ObjectStore>,
    /// What is in front of each name, for errors.
    url: String,
    /// Of a store in the file system.
    directory: Option<PathBuf>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.url)
    }
}

impl Store {
    /// The store at a URL: `file:///directory`, `s3://bucket/prefix`, `gs://…`, `az://…`. Options are those of `object_store`, as
    /// `aws_endpoint`; for a directory, `create` makes it.
    pub(crate) fn open(url: &str, options: &[(String, String)], create: bool) -> Result<Self> {
        let parsed = match url.strip_prefix('/') {
            Some(_) => Url::from_directory_path(url).map_err(|()| invalid(format!("{url} is no path of a directory"))),
            None => Url::parse(url).map_err(|e| {
                invalid(format!("{url} is no URL of a repository ({e}): use file:///DIRECTORY or s3://BUCKET/PREFIX"))
            }),
        }?;
        if let Ok((ObjectStoreScheme::Local, _)) = ObjectStoreScheme::parse(&parsed) {
            return Self::local(&parsed, url, create);
        }
        let (store, prefix) = object_store::parse_url_opts(&parsed, all_options(std::env::vars(), options))
            .map_err(|e| invalid(format!("{url} cannot be used as a repository: {e}")))?;
        Ok(Self {
            inner: Arc::new(PrefixStore::new(store, prefix)),
            url: url.trim_end_matches('/').to_owned(),
            directory: None,
        })
    }

    fn local(parsed: &Url, url: &str, create: bool) -> Result<Self> {
        let directory = parsed.to_file_path().map_err(|()| invalid(format!("{url} names no directory")))?;
        if create {
            std::fs::create_dir_all(&directory)
                .map_err(|e| Error::new(ErrorKind::Store, format!("cannot make {}: {e}", directory.display())))?;
        }
        let store = LocalFileSystem::new_with_prefix(&directory).map_err(|e| {
            Error::new(ErrorKind::NotFound, format!("{} cannot be used as a repository: {e}", directory.display()))
        })?;
        // Without it a power cut could take what was committed.
        let store = store.with_fsync(true);
        Ok(Self { inner: Arc::new(store), url: url.trim_end_matches('/').to_owned(), directory: Some(directory) })
    }

    /// A store that is open already: in memory, or one that fails as a test wants it to.
    pub(crate) fn from_parts(inner: Arc<dyn ObjectStore>, url: &str) -> Self {
        Self { inner, url: url.to_owned(), directory: None }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// An object's name, as errors say it.
    pub(crate) fn shown(&self, name: &str) -> String {
        format!("{}/{name}", self.url)
    }

    fn failed(&self, what: &str, name: &str, error: &object_store::Error) -> Error {
        let kind = match error {
            object_store::Error::NotFound { .. } => ErrorKind::NotFound,
            _ => ErrorKind::Store,
        };
        Error::new(kind, format!("cannot {what} {}/{name}: {error}", self.url))
    }

    /// Puts an object unless there is one of its name.
    pub(crate) async fn put_new(&self, name: &str, bytes: impl Into<PutPayload>) -> Result<Put> {
        let (path, bytes) = (Path::from(name), bytes.into());
        let mut tries = 0;
        loop {
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            tries += 1;
            match self.inner.put_opts(&path, bytes.clone(), options).await {
                Ok(_) => {
                    // The try before may have made directories that are not on disk.
                    if tries > 1 {
                        self.sync(name).await?;
                    }
                    self.leave_cache(name, bytes.content_length()).await;
                    return Ok(Put::Done);
                }
                Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                    // Some stores answer so to a conflict of two puts, too, though neither has landed.
                    if self.head(name).await?.is_some() {
                        self.sync(name).await?;
                        return Ok(Put::Exists);
                    }
                    if tries >= TRIES {
                        let text =
                            format!("{}/{name} cannot be put: the store calls it taken, and has it not", self.url);
                        return Err(Error::new(ErrorKind::Store, text));
                    }
                }
                Err(error) if tries >= TRIES || !may_pass(&error) => return Err(self.failed("put", name, &error)),
                Err(_) => {}
            }
            wait(tries).await;
        }
    }

    /// Brings to disk that an object is where it is. A put that failed may have failed at just that, and the next finds the object there.
    pub(crate) async fn sync(&self, name: &str) -> Result<()> {
        let Some(root) = self.directory.clone() else { return Ok(()) };
        let path = root.join(name);
        let sync = move || {
            let directories = path.ancestors().skip(1).take_while(|directory| directory.starts_with(&root));
            directories.into_iter().try_for_each(|directory| {
                std::fs::File::open(directory)
                    .and_then(|directory| directory.sync_all())
                    .map_err(|e| Error::new(ErrorKind::Store, format!("cannot sync {}: {e}", directory.display())))
            })
        };
        blocking(sync).await
    }

    /// Files of puts that did not come to their end, of objects two levels below a directory. Lists leave them out, and nothing else takes
    /// them away. Only a local directory has such.
    pub(crate) async fn cut_off(&self, directory: &str) -> Result<Vec<CutOff>> {
        let Some(root) = self.directory.clone() else { return Ok(Vec::new()) };
        let name = directory.to_owned();
        blocking(move || {
            let failed = |e| Error::new(ErrorKind::Store, format!("cannot list {}: {e}", root.join(&name).display()));
            cut_off(&root, &name).map_err(failed)
        })
        .await
    }

    /// Takes a large object that is on disk out of the page cache: the memory of a host of VMs is for other things, and the next pack is
    /// written into pages that are at hand.
    async fn leave_cache(&self, name: &str, length: usize) {
        let Some(directory) = self.directory.as_ref().filter(|_| length >= LARGE) else { return };
        let path = directory.join(name);
        let advise = move || -> std::io::Result<()> {
            let file = std::fs::File::open(path)?;
            Ok(rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?)
        };
        // It is no more than advice.
        let _advised = tokio::task::spawn_blocking(advise).await;
    }

    /// The whole object; `None` if there is none.
    pub(crate) async fn get(&self, name: &str) -> Result<Option<Bytes>> {
        self.read(name, GetOptions::default()).await
    }

    /// A part of an object that is there.
    pub(crate) async fn get_range(&self, name: &str, offset: u64, len: u64) -> Result<Bytes> {
        let range = GetRange::Bounded(offset..offset.saturating_add(len));
        let bytes = self.read(name, GetOptions { range: Some(range), ..GetOptions::default() }).await?;
        self.present(name, bytes)
    }

    /// Size of an object that is there, in bytes.
    pub(crate) async fn size(&self, name: &str) -> Result<u64> {
        let size = self.head(name).await?;
        self.present(name, size)
    }

    async fn head(&self, name: &str) -> Result<Option<u64>> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.inner.head(&Path::from(name)).await {
                Ok(meta) => return Ok(Some(meta.size)),
                Err(object_store::Error::NotFound { .. }) => return Ok(None),
                Err(error) if tries >= TRIES || !may_pass(&error) => return Err(self.failed("look at", name, &error)),
                Err(_) => wait(tries).await,
            }
        }
    }

    fn present<T>(&self, name: &str, found: Option<T>) -> Result<T> {
        found.ok_or_else(|| Error::new(ErrorKind::Corrupt, format!("{}/{name} is missing", self.url)))
    }

    async fn read(&self, name: &str, options: GetOptions) -> Result<Option<Bytes>> {
        let path = Path::from(name);
        let mut tries = 0;
        loop {
            tries += 1;
            let got = match self.inner.get_opts(&path, options.clone()).await {
                Ok(result) if options.range.is_none() && result.meta.size > LARGEST => {
                    let size = result.meta.size;
                    return Err(corrupt(format!(
                        "{}/{name} has {size} bytes, more than any object of its kind",
                        self.url
                    )));
                }
                Ok(result) => result.bytes().await,
                Err(error) => Err(error),
            };
            match got {
                Ok(bytes) => return Ok(Some(bytes)),
                Err(object_store::Error::NotFound { .. }) => return Ok(None),
                Err(error) => {
                    // Stores call that an error like any other.
                    if let Some(GetRange::Bounded(range)) = &options.range
                        && matches!(self.inner.head(&path).await, Ok(meta) if meta.size <= range.start)
                    {
                        let text = format!("{}/{name} is cut short: it ends before byte {}", self.url, range.start);
                        return Err(Error::new(ErrorKind::Corrupt, text));
                    }
                    if tries >= TRIES || !may_pass(&error) {
                        return Err(self.failed("read", name, &error));
                    }
                    wait(tries).await;
                }
            }
        }
    }

    /// All objects whose names begin with a directory, in order of their names; `after` leaves out those up to a name. An error anywhere is
    /// an error: half a list is none.
    pub(crate) async fn list(&self, directory: &str, after: Option<&str>) -> Result<Vec<Listed>> {
        let prefix = Path::from(directory);
        let mut tries = 0;
        loop {
            tries += 1;
            let stream = match after {
                Some(after) => self.inner.list_with_offset(Some(&prefix), &Path::from(after)),
                None => self.inner.list(Some(&prefix)),
            };
            let listed = stream.map_ok(|meta| Listed { name: meta.location.to_string(), size: meta.size });
            match listed.try_collect::<Vec<_>>().await {
                Ok(mut all) => {
                    all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
                    return Ok(all);
                }
                Err(error) if tries >= TRIES || !may_pass(&error) => {
                    return Err(self.failed("list", directory, &error));
                }
                Err(_) => wait(tries).await,
            }
        }
    }

    /// Deletes an object. One that is not there is as good as deleted.
    pub(crate) async fn delete(&self, name: &str) -> Result<()> {
        let path = Path::from(name);
        let mut tries = 0;
        loop {
            tries += 1;
            match self.inner.delete(&path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => return Ok(()),
                Err(error) if tries >= TRIES || !may_pass(&error) => return Err(self.failed("delete", name, &error)),
                Err(_) => wait(tries).await,
            }
        }
    }
}

/// A file that was to become an object.
pub(crate) struct CutOff {
    path: PathBuf,
    pub(crate) object: String,
}

impl CutOff {
    /// One that is not there is as good as deleted.
    pub(crate) fn delete(self) -> Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(Error::new(ErrorKind::Store, format!("cannot delete {}: {e}", self.path.display())))
            }
            _ => Ok(()),
        }
    }
}

fn cut_off(root: &std::path::Path, directory: &str) -> io::Result<Vec<CutOff>> {
    let mut found = Vec::new();
    for below in entries(&root.join(directory))? {
        // Sessions' directories; a file among them is none of ours.
        if !below.file_type()?.is_dir() {
            continue;
        }
        for file in entries(&below.path())? {
            let (Ok(below), Ok(name)) = (below.file_name().into_string(), file.file_name().into_string()) else {
                continue;
            };
            // As `object_store` names them.
            if let Some((object, number)) = name.split_once('#')
                && !number.is_empty()
                && number.bytes().all(|b| b.is_ascii_digit())
            {
                found.push(CutOff { path: file.path(), object: format!("{directory}/{below}/{object}") });
            }
        }
    }
    Ok(found)
}

/// What is in a directory: nothing, if it is not there.
fn entries(directory: &std::path::Path) -> io::Result<Vec<std::fs::DirEntry>> {
    match std::fs::read_dir(directory) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.collect(),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let worker = tokio::task::spawn_blocking(work);
    worker.await.map_err(|e| Error::new(ErrorKind::Store, format!("a worker failed: {e}")))?
}

/// Options of a store, those that count last: what is set here, what the environment says, what the user gave.
fn all_options(
    environment: impl Iterator<Item = (String, String)>,
    options: &[(String, String)],
) -> Vec<(String, String)> {
    let ours = OPTIONS.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let environment = environment.filter(|(key, _)| is_store_option(key));
    let environment = environment.map(|(key, value)| (key.to_ascii_lowercase(), value));
    ours.into_iter().chain(environment).chain(options.iter().cloned()).collect()
}

/// Variables of the environment that `object_store` has options for.
fn is_store_option(key: &str) -> bool {
    ["AWS_", "GOOGLE_", "AZURE_"].iter().any(|prefix| key.starts_with(prefix))
}

/// Whether another try may succeed. The clients of `object_store` have tried connections again themselves by then.
fn may_pass(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::Generic { .. } | object_store::Error::JoinError { .. })
}

async fn wait(tries: u32) {
    tokio::time::sleep(FIRST_WAIT * 2u32.saturating_pow(tries - 1)).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::{
        ClientConfigKey,
        aws::{AmazonS3Builder, AmazonS3ConfigKey},
    };

    #[tokio::test]
    async fn what_a_put_finds_there_counts_only_once_its_directories_are_on_disk() {
        let (dir, inner) = (tempfile::tempdir().unwrap(), Arc::new(object_store::memory::InMemory::new()));
        // The object is there, as after a put that failed at its last step.
        let _put = inner.put(&Path::from("log/1"), "record".into()).await.unwrap();
        let store = Store { directory: Some(dir.path().to_owned()), ..Store::from_parts(inner, "file:///test") };
        let error = store.put_new("log/1", "record").await.unwrap_err();
        assert!(error.kind() == ErrorKind::Store && error.to_string().starts_with("cannot sync"), "{error}");
        std::fs::create_dir(dir.path().join("log")).unwrap();
        assert_eq!(store.put_new("log/1", "record").await.unwrap(), Put::Exists);
    }

    /// The request timeout of a store that is given these options.
    fn timeouts(options: &[(&str, &str)]) -> [Option<String>; 2] {
        let owned =
            |all: &[(&str, &str)]| all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Vec<_>>();
        let environment = owned(&[("AWS_TIMEOUT", "7 minutes"), ("TIMEOUT", "1 second")]);
        let from_environment = if options.is_empty() { Vec::new() } else { environment };
        let all = all_options(from_environment.into_iter(), &owned(options));
        let builder = all.into_iter().fold(AmazonS3Builder::new(), |builder, (key, value)| {
            builder.with_config(key.parse::<AmazonS3ConfigKey>().unwrap(), value)
        });
        [ClientConfigKey::Timeout, ClientConfigKey::ConnectTimeout]
            .map(|key| builder.get_config_value(&AmazonS3ConfigKey::Client(key)))
    }

    #[test]
    fn a_pack_has_minutes_to_arrive_unless_the_user_says_otherwise() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(timeouts(&[]), [some("10 minutes"), some("5 seconds")]);
        assert_eq!(timeouts(&[("region", "here")]), [some("7 minutes"), some("5 seconds")]);
        assert_eq!(timeouts(&[("timeout", "2 minutes")]), [some("2 minutes"), some("5 seconds")]);
    }
}
