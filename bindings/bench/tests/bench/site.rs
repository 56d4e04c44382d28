//! Patterns that every target has to bear, and what they must come to.

use cairn_bench::{Bench, Report, Target, Verify, run};
use cairn_engine::Result;

/// Bytes of the targets.
pub(crate) const SIZE: u64 = 16 << 20;

/// A pattern with so many requests, which may destroy what is there.
pub(crate) fn pattern(name: &str, requests: u64) -> Bench {
    Bench { requests: Some(requests), destroy: true, seed: Some(7), ..Bench::named(name).unwrap() }
}

pub(crate) fn go(target: Target, bench: &Bench) -> Result<Report> {
    run(target, bench, &mut |_| true)
}

/// Every pattern, verified: what is written is read back.
pub(crate) fn every_pattern(target: impl Fn() -> Target, jobs: u32) {
    for (name, block, flush_every) in [
        ("randwrite", 4096, None),
        ("randwrite", 4096, Some(3)),
        ("write", 64 << 10, None),
        ("rw", 8192, None),
        ("randrw", 16 << 10, Some(1)),
        ("randread", 4096, None),
        ("read", 1 << 20, None),
    ] {
        let bench = Bench { block, flush_every, jobs, depth: 8, verify: Verify::All, ..pattern(name, 600) };
        let report = go(target(), &bench).unwrap();
        assert_eq!(report.total.requests, 600, "{name}");
        assert_eq!(report.read.requests + report.write.requests, 600, "{name}");
        assert_eq!(report.total.bytes, 600 * block, "{name}");
        let reads = name.ends_with("read");
        assert_eq!(report.write.requests == 0, reads, "{name}");
        // Each job flushes after so many of its own writes.
        let least = flush_every.map_or(0, |every| report.write.requests / every);
        let most = least.saturating_sub(u64::from(jobs));
        assert!(
            (most..=least).contains(&report.flush.requests),
            "{name}: {} flushes of {least}",
            report.flush.requests
        );
        let verified = report.verify.unwrap();
        assert_eq!((verified.failures, verified.told.len()), (0, 0), "{name}: {verified:?}");
        assert!(reads || verified.checked >= block, "{name}: {verified:?}");
        assert!(report.series.iter().any(|moment| moment.p50 > 0), "{name}");
        let latency = report.total.latency.unwrap();
        assert!(latency.min <= latency.p50 && latency.p50 <= latency.p99 && latency.p99 <= latency.max, "{latency:?}");
    }
}

/// Filling reaches every byte, and reads of another request size find it well; so does another run.
pub(crate) fn filled_and_read_again(target: impl Fn() -> Target) {
    let offset = 1 << 20;
    let filled = Bench { block: 4096, offset, fill: true, jobs: 2, verify: Verify::All, ..pattern("randwrite", 50) };
    let report = go(target(), &filled).unwrap();
    let names: Vec<_> = report.passes.iter().map(|pass| (pass.name.as_str(), pass.bytes)).collect();
    let all = SIZE - offset;
    assert_eq!(names, [("fill", all), ("measure", 50 * 4096), ("verify", all)]);
    let verified = report.verify.unwrap();
    assert_eq!((verified.checked, verified.unknown, verified.failures), (all, 0, 0));
    // A later run knows nothing of generations, but that units are whole and in their place.
    let again = Bench { block: 12 << 10, offset, verify: Verify::Reads, ..pattern("read", all.div_ceil(12 << 10) - 1) };
    let verified = go(target(), &again).unwrap().verify.unwrap();
    assert_eq!((verified.unknown, verified.failures), (0, 0), "{verified:?}");
    assert!(verified.checked > all - (24 << 10));
}
