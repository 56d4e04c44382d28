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
const OWN: [&str; 6] = ["", "", "weight=5", "weight=50", "reserve_iops_sec=50", "reserve_iops_sec=400 weight=3"];
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
        prop_oneof![Just(None), Just(Some(100u64)), Just(Some(400)), Just(Some(40))],
        0..12usize,
        [0..12usize, 0..12],
        prop::collection::vec((0..12usize, 0..6usize, 0..3usize), 3),
        prop::collection::vec((0..4usize, any::<bool>(), 0..5usize, prop_oneof![Just(1u32), Just(4), Just(16)]), 2..6),
    )
        .prop_map(|(depth, device, pool, groups, leaves, clients)| Plan { depth, device, pool, groups, leaves, clients })
}

fn run(plan: &Plan) -> Result<(), TestCaseError> {
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
        if seen.contains(&(*leaf, *writes)) {
            continue;
        }
        seen.push((*leaf, *writes));
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
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, max_shrink_iters: 200, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn nobody_starves_and_no_rate_is_exceeded(plan in plan()) {
        run(&plan)?;
    }
}
