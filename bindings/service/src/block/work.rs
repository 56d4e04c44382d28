//! Operations: begun by requests, done by tasks, done again after a restart.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use cairn_backup::{Job, Progress};

use super::{Block, Task, act::Done, tasks::cancelled};
use crate::{
    catalog::{Intent, Op, Tx, audit, now_us},
    domain::new_id,
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
    PASSED = "passed";
    TAKEN_BACK = "taken-back";
    CHAIN_CHANGED = "chain-changed";
    FILLING = "filling";
    GROUP_SNAPSHOT = "group-snapshot";
    GROUP_SNAPSHOT_DELETED = "group-snapshot-deleted";
    GROUP_CLONED = "group-cloned";
    GROUP_CLONE_GONE = "group-clone-gone";
    GROUP_VOLUME_GONE = "group-volume-gone";
    IMAGE_BEGUN = "image-begun";
    IMAGE_STORED = "image-stored";
    IMAGE_UNPACKED = "image-unpacked";
    IMAGE_FROZEN = "image-frozen";
    IMAGE_RELEASED = "image-released";
    IMAGE_PACKED = "image-packed";
    IMAGE_GONE = "image-gone";
    FINISHED = "finished";
}

/// How long operations under way may take to end when the service stops. What does not end goes on when it starts again.
pub(super) const GRACE: Duration = Duration::from_secs(10);

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
            {
                let mut tasks = block.tasks();
                // The next operation on this object may have begun since the outcome was recorded: that one stays.
                if tasks.get(&own).is_some_and(|task| Some(task.id) == tokio::task::try_id()) {
                    drop(tasks.remove(&own));
                }
            }
            block.inner.ended.notify_waiters();
        });
        // The task cannot have taken itself out yet: the list is locked.
        drop(tasks.insert(key, Task { id: handle.id(), job, handle: Some(handle) }));
    }

    async fn run(&self, key: &str, job: &Job) {
        let intent = match self.inner.catalog.read().get::<Intent>(key) {
            Ok(Some(intent)) => intent,
            Ok(None) => return,
            Err(fault) => return tracing::error!(operation = key, %fault, "an operation cannot be read"),
        };
        self.step(RECORDED).await;
        let mut outcome = match intent.cancelled {
            true => Err(cancelled()),
            false => self.act(&intent, job).await,
        };
        if outcome.is_err() && !self.inner.stopping.load(Ordering::SeqCst) && self.is_cancelled(key) {
            outcome = self.take_back(&intent).await.map(|()| Done::Cancelled);
            self.step(TAKEN_BACK).await;
        }
        if let Err(fault) = &outcome {
            if fault.kind == FaultKind::Unavailable || self.inner.stopping.load(Ordering::SeqCst) {
                // The pool is closed, or about to be: it goes on after the next start.
                return tracing::info!(operation = key, "put off until the next start");
            }
            tracing::warn!(operation = key, request = intent.request, %fault, "an operation failed");
        }
        match self.settle(&intent, outcome) {
            Ok(()) => {
                tracing::info!(operation = key, request = intent.request, "an operation ended");
                self.limit_retyped(&intent).await;
            }
            Err(fault) => tracing::error!(operation = key, %fault, "the outcome of an operation cannot be recorded"),
        }
        self.step(FINISHED).await;
    }

    /// Limits of either type may have been changed while the volume was on its way from one to the other.
    async fn limit_retyped(&self, intent: &Intent) {
        if matches!(intent.op, Op::RetypeVolume { .. })
            && let Err(fault) = self.apply_limits(intent.object()).await
            && fault.kind != FaultKind::NotFound
        {
            tracing::error!(operation = intent.key, %fault, "limits are not those of the volume's type: they are set at the next start");
        }
    }

    /// Goes on with everything that was under way when the service ended. Answers how much that is.
    pub(crate) fn resume(&self) -> Answer<usize> {
        self.open_meters()?;
        for problem in audit(&self.inner.catalog.read(), false)? {
            tracing::error!(problem, "the catalog contradicts itself");
        }
        let intents = self.inner.catalog.read().all::<Intent>()?;
        let count = intents.len();
        if intents.iter().any(|intent| matches!(intent.op, Op::CreateBackup { .. })) {
            // What they had stored when they were cut off.
            self.leave_garbage()?;
        }
        intents.into_iter().for_each(|intent| self.start(intent.key));
        Ok(count)
    }

    /// Waits until the operation with an object that is under way now has ended, or is put off.
    pub(super) async fn ended(&self, key: &str) {
        let Some(id) = self.tasks().get(key).map(|task| task.id) else { return };
        loop {
            let ended = self.inner.ended.notified();
            if self.tasks().get(key).is_none_or(|task| task.id != id) {
                return;
            }
            ended.await;
        }
    }

    /// What is under way, and how far it is.
    pub(crate) fn under_way(&self) -> Vec<(String, Progress)> {
        self.tasks().iter().map(|(key, task)| (key.clone(), task.job.progress())).collect()
    }

    /// Waits until nothing is under way.
    #[cfg(any(test, feature = "fuzzing"))]
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
        self.tasks().clear();
        // Nobody takes in what is still being sent.
        self.inner.feeds.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clear();
        self.inner.ended.notify_waiters();
    }

    fn next_handle(&self) -> Option<tokio::task::JoinHandle<()>> {
        self.tasks().values_mut().find_map(|task| task.handle.take())
    }

    /// Ends long work at its next opportunity and waits for what is short, for a while. What did not end goes on after the next start.
    pub(crate) async fn stop(&self) {
        self.inner.stopping.store(true, Ordering::SeqCst);
        self.tasks().values().for_each(|task| task.job.cancel());
        // Of all together, however many there are.
        let end = tokio::time::Instant::now() + GRACE;
        let ended = async {
            while let Some(mut handle) = self.next_handle() {
                if tokio::time::timeout_at(end, &mut handle).await.is_err() {
                    handle.abort();
                    // It is where it can be put off, or comes there at once.
                    drop(handle.await);
                }
            }
        };
        ended.await;
    }
}

/// Records that something begins. The caller has put the object into the state that says so.
pub(super) fn begin(tx: &mut Tx<'_>, intent: &Intent) -> Answer<()> {
    tx.reserve(&intent.project, &intent.reserved)?;
    tx.begins();
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
        task: if caller.task.is_empty() { new_id() } else { caller.task.clone() },
        user: caller.user.clone(),
        action: caller.deed.clone(),
        cancelled: false,
        past: false,
        earlier: None,
        notes_undos: false,
    }
}
