//! Turns of one front-end: how much of its rings is read before the reactor does other work.
//!
//! Chains can be long, and reading them takes time; so descriptors are counted, not requests, and of all rings together. When a turn is used
//! up, rings wait in a line for the next one. Each gets a share of it, so that none keeps the others from theirs.

use crate::wake::Line;
use cairn_engine::Reactor;
use std::{cell::Cell, rc::Rc, time::Duration};

/// Descriptors in a turn (a third of a millisecond, more or less).
const TURN: u32 = 4096;
/// Descriptors that one ring reads before it goes to the end of the line.
const SHARE: u32 = 256;
/// What taking a request costs besides, in descriptors.
const REQUEST: u32 = 16;

pub(crate) struct Turns {
    reactor: Reactor,
    left: Cell<u32>,
    /// A task is about to begin the next turn.
    ending: Cell<bool>,
    /// Notified when a turn begins.
    line: Line,
}

impl Turns {
    pub(crate) fn new(reactor: Reactor) -> Rc<Self> {
        Rc::new(Self { reactor, left: Cell::new(TURN), ending: Cell::new(false), line: Line::default() })
    }

    /// Waits, behind those who wait already, until there is something left of a turn.
    async fn line_up(&self) {
        self.line.until(|| self.left.get() > 0, || ()).await;
    }

    fn spend(self: &Rc<Self>, descriptors: u32) {
        self.left.set(self.left.get().saturating_sub(descriptors));
        if self.left.get() > 0 || self.ending.replace(true) {
            return;
        }
        let turns = Rc::clone(self);
        let next = async move {
            // A timer ends in the reactor's next turn: others get theirs, and the device's completions are seen.
            turns.reactor.sleep(Duration::from_micros(1)).await;
            turns.ending.set(false);
            turns.left.set(TURN);
            turns.line.notify();
        };
        self.reactor.spawn(next).detach();
    }
}

/// What one ring may read.
pub(crate) struct Share {
    turns: Rc<Turns>,
    left: u32,
}

impl Share {
    pub(crate) fn of(turns: &Rc<Turns>) -> Self {
        Self { turns: Rc::clone(turns), left: 0 }
    }

    /// Waits until the ring may read one chain.
    pub(crate) async fn get(&mut self) {
        if self.left == 0 || self.turns.left.get() == 0 {
            self.turns.line_up().await;
            self.left = SHARE;
        }
    }

    /// A chain of so many descriptors was read.
    pub(crate) fn spend(&mut self, descriptors: u32) {
        let cost = descriptors.saturating_add(REQUEST);
        self.left = self.left.saturating_sub(cost);
        self.turns.spend(cost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_engine::{Pool, PoolOptions};
    use pollster::block_on;
    use std::cell::RefCell;

    /// What three rings of endless chains read, each until it has read `chains`.
    fn read(descriptors: u32, chains: usize) -> Vec<usize> {
        let directory = tempfile::tempdir().unwrap();
        let pool = block_on(Pool::create(directory.path().join("p"), PoolOptions::new().size(64 << 20))).unwrap();
        let order = block_on(pool.run(move |pool| async move {
            let reactor = pool.reactor();
            let turns = Turns::new(reactor.clone());
            let order: Rc<RefCell<Vec<usize>>> = Rc::default();
            let rings = (0..3).map(|ring| {
                let (mut share, order) = (Share::of(&turns), Rc::clone(&order));
                reactor.spawn(async move {
                    for _ in 0..chains {
                        share.get().await;
                        share.spend(descriptors);
                        order.borrow_mut().push(ring);
                    }
                })
            });
            for ring in rings.collect::<Vec<_>>() {
                ring.await;
            }
            assert!(turns.line.is_empty());
            order.take()
        }))
        .unwrap();
        block_on(pool.close()).unwrap();
        order
    }

    #[test]
    fn no_ring_reads_much_more_than_another() {
        for descriptors in [1, 100, 1024] {
            let most = SHARE.div_ceil(REQUEST + descriptors) as usize;
            let in_first_turn = TURN.div_ceil(REQUEST + descriptors) as usize;
            let order = read(descriptors, 4 * in_first_turn);
            let (mut counts, mut ahead) = ([0usize; 3], 0);
            for &ring in &order {
                counts[ring] += 1;
                if counts.iter().max() < Some(&(4 * in_first_turn)) {
                    ahead = ahead.max(counts.iter().max().unwrap() - counts.iter().min().unwrap());
                }
            }
            // Who came first had the first turn alone, since nobody was in line.
            assert!(ahead <= in_first_turn + 2 * most, "{descriptors}: {ahead} ahead of another");
            assert_eq!(counts, [4 * in_first_turn; 3]);
        }
    }
}
