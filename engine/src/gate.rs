//! What stands between the users of a volume that is filling and its holes: whoever touches a range first has it filled.
//!
//! A gate is made when a filler is first registered for a volume, stays while the volume fills, and falls when it is full. From then on
//! those who hold it pass at the price of a look.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    pin::Pin,
    rc::Rc,
};

use rustc_hash::FxHashMap;

use crate::{
    error::{Error, Result, busy},
    units::VolumeId,
};

/// What brings the content of a volume that is filling. It lives on the reactor's thread; one on other threads takes
/// [`FillRequests`](crate::FillRequests).
pub trait Filler {
    /// Has the range filled (bytes, whole blocks or up to the volume's end). Once this ends with `Ok`, the range holds its content for
    /// ever after: the filler writes nothing there any more, since users do. The same range may be asked for again and again, and by
    /// many at once; and it is dropped before its end when who waits for it goes away, which must not leave undone what others wait for. What it
    /// writes, and where, is said at [`LocalPool::open_to_fill`](crate::LocalPool::open_to_fill).
    fn fill(&self, offset: u64, length: u64) -> Pin<Box<dyn Future<Output = Result<()>>>>;
}

/// The gate of one volume.
#[derive(Default)]
pub(crate) struct Gate {
    filler: RefCell<Option<Rc<dyn Filler>>>,
    /// Fillers registered so far: tells one from the next.
    registered: Cell<u64>,
    fallen: Cell<bool>,
}

impl Gate {
    /// Whether it still stands in the way.
    pub(crate) fn stands(&self) -> bool {
        !self.fallen.get()
    }

    /// The filler, or why there is no way in.
    pub(crate) fn filler(&self, volume: &str) -> Result<Rc<dyn Filler>> {
        self.filler.borrow().clone().ok_or_else(|| no_filler(volume))
    }

    /// Takes the filler away. It is dropped by the caller, since it may come back here while it is dropped.
    fn take(&self) -> Option<Rc<dyn Filler>> {
        self.filler.borrow_mut().take()
    }
}

/// The gates of a pool's volumes.
#[derive(Default)]
pub(crate) struct Gates {
    gates: RefCell<FxHashMap<VolumeId, Rc<Gate>>>,
}

impl Gates {
    /// The gate of a volume that is filling, if somebody fills it.
    pub(crate) fn of(&self, id: VolumeId, volume: &str) -> Result<Rc<Gate>> {
        let gate = self.gates.borrow().get(&id).cloned().ok_or_else(|| no_filler(volume))?;
        let _registered = gate.filler(volume)?;
        Ok(gate)
    }

    /// Registers the one filler of a volume; returns its number.
    pub(crate) fn register(&self, id: VolumeId, volume: &str, filler: Rc<dyn Filler>) -> Result<u64> {
        let gate = self.gates.borrow_mut().entry(id).or_default().clone();
        if gate.filler.borrow().is_some() {
            return Err(busy(format!("volume {volume:?} is being filled by another restore: wait for its end")));
        }
        gate.registered.set(gate.registered.get() + 1);
        *gate.filler.borrow_mut() = Some(filler);
        Ok(gate.registered.get())
    }

    /// Removes a volume's filler; with a number, only if it is that one.
    pub(crate) fn unregister(&self, id: VolumeId, number: Option<u64>) {
        let gate = self.gates.borrow().get(&id).cloned();
        if let Some(gate) = gate.filter(|g| number.is_none_or(|n| n == g.registered.get())) {
            drop(gate.take());
        }
    }

    /// The volume is full, or gone: nobody has to ask any more.
    pub(crate) fn fall(&self, id: VolumeId) {
        let gate = self.gates.borrow_mut().remove(&id);
        if let Some(gate) = gate {
            gate.fallen.set(true);
            drop(gate.take());
        }
    }

    /// Lets go of all fillers, which may hold the pool themselves.
    pub(crate) fn clear(&self) {
        let gates: Vec<_> = self.gates.borrow().values().cloned().collect();
        for gate in gates {
            drop(gate.take());
        }
    }
}

fn no_filler(volume: &str) -> Error {
    busy(format!(
        "volume {volume:?} is being filled from a backup, and nothing fills it now: start its restore again, or delete it"
    ))
}
