//! Volumes and groups that come, change and go, and what is told of them.

use std::collections::BTreeMap;

use crate::{
    Credits, Leaf, Limits, Nanos, Node, Snapshot, Tree,
    bucket::Bucket,
    leaf::{LeafState, Place},
    limiter::Limiter,
    lines::Gate,
    share::cost,
    tree::flow_of,
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
        self.last_generation = self.last_generation.wrapping_add(1);
        let generation = self.last_generation;
        let state = LeafState::new(generation, group.and_then(|node| self.group_of(node)), is_background);
        let at = self.free.pop().unwrap_or(self.leaves.len() as u32);
        match self.leaves.get_mut(at as usize) {
            Some(slot) => *slot = Some(state),
            None => self.leaves.push(Some(state)),
        }
        Leaf { at, generation }
    }

    /// The place of a volume that is there.
    pub(crate) fn place_of(&self, leaf: Leaf) -> Option<u32> {
        self.leaf(leaf.at).filter(|state| state.generation == leaf.generation).map(|_| leaf.at)
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
            Some(slot) => *slot = Some(Gate::default()),
            None => self.groups.push(Some(Gate::default())),
        }
        Node::Group(at as u32)
    }

    /// Puts a volume into a group, or into none.
    pub fn move_leaf(&mut self, leaf: Leaf, group: Option<Node>) {
        let group = group.and_then(|node| self.group_of(node));
        // It leaves the lines of the group that it was in.
        self.wake_all();
        if let Some(state) = self.place_of(leaf).and_then(|at| self.leaf_mut(at)) {
            state.group = group;
        }
    }

    /// Takes a volume out. Tickets of what waited are forgotten; what is under way need not be reported, but may be.
    pub fn remove_leaf(&mut self, leaf: Leaf) {
        let Some(at) = self.place_of(leaf).filter(|_| leaf != self.background) else { return };
        [0, 1].into_iter().for_each(|lane| self.out_of_place(flow_of(at, lane)));
        let Some(state) = self.leaves.get_mut(at as usize).and_then(Option::take) else { return };
        self.free.push(at);
        let _was = self.lingering.remove(&(state.ended, at));
        self.window.under_way = self.window.under_way.saturating_sub(state.own());
        self.spare.ended(state.under_way, 0);
        self.active.change(state.active, 0);
    }

    /// Takes a group out; its volumes are in none then.
    pub fn remove_group(&mut self, group: Node) {
        let Some(number) = self.group_of(group) else { return };
        self.wake_all();
        if let Some(slot) = self.groups.get_mut(number as usize) {
            *slot = None;
        }
        for state in self.leaves.iter_mut().flatten().filter(|state| state.group == Some(number)) {
            state.group = None;
        }
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
                if let Some(gate) = self.groups.get_mut(group as usize).and_then(Option::as_mut) {
                    gate.limiter.set(limits, size, now);
                }
            }
            Node::Leaf(leaf) => {
                if let Some(at) = self.place_of(leaf) {
                    self.set_leaf(at, limits, size, now);
                }
            }
        }
        self.wake_all();
    }

    fn set_leaf(&mut self, leaf: u32, limits: Limits, size: u64, now: Nanos) {
        let Some(state) = self.leaf_mut(leaf) else { return };
        state.weight = limits.weight();
        state.reserved = limits.reserved().map(|rate| {
            let capacity = i128::from(rate) * i128::from(crate::SECOND / 20);
            let mut bucket = state.reserved.unwrap_or_else(|| Bucket::new(rate, capacity, now));
            bucket.change(rate, capacity, now);
            bucket
        });
        state.gate.limiter.set(limits, size, now);
        [0, 1].into_iter().for_each(|lane| self.claim(flow_of(leaf, lane)));
        self.recount(leaf);
    }

    /// Counts anew what a leaf adds to the weights of the active ones: after each change of what it waits for or has under way.
    pub(crate) fn recount(&mut self, leaf: u32) {
        let Some(state) = self.leaves.get_mut(leaf as usize).and_then(Option::as_mut) else { return };
        let now = state.activity();
        self.active.change(state.active, now);
        state.active = now;
    }

    /// The limits that hold.
    #[must_use]
    pub fn limits(&self, node: Node) -> Option<&Limits> {
        match node {
            Node::Pool => Some(self.pool.limiter.limits()),
            Node::Group(group) => self.groups.get(group as usize)?.as_ref().map(|gate| gate.limiter.limits()),
            Node::Leaf(leaf) => self.leaf(self.place_of(leaf)?).map(|state| state.gate.limiter.limits()),
        }
    }

    /// A volume as it is now; `None` for one that is not there.
    pub fn snapshot(&mut self, leaf: Leaf, now: Nanos) -> Option<Snapshot> {
        let state = self.leaf_mut(self.place_of(leaf)?)?;
        let mut held = state.held.clone();
        for (lane, flow) in (0..).zip(&state.flows).filter(|(_, flow)| flow.place != Place::Idle) {
            let so_far = state.waiting.of(lane).map(|waiting| now.saturating_sub(waiting.since));
            let nanos = so_far.fold(0, u64::saturating_add);
            let held = held.entry(flow.held_by(now).1).or_default();
            held.nanos = held.nanos.saturating_add(nanos);
        }
        Some(Snapshot {
            requests: state.requests,
            waiting: state.waiting.len() as u64,
            held: held.iter().map(|(reason, held)| (reason.name(), *held)).collect(),
            credits: state.gate.limiter.credits(now),
        })
    }

    /// Tokens that are there, by the limits' names; negative: owed.
    pub fn credits(&mut self, node: Node, now: Nanos) -> Credits {
        self.limiter(node).map(|limiter| limiter.credits(now)).unwrap_or_default()
    }

    fn limiter(&mut self, node: Node) -> Option<&mut Limiter> {
        match node {
            Node::Pool => Some(&mut self.pool.limiter),
            Node::Group(group) => self.groups.get_mut(group as usize)?.as_mut().map(|gate| &mut gate.limiter),
            Node::Leaf(leaf) => self.leaf_mut(self.place_of(leaf)?).map(|state| &mut state.gate.limiter),
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
