//! Volumes that go from one project to another, with what was made of them.

use super::{
    crash_native::back_up,
    groups::{add, new_group, remove},
    world::{World, admin, caller, hold_at},
};
use crate::{
    block::{GroupSource, NewBackup, NewGroupSnapshot, NewSnapshot, NewVolume, Role},
    catalog::{Snapshot, Transfer, Volume, audit},
    domain::{Claim, QuotaKey, VolumeStatus},
    fault::FaultKind,
};
use std::collections::BTreeMap;

fn in_use(world: &World, project: &str, resource: &str) -> i64 {
    let key = QuotaKey::parse(resource).unwrap();
    let count = world.block.catalog().read().count(project, &key).unwrap();
    assert_eq!(count.reserved, 0);
    count.in_use
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offer_that_its_own_project_takes_up_needs_no_more_quota() {
    let world = World::new().await;
    let volume = world.volume("v").await;
    drop(world.snapshot(&volume.id).await);
    for resource in ["volumes", "snapshots", "gigabytes"] {
        let used = in_use(&world, "p", resource);
        world.block.set_quota(&admin(), Some("p"), &BTreeMap::from([(resource.to_owned(), used)])).unwrap();
    }
    let (transfer, key) = world.block.create_transfer(&admin(), &volume.id, None, false).unwrap();
    drop(world.block.accept_transfer(&admin(), &transfer.id, &key).unwrap());
    assert_eq!((in_use(&world, "p", "volumes"), in_use(&world, "p", "gigabytes")), (1, 2));
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_that_are_being_made_or_deleted_hold_a_transfer_up() {
    let mut world = World::new().await;
    let volume = world.volume("v").await;
    let other = caller("q", Role::Member);
    // Recorded, and not yet there.
    let (hook, held) = hold_at(0);
    world = world.restart(hook).await;
    let new = NewSnapshot { volume: volume.id.clone(), ..NewSnapshot::default() };
    let snapshot = world.block.create_snapshot(&admin(), new).unwrap();
    held.came.notified().await;
    // Also when they are to stay: it would be one of what somebody else has in the volume by then.
    for no_snapshots in [false, true] {
        let refused = world.block.create_transfer(&admin(), &volume.id, None, no_snapshots);
        assert_eq!(refused.unwrap_err().kind, FaultKind::Conflict);
    }
    held.go.notify_one();
    world.block.settled().await;
    let (transfer, key) = world.block.create_transfer(&admin(), &volume.id, None, false).unwrap();
    // Offered, and the snapshot is deleted meanwhile.
    let (hook, held) = hold_at(0);
    world = world.restart(hook).await;
    world.block.delete_snapshot(&admin(), &snapshot.id, false).unwrap();
    held.came.notified().await;
    let refused = world.block.accept_transfer(&other, &transfer.id, &key);
    assert_eq!(refused.unwrap_err().kind, FaultKind::Conflict);
    held.go.notify_one();
    world.block.settled().await;
    drop(world.block.accept_transfer(&other, &transfer.id, &key).unwrap());
    assert_eq!((in_use(&world, "p", "volumes"), in_use(&world, "q", "volumes")), (0, 1));
    assert_eq!((in_use(&world, "p", "snapshots"), in_use(&world, "q", "snapshots")), (0, 0));
    world.sound().await;
}

/// A backup of a snapshot reads it, and is recorded as stored only at its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_that_are_being_backed_up_hold_a_transfer_up() {
    let mut world = World::new().await;
    let volume = world.volume("v").await;
    let snapshot = world.snapshot(&volume.id).await;
    let other = caller("q", Role::Member);
    let new = || NewBackup { volume: volume.id.clone(), snapshot: Some(snapshot.id.clone()), ..NewBackup::default() };
    let (hook, held) = hold_at(0);
    world = world.restart(hook).await;
    let first = world.block.create_backup(&admin(), new()).unwrap();
    held.came.notified().await;
    for no_snapshots in [false, true] {
        let refused = world.block.create_transfer(&admin(), &volume.id, None, no_snapshots).unwrap_err();
        assert!(refused.kind == FaultKind::Conflict && refused.message.contains(&first.id), "{refused}");
    }
    held.go.notify_one();
    world.block.settled().await;
    for no_snapshots in [false, true] {
        let (transfer, key) = world.block.create_transfer(&admin(), &volume.id, None, no_snapshots).unwrap();
        // Backed up while it is offered.
        let (hook, held) = hold_at(0);
        world = world.restart(hook).await;
        let second = world.block.create_backup(&admin(), new()).unwrap();
        held.came.notified().await;
        let refused = world.block.accept_transfer(&other, &transfer.id, &key).unwrap_err();
        assert!(refused.kind == FaultKind::Conflict && refused.message.contains(&second.id), "{refused}");
        assert_eq!(world.show(&volume.id).project, "p");
        held.go.notify_one();
        world.block.settled().await;
        match no_snapshots {
            false => world.block.delete_transfer(&admin(), &transfer.id).unwrap(),
            true => drop(world.block.accept_transfer(&other, &transfer.id, &key).unwrap()),
        }
        world.sound().await;
    }
    assert_eq!(world.show(&volume.id).project, "q");
    // An administrator backs up what was left behind: nothing to who has the volume.
    let (hook, held) = hold_at(0);
    world = world.restart(hook).await;
    drop(world.block.create_backup(&admin(), new()).unwrap());
    held.came.notified().await;
    let (transfer, key) = world.block.create_transfer(&other, &volume.id, None, false).unwrap();
    drop(world.block.accept_transfer(&caller("r", Role::Member), &transfer.id, &key).unwrap());
    held.go.notify_one();
    world.block.settled().await;
    assert_eq!(world.show(&volume.id).project, "r");
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_that_were_left_behind_stay_with_the_project_that_has_them() {
    let world = World::new().await;
    let volume = world.volume("v").await;
    let left = world.snapshot(&volume.id).await;
    let (q, r) = (caller("q", Role::Member), caller("r", Role::Member));
    let (transfer, key) = world.block.create_transfer(&admin(), &volume.id, None, true).unwrap();
    drop(world.block.accept_transfer(&q, &transfer.id, &key).unwrap());
    let new = NewSnapshot { volume: volume.id.clone(), ..NewSnapshot::default() };
    let own = world.block.create_snapshot(&q, new).unwrap();
    world.block.settled().await;
    let (transfer, key) = world.block.create_transfer(&q, &volume.id, None, false).unwrap();
    drop(world.block.accept_transfer(&r, &transfer.id, &key).unwrap());
    let project = |id: &str| world.block.find::<Snapshot>(&admin(), id).unwrap().project;
    assert_eq!((project(&left.id).as_str(), project(&own.id).as_str()), ("p", "r"));
    let counts =
        |project: &str| ["volumes", "snapshots", "gigabytes"].map(|resource| in_use(&world, project, resource));
    assert_eq!((counts("p"), counts("q"), counts("r")), ([0, 1, 1], [0, 0, 0], [1, 1, 2]));
    assert_eq!(audit(&world.block.catalog().read(), true).unwrap(), Vec::<String>::new());
    world.sound().await;
    // Nor does the new owner delete it with the volume.
    for cascade in [false, true] {
        let refused = world.block.delete_volume(&r, &volume.id, cascade, false).unwrap_err();
        assert!(refused.kind == FaultKind::BadRequest && refused.message.contains("of another project"), "{refused}");
        assert!(!refused.message.contains(&left.id), "{refused}");
    }
    assert_eq!(project(&left.id), "p");
    world.block.delete_snapshot(&caller("p", Role::Member), &left.id, false).unwrap();
    world.block.settled().await;
    world.block.delete_volume(&r, &volume.id, true, false).unwrap();
    world.block.settled().await;
    assert_eq!(counts("r"), [0, 0, 0]);
    world.sound().await;
}

/// What is frozen or copied is recorded with the size and for the project of the moment: until it is there, the volume stays as it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_being_made_of_a_volume_holds_its_changes_up() {
    let me = admin();
    for made in 0..4 {
        let mut world = World::new().await;
        let volume = world.volume("v").await;
        let earlier = world.snapshot(&volume.id).await;
        let backup = back_up(&world, &volume.id, false).await;
        let (hook, held) = hold_at(0);
        world = world.restart(hook).await;
        let block = &world.block;
        match made {
            0 => {
                let new = NewSnapshot { volume: volume.id.clone(), ..NewSnapshot::default() };
                drop(block.create_snapshot(&me, new).unwrap());
            }
            1 => drop(block.freeze_volumes(&me, std::slice::from_ref(&volume.id), None).unwrap()),
            2 => {
                let new = NewVolume { source: Some(volume.id.clone()), ..NewVolume::default() };
                drop(block.create_volume(&me, new).await.unwrap());
            }
            _ => {
                let new = NewBackup { volume: volume.id.clone(), ..NewBackup::default() };
                drop(block.create_backup(&me, new).unwrap());
                // It would be refused by its state.
                block.reset_volume(&me, &volume.id, Some("available"), None).await.unwrap();
            }
        }
        held.came.notified().await;
        let outcomes = [
            block.extend_volume(&me, &volume.id, 2, false).await,
            block.restore(&me, &backup.id, Some(&volume.id), None).await.map(drop),
            block.revert_volume(&me, &volume.id, &earlier.id, true),
            block.create_transfer(&me, &volume.id, None, true).map(drop),
        ];
        let kinds = outcomes.map(|outcome| outcome.map_err(|fault| fault.kind));
        assert_eq!(kinds, [Err(FaultKind::Conflict); 4], "{made}");
        held.go.notify_one();
        block.settled().await;
        block.extend_volume(&me, &volume.id, 2, false).await.unwrap();
        block.settled().await;
        assert_eq!((world.show(&volume.id).size, world.show(&volume.id).status), (2, VolumeStatus::Available));
        world.sound().await;
    }
}

/// A snapshot of a group is deleted and copied as one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_of_a_group_snapshot_hold_a_transfer_up() {
    let world = World::new().await;
    let (block, me) = (&world.block, admin());
    let (volume, group) = (world.volume("v").await, block.create_group(&me, new_group()).unwrap());
    block.edit_group(&me, &group.id, add(&volume)).unwrap();
    let new = NewGroupSnapshot { group: group.id.clone(), ..NewGroupSnapshot::default() };
    let taken = block.create_group_snapshot(&me, new).unwrap();
    block.settled().await;
    block.edit_group(&me, &group.id, remove(&volume)).unwrap();
    for no_snapshots in [false, true] {
        let refused = block.create_transfer(&me, &volume.id, None, no_snapshots).unwrap_err();
        assert!(refused.kind == FaultKind::Conflict && refused.message.contains(&taken.id), "{refused}");
    }
    block.delete_group_snapshot(&me, &taken.id).unwrap();
    block.settled().await;
    let (transfer, key) = block.create_transfer(&me, &volume.id, None, false).unwrap();
    drop(block.accept_transfer(&caller("q", Role::Member), &transfer.id, &key).unwrap());
    world.sound().await;
}

/// What is made from an old snapshot or backup tells nothing of what the volume's new owner says of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_new_owner_says_of_a_volume_is_theirs() {
    let world = World::new().await;
    let (block, me) = (&world.block, admin());
    let (volume, group) = (world.volume("v").await, block.create_group(&me, new_group()).unwrap());
    let snapshot = world.snapshot(&volume.id).await;
    let backup = back_up(&world, &volume.id, false).await;
    block.edit_group(&me, &group.id, add(&volume)).unwrap();
    let new = NewGroupSnapshot { group: group.id.clone(), ..NewGroupSnapshot::default() };
    let taken = block.create_group_snapshot(&me, new).unwrap();
    block.settled().await;
    block.edit_group(&me, &group.id, remove(&volume)).unwrap();
    // As earlier versions let it go.
    let said = BTreeMap::from([("said".to_owned(), "secret".to_owned())]);
    let handed_over = block.catalog().write(|tx| {
        let mut volume: Volume = tx.require(&volume.id)?;
        tx.hand_over("p", "q", &Claim::volume(&volume.type_id, volume.size))?;
        volume.project = "q".to_owned();
        (volume.name, volume.description) = (Some("secret".to_owned()), Some("secret".to_owned()));
        (volume.metadata, volume.image, volume.bootable) = (said.clone(), said.clone(), true);
        tx.put(&volume)
    });
    handed_over.unwrap();
    let mut made = Vec::new();
    let new = NewVolume { snapshot: Some(snapshot.id), ..NewVolume::default() };
    made.push(block.create_volume(&me, new).await.unwrap());
    let new = NewVolume { backup: Some(backup.id.clone()), ..NewVolume::default() };
    made.push(block.create_volume(&me, new).await.unwrap());
    block.settled().await;
    made.push(block.restore(&me, &backup.id, None, None).await.unwrap().1);
    block.settled().await;
    let copy = block.create_group_from(&me, None, None, &GroupSource::Snapshot(taken.id)).await.unwrap();
    block.settled().await;
    made.extend(block.volumes_in(&copy.id).unwrap());
    assert_eq!(made.len(), 4);
    for volume in made {
        assert!(!format!("{volume:?}").contains("secret") && !volume.bootable, "{volume:?}");
        assert_eq!(world.show(&volume.id).status, VolumeStatus::Available);
    }
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offer_goes_with_its_volume() {
    let world = World::new().await;
    let volume = world.volume("v").await;
    let (transfer, _key) = world.block.create_transfer(&admin(), &volume.id, None, false).unwrap();
    world.block.delete_volume(&admin(), &volume.id, false, true).unwrap();
    world.block.settled().await;
    assert_eq!(world.block.find::<Transfer>(&admin(), &transfer.id).unwrap_err().kind, FaultKind::NotFound);
    world.sound().await;
}
