//! Operations as users see them: what is under way, how far it is, and an end to it.
//!
//! Invariant: a wish to cancel that was accepted is kept. It is recorded with the intent; the operation looks for it at its point of no
//! return ([`Block::pass`]) in one transaction, and from there on the wish is refused. Between the two, what was begun is taken back.

use cairn_backup::Progress;

use super::{Block, Caller, work};
use crate::{
    catalog::{Event, Intent, Op, Verdict, Volume, engine_volume},
    fault::{Answer, Fault, FaultKind},
};

/// Something that takes long.
#[derive(Clone, Debug)]
pub(crate) struct TaskView {
    pub(crate) id: String,
    pub(crate) project: String,
    pub(crate) user: String,
    pub(crate) action: String,
    pub(crate) kind: String,
    pub(crate) object: String,
    pub(crate) status: &'static str,
    pub(crate) reason: Option<String>,
    pub(crate) progress: Option<Progress>,
    pub(crate) cancellable: bool,
    pub(crate) request: String,
    pub(crate) began_us: u64,
    pub(crate) ended_us: Option<u64>,
}

/// How the task of a volume that is being filled begins.
const FILL: &str = "fill-";

/// The task of filling a volume.
pub(crate) fn fill_task(volume: &str) -> String {
    format!("{FILL}{volume}")
}

/// Whether an operation can be taken back while it is under way. The others take no time.
pub(super) fn can_be_cancelled(op: &Op) -> bool {
    match op {
        Op::CreateVolume { source } => matches!(source, crate::catalog::Source::Backup(_)),
        Op::CreateBackup { .. } | Op::RestoreBackup { .. } | Op::ReceiveImage | Op::ImageOfVolume { .. } => true,
        _ => false,
    }
}

pub(super) fn cancelled() -> Fault {
    Fault::new(FaultKind::Conflict, "it was cancelled")
}

impl Block {
    fn view(&self, intent: &Intent) -> TaskView {
        let progress = self.tasks().get(&intent.key).map(|task| task.job.progress());
        TaskView {
            id: intent.task.clone(),
            project: intent.project.clone(),
            user: intent.user.clone(),
            action: intent.action.clone(),
            kind: intent.kind().to_owned(),
            object: intent.object().to_owned(),
            status: if intent.cancelled { "cancelling" } else { "running" },
            reason: None,
            progress: progress.filter(|progress| progress.total > 0),
            cancellable: can_be_cancelled(&intent.op) && !intent.past && !intent.cancelled,
            request: intent.request.clone(),
            began_us: intent.since_us,
            ended_us: None,
        }
    }

    /// What is under way, the oldest first: of the caller's project, or, for administrators, of all.
    pub(crate) async fn list_tasks(&self, caller: &Caller, project: Option<&str>) -> Answer<Vec<TaskView>> {
        let project = caller.project_of_list(project);
        let intents = self.inner.catalog.read().all::<Intent>()?;
        let mut tasks: Vec<TaskView> = intents.iter().map(|intent| self.view(intent)).collect();
        tasks.extend(self.fillings().await?);
        tasks.retain(|task| project.is_none_or(|project| task.project == project));
        tasks.sort_by(|a, b| a.began_us.cmp(&b.began_us).then_with(|| a.id.cmp(&b.id)));
        Ok(tasks)
    }

    /// Volumes that can be used already, and are being filled from their backups.
    async fn fillings(&self) -> Answer<Vec<TaskView>> {
        let filling = self.inner.fillings.list(&self.inner.pool).await?.filling;
        let tx = self.inner.catalog.read();
        let mut tasks = Vec::new();
        for one in filling {
            let Some(id) = one.volume.strip_prefix("volume-") else { continue };
            let Some(volume) = tx.get::<Volume>(id)? else { continue };
            tasks.push(TaskView {
                id: fill_task(id),
                project: volume.project,
                user: volume.user,
                action: "volume.fill".to_owned(),
                kind: "volume".to_owned(),
                object: id.to_owned(),
                status: if one.error.is_some() { "waiting" } else { "running" },
                reason: one.error,
                progress: Some(one.progress),
                cancellable: false,
                request: String::new(),
                began_us: volume.created_us,
                ended_us: None,
            });
        }
        Ok(tasks)
    }

    fn intent_of_task(&self, caller: &Caller, id: &str) -> Answer<Option<Intent>> {
        let intents = self.inner.catalog.read().all::<Intent>()?;
        Ok(intents.into_iter().find(|intent| intent.task == id && caller.sees(&intent.project)))
    }

    /// One task, also when it has ended, for as long as its event is kept.
    pub(crate) async fn task(&self, caller: &Caller, id: &str) -> Answer<TaskView> {
        if let Some(intent) = self.intent_of_task(caller, id)? {
            return Ok(self.view(&intent));
        }
        if let Some(event) = self.event_of_task(id)?.filter(|event| caller.sees(&event.project)) {
            return Ok(ended(event));
        }
        let filling = self.fillings().await?.into_iter().find(|task| task.id == id && caller.sees(&task.project));
        filling.ok_or_else(|| Fault::missing("Task", id))
    }

    /// Wishes that a task is taken back.
    pub(crate) async fn cancel_task(&self, caller: &Caller, id: &str) -> Answer<TaskView> {
        let Some(intent) = self.intent_of_task(caller, id)? else {
            let task = self.task(caller, id).await?;
            let text = match task.ended_us {
                Some(_) => format!("task {id} has ended"),
                None => format!("task {id} ends with its volume: delete volume {}", task.object),
            };
            return Err(Fault::conflict(text));
        };
        let intent = self.change(caller, |tx| {
            let Some(mut intent) = tx.get::<Intent>(&intent.key)?.filter(|now| now.task == id) else {
                return Err(Fault::conflict(format!("task {id} has ended")));
            };
            if !can_be_cancelled(&intent.op) || intent.past {
                return Err(Fault::conflict(format!("task {id} is about to end and cannot be cancelled any more")));
            }
            intent.cancelled = true;
            tx.put(&intent)?;
            Ok(intent)
        })?;
        if let Some(task) = self.tasks().get(&intent.key) {
            task.job.cancel();
        }
        Ok(self.view(&intent))
    }

    /// The point of no return of an operation: from here on it cannot be cancelled. Refuses when that was wished before.
    pub(super) async fn pass(&self, intent: &Intent) -> Answer<()> {
        self.inner.catalog.write(|tx| match tx.get::<Intent>(&intent.key)? {
            Some(now) if now.cancelled => Err(cancelled()),
            Some(mut now) => {
                now.past = true;
                tx.put(&now)
            }
            None => Ok(()),
        })?;
        self.step(work::PASSED).await;
        Ok(())
    }

    pub(super) fn is_cancelled(&self, key: &str) -> bool {
        self.inner.catalog.read().get::<Intent>(key).ok().flatten().is_some_and(|intent| intent.cancelled)
    }

    /// Takes back what a cancelled operation has begun.
    pub(super) async fn take_back(&self, intent: &Intent) -> Answer<()> {
        let read = || self.inner.catalog.read();
        match &intent.op {
            Op::CreateVolume { .. } => self.delete_engine_volume(intent.object()).await,
            Op::CreateBackup { .. } => self.delete_stored(&read().require(intent.object())?).await,
            Op::RestoreBackup { volume } if !intent.reserved.is_none() => self.delete_engine_volume(volume).await,
            Op::ReceiveImage => {
                self.forget_feed(&intent.key);
                self.clean_image(intent.object()).await
            }
            Op::ImageOfVolume { volume, .. } => {
                self.forget_copy(volume, intent.object()).await?;
                self.clean_image(intent.object()).await
            }
            Op::RestoreBackup { volume } => self.back_before_restore(intent, &engine_volume(volume)).await,
            _ => Ok(()),
        }
    }
}

fn ended(event: Event) -> TaskView {
    let status = match event.verdict {
        Verdict::Success => "succeeded",
        Verdict::Cancelled => "cancelled",
        Verdict::Failed | Verdict::Refused => "failed",
    };
    TaskView {
        id: event.task.unwrap_or_default(),
        project: event.project,
        user: event.user,
        action: event.action,
        kind: event.kind,
        object: event.object.unwrap_or_default(),
        status,
        reason: event.reason,
        progress: None,
        cancellable: false,
        request: event.request,
        began_us: event.began_us.unwrap_or(event.created_us),
        ended_us: Some(event.created_us),
    }
}
