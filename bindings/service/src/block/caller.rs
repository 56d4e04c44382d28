//! Who asks.

use crate::fault::{Answer, Fault};

/// What somebody may do. In order: each may what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// Look at what the project has.
    Reader,
    /// Change it.
    Member,
    /// Change everything, of all projects.
    Admin,
}

impl Role {
    /// Its name.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Member => "member",
            Self::Admin => "admin",
        }
    }
}

/// Who asks: a user, for a project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) user: String,
    pub(crate) project: String,
    pub(crate) role: Role,
    /// The request, for logs and messages.
    pub(crate) request: String,
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

    /// Whether objects of this project are there for the caller.
    pub(crate) fn sees(&self, project: &str) -> bool {
        self.is_admin() || self.project == project
    }
}
