//! The handle of a server, for any thread.

use crate::{
    client::{ClientInfo, Directory},
    listen::{Address, Bound, Listen},
    options::{Options, TlsMode},
    serving::Serving,
    tls::acceptor,
};
use cairn_engine::{ErrorKind, Pool, Result};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

static NEXT_SERVER: AtomicU64 = AtomicU64::new(1);

/// An NBD server on a pool's reactor. Every volume of the pool is exported as `volume`, every snapshot, read-only, as
/// `volume@snapshot`; the empty name means the only volume of a pool that has just one. [`Options::offers`] narrows that.
///
/// The handle can be used on any thread. Dropping it does not stop the server: [`stop`](Self::stop) does, and so does closing the pool.
///
/// ```no_run
/// # async fn example() -> cairn_engine::Result<()> {
/// let pool = cairn_engine::Pool::open("pool.cairn", cairn_engine::OpenOptions::new()).await?;
/// let server = cairn_nbd::Server::start(&pool, "unix:/run/cairn/nbd.sock".parse()?, Default::default()).await?;
/// println!("qemu-img info {}", server.uri("db"));
/// server.stop().await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Server {
    id: u64,
    pool: Pool,
    address: Address,
    tls: bool,
    directory: Arc<Directory>,
}

impl Server {
    /// Listens and serves. A unix socket that a killed server left behind is replaced; one that is in use is not.
    ///
    /// # Errors
    /// `Invalid` for options that cannot work or credentials that cannot be used, `Busy` when another server listens on the
    /// socket, `Exists` when something else is in its place, `Closed` when the pool is; otherwise what the system says.
    pub async fn start(pool: &Pool, listen: Listen, options: Options) -> Result<Self> {
        options.validate()?;
        let acceptor = acceptor(&options)?;
        let Bound { socket, address } = listen.bind()?;
        let server = Self {
            id: NEXT_SERVER.fetch_add(1, Ordering::Relaxed),
            pool: pool.clone(),
            tls: options.tls == TlsMode::Require,
            directory: Arc::default(),
            address: address.clone(),
        };
        let (id, directory, left_behind) = (server.id, Arc::clone(&server.directory), address.clone());
        let started = pool
            .run(move |local| async move { Serving::start(id, local, socket, address, options, acceptor, directory) })
            .await
            .flatten();
        if let (Err(_), Address::Unix(path)) = (&started, left_behind) {
            path.remove();
        }
        started.map(|()| server)
    }

    /// Where the server is found, as the base of an NBD URI: that of the default export.
    #[must_use]
    pub fn address(&self) -> String {
        self.uri("")
    }

    /// The NBD URI of an export (`volume` or `volume@snapshot`).
    #[must_use]
    pub fn uri(&self, export: &str) -> String {
        self.address.uri(self.tls, export)
    }

    /// The clients connected now, those still in the handshake included.
    #[must_use]
    pub fn clients(&self) -> Vec<ClientInfo> {
        self.directory.list()
    }

    /// Cuts off the clients that have a volume or snapshot open, under whatever name: when this returns, what they had sent has ended, and
    /// they have let go of it. For what is not offered any more ([`Options::offers`]): take the offer away first, then nobody comes in again.
    ///
    /// # Errors
    /// Those of the pool, other than that it is closed.
    pub async fn cut_off(&self, target: &str) -> Result<()> {
        let (id, target) = (self.id, target.to_owned());
        let done = self.pool.run(move |_| async move {
            if let Some(serving) = Serving::find(id) {
                serving.cut_off(&target).await;
            }
        });
        match done.await {
            Err(error) if error.kind() != ErrorKind::Closed => Err(error),
            _ => Ok(()),
        }
    }

    /// Stops: accepts nobody any more, removes the socket, answers what was received, lets go of the volumes. Clients that
    /// do not take their answers within [`Options::stop_limit`] are cut off. Returns when the last client is gone. Does
    /// nothing when the server, or its pool, has stopped already.
    ///
    /// # Errors
    /// Those of the pool, other than that it is closed.
    pub async fn stop(&self) -> Result<()> {
        let id = self.id;
        let stopped = self.pool.run(move |_| async move {
            if let Some(serving) = Serving::find(id) {
                serving.stop().await;
            }
        });
        match stopped.await {
            Err(error) if error.kind() != ErrorKind::Closed => Err(error),
            _ => Ok(()),
        }
    }
}
