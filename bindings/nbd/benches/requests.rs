//! What the server does with the bytes of requests before the engine sees them: headers are parsed, and checked against the export.

use std::hint::black_box;

use cairn_nbd::protocol::{
    CMD_READ, CMD_WRITE, EXTENDED_REQUEST_MAGIC, MAX_PAYLOAD, REQUEST_MAGIC, ReplyStyle, Rules, check, parse_request,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Requests that come in one receive.
const COUNT: u64 = 32;

/// A receive's worth of requests of 4 KiB, as a client at a depth of 32 sends them.
fn stream(style: ReplyStyle, command: u16) -> Vec<u8> {
    let mut out = Vec::new();
    for number in 0..COUNT {
        let offset = number * 0x9e37 % 10_000 * 4096;
        let extended = style == ReplyStyle::Extended;
        out.extend((if extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC }).to_be_bytes());
        out.extend(0u16.to_be_bytes());
        out.extend(command.to_be_bytes());
        out.extend(number.to_be_bytes());
        out.extend(offset.to_be_bytes());
        if extended {
            out.extend(4096u64.to_be_bytes());
        } else {
            out.extend(4096u32.to_be_bytes());
        }
        if command == CMD_WRITE {
            out.resize(out.len() + 4096, 0x5a);
        }
    }
    out
}

/// Walks over a receive as a connection does; how many requests keep the rules.
fn walk(mut bytes: &[u8], rules: &Rules) -> u64 {
    let extended = rules.style == ReplyStyle::Extended;
    let mut sound = 0;
    while let Ok(Some((request, size))) = parse_request(bytes, extended) {
        sound += u64::from(check(&request, rules).is_ok());
        bytes = bytes.get(size + request.payload(extended) as usize..).unwrap_or_default();
    }
    sound
}

fn requests(c: &mut Criterion) {
    let mut group = c.benchmark_group("32 requests of 4 KiB");
    let _group = group.throughput(Throughput::Elements(COUNT));
    for (what, command) in [("reads", CMD_READ), ("writes", CMD_WRITE)] {
        for (how, style) in [("structured", ReplyStyle::Structured), ("extended", ReplyStyle::Extended)] {
            let rules = Rules { style, size: 1 << 36, read_only: false, max_request: MAX_PAYLOAD, contexts: true };
            let bytes = stream(style, command);
            let _group = group.bench_function(format!("{what}, {how} replies"), |b| {
                b.iter(|| assert_eq!(walk(black_box(&bytes), &rules), COUNT));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, requests);
criterion_main!(benches);
