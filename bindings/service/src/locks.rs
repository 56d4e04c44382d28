//! Locks by name: whoever holds one keeps out those that want the same name, and nobody else.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::OwnedMutexGuard;

/// Those that are held or waited for.
#[derive(Default)]
pub(crate) struct Locks {
    held: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Locks {
    /// Waits for the others that want this name.
    pub(crate) async fn hold(&self, name: &str) -> OwnedMutexGuard<()> {
        let lock = {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            // Those that nobody holds or waits for.
            held.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(held.entry(name.to_owned()).or_default())
        };
        lock.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{future::poll_fn, pin::pin, task::Poll};

    #[tokio::test]
    async fn one_at_a_time_has_a_name_and_nobody_is_remembered() {
        let locks = Locks::default();
        let one = locks.hold("a").await;
        let other = locks.hold("b").await;
        {
            let mut next = pin!(locks.hold("a"));
            assert!(poll_fn(|context| Poll::Ready(next.as_mut().poll(context).is_pending())).await);
            drop(one);
            drop(next.await);
        }
        drop(other);
        drop(locks.hold("c").await);
        assert_eq!(locks.held.lock().unwrap().keys().collect::<Vec<_>>(), ["c"]);
    }
}
