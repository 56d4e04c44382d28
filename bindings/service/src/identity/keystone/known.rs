//! Answers that still count, by the hashes of tokens.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::document::Subject;

/// Answers of each kind that are kept.
const MOST: usize = 10_000;
/// For how long a token that is not good is not asked about again.
const REFUSED: Duration = Duration::from_secs(5);

/// Good and bad tokens apart: made up ones do not push out good ones.
pub(super) struct Known {
    lifetime: Duration,
    good: Mutex<HashMap<String, (Instant, Subject)>>,
    bad: Mutex<HashMap<String, Instant>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Known {
    pub(super) fn new(lifetime: Duration) -> Self {
        Self { lifetime, good: Mutex::default(), bad: Mutex::default() }
    }

    /// Whether answers count for any time.
    pub(super) fn keeps_answers(&self) -> bool {
        !self.lifetime.is_zero()
    }

    /// What is known of a token: whose it is, or that it is nobody's.
    pub(super) fn get(&self, key: &str) -> Option<Option<Subject>> {
        let now = Instant::now();
        if let Some((_, subject)) = lock(&self.good).get(key).filter(|(until, _)| *until > now) {
            return Some(Some(subject.clone()));
        }
        lock(&self.bad).get(key).filter(|until| **until > now).map(|_| None)
    }

    pub(super) fn put(&self, key: &str, found: Option<Subject>) {
        let now = Instant::now();
        match found {
            Some(subject) => {
                let mut good = lock(&self.good);
                make_room(&mut good, |(until, _)| *until > now);
                drop(good.insert(key.to_owned(), (now + self.lifetime, subject)));
            }
            None => {
                // It may have been good before.
                drop(lock(&self.good).remove(key));
                let mut bad = lock(&self.bad);
                make_room(&mut bad, |until| *until > now);
                let _before = bad.insert(key.to_owned(), now + REFUSED.min(self.lifetime));
            }
        }
    }
}

fn make_room<V>(map: &mut HashMap<String, V>, counts: impl Fn(&V) -> bool) {
    if map.len() >= MOST {
        map.retain(|_, value| counts(value));
    }
    if map.len() >= MOST {
        map.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Role;

    fn subject(user: &str) -> Subject {
        Subject { user: user.to_owned(), project: Some("p".to_owned()), role: Some(Role::Member), expires_us: u64::MAX }
    }

    #[tokio::test(start_paused = true)]
    async fn answers_count_for_a_while_and_are_bounded() {
        let known = Known::new(Duration::from_secs(30));
        assert_eq!(known.get("a"), None);
        known.put("a", Some(subject("u")));
        known.put("b", None);
        assert_eq!((known.get("a"), known.get("b")), (Some(Some(subject("u"))), Some(None)));
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!((known.get("a"), known.get("b")), (Some(Some(subject("u"))), None));
        // What was good and is not any more.
        known.put("a", None);
        assert_eq!(known.get("a"), Some(None));
        known.put("c", Some(subject("v")));
        for n in 0..MOST * 2 {
            known.put(&n.to_string(), None);
        }
        assert!(lock(&known.bad).len() <= MOST);
        assert_eq!(known.get("c"), Some(Some(subject("v"))));
        tokio::time::advance(Duration::from_secs(31)).await;
        assert_eq!(known.get("c"), None);
        let never = Known::new(Duration::ZERO);
        never.put("a", Some(subject("u")));
        assert_eq!(never.get("a"), None);
    }
}
