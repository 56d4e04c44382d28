//! Who somebody is, as far as clients of Keystone v3 need it.
//!
//! In `--dev` mode nobody has to prove anything: any name and password make a token, and a token may also be `USER:PROJECT`, or anything.
//! Everybody is an administrator. So it is served on loopback addresses only.

mod routes;
mod tokens;

pub(super) use routes::router;
use tokens::{Scope, Token};

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Session, unauthorized};
use crate::{
    domain::Role,
    fault::{Answer, Fault, FaultKind},
};

/// Longest name of a user or project, in bytes.
const MAX_NAME: usize = 255;
/// The project of a token that names none.
const DEV_PROJECT: &str = "admin";
/// The user of a token that names none.
const DEV_USER: &str = "admin";
/// Most tokens that are kept.
const MAX_TOKENS: usize = 100_000;

struct Inner {
    url: String,
    tokens: Mutex<HashMap<String, Token>>,
}

/// The identity service without logins. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Dev {
    inner: Arc<Inner>,
}

/// A user's or project's name as it may stand in keys and paths.
fn check_name(name: &str) -> Answer<()> {
    match name.is_empty() || name.len() > MAX_NAME || name.chars().any(|c| c.is_control() || c == '/') {
        true => {
            Err(Fault::bad("a user or project has a name of 1 to 255 bytes, without control characters and slashes"))
        }
        false => Ok(()),
    }
}

impl Dev {
    /// Without logins. `url` is how clients reach this server.
    pub(super) fn new(url: String) -> Self {
        Self { inner: Arc::new(Inner { url, tokens: Mutex::default() }) }
    }

    pub(super) fn url(&self) -> &str {
        &self.inner.url
    }

    fn tokens(&self) -> MutexGuard<'_, HashMap<String, Token>> {
        self.inner.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who has a token. `project` is the one of the path, if it has one.
    ///
    /// # Errors
    /// `Unauthorized`.
    pub(super) fn resolve(&self, token: Option<&str>, project: Option<&str>) -> Answer<Session> {
        let token = token.filter(|token| !token.is_empty()).ok_or_else(unauthorized)?;
        if let Some(known) = self.token(token)? {
            let project = known.project.unwrap_or_else(|| DEV_PROJECT.to_owned());
            return Ok(Session { user: known.user, project, role: known.role });
        }
        let (user, of_token) = match token.split_once(':') {
            Some((user, project)) => (user, Some(project)),
            None => (DEV_USER, None),
        };
        let project = of_token.or(project).unwrap_or(DEV_PROJECT);
        check_name(user)?;
        check_name(project)?;
        Ok(Session { user: user.to_owned(), project: project.to_owned(), role: Role::Admin })
    }

    /// A token that was issued here, if it has not expired.
    fn token(&self, id: &str) -> Answer<Option<Token>> {
        let mut tokens = self.tokens();
        match tokens.get(id) {
            Some(token) if token.is_over() => {
                drop(tokens.remove(id));
                Err(unauthorized())
            }
            found => Ok(found.cloned()),
        }
    }

    /// Makes a token for whoever asks.
    fn issue(&self, user: &str, scope: &Scope) -> Answer<(String, Token)> {
        check_name(user)?;
        let project = scope.project.clone();
        project.as_deref().map_or(Ok(()), check_name)?;
        let token = Token::new(user.to_owned(), project, Role::Admin);
        let id = tokens::new_token_id();
        let mut tokens = self.tokens();
        if tokens.len() >= MAX_TOKENS {
            tokens.retain(|_, token| !token.is_over());
        }
        if tokens.len() >= MAX_TOKENS {
            return Err(Fault::new(FaultKind::OverLimit, "too many tokens are in use: let some expire"));
        }
        drop(tokens.insert(id.clone(), token.clone()));
        Ok((id, token))
    }

    /// Ends a token.
    pub(super) fn revoke(&self, id: &str) -> bool {
        self.tokens().remove(id).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_dev_mode_tokens_say_who_somebody_is() {
        let identity = Dev::new("http://x".to_owned());
        let who = |token, project| identity.resolve(token, project).map(|s| (s.user, s.project));
        let pair = |user: &str, project: &str| Ok((user.to_owned(), project.to_owned()));
        assert_eq!(who(Some("me:mine"), None), pair("me", "mine"));
        assert_eq!(who(Some("notused"), Some("p")), pair("admin", "p"));
        assert_eq!(who(Some("notused"), None), pair("admin", "admin"));
        assert_eq!(who(None, Some("p")).unwrap_err().kind, FaultKind::Unauthorized);
        assert_eq!(who(Some(""), Some("p")).unwrap_err().kind, FaultKind::Unauthorized);
        assert!(who(Some("a\0:b"), None).is_err() && who(Some(":b"), None).is_err());
        let (id, token) = identity.issue("u", &Scope { project: Some("q".to_owned()) }).unwrap();
        assert_eq!(who(Some(&id), None), pair("u", "q"));
        assert_eq!(token.project.as_deref(), Some("q"));
        assert!(identity.revoke(&id) && !identity.revoke(&id));
    }

    #[test]
    fn an_expired_token_is_refused() {
        let identity = Dev::new("http://x".to_owned());
        let (id, mut token) = identity.issue("u", &Scope { project: None }).unwrap();
        token.expires_s = 1;
        drop(identity.tokens().insert(id.clone(), token));
        assert_eq!(identity.resolve(Some(&id), None).unwrap_err().kind, FaultKind::Unauthorized);
    }
}
