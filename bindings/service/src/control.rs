//! The control socket: where it is, how a server offers it, how a command tells a live one from a dead one.
//!
//! Invariants:
//! - Only the process that holds the pool's lock replaces the socket, so one that nobody answers on is stale.
//! - The socket appears under its name only when it is already private (mode 0600) and listening.

use axum::Router;
use cairn_engine::ErrorKind;
use std::{
    fs::{self, DirBuilder, Permissions},
    future::Future,
    io,
    os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::net::{UnixListener, UnixStream};

use crate::{Client, Failure, Result, api::Status, beside::flat, router, state::State};

/// Where the control sockets of pools on devices are.
const RUN_DIRECTORY: &str = "/run/cairn";

/// Longest path that a socket address holds, with room for a temporary ending.
const LONGEST_ADDRESS: usize = 90;

/// How long requests in progress may take to end after the wish to stop.
const GRACE: Duration = Duration::from_secs(2);

/// How long a control socket may take to answer before it counts as dead.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// Path of the control socket of a pool: `<pool>.ctl` beside a file, under `/run/cairn` for a device. Links are followed,
/// so that every name of a pool leads to the same socket.
pub fn socket_path(pool: &Path) -> Result<PathBuf> {
    let fail = |error| Failure::from(cairn_engine::Error::io(format!("pool {}", pool.display()), error));
    let real = fs::canonicalize(pool).map_err(fail)?;
    let device = fs::metadata(&real).map_err(fail)?.file_type().is_block_device();
    Ok(socket_of(&real, device))
}

fn socket_of(real: &Path, device: bool) -> PathBuf {
    let mut name = real.as_os_str().to_owned();
    name.push(".ctl");
    if !device {
        return name.into();
    }
    Path::new(RUN_DIRECTORY).join(flat(Path::new(&name)))
}

/// The server of a pool, when one answers on its control socket; `None` when there is none, or only what a killed one left.
pub async fn find_server(pool: &Path) -> Result<Option<(Client, Status)>> {
    let path = socket_path(pool)?;
    if let Err(error) = connect(&path).await {
        return match error.kind() {
            io::ErrorKind::PermissionDenied => Err(Failure::new(
                ErrorKind::Busy,
                format!("the pool may be served, but {} is not open to this user: {error}", path.display()),
            )),
            _ => Ok(None),
        };
    }
    let client = Client::over_socket(path);
    match tokio::time::timeout(ANSWER_TIME, client.status()).await {
        Ok(Ok(status)) => Ok(Some((client, status))),
        // It went away between the two calls.
        Ok(Err(failure)) if failure.kind == ErrorKind::Closed => Ok(None),
        Ok(Err(failure)) => Err(failure.within("the control socket of the pool gives no usable answer")),
        Err(_) => Err(Failure::new(
            ErrorKind::Busy,
            format!("the server of pool {} does not answer (waited {} s)", pool.display(), ANSWER_TIME.as_secs()),
        )),
    }
}

/// Opens a connection; like [`UnixStream::connect`], but for paths of any length.
pub(crate) async fn connect(path: &Path) -> io::Result<UnixStream> {
    let (address, _directory) = short(path)?;
    UnixStream::connect(address).await
}

/// A path that fits into a socket address, and what must stay open while it is used.
fn short(path: &Path) -> io::Result<(PathBuf, Option<fs::File>)> {
    use std::os::fd::AsRawFd;
    if path.as_os_str().len() <= LONGEST_ADDRESS {
        return Ok((path.to_owned(), None));
    }
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the path of a socket"));
    };
    let directory = fs::File::open(directory)?;
    let address = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
    Ok((address, Some(directory)))
}

/// A bound control socket. Dropping it removes its name.
pub struct Control {
    listener: Option<UnixListener>,
    path: PathBuf,
}

impl Control {
    /// Offers the control socket of `pool`, in place of what a killed server may have left. The caller holds the pool.
    pub fn bind(pool: &Path) -> Result<Self> {
        let path = socket_path(pool)?;
        let fail = |error| Failure::from(cairn_engine::Error::io(format!("control socket {}", path.display()), error));
        if let Some(directory) = path.parent().filter(|directory| *directory == Path::new(RUN_DIRECTORY)) {
            DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(fail)?;
        }
        let listener = bind_private(&path).map_err(fail)?;
        Ok(Self { listener: Some(listener), path })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Serves until `state` is asked to stop or `stop` ends, then lets requests in progress end, for a few seconds. Its
    /// name stays until it is dropped, but nobody answers any more.
    pub async fn serve(&mut self, state: State, stop: impl Future<Output = ()> + Send + 'static) -> Result<()> {
        let Some(listener) = self.listener.take() else { return Ok(()) };
        let (stopping, mut stopped) = tokio::sync::watch::channel(false);
        let wish = state.clone();
        let signal = async move {
            tokio::select! {
                () = wish.stopped() => {}
                () = stop => {}
            }
            stopping.send_replace(true);
        };
        let routes: Router = router(state);
        let server = axum::serve(listener, routes).with_graceful_shutdown(signal);
        let overdue = async {
            // Ends also when the sender is gone, which is when the signal has been given.
            drop(stopped.wait_for(|stopping| *stopping).await);
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            ended = server => ended.map_err(|error| cairn_engine::Error::io("control socket", error).into()),
            () = overdue => Ok(()),
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // Gone already is as good.
        drop(fs::remove_file(&self.path));
    }
}

/// Binds under a temporary name, makes it private, and moves it to its own name in one step.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(temporary);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (address, _directory) = short(&temporary)?;
    let listener = UnixListener::bind(address)?;
    let settle = || {
        fs::set_permissions(&temporary, Permissions::from_mode(0o600))?;
        fs::rename(&temporary, path)
    };
    settle().inspect_err(|_| drop(fs::remove_file(&temporary)))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_it_beside_them_and_devices_under_run() {
        assert_eq!(socket_of(Path::new("/srv/a.pool"), false), Path::new("/srv/a.pool.ctl"));
        assert_eq!(socket_of(Path::new("/dev/vg/pool"), true), Path::new("/run/cairn/dev-vg-pool.ctl"));
    }

    #[test]
    fn a_missing_pool_is_not_found() {
        let directory = tempfile::tempdir().unwrap();
        let failure = socket_path(&directory.path().join("none")).unwrap_err();
        assert_eq!(failure.kind, ErrorKind::NotFound);
    }

    #[test]
    fn links_lead_to_the_same_socket() {
        let directory = tempfile::tempdir().unwrap();
        let pool = directory.path().join("pool");
        fs::write(&pool, "").unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&pool, &link).unwrap();
        assert_eq!(socket_path(&link).unwrap(), socket_path(&pool).unwrap());
    }

    #[tokio::test]
    async fn stale_sockets_are_replaced_and_bound_ones_are_private() {
        let directory = tempfile::tempdir().unwrap();
        // Longer than a socket address holds.
        let deep = directory.path().join("d".repeat(100));
        fs::create_dir(&deep).unwrap();
        let pool = deep.join("pool");
        fs::write(&pool, "").unwrap();
        let path = socket_path(&pool).unwrap();
        // As kill -9 leaves it: the name without a listener.
        let (address, _directory) = short(&path).unwrap();
        drop(std::os::unix::net::UnixListener::bind(address).unwrap());
        assert!(find_server(&pool).await.unwrap().is_none());
        let control = Control::bind(&pool).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        connect(&path).await.unwrap();
        drop(control);
        assert!(!path.exists());
    }
}
