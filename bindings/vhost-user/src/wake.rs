//! Waiting within one thread: for a condition that another task changes, or for the first of two futures.

use std::{
    cell::RefCell,
    future::poll_fn,
    pin::pin,
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
