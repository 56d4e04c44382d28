//! A request that waits, and one that goes.

use std::{
    cell::Cell,
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use cairn_qos::{Leaf, Nanos, Request, Ticket};

use super::{Qos, meter::Meter};

/// Whoever waits for a ticket.
#[derive(Default)]
pub(super) struct Slot {
    granted: bool,
    waker: Option<Waker>,
}

impl Slot {
    /// Its turn has come; who is to be told.
    pub(super) fn grant(&mut self) -> Option<Waker> {
        self.granted = true;
        self.waker.take()
    }
}

/// Waits for a ticket to be named.
pub(super) struct Turn {
    qos: Rc<Qos>,
    ticket: Ticket,
    leaf: Leaf,
    request: Request,
    came: bool,
}

impl Turn {
    pub(super) fn new(qos: Rc<Qos>, ticket: Ticket, leaf: Leaf, request: Request) -> Self {
        let _none = qos.waiting.borrow_mut().insert(ticket, Slot::default());
        Self { qos, ticket, leaf, request, came: false }
    }
}

impl Future for Turn {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        {
            let mut waiting = self.qos.waiting.borrow_mut();
            if let Some(slot) = waiting.get_mut(&self.ticket)
                && !slot.granted
            {
                slot.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
        self.came = true;
        Poll::Ready(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let slot = self.qos.waiting.borrow_mut().remove(&self.ticket);
        if self.came {
            return;
        }
        if slot.is_some_and(|slot| slot.granted) {
            self.qos.tree.borrow_mut().done(self.leaf, self.request, self.qos.now());
        } else {
            let _waited = self.qos.tree.borrow_mut().cancel(self.ticket);
        }
        self.qos.pump();
    }
}

/// A request that goes. Its end is this one's.
pub(crate) struct Permit {
    qos: Rc<Qos>,
    meter: Rc<Meter>,
    request: Request,
    began: Nanos,
    /// What it is for the device, as far as the tree was told.
    pieces: Cell<u64>,
    /// The tree was told of its end.
    left: Cell<bool>,
    /// Its client has its answer.
    answered: Cell<bool>,
}

impl Permit {
    pub(super) fn new(qos: Rc<Qos>, meter: Rc<Meter>, request: Request, began: Nanos) -> Self {
        meter.began();
        Self { qos, meter, request, began, pieces: Cell::new(1), left: Cell::new(false), answered: Cell::new(false) }
    }

    /// It makes room for others: it is over, or waits for something else than the device.
    pub(crate) fn leave(&self) {
        if self.left.replace(true) {
            return;
        }
        self.qos.tree.borrow_mut().pieces_done(self.meter.leaf(), self.pieces.replace(1));
        self.qos.tree.borrow_mut().done(self.meter.leaf(), self.request, self.qos.now());
        if !self.qos.waiting.borrow().is_empty() {
            self.qos.pump();
        }
    }

    /// Its client is answered; it goes on counting as under way.
    pub(crate) fn answer(&self) {
        if !self.answered.replace(true) {
            self.meter.ended(&self.request, self.qos.now().saturating_sub(self.began));
        }
    }

    /// It is so many requests for the device from now on. One that has made room is none that counts.
    pub(crate) fn in_pieces(&self, pieces: u64) {
        if self.left.get() {
            return;
        }
        let before = self.pieces.replace(pieces);
        if before != pieces {
            let mut tree = self.qos.tree.borrow_mut();
            tree.pieces_done(self.meter.leaf(), before);
            tree.in_pieces(self.meter.leaf(), pieces);
        }
        if pieces < before && !self.qos.waiting.borrow().is_empty() {
            self.qos.pump();
        }
    }

    /// How many pieces of so many bytes it should have under way at a time, for others to come between; none: nobody else wants the device.
    pub(crate) fn room(&self, bytes: u64) -> Option<usize> {
        let room = self.qos.tree.borrow().room(self.meter.leaf(), bytes)?;
        Some(usize::try_from(room).unwrap_or(usize::MAX))
    }

    /// It goes on, if it had made room.
    pub(crate) fn resume(&self) {
        if self.left.replace(false) {
            self.qos.tree.borrow_mut().resume(self.meter.leaf(), self.request, self.qos.now());
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.answer();
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, rc::Rc, sync::Arc, time::Duration};

    use cairn_qos::{Kind, Request};

    use super::super::Qos;
    use crate::{
        reactor::{Reactor, Shared, clock::Clock},
        storage::{sync::SyncStorage, wake::Waker},
        units::VolumeId,
    };

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

    const READ: Request = Request { kind: Kind::Read, bytes: 4096 };

    /// What is told of a request that has left (it waits for its volume to be filled, say) would stay in the window for good.
    #[test]
    fn a_request_that_has_left_has_no_pieces() {
        let shared = Shared::new(Arc::new(Waker::new().unwrap()));
        let storage = SyncStorage::new(tempfile::tempfile().unwrap(), shared.wake.clone());
        let reactor = Reactor::new(Arc::new(shared), Box::new(storage), Box::new(Ticking::default()));
        let qos = Rc::new(Qos::new(reactor.clone()));
        let handle = reactor.clone();
        reactor
            .spawn(async move {
                let meters = [1, 2].map(|volume| qos.meter(VolumeId(volume)));
                let other = qos.admit(&meters[1], READ).await;
                for _ in 0..100 {
                    let permit = qos.admit(&meters[0], READ).await;
                    permit.in_pieces(4);
                    permit.leave();
                    permit.in_pieces(200);
                    permit.resume();
                    permit.in_pieces(3);
                    permit.in_pieces(1);
                    permit.leave();
                    permit.in_pieces(9);
                }
                // Nothing of it is under way: what goes beside the other volume now is all that the window holds for it.
                let mut going = Vec::new();
                while qos.waiting.borrow().is_empty() && going.len() < 1000 {
                    let mut next = Box::pin(qos.admit(&meters[0], READ));
                    match std::future::poll_fn(|cx| std::task::Poll::Ready(next.as_mut().poll(cx))).await {
                        std::task::Poll::Ready(permit) => going.push(permit),
                        std::task::Poll::Pending => break,
                    }
                }
                assert_eq!(going.len() as u32, super::super::DEPTH - 1);
                drop((going, other));
                handle.stop();
            })
            .detach();
        reactor.run();
    }
}
