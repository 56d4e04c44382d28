//! The device that one front-end is connected to: what its rings share.

use crate::{
    blk::{self, F_EVENT_INDEX, F_FLUSH, WRITEBACK},
    blocking::elsewhere,
    client::Record,
    list::List,
    mapping::Budget,
    memory::Memory,
    options::Options,
    protocol::F_PROTOCOL_FEATURES,
    source::Source,
    turns::Turns,
    wake::Line,
};
use cairn_engine::{Admitted, LocalVolume, Reactor, RequestKind, VolumeId};
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
};

/// How a driver wants its writes: kept while its volume is there, since a guest that runs on has chosen once, whoever serves it by now.
pub(crate) struct CacheMode {
    /// None for snapshots, which take no writes.
    volume: Option<VolumeId>,
    list: Arc<List>,
    writeback: Cell<bool>,
}

impl CacheMode {
    pub(crate) fn new(source: Source, list: Arc<List>) -> Self {
        let volume = match source {
            Source::Volume(volume) => Some(volume),
            Source::Snapshot(_) => None,
        };
        let writeback = Cell::new(!volume.is_some_and(|volume| list.writes_through(volume)));
        Self { volume, list, writeback }
    }

    /// Whoever switches the cache off gets what was asked for at once, and an error if a server after this one would not know of it.
    async fn set(&self, writeback: bool) -> Result<(), String> {
        self.writeback.set(self.writeback.get() && writeback);
        if let Some(volume) = self.volume.filter(|volume| self.list.writes_through(*volume) == writeback) {
            let list = Arc::clone(&self.list);
            let listed = elsewhere(move || list.set_write_through(volume, !writeback)).await;
            listed.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        }
        self.writeback.set(writeback);
        Ok(())
    }
}

pub(crate) struct Device {
    pub(crate) reactor: Reactor,
    pub(crate) volume: LocalVolume,
    pub(crate) read_only: bool,
    pub(crate) options: Rc<Options>,
    pub(crate) record: Arc<Record>,
    pub(crate) serial: [u8; 20],
    /// What the front-end has acknowledged.
    pub(crate) features: Cell<u64>,
    cache: CacheMode,
    /// The front-end keeps the books of what is in flight, to go on with another back-end.
    pub(crate) tracked: Cell<bool>,
    /// What the front-end may have mapped, with what those before it had.
    pub(crate) budget: Arc<Budget>,
    memory: RefCell<Rc<Memory>>,
    /// Bytes that requests in flight hold: engine buffers, and what was read of their chains.
    bytes: Cell<usize>,
    /// Notified when one is over.
    room: Line,
    pub(crate) turns: Rc<Turns>,
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
        cache: CacheMode,
        budget: Arc<Budget>,
    ) -> Self {
        Self {
            turns: Turns::new(reactor.clone()),
            reactor,
            read_only: record.is_read_only(),
            serial: blk::serial(name),
            volume,
            options,
            record,
            features: Cell::new(0),
            cache,
            tracked: Cell::new(false),
            budget,
            memory: RefCell::default(),
            bytes: Cell::new(0),
            room: Line::default(),
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
        !self.has(F_FLUSH) || !self.cache.writeback.get() || (self.tracked.get() && self.options.survive_kill)
    }

    pub(crate) fn memory(&self) -> Rc<Memory> {
        Rc::clone(&self.memory.borrow())
    }

    /// Waits until the front-end may map so much more, if that can come about without it.
    pub(crate) async fn room_for_memory(&self, regions: usize, bytes: u64) {
        self.budget.room(&self.reactor, regions, bytes).await;
    }

    pub(crate) fn set_memory(&self, memory: Memory) {
        self.memory.replace(Rc::new(memory));
    }

    /// `size` bytes of the configuration space, from `offset` on.
    pub(crate) fn config(&self, offset: u32, size: u32) -> Vec<u8> {
        let space = blk::config_space(self.volume.size(), self.options.queues, self.cache.writeback.get());
        (offset..offset.saturating_add(size)).map(|at| space.get(at as usize).copied().unwrap_or(0)).collect()
    }

    /// Takes what the driver writes into the configuration space: the only field that it may write says how writes are cached.
    pub(crate) async fn set_config(&self, offset: u32, bytes: &[u8]) -> Result<(), String> {
        match (offset, bytes) {
            (WRITEBACK, &[choice @ (0 | 1)]) => self.cache.set(choice == 1).await,
            _ => Err(format!("{} bytes at {offset} of the configuration space cannot be changed", bytes.len())),
        }
    }

    /// As before the front-end said anything.
    pub(crate) async fn reset(&self) {
        self.tracked.set(false);
        // Where it cannot be noted, writes stay as durable as they were.
        self.cache.set(true).await.ok();
    }

    /// Waits until the limits of the volume let a request go. None for what is not limited here. Dropped early, it used nothing up.
    pub(crate) async fn let_go(&self, limited: Option<(RequestKind, u64)>) -> Option<Admitted> {
        let (kind, bytes) = limited?;
        Some(self.volume.admit(kind, bytes).await)
    }

    /// Waits until a request that holds `bytes` bytes fits, behind those that wait already: large ones are not passed by small ones for ever.
    /// One that is alone always fits.
    pub(crate) async fn room(self: &Rc<Self>, bytes: usize) -> Room {
        let limit = self.options.in_flight_bytes;
        let fits = || self.bytes.get() == 0 || self.bytes.get() + bytes <= limit;
        let take = || {
            self.bytes.set(self.bytes.get() + bytes);
            Room { device: Rc::clone(self), bytes }
        };
        self.room.until(fits, take).await
    }
}
