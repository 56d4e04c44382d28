//! Sentences of DESIGN.md that somebody once broke.

#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use cairn_qos::{Decision, Kind, Node, Request, SECOND, Tree};
use support::{Device, GIB, World, endless, limits};

const MS: u64 = SECOND / 1000;

fn read(bytes: u64) -> Request {
    Request { kind: Kind::Read, bytes }
}

fn contended(depth: u32, mib: u64) -> World {
    let mut tree = Tree::new();
    tree.set_depth(Some(depth));
    World::new(tree, Device { rate: Some(mib << 20) })
}

/// "Reserved requests go beside the window, before all others, at their rate": one that was not used for a while saves nothing up.
#[test]
fn a_reserve_that_is_not_used_saves_nothing_up() {
    let mut told = Vec::new();
    for idle in [0, 100] {
        let mut world = contended(24, 400);
        let (a, b) = (world.tree.add_leaf(None), world.tree.add_leaf(None));
        world.tree.set_limits(Node::Leaf(a), limits("reserve_iops_sec=1000"), GIB, 0);
        world.tree.set_limits(Node::Leaf(b), limits("weight=1000"), GIB, 0);
        let flood = world.client(b, 64, Kind::Read, 4096);
        world.run_until(idle * SECOND);
        let reserved = world.client(a, 64, Kind::Read, 4096);
        let from = world.now;
        world.run_until(from + 5 * SECOND);
        told.push((idle, [reserved, flood].map(|client| world.count(client, from, world.now))));
    }
    assert!(
        told.iter().all(|(_, went)| went[0] < 6000),
        "(seconds without a request, [reserved at 1000 a second, flood of weight 1000] in 5 s): {told:?}"
    );
}

/// "No limit on the one holds back the other": reads that wait for their own limit stand in the line of a total, too, of which they can use nothing yet.
#[test]
fn a_limit_on_reads_does_not_hold_back_writes_at_a_total_of_the_same_node() {
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
        world.tree.set_limits(node, limits("read_iops_sec=2 total_bytes_sec=10MiB"), GIB, 0);
        let reads = world.client(leaf, 4, Kind::Read, 4096);
        let writes = world.client(leaf, 16, Kind::Write, 64 << 10);
        world.run_until(20 * SECOND);
        told.push((level, [reads, writes].map(|client| world.count(client, 0, 20 * SECOND))));
    }
    assert!(
        told.iter().all(|(_, went)| went[1] > 3000),
        "of 3,200 writes of 64 KiB that the total allows; (level, [reads, writes] in 20 s): {told:?}"
    );
}

/// "Nobody starves", "it ends: a request that is first in the order joins each line at most once": reads that come to their turn at the pool find that
/// writes of their volume have taken its tokens, and leave the pool's line; with their volume's tokens they are behind others at the pool, and leave these.
#[test]
fn reads_that_need_tokens_of_their_volume_and_of_the_pool_do_not_go_from_one_to_the_other_for_ever() {
    let mut told = Vec::new();
    for (volume, pool, others) in [(100, 40, 1), (100, 40, 4), (1000, 40, 1), (1000, 400, 4), (50, 200, 3)] {
        let mut world = endless();
        let v = world.tree.add_leaf(None);
        world.tree.set_limits(Node::Leaf(v), limits(&format!("total_iops_sec={volume}")), GIB, 0);
        world.tree.set_limits(Node::Pool, limits(&format!("read_iops_sec={pool}")), 0, 0);
        let (reads, writes) = (world.client(v, 4, Kind::Read, 4096), world.client(v, 16, Kind::Write, 4096));
        let rest: Vec<usize> = (0..others)
            .map(|_| {
                let leaf = world.tree.add_leaf(None);
                world.client(leaf, 16, Kind::Read, 4096)
            })
            .collect();
        world.run_until(60 * SECOND);
        let of = |client: usize| world.count(client, 10 * SECOND, 60 * SECOND);
        told.push((volume, pool, others, [of(reads), of(writes), rest.iter().map(|client| of(*client)).sum()]));
    }
    assert!(
        told.iter().all(|(.., went)| went[0] > 50),
        "(limit of the volume, of the pool's reads, other volumes, [its reads, its writes, reads of others] in 50 s): {told:?}"
    );
}

const BY_SIZE: &str = "total_iops_sec_per_gb=10 total_iops_sec_max=1000 total_iops_sec_max_length=10";

/// "Needs both: (r, (m − r)·l) and (m, 50 ms of m)": also after a size at which the rate was that of the burst.
#[test]
fn a_burst_has_its_rate_also_after_a_size_without_one() {
    let mut world = endless();
    let leaf = world.tree.add_leaf(None);
    world.tree.set_limits(Node::Leaf(leaf), limits(BY_SIZE), 100 * GIB, 0);
    world.run_until(SECOND);
    world.tree.set_limits(Node::Leaf(leaf), limits(BY_SIZE), 10 * GIB, SECOND);
    let client = world.client(leaf, 64, Kind::Read, 4096);
    world.now = SECOND;
    world.run_until(2 * SECOND);
    let went = world.count(client, SECOND, 2 * SECOND);
    assert!(went <= 1050, "a burst of 1000 a second: {went} in one");
}

/// "Whoever may resize and revert wins nothing".
#[test]
fn to_stay_at_another_size_for_a_moment_wins_no_burst() {
    let mut told = Vec::new();
    for (gib, pause) in [(99, 110 * MS), (100, 60 * MS), (1000, 60 * MS), (90, 1200 * MS)] {
        let mut world = endless();
        let leaf = world.tree.add_leaf(None);
        world.tree.set_limits(Node::Leaf(leaf), limits(BY_SIZE), 10 * GIB, 0);
        let client = world.client(leaf, 64, Kind::Read, 4096);
        world.run_until(60 * SECOND);
        world.clients[client].0.depth = 0;
        world.run_until(61 * SECOND);
        world.tree.set_limits(Node::Leaf(leaf), limits(BY_SIZE), gib * GIB, world.now);
        world.run_until(61 * SECOND + pause);
        world.now = 61 * SECOND + pause;
        world.tree.set_limits(Node::Leaf(leaf), limits(BY_SIZE), 10 * GIB, world.now);
        world.clients[client].0.depth = 64;
        let from = world.now;
        world.run_until(from + 10 * SECOND);
        told.push((gib, pause / MS, world.count(client, from, world.now)));
    }
    // A hundred a second; in the pause the larger size brings 1000 a second at most.
    assert!(
        told.iter().all(|(_, pause, went)| *went <= 1000 + pause + 200),
        "(GiB for a moment, of so many ms, then in 10 s at 100 a second): {told:?}"
    );
}

/// "What has been under way for a second ... does not count in it any more": nor does it again, when others of its volume end.
#[test]
fn what_hangs_does_not_come_back_into_the_window_as_others_of_its_volume_end() {
    let mut told = Vec::new();
    for hangs in [0u64, 1] {
        let mut world = contended(24, 400);
        let (a, b) = (world.tree.add_leaf(None), world.tree.add_leaf(None));
        if hangs > 0 {
            assert_eq!(world.tree.submit(a, read(32 << 20), 0), Decision::Go, "it hangs from now on");
        }
        let (own, other) = (world.client(a, 16, Kind::Read, 4096), world.client(b, 16, Kind::Read, 64 << 10));
        world.run_until(20 * SECOND);
        told.push((hangs, [own, other].map(|client| world.count(client, 5 * SECOND, 20 * SECOND))));
    }
    assert!(
        told[1].1[0] * 2 > told[0].1[0] && told[1].1[1] * 2 > told[0].1[1],
        "(how many hang, [4 KiB of the same volume, 64 KiB of another] in 15 s): {told:?}"
    );
}

/// "A request that waits is told as held back by what kept the first of its volume waiting longest": not by a limit that was lifted long ago.
#[test]
fn a_limit_that_is_no_more_holds_nobody_back() {
    let mut tree = Tree::new();
    tree.set_depth(Some(1));
    let (a, b) = (tree.add_leaf(None), tree.add_leaf(None));
    tree.set_limits(Node::Leaf(a), limits("total_iops_sec=10"), GIB, 0);
    assert_eq!(tree.submit(a, read(4096), 0), Decision::Go);
    let Decision::Wait(ticket) = tree.submit(a, read(4096), 0) else { panic!() };
    assert_eq!(tree.next(SECOND), Some(ticket));
    (0..2).for_each(|_| tree.done(a, read(4096), SECOND));
    tree.set_limits(Node::Leaf(a), limits(""), GIB, SECOND);
    let before = tree.snapshot(a, SECOND).unwrap();
    let now = 10 * SECOND;
    assert_eq!(tree.submit(b, read(4096), now), Decision::Go);
    let Decision::Wait(ticket) = tree.submit(a, read(4096), now) else { panic!("the window is full") };
    tree.done(b, read(4096), now);
    assert_eq!(tree.next(now), Some(ticket));
    let after = tree.snapshot(a, now).unwrap();
    assert_eq!(before.held.get("volume:total_iops_sec"), after.held.get("volume:total_iops_sec"), "{:?}", after.held);
}

/// "Nobody starves ... background work's reads and writes go by age": reads that come to the pool's tokens while a write of background work is under way leave
/// the pool's line for that, and begin anew.
#[test]
fn background_reads_at_the_pools_limit_go_beside_background_writes() {
    let mut told = Vec::new();
    for (text, device) in [("read_iops_sec=40", 40), ("read_iops_sec=1000", 400), ("read_bytes_sec=4MiB", 40)] {
        let mut world = contended(24, device);
        world.tree.set_limits(Node::Pool, limits(text), 0, 0);
        let background = world.tree.background();
        let users = [0; 2].map(|_| {
            let leaf = world.tree.add_leaf(None);
            world.client(leaf, 4, Kind::Read, 64 << 10)
        });
        let (reads, writes) =
            (world.client(background, 4, Kind::Read, 4096), world.client(background, 4, Kind::Write, 64 << 10));
        world.run_until(60 * SECOND);
        told.push((
            text,
            [users[0], users[1], reads, writes].map(|client| world.count(client, 10 * SECOND, 60 * SECOND)),
        ));
    }
    assert!(
        told.iter().all(|(_, went)| went[2] > 20),
        "(limit of the pool, [volumes' reads, volumes' reads, background's reads, its writes] in 50 s): {told:?}"
    );
}

/// "What it cannot use yet is anybody's": a large read that waits behind others for reads stands in the line of the total, too, and stops all writes.
#[test]
fn reads_behind_others_do_not_stop_writes_at_a_total() {
    let mut world = contended(24, 400);
    world.tree.set_limits(Node::Pool, limits("read_iops_sec=50 total_bytes_sec=20MiB"), 0, 0);
    let [a, b, c] = [0; 3].map(|_| world.tree.add_leaf(None));
    world.tree.set_limits(Node::Leaf(a), limits("weight=50"), GIB, 0);
    let (small, large) = (world.client(a, 16, Kind::Read, 4096), world.client(b, 4, Kind::Read, 1 << 20));
    let writes = world.client(c, 16, Kind::Write, 4096);
    world.run_until(60 * SECOND);
    let went = [small, large, writes].map(|client| world.count(client, 10 * SECOND, 60 * SECOND));
    let kib = went[0] * 4 + went[1] * 1024 + went[2] * 4;
    assert!(
        kib > 950 << 10,
        "of 1,000 MiB that the total allows; [small reads, large reads, writes of 4 KiB of another volume] in 50 s: {went:?}"
    );
}

/// "What has been under way for a second ... does not count in it any more": it is looked for only when others have waited for a whole second on end.
#[test]
fn what_hangs_does_not_count_also_where_nobody_waits_for_a_second_on_end() {
    let mut tree = Tree::new();
    tree.set_depth(Some(24));
    let (a, b) = (tree.add_leaf(None), tree.add_leaf(None));
    assert_eq!(tree.submit(a, read(32 << 20), 0), Decision::Go, "it hangs from now on");
    let mut waited = 0;
    // Each 50 ms sixteen small requests, which all end within a millisecond.
    for n in 1..1000 {
        let now = n * 50 * MS;
        let mut going = 0;
        let mut tickets = 0;
        for _ in 0..16 {
            match tree.submit(b, read(4096), now) {
                Decision::Go => going += 1,
                Decision::Wait(_) => tickets += 1,
            }
            while tree.next(now).is_some() {
                (going, tickets) = (going + 1, tickets - 1);
            }
        }
        waited += u64::from(now > 10 * SECOND) * tickets;
        for _ in 0..16 {
            assert!(going > 0);
            going -= 1;
            tree.done(b, read(4096), now + MS);
            while tree.next(now + MS).is_some() {
                (going, tickets) = (going + 1, tickets - 1);
            }
        }
        assert_eq!((going, tickets), (0, 0));
    }
    assert_eq!(waited, 0, "requests that waited for a request that has been hanging for more than ten seconds");
}

/// "Where the pool's own limits are short it stands in line, with a sixteenth of the share of a volume of weight 1": also where it is before others in the
/// order, and finds its few tokens each time.
#[test]
fn background_has_a_sixteenth_of_a_share_at_the_pools_limit_beside_large_requests() {
    let mut told = Vec::new();
    let bytes = 1u64 << 20;
    for text in ["total_bytes_sec=6800KiB", "total_bytes_sec=7000KiB", "total_bytes_sec=8MiB", "total_bytes_sec=10MiB"]
    {
        let mut world = contended(24, 100);
        world.tree.set_limits(Node::Pool, limits(text), 0, 0);
        let (leaf, background) = (world.tree.add_leaf(None), world.tree.background());
        let (user, work) = (world.client(leaf, 32, Kind::Read, bytes), world.client(background, 4, Kind::Read, 4096));
        world.run_until(60 * SECOND);
        told.push((
            text,
            (world.count(user, 10 * SECOND, 60 * SECOND) * bytes) >> 20,
            (world.count(work, 10 * SECOND, 60 * SECOND) * 4096) >> 20,
        ));
    }
    assert!(
        told.iter().all(|(_, user, work)| work * 4 < *user),
        "(limit of the pool, MiB of the volume, of background work in 50 s): {told:?}"
    );
}
