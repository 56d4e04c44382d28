//! Audit events: each change that somebody asks for tells of itself in its own transaction; a refusal in one of its own. What takes an
//! operation is told of by its outcome.

use super::{Block, Caller};
use crate::{
    catalog::{Event, Intent, Part, Subject, Tx, Verdict, Window, now_us},
    fault::{Answer, Fault},
};

/// Longest reason that is kept, in characters.
const MAX_REASON: usize = 255;

fn short(text: &str) -> String {
    text.chars().take(MAX_REASON).collect()
}

/// Which events.
#[derive(Clone, Debug, Default)]
pub(crate) struct EventFilter {
    /// Administrators: of this project; left out: of all.
    pub(crate) project: Option<String>,
    pub(crate) object: Option<String>,
    pub(crate) action: Option<String>,
    pub(crate) verdict: Option<Verdict>,
    pub(crate) user: Option<String>,
    pub(crate) request: Option<String>,
    pub(crate) from_us: Option<u64>,
    /// Before this moment.
    pub(crate) to_us: Option<u64>,
}

impl Block {
    /// A change of the catalog that a caller asks for, and the event that tells of it. What begins an operation is told of when that ends.
    pub(crate) fn change<T>(&self, caller: &Caller, change: impl FnOnce(&mut Tx<'_>) -> Answer<T>) -> Answer<T> {
        self.inner.catalog.write(|tx| {
            let outcome = change(tx)?;
            if !tx.is_view() && !tx.has_begun() {
                tell(tx, caller)?;
            }
            Ok(outcome)
        })
    }

    /// Tells of a request that was refused, or failed before anything was begun.
    pub(crate) fn refused(&self, caller: &Caller, verdict: Verdict, reason: &str) -> Answer<()> {
        let event = Event {
            verdict,
            reason: Some(short(reason)),
            object: caller.object.clone(),
            ..event(caller, caller.kind(), &caller.project)
        };
        self.inner.catalog.write(|tx| tx.append_event(event).map(drop))
    }

    /// Tells of something that is not recorded in the catalog, and is done.
    pub(super) fn tell_done(&self, caller: &Caller, subject: &Subject) -> Answer<()> {
        let project = subject.project.as_deref().unwrap_or(&caller.project);
        let event = Event { object: Some(subject.id.clone()), ..event(caller, subject.kind, project) };
        self.inner.catalog.write(|tx| tx.append_event(event).map(drop))
    }

    /// A page of events, newest first: of the caller's project, or, for administrators, of all.
    pub(crate) fn events(
        &self,
        caller: &Caller,
        filter: &EventFilter,
        marker: Option<&str>,
        limit: usize,
    ) -> Answer<Part<Event>> {
        let project = caller.project_of_list(filter.project.as_deref());
        let object = filter.object.as_deref();
        let window = Window { project, object, from_us: filter.from_us, marker, limit };
        let is = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
        self.inner.catalog.read().window(&window, |event: &Event| {
            project.is_none_or(|project| event.project == project)
                && is(&filter.action, &event.action)
                && is(&filter.user, &event.user)
                && is(&filter.request, &event.request)
                && filter.verdict.is_none_or(|verdict| event.verdict == verdict)
                && filter.to_us.is_none_or(|to| event.created_us < to)
        })
    }

    /// The event of an operation that has ended.
    pub(super) fn event_of_task(&self, task: &str) -> Answer<Option<Event>> {
        let mut found = self.inner.catalog.read().found::<Event>(&Event::of_task(task))?;
        Ok(found.pop())
    }
}

fn event(caller: &Caller, kind: &str, project: &str) -> Event {
    Event {
        id: String::new(),
        project: project.to_owned(),
        user: caller.user.clone(),
        request: caller.request.clone(),
        action: caller.deed.clone(),
        kind: kind.to_owned(),
        object: None,
        verdict: Verdict::Success,
        reason: None,
        task: None,
        began_us: None,
        created_us: now_us(),
    }
}

/// The object that the path names, if it was changed; else the first that was.
fn subject(tx: &Tx<'_>, caller: &Caller) -> Option<Subject> {
    let named = tx.touched().iter().find(|subject| Some(&subject.id) == caller.object.as_ref());
    named.or_else(|| tx.touched().first()).cloned()
}

fn tell(tx: &mut Tx<'_>, caller: &Caller) -> Answer<()> {
    let subject = subject(tx, caller);
    let (kind, project) = match &subject {
        Some(subject) => (subject.kind, subject.project.as_deref().unwrap_or(&caller.project)),
        None => (caller.kind(), caller.project.as_str()),
    };
    let object = subject.as_ref().map(|subject| subject.id.clone()).or_else(|| caller.object.clone());
    let event = Event { object, ..event(caller, kind, project) };
    tx.append_event(event).map(drop)
}

/// Tells how an operation ended.
pub(super) fn tell_of_end(tx: &mut Tx<'_>, intent: &Intent, verdict: Verdict, why: Option<&Fault>) -> Answer<()> {
    let event = Event {
        id: String::new(),
        project: intent.project.clone(),
        user: intent.user.clone(),
        request: intent.request.clone(),
        action: intent.action.clone(),
        kind: intent.kind().to_owned(),
        object: Some(intent.object().to_owned()),
        verdict,
        reason: why.map(|fault| short(&fault.message)),
        task: Some(intent.task.clone()),
        began_us: Some(intent.since_us),
        created_us: now_us(),
    };
    tx.append_event(event).map(drop)
}
