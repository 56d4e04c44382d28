use std::{cell::Cell, sync::Arc, time::Duration};

use super::{Reactor, Shared, clock::Clock};
use crate::storage::{sync::SyncStorage, wake::Waker};

/// A microsecond passes with each look.
#[derive(Default)]
struct Ticking(Cell<u64>);

impl Clock for Ticking {
    fn now(&self) -> Duration {
        self.0.set(self.0.get() + 1);
        Duration::from_micros(self.0.get())
    }

    fn unix_ms(&self) -> u64 {
        0
    }
}

/// Whoever goes by the clock of the turn, and waits for a moment that is just ahead by it, is behind that moment afterwards.
#[test]
fn a_sleep_ends_in_a_later_turn() {
    let shared = Shared::new(Arc::new(Waker::new().unwrap()));
    let storage = SyncStorage::new(tempfile::tempfile().unwrap(), shared.wake.clone());
    let reactor = Reactor::new(Arc::new(shared), Box::new(storage), Box::new(Ticking::default()));
    let handle = reactor.clone();
    reactor
        .spawn(async move {
            for nanos in 1..2000 {
                let due = handle.turn() + Duration::from_nanos(nanos);
                handle.sleep(Duration::from_nanos(nanos)).await;
                assert!(handle.turn() >= due, "{:?}, {due:?}", handle.turn());
            }
            handle.stop();
        })
        .detach();
    reactor.run();
}
