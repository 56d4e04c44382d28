//! What asking costs: a volume without limits, one with all of them, and one that has to wait.

use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;

use cairn_qos::{Decision, Kind, Node, Request, Tree};

const READ: Request = Request { kind: Kind::Read, bytes: 4096 };

fn admission(c: &mut Criterion) {
    let mut tree = Tree::new();
    let (free, limited) = (tree.add_leaf(None), tree.add_leaf(None));
    let all =
        "total_iops_sec=4000000000 total_iops_sec_max=5000000000 total_bytes_sec=1000TiB total_bytes_sec_max=2000TiB";
    tree.set_limits(Node::Leaf(limited), all.parse().expect("sound limits"), 1 << 30, 0);
    for (name, leaf) in [("no limit", free), ("four limits", limited)] {
        let mut now = 0;
        let _group = c.bench_function(name, |b| {
            b.iter(|| {
                now += 10_000;
                assert_eq!(black_box(tree.submit(black_box(leaf), READ, now)), Decision::Go);
                tree.done(leaf, READ, now);
            });
        });
    }
    let slow = tree.add_leaf(None);
    tree.set_limits(Node::Leaf(slow), "total_iops_sec=1000".parse().expect("sound limits"), 1 << 30, 0);
    let mut now = 1 << 50;
    let _group = c.bench_function("one that waits", |b| {
        b.iter(|| {
            now += 1_000_000;
            match tree.submit(slow, READ, now) {
                Decision::Go => tree.done(slow, READ, now),
                Decision::Wait(_) => {
                    while tree.next(now).is_none() {
                        now = tree.next_wake().expect("it waits for tokens");
                    }
                    tree.done(slow, READ, now);
                }
            }
        });
    });
}

criterion_group!(benches, admission);
criterion_main!(benches);
