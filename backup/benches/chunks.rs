//! What a chunk of 256 KiB costs on its way into a repository and back: its name, and the form in which it is stored.

use std::hint::black_box;

use cairn_backup::pieces::{Chunk, name};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const SIZE: usize = 256 << 10;

/// Bytes that nothing compresses, the same in each run.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u64;
    let step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    std::iter::repeat_with(step).flat_map(u64::to_le_bytes).take(length).collect()
}

/// Lines of a log: numbers differ, words do not.
fn log(length: usize) -> Vec<u8> {
    let lines = (0u64..).flat_map(|number| {
        let (at, took) = (1_700_000_000 + number * 3, number * 7919 % 1000);
        format!("{at} INFO request {number} on connection {} answered in {took} us\n", number % 17).into_bytes()
    });
    lines.take(length).collect()
}

fn chunks(c: &mut Criterion) {
    let mut group = c.benchmark_group("chunk of 256 KiB");
    let _group = group.throughput(Throughput::Bytes(SIZE as u64));
    let (random, text) = (noise(SIZE), log(SIZE));
    let half = [&random[..SIZE / 2], &text[..SIZE / 2]].concat();
    let _group = group.bench_function("name", |b| b.iter(|| name(black_box(&random))));
    for (kind, content) in [("noise", &random), ("a log", &text), ("half of each", &half)] {
        let _group = group.bench_function(format!("in, {kind}"), |b| b.iter(|| Chunk::of(black_box(content)).stored()));
        let chunk = Chunk::of(content);
        assert_eq!(chunk.content().as_ref(), Some(content));
        let _group = group.bench_function(format!("out, {kind}"), |b| b.iter(|| black_box(&chunk).content()));
    }
    group.finish();
}

criterion_group!(benches, chunks);
criterion_main!(benches);
