//! `cairnd`: the control service over one pool.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use cairn_engine::OpenOptions;
use cairn_nbd::{Listen, Options};
use cairn_service::{
    Failure, Settings,
    backup::RepositoryRef,
    control,
    daemon::{self, Bounds, Config, Ready},
};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

/// Serves a pool as block storage: the Block Storage v3 interface over HTTP, volumes over NBD and to virtual machines.
#[derive(Parser)]
#[command(name = "cairnd", version)]
struct Args {
    /// File or device of the pool
    #[arg(long, env = "CAIRN_POOL")]
    pool: PathBuf,
    /// For how many seconds to try when another process holds the pool
    #[arg(long, default_value_t = 10)]
    wait: u64,
    /// Without logins, for trying it out: loopback addresses only
    #[arg(long)]
    dev: bool,
    /// Address of the HTTP server
    #[arg(long, default_value = "127.0.0.1:8776")]
    listen: SocketAddr,
    /// How clients reach the HTTP server, if that is not its address
    #[arg(long)]
    url: Option<String>,
    /// Directory of the catalog [default: beside the pool]
    #[arg(long)]
    catalog: Option<PathBuf>,
    /// Where volumes are offered over NBD: unix:PATH or tcp:HOST:PORT [default: a unix socket beside the pool]
    #[arg(long)]
    nbd: Vec<Listen>,
    /// Directory of sockets for virtual machines (vhost-user-blk)
    #[arg(long)]
    vhost_user: Option<PathBuf>,
    /// Repository for backups: file:///DIRECTORY, s3://BUCKET/PREFIX, …
    #[arg(long)]
    backup_url: Option<String>,
    /// File with the passphrase of the repository
    #[arg(long, requires = "backup_url")]
    backup_passphrase_file: Option<PathBuf>,
    /// Name of this host, as clients see it
    #[arg(long)]
    host: Option<String>,
    /// Availability zone that clients see
    #[arg(long, default_value = "nova")]
    zone: String,
    /// How much of the pool's capacity may be promised to volumes, as a multiple of it
    #[arg(long, default_value_t = 20.0)]
    over_subscription: f64,
}

fn config(args: Args) -> Result<Config, Failure> {
    let mut nbd = args.nbd;
    if nbd.is_empty() {
        nbd.push(Listen::Unix(control::socket_path(&args.pool)?.with_extension("nbd")));
    }
    let fail = |error| Failure::from(cairn_engine::Error::io("the directory of --vhost-user", error));
    let repository = args.backup_url.map(|url| RepositoryRef {
        url,
        passphrase_file: args.backup_passphrase_file,
        ..RepositoryRef::default()
    });
    let usual = Settings::default();
    Ok(Config {
        pool: args.pool,
        open: OpenOptions::new(),
        wait: Duration::from_secs(args.wait),
        catalog: args.catalog,
        listen: args.listen,
        url: args.url,
        dev: args.dev,
        nbd,
        nbd_options: Options::default(),
        // Virtual machines run in other directories.
        vhost_user: args.vhost_user.map(std::path::absolute).transpose().map_err(fail)?,
        settings: Settings {
            host: args.host.unwrap_or(usual.host),
            zone: args.zone,
            over_subscription: args.over_subscription,
            repository,
        },
        bounds: Bounds::default(),
        hook: daemon::no_hook(),
    })
}

fn say(ready: &Ready) {
    use std::io::Write;
    let line = serde_json::to_string(ready).unwrap_or_default();
    // Whoever started it may not listen.
    drop(writeln!(std::io::stdout(), "{line}"));
}

async fn serve(args: Args) -> Result<(), Failure> {
    let fail = |error| Failure::from(cairn_engine::Error::io("cannot watch for signals", error));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(fail)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(fail)?;
    let stop = async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    daemon::run(config(args)?, stop, say).await
}

fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_env("CAIRN_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let args = Args::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(serve(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tracing::error!("{failure}");
            ExitCode::FAILURE
        }
    }
}
