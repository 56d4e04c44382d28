//! Whether transactions are missing before others. RocksDB recovers a journal that lacks some of them without a word, where the damage hides
//! how many there were.
//!
//! Invariant: each transaction takes out the mark of the one before it, and leaves its own. So there is one mark, that of the last one; before
//! transactions that are missing there is another, which nobody took out. That stays so, whatever comes later.
//!
//! The last ones may be missing without being missed: nothing in the catalog knows of them.

use rocksdb::{DB, Direction, IteratorMode, WriteBatch};

use super::{
    keys::Key,
    numbered::{id_of, number_of},
};
use crate::fault::{Answer, Fault};

/// What the keys of marks begin with; a number of 16 hexadecimal digits comes after it.
pub(super) fn all() -> Vec<u8> {
    Key::new("s").with("transaction").bytes()
}

fn mark(number: u64) -> Vec<u8> {
    Key::new("s").with("transaction").with(&id_of(number)).bytes()
}

/// Makes a batch the transaction of this number.
pub(super) fn leave(batch: &mut WriteBatch, number: u64) {
    batch.delete(mark(number.saturating_sub(1)));
    batch.put(mark(number), id_of(number));
}

/// The number of the last transaction; zero when there was none yet.
///
/// # Errors
/// Transactions are missing before others.
pub(super) fn last(db: &DB) -> Answer<u64> {
    let (range, mut last) = (all(), None);
    for pair in db.iterator(IteratorMode::From(&range, Direction::Forward)) {
        let (key, text) = pair?;
        if !key.starts_with(&range) {
            break;
        }
        let text = String::from_utf8_lossy(&text);
        let damaged = || Fault::internal(format!("the number of a transaction is damaged: {text:?}"));
        let number = number_of(&text).ok_or_else(damaged)?;
        if let Some(before) = last.replace(number) {
            return Err(Fault::internal(format!(
                "transactions after number {before} are missing, and later ones are there: its journal is damaged; \
                 restore the directory from a copy"
            )));
        }
    }
    Ok(last.unwrap_or_default())
}
