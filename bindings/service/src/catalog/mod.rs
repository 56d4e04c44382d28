//! The catalog: what the service knows about volumes, snapshots, backups and all that belongs to them, in RocksDB.
//!
//! Invariants:
//! - One writer at a time. A transaction reads what it decides on and writes all of its changes in one synced batch, or nothing.
//! - An index entry exists exactly for each object that has it: both are written by [`Tx::put`] and [`Tx::remove`] alone.
//! - Counts of quotas change in the transaction that changes what they count. [`audit`] recomputes them.

mod audit;
mod keys;
mod objects;
mod pages;
mod quotas;
mod records;
mod settings;
mod tx;

pub(crate) use audit::audit;
pub(crate) use objects::{Attachment, Backup, Intent, Op, Snapshot, Source, Volume, engine_snapshot, engine_volume};
pub(crate) use pages::{Page, Paging};
pub(crate) use records::{Record, now_us};
pub(crate) use settings::{Consumer, Message, Named, QosSpec, Transfer, VolumeType};
pub(crate) use tx::Tx;

use rocksdb::{DB, Options, WriteBatch, WriteOptions};
use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use crate::fault::{Answer, Fault, FaultKind};

/// Key and value that say which format the catalog has.
const FORMAT_KEY: &[u8] = b"format";
const FORMAT: &[u8] = b"1";
/// Of written but not yet sorted data, in bytes.
const GATHERED: usize = 16 << 20;
const CACHE: usize = 32 << 20;

struct Inner {
    db: DB,
    writer: Mutex<()>,
}

/// An open catalog. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Catalog {
    inner: Arc<Inner>,
}

impl Catalog {
    /// Opens the catalog in a directory, or makes it there.
    pub(crate) fn open(path: &Path) -> Answer<Self> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_write_buffer_size(GATHERED);
        options.set_keep_log_file_num(2);
        options.set_max_open_files(64);
        let mut table = rocksdb::BlockBasedOptions::default();
        table.set_block_cache(&rocksdb::Cache::new_lru_cache(CACHE));
        options.set_block_based_table_factory(&table);
        let db = DB::open(&options, path)
            .map_err(|e| Fault::internal(format!("the catalog {} cannot be opened: {e}", path.display())))?;
        match db.get(FORMAT_KEY)?.as_deref() {
            Some(FORMAT) => {}
            Some(_) => {
                let text = format!("the catalog {} was made by a newer version: upgrade this one", path.display());
                return Err(Fault::new(FaultKind::Unsupported, text));
            }
            None => db.put_opt(FORMAT_KEY, FORMAT, &synced())?,
        }
        Ok(Self { inner: Arc::new(Inner { db, writer: Mutex::new(()) }) })
    }

    /// Reads. What others write meanwhile may be seen in part: each object is whole, two objects may be of different moments.
    pub(crate) fn read(&self) -> Tx<'_> {
        Tx::new(&self.inner.db)
    }

    /// Reads and writes in one transaction: durable when it returns, nothing was written when it fails.
    pub(crate) fn write<T>(&self, change: impl FnOnce(&mut Tx<'_>) -> Answer<T>) -> Answer<T> {
        let run = || {
            let _writer = self.inner.writer.lock().unwrap_or_else(PoisonError::into_inner);
            let mut tx = Tx::new(&self.inner.db);
            let outcome = change(&mut tx)?;
            let changes = tx.into_changes();
            if changes.is_empty() {
                return Ok(outcome);
            }
            let mut batch = WriteBatch::default();
            for (key, value) in changes {
                match value {
                    Some(value) => batch.put(key, value),
                    None => batch.delete(key),
                }
            }
            self.inner.db.write_opt(batch, &synced())?;
            Ok(outcome)
        };
        // The sync takes milliseconds: others on this thread go on elsewhere.
        match tokio::runtime::Handle::try_current().map(|handle| handle.runtime_flavor()) {
            Ok(tokio::runtime::RuntimeFlavor::MultiThread) => tokio::task::block_in_place(run),
            _ => run(),
        }
    }
}

fn synced() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(true);
    options
}

#[cfg(test)]
mod tests;
