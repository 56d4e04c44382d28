//! Standing in line for tokens: who looks, who waits where, and who is told.
//!
//! A request looks at the gates of its volume, its group and the pool, in this order. At the first that has not enough for it, it stands in
//! the lines of what it waits for, and leaves those of the levels above: what it cannot use yet is anybody's. It keeps its places in the lines below,
//! so that what it has waited for there is still there when it comes through. All lines are in one order, so nobody waits in a circle.

use crate::{
    Nanos, Request, Tree,
    leaf::{Flow, Level, Place, Reason},
    lines::{Gate, Keys, Order, Short},
};

impl Tree {
    fn gate(&mut self, level: Level, leaf: u32) -> Option<&mut Gate> {
        match level {
            Level::Volume => self.leaf_mut(leaf).map(|state| &mut state.gate),
            Level::Group => {
                let group = self.leaf(leaf)?.group?;
                self.groups.get_mut(group as usize)?.as_mut()
            }
            Level::Pool => Some(&mut self.pool),
        }
    }

    pub(crate) fn flow(&mut self, flow: u32) -> Option<&mut Flow> {
        self.leaf_mut(flow / 2)?.flows.get_mut(flow as usize % 2)
    }

    /// Whether there are tokens for a request at all levels; else, at which level it is short.
    pub(crate) fn look(&mut self, request: &Request, order: Order, now: Nanos) -> Option<(Level, Short)> {
        Level::ALL.into_iter().find_map(|level| {
            let gate = self.gate(level, order.2 / 2).filter(|gate| !gate.limiter.is_unlimited())?;
            gate.look(request, order, now).map(|short| (level, short))
        })
    }

    /// A flow waits for tokens. What it cannot use yet is anybody's: at the levels above, and, while it is behind others, also below.
    pub(crate) fn stand(&mut self, number: u32, level: Level, short: Short, now: Nanos) {
        let is_behind = short.until.is_none();
        let others = Level::ALL.into_iter().filter(|other| *other > level || (is_behind && *other < level));
        others.for_each(|level| self.leave(number, level, Keys::MAX));
        self.leave(number, level, short.not_yet);
        let Some(flow) = self.flow(number) else { return };
        let order = flow.order;
        flow.hold(Reason::Limit(level, short.key), now);
        flow.keeps_order |= level > Level::Volume;
        flow.place = Place::Waits(level, short.until);
        if let Some(joined) = flow.joined.get_mut(level as usize) {
            *joined |= short.keys;
        }
        self.not_ready(order);
        if let Some(until) = short.until {
            let _new = self.sleeping.insert((until, number));
        }
        if let Some(gate) = self.gate(level, number / 2) {
            gate.join(short.keys, order);
        }
        self.recount(number / 2);
    }

    /// A flow leaves some of its lines at a level. Who is first now looks whether it is its turn.
    fn leave(&mut self, number: u32, level: Level, keys: Keys) {
        let Some(flow) = self.flow(number) else { return };
        let (order, Some(joined)) = (flow.order, flow.joined.get_mut(level as usize)) else { return };
        let keys = *joined & keys;
        if keys == 0 {
            return;
        }
        *joined &= !keys;
        let firsts = self.gate(level, number / 2).map(|gate| gate.leave(keys, order)).unwrap_or_default();
        for first in firsts {
            if self.flow(first).is_some_and(|flow| matches!(flow.place, Place::Waits(_, None))) {
                self.wake(first);
            }
        }
    }

    fn leave_all(&mut self, number: u32) {
        Level::ALL.into_iter().for_each(|level| self.leave(number, level, Keys::MAX));
    }

    /// What a flow has waited for may have come.
    pub(crate) fn wake(&mut self, number: u32) {
        self.woken = true;
        let Some(flow) = self.flow(number) else { return };
        if matches!(flow.place, Place::Waits(Level::Volume, _)) && !flow.keeps_order {
            // While its own limit held it back it did not compete with the others.
            self.line_up_again(number);
            return;
        }
        flow.place = Place::Ready;
        let order = flow.order;
        self.is_ready(order);
        self.recount(number / 2);
    }

    /// It has its tokens, and waits for the device. What is there is anybody's meanwhile, but for the first of all, which is the next to go: beside
    /// small requests that always find a few tokens a large one would begin anew for ever.
    pub(crate) fn wait_for_share(&mut self, number: u32, is_first: bool, now: Nanos) {
        if !is_first {
            self.leave_all(number);
        }
        if let Some(flow) = self.flow(number) {
            flow.hold(Reason::Share, now);
        }
    }

    /// The turn of a flow may have come.
    fn is_ready(&mut self, order: Order) {
        let _new = self.ready.insert(order);
        self.claim(order.2);
    }

    fn not_ready(&mut self, order: Order) {
        let _was = self.ready.remove(&order);
        let _claim = self.claims.remove(&order.2);
    }

    /// Notes whether a flow wants to go beside the window.
    pub(crate) fn claim(&mut self, number: u32) {
        let may = self.leaf(number / 2).is_some_and(|state| state.is_background || state.reserved.is_some());
        if may && self.flow(number).is_some_and(|flow| flow.place == Place::Ready) {
            let _new = self.claims.insert(number);
        } else {
            let _was = self.claims.remove(&number);
        }
    }

    /// Another request is the first of a flow, or none is.
    pub(crate) fn line_up(&mut self, number: u32) {
        if let Some(flow) = self.flow(number) {
            flow.another();
        }
        self.line_up_again(number);
    }

    /// The first request of a flow begins anew, with a place in the order as of now.
    fn line_up_again(&mut self, number: u32) {
        self.out_of_place(number);
        let start = self.leaf(number / 2).map(|state| self.clock.start(state.finish));
        let first = self.leaf(number / 2).and_then(|state| state.waiting.first(number % 2)).map(|first| first.number);
        if let (Some(start), Some(first), Some(flow)) = (start, first, self.flow(number)) {
            flow.order = (start, first, number);
            flow.place = Place::Ready;
            let order = flow.order;
            self.waiting_flows += 1;
            self.is_ready(order);
        }
        self.recount(number / 2);
    }

    /// Takes a flow out of everything in which it stands.
    pub(crate) fn out_of_place(&mut self, number: u32) {
        let Some(flow) = self.flow(number) else { return };
        let (order, place) = (flow.order, std::mem::take(&mut flow.place));
        match place {
            Place::Idle => return,
            Place::Ready => self.not_ready(order),
            Place::Waits(_, Some(until)) => drop(self.sleeping.remove(&(until, number))),
            Place::Waits(_, None) => {}
        }
        self.waiting_flows -= 1;
        self.leave_all(number);
    }

    /// Everybody looks again: something has changed for them.
    pub(crate) fn wake_all(&mut self) {
        if self.waiting_flows == 0 {
            return;
        }
        self.sleeping.clear();
        self.pool.clear_lines();
        self.groups.iter_mut().flatten().for_each(Gate::clear_lines);
        for state in self.leaves.iter_mut().flatten() {
            state.gate.clear_lines();
            state.flows.iter_mut().for_each(|flow| flow.joined = [0; 3]);
        }
        for number in 0..self.leaves.len() as u32 * 2 {
            if self.flow(number).is_some_and(|flow| matches!(flow.place, Place::Waits(..))) {
                self.wake(number);
            }
        }
    }
}
