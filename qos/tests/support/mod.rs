//! Clients that always have so many requests open, and a device, in virtual time.

#![allow(dead_code, reason = "each test uses a part")]

use std::collections::{BTreeMap, BTreeSet};

use cairn_qos::{Decision, Kind, Leaf, Limits, Request, SECOND, Ticket, Tree};

pub(crate) const GIB: u64 = 1 << 30;

/// Keeps `depth` requests open.
#[derive(Clone, Copy)]
pub(crate) struct Client {
    pub(crate) leaf: Leaf,
    pub(crate) depth: u32,
    pub(crate) request: Request,
    /// What each of its requests is for the device.
    pub(crate) pieces: u64,
}

impl Client {
    /// What the device does for a request.
    fn cost(&self) -> u64 {
        self.request.bytes + (16 << 10) * self.pieces
    }
}

/// Serves requests one after the other, each for a time by its size.
#[derive(Clone, Copy)]
pub(crate) struct Device {
    /// Bytes a second, of which each request takes 16 KiB more than it has; none: any number at once, each in a microsecond.
    pub(crate) rate: Option<u64>,
}

pub(crate) struct World {
    pub(crate) tree: Tree,
    pub(crate) device: Device,
    pub(crate) now: u64,
    pub(crate) free_at: u64,
    pub(crate) clients: Vec<(Client, u32)>,
    pub(crate) waiting: BTreeMap<Ticket, usize>,
    /// When a request ends, and whose it is.
    pub(crate) ends: BTreeSet<(u64, u64, usize)>,
    pub(crate) started: u64,
    /// Time, client.
    pub(crate) went: Vec<(u64, usize)>,
}

impl World {
    pub(crate) fn new(tree: Tree, device: Device) -> Self {
        Self {
            tree,
            device,
            now: 0,
            free_at: 0,
            clients: Vec::new(),
            waiting: BTreeMap::new(),
            ends: BTreeSet::new(),
            started: 0,
            went: Vec::new(),
        }
    }

    pub(crate) fn client(&mut self, leaf: Leaf, depth: u32, kind: Kind, bytes: u64) -> usize {
        self.clients.push((Client { leaf, depth, request: Request { kind, bytes }, pieces: 1 }, 0));
        self.clients.len() - 1
    }

    pub(crate) fn start(&mut self, client: usize) {
        self.started += 1;
        self.went.push((self.now, client));
        let Client { leaf, pieces, .. } = self.clients[client].0;
        self.tree.in_pieces(leaf, pieces);
        let cost = self.clients[client].0.cost();
        let takes = self.device.rate.map_or(1000, |rate| cost * SECOND / rate);
        let begins = if self.device.rate.is_some() { self.free_at.max(self.now) } else { self.now };
        self.free_at = begins + takes;
        let _new = self.ends.insert((begins + takes, self.started, client));
    }

    pub(crate) fn run_until(&mut self, end: u64) {
        while self.now < end {
            for client in 0..self.clients.len() {
                while self.clients[client].1 < self.clients[client].0.depth {
                    self.clients[client].1 += 1;
                    let Client { leaf, request, .. } = self.clients[client].0;
                    match self.tree.submit(leaf, request, self.now) {
                        Decision::Go => self.start(client),
                        Decision::Wait(ticket) => drop(self.waiting.insert(ticket, client)),
                    }
                }
            }
            while let Some(ticket) = self.tree.next(self.now) {
                let client = self.waiting.remove(&ticket).expect("a ticket is named once");
                self.start(client);
            }
            let ends = self.ends.first().map(|(at, ..)| *at);
            let wakes = self.tree.next_wake();
            let Some(next) = ends.into_iter().chain(wakes).min() else {
                assert!(self.waiting.is_empty(), "they would wait for ever");
                self.now = end;
                return;
            };
            assert!(next > self.now || ends == Some(next), "it is asked for the moment that it is");
            self.now = next.min(end);
            while let Some(done @ (_, _, client)) = self.ends.first().copied().filter(|(at, ..)| *at <= self.now) {
                let _was = self.ends.remove(&done);
                self.clients[client].1 -= 1;
                let Client { leaf, request, pieces, .. } = self.clients[client].0;
                self.tree.pieces_done(leaf, pieces);
                self.tree.done(leaf, request, self.now);
            }
        }
    }

    /// Requests of a client between two times.
    pub(crate) fn count(&self, client: usize, from: u64, to: u64) -> u64 {
        self.went.iter().filter(|(at, who)| *who == client && (from..to).contains(at)).count() as u64
    }

    /// What a client got of the device, as a part of all, between two times.
    pub(crate) fn share(&self, client: usize, from: u64, to: u64) -> f64 {
        let of = |who: usize| (self.count(who, from, to) * self.clients[who].0.cost()) as f64;
        of(client) / (0..self.clients.len()).map(of).sum::<f64>()
    }
}

pub(crate) fn limits(text: &str) -> Limits {
    text.parse().unwrap()
}

pub(crate) fn endless() -> World {
    World::new(Tree::new(), Device { rate: None })
}
