//! Nobody keeps another from what is its due: reads and writes, claims, background work, activity, the window.

#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use cairn_qos::{Decision, Kind, Node, Request, SECOND, Ticket, Tree};
use support::{Device, GIB, World, endless, limits};

const MS: u64 = SECOND / 1000;

fn read(bytes: u64) -> Request {
    Request { kind: Kind::Read, bytes }
}

fn write(bytes: u64) -> Request {
    Request { kind: Kind::Write, bytes }
}

fn contended(depth: u32, mib: u64) -> World {
    let mut tree = Tree::new();
    tree.set_depth(Some(depth));
    World::new(tree, Device { rate: Some(mib << 20) })
}

// ---- lanes ----

/// A total is of reads and writes: neither kind may keep the other from it for ever.
#[test]
fn a_lane_does_not_starve_the_other_at_a_total() {
    let mut told = Vec::new();
    for (large, large_bytes, small, text) in [
        (Kind::Read, 1 << 20, Kind::Write, "total_bytes_sec=10MiB"),
        (Kind::Write, 64 << 10, Kind::Read, "total_bytes_sec=10MiB"),
        (Kind::Read, 8 << 10, Kind::Write, "total_bytes_sec=10MiB"),
        (Kind::Read, 64 << 10, Kind::Write, "total_iops_sec=1000 size_iops_sec=4KiB"),
    ] {
        let mut world = endless();
        let leaf = world.tree.add_leaf(None);
        world.tree.set_limits(Node::Leaf(leaf), limits(text), GIB, 0);
        let small = world.client(leaf, 32, small, 4096);
        let large = world.client(leaf, 4, large, large_bytes);
        world.run_until(20 * SECOND);
        told.push((
            text,
            large_bytes,
            world.count(large, SECOND, 20 * SECOND),
            world.count(small, SECOND, 20 * SECOND),
        ));
    }
    assert!(told.iter().all(|(_, _, large, _)| *large > 10), "(limit, large bytes, large went, small went): {told:?}");
}

/// "A limit on one of them does not hold back the other": at whatever level the limit is.
#[test]
fn a_limit_on_reads_of_a_group_or_the_pool_does_not_hold_back_writes_of_the_same_volume() {
    let mut told = Vec::new();
    for level in ["volume", "group", "pool"] {
        let mut world = endless();
        let group = world.tree.add_group();
        let leaf = world.tree.add_leaf(Some(group));
        let node = match level {
            "volume" => Node::Leaf(leaf),
            "group" => group,
            _ => Node::Pool,
        };
        world.tree.set_limits(node, limits("read_iops_sec=10 write_iops_sec=1000"), GIB, 0);
        let _reads = world.client(leaf, 4, Kind::Read, 4096);
        let writes = world.client(leaf, 4, Kind::Write, 4096);
        world.run_until(10 * SECOND);
        told.push((level, world.count(writes, 0, 10 * SECOND)));
    }
    assert!(told.iter().all(|(_, writes)| *writes > 9000), "10,000 writes are allowed in 10 s; {told:?}");
}

// ---- claims ----

/// "A request needs tokens of every limit that concerns it": one that concerns only reads is nothing to another volume's writes.
#[test]
fn a_claim_on_reads_does_not_hold_back_writes_of_another_volume() {
    let mut told = Vec::new();
    for level in ["group", "pool"] {
        let mut world = endless();
        let group = world.tree.add_group();
        let (a, b) = (world.tree.add_leaf(Some(group)), world.tree.add_leaf(Some(group)));
        let node = if level == "group" { group } else { Node::Pool };
        world.tree.set_limits(node, limits("read_bytes_sec=1MiB write_bytes_sec=1GiB"), 0, 0);
        let reads = world.client(a, 4, Kind::Read, 64 << 10);
        let writes = world.client(b, 4, Kind::Write, 4096);
        world.run_until(SECOND);
        told.push((level, world.count(reads, 0, SECOND), world.count(writes, 0, SECOND)));
    }
    assert!(
        told.iter().all(|(_, _, writes)| *writes > 100_000),
        "writes at 1 GiB/s of 4 KiB; (level, reads, writes): {told:?}"
    );
}

/// Shares by weight where a limit of the pool or of a group is what is short, whatever the sizes.
#[test]
fn weights_hold_at_a_limit_of_the_pool_or_a_group() {
    let mut told = Vec::new();
    for level in ["pool", "group"] {
        for sizes in [[4096u64, 4096, 4096], [4096, 64 << 10, 1 << 20], [1 << 20, 1 << 20, 4096]] {
            let mut world = contended(24, 400);
            let group = world.tree.add_group();
            let leaves = [0; 3].map(|_| world.tree.add_leaf(Some(group)));
            let node = if level == "pool" { Node::Pool } else { group };
            world.tree.set_limits(node, limits("total_bytes_sec=20MiB"), 0, 0);
            world.tree.set_limits(Node::Leaf(leaves[0]), limits("weight=2"), GIB, 0);
            let clients = [0, 1, 2].map(|n| world.client(leaves[n], 8, Kind::Read, sizes[n]));
            world.run_until(60 * SECOND);
            let shares = clients.map(|client| world.share(client, 5 * SECOND, 60 * SECOND));
            told.push((level, sizes, shares.map(|share| (share * 1000.0) as u64)));
        }
    }
    assert!(
        told.iter().all(|(.., shares)| (460..540).contains(&shares[0])),
        "weights 2, 1, 1; (limit, bytes, thousandths of all costs): {told:?}"
    );
}

// ---- background work ----

/// "Nobody starves": also while background work goes each quarter of a second.
#[test]
fn background_does_not_starve_volumes_at_a_limit_of_the_pool() {
    let mut told = Vec::new();
    for (text, bytes) in [
        ("total_bytes_sec=16MiB", 4u64 << 20),
        ("total_bytes_sec=12MiB", 4 << 20),
        ("total_bytes_sec=3MiB", 1 << 20),
        ("total_bytes_sec=4MiB", 1 << 20),
        ("total_bytes_sec=1MiB", 256 << 10),
        ("total_iops_sec=4", 4096),
        ("total_bytes_sec=16MiB", 8 << 20),
    ] {
        let mut world = contended(24, 400);
        world.tree.set_limits(Node::Pool, limits(text), 0, 0);
        let leaf = world.tree.add_leaf(None);
        let background = world.tree.background();
        let user = world.client(leaf, 32, Kind::Read, 4096);
        let work = world.client(background, 2, Kind::Read, bytes);
        world.run_until(60 * SECOND);
        told.push((
            text,
            bytes,
            world.count(user, 5 * SECOND, 60 * SECOND),
            world.count(work, 5 * SECOND, 60 * SECOND),
        ));
    }
    assert!(
        told.iter().all(|(_, _, user, _)| *user > 55),
        "(limit, bytes of background, user's, background's in 55 s): {told:?}"
    );
}

/// "Nobody starves", and "a reserve": one that is above what the pool may do.
#[test]
fn a_reserve_above_the_pools_limit_does_not_starve_others() {
    let mut world = contended(24, 400);
    world.tree.set_limits(Node::Pool, limits("total_iops_sec=500"), 0, 0);
    let (a, b) = (world.tree.add_leaf(None), world.tree.add_leaf(None));
    world.tree.set_limits(Node::Leaf(a), limits("reserve_iops_sec=500"), GIB, 0);
    let (reserved, other) = (world.client(a, 32, Kind::Read, 4096), world.client(b, 32, Kind::Read, 4096));
    world.run_until(20 * SECOND);
    let got = (world.count(reserved, SECOND, 20 * SECOND), world.count(other, SECOND, 20 * SECOND));
    assert!(got.1 > 19, "(reserved, other) in 19 s: {got:?}");
}

/// Work-conserving: a device that is idle, but for a small read each 40 ms, has room for background work.
#[test]
fn background_work_uses_a_device_that_is_nearly_idle() {
    let mut told = Vec::new();
    for pause in [40, 60] {
        let mut world = contended(24, 400);
        let leaf = world.tree.add_leaf(None);
        let background = world.tree.background();
        let work = world.client(background, 6, Kind::Read, 256 << 10);
        let user = world.client(leaf, 0, Kind::Read, 4096);
        while world.now < 10 * SECOND {
            world.clients[user].0.depth = 1;
            let now = world.now;
            world.run_until(now + 1);
            world.clients[user].0.depth = 0;
            world.run_until(now + pause * MS);
        }
        told.push((pause, world.count(work, 0, 10 * SECOND)));
    }
    // Alone it does 15,000 in ten seconds; the user takes 1/80 of a hundredth of the device.
    assert!(
        told.iter().all(|(_, n)| *n > 1500),
        "(ms between small reads, background requests of 256 KiB in 10 s): {told:?}"
    );
}

/// "Background work takes what is left": beside a client that uses a tenth of the device.
#[test]
fn background_work_takes_what_is_left() {
    let mut told = Vec::new();
    for bytes in [64u64 << 10, 256 << 10, 1 << 20] {
        let mut world = contended(24, 400);
        let leaf = world.tree.add_leaf(None);
        let background = world.tree.background();
        let work = world.client(background, 6, Kind::Read, bytes);
        let user = world.client(leaf, 0, Kind::Read, 4096);
        // One read each half millisecond, open loop: 2000 a second of 20,480 that the device does.
        while world.now < 5 * SECOND {
            world.clients[user].0.depth = 1;
            let now = world.now;
            world.run_until(now + 1);
            world.clients[user].0.depth = 0;
            world.run_until(now + MS / 2);
        }
        let mib = |client: usize, bytes: u64| (world.count(client, 0, 5 * SECOND) * (bytes + (16 << 10)) / 5) >> 20;
        told.push((bytes >> 10, mib(work, bytes), mib(user, 4096)));
    }
    assert!(
        told.iter().all(|(_, work, _)| *work > 100),
        "(KiB of background's requests, its MiB/s, the user's) of 400 MiB/s: {told:?}"
    );
}

/// What went by patience beside little work is not held against background work for ever.
#[test]
fn background_is_not_in_debt_for_its_patience() {
    let mut told = Vec::new();
    for quiet in [0, 600] {
        let mut world = contended(24, 400);
        let leaves = [0; 2].map(|_| world.tree.add_leaf(None));
        let background = world.tree.background();
        let work = world.client(background, 2, Kind::Read, 64 << 10);
        let users = leaves.map(|leaf| world.client(leaf, 0, Kind::Read, 4096));
        while world.now < quiet * SECOND {
            world.clients[users[0]].0.depth = 1;
            let now = world.now;
            world.run_until(now + 1);
            world.clients[users[0]].0.depth = 0;
            world.run_until(now + 40 * MS);
        }
        users.iter().for_each(|user| world.clients[*user].0.depth = 32);
        let from = world.now;
        world.run_until(from + 5 * SECOND);
        told.push((quiet, world.count(work, from, world.now)));
    }
    assert!(
        told[1].1 * 2 > told[0].1,
        "(seconds of little work before, background's in 5 s beside two floods): {told:?}"
    );
}

// ---- activity ----

/// A client with one request at a time and a millisecond between two, beside a flood. Its longest latency, in ms.
fn latency_beside_a_flood(rate: u64, think: u64) -> u64 {
    let mut tree = Tree::new();
    tree.set_depth(Some(24));
    let mut world = World::new(tree, Device { rate: Some(rate) });
    let (a, b) = (world.tree.add_leaf(None), world.tree.add_leaf(None));
    let (quiet, flood) = (world.client(a, 0, Kind::Read, 4096), world.client(b, 128, Kind::Write, 4096));
    let mut longest = 0;
    for n in 0..20 {
        let from = world.now;
        world.clients[quiet].0.depth = 1;
        world.run_until(from + 1);
        world.clients[quiet].0.depth = 0;
        while world.clients[quiet].1 > 0 {
            let now = world.now;
            world.run_until(now + MS);
        }
        if n > 2 {
            longest = longest.max((world.now - from) / MS);
        }
        let now = world.now;
        world.run_until(now + think * MS);
    }
    assert!(world.count(flood, 0, world.now) > 0);
    longest
}

/// "Active ... and for 50 ms afterwards", so that a flood does not fill the device in these: also where a request takes longer than that.
#[test]
fn activity_lingers_after_the_end_of_a_request_on_a_slow_device_too() {
    // A window of 24 requests is: 2.4 ms, 24 ms, 240 ms.
    let told: Vec<(u64, u64)> = [10_000u64, 1000, 100]
        .into_iter()
        .map(|a_second| (24_000 / a_second, latency_beside_a_flood(a_second * 20_480, 1)))
        .collect();
    assert!(
        told.iter().all(|(window, longest)| *longest <= window * 2 + 3),
        "(window in ms, longest latency in ms): {told:?}"
    );
}

/// A volume with a limit beside a flood: the latency at the device is not worse for its limit.
#[test]
fn a_limit_is_no_way_to_a_worse_latency() {
    let mut told = Vec::new();
    for limit in ["", "total_iops_sec=500"] {
        let mut world = contended(24, 400);
        let (a, b) = (world.tree.add_leaf(None), world.tree.add_leaf(None));
        world.tree.set_limits(Node::Leaf(a), limits(limit), GIB, 0);
        let (own, flood) = (world.client(a, 2, Kind::Read, 4096), world.client(b, 128, Kind::Write, 4096));
        world.run_until(5 * SECOND);
        let (mut free_at, mut latencies) = (0, Vec::new());
        for (at, client) in &world.went {
            free_at = (*at).max(free_at) + 20_480 * SECOND / (400 << 20);
            if *client == own && *at > SECOND {
                latencies.push((free_at - at) / 1000);
            }
        }
        latencies.sort_unstable();
        told.push((limit, latencies.len() / 4, latencies[latencies.len() / 2], latencies[latencies.len() * 99 / 100]));
        assert!(world.count(flood, 0, SECOND) > 0);
    }
    assert!(
        told[1].3 <= told[0].3 * 2,
        "(limit, requests a second, median and p99 in microseconds at the device): {told:?}"
    );
}

// ---- the window ----

/// A volume whose client never ends a small request (a write whose payload does not come), and asks for a large one beside it, does not
/// stop others.
#[test]
fn one_request_that_does_not_end_stops_nobody_else() {
    let mut told = Vec::new();
    for (stuck, behind) in [(write(512), Some(read(1 << 20))), (write(32 << 20), None)] {
        let mut tree = Tree::new();
        tree.set_depth(Some(24));
        let (staller, other) = (tree.add_leaf(None), tree.add_leaf(None));
        assert_eq!(tree.submit(staller, stuck, 0), Decision::Go);
        let mut now = 0;
        // It is first in line.
        let mut tickets: Vec<Ticket> = Vec::new();
        assert_eq!(tree.submit(other, read(4096), 0), Decision::Go);
        if let Some(behind) = behind {
            let Decision::Wait(ticket) = tree.submit(staller, behind, 0) else { panic!("it fits nowhere") };
            assert_eq!(
                tree.next(0),
                Some(ticket),
                "the first goes while the window is not full; it does not end either"
            );
        }
        tree.done(other, read(4096), now);
        let mut went = 0;
        for _ in 0..100 {
            now += SECOND;
            if tickets.is_empty() {
                match tree.submit(other, read(1 << 20), now) {
                    Decision::Go => {
                        went += 1;
                        tree.done(other, read(1 << 20), now);
                    }
                    Decision::Wait(ticket) => tickets.push(ticket),
                }
            }
            while let Some(ticket) = tree.next(now) {
                if let Some(at) = tickets.iter().position(|t| *t == ticket) {
                    tickets.remove(at);
                    went += 1;
                    tree.done(other, read(1 << 20), now);
                }
            }
        }
        told.push((stuck.bytes, went));
    }
    assert!(
        told.iter().all(|(_, went)| *went > 50),
        "(bytes of what does not end, requests of 1 MiB of another volume in 100 s): {told:?}"
    );
}

/// The same with many volumes: one large write that does not end, and none of them gets anything.
#[test]
fn one_large_request_that_does_not_end_does_not_stop_many() {
    let mut told = Vec::new();
    for volumes in [4u64, 30] {
        let mut world = contended(24, 400);
        let staller = world.tree.add_leaf(None);
        assert_eq!(world.tree.submit(staller, write(32 << 20), 0), Decision::Go);
        for _ in 0..volumes {
            let leaf = world.tree.add_leaf(None);
            let _client = world.client(leaf, 4, Kind::Read, 4096);
        }
        for second in 1..=20 {
            // There may be nothing to be woken for.
            world.run_until(second * SECOND);
        }
        told.push((volumes, world.went.iter().filter(|(at, _)| *at > SECOND).count()));
    }
    assert!(told.iter().all(|(_, went)| *went > 1000), "(volumes, requests of 4 KiB of all of them in 19 s): {told:?}");
}

/// A reserve that is full goes, and the tree does not ask to be asked at once without end.
#[test]
fn a_reserve_that_is_ready_goes_or_is_not_woken_for() {
    let mut tree = Tree::new();
    tree.set_depth(Some(1));
    let back = tree.background();
    let (a, b) = (tree.add_leaf(None), tree.add_leaf(None));
    assert_eq!(tree.submit(back, read(4096), 0), Decision::Go);
    assert_eq!(tree.submit(a, read(4096), 0), Decision::Go);
    let Decision::Wait(_) = tree.submit(b, read(4096), 0) else { panic!() };
    let Decision::Wait(_) = tree.submit(back, read(4096), 0) else { panic!() };
    tree.set_limits(Node::Leaf(b), limits("reserve_iops_sec=5"), GIB, 0);
    let (named, wake) = (tree.next(0), tree.next_wake());
    assert!(
        named.is_some() || wake.is_none_or(|wake| wake > 0),
        "its reserve is full; named {named:?}, to be asked at {wake:?}"
    );
}

// ---- what held ----

/// A volume that is limited to less than its fair share of what is short has that, at any depth.
#[test]
fn a_limited_volume_has_its_rate_beside_floods_at_the_pools_limit() {
    for depth in [1, 4, 32] {
        let mut world = contended(24, 400);
        world.tree.set_limits(Node::Pool, limits("total_iops_sec=1000"), 0, 0);
        let leaves = [0; 4].map(|_| world.tree.add_leaf(None));
        world.tree.set_limits(Node::Leaf(leaves[0]), limits("total_iops_sec=150"), GIB, 0);
        let clients = [0, 1, 2, 3].map(|n| world.client(leaves[n], if n == 0 { depth } else { 64 }, Kind::Read, 4096));
        world.run_until(20 * SECOND);
        let got = clients.map(|client| world.count(client, SECOND, 20 * SECOND) / 19);
        assert!(got[0] >= 147, "depth {depth}: {got:?}");
    }
}

/// Reads and writes in both lanes, at each level: no limit lets more through, whatever is set meanwhile at the other nodes.
#[test]
fn rates_hold_with_both_lanes_and_background() {
    let mut world = contended(24, 400);
    let group = world.tree.add_group();
    let leaves = [0; 3].map(|n| world.tree.add_leaf((n < 2).then_some(group)));
    world.tree.set_limits(Node::Pool, limits("total_bytes_sec=40MiB"), 0, 0);
    world.tree.set_limits(group, limits("read_iops_sec=300 write_iops_sec=200"), 0, 0);
    world.tree.set_limits(Node::Leaf(leaves[0]), limits("total_iops_sec=250 reserve_iops_sec=100 weight=5"), GIB, 0);
    let mut clients = Vec::new();
    for leaf in leaves {
        clients.push(world.client(leaf, 8, Kind::Read, 16 << 10));
        clients.push(world.client(leaf, 8, Kind::Write, 64 << 10));
    }
    let background = world.tree.background();
    clients.push(world.client(background, 3, Kind::Read, 256 << 10));
    for step in 1..200 {
        world.run_until(step * SECOND / 10);
        let limit = if step % 2 == 0 { "" } else { "write_bytes_sec=1MiB weight=3" };
        world.tree.set_limits(Node::Leaf(leaves[2]), limits(limit), GIB, world.now);
        world.tree.move_leaf(leaves[1], Some(group));
    }
    let count = |n: usize| world.count(clients[n], 0, 20 * SECOND);
    let bytes: u64 = (0..7).map(|n| count(n) * world.clients[clients[n]].0.request.bytes).sum();
    assert!(bytes <= 20 * (40 << 20) + (2 << 20) + (256 << 10), "{bytes}");
    assert!(count(0) + count(2) <= 20 * 300 + 15 && count(1) + count(3) <= 20 * 200 + 10);
    assert!(count(0) + count(1) <= 20 * 250 + 13);
}
