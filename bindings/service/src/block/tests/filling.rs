//! Volumes that can be used, and whose content is still to come: what they bear, and what they hold on to.

use super::{
    crash_native::back_up,
    world::{HiddenPacks, World, admin, caller, free, hold_at},
};
use crate::{
    block::{NewBackup, NewSnapshot, NewVolume, Role},
    catalog::{Backup, Snapshot, Transfer, Volume},
    domain::VolumeStatus,
    fault::{Answer, FaultKind},
};

/// A volume that holds 1, a backup of it.
async fn backed_up(world: &World) -> (Volume, Backup) {
    let volume = world.volume("v").await;
    world.write(&volume, 1).await;
    let backup = back_up(world, &volume.id, false).await;
    (volume, backup)
}

/// A new volume from a backup, usable at once, while the backup's content is away.
async fn at_once(world: World, backup: &Backup) -> (World, Volume, HiddenPacks) {
    // What is known of the packs is in the cache, which one repository at a time has.
    let world = world.restart(free()).await;
    let packs = world.hide_packs();
    let new = world.block.restore_at_once(&admin(), &backup.id, None, None).await.unwrap();
    world.block.settled().await;
    let new = world.show(&new.id);
    assert_eq!(new.status, VolumeStatus::Available);
    (world, new, packs)
}

fn refused<T>(outcome: Answer<T>, by: &str) {
    let fault = outcome.map(drop).unwrap_err();
    assert_eq!(fault.kind, FaultKind::Conflict, "{fault}");
    assert!(fault.message.contains(by), "{fault}");
}

/// A store that is away when the process begins may be back before anybody asks again. What fills a volume is needed all the while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_fills_a_volume_stays_over_a_start_without_its_store() {
    let world = World::new().await;
    let (volume, backup) = backed_up(&world).await;
    world.write(&volume, 2).await;
    let child = back_up(&world, &volume.id, true).await;
    let (mut world, new, packs) = at_once(world, &child).await;
    let (place, away) = (world.repository(), world.repository().with_extension("away"));
    std::fs::rename(&place, &away).unwrap();
    world = world.another_process().await;
    std::fs::rename(&away, &place).unwrap();
    refused(world.block.delete_backup(&admin(), &child.id, false), "is being filled");
    refused(world.block.merge_backup(&admin(), &child.id), "is being filled");
    packs.show();
    world.filled(&new.id).await;
    assert_eq!(world.first_byte(&new.id).await, 2);
    for backup in [child, backup] {
        world.block.delete_backup(&admin(), &backup.id, false).unwrap();
        world.block.settled().await;
    }
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_that_is_being_filled_is_not_changed_as_a_whole() {
    let world = World::new().await;
    let (volume, backup) = backed_up(&world).await;
    let taken = world.snapshot(&volume.id).await;
    let (world, new, packs) = at_once(world, &backup).await;
    let (block, me) = (&world.block, admin());
    let by = format!("fill-{}", new.id);
    refused(block.extend_volume(&me, &new.id, 2, false).await, &by);
    refused(block.restore(&me, &backup.id, Some(&new.id), None).await, &by);
    refused(block.create_snapshot(&me, NewSnapshot { volume: new.id.clone(), ..NewSnapshot::default() }), &by);
    refused(block.freeze_volumes(&me, &[volume.id.clone(), new.id.clone()], None), &by);
    refused(block.create_volume(&me, NewVolume { source: Some(new.id.clone()), ..NewVolume::default() }).await, &by);
    refused(block.create_backup(&me, NewBackup { volume: new.id.clone(), ..NewBackup::default() }), &by);
    for no_snapshots in [false, true] {
        refused(block.create_transfer(&me, &new.id, None, no_snapshots), &by);
    }
    // It has none that is in the pool; the record alone decides.
    let of_it = Snapshot { id: crate::domain::new_id(), volume_id: new.id.clone(), ..taken };
    block.catalog().write(|tx| tx.put(&of_it)).unwrap();
    refused(block.revert_volume(&me, &new.id, &of_it.id, true), &by);
    block.catalog().write(|tx| tx.remove::<Snapshot>(&of_it.id)).unwrap();
    // Nothing was begun.
    assert_eq!((world.show(&new.id).status, world.show(&new.id).size), (VolumeStatus::Available, 1));
    packs.show();
    world.filled(&new.id).await;
    world.sound().await;
    block.extend_volume(&me, &new.id, 2, false).await.unwrap();
    block.settled().await;
    assert_eq!((world.show(&new.id).size, world.first_byte(&new.id).await), (2, 1));
    drop(block.restore(&me, &backup.id, Some(&new.id), None).await.unwrap());
    block.settled().await;
    assert_eq!(world.first_byte(&new.id).await, 1);
    world.sound().await;
}

/// An earlier version let it be offered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offer_of_a_volume_that_is_being_filled_waits() {
    let world = World::new().await;
    let (volume, backup) = backed_up(&world).await;
    let (transfer, key) = world.block.create_transfer(&admin(), &volume.id, None, false).unwrap();
    let (world, new, packs) = at_once(world, &backup).await;
    let (block, other) = (&world.block, caller("q", Role::Member));
    // The offer that there is, made one of this volume.
    let offered = block.catalog().write(|tx| {
        tx.put(&Volume { status: VolumeStatus::Available, ..tx.require(&volume.id)? })?;
        tx.put(&Volume { status: VolumeStatus::AwaitingTransfer, ..tx.require(&new.id)? })?;
        tx.put(&Transfer { volume_id: new.id.clone(), ..tx.require(&transfer.id)? })
    });
    offered.unwrap();
    refused(block.accept_transfer(&other, &transfer.id, &key), &format!("fill-{}", new.id));
    assert_eq!(
        (world.show(&new.id).project.as_str(), world.show(&new.id).status),
        ("p", VolumeStatus::AwaitingTransfer)
    );
    packs.show();
    world.filled(&new.id).await;
    drop(block.accept_transfer(&other, &transfer.id, &key).unwrap());
    assert_eq!(world.show(&new.id).project, "q");
    // Its owner's backup is nobody else's any more.
    block.delete_backup(&admin(), &backup.id, false).unwrap();
    block.settled().await;
    world.sound().await;
}

/// What somebody has in a volume is never deleted to make it anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_over_a_volume_does_not_make_it_anew() {
    let world = World::new().await;
    let (volume, backup) = backed_up(&world).await;
    world.write(&volume, 2).await;
    let (mut world, new, packs) = at_once(world, &backup).await;
    // By another name for a moment, so that the request does not know that its content is still to come.
    let (hook, held) = hold_at(0);
    let _renamed = world.pool.rename(&new.engine_name(), "aside").await.unwrap();
    world = world.another_process().await;
    world = world.restart(hook).await;
    let restored = world.block.restore(&admin(), &backup.id, Some(&new.id), None).await;
    drop(restored.unwrap());
    held.came.notified().await;
    let _renamed = world.pool.rename("aside", &new.engine_name()).await.unwrap();
    world.filling_waits().await;
    held.go.notify_one();
    world.block.settled().await;
    // It was refused by the engine, and is there, with what fills it.
    assert_eq!(world.show(&new.id).status, VolumeStatus::ErrorRestoring);
    packs.show();
    world.filled(&new.id).await;
    assert_eq!(world.first_byte(&new.id).await, 1);
    world.block.delete_volume(&admin(), &new.id, false, false).unwrap();
    world.block.settled().await;
    world.sound().await;
}
