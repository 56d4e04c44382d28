//! Signals between tasks of one reactor.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, Waker},
};

/// Wakes everybody who waits; a waiter that starts later waits for the next time.
#[derive(Default)]
pub(crate) struct Notify {
    generation: Cell<u64>,
    wakers: RefCell<Vec<Waker>>,
}

impl Notify {
    pub(crate) fn notify(&self) {
        self.generation.set(self.generation.get() + 1);
        for waker in self.wakers.take() {
            waker.wake();
        }
    }

    /// Completes at the first notification after this call (not after the first poll).
    pub(crate) fn notified(&self) -> Notified<'_> {
        Notified { notify: self, generation: self.generation.get(), registered: None }
    }
}

pub(crate) struct Notified<'a> {
    notify: &'a Notify,
    generation: u64,
    /// Who is told: the task that its waker points to. No waker of its own, or a task that waits would keep itself alive.
    registered: Option<*const ()>,
}

impl Future for Notified<'_> {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.notify.generation.get() != self.generation {
            return Poll::Ready(());
        }
        let task = cx.waker().data();
        if self.registered != Some(task) {
            self.notify.wakers.borrow_mut().push(cx.waker().clone());
            self.registered = Some(task);
        }
        Poll::Pending
    }
}

impl Drop for Notified<'_> {
    /// Who gives up is told no more: somebody who waits for a time as well would leave one waker behind each time.
    fn drop(&mut self) {
        let Some(task) = self.registered.filter(|_| self.notify.generation.get() == self.generation) else { return };
        let mut wakers = self.notify.wakers.borrow_mut();
        if let Some(at) = wakers.iter().rposition(|waker| waker.data() == task) {
            drop(wakers.remove(at));
        }
    }
}

struct Slot<T> {
    value: Option<T>,
    waker: Option<Waker>,
}

/// The sending half of a one-value channel within a reactor.
pub(crate) struct Sender<T>(Rc<RefCell<Slot<T>>>);

/// The receiving half; must be polled by one task.
pub(crate) struct Receiver<T>(Rc<RefCell<Slot<T>>>);

pub(crate) fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let slot = Rc::new(RefCell::new(Slot { value: None, waker: None }));
    (Sender(slot.clone()), Receiver(slot))
}

impl<T> Sender<T> {
    pub(crate) fn send(self, value: T) {
        let waker = {
            let mut slot = self.0.borrow_mut();
            slot.value = Some(value);
            slot.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Future for Receiver<T> {
    type Output = T;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let mut slot = self.0.borrow_mut();
        match slot.value.take() {
            Some(value) => Poll::Ready(value),
            None => {
                slot.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// Lets other tasks run before going on.
pub(crate) async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Ends with the first of the two.
pub(crate) async fn either(a: impl Future<Output = ()>, b: impl Future<Output = ()>) {
    let (mut a, mut b) = (pin!(a), pin!(b));
    std::future::poll_fn(move |cx| match (a.as_mut().poll(cx), b.as_mut().poll(cx)) {
        (Poll::Pending, Poll::Pending) => Poll::Pending,
        _ => Poll::Ready(()),
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_gives_up_leaves_nothing_behind() {
        let notify = Notify::default();
        let mut cx = Context::from_waker(Waker::noop());
        let mut stays = pin!(notify.notified());
        assert!(stays.as_mut().poll(&mut cx).is_pending());
        for _ in 0..10 {
            let mut gives_up = pin!(notify.notified());
            assert!(gives_up.as_mut().poll(&mut cx).is_pending());
        }
        assert_eq!(notify.wakers.borrow().len(), 1, "of those that wait no more there is none");
        notify.notify();
        assert!(stays.as_mut().poll(&mut cx).is_ready());
    }
}
