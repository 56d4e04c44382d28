//! What is refused, and what is allowed.

use super::world::{World, admin, caller, free, freeze_at};
use crate::{
    block::{Caller, Edit, NewQos, NewSnapshot, NewType, NewVolume, Role},
    catalog::{Consumer, Message, Paging, Snapshot, Volume, VolumeType},
    domain::VolumeStatus,
    fault::{Answer, FaultKind},
};
use std::collections::BTreeMap;

fn kind<T>(outcome: Answer<T>) -> FaultKind {
    outcome.map(drop).unwrap_err().kind
}

fn new(size: u64) -> NewVolume {
    NewVolume { size: Some(size), ..NewVolume::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_sizes_and_sources_are_checked() {
    let world = World::new().await;
    let make = async |new: NewVolume| kind(world.block.create_volume(&admin(), new).await);
    for size in [0, 65_537] {
        assert_eq!(make(new(size)).await, FaultKind::BadRequest);
    }
    assert_eq!(make(NewVolume::default()).await, FaultKind::BadRequest, "neither size nor source");
    assert_eq!(make(NewVolume { name: Some("x".repeat(129)), ..new(1) }).await, FaultKind::BadRequest);
    assert_eq!(make(NewVolume { snapshot: Some("none".to_owned()), ..new(1) }).await, FaultKind::NotFound);
    assert_eq!(make(NewVolume { source: Some("none".to_owned()), ..new(1) }).await, FaultKind::NotFound);
    assert_eq!(make(NewVolume { volume_type: Some("none".to_owned()), ..new(1) }).await, FaultKind::NotFound);
    assert_eq!(make(NewVolume { zone: Some("moon".to_owned()), ..new(1) }).await, FaultKind::BadRequest);
    let volume = world.made(NewVolume { name: Some("é".repeat(128)), ..new(2) }).await;
    let snapshot = world.snapshot(&volume.id).await;
    let from = NewVolume { snapshot: Some(snapshot.id.clone()), ..NewVolume::default() };
    assert_eq!(make(NewVolume { size: Some(1), ..from.clone() }).await, FaultKind::BadRequest, "smaller");
    let two = NewVolume { source: Some(volume.id.clone()), ..from.clone() };
    assert_eq!(make(two).await, FaultKind::BadRequest, "two sources");
    // The size of the source, unless another is named.
    assert_eq!(world.made(from).await.size, 2);
    assert_eq!(
        world.made(NewVolume { source: Some(volume.id.clone()), size: Some(3), ..NewVolume::default() }).await.size,
        3
    );
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_projects_see_nothing_and_administrators_everything() {
    let world = World::new().await;
    let volume = world.volume("v").await;
    let snapshot = world.snapshot(&volume.id).await;
    let (stranger, member) = (caller("q", Role::Member), caller("p", Role::Member));
    let sees = |who: &Caller| world.block.find::<Volume>(who, &volume.id).is_ok();
    assert!(sees(&member) && sees(&caller("q", Role::Admin)) && !sees(&stranger));
    assert_eq!(kind(world.block.find::<Snapshot>(&stranger, &snapshot.id)), FaultKind::NotFound);
    assert_eq!(kind(world.block.delete_volume(&stranger, &volume.id, true, false)), FaultKind::NotFound);
    assert_eq!(kind(world.block.delete_snapshot(&stranger, &snapshot.id, false)), FaultKind::NotFound);
    assert_eq!(kind(world.block.extend_volume(&stranger, &volume.id, 2, false).await), FaultKind::NotFound);
    let of_other = NewVolume { source: Some(volume.id.clone()), ..NewVolume::default() };
    assert_eq!(kind(world.block.create_volume(&stranger, of_other).await), FaultKind::NotFound);
    assert_eq!(kind(world.block.create_transfer(&stranger, &volume.id, None, false)), FaultKind::NotFound);
    assert_eq!(kind(world.block.reset_volume(&member, &volume.id, Some("error"), None).await), FaultKind::Forbidden);
    let paging = |project| Paging { project, limit: 10, offset: 0, marker: None, order: None, count: false };
    let seen = |project| world.block.catalog().read().page::<Volume>(&paging(project), |_| true).unwrap().items.len();
    assert_eq!((seen(Some("p")), seen(Some("q")), seen(None)), (1, 0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_with_snapshots_is_deleted_only_with_them() {
    let world = World::new().await;
    let volume = world.volume("v").await;
    let snapshot = world.snapshot(&volume.id).await;
    assert_eq!(kind(world.block.delete_volume(&admin(), &volume.id, false, false)), FaultKind::BadRequest);
    world.block.reset_snapshot(&admin(), &snapshot.id, "backing-up").unwrap();
    assert_eq!(kind(world.block.delete_volume(&admin(), &volume.id, true, false)), FaultKind::BadRequest);
    world.block.reset_snapshot(&admin(), &snapshot.id, "error").unwrap();
    world.block.delete_volume(&admin(), &volume.id, true, false).unwrap();
    world.block.settled().await;
    assert_eq!(kind(world.block.find::<Snapshot>(&admin(), &snapshot.id)), FaultKind::NotFound);
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_engine_refuses_ends_in_a_state_that_the_owner_can_clear() {
    let world = World::new().await;
    let volume = world.volume("v").await;
    // Somebody has it open, of whom the catalog knows nothing.
    let open = world.pool.volume(&volume.engine_name()).await.unwrap();
    world.block.delete_volume(&admin(), &volume.id, false, false).unwrap();
    world.block.settled().await;
    assert_eq!(world.show(&volume.id).status, VolumeStatus::ErrorDeleting);
    let paging = Paging { project: Some("p"), limit: 10, offset: 0, marker: None, order: None, count: false };
    let messages = world.block.catalog().read().page::<Message>(&paging, |_| true).unwrap().items;
    assert_eq!((messages.len(), messages[0].resource.as_str()), (1, volume.id.as_str()));
    assert!(messages[0].text.contains("attached"), "{}", messages[0].text);
    drop(open);
    world.block.delete_volume(&admin(), &volume.id, false, false).unwrap();
    world.block.settled().await;
    assert_eq!(kind(world.block.find::<Volume>(&admin(), &volume.id)), FaultKind::NotFound);
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revert_takes_the_latest_snapshot_of_the_same_size_and_nobody_who_looks() {
    let world = World::new().await;
    let volume = world.volume("v").await;
    world.write(&volume, 1).await;
    let first = world.snapshot(&volume.id).await;
    let second = world.snapshot(&volume.id).await;
    let revert = |snapshot: &str| world.block.revert_volume(&admin(), &volume.id, snapshot, false);
    assert_eq!(kind(revert(&first.id)), FaultKind::BadRequest);
    assert_eq!(kind(revert("none")), FaultKind::NotFound);
    world.write(&volume, 2).await;
    let open = world.pool.volume(&volume.engine_name()).await.unwrap();
    revert(&second.id).unwrap();
    world.block.settled().await;
    // Refused by the engine: nothing has changed, so it is available as before.
    assert_eq!(world.show(&volume.id).status, VolumeStatus::Available);
    drop(open);
    assert_eq!(world.first_byte(&volume.id).await, 2);
    let world = world.restart(freeze_at(0).0).await;
    let revert = |world: &World, snapshot: &str| world.block.revert_volume(&admin(), &volume.id, snapshot, false);
    revert(&world, &second.id).unwrap();
    assert_eq!(kind(revert(&world, &second.id)), FaultKind::Conflict, "one at a time");
    assert_eq!(kind(world.block.delete_snapshot(&admin(), &second.id, false)), FaultKind::BadRequest);
    let world = world.restart(free()).await;
    assert_eq!(world.block.resume().unwrap(), 1);
    world.block.settled().await;
    assert_eq!(world.first_byte(&volume.id).await, 1);
    world.block.extend_volume(&admin(), &volume.id, 2, false).await.unwrap();
    world.block.settled().await;
    assert_eq!(kind(revert(&world, &second.id)), FaultKind::BadRequest, "extended since");
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn types_and_their_qos_have_their_rules() {
    let world = World::new().await;
    let (block, me) = (&world.block, admin());
    let specs = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
    let qos = |name: &str, specs| NewQos { name: name.to_owned(), consumer: Consumer::Both, specs };
    assert_eq!(kind(block.create_qos(&me, qos("bad", specs("bananas", "3")))), FaultKind::BadRequest);
    let limits = block.create_qos(&me, qos("slow", specs("total_iops_sec", "500"))).unwrap();
    assert_eq!(kind(block.create_qos(&me, qos("slow", BTreeMap::new()))), FaultKind::Conflict);
    let private =
        NewType { name: "private".to_owned(), description: None, public: false, extra_specs: BTreeMap::new() };
    let made = block.create_type(&me, private.clone()).unwrap();
    assert_eq!(kind(block.create_type(&me, private)), FaultKind::Conflict);
    let (member, wanted) = (caller("p", Role::Member), NewVolume { volume_type: Some("private".to_owned()), ..new(1) });
    assert_eq!(kind(block.create_volume(&member, wanted.clone()).await), FaultKind::NotFound);
    let open = |kind: &mut VolumeType| {
        kind.projects.extend(["p".to_owned()]);
        Ok(())
    };
    drop(block.change_type(&me, &made.id, open).unwrap());
    let volume = block.create_volume(&member, wanted).await.unwrap();
    block.settled().await;
    let rate = async || {
        let target = volume.engine_name().parse().unwrap();
        world.pool.qos(&target).await.unwrap().rates.get("total_iops_sec").copied()
    };
    assert_eq!(rate().await, None);
    block.associate_qos(&me, &limits.id, &made.id).await.unwrap();
    assert_eq!(rate().await, Some(500), "at once");
    let faster = |specs: &mut crate::catalog::QosSpec| {
        drop(specs.specs.insert("total_iops_sec".to_owned(), "900".to_owned()));
        Ok(())
    };
    drop(block.change_qos(&me, &limits.id, faster).await.unwrap());
    assert_eq!(rate().await, Some(900));
    assert_eq!(kind(block.delete_qos(&me, &limits.id, false).await), FaultKind::BadRequest);
    assert_eq!(kind(block.delete_type(&me, &made.id)), FaultKind::BadRequest, "in use");
    block.disassociate_qos(&me, &limits.id, None).await.unwrap();
    assert_eq!(rate().await, None);
    block.delete_qos(&me, &limits.id, false).await.unwrap();
    block.delete_volume(&member, &volume.id, false, false).unwrap();
    block.settled().await;
    block.delete_type(&me, &made.id).unwrap();
    let default = block.volume_type(&member, "default").unwrap();
    assert_eq!(kind(block.delete_type(&me, &default.id)), FaultKind::BadRequest);
    assert_eq!(kind(block.delete_type(&member, &default.id)), FaultKind::Forbidden);
    assert_eq!(block.catalog().read().all::<VolumeType>().unwrap().len(), 1);
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_goes_to_another_project_with_its_quota_for_whoever_has_the_key() {
    let world = World::new().await;
    let volume = world.volume("v").await;
    let snapshot = world.snapshot(&volume.id).await;
    let (other, block) = (caller("q", Role::Member), &world.block);
    let (transfer, key) = block.create_transfer(&admin(), &volume.id, Some("t".to_owned()), false).unwrap();
    assert_eq!(world.show(&volume.id).status, VolumeStatus::AwaitingTransfer);
    assert!(!transfer.key_hash.contains(&key));
    assert_eq!(kind(block.delete_volume(&admin(), &volume.id, true, false)), FaultKind::BadRequest);
    assert_eq!(kind(block.accept_transfer(&other, &transfer.id, "wrong")), FaultKind::BadRequest);
    block.set_quota(&admin(), Some("q"), &BTreeMap::from([("volumes".to_owned(), 0)])).unwrap();
    assert_eq!(kind(block.accept_transfer(&other, &transfer.id, &key)), FaultKind::OverLimit);
    block.clear_quota(&admin(), "q").unwrap();
    drop(block.accept_transfer(&other, &transfer.id, &key).unwrap());
    assert_eq!(kind(block.accept_transfer(&other, &transfer.id, &key)), FaultKind::NotFound, "once");
    assert_eq!(block.find::<Volume>(&other, &volume.id).unwrap().status, VolumeStatus::Available);
    assert!(block.find::<Snapshot>(&other, &snapshot.id).is_ok());
    assert_eq!(kind(block.find::<Volume>(&caller("p", Role::Member), &volume.id)), FaultKind::NotFound);
    let (again, _) = block.create_transfer(&other, &volume.id, None, false).unwrap();
    block.delete_transfer(&other, &again.id).unwrap();
    assert_eq!(world.show(&volume.id).status, VolumeStatus::Available);
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn administrators_set_states_by_hand_and_the_truth_stays() {
    let world = World::new().await;
    let volume = world.volume("v").await;
    let reset = async |status| world.block.reset_volume(&admin(), &volume.id, Some(status), None).await;
    assert_eq!(kind(reset("bananas").await), FaultKind::BadRequest);
    assert_eq!(kind(reset("in-use").await), FaultKind::BadRequest, "without an attachment");
    for status in VolumeStatus::ALL.iter().filter(|status| **status != VolumeStatus::InUse) {
        reset(status.as_str()).await.unwrap();
        assert_eq!(world.show(&volume.id).status, *status);
    }
    reset("maintenance").await.unwrap();
    let snapshot = NewSnapshot { volume: volume.id.clone(), force: true, ..NewSnapshot::default() };
    assert_eq!(kind(world.block.create_snapshot(&admin(), snapshot)), FaultKind::BadRequest);
    assert_eq!(kind(world.block.extend_volume(&admin(), &volume.id, 2, true).await), FaultKind::BadRequest);
    let edit = Edit { name: Some(Some("other".to_owned())), ..Edit::default() };
    assert_eq!(world.block.edit_volume(&admin(), &volume.id, edit).unwrap().name.as_deref(), Some("other"));
    world.block.delete_volume(&admin(), &volume.id, false, true).unwrap();
    world.block.settled().await;
    world.sound().await;
}
