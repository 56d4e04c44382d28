//! What each request goes through: looking up where its blocks are, checksums, handing out blocks, the journal's records.

use std::hint::black_box;

use cairn_engine::pieces::{Blocks, Group, Lookup};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Numbers that lie anywhere: an xorshift.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// The tree of a volume of 64 GiB that was written at random: 65,536 leaves, far more than any processor's cache holds.
fn lookups(c: &mut Criterion) {
    let mut tree = Lookup::scattered(64);
    let blocks = tree.blocks();
    let mut state = 1;
    for (name, count) in [("lookup of 4 KiB anywhere in 64 GiB", 1), ("lookup of 1 MiB anywhere in 64 GiB", 256)] {
        let _group = c.bench_function(name, |b| {
            b.iter(|| {
                let block = next(&mut state) % (blocks - count);
                assert_eq!(tree.range(black_box(block), count), count as usize);
            });
        });
    }
}

fn checksums(c: &mut Criterion) {
    let mut group = c.benchmark_group("checksum");
    let bytes = vec![0x5a; 1 << 20];
    for (name, size) in [("4 KiB", 1), ("1 MiB in blocks of 4 KiB", 256)] {
        let _group = group.throughput(Throughput::Bytes(size * 4096));
        let _group = group.bench_function(name, |b| {
            b.iter(|| {
                let blocks = black_box(&bytes).chunks_exact(4096).take(size as usize);
                blocks.fold(0, |sum, block| sum ^ crc32fast::hash(block))
            });
        });
    }
    group.finish();
}

/// As many blocks are released as are handed out, and groups are committed, as when a volume is overwritten.
fn allocation(c: &mut Criterion) {
    for (name, used, of) in [
        ("replacing 32 blocks, half of 64 GiB in use in long stretches", 512, 1024),
        ("replacing 32 blocks, 90 % of 64 GiB in use", 922, 1024),
        ("replacing 32 blocks, every other one of 64 GiB in use", 1, 2),
    ] {
        let mut blocks = Blocks::partly_used(64, used, of);
        let _group = c.bench_function(name, |b| b.iter(|| assert!(blocks.replace(black_box(32)) > 0)));
    }
}

fn records(c: &mut Criterion) {
    let mut state = 1;
    for (name, blocks) in
        [("1,000 records of 1 block, and their group", 1), ("1,000 records of 32 blocks, and their group", 32)]
    {
        let mut group = Group::default();
        let _group = c.bench_function(name, |b| {
            b.iter(|| {
                for _ in 0..1000 {
                    let place = next(&mut state) >> 40;
                    group.write(place, place + 1, black_box(blocks));
                }
                group.close(1)
            });
        });
    }
}

criterion_group!(benches, lookups, checksums, allocation, records);
criterion_main!(benches);
