//! What is known of the connected clients, readable from any thread.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{SystemTime, UNIX_EPOCH},
};

/// A connected client.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientInfo {
    /// Number of the connection, counted from 1.
    pub id: u64,
    /// Address and port, or process and user of a unix socket's other end.
    pub peer: String,
    /// When it connected, in milliseconds since 1970.
    pub connected_ms: u64,
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// The export that it uses; none during the handshake.
    pub export: Option<String>,
    /// Whether that export takes no writes.
    pub read_only: bool,
    /// Requests so far.
    pub requests: u64,
    /// Requests that are not answered yet.
    pub in_flight: u64,
    /// Bytes read so far.
    pub read_bytes: u64,
    /// Bytes written so far.
    pub written_bytes: u64,
}

/// A client's entry. Only the reactor's thread writes to it.
#[derive(Debug)]
pub(crate) struct Record {
    peer: String,
    connected_ms: u64,
    tls: AtomicBool,
    export: OnceLock<(String, bool)>,
    started: AtomicU64,
    finished: AtomicU64,
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
}

/// One writer: no need for an atomic read-modify-write on the way of every request.
fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
}

impl Record {
    pub(crate) fn new(peer: String) -> Self {
        let connected = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            peer,
            connected_ms: connected.as_millis() as u64,
            tls: AtomicBool::new(false),
            export: OnceLock::new(),
            started: AtomicU64::new(0),
            finished: AtomicU64::new(0),
            read_bytes: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
        }
    }

    pub(crate) fn encrypted(&self) {
        self.tls.store(true, Relaxed);
    }

    pub(crate) fn entered(&self, export: &str, read_only: bool) {
        self.export.get_or_init(|| (export.to_owned(), read_only));
    }

    pub(crate) fn started(&self) {
        add(&self.started, 1);
    }

    pub(crate) fn finished(&self, requests: u32) {
        add(&self.finished, u64::from(requests));
    }

    pub(crate) fn read(&self, bytes: u64) {
        add(&self.read_bytes, bytes);
    }

    pub(crate) fn wrote(&self, bytes: u64) {
        add(&self.written_bytes, bytes);
    }

    fn info(&self, id: u64) -> ClientInfo {
        let export = self.export.get();
        let (finished, started) = (self.finished.load(Relaxed), self.started.load(Relaxed));
        ClientInfo {
            id,
            peer: self.peer.clone(),
            connected_ms: self.connected_ms,
            tls: self.tls.load(Relaxed),
            export: export.map(|(name, _)| name.clone()),
            read_only: export.is_some_and(|&(_, read_only)| read_only),
            requests: started,
            in_flight: started.saturating_sub(finished),
            read_bytes: self.read_bytes.load(Relaxed),
            written_bytes: self.written_bytes.load(Relaxed),
        }
    }
}

/// The clients of a server.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    clients: Mutex<BTreeMap<u64, Arc<Record>>>,
}

impl Directory {
    fn clients(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Record>>> {
        // A map of reference counts is whole whatever happened to its last user.
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, id: u64, record: Arc<Record>) {
        self.clients().insert(id, record);
    }

    pub(crate) fn remove(&self, id: u64) {
        self.clients().remove(&id);
    }

    pub(crate) fn list(&self) -> Vec<ClientInfo> {
        self.clients().iter().map(|(&id, record)| record.info(id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_and_go_with_their_figures() {
        let directory = Directory::default();
        let record = Arc::new(Record::new("pid 1".into()));
        directory.add(3, Arc::clone(&record));
        assert_eq!(directory.list()[0].export, None);
        record.entered("db@monday", true);
        record.started();
        record.started();
        record.finished(1);
        record.read(4096);
        let info = &directory.list()[0];
        assert_eq!((info.id, info.requests, info.in_flight, info.read_bytes), (3, 2, 1, 4096));
        assert_eq!((info.export.as_deref(), info.read_only), (Some("db@monday"), true));
        directory.remove(3);
        assert!(directory.list().is_empty());
    }
}
