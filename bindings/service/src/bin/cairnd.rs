//! `cairnd`: the control service over one pool.

use std::{
    io::Write,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use cairn_engine::{ErrorKind, OpenOptions};
use cairn_nbd::{Listen, Options};
use cairn_service::{
    Failure, Settings,
    backup::RepositoryRef,
    control,
    daemon::{self, Bootstrap, Bounds, Config, KeystoneOptions, Ready, TlsFiles},
};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

/// Serves a pool as block storage: the Block Storage v3 interface over HTTP, volumes over NBD and to virtual machines.
///
/// People log in as with Keystone v3, under /identity/v3 of the HTTP server. Make the first administrator with "cairnd bootstrap".
#[derive(Parser)]
#[command(name = "cairnd", version, args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Serve,
}

#[derive(Subcommand)]
enum Command {
    /// Make a user who is administrator of a project, while no daemon runs; for one that is there: another password
    Bootstrap(First),
}

#[derive(clap::Args)]
struct First {
    /// File or device of the pool
    #[arg(long, env = "CAIRN_POOL")]
    pool: PathBuf,
    /// Directory of the catalog [default: beside the pool; for a device in /var/lib/cairn]
    #[arg(long)]
    catalog: Option<PathBuf>,
    /// Name of the user
    #[arg(long, default_value = "admin")]
    user: String,
    /// Name of the project
    #[arg(long, default_value = "admin")]
    project: String,
    /// Read the password from standard input, one line [default: make one up and show it]
    #[arg(long)]
    password_stdin: bool,
}

#[derive(clap::Args)]
struct Serve {
    /// File or device of the pool
    #[arg(long, env = "CAIRN_POOL", required = true)]
    pool: Option<PathBuf>,
    /// For how many seconds to try when another process holds the pool
    #[arg(long, default_value_t = 10)]
    wait: u64,
    /// Without logins, for trying it out: loopback addresses only
    #[arg(long, conflicts_with = "keystone")]
    dev: bool,
    /// Keystone whose people log in, in place of people of its own: https://HOST:5000
    #[arg(long, env = "CAIRN_KEYSTONE")]
    keystone: Option<String>,
    /// User that this service logs in as at Keystone, to look at tokens of others
    #[arg(long, env = "CAIRN_KEYSTONE_USER", default_value = "cairn")]
    keystone_user: String,
    /// Domain of that user, by name
    #[arg(long, env = "CAIRN_KEYSTONE_USER_DOMAIN", default_value = "Default")]
    keystone_user_domain: String,
    /// Project that it logs in for
    #[arg(long, env = "CAIRN_KEYSTONE_PROJECT", default_value = "service")]
    keystone_project: String,
    /// Domain of that project, by name
    #[arg(long, env = "CAIRN_KEYSTONE_PROJECT_DOMAIN", default_value = "Default")]
    keystone_project_domain: String,
    /// File with that user's password [default: the environment's CAIRN_KEYSTONE_PASSWORD]
    #[arg(long)]
    keystone_password_file: Option<PathBuf>,
    /// Certificates that vouch for Keystone, beside those that the system trusts (PEM)
    #[arg(long)]
    keystone_ca: Option<PathBuf>,
    /// Seconds for which an answer of Keystone about a token counts
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(0..=300))]
    keystone_cache: u64,
    /// Address of the HTTP server
    #[arg(long, default_value = "127.0.0.1:8776")]
    listen: SocketAddr,
    /// Certificate of the HTTP server, and those that lead from it to one that clients know (PEM) [default: no TLS]
    #[arg(long, requires = "tls_key")]
    tls_certificate: Option<PathBuf>,
    /// Private key of the certificate (PEM)
    #[arg(long, requires = "tls_certificate")]
    tls_key: Option<PathBuf>,
    /// Address of a proxy in front of the HTTP server: what it says in X-Forwarded-For counts
    #[arg(long)]
    proxy: Vec<IpAddr>,
    /// How clients reach the HTTP server, if that is not its address
    #[arg(long)]
    url: Option<String>,
    /// Directory of the catalog [default: beside the pool; for a device in /var/lib/cairn]
    #[arg(long)]
    catalog: Option<PathBuf>,
    /// Where consumers open what is attached to them over NBD: unix:PATH or tcp:HOST:PORT [default: a unix socket beside the pool]
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
    /// Keep at most so many audit events of what was done, and a quarter as many of what was refused; when there are more, the project
    /// with the most of them loses its oldest
    #[arg(long, default_value_t = 100_000)]
    events: u64,
    /// Keep audit events for at most so many days
    #[arg(long, default_value_t = 90)]
    event_days: u64,
    /// Keep at most so many metering records
    #[arg(long, default_value_t = 1_000_000)]
    meters: u64,
    /// Keep metering records for at most so many days
    #[arg(long, default_value_t = 400)]
    meter_days: u64,
    /// Seconds after which an interval of metering ends in which there was I/O
    #[arg(long, default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..))]
    meter_interval: u64,
    /// How much of the pool's capacity may be promised to volumes, as a multiple of it
    #[arg(long, default_value_t = 20.0)]
    over_subscription: f64,
    /// How far the threads of the interface stand back behind I/O, as nice has it: 0 not at all, 19 as far as can be
    #[arg(long, default_value_t = daemon::NICE, value_parser = clap::value_parser!(u8).range(0..=19))]
    nice: u8,
    /// Seconds between two collections of what deleted backups have left in the repository, if there is any; 0: only by "cairn backup gc"
    #[arg(long, default_value_t = 3600)]
    collect_every: u64,
    /// Most GiB of an image
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    image_limit: u64,
}

/// The password is in a file or in the environment: arguments are for everybody to read.
fn keystone(args: &Serve) -> Result<Option<KeystoneOptions>, Failure> {
    let Some(url) = args.keystone.clone() else { return Ok(None) };
    let password = match &args.keystone_password_file {
        Some(path) => {
            let fail = |error| Failure::from(cairn_engine::Error::io(path.display().to_string(), error));
            std::fs::read_to_string(path).map_err(fail)?.trim_end_matches(['\n', '\r']).to_owned()
        }
        None => std::env::var("CAIRN_KEYSTONE_PASSWORD").unwrap_or_default(),
    };
    if password.is_empty() {
        let text =
            "a Keystone takes a password: name a file with --keystone-password-file, or set CAIRN_KEYSTONE_PASSWORD";
        return Err(Failure::new(ErrorKind::Invalid, text));
    }
    Ok(Some(KeystoneOptions {
        url,
        user: args.keystone_user.clone(),
        user_domain: args.keystone_user_domain.clone(),
        project: args.keystone_project.clone(),
        project_domain: args.keystone_project_domain.clone(),
        password,
        ca: args.keystone_ca.clone(),
        cache: Duration::from_secs(args.keystone_cache),
    }))
}

fn config(args: Serve) -> Result<Config, Failure> {
    let keystone = keystone(&args)?;
    let pool = args.pool.unwrap_or_default();
    let mut nbd = args.nbd;
    if nbd.is_empty() {
        nbd.push(Listen::Unix(control::socket_path(&pool)?.with_extension("nbd")));
    }
    let fail = |error| Failure::from(cairn_engine::Error::io("the directory of --vhost-user", error));
    let repository = args.backup_url.map(|url| RepositoryRef {
        url,
        passphrase_file: args.backup_passphrase_file,
        ..RepositoryRef::default()
    });
    let usual = Settings::default();
    Ok(Config {
        pool,
        open: OpenOptions::new(),
        wait: Duration::from_secs(args.wait),
        catalog: args.catalog,
        listen: args.listen,
        url: args.url,
        dev: args.dev,
        keystone,
        tls: args.tls_certificate.zip(args.tls_key).map(|(certificate, key)| TlsFiles { certificate, key }),
        proxies: args.proxy,
        nbd,
        nbd_options: Options::default(),
        // Virtual machines run in other directories.
        vhost_user: args.vhost_user.map(std::path::absolute).transpose().map_err(fail)?,
        settings: Settings {
            host: args.host.unwrap_or(usual.host),
            zone: args.zone,
            over_subscription: args.over_subscription,
            image_bytes: args.image_limit << 30,
            repository,
            collect_every: Duration::from_secs(args.collect_every),
            events: args.events,
            event_days: args.event_days,
            meters: args.meters,
            meter_days: args.meter_days,
            meter_interval: Duration::from_secs(args.meter_interval),
            ..usual
        },
        bounds: Bounds::default(),
        hook: daemon::no_hook(),
    })
}

fn say(ready: &Ready) {
    let line = serde_json::to_string(ready).unwrap_or_default();
    // Whoever started it may not listen.
    drop(writeln!(std::io::stdout(), "{line}"));
}

async fn serve(args: Serve) -> Result<(), Failure> {
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

/// Says who was made, and, this once, the password, if it was made up.
fn bootstrap(args: First) -> Result<(), Failure> {
    let mut line = String::new();
    if args.password_stdin {
        let fail = |error| Failure::from(cairn_engine::Error::io("the password cannot be read", error));
        let _length = std::io::stdin().read_line(&mut line).map_err(fail)?;
    }
    let given = args.password_stdin.then(|| line.trim_end_matches(['\n', '\r']));
    let (user, project) = (args.user.clone(), args.project.clone());
    let wanted = Bootstrap { pool: args.pool, catalog: args.catalog, user: args.user, project: args.project };
    let made = daemon::bootstrap(&wanted, given)?;
    let said = serde_json::json!({"user": user, "project": project, "domain": "default", "password": made});
    let fail = |error| Failure::from(cairn_engine::Error::io("the password cannot be shown", error));
    writeln!(std::io::stdout(), "{said}").map_err(fail)
}

fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_env("CAIRN_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let Args { command, serve: args } = Args::parse();
    if let Some(Command::Bootstrap(first)) = command {
        return match bootstrap(first) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                eprintln!("cairnd: {failure}");
                ExitCode::FAILURE
            }
        };
    }
    let runtime = match daemon::runtime(args.nice) {
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
