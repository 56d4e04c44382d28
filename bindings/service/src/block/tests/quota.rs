//! Quotas through operations: exact at every moment, never over-committed by requests that come together.

use super::world::{World, admin, caller};
use crate::{
    block::{NewSnapshot, NewType, NewVolume, Role},
    catalog::audit,
    fault::FaultKind,
};
use std::collections::BTreeMap;

fn used(world: &World, name: &str) -> (i64, i64) {
    let (_, count) = world.block.quota(&admin(), "p").unwrap()[name];
    (count.in_use, count.reserved)
}

fn limit(world: &World, pairs: &[(&str, i64)]) {
    let changes: BTreeMap<String, i64> = pairs.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
    world.block.set_quota(&admin(), Some("p"), &changes).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_clients_together_never_take_more_than_the_limit() {
    let world = World::new().await;
    limit(&world, &[("volumes", 7), ("gigabytes", 9)]);
    let clients: Vec<_> = (0..24)
        .map(|n| {
            let block = world.block.clone();
            let new = NewVolume { size: Some(1 + n % 2), ..NewVolume::default() };
            tokio::spawn(async move { block.create_volume(&admin(), new).await })
        })
        .collect();
    let mut made = Vec::new();
    for client in clients {
        match client.await.unwrap() {
            Ok(volume) => made.push(volume),
            Err(fault) => assert_eq!(fault.kind, FaultKind::OverLimit, "{fault}"),
        }
    }
    let size: u64 = made.iter().map(|volume| volume.size).sum();
    assert!(made.len() <= 7 && size <= 9 && (made.len() == 7 || size >= 8), "{} of {size} GiB", made.len());
    world.block.settled().await;
    assert_eq!(used(&world, "volumes"), (made.len() as i64, 0));
    assert_eq!(used(&world, "gigabytes"), (size as i64, 0));
    world.sound().await;
    // Deleted all at once, each by two clients: one of them is refused, and everything is given back.
    let clients: Vec<_> = made
        .iter()
        .flat_map(|volume| [volume.id.clone(), volume.id.clone()])
        .map(|id| {
            let block = world.block.clone();
            tokio::spawn(async move { block.delete_volume(&admin(), &id, false, false).is_ok() })
        })
        .collect();
    let mut accepted = 0;
    for client in clients {
        accepted += usize::from(client.await.unwrap());
    }
    assert_eq!(accepted, made.len());
    world.block.settled().await;
    assert_eq!((used(&world, "volumes"), used(&world, "gigabytes")), ((0, 0), (0, 0)));
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_resource_is_counted_and_bounded() {
    let world = World::new().await;
    let kind = NewType { name: "gold".to_owned(), description: None, public: true, extra_specs: BTreeMap::new() };
    drop(world.block.create_type(&admin(), kind).unwrap());
    let gold = NewVolume { size: Some(2), volume_type: Some("gold".to_owned()), ..NewVolume::default() };
    let volume = world.made(gold.clone()).await;
    drop(world.snapshot(&volume.id).await);
    assert_eq!(
        (used(&world, "volumes_gold"), used(&world, "gigabytes_gold"), used(&world, "snapshots_gold")),
        ((1, 0), (4, 0), (1, 0))
    );
    assert_eq!(
        (used(&world, "volumes"), used(&world, "gigabytes"), used(&world, "snapshots")),
        ((1, 0), (4, 0), (1, 0))
    );
    let refused = async |new: NewVolume| world.block.create_volume(&admin(), new).await.unwrap_err().kind;
    limit(&world, &[("volumes_gold", 1)]);
    assert_eq!(refused(gold.clone()).await, FaultKind::OverLimit);
    drop(world.volume("of another type").await);
    limit(&world, &[("volumes_gold", -1), ("per_volume_gigabytes", 3)]);
    assert_eq!(refused(NewVolume { size: Some(4), ..gold.clone() }).await, FaultKind::OverLimit);
    assert_eq!(world.block.extend_volume(&admin(), &volume.id, 4, false).await.unwrap_err().kind, FaultKind::OverLimit);
    limit(&world, &[("per_volume_gigabytes", -1), ("gigabytes", 6)]);
    assert_eq!(world.block.extend_volume(&admin(), &volume.id, 4, false).await.unwrap_err().kind, FaultKind::OverLimit);
    world.block.extend_volume(&admin(), &volume.id, 3, false).await.unwrap();
    world.block.settled().await;
    assert_eq!((used(&world, "gigabytes"), used(&world, "gigabytes_gold")), ((6, 0), (5, 0)));
    limit(&world, &[("gigabytes", -1), ("snapshots", 1)]);
    let snapshot = NewSnapshot { volume: volume.id.clone(), ..NewSnapshot::default() };
    assert_eq!(world.block.create_snapshot(&admin(), snapshot).unwrap_err().kind, FaultKind::OverLimit);
    // Another type: its quota is asked, and the old one's is given back.
    limit(&world, &[("volumes___DEFAULT__", 1)]);
    assert_eq!(world.block.retype_volume(&admin(), &volume.id, "__DEFAULT__").unwrap_err().kind, FaultKind::OverLimit);
    limit(&world, &[("volumes___DEFAULT__", 2)]);
    world.block.retype_volume(&admin(), &volume.id, "__DEFAULT__").unwrap();
    world.block.settled().await;
    assert_eq!((used(&world, "volumes_gold"), used(&world, "volumes___DEFAULT__")), ((0, 0), (2, 0)));
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quota_sets_have_their_rules() {
    let world = World::new().await;
    let set = |who: &crate::block::Caller, name: &str, n| {
        world.block.set_quota(who, Some("p"), &BTreeMap::from([(name.to_owned(), n)])).map_err(|fault| fault.kind)
    };
    assert_eq!(set(&admin(), "bananas", 1), Err(FaultKind::BadRequest));
    assert_eq!(set(&admin(), "volumes", -2), Err(FaultKind::BadRequest));
    assert_eq!(set(&caller("p", Role::Member), "volumes", 2), Err(FaultKind::Forbidden));
    assert_eq!(world.block.quota(&caller("q", Role::Member), "p").unwrap_err().kind, FaultKind::Forbidden);
    assert!(world.block.quota(&caller("p", Role::Reader), "p").is_ok());
    set(&admin(), "volumes", 0).unwrap();
    let refused = world.block.create_volume(&admin(), NewVolume { size: Some(1), ..NewVolume::default() }).await;
    assert_eq!(refused.unwrap_err().kind, FaultKind::OverLimit);
    world.block.clear_quota(&admin(), "p").unwrap();
    drop(world.volume("v").await);
    // What failed to be made is there until it is deleted, and counts.
    assert!(audit(&world.block.catalog().read(), true).unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pool_has_its_own_bound() {
    let world = World::new().await;
    world.block.set_quota(&admin(), Some("p"), &BTreeMap::from([("gigabytes".to_owned(), -1)])).unwrap();
    // 128 MiB a million times over are some 128,000 GiB.
    drop(world.made(NewVolume { size: Some(65_536), ..NewVolume::default() }).await);
    let refused = world.block.create_volume(&admin(), NewVolume { size: Some(65_536), ..NewVolume::default() }).await;
    let fault = refused.unwrap_err();
    assert!(fault.kind == FaultKind::OverLimit && fault.message.contains("the pool cannot take"), "{fault}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn clients_that_come_together_are_not_promised_more_than_the_pool_may() {
    let world = World::new().await;
    world.block.set_quota(&admin(), Some("p"), &BTreeMap::from([("gigabytes".to_owned(), -1)])).unwrap();
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let block = world.block.clone();
            let new = NewVolume { size: Some(65_536), ..NewVolume::default() };
            tokio::spawn(async move { block.create_volume(&admin(), new).await.map_err(|fault| fault.kind) })
        })
        .collect();
    let mut made = Vec::new();
    for client in clients {
        match client.await.unwrap() {
            Ok(volume) => made.push(volume),
            Err(kind) => assert_eq!(kind, FaultKind::OverLimit),
        }
    }
    let [volume] = made.as_slice() else { panic!("some 128,000 GiB may be promised: {made:?}") };
    world.block.settled().await;
    // Also where the size is that of the source.
    let snapshot = world.snapshot(&volume.id).await;
    let sources = [
        NewVolume { source: Some(volume.id.clone()), ..NewVolume::default() },
        NewVolume { snapshot: Some(snapshot.id), ..NewVolume::default() },
    ];
    for new in sources {
        assert_eq!(world.block.create_volume(&admin(), new).await.unwrap_err().kind, FaultKind::OverLimit);
    }
    world.sound().await;
}
