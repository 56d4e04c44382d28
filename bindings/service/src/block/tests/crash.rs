//! Volumes, snapshots and backups over the end of the service.

use super::{
    boundaries::{self, scenarios},
    world::{World, admin},
};
use crate::{
    block::{NewBackup, NewQos, NewSnapshot, NewType, NewVolume},
    catalog::{Backup, Consumer, Snapshot, Volume},
    domain::{BackupStatus, SnapshotStatus, VolumeStatus},
};
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scenario {
    CreateEmpty,
    CreateFromSnapshot,
    CreateFromVolume,
    CreateFromBackup,
    Delete,
    DeleteCascade,
    Extend,
    Revert,
    Retype,
    CreateSnapshot,
    DeleteSnapshot,
    BackUp,
    BackUpSnapshot,
    RestoreOver,
    RestoreNew,
    DeleteBackup,
}

/// What there is before.
struct Before {
    volume: Volume,
    snapshot: Snapshot,
    backup: Option<Backup>,
    kind: String,
}

async fn prepare(world: &World, scenario: Scenario) -> Before {
    use Scenario::{BackUp, BackUpSnapshot, CreateFromBackup, DeleteBackup, RestoreNew, RestoreOver};
    let volume = world.volume("v").await;
    world.write(&volume, 1).await;
    let snapshot = world.snapshot(&volume.id).await;
    let backup = match scenario {
        CreateFromBackup | RestoreOver | RestoreNew | DeleteBackup => Some(back_up(world, &volume.id).await),
        // There is one to go on from.
        BackUp | BackUpSnapshot => {
            drop(back_up(world, &volume.id).await);
            None
        }
        _ => None,
    };
    world.write(&volume, 2).await;
    let specs = BTreeMap::from([("total_iops_sec".to_owned(), "5000".to_owned())]);
    let qos = NewQos { name: "slow".to_owned(), consumer: Consumer::BackEnd, specs };
    let qos = world.block.create_qos(&admin(), qos).unwrap();
    let kind = NewType { name: "slow".to_owned(), description: None, public: true, extra_specs: BTreeMap::new() };
    let kind = world.block.create_type(&admin(), kind).unwrap();
    world.block.associate_qos(&admin(), &qos.id, &kind.id).await.unwrap();
    Before { volume, snapshot, backup, kind: kind.id }
}

async fn back_up(world: &World, volume: &str) -> Backup {
    let new = NewBackup { volume: volume.to_owned(), ..NewBackup::default() };
    let backup = world.block.create_backup(&admin(), new).unwrap();
    world.block.settled().await;
    let backup: Backup = world.block.find(&admin(), &backup.id).unwrap();
    assert_eq!((backup.status, backup.fail_reason.as_deref()), (BackupStatus::Available, None));
    backup
}

/// Begins it. Answers the id of what it makes or changes.
async fn begin(world: &World, scenario: Scenario, before: &Before) -> String {
    let (block, me) = (&world.block, admin());
    let (volume, snapshot) = (before.volume.id.clone(), before.snapshot.id.clone());
    let backup = before.backup.as_ref().map(|backup| backup.id.clone()).unwrap_or_default();
    let slow = Some("slow".to_owned());
    let new = NewVolume { name: Some("new".to_owned()), size: Some(1), volume_type: slow, ..NewVolume::default() };
    match scenario {
        Scenario::CreateEmpty => block.create_volume(&me, new).await.unwrap().id,
        Scenario::CreateFromSnapshot => {
            block.create_volume(&me, NewVolume { snapshot: Some(snapshot), size: Some(2), ..new }).await.unwrap().id
        }
        Scenario::CreateFromVolume => {
            block.create_volume(&me, NewVolume { source: Some(volume), ..new }).await.unwrap().id
        }
        Scenario::CreateFromBackup => {
            block.create_volume(&me, NewVolume { backup: Some(backup), size: Some(2), ..new }).await.unwrap().id
        }
        Scenario::Delete => {
            // Without its snapshot.
            block.delete_snapshot(&me, &snapshot, false).unwrap();
            block.settled().await;
            block.delete_volume(&me, &volume, false, false).unwrap();
            volume
        }
        Scenario::DeleteCascade => {
            block.delete_volume(&me, &volume, true, false).unwrap();
            volume
        }
        Scenario::Extend => {
            block.extend_volume(&me, &volume, 3, false).await.unwrap();
            volume
        }
        Scenario::Revert => {
            block.revert_volume(&me, &volume, &snapshot, false).unwrap();
            volume
        }
        Scenario::Retype => {
            block.retype_volume(&me, &volume, "slow").unwrap();
            volume
        }
        Scenario::CreateSnapshot => {
            block.create_snapshot(&me, NewSnapshot { volume, ..NewSnapshot::default() }).unwrap().id
        }
        Scenario::DeleteSnapshot => {
            block.delete_snapshot(&me, &snapshot, false).unwrap();
            snapshot
        }
        Scenario::BackUp => {
            block.create_backup(&me, NewBackup { volume, incremental: true, ..NewBackup::default() }).unwrap().id
        }
        Scenario::BackUpSnapshot => {
            let new = NewBackup { volume, snapshot: Some(snapshot), ..NewBackup::default() };
            block.create_backup(&me, new).unwrap().id
        }
        Scenario::RestoreOver => block.restore(&me, &backup, Some(&volume), None).await.unwrap().1.id,
        Scenario::RestoreNew => block.restore(&me, &backup, None, None).await.unwrap().1.id,
        Scenario::DeleteBackup => {
            block.delete_backup(&me, &backup, false).unwrap();
            backup
        }
    }
}

/// What it came to.
async fn check(world: &World, scenario: Scenario, id: &str, before: &Before) {
    let tx = world.block.catalog().read();
    let volume = || tx.get::<Volume>(id).unwrap();
    let limited = async || {
        let target = crate::catalog::engine_volume(id).parse().unwrap();
        world.pool.qos(&target).await.unwrap().rates.get("total_iops_sec").copied()
    };
    match scenario {
        Scenario::CreateEmpty
        | Scenario::CreateFromSnapshot
        | Scenario::CreateFromVolume
        | Scenario::CreateFromBackup => {
            assert_eq!(volume().unwrap().status, VolumeStatus::Available);
            let expected = match scenario {
                Scenario::CreateEmpty => 0,
                Scenario::CreateFromVolume => 2,
                _ => 1,
            };
            assert_eq!(world.first_byte(id).await, expected);
            assert_eq!(limited().await, Some(5000));
        }
        Scenario::Delete | Scenario::DeleteCascade => {
            assert_eq!(volume(), None);
            assert_eq!(tx.get::<Snapshot>(&before.snapshot.id).unwrap(), None);
        }
        Scenario::Extend => {
            assert_eq!((volume().unwrap().size, volume().unwrap().status), (3, VolumeStatus::Available));
        }
        Scenario::Revert | Scenario::RestoreOver | Scenario::RestoreNew => {
            assert_eq!(volume().unwrap().status, VolumeStatus::Available);
            assert_eq!(world.first_byte(id).await, 1);
            let snapshot = tx.get::<Snapshot>(&before.snapshot.id).unwrap().unwrap();
            assert_eq!(snapshot.status, SnapshotStatus::Available);
        }
        Scenario::Retype => {
            assert_eq!(
                (volume().unwrap().type_id, volume().unwrap().status),
                (before.kind.clone(), VolumeStatus::Available)
            );
            assert_eq!(limited().await, Some(5000));
        }
        Scenario::CreateSnapshot => {
            assert_eq!(tx.get::<Snapshot>(id).unwrap().unwrap().status, SnapshotStatus::Available);
        }
        Scenario::DeleteSnapshot => assert_eq!(tx.get::<Snapshot>(id).unwrap(), None),
        Scenario::BackUp | Scenario::BackUpSnapshot => {
            let backup = tx.get::<Backup>(id).unwrap().unwrap();
            assert_eq!((backup.status, backup.fail_reason), (BackupStatus::Available, None));
            assert_eq!(backup.incremental, scenario == Scenario::BackUp);
            let volume = tx.get::<Volume>(&before.volume.id).unwrap().unwrap();
            assert_eq!(volume.status, VolumeStatus::Available);
        }
        Scenario::DeleteBackup => assert_eq!(tx.get::<Backup>(id).unwrap(), None),
    }
    if let Some(backup) = before.backup.as_ref().filter(|_| scenario != Scenario::DeleteBackup) {
        assert_eq!(tx.get::<Backup>(&backup.id).unwrap().unwrap().status, BackupStatus::Available);
    }
}

impl boundaries::Scenario for Scenario {
    type Before = Before;

    async fn prepare(self, world: &World) -> Before {
        prepare(world, self).await
    }

    async fn begin(self, world: &World, before: &Before) -> String {
        begin(world, self, before).await
    }

    async fn check(self, world: &World, id: &str, before: &Before) {
        check(world, self, id, before).await;
    }

    fn skipped(self) -> usize {
        // Those of the snapshot that it deletes first.
        if self == Self::Delete { 3 } else { 0 }
    }
}

scenarios! {
    create_empty: Scenario::CreateEmpty, 4;
    create_from_snapshot: Scenario::CreateFromSnapshot, 4;
    create_from_volume: Scenario::CreateFromVolume, 6;
    create_from_backup: Scenario::CreateFromBackup, 6;
    delete: Scenario::Delete, 3;
    delete_cascade: Scenario::DeleteCascade, 3;
    extend: Scenario::Extend, 3;
    revert: Scenario::Revert, 3;
    retype: Scenario::Retype, 3;
    create_snapshot: Scenario::CreateSnapshot, 3;
    delete_snapshot: Scenario::DeleteSnapshot, 3;
    back_up_incrementally: Scenario::BackUp, 4;
    back_up_a_snapshot: Scenario::BackUpSnapshot, 4;
    restore_over: Scenario::RestoreOver, 5;
    restore_to_a_new_one: Scenario::RestoreNew, 5;
    delete_backup: Scenario::DeleteBackup, 3;
}
