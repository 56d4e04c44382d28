//! Backups: what users ask of them.

use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

use super::{
    Block, Caller, Edit, NewVolume, checked_description, checked_name,
    types::{is_kept_here, usable_type},
    views::{busy, not_copied_now, not_read_by_others, owned},
    work::{begin, intent},
};
use crate::{
    catalog::{Backup, Intent, Op, Record, Snapshot, Tx, Volume, now_us},
    domain::{
        BackupMove, BackupStatus, Claim, GIB, Move, SnapshotMove, VolumeMove, VolumeStatus, check_label,
        check_metadata, new_id,
    },
    fault::{Answer, Fault, FaultKind},
};

/// A backup that is wanted.
#[derive(Clone, Debug, Default)]
pub(crate) struct NewBackup {
    pub(crate) volume: String,
    pub(crate) snapshot: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) container: Option<String>,
    pub(crate) incremental: bool,
    /// Also of an attached volume.
    pub(crate) force: bool,
}

/// A record of a backup that leaves the service, or comes back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Import {
    /// Who made it: `cairn`.
    pub(crate) backup_service: String,
    /// The record, in base64.
    pub(crate) backup_url: String,
}

/// What such a record says: the catalog's, and the repository's own.
#[derive(Serialize, Deserialize)]
struct Exported {
    backup: Backup,
    record: String,
}

/// The name of the service in records.
const SERVICE: &str = "cairn";

impl Block {
    fn has_repository(&self) -> Answer<()> {
        match &self.inner.settings.repository {
            Some(_) => Ok(()),
            None => {
                Err(Fault::new(FaultKind::Unavailable, "this service has no repository for backups: start it with one"))
            }
        }
    }

    /// Makes a backup of a volume, or of one of its snapshots.
    pub(crate) fn create_backup(&self, caller: &Caller, new: NewBackup) -> Answer<Backup> {
        self.has_repository()?;
        let (name, description) = (checked_name(new.name)?, checked_description(new.description)?);
        check_metadata(&new.metadata).map_err(Fault::bad)?;
        new.container.as_deref().map_or(Ok(()), |name| check_label("container", name)).map_err(Fault::bad)?;
        let backup = self.change(caller, |tx| {
            let mut volume: Volume = owned(tx, caller, &new.volume)?;
            let size = match &new.snapshot {
                Some(id) => freeze_snapshot(tx, caller, id, &volume)?,
                None => {
                    if volume.status == VolumeStatus::InUse && !new.force {
                        let text = "Invalid volume: the volume is in-use: backing it up takes force.";
                        return Err(Fault::bad(text));
                    }
                    if busy::<Volume>(tx, &volume.id)? {
                        return Err(Fault::conflict(format!("volume {} has an operation under way", volume.id)));
                    }
                    let moved = VolumeMove::BackUp.apply(volume.status);
                    volume.status = moved.map_err(|e| super::volumes::illegal(&volume, e))?;
                    self.not_filling(&volume.id)?;
                    tx.put(&volume)?;
                    volume.size
                }
            };
            let backup = Backup {
                id: new_id(),
                project: caller.project.clone(),
                user: caller.user.clone(),
                volume_id: volume.id.clone(),
                snapshot_id: new.snapshot,
                name,
                description,
                metadata: new.metadata,
                size,
                status: BackupStatus::Creating,
                fail_reason: None,
                incremental: false,
                parent_id: None,
                stored_id: None,
                data_us: now_us(),
                container: new.container,
                restored_to: None,
                created_us: now_us(),
                updated_us: None,
            };
            tx.put(&backup)?;
            let op = Op::CreateBackup { full: !new.incremental };
            let mut intent = intent(caller, &backup.project, Intent::key(Backup::KIND, &backup.id), op);
            intent.reserved = Claim::backup(size);
            begin(tx, &intent)?;
            Ok(backup)
        })?;
        self.start(Intent::key(Backup::KIND, &backup.id));
        Ok(backup)
    }

    /// Changes names and metadata.
    pub(crate) fn edit_backup(&self, caller: &Caller, id: &str, edit: Edit) -> Answer<Backup> {
        let edit = edit.checked()?;
        self.change(caller, |tx| {
            let mut backup: Backup = owned(tx, caller, id)?;
            edit.name.into_iter().for_each(|name| backup.name = name);
            edit.description.into_iter().for_each(|text| backup.description = text);
            edit.metadata.into_iter().for_each(|metadata| backup.metadata = metadata);
            backup.updated_us = Some(now_us());
            tx.put(&backup)?;
            Ok(backup)
        })
    }

    /// Deletes a backup that no other hangs on.
    pub(crate) fn delete_backup(&self, caller: &Caller, id: &str, force: bool) -> Answer<()> {
        let key = self.change(caller, |tx| {
            let mut backup: Backup = owned(tx, caller, id)?;
            let wanted = if force { BackupMove::ForceDelete } else { BackupMove::Delete };
            backup.status = wanted.apply(backup.status).map_err(|e| Fault::illegal("backup", id, &e))?;
            let children = tx.ids(&Backup::of_parent(id))?;
            if !children.is_empty() {
                let named = children.join(", ");
                let text =
                    format!("Invalid backup: incremental backups exist for this backup: {named}. Delete them first.");
                return Err(Fault::bad(text));
            }
            if busy::<Backup>(tx, id)? {
                return Err(Fault::conflict(format!("backup {id} has an operation under way")));
            }
            not_read_by_others(tx, "backup", id)?;
            self.not_filled_from(&backup)?;
            not_a_base_now(tx, &backup)?;
            backup.updated_us = Some(now_us());
            tx.put(&backup)?;
            let intent = intent(caller, &backup.project, Intent::key(Backup::KIND, id), Op::DeleteBackup);
            begin(tx, &intent)?;
            Ok(intent.key)
        })?;
        self.start(key);
        Ok(())
    }

    /// Restores a backup to a volume that is there, or to a new one.
    pub(crate) async fn restore(
        &self,
        caller: &Caller,
        id: &str,
        volume: Option<&str>,
        name: Option<String>,
    ) -> Answer<(Backup, Volume)> {
        self.has_repository()?;
        let name = checked_name(name)?;
        let room = self.room().await?;
        let (backup, volume) = self.change(caller, |tx| {
            let mut backup: Backup = owned(tx, caller, id)?;
            backup.status = BackupMove::Restore.apply(backup.status).map_err(|e| Fault::illegal("backup", id, &e))?;
            if busy::<Backup>(tx, id)? {
                return Err(Fault::conflict(format!("backup {id} has an operation under way")));
            }
            let mut reserved = Claim::none();
            let volume = match volume {
                Some(volume) => {
                    let volume = volume_to_restore(tx, caller, &backup, volume)?;
                    self.not_filling(&volume.id)?;
                    volume
                }
                None => {
                    let volume = volume_for(tx, caller, &backup, name)?;
                    room.takes(volume.size)?;
                    reserved = Claim::volume(&volume.type_id, volume.size);
                    volume
                }
            };
            backup.restored_to = Some(volume.id.clone());
            backup.updated_us = Some(now_us());
            tx.put(&backup)?;
            tx.put(&volume)?;
            let op = Op::RestoreBackup { volume: volume.id.clone() };
            let mut intent = intent(caller, &volume.project, Intent::key(Backup::KIND, id), op);
            intent.reserved = reserved;
            intent.notes_undos = true;
            begin(tx, &intent)?;
            Ok((backup, volume))
        })?;
        self.start(Intent::key(Backup::KIND, id));
        Ok((backup, volume))
    }

    /// What is needed to know a backup again, elsewhere or later.
    pub(crate) async fn export_backup(&self, caller: &Caller, id: &str) -> Answer<Import> {
        caller.require_admin("backup:export-import")?;
        let backup: Backup = self.find(caller, id)?;
        let Some(stored) = backup.stored_id.as_ref().filter(|_| backup.status == BackupStatus::Available) else {
            let text =
                format!("Invalid backup: its status is {}, and must be available to be exported.", backup.status);
            return Err(Fault::bad(text));
        };
        let record = self.repository().await?.record(stored).await?;
        let text = serde_json::to_string(&Exported { backup, record })
            .map_err(|e| Fault::internal(format!("the record has no form: {e}")))?;
        Ok(Import { backup_service: SERVICE.to_owned(), backup_url: STANDARD.encode(text) })
    }

    /// Takes in a backup that was exported: of this service after it was forgotten, or of another with the same repository.
    pub(crate) async fn import_backup(&self, caller: &Caller, import: &Import) -> Answer<Backup> {
        caller.require_admin("backup:export-import")?;
        let damaged = || Fault::bad("the record is none that this service has exported");
        if import.backup_service != SERVICE {
            return Err(Fault::bad(format!("records of backup service {SERVICE} can be imported only")));
        }
        let text = STANDARD.decode(import.backup_url.trim()).map_err(|_| damaged())?;
        let exported: Exported = serde_json::from_slice(&text).map_err(|_| damaged())?;
        let repository = self.repository().await?;
        let mut backup = exported.backup;
        let stored = backup.stored_id.clone().ok_or_else(damaged)?;
        let found = match repository.backup(&stored).await {
            Ok(found) => found,
            Err(error) if error.kind() == cairn_backup::ErrorKind::NotFound => {
                repository.import(&exported.record, &cairn_backup::Job::new()).await?
            }
            Err(error) => return Err(error.into()),
        };
        if found.id != stored {
            return Err(damaged());
        }
        let all = repository.backups().await?.into_iter();
        let hang_on_it: BTreeSet<String> =
            all.filter(|other| other.parent.as_ref() == Some(&stored)).map(|other| other.id).collect();
        self.change(caller, |tx| {
            let others = tx.all::<Backup>()?;
            if let Some(there) = others.iter().find(|o| o.id == backup.id || o.stored_id.as_ref() == Some(&stored)) {
                return Err(Fault::bad(format!("Backup already exists in database: {}", there.id)));
            }
            // The repository knows how large it is and what it hangs on; the record may have been anywhere.
            let of_stored = |id: &String| others.iter().find(|other| other.stored_id.as_ref() == Some(id));
            backup.parent_id = found.parent.as_ref().and_then(of_stored).map(|parent| parent.id.clone());
            backup.incremental = !found.is_full();
            backup.size = found.size.div_ceil(GIB);
            for stored in &hang_on_it {
                if let Some(child) = of_stored(stored) {
                    tx.put(&Backup { parent_id: Some(backup.id.clone()), ..child.clone() })?;
                }
            }
            if !crate::domain::is_uuid(&backup.id) {
                return Err(damaged());
            }
            caller.project.clone_into(&mut backup.project);
            caller.user.clone_into(&mut backup.user);
            backup.status = BackupStatus::Available;
            let claim = Claim::backup(backup.size);
            tx.reserve(&backup.project, &claim)?;
            tx.settle(&backup.project, &claim)?;
            tx.put(&backup)?;
            Ok(backup.clone())
        })
    }

    /// Whether others hang on it.
    pub(crate) fn has_dependents(&self, id: &str) -> Answer<bool> {
        self.inner.catalog.read().any(&Backup::of_parent(id))
    }
}

/// A backup under way may come to hang on the newest one that is there: the repository chooses when it begins.
pub(super) fn not_a_base_now(tx: &Tx<'_>, backup: &Backup) -> Answer<()> {
    for other in tx.found::<Backup>(&Backup::of_volume(&backup.volume_id))? {
        let under_way = tx.get::<Intent>(&Intent::key(Backup::KIND, &other.id))?;
        if under_way.is_some_and(|intent| intent.op == Op::CreateBackup { full: false }) {
            let text =
                format!("an incremental backup of the volume is under way: {}; wait until it has ended", other.id);
            return Err(Fault::conflict(text));
        }
    }
    Ok(())
}

fn freeze_snapshot(tx: &mut Tx<'_>, caller: &Caller, id: &str, volume: &Volume) -> Answer<u64> {
    let mut snapshot: Snapshot = owned(tx, caller, id)?;
    if snapshot.volume_id != volume.id {
        return Err(Fault::bad(format!("snapshot {id} is of another volume than {}", volume.id)));
    }
    if busy::<Snapshot>(tx, id)? {
        return Err(Fault::conflict(format!("snapshot {id} has an operation under way")));
    }
    snapshot.status = SnapshotMove::BackUp.apply(snapshot.status).map_err(|e| Fault::illegal("snapshot", id, &e))?;
    tx.put(&snapshot)?;
    Ok(snapshot.size)
}

fn volume_to_restore(tx: &Tx<'_>, caller: &Caller, backup: &Backup, id: &str) -> Answer<Volume> {
    let mut volume: Volume = owned(tx, caller, id)?;
    if volume.size < backup.size {
        let text = format!("volume {id} has {} GiB: too small for a backup of {} GiB", volume.size, backup.size);
        return Err(Fault::bad(text));
    }
    if busy::<Volume>(tx, id)? {
        return Err(Fault::conflict(format!("volume {id} has an operation under way")));
    }
    not_read_by_others(tx, "volume", id)?;
    volume.status = VolumeMove::Restore.apply(volume.status).map_err(|e| super::volumes::illegal(&volume, e))?;
    not_copied_now(tx, id)?;
    volume.updated_us = Some(now_us());
    Ok(volume)
}

/// A new volume for a backup. It is on its way from the first moment, so it has the state that says so.
fn volume_for(tx: &Tx<'_>, caller: &Caller, backup: &Backup, name: Option<String>) -> Answer<Volume> {
    // What is said of a volume that was handed over since is not for others.
    let of = tx.get::<Volume>(&backup.volume_id)?.filter(|volume| volume.project == backup.project);
    let kind = usable_type(tx, caller, None, of.as_ref().map(|volume| volume.type_id.as_str()))
        .or_else(|_| usable_type(tx, caller, None, None))?;
    is_kept_here(&kind)?;
    tx.check_volume_size(&caller.project, backup.size)?;
    let new = NewVolume { name, ..NewVolume::default() };
    Ok(Volume {
        id: new_id(),
        project: caller.project.clone(),
        user: caller.user.clone(),
        name: new.name.or_else(|| Some(format!("restore_backup_{}", backup.id))),
        description: new.description,
        metadata: new.metadata,
        size: backup.size,
        status: VolumeStatus::RestoringBackup,
        type_id: kind.id,
        bootable: of.as_ref().is_some_and(|volume| volume.bootable),
        read_only: false,
        multiattach: false,
        snapshot_id: None,
        source_volid: None,
        backup_id: Some(backup.id.clone()),
        image: of.map(|volume| volume.image).unwrap_or_default(),
        group_id: None,
        qos: BTreeMap::new(),
        held: None,
        exports: Vec::new(),
        created_us: now_us(),
        updated_us: None,
    })
}
