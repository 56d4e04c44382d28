//! How many of something each of many may have at once.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What each has. Clones are the same.
///
/// Invariant: only those are remembered who have something now.
#[derive(Clone, Debug)]
pub(crate) struct Shares<K>(Arc<Mutex<HashMap<K, usize>>>);

impl<K> Default for Shares<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Eq + Hash + Clone> Shares<K> {
    fn held(&self) -> MutexGuard<'_, HashMap<K, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more for somebody, unless they have `most` already.
    pub(crate) fn take(&self, of: &K, most: usize) -> Option<Share<K>> {
        let mut held = self.held();
        if held.get(of).copied().unwrap_or_default() >= most {
            return None;
        }
        *held.entry(of.clone()).or_default() += 1;
        Some(Share { all: self.clone(), of: of.clone() })
    }
}

/// One that somebody has; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Share<K: Eq + Hash + Clone> {
    all: Shares<K>,
    of: K,
}

impl<K: Eq + Hash + Clone> Drop for Share<K> {
    fn drop(&mut self) {
        let mut held = self.all.held();
        match held.get_mut(&self.of) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(held.remove(&self.of)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_part_and_nobody_is_remembered() {
        let shares = Shares::default();
        let two = [shares.take(&"a", 2).unwrap(), shares.take(&"a", 2).unwrap()];
        assert!(shares.take(&"a", 2).is_none() && shares.take(&"b", 2).is_some() && shares.take(&"c", 0).is_none());
        let [one, other] = two;
        drop(one);
        assert!(shares.take(&"a", 2).is_some());
        drop(other);
        assert!(shares.held().is_empty());
    }
}
