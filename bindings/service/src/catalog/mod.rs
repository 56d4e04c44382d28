//! The catalog: what the service knows about volumes, snapshots, backups and all that belongs to them, in RocksDB.
//!
//! Invariants:
//! - One writer at a time. A transaction reads what it decides on and writes all of its changes in one synced batch, or nothing.
//! - An index entry exists exactly for each object that has it: both are written by [`Tx::put`] and [`Tx::remove`] alone.
//! - No transaction is missing before one that is there: each takes out the mark of the one before it ([`marks`]).
//! - Counts of quotas change in the transaction that changes what they count, and so do intervals of metering. [`audit`] recomputes them.

mod audit;
mod events;
mod garbage;
mod groups;
mod images;
mod keys;
mod marks;
mod messages;
mod meters;
mod numbered;
mod objects;
mod pages;
mod people;
mod quotas;
mod records;
mod series;
mod settings;
mod tx;

pub(crate) use audit::audit;
pub(crate) use events::{Event, Verdict};
pub(crate) use garbage::Garbage;
pub(crate) use groups::{Group, GroupSnapshot, GroupType, ProjectQos};
pub(crate) use images::{Content, IMAGE_SNAPSHOT, Image, engine_image, engine_image_file};
pub(crate) use messages::MESSAGE_TIME;
pub(crate) use meters::{Holding, Io, Meter, OpenMeter, Seen};
pub(crate) use numbered::{Keep, Kept, Part, Window};
pub(crate) use objects::{
    Attachment, Backup, Export, Intent, Op, Snapshot, Source, Volume, engine_snapshot, engine_volume, listed,
};
pub(crate) use pages::{Page, Paging};
pub(crate) use people::{AppCredential, Grant, Project, Token, TotpKey, User};
pub(crate) use records::{Record, now_us};
pub(crate) use settings::{Consumer, DefaultType, Message, Named, QosSpec, Transfer, VolumeType};
pub(crate) use tx::{Subject, Tx};

use rocksdb::{DB, DBRecoveryMode, Options, WriteBatch, WriteOptions};
use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    fault::{Answer, Fault, FaultKind},
    priority::without_a_break,
};

/// Key and value that say which format the catalog has.
const FORMAT_KEY: &[u8] = b"format";
const FORMAT: &[u8] = b"2";
/// May have events that are in no series, and has no marks of transactions. Versions that know no other take such a catalog up, and write it so.
const FORMAT_1: &[u8] = b"1";
/// A file that every catalog has that was made.
const MADE: &str = "CURRENT";
/// Of written but not yet sorted data, in bytes.
const GATHERED: usize = 16 << 20;
const CACHE: usize = 32 << 20;

struct Inner {
    db: DB,
    /// The number of the last transaction.
    writer: Mutex<u64>,
    kept: Kept,
}

/// An open catalog. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Catalog {
    inner: Arc<Inner>,
}

impl Catalog {
    /// Opens the catalog in a directory, or makes it there.
    pub(crate) fn open(path: &Path, kept: Kept) -> Answer<Self> {
        let fail = |e| Fault::internal(format!("the catalog {} cannot be made private: {e}", path.display()));
        private(path).map_err(fail)?;
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_write_buffer_size(GATHERED);
        options.set_keep_log_file_num(2);
        options.set_max_open_files(64);
        // The last record may be half there, which nobody was answered. What is wrong elsewhere is said, or shows by the marks; but for the last
        // block of the last file, where damage may look like that end.
        options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
        let mut table = rocksdb::BlockBasedOptions::default();
        table.set_block_cache(&rocksdb::Cache::new_lru_cache(CACHE));
        // Most keys that are asked for by name are in one of several files.
        table.set_bloom_filter(10.0, false);
        options.set_block_based_table_factory(&table);
        // Sorting what was gathered waits for everything else.
        let mut threads = rocksdb::Env::new()?;
        threads.lower_thread_pool_cpu_priority();
        options.set_env(&threads);
        let refused = |why: &str| Fault::internal(format!("the catalog {} cannot be opened: {why}", path.display()));
        let last = |db: &DB| marks::last(db).map_err(|fault| refused(&fault.message));
        let fail = |e: rocksdb::Error| refused(e.as_ref());
        if path.join(MADE).exists() {
            // Before anything is changed: to open it for writing is to forget the journal, and what of it can still be read elsewhere.
            let _number = last(&DB::open_for_read_only(&options, path, false).map_err(fail)?)?;
        }
        let db = DB::open(&options, path).map_err(fail)?;
        let (format, number) = (db.get(FORMAT_KEY)?, last(&db)?);
        let catalog = Self { inner: Arc::new(Inner { db, writer: Mutex::new(number), kept }) };
        match format.as_deref() {
            Some(FORMAT) => {}
            None if number > 0 => {
                return Err(refused("its first transaction is missing; restore the directory from a copy"));
            }
            // A new one has no events.
            None | Some(FORMAT_1) => catalog.write(|tx| {
                tx.adopt_events()?;
                tx.set_raw(FORMAT_KEY.to_vec(), Some(FORMAT.to_vec()));
                Ok(())
            })?,
            Some(_) => {
                let text = format!("the catalog {} was made by a newer version: upgrade this one", path.display());
                return Err(Fault::new(FaultKind::Unsupported, text));
            }
        }
        Ok(catalog)
    }

    /// Reads. What others write meanwhile may be seen in part: each object is whole, two objects may be of different moments.
    pub(crate) fn read(&self) -> Tx<'_> {
        Tx::new(&self.inner.db, self.inner.kept)
    }

    /// Reads and writes in one transaction: durable when it returns, nothing was written when it fails.
    pub(crate) fn write<T>(&self, change: impl FnOnce(&mut Tx<'_>) -> Answer<T>) -> Answer<T> {
        let run = || {
            let mut last = self.inner.writer.lock().unwrap_or_else(PoisonError::into_inner);
            let mut tx = Tx::new(&self.inner.db, self.inner.kept);
            let outcome = without_a_break(|| change(&mut tx))?;
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
            // The same number again after one that failed, whether that was stored or not.
            let number = *last + 1;
            marks::leave(&mut batch, number);
            self.inner.db.write_opt(batch, &synced())?;
            *last = number;
            Ok(outcome)
        };
        // The sync takes milliseconds: others on this thread go on elsewhere.
        match tokio::runtime::Handle::try_current().map(|handle| handle.runtime_flavor()) {
            Ok(tokio::runtime::RuntimeFlavor::MultiThread) => tokio::task::block_in_place(run),
            _ => run(),
        }
    }
}

#[cfg(feature = "fuzzing")]
impl Catalog {
    /// All that is stored, but for the mark of the last transaction.
    pub(crate) fn pairs(&self) -> Answer<Vec<(Vec<u8>, Vec<u8>)>> {
        let (pairs, marks) = (self.inner.db.iterator(rocksdb::IteratorMode::Start), marks::all());
        let pairs = pairs.filter(|pair| !pair.as_ref().is_ok_and(|(key, _)| key.starts_with(&marks)));
        pairs.map(|pair| pair.map(|(key, value)| (key.into(), value.into())).map_err(Fault::from)).collect()
    }

    /// Puts all that is stored back to what it was.
    pub(crate) fn put_back(&self, pairs: &[(Vec<u8>, Vec<u8>)]) -> Answer<()> {
        let mut batch = WriteBatch::default();
        for (key, _) in self.pairs()? {
            batch.delete(key);
        }
        for (key, value) in pairs {
            batch.put(key, value);
        }
        Ok(self.inner.db.write_opt(batch, &synced())?)
    }
}

/// It holds keys of one-time passwords, and hashes of passwords: nobody else reads it.
fn private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
}

fn synced() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(true);
    options
}

#[cfg(test)]
mod tests;
