//! Attachments in both ways, and what is refused meanwhile.

use futures_util::FutureExt;

use super::world::{World, admin, caller, free, freeze_at};
use crate::{
    block::{Attach, NewAttachment, NewBackup, NewSnapshot, NewVolume, Role},
    catalog::{Attachment, Export, Volume},
    domain::{AttachmentStatus, VolumeStatus},
    fault::{Answer, FaultKind},
};

fn kind<T>(outcome: Answer<T>) -> FaultKind {
    outcome.map(drop).unwrap_err().kind
}

fn reserve(volume: &str, instance: &str) -> NewAttachment {
    NewAttachment {
        volume: volume.to_owned(),
        instance: Some(instance.to_owned()),
        connector: None,
        mode: "rw".to_owned(),
        completes: true,
    }
}

fn older(instance: &str) -> Attach {
    Attach {
        instance: Some(instance.to_owned()),
        host: None,
        mountpoint: Some("/dev/vdb".to_owned()),
        mode: "rw".to_owned(),
    }
}

/// As if the consumer had been told how to reach it: these tests have no listener.
fn connected(world: &World, id: &str) {
    world
        .block
        .catalog()
        .write(|tx| {
            let mut attachment: Attachment = tx.require(id)?;
            attachment.status = AttachmentStatus::Attaching;
            tx.put(&attachment)
        })
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_consumer_at_a_time_unless_the_volume_says_so() {
    let world = World::new().await;
    let (block, me) = (&world.block, admin());
    let volume = world.volume("v").await;
    let first = block.create_attachment(&me, reserve(&volume.id, "a")).await.unwrap();
    assert_eq!(world.show(&volume.id).status, VolumeStatus::Reserved);
    assert_eq!(kind(block.create_attachment(&me, reserve(&volume.id, "b")).await), FaultKind::BadRequest);
    assert_eq!(kind(block.delete_volume(&me, &volume.id, false, false)), FaultKind::BadRequest);
    connected(&world, &first.id);
    block.complete_attachment(&me, &first.id).unwrap();
    assert_eq!(world.show(&volume.id).status, VolumeStatus::InUse);
    assert_eq!(kind(block.complete_attachment(&me, &first.id)), FaultKind::BadRequest);
    assert_eq!(kind(block.create_attachment(&me, reserve(&volume.id, "b")).await), FaultKind::BadRequest);
    assert_eq!(block.delete_attachment(&me, &first.id).await.unwrap(), Vec::new());
    assert_eq!(world.show(&volume.id).status, VolumeStatus::Available);
    assert_eq!(kind(block.delete_attachment(&me, &first.id).await), FaultKind::NotFound);

    let shared = world.made(NewVolume { size: Some(1), multiattach: true, ..NewVolume::default() }).await;
    let first = block.create_attachment(&me, reserve(&shared.id, "a")).await.unwrap();
    connected(&world, &first.id);
    block.complete_attachment(&me, &first.id).unwrap();
    let second = block.create_attachment(&me, reserve(&shared.id, "b")).await.unwrap();
    assert_eq!(world.show(&shared.id).status, VolumeStatus::InUse);
    let left = block.delete_attachment(&me, &first.id).await.unwrap();
    assert_eq!(left.iter().map(|one| one.id.as_str()).collect::<Vec<_>>(), [second.id.as_str()]);
    assert_eq!(world.show(&shared.id).status, VolumeStatus::Reserved);
    drop(block.delete_attachment(&me, &second.id).await.unwrap());
    assert_eq!(world.show(&shared.id).status, VolumeStatus::Available);
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_listener_the_answer_says_so_and_the_volume_stays_reserved() {
    let world = World::new().await;
    let volume = world.volume("v").await;
    let first = world.block.create_attachment(&admin(), reserve(&volume.id, "a")).await.unwrap();
    let connector = serde_json::json!({"host": "h"});
    let refused = world.block.connect_attachment(&admin(), &first.id, connector, true).await;
    assert_eq!(kind(refused), FaultKind::Unsupported);
    assert_eq!(world.show(&volume.id).status, VolumeStatus::Reserved);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_older_way_goes_through_its_states() {
    let world = World::new().await;
    let (block, me) = (&world.block, admin());
    let volume = world.volume("v").await;
    let id = volume.id.as_str();
    let status = || world.show(id).status;
    block.reserve_volume(&me, id).await.unwrap();
    assert_eq!((status(), kind(block.reserve_volume(&me, id).await)), (VolumeStatus::Attaching, FaultKind::BadRequest));
    block.unreserve_volume(&me, id).await.unwrap();
    assert_eq!(
        (status(), kind(block.unreserve_volume(&me, id).await)),
        (VolumeStatus::Available, FaultKind::BadRequest)
    );
    block.reserve_volume(&me, id).await.unwrap();
    assert_eq!(
        kind(block.attach_volume(&me, id, Attach { mode: "xx".to_owned(), ..older("a") })),
        FaultKind::BadRequest
    );
    block.attach_volume(&me, id, older("a")).unwrap();
    assert_eq!(status(), VolumeStatus::InUse);
    assert_eq!(kind(block.attach_volume(&me, id, older("b"))), FaultKind::BadRequest);
    block.begin_detaching(&me, id).unwrap();
    assert_eq!(status(), VolumeStatus::Detaching);
    block.roll_detaching(&me, id).unwrap();
    assert_eq!(status(), VolumeStatus::InUse);
    block.begin_detaching(&me, id).unwrap();
    block.detach_volume(&me, id, None, false).await.unwrap();
    assert_eq!(status(), VolumeStatus::Available);
    assert_eq!(kind(block.detach_volume(&me, id, None, false).await), FaultKind::BadRequest);
    // Whatever its state is, an administrator detaches it.
    block.attach_volume(&me, id, older("a")).unwrap();
    block.reset_volume(&me, id, Some("error"), None).await.unwrap();
    assert_eq!(kind(block.detach_volume(&me, id, None, false).await), FaultKind::BadRequest);
    block.detach_volume(&me, id, None, true).await.unwrap();
    assert_eq!(status(), VolumeStatus::Available);
    block.set_read_only(&me, id, true).await.unwrap();
    assert_eq!(kind(block.attach_volume(&me, id, older("a"))), FaultKind::BadRequest);
    block.attach_volume(&me, id, Attach { mode: "ro".to_owned(), ..older("a") }).unwrap();
    block.reset_volume(&me, id, Some("available"), Some("detached")).await.unwrap();
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attached_volumes_are_snapshotted_and_backed_up_with_force_and_extended_online() {
    let world = World::new().await;
    let (block, me) = (&world.block, admin());
    let volume = world.volume("v").await;
    let id = volume.id.as_str();
    block.attach_volume(&me, id, older("a")).unwrap();
    let snapshot = |force| NewSnapshot { volume: id.to_owned(), force, ..NewSnapshot::default() };
    assert_eq!(kind(block.create_snapshot(&me, snapshot(false))), FaultKind::BadRequest);
    drop(block.create_snapshot(&me, snapshot(true)).unwrap());
    let backup = |force| NewBackup { volume: id.to_owned(), force, ..NewBackup::default() };
    assert_eq!(kind(block.create_backup(&me, backup(false))), FaultKind::BadRequest);
    drop(block.create_backup(&me, backup(true)).unwrap());
    block.settled().await;
    assert_eq!(world.show(id).status, VolumeStatus::InUse);
    assert_eq!(kind(block.extend_volume(&me, id, 2, false).await), FaultKind::BadRequest);
    block.extend_volume(&me, id, 2, true).await.unwrap();
    block.settled().await;
    assert_eq!((world.show(id).status, world.show(id).size), (VolumeStatus::InUse, 2));
    assert_eq!(kind(block.delete_volume(&me, id, true, false)), FaultKind::BadRequest);
    // Detached while it is backed up: it goes back to what is true then.
    let world = world.restart(freeze_at(0).0).await;
    drop(world.block.create_backup(&me, backup(true)).unwrap());
    assert_eq!(world.show(id).status, VolumeStatus::BackingUp);
    let attached = world.block.catalog().read().ids(&Attachment::of_volume(id)).unwrap().remove(0);
    assert_eq!(world.block.delete_attachment(&me, &attached).await.unwrap(), Vec::new());
    assert_eq!(world.show(id).status, VolumeStatus::BackingUp);
    let world = world.restart(free()).await;
    assert_eq!(world.block.resume().unwrap(), 1);
    world.block.settled().await;
    assert_eq!(world.show(id).status, VolumeStatus::Available);
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_request_says_of_consumers_is_bounded_and_so_is_their_number() {
    let world = World::new().await;
    let (block, me) = (&world.block, admin());
    let volume = world.volume("v").await;
    let id = volume.id.as_str();
    let (fits, long) = ("x".repeat(255), "x".repeat(256));
    assert_eq!(kind(block.create_attachment(&me, reserve(id, &long)).await), FaultKind::BadRequest);
    for wrong in [
        older(&long),
        Attach { instance: None, host: Some(long.clone()), ..older("a") },
        Attach { mountpoint: Some(long.clone()), ..older("a") },
    ] {
        assert_eq!(kind(block.attach_volume(&me, id, wrong)), FaultKind::BadRequest);
    }
    for connector in [
        serde_json::json!({"host": long}),
        serde_json::json!({"host": "h", "mountpoint": long}),
        serde_json::json!({"host": "h", "more": "x".repeat(16 << 10)}),
        serde_json::json!(["host"]),
    ] {
        let new = NewAttachment { connector: Some(connector.clone()), ..reserve(id, "a") };
        assert_eq!(kind(block.create_attachment(&me, new).await), FaultKind::BadRequest);
        assert_eq!(kind(block.initialize_connection(&me, id, &connector).await), FaultKind::BadRequest);
    }
    assert_eq!(world.show(id).status, VolumeStatus::Available);
    for _ in 0..64 {
        drop(block.create_attachment(&me, reserve(id, &fits)).await.unwrap());
    }
    let fault = block.create_attachment(&me, reserve(id, &fits)).await.unwrap_err();
    assert!(fault.kind == FaultKind::BadRequest && fault.message.contains("64"), "{fault}");
    let container = NewBackup { volume: id.to_owned(), force: true, container: Some(long), ..NewBackup::default() };
    assert!(block.create_backup(&me, container).unwrap_err().message.contains("container has 256"));
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attachment_is_of_the_project_of_its_volume() {
    let world = World::new().await;
    let volume = world.volume("v").await;
    let made = world.block.create_attachment(&caller("q", Role::Admin), reserve(&volume.id, "a")).await.unwrap();
    assert_eq!(made.project, "p");
    let (owner, other) = (caller("p", Role::Member), caller("q", Role::Member));
    assert_eq!(world.block.find::<Attachment>(&owner, &made.id).unwrap(), made);
    assert_eq!(kind(world.block.find::<Attachment>(&other, &made.id)), FaultKind::NotFound);
    drop(world.block.delete_attachment(&owner, &made.id).await.unwrap());
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attachment_that_cannot_be_connected_is_none() {
    let world = World::new().await;
    let volume = world.volume("v").await;
    for (transport, refused) in [("x", FaultKind::BadRequest), ("nbd", FaultKind::Unsupported)] {
        let connector = Some(serde_json::json!({"transport": transport}));
        let new = NewAttachment { connector, ..reserve(&volume.id, "a") };
        assert_eq!(kind(world.block.create_attachment(&admin(), new).await), refused);
        assert_eq!(world.show(&volume.id).status, VolumeStatus::Available);
        assert_eq!(world.block.catalog().read().all::<Attachment>().unwrap(), Vec::new());
    }
    world.sound().await;
}

/// As after `os-initialize_connection`: these tests have no listener.
fn named(world: &World, id: &str) {
    world
        .block
        .catalog()
        .write(|tx| {
            let mut volume: Volume = tx.require(id)?;
            volume.exports.push(Export { name: "known".to_owned(), read_only: false });
            tx.put(&volume)
        })
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_go_in_the_transaction_that_ends_what_they_were_for() {
    let world = World::new().await;
    let (block, me) = (&world.block, admin());
    let volume = world.volume("v").await;
    let id = volume.id.as_str();
    let names = || world.show(id).exports.len();
    block.attach_volume(&me, id, older("a")).unwrap();
    named(&world, id);
    // Whoever asks may leave while others have the volume's ties: then nothing was done.
    let tie = block.inner.ties.hold(id).await;
    assert!(block.reset_volume(&me, id, Some("available"), Some("detached")).now_or_never().is_none());
    assert_eq!((names(), world.show(id).status), (1, VolumeStatus::InUse));
    drop(tie);
    block.reset_volume(&me, id, Some("available"), Some("detached")).await.unwrap();
    assert_eq!((names(), block.catalog().read().all::<Attachment>().unwrap().len()), (0, 0));

    named(&world, id);
    block.reserve_volume(&me, id).await.unwrap();
    assert_eq!(names(), 0);
    named(&world, id);
    block.unreserve_volume(&me, id).await.unwrap();
    assert_eq!(names(), 0);
    named(&world, id);
    block.set_read_only(&me, id, true).await.unwrap();
    assert_eq!(names(), 0);
    named(&world, id);
    drop(block.create_transfer(&me, id, None, false).unwrap());
    assert_eq!(names(), 0);
    world.sound().await;
}

/// Consumers come and go all the time. Whoever is attached has a socket, and when all have gone there is none.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_attachment_that_ends_does_not_take_the_socket_of_the_next_one() {
    let world = World::with_disks().await;
    let volume = world.volume("v").await;
    let connector = serde_json::json!({"transport": "vhost-user"});
    let clients: Vec<_> = (0..4)
        .map(|n| {
            let (block, connector) = (world.block.clone(), Some(connector.clone()));
            let new = NewAttachment { connector, ..reserve(&volume.id, &format!("{n}")) };
            tokio::spawn(async move {
                let mut attached = 0;
                for _ in 0..100 {
                    let made = match block.create_attachment(&admin(), new.clone()).await {
                        Ok(made) => made,
                        Err(fault) => {
                            assert_eq!(fault.kind, FaultKind::BadRequest, "{fault}");
                            tokio::task::yield_now().await;
                            continue;
                        }
                    };
                    attached += 1;
                    let connection = made.connection.unwrap();
                    let path = std::path::Path::new(connection["data"]["path"].as_str().unwrap());
                    for _ in 0..20 {
                        assert!(path.exists(), "the socket is gone, and nobody has detached");
                        tokio::task::yield_now().await;
                    }
                    drop(block.delete_attachment(&admin(), &made.id).await.unwrap());
                }
                attached
            })
        })
        .collect();
    let mut attached = 0;
    for client in clients {
        attached += client.await.unwrap();
    }
    assert!(attached > 0);
    assert_eq!(world.show(&volume.id).status, VolumeStatus::Available);
    assert_eq!(world.disks.as_ref().unwrap().exports().len(), 0);
    world.sound().await;
}
