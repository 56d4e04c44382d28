//! The log: numbered records, put only if absent, and the state that they come to.
//!
//! To write record `n + 1` a program must have read all up to `n`, must find its change lawful in the state after `n`, and must win the put
//! of `log/<n + 1>`. That orders everything without locks, leases or clocks.

#[cfg(test)]
mod interleaving;
pub(crate) mod packs;
pub(crate) mod record;
pub(crate) mod state;

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    crypt::{Keys, new_master, to_hex},
    envelope,
    error::{Error, ErrorKind, Result, corrupt},
    store::{Put, Store},
};
use record::{Change, Record};
use state::{Refusal, State};

const DIRECTORY: &str = "log";
const CHECKPOINTS: &str = "log-checkpoints";
/// Records after which a checkpoint of the state is written.
const CHECKPOINT_EVERY: u64 = 64;
/// One more than is read, should it be damaged.
const KEPT_CHECKPOINTS: usize = 2;

/// Why a record was not written.
#[derive(Debug)]
pub(crate) enum Unwritten {
    /// The change is not lawful in the state as it is now.
    Refused(Refusal),
    /// The store failed, or what is in it is damaged.
    Failed(Error),
}

impl From<Error> for Unwritten {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// A reader and writer of the log.
pub(crate) struct Log {
    store: Store,
    keys: Keys,
    /// Others may hold on to the state as it was.
    state: Arc<State>,
    checkpointed: u64,
}

fn object(number: u64) -> String {
    format!("{DIRECTORY}/{number:020}")
}

fn number_of(name: &str, directory: &str) -> Option<u64> {
    let digits = name.strip_prefix(directory)?.strip_prefix('/')?;
    (digits.len() == 20).then(|| digits.parse().ok()).flatten()
}

impl Log {
    /// Reads the log to its end.
    pub(crate) async fn open(store: &Store, keys: &Keys) -> Result<Self> {
        let (state, checkpointed) = newest_checkpoint(store, keys).await?;
        let mut log = Self { store: store.clone(), keys: keys.clone(), state: Arc::new(state), checkpointed };
        log.refresh().await?;
        Ok(log)
    }

    /// The state as far as it was read.
    pub(crate) fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Reads what was written since.
    pub(crate) async fn refresh(&mut self) -> Result<()> {
        // The last one that is known is listed with those after it.
        let known = self.state.number;
        let listed = self.store.list(DIRECTORY, (known > 1).then(|| object(known - 1)).as_deref()).await?;
        let numbers: Vec<u64> = listed.iter().filter_map(|object| number_of(&object.name, DIRECTORY)).collect();
        if known > 0 && !numbers.contains(&known) && self.store.get(&object(known)).await?.is_none() {
            return Err(self.lost(known));
        }
        let newest = numbers.into_iter().max();
        // A list that was made while records were put may lack some of them, and the newest: only what cannot be read is missing.
        while self.read_next().await? {}
        if let Some(newest) = newest.filter(|newest| *newest > self.state.number) {
            return Err(corrupt(format!(
                "{}: record {} of the log is missing, though record {newest} is there: restore it from a copy of the repository; \
                 until then nothing is written or deleted here",
                self.store.url(),
                self.state.number + 1
            )));
        }
        Ok(())
    }

    /// The log has come to its end before a record that was in it.
    pub(crate) fn lost(&self, known: u64) -> Error {
        corrupt(format!(
            "{}: record {known} of the log, which was there, is missing: restore it and those before it from a copy of the repository",
            self.store.url(),
        ))
    }

    /// Reads the next record, if there is one.
    async fn read_next(&mut self) -> Result<bool> {
        let name = object(self.state.number + 1);
        let Some(bytes) = self.store.get(&name).await? else { return Ok(false) };
        let record = self.decode(&name, &bytes)?;
        self.take(&record, &bytes)?;
        Ok(true)
    }

    fn decode(&self, name: &str, bytes: &[u8]) -> Result<Record> {
        let record: Record = envelope::unwrap("record", name, &self.store.shown(name), bytes, &self.keys)?;
        if record.number != self.state.number + 1 || record.previous != self.state.last {
            return Err(corrupt(format!(
                "{}/{name} does not follow the record before it: one of the two was replaced",
                self.store.url()
            )));
        }
        Ok(record)
    }

    fn take(&mut self, record: &Record, bytes: &[u8]) -> Result<()> {
        let hash = blake3::hash(bytes).to_hex();
        Arc::make_mut(&mut self.state).apply(record, &hash).map_err(|refusal| {
            let name = object(record.number);
            corrupt(format!("{} says what cannot have happened: {refusal:?}", self.store.shown(&name)))
        })
    }

    /// Writes a change, unless it is not lawful; whatever others write first is read, and the change judged again.
    pub(crate) async fn write(&mut self, session: &str, change: Change, now_ms: u64) -> Result<u64, Unwritten> {
        let nonce = to_hex(&new_master());
        loop {
            self.refresh().await?;
            self.state.judge(session, &change).map_err(Unwritten::Refused)?;
            let record = Record {
                number: self.state.number + 1,
                nonce: nonce.clone(),
                previous: self.state.last.clone(),
                time_ms: now_ms,
                session: session.to_owned(),
                change: change.clone(),
            };
            let bytes = Bytes::from(envelope::wrap("record", &object(record.number), &record, &self.keys));
            let name = object(record.number);
            let put = self.store.put_new(&name, bytes.clone()).await;
            let ours = match put {
                Ok(Put::Done) => true,
                // Also after an answer that was lost: the nonce says whose it is.
                Ok(Put::Exists) => self.is_ours(&name, &nonce).await?,
                Err(error) => match self.is_ours(&name, &nonce).await {
                    Ok(true) if self.store.sync(&name).await.is_ok() => true,
                    _ => return Err(Unwritten::Failed(error)),
                },
            };
            if ours {
                self.take(&record, &bytes)?;
                self.maybe_checkpoint().await;
                return Ok(record.number);
            }
        }
    }

    async fn is_ours(&self, name: &str, nonce: &str) -> Result<bool> {
        match self.store.get(name).await? {
            Some(bytes) => Ok(self.decode(name, &bytes).is_ok_and(|record| record.nonce == nonce)),
            None => Ok(false),
        }
    }

    /// Writes the state beside the log now and then, so that the next opening need not read all of it. A failure costs only that.
    async fn maybe_checkpoint(&mut self) {
        if self.state.number < self.checkpointed + CHECKPOINT_EVERY {
            return;
        }
        let name = format!("{CHECKPOINTS}/{:020}", self.state.number);
        let bytes = Bytes::from(envelope::wrap("state", &name, &*self.state, &self.keys));
        if self.store.put_new(&name, bytes).await.is_ok() {
            self.checkpointed = self.state.number;
            drop(self.forget_old_checkpoints().await);
        }
    }

    /// All but the newest two go: each is as large as the state.
    async fn forget_old_checkpoints(&self) -> Result<()> {
        let listed = self.store.list(CHECKPOINTS, None).await?;
        let ours = listed.into_iter().filter(|object| number_of(&object.name, CHECKPOINTS).is_some());
        for old in ours.rev().skip(KEPT_CHECKPOINTS) {
            self.store.delete(&old.name).await?;
        }
        Ok(())
    }
}

/// The state of the newest checkpoint that is whole; the beginning if there is none.
async fn newest_checkpoint(store: &Store, keys: &Keys) -> Result<(State, u64)> {
    let listed = store.list(CHECKPOINTS, None).await?;
    for object in listed.iter().rev() {
        let Some(number) = number_of(&object.name, CHECKPOINTS) else { continue };
        let bytes = match store.get(&object.name).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => continue,
            Err(error) if error.kind() == ErrorKind::Corrupt => continue,
            Err(error) => return Err(error),
        };
        match envelope::unwrap::<State>("state", &object.name, &store.shown(&object.name), &bytes, keys) {
            Ok(state) if state.number == number && state.is_sound() => {
                let Some(record) = store.get(&self::object(number)).await? else {
                    return Err(corrupt(format!(
                        "{}: record {number} of the log is missing, though {} was made of it: restore the log from a copy of the \
                         repository, or delete that checkpoint to go on with the backups that are left",
                        store.url(),
                        store.shown(&object.name)
                    )));
                };
                // One of another repository, or of a log that was replaced, is none.
                if *blake3::hash(&record).to_hex() == *state.last {
                    return Ok((state, number));
                }
            }
            Err(error) if error.kind() == ErrorKind::Unsupported => return Err(error),
            // It is a cache: the one before, or the log itself, says the same.
            _ => {}
        }
    }
    Ok((State::default(), 0))
}
