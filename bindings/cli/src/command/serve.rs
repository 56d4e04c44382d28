//! `cairn serve`: holds the pool, offers it over NBD, to virtual machines, and over the control socket, until it is told to stop.
//!
//! Order of starting: pool, NBD, control socket, vhost-user sockets, "ready". Order of stopping: control socket quiet, NBD clients and virtual
//! machines answered and let go, pool checkpointed and closed, control socket's name removed. So the name is there as long as the pool is held.

use cairn_engine::{ErrorKind, OpenOptions, Pool};
use cairn_nbd::{Certificates, Listen, Options, TlsMode};
use cairn_service::{
    Failure, NbdListener, State,
    api::Listener,
    control::{self, Control},
    vhost_user::VhostExport,
};
use serde::Serialize;
use std::{
    net::ToSocketAddrs,
    path::{Path, PathBuf},
};
use tokio::signal::unix::{SignalKind, signal};

use super::reach;
use crate::{
    args::{Global, ServeArgs, TlsPolicy},
    output::Output,
    session::{self, Reach},
    size::Bytes,
};

/// Most volumes that are named one by one when the server is ready.
const NAMED: usize = 20;

/// What the server says when it is ready, for programs: one line.
#[derive(Serialize)]
struct Ready {
    ready: bool,
    pid: u32,
    pool: String,
    control: String,
    listeners: Vec<Listener>,
    exports: Vec<Export>,
    disks: Vec<VhostExport>,
}

/// What is offered, and how.
struct Offer {
    addresses: Vec<Listen>,
    options: Options,
    /// Where the sockets for virtual machines are.
    vhost_user: Option<PathBuf>,
}

#[derive(Serialize)]
struct Export {
    name: String,
    size: u64,
    uris: Vec<String>,
}

pub(super) async fn run(global: &Global, args: ServeArgs, output: &Output) -> Result<(), Failure> {
    let reach = reach(global)?;
    let offer = offer(&args, &reach.pool)?;
    // Before anything is done, so that a signal never finds the server half-way without a handler.
    let mut stop = Box::pin(stop_signal()?);
    for address in exposed(&offer.addresses, offer.options.tls) {
        output.warn(format!(
            "{address} is open to the network: whoever reaches it can read and write every volume; \
             use --tls require with --tls-ca or --tls-psk"
        ));
    }
    let Some(pool) = unless(&mut stop, hold(&reach, &args, output)).await else { return stopped(output) };
    let pool = pool?;
    let outcome = serve(&pool, &reach, offer, output, stop).await;
    let closed = pool.close().await;
    // The control socket's name goes last: until here a command knows that the pool is held.
    let control = outcome?;
    closed?;
    drop(control);
    stopped(output)
}

fn stopped(output: &Output) -> Result<(), Failure> {
    if !output.is_json() {
        output.raw("stopped\n")?;
    }
    Ok(())
}

/// What some work comes to, unless the wish to stop comes first: then the work ends where it is.
async fn unless<T>(stop: &mut (impl Future<Output = ()> + Unpin), work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = stop => None,
        outcome = work => Some(outcome),
    }
}

/// Opens the pool, waiting for a command that holds it, but never for another server.
async fn hold(reach: &Reach, args: &ServeArgs, output: &Output) -> Result<Pool, Failure> {
    let mut options = OpenOptions::new();
    if let Some(cache) = args.cache {
        options = options.cache_bytes(cache);
    }
    session::hold(reach, options, |text| output.warn(text), |_| String::new()).await
}

async fn serve(
    pool: &Pool,
    reach: &Reach,
    offer: Offer,
    output: &Output,
    mut stop: impl Future<Output = ()> + Send + Unpin + 'static,
) -> Result<Control, Failure> {
    let mut listeners = Vec::new();
    let mut disks = None;
    let outcome = async {
        for address in offer.addresses {
            listeners.push(NbdListener::start(pool, address, offer.options.clone()).await?);
        }
        if let Some(directory) = offer.vhost_user {
            disks = Some(cairn_vhost_user::Server::start(pool, directory, cairn_vhost_user::Options::default()).await?);
        }
        let mut control = Control::bind(&reach.pool)?;
        let state = State::new(pool.clone()).serving(&listeners).with_vhost_user(disks.clone());
        // Before anybody is told that the server is ready: clients may attach what is being filled.
        let Some(warnings) = unless(&mut stop, state.resume_restores()).await else { return Ok(control) };
        warnings?.iter().for_each(|text| output.warn(text));
        if let Some(disks) = &disks {
            let Some(warnings) = unless(&mut stop, disks.restore()).await else { return Ok(control) };
            warnings?.iter().for_each(|text| output.warn(text));
        }
        announce(pool, &control, &listeners, disks.as_ref(), output).await?;
        control.serve(state, stop).await?;
        Ok(control)
    }
    .await;
    if let Some(disks) = disks {
        disks.stop().await?;
    }
    for listener in &listeners {
        listener.server().stop().await?;
    }
    outcome
}

async fn announce(
    pool: &Pool,
    control: &Control,
    listeners: &[NbdListener],
    disks: Option<&cairn_vhost_user::Server>,
    output: &Output,
) -> Result<(), Failure> {
    let mut volumes = pool.volumes(false).await?;
    let more = volumes.len().saturating_sub(NAMED);
    if !output.is_json() {
        volumes.truncate(NAMED);
    }
    let uris = |name: &str| listeners.iter().map(|listener| listener.server().uri(name)).collect();
    let exports: Vec<Export> = volumes
        .into_iter()
        .map(|volume| Export { uris: uris(&volume.name), name: volume.name, size: volume.size })
        .collect();
    let ready = Ready {
        ready: true,
        pid: std::process::id(),
        pool: pool.path().display().to_string(),
        control: control.path().display().to_string(),
        listeners: listeners.iter().map(NbdListener::info).collect(),
        exports,
        disks: disks.map(|server| server.exports().into_iter().map(VhostExport::from).collect()).unwrap_or_default(),
    };
    let mut text = format!("pool {}, control socket {}", ready.pool, ready.control);
    for listener in &ready.listeners {
        text += &format!("\nlistening on {}: {}", listener.address, listener.uri);
    }
    for export in &ready.exports {
        for uri in &export.uris {
            text += &format!("\nvolume {} ({}): {uri}", export.name, Bytes(export.size));
        }
    }
    if more > 0 {
        text += &format!("\nand {more} more volumes");
    }
    for disk in &ready.disks {
        text += &format!("\ndisk {}: {}", disk.name, disk.socket);
    }
    output.result(&ready, text + "\nready")
}

fn offer(args: &ServeArgs, pool: &Path) -> Result<Offer, Failure> {
    // Virtual machines run in other directories.
    let fail = |error| Failure::from(cairn_engine::Error::io("the directory of --vhost-user", error));
    let vhost_user = args.vhost_user.as_ref().map(std::path::absolute).transpose().map_err(fail)?;
    Ok(Offer { addresses: addresses(args, pool)?, options: options(args)?, vhost_user })
}

fn addresses(args: &ServeArgs, pool: &Path) -> Result<Vec<Listen>, Failure> {
    if args.nbd.is_empty() {
        // Beside the control socket, which has a directory also for a pool on a device.
        return Ok(vec![Listen::Unix(control::socket_path(pool)?.with_extension("nbd"))]);
    }
    Ok(args.nbd.iter().map(|text| text.parse()).collect::<cairn_engine::Result<_>>()?)
}

fn options(args: &ServeArgs) -> Result<Options, Failure> {
    let certificates = match (&args.tls_cert, &args.tls_key) {
        (Some(chain), Some(key)) => {
            Some(Certificates { chain: chain.clone(), key: key.clone(), client_ca: args.tls_ca.clone() })
        }
        _ => None,
    };
    let tls = match args.tls {
        TlsPolicy::Off => TlsMode::Off,
        TlsPolicy::Allow => TlsMode::Allow,
        TlsPolicy::Require => TlsMode::Require,
    };
    if tls == TlsMode::Off && (certificates.is_some() || args.tls_psk.is_some()) {
        let text = "certificates or keys are given and --tls is off: say --tls allow or --tls require";
        return Err(Failure::new(ErrorKind::Invalid, text));
    }
    Ok(Options { tls, certificates, psk: args.tls_psk.clone(), ..Options::default() })
}

/// Addresses that other machines reach without proving who they are.
fn exposed(addresses: &[Listen], tls: TlsMode) -> impl Iterator<Item = &Listen> {
    addresses.iter().filter(move |address| match address {
        Listen::Unix(_) => false,
        Listen::Tcp { host, port } => {
            let local = (host.as_str(), *port).to_socket_addrs().is_ok_and(|mut all| all.all(|a| a.ip().is_loopback()));
            tls != TlsMode::Require && !local
        }
    })
}

/// Ends with the first SIGINT or SIGTERM.
pub(super) fn stop_signal() -> Result<impl Future<Output = ()> + Send + 'static, Failure> {
    let fail = |error| Failure::from(cairn_engine::Error::io("cannot watch for signals", error));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(fail)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(fail)?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_open_tcp_is_warned_of() {
        let addresses: Vec<Listen> = ["unix:/x", "tcp:127.0.0.1:1", "tcp:[::1]:1", "tcp:0.0.0.0:1"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        let named: Vec<String> = exposed(&addresses, TlsMode::Allow).map(ToString::to_string).collect();
        assert_eq!(named, ["tcp:0.0.0.0:1"]);
        assert_eq!(exposed(&addresses, TlsMode::Require).count(), 0);
    }
}
