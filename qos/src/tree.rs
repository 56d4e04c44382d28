//! Pool, groups and volumes: who may go, who waits, and who is next.

use std::collections::BTreeSet;

use crate::{
    Decision, Key, Leaf, Nanos, Request, Ticket,
    lanes::Waiting,
    leaf::{LeafState, Level, Place, Reason},
    limiter::Limiter,
    share::{Clock, LINGER, Ordered, PATIENCE, Tag, Window},
};

/// A group, or the pool.
#[derive(Default)]
pub(crate) struct Upper {
    pub(crate) limiter: Limiter,
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
    pub(crate) leaves: Vec<Option<LeafState>>,
    /// Places without a leaf.
    pub(crate) free: Vec<u32>,
    pub(crate) groups: Vec<Option<Upper>>,
    pub(crate) pool: Upper,
    pub(crate) ready: Ordered<Tag>,
    pub(crate) sleeping: Ordered<Nanos>,
    /// Leaves that have nothing under way any more, by when their last request went.
    pub(crate) lingering: Ordered<Nanos>,
    pub(crate) clock: Clock,
    pub(crate) window: Window,
    /// Weights of the leaves that have something under way or waiting.
    pub(crate) active: u64,
    /// The largest weight that there was.
    pub(crate) heaviest: u64,
    /// Leaves with a reserve.
    pub(crate) reserving: BTreeSet<u32>,
    last_ticket: u64,
    pub(crate) background: Leaf,
}

/// How a request goes.
struct Way {
    /// Tokens are taken for it.
    limited: bool,
    /// Beside the window.
    reserved: bool,
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
            free: Vec::new(),
            groups: Vec::new(),
            pool: Upper::default(),
            ready: Ordered::default(),
            sleeping: Ordered::default(),
            lingering: Ordered::default(),
            clock: Clock::default(),
            window: Window::default(),
            active: 0,
            heaviest: 1,
            reserving: BTreeSet::new(),
            last_ticket: 0,
            background: Leaf(0),
        };
        this.background = this.add(None, true);
        this
    }

    pub(crate) fn leaf_mut(&mut self, leaf: Leaf) -> Option<&mut LeafState> {
        self.leaves.get_mut(leaf.0 as usize)?.as_mut()
    }

    /// Everybody asks again: something has changed for them.
    pub(crate) fn wake_all(&mut self) {
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
        self.recount(leaf);
    }

    /// Those that have asked for nothing for a while leave the device to others.
    fn forget_idle(&mut self, now: Nanos) {
        while let Some((went, leaf)) = self.lingering.first().filter(|(went, _)| went.saturating_add(LINGER) <= now) {
            let _was = self.lingering.remove(went, leaf);
            if let Some(state) = self.leaf_mut(Leaf(leaf)) {
                state.lingers = false;
            }
            self.recount(leaf);
        }
    }

    /// A request that comes in. One that goes has to be reported with [`Tree::done`] when it has ended, also one that waits and goes later.
    pub fn submit(&mut self, leaf: Leaf, request: Request, now: Nanos) -> Decision {
        if request.is_free() {
            return Decision::Go;
        }
        self.forget_idle(now);
        let Some(state) = self.leaves.get_mut(leaf.0 as usize).and_then(Option::as_mut) else { return Decision::Go };
        if state.waiting.is_empty() {
            if state.active == 0 && !state.is_background {
                state.active = state.weight;
                self.active += state.weight;
            }
            // Nobody is passed over: who waits for the device, or for tokens of the group or the pool, came before.
            let group = state.group.and_then(|group| self.groups.get(group as usize)).and_then(Option::as_ref);
            let free =
                self.ready.is_empty() && self.pool.claim.is_none() && group.is_none_or(|group| group.claim.is_none());
            let alone = self.pool.limiter.is_unlimited() && state.limiter.is_unlimited() && state.group.is_none();
            let start = self.clock.start(state.finish);
            let checked = if free && !alone { self.check(leaf.0, &request, start, now) } else { Checked::Goes };
            if free && matches!(checked, Checked::Goes) && self.fits(leaf.0, &request, start, true) {
                self.go(leaf.0, &request, start, Way { limited: !alone, reserved: false }, now);
                return Decision::Go;
            }
            if let (Checked::Short(_, reason), Some(state)) = (checked, self.leaf_mut(leaf)) {
                state.longest = (0, reason);
            }
        }
        self.last_ticket += 1;
        let number = self.last_ticket;
        let Some(state) = self.leaf_mut(leaf) else { return Decision::Go };
        let is_first = state.waiting.push(Waiting { number, request, since: now });
        match state.place {
            Place::Idle => self.line_up(leaf.0),
            // What holds back the others may not concern it.
            Place::Sleeping(until) if is_first => self.wake(until, leaf.0),
            _ => {}
        }
        self.recount(leaf.0);
        Decision::Wait(Ticket { leaf, number })
    }

    /// Whether the window has room. Background work has one request under way while volumes want the device, and that when they have come as
    /// far as it.
    fn fits(&self, leaf: u32, request: &Request, tag: Tag, is_first: bool) -> bool {
        let Some(state) = self.leaves.get(leaf as usize).and_then(Option::as_ref) else { return true };
        let own = state.costs.saturating_sub(state.beside);
        if state.is_background {
            let is_free = self.active == 0 || self.window.most.is_none();
            return is_free || (state.costs == 0 && is_first && self.clock.has_reached(tag));
        }
        self.window.fits(request.cost(), own, state.weight, self.active, is_first)
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
    fn go(&mut self, leaf: u32, request: &Request, start: Tag, way: Way, now: Nanos) {
        let Some(state) = self.leaves.get_mut(leaf as usize).and_then(Option::as_mut) else { return };
        let cost = request.cost();
        match (way.reserved, state.is_background) {
            // What is reserved is no part of its share.
            (true, false) => {}
            (false, false) => state.finish = self.clock.go(start, cost, state.weight),
            // What nobody else wanted is not held against it.
            (_, true) if self.active == 0 => {}
            (_, true) => state.finish = self.clock.go_background(start, cost),
        }
        if way.reserved {
            state.beside += cost;
        } else {
            self.window.under_way += cost;
        }
        if state.lingers {
            state.lingers = false;
            let _was = self.lingering.remove(state.went, leaf);
        }
        state.under_way += 1;
        state.costs += cost;
        state.requests += 1;
        state.went = now;
        if !way.limited {
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
        self.forget_idle(now);
        while let Some((until, leaf)) = self.sleeping.first().filter(|(until, _)| *until <= now) {
            self.wake(until, leaf);
        }
        self.put_reserved_first(now);
        let (mut last, mut is_first) = (None, true);
        while let Some((tag, leaf)) = self.ready.after(last) {
            last = Some((tag, leaf));
            let Some((first, checked)) = self.check_waiting(leaf, tag, now) else { continue };
            let reserved = tag == Tag::default() && self.is_reserved(leaf, now);
            match checked {
                Checked::Short(until, reason) => self.sleep(leaf, tag, now, until, reason),
                Checked::Goes if reserved || self.fits(leaf, &first.request, tag, is_first) => {
                    return Some(self.grant(leaf, &first, reserved, now));
                }
                Checked::Goes => {
                    is_first &= leaf == self.background.0;
                    self.give_up_claims(leaf);
                    if let Some(state) = self.leaf_mut(Leaf(leaf)) {
                        state.reason = Reason::Share;
                        let _since = state.share_since.get_or_insert(now);
                    }
                    if self.window.is_full(self.heaviest, self.active) {
                        break;
                    }
                }
            }
        }
        None
    }

    /// Whoever may go beside the window goes before everybody else.
    fn put_reserved_first(&mut self, now: Nanos) {
        let leaves: Vec<u32> = self.reserving.iter().copied().chain([self.background.0]).collect();
        for leaf in leaves {
            let state = self.leaves.get(leaf as usize).and_then(Option::as_ref);
            let waits = state.is_some_and(|state| matches!(state.place, Place::Ready(tag) if tag != Tag::default()));
            if waits && self.is_reserved(leaf, now) {
                self.place(leaf, Some(Tag::default()));
            }
        }
    }

    /// When to ask [`Tree::next`] again, if nothing else happens.
    #[must_use]
    pub fn next_wake(&self) -> Option<Nanos> {
        let beside = self.reserving.iter().chain([&self.background.0]).filter_map(|leaf| {
            let state = self.leaves.get(*leaf as usize)?.as_ref()?;
            let waits = matches!(state.place, Place::Ready(_));
            let reserve = state.reserved.filter(|_| waits).map(|bucket| bucket.ready(1));
            let patience = (waits && state.is_background && state.costs == 0).then(|| state.went + PATIENCE);
            reserve.into_iter().chain(patience).min()
        });
        // While something waits for the window, those that go idle make room.
        let idle = self.lingering.first().filter(|_| !self.ready.is_empty()).map(|(went, _)| went + LINGER);
        self.sleeping.first().map(|(until, _)| until).into_iter().chain(beside).chain(idle).min()
    }

    /// Looks for tokens for the first that waits, and where only its own kind is held back by a limit of the volume, for the first of the
    /// other kind.
    fn check_waiting(&mut self, leaf: u32, tag: Tag, now: Nanos) -> Option<(Waiting, Checked)> {
        let [first, other] = self.leaves.get(leaf as usize)?.as_ref()?.waiting.firsts();
        let first = first?;
        let checked = self.check(leaf, &first.request, tag, now);
        let (Checked::Short(until, Reason::Limit(Level::Volume, _)), Some(other)) = (&checked, other) else {
            return Some((first, checked));
        };
        let until = *until;
        match self.check(leaf, &other.request, tag, now) {
            Checked::Short(sooner, _) if sooner >= until => Some((first, checked)),
            found => Some((other, found)),
        }
    }

    /// Whether the next request of a leaf may go beside the window: by its reserve, or as background work that has waited for long.
    fn is_reserved(&mut self, leaf: u32, now: Nanos) -> bool {
        let Some(state) = self.leaves.get_mut(leaf as usize).and_then(Option::as_mut) else { return false };
        let patience = state.is_background && state.costs == 0 && state.went.saturating_add(PATIENCE) <= now;
        patience || state.reserved.as_mut().is_some_and(|bucket| bucket.ready_at(1, now) <= now)
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
        self.recount(leaf);
    }

    /// Another request is the first that waits, or none is.
    fn line_up(&mut self, leaf: u32) {
        let Some(state) = self.leaves.get_mut(leaf as usize).and_then(Option::as_mut) else { return };
        state.start = self.clock.start(state.finish);
        state.longest.0 = 0;
        state.share_since = None;
        let tag = (!state.waiting.is_empty()).then_some(state.start);
        self.place(leaf, tag);
    }

    fn sleep(&mut self, leaf: u32, tag: Tag, now: Nanos, until: Nanos, reason: Reason) {
        let _was = self.ready.remove(tag, leaf);
        if let Some(state) = self.leaf_mut(Leaf(leaf)) {
            state.place = Place::Sleeping(until);
            state.reason = reason;
            state.longest = state.held_by(now);
            state.share_since = None;
            let wait = until.saturating_sub(now);
            if wait > state.longest.0 {
                state.longest = (wait, reason);
            }
            self.sleeping.insert(until, leaf);
        }
        if matches!(reason, Reason::Limit(Level::Volume, _)) {
            self.give_up_claims(leaf);
        }
        self.recount(leaf);
    }

    fn grant(&mut self, leaf: u32, first: &Waiting, reserved: bool, now: Nanos) -> Ticket {
        let mut start = Tag::default();
        if let Some(state) = self.leaf_mut(Leaf(leaf)) {
            state.waiting.take(first);
            state.longest = state.held_by(now);
            let held = state.held.entry(state.longest.1).or_default();
            held.requests += 1;
            held.nanos = held.nanos.saturating_add(now.saturating_sub(first.since));
            if reserved && let Some(bucket) = &mut state.reserved {
                bucket.take(1);
            }
            start = state.start;
        }
        self.go(leaf, &first.request, start, Way { limited: true, reserved }, now);
        self.line_up(leaf);
        Ticket { leaf: Leaf(leaf), number: first.number }
    }

    /// A request that went has ended, well or not.
    pub fn done(&mut self, leaf: Leaf, request: Request) {
        if request.is_free() {
            return;
        }
        let Some(state) = self.leaves.get_mut(leaf.0 as usize).and_then(Option::as_mut) else { return };
        let cost = request.cost();
        let beside = state.beside.min(cost);
        state.under_way = state.under_way.saturating_sub(1);
        state.costs = state.costs.saturating_sub(cost);
        state.beside -= beside;
        self.window.under_way = self.window.under_way.saturating_sub(cost - beside);
        if state.under_way == 0 && !state.is_background {
            state.lingers = true;
            self.lingering.insert(state.went, leaf.0);
        }
        self.recount(leaf.0);
    }

    /// Nobody wants a request any more that waits; says whether it was still waiting. One that had been named by [`Tree::next`] has gone, and
    /// is to be reported with [`Tree::done`].
    pub fn cancel(&mut self, ticket: Ticket) -> bool {
        let Some(state) = self.leaves.get_mut(ticket.leaf.0 as usize).and_then(Option::as_mut) else { return false };
        let Some(was_first) = state.waiting.cancel(ticket.number) else { return false };
        self.recount(ticket.leaf.0);
        if was_first {
            // What it had laid claim to is anybody's, and what is behind it may need less.
            self.line_up(ticket.leaf.0);
            self.wake_all();
        }
        true
    }
}
