//! A volume beside one that floods, on a device that is known: so many requests at a time, each for a time of its own, in virtual time. What of the rate and the
//! times of the volume is the limiter's doing is seen here; no machine's pauses are in it.

#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
};

use cairn_qos::{Decision, Kind, Leaf, Request, SECOND, Ticket, Tree};

/// Requests that the device serves at a time.
const PARALLEL: usize = 16;
/// For how long one of 4 KiB takes on the average, and what each further KiB takes.
const SERVICE: u64 = 300_000;
const PER_KIB: u64 = 4_000;

struct Client {
    leaf: Leaf,
    request: Request,
    depth: usize,
    /// Time between two requests, and when the next is due; none: as fast as they go.
    pace: Option<(u64, u64)>,
    open: usize,
    /// From when it was due to its end, of each that was due after the first second.
    times: Vec<u64>,
}

struct World {
    tree: Tree,
    clients: Vec<Client>,
    now: u64,
    random: u64,
    busy: usize,
    queue: VecDeque<(usize, u64)>,
    ends: BinaryHeap<Reverse<(u64, usize, u64)>>,
    waiting: BTreeMap<Ticket, (usize, u64)>,
}

impl World {
    fn new(queue_depth: u32) -> Self {
        let mut tree = Tree::new();
        tree.set_depth(Some(queue_depth));
        Self {
            tree,
            clients: Vec::new(),
            now: 0,
            random: 1,
            busy: 0,
            queue: VecDeque::new(),
            ends: BinaryHeap::new(),
            waiting: BTreeMap::new(),
        }
    }

    fn client(&mut self, request: Request, depth: usize, rate: Option<f64>) -> usize {
        let leaf = self.tree.add_leaf(None);
        let pace = rate.map(|rate| ((1e9 / rate) as u64, 0));
        self.clients.push(Client { leaf, request, depth, pace, open: 0, times: Vec::new() });
        self.clients.len() - 1
    }

    /// From half to one and a half of the average.
    fn service(&mut self, bytes: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let average = SERVICE + (bytes / 1024).saturating_sub(4) * PER_KIB;
        average / 2 + self.random % average
    }

    /// It is at the device.
    fn begin(&mut self, client: usize, due: u64) {
        self.queue.push_back((client, due));
        self.serve();
    }

    fn serve(&mut self) {
        while self.busy < PARALLEL
            && let Some((client, due)) = self.queue.pop_front()
        {
            self.busy += 1;
            let takes = self.service(self.clients[client].request.bytes);
            self.ends.push(Reverse((self.now + takes, client, due)));
        }
    }

    fn ask(&mut self, client: usize) {
        loop {
            let one = &mut self.clients[client];
            let due = match &mut one.pace {
                _ if one.open == one.depth => return,
                Some((_, due)) if *due > self.now => return,
                Some((between, due)) => std::mem::replace(due, *due + *between),
                None => self.now,
            };
            one.open += 1;
            match self.tree.submit(one.leaf, one.request, self.now) {
                Decision::Go => self.begin(client, due),
                Decision::Wait(ticket) => drop(self.waiting.insert(ticket, (client, due))),
            }
        }
    }

    fn run(&mut self, until: u64) {
        while self.now < until {
            (0..self.clients.len()).for_each(|client| self.ask(client));
            while let Some(ticket) = self.tree.next(self.now) {
                let (client, due) = self.waiting.remove(&ticket).unwrap();
                self.begin(client, due);
            }
            let due = self.clients.iter().filter(|c| c.open < c.depth).filter_map(|c| c.pace.map(|(_, due)| due));
            let ends = self.ends.peek().map(|Reverse((at, ..))| *at);
            self.now = due.chain(ends).chain(self.tree.next_wake()).min().unwrap().max(self.now);
            while let Some(Reverse((at, client, due))) = self.ends.peek().copied()
                && at <= self.now
            {
                let _ended = self.ends.pop();
                self.busy -= 1;
                let one = &mut self.clients[client];
                one.open -= 1;
                if due > SECOND {
                    one.times.push(at - due);
                }
                self.tree.done(one.leaf, one.request, self.now);
                self.serve();
            }
        }
    }
}

const READ: Request = Request { kind: Kind::Read, bytes: 4096 };

/// Requests a second, the 99th percentile of their times in microseconds, and the requests a second of the flood.
struct Came {
    rate: f64,
    p99: f64,
    flood: f64,
}

/// Five seconds, at a rate or as fast as they go, alone or beside a flood that was alone before. All that was due in them has to come, but for one in a hundred.
fn measured(queue_depth: u32, rate: Option<f64>, flood: Option<Request>) -> Came {
    let mut world = World::new(queue_depth);
    if let Some(flood) = flood {
        let _flood = world.client(flood, 128, None);
        world.run(SECOND);
    }
    let own = world.client(READ, 32, rate);
    if let Some((_, due)) = &mut world.clients[own].pace {
        *due = world.now;
    }
    let until = world.now.max(SECOND) + 5 * SECOND;
    world.run(until);
    let times = &mut world.clients[own].times;
    times.sort_unstable();
    let came = times.len() as f64 / 5.0;
    assert!(rate.is_none_or(|rate| came > 0.99 * rate), "{came:.0} of {rate:?} a second");
    let p99 = times[times.len() * 99 / 100] as f64 / 1e3;
    let others = world.clients.iter().enumerate().find(|(client, _)| *client != own);
    Came { rate: came, p99, flood: others.map_or(0.0, |(_, flood)| flood.times.len() as f64 / 5.0) }
}

/// With a queue depth of up to twice what the device serves at a time: 45 % of what it has alone, and a 99th percentile of less than twice the one it has
/// alone at that rate; and the flood has the rest. With four times as much it waits longer: the check can fail.
#[test]
fn a_flood_leaves_a_volume_its_share_and_its_times() {
    for (queue_depth, is_kept) in [(PARALLEL as u32, true), (24, true), (2 * PARALLEL as u32, true), (64, false)] {
        let alone = measured(queue_depth, None, None).rate;
        let paced = Some(alone * 0.45);
        let quiet = measured(queue_depth, paced, None).p99;
        for bytes in [4096, 128 << 10] {
            let flood = Some(Request { kind: Kind::Read, bytes });
            let beside = measured(queue_depth, None, flood);
            let what = format!("queue depth {queue_depth}, beside reads of {bytes}");
            assert!(beside.rate >= 0.45 * alone, "{what}: {:.0} of {alone:.0}/s", beside.rate);
            let loud = measured(queue_depth, paced, flood);
            let is_short = bytes > 4096 || is_kept;
            assert_eq!(loud.p99 < 2.0 * quiet, is_short, "{what}: p99 {:.0} µs, alone {quiet:.0} µs", loud.p99);
            let all = |came: &Came| came.rate + came.flood;
            let is_busy = bytes > 4096 || all(&beside) > 0.95 * alone && all(&loud) > 0.95 * alone;
            assert!(is_busy, "{what}: {:.0} and {:.0} of {alone:.0}/s", all(&beside), all(&loud));
        }
    }
}
