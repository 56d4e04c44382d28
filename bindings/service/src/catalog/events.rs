//! Audit events: who did what, with which object, when, and what came of it.

use serde::{Deserialize, Serialize};

use super::{
    keys::Key,
    numbered::{Dated, about},
    objects::entries_of_lists,
    records::{Kind, Record},
};

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// It was done.
    Success,
    /// It was begun, and failed.
    Failed,
    /// It was begun, and taken back because somebody wished so.
    Cancelled,
    /// It was not begun.
    Refused,
}

impl Verdict {
    pub(crate) const ALL: [Self; 4] = [Self::Success, Self::Failed, Self::Cancelled, Self::Refused];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Refused => "refused",
        }
    }
}

/// What is kept together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// Something was done, or begun.
    Done,
    /// Nothing was: anybody may be told so as often as they ask.
    Refused,
}

impl Class {
    pub(super) const ALL: [Self; 2] = [Self::Done, Self::Refused];

    pub(super) fn tag(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
        }
    }
}

/// An audit event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Event {
    pub(crate) id: String,
    /// The object's project; of a refused request, that of whoever asked.
    pub(crate) project: String,
    pub(crate) user: String,
    pub(crate) request: String,
    /// `volume.create`, `volume.os-extend`, …
    pub(crate) action: String,
    /// Kind of the object: `volume`, …
    pub(crate) kind: String,
    /// Its id, as far as it is known.
    pub(crate) object: Option<String>,
    pub(crate) verdict: Verdict,
    /// Why it was refused, or failed.
    pub(crate) reason: Option<String>,
    /// The operation, of what took one.
    pub(crate) task: Option<String>,
    /// When that was begun.
    pub(crate) began_us: Option<u64>,
    pub(crate) created_us: u64,
}

impl Event {
    /// The entry that leads to the event of an operation.
    pub(crate) fn of_task(task: &str) -> Vec<u8> {
        Key::new("x").with("event-task").with(task).bytes()
    }

    pub(super) fn class(&self) -> Class {
        match (&self.task, self.verdict) {
            (None, Verdict::Refused | Verdict::Failed) => Class::Refused,
            _ => Class::Done,
        }
    }

    /// Entries that lead to the events of all series.
    pub(super) fn all_series() -> Key {
        Key::new("x").with("event-series")
    }

    /// Entries that lead to the events of a series, the oldest first.
    pub(super) fn series(class: Class, project: &str) -> Key {
        Self::all_series().with(class.tag()).with(project)
    }

    /// The one that leads to this event.
    pub(super) fn in_series(&self) -> Vec<u8> {
        Self::series(self.class(), &self.project).with(&self.id).bytes()
    }
}

impl Record for Event {
    const KIND: Kind = Kind { tag: "event", name: "Event" };

    fn id(&self) -> &str {
        &self.id
    }

    fn entries(&self) -> Vec<Vec<u8>> {
        let mut entries = entries_of_lists(Self::KIND, &self.project, self.created_us, &self.id);
        let of_object = |id: &String| about(Self::KIND, id).newest_first(self.created_us).with(&self.id).bytes();
        entries.extend(self.object.iter().map(of_object));
        entries.extend(self.task.iter().map(|task| Self::of_task(task)));
        entries.push(self.in_series());
        entries
    }

    fn is_about_others() -> bool {
        true
    }
}

impl Dated for Event {
    fn moment(&self) -> u64 {
        self.created_us
    }
}
