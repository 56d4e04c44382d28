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
