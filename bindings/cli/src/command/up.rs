//! `cairn up`: the daemon for trying it out, with a pool and a repository of its own, in the foreground.

use cairn_backup::{ErrorKind as BackupErrorKind, InitOptions, Location, Repository};
use cairn_engine::{ErrorKind, OpenOptions, Pool, PoolOptions};
use cairn_nbd::{Listen, Options};
use cairn_service::{
    Failure, Settings,
    backup::RepositoryRef,
    daemon::{self, Bounds, Config, Ready},
};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Duration,
};

use super::serve::stop_signal;
use crate::{
    args::{Global, UpArgs},
    output::Output,
};

/// What it says when it is ready, for programs: one line.
#[derive(Serialize)]
struct Up<'a> {
    #[serde(flatten)]
    ready: &'a Ready,
    directory: String,
    repository: &'a str,
    /// What was not there before.
    created: &'a [&'static str],
    /// What the OpenStack command line wants to know.
    environment: BTreeMap<&'static str, String>,
}

/// Where everything is.
struct Place {
    directory: PathBuf,
    pool: PathBuf,
    repository: String,
}

fn io(what: &Path) -> impl Fn(std::io::Error) -> Failure + '_ {
    move |error| cairn_engine::Error::io(what.display().to_string(), error).into()
}

/// The user's directory for data.
fn usual() -> Result<PathBuf, Failure> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let data = set("XDG_DATA_HOME").or_else(|| set("HOME").map(|home| home.join(".local/share")));
    data.map(|data| data.join("cairn")).ok_or_else(|| {
        Failure::new(ErrorKind::Invalid, "neither XDG_DATA_HOME nor HOME is set: name a directory, cairn up DIR")
    })
}

impl Place {
    fn of(args: &UpArgs) -> Result<Self, Failure> {
        let named = match &args.directory {
            Some(directory) => directory.clone(),
            None => usual()?,
        };
        DirBuilder::new().recursive(true).mode(0o700).create(&named).map_err(io(&named))?;
        let directory = std::fs::canonicalize(&named).map_err(io(&named))?;
        let repository = format!("file://{}", directory.join("backups").display());
        Ok(Self { pool: directory.join("main.pool"), repository, directory })
    }

    /// Makes what is not there. Answers what that was.
    async fn complete(&self, size: u64) -> Result<Vec<&'static str>, Failure> {
        let mut created = Vec::new();
        if !self.pool.try_exists().map_err(io(&self.pool))? {
            Pool::create(&self.pool, PoolOptions::new().size(size)).await?.close().await?;
            created.push("pool");
        }
        let location = Location::new(self.repository.clone());
        match Repository::open(&location).await {
            Ok(_) => {}
            Err(error) if error.kind() == BackupErrorKind::NotFound => {
                drop(Repository::init(&location, &InitOptions::default()).await?);
                created.push("repository");
            }
            Err(error) => return Err(error.into()),
        }
        Ok(created)
    }
}

fn config(global: &Global, args: &UpArgs, place: &Place) -> Config {
    let mut open = OpenOptions::new();
    if let Some(storage) = global.storage {
        open = open.storage(storage.into());
    }
    Config {
        pool: place.pool.clone(),
        open,
        wait: Duration::from_secs(global.wait),
        catalog: None,
        listen: args.listen,
        url: None,
        dev: true,
        keystone: None,
        tls: None,
        proxies: Vec::new(),
        nbd: vec![Listen::Unix(place.directory.join("nbd.sock"))],
        nbd_options: Options::default(),
        vhost_user: Some(place.directory.join("vhost")),
        settings: Settings {
            repository: Some(RepositoryRef { url: place.repository.clone(), ..RepositoryRef::default() }),
            ..Settings::default()
        },
        bounds: Bounds::default(),
        hook: daemon::no_hook(),
    }
}

fn environment(url: &str, project: &str) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        ("OS_AUTH_TYPE", "password".to_owned()),
        ("OS_AUTH_URL", format!("{url}/identity/v3")),
        ("OS_IDENTITY_API_VERSION", "3".to_owned()),
        ("OS_PASSWORD", "any".to_owned()),
        ("OS_PROJECT_DOMAIN_ID", "default".to_owned()),
        ("OS_PROJECT_NAME", project.to_owned()),
        ("OS_USERNAME", "me".to_owned()),
        ("OS_USER_DOMAIN_ID", "default".to_owned()),
        ("OS_VOLUME_API_VERSION", "3.71".to_owned()),
    ])
}

/// A value as a shell takes it.
fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:".contains(c);
    match !value.is_empty() && value.chars().all(plain) {
        true => value.to_owned(),
        false => format!("'{}'", value.replace('\'', r"'\''")),
    }
}

fn text(up: &Up<'_>) -> String {
    let mut text = String::new();
    for what in up.created {
        text += &format!("made the {what} in {}\n", up.directory);
    }
    text += &format!("pool {}, backups {}\n", up.ready.pool, up.repository);
    text += &format!("serving at {}, to everybody on this machine, without logins\n", up.ready.url);
    for listener in &up.ready.listeners {
        text +=
            &format!("attached volumes over NBD: {}; for VOLUME the name that the attachment tells\n", listener.uri);
    }
    if up.ready.resumed > 0 {
        text += &format!("going on with {} operations\n", up.ready.resumed);
    }
    text += "\nfor the OpenStack command line, in another terminal:\n\n";
    for (name, value) in &up.environment {
        text += &format!("export {name}={}\n", quoted(value));
    }
    text + "\nfor example: openstack volume create --size 1 first\nready; Ctrl-C ends it"
}

pub(super) async fn run(global: &Global, args: UpArgs, output: &Output) -> Result<(), Failure> {
    if !args.listen.ip().is_loopback() {
        let text = format!("{} is open to the network, and nobody is asked who they are: use 127.0.0.1", args.listen);
        return Err(Failure::new(ErrorKind::Invalid, text));
    }
    // Before anything is done, so that a signal never finds it half-way without a handler.
    let stop = stop_signal()?;
    let place = Place::of(&args)?;
    let created = place.complete(args.size).await?;
    let mut told = Ok(());
    let ready = |ready: &Ready| {
        let up = Up {
            environment: environment(&ready.url, &args.project),
            directory: place.directory.display().to_string(),
            repository: &place.repository,
            created: &created,
            ready,
        };
        told = output.result(&up, text(&up));
    };
    daemon::run(config(global, &args, &place), stop, ready).await?;
    told?;
    if !output.is_json() {
        output.raw("stopped\n")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_safe_in_a_shell() {
        assert_eq!(quoted("http://127.0.0.1:8776/identity/v3"), "http://127.0.0.1:8776/identity/v3");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's $(x)"), r"'it'\''s $(x)'");
        assert_eq!(quoted(""), "''");
    }
}
