//! Snapshots: what users ask of them.

use std::collections::BTreeMap;

use super::{
    Block, Caller, Edit, checked_description, checked_name,
    views::{busy, not_read_by_others, owned},
    work::{begin, intent},
};
use crate::{
    catalog::{Backup, Intent, Op, Record, Snapshot, Tx, Volume, now_us},
    domain::{Claim, Move, SnapshotMove, SnapshotStatus, VolumeStatus, check_metadata, check_metadata_of, new_id},
    fault::{Answer, Fault},
};

/// A snapshot that is wanted.
#[derive(Clone, Debug, Default)]
pub(crate) struct NewSnapshot {
    pub(crate) volume: String,
    pub(crate) name: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) metadata: BTreeMap<String, String>,
    /// Also of an attached volume.
    pub(crate) force: bool,
}

/// Whether a snapshot can be taken of a volume now.
pub(super) fn can_be_frozen(tx: &Tx<'_>, volume: &Volume, attached_too: bool) -> Answer<()> {
    match volume.status {
        VolumeStatus::Available => {}
        VolumeStatus::InUse if attached_too => {}
        status => {
            let text = format!(
                "Invalid volume: volume {} status must be available{}, it is {status}.",
                volume.id,
                if attached_too { " or in-use" } else { "; with force also in-use" }
            );
            return Err(Fault::bad(text));
        }
    }
    match busy::<Volume>(tx, &volume.id)? {
        true => Err(Fault::conflict(format!("volume {} has an operation under way", volume.id))),
        false => Ok(()),
    }
}

impl Block {
    /// Takes a snapshot.
    pub(crate) fn create_snapshot(&self, caller: &Caller, new: NewSnapshot) -> Answer<Snapshot> {
        let (name, description) = (checked_name(new.name)?, checked_description(new.description)?);
        check_metadata(&new.metadata).map_err(Fault::bad)?;
        let snapshot = self.change(caller, |tx| {
            let volume: Volume = owned(tx, caller, &new.volume)?;
            can_be_frozen(tx, &volume, new.force)?;
            self.not_filling(&volume.id)?;
            let snapshot = Snapshot {
                id: new_id(),
                project: volume.project.clone(),
                user: caller.user.clone(),
                volume_id: volume.id.clone(),
                type_id: volume.type_id.clone(),
                name,
                description,
                metadata: new.metadata,
                size: volume.size,
                status: SnapshotStatus::Creating,
                group_snapshot_id: None,
                created_us: now_us(),
                updated_us: None,
            };
            tx.put(&snapshot)?;
            let key = Intent::key(Snapshot::KIND, &snapshot.id);
            let mut intent = intent(caller, &snapshot.project, key, Op::CreateSnapshot);
            intent.reserved = Claim::snapshot(&snapshot.type_id, snapshot.size);
            begin(tx, &intent)?;
            Ok(snapshot)
        })?;
        self.start(Intent::key(Snapshot::KIND, &snapshot.id));
        Ok(snapshot)
    }

    /// Changes names and metadata.
    pub(crate) fn edit_snapshot(&self, caller: &Caller, id: &str, edit: Edit) -> Answer<Snapshot> {
        let edit = edit.checked()?;
        self.change_snapshot(caller, id, |snapshot| {
            edit.name.into_iter().for_each(|name| snapshot.name = name);
            edit.description.into_iter().for_each(|text| snapshot.description = text);
            edit.metadata.into_iter().for_each(|metadata| snapshot.metadata = metadata);
            Ok(())
        })
    }

    /// Changes a snapshot's record alone.
    pub(crate) fn change_snapshot(
        &self,
        caller: &Caller,
        id: &str,
        change: impl FnOnce(&mut Snapshot) -> Answer<()>,
    ) -> Answer<Snapshot> {
        self.change(caller, |tx| {
            let mut snapshot: Snapshot = owned(tx, caller, id)?;
            let had = snapshot.metadata.clone();
            change(&mut snapshot)?;
            check_metadata_of(&had, &snapshot.metadata).map_err(Fault::bad)?;
            snapshot.updated_us = Some(now_us());
            tx.put(&snapshot)?;
            Ok(snapshot)
        })
    }

    /// Deletes a snapshot, in any order among those of its volume; with `force` whatever its state is.
    pub(crate) fn delete_snapshot(&self, caller: &Caller, id: &str, force: bool) -> Answer<()> {
        let key = self.change(caller, |tx| {
            let mut snapshot: Snapshot = owned(tx, caller, id)?;
            let wanted = if force { SnapshotMove::ForceDelete } else { SnapshotMove::Delete };
            snapshot.status = wanted.apply(snapshot.status).map_err(|e| Fault::illegal("snapshot", id, &e))?;
            if busy::<Snapshot>(tx, id)? {
                return Err(Fault::conflict(format!("snapshot {id} has an operation under way")));
            }
            if let Some(all) = &snapshot.group_snapshot_id {
                let text = format!("Invalid snapshot: it is a part of group snapshot {all}: delete that one.");
                return Err(Fault::bad(text));
            }
            not_read_by_others(tx, "snapshot", id)?;
            not_backed_up_now(tx, &snapshot)?;
            snapshot.updated_us = Some(now_us());
            tx.put(&snapshot)?;
            let intent = intent(caller, &snapshot.project, Intent::key(Snapshot::KIND, id), Op::DeleteSnapshot);
            begin(tx, &intent)?;
            Ok(intent.key)
        })?;
        self.start(key);
        Ok(())
    }
}

/// An administrator may have set its state by hand: what reads it goes on all the same. Once it was backed up, an incremental may read it, too, to
/// find what has changed since.
pub(super) fn not_backed_up_now(tx: &Tx<'_>, snapshot: &Snapshot) -> Answer<()> {
    let backups = tx.found::<Backup>(&Backup::of_volume(&snapshot.volume_id))?;
    let is_of_it = |backup: &Backup| backup.snapshot_id.as_deref() == Some(&snapshot.id);
    let is_base = backups.iter().any(|backup| is_of_it(backup) && backup.stored_id.is_some());
    for backup in &backups {
        let Some(intent) = tx.get::<Intent>(&Intent::key(Backup::KIND, &backup.id))? else { continue };
        if is_of_it(backup) || is_base && intent.op == (Op::CreateBackup { full: false }) {
            let text = format!("snapshot {} is needed by backup {}: wait until that is there", snapshot.id, backup.id);
            return Err(Fault::conflict(text));
        }
    }
    Ok(())
}
