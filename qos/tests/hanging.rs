//! What hangs, and what ends after its volume is gone, is nobody else's harm.

#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use cairn_qos::{Decision, Kind, Node, Request, SECOND, Tree};
use support::{Device, GIB, World, limits};

fn read(bytes: u64) -> Request {
    Request { kind: Kind::Read, bytes }
}

fn contended(depth: u32, mib: u64) -> World {
    let mut tree = Tree::new();
    tree.set_depth(Some(depth));
    World::new(tree, Device { rate: Some(mib << 20) })
}

/// What hangs does not count in the window, also where its volume has a reserve, which goes on.
#[test]
fn a_request_of_a_volume_with_a_reserve_does_not_hang_in_the_window() {
    let mut world = contended(24, 400);
    let (a, b, c) = (world.tree.add_leaf(None), world.tree.add_leaf(None), world.tree.add_leaf(None));
    assert_eq!(world.tree.submit(a, read(32 << 20), 0), Decision::Go, "it hangs from now on");
    world.tree.set_limits(Node::Leaf(a), limits("reserve_iops_sec=100 total_iops_sec=100"), GIB, 0);
    let _reserved = world.client(a, 1, Kind::Read, 4096);
    let others = [b, c].map(|leaf| world.client(leaf, 4, Kind::Read, 1 << 20));
    world.run_until(20 * SECOND);
    let went = others.map(|other| world.count(other, 2 * SECOND, 20 * SECOND));
    assert!(went.iter().all(|went| *went > 1000), "of 7,200 of 1 MiB in 18 s: {went:?}");
}

/// Background work of which a request hangs goes on beside volumes.
#[test]
fn a_request_of_background_work_that_hangs_does_not_stop_it() {
    let mut world = contended(24, 400);
    let (leaf, background) = (world.tree.add_leaf(None), world.tree.background());
    let _user = world.client(leaf, 8, Kind::Read, 4096);
    assert_eq!(world.tree.submit(background, read(1 << 20), 0), Decision::Go, "it hangs from now on");
    let work = world.client(background, 2, Kind::Read, 64 << 10);
    world.run_until(20 * SECOND);
    let went = world.count(work, 2 * SECOND, 20 * SECOND);
    assert!(went > 300, "one each quarter of a second at least, and a seventeenth of the device: {went}");
}

/// A volume comes into the place of one that was taken out with something under way: what ends then is not its own.
#[test]
fn what_ends_late_is_not_taken_for_that_of_the_next_volume() {
    let mut tree = Tree::new();
    tree.set_depth(Some(1));
    let other = tree.add_leaf(None);
    let old = tree.add_leaf(None);
    assert_eq!(tree.submit(old, read(4096), 0), Decision::Go);
    let Decision::Wait(late) = tree.submit(other, read(4096), 0) else { panic!() };
    tree.remove_leaf(old);
    assert_eq!(tree.next(0), Some(late));
    tree.done(other, read(4096), 0);
    let new = tree.add_leaf(None);
    assert_ne!(new, old);
    tree.set_limits(Node::Leaf(new), limits("total_iops_sec=7"), GIB, 0);
    assert_eq!(tree.submit(new, read(4096), 0), Decision::Go);
    tree.done(old, read(4096), 0);
    tree.set_limits(Node::Leaf(old), limits(""), GIB, 0);
    assert_eq!(tree.limits(Node::Leaf(new)), Some(&limits("total_iops_sec=7")));
    assert!(tree.limits(Node::Leaf(old)).is_none() && tree.snapshot(old, 0).is_none());
    assert!(matches!(tree.submit(other, read(4096), 0), Decision::Wait(_)), "the new volume's is still under way");
    let Decision::Wait(ticket) = tree.submit(new, read(4096), 0) else { panic!() };
    tree.remove_leaf(new);
    let newest = tree.add_leaf(None);
    assert!(!tree.cancel(ticket), "it went with its volume");
    assert_eq!(tree.submit(newest, Request { kind: Kind::Flush, bytes: 0 }, 0), Decision::Go);
}
