//! What a volume was asked for, and how long it took.

use std::cell::{Cell, RefCell};

use cairn_qos::{Kind, Leaf, Nanos, Request};

use crate::stats::Flows;

/// One volume, or background work.
pub(crate) struct Meter {
    leaf: Leaf,
    flows: RefCell<Flows>,
    in_flight: Cell<u64>,
    /// Something was asked for since somebody looked.
    used: Cell<bool>,
}

impl Meter {
    pub(super) fn new(leaf: Leaf) -> Self {
        Self { leaf, flows: RefCell::default(), in_flight: Cell::new(0), used: Cell::new(false) }
    }

    pub(super) fn leaf(&self) -> Leaf {
        self.leaf
    }

    pub(super) fn began(&self) {
        self.in_flight.set(self.in_flight.get() + 1);
        self.used.set(true);
    }

    pub(crate) fn take_used(&self) -> bool {
        self.used.take()
    }

    pub(super) fn ended(&self, request: &Request, took: Nanos) {
        self.in_flight.set(self.in_flight.get() - 1);
        let mut flows = self.flows.borrow_mut();
        let flow = match request.kind {
            Kind::Read => &mut flows.read,
            Kind::Write => &mut flows.write,
            Kind::Discard => &mut flows.discard,
            Kind::Flush => &mut flows.flush,
        };
        flow.count(request.bytes, took);
    }

    pub(crate) fn flows(&self) -> Flows {
        self.flows.borrow().clone()
    }

    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight.get()
    }
}
