//! What the published interface lacks, over the end of the service: chains, reverts to any snapshot, volumes that are filled while they are
//! used, groups.

use super::{
    boundaries::{Scenario, scenarios},
    world::{World, admin},
};
use crate::{
    block::{GroupEdit, GroupSource, NewBackup, NewGroup, NewGroupSnapshot, NewSnapshot},
    catalog::{Backup, Group, GroupSnapshot, Snapshot, Volume},
    domain::{BackupStatus, GroupSnapshotStatus, GroupStatus, SnapshotStatus, VolumeStatus},
};

/// A backup of a volume as it is now.
pub(super) async fn back_up(world: &World, volume: &str, incremental: bool) -> Backup {
    let new = NewBackup { volume: volume.to_owned(), incremental, ..NewBackup::default() };
    let backup = world.block.create_backup(&admin(), new).unwrap();
    world.block.settled().await;
    let backup: Backup = world.block.find(&admin(), &backup.id).unwrap();
    assert_eq!((backup.status, backup.fail_reason.as_deref()), (BackupStatus::Available, None));
    backup
}

/// A full backup and two that hang on it one after the other: of 1, 2 and 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chain {
    /// The one in the middle goes.
    Merge,
    /// The full one goes.
    MergeFull,
    /// The one in the middle becomes a full one.
    Promote,
    /// A volume from the last one, usable at once.
    AtOnce,
}

impl Scenario for Chain {
    type Before = Vec<Backup>;

    async fn prepare(self, world: &World) -> Vec<Backup> {
        let volume = world.volume("v").await;
        let mut chain = Vec::new();
        for byte in 1..=3 {
            world.write(&volume, byte).await;
            chain.push(back_up(world, &volume.id, byte > 1).await);
        }
        assert_eq!(chain[2].parent_id.as_ref(), Some(&chain[1].id));
        chain
    }

    async fn begin(self, world: &World, before: &Vec<Backup>) -> String {
        let (block, me) = (&world.block, admin());
        match self {
            Self::Merge => block.merge_backup(&me, &before[1].id).unwrap().id,
            Self::MergeFull => block.merge_backup(&me, &before[0].id).unwrap().id,
            Self::Promote => block.promote_backup(&me, &before[1].id).unwrap().id,
            Self::AtOnce => block.restore_at_once(&me, &before[2].id, None, None).await.unwrap().id,
        }
    }

    async fn check(self, world: &World, id: &str, before: &Vec<Backup>) {
        let get = |n: usize| world.block.catalog().read().get::<Backup>(&before[n].id).unwrap();
        let parent = |n: usize| get(n).unwrap().parent_id;
        match self {
            Self::Merge => {
                assert_eq!((get(1), parent(2)), (None, Some(before[0].id.clone())));
                assert!(get(2).unwrap().incremental);
            }
            Self::MergeFull => {
                assert_eq!((get(0), parent(1), parent(2)), (None, None, Some(before[1].id.clone())));
                assert!(!get(1).unwrap().incremental);
            }
            Self::Promote => {
                assert_eq!((parent(1), parent(2)), (None, Some(before[1].id.clone())));
                assert!(!get(1).unwrap().incremental && get(2).unwrap().incremental);
            }
            Self::AtOnce => {
                assert_eq!(world.show(id).status, VolumeStatus::Available);
                assert_eq!(world.first_byte(id).await, 3);
                world.filled(id).await;
                assert_eq!(world.first_byte(id).await, 3);
            }
        }
        // What is left can be restored, and the catalog knows the chain as the repository does.
        let stored = world.block.repository().await.unwrap().backups().await.unwrap();
        for backup in world.block.catalog().read().all::<Backup>().unwrap() {
            let here = stored.iter().find(|stored| Some(&stored.id) == backup.stored_id.as_ref()).unwrap();
            assert_eq!(here.is_full(), !backup.incremental, "{backup:?}");
        }
        if self != Self::AtOnce {
            let restored = world.block.restore(&admin(), &before[2].id, None, None).await.unwrap().1;
            world.block.settled().await;
            assert_eq!(world.first_byte(&restored.id).await, 3);
        }
    }
}

/// Back to the first of two snapshots, by a volume that was extended since.
#[derive(Clone, Copy, Debug)]
struct RevertToAny;

impl Scenario for RevertToAny {
    type Before = [Snapshot; 2];

    async fn prepare(self, world: &World) -> [Snapshot; 2] {
        let volume = world.volume("v").await;
        world.write(&volume, 1).await;
        let first = world.snapshot(&volume.id).await;
        world.write(&volume, 2).await;
        let second = world.snapshot(&volume.id).await;
        world.block.extend_volume(&admin(), &volume.id, 2, false).await.unwrap();
        world.block.settled().await;
        world.write(&volume, 3).await;
        [first, second]
    }

    async fn begin(self, world: &World, [first, _]: &[Snapshot; 2]) -> String {
        world.block.revert_volume(&admin(), &first.volume_id, &first.id, true).unwrap();
        first.volume_id.clone()
    }

    async fn check(self, world: &World, id: &str, before: &[Snapshot; 2]) {
        assert_eq!((world.show(id).status, world.show(id).size), (VolumeStatus::Available, 2));
        assert_eq!(world.first_byte(id).await, 1);
        for snapshot in before {
            let now: Snapshot = world.block.find(&admin(), &snapshot.id).unwrap();
            assert_eq!(now.status, SnapshotStatus::Available);
        }
    }
}

/// A group of two volumes that hold 1 and 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Together {
    Snapshot,
    SnapshotOfVolumes,
    DeleteSnapshot,
    FromSnapshot,
    FromGroup,
    Delete,
}

struct BeforeTogether {
    group: Group,
    volumes: Vec<Volume>,
    taken: Option<GroupSnapshot>,
}

impl Scenario for Together {
    type Before = BeforeTogether;

    async fn prepare(self, world: &World) -> BeforeTogether {
        let (block, me) = (&world.block, admin());
        let new = NewGroup {
            group_type: "default_group_type".to_owned(),
            volume_types: vec!["__DEFAULT__".to_owned()],
            ..NewGroup::default()
        };
        let group = block.create_group(&me, new).unwrap();
        let mut volumes = Vec::new();
        for (name, byte) in [("one", 1), ("two", 2)] {
            let volume = world.volume(name).await;
            world.write(&volume, byte).await;
            block
                .edit_group(&me, &group.id, GroupEdit { add: vec![volume.id.clone()], ..GroupEdit::default() })
                .unwrap();
            volumes.push(volume);
        }
        let taken = match self {
            Self::DeleteSnapshot | Self::FromSnapshot => {
                let new = NewGroupSnapshot { group: group.id.clone(), ..NewGroupSnapshot::default() };
                let taken = block.create_group_snapshot(&me, new).unwrap();
                block.settled().await;
                for volume in &volumes {
                    world.write(volume, 9).await;
                }
                Some(taken)
            }
            _ => None,
        };
        BeforeTogether { group, volumes, taken }
    }

    async fn begin(self, world: &World, before: &BeforeTogether) -> String {
        let (block, me) = (&world.block, admin());
        let taken = || before.taken.as_ref().unwrap().id.clone();
        match self {
            Self::Snapshot => {
                let new = NewGroupSnapshot { group: before.group.id.clone(), ..NewGroupSnapshot::default() };
                block.create_group_snapshot(&me, new).unwrap().id
            }
            Self::SnapshotOfVolumes => {
                let ids: Vec<String> = before.volumes.iter().map(|volume| volume.id.clone()).collect();
                assert_eq!(block.freeze_volumes(&me, &ids, Some("both".to_owned())).unwrap().len(), 2);
                String::new()
            }
            Self::DeleteSnapshot => {
                block.delete_group_snapshot(&me, &taken()).unwrap();
                taken()
            }
            Self::FromSnapshot => {
                block.create_group_from(&me, None, None, &GroupSource::Snapshot(taken())).await.unwrap().id
            }
            Self::FromGroup => {
                let source = GroupSource::Group(before.group.id.clone());
                block.create_group_from(&me, None, None, &source).await.unwrap().id
            }
            Self::Delete => {
                block.delete_group(&me, &before.group.id, true).unwrap();
                before.group.id.clone()
            }
        }
    }

    async fn check(self, world: &World, id: &str, before: &BeforeTogether) {
        let tx = world.block.catalog().read();
        let snapshots = tx.all::<Snapshot>().unwrap();
        match self {
            Self::Snapshot => {
                assert_eq!(tx.require::<GroupSnapshot>(id).unwrap().status, GroupSnapshotStatus::Available);
                assert_eq!(snapshots.len(), 2);
                assert!(snapshots.iter().all(|s| s.group_snapshot_id.as_deref() == Some(id)));
                assert!(snapshots.iter().all(|s| s.status == SnapshotStatus::Available));
            }
            Self::SnapshotOfVolumes => {
                assert_eq!(snapshots.len(), 2);
                assert!(snapshots.iter().all(|s| s.group_snapshot_id.is_none() && s.name.as_deref() == Some("both")));
                assert!(snapshots.iter().all(|s| s.status == SnapshotStatus::Available));
            }
            Self::DeleteSnapshot => {
                assert_eq!((tx.get::<GroupSnapshot>(id).unwrap(), snapshots.len()), (None, 0));
            }
            Self::FromSnapshot | Self::FromGroup => {
                assert_eq!(tx.require::<Group>(id).unwrap().status, GroupStatus::Available);
                let mut bytes = Vec::new();
                for volume in world.block.volumes_in(id).unwrap() {
                    assert_eq!(volume.status, VolumeStatus::Available);
                    bytes.push(world.first_byte(&volume.id).await);
                }
                bytes.sort_unstable();
                assert_eq!(bytes, [1, 2]);
            }
            Self::Delete => {
                assert_eq!(tx.get::<Group>(id).unwrap(), None);
                assert!(before.volumes.iter().all(|volume| tx.get::<Volume>(&volume.id).unwrap().is_none()));
            }
        }
    }
}

scenarios! {
    merge: Chain::Merge, 3;
    merge_the_full_one: Chain::MergeFull, 3;
    promote: Chain::Promote, 3;
    restore_at_once: Chain::AtOnce, 5;
    revert_to_any: RevertToAny, 3;
    group_snapshot: Together::Snapshot, 3;
    snapshot_of_several: Together::SnapshotOfVolumes, 3;
    delete_group_snapshot: Together::DeleteSnapshot, 4;
    group_from_a_snapshot: Together::FromSnapshot, 5;
    group_from_a_group: Together::FromGroup, 6;
    delete_group: Together::Delete, 6;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_fills_a_volume_stays_until_it_is_full() {
    let world = World::new().await;
    let volume = world.volume("v").await;
    world.write(&volume, 1).await;
    let backup = back_up(&world, &volume.id, false).await;
    let new = world.block.restore_at_once(&admin(), &backup.id, None, None).await.unwrap();
    world.block.settled().await;
    world.filled(&new.id).await;
    world.block.delete_backup(&admin(), &backup.id, false).unwrap();
    world.block.settled().await;
    assert_eq!(world.first_byte(&new.id).await, 1);
    // It is a volume like any other then.
    let snapshot = NewSnapshot { volume: new.id.clone(), ..NewSnapshot::default() };
    drop(world.block.create_snapshot(&admin(), snapshot).unwrap());
    world.block.settled().await;
    world.sound().await;
}
