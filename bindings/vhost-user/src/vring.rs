//! A ring that is being served: one task takes requests from it, one task for each request carries it out.
//!
//! Invariants:
//! - Only the ring's own task takes from it, in order, and only after [`admit`](Vring::admit) let the request in.
//! - A request that was taken is carried out and given back, whatever the front-end does meanwhile; [`stop`](Vring::stop) waits for that.
//!   Only where memory was lost it is not given back: there is nobody in whose memory that could be done.
//! - At most one task calls the driver; what is given back while it is about to counts in the same call.

use crate::{
    blk::{self, Request, Status},
    descriptors::Event,
    device::{Device, Room},
    memory::{Fault, Memory},
    protocol::RingAddresses,
    ring::{Broken, Chain, MAX_DESCRIPTORS, Malformed, Place, Ring, Tracker, whole},
    turns::Share,
    wake::{First, Signal, first},
};
use cairn_engine::{Admitted, Task};
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

/// Kicks in a row with nothing behind them that are taken as they come. Drivers have few. But an eventfd that counts down (`EFD_SEMAPHORE`) kicks
/// for ever, and nobody has to do anything for that.
const KICKS_FOR_NOTHING: u32 = 64;
/// How long to wait before each one after those.
const KICK_PAUSE: Duration = Duration::from_millis(1);

/// The eventfds of a ring, some of which the front-end may leave out.
#[derive(Clone, Default)]
pub(crate) struct Events {
    /// The driver has put something in.
    pub(crate) kick: Option<Rc<Event>>,
    /// Something was given back.
    pub(crate) call: Option<Rc<Event>>,
    /// The ring is broken.
    pub(crate) error: Option<Rc<Event>>,
}

/// A request that was read from the ring, not necessarily taken.
struct Found {
    head: u16,
    memory: Rc<Memory>,
    request: Result<(Chain, Request), Malformed>,
}

impl Found {
    /// Descriptors that were read for it at most.
    fn descriptors(&self, size: u16) -> u32 {
        self.request.as_ref().map_or(u32::from(size) + MAX_DESCRIPTORS, |(chain, _)| chain.descriptors)
    }
}

/// What a request holds while it is under way.
struct Admission {
    /// None for what no limit applies to.
    limits: Option<Admitted>,
    _room: Room,
}

pub(crate) struct Vring {
    device: Rc<Device>,
    size: u16,
    ring: RefCell<Ring>,
    /// The newest of the front-end's memories in which the ring is whole.
    memory: RefCell<Rc<Memory>>,
    call: RefCell<Option<Rc<Event>>>,
    error: RefCell<Option<Rc<Event>>>,
    stopping: Cell<bool>,
    /// The task that takes requests has ended.
    ended: Cell<bool>,
    broken: Cell<bool>,
    in_flight: Cell<u32>,
    /// A task is about to call the driver.
    calling: Cell<bool>,
    /// It is to do so whatever the ring says.
    call_forced: Cell<bool>,
    caller: RefCell<Option<Task<()>>>,
    /// Notified when nothing more is to be taken.
    over: Signal,
    /// Notified when a task of the ring is gone.
    drained: Signal,
}

/// Says so when the task that takes requests is gone, also when the reactor drops it.
struct Ending(Rc<Vring>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.ended.set(true);
        self.0.drained.notify();
    }
}

impl Vring {
    /// Begins to serve a ring; requests that a killed back-end left in flight come first.
    pub(crate) fn start(
        device: Rc<Device>,
        place: Place,
        events: &Events,
        kick: Rc<Event>,
        tracker: Option<Tracker>,
    ) -> Result<Rc<Self>, Broken> {
        let (memory, size) = (device.memory(), place.size);
        let (ring, left) = Ring::new(place, &memory, tracker)?;
        let vring = Rc::new(Self {
            size,
            ring: RefCell::new(ring),
            memory: RefCell::new(memory),
            call: RefCell::new(events.call.clone()),
            error: RefCell::new(events.error.clone()),
            stopping: Cell::new(false),
            ended: Cell::new(false),
            broken: Cell::new(false),
            in_flight: Cell::new(0),
            calling: Cell::new(false),
            call_forced: Cell::new(false),
            caller: RefCell::default(),
            over: Signal::default(),
            drained: Signal::default(),
            device,
        });
        vring.device.record.resubmitted(left.len() as u64);
        // The one before may have been killed between giving back and calling.
        vring.call_anyway();
        vring.device.reactor.spawn(serve(Ending(Rc::clone(&vring)), kick, left)).detach();
        Ok(vring)
    }

    /// Takes nothing more; waits for what was taken. Where the ring would go on.
    pub(crate) async fn stop(&self) -> u16 {
        self.stopping.set(true);
        self.over.notify();
        self.drained.until(|| self.ended.get() && self.in_flight.get() == 0).await;
        // Calls wait for nobody.
        self.drained.until(|| !self.calling.get()).await;
        drop(self.caller.take());
        self.ring.borrow().base()
    }

    /// The front-end has changed its memory. It does so one region at a time, and takes one away before it gives it back in another shape:
    /// until the ring is whole again, it is served where it was.
    pub(crate) fn move_to(&self, addresses: RingAddresses) {
        let memory = self.device.memory();
        let mut ring = self.ring.borrow_mut();
        let moved = match ring.move_to(addresses, &memory) {
            Ok(()) => {
                self.memory.replace(memory);
                Ok(())
            }
            Err(_) => ring.move_to(addresses, &self.memory.borrow()),
        };
        drop(ring);
        if let Err(broken) = moved {
            self.break_off(&broken);
        }
    }

    fn memory(&self) -> Rc<Memory> {
        Rc::clone(&self.memory.borrow())
    }

    pub(crate) fn set_call(self: &Rc<Self>, call: Option<Rc<Event>>) {
        self.call.replace(call);
        // What was given back without a way to say so.
        self.call_anyway();
    }

    pub(crate) fn set_error(&self, error: Option<Rc<Event>>) {
        self.error.replace(error);
    }

    /// Stops serving a ring that makes no sense, and says so.
    fn break_off(&self, Broken(why): &Broken) {
        if self.broken.replace(true) {
            return;
        }
        self.device.record.fault(why);
        self.over.notify();
        if let Some(error) = self.error.borrow().clone() {
            let reactor = self.device.reactor.clone();
            self.device.reactor.spawn(async move { drop(reactor.signal_event(&error).await) }).detach();
        }
    }

    fn is_over(&self) -> bool {
        self.stopping.get() || self.broken.get()
    }

    /// Reads the request that begins at a head. None of what it says is believed when memory was lost by then: a range of zeros would be
    /// one of sector 0.
    fn find(&self, head: u16, share: &mut Share) -> Result<Found, Broken> {
        let memory = self.memory();
        let chain = self.ring.borrow().chain(&memory, head);
        let request = chain.and_then(|chain| {
            let request = Request::read(&chain, &memory, self.device.volume.size())?;
            Ok((chain, request))
        });
        let found = Found { head, memory, request };
        share.spend(found.descriptors(self.size));
        whole(&found.memory)?;
        Ok(found)
    }

    /// Waits until a request may be taken from its ring: the one place where requests wait. None when the ring is over before the limits
    /// have let it go: then it stays where it is. Afterwards it has used its part of them and is taken, also from a ring that is stopped
    /// while it waits for memory. (That is short: only requests that limits have let go hold any.)
    async fn admit(&self, found: &Found) -> Option<Admission> {
        let request = found.request.as_ref().ok();
        let let_go = self.device.let_go(request.and_then(|(_, request)| blk::limited(request)));
        let cost = request.map_or(0, |(chain, request)| blk::cost(chain, request));
        match first(let_go, self.over.until(|| self.is_over())).await {
            First::A(limits) => Some(Admission { limits, _room: self.device.room(cost).await }),
            First::B(()) => None,
        }
    }

    /// Takes everything that is in the ring, and asks for kicks. Whether there was anything.
    async fn take_available(self: &Rc<Self>, share: &mut Share) -> Result<bool, Broken> {
        let mut any = false;
        loop {
            share.get().await;
            if self.is_over() {
                return Ok(any);
            }
            let memory = self.memory();
            let next = self.ring.borrow_mut().peek(&memory)?;
            let Some(head) = next else {
                let mut ring = self.ring.borrow_mut();
                if !ring.ask_for_kicks(&memory)? {
                    return Ok(any);
                }
                ring.refuse_kicks(&memory)?;
                // A driver could have its index come and go between any two looks: they count, so that others get their turn.
                share.spend(0);
                continue;
            };
            any = true;
            let found = self.find(head, share)?;
            let admission = self.admit(&found).await;
            if let Some(admission) = admission.filter(|_| !self.broken.get()) {
                self.ring.borrow_mut().take(&found.memory, head)?;
                self.carry_out(found, admission);
            }
        }
    }

    /// Gives a request that was taken to a task of its own.
    fn carry_out(self: &Rc<Self>, found: Found, admission: Admission) {
        self.in_flight.set(self.in_flight.get() + 1);
        self.device.record.started();
        let underway = Underway(Rc::clone(self));
        self.device.reactor.spawn(carry_out(underway, found, admission)).detach();
    }

    /// Sees to it that the driver is called, once everything that is ready was given back.
    fn call_soon(self: &Rc<Self>) {
        if !self.calling.replace(true) {
            let caller = self.device.reactor.spawn(call(Calling(Rc::clone(self))));
            self.caller.replace(Some(caller));
        }
    }

    fn call_anyway(self: &Rc<Self>) {
        if self.call.borrow().is_some() {
            self.call_forced.set(true);
            self.call_soon();
        }
    }
}

/// Takes requests until the ring is stopped or breaks.
async fn serve(ending: Ending, kick: Rc<Event>, left: Vec<u16>) {
    let vring = &ending.0;
    let mut share = Share::of(&vring.device.turns);
    for head in left {
        share.get().await;
        // Those before may have been in memory that is lost.
        if vring.broken.get() {
            return;
        }
        let found = match vring.find(head, &mut share) {
            Ok(found) => found,
            Err(broken) => return vring.break_off(&broken),
        };
        // The books still say that it is in flight: if this ring is stopped first, the next one does it.
        let Some(admission) = vring.admit(&found).await else { return };
        vring.carry_out(found, admission);
    }
    let mut for_nothing = 0u32;
    loop {
        match vring.take_available(&mut share).await {
            Ok(true) => for_nothing = 0,
            Ok(false) => for_nothing = for_nothing.saturating_add(1),
            Err(broken) => return vring.break_off(&broken),
        }
        if for_nothing > KICKS_FOR_NOTHING {
            let over = vring.over.until(|| vring.is_over());
            let (First::A(()) | First::B(())) = first(over, vring.device.reactor.sleep(KICK_PAUSE)).await;
        }
        // A ring that begins behind this one looks once and then counts on kicks: none may be taken from it.
        let over = vring.over.until(|| vring.is_over());
        let kicked = vring.device.reactor.take_event_until(&kick, over).await;
        if vring.is_over() {
            return;
        }
        if let Err(e) = kicked {
            return vring.break_off(&Broken(format!("its kicks cannot be received: {e}")));
        }
        let refused = vring.ring.borrow_mut().refuse_kicks(&vring.memory());
        if let Err(broken) = refused {
            return vring.break_off(&broken);
        }
    }
}

/// A request's task; the ring counts it until it is gone.
struct Underway(Rc<Vring>);

impl Drop for Underway {
    fn drop(&mut self) {
        let Self(vring) = self;
        vring.in_flight.set(vring.in_flight.get() - 1);
        vring.device.record.finished();
        vring.drained.notify();
    }
}

async fn carry_out(underway: Underway, found: Found, mut admission: Admission) {
    let Underway(vring) = &underway;
    let Found { head, memory, request } = found;
    let written = execute(vring, &memory, &request, &mut admission).await;
    drop(admission);
    // Where memory is lost, nothing is said in it: the request stays in the books, for whoever has all of it.
    let given_back = whole(&memory).and_then(|()| {
        let memory = vring.memory();
        vring.ring.borrow_mut().complete(&memory, head, written)
    });
    match given_back {
        Ok(()) => vring.call_soon(),
        Err(broken) => vring.break_off(&broken),
    }
}

/// Carries a request out and puts its status down; the bytes of its chain that were written.
async fn execute(
    vring: &Vring,
    memory: &Memory,
    request: &Result<(Chain, Request), Malformed>,
    admission: &mut Admission,
) -> u32 {
    match request {
        Ok((chain, request)) => {
            let status = blk::execute(&vring.device, memory, chain, request, admission.limits.as_mut()).await;
            if status != Status::Ok {
                vring.device.record.failed();
            }
            match chain.copy_out(memory, chain.writable - 1, &[status as u8]) {
                Ok(()) => chain.writable as u32,
                Err(Fault) => {
                    if memory.is_whole() {
                        vring.device.record.fault("a status is outside of the guest's memory");
                    }
                    0
                }
            }
        }
        Err(Malformed(why)) => {
            vring.device.record.fault(why);
            0
        }
    }
}

/// Held by the task that calls the driver.
struct Calling(Rc<Vring>);

impl Drop for Calling {
    fn drop(&mut self) {
        self.0.calling.set(false);
        self.0.drained.notify();
    }
}

/// Calls the driver for as long as it wants to be.
async fn call(calling: Calling) {
    let Calling(vring) = &calling;
    loop {
        let forced = vring.call_forced.take();
        let wanted = vring.ring.borrow_mut().wants_call(&vring.memory());
        match wanted {
            Ok(wanted) if wanted || forced => {}
            Ok(_) => return,
            Err(broken) => return vring.break_off(&broken),
        }
        let Some(call) = vring.call.borrow().clone() else { return };
        // A counter that is full has told the driver already, and is no error.
        if let Err(e) = vring.device.reactor.signal_event(&call).await {
            return vring.break_off(&Broken(format!("its driver cannot be called: {e}")));
        }
    }
}
