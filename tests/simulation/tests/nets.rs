//! The proof of the proof: a rule of the engine is broken, and a test notices. Each rule stands with the net that catches it; those that no
//! net here catches are broken in the engine's own property tests (`space/tests.rs`, `state/tests.rs`).

#![allow(missing_docs)]

mod support;

use cairn_engine::{
    BLOCK, IoBuf, MIB, OpenOptions, PoolOptions, VolumeOptions,
    sim::{
        Disk, Faults,
        Sabotage::{self, *},
        Survivors,
    },
};
use cairn_simulation::{
    explore::caught,
    nets::{
        Net::{self, Damage, Simulation},
        Whole, cast,
    },
};
use support::{Renamed, SLOW, micros, refused, run, set_latency};

/// Rule, net, and how many seeds the net may take.
const CAUGHT: [(Sabotage, Net, u64); 34] = [
    (SkipCommitSync, Simulation, 400),
    (AckFlushEarly, Simulation, 400),
    (SkipCheckpointSync, Simulation, 400),
    (SameSuperblockSlots, Simulation, 400),
    (MapInPlace, Simulation, 400),
    (FreeNodesEarly, Simulation, 400),
    (ReplayIncompleteGroup, Simulation, 400),
    (IgnoreGap, Damage, 4),
    (IgnoreGroupCrc, Damage, 8),
    (IgnoreDataCrc, Damage, 2),
    (IgnoreNodeCrc, Damage, 8),
    (IgnoreSuperblockCrc, Damage, 24),
    (ForgetWriteRecord, Simulation, 400),
    (ForgetHoleRecord, Simulation, 400),
    (ForgetSheetRecord, Damage, 8),
    (ForgetSheetPage, Damage, 8),
    (KeepEpoch, Damage, 2),
    (OwnParents, Damage, 2),
    (DropChild, Simulation, 400),
    (DissolveBranch, Simulation, 400),
    (SkipLeaf, Simulation, 400),
    (AckFailedWrite, Simulation, 400),
    (ForgetSyncError, Simulation, 400),
    (DiffSkipsLast, Damage, 2),
    (LeakSubtree, Damage, 2),
    (PassTheGate, Simulation, 400),
    (HolesWhileFilling, Simulation, 400),
    (FillOver, Simulation, 400),
    (DrainOutOfOrder, Simulation, 400),
    (PassBacklog, Simulation, 400),
    (FlushPastBacklog, Simulation, 400),
    (ReadPastBacklog, Simulation, 400),
    (ForgetUnwritten, Simulation, 400),
    (RegroupBlindly, Simulation, 400),
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

/// A scene passes, and fails when the rule is broken.
fn shows(rule: Sabotage, scene: fn()) {
    scene();
    let _broken = Whole::but(rule);
    let noticed = caught(|| {
        scene();
        Ok(())
    });
    println!("{rule:?}: {}", noticed.expect_err("nobody noticed"));
}

/// The journal must not turn over groups that only a checkpoint under way makes superfluous.
#[test]
fn a_journal_that_fills_up_during_a_checkpoint() {
    fn scene() {
        let disk = Disk::new(64 * MIB, 5);
        let name = run(&disk, |machine| async move {
            let pool = machine.create_pool(PoolOptions::new().journal_size(4 * MIB)).await.unwrap();
            let _volume = pool.create_volume("a", MIB, VolumeOptions::default()).await.unwrap();
            pool.checkpoint().await.unwrap();
            let mut renamed = Renamed { pool: pool.clone(), name: "a".to_owned(), number: 0 };
            let stats = pool.stats();
            let blocks = (stats.journal_size / 3 - stats.journal_used) / BLOCK;
            for _ in 0..blocks / 60 {
                assert_eq!(refused(renamed.start(60)).await, 0);
            }
            set_latency(machine.disk(), SLOW);
            let slow = pool.clone();
            pool.reactor().spawn(async move { slow.checkpoint().await.unwrap() }).detach();
            machine.reactor().sleep(micros(1000)).await;
            machine.disk().set_faults(Faults::default());
            renamed.fill_journal().await;
            renamed.name
        });
        run(&disk.crash(Survivors::All), move |machine| async move {
            let pool = machine.open_pool(OpenOptions::new()).await.unwrap();
            assert_eq!(pool.list_volumes().iter().map(|v| v.name.clone()).collect::<Vec<_>>(), [name]);
        });
    }
    shows(MoveTailEarly, scene);
}

/// Two writes into one block at the same time are both there.
#[test]
fn two_writes_into_one_block_at_once() {
    fn scene() {
        let disk = Disk::new(32 * MIB, 6);
        disk.set_faults(Faults { latency_us: 1..300, ..Faults::default() });
        run(&disk, |machine| async move {
            let pool = machine.create_pool(PoolOptions::new()).await.unwrap();
            let volume = pool.create_volume("a", MIB, VolumeOptions::default()).await.unwrap();
            for block in 0..32 {
                let write = |sector: u64| {
                    let volume = volume.clone();
                    let data = IoBuf::from(&[sector as u8 + 1; 512][..]);
                    pool.reactor().spawn(async move { volume.write(block * BLOCK + sector * 512, data, false).await })
                };
                let tasks: Vec<_> = (0..8).map(write).collect();
                assert_eq!(refused(tasks).await, 0);
                let found = volume.read(block * BLOCK, BLOCK as usize).await.unwrap();
                assert!(found.chunks(512).zip(1..).all(|(sector, tag)| *sector == [tag; 512]), "block {block}");
            }
        });
    }
    shows(StaleMerge, scene);
}
