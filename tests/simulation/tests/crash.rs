//! Crash exploration within a fixed budget: every kind of run, some of its crash points, with crashes in recoveries.

#![allow(missing_docs)]

use cairn_simulation::{
    damage::sweep,
    explore::{Plan, explore},
};

fn some_of(seed: u64, operations: u64, stride: usize) {
    let plan = Plan { seed, operations, stride: (stride, 1), recoveries: 25, only: None };
    match explore(&plan) {
        Ok(explored) => assert!(explored.points > 5 && explored.images > explored.points, "{explored:?}"),
        Err(failure) => panic!("{failure}"),
    }
}

#[test]
fn large_volumes() {
    some_of(0, 60, 13);
}

#[test]
fn full_pools() {
    some_of(1, 60, 23);
}

#[test]
fn many_small_commits() {
    some_of(2, 60, 3);
}

#[test]
fn three_clients() {
    some_of(3, 60, 13);
}

#[test]
fn mostly_versions() {
    some_of(4, 80, 3);
}

#[test]
fn small_volumes() {
    some_of(5, 60, 13);
}

#[test]
fn volumes_that_are_filled() {
    some_of(11, 60, 41);
}

/// The same kinds of runs, with writes that are acknowledged from memory.
#[test]
fn from_memory_large_volumes() {
    some_of(12, 60, 13);
}

#[test]
fn from_memory_full_pools() {
    some_of(13, 60, 23);
}

#[test]
fn from_memory_many_small_commits() {
    some_of(14, 60, 7);
}

#[test]
fn from_memory_small_volumes() {
    some_of(17, 60, 13);
}

#[test]
fn from_memory_volumes_that_were_filled() {
    some_of(23, 60, 41);
}

/// Each block of a pool damaged in turn: refused, reported or harmless, never wrong.
#[test]
fn damage_everywhere() {
    // The last has volumes that are filling.
    for seed in [0, 1, 11] {
        let swept = sweep(seed).unwrap_or_else(|failure| panic!("{failure}"));
        assert!(swept.bits > 100 && swept.reported > 10 && swept.harmless > 10, "{swept:?}");
    }
}
