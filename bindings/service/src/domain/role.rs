//! What somebody may do.

use serde::{Deserialize, Serialize};

/// What somebody may do. In order: each may what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// Look at what the project has.
    Reader,
    /// Change it.
    Member,
    /// Change everything, of all projects.
    Admin,
}

impl Role {
    /// All of them, the greatest first.
    pub(crate) const ALL: [Self; 3] = [Self::Admin, Self::Member, Self::Reader];

    /// Its name.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Member => "member",
            Self::Admin => "admin",
        }
    }

    /// The one of this name.
    pub(crate) fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text)
    }

    /// What clients call it by.
    pub(crate) fn id(self) -> String {
        format!("role-{}", self.as_str())
    }

    /// The one with this id.
    pub(crate) fn by_id(id: &str) -> Option<Self> {
        id.strip_prefix("role-").and_then(Self::named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_found_by_name_and_id() {
        for role in Role::ALL {
            assert_eq!((Role::named(role.as_str()), Role::by_id(&role.id())), (Some(role), Some(role)));
        }
        assert_eq!((Role::named("Admin"), Role::by_id("admin"), Role::by_id("role-")), (None, None, None));
        assert!(Role::Admin > Role::Member && Role::Member > Role::Reader);
    }
}
