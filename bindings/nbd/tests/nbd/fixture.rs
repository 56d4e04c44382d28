//! A pool in a temporary directory with one volume, and a server on a unix socket.

use crate::client::Client;
use cairn_engine::{ErrorKind, IoBuf, Pool, PoolOptions, VolumeOptions};
use cairn_nbd::{Options, Server};
use pollster::block_on;
use std::{
    os::unix::net::UnixStream,
    path::PathBuf,
    time::{Duration, Instant},
};

/// Size of the volume `db`.
pub(crate) const SIZE: u64 = 64 << 20;
/// How long anything here may take before the test has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Fixture {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) pool: Pool,
    pub(crate) server: Server,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self::with(Options::default())
    }

    pub(crate) fn with(options: Options) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pool = block_on(async {
            let pool =
                Pool::create(directory.path().join("p.cairn"), PoolOptions::new().size(512 << 20)).await.unwrap();
            drop(pool.create_volume("db", SIZE, VolumeOptions::default()).await.unwrap());
            pool
        });
        let listen = format!("unix:{}", directory.path().join("nbd.sock").display());
        let server = block_on(Server::start(&pool, listen.parse().unwrap(), options)).unwrap();
        Self { directory, pool, server }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("nbd.sock")
    }

    pub(crate) fn stream(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// A client that has sent its flags.
    pub(crate) fn client(&self) -> Client {
        Client::new(Box::new(self.stream()))
    }

    /// Writes past the server.
    pub(crate) fn write(&self, offset: u64, data: &[u8]) {
        block_on(async { self.pool.volume("db").await.unwrap().write(offset, IoBuf::from(data)).await.unwrap() });
    }

    pub(crate) fn snapshot(&self, name: &str) {
        let target = format!("db@{name}").parse().unwrap();
        block_on(self.pool.snapshot(&[target])).unwrap();
    }

    /// How many hold the volume open.
    pub(crate) fn attached(&self) -> u64 {
        block_on(self.pool.volume_info("db")).unwrap().attached
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        block_on(async {
            self.server.stop().await.unwrap();
            assert!(self.server.clients().is_empty());
            match self.pool.volume_info("db").await {
                Ok(info) => assert_eq!(info.attached, 0, "the server let go of the volume"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Closed, "{error}"),
            }
            self.pool.close().await.ok();
        });
    }
}

/// Waits for something that happens on the server's thread.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "{what} did not come about");
        std::thread::yield_now();
    }
}
