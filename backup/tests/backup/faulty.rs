//! A store in memory that fails as it is told to.

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use futures_util::{StreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, memory::InMemory, path::Path,
};

/// What is to fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    None,
    /// From the change of this number on nothing works any more; that one is done before if `lost`, and its answer is not heard.
    Crash {
        at: u64,
        lost: bool,
    },
    /// The change of this number is not done.
    Once {
        at: u64,
    },
    /// Every so many operations one answers an error that may pass; if `lost`, it is done.
    Now {
        every: u64,
        lost: bool,
    },
    /// Every so many puts one is answered as a conflict, and not done.
    Conflict {
        every: u64,
    },
    /// The next pack loses its last bytes on the way, and the store says that it is there.
    Cut,
    /// There is room for records, and none for packs.
    Full,
    /// Lists leave out the object before the last.
    ListsInMotion,
}

/// A store, and what is to fail there. Errors of a crash are such as nobody tries again.
pub(crate) struct Faulty {
    pub(crate) inner: Arc<InMemory>,
    pub(crate) fault: Mutex<Fault>,
    /// Operations, changes, and puts so far.
    pub(crate) counts: [AtomicU64; 3],
    /// Faults so far.
    pub(crate) faults: AtomicU64,
    /// The put that a crash kept from being done.
    late: Mutex<Option<(Path, PutPayload)>>,
}

enum Verdict {
    Go,
    Fail(Error),
    /// Do it, and answer this.
    Lose(Error),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Put,
    Delete,
}

fn passing() -> Error {
    Error::Generic { store: "faulty", source: "it may pass".into() }
}

fn dead(path: &str) -> Error {
    Error::PermissionDenied { path: path.to_owned(), source: "the power is off".into() }
}

impl Faulty {
    pub(crate) fn new(inner: Arc<InMemory>, fault: Fault) -> Arc<Self> {
        Arc::new(Self {
            inner,
            fault: Mutex::new(fault),
            counts: Default::default(),
            faults: AtomicU64::new(0),
            late: Mutex::default(),
        })
    }

    pub(crate) fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    /// The put that a crash kept from being done arrives after all.
    pub(crate) async fn land(&self) {
        let late = self.late.lock().unwrap().take();
        if let Some((path, payload)) = late {
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            let _there = self.inner.put_opts(&path, payload, options).await;
        }
    }

    pub(crate) fn changes(&self) -> u64 {
        self.counts[1].load(Ordering::SeqCst)
    }

    /// What arrives of an object.
    fn arriving(&self, path: &Path, payload: PutPayload) -> PutPayload {
        let mut fault = self.fault.lock().unwrap();
        if *fault != Fault::Cut || !path.as_ref().starts_with("packs/") {
            return payload;
        }
        *fault = Fault::None;
        let _before = self.faults.fetch_add(1, Ordering::SeqCst);
        let whole = payload.iter().map(AsRef::as_ref).collect::<Vec<&[u8]>>().concat();
        whole[..whole.len() - 100].to_vec().into()
    }

    fn judge(&self, kind: Kind, path: &str) -> Verdict {
        let count = |i: usize, counts: bool| match counts {
            true => self.counts[i].fetch_add(1, Ordering::SeqCst) + 1,
            false => self.counts[i].load(Ordering::SeqCst),
        };
        let (operations, changes, puts) = (count(0, true), count(1, kind != Kind::Read), count(2, kind == Kind::Put));
        let verdict = match *self.fault.lock().unwrap() {
            Fault::Crash { at, lost: true } if changes == at && kind != Kind::Read => Verdict::Lose(dead(path)),
            Fault::Crash { at, .. } if changes >= at => Verdict::Fail(dead(path)),
            Fault::Once { at } if changes == at && kind != Kind::Read => Verdict::Fail(dead(path)),
            Fault::Full if kind == Kind::Put && path.starts_with("packs/") => Verdict::Fail(dead(path)),
            Fault::Now { every, lost } if operations % every == 0 => match lost {
                true => Verdict::Lose(passing()),
                false => Verdict::Fail(passing()),
            },
            Fault::Conflict { every } if kind == Kind::Put && puts % every == 0 => {
                Verdict::Fail(Error::AlreadyExists { path: path.to_owned(), source: "a conflict".into() })
            }
            _ => Verdict::Go,
        };
        if !matches!(verdict, Verdict::Go) {
            let _before = self.faults.fetch_add(1, Ordering::SeqCst);
        }
        verdict
    }

    async fn pass<T>(&self, kind: Kind, path: &str, work: impl Future<Output = Result<T>> + Send) -> Result<T> {
        match self.judge(kind, path) {
            Verdict::Go => work.await,
            Verdict::Fail(error) => Err(error),
            Verdict::Lose(error) => {
                let _unheard = work.await;
                Err(error)
            }
        }
    }
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let payload = self.arriving(path, payload);
        let done = self.pass(Kind::Put, path.as_ref(), self.inner.put_opts(path, payload.clone(), options)).await;
        if let Err(Error::PermissionDenied { .. }) = done {
            let _first = self.late.lock().unwrap().get_or_insert((path.clone(), payload));
        }
        done
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::NotImplemented { operation: "multipart".into(), implementer: "faulty".into() })
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.pass(Kind::Read, path.as_ref(), self.inner.get_opts(path, options)).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let inner = self.inner.clone();
        // The verdict is given when the stream is made: each is one of one path.
        let verdict = self.judge(Kind::Delete, "a delete");
        let verdict = Arc::new(Mutex::new(Some(verdict)));
        paths
            .then(move |path| {
                let (inner, verdict) = (inner.clone(), verdict.clone());
                async move {
                    let path = path?;
                    let verdict = verdict.lock().unwrap().take();
                    match verdict {
                        Some(Verdict::Fail(error)) => return Err(error),
                        Some(Verdict::Lose(error)) => {
                            let _unheard = inner.delete(&path).await;
                            return Err(error);
                        }
                        _ => inner.delete(&path).await?,
                    }
                    Ok(path)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.judge(Kind::Read, "a list") {
            Verdict::Go if *self.fault.lock().unwrap() == Fault::ListsInMotion => {
                let listed = self.inner.list(prefix);
                let some = async move {
                    let mut all: Vec<_> = listed.collect().await;
                    if let Some(last_but_one) = all.len().checked_sub(2) {
                        drop(all.remove(last_but_one));
                    }
                    futures_util::stream::iter(all)
                };
                futures_util::stream::once(some).flatten().boxed()
            }
            Verdict::Go => self.inner.list(prefix),
            // An error in the middle of a list.
            Verdict::Fail(error) | Verdict::Lose(error) => {
                let some = self.inner.list(prefix).take(2);
                some.chain(futures_util::stream::iter([Err(error)])).boxed()
            }
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(Error::NotImplemented { operation: "copy".into(), implementer: "faulty".into() })
    }
}
