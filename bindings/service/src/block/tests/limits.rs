//! Limits that are set while volumes are in use: what stands before what, and what a restart brings back.

use super::{
    boundaries::PATIENCE,
    world::{World, admin, caller, free, hold_at},
};
use crate::{
    block::{Attach, NewQos, NewType, NewVolume, Role},
    catalog::{Consumer, ProjectQos, QosSpec, VolumeType, engine_volume},
    domain::VolumeStatus,
    fault::FaultKind,
};
use cairn_engine::QosTarget;
use futures_util::FutureExt;
use std::collections::BTreeMap;

/// A type with limits; it, and its specs.
async fn slow(world: &World, iops: &str) -> (VolumeType, QosSpec) {
    let specs = BTreeMap::from([("total_iops_sec".to_owned(), iops.to_owned())]);
    let qos = NewQos { name: format!("slow {iops}"), consumer: Consumer::BackEnd, specs };
    let qos = world.block.create_qos(&admin(), qos).unwrap();
    let kind = NewType { name: format!("slow {iops}"), description: None, public: true, extra_specs: BTreeMap::new() };
    let kind = world.block.create_type(&admin(), kind).unwrap();
    world.block.associate_qos(&admin(), &qos.id, &kind.id).await.unwrap();
    (kind, qos)
}

type Changes = Vec<(String, Option<String>)>;

fn set(pairs: &[(&str, &str)]) -> Option<Changes> {
    Some(
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (!value.is_empty()).then(|| (*value).to_owned())))
            .collect(),
    )
}

async fn rate(world: &World, volume: &str, key: &str) -> Option<u64> {
    world.pool.qos(&engine_volume(volume).parse().unwrap()).await.unwrap().rates.get(key).copied()
}

async fn group(world: &World, volume: &str) -> Option<String> {
    world.pool.qos(&engine_volume(volume).parse().unwrap()).await.unwrap().group
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volumes_own_limits_stand_before_those_of_its_type() {
    let mut world = World::new().await;
    let me = admin();
    let specs = BTreeMap::from([("total_iops_sec".to_owned(), "5000".to_owned())]);
    let qos = NewQos { name: "slow".to_owned(), consumer: Consumer::BackEnd, specs };
    let qos = world.block.create_qos(&me, qos).unwrap();
    let kind = NewType { name: "slow".to_owned(), description: None, public: true, extra_specs: BTreeMap::new() };
    let kind = world.block.create_type(&me, kind).unwrap();
    world.block.associate_qos(&me, &qos.id, &kind.id).await.unwrap();
    let new = NewVolume { size: Some(1), volume_type: Some("slow".to_owned()), ..NewVolume::default() };
    let volume = world.made(new).await.id;
    assert_eq!(rate(&world, &volume, "total_iops_sec").await, Some(5000));
    world.block.set_volume_limits(&me, &volume, set(&[("total_iops_sec", "70"), ("weight", "4")])).await.unwrap();
    assert_eq!(rate(&world, &volume, "total_iops_sec").await, Some(70));
    // A change of the type's specs, and another start, leave them alone.
    let changed = world.block.change_qos(&me, &qos.id, |specs| {
        drop(specs.specs.insert("read_bytes_sec".to_owned(), "1048576".to_owned()));
        Ok(())
    });
    drop(changed.await.unwrap());
    world = world.restart(free()).await;
    world.block.limit_all().await.unwrap();
    assert_eq!(rate(&world, &volume, "total_iops_sec").await, Some(70));
    assert_eq!(rate(&world, &volume, "read_bytes_sec").await, Some(1 << 20));
    for wrong in [&[("total_iops_sec", "many")][..], &[("bananas", "1")], &[("group", "a/b")], &[]] {
        let refused = world.block.set_volume_limits(&me, &volume, set(wrong)).await.unwrap_err();
        assert_eq!(refused.kind, FaultKind::BadRequest, "{wrong:?}");
    }
    let member = caller("p", Role::Member);
    assert_eq!(world.block.set_volume_limits(&member, &volume, None).await.unwrap_err().kind, FaultKind::Forbidden);
    assert_eq!(world.block.volume_limits(&member, &volume).await.unwrap().1.len(), 2);
    world.block.set_volume_limits(&me, &volume, set(&[("total_iops_sec", "")])).await.unwrap();
    assert_eq!(rate(&world, &volume, "total_iops_sec").await, Some(5000));
    world.block.set_volume_limits(&me, &volume, None).await.unwrap();
    assert!(world.block.volume_limits(&me, &volume).await.unwrap().1.is_empty());
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_volumes_of_a_project_share_its_limits() {
    let mut world = World::new().await;
    let me = admin();
    let first = world.volume("first").await.id;
    world.block.set_project_limits(&me, "p", set(&[("total_bytes_sec", "8MiB")])).await.unwrap();
    let second = world.volume("second").await.id;
    assert_eq!(
        (group(&world, &first).await, group(&world, &second).await),
        (Some("project-p".into()), Some("project-p".into()))
    );
    let info = world.block.project_limits(&caller("p", Role::Reader), "p").await.unwrap().unwrap();
    assert_eq!((info.rates["total_bytes_sec"], info.members.len()), (8 << 20, 2));
    assert!(world.block.project_limits(&caller("q", Role::Member), "p").await.is_err());
    assert!(world.block.project_limits(&me, "q").await.unwrap().is_none());
    // A group of its own stands before that of its project; without it, it is back.
    world.block.set_volume_limits(&me, &first, set(&[("group", "gold")])).await.unwrap();
    assert_eq!(group(&world, &first).await.as_deref(), Some("gold"));
    world.block.set_volume_limits(&me, &first, set(&[("group", "")])).await.unwrap();
    assert_eq!(group(&world, &first).await.as_deref(), Some("project-p"));
    // In another project it is not in this one's group any more.
    let (transfer, key) = world.block.create_transfer(&me, &second, None, false).unwrap();
    drop(world.block.accept_transfer(&caller("q", Role::Member), &transfer.id, &key).unwrap());
    // The service ends before it could say so to the engine.
    world = world.restart(free()).await;
    world.block.apply_limits(&second).await.unwrap();
    assert_eq!(group(&world, &second).await, None);
    world.block.set_project_limits(&me, "p", None).await.unwrap();
    assert_eq!(group(&world, &first).await, None);
    // Of a group and the pool.
    let target: QosTarget = "/gold".parse().unwrap();
    let info = world.block.set_engine_limits(&me, &target, set(&[("total_iops_sec", "100")])).await.unwrap();
    assert_eq!(info.rates["total_iops_sec"], 100);
    drop(world.block.set_engine_limits(&me, &QosTarget::Pool, set(&[("queue_depth", "8")])).await.unwrap());
    assert!(world.block.set_engine_limits(&me, &target, set(&[("queue_depth", "8")])).await.is_err());
    assert!(world.block.all_limits(&caller("p", Role::Member)).await.is_err());
    drop(world.block.set_engine_limits(&me, &target, None).await.unwrap());
    world.sound().await;
}

/// What the catalog says reached it, and not the engine: the process ended in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_that_were_taken_away_are_gone_after_the_next_start() {
    let world = World::new().await;
    let me = admin();
    let (kind, _) = slow(&world, "5000").await;
    let new = NewVolume { size: Some(1), volume_type: Some(kind.name.clone()), ..NewVolume::default() };
    let typed = world.made(new).await.id;
    let own = world.volume("own").await.id;
    world.block.set_volume_limits(&me, &own, set(&[("total_iops_sec", "70")])).await.unwrap();
    world.block.set_project_limits(&me, "p", set(&[("total_bytes_sec", "8MiB")])).await.unwrap();
    let untied = world.block.catalog().write(|tx| {
        tx.put(&VolumeType { qos_id: None, ..tx.require(&kind.id)? })?;
        tx.put(&crate::catalog::Volume { qos: BTreeMap::new(), ..tx.require(&own)? })?;
        tx.remove::<ProjectQos>("p")
    });
    untied.unwrap();
    assert_eq!(rate(&world, &typed, "total_iops_sec").await, Some(5000));
    world.block.limit_all().await.unwrap();
    for volume in [&typed, &own] {
        assert_eq!((rate(&world, volume, "total_iops_sec").await, group(&world, volume).await), (None, None));
    }
    let left: Vec<String> = world.pool.qos_list().await.unwrap().into_iter().map(|info| info.target).collect();
    assert_eq!(left, ["/"], "nothing but the pool's is left");
    world.sound().await;
}

/// A client that goes away, or waited for too long, does not leave half of the volumes with what was before.
#[tokio::test]
async fn a_change_that_nobody_waits_for_reaches_all_volumes() {
    let world = World::new().await;
    let (kind, qos) = slow(&world, "5000").await;
    let mut volumes = Vec::new();
    for _ in 0..3 {
        let new = NewVolume { size: Some(1), volume_type: Some(kind.name.clone()), ..NewVolume::default() };
        volumes.push(world.made(new).await.id);
    }
    let me = admin();
    let change = world.block.change_qos(&me, &qos.id, |specs| {
        drop(specs.specs.insert("total_iops_sec".to_owned(), "6000".to_owned()));
        Ok(())
    });
    {
        let mut change = Box::pin(change);
        // Begun, and given up.
        let begun = std::future::poll_fn(|cx| std::task::Poll::Ready(change.as_mut().poll(cx))).await;
        assert!(begun.is_pending());
    }
    let all = async {
        for volume in &volumes {
            while rate(&world, volume, "total_iops_sec").await != Some(6000) {
                tokio::task::yield_now().await;
            }
        }
    };
    tokio::time::timeout(super::boundaries::PATIENCE, all).await.unwrap();
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retyped_volume_has_the_limits_that_its_type_has_by_then() {
    let mut world = World::new().await;
    let volume = world.volume("v").await.id;
    let (kind, qos) = slow(&world, "5000").await;
    // Recorded, limited.
    let (hook, held) = hold_at(1);
    world = world.restart(hook).await;
    world.block.retype_volume(&admin(), &volume, &kind.name).unwrap();
    held.came.notified().await;
    let me = admin();
    let changed = world.block.change_qos(&me, &qos.id, |specs| {
        drop(specs.specs.insert("total_iops_sec".to_owned(), "6000".to_owned()));
        Ok(())
    });
    drop(changed.await.unwrap());
    held.go.notify_one();
    world.block.settled().await;
    assert_eq!(rate(&world, &volume, "total_iops_sec").await, Some(6000));
    world.sound().await;
}

/// Whoever changes them last is the one whose change stays, however many do at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_engine_ends_with_what_the_catalog_says() {
    let world = World::new().await;
    let volume = world.volume("v").await.id;
    for round in 0..20 {
        let mut changes = tokio::task::JoinSet::new();
        for n in 1..=8_u64 {
            let (block, volume) = (world.block.clone(), volume.clone());
            let _handle = changes.spawn(async move {
                let text = (round * 8 + n).to_string();
                let limits = vec![("total_iops_sec".to_owned(), Some(text.clone()))];
                block.set_volume_limits(&admin(), &volume, Some(limits.clone())).await.unwrap();
                block.set_project_limits(&admin(), "p", Some(limits)).await.unwrap();
            });
        }
        while let Some(ended) = changes.join_next().await {
            ended.unwrap();
        }
        let wanted = |limits: &BTreeMap<String, String>| limits["total_iops_sec"].parse::<u64>().ok();
        let (own, of_project) = {
            let tx = world.block.catalog().read();
            let project: ProjectQos = tx.require("p").unwrap();
            (wanted(&world.show(&volume).qos), wanted(&project.limits))
        };
        assert_eq!(rate(&world, &volume, "total_iops_sec").await, own);
        let group = world.pool.qos(&"/project-p".parse().unwrap()).await.unwrap();
        assert_eq!(group.rates.get("total_iops_sec").copied(), of_project);
    }
    world.sound().await;
}

/// Whoever brings limits to the engine reads the catalog when nobody else does so any more: what was changed meanwhile counts.
#[tokio::test]
async fn limits_are_read_when_it_is_their_turn() {
    let world = World::new().await;
    let volume = world.volume("v").await.id;
    let changed = |iops: &str| BTreeMap::from([("total_iops_sec".to_owned(), iops.to_owned())]);
    let others = [world.block.inner.limiting.hold(&volume).await, world.block.inner.limiting.hold("project-p").await];
    let (of_volume, of_project) = (world.block.clone(), world.block.clone());
    let waiting = [
        tokio::spawn({
            let volume = volume.clone();
            async move { of_volume.apply_limits(&volume).await }
        }),
        tokio::spawn(
            async move { of_project.set_project_limits(&admin(), "p", set(&[("total_iops_sec", "1")])).await },
        ),
    ];
    // On one thread both come to where they wait.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let written = world.block.catalog().write(|tx| {
        tx.put(&crate::catalog::Volume { qos: changed("70"), ..tx.require(&volume)? })?;
        tx.put(&ProjectQos { id: "p".to_owned(), limits: changed("80") })
    });
    written.unwrap();
    drop(others);
    for waiting in waiting {
        waiting.await.unwrap().unwrap();
    }
    assert_eq!(rate(&world, &volume, "total_iops_sec").await, Some(70));
    let group = world.pool.qos(&"/project-p".parse().unwrap()).await.unwrap();
    assert_eq!(group.rates["total_iops_sec"], 80);
    world.sound().await;
}

/// Specs with `apply=reattach`: whoever has the volume keeps what it was attached with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attached_volume_waits_for_its_next_attachment_where_its_specs_say_so() {
    let mut world = World::new().await;
    let me = admin();
    let (kind, qos) = slow(&world, "5000").await;
    let made = || NewVolume { size: Some(1), volume_type: Some(kind.name.clone()), ..NewVolume::default() };
    let (one, other) = (world.made(made()).await.id, world.made(made()).await.id);
    let attach = || Attach { instance: None, host: Some("h".into()), mountpoint: None, mode: "rw".into() };
    world.block.attach_volume(&me, &one, attach()).unwrap();
    let change = async |world: &World, key: &str, value: &str| {
        let change = |specs: &mut QosSpec| {
            drop(specs.specs.insert(key.to_owned(), value.to_owned()));
            Ok(())
        };
        world.block.change_qos(&admin(), &qos.id, change).await.map(drop)
    };
    let rates =
        async |world: &World| (rate(world, &one, "total_iops_sec").await, rate(world, &other, "total_iops_sec").await);
    let refused = change(&world, "apply", "never").await.unwrap_err();
    assert!(refused.kind == FaultKind::BadRequest && refused.message.contains("reattach"), "{refused}");
    change(&world, "apply", "reattach").await.unwrap();
    for (value, there) in [("70", 70), ("80", 80)] {
        change(&world, "total_iops_sec", value).await.unwrap();
        assert_eq!(rates(&world).await, (Some(5000), Some(there)));
    }
    // Its own limits count at once all the same, and another start changes nothing.
    world.block.set_volume_limits(&me, &one, set(&[("read_bytes_sec", "1048576")])).await.unwrap();
    world = world.restart(free()).await;
    world.block.limit_all().await.unwrap();
    let own = rate(&world, &one, "read_bytes_sec").await;
    assert_eq!((rates(&world).await, own), ((Some(5000), Some(80)), Some(1 << 20)));
    world.block.detach_volume(&me, &one, None, false).await.unwrap();
    assert_eq!(rates(&world).await, (Some(80), Some(80)));
    // Also when they go altogether.
    world.block.attach_volume(&me, &one, attach()).unwrap();
    world.block.disassociate_qos(&me, &qos.id, None).await.unwrap();
    assert_eq!(rates(&world).await, (Some(80), None));
    world.block.associate_qos(&me, &qos.id, &kind.id).await.unwrap();
    change(&world, "total_iops_sec", "90").await.unwrap();
    assert_eq!(rates(&world).await, (Some(80), Some(90)));
    // An administrator ends it by hand.
    world.block.reset_volume(&me, &one, Some("available"), Some("detached")).await.unwrap();
    assert_eq!(rates(&world).await, (Some(90), Some(90)));
    // Specs that do not wait any more are waited for no more.
    world.block.attach_volume(&me, &one, attach()).unwrap();
    change(&world, "total_iops_sec", "100").await.unwrap();
    assert_eq!(rates(&world).await, (Some(90), Some(100)));
    change(&world, "apply", "now").await.unwrap();
    assert_eq!(rates(&world).await, (Some(100), Some(100)));
    world.block.detach_volume(&me, &one, None, false).await.unwrap();
    world.sound().await;
}

/// What an administrator has ended is ended, in the engine too, also when they do not wait for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_that_have_waited_come_though_the_client_has_left() {
    let world = World::new().await;
    let me = admin();
    let (kind, qos) = slow(&world, "5000").await;
    let new = NewVolume { size: Some(1), volume_type: Some(kind.name.clone()), ..NewVolume::default() };
    let one = world.made(new).await.id;
    let attach = Attach { instance: None, host: Some("h".into()), mountpoint: None, mode: "rw".into() };
    world.block.attach_volume(&me, &one, attach).unwrap();
    let change = |specs: &mut QosSpec| {
        let now = [("apply", "reattach"), ("total_iops_sec", "70")];
        specs.specs.extend(now.map(|(key, value)| (key.to_owned(), value.to_owned())));
        Ok(())
    };
    drop(world.block.change_qos(&me, &qos.id, change).await.unwrap());
    assert_eq!(rate(&world, &one, "total_iops_sec").await, Some(5000));
    let others = world.block.inner.limiting.hold(&one).await;
    assert!(world.block.reset_volume(&me, &one, Some("available"), Some("detached")).now_or_never().is_none());
    assert_eq!(world.show(&one).status, VolumeStatus::Available, "it is recorded");
    drop(others);
    let come = async {
        while rate(&world, &one, "total_iops_sec").await != Some(70) {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, come).await.expect("the limits of its type come");
    // The ways to it were ended with them.
    drop(world.block.inner.ties.hold(&one).await);
    world.sound().await;
}
