//! A pool in a temporary directory with one volume, and a server that exports it.

use crate::front_end::FrontEnd;
use cairn_engine::{ErrorKind, IoBuf, OpenOptions, Pool, PoolOptions, StorageKind, VolumeOptions};
use cairn_vhost_user::{ClientInfo, Options, Server};
use pollster::block_on;
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

/// Size of the volume `db`.
pub(crate) const SIZE: u64 = 64 << 20;
/// How long anything here may take before the test has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Fixture {
    _directory: tempfile::TempDir,
    pub(crate) pool: Pool,
    pub(crate) server: Server,
    pub(crate) socket: PathBuf,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self::with(Options::default())
    }

    pub(crate) fn with(options: Options) -> Self {
        Self::on(StorageKind::Uring, options)
    }

    pub(crate) fn on(storage: StorageKind, options: Options) -> Self {
        let directory = tempfile::tempdir().unwrap();
        block_on(async {
            let path = directory.path().join("p.cairn");
            let pool = Pool::create(path, PoolOptions::new().size(512 << 20).open(OpenOptions::new().storage(storage)))
                .await
                .unwrap();
            drop(pool.create_volume("db", SIZE, VolumeOptions::default()).await.unwrap());
            let server = Server::start(&pool, directory.path().join("sockets"), options).await.unwrap();
            let socket = server.export("db").await.unwrap();
            Self { _directory: directory, pool, server, socket }
        })
    }

    pub(crate) fn connect(&self) -> FrontEnd {
        FrontEnd::connect(&self.socket)
    }

    /// The content of `db`, past the server.
    pub(crate) fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        block_on(async { self.pool.volume("db").await.unwrap().read(offset, length).await.unwrap().to_vec() })
    }

    pub(crate) fn write(&self, offset: u64, data: &[u8]) {
        block_on(async { self.pool.volume("db").await.unwrap().write(offset, IoBuf::from(data)).await.unwrap() });
    }

    /// The front-end that is connected to `db`.
    pub(crate) fn client(&self) -> Option<ClientInfo> {
        self.server.exports().into_iter().find(|export| export.name == "db")?.client
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        block_on(async {
            self.server.stop().await.unwrap();
            assert!(self.server.exports().is_empty());
            assert!(!self.socket.exists());
            match self.pool.volume_info("db").await {
                Ok(info) => assert_eq!(info.attached, 0, "the server let go of the volume"),
                Err(error) => assert!(matches!(error.kind(), ErrorKind::Closed | ErrorKind::NotFound), "{error}"),
            }
            self.pool.close().await.ok();
        });
    }
}

/// Waits for something that happens on the server's thread.
#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "{what} did not come about");
        std::thread::yield_now();
    }
}
