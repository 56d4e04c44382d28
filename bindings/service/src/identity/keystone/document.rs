//! What Keystone says of a token.

use serde::Deserialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    domain::Role,
    fault::{Answer, Fault, FaultKind},
    identity::Session,
};

/// Longest id, in characters, as Keystone has them.
const LONGEST_ID: usize = 64;

/// Whose token it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subject {
    pub(super) user: String,
    pub(super) project: Option<String>,
    /// The greatest that is known here.
    pub(super) role: Option<Role>,
    pub(super) expires_us: u64,
}

#[derive(Deserialize)]
struct Document {
    token: Token,
}

#[derive(Deserialize)]
struct Token {
    expires_at: String,
    user: Named,
    #[serde(default)]
    project: Option<Named>,
    #[serde(default)]
    roles: Vec<RoleOf>,
}

#[derive(Deserialize)]
struct Named {
    id: String,
}

#[derive(Deserialize)]
struct RoleOf {
    name: String,
}

/// Ids stand in paths and keys, and in names of the pool.
fn is_id(id: &str) -> bool {
    (1..=LONGEST_ID).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

impl Subject {
    /// Reads the answer to a question about a token, or to a login.
    pub(super) fn parse(body: &[u8]) -> Result<Self, String> {
        let Document { token } = serde_json::from_slice(body).map_err(|e| format!("its answer is no token: {e}"))?;
        let expires = OffsetDateTime::parse(&token.expires_at, &Rfc3339)
            .map_err(|_| "its answer has no moment at which the token ends".to_owned())?;
        let project = token.project.map(|project| project.id);
        if !is_id(&token.user.id) || !project.as_deref().is_none_or(is_id) {
            return Err("its answer has an id that cannot be one".to_owned());
        }
        let named = |role: &RoleOf| Role::ALL.into_iter().find(|known| known.as_str().eq_ignore_ascii_case(&role.name));
        Ok(Self {
            user: token.user.id,
            project,
            role: token.roles.iter().filter_map(named).max(),
            expires_us: u64::try_from(expires.unix_timestamp_nanos() / 1000).unwrap_or(0),
        })
    }

    pub(super) fn session(self) -> Answer<Session> {
        let no_project = "The token is for no project: ask for one with a scope.";
        let project = self.project.ok_or_else(|| Fault::new(FaultKind::Unauthorized, no_project))?;
        let role = self.role.ok_or_else(|| {
            Fault::forbidden("The token has none of the roles that are known here: admin, member and reader.")
        })?;
        Ok(Session { user: self.user, project, role })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn parse(token: Value) -> Result<Subject, String> {
        Subject::parse(json!({"token": token}).to_string().as_bytes())
    }

    #[test]
    fn the_greatest_role_counts_and_others_mean_nothing() {
        let with = |roles: &[&str]| {
            let roles: Vec<Value> = roles.iter().map(|name| json!({"id": "x", "name": name})).collect();
            let token = json!({"expires_at": "2026-11-22T17:00:00.000000Z", "user": {"id": "u", "name": "U"},
                "project": {"id": "p"}, "roles": roles, "methods": ["password"]});
            parse(token).unwrap()
        };
        assert_eq!(with(&["reader", "Member", "service"]).role, Some(Role::Member));
        assert_eq!(with(&["reader", "admin"]).role, Some(Role::Admin));
        assert_eq!(with(&["reader"]).expires_us, 1_795_366_800_000_000);
        let session = with(&["MEMBER"]).session().unwrap();
        assert_eq!((session.user.as_str(), session.project.as_str(), session.role), ("u", "p", Role::Member));
        for roles in [&[][..], &["service"], &["administrator", "admin "]] {
            assert_eq!(with(roles).session().unwrap_err().kind, FaultKind::Forbidden);
        }
    }

    #[test]
    fn answers_that_are_none_let_nobody_in() {
        let token = json!({"expires_at": "2026-11-22T17:00:00Z", "user": {"id": "u"}, "project": {"id": "p"}, "roles": [{"name": "admin"}]});
        assert!(parse(token.clone()).is_ok());
        let changed = |key: &str, value: Value| {
            let mut token = token.clone();
            drop(token.as_object_mut().unwrap().insert(key.to_owned(), value));
            parse(token)
        };
        for (key, value) in [
            ("expires_at", json!("soon")),
            ("expires_at", json!(5)),
            ("user", json!({})),
            ("user", json!({"id": ""})),
            ("user", json!({"id": "a/b"})),
            ("project", json!({"id": "../x"})),
            ("project", json!({"id": "x".repeat(65)})),
            ("project", json!("p")),
            ("roles", json!("admin")),
            ("roles", json!([{"id": "admin"}])),
        ] {
            assert!(changed(key, value.clone()).is_err(), "{key} {value}");
        }
        // Without a project, or for a whole system: a token, but not one for here.
        let unscoped = changed("project", Value::Null).unwrap();
        assert_eq!(unscoped.session().unwrap_err().kind, FaultKind::Unauthorized);
        for body in [&b""[..], b"[]", b"{}", b"{\"token\":null}", b"\xff"] {
            assert!(Subject::parse(body).is_err());
        }
    }
}
