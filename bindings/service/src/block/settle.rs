//! The outcome of an operation: one transaction that changes the object, its quota, and takes the intent out.
//!
//! An administrator may have set the state by hand meanwhile: then that state stays, and the rest of the outcome counts all the same.

use super::{Block, act::Done, events::tell_of_end};
use crate::{
    catalog::{
        Attachment, Backup, Group, GroupSnapshot, Image, Intent, Message, Op, Record, Snapshot, Transfer, Tx, Verdict,
        Volume, now_us,
    },
    domain::{
        BackupMove, Claim, GroupMove, GroupSnapshotMove, ImageMove, Move, SnapshotMove, VolumeMove, VolumeStatus,
        new_id,
    },
    fault::{Answer, Fault, FaultKind},
};

/// How the operation ended, for its rows of the table.
type Ended<'a> = Result<&'a Done, &'a Fault>;

/// The state after a move, or the one that an administrator set.
fn moved<M: Move>(wanted: M, from: M::State) -> M::State {
    wanted.apply(from).unwrap_or(from)
}

/// A volume goes back to what its attachments say: they may have gone meanwhile.
pub(super) fn back(tx: &mut Tx<'_>, id: &str, wanted: VolumeMove) -> Answer<()> {
    let to = if tx.any(&Attachment::of_volume(id))? { VolumeStatus::InUse } else { VolumeStatus::Available };
    set_volume(tx, id, |status| wanted.apply_to(status, to).unwrap_or(status))
}

/// Changes an object, if it is there.
fn change<R: Record>(tx: &mut Tx<'_>, id: &str, apply: impl FnOnce(&mut R)) -> Answer<()> {
    let Some(mut object) = tx.get::<R>(id)? else { return Ok(()) };
    apply(&mut object);
    tx.put(&object)
}

impl Block {
    pub(super) fn settle(&self, intent: &Intent, outcome: Answer<Done>) -> Answer<()> {
        self.inner.catalog.write(|tx| {
            // As it is now: what was promised to it may have become more.
            let Some(intent) = &tx.get::<Intent>(&intent.key)? else { return Ok(()) };
            tx.remove::<Intent>(&intent.key)?;
            record(tx, intent, outcome.as_ref())?;
            match &outcome {
                Err(fault) => {
                    tell_of_end(tx, intent, Verdict::Failed, Some(fault))?;
                    tx.leave_message(&message(intent, fault))
                }
                Ok(Done::Cancelled) => tell_of_end(tx, intent, Verdict::Cancelled, None),
                Ok(_) => tell_of_end(tx, intent, Verdict::Success, None),
            }
        })
    }
}

fn record(tx: &mut Tx<'_>, intent: &Intent, ended: Ended<'_>) -> Answer<()> {
    let id = intent.object();
    let cancelled = matches!(ended, Ok(Done::Cancelled));
    let failed = ended.is_err() || cancelled;
    match &intent.op {
        Op::CreateVolume { .. } => {
            // Also what failed is there until it is deleted, and counts.
            tx.settle(&intent.project, &intent.reserved)?;
            let wanted = if failed { VolumeMove::CreateFailed } else { VolumeMove::Created };
            set_volume(tx, id, |status| moved(wanted, status))
        }
        Op::DeleteVolume if failed => set_volume(tx, id, |status| moved(VolumeMove::DeleteFailed, status)),
        Op::DeleteVolume => remove_volume(tx, id),
        Op::DeleteCascade { snapshots } if failed => {
            for snapshot in snapshots {
                set_snapshot(tx, snapshot, SnapshotMove::DeleteFailed)?;
            }
            set_volume(tx, id, |status| moved(VolumeMove::DeleteFailed, status))
        }
        Op::DeleteCascade { snapshots } => {
            for snapshot in snapshots {
                remove_snapshot(tx, snapshot)?;
            }
            remove_volume(tx, id)
        }
        Op::ExtendVolume { size } => extended(tx, intent, *size, failed),
        Op::RevertVolume { snapshot } => {
            set_snapshot(tx, snapshot, SnapshotMove::Restored)?;
            let wanted = if changed_something(ended) { VolumeMove::RevertFailed } else { VolumeMove::Reverted };
            set_volume(tx, id, |status| moved(wanted, status))
        }
        Op::RetypeVolume { type_id } => retyped(tx, intent, type_id, failed),
        Op::CreateSnapshot => {
            tx.settle(&intent.project, &intent.reserved)?;
            set_snapshot(tx, id, if failed { SnapshotMove::CreateFailed } else { SnapshotMove::Created })
        }
        Op::DeleteSnapshot if failed => set_snapshot(tx, id, SnapshotMove::DeleteFailed),
        Op::DeleteSnapshot => remove_snapshot(tx, id),
        Op::CreateBackup { .. } => backed_up(tx, intent, ended),
        Op::RestoreBackup { volume } => {
            tx.settle(&intent.project, &intent.reserved)?;
            // A volume that was there has been taken back to what it was.
            let is_back = cancelled && intent.reserved.is_none();
            restored(tx, id, volume, failed && !is_back, !is_back)
        }
        Op::DeleteBackup => deleted_backup(tx, id, ended),
        Op::MergeBackup => {
            if ended.is_ok() {
                take_out_of_chain(tx, id)?;
            }
            deleted_backup(tx, id, ended)
        }
        Op::PromoteBackup if failed => Ok(()),
        Op::PromoteBackup => change::<Backup>(tx, id, |backup| {
            backup.parent_id = None;
            backup.incremental = false;
            backup.updated_us = Some(now_us());
        }),
        Op::CreateGroup { .. } | Op::DeleteGroup { .. } => group_ended(tx, intent, failed),
        Op::CreateGroupSnapshot { .. } | Op::DeleteGroupSnapshot { .. } => group_snapshot_ended(tx, intent, failed),
        Op::ReceiveImage => image_filled(tx, intent, ended, ImageMove::UploadFailed),
        Op::ImageOfVolume { volume, released } => {
            if !released {
                back(tx, volume, VolumeMove::Uploaded)?;
            }
            image_filled(tx, intent, ended, ImageMove::CopyFailed)
        }
        Op::DeleteImage if failed => {
            change::<Image>(tx, id, |image| image.status = moved(ImageMove::DeleteFailed, image.status))
        }
        Op::DeleteImage => {
            let Some(image) = tx.get::<Image>(id)? else { return Ok(()) };
            tx.release(&image.project, &Claim::image(image.gib()))?;
            tx.remove::<Image>(id)
        }
    }
}

fn image_filled(tx: &mut Tx<'_>, intent: &Intent, ended: Ended<'_>, otherwise: ImageMove) -> Answer<()> {
    let Some(mut image) = tx.get::<Image>(intent.object())? else { return Ok(()) };
    tx.cancel(&intent.project, &intent.reserved)?;
    match ended {
        Ok(Done::Image(content)) => {
            // What was promised was as much as is there now, or more.
            tx.take(&intent.project, &Claim::image_content(content.gib))?;
            image.status = moved(ImageMove::Filled, image.status);
            image.content = Some((**content).clone());
        }
        _ => image.status = moved(otherwise, image.status),
    }
    image.updated_us = Some(now_us());
    tx.put(&image)
}

/// Those that hang on a backup hang on what it hangs on.
fn take_out_of_chain(tx: &mut Tx<'_>, id: &str) -> Answer<()> {
    let Some(backup) = tx.get::<Backup>(id)? else { return Ok(()) };
    for mut child in tx.found::<Backup>(&Backup::of_parent(id))? {
        child.incremental = backup.parent_id.is_some();
        child.parent_id.clone_from(&backup.parent_id);
        tx.put(&child)?;
    }
    Ok(())
}

fn group_ended(tx: &mut Tx<'_>, intent: &Intent, failed: bool) -> Answer<()> {
    let id = intent.object();
    let wanted = match &intent.op {
        Op::CreateGroup { members } => {
            tx.settle(&intent.project, &intent.reserved)?;
            let wanted = if failed { VolumeMove::CreateFailed } else { VolumeMove::Created };
            for (volume, _) in members {
                set_volume(tx, volume, |status| moved(wanted, status))?;
            }
            if failed { GroupMove::CreateFailed } else { GroupMove::Created }
        }
        Op::DeleteGroup { volumes } if !failed => {
            volumes.iter().try_for_each(|volume| remove_volume(tx, volume))?;
            tx.release(&intent.project, &Claim::group())?;
            return tx.remove::<Group>(id);
        }
        Op::DeleteGroup { volumes } => {
            for volume in volumes {
                set_volume(tx, volume, |status| moved(VolumeMove::DeleteFailed, status))?;
            }
            GroupMove::DeleteFailed
        }
        _ => return Ok(()),
    };
    change::<Group>(tx, id, |group| group.status = moved(wanted, group.status))
}

fn group_snapshot_ended(tx: &mut Tx<'_>, intent: &Intent, failed: bool) -> Answer<()> {
    let id = intent.object();
    let (snapshots, each, all) = match &intent.op {
        Op::CreateGroupSnapshot { snapshots } => {
            tx.settle(&intent.project, &intent.reserved)?;
            match failed {
                true => (snapshots, SnapshotMove::CreateFailed, GroupSnapshotMove::CreateFailed),
                false => (snapshots, SnapshotMove::Created, GroupSnapshotMove::Created),
            }
        }
        Op::DeleteGroupSnapshot { snapshots } if !failed => {
            snapshots.iter().try_for_each(|snapshot| remove_snapshot(tx, snapshot))?;
            return tx.remove::<GroupSnapshot>(id);
        }
        Op::DeleteGroupSnapshot { snapshots } => {
            (snapshots, SnapshotMove::DeleteFailed, GroupSnapshotMove::DeleteFailed)
        }
        _ => return Ok(()),
    };
    snapshots.iter().try_for_each(|snapshot| set_snapshot(tx, snapshot, each))?;
    change::<GroupSnapshot>(tx, id, |taken| taken.status = moved(all, taken.status))
}

/// Whether a failed revert may have changed the volume: what the engine refused changed nothing.
fn changed_something(ended: Ended<'_>) -> bool {
    let refusals = [FaultKind::Conflict, FaultKind::NotFound, FaultKind::BadRequest, FaultKind::OverLimit];
    ended.is_err_and(|fault| !refusals.contains(&fault.kind))
}

fn set_volume(tx: &mut Tx<'_>, id: &str, next: impl FnOnce(VolumeStatus) -> VolumeStatus) -> Answer<()> {
    change::<Volume>(tx, id, |volume| {
        volume.status = next(volume.status);
        volume.updated_us = Some(now_us());
    })
}

fn set_snapshot(tx: &mut Tx<'_>, id: &str, wanted: SnapshotMove) -> Answer<()> {
    change::<Snapshot>(tx, id, |snapshot| {
        snapshot.status = moved(wanted, snapshot.status);
        snapshot.updated_us = Some(now_us());
    })
}

fn remove_volume(tx: &mut Tx<'_>, id: &str) -> Answer<()> {
    let Some(volume) = tx.get::<Volume>(id)? else { return Ok(()) };
    for attachment in tx.ids(&Attachment::of_volume(id))? {
        tx.remove::<Attachment>(&attachment)?;
    }
    // Whoever forces a deletion does not ask whether it is offered.
    for transfer in tx.ids(&Transfer::of_volume(id))? {
        tx.remove::<Transfer>(&transfer)?;
    }
    tx.release(&volume.project, &Claim::volume(&volume.type_id, volume.size))?;
    tx.remove::<Volume>(id)
}

fn remove_snapshot(tx: &mut Tx<'_>, id: &str) -> Answer<()> {
    let Some(snapshot) = tx.get::<Snapshot>(id)? else { return Ok(()) };
    tx.release(&snapshot.project, &Claim::snapshot(&snapshot.type_id, snapshot.size))?;
    tx.remove::<Snapshot>(id)
}

fn extended(tx: &mut Tx<'_>, intent: &Intent, size: u64, failed: bool) -> Answer<()> {
    if failed {
        tx.cancel(&intent.project, &intent.reserved)?;
        return set_volume(tx, intent.object(), |status| moved(VolumeMove::ExtendFailed, status));
    }
    tx.settle(&intent.project, &intent.reserved)?;
    change::<Volume>(tx, intent.object(), |volume| volume.size = size)?;
    back(tx, intent.object(), VolumeMove::Extended)
}

fn retyped(tx: &mut Tx<'_>, intent: &Intent, type_id: &str, failed: bool) -> Answer<()> {
    let id = intent.object();
    if failed {
        tx.cancel(&intent.project, &intent.reserved)?;
    } else if let Some(mut volume) = tx.get::<Volume>(id)? {
        tx.settle(&intent.project, &intent.reserved)?;
        tx.release(&volume.project, &Claim::of_type(&volume.type_id, volume.size))?;
        type_id.clone_into(&mut volume.type_id);
        volume.held = None;
        tx.put(&volume)?;
    }
    back(tx, id, VolumeMove::Retyped)
}

fn backed_up(tx: &mut Tx<'_>, intent: &Intent, ended: Ended<'_>) -> Answer<()> {
    tx.settle(&intent.project, &intent.reserved)?;
    let Some(mut backup) = tx.get::<Backup>(intent.object())? else { return Ok(()) };
    match ended {
        Ok(Done::Stored(stored)) => {
            backup.status = moved(BackupMove::Created, backup.status);
            backup.stored_id = Some(stored.id.clone());
            backup.data_us = stored.data_ms.saturating_mul(1000);
            backup.incremental = !stored.is_full();
            backup.parent_id = match &stored.parent {
                Some(parent) => {
                    let all = tx.found::<Backup>(&Backup::of_volume(&backup.volume_id))?;
                    all.into_iter().find(|other| other.stored_id.as_ref() == Some(parent)).map(|other| other.id)
                }
                None => None,
            };
        }
        Ok(Done::Plain | Done::Image(_)) => {}
        Ok(Done::Cancelled) => {
            backup.status = moved(BackupMove::CreateFailed, backup.status);
            backup.fail_reason = Some("it was cancelled".to_owned());
        }
        Err(fault) => {
            backup.status = moved(BackupMove::CreateFailed, backup.status);
            backup.fail_reason = Some(short(&fault.message));
        }
    }
    backup.updated_us = Some(now_us());
    tx.put(&backup)?;
    match &backup.snapshot_id {
        Some(snapshot) => set_snapshot(tx, snapshot, SnapshotMove::BackedUp),
        None => back(tx, &backup.volume_id, VolumeMove::BackedUp),
    }
}

fn restored(tx: &mut Tx<'_>, id: &str, volume: &str, failed: bool, written: bool) -> Answer<()> {
    change::<Backup>(tx, id, |backup| {
        backup.status = moved(BackupMove::Restored, backup.status);
        backup.updated_us = Some(now_us());
    })?;
    let wanted = if failed { VolumeMove::RestoreFailed } else { VolumeMove::Restored };
    if written {
        change::<Volume>(tx, volume, |volume| volume.backup_id = Some(id.to_owned()))?;
    }
    set_volume(tx, volume, |status| moved(wanted, status))
}

fn deleted_backup(tx: &mut Tx<'_>, id: &str, ended: Ended<'_>) -> Answer<()> {
    match ended {
        Err(fault) => change::<Backup>(tx, id, |backup| {
            backup.status = moved(BackupMove::DeleteFailed, backup.status);
            backup.fail_reason = Some(short(&fault.message));
        }),
        Ok(_) => {
            let Some(backup) = tx.get::<Backup>(id)? else { return Ok(()) };
            tx.release(&backup.project, &Claim::backup(backup.size))?;
            tx.remove::<Backup>(id)
        }
    }
}

fn short(text: &str) -> String {
    text.chars().take(255).collect()
}

/// What its owner is told about a failure.
fn message(intent: &Intent, fault: &Fault) -> Message {
    let resource_type = match intent.key.split_once('/').map_or("", |(kind, _)| kind) {
        "snapshot" => "VOLUME_SNAPSHOT",
        "backup" => "VOLUME_BACKUP",
        "group" => "GROUP",
        "group_snapshot" => "GROUP_SNAPSHOT",
        "image" => "IMAGE",
        _ => "VOLUME",
    };
    Message {
        id: new_id(),
        project: intent.project.clone(),
        request: intent.request.clone(),
        resource_type: resource_type.to_owned(),
        resource: intent.object().to_owned(),
        event: format!("{resource_type}_{}", operation(&intent.op)),
        text: short(&fault.message),
        created_us: now_us(),
    }
}

fn operation(op: &Op) -> &'static str {
    match op {
        Op::CreateVolume { .. }
        | Op::CreateSnapshot
        | Op::CreateBackup { .. }
        | Op::CreateGroup { .. }
        | Op::CreateGroupSnapshot { .. }
        | Op::ImageOfVolume { .. } => "CREATE",
        Op::ReceiveImage => "UPLOAD",
        Op::DeleteVolume
        | Op::DeleteCascade { .. }
        | Op::DeleteSnapshot
        | Op::DeleteBackup
        | Op::DeleteGroup { .. }
        | Op::DeleteGroupSnapshot { .. }
        | Op::DeleteImage => "DELETE",
        Op::MergeBackup => "MERGE",
        Op::PromoteBackup => "PROMOTE",
        Op::ExtendVolume { .. } => "EXTEND",
        Op::RevertVolume { .. } => "REVERT",
        Op::RetypeVolume { .. } => "RETYPE",
        Op::RestoreBackup { .. } => "RESTORE",
    }
}
