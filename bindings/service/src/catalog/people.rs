//! Who may use the service: users, projects, roles of users in projects, what they log in with, and the tokens that they have.
//!
//! Invariants:
//! - Nothing here can be turned back into a password, a secret of an application credential or a token: those are kept as hashes. The
//!   key of a one-time password is kept as it is, since codes are worked out from it.
//! - A token names what it stands on: the epochs of its user and project, and the grant or the credential. When one of these has
//!   changed or gone, the token is over, and stays so.

use serde::{Deserialize, Serialize};

use super::{
    keys::Key,
    records::{Kind, Record},
    settings::Named,
};
use crate::domain::Role;

/// Somebody.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct User {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) enabled: bool,
    pub(crate) description: Option<String>,
    pub(crate) email: Option<String>,
    /// Argon2, in PHC form; none: no password will do.
    pub(crate) password: Option<String>,
    /// The project of a token that is asked for without one.
    pub(crate) default_project: Option<String>,
    /// Whether one of the rules has to be kept.
    pub(crate) rules_hold: bool,
    /// Ways of logging in, each enough with all of its methods together.
    pub(crate) rules: Vec<Vec<String>>,
    /// Goes up when all tokens of the user have to end.
    pub(crate) epoch: u64,
    pub(crate) created_us: u64,
}

impl Record for User {
    const KIND: Kind = Kind { tag: "user", name: "User" };

    fn id(&self) -> &str {
        &self.id
    }

    fn entries(&self) -> Vec<Vec<u8>> {
        vec![Self::by_name(&self.name)]
    }
}

impl Named for User {}

/// What volumes belong to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Project {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) enabled: bool,
    pub(crate) description: String,
    /// Goes up when all tokens for the project have to end.
    pub(crate) epoch: u64,
    pub(crate) created_us: u64,
}

impl Record for Project {
    const KIND: Kind = Kind { tag: "project", name: "Project" };

    fn id(&self) -> &str {
        &self.id
    }

    fn entries(&self) -> Vec<Vec<u8>> {
        vec![Self::by_name(&self.name)]
    }
}

impl Named for Project {}

/// A role of a user in a project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Grant {
    /// Random: a role that is taken away and given again is another grant.
    pub(crate) id: String,
    pub(crate) user: String,
    pub(crate) project: String,
    pub(crate) role: Role,
}

impl Grant {
    /// Entries that lead to the grants of a user, in one project or in all.
    pub(crate) fn of_user(user: &str, project: Option<&str>) -> Vec<u8> {
        let key = Key::new("x").with("grant-user").with(user);
        project.into_iter().fold(key, Key::with).bytes()
    }

    /// Entries that lead to the grants in a project.
    pub(crate) fn in_project(project: &str) -> Vec<u8> {
        Key::new("x").with("grant-project").with(project).bytes()
    }
}

impl Record for Grant {
    const KIND: Kind = Kind { tag: "grant", name: "Role assignment" };

    fn id(&self) -> &str {
        &self.id
    }

    fn entries(&self) -> Vec<Vec<u8>> {
        let (user, project, role) = (&self.user, &self.project, self.role.as_str());
        vec![
            Key::new("x").with("grant-user").with(user).with(project).with(role).bytes(),
            Key::new("x").with("grant-project").with(project).with(user).with(role).bytes(),
        ]
    }
}

/// What a program logs in with: a user's role in one project, or less of it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AppCredential {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    pub(crate) user: String,
    pub(crate) project: String,
    pub(crate) role: Role,
    /// Argon2, in PHC form.
    pub(crate) secret: String,
    pub(crate) expires_us: Option<u64>,
    /// Whether its tokens may make and delete what others log in with.
    pub(crate) unrestricted: bool,
    pub(crate) created_us: u64,
}

impl AppCredential {
    /// Entries that lead to the credentials of a user.
    pub(crate) fn of_user(user: &str) -> Vec<u8> {
        Key::new("x").with("app-user").with(user).bytes()
    }

    /// Entries that lead to the credentials for a project.
    pub(crate) fn for_project(project: &str) -> Vec<u8> {
        Key::new("x").with("app-project").with(project).bytes()
    }
}

impl Record for AppCredential {
    const KIND: Kind = Kind { tag: "app", name: "Application credential" };

    fn id(&self) -> &str {
        &self.id
    }

    fn entries(&self) -> Vec<Vec<u8>> {
        vec![
            Key::new("x").with("app-user").with(&self.user).with(&self.name).bytes(),
            Key::new("x").with("app-project").with(&self.project).with(&self.id).bytes(),
        ]
    }
}

/// The key of one-time passwords.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TotpKey {
    pub(crate) id: String,
    pub(crate) user: String,
    /// In base 32, as people type it into their device.
    pub(crate) key: String,
    /// The step of the last code that was taken: none is taken twice.
    pub(crate) last_step: u64,
    pub(crate) created_us: u64,
}

impl TotpKey {
    /// Entries that lead to the keys of a user.
    pub(crate) fn of_user(user: &str) -> Vec<u8> {
        Key::new("x").with("totp-user").with(user).bytes()
    }
}

impl Record for TotpKey {
    const KIND: Kind = Kind { tag: "totp", name: "Credential" };

    fn id(&self) -> &str {
        &self.id
    }

    fn entries(&self) -> Vec<Vec<u8>> {
        vec![Key::new("x").with("totp-user").with(&self.user).with(&self.id).bytes()]
    }
}

/// A token that was issued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Token {
    /// The hash of what its owner has.
    pub(crate) id: String,
    pub(crate) user: String,
    /// None: it says who somebody is, and nothing else.
    pub(crate) project: Option<String>,
    pub(crate) role: Role,
    pub(crate) methods: Vec<String>,
    /// A name for logs that is no secret.
    pub(crate) audit: String,
    pub(crate) grant: Option<String>,
    pub(crate) credential: Option<String>,
    pub(crate) user_epoch: u64,
    pub(crate) project_epoch: u64,
    pub(crate) issued_us: u64,
    pub(crate) expires_us: u64,
}

impl Token {
    /// Entries that lead to the tokens of a user, newest first.
    pub(crate) fn of_user(user: &str) -> Vec<u8> {
        Key::new("x").with("token-user").with(user).bytes()
    }

    /// Entries that lead to all tokens, by when they end.
    pub(crate) fn by_end() -> Vec<u8> {
        Key::new("x").with("token-end").bytes()
    }
}

impl Record for Token {
    const KIND: Kind = Kind { tag: "token", name: "Token" };

    fn id(&self) -> &str {
        &self.id
    }

    fn entries(&self) -> Vec<Vec<u8>> {
        vec![
            Key::new("x").with("token-user").with(&self.user).newest_first(self.issued_us).with(&self.id).bytes(),
            Key::new("x").with("token-end").oldest_first(self.expires_us).with(&self.id).bytes(),
        ]
    }
}
