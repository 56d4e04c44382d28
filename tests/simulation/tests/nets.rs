//! The proof of the proof: a rule of the engine is broken, and a test notices. Each rule stands with the net that catches it.

#![allow(missing_docs)]

use cairn_engine::sim::Sabotage::{self, *};
use cairn_simulation::nets::{
    Net::{self, Damage, Simulation},
    cast,
};

/// Rule, net, and how many seeds the net may take.
const CAUGHT: [(Sabotage, Net, u64); 18] = [
    (SkipCommitSync, Simulation, 40),
    (AckFlushEarly, Simulation, 40),
    (SkipCheckpointSync, Simulation, 80),
    (SameSuperblockSlots, Damage, 2),
    (MapInPlace, Simulation, 80),
    (FreeNodesEarly, Simulation, 80),
    (ReplayIncompleteGroup, Simulation, 80),
    (IgnoreDataCrc, Damage, 2),
    (ForgetWriteRecord, Simulation, 40),
    (ForgetHoleRecord, Simulation, 40),
    (KeepEpoch, Damage, 2),
    (OwnParents, Damage, 2),
    (DropChild, Simulation, 40),
    (DissolveBranch, Simulation, 40),
    (SkipLeaf, Simulation, 40),
    (AckFailedWrite, Simulation, 80),
    (ForgetSyncError, Simulation, 80),
    (LeakSubtree, Damage, 2),
];

#[test]
fn each_broken_rule_is_noticed() {
    let mut unnoticed = Vec::new();
    for (rule, net, seeds) in CAUGHT {
        match cast(net, Some(rule), 0..seeds) {
            Some((seed, what)) => {
                println!("{rule:?}: {net:?}, seed {seed}: {}", what.lines().next().unwrap_or_default());
            }
            None => unnoticed.push(format!("{rule:?} by {net:?}")),
        }
    }
    assert!(unnoticed.is_empty(), "nobody noticed: {unnoticed:?}");
}

/// The nets hold still when nothing is broken.
#[test]
fn whole_rules_are_no_cause() {
    assert_eq!(cast(Damage, None, 0..2), None);
    assert_eq!(cast(Simulation, None, 0..10), None);
}
