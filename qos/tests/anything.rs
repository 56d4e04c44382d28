//! Anything that may be done to a tree, in any order: nobody is forgotten, nothing is lost, nothing overflows.

#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use cairn_qos::{Decision, Kind, Leaf, Node, Request, SECOND, Ticket, Tree};
use proptest::prelude::*;
use support::{GIB, limits};

const MS: u64 = SECOND / 1000;

fn read(bytes: u64) -> Request {
    Request { kind: Kind::Read, bytes }
}

// ---- numbers ----

#[test]
fn sums_of_costs_do_not_overflow() {
    let mut tree = Tree::new();
    let leaf = tree.add_leaf(None);
    for _ in 0..3 {
        assert_eq!(tree.submit(leaf, read(u64::MAX), 0), Decision::Go);
    }
    for _ in 0..3 {
        tree.done(leaf, read(u64::MAX), 0);
    }
}

#[test]
fn the_end_of_time_does_not_overflow() {
    let mut tree = Tree::new();
    tree.set_depth(Some(1));
    let leaves = [0; 3].map(|_| tree.add_leaf(None));
    let now = u64::MAX - 10;
    for leaf in leaves.into_iter().chain([tree.background()]) {
        for _ in 0..3 {
            let _decision = tree.submit(leaf, read(1 << 20), now);
        }
    }
    while tree.next(now).is_some() {}
    leaves.iter().for_each(|leaf| tree.done(*leaf, read(1 << 20), now));
    let _wake = tree.next_wake();
}

// ---- everything at once ----

/// What is looked at.
#[derive(Clone, Copy, PartialEq)]
enum Strict {
    /// Having said that nobody may go, it says so again.
    Asked,
    /// It wants to be asked later, and not now.
    Woken,
    /// Everything comes to its end, and nothing drifts.
    Ends,
}

type Steps = Vec<(u8, usize, u64)>;

#[derive(Default)]
struct Books {
    waiting: Vec<(Ticket, Leaf, Request)>,
    going: Vec<(Leaf, Request)>,
    /// Reported as done; may be resumed.
    paused: Vec<(Leaf, Request)>,
    /// Of volumes that were taken out.
    late: Vec<(Leaf, Request)>,
}

/// What a request is for the device.
fn pieces(request: Request) -> u64 {
    if request.kind == Kind::Read && request.bytes == 65536 { 16 } else { 1 }
}

fn end(tree: &mut Tree, leaf: Leaf, request: Request, now: u64) {
    tree.pieces_done(leaf, pieces(request));
    tree.done(leaf, request, now);
}

impl Books {
    fn go(&mut self, tree: &mut Tree, leaf: Leaf, request: Request) {
        tree.in_pieces(leaf, pieces(request));
        self.going.push((leaf, request));
    }

    fn pump(&mut self, tree: &mut Tree, now: u64, strict: Strict) -> Result<(), TestCaseError> {
        while let Some(ticket) = tree.next(now) {
            let at = self.waiting.iter().position(|(t, ..)| *t == ticket);
            let Some(at) = at else { return Err(TestCaseError::fail("a ticket that nobody holds")) };
            let (_, leaf, request) = self.waiting.remove(at);
            self.go(tree, leaf, request);
        }
        if strict == Strict::Asked {
            prop_assert_eq!(tree.next(now), None, "asked again at once it names somebody: a lost wake-up");
        }
        let wake = tree.next_wake();
        if strict == Strict::Woken {
            prop_assert!(wake.is_none_or(|wake| wake > now), "to be asked at {:?}, which is not after {}", wake, now);
        }
        if !self.waiting.is_empty() && self.going.is_empty() {
            prop_assert!(wake.is_some(), "somebody waits for nothing");
        }
        Ok(())
    }
}

/// How many requests of each of two volumes go at once, in turn: tells what a tree counts as active and as under way.
fn print(tree: &mut Tree, now: u64, volumes: [Leaf; 2]) -> (usize, [usize; 2]) {
    let mut alone = 0;
    let mut tickets = Vec::new();
    while alone < 40 && tree.submit(volumes[0], read(1 << 20), now) == Decision::Go {
        alone += 1;
    }
    if alone < 40 {
        return (alone, [0, 0]);
    }
    (0..40).for_each(|_| tree.done(volumes[0], read(1 << 20), now));
    let mut went = [0, 0];
    for _ in 0..60 {
        for (at, leaf) in volumes.iter().enumerate() {
            match tree.submit(*leaf, read(4096), now) {
                Decision::Go => went[at] += 1,
                Decision::Wait(ticket) => tickets.push(ticket),
            }
        }
        while let Some(ticket) = tree.next(now) {
            let at = tickets.iter().position(|t| *t == ticket).unwrap();
            let _gone = tickets.remove(at);
            went[2 - 1] += 1;
        }
    }
    (alone, went)
}

fn anything(steps: Steps, depth: u32, strict: Strict) -> Result<(), TestCaseError> {
    let mut tree = Tree::new();
    tree.set_depth(Some(depth));
    let groups = [tree.add_group(), tree.add_group()];
    let mut leaves: Vec<Leaf> = (0..4).map(|n| tree.add_leaf((n < 3).then_some(groups[n % 2]))).collect();
    leaves.push(tree.background());
    let mut now = 7;
    let mut books = Books::default();
    // Tags of zero are only there at the very beginning.
    for leaf in leaves.iter().chain(&leaves[..4].to_vec()) {
        assert_eq!(tree.submit(*leaf, read(4096), now), Decision::Go);
        tree.done(*leaf, read(4096), now);
        now += SECOND;
        let _none = tree.next(now);
    }
    for (step, at, n) in steps {
        let leaf = leaves[at];
        now += [0, 0, 1, 1000, MS, 10 * MS, 60 * MS, 300 * MS][(n % 8) as usize];
        match step {
            0..=5 => {
                let kind = [Kind::Read, Kind::Write, Kind::Discard, Kind::Flush][(n % 7 % 4) as usize];
                let request = Request { kind, bytes: [0, 4096, 65536, 1 << 20][(n / 4 % 4) as usize] };
                match tree.submit(leaf, request, now) {
                    Decision::Go => books.go(&mut tree, leaf, request),
                    Decision::Wait(ticket) => books.waiting.push((ticket, leaf, request)),
                }
            }
            6 if !books.waiting.is_empty() => {
                let (ticket, ..) = books.waiting.remove(n as usize % books.waiting.len());
                prop_assert!(tree.cancel(ticket) && !tree.cancel(ticket));
            }
            7 | 8 if !books.going.is_empty() => {
                let (leaf, request) = books.going.remove(n as usize % books.going.len());
                end(&mut tree, leaf, request, now);
            }
            9 => {
                let node =
                    [Node::Pool, groups[0], Node::Leaf(leaves[at % 4]), Node::Leaf(leaves[at % 4])][(n % 4) as usize];
                let text = [
                    "",
                    "total_iops_sec=50",
                    "read_bytes_sec=1000000",
                    "write_iops_sec=3 read_iops_sec=100",
                    "total_bytes_sec=100000 total_bytes_sec_max=1000000",
                    "total_iops_sec_per_gb=10 total_iops_sec_max=1000 size_iops_sec=4KiB",
                    "total_iops_sec=100 size_iops_sec=4KiB",
                ][(n / 4 % 7) as usize];
                let text = match node {
                    Node::Leaf(_) => format!(
                        "{text} {}",
                        ["", "weight=7", "reserve_iops_sec=5", "weight=3 reserve_iops_sec=100"][(n / 20) as usize % 4]
                    ),
                    _ => text.to_owned(),
                };
                let size = [GIB, GIB, 10 * GIB, 90 * GIB, 100 * GIB][(n % 5) as usize];
                tree.set_limits(node, limits(&text), size, now);
            }
            10 if at < 4 => {
                tree.remove_leaf(leaf);
                books.waiting.retain(|(_, of, _)| *of != leaf);
                books.late.extend(books.going.iter().filter(|(of, _)| *of == leaf));
                books.going.retain(|(of, _)| *of != leaf);
                books.paused.retain(|(of, _)| *of != leaf);
                leaves[at] = tree.add_leaf(n.is_multiple_of(2).then_some(groups[0]));
            }
            11 => tree.move_leaf(leaf, n.is_multiple_of(2).then_some(groups[(n % 3 % 2) as usize])),
            12 => tree.set_depth((n % 9 != 0).then_some(1 + n as u32 / 2)),
            13 if !books.late.is_empty() => {
                let (leaf, request) = books.late.remove(n as usize % books.late.len());
                end(&mut tree, leaf, request, now);
            }
            14 if !books.going.is_empty() => {
                let (leaf, request) = books.going.remove(n as usize % books.going.len());
                end(&mut tree, leaf, request, now);
                books.paused.push((leaf, request));
            }
            15 if !books.paused.is_empty() => {
                let (leaf, request) = books.paused.remove(n as usize % books.paused.len());
                tree.resume(leaf, request, now);
                books.go(&mut tree, leaf, request);
            }
            16 => now += n * 100 * MS,
            _ => {}
        }
        books.pump(&mut tree, now, strict)?;
    }
    // All ends, and who waits comes to its turn.
    let mut rounds = 0;
    while !books.waiting.is_empty() || !books.going.is_empty() {
        rounds += 1;
        prop_assert!(rounds < 20_000, "it does not end");
        books.going.drain(..).for_each(|(leaf, request)| end(&mut tree, leaf, request, now));
        let before = books.going.len();
        books.pump(&mut tree, now, strict)?;
        if books.going.len() == before && !books.waiting.is_empty() {
            now = tree.next_wake().unwrap();
            books.pump(&mut tree, now, strict)?;
        }
    }
    // What it counts.
    tree.set_limits(Node::Pool, limits(""), 0, now);
    groups.iter().for_each(|group| tree.set_limits(*group, limits(""), 0, now));
    leaves[..4].iter().for_each(|leaf| tree.set_limits(Node::Leaf(*leaf), limits(""), GIB, now));
    tree.set_depth(Some(depth));
    now += 1000 * SECOND;
    let found = print(&mut tree, now, [leaves[0], leaves[1]]);
    let mut new = Tree::new();
    new.set_depth(Some(depth));
    let pair = [new.add_leaf(None), new.add_leaf(None)];
    prop_assert_eq!(found, print(&mut new, now, pair));
    Ok(())
}

fn steps() -> impl Strategy<Value = Steps> {
    prop::collection::vec((0..17u8, 0..5usize, 0..140u64), 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(5000) })]

    /// Nothing that could go is left when it has said that nothing does.
    #[test]
    fn who_could_go_is_named(steps in steps(), depth in 1..30u32) {
        anything(steps, depth, Strict::Asked)?;
    }

    /// It wants to be asked later, not now: or whoever keeps time asks without end.
    #[test]
    fn it_is_asked_later_and_not_now(steps in steps(), depth in 1..30u32) {
        anything(steps, depth, Strict::Woken)?;
    }

    /// When all has ended, what it counts is what a new one counts.
    #[test]
    fn nothing_is_lost_and_nothing_drifts(steps in steps(), depth in 1..30u32) {
        anything(steps, depth, Strict::Ends)?;
    }
}
