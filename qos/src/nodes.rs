//! Volumes and groups that come, change and go, and what is told of them.

use std::collections::BTreeMap;

use crate::{
    Credits, Leaf, Limits, Nanos, Node, Snapshot, Tree,
    bucket::Bucket,
    lanes::Lanes,
    leaf::{LeafState, Place, Reason},
    limiter::Limiter,
    share::{Tag, cost},
    tree::Upper,
};

impl Tree {
    /// What deletions, scrubs, backups and restores go by: under the pool's limits, with a small share while volumes want the device, and all
    /// of it else.
    #[must_use]
    pub const fn background(&self) -> Leaf {
        self.background
    }

    /// A volume, of a group or of none.
    pub fn add_leaf(&mut self, group: Option<Node>) -> Leaf {
        self.add(group, false)
    }

    pub(crate) fn add(&mut self, group: Option<Node>, is_background: bool) -> Leaf {
        let state = LeafState {
            limiter: Limiter::default(),
            group: group.and_then(|node| self.group_of(node)),
            is_background,
            weight: 1,
            reserved: None,
            waiting: Lanes::default(),
            place: Place::Idle,
            reason: Reason::Share,
            longest: (0, Reason::Share),
            share_since: None,
            start: Tag::default(),
            finish: Tag::default(),
            under_way: 0,
            costs: 0,
            beside: 0,
            active: 0,
            lingers: false,
            went: 0,
            requests: 0,
            held: BTreeMap::new(),
        };
        let at = self.free.pop().unwrap_or(self.leaves.len() as u32);
        match self.leaves.get_mut(at as usize) {
            Some(slot) => *slot = Some(state),
            None => self.leaves.push(Some(state)),
        }
        Leaf(at)
    }

    fn group_of(&self, node: Node) -> Option<u32> {
        match node {
            Node::Group(group) => self.groups.get(group as usize)?.as_ref().map(|_| group),
            _ => None,
        }
    }

    /// A group without volumes.
    pub fn add_group(&mut self) -> Node {
        let free = self.groups.iter().position(Option::is_none);
        let at = free.unwrap_or(self.groups.len());
        match free.and_then(|at| self.groups.get_mut(at)) {
            Some(slot) => *slot = Some(Upper::default()),
            None => self.groups.push(Some(Upper::default())),
        }
        Node::Group(at as u32)
    }

    /// Puts a volume into a group, or into none.
    pub fn move_leaf(&mut self, leaf: Leaf, group: Option<Node>) {
        let group = group.and_then(|node| self.group_of(node));
        if let Some(state) = self.leaf_mut(leaf) {
            state.group = group;
        }
        self.wake_all();
    }

    /// Takes a volume out. Tickets of what waited are forgotten; what is under way need not be reported.
    pub fn remove_leaf(&mut self, leaf: Leaf) {
        if leaf == self.background {
            return;
        }
        let Some(state) = self.leaves.get_mut(leaf.0 as usize).and_then(Option::take) else { return };
        match state.place {
            Place::Ready(tag) => drop(self.ready.remove(tag, leaf.0)),
            Place::Sleeping(until) => drop(self.sleeping.remove(until, leaf.0)),
            Place::Idle => {}
        }
        self.free.push(leaf.0);
        let _reserve = self.reserving.remove(&leaf.0);
        let _was = self.lingering.remove(state.went, leaf.0);
        self.window.under_way = self.window.under_way.saturating_sub(state.costs.saturating_sub(state.beside));
        self.active = self.active.saturating_sub(state.active);
        self.wake_all();
    }

    /// Takes a group out; its volumes are in none then.
    pub fn remove_group(&mut self, group: Node) {
        let Some(number) = self.group_of(group) else { return };
        if let Some(slot) = self.groups.get_mut(number as usize) {
            *slot = None;
        }
        for state in self.leaves.iter_mut().flatten().filter(|state| state.group == Some(number)) {
            state.group = None;
        }
        self.wake_all();
    }

    /// How much may be under way at the device while several volumes want it, in requests of 4 KiB; none: there are no shares.
    pub fn set_depth(&mut self, requests: Option<u32>) {
        self.window.most = requests.map(|n| u64::from(n.max(1)) * cost(4096));
        self.wake_all();
    }

    /// Sets limits, for a volume of `size` bytes, from the next request on. What was used of a limit that stays is still used.
    pub fn set_limits(&mut self, node: Node, limits: Limits, size: u64, now: Nanos) {
        match node {
            Node::Pool => self.pool.limiter.set(limits, size, now),
            Node::Group(group) => {
                if let Some(upper) = self.groups.get_mut(group as usize).and_then(Option::as_mut) {
                    upper.limiter.set(limits, size, now);
                }
            }
            Node::Leaf(leaf) => self.set_leaf(leaf, limits, size, now),
        }
        self.wake_all();
    }

    fn set_leaf(&mut self, leaf: Leaf, limits: Limits, size: u64, now: Nanos) {
        let Some(state) = self.leaf_mut(leaf) else { return };
        state.weight = limits.weight();
        state.reserved = limits.reserved().map(|rate| {
            let capacity = i128::from(rate) * i128::from(crate::SECOND / 20);
            let mut bucket = state.reserved.unwrap_or_else(|| Bucket::new(rate, capacity, now));
            bucket.change(rate, capacity, now);
            bucket
        });
        let (weight, is_reserving) = (state.weight, state.reserved.is_some());
        state.limiter.set(limits, size, now);
        self.heaviest = self.heaviest.max(weight);
        let _changed = if is_reserving { self.reserving.insert(leaf.0) } else { self.reserving.remove(&leaf.0) };
        self.recount(leaf.0);
    }

    /// Counts anew what a leaf adds to the weights of the active ones: after each change of what it waits for or has under way.
    pub(crate) fn recount(&mut self, leaf: u32) {
        let Some(state) = self.leaves.get_mut(leaf as usize).and_then(Option::as_mut) else { return };
        let now = state.activity();
        self.active = self.active.saturating_sub(state.active) + now;
        state.active = now;
    }

    /// The limits that hold.
    #[must_use]
    pub fn limits(&self, node: Node) -> Option<&Limits> {
        match node {
            Node::Pool => Some(self.pool.limiter.limits()),
            Node::Group(group) => self.groups.get(group as usize)?.as_ref().map(|upper| upper.limiter.limits()),
            Node::Leaf(leaf) => self.leaves.get(leaf.0 as usize)?.as_ref().map(|state| state.limiter.limits()),
        }
    }

    /// A volume as it is now; `None` for one that is not there.
    pub fn snapshot(&mut self, leaf: Leaf, now: Nanos) -> Option<Snapshot> {
        let state = self.leaf_mut(leaf)?;
        let mut held = state.held.clone();
        if !state.waiting.is_empty() {
            let so_far = state.waiting.iter().map(|waiting| now.saturating_sub(waiting.since));
            let nanos = so_far.fold(0, u64::saturating_add);
            let held = held.entry(state.held_by(now).1).or_default();
            held.nanos = held.nanos.saturating_add(nanos);
        }
        Some(Snapshot {
            requests: state.requests,
            waiting: state.waiting.len() as u64,
            held: held.iter().map(|(reason, held)| (reason.name(), *held)).collect(),
            credits: state.limiter.credits(now),
        })
    }

    /// Tokens that are there, by the limits' names; negative: owed.
    pub fn credits(&mut self, node: Node, now: Nanos) -> Credits {
        self.limiter(node).map(|limiter| limiter.credits(now)).unwrap_or_default()
    }

    fn limiter(&mut self, node: Node) -> Option<&mut Limiter> {
        match node {
            Node::Pool => Some(&mut self.pool.limiter),
            Node::Group(group) => self.groups.get_mut(group as usize)?.as_mut().map(|upper| &mut upper.limiter),
            Node::Leaf(leaf) => self.leaf_mut(leaf).map(|state| &mut state.limiter),
        }
    }

    /// What was used of the limits and has not come in again: to be kept over a restart, which is no way to full credits.
    pub fn used(&mut self, node: Node, now: Nanos) -> BTreeMap<String, u64> {
        self.limiter(node).map(|limiter| limiter.used(now)).unwrap_or_default()
    }

    /// Takes what had been used before a restart, after the limits were set.
    pub fn restore(&mut self, node: Node, used: &BTreeMap<String, u64>) {
        if let Some(limiter) = self.limiter(node) {
            limiter.restore(used);
        }
    }
}
