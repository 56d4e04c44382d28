//! Pools, groups and volumes under load, in virtual time: clients that always have so many requests open, and a device.

#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;

use cairn_qos::{Decision, Key, Kind, Leaf, Limits, Node, Request, SECOND, Ticket, Tree};
use proptest::prelude::*;
use support::{Client, Device, GIB, World, endless, limits};

fn near(got: u64, wanted: u64) {
    assert!(got.abs_diff(wanted) * 100 <= wanted, "{got} instead of {wanted}");
}

#[test]
fn each_limit_is_kept_and_reached_at_any_depth_and_size() {
    for (depth, bytes) in [1, 2, 16, 128].into_iter().flat_map(|depth| [(depth, 4096), (depth, 1 << 20)]) {
        for key in Key::ALL {
            let rate = if key.is_bytes() { 500 * bytes } else { 500 };
            for kind in [Kind::Read, Kind::Write] {
                let mut world = endless();
                let leaf = world.tree.add_leaf(None);
                world.tree.set_limits(Node::Leaf(leaf), limits(&format!("{}={rate}", key.name())), GIB, 0);
                let client = world.client(leaf, depth, kind, bytes);
                let concerned = match key {
                    Key::TotalIops | Key::TotalBytes => true,
                    Key::ReadIops | Key::ReadBytes => kind == Kind::Read,
                    Key::WriteIops | Key::WriteBytes => kind == Kind::Write,
                };
                if concerned {
                    world.run_until(10 * SECOND);
                    near(world.count(client, 0, 10 * SECOND), 5000);
                } else {
                    world.run_until(SECOND / 100);
                    assert!(world.count(client, 0, SECOND) >= 9_000, "{key:?} is none of its business");
                }
            }
        }
    }
}

#[test]
fn all_limits_together_hold_each() {
    let mut world = endless();
    let leaf = world.tree.add_leaf(None);
    let all = "read_iops_sec=400 write_iops_sec=300 read_bytes_sec=200MiB write_bytes_sec=20MiB";
    world.tree.set_limits(Node::Leaf(leaf), limits(all), GIB, 0);
    let (small, large) = (world.client(leaf, 32, Kind::Read, 4096), world.client(leaf, 8, Kind::Write, 1 << 20));
    world.run_until(10 * SECOND);
    // One queue, in which reads wait behind writes.
    near(world.count(large, 0, 10 * SECOND), 200);
    assert!(world.count(small, 0, 10 * SECOND) <= 4021);
}

#[test]
fn a_burst_is_exactly_its_rate_for_its_length() {
    for (key, unit) in [(Key::TotalIops, 1), (Key::WriteBytes, 64 << 10)] {
        let mut world = endless();
        let leaf = world.tree.add_leaf(None);
        let name = key.name();
        let text = format!("{name}={} {name}_max={} {name}_max_length=5", 100 * unit, 400 * unit);
        world.tree.set_limits(Node::Leaf(leaf), limits(&text), GIB, 0);
        let client = world.client(leaf, 16, Kind::Write, 64 << 10);
        world.run_until(20 * SECOND);
        let first = world.count(client, 0, 5 * SECOND);
        assert!(first.abs_diff(2000) <= 1, "{first} in the burst");
        let rest = world.count(client, 5 * SECOND, 15 * SECOND);
        assert!(rest.abs_diff(1000) <= 1, "{rest} after it");
        // From rest it is there again; what was in the queue before goes first.
        world.clients[client].0.depth = 0;
        world.run_until(60 * SECOND);
        world.clients[client].0.depth = 16;
        world.run_until(65 * SECOND);
        let again = world.count(client, 60 * SECOND, 65 * SECOND);
        assert!(again.abs_diff(2000) <= 1, "{again} in the second burst");
    }
}

#[test]
fn a_live_change_is_exact_from_the_next_request_on() {
    let mut world = endless();
    let leaf = world.tree.add_leaf(None);
    world.tree.set_limits(Node::Leaf(leaf), limits("total_iops_sec=1000"), GIB, 0);
    let client = world.client(leaf, 8, Kind::Read, 4096);
    let mut before = 1000;
    for rate in [1000u64, 200, 5000, 50] {
        let from = world.now;
        world.tree.set_limits(Node::Leaf(leaf), limits(&format!("total_iops_sec={rate}")), GIB, from);
        world.run_until(from + 2 * SECOND);
        let got = world.count(client, from, from + 2 * SECOND);
        // A bucket that grows is as much fuller, one that shrinks owes as much: at most what either holds.
        let held = rate.max(before) / 20 + 1;
        assert!(got.abs_diff(2 * rate) <= held, "{got} at {rate}");
        before = rate;
    }
    let from = world.now;
    world.tree.set_limits(Node::Leaf(leaf), Limits::none(), GIB, from);
    world.run_until(from + SECOND / 100);
    assert!(world.count(client, from, world.now) > 70_000, "nothing holds it back any more");
}

#[test]
fn a_restart_gives_nothing_away() {
    let text = "total_iops_sec=10 total_iops_sec_max=100 total_iops_sec_max_length=10";
    let run = |restarts: u64| {
        let (mut used, mut total) = (BTreeMap::new(), 0);
        for _ in 0..=restarts {
            let mut world = endless();
            let leaf = world.tree.add_leaf(None);
            world.tree.set_limits(Node::Leaf(leaf), limits(text), GIB, 0);
            world.tree.restore(Node::Leaf(leaf), &used);
            let client = world.client(leaf, 4, Kind::Read, 512);
            world.run_until(20 * SECOND / (restarts + 1));
            total += world.count(client, 0, u64::MAX);
            used = world.tree.used(Node::Leaf(leaf), world.now);
        }
        total
    };
    // Ten seconds of 100 and ten of 10.
    let once = run(0);
    assert!(once.abs_diff(1100) <= 1, "{once}");
    for restarts in [1, 3, 9] {
        let with = run(restarts);
        assert!(with.abs_diff(once) <= 6 * restarts + 1, "{with} with {restarts} restarts, {once} without");
    }
}

#[test]
fn groups_and_the_pool_hold_their_members_together() {
    let mut world = endless();
    let group = world.tree.add_group();
    world.tree.set_limits(group, limits("total_iops_sec=300"), 0, 0);
    world.tree.set_limits(Node::Pool, limits("total_iops_sec=1000"), 0, 0);
    let leaves = [Some(group), Some(group), Some(group), None].map(|group| world.tree.add_leaf(group));
    let clients = leaves.map(|leaf| world.client(leaf, 32, Kind::Read, 4096));
    world.run_until(10 * SECOND);
    let counts = clients.map(|client| world.count(client, 0, 10 * SECOND));
    near(counts[..3].iter().sum(), 3000);
    near(counts.iter().sum(), 10_000);
    for of_group in &counts[..3] {
        assert!(of_group.abs_diff(1000) <= 30, "{counts:?}");
    }
    world.tree.remove_group(group);
    let from = world.now;
    world.run_until(from + 10 * SECOND);
    for client in clients {
        let got = world.count(client, from, world.now);
        assert!(got.abs_diff(2500) <= 60, "{got}: equal shares of the pool");
    }
}

#[test]
fn a_large_request_does_not_starve_beside_small_ones_of_its_group() {
    let mut world = endless();
    let group = world.tree.add_group();
    world.tree.set_limits(group, limits("total_bytes_sec=10MiB"), 0, 0);
    let (a, b) = (world.tree.add_leaf(Some(group)), world.tree.add_leaf(Some(group)));
    let (large, small) = (world.client(a, 2, Kind::Write, 1 << 20), world.client(b, 64, Kind::Write, 4096));
    world.run_until(20 * SECOND);
    let share = world.share(large, SECOND, 20 * SECOND);
    assert!((0.3..0.7).contains(&share), "{share}");
    assert!(world.count(small, SECOND, 20 * SECOND) > 1000);
}

/// A device of 400 MB/s, of which 32 small requests may be under way while it is contended for.
fn contended() -> World {
    let mut tree = Tree::new();
    tree.set_depth(Some(32));
    World::new(tree, Device { rate: Some(400 << 20) })
}

#[test]
fn equal_weights_get_equal_shares_beside_a_flood_of_any_size() {
    for (bytes, depth) in [(4096, 128), (64 << 10, 128), (1 << 20, 128), (4 << 20, 16)] {
        let mut world = contended();
        let (a, b) = (world.tree.add_leaf(None), world.tree.add_leaf(None));
        let (quiet, flood) = (world.client(a, 64, Kind::Read, 4096), world.client(b, depth, Kind::Write, bytes));
        world.run_until(5 * SECOND);
        let share = world.share(quiet, SECOND, 5 * SECOND);
        assert!((0.45..0.55).contains(&share), "{share} beside {bytes} x {depth}");
        assert!(world.count(flood, SECOND, 5 * SECOND) > 0);
    }
}

#[test]
fn weights_and_reserves_are_kept() {
    let mut world = contended();
    let leaves = [0; 3].map(|_| world.tree.add_leaf(None));
    world.tree.set_limits(Node::Leaf(leaves[0]), limits("weight=6"), GIB, 0);
    world.tree.set_limits(Node::Leaf(leaves[1]), limits("weight=3"), GIB, 0);
    let clients = leaves.map(|leaf| world.client(leaf, 64, Kind::Read, 16 << 10));
    world.run_until(4 * SECOND);
    let shares = clients.map(|client| world.share(client, SECOND, 4 * SECOND));
    assert!((0.55..0.65).contains(&shares[0]) && (0.25..0.35).contains(&shares[1]), "{shares:?}");
    // The device does 12,800 of these a second: the third one has a reserve above its tenth.
    world.tree.set_limits(Node::Leaf(leaves[2]), limits("reserve_iops_sec=4000"), GIB, world.now);
    world.run_until(8 * SECOND);
    let kept = world.count(clients[2], 5 * SECOND, 8 * SECOND);
    assert!(kept >= 11_950, "{kept} of 12,000 that are reserved");
    assert!(world.share(clients[0], 5 * SECOND, 8 * SECOND) > world.share(clients[1], 5 * SECOND, 8 * SECOND));
}

#[test]
fn background_work_yields_and_never_starves() {
    let mut world = contended();
    let (volume, background) = (world.tree.add_leaf(None), world.tree.background());
    let work = world.client(background, 16, Kind::Read, 256 << 10);
    world.run_until(SECOND);
    let alone = world.count(work, 0, SECOND);
    assert!(alone > 1400, "{alone}: all of the device");
    let user = world.client(volume, 64, Kind::Read, 256 << 10);
    world.run_until(5 * SECOND);
    let share = world.share(user, 2 * SECOND, 5 * SECOND);
    assert!((0.65..0.999).contains(&share), "{share}");
    let worked = world.count(work, 2 * SECOND, 5 * SECOND);
    assert!(worked > 10, "{worked}");
}

#[test]
fn what_is_held_back_is_told() {
    let mut world = endless();
    let leaf = world.tree.add_leaf(None);
    world.tree.set_limits(Node::Leaf(leaf), limits("total_iops_sec=100 total_bytes_sec=1GiB"), GIB, 0);
    world.tree.set_limits(Node::Pool, limits("read_bytes_sec=1MiB"), GIB, 0);
    let client = world.client(leaf, 1, Kind::Write, 4096);
    world.run_until(2 * SECOND);
    let told = world.tree.snapshot(leaf, world.now).unwrap();
    let held = told.held["volume:total_iops_sec"];
    assert!((190..=200).contains(&held.requests) && held.nanos.abs_diff(2 * SECOND) < SECOND / 10, "{held:?}");
    assert_eq!((told.requests, told.waiting), (world.count(client, 0, u64::MAX), 1));
    assert!(told.credits["total_iops_sec"] <= 1 && told.credits["total_bytes_sec"] > 50 << 20, "{:?}", told.credits);
    let other = world.tree.add_leaf(None);
    let _reader = world.client(other, 1, Kind::Read, 1 << 20);
    world.run_until(9 * SECOND);
    assert!(world.tree.snapshot(other, world.now).unwrap().held["pool:read_bytes_sec"].requests >= 5);
    for free in [Request { kind: Kind::Flush, bytes: 0 }, Request { kind: Kind::Discard, bytes: 0 }] {
        assert_eq!(world.tree.submit(leaf, free, world.now), Decision::Go);
        world.tree.done(leaf, free, world.now);
    }
}

/// The time that a request waits is told of what it waited for the longest: behind others in a line of the pool, or for its own limit.
#[test]
fn time_behind_others_is_told() {
    let mut world = endless();
    let (a, b) = (world.tree.add_leaf(None), world.tree.add_leaf(None));
    world.tree.set_limits(Node::Pool, limits("total_iops_sec=20"), GIB, 0);
    world.tree.set_limits(Node::Leaf(a), limits("total_iops_sec=1000"), GIB, 0);
    let client = world.client(a, 1, Kind::Read, 4096);
    let _flood = world.client(b, 16, Kind::Read, 4096);
    world.run_until(20 * SECOND);
    let told = world.tree.snapshot(a, world.now).unwrap();
    let held = told.held["pool:total_iops_sec"];
    let went = world.count(client, 0, 20 * SECOND);
    assert!(went > 150 && held.requests + 5 > went && held.nanos > 15 * SECOND, "{went} of {told:?}");
}

/// What a limit lets through at once: what a twentieth of a second brings, or what its burst is above it; at least one.
fn at_once(rate: u64, burst: Option<(u64, u64)>) -> u64 {
    let slack = (rate / 20).max(1) + 1;
    burst.map_or(slack, |(max, length)| ((max - rate) * length).max(slack))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// At every node and for every key, in every window: the rate, what may come at once, and the debt of one request.
    #[test]
    fn no_window_at_any_level_lets_more_through(
        rates in prop::collection::vec((0..6usize, 1..2000u64, prop::option::of((1..4u64, 1..4u64))), 1..5),
        clients in prop::collection::vec((0..3usize, 1..40u32, any::<bool>(), 1..300u64), 1..5),
        depth in prop::option::of(1..64u32), device in prop::option::of(1..1000u64),
    ) {
        let mut tree = Tree::new();
        tree.set_depth(depth);
        let group = tree.add_group();
        let leaves = [Some(group), Some(group), None].map(|group| tree.add_leaf(group));
        let nodes = [Node::Pool, group, Node::Leaf(leaves[0]), Node::Leaf(leaves[1]), Node::Leaf(leaves[2])];
        let mut kept = Vec::new();
        for (n, (key, rate, burst)) in rates.into_iter().enumerate() {
            let key = Key::ALL[key];
            let rate = if key.is_bytes() { rate * 8192 } else { rate };
            let burst = burst.map(|(times, length)| (rate * (1 + times), length));
            let more = burst.map_or_else(String::new, |(max, length)| format!(" {0}_max={max} {0}_max_length={length}", key.name()));
            tree.set_limits(nodes[n], limits(&format!("{}={rate}{more}", key.name())), GIB, 0);
            kept.push((nodes[n], key, rate, burst));
        }
        let mut world = World::new(tree, Device { rate: device.map(|mib| mib << 20) });
        for (leaf, depth, read, blocks) in clients {
            let _client = world.client(leaves[leaf], depth, if read { Kind::Read } else { Kind::Write }, blocks * 4096);
        }
        // Some have no limit: what they do in a short while says enough.
        while world.now < SECOND && world.went.len() < 3000 {
            let until = world.now + SECOND / 200;
            world.run_until(until);
        }
        for (node, key, rate, burst) in kept {
            let tokens = |client: usize| {
                let Client { leaf, request, .. } = world.clients[client].0;
                let below = match node {
                    Node::Pool => true,
                    Node::Group(_) => leaf != leaves[2],
                    Node::Leaf(own) => own == leaf,
                };
                let concerned = match key {
                    Key::TotalIops | Key::TotalBytes => true,
                    Key::ReadIops | Key::ReadBytes => request.kind == Kind::Read,
                    Key::WriteIops | Key::WriteBytes => request.kind == Kind::Write,
                };
                if !below || !concerned { 0 } else if key.is_bytes() { request.bytes } else { 1 }
            };
            let took: Vec<(u64, u64)> = world.went.iter().map(|(at, client)| (*at, tokens(*client))).filter(|(_, t)| *t > 0).collect();
            for first in (0..took.len()).step_by(took.len() / 40 + 1) {
                let (mut sum, mut largest) = (0, 0);
                for (at, tokens) in &took[first..] {
                    sum += tokens;
                    largest = largest.max(*tokens);
                    let brought = |rate: u64| (u128::from(rate) * u128::from(at - took[first].0) / u128::from(SECOND)) as u64;
                    let debt = largest.saturating_sub(at_once(rate, burst).saturating_sub(1));
                    let most = brought(rate) + at_once(rate, burst) + debt + 1;
                    prop_assert!(sum <= most, "{node:?} {key:?}: {sum}, not {most} at {rate}");
                    if let Some((max, _)) = burst {
                        let most = brought(max) + max / 20 + largest + 1;
                        prop_assert!(sum <= most, "{node:?} {key:?}: {sum}, not {most} in a burst of {max}");
                    }
                }
            }
        }
    }

    /// Whatever is submitted, cancelled, changed and taken out, in the end nothing is left, and who comes then goes at once.
    #[test]
    fn nothing_is_leaked(steps in prop::collection::vec((0..10u8, 0..4usize, 0..40u64), 1..400)) {
        let mut tree = Tree::new();
        tree.set_depth(Some(4));
        let group = tree.add_group();
        let mut leaves: Vec<Leaf> = (0..4).map(|n| tree.add_leaf((n < 2).then_some(group))).collect();
        let (mut now, mut waiting, mut going) = (0, Vec::<(Ticket, Leaf, Request)>::new(), Vec::<(Leaf, Request)>::new());
        for (step, at, n) in steps {
            let leaf = leaves[at];
            now += n * SECOND / 1000;
            match step {
                0..=4 => {
                    let kind = [Kind::Read, Kind::Write, Kind::Discard, Kind::Flush][(n % 4) as usize];
                    let request = Request { kind, bytes: n * 4096 };
                    match tree.submit(leaf, request, now) {
                        Decision::Go => going.push((leaf, request)),
                        Decision::Wait(ticket) => waiting.push((ticket, leaf, request)),
                    }
                }
                5 if !waiting.is_empty() => {
                    let (ticket, ..) = waiting.remove(n as usize % waiting.len());
                    prop_assert!(tree.cancel(ticket) && !tree.cancel(ticket));
                }
                6 if !going.is_empty() => {
                    let (leaf, request) = going.remove(n as usize % going.len());
                    tree.done(leaf, request, now);
                }
                7 => {
                    let node = [Node::Pool, group, Node::Leaf(leaf)][(n % 3) as usize];
                    let text = ["", "total_iops_sec=50", "read_bytes_sec=100000 weight=3", "reserve_iops_sec=5"][(n / 3 % 4) as usize];
                    tree.set_limits(node, limits(text), GIB, now);
                }
                8 => {
                    tree.remove_leaf(leaf);
                    waiting.retain(|(_, of, _)| *of != leaf);
                    going.retain(|(of, _)| *of != leaf);
                    leaves[at] = tree.add_leaf(n.is_multiple_of(2).then_some(group));
                }
                9 => tree.move_leaf(leaf, n.is_multiple_of(2).then_some(group)),
                _ => {}
            }
            while let Some(ticket) = tree.next(now) {
                let at = waiting.iter().position(|(t, ..)| *t == ticket).expect("a ticket that waits");
                let (_, leaf, request) = waiting.remove(at);
                going.push((leaf, request));
            }
        }
        // All ends, and who waits comes to its turn.
        while !waiting.is_empty() || !going.is_empty() {
            going.drain(..).for_each(|(leaf, request)| tree.done(leaf, request, now));
            let mut moved = false;
            while let Some(ticket) = tree.next(now) {
                let at = waiting.iter().position(|(t, ..)| *t == ticket).expect("a ticket that waits");
                let (_, leaf, request) = waiting.remove(at);
                going.push((leaf, request));
                moved = true;
            }
            if !moved && !waiting.is_empty() {
                now = tree.next_wake().expect("somebody waits, and for tokens").max(now);
            }
        }
        prop_assert_eq!((tree.next(now), tree.next_wake()), (None, None));
        for leaf in leaves {
            prop_assert_eq!(tree.snapshot(leaf, now).unwrap().waiting, 0);
            let read = Request { kind: Kind::Read, bytes: 4096 };
            now += 1000 * SECOND;
            prop_assert_eq!(tree.submit(leaf, read, now), Decision::Go);
            tree.done(leaf, read, now);
        }
    }
}
