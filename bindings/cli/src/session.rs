//! Who answers a command: the server that holds the pool, or this process.
//!
//! Invariants:
//! - Two processes never hold one pool: its holder keeps a lock on it, and opening a locked pool fails as busy.
//! - A control socket that answers goes first. One that does not is what a killed server left, and is passed over.
//! - A pool held by another command, which offers no socket, is waited for, but not for ever.

use cairn_engine::{Error, ErrorKind, OpenOptions, Pool, StorageKind};
use cairn_service::{Client, Failure, State, api::Status, control};
use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::time::Instant;

/// Between two tries for a pool that somebody else holds: commands hold one for some milliseconds.
const PAUSE: Duration = Duration::from_millis(25);

/// How to reach a pool.
#[derive(Clone, Debug)]
pub struct Reach {
    /// Path of the pool.
    pub pool: PathBuf,
    /// The storage asked for; `None` leaves the choice.
    pub storage: Option<StorageKind>,
    /// How long to wait for another command that holds the pool.
    pub wait: Duration,
}

/// A pool within reach, for one command.
pub struct Session {
    client: Client,
    own: Option<Pool>,
}

impl Session {
    /// Finds the server of the pool, or opens the pool, with `options`. `warn` is told what the user should know.
    ///
    /// # Errors
    /// Busy when another process holds the pool, offers no control socket, and does not let go in time; whatever opening
    /// the pool fails with.
    pub async fn open(reach: &Reach, options: OpenOptions, warn: impl Fn(String)) -> Result<Self, Failure> {
        let deadline = Instant::now() + reach.wait;
        loop {
            if let Some((client, _)) = control::find_server(&reach.pool).await? {
                return Ok(Self { client, own: None });
            }
            match open_pool(reach, options.clone(), &warn).await {
                Ok(pool) => return Ok(Self { client: Client::in_process(State::new(pool.clone())), own: Some(pool) }),
                Err(failure) if failure.kind != ErrorKind::Busy => return Err(failure),
                Err(_) if Instant::now() >= deadline => return Err(held(reach)),
                Err(_) => {}
            }
            pause().await;
        }
    }

    /// Calls of the control interface.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Whether a server holds the pool, and not this process.
    #[must_use]
    pub fn is_served(&self) -> bool {
        self.own.is_none()
    }

    /// Lets go of the pool; everything done is committed.
    ///
    /// # Errors
    /// What the last commit or checkpoint fails with.
    pub async fn close(self) -> Result<(), Failure> {
        match self.own {
            Some(pool) => Ok(pool.close().await?),
            None => Ok(()),
        }
    }
}

/// Opens the pool in this process, for what no server can do for it; waits for other commands. `remedy` says what to do when it is served.
///
/// # Errors
/// Busy when a server, or another process for too long, holds the pool; whatever opening the pool fails with.
pub(crate) async fn hold(
    reach: &Reach,
    options: OpenOptions,
    warn: impl Fn(String),
    remedy: impl Fn(&Status) -> String,
) -> Result<Pool, Failure> {
    let deadline = Instant::now() + reach.wait;
    loop {
        if let Some((_, status)) = control::find_server(&reach.pool).await? {
            let (pool, remedy) = (reach.pool.display(), remedy(&status));
            let text = format!("pool {pool} is served already, by process {}{remedy}", status.pid);
            return Err(Failure::new(ErrorKind::Busy, text));
        }
        match open_pool(reach, options.clone(), &warn).await {
            Err(failure) if failure.kind == ErrorKind::Busy && Instant::now() < deadline => pause().await,
            Err(failure) if failure.kind == ErrorKind::Busy => return Err(held(reach)),
            outcome => return outcome,
        }
    }
}

/// Waits a little before the next try.
async fn pause() {
    tokio::time::sleep(PAUSE).await;
}

fn held(reach: &Reach) -> Failure {
    Failure::new(
        ErrorKind::Busy,
        format!(
            "pool {} is held by another process that offers no control socket (waited {} s): let that command end, \
             or find it with: fuser {}",
            reach.pool.display(),
            reach.wait.as_secs(),
            reach.pool.display()
        ),
    )
}

/// Opens the pool by the storage asked for, or by io_uring, or where that is not available by plain system calls.
async fn open_pool(reach: &Reach, options: OpenOptions, warn: &impl Fn(String)) -> Result<Pool, Failure> {
    let open = async |kind: StorageKind| Pool::open(&reach.pool, options.clone().storage(kind)).await;
    Ok(with_storage(reach.storage, &reach.pool, open, warn).await?)
}

/// Runs `open` with the storage asked for, or with the first that works.
pub(crate) async fn with_storage<T>(
    asked: Option<StorageKind>,
    pool: &Path,
    open: impl AsyncFn(StorageKind) -> cairn_engine::Result<T>,
    warn: &impl Fn(String),
) -> cairn_engine::Result<T> {
    if let Some(kind) = asked {
        return open(kind).await;
    }
    let error = match open(StorageKind::Uring).await {
        Err(error) if lacks_uring(&error) => error,
        outcome => return outcome,
    };
    let opened = open(StorageKind::Pread).await?;
    warn(format!("pool {}: io_uring is not available ({error}): using plain reads and writes", pool.display()));
    Ok(opened)
}

/// Whether an error may mean that the kernel gives no ring (switched off, filtered, too old, no locked memory), so that
/// it is worth trying without.
fn lacks_uring(error: &Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    match cause.map(io::Error::kind) {
        Some(kind) => matches!(
            kind,
            io::ErrorKind::PermissionDenied
                | io::ErrorKind::Unsupported
                | io::ErrorKind::OutOfMemory
                | io::ErrorKind::InvalidInput
        ),
        None => error.kind() == ErrorKind::Unsupported,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};

    fn refused(errno: i32) -> Error {
        Error::io("io_uring", io::Error::from_raw_os_error(errno))
    }

    async fn try_both(asked: Option<StorageKind>, uring: Option<Error>) -> (cairn_engine::Result<&'static str>, u32) {
        let warned = Cell::new(0);
        let tried = RefCell::new(uring);
        let open = async |kind| match kind {
            StorageKind::Uring => tried.take().map_or(Ok("uring"), Err),
            StorageKind::Pread => Ok("pread"),
        };
        let outcome = with_storage(asked, Path::new("p"), open, &|_| warned.set(warned.get() + 1)).await;
        (outcome, warned.get())
    }

    #[tokio::test]
    async fn without_io_uring_plain_calls_are_used_with_a_warning() {
        for errno in [1, 12, 22, 38] {
            let (outcome, warnings) = try_both(None, Some(refused(errno))).await;
            assert_eq!((outcome.unwrap(), warnings), ("pread", 1), "errno {errno}");
        }
        let unsupported = Error::new(ErrorKind::Unsupported, "no ring");
        assert_eq!(try_both(None, Some(unsupported)).await.0.unwrap(), "pread");
    }

    #[tokio::test]
    async fn what_was_asked_for_is_kept_to_and_other_errors_are_final() {
        assert_eq!(try_both(None, None).await.0.unwrap(), "uring");
        assert_eq!(try_both(Some(StorageKind::Pread), None).await.0.unwrap(), "pread");
        assert!(try_both(Some(StorageKind::Uring), Some(refused(1))).await.0.is_err());
        let (outcome, warnings) = try_both(None, Some(Error::new(ErrorKind::Corrupt, "superblock"))).await;
        assert_eq!((outcome.unwrap_err().kind(), warnings), (ErrorKind::Corrupt, 0));
        assert_eq!(try_both(None, Some(refused(5))).await.0.unwrap_err().kind(), ErrorKind::Io);
    }
}
