//! What must hold for any bytes. Called by the fuzz targets, and by ordinary tests for each input in `corpus/` and for changes of them.
//!
//! Each check panics when something does not hold, and says whether it understood the input: that its bytes went past the first look.

// Each target uses one of them.
#![allow(dead_code, unused_imports)]

mod control;
mod nbd;
mod operations;
mod pool;
mod service;
mod text;
mod transmission;

pub(crate) use self::{
    control::control,
    nbd::{nbd_handshake, nbd_protocol},
    operations::operations,
    pool::pool,
    service::{qcow2, service_requests},
    text::{cli_arguments, names_and_sizes},
    transmission::nbd_transmission,
};
pub(crate) use cairn_backup::fuzzing::{backup_pack, backup_page, backup_record};
pub(crate) use cairn_engine::fuzzing::{journal, node, superblock, table};
pub(crate) use cairn_vhost_user::fuzzing::{
    chain as vhost_user_chain, in_flight as vhost_user_in_flight, message as vhost_user_message,
};

use cairn_engine::{MIB, OpenOptions, Pool, PoolOptions, StorageKind, VolumeOptions};
use pollster::block_on;
use std::path::Path;
use tempfile::TempDir;

/// A directory in memory, where there is one.
fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("cairn-fuzz.").tempdir_in(parent).expect("a directory for a pool")
}

/// A pool whose file has no name any more: it is gone with the process.
fn nameless_pool(size: u64) -> Pool {
    let directory = scratch();
    let options = PoolOptions::new().size(size).open(OpenOptions::new().storage(StorageKind::Pread));
    block_on(Pool::create(directory.path().join("pool"), options)).expect("a pool can be made")
}

/// A volume `v` of 1 MiB and a sector with some data, and its snapshot `v@s`.
fn volume_and_snapshot(pool: &Pool) -> cairn_engine::Result<()> {
    block_on(async {
        let volume = pool.create_volume("v", VOLUME, VolumeOptions::default()).await?;
        volume.write(8192, (&[7; 16384][..]).into()).await?;
        volume.snapshot("s").await?;
        volume.write(16384, (&[8; 4096][..]).into()).await?;
        volume.discard(8192, 4096).await
    })
}

/// Size of the volume `v`.
const VOLUME: u64 = MIB + 512;
