//! What the routes work on: the pool, what is exported of it, and the wish to stop.

use cairn_engine::Pool;
use std::{
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};
use tokio::sync::watch;

use crate::{Result, backup::Fillings, listeners::NbdListener};

/// Shared by all requests; cheap to clone.
#[derive(Clone)]
pub struct State {
    pub(crate) pool: Pool,
    pub(crate) listeners: Option<Arc<[NbdListener]>>,
    pub(crate) vhost_user: Option<cairn_vhost_user::Server>,
    pub(crate) since_ms: u64,
    /// The same moment on a clock that nobody sets.
    pub(crate) since: Instant,
    pub(crate) fillings: Fillings,
    stop: Arc<watch::Sender<bool>>,
}

impl State {
    /// For a process that holds the pool for one command.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        let since_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        Self {
            pool,
            listeners: None,
            vhost_user: None,
            since_ms,
            since: Instant::now(),
            fillings: Fillings::default(),
            stop: Arc::new(watch::Sender::new(false)),
        }
    }

    /// For a server that offers the pool on these addresses.
    #[must_use]
    pub fn serving(mut self, listeners: &[NbdListener]) -> Self {
        self.listeners = Some(listeners.into());
        self
    }

    /// For a server that offers disks to virtual machines, too.
    #[must_use]
    pub fn with_vhost_user(mut self, server: Option<cairn_vhost_user::Server>) -> Self {
        self.vhost_user = server;
        self
    }

    /// Goes on with instant restores that were interrupted, in the background. Answers what cannot go on, as far as that shows within 5 s, and
    /// why. Whoever is about to close the pool need not wait for the answer.
    ///
    /// # Errors
    /// The pool's.
    pub async fn resume_restores(&self) -> Result<Vec<String>> {
        self.fillings.resume(&self.pool).await
    }

    /// Asks the server to stop, as `POST /v1/shutdown` does.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits until somebody asked the server to stop.
    pub async fn stopped(&self) {
        // The sender lives in `self`, so the wait can only end by the value.
        drop(self.stop.subscribe().wait_for(|stop| *stop).await);
    }
}
