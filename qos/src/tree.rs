//! Pool, groups and volumes: who may go, who waits, and who is next.

use std::collections::BTreeSet;

use crate::{
    Decision, Leaf, Nanos, Request, Ticket,
    lanes::{Waiting, lane_of},
    leaf::{LeafState, Place, Reason},
    lines::{Gate, Order},
    share::{Active, Clock, LINGER, LOOK, PATIENCE, STALLED, Window, cost, in_pieces},
    spare::Spare,
};

/// The limits of a pool, its groups and its volumes, and the queues of what waits for them.
///
/// ```
/// use cairn_qos::{Decision, Kind, Limits, Node, Request, SECOND, Tree};
/// let mut tree = Tree::new();
/// let volume = tree.add_leaf(None);
/// tree.set_limits(Node::Leaf(volume), "total_iops_sec=10".parse()?, 1 << 30, 0);
/// let read = Request { kind: Kind::Read, bytes: 4096 };
/// assert_eq!(tree.submit(volume, read, 0), Decision::Go);
/// let Decision::Wait(ticket) = tree.submit(volume, read, 0) else { panic!("the second one has to wait") };
/// assert_eq!((tree.next(0), tree.next_wake()), (None, Some(SECOND / 10)));
/// assert_eq!(tree.next(SECOND / 10), Some(ticket));
/// tree.done(volume, read, SECOND / 10);
/// # Ok::<_, cairn_qos::Invalid>(())
/// ```
pub struct Tree {
    pub(crate) leaves: Vec<Option<LeafState>>,
    /// Places without a leaf.
    pub(crate) free: Vec<u32>,
    pub(crate) groups: Vec<Option<Gate>>,
    pub(crate) pool: Gate,
    /// Flows whose turn may have come.
    pub(crate) ready: BTreeSet<Order>,
    /// Flows that are first in all their lines, by when there will be enough for them.
    pub(crate) sleeping: BTreeSet<(Nanos, u32)>,
    /// Leaves that have nothing under way any more, by when their last request ended.
    pub(crate) lingering: BTreeSet<(Nanos, u32)>,
    pub(crate) clock: Clock,
    pub(crate) window: Window,
    /// Something waits for the window.
    pub(crate) is_full: bool,
    /// When what hangs was looked for last.
    pub(crate) looked: Nanos,
    pub(crate) spare: Spare,
    pub(crate) active: Active,
    /// Flows whose turn may have come, and that may go beside the window.
    pub(crate) claims: BTreeSet<u32>,
    /// Flows of which something waits.
    pub(crate) waiting_flows: usize,
    /// Somebody was woken since the flows were looked through.
    pub(crate) woken: bool,
    last_ticket: u64,
    pub(crate) last_generation: u32,
    pub(crate) background: Leaf,
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

/// The flow of a leaf's reads (lane 0) or writes.
pub(crate) fn flow_of(leaf: u32, lane: u32) -> u32 {
    leaf * 2 + lane
}

impl Tree {
    /// Without limits.
    #[must_use]
    pub fn new() -> Self {
        let mut this = Self {
            leaves: Vec::new(),
            free: Vec::new(),
            groups: Vec::new(),
            pool: Gate::default(),
            ready: BTreeSet::new(),
            sleeping: BTreeSet::new(),
            lingering: BTreeSet::new(),
            clock: Clock::default(),
            window: Window::default(),
            is_full: false,
            looked: 0,
            spare: Spare::default(),
            active: Active::default(),
            claims: BTreeSet::new(),
            waiting_flows: 0,
            woken: false,
            last_ticket: 0,
            last_generation: 0,
            background: Leaf { at: 0, generation: 0 },
        };
        this.background = this.add(None, true);
        this
    }

    pub(crate) fn leaf(&self, leaf: u32) -> Option<&LeafState> {
        self.leaves.get(leaf as usize)?.as_ref()
    }

    pub(crate) fn leaf_mut(&mut self, leaf: u32) -> Option<&mut LeafState> {
        self.leaves.get_mut(leaf as usize)?.as_mut()
    }

    /// Those that have asked for nothing for a while leave the device to others.
    fn forget_idle(&mut self, now: Nanos) {
        while let Some((ended, leaf)) =
            self.lingering.first().copied().filter(|(at, _)| at.saturating_add(LINGER) <= now)
        {
            let _was = self.lingering.remove(&(ended, leaf));
            if let Some(state) = self.leaf_mut(leaf) {
                state.lingers = false;
            }
            self.recount(leaf);
        }
    }

    /// What hangs takes no room in the window. Looked for now and then, while something waits for that; says whether there is more room.
    fn forget_stalled(&mut self, now: Nanos) -> bool {
        if !self.is_full || self.looked.saturating_add(LOOK) > now {
            return false;
        }
        self.looked = now;
        let before = self.window.under_way;
        for state in self.leaves.iter_mut().flatten().filter(|state| state.own() > 0 && !state.is_background) {
            if state.moved.saturating_add(STALLED) <= now {
                self.window.under_way = self.window.under_way.saturating_sub(state.own());
                state.hanging = state.hanging.saturating_add(state.own());
            }
        }
        self.window.under_way < before
    }

    /// A request that comes in. One that goes has to be reported with [`Tree::done`] when it has ended, also one that waits and goes later.
    pub fn submit(&mut self, leaf: Leaf, request: Request, now: Nanos) -> Decision {
        if request.is_free() {
            return Decision::Go;
        }
        self.forget_idle(now);
        let Some(at) = self.place_of(leaf) else { return Decision::Go };
        let Some(state) = self.leaves.get_mut(at as usize).and_then(Option::as_mut) else { return Decision::Go };
        self.last_ticket += 1;
        let (number, lane) = (self.last_ticket, lane_of(&request));
        let is_first = state.waiting.first(lane).is_none();
        let mut reason = None;
        // Nobody is passed over: who waits for the device came before, and who waits for tokens stands in line.
        if is_first && self.ready.is_empty() {
            if state.active == 0 && !state.is_background {
                state.active = state.weight;
                self.active.change(0, state.weight);
            }
            let has_nothing = state.own() == 0;
            let order = (self.clock.start(state.finish), number, flow_of(at, lane));
            match self.look(&request, order, now) {
                None if self.fits(at, &request, has_nothing, now) => {
                    self.go(&request, order, false, now);
                    return Decision::Go;
                }
                None => {}
                Some((level, short)) => reason = Some(Reason::Limit(level, short.key)),
            }
        }
        let Some(state) = self.leaf_mut(at) else { return Decision::Go };
        state.waiting.push(Waiting { number, request, since: now });
        if is_first {
            if let Some(flow) = state.flows.get_mut(lane as usize) {
                flow.longest = (0, reason.unwrap_or_default());
            }
            self.line_up(flow_of(at, lane));
        }
        self.recount(at);
        Decision::Wait(Ticket { leaf, number })
    }

    /// Whether a request may go that has its tokens: for volumes, whether the window has room. Background work has one request under way while
    /// volumes want the device, when they have left it enough time, or it has waited for long.
    fn fits(&self, leaf: u32, request: &Request, is_first: bool, now: Nanos) -> bool {
        let Some(state) = self.leaf(leaf) else { return true };
        if state.is_background {
            let alone = self.active.sum == 0 || self.window.most.is_none();
            return alone || self.background_ready(state) <= now;
        }
        self.window.fits(request.cost(), state.own(), state.weight, self.active.sum, is_first)
    }

    /// When background work may go on: not before its last request has ended, unless that hangs.
    fn background_ready(&self, state: &LeafState) -> Nanos {
        let free = if state.own() == 0 { 0 } else { state.moved.saturating_add(STALLED) };
        self.spare.ready().min(state.went.saturating_add(PATIENCE)).max(free)
    }

    /// Takes what a request needs everywhere.
    fn go(&mut self, request: &Request, order: Order, is_reserved: bool, now: Nanos) {
        let (start, _, flow) = order;
        let leaf = flow / 2;
        let Some(state) = self.leaves.get_mut(leaf as usize).and_then(Option::as_mut) else { return };
        let cost = request.cost();
        let group = state.group.and_then(|group| self.groups.get(group as usize)).and_then(Option::as_ref);
        let is_waited_for = |gate: &Gate| gate.is_waited_for(request);
        let stood = (is_waited_for(&self.pool) || group.is_some_and(is_waited_for)).then_some(start);
        state.finish = match (state.is_background, is_reserved) {
            (true, _) => self.clock.go_background(stood, cost),
            (_, true) => self.clock.go_beside(stood, cost, state.weight),
            _ => self.clock.go(start, state.finish, cost, state.weight),
        };
        self.begin(leaf, cost, is_reserved, now);
        let Some(state) = self.leaves.get_mut(leaf as usize).and_then(Option::as_mut) else { return };
        state.requests += 1;
        state.gate.limiter.take(request);
        let group = state.group.and_then(|group| self.groups.get_mut(group as usize)).and_then(Option::as_mut);
        for gate in group.into_iter().chain([&mut self.pool]) {
            gate.limiter.take(request);
        }
    }

    /// Something of a leaf is under way from now on.
    fn begin(&mut self, leaf: u32, cost: u64, is_reserved: bool, now: Nanos) {
        let Some(state) = self.leaves.get_mut(leaf as usize).and_then(Option::as_mut) else { return };
        if state.is_background {
            // Of what hangs, the next request is the end: it does not count any more.
            if state.moved.saturating_add(STALLED) <= now {
                state.hanging = state.costs;
            }
            state.moved = now;
        } else if is_reserved {
            state.reserved_costs = state.reserved_costs.saturating_add(cost);
        } else {
            state.moved = now;
            self.window.under_way = self.window.under_way.saturating_add(cost);
        }
        if state.lingers {
            state.lingers = false;
            let _was = self.lingering.remove(&(state.ended, leaf));
        }
        if !state.is_background {
            self.spare.began(now);
        }
        state.under_way += 1;
        state.costs = state.costs.saturating_add(cost);
        state.went = now;
    }

    /// A request that went, and was reported as done while it waited for something else than the device (its data, say), goes on. It takes no
    /// tokens, and is to be reported again.
    pub fn resume(&mut self, leaf: Leaf, request: Request, now: Nanos) {
        if request.is_free() {
            return;
        }
        let Some(at) = self.place_of(leaf) else { return };
        self.begin(at, request.cost(), false, now);
        self.recount(at);
    }

    /// A request that went turned out to be so many for the device, where it had been counted as one. To be taken back with
    /// [`Tree::pieces_done`] before it is reported as done.
    pub fn in_pieces(&mut self, leaf: Leaf, pieces: u64) {
        let more = in_pieces(pieces);
        let Some(at) = self.place_of(leaf) else { return };
        let Some(state) = self.leaves.get_mut(at as usize).and_then(Option::as_mut) else { return };
        state.costs = state.costs.saturating_add(more);
        if !state.is_background {
            self.window.under_way = self.window.under_way.saturating_add(more);
            // It has gone: the next ones of its volume come later for that.
            state.finish = state.finish.later(more, state.weight);
        }
    }

    /// How many pieces of so many bytes a request should have under way at a time, that others come between; none: nobody else wants the device.
    #[must_use]
    pub fn room(&self, leaf: Leaf, bytes: u64) -> Option<u64> {
        let state = self.leaf(self.place_of(leaf)?)?;
        let weight = if state.is_background { 0 } else { state.weight };
        self.window.room(cost(bytes), weight, self.active.sum)
    }

    /// The pieces of a request have ended.
    pub fn pieces_done(&mut self, leaf: Leaf, pieces: u64) {
        if let Some(at) = self.place_of(leaf) {
            self.release(at, in_pieces(pieces), None);
        }
    }

    /// What was under way is so much less; at a time, if a request has ended.
    fn release(&mut self, leaf: u32, cost: u64, ended: Option<Nanos>) {
        let Some(state) = self.leaves.get_mut(leaf as usize).and_then(Option::as_mut) else { return };
        let reserved = state.reserved_costs.min(cost);
        let own = state.own().min(cost - reserved);
        state.costs = state.costs.saturating_sub(cost);
        state.reserved_costs -= reserved;
        state.hanging = state.hanging.saturating_sub(cost - own - reserved);
        if let Some(now) = ended.filter(|_| own > 0) {
            state.moved = now;
        }
        if !state.is_background {
            self.window.under_way = self.window.under_way.saturating_sub(own);
        }
    }

    /// The next request that may go now. To be asked until it names none: after a request had to wait, when one has ended, and at
    /// [`Tree::next_wake`].
    pub fn next(&mut self, now: Nanos) -> Option<Ticket> {
        self.forget_idle(now);
        while let Some((until, flow)) = self.sleeping.first().copied().filter(|(until, _)| *until <= now) {
            let _was = self.sleeping.remove(&(until, flow));
            self.wake(flow);
        }
        loop {
            let active = self.active.sum;
            self.woken = false;
            let found = self.next_beside(now).or_else(|| self.next_in_window(now));
            // Who has to wait for its own limit leaves the device to others, and who leaves a line wakes the next: also such as have been passed.
            let is_more = self.active.sum < active || self.woken;
            if found.is_some() || !(is_more || self.forget_stalled(now)) {
                return found;
            }
        }
    }

    /// What goes beside the window: what is reserved, and background work.
    fn next_beside(&mut self, now: Nanos) -> Option<Ticket> {
        // By volume and, in each, by age: else its reads would keep its writes from going for ever. Background work comes last.
        let mut flows: Vec<(bool, u32, u64, u32)> = Vec::new();
        for flow in &self.claims {
            let Some((_, order)) = self.ready_request(*flow) else { continue };
            flows.push((flow / 2 == self.background.at, flow / 2, order.1, *flow));
        }
        flows.sort_unstable();
        for (is_background, leaf, _, flow) in flows {
            let Some((request, order)) = self.ready_request(flow) else { continue };
            let is_reserved = self.reserve_ready(leaf, &request).is_some_and(|at| at <= now);
            let is_paced = is_background
                && (self.flow(flow).is_some_and(|of| of.is_paced) || self.fits(leaf, &request, true, now));
            if is_reserved || is_paced {
                match self.look(&request, order, now) {
                    Some((level, short)) => {
                        if let Some(of) = self.flow(flow) {
                            of.is_paced = is_paced;
                        }
                        self.stand(flow, level, short, now);
                    }
                    None => return self.grant(flow, is_reserved, now),
                }
            }
        }
        None
    }

    /// When the reserve of a volume has enough for a request.
    fn reserve_ready(&self, leaf: u32, request: &Request) -> Option<Nanos> {
        self.leaf(leaf)?.reserve_for(request).map(|(bucket, tokens)| bucket.ready(tokens))
    }

    fn next_in_window(&mut self, now: Nanos) -> Option<Ticket> {
        let (mut last, mut is_first, mut is_full) = (None, true, false);
        while let Some(order) = self.ready_after(last) {
            last = Some(order);
            let flow = order.2;
            let Some((request, order)) = self.ready_request(flow) else { continue };
            if flow / 2 == self.background.at {
                self.wait_for_share(flow, false, now);
                continue;
            }
            if let Some((level, short)) = self.look(&request, order, now) {
                self.stand(flow, level, short, now);
            } else if self.fits(flow / 2, &request, is_first, now) {
                return self.grant(flow, false, now);
            } else {
                self.wait_for_share(flow, is_first, now);
                is_first = false;
                is_full = true;
                if self.window.is_full(&self.active) {
                    break;
                }
            }
        }
        self.is_full = is_full;
        None
    }

    fn ready_after(&self, last: Option<Order>) -> Option<Order> {
        use std::ops::Bound::{Excluded, Unbounded};
        match last {
            None => self.ready.first().copied(),
            Some(last) => self.ready.range((Excluded(last), Unbounded)).next().copied(),
        }
    }

    /// The first request of a flow that may go.
    fn ready_request(&self, flow: u32) -> Option<(Request, Order)> {
        let (state, lane) = (self.leaf(flow / 2)?, flow % 2);
        let of = state.flows.get(lane as usize).filter(|of| of.place == Place::Ready)?;
        Some((state.waiting.first(lane)?.request, of.order))
    }

    fn grant(&mut self, flow: u32, is_reserved: bool, now: Nanos) -> Option<Ticket> {
        let (leaf, lane) = (flow / 2, flow % 2);
        let (at, state) = (leaf, self.leaf_mut(leaf)?);
        let first = state.waiting.take_first(lane)?;
        let of = state.flows.get_mut(lane as usize)?;
        of.longest = of.held_by(now);
        let (order, reason) = (of.order, of.longest.1);
        let held = state.held.entry(reason).or_default();
        held.requests += 1;
        held.nanos = held.nanos.saturating_add(now.saturating_sub(first.since));
        let tokens = state.gate.limiter.requests(&first.request);
        if let Some(bucket) = state.reserved.as_mut().filter(|_| is_reserved) {
            let _ready = bucket.ready_at(tokens, now);
            bucket.take(tokens);
        }
        let leaf = Leaf { at, generation: state.generation };
        self.go(&first.request, order, is_reserved, now);
        self.line_up(flow);
        Some(Ticket { leaf, number: first.number })
    }

    /// When to ask [`Tree::next`] again, if nothing else happens.
    #[must_use]
    pub fn next_wake(&self) -> Option<Nanos> {
        let beside = self.claims.iter().filter_map(|flow| {
            let ((request, _), state) = (self.ready_request(*flow)?, self.leaf(flow / 2)?);
            let spare = state.is_background.then(|| self.background_ready(state));
            self.reserve_ready(flow / 2, &request).into_iter().chain(spare).min()
        });
        // While something waits for the window, those that go idle make room, and so does what stalls.
        let idle = self.lingering.first().filter(|_| !self.ready.is_empty()).map(|(at, _)| at.saturating_add(LINGER));
        let stalled = (self.is_full && !self.ready.is_empty()).then(|| self.looked.saturating_add(LOOK));
        self.sleeping.first().map(|(until, _)| *until).into_iter().chain(beside).chain(idle).chain(stalled).min()
    }

    /// A request that went has ended, well or not.
    pub fn done(&mut self, leaf: Leaf, request: Request, now: Nanos) {
        if request.is_free() {
            return;
        }
        let Some(at) = self.place_of(leaf) else { return };
        self.release(at, request.cost(), Some(now));
        let Some(state) = self.leaves.get_mut(at as usize).and_then(Option::as_mut) else { return };
        state.under_way = state.under_way.saturating_sub(1);
        if state.is_background {
            self.spare.used(now.saturating_sub(state.went.max(state.ended)), now);
        } else {
            self.spare.ended(1, now);
            if state.under_way == 0 {
                state.lingers = true;
                self.lingering.insert((now, at));
            }
        }
        state.ended = now;
        self.recount(at);
    }

    /// Nobody wants a request any more that waits; says whether it was still waiting. One that had been named by [`Tree::next`] has gone, and
    /// is to be reported with [`Tree::done`].
    pub fn cancel(&mut self, ticket: Ticket) -> bool {
        let Some(leaf) = self.place_of(ticket.leaf) else { return false };
        let Some(state) = self.leaf_mut(leaf) else { return false };
        let Some((lane, was_first)) = state.waiting.cancel(ticket.number) else { return false };
        if was_first {
            // What it stood in line for is the next one's, and what is behind it may need less.
            self.line_up(flow_of(leaf, lane));
        }
        self.recount(leaf);
        true
    }
}
