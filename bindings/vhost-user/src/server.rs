//! The handle of a server, for any thread.

use crate::{
    client::{Directory, ExportInfo},
    list::List,
    options::Options,
    serving::Serving,
};
use cairn_engine::{Error, ErrorKind, Pool, Result, Target};
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

static NEXT_SERVER: AtomicU64 = AtomicU64::new(1);

/// A vhost-user-blk server on a pool's reactor: a directory of sockets, one for each volume or snapshot that is exported.
///
/// The handle can be used on any thread. Dropping it does not stop the server: [`stop`](Self::stop) does, and so does closing the pool.
///
/// ```no_run
/// # async fn example() -> cairn_engine::Result<()> {
/// let pool = cairn_engine::Pool::open("pool.cairn", cairn_engine::OpenOptions::new()).await?;
/// let server = cairn_vhost_user::Server::start(&pool, "/run/cairn/vhost", Default::default()).await?;
/// let socket = server.export("db").await?;
/// println!("-chardev socket,id=db,path={},reconnect=1 -device vhost-user-blk-pci,chardev=db", socket.display());
/// server.stop().await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Server {
    id: u64,
    pool: Pool,
    place: PathBuf,
    directory: Arc<Directory>,
}

impl Server {
    /// Starts a server whose sockets are in `directory`, which is made if it is not there. There are none yet: see
    /// [`export`](Self::export). Whoever can connect to a socket can read and write its volume: the directory should be
    /// accessible to nobody else. One that is made here is accessible to its owner only.
    ///
    /// The directory also keeps a list of the exports, for [`restore`](Self::restore).
    ///
    /// # Errors
    /// `Invalid` for options that cannot work and for a directory that is used for another pool, `Closed` when the pool is; otherwise what the
    /// system says of the directory, or of asynchronous I/O (`fs.aio-max-nr`), by which drivers are called.
    pub async fn start(pool: &Pool, directory: impl AsRef<Path>, options: Options) -> Result<Self> {
        options.validate()?;
        let place = directory.as_ref().to_owned();
        let failed = |e| Error::io(format!("directory {}", place.display()), e);
        if !place.is_dir() {
            use std::os::unix::fs::DirBuilderExt;
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&place).map_err(failed)?;
        }
        let list = Arc::new(List::open(&place, pool.stats().await?.uuid)?);
        let server = Self {
            id: NEXT_SERVER.fetch_add(1, Ordering::Relaxed),
            pool: pool.clone(),
            place: place.clone(),
            directory: Arc::default(),
        };
        let (id, directory) = (server.id, Arc::clone(&server.directory));
        let started = pool.run(move |local| async move {
            // Rather now than when the first driver is to be called.
            local.reactor().prepare_events().map_err(|e| Error::io("drivers cannot be called", e))?;
            Serving::start(id, local, place, options, directory, list);
            Ok(())
        });
        started.await.flatten().map(|()| server)
    }

    /// Makes the socket of a volume, or of `volume@snapshot` for reading: `NAME.sock`. One that is there already stays. One that a
    /// killed server left behind is replaced; one that is in use is not. Returns where it is.
    ///
    /// The volume is open only while a front-end is connected. One front-end can be at a time; further ones are turned away. The socket
    /// serves this volume or snapshot for as long as it exists, also when it is renamed; then the socket keeps its name.
    ///
    /// # Errors
    /// `NotFound` when there is no such volume, `Busy` when another server listens on the socket (or it is just being removed), `Exists` when
    /// something else is in its place or the socket serves a volume that had this name, `Invalid` for a path that is too long, `Closed` when
    /// server or pool have stopped; what the system says of the list of exports.
    pub async fn export(&self, target: &str) -> Result<PathBuf> {
        self.export_as(target, false).await
    }

    /// The same for reading only: a volume's, too. Guests are told so, and what they write is refused.
    ///
    /// # Errors
    /// Those of [`Server::export`]; `Exists` when the volume has a socket for writing, as `export` says where it has one for reading: withdraw
    /// it first.
    pub async fn export_read_only(&self, target: &str) -> Result<PathBuf> {
        self.export_as(target, true).await
    }

    async fn export_as(&self, target: &str, read_only: bool) -> Result<PathBuf> {
        let (id, target) = (self.id, target.parse::<Target>()?);
        self.pool.run(move |_| async move { Serving::find(id)?.export(&target, read_only).await }).await.flatten()
    }

    /// Makes the sockets again that the server before this one had, whether it was stopped or killed: front-ends that wait for them
    /// connect by themselves. What cannot be served again, and why; what was deleted meanwhile is forgotten.
    ///
    /// # Errors
    /// `Closed` when server or pool have stopped; what the system says of the list.
    pub async fn restore(&self) -> Result<Vec<String>> {
        let id = self.id;
        self.pool.run(move |_| async move { Serving::find(id)?.restore().await }).await.flatten()
    }

    /// Removes a socket. `target` is what it serves, as that is called now; or what the socket is called, if nothing else is called so by
    /// now. With `force`, also while a front-end is connected to it: that gets its answers and is let go.
    ///
    /// # Errors
    /// `NotFound` when there is none, `Busy` when a front-end is connected to it, `Closed` when server or pool have stopped; what the system
    /// says of the list.
    pub async fn withdraw(&self, target: &str, force: bool) -> Result<()> {
        let (id, target) = (self.id, target.parse::<Target>()?);
        self.pool.run(move |_| async move { Serving::find(id)?.withdraw(&target, force).await }).await.flatten()
    }

    /// The directory of the sockets.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.place
    }

    /// The exports now, by name, with who is connected to them.
    #[must_use]
    pub fn exports(&self) -> Vec<ExportInfo> {
        self.directory.list()
    }

    /// Stops: removes the sockets, takes nothing more from any ring, waits until every request that was taken is given back, and lets go of
    /// front-ends and volumes. What is still in the rings stays there for the next server: a guest whose front-end reconnects sees a
    /// pause. Does nothing when the server, or its pool, has stopped already.
    ///
    /// # Errors
    /// Those of the pool, other than that it is closed.
    pub async fn stop(&self) -> Result<()> {
        let id = self.id;
        let stopped = self.pool.run(move |_| async move {
            if let Ok(serving) = Serving::find(id) {
                serving.stop().await;
            }
        });
        match stopped.await {
            Err(error) if error.kind() != ErrorKind::Closed => Err(error),
            _ => Ok(()),
        }
    }
}
