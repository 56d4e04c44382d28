//! Pool, groups and volumes: who may go, who waits, and who is next.

use std::collections::{BTreeMap, VecDeque};

use crate::{
    Credits, Decision, Key, Leaf, Limits, Nanos, Node, Request, Snapshot, Ticket,
    bucket::Bucket,
    leaf::{LeafState, Level, Place, Reason, Waiting},
    limiter::Limiter,
    share::{Clock, Ordered, Tag, Window, cost},
};

/// A group, or the pool.
#[derive(Default)]
struct Upper {
    limiter: Limiter,
    /// Whoever is first in line for tokens of a limit that does not have enough for it: nobody behind it takes them away.
    claim: Option<Claim>,
}

#[derive(Clone, Copy)]
struct Claim {
    leaf: u32,
    tag: Tag,
    ready: Nanos,
    key: Key,
}

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
/// tree.done(volume, read);
/// # Ok::<_, cairn_qos::Invalid>(())
/// ```
pub struct Tree {
    leaves: Vec<Option<LeafState>>,
    groups: Vec<Option<Upper>>,
    pool: Upper,
    ready: Ordered<Tag>,
    sleeping: Ordered<Nanos>,
    clock: Clock,
    window: Window,
    /// Weights of the leaves that have something under way or waiting.
    active: u64,
    last_ticket: u64,
    background: Leaf,
}

/// Whether there are tokens for a request.
enum Checked {
    Goes,
    /// Not before then.
    Short(Nanos, Reason),
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

impl Tree {
    /// Without limits.
    #[must_use]
    pub fn new() -> Self {
        let mut this = Self {
            leaves: Vec::new(),
            groups: Vec::new(),
            pool: Upper::default(),
            ready: Ordered::default(),
            sleeping: Ordered::default(),
            clock: Clock::default(),
            window: Window::default(),
            active: 0,
            last_ticket: 0,
            background: Leaf(0),
        };
        this.background = this.add(None, true);
        this
    }

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

    fn add(&mut self, group: Option<Node>, is_background: bool) -> Leaf {
        let state = LeafState {
            limiter: Limiter::default(),
            group: group.and_then(|node| self.group_of(node)),
            is_background,
            weight: 1,
            reserved: None,
            waiting: VecDeque::new(),
            place: Place::Idle,
            reason: Reason::Share,
            longest: (0, Reason::Share),
            start: Tag::default(),
            finish: Tag::default(),
            under_way: 0,
            costs: 0,
            requests: 0,
            held: BTreeMap::new(),
        };
        let free = self.leaves.iter().position(Option::is_none);
        let at = free.unwrap_or(self.leaves.len());
        match free.and_then(|at| self.leaves.get_mut(at)) {
            Some(slot) => *slot = Some(state),
            None => self.leaves.push(Some(state)),
        }
        Leaf(at as u32)
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
        self.window.under_way = self.window.under_way.saturating_sub(state.costs);
        self.active = self.active.saturating_sub(state.activity());
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
        let before = state.activity();
        state.weight = limits.weight();
        state.reserved =
            limits.reserved().map(|rate| Bucket::new(rate, i128::from(rate) * i128::from(crate::SECOND / 20), now));
        state.limiter.set(limits, size, now);
        let after = state.activity();
        self.active = self.active.saturating_sub(before) + after;
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

    fn leaf_mut(&mut self, leaf: Leaf) -> Option<&mut LeafState> {
        self.leaves.get_mut(leaf.0 as usize)?.as_mut()
    }

    /// Everybody asks again: something has changed for them.
    fn wake_all(&mut self) {
        self.pool.claim = None;
        self.groups.iter_mut().flatten().for_each(|group| group.claim = None);
        while let Some((until, leaf)) = self.sleeping.first() {
            self.wake(until, leaf);
        }
    }

    fn wake(&mut self, until: Nanos, leaf: u32) {
        let _was = self.sleeping.remove(until, leaf);
        if let Some(state) = self.leaves.get_mut(leaf as usize).and_then(Option::as_mut) {
            // While its own limit held it back it did not compete with the others.
            if matches!(state.reason, Reason::Limit(Level::Volume, _)) {
                state.start = self.clock.start(state.finish);
            }
            state.place = Place::Ready(state.start);
            self.ready.insert(state.start, leaf);
        }
    }

    /// A request that comes in. One that goes has to be reported with [`Tree::done`] when it has ended, also one that waits and goes later.
    pub fn submit(&mut self, leaf: Leaf, request: Request, now: Nanos) -> Decision {
        let Some(state) = self.leaves.get_mut(leaf.0 as usize).and_then(Option::as_mut) else { return Decision::Go };
        if request.is_free() {
            return Decision::Go;
        }
        if state.waiting.is_empty() {
            // Nobody is passed over: who waits for the device, or for tokens of the group or the pool, came before.
            let free = self.ready.is_empty() && self.pool.claim.is_none();
            let alone = self.pool.limiter.is_unlimited() && state.limiter.is_unlimited() && state.group.is_none();
            let (start, activity) = (self.clock.start(state.finish), state.activity());
            if activity == 0 && !state.is_background {
                self.active += state.weight;
            }
            if free
                && (alone || matches!(self.check(leaf.0, &request, start, now), Checked::Goes))
                && self.fits(leaf.0, &request, true)
            {
                self.go(leaf.0, &request, start, !alone);
                return Decision::Go;
            }
        }
        self.last_ticket += 1;
        let number = self.last_ticket;
        let Some(state) = self.leaf_mut(leaf) else { return Decision::Go };
        state.waiting.push_back(Waiting { number, request, since: now });
        if state.place == Place::Idle {
            self.line_up(leaf.0);
        }
        Decision::Wait(Ticket { leaf, number })
    }

    /// Whether the window has room.
    fn fits(&self, leaf: u32, request: &Request, is_first: bool) -> bool {
        let Some(state) = self.leaves.get(leaf as usize).and_then(Option::as_ref) else { return true };
        match state.is_background {
            true => self.window.fits_background(request.cost(), state.costs, self.active),
            false => self.window.fits(request.cost(), state.costs, state.weight, self.active, is_first),
        }
    }

    /// Looks for tokens at every level.
    fn check(&mut self, leaf: u32, request: &Request, tag: Tag, now: Nanos) -> Checked {
        let Some(state) = self.leaves.get_mut(leaf as usize).and_then(Option::as_mut) else { return Checked::Goes };
        if let (ready, Some(key)) = state.limiter.ready_at(request, now) {
            return Checked::Short(ready, Reason::Limit(Level::Volume, key));
        }
        let group = state.group.and_then(|group| self.groups.get_mut(group as usize)).and_then(Option::as_mut);
        let (mut until, mut reason, mut behind) = (now, None, false);
        let mut uppers = [group.map(|group| (Level::Group, group, now)), Some((Level::Pool, &mut self.pool, now))];
        for (level, upper, ready) in uppers.iter_mut().flatten().filter(|(_, upper, _)| !upper.limiter.is_unlimited()) {
            let key;
            (*ready, key) = upper.limiter.ready_at(request, now);
            let mut short = key.map(|key| (*ready, key));
            let before =
                |claim: &Claim| claim.leaf != leaf && (claim.tag, claim.leaf) < (tag, leaf) && claim.ready > now;
            if let Some(claim) = upper.claim.filter(before) {
                // It asks again when whoever is before it has had its turn.
                (short, behind) = (Some((claim.ready.max(*ready), key.unwrap_or(claim.key))), true);
            }
            if let Some((ready, key)) = short.filter(|(ready, _)| *ready > until) {
                (until, reason) = (ready, Some(Reason::Limit(*level, key)));
            }
        }
        let Some(reason @ Reason::Limit(_, key)) = reason else { return Checked::Goes };
        if !behind {
            let pool_is_short = uppers[1].as_ref().is_some_and(|(_, _, ready)| *ready > now);
            for (level, upper, ready) in
                uppers.iter_mut().flatten().filter(|(_, upper, _)| !upper.limiter.is_unlimited())
            {
                // While the pool is short, the others of the group are behind it there; so they leave it the group's tokens, too.
                let ready = if pool_is_short && *level == Level::Group { until } else { *ready };
                if ready > now {
                    upper.claim = Some(Claim { leaf, tag, ready, key });
                }
            }
        }
        Checked::Short(until, reason)
    }

    /// A leaf that does not wait for tokens of a group or the pool keeps nobody else from them.
    fn give_up_claims(&mut self, leaf: u32) {
        let group = self.leaves.get(leaf as usize).and_then(Option::as_ref).and_then(|state| state.group);
        let group = group.and_then(|group| self.groups.get_mut(group as usize)).and_then(Option::as_mut);
        for upper in group.into_iter().chain([&mut self.pool]) {
            if upper.claim.is_some_and(|claim| claim.leaf == leaf) {
                upper.claim = None;
            }
        }
    }

    /// Takes what a request needs everywhere.
    fn go(&mut self, leaf: u32, request: &Request, start: Tag, limited: bool) {
        let Some(state) = self.leaves.get_mut(leaf as usize).and_then(Option::as_mut) else { return };
        let cost = request.cost();
        state.finish = self.clock.go(start, cost, state.weight, state.is_background);
        state.under_way += 1;
        state.costs += cost;
        state.requests += 1;
        self.window.under_way += cost;
        if !limited {
            return;
        }
        state.limiter.take(request);
        let group = state.group.and_then(|group| self.groups.get_mut(group as usize)).and_then(Option::as_mut);
        for upper in group.into_iter().chain([&mut self.pool]) {
            upper.limiter.take(request);
            if upper.claim.is_some_and(|claim| claim.leaf == leaf) {
                upper.claim = None;
            }
        }
    }

    /// The next request that may go now. To be asked until it names none: after a request had to wait, when one has ended, and at
    /// [`Tree::next_wake`].
    pub fn next(&mut self, now: Nanos) -> Option<Ticket> {
        while let Some((until, leaf)) = self.sleeping.first().filter(|(until, _)| *until <= now) {
            self.wake(until, leaf);
        }
        let (mut last, mut is_first) = (None, true);
        while let Some((tag, leaf)) = self.ready.after(last) {
            last = Some((tag, leaf));
            let Some(request) = self.head(leaf) else { continue };
            let reserved = self.is_reserved(leaf, now);
            if reserved && tag != Tag::default() {
                // Before everybody else.
                self.place(leaf, Some(Tag::default()));
                (last, is_first) = (None, true);
                continue;
            }
            match self.check(leaf, &request, tag, now) {
                Checked::Short(until, reason) => self.sleep(leaf, tag, now, until, reason),
                Checked::Goes if reserved || self.fits(leaf, &request, is_first) => {
                    return self.grant(leaf, reserved, now);
                }
                Checked::Goes => {
                    is_first = false;
                    self.give_up_claims(leaf);
                    if let Some(state) = self.leaf_mut(Leaf(leaf)) {
                        state.reason = Reason::Share;
                    }
                }
            }
        }
        None
    }

    /// When to ask [`Tree::next`] again, if nothing else happens.
    #[must_use]
    pub fn next_wake(&self) -> Option<Nanos> {
        self.sleeping.first().map(|(until, _)| until)
    }

    fn head(&self, leaf: u32) -> Option<Request> {
        let state = self.leaves.get(leaf as usize)?.as_ref()?;
        state.waiting.front().map(|waiting| waiting.request)
    }

    fn is_reserved(&mut self, leaf: u32, now: Nanos) -> bool {
        let state = self.leaves.get_mut(leaf as usize).and_then(Option::as_mut);
        state.and_then(|state| state.reserved.as_mut()).is_some_and(|bucket| bucket.ready_at(1, now) <= now)
    }

    /// Takes a leaf from its place and puts it, if it has one, to another in the order of tags.
    fn place(&mut self, leaf: u32, tag: Option<Tag>) {
        let Some(state) = self.leaves.get_mut(leaf as usize).and_then(Option::as_mut) else { return };
        match state.place {
            Place::Ready(tag) => drop(self.ready.remove(tag, leaf)),
            Place::Sleeping(until) => drop(self.sleeping.remove(until, leaf)),
            Place::Idle => {}
        }
        state.place = tag.map_or(Place::Idle, Place::Ready);
        if let Some(tag) = tag {
            self.ready.insert(tag, leaf);
        }
    }

    /// Another request is the first that waits, or none is.
    fn line_up(&mut self, leaf: u32) {
        let Some(state) = self.leaves.get_mut(leaf as usize).and_then(Option::as_mut) else { return };
        state.start = self.clock.start(state.finish);
        state.longest = (0, Reason::Share);
        let tag = (!state.waiting.is_empty()).then_some(state.start);
        self.place(leaf, tag);
    }

    fn sleep(&mut self, leaf: u32, tag: Tag, now: Nanos, until: Nanos, reason: Reason) {
        let _was = self.ready.remove(tag, leaf);
        if let Some(state) = self.leaf_mut(Leaf(leaf)) {
            state.place = Place::Sleeping(until);
            state.reason = reason;
            let wait = until.saturating_sub(now);
            if wait > state.longest.0 {
                state.longest = (wait, reason);
            }
            self.sleeping.insert(until, leaf);
        }
        if matches!(reason, Reason::Limit(Level::Volume, _)) {
            self.give_up_claims(leaf);
        }
    }

    fn grant(&mut self, leaf: u32, reserved: bool, now: Nanos) -> Option<Ticket> {
        let state = self.leaf_mut(Leaf(leaf))?;
        let Waiting { number, request, since } = state.waiting.pop_front()?;
        let held = state.held.entry(state.longest.1).or_default();
        held.requests += 1;
        held.nanos = held.nanos.saturating_add(now.saturating_sub(since));
        if reserved && let Some(bucket) = &mut state.reserved {
            bucket.take(1);
        }
        let start = state.start;
        self.go(leaf, &request, start, true);
        self.line_up(leaf);
        Some(Ticket { leaf: Leaf(leaf), number })
    }

    /// A request that went has ended, well or not.
    pub fn done(&mut self, leaf: Leaf, request: Request) {
        if request.is_free() {
            return;
        }
        let Some(state) = self.leaves.get_mut(leaf.0 as usize).and_then(Option::as_mut) else { return };
        let (before, cost) = (state.activity(), request.cost());
        state.under_way = state.under_way.saturating_sub(1);
        state.costs = state.costs.saturating_sub(cost);
        self.window.under_way = self.window.under_way.saturating_sub(cost);
        self.active = self.active.saturating_sub(before) + state.activity();
    }

    /// Nobody wants a request any more that waits; says whether it was still waiting. One that had been named by [`Tree::next`] has gone, and
    /// is to be reported with [`Tree::done`].
    pub fn cancel(&mut self, ticket: Ticket) -> bool {
        let Some(state) = self.leaves.get_mut(ticket.leaf.0 as usize).and_then(Option::as_mut) else { return false };
        let Ok(at) = state.waiting.binary_search_by_key(&ticket.number, |waiting| waiting.number) else { return false };
        let before = state.activity();
        let _gone = state.waiting.remove(at);
        self.active = self.active.saturating_sub(before) + state.activity();
        if at == 0 {
            // What it had laid claim to is anybody's, and what is behind it may need less.
            self.line_up(ticket.leaf.0);
            self.wake_all();
        }
        true
    }

    /// A volume as it is now; `None` for one that is not there.
    pub fn snapshot(&mut self, leaf: Leaf, now: Nanos) -> Option<Snapshot> {
        let state = self.leaf_mut(leaf)?;
        let mut held = state.held.clone();
        if !state.waiting.is_empty() {
            let so_far = state.waiting.iter().map(|waiting| now.saturating_sub(waiting.since));
            let nanos = so_far.fold(0, u64::saturating_add);
            let held = held.entry(state.longest.1).or_default();
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
