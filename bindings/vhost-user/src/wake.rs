//! Waiting within one thread: for a condition that another task changes, for the first of two futures, for all of many.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::{Pin, pin},
    task::{Poll, Waker},
};

/// Wakes the tasks that wait for a condition. Whoever changes what a condition looks at calls [`notify`](Self::notify).
#[derive(Default)]
pub(crate) struct Signal {
    waiting: RefCell<Vec<Waker>>,
}

impl Signal {
    /// Lets every waiting task look at its condition again.
    pub(crate) fn notify(&self) {
        self.waiting.take().into_iter().for_each(Waker::wake);
    }

    /// Waits until `condition` holds.
    pub(crate) async fn until(&self, mut condition: impl FnMut() -> bool) {
        poll_fn(|cx| {
            if condition() {
                return Poll::Ready(());
            }
            let mut waiting = self.waiting.borrow_mut();
            if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                waiting.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}

/// Which of two futures was first.
pub(crate) enum First<A, B> {
    A(A),
    B(B),
}

/// Runs both until one ends; the other is dropped. With both ready, `a` wins.
pub(crate) async fn first<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> First<A, B> {
    let (mut a, mut b) = (pin!(a), pin!(b));
    poll_fn(|cx| match a.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(First::A(value)),
        Poll::Pending => b.as_mut().poll(cx).map(First::B),
    })
    .await
}

/// Runs all of them until each has ended.
pub(crate) async fn all<F: Future<Output = ()>>(futures: impl Iterator<Item = F>) {
    let mut left: Vec<Pin<Box<F>>> = futures.map(Box::pin).collect();
    poll_fn(|cx| {
        left.retain_mut(|future| future.as_mut().poll(cx).is_pending());
        if left.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// What one task at a time may do.
#[derive(Default)]
pub(crate) struct Lock {
    taken: Cell<bool>,
    free: Signal,
}

/// Held by whoever may.
pub(crate) struct Locked<'a>(&'a Lock);

impl Lock {
    pub(crate) async fn lock(&self) -> Locked<'_> {
        self.free.until(|| !self.taken.replace(true)).await;
        Locked(self)
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.0.taken.set(false);
        self.0.free.notify();
    }
}
