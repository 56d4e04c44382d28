//! What goes beside the window and those at the pool's limit; large requests beside small ones of any flow.

#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use cairn_qos::{Kind, Node, SECOND, Tree};
use support::{Device, GIB, World, endless, limits};

fn contended(depth: u32, mib: u64) -> World {
    let mut tree = Tree::new();
    tree.set_depth(Some(depth));
    World::new(tree, Device { rate: Some(mib << 20) })
}

/// "Nobody starves": others at the limit of the pool may be more than one request ahead of the clock.
#[test]
fn a_reserve_at_the_pools_limit_does_not_starve_larger_requests() {
    let mut told = Vec::new();
    for bytes in [4096u64, 64 << 10, 1 << 20] {
        let mut world = contended(24, 400);
        world.tree.set_limits(Node::Pool, limits("total_bytes_sec=20MiB"), 0, 0);
        let (a, b) = (world.tree.add_leaf(None), world.tree.add_leaf(None));
        world.tree.set_limits(Node::Leaf(a), limits("reserve_iops_sec=10000"), GIB, 0);
        let (reserved, other) = (world.client(a, 32, Kind::Read, 4096), world.client(b, 4, Kind::Read, bytes));
        world.run_until(20 * SECOND);
        told.push((bytes, world.count(reserved, 5 * SECOND, 20 * SECOND), world.count(other, 5 * SECOND, 20 * SECOND)));
    }
    assert!(told.iter().all(|(.., other)| *other > 10), "(bytes, reserved of 4 KiB, others in 15 s): {told:?}");
}

/// The same beside background work.
#[test]
fn background_of_small_requests_does_not_starve_a_volume_of_large_ones_at_the_pools_limit() {
    let mut told = Vec::new();
    for (device, bytes) in [(400u64, 1u64 << 20), (4000, 1 << 20), (400, 32 << 20), (4000, 32 << 20)] {
        let mut world = contended(24, device);
        world.tree.set_limits(Node::Pool, limits("total_bytes_sec=10MiB"), 0, 0);
        let leaf = world.tree.add_leaf(None);
        let background = world.tree.background();
        let (user, work) = (world.client(leaf, 4, Kind::Write, bytes), world.client(background, 4, Kind::Read, 4096));
        world.run_until(60 * SECOND);
        told.push((
            device,
            bytes,
            (world.count(user, 10 * SECOND, 60 * SECOND) * bytes) >> 20,
            (world.count(work, 10 * SECOND, 60 * SECOND) * 4096) >> 20,
        ));
    }
    assert!(
        told.iter().all(|(.., user, _)| *user > 250),
        "(MiB/s of the device, bytes, MiB of the volume, of background in 50 s of 500 MiB): {told:?}"
    );
}

/// Background work at the pool's limit beside a reserve.
#[test]
fn a_reserve_at_the_pools_limit_does_not_starve_background() {
    let mut world = contended(24, 400);
    world.tree.set_limits(Node::Pool, limits("total_iops_sec=1000"), 0, 0);
    let a = world.tree.add_leaf(None);
    world.tree.set_limits(Node::Leaf(a), limits("reserve_iops_sec=10000"), GIB, 0);
    let background = world.tree.background();
    let (reserved, work) = (world.client(a, 32, Kind::Read, 4096), world.client(background, 4, Kind::Read, 64 << 10));
    world.run_until(20 * SECOND);
    let got = [reserved, work].map(|client| world.count(client, 5 * SECOND, 20 * SECOND));
    assert!(got[1] >= 10, "(reserved, background) in 15 s: {got:?}");
}

/// "Nobody starves": a volume's large write goes also beside small reads of its own, of which there is always one under way.
#[test]
fn a_large_request_goes_beside_small_ones_of_the_other_flow_of_its_volume() {
    let mut told = Vec::new();
    for (bytes, reads, depth) in
        [(256u64 << 10, 2, 24), (1 << 20, 1, 24), (1 << 20, 2, 24), (1 << 20, 8, 24), (1 << 20, 8, 64)]
    {
        let mut world = contended(depth, 400);
        let (a, b) = (world.tree.add_leaf(None), world.tree.add_leaf(None));
        let (large, small) = (world.client(a, 4, Kind::Write, bytes), world.client(a, reads, Kind::Read, 4096));
        let other = world.client(b, 32, Kind::Read, 4096);
        world.run_until(20 * SECOND);
        let went = [large, small, other].map(|client| world.count(client, SECOND, 20 * SECOND));
        told.push((bytes >> 10, reads, depth, went));
    }
    assert!(
        told.iter().all(|(.., went)| went[0] > 100),
        "(KiB of writes, depth of reads, window, [writes, reads, other volume's] in 19 s): {told:?}"
    );
}

/// "What they got, divided by their weights, differs by one request of each of their flows at most": whatever the sizes. All have requests that wait all
/// the time.
#[test]
fn equal_weights_get_equal_shares_with_requests_of_all_sizes() {
    let mut told = Vec::new();
    for sizes in [&[1024u64, 256][..], &[4096, 256], &[1024, 256, 256], &[1024, 1024, 1024, 64], &[64, 64], &[1024, 64]]
    {
        let mut world = contended(24, 400);
        let clients: Vec<usize> = sizes
            .iter()
            .map(|kib| {
                let leaf = world.tree.add_leaf(None);
                world.client(leaf, 16, Kind::Read, kib << 10)
            })
            .collect();
        world.run_until(20 * SECOND);
        let shares: Vec<u64> =
            clients.iter().map(|client| (world.share(*client, SECOND, 20 * SECOND) * 1000.0) as u64).collect();
        told.push((sizes, shares));
    }
    assert!(
        told.iter().all(|(sizes, shares)| shares.iter().all(|share| share * sizes.len() as u64 > 900)),
        "(KiB, thousandths of all costs): {told:?}"
    );
}

/// "Nobody starves": background work that writes (a restore) beside some that reads (a scrub).
#[test]
fn background_writes_go_beside_background_reads() {
    let mut told = Vec::new();
    for text in ["", "total_bytes_sec=100MiB"] {
        let mut world = contended(24, 400);
        world.tree.set_limits(Node::Pool, limits(text), 0, 0);
        let (leaf, background) = (world.tree.add_leaf(None), world.tree.background());
        let _user = world.client(leaf, 8, Kind::Read, 4096);
        let (reads, writes) =
            (world.client(background, 2, Kind::Read, 64 << 10), world.client(background, 2, Kind::Write, 64 << 10));
        world.run_until(20 * SECOND);
        told.push((text, [reads, writes].map(|client| world.count(client, SECOND, 20 * SECOND))));
    }
    assert!(
        told.iter().all(|(_, went)| went[1] > 10),
        "(limit of the pool, background's [reads, writes] in 19 s): {told:?}"
    );
}

/// "A large request comes to its tokens beside small ones", also while it waits for a device that others flood.
#[test]
fn a_large_request_at_a_groups_limit_goes_beside_a_flood_from_outside() {
    let mut told = Vec::new();
    for (mib, bytes) in [(10u64, 1u64 << 20), (10, 256 << 10), (40, 1 << 20)] {
        let mut world = contended(24, 400);
        let group = world.tree.add_group();
        let [a, b, c] = [Some(group), Some(group), None].map(|group| world.tree.add_leaf(group));
        world.tree.set_limits(group, limits(&format!("total_bytes_sec={mib}MiB")), 0, 0);
        let (large, small) = (world.client(a, 4, Kind::Read, bytes), world.client(b, 32, Kind::Read, 4096));
        let flood = world.client(c, 64, Kind::Read, 64 << 10);
        world.run_until(20 * SECOND);
        let moved = |client: usize, bytes: u64| (world.count(client, 4 * SECOND, 20 * SECOND) * bytes) >> 20;
        told.push((mib, bytes >> 10, [moved(large, bytes), moved(small, 4096), moved(flood, 64 << 10)]));
    }
    assert!(
        told.iter().all(|(mib, _, moved)| moved[0] * 3 > mib * 16),
        "(MiB/s of the group, KiB of large ones, MiB in 16 s [large, small, flood]): {told:?}"
    );
}

/// "What it cannot use yet is anybody's": reads that wait behind others at the pool leave what their group has to its writers.
#[test]
fn who_is_behind_others_at_the_pool_holds_nothing_of_its_group() {
    let mut world = endless();
    let group = world.tree.add_group();
    let [reader, writer, other] = [Some(group), Some(group), None].map(|group| world.tree.add_leaf(group));
    world.tree.set_limits(Node::Pool, limits("read_iops_sec=40"), 0, 0);
    world.tree.set_limits(group, limits("total_iops_sec=1000"), 0, 0);
    let _reads = world.client(reader, 4, Kind::Read, 4096);
    let writes = world.client(writer, 4, Kind::Write, 4096);
    let _others = [0; 4].map(|_| world.client(other, 16, Kind::Read, 4096));
    world.run_until(20 * SECOND);
    let went = world.count(writes, SECOND, 20 * SECOND);
    assert!(went > 17_500, "of 19,000 that the group may do, of which 760 reads at most: {went}");
}

/// A reserve counts requests as its volume's limits do.
#[test]
fn a_reserve_counts_large_requests_as_several() {
    let mut told = Vec::new();
    for bytes in [4096u64, 64 << 10] {
        let mut world = contended(24, 100);
        let (a, b) = (world.tree.add_leaf(None), world.tree.add_leaf(None));
        world.tree.set_limits(Node::Leaf(a), limits("reserve_iops_sec=160 size_iops_sec=4KiB weight=1"), GIB, 0);
        world.tree.set_limits(Node::Leaf(b), limits("weight=100"), GIB, 0);
        let (reserved, _flood) = (world.client(a, 16, Kind::Read, bytes), world.client(b, 64, Kind::Read, 64 << 10));
        world.run_until(20 * SECOND);
        told.push((bytes >> 10, world.count(reserved, 10 * SECOND, 20 * SECOND) * bytes / 4096));
    }
    // A hundredth of the device is 32 of 4 KiB a second, or 200 in 64 KiB.
    assert!(
        told.iter().all(|(_, went)| (1600..1600 + 2600).contains(went)),
        "(KiB, as many of 4 KiB in 10 s, of which 1,600 are reserved): {told:?}"
    );
}

/// To grow and to be put back again is no way to credit.
#[test]
fn another_size_wins_no_burst() {
    let mut world = endless();
    let leaf = world.tree.add_leaf(None);
    let by_size = limits("total_iops_sec_per_gb=10 total_iops_sec_max=1000 total_iops_sec_max_length=10");
    let resize = |world: &mut World, gib: u64| {
        world.tree.set_limits(Node::Leaf(leaf), by_size.clone(), gib * GIB, world.now);
    };
    resize(&mut world, 10);
    let client = world.client(leaf, 64, Kind::Read, 4096);
    world.run_until(60 * SECOND);
    assert!(world.count(client, 0, 60 * SECOND) > 14_900, "it had its burst");
    [90, 10, 1000, 10, 99, 10].into_iter().for_each(|gib| resize(&mut world, gib));
    world.run_until(70 * SECOND);
    let went = world.count(client, 60 * SECOND, 70 * SECOND);
    assert!(went.abs_diff(1000) <= 50, "a hundred a second: {went} in ten");
}
