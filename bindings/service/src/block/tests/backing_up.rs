//! Backups: chains, restores, records, and what is refused.

use super::world::{World, admin, caller, free, freeze_at, hold_at};
use crate::{
    block::{Import, NewBackup, NewVolume, Role},
    catalog::{Backup, Volume},
    domain::{BackupStatus, VolumeStatus},
    fault::{Answer, FaultKind},
};
use base64::{Engine, engine::general_purpose::STANDARD};

fn kind<T>(outcome: Answer<T>) -> FaultKind {
    outcome.map(drop).unwrap_err().kind
}

async fn back_up(world: &World, volume: &str, incremental: bool) -> Backup {
    let new = NewBackup { volume: volume.to_owned(), incremental, ..NewBackup::default() };
    let backup = world.block.create_backup(&admin(), new).unwrap();
    world.block.settled().await;
    let backup: Backup = world.block.find(&admin(), &backup.id).unwrap();
    assert_eq!((backup.status, backup.fail_reason.as_deref()), (BackupStatus::Available, None));
    backup
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chains_are_made_and_deleted_in_order() {
    let world = World::new().await;
    let volume = world.volume("v").await;
    world.write(&volume, 1).await;
    // The first is full, whatever was asked for.
    let first = back_up(&world, &volume.id, true).await;
    assert!(!first.incremental && first.parent_id.is_none());
    world.write(&volume, 2).await;
    let second = back_up(&world, &volume.id, true).await;
    assert_eq!((second.incremental, second.parent_id.as_deref()), (true, Some(first.id.as_str())));
    assert!(world.block.has_dependents(&first.id).unwrap() && !world.block.has_dependents(&second.id).unwrap());
    let refused = world.block.delete_backup(&admin(), &first.id, false).unwrap_err();
    assert!(refused.kind == FaultKind::BadRequest && refused.message.contains(&second.id), "{refused}");
    for (backup, byte) in [(&first, 1), (&second, 2)] {
        let (_, made) = world.block.restore(&admin(), &backup.id, None, None).await.unwrap();
        assert_eq!(made.status, VolumeStatus::RestoringBackup);
        world.block.settled().await;
        assert_eq!((world.show(&made.id).status, world.first_byte(&made.id).await), (VolumeStatus::Available, byte));
    }
    world.block.delete_backup(&admin(), &second.id, false).unwrap();
    world.block.settled().await;
    world.block.delete_backup(&admin(), &first.id, false).unwrap();
    world.block.settled().await;
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_needs_room_and_a_volume_at_rest() {
    let world = World::new().await;
    let volume = world.made(NewVolume { size: Some(2), ..NewVolume::default() }).await;
    world.write(&volume, 1).await;
    let backup = back_up(&world, &volume.id, false).await;
    let small = world.volume("small").await;
    let restore = async |volume: &str| world.block.restore(&admin(), &backup.id, Some(volume), None).await;
    assert_eq!(kind(restore(&small.id).await), FaultKind::BadRequest);
    world.block.reset_volume(&admin(), &volume.id, Some("error"), None).await.unwrap();
    assert_eq!(kind(restore(&volume.id).await), FaultKind::BadRequest);
    world.block.reset_volume(&admin(), &volume.id, Some("available"), None).await.unwrap();
    world.write(&volume, 2).await;
    let world = world.restart(freeze_at(0).0).await;
    let (shown, _) = world.block.restore(&admin(), &backup.id, Some(&volume.id), None).await.unwrap();
    assert_eq!((shown.status, world.show(&volume.id).status), (BackupStatus::Restoring, VolumeStatus::RestoringBackup));
    assert_eq!(kind(world.block.delete_backup(&admin(), &backup.id, false)), FaultKind::BadRequest);
    assert_eq!(kind(world.block.delete_volume(&admin(), &volume.id, false, false)), FaultKind::BadRequest);
    let world = world.restart(free()).await;
    assert_eq!(world.block.resume().unwrap(), 1);
    world.block.settled().await;
    assert_eq!((world.show(&volume.id).status, world.first_byte(&volume.id).await), (VolumeStatus::Available, 1));
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_fails_says_so_and_both_can_be_used_again() {
    let world = World::new().await;
    let volume = world.volume("v").await;
    let backup = back_up(&world, &volume.id, false).await;
    // Somebody has it open, of whom the catalog knows nothing.
    let open = world.pool.volume(&volume.engine_name()).await.unwrap();
    drop(world.block.restore(&admin(), &backup.id, Some(&volume.id), None).await.unwrap());
    world.block.settled().await;
    assert_eq!(world.show(&volume.id).status, VolumeStatus::ErrorRestoring);
    assert_eq!(world.block.find::<Backup>(&admin(), &backup.id).unwrap().status, BackupStatus::Available);
    drop(open);
    world.block.delete_volume(&admin(), &volume.id, false, false).unwrap();
    world.block.settled().await;
    assert_eq!(kind(world.block.find::<Volume>(&admin(), &volume.id)), FaultKind::NotFound);
    // A backup outlives its volume.
    let (_, made) = world.block.restore(&admin(), &backup.id, None, Some("again".to_owned())).await.unwrap();
    world.block.settled().await;
    assert_eq!((world.show(&made.id).status, made.name.as_deref()), (VolumeStatus::Available, Some("again")));
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_leave_and_come_back() {
    let world = World::new().await;
    let volume = world.volume("v").await;
    let backup = back_up(&world, &volume.id, false).await;
    assert_eq!(kind(world.block.export_backup(&caller("p", Role::Member), &backup.id).await), FaultKind::Forbidden);
    let record = world.block.export_backup(&admin(), &backup.id).await.unwrap();
    assert_eq!(kind(world.block.import_backup(&admin(), &record).await), FaultKind::BadRequest, "it is there");
    // Forgotten by the catalog alone.
    world
        .block
        .catalog()
        .write(|tx| {
            tx.release("p", &crate::domain::Claim::backup(backup.size))?;
            tx.remove::<Backup>(&backup.id)
        })
        .unwrap();
    // What such a record says of chain and size does not count.
    let forged = Import { backup_url: forge(&record.backup_url, &backup.id), ..record.clone() };
    for broken in ["", "bm90aGluZw==", &record.backup_url[1..]] {
        let broken = Import { backup_url: broken.to_owned(), ..record.clone() };
        assert_eq!(kind(world.block.import_backup(&admin(), &broken).await), FaultKind::BadRequest);
    }
    let strange = Import { backup_service: "other".to_owned(), ..record.clone() };
    assert_eq!(kind(world.block.import_backup(&admin(), &strange).await), FaultKind::BadRequest);
    let back = world.block.import_backup(&admin(), &forged).await.unwrap();
    assert_eq!((back.id, back.status), (backup.id.clone(), BackupStatus::Available));
    assert_eq!((back.parent_id, back.incremental, back.size), (None, false, 1));
    world.sound().await;
}

/// A record that says that the backup hangs on itself, and is large.
fn forge(record: &str, id: &str) -> String {
    let mut said: serde_json::Value = serde_json::from_slice(&STANDARD.decode(record).unwrap()).unwrap();
    said["backup"]["parent_id"] = id.into();
    said["backup"]["incremental"] = true.into();
    said["backup"]["size"] = 999.into();
    STANDARD.encode(said.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_a_chain_come_back_in_any_order() {
    let world = World::new().await;
    let volume = world.volume("v").await;
    let mut chain = Vec::new();
    for byte in 1..=3 {
        world.write(&volume, byte).await;
        chain.push(back_up(&world, &volume.id, byte > 1).await);
    }
    let mut records = Vec::new();
    for backup in &chain {
        records.push(world.block.export_backup(&admin(), &backup.id).await.unwrap());
        let forget = world.block.catalog().write(|tx| {
            tx.release("p", &crate::domain::Claim::backup(backup.size))?;
            tx.remove::<Backup>(&backup.id)
        });
        forget.unwrap();
    }
    for n in [2, 0, 1] {
        drop(world.block.import_backup(&admin(), &records[n]).await.unwrap());
        // Once is enough, also under another name.
        let again: String = String::from_utf8(STANDARD.decode(&records[n].backup_url).unwrap()).unwrap();
        let again = again.replace(&chain[n].id, &crate::domain::new_id());
        let again = Import { backup_url: STANDARD.encode(again), ..records[n].clone() };
        assert_eq!(kind(world.block.import_backup(&admin(), &again).await), FaultKind::BadRequest);
    }
    for backup in &chain {
        let back: Backup = world.block.find(&admin(), &backup.id).unwrap();
        assert_eq!((&back.parent_id, back.incremental), (&backup.parent_id, backup.incremental));
        let ids: Vec<String> =
            world.block.chain(&admin(), &backup.id).unwrap().into_iter().map(|backup| backup.id).collect();
        assert_eq!(ids, chain.iter().map(|backup| backup.id.clone()).collect::<Vec<_>>());
    }
    // Records of earlier versions may go in a circle.
    let circle = Backup { parent_id: Some(chain[2].id.clone()), ..chain[0].clone() };
    world.block.catalog().write(|tx| tx.put(&circle)).unwrap();
    assert_eq!(world.block.chain(&admin(), &chain[1].id).unwrap().len(), 3);
    world.block.catalog().write(|tx| tx.put(&chain[0])).unwrap();
    world.sound().await;
}

/// What a project has can be deleted by it, whoever has the volume by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_never_hangs_on_one_of_another_project() {
    let world = World::new().await;
    let volume = world.volume("v").await;
    world.write(&volume, 1).await;
    let first = back_up(&world, &volume.id, true).await;
    let q = caller("q", Role::Member);
    let (transfer, key) = world.block.create_transfer(&admin(), &volume.id, None, false).unwrap();
    drop(world.block.accept_transfer(&q, &transfer.id, &key).unwrap());
    world.write(&volume, 2).await;
    let mut made = Vec::new();
    for _ in 0..2 {
        let new = NewBackup { volume: volume.id.clone(), incremental: true, ..NewBackup::default() };
        let backup = world.block.create_backup(&q, new).unwrap();
        world.block.settled().await;
        made.push(world.block.find::<Backup>(&q, &backup.id).unwrap());
    }
    assert_eq!(
        (made[0].status, made[0].incremental, made[0].parent_id.as_ref()),
        (BackupStatus::Available, false, None)
    );
    // On its own it does.
    assert_eq!((made[1].incremental, made[1].parent_id.as_ref()), (true, Some(&made[0].id)));
    world.block.delete_backup(&caller("p", Role::Member), &first.id, false).unwrap();
    world.block.settled().await;
    let (_, restored) = world.block.restore(&q, &made[1].id, None, None).await.unwrap();
    world.block.settled().await;
    assert_eq!(world.first_byte(&restored.id).await, 2);
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_incremental_goes_on_from_stays_until_it_is_there() {
    let mut world = World::new().await;
    let volume = world.volume("v").await;
    let (base, other) = (world.snapshot(&volume.id).await, world.snapshot(&volume.id).await);
    let new = NewBackup { volume: volume.id.clone(), snapshot: Some(base.id.clone()), ..NewBackup::default() };
    drop(world.block.create_backup(&admin(), new).unwrap());
    world.block.settled().await;
    let (hook, held) = hold_at(0);
    world = world.restart(hook).await;
    let new = NewBackup { volume: volume.id.clone(), incremental: true, ..NewBackup::default() };
    let backup = world.block.create_backup(&admin(), new).unwrap();
    held.came.notified().await;
    let refused = world.block.delete_snapshot(&admin(), &base.id, false).unwrap_err();
    assert!(refused.kind == FaultKind::Conflict && refused.message.contains(&backup.id), "{refused}");
    world.block.delete_snapshot(&admin(), &other.id, false).unwrap();
    held.go.notify_one();
    world.block.settled().await;
    assert!(world.block.find::<Backup>(&admin(), &backup.id).unwrap().incremental);
    world.block.delete_snapshot(&admin(), &base.id, false).unwrap();
    world.block.settled().await;
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_deleted_backups_leave_is_collected_once() {
    let world = World::new().await;
    let left = |world: &World| world.block.catalog().read().garbage().unwrap().left;
    let (gone, kept) = (world.volume("gone").await, world.volume("kept").await);
    world.write(&gone, 1).await;
    world.write(&kept, 2).await;
    let (gone, kept) = (back_up(&world, &gone.id, false).await, back_up(&world, &kept.id, false).await);
    assert_eq!(left(&world), 0);
    assert!(world.block.collect_if_due().await.unwrap().is_none(), "nothing was left behind");
    world.block.delete_backup(&admin(), &gone.id, false).unwrap();
    world.block.settled().await;
    assert_eq!(left(&world), 1);
    // Also by a service that has begun since.
    let world = world.restart(free()).await;
    assert!(world.block.collect_if_due().await.unwrap().unwrap().freed > 0);
    assert_eq!(left(&world), 0);
    assert!(world.block.collections().0 > 0);
    let (_, made) = world.block.restore(&admin(), &kept.id, None, None).await.unwrap();
    world.block.settled().await;
    assert_eq!(world.first_byte(&made.id).await, 2);
    // Too soon after the last one.
    world.block.delete_backup(&admin(), &kept.id, false).unwrap();
    world.block.settled().await;
    assert!(world.block.collect_if_due().await.unwrap().is_none());
    assert_eq!(left(&world), 1);
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_cut_off_leaves_garbage() {
    let world = World::new().await;
    let volume = world.volume("v").await;
    world.write(&volume, 1).await;
    let world = world.restart(freeze_at(0).0).await;
    let new = NewBackup { volume: volume.id.clone(), ..NewBackup::default() };
    let backup = world.block.create_backup(&admin(), new).unwrap();
    let world = world.restart(free()).await;
    assert_eq!(world.block.resume().unwrap(), 1);
    world.block.settled().await;
    assert_eq!(world.block.find::<Backup>(&admin(), &backup.id).unwrap().status, BackupStatus::Available);
    assert_eq!(world.block.catalog().read().garbage().unwrap().left, 1);
    // One that fails is counted, and tried again.
    let packs = world.hide_packs();
    drop(world.block.collect(&cairn_backup::Job::new()).await.unwrap_err());
    assert_eq!((world.block.collections().1, world.block.catalog().read().garbage().unwrap().left), (1, 1));
    packs.show();
    drop(world.block.collect(&cairn_backup::Job::new()).await.unwrap());
    assert_eq!(world.block.catalog().read().garbage().unwrap().left, 0);
    world.sound().await;
}
