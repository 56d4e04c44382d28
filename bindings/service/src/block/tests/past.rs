//! Events and metering: complete, exact over restarts, and seen by those whom they concern.

use super::{
    boundaries::PATIENCE,
    world::{World, admin, caller, free, freeze_at},
};
use crate::{
    block::{Edit, EventFilter, MeterFilter, NewVolume, Role},
    catalog::{Event, Meter, Verdict, Volume},
    domain::VolumeStatus,
};

fn events(world: &World, who: &crate::block::Caller, filter: &EventFilter) -> Vec<Event> {
    world.block.events(who, filter, None, 1000).unwrap().items
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_change_is_told_once_with_its_result() {
    let world = World::new().await;
    let volume = world.volume("v").await;
    let edit = Edit { name: Some(Some("w".to_owned())), ..Edit::default() };
    drop(world.block.edit_volume(&admin(), &volume.id, edit.clone()).unwrap());
    // What is refused leaves nothing in the transaction; the interface tells of it.
    let other = caller("q", Role::Member);
    assert!(world.block.edit_volume(&other, &volume.id, edit).is_err());
    let asked =
        crate::block::Caller { object: Some(volume.id.clone()), deed: "volume.update".to_owned(), ..other.clone() };
    world.block.refused(&asked, Verdict::Refused, "no").unwrap();
    let all = events(&world, &admin(), &EventFilter::default());
    let told: Vec<_> = all.iter().map(|e| (e.kind.as_str(), e.object.clone(), e.verdict, e.project.as_str())).collect();
    let id = Some(volume.id.clone());
    assert_eq!(
        told,
        [
            ("volume", id.clone(), Verdict::Refused, "q"),
            ("volume", id.clone(), Verdict::Success, "p"),
            ("volume", id.clone(), Verdict::Success, "p"),
        ]
    );
    assert!(all[2].task.is_some() && all[2].began_us.is_some() && all[1].task.is_none());
    assert!(all.iter().all(|event| event.request == "req-test" && event.user == "u"));
    // Others see their own.
    assert_eq!(events(&world, &other, &EventFilter::default()).len(), 1);
    assert_eq!(
        events(&world, &other, &EventFilter { project: Some("p".to_owned()), ..EventFilter::default() }).len(),
        1
    );
    let of = |filter: EventFilter| events(&world, &admin(), &filter).len();
    assert_eq!(of(EventFilter { project: Some("p".to_owned()), ..EventFilter::default() }), 2);
    assert_eq!(of(EventFilter { object: id.clone(), ..EventFilter::default() }), 3);
    assert_eq!(of(EventFilter { object: Some("none".to_owned()), ..EventFilter::default() }), 0);
    assert_eq!(of(EventFilter { verdict: Some(Verdict::Refused), ..EventFilter::default() }), 1);
    assert_eq!(of(EventFilter { action: Some("volume.update".to_owned()), ..EventFilter::default() }), 1);
    assert_eq!(of(EventFilter { from_us: Some(all[1].created_us), ..EventFilter::default() }), 2);
    assert_eq!(of(EventFilter { to_us: Some(all[1].created_us), ..EventFilter::default() }), 1);
    // By pages.
    let (mut seen, mut marker) = (Vec::new(), None);
    loop {
        let part = world.block.events(&admin(), &EventFilter::default(), marker.as_deref(), 2).unwrap();
        seen.extend(part.items.into_iter().map(|event| event.id));
        marker = part.next;
        if marker.is_none() {
            break;
        }
    }
    assert_eq!(seen, all.iter().map(|event| event.id.clone()).collect::<Vec<_>>());
    assert!(world.block.events(&admin(), &EventFilter::default(), Some("x"), 2).is_err());
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_afterwards_is_told_as_failed() {
    let world = World::new().await;
    let volume = world.volume("v").await;
    // Somebody outside of the catalog holds it open.
    let open = world.pool.volume(&volume.engine_name()).await.unwrap();
    world.block.delete_volume(&admin(), &volume.id, false, false).unwrap();
    world.block.settled().await;
    assert_eq!(world.show(&volume.id).status, VolumeStatus::ErrorDeleting);
    let last = events(&world, &admin(), &EventFilter::default()).remove(0);
    assert_eq!((last.verdict, last.object), (Verdict::Failed, Some(volume.id)));
    assert!(last.reason.is_some_and(|reason| !reason.is_empty()));
    drop(open);
}

/// Of one object, the first interval first; they have to follow one another without gaps.
fn meters(world: &World, object: &str) -> Vec<Meter> {
    let filter = MeterFilter { object: Some(object.to_owned()), ..MeterFilter::default() };
    let mut all = world.block.meters(&admin(), &filter, None, 1000).unwrap().items;
    all.reverse();
    for pair in all.windows(2) {
        assert_eq!(pair[0].until_us, pair[1].from_us, "{pair:?}");
    }
    assert!(all.iter().all(|meter| meter.from_us < meter.until_us || !meter.io.is_none()));
    all
}

fn written(meters: &[Meter]) -> (u64, u64) {
    meters.iter().fold((0, 0), |(n, bytes), meter| (n + meter.io.write_requests, bytes + meter.io.write_bytes))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn intervals_follow_size_project_and_life() {
    let world = World::new().await;
    let volume = world.volume("v").await;
    world.write(&volume, 1).await;
    world.block.extend_volume(&admin(), &volume.id, 3, false).await.unwrap();
    world.block.settled().await;
    world.write(&volume, 2).await;
    let (transfer, key) = world.block.create_transfer(&admin(), &volume.id, None, false).unwrap();
    let other = caller("q", Role::Member);
    drop(world.block.accept_transfer(&other, &transfer.id, &key).unwrap());
    world.write(&volume, 3).await;
    world.block.delete_volume(&other, &volume.id, false, false).unwrap();
    world.block.settled().await;
    let all = meters(&world, &volume.id);
    let shape: Vec<_> = all.iter().map(|meter| (meter.gib, meter.project.as_str())).collect();
    assert_eq!(shape, [(1, "p"), (3, "p"), (3, "q")]);
    // All of the I/O, to the byte, the last before it was deleted too.
    assert_eq!(written(&all), (3, 3 * 4096));
    assert_eq!(all.iter().map(|meter| meter.io.flush_requests).sum::<u64>(), 3);
    let of =
        |who: &crate::block::Caller| world.block.meters(who, &MeterFilter::default(), None, 1000).unwrap().items.len();
    assert_eq!((of(&admin()), of(&other), of(&caller("r", Role::Reader))), (3, 1, 0));
    let within = |from, to| {
        let filter = MeterFilter { from_us: from, to_us: to, ..MeterFilter::default() };
        world.block.meters(&admin(), &filter, None, 1000).unwrap().items.len()
    };
    assert_eq!(within(Some(all[0].until_us), None), 2, "those that end after it");
    assert_eq!(within(None, Some(all[1].from_us)), 1, "those that begin before it");
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_counted_twice_over_restarts_and_nothing_is_lost() {
    let mut world = World::new().await;
    let volume = world.volume("v").await;
    let mut expected = 0;
    for round in 0..4 {
        world.write(&volume, round).await;
        expected += 1;
        if round % 2 == 0 {
            world.block.count_io().await.unwrap();
            world.block.count_io().await.unwrap();
        }
        if round == 1 {
            assert_eq!(world.block.close_all_meters(&admin()).await.unwrap(), 1);
        }
        world = world.restart(free()).await;
        assert_eq!(world.block.resume().unwrap(), 0);
        // As at the start of the daemon: from what was recorded.
        let _closed = world.block.close_meters(crate::catalog::now_us(), |_| true).unwrap();
    }
    let _closed = world.block.close_all_meters(&admin()).await.unwrap();
    assert_eq!(written(&meters(&world, &volume.id)), (expected, expected * 4096));
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interval_goes_on_over_a_crash_in_the_middle_of_an_operation() {
    for boundary in 0..3 {
        let mut world = World::new().await;
        let volume = world.volume("v").await;
        world.write(&volume, 1).await;
        let (hook, frozen) = freeze_at(boundary);
        world = world.restart(hook).await;
        world.block.extend_volume(&admin(), &volume.id, 2, false).await.unwrap();
        tokio::time::timeout(PATIENCE, frozen.notified()).await.unwrap();
        world = world.restart(free()).await;
        let _resumed = world.block.resume().unwrap();
        world.block.settled().await;
        let _closed = world.block.close_all_meters(&admin()).await.unwrap();
        let all = meters(&world, &volume.id);
        assert_eq!(all.iter().map(|meter| meter.gib).collect::<Vec<_>>(), [1, 2], "{boundary}");
        assert_eq!(written(&all), (1, 4096));
        world.sound().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_of_an_older_version_get_their_intervals() {
    let world = World::new().await;
    let volume = world.volume("v").await;
    let key = format!("volume/{}", volume.id);
    world.block.catalog().write(|tx| tx.remove::<crate::catalog::OpenMeter>(&key)).unwrap();
    assert_eq!(crate::catalog::audit(&world.block.catalog().read(), true).unwrap().len(), 1);
    assert_eq!(world.block.resume().unwrap(), 0);
    world.sound().await;
    // And those that have some keep theirs.
    world.block.open_meters().unwrap();
    assert_eq!(world.block.catalog().read().all::<crate::catalog::OpenMeter>().unwrap().len(), 1);
    let made = world.made(NewVolume { size: Some(2), ..NewVolume::default() }).await;
    assert_eq!(world.block.find::<Volume>(&admin(), &made.id).unwrap().size, 2);
    world.sound().await;
}
