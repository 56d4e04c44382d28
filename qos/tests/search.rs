//! Random worlds: nobody starves, no rate is exceeded at any level.

#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use cairn_qos::{Kind, Leaf, Node, SECOND, Tree};
use proptest::prelude::*;
use support::{Device, GIB, World, limits};

const END: u64 = 30 * SECOND;

/// Limits that leave something to everybody.
const LIMITS: [&str; 12] = [
    "",
    "",
    "",
    "total_iops_sec=100",
    "read_iops_sec=40",
    "read_iops_sec=200 write_iops_sec=60",
    "total_bytes_sec=10MiB",
    "read_bytes_sec=4MiB",
    "write_bytes_sec=16MiB total_iops_sec=400",
    "total_iops_sec=500 size_iops_sec=16KiB",
    "total_bytes_sec=8MiB total_bytes_sec_max=64MiB total_bytes_sec_max_length=2",
    "read_iops_sec=50 total_bytes_sec=20MiB",
];
/// Known: limits of a side and of all of another unit.
fn is_mixed(text: &str) -> bool {
    text.contains("total_") && (text.contains("read_") || text.contains("write_"))
}
const OWN: [&str; 6] = ["", "", "weight=5", "weight=2", "reserve_iops_sec=50", "reserve_iops_sec=400 weight=3"];
const BYTES: [u64; 5] = [512, 4096, 65536, 262_144, 1 << 20];

#[derive(Clone, Debug)]
struct Plan {
    depth: u32,
    device: Option<u64>,
    pool: usize,
    groups: [usize; 2],
    /// Limits, own, group.
    leaves: Vec<(usize, usize, usize)>,
    /// Leaf (last: background), writes, bytes, depth.
    clients: Vec<(usize, bool, usize, u32)>,
}

fn plan() -> impl Strategy<Value = Plan> {
    (
        prop_oneof![Just(1u32), Just(8), Just(24), Just(64)],
        prop_oneof![Just(Some(100u64)), Just(Some(200)), Just(Some(40))],
        0..12usize,
        [0..12usize, 0..12],
        prop::collection::vec((0..12usize, 0..6usize, 0..3usize), 3),
        prop::collection::vec((0..4usize, any::<bool>(), 0..5usize, prop_oneof![Just(1u32), Just(4), Just(16)]), 2..6),
    )
        .prop_map(|(depth, device, pool, groups, leaves, clients)| Plan {
            depth,
            device,
            pool,
            groups,
            leaves,
            clients,
        })
}

fn run(plan: &Plan) -> Result<(), TestCaseError> {
    if [plan.pool, plan.groups[0], plan.groups[1]].iter().any(|n| is_mixed(LIMITS[*n])) {
        return Ok(());
    }
    let mut tree = Tree::new();
    tree.set_depth(Some(plan.depth));
    let mut world = World::new(tree, Device { rate: plan.device.map(|mib| mib << 20) });
    let groups = [world.tree.add_group(), world.tree.add_group()];
    let mut nodes = vec![(Node::Pool, LIMITS[plan.pool])];
    for (group, text) in groups.iter().zip(plan.groups) {
        nodes.push((*group, LIMITS[text]));
    }
    let mut leaves: Vec<(Leaf, Option<Node>)> = Vec::new();
    let known = std::env::var("KNOWN").is_ok();
    for (at, (text, own, group)) in plan.leaves.iter().enumerate() {
        let group = groups.get(*group).copied();
        let leaf = world.tree.add_leaf(group);
        let both = [false, true].iter().all(|writes| plan.clients.iter().any(|c| c.0 == at && c.1 == *writes));
        // Known: reads and writes at a total of their volume.
        let text = if both && !known { "" } else { LIMITS[*text] };
        nodes.push((Node::Leaf(leaf), text));
        world.tree.set_limits(Node::Leaf(leaf), limits(&format!("{text} {}", OWN[*own])), GIB, 0);
        leaves.push((leaf, group));
    }
    for (node, text) in &nodes[..3] {
        world.tree.set_limits(*node, limits(text), GIB, 0);
    }
    leaves.push((world.tree.background(), None));
    let mut seen: Vec<(usize, bool)> = Vec::new();
    for (leaf, writes, bytes, depth) in &plan.clients {
        // One client for each flow: several of one are in one line.
        if seen.contains(&(*leaf, *writes)) || (*leaf == 3 && (*bytes > 2 || seen.contains(&(3, !*writes)))) {
            continue;
        }
        let bounded = std::env::var("BOUND").is_ok();
        if bounded && seen.contains(&(*leaf, !*writes)) {
            continue;
        }
        seen.push((*leaf, *writes));
        let depth = if bounded { &32 } else { depth };
        let kind = if *writes { Kind::Write } else { Kind::Read };
        let _client = world.client(leaves[*leaf].0, *depth, kind, BYTES[*bytes]);
    }
    world.run_until(END);
    // Rates.
    for (node, text) in &nodes {
        let of = limits(text);
        for limit in of.effective(GIB) {
            let mut sum = 0i128;
            let mut lowest = i128::MAX;
            let mut largest = 0;
            let second = i128::from(SECOND);
            let (rate, burst) = (i128::from(limit.rate), limit.burst);
            let mut capacity = (rate * second / 20).max(second);
            if let Some((max, length)) = burst {
                capacity = capacity.max((i128::from(max) - rate) * i128::from(length) * second);
            }
            for (at, client) in &world.went {
                let c = &world.clients[*client].0;
                let (_, group) = leaves.iter().find(|(leaf, _)| *leaf == c.leaf).unwrap();
                let concerned = match node {
                    Node::Pool => true,
                    Node::Group(_) => *group == Some(*node),
                    Node::Leaf(leaf) => *leaf == c.leaf,
                };
                let name = limit.key.name();
                let is_read = c.request.kind == Kind::Read;
                if !concerned || (name.starts_with("read") && !is_read) || (name.starts_with("write") && is_read) {
                    continue;
                }
                let tokens = if limit.key.is_bytes() { c.request.bytes } else { of.requests(c.request.bytes) };
                let tokens = i128::from(tokens) * second;
                largest = largest.max(tokens - capacity);
                lowest = lowest.min(sum - rate * i128::from(*at));
                sum += tokens;
                let most = capacity + largest.max(0) + second;
                prop_assert!(sum - rate * i128::from(*at) - lowest <= most, "{node:?} {} exceeded", limit.key.name());
            }
        }
    }
    let counts: Vec<(Leaf, Kind, u64, u64)> = (0..world.clients.len())
        .map(|n| {
            let c = world.clients[n].0;
            (c.leaf, c.request.kind, c.request.bytes, world.count(n, 10 * SECOND, END))
        })
        .collect();
    for (leaf, .., count) in &counts {
        if *leaf != world.tree.background() {
            prop_assert!(*count > 2, "starves: {counts:?}");
        } else {
            prop_assert!(*count > 0, "background starves: {counts:?}");
        }
    }
    if std::env::var("BOUND").is_ok() {
        bound(plan, &world, &nodes, &leaves)?;
    }
    Ok(())
}

/// Each client has a quarter of what it would have if all limits of its way were wanted by all whom they concern.
fn bound(
    plan: &Plan,
    world: &World,
    nodes: &[(Node, &str)],
    leaves: &[(Leaf, Option<Node>)],
) -> Result<(), TestCaseError> {
    let weight = |at: usize| plan.leaves.get(at).map_or(1.0 / 16.0, |(_, own, _)| limits(OWN[*own]).weight() as f64);
    let n = world.clients.len();
    let place: Vec<usize> =
        (0..n).map(|c| leaves.iter().position(|(l, _)| *l == world.clients[c].0.leaf).unwrap()).collect();
    let cost = |c: usize| world.clients[c].0.request.bytes as f64 + 16384.0;
    let flows = |c: usize| place.iter().filter(|p| **p == place[c]).count() as f64;
    for c in 0..n {
        if place[c] == 3 {
            continue;
        }
        let all: f64 = (0..n).map(|j| weight(place[j]) / flows(j)).sum();
        let mut least = (plan.device.unwrap() << 20) as f64 * weight(place[c]) / flows(c) / all / cost(c);
        let mut by = "device".to_owned();
        for (node, text) in nodes {
            let of = limits(text);
            for limit in of.effective(GIB) {
                let tokens = |j: usize| {
                    let (leaf, group) = leaves[place[j]];
                    let on = match node {
                        Node::Pool => true,
                        Node::Group(_) => group == Some(*node),
                        Node::Leaf(l) => *l == leaf,
                    };
                    let r = world.clients[j].0.request;
                    let name = limit.key.name();
                    let is_read = r.kind == Kind::Read;
                    if !on || (name.starts_with("read") && !is_read) || (name.starts_with("write") && is_read) {
                        return 0.0;
                    }
                    (if limit.key.is_bytes() { r.bytes } else { of.requests(r.bytes) }) as f64
                };
                if tokens(c) == 0.0 {
                    continue;
                }
                let unit = |j: usize| weight(place[j]) / flows(j) / cost(j);
                let sum: f64 = (0..n).map(|j| unit(j) * tokens(j)).sum();
                let rate = limit.rate as f64 * unit(c) / sum;
                if rate < least {
                    least = rate;
                    by = format!("{node:?} {}", limit.key.name());
                }
            }
        }
        let got = world.count(c, 10 * SECOND, END) as f64 / 20.0;
        prop_assert!(
            got * 3.0 + 0.3 > least,
            "client {c} got {got} a second of {least} by {by}: {:?}",
            (0..n)
                .map(|j| (
                    place[j],
                    world.clients[j].0.request.kind,
                    world.clients[j].0.request.bytes,
                    world.count(j, 10 * SECOND, END)
                ))
                .collect::<Vec<_>>()
        );
    }
    Ok(())
}

#[test]
fn nobody_starves_and_no_rate_is_exceeded() {
    use proptest::{
        strategy::ValueTree,
        test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
    };
    let seed: u8 = std::env::var("SEED").map_or(1, |seed| seed.parse().unwrap());
    let cases: usize = std::env::var("CASES").map_or(100, |cases| cases.parse().unwrap());
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]));
    let mut failed = 0;
    for _ in 0..cases {
        let plan = plan().new_tree(&mut runner).unwrap().current();
        if let Err(error) = run(&plan) {
            failed += 1;
            println!(
                "{error}\n  depth {} device {:?} pool {:?} groups {:?}",
                plan.depth,
                plan.device,
                LIMITS[plan.pool],
                plan.groups.map(|g| LIMITS[g])
            );
            plan.leaves.iter().for_each(|(l, o, g)| println!("  leaf {:?} {:?} group {g}", LIMITS[*l], OWN[*o]));
            plan.clients.iter().for_each(|(l, w, b, d)| {
                println!("  client leaf {l} {} {} depth {d}", if *w { "write" } else { "read" }, BYTES[*b])
            });
        }
    }
    assert_eq!(failed, 0);
}
