//! Tokens: random, known to this process alone, and over after a while.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::domain::{Role, new_id};

/// How long a token is good for, in seconds.
const LIFETIME: u64 = 3600;

/// What a token is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Scope {
    /// The project; none: who somebody is, and nothing else.
    pub(super) project: Option<String>,
}

/// A token that was issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) user: String,
    pub(super) project: Option<String>,
    pub(super) role: Role,
    /// Seconds since 1970.
    pub(super) issued_s: u64,
    pub(super) expires_s: u64,
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Token {
    pub(super) fn new(user: String, project: Option<String>, role: Role) -> Self {
        let now = now_s();
        Self { user, project, role, issued_s: now, expires_s: now + LIFETIME }
    }

    pub(super) fn is_over(&self) -> bool {
        now_s() >= self.expires_s
    }
}

/// 244 random bits.
pub(super) fn new_token_id() -> String {
    format!("{}{}", new_id(), new_id()).replace('-', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_differ_and_end() {
        assert_ne!(new_token_id(), new_token_id());
        assert_eq!(new_token_id().len(), 64);
        let mut token = Token::new("u".to_owned(), None, Role::Member);
        assert!(!token.is_over());
        token.expires_s = token.issued_s;
        assert!(token.is_over());
    }
}
