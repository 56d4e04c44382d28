//! The service as a process: everything that `cairnd` serves over one pool, from its start to its end.
//!
//! Order of starting: pool, catalog, NBD, sockets of virtual machines, control socket, interrupted restores and operations, HTTP, "ready". Whoever
//! wishes that it stops meanwhile does not wait for what may take long.
//! Order of stopping: HTTP quiet, operations ended or put off, virtual machines and NBD clients answered and let go, pool closed, name of the
//! control socket removed.

pub(crate) mod http;
mod metrics;
mod threads;
mod tls;
mod watched;

use std::{
    future::Future,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use cairn_engine::{ErrorKind, OpenOptions, Pool};
use cairn_nbd::{Listen, Options};
use serde::Serialize;
use tokio::{net::TcpListener, sync::watch, time::Instant};

use crate::{
    Failure, NbdListener, Result, State,
    api::Listener,
    beside::{beside, left_behind},
    block::{Block, Exports, Hook, Parts, Settings},
    catalog::{Catalog, Kept},
    control::{self, Control},
    identity::{self, Identity, Keystone},
    rest::Rest,
    secrets,
};

pub use self::threads::{NICE, runtime};
pub use crate::identity::keystone::Options as KeystoneOptions;

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
    /// Of them, those of one address (IPv6: of a /64), unless it is a proxy's; further ones are closed.
    pub of_address: usize,
    /// How long a client may take nothing of an answer, or be behind `pace`.
    pub stall: Duration,
    /// Bytes of an answer that a client has to take in a second, on the whole, while the server waits for it.
    pub pace: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            body: 1 << 20,
            head: 64 << 10,
            time: Duration::from_secs(60),
            connections: 1024,
            of_address: 256,
            stall: Duration::from_secs(60),
            pace: 16 << 10,
        }
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
    /// Directory of the catalog; when left out `<pool>.catalog`, for a device `/var/lib/cairn/dev-….catalog`.
    pub catalog: Option<PathBuf>,
    /// Address of the HTTP server. Port 0: the system chooses.
    pub listen: SocketAddr,
    /// How clients reach it, if that is not the address.
    pub url: Option<String>,
    /// Without logins: on loopback addresses only.
    pub dev: bool,
    /// A Keystone whose people come in, in place of those of the catalog.
    pub keystone: Option<KeystoneOptions>,
    /// What the HTTP server proves itself with; without it speaks in plain text.
    pub tls: Option<TlsFiles>,
    /// Proxies in front of the HTTP server: what they say in `X-Forwarded-For` counts.
    pub proxies: Vec<IpAddr>,
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

/// What a server proves itself with, in PEM.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// Its certificate, and what leads from it to one that clients know.
    pub certificate: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
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
    let mut stop = Box::pin(stop);
    let Some(pool) = unless(&mut stop, hold(&config)).await else { return Ok(()) };
    let pool = pool?;
    let outcome = serve(&pool, config, stop, ready).await;
    let closed = pool.close().await;
    // The control socket's name goes last: until here a command knows that the pool is held.
    let control = outcome?;
    closed?;
    drop(control);
    Ok(())
}

/// What some work comes to, unless the wish to stop comes first: then the work ends where it is.
async fn unless<T>(stop: &mut (impl Future<Output = ()> + Unpin), work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = stop => {
            tracing::info!("told to stop before it was ready");
            None
        }
        outcome = work => Some(outcome),
    }
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
    if config.dev && !config.listen.ip().is_loopback() {
        let text =
            format!("{} is open to the network, and --dev asks nobody who they are: use 127.0.0.1", config.listen);
        return Err(Failure::new(ErrorKind::Invalid, text));
    }
    if !config.listen.ip().is_loopback() && config.tls.is_none() && config.proxies.is_empty() {
        tracing::warn!(
            "{} is open to the network without TLS: passwords and tokens can be read on the way. Use --tls-certificate and \
             --tls-key, or listen on 127.0.0.1 behind a proxy that speaks TLS",
            config.listen
        );
    }
    Ok(())
}

/// Who may come in.
fn people(config: &Config, catalog: &Catalog, url: &str) -> Result<Identity> {
    if config.dev {
        return Ok(Identity::dev(url.to_owned()));
    }
    if let Some(options) = &config.keystone {
        return Ok(Identity::Keystone(Keystone::new(options.clone())?));
    }
    if !identity::is_bootstrapped(catalog)? {
        let text = format!(
            "nobody can log in yet: make an administrator with \"cairnd bootstrap --pool {}\", or try it out without logins with --dev",
            config.pool.display()
        );
        return Err(Failure::new(ErrorKind::Invalid, text));
    }
    Ok(Identity::own(url.to_owned(), catalog.clone())?)
}

/// The first administrator, and how they log in.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    /// The pool that the catalog is beside.
    pub pool: PathBuf,
    /// Directory of the catalog; when left out `<pool>.catalog`, for a device `/var/lib/cairn/dev-….catalog`.
    pub catalog: Option<PathBuf>,
    /// Name of the user.
    pub user: String,
    /// Name of the project in which the user is administrator.
    pub project: String,
}

/// Makes a user and a project, of which the user is administrator, while no daemon runs. What is there already is kept; the user is let in
/// again with this password. Without a password one is made up; it is the answer.
///
/// # Errors
/// `NotFound` without a pool; `Invalid` for names and passwords that cannot be; whatever opening the catalog fails with.
pub fn bootstrap(wanted: &Bootstrap, password: Option<&str>) -> Result<Option<String>> {
    if wanted.catalog.is_none() && !wanted.pool.exists() {
        let text = format!("there is no pool {}: make it first (cairn pool create)", wanted.pool.display());
        return Err(Failure::new(ErrorKind::NotFound, text));
    }
    let catalog = Catalog::open(&catalog_of(&wanted.pool, wanted.catalog.as_deref())?, Kept::default())?;
    let made = password.is_none().then(|| secrets::random(18));
    let chosen = password.or(made.as_deref()).unwrap_or_default();
    identity::bootstrap(&catalog, &wanted.user, &wanted.project, chosen)?;
    Ok(made)
}

/// What is open to clients beside HTTP.
#[derive(Default)]
struct Offers {
    listeners: Vec<NbdListener>,
    disks: Option<cairn_vhost_user::Server>,
    control: Option<Control>,
}

impl Offers {
    /// All but the name of the control socket.
    async fn end(self) -> Result<Option<Control>> {
        if let Some(disks) = self.disks {
            disks.stop().await?;
        }
        for listener in &self.listeners {
            listener.server().stop().await?;
        }
        Ok(self.control)
    }
}

async fn serve(
    pool: &Pool,
    config: Config,
    stop: impl Future<Output = ()> + Send + Unpin + 'static,
    ready: impl FnOnce(&Ready),
) -> Result<Option<Control>> {
    let mut offers = Offers::default();
    let outcome = serve_with(pool, config, stop, ready, &mut offers).await;
    let control = offers.end().await?;
    // Nobody reads or writes any more: the last of it is counted.
    if let Some(block) = outcome?
        && let Err(fault) = block.count_io().await
    {
        tracing::error!(%fault, "I/O cannot be counted");
    }
    Ok(control)
}

/// Nothing: it was told to stop before it was ready.
async fn serve_with(
    pool: &Pool,
    config: Config,
    mut stop: impl Future<Output = ()> + Send + Unpin + 'static,
    ready: impl FnOnce(&Ready),
    offers: &mut Offers,
) -> Result<Option<Block>> {
    let catalog = Catalog::open(&catalog_of(&config.pool, config.catalog.as_deref())?, config.settings.kept())?;
    let tls = config.tls.as_ref().map(tls::acceptor).transpose()?;
    // Before anything is offered. The address is known later.
    drop(people(&config, &catalog, "")?);
    let exports = Exports::of(&catalog)?;
    for address in &config.nbd {
        let options = Options { offers: Some(exports.clone()), ..config.nbd_options.clone() };
        offers.listeners.push(NbdListener::start(pool, address.clone(), options).await?);
    }
    if let Some(directory) = &config.vhost_user {
        let options = cairn_vhost_user::Options::default();
        offers.disks = Some(cairn_vhost_user::Server::start(pool, directory, options).await?);
    }
    let control = offers.control.insert(Control::bind(&config.pool)?);
    let state = State::new(pool.clone()).serving(&offers.listeners).with_vhost_user(offers.disks.clone());
    let Some(warnings) = unless(&mut stop, state.resume_restores()).await else { return Ok(None) };
    warnings?.iter().for_each(|text| tracing::warn!("{text}"));
    if let Some(disks) = &offers.disks {
        let Some(warnings) = unless(&mut stop, disks.restore()).await else { return Ok(None) };
        warnings?.iter().for_each(|text| tracing::warn!("{text}"));
    }
    let block = Block::new(Parts {
        catalog,
        pool: pool.clone(),
        listeners: offers.listeners.clone(),
        exports,
        disks: offers.disks.clone(),
        settings: config.settings.clone(),
        hook: config.hook.clone(),
        fillings: state.fillings.clone(),
        opening: crate::domain::new_id(),
    })?;
    let fail = |error| Failure::from(cairn_engine::Error::io(format!("cannot listen on {}", config.listen), error));
    let listener = TcpListener::bind(config.listen).await.map_err(fail)?;
    let address = listener.local_addr().map_err(fail)?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let url = config.url.clone().unwrap_or_else(|| format!("{scheme}://{address}"));
    let identity = people(&config, block.catalog(), &url)?;
    let Some(limited) = unless(&mut stop, block.limit_all()).await else { return Ok(None) };
    limited?;
    let resumed = block.resume()?;
    let rest = Rest { block: block.clone(), identity, url: url.clone() };
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
    let door = http::Door { bounds: config.bounds, tls, proxies: config.proxies.into() };
    let server = http::serve(listener, rest, door, until(stopped.clone()));
    let tended = block.clone();
    let tending = tokio::spawn(async move { tended.tend().await });
    let collected = block.clone();
    let collecting = tokio::spawn(async move { collected.collect_garbage().await });
    let (_signal, controlled, ()) = tokio::join!(signal, control.serve(state, until(stopped)), server);
    block.stop().await;
    tending.abort();
    // What a collection leaves half done, the next one finds.
    collecting.abort();
    // What they are doing just now ends before the runtime does: a task that meets a clock that is gone panics.
    drop((tending.await, collecting.await));
    controlled?;
    Ok(Some(block))
}

/// Where the catalog is: as it was said, or as it is usual.
fn catalog_of(pool: &Path, said: Option<&Path>) -> Result<PathBuf> {
    if let Some(said) = said {
        return Ok(said.to_owned());
    }
    let usual = beside(pool, "catalog");
    match left_behind(pool, "catalog") {
        Some(earlier) if !usual.exists() => {
            let text = format!(
                "the catalog of this pool is in {}, which is empty after a reboot: move it to {}, all of it",
                earlier.display(),
                usual.display()
            );
            Err(Failure::new(ErrorKind::Invalid, text))
        }
        _ => Ok(usual),
    }
}

/// A hook that does nothing.
#[must_use]
pub fn no_hook() -> Hook {
    std::sync::Arc::new(|_| Box::pin(std::future::ready(())))
}
