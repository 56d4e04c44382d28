//! Random histories over NBD against the model; see [`cairn_tests::driver`].

use cairn_tests::driver::{Plan, run};

/// 4 MiB and a few sectors, so that the last block is a part of one, and the leaf nodes (1 MiB) are several.
const SECTORS: u64 = (4 << 11) + 3;

#[test]
fn many_in_flight_on_several_connections() {
    let plan =
        Plan { seed: 0x5eed_0001, steps: 6000, connections: 4, depth: 48, sectors: SECTORS, tcp: false, kills: false };
    run(plan.or_environment());
}

#[test]
fn many_in_flight_over_tcp() {
    let plan =
        Plan { seed: 0x5eed_0002, steps: 4000, connections: 2, depth: 32, sectors: SECTORS, tcp: true, kills: false };
    run(plan.or_environment());
}

#[test]
fn with_the_server_killed_now_and_then() {
    let plan =
        Plan { seed: 0x5eed_0003, steps: 5000, connections: 3, depth: 24, sectors: SECTORS, tcp: false, kills: true };
    run(plan.or_environment());
}

#[test]
fn one_request_at_a_time() {
    let plan =
        Plan { seed: 0x5eed_0004, steps: 4000, connections: 1, depth: 1, sectors: SECTORS, tcp: false, kills: true };
    run(plan.or_environment());
}
