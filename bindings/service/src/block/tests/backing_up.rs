//! Backups: chains, restores, records, and what is refused.

use super::world::{World, admin, caller, free, freeze_at};
use crate::{
    block::{Import, NewBackup, NewVolume, Role},
    catalog::{Backup, Volume},
    domain::{BackupStatus, VolumeStatus},
    fault::{Answer, FaultKind},
};

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
    world.block.reset_volume(&admin(), &volume.id, Some("error"), None).unwrap();
    assert_eq!(kind(restore(&volume.id).await), FaultKind::BadRequest);
    world.block.reset_volume(&admin(), &volume.id, Some("available"), None).unwrap();
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
    for broken in ["", "bm90aGluZw==", &record.backup_url[1..]] {
        let broken = Import { backup_url: broken.to_owned(), ..record.clone() };
        assert_eq!(kind(world.block.import_backup(&admin(), &broken).await), FaultKind::BadRequest);
    }
    let strange = Import { backup_service: "other".to_owned(), ..record.clone() };
    assert_eq!(kind(world.block.import_backup(&admin(), &strange).await), FaultKind::BadRequest);
    let back = world.block.import_backup(&admin(), &record).await.unwrap();
    assert_eq!((back.id, back.status), (backup.id, BackupStatus::Available));
    world.sound().await;
}
