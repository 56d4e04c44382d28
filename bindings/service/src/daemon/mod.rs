//! The service as a process: everything that `cairnd` serves over one pool, from its start to its end.
//!
//! Order of starting: pool, catalog, NBD, sockets of virtual machines, control socket, interrupted restores and operations, HTTP, "ready".
//! Order of stopping: HTTP quiet, operations ended or put off, virtual machines and NBD clients answered and let go, pool closed, name of the
//! control socket removed.

mod http;
mod metrics;

use std::{future::Future, net::SocketAddr, path::PathBuf, time::Duration};

use cairn_engine::{ErrorKind, OpenOptions, Pool};
use cairn_nbd::{Listen, Options};
use serde::Serialize;
use tokio::{net::TcpListener, sync::watch, time::Instant};

use crate::{
    Failure, NbdListener, Result, State,
    api::Listener,
    block::{Block, Hook, Parts, Settings},
    catalog::Catalog,
    control::{self, Control},
    identity::Identity,
    rest::Rest,
};

/// Between two attempts to open a pool that somebody else holds.
const PAUSE: Duration = Duration::from_millis(50);

/// Bounds on what one client may take.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes of a request's body.
    pub body: usize,
    /// Bytes of a request's head.
    pub head: usize,
    /// How long a request may take, from its first byte to its answer.
    pub time: Duration,
    /// Connections at the same time; further ones wait.
    pub connections: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { body: 1 << 20, head: 64 << 10, time: Duration::from_secs(60), connections: 1024 }
    }
}

/// How a daemon is started.
#[derive(Clone)]
pub struct Config {
    /// The pool.
    pub pool: PathBuf,
    /// How it is opened.
    pub open: OpenOptions,
    /// For how long to try when somebody else holds it.
    pub wait: Duration,
    /// Directory of the catalog; `<pool>.catalog` when left out.
    pub catalog: Option<PathBuf>,
    /// Address of the HTTP server. Port 0: the system chooses.
    pub listen: SocketAddr,
    /// How clients reach it, if that is not the address.
    pub url: Option<String>,
    /// Without logins: on loopback addresses only.
    pub dev: bool,
    /// Where volumes are offered over NBD.
    pub nbd: Vec<Listen>,
    /// How.
    pub nbd_options: Options,
    /// Where the sockets for virtual machines are.
    pub vhost_user: Option<PathBuf>,
    /// What the operator chooses of the block storage service.
    pub settings: Settings,
    /// Bounds on requests.
    pub bounds: Bounds,
    /// For tests: called between the steps of operations.
    pub hook: Hook,
}

/// What a daemon says when it is ready.
#[derive(Clone, Debug, Serialize)]
pub struct Ready {
    /// Always true.
    pub ready: bool,
    /// This process.
    pub pid: u32,
    /// How clients reach it.
    pub url: String,
    /// The pool.
    pub pool: String,
    /// The control socket.
    pub control: String,
    /// NBD servers.
    pub listeners: Vec<Listener>,
    /// Operations that were under way when the daemon ended last, and go on.
    pub resumed: usize,
}

/// Runs until `stop` ends, or the control socket is told so. `ready` is called when clients may come.
///
/// # Errors
/// Whatever keeps it from starting; what closing the pool fails with.
pub async fn run(
    config: Config,
    stop: impl Future<Output = ()> + Send + 'static,
    ready: impl FnOnce(&Ready),
) -> Result<()> {
    check(&config)?;
    let pool = hold(&config).await?;
    let outcome = serve(&pool, config, stop, ready).await;
    let closed = pool.close().await;
    // The control socket's name goes last: until here a command knows that the pool is held.
    let control = outcome?;
    closed?;
    drop(control);
    Ok(())
}

/// Opens the pool. A server that was killed holds it until the kernel has finished what it had begun, a command for a moment.
async fn hold(config: &Config) -> Result<Pool> {
    let deadline = Instant::now() + config.wait;
    loop {
        if let Some((_, status)) = control::find_server(&config.pool).await? {
            let text = format!("pool {} is served already, by process {}", config.pool.display(), status.pid);
            return Err(Failure::new(ErrorKind::Busy, text));
        }
        match Pool::open(&config.pool, config.open.clone()).await {
            Err(error) if error.kind() == ErrorKind::Busy && Instant::now() < deadline => {
                tokio::time::sleep(PAUSE).await;
            }
            outcome => return Ok(outcome?),
        }
    }
}

fn check(config: &Config) -> Result<()> {
    if !config.dev {
        let text = "logins are not served yet: start it with --dev, on a loopback address";
        return Err(Failure::new(ErrorKind::Unsupported, text));
    }
    if !config.listen.ip().is_loopback() {
        let text =
            format!("{} is open to the network, and --dev asks nobody who they are: use 127.0.0.1", config.listen);
        return Err(Failure::new(ErrorKind::Invalid, text));
    }
    Ok(())
}

/// What is open to clients beside HTTP.
struct Offers {
    listeners: Vec<NbdListener>,
    disks: Option<cairn_vhost_user::Server>,
}

impl Offers {
    async fn end(self) -> Result<()> {
        if let Some(disks) = self.disks {
            disks.stop().await?;
        }
        for listener in &self.listeners {
            listener.server().stop().await?;
        }
        Ok(())
    }
}

async fn serve(
    pool: &Pool,
    config: Config,
    stop: impl Future<Output = ()> + Send + 'static,
    ready: impl FnOnce(&Ready),
) -> Result<Control> {
    let mut offers = Offers { listeners: Vec::new(), disks: None };
    let outcome = serve_with(pool, config, stop, ready, &mut offers).await;
    offers.end().await?;
    outcome
}

async fn serve_with(
    pool: &Pool,
    config: Config,
    stop: impl Future<Output = ()> + Send + 'static,
    ready: impl FnOnce(&Ready),
    offers: &mut Offers,
) -> Result<Control> {
    let catalog = Catalog::open(&config.catalog.clone().unwrap_or_else(|| beside(&config.pool)))?;
    for address in &config.nbd {
        offers.listeners.push(NbdListener::start(pool, address.clone(), config.nbd_options.clone()).await?);
    }
    if let Some(directory) = &config.vhost_user {
        let options = cairn_vhost_user::Options::default();
        offers.disks = Some(cairn_vhost_user::Server::start(pool, directory, options).await?);
    }
    let mut control = Control::bind(&config.pool)?;
    let state = State::new(pool.clone()).serving(&offers.listeners).with_vhost_user(offers.disks.clone());
    for warning in state.resume_restores().await? {
        tracing::warn!("{warning}");
    }
    if let Some(disks) = &offers.disks {
        disks.restore().await?.iter().for_each(|text| tracing::warn!("{text}"));
    }
    let block = Block::new(Parts {
        catalog,
        pool: pool.clone(),
        listeners: offers.listeners.clone(),
        disks: offers.disks.clone(),
        settings: config.settings.clone(),
        hook: config.hook.clone(),
    })?;
    let fail = |error| Failure::from(cairn_engine::Error::io(format!("cannot listen on {}", config.listen), error));
    let listener = TcpListener::bind(config.listen).await.map_err(fail)?;
    let address = listener.local_addr().map_err(fail)?;
    let url = config.url.clone().unwrap_or_else(|| format!("http://{address}"));
    block.limit_all().await?;
    let resumed = block.resume()?;
    let rest = Rest { block: block.clone(), identity: Identity::dev(url.clone()), url: url.clone() };
    ready(&Ready {
        ready: true,
        pid: std::process::id(),
        url,
        pool: pool.path().display().to_string(),
        control: control.path().display().to_string(),
        listeners: offers.listeners.iter().map(NbdListener::info).collect(),
        resumed,
    });
    let (stopping, stopped) = watch::channel(false);
    let wish = state.clone();
    let signal = async move {
        tokio::select! {
            () = wish.stopped() => {}
            () = stop => {}
        }
        stopping.send_replace(true);
    };
    let until = |mut stopped: watch::Receiver<bool>| async move {
        // Ends also when the sender is gone, which is when the signal has been given.
        drop(stopped.wait_for(|stopping| *stopping).await);
    };
    let server = http::serve(listener, rest, config.bounds, until(stopped.clone()));
    let (_signal, controlled, ()) = tokio::join!(signal, control.serve(state, until(stopped)), server);
    block.stop().await;
    controlled?;
    Ok(control)
}

/// Where the catalog is unless it is said.
fn beside(pool: &std::path::Path) -> PathBuf {
    let real = std::fs::canonicalize(pool).unwrap_or_else(|_| pool.to_owned());
    let mut name = real.into_os_string();
    name.push(".catalog");
    name.into()
}

/// A hook that does nothing.
#[must_use]
pub fn no_hook() -> Hook {
    std::sync::Arc::new(|_| Box::pin(std::future::ready(())))
}
