//! What is known of exports and of the front-ends connected to them, readable from any thread.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{SystemTime, UNIX_EPOCH},
};

/// A socket that serves a volume or a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExportInfo {
    /// `volume` or `volume@snapshot`.
    pub name: String,
    /// Where its socket is.
    pub socket: PathBuf,
    /// The front-end that is connected to it.
    pub client: Option<ClientInfo>,
    /// Why the last front-end that came was turned away, if it was because what is exported could not be opened.
    pub refused: Option<String>,
}

/// A connected front-end.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientInfo {
    /// Number of the connection, counted from 1 by each server.
    pub id: u64,
    /// Process and user of the other end.
    pub peer: String,
    /// When it connected, in milliseconds since 1970.
    pub connected_ms: u64,
    /// Whether it can only read.
    pub read_only: bool,
    /// Rings that are being served.
    pub queues: u64,
    /// Requests so far.
    pub requests: u64,
    /// Requests that are not answered yet.
    pub in_flight: u64,
    /// Requests that a back-end before this one had left in flight, and that were done again.
    pub resubmitted: u64,
    /// Requests that were answered with an error.
    pub failed: u64,
    /// Things that the front-end or its guest did and that make no sense: rings and chains that were not served.
    pub faults: u64,
    /// The last of these.
    pub last_fault: Option<String>,
    /// Bytes read so far.
    pub read_bytes: u64,
    /// Bytes written so far.
    pub written_bytes: u64,
}

/// A front-end's entry. Only the reactor's thread writes to it.
#[derive(Debug)]
pub(crate) struct Record {
    id: u64,
    peer: String,
    connected_ms: u64,
    read_only: bool,
    queues: AtomicU64,
    started: AtomicU64,
    finished: AtomicU64,
    resubmitted: AtomicU64,
    failed: AtomicU64,
    faults: AtomicU64,
    last_fault: Mutex<Option<String>>,
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
}

/// One writer: no need for an atomic read-modify-write on the way of every request.
fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
}

impl Record {
    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only
    }

    pub(crate) fn new(id: u64, peer: String, read_only: bool) -> Self {
        let connected = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            id,
            peer,
            connected_ms: connected.as_millis() as u64,
            read_only,
            queues: AtomicU64::new(0),
            started: AtomicU64::new(0),
            finished: AtomicU64::new(0),
            resubmitted: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            faults: AtomicU64::new(0),
            last_fault: Mutex::new(None),
            read_bytes: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
        }
    }

    pub(crate) fn serves(&self, queues: usize) {
        self.queues.store(queues as u64, Relaxed);
    }

    /// Whether any ring is being served.
    pub(crate) fn has_queues(&self) -> bool {
        self.queues.load(Relaxed) > 0
    }

    pub(crate) fn started(&self) {
        add(&self.started, 1);
    }

    pub(crate) fn finished(&self) {
        add(&self.finished, 1);
    }

    pub(crate) fn resubmitted(&self, requests: u64) {
        add(&self.resubmitted, requests);
    }

    pub(crate) fn failed(&self) {
        add(&self.failed, 1);
    }

    pub(crate) fn fault(&self, why: &str) {
        add(&self.faults, 1);
        // Replaced only by another one: a guest that floods this copies short strings and nothing else.
        let mut last = self.last_fault.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_deref() != Some(why) {
            *last = Some(why.to_owned());
        }
    }

    pub(crate) fn read(&self, bytes: u64) {
        add(&self.read_bytes, bytes);
    }

    pub(crate) fn wrote(&self, bytes: u64) {
        add(&self.written_bytes, bytes);
    }

    fn info(&self) -> ClientInfo {
        let (finished, started) = (self.finished.load(Relaxed), self.started.load(Relaxed));
        ClientInfo {
            id: self.id,
            peer: self.peer.clone(),
            connected_ms: self.connected_ms,
            read_only: self.read_only,
            queues: self.queues.load(Relaxed),
            requests: started,
            in_flight: started.saturating_sub(finished),
            resubmitted: self.resubmitted.load(Relaxed),
            failed: self.failed.load(Relaxed),
            faults: self.faults.load(Relaxed),
            last_fault: self.last_fault.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            read_bytes: self.read_bytes.load(Relaxed),
            written_bytes: self.written_bytes.load(Relaxed),
        }
    }
}

#[derive(Debug)]
struct Entry {
    socket: PathBuf,
    client: Option<Arc<Record>>,
    refused: Option<String>,
}

/// The exports of a server, by name.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    exports: Mutex<BTreeMap<String, Entry>>,
}

impl Directory {
    fn exports(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        // A map of names and reference counts is whole whatever happened to its last user.
        self.exports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, name: &str, socket: PathBuf) {
        self.exports().insert(name.to_owned(), Entry { socket, client: None, refused: None });
    }

    pub(crate) fn set_client(&self, name: &str, client: Option<Arc<Record>>) {
        if let Some(entry) = self.exports().get_mut(name) {
            if client.is_some() {
                entry.refused = None;
            }
            entry.client = client;
        }
    }

    /// A front-end was turned away.
    pub(crate) fn refuse(&self, name: &str, why: String) {
        if let Some(entry) = self.exports().get_mut(name) {
            entry.refused = Some(why);
        }
    }

    pub(crate) fn remove(&self, name: &str) {
        self.exports().remove(name);
    }

    pub(crate) fn list(&self) -> Vec<ExportInfo> {
        let info = |(name, entry): (&String, &Entry)| ExportInfo {
            name: name.clone(),
            socket: entry.socket.clone(),
            client: entry.client.as_ref().map(|record| record.info()),
            refused: entry.refused.clone(),
        };
        self.exports().iter().map(info).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exports_and_their_clients_come_and_go_with_their_figures() {
        let directory = Directory::default();
        directory.add("db", "/run/db.sock".into());
        assert_eq!(directory.list()[0].client, None);
        directory.refuse("db", "gone".into());
        assert_eq!(directory.list()[0].refused.as_deref(), Some("gone"));
        let record = Arc::new(Record::new(7, "pid 1".into(), true));
        directory.set_client("db", Some(Arc::clone(&record)));
        assert_eq!(directory.list()[0].refused, None, "one was let in since");
        record.started();
        record.started();
        record.finished();
        record.read(4096);
        record.wrote(512);
        record.resubmitted(3);
        record.fault("one");
        record.fault("two");
        let client = directory.list()[0].client.clone().unwrap();
        assert_eq!((client.id, client.requests, client.in_flight, client.read_bytes), (7, 2, 1, 4096));
        assert_eq!((client.written_bytes, client.resubmitted, client.faults), (512, 3, 2));
        assert_eq!(client.last_fault.as_deref(), Some("two"));
        directory.set_client("db", None);
        assert_eq!(directory.list()[0].client, None);
        directory.remove("db");
        assert!(directory.list().is_empty());
    }
}
