//! Groups: what is refused, what they count, and limits of projects.

use super::world::{World, admin, both, caller, free, freeze_at, hold_at};
use crate::{
    block::{GroupEdit, GroupSource, NewGroup, NewGroupSnapshot, NewGroupType, NewType, NewVolume, Role},
    catalog::{Group, GroupSnapshot, Snapshot, Volume},
    domain::{QuotaKey, Resource, VolumeStatus},
    fault::FaultKind,
};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn new_group() -> NewGroup {
    NewGroup {
        group_type: "default_group_type".to_owned(),
        volume_types: vec!["__DEFAULT__".to_owned()],
        ..NewGroup::default()
    }
}

pub(super) fn add(volume: &Volume) -> GroupEdit {
    GroupEdit { add: vec![volume.id.clone()], ..GroupEdit::default() }
}

pub(super) fn remove(volume: &Volume) -> GroupEdit {
    GroupEdit { remove: vec![volume.id.clone()], ..GroupEdit::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_come_and_go_and_a_group_is_deleted_when_it_may() {
    let world = World::new().await;
    let (block, me) = (&world.block, admin());
    let bad = |outcome: crate::fault::Answer<()>| assert_eq!(outcome.unwrap_err().kind, FaultKind::BadRequest);
    let none = NewGroup { volume_types: Vec::new(), ..new_group() };
    bad(block.create_group(&me, none).map(drop));
    let unknown = NewGroup { group_type: "none".to_owned(), ..new_group() };
    assert_eq!(block.create_group(&me, unknown).unwrap_err().kind, FaultKind::NotFound);
    let group = block.create_group(&me, new_group()).unwrap();
    let in_it = NewVolume { size: Some(1), group: Some(group.id.clone()), ..NewVolume::default() };
    let volume = world.made(in_it.clone()).await;
    assert_eq!(volume.group_id.as_ref(), Some(&group.id));
    let gold = NewType { name: "gold".to_owned(), description: None, public: true, extra_specs: BTreeMap::new() };
    let gold = block.create_type(&me, gold).unwrap();
    bad(block.create_volume(&me, NewVolume { volume_type: Some("gold".to_owned()), ..in_it }).await.map(drop));
    bad(block.retype_volume(&me, &volume.id, "gold"));
    bad(block.delete_volume(&me, &volume.id, false, false));
    bad(block.create_transfer(&me, &volume.id, None, false).map(drop));
    bad(block.edit_group(&me, &group.id, add(&volume)));
    let lone = world.volume("lone").await;
    bad(block.edit_group(&me, &group.id, remove(&lone)));
    block.edit_group(&me, &group.id, add(&lone)).unwrap();
    assert_eq!(block.volumes_in(&group.id).unwrap().len(), 2);
    block.edit_group(&me, &group.id, remove(&lone)).unwrap();
    // Of a type that a group names, or that a group is of.
    let both = NewGroup { volume_types: vec!["gold".to_owned(), "__DEFAULT__".to_owned()], ..new_group() };
    let both = block.create_group(&me, both).unwrap();
    bad(block.delete_type(&me, &gold.id));
    let kind = NewGroupType { name: "k".to_owned(), description: None, public: false, specs: BTreeMap::new() };
    let kind = block.create_group_type(&me, kind).unwrap();
    let of_kind = block.create_group(&me, NewGroup { group_type: "k".to_owned(), ..new_group() }).unwrap();
    bad(block.delete_group_type(&me, &kind.id));
    let other = caller("q", Role::Member);
    assert_eq!(
        block.create_group(&other, NewGroup { group_type: "k".to_owned(), ..new_group() }).unwrap_err().kind,
        FaultKind::NotFound
    );
    // Another project's group is not there.
    assert_eq!(block.find::<Group>(&other, &group.id).unwrap_err().kind, FaultKind::NotFound);
    assert_eq!(block.delete_group(&other, &group.id, true).unwrap_err().kind, FaultKind::NotFound);
    // With volumes only together with them; not with snapshots.
    bad(block.delete_group(&me, &group.id, false));
    let taken = block
        .create_group_snapshot(&me, NewGroupSnapshot { group: group.id.clone(), ..NewGroupSnapshot::default() })
        .unwrap();
    block.settled().await;
    bad(block.delete_group(&me, &group.id, true));
    let part = block.catalog().read().all::<Snapshot>().unwrap().remove(0);
    bad(block.delete_snapshot(&me, &part.id, false));
    block.delete_group_snapshot(&me, &taken.id).unwrap();
    block.settled().await;
    assert_eq!(block.find::<GroupSnapshot>(&me, &taken.id).unwrap_err().kind, FaultKind::NotFound);
    for (group, with) in [(&group, true), (&both, false), (&of_kind, false)] {
        block.delete_group(&me, &group.id, with).unwrap();
    }
    block.settled().await;
    block.delete_group_type(&me, &kind.id).unwrap();
    block.delete_type(&me, &gold.id).unwrap();
    assert!(block.find::<Volume>(&me, &volume.id).is_err() && block.find::<Volume>(&me, &lone.id).is_ok());
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quotas_count_groups_and_all_that_is_copied_with_them() {
    let world = World::new().await;
    let (block, me) = (&world.block, admin());
    let limit = |resource: Resource, n: i64| {
        block.catalog().write(|tx| tx.set_limits(Some("p"), &[(QuotaKey::of(resource), n)])).unwrap();
    };
    limit(Resource::Groups, 1);
    let group = block.create_group(&me, new_group()).unwrap();
    assert_eq!(block.create_group(&me, new_group()).unwrap_err().kind, FaultKind::OverLimit);
    for name in ["a", "b"] {
        let volume = world.volume(name).await;
        block.edit_group(&me, &group.id, add(&volume)).unwrap();
    }
    let source = GroupSource::Group(group.id.clone());
    assert_eq!(block.create_group_from(&me, None, None, &source).await.unwrap_err().kind, FaultKind::OverLimit);
    limit(Resource::Groups, 2);
    limit(Resource::Volumes, 3);
    assert_eq!(block.create_group_from(&me, None, None, &source).await.unwrap_err().kind, FaultKind::OverLimit);
    limit(Resource::Snapshots, 1);
    let new = NewGroupSnapshot { group: group.id.clone(), ..NewGroupSnapshot::default() };
    assert_eq!(block.create_group_snapshot(&me, new.clone()).unwrap_err().kind, FaultKind::OverLimit);
    world.sound().await;
    limit(Resource::Volumes, 4);
    limit(Resource::Snapshots, 2);
    drop(block.create_group_snapshot(&me, new).unwrap());
    block.settled().await;
    drop(block.create_group_from(&me, None, None, &source).await.unwrap());
    block.settled().await;
    let count = |resource: Resource| block.catalog().read().count("p", &QuotaKey::of(resource)).unwrap().in_use;
    assert_eq!((count(Resource::Groups), count(Resource::Volumes), count(Resource::Snapshots)), (2, 4, 2));
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_of_several_volumes_takes_all_or_none() {
    let world = World::new().await;
    let (block, me) = (&world.block, admin());
    let (one, two) = (world.volume("one").await, world.volume("two").await);
    let freeze = |ids: &[&str]| {
        let ids: Vec<String> = ids.iter().map(|id| (*id).to_owned()).collect();
        block.freeze_volumes(&me, &ids, None).map(|taken| taken.len())
    };
    assert_eq!(freeze(&[]).unwrap_err().kind, FaultKind::BadRequest);
    assert_eq!(freeze(&[&one.id, &one.id]).unwrap_err().kind, FaultKind::BadRequest);
    assert_eq!(freeze(&[&one.id, "none"]).unwrap_err().kind, FaultKind::NotFound);
    block.reset_volume(&me, &two.id, Some("error"), None).await.unwrap();
    assert_eq!(freeze(&[&one.id, &two.id]).unwrap_err().kind, FaultKind::BadRequest);
    assert!(block.catalog().read().all::<Snapshot>().unwrap().is_empty());
    block.reset_volume(&me, &two.id, Some("available"), None).await.unwrap();
    assert_eq!(freeze(&[&one.id, &two.id]), Ok(2));
    block.settled().await;
    world.sound().await;
    // They are deleted one by one, like any others.
    for snapshot in block.catalog().read().all::<Snapshot>().unwrap() {
        block.delete_snapshot(&me, &snapshot.id, false).unwrap();
    }
    block.settled().await;
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_a_group_has_the_types_of_the_moment_that_it_is_of() {
    let world = World::new().await;
    let (block, me) = (&world.block, admin());
    let volume = world.volume("v").await;
    let group = block.create_group(&me, new_group()).unwrap();
    block.edit_group(&me, &group.id, add(&volume)).unwrap();
    let new = NewGroupSnapshot { group: group.id.clone(), ..NewGroupSnapshot::default() };
    let taken = block.create_group_snapshot(&me, new).unwrap();
    block.settled().await;
    // Out of the group the volume becomes one of a type that the group does not have.
    block.edit_group(&me, &group.id, remove(&volume)).unwrap();
    let gold = NewType { name: "gold".to_owned(), description: None, public: true, extra_specs: BTreeMap::new() };
    drop(block.create_type(&me, gold).unwrap());
    block.retype_volume(&me, &volume.id, "gold").unwrap();
    block.settled().await;
    let copy = block.create_group_from(&me, None, None, &GroupSource::Snapshot(taken.id)).await.unwrap();
    block.settled().await;
    let copies = block.volumes_in(&copy.id).unwrap();
    assert_eq!(copies.len(), 1);
    assert!(copies.iter().all(|copied| copy.volume_types.contains(&copied.type_id)), "{copies:?} {copy:?}");
    world.sound().await;
}

/// Its type may not be the project's any more, or name another back-end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_a_group_has_types_that_a_new_volume_could_have() {
    let world = World::new().await;
    let (block, me, member) = (&world.block, admin(), caller("p", Role::Member));
    let gold = NewType { name: "gold".to_owned(), description: None, public: true, extra_specs: BTreeMap::new() };
    let gold = block.create_type(&me, gold).unwrap();
    let group = NewGroup { volume_types: vec!["__DEFAULT__".to_owned(), "gold".to_owned()], ..new_group() };
    let group = block.create_group(&me, group).unwrap();
    for name in ["__DEFAULT__", "gold"] {
        let new = NewVolume { size: Some(1), volume_type: Some(name.to_owned()), ..NewVolume::default() };
        let volume = world.made(new).await;
        block.edit_group(&me, &group.id, add(&volume)).unwrap();
    }
    let new = NewGroupSnapshot { group: group.id.clone(), ..NewGroupSnapshot::default() };
    let taken = block.create_group_snapshot(&me, new).unwrap();
    block.settled().await;
    let sources = [GroupSource::Group(group.id), GroupSource::Snapshot(taken.id)];
    let change = |public: bool, back_end: Option<&str>| {
        let changed = block.change_type(&me, &gold.id, |kind| {
            kind.public = public;
            kind.extra_specs =
                back_end.map(|name| ("volume_backend_name".to_owned(), name.to_owned())).into_iter().collect();
            Ok(())
        });
        drop(changed.unwrap());
    };
    for source in &sources {
        change(true, Some("other"));
        for who in [&member, &me] {
            let fault = block.create_group_from(who, None, None, source).await.unwrap_err();
            assert!(fault.kind == FaultKind::BadRequest && fault.message.contains("volume_backend_name"), "{fault}");
        }
        change(false, None);
        let fault = block.create_group_from(&member, None, None, source).await.unwrap_err();
        assert_eq!(fault.kind, FaultKind::NotFound, "{fault}");
        change(true, Some("cairn"));
        drop(block.create_group_from(&member, None, None, source).await.unwrap());
        block.settled().await;
    }
    assert_eq!(block.catalog().read().all::<Group>().unwrap().len(), 3);
    world.sound().await;
}

/// The copy of one volume fails, and the service ends while the others are being taken back: done again, all are of one moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_a_group_is_of_one_moment_or_fails() {
    for ends in [true, false] {
        let mut world = World::new().await;
        let me = admin();
        let group = world.block.create_group(&me, new_group()).unwrap();
        let mut volumes = Vec::new();
        for name in ["one", "two"] {
            let volume = world.volume(name).await;
            world.write(&volume, 1).await;
            world.block.edit_group(&me, &group.id, add(&volume)).unwrap();
            volumes.push(volume);
        }
        // Recorded, frozen, the first one cloned; both clones gone.
        let ((copying, held), (dying, frozen)) = (hold_at(2), freeze_at(if ends { 4 } else { usize::MAX }));
        world = world.restart(both(copying, dying)).await;
        let copy = world.block.create_group_from(&me, None, None, &GroupSource::Group(group.id.clone())).await.unwrap();
        held.came.notified().await;
        let copies = world.block.volumes_in(&copy.id).unwrap();
        let through: Vec<_> = world.pool.snapshots(None, false).await.unwrap();
        let there: BTreeSet<String> = world.pool.volumes(false).await.unwrap().into_iter().map(|v| v.name).collect();
        let missing: Vec<_> = copies.iter().filter(|volume| !there.contains(&volume.engine_name())).collect();
        assert_eq!((through.len(), missing.len()), (2, 1));
        // What the second one is cloned from goes.
        let name = format!("clone-{}", missing[0].id);
        let lost = through.iter().find(|snapshot| snapshot.name == name).unwrap();
        let target = format!("{}@{}", lost.volume, lost.name).parse().unwrap();
        world.pool.delete_snapshot(&target).await.unwrap();
        for volume in &volumes {
            world.write(volume, 2).await;
        }
        held.go.notify_one();
        if ends {
            tokio::select! {
                () = frozen.notified() => {}
                () = world.block.settled() => panic!("the clone that was made is not taken back"),
            }
            world = world.restart(free()).await;
            assert_eq!(world.block.resume().unwrap(), 1);
        }
        world.block.settled().await;
        let stored: BTreeSet<String> = world.pool.volumes(false).await.unwrap().into_iter().map(|v| v.name).collect();
        for volume in world.block.volumes_in(&copy.id).unwrap() {
            assert_eq!(volume.status, if ends { VolumeStatus::Available } else { VolumeStatus::Error });
            assert_eq!(stored.contains(&volume.engine_name()), ends);
            if ends {
                assert_eq!(world.first_byte(&volume.id).await, 2);
            }
        }
        world.sound().await;
    }
}
