//! Requests that are begun when they are due. What is asserted are bounds that hold however slow the machine is.

use cairn_bench::Bench;

use crate::{
    faults::{Fault, with},
    site::pattern,
};

#[test]
fn a_stall_counts_for_every_request_that_was_due_in_it() {
    // 600 requests, one a millisecond; the target says nothing for 300 ms. At least the 200 that were due in the first 200 ms of that took more
    // than 100 ms, though only four could be in flight.
    let bench = Bench { rate: Some(1000.0), depth: 4, ..pattern("randread", 600) };
    let report = with(Fault::Stall(300), 100, &bench).unwrap();
    let latency = report.total.latency.unwrap();
    assert!(latency.p90 >= 100_000_000 && latency.max >= 295_000_000, "{latency:?}");
    // As fast as they go, four are all that have met it.
    let closed = with(Fault::Stall(300), 100, &Bench { rate: None, ..bench }).unwrap();
    assert!(closed.total.latency.unwrap().max >= 295_000_000);
}

#[test]
fn a_rate_is_not_exceeded() {
    for jobs in [1, 2] {
        let directory = crate::file::directory();
        let target = cairn_bench::Target::Scratch { directory: directory.path().to_owned() };
        let bench = Bench { rate: Some(500.0), jobs, size: Some(4 << 20), ..pattern("randwrite", 200) };
        let report = crate::site::go(target, &bench).unwrap();
        // The last one of 200 is due after 199 times (of each job: 99 times) the time between two.
        let least = 0.002 * f64::from(200 - jobs);
        assert!(report.seconds >= least - 1e-6, "{} of {least}", report.seconds);
    }
}
