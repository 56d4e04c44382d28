//! Operations: begun by requests, done by tasks, done again after a restart.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use cairn_backup::{Job, Progress};

use super::{Block, Task};
use crate::{
    catalog::{Intent, Op, Tx, audit, now_us},
    fault::{Answer, FaultKind},
};

/// Called at each boundary between steps, with its name; what it waits for, the operation waits for. For tests, which let the process die
/// there.
pub type Hook = Arc<dyn Fn(&'static str) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

macro_rules! steps {
    ($($name:ident = $text:literal;)*) => {
        $(pub(super) const $name: &str = $text;)*

        /// All boundaries between steps. At each of them the process may end, and what comes after goes on from there.
        pub const STEPS: &[&str] = &[$($text),*];
    };
}

steps! {
    RECORDED = "recorded";
    SNAPSHOT_FOR_CLONE = "snapshot-for-clone";
    CLONED = "cloned";
    VOLUME_MADE = "volume-made";
    RESTORED_NEW = "restored-new";
    LIMITED = "limited";
    SOCKET_GONE = "socket-gone";
    VOLUME_DELETED = "volume-deleted";
    RESIZED = "resized";
    REVERTED = "reverted";
    SNAPSHOT_MADE = "snapshot-made";
    SNAPSHOT_DELETED = "snapshot-deleted";
    BACKED_UP = "backed-up";
    RESTORED = "restored";
    UNDO_DELETED = "undo-deleted";
    BACKUP_DELETED = "backup-deleted";
    FINISHED = "finished";
}

/// How long operations under way may take to end when the service stops. What does not end goes on when it starts again.
const GRACE: Duration = Duration::from_secs(10);

impl Block {
    pub(super) async fn step(&self, name: &'static str) {
        (self.inner.hook)(name).await;
    }

    /// Does what was recorded under this key, in a task of its own.
    pub(crate) fn start(&self, key: String) {
        let (block, job) = (self.clone(), Job::new());
        let (own, its_job) = (key.clone(), job.clone());
        let mut tasks = self.tasks();
        let handle = tokio::spawn(async move {
            block.run(&own, &its_job).await;
            drop(block.tasks().remove(&own));
        });
        // The task cannot have taken itself out yet: the list is locked.
        drop(tasks.insert(key, Task { job, handle: Some(handle) }));
    }

    async fn run(&self, key: &str, job: &Job) {
        let intent = match self.inner.catalog.read().get::<Intent>(key) {
            Ok(Some(intent)) => intent,
            Ok(None) => return,
            Err(fault) => return tracing::error!(operation = key, %fault, "an operation cannot be read"),
        };
        self.step(RECORDED).await;
        let outcome = self.act(&intent, job).await;
        if let Err(fault) = &outcome {
            if fault.kind == FaultKind::Unavailable || self.inner.stopping.load(Ordering::SeqCst) {
                // The pool is closed, or about to be: it goes on after the next start.
                return tracing::info!(operation = key, "put off until the next start");
            }
            tracing::warn!(operation = key, request = intent.request, %fault, "an operation failed");
        }
        match self.settle(&intent, outcome) {
            Ok(()) => tracing::info!(operation = key, request = intent.request, "an operation ended"),
            Err(fault) => tracing::error!(operation = key, %fault, "the outcome of an operation cannot be recorded"),
        }
        self.step(FINISHED).await;
    }

    /// Goes on with everything that was under way when the service ended. Answers how much that is.
    pub(crate) fn resume(&self) -> Answer<usize> {
        for problem in audit(&self.inner.catalog.read())? {
            tracing::error!(problem, "the catalog contradicts itself");
        }
        let intents = self.inner.catalog.read().all::<Intent>()?;
        let count = intents.len();
        intents.into_iter().for_each(|intent| self.start(intent.key));
        Ok(count)
    }

    /// What is under way, and how far it is.
    pub(crate) fn under_way(&self) -> Vec<(String, Progress)> {
        self.tasks().iter().map(|(key, task)| (key.clone(), task.job.progress())).collect()
    }

    /// Waits until nothing is under way.
    #[cfg(test)]
    pub(crate) async fn settled(&self) {
        while !self.tasks().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Ends everything where it is, as the end of the process does.
    #[cfg(test)]
    pub(crate) async fn abort(&self) {
        while let Some(handle) = self.next_handle() {
            handle.abort();
            drop(handle.await);
        }
    }

    fn next_handle(&self) -> Option<tokio::task::JoinHandle<()>> {
        self.tasks().values_mut().find_map(|task| task.handle.take())
    }

    /// Ends long work at its next opportunity and waits for what is short, for a while. What did not end goes on after the next start.
    pub(crate) async fn stop(&self) {
        self.inner.stopping.store(true, Ordering::SeqCst);
        self.tasks().values().for_each(|task| task.job.cancel());
        let ended = async {
            while let Some(handle) = self.next_handle() {
                let abort = handle.abort_handle();
                if tokio::time::timeout(GRACE, handle).await.is_err() {
                    abort.abort();
                }
            }
        };
        ended.await;
    }
}

/// Records that something begins. The caller has put the object into the state that says so.
pub(super) fn begin(tx: &mut Tx<'_>, intent: &Intent) -> Answer<()> {
    tx.reserve(&intent.project, &intent.reserved)?;
    tx.put(intent)
}

/// An intent of a caller.
pub(super) fn intent(caller: &super::Caller, project: &str, key: String, op: Op) -> Intent {
    Intent {
        key,
        project: project.to_owned(),
        op,
        reserved: crate::domain::Claim::none(),
        since_us: now_us(),
        request: caller.request.clone(),
    }
}
