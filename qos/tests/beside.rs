//! What goes beside the window and those at the pool's limit; large requests beside small ones of any flow.

#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use cairn_qos::{Kind, Node, SECOND, Tree};
use support::{Device, GIB, World, limits};

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
