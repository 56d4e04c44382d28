//! The device that one front-end is connected to: what its rings share.

use crate::{
    blk::{self, F_EVENT_INDEX, F_FLUSH, WRITEBACK},
    client::Record,
    mapping::Budget,
    memory::Memory,
    options::Options,
    protocol::F_PROTOCOL_FEATURES,
    wake::Signal,
};
use cairn_engine::{Admitted, LocalVolume, Reactor, RequestKind};
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
};

pub(crate) struct Device {
    pub(crate) reactor: Reactor,
    pub(crate) volume: LocalVolume,
    pub(crate) read_only: bool,
    pub(crate) options: Rc<Options>,
    pub(crate) record: Arc<Record>,
    pub(crate) serial: [u8; 20],
    /// What the front-end has acknowledged.
    pub(crate) features: Cell<u64>,
    /// What the driver has chosen, if it may choose.
    writeback: Cell<bool>,
    /// The front-end keeps the books of what is in flight, to go on with another back-end.
    pub(crate) tracked: Cell<bool>,
    /// What the front-end may have mapped.
    pub(crate) budget: Arc<Budget>,
    memory: RefCell<Rc<Memory>>,
    /// Bytes of engine buffers that requests in flight hold.
    bytes: Cell<usize>,
    room: Signal,
}

/// A request's part of the memory bound, until it is dropped.
pub(crate) struct Room {
    device: Rc<Device>,
    bytes: usize,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.device.bytes.set(self.device.bytes.get() - self.bytes);
        self.device.room.notify();
    }
}

impl Device {
    /// `name` is that of the export, and stays when its volume is renamed.
    pub(crate) fn new(
        volume: LocalVolume,
        reactor: Reactor,
        name: &str,
        options: Rc<Options>,
        record: Arc<Record>,
    ) -> Self {
        Self {
            reactor,
            read_only: options.read_only || volume.is_read_only(),
            serial: blk::serial(name),
            volume,
            options,
            record,
            features: Cell::new(0),
            writeback: Cell::new(true),
            tracked: Cell::new(false),
            budget: Arc::default(),
            memory: RefCell::default(),
            bytes: Cell::new(0),
            room: Signal::default(),
        }
    }

    /// What is offered to the front-end.
    pub(crate) fn offered(&self) -> u64 {
        blk::features(self.read_only) | F_PROTOCOL_FEATURES
    }

    pub(crate) fn has(&self, feature: u64) -> bool {
        self.features.get() & feature != 0
    }

    pub(crate) fn event_index(&self) -> bool {
        self.has(F_EVENT_INDEX)
    }

    /// Whether writes must be durable when they are answered: the driver does not flush, or has chosen so, or a later flush may be answered
    /// by a back-end that knows nothing of them.
    pub(crate) fn writes_through(&self) -> bool {
        !self.has(F_FLUSH) || !self.writeback.get() || (self.tracked.get() && self.options.survive_kill)
    }

    pub(crate) fn memory(&self) -> Rc<Memory> {
        Rc::clone(&self.memory.borrow())
    }

    pub(crate) fn set_memory(&self, memory: Memory) {
        self.memory.replace(Rc::new(memory));
    }

    /// `size` bytes of the configuration space, from `offset` on.
    pub(crate) fn config(&self, offset: u32, size: u32) -> Vec<u8> {
        let space = blk::config_space(self.volume.size(), self.options.queues, self.writeback.get());
        (offset..offset.saturating_add(size)).map(|at| space.get(at as usize).copied().unwrap_or(0)).collect()
    }

    /// Takes what the driver writes into the configuration space: the only field that it may write says how writes are cached.
    pub(crate) fn set_config(&self, offset: u32, bytes: &[u8]) -> Result<(), String> {
        match (offset, bytes) {
            (WRITEBACK, &[choice @ (0 | 1)]) => {
                self.writeback.set(choice == 1);
                Ok(())
            }
            _ => Err(format!("{} bytes at {offset} of the configuration space cannot be changed", bytes.len())),
        }
    }

    /// As before the front-end said anything.
    pub(crate) fn reset(&self) {
        self.writeback.set(true);
        self.tracked.set(false);
    }

    /// Waits until the limits of the volume let a request go. None for what is not limited here. Dropped early, it used nothing up.
    pub(crate) async fn let_go(&self, limited: Option<(RequestKind, u64)>) -> Option<Admitted> {
        let (kind, bytes) = limited?;
        Some(self.volume.admit(kind, bytes).await)
    }

    /// Waits until a request that needs `bytes` bytes of buffers fits. One that is alone always fits.
    pub(crate) async fn room(self: &Rc<Self>, bytes: usize) -> Room {
        let limit = self.options.in_flight_bytes;
        self.room.until(|| self.bytes.get() == 0 || self.bytes.get() + bytes <= limit).await;
        self.bytes.set(self.bytes.get() + bytes);
        Room { device: Rc::clone(self), bytes }
    }
}
