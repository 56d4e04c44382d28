//! Waiting within one thread: for a condition that another task changes, for the first of two futures, for all of many.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
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

/// Waiting in the order of coming.
#[derive(Default)]
pub(crate) struct Line {
    places: RefCell<VecDeque<u64>>,
    next: Cell<u64>,
    moved: Signal,
}

/// A place in a line, until it is dropped.
struct Place<'a>(&'a Line, u64);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let Self(line, place) = self;
        line.places.borrow_mut().retain(|other| other != place);
        line.moved.notify();
    }
}

impl Line {
    /// Waits until `condition` holds and nobody who came before waits; then calls `take` before anybody else's turn comes.
    pub(crate) async fn until<T>(&self, condition: impl Fn() -> bool, take: impl FnOnce() -> T) -> T {
        if condition() && self.is_empty() {
            return take();
        }
        let place = Place(self, self.next.replace(self.next.get() + 1));
        self.places.borrow_mut().push_back(place.1);
        let is_first = || self.places.borrow().front() == Some(&place.1);
        self.moved.until(|| is_first() && condition()).await;
        take()
    }

    /// Lets the first one look at its condition again.
    pub(crate) fn notify(&self) {
        self.moved.notify();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.places.borrow().is_empty()
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Context;

    /// Who wants much is not passed by those who want little, and who gives up keeps nobody.
    #[test]
    fn a_line_is_in_order() {
        let (line, left) = (Line::default(), &Cell::new(10));
        let want = |n: i32| line.until(move || left.get() >= n, move || left.set(left.get() - n));
        let mut cx = Context::from_waker(Waker::noop());
        let (mut all, mut gives_up) = (pin!(want(10)), Box::pin(want(9)));
        assert!(all.as_mut().poll(&mut cx).is_ready());
        let (mut much, mut little) = (pin!(want(8)), pin!(want(1)));
        assert!(gives_up.as_mut().poll(&mut cx).is_pending());
        assert!(much.as_mut().poll(&mut cx).is_pending());
        left.set(5);
        assert!(little.as_mut().poll(&mut cx).is_pending(), "there is enough, but not for who came before");
        drop(gives_up);
        assert!(much.as_mut().poll(&mut cx).is_pending());
        left.set(8);
        assert!(little.as_mut().poll(&mut cx).is_pending());
        assert!(much.as_mut().poll(&mut cx).is_ready());
        left.set(1);
        assert!(little.as_mut().poll(&mut cx).is_ready());
        assert!(line.is_empty() && left.get() == 0);
    }
}
