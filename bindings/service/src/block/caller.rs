//! Who asks.

use crate::{
    domain::Role,
    fault::{Answer, Fault},
};

/// Who asks: a user, for a project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) user: String,
    pub(crate) project: String,
    pub(crate) role: Role,
    /// The request, for logs, messages and events.
    pub(crate) request: String,
    /// What is asked for, as events tell of it: `volume.create`.
    pub(crate) deed: String,
    /// The object that the request names.
    pub(crate) object: Option<String>,
    /// What an operation is to be known by that the request begins; empty: any name.
    pub(crate) task: String,
}

impl Caller {
    pub(crate) fn is_admin(&self) -> bool {
        self.role == Role::Admin
    }

    /// # Errors
    /// `Forbidden`.
    pub(crate) fn require_admin(&self, what: &str) -> Answer<()> {
        match self.is_admin() {
            true => Ok(()),
            false => {
                Err(Fault::forbidden(format!("Policy doesn't allow {what} to be performed: it takes the role admin.")))
            }
        }
    }

    /// The kind of what is asked for.
    pub(crate) fn kind(&self) -> &str {
        self.deed.split_once('.').map_or(self.deed.as_str(), |(kind, _)| kind)
    }

    /// Whose lists the caller sees: of its own project; administrators of the one that they name, or (`None`) of all.
    pub(crate) fn project_of_list<'a>(&'a self, wanted: Option<&'a str>) -> Option<&'a str> {
        match self.is_admin() {
            true => wanted,
            false => Some(&self.project),
        }
    }

    /// Whether objects of this project are there for the caller.
    pub(crate) fn sees(&self, project: &str) -> bool {
        self.is_admin() || self.project == project
    }
}
