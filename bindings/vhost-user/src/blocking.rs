//! Work that waits for a file system, on a thread of its own: the reactor's serves everybody.

use std::{
    future::poll_fn,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
    thread,
};

/// What a thread and whoever waits for it share.
struct Shared<T>(Mutex<Progress<T>>);

struct Progress<T> {
    outcome: Option<T>,
    ended: bool,
    waiting: Option<Waker>,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Progress<T>> {
        // Whole after each of its changes.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says so when the thread has ended, also by a panic.
struct Ending<T>(Arc<Shared<T>>);

impl<T> Drop for Ending<T> {
    fn drop(&mut self) {
        let mut progress = self.0.lock();
        progress.ended = true;
        let waiting = progress.waiting.take();
        drop(progress);
        if let Some(waker) = waiting {
            waker.wake();
        }
    }
}

/// Runs `work` on another thread, to its end whatever becomes of whoever waits for it.
///
/// # Errors
/// There is no thread for it.
pub(crate) async fn elsewhere<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let shared = Arc::new(Shared(Mutex::new(Progress { outcome: None, ended: false, waiting: None })));
    let ending = Ending(Arc::clone(&shared));
    let run = move || {
        let outcome = work();
        ending.0.lock().outcome = Some(outcome);
    };
    let _thread = thread::Builder::new().name("cairn-list".into()).spawn(run)?;
    poll_fn(|cx| {
        let mut progress = shared.lock();
        if progress.ended {
            return Poll::Ready(progress.outcome.take().ok_or_else(|| io::Error::other("a thread has panicked")));
        }
        progress.waiting = Some(cx.waker().clone());
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use pollster::block_on;

    #[test]
    fn outcomes_come_back_and_panics_are_told() {
        let here = thread::current().id();
        assert_ne!(block_on(elsewhere(move || thread::current().id())).unwrap(), here);
        let failed = block_on(elsewhere(move || {
            if thread::current().id() != here {
                panic!("as expected")
            }
        }));
        assert!(failed.unwrap_err().to_string().contains("panicked"));
    }
}
