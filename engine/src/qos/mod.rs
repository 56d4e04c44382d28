//! The limiter on the reactor: who may go now, who waits, and who is told when its turn comes. What may go is decided by [`cairn_qos::Tree`].
//!
//! Invariants:
//! - A request that went holds a [`Permit`]; the tree is told of its end when that is dropped, whatever became of it.
//! - A request that waits holds a [`Turn`]; dropped, it takes its ticket back, or gives up the turn that it was given.
//! - Whenever something that waits may have become free to go, [`Qos::pump`] runs: after each end, each change, and when the tree says so.

pub(crate) mod meter;
mod turn;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use cairn_qos::{Decision, Key, Limits, Nanos, Node, Request, Ticket, Tree};
use rustc_hash::FxHashMap;

use crate::{
    format::sheet::Owner,
    reactor::{
        Reactor,
        notify::{Notify, either},
    },
    units::VolumeId,
};
pub(crate) use meter::Meter;
pub(crate) use turn::Permit;
use turn::{Slot, Turn};

/// What may be under way at the device while several volumes want it, in requests of 4 KiB, unless the pool says otherwise.
pub(crate) const DEPTH: u32 = 32;

pub(crate) struct Qos {
    reactor: Reactor,
    tree: RefCell<Tree>,
    waiting: RefCell<FxHashMap<Ticket, Slot>>,
    meters: RefCell<FxHashMap<VolumeId, Rc<Meter>>>,
    groups: RefCell<FxHashMap<String, Node>>,
    background: Rc<Meter>,
    /// Whose credits are to be noted next: there was no room for all.
    unnoted: RefCell<Vec<Owner>>,
    /// When it will be asked again.
    armed: Cell<Option<Nanos>>,
    /// The tree wants to be asked sooner than that.
    sooner: Notify,
}

impl Qos {
    pub(crate) fn new(reactor: Reactor) -> Self {
        let mut tree = Tree::new();
        tree.set_depth(Some(DEPTH));
        let background = Rc::new(Meter::new(tree.background()));
        Self {
            reactor,
            tree: RefCell::new(tree),
            waiting: RefCell::default(),
            meters: RefCell::default(),
            groups: RefCell::default(),
            background,
            unnoted: RefCell::default(),
            armed: Cell::new(None),
            sooner: Notify::default(),
        }
    }

    fn now(&self) -> Nanos {
        u64::try_from(self.reactor.turn().as_nanos()).unwrap_or(u64::MAX)
    }

    // ---- requests ----

    /// Waits until a request may go.
    pub(crate) async fn admit(self: &Rc<Self>, meter: &Rc<Meter>, request: Request) -> Permit {
        let mut began = self.now();
        let decision = self.tree.borrow_mut().submit(meter.leaf(), request, began);
        if let Decision::Wait(ticket) = decision {
            let turn = Turn::new(self.clone(), ticket, meter.leaf(), request);
            self.pump();
            turn.await;
            began = self.now();
        }
        Permit::new(self.clone(), meter.clone(), request, began)
    }

    /// Waits until background work may go on.
    pub(crate) async fn admit_background(self: &Rc<Self>, request: Request) -> Permit {
        self.admit(&self.background, request).await
    }

    /// Names everybody whose turn has come.
    fn pump(&self) {
        loop {
            let next = self.tree.borrow_mut().next(self.now());
            let Some(ticket) = next else { break };
            let waker = self.waiting.borrow_mut().get_mut(&ticket).and_then(Slot::grant);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
        let wake = self.tree.borrow().next_wake();
        if wake.is_some_and(|wake| self.armed.get().is_none_or(|armed| wake < armed)) {
            self.sooner.notify();
        }
    }

    /// What keeps time: asks the tree again when it wants to be asked.
    pub(crate) async fn run(self: Rc<Self>) {
        loop {
            let sooner = self.sooner.notified();
            let wake = self.tree.borrow().next_wake();
            self.armed.set(wake);
            match wake {
                Some(at) => {
                    let wait = std::time::Duration::from_nanos(at.saturating_sub(self.now()));
                    either(self.reactor.sleep(wait), sooner).await;
                }
                None => sooner.await,
            }
            self.pump();
        }
    }

    // ---- volumes and groups ----

    /// The meter of a volume. Made when it is first asked for.
    pub(crate) fn meter(&self, volume: VolumeId) -> Rc<Meter> {
        let mut meters = self.meters.borrow_mut();
        let meter = meters.entry(volume).or_insert_with(|| Rc::new(Meter::new(self.tree.borrow_mut().add_leaf(None))));
        meter.clone()
    }

    /// The meter of a volume that has one.
    pub(crate) fn known_meter(&self, volume: VolumeId) -> Option<Rc<Meter>> {
        self.meters.borrow().get(&volume).cloned()
    }

    pub(crate) fn background(&self) -> &Rc<Meter> {
        &self.background
    }

    /// The volume is gone, and nobody has it open.
    pub(crate) fn forget(&self, volume: VolumeId) {
        let meter = self.meters.borrow_mut().remove(&volume);
        if let Some(meter) = meter {
            self.tree.borrow_mut().remove_leaf(meter.leaf());
            self.pump();
        }
    }

    /// The node of a group. Made when it is first asked for.
    fn group(&self, name: &str) -> Node {
        if let Some(node) = self.groups.borrow().get(name) {
            return *node;
        }
        let node = self.tree.borrow_mut().add_group();
        let _old = self.groups.borrow_mut().insert(name.to_owned(), node);
        node
    }

    /// Forgets groups that have neither limits nor volumes any more.
    pub(crate) fn keep_groups(&self, keep: impl Fn(&str) -> bool) {
        self.groups.borrow_mut().retain(|name, node| {
            let kept = keep(name);
            if !kept {
                self.tree.borrow_mut().remove_group(*node);
            }
            kept
        });
        self.pump();
    }

    fn node(&self, owner: &Owner) -> Node {
        match owner {
            Owner::Pool => Node::Pool,
            Owner::Group(name) => self.group(name),
            Owner::Volume(volume) => Node::Leaf(self.meter(*volume).leaf()),
        }
    }

    /// Sets limits, for a volume of `size` bytes, from the next request on.
    pub(crate) fn set_limits(&self, owner: &Owner, limits: Limits, size: u64) {
        let node = self.node(owner);
        self.tree.borrow_mut().set_limits(node, limits, size, self.now());
        self.pump();
    }

    /// Puts a volume into a group, or into none.
    pub(crate) fn set_group(&self, volume: VolumeId, group: Option<&str>) {
        let (leaf, group) = (self.meter(volume).leaf(), group.map(|name| self.group(name)));
        self.tree.borrow_mut().move_leaf(leaf, group);
        self.pump();
    }

    /// Sets how much may be under way while several volumes want the device; none: the default.
    pub(crate) fn set_depth(&self, depth: Option<u32>) {
        self.tree.borrow_mut().set_depth(Some(depth.unwrap_or(DEPTH)));
        self.pump();
    }

    // ---- credits ----

    pub(crate) fn take_unnoted(&self) -> Vec<Owner> {
        self.unnoted.take()
    }

    pub(crate) fn keep_unnoted(&self, owners: Vec<Owner>) {
        self.unnoted.replace(owners);
    }

    /// Takes what had been used before the pool was opened.
    pub(crate) fn restore(&self, owner: &Owner, used: &Used) {
        let node = self.node(owner);
        self.tree.borrow_mut().restore(node, used);
    }

    /// What was used of limits for an owner, but for what comes in again within a second.
    pub(crate) fn used(&self, owner: &Owner, limits: &Limits, size: u64) -> Used {
        let node = self.node(owner);
        let mut used = self.tree.borrow_mut().used(node, self.now());
        let rates = limits.effective(size);
        used.retain(|name, used| rates.iter().any(|rate| rate.key.name() == name && *used > rate.rate));
        used
    }

    /// What holds requests back, what has been held back so far, and what is left. Of a volume without requests since the pool was opened,
    /// all zero.
    pub(crate) fn snapshot(&self, meter: &Meter) -> cairn_qos::Snapshot {
        self.tree.borrow_mut().snapshot(meter.leaf(), self.now()).unwrap_or_default()
    }

    /// Tokens that are there, of every limit of an owner.
    pub(crate) fn credits(&self, owner: &Owner) -> std::collections::BTreeMap<&'static str, i64> {
        // To look makes nothing.
        let node = match owner {
            Owner::Pool => Some(Node::Pool),
            Owner::Group(name) => self.groups.borrow().get(name).copied(),
            Owner::Volume(volume) => self.known_meter(*volume).map(|meter| Node::Leaf(meter.leaf())),
        };
        node.map(|node| self.tree.borrow_mut().credits(node, self.now())).unwrap_or_default()
    }
}

/// Tokens used, by the names of limits.
pub(crate) type Used = std::collections::BTreeMap<String, u64>;

/// Whether what was used now is worth being noted in the place of what was noted before: all that is more, and what is less by a quarter or
/// gone, so that a long burst that comes in again is a few notes and not one each second.
pub(crate) fn is_news(noted: &Used, now: &Used) -> bool {
    let of = |used: &Used, key: Key| used.get(key.name()).copied().unwrap_or(0);
    Key::ALL.into_iter().any(|key| {
        let (noted, now) = (of(noted, key), of(now, key));
        now > noted || (now < noted && now <= noted / 4 * 3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(tokens: u64) -> Used {
        [(Key::ReadIops.name().to_owned(), tokens)].into_iter().filter(|(_, tokens)| *tokens > 0).collect()
    }

    #[test]
    fn more_use_is_news_and_less_only_by_a_quarter() {
        assert!(is_news(&used(0), &used(1)) && is_news(&used(100), &used(101)));
        assert!(!is_news(&used(100), &used(100)) && !is_news(&used(100), &used(76)));
        assert!(is_news(&used(100), &used(75)) && is_news(&used(1), &used(0)));
        assert!(is_news(&used(u64::MAX), &used(0)) && !is_news(&used(0), &used(0)));
    }
}
