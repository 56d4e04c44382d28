//! Volumes: what users ask of them.

use std::collections::BTreeMap;

use super::{
    Block, Caller, checked_description, checked_name,
    groups::takes_volume_of,
    images::{image_for_volume, told_by_volumes},
    snapshots::not_backed_up_now,
    types::{is_kept_here, usable_type},
    views::{busy, not_copied_now, not_read_by_others, owned},
    work::{begin, intent},
};
use crate::{
    catalog::{Attachment, Backup, Group, Intent, Op, Record, Snapshot, Source, Tx, Volume, now_us},
    domain::{
        BackupStatus, Claim, Move, SnapshotMove, SnapshotStatus, VolumeMove, VolumeStatus, check_metadata,
        check_metadata_of, check_size, new_id,
    },
    fault::{Answer, Fault},
};

/// A volume that is wanted.
#[derive(Clone, Debug, Default)]
pub(crate) struct NewVolume {
    pub(crate) name: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) metadata: BTreeMap<String, String>,
    /// GiB; that of the source when left out.
    pub(crate) size: Option<u64>,
    /// Name or id.
    pub(crate) volume_type: Option<String>,
    pub(crate) snapshot: Option<String>,
    pub(crate) source: Option<String>,
    pub(crate) backup: Option<String>,
    pub(crate) image: Option<String>,
    /// From the backup, usable at once.
    pub(crate) at_once: bool,
    /// The group that it is to be in.
    pub(crate) group: Option<String>,
    pub(crate) multiattach: bool,
    pub(crate) zone: Option<String>,
}

/// A change of what an object is called. What is left out stays.
#[derive(Clone, Debug, Default)]
pub(crate) struct Edit {
    pub(crate) name: Option<Option<String>>,
    pub(crate) description: Option<Option<String>>,
    pub(crate) metadata: Option<BTreeMap<String, String>>,
}

impl Edit {
    pub(super) fn checked(self) -> Answer<Self> {
        if let Some(metadata) = &self.metadata {
            check_metadata(metadata).map_err(Fault::bad)?;
        }
        Ok(Self {
            name: self.name.map(checked_name).transpose()?,
            description: self.description.map(checked_description).transpose()?,
            metadata: self.metadata,
        })
    }
}

pub(super) fn illegal(volume: &Volume, error: crate::domain::Illegal) -> Fault {
    Fault::illegal("volume", &volume.id, &error)
}

/// What a new volume takes over from its source.
struct Origin {
    source: Source,
    /// GiB.
    size: u64,
    type_id: Option<String>,
    bootable: bool,
    image: BTreeMap<String, String>,
}

fn origin(tx: &Tx<'_>, caller: &Caller, new: &NewVolume) -> Answer<Origin> {
    // A volume that was handed over since is not that of who has the snapshot or backup: what its project says of it is not taken over.
    let of_volume = |id: &str, project: &str, type_id: Option<&String>, source: Source, size: u64| {
        let volume = tx.get::<Volume>(id)?.filter(|volume| volume.project == project);
        Ok(Origin {
            source,
            size,
            bootable: volume.as_ref().is_some_and(|volume| volume.bootable),
            image: volume.as_ref().map(|volume| volume.image.clone()).unwrap_or_default(),
            type_id: volume.map(|volume| volume.type_id).or(type_id.cloned()),
        })
    };
    if let Some(id) = &new.image {
        if new.snapshot.is_some() || new.source.is_some() || new.backup.is_some() {
            return Err(Fault::bad("name one source at most: imageRef, snapshot_id, source_volid or backup_id"));
        }
        let image = image_for_volume(tx, caller, id, new.size)?;
        let told = told_by_volumes(&image);
        return Ok(Origin { source: Source::Image(image.id), size: 0, type_id: None, bootable: true, image: told });
    }
    match (&new.snapshot, &new.source, &new.backup) {
        (None, None, None) => {
            let none = BTreeMap::new();
            Ok(Origin { source: Source::Empty, size: 0, type_id: None, bootable: false, image: none })
        }
        (Some(id), None, None) => {
            let snapshot: Snapshot = owned(tx, caller, id)?;
            if snapshot.status != SnapshotStatus::Available {
                let text = format!("Invalid snapshot: its status is {}, and must be available.", snapshot.status);
                return Err(Fault::bad(text));
            }
            let source = Source::Snapshot { volume: snapshot.volume_id.clone(), snapshot: id.clone() };
            of_volume(&snapshot.volume_id, &snapshot.project, Some(&snapshot.type_id), source, snapshot.size)
        }
        (None, Some(id), None) => {
            let volume: Volume = owned(tx, caller, id)?;
            if !matches!(volume.status, VolumeStatus::Available | VolumeStatus::InUse) {
                let text = format!(
                    "Invalid volume: the source's status is {}, and must be available or in-use.",
                    volume.status
                );
                return Err(Fault::bad(text));
            }
            of_volume(id, &volume.project, None, Source::Volume(id.clone()), volume.size)
        }
        (None, None, Some(id)) => {
            let backup: Backup = owned(tx, caller, id)?;
            if backup.status != BackupStatus::Available {
                let text = format!("Invalid backup: its status is {}, and must be available.", backup.status);
                return Err(Fault::bad(text));
            }
            let source = if new.at_once { Source::BackupAtOnce(id.clone()) } else { Source::Backup(id.clone()) };
            of_volume(&backup.volume_id, &backup.project, None, source, backup.size)
        }
        _ => Err(Fault::bad("name one source at most: snapshot_id, source_volid or backup_id")),
    }
}

impl Block {
    /// Makes a volume.
    pub(crate) async fn create_volume(&self, caller: &Caller, new: NewVolume) -> Answer<Volume> {
        let name = checked_name(new.name.clone())?;
        let description = checked_description(new.description.clone())?;
        check_metadata(&new.metadata).map_err(Fault::bad)?;
        if let Some(zone) = new.zone.as_ref().filter(|zone| **zone != self.inner.settings.zone) {
            return Err(Fault::bad(format!("Availability zone '{zone}' is invalid.")));
        }
        if let Some(size) = new.size {
            check_size(size).map_err(Fault::bad)?;
        }
        let room = self.room().await?;
        let volume = self.change(caller, |tx| {
            let origin = origin(tx, caller, &new)?;
            new.source.as_ref().map_or(Ok(()), |source| self.not_filling(source))?;
            let size = new.size.unwrap_or(origin.size);
            check_size(size).map_err(Fault::bad)?;
            room.takes(size)?;
            if size < origin.size {
                let text = format!("the volume has {size} GiB and its source {}: it cannot be smaller", origin.size);
                return Err(Fault::bad(text));
            }
            let kind = usable_type(tx, caller, new.volume_type.as_deref(), origin.type_id.as_deref())?;
            is_kept_here(&kind)?;
            tx.check_volume_size(&caller.project, size)?;
            if let Some(group) = &new.group {
                takes_volume_of(&owned(tx, caller, group)?, &caller.project, &kind.id)?;
            }
            let multiattach =
                new.multiattach || kind.extra_specs.get("multiattach").is_some_and(|text| text.contains("True"));
            let volume = Volume {
                id: new_id(),
                project: caller.project.clone(),
                user: caller.user.clone(),
                name,
                description,
                metadata: new.metadata,
                size,
                status: VolumeStatus::Creating,
                type_id: kind.id,
                bootable: origin.bootable,
                read_only: false,
                multiattach,
                snapshot_id: new.snapshot,
                source_volid: new.source,
                backup_id: new.backup,
                image: origin.image,
                group_id: new.group,
                qos: BTreeMap::new(),
                held: None,
                exports: Vec::new(),
                created_us: now_us(),
                updated_us: None,
            };
            let op = Op::CreateVolume { source: origin.source };
            let mut intent = intent(caller, &volume.project, Intent::key(Volume::KIND, &volume.id), op);
            intent.reserved = Claim::volume(&volume.type_id, size);
            tx.put(&volume)?;
            begin(tx, &intent)?;
            Ok(volume)
        })?;
        self.start(Intent::key(Volume::KIND, &volume.id));
        Ok(volume)
    }

    /// Changes names and metadata.
    pub(crate) fn edit_volume(&self, caller: &Caller, id: &str, edit: Edit) -> Answer<Volume> {
        let edit = edit.checked()?;
        self.change_volume(caller, id, |volume| {
            edit.name.into_iter().for_each(|name| volume.name = name);
            edit.description.into_iter().for_each(|text| volume.description = text);
            edit.metadata.into_iter().for_each(|metadata| volume.metadata = metadata);
            Ok(())
        })
    }

    /// Changes a volume's record alone.
    pub(crate) fn change_volume(
        &self,
        caller: &Caller,
        id: &str,
        change: impl FnOnce(&mut Volume) -> Answer<()>,
    ) -> Answer<Volume> {
        self.change(caller, |tx| {
            let mut volume: Volume = owned(tx, caller, id)?;
            let had = volume.metadata.clone();
            change(&mut volume)?;
            check_metadata_of(&had, &volume.metadata).map_err(Fault::bad)?;
            volume.updated_us = Some(now_us());
            tx.put(&volume)?;
            Ok(volume)
        })
    }

    /// Deletes a volume; with `cascade` its snapshots too, with `force` whatever its state is: one that is attached or in a group stays all the same.
    pub(crate) fn delete_volume(&self, caller: &Caller, id: &str, cascade: bool, force: bool) -> Answer<()> {
        let key = self.change(caller, |tx| {
            let mut volume: Volume = owned(tx, caller, id)?;
            let wanted = if force { VolumeMove::ForceDelete } else { VolumeMove::Delete };
            volume.status = wanted.apply(volume.status).map_err(|e| illegal(&volume, e))?;
            if busy::<Volume>(tx, id)? {
                return Err(Fault::conflict(format!(
                    "volume {id} has an operation under way: wait until it has ended"
                )));
            }
            if tx.any(&Attachment::of_volume(id))? {
                return Err(Fault::bad(format!("Invalid volume: volume {id} is attached: detach it first.")));
            }
            if let Some(group) = &volume.group_id {
                let text = format!("Invalid volume: volume {id} is in group {group}: take it out of the group first.");
                return Err(Fault::bad(text));
            }
            not_read_by_others(tx, "volume", id)?;
            let op = match self.snapshots_to_go(tx, caller, id, cascade)? {
                Some(snapshots) => Op::DeleteCascade { snapshots },
                None => Op::DeleteVolume,
            };
            volume.updated_us = Some(now_us());
            tx.put(&volume)?;
            let intent = intent(caller, &volume.project, Intent::key(Volume::KIND, id), op);
            begin(tx, &intent)?;
            Ok(intent.key)
        })?;
        self.start(key);
        Ok(())
    }

    /// The snapshots of a volume that is to go, marked as going; none when it has none.
    pub(super) fn snapshots_to_go(
        &self,
        tx: &mut Tx<'_>,
        caller: &Caller,
        id: &str,
        cascade: bool,
    ) -> Answer<Option<Vec<String>>> {
        let snapshots = tx.found::<Snapshot>(&Snapshot::of_volume(id))?;
        if snapshots.is_empty() {
            return Ok(None);
        }
        // Left behind by a transfer: they are not the volume's owner's.
        let others = snapshots.iter().filter(|snapshot| !caller.sees(&snapshot.project)).count();
        if others > 0 {
            return Err(Fault::bad(format!(
                "Invalid volume: {others} snapshots of volume {id} are of another project: it has to delete them first, or an \
                 administrator deletes the volume."
            )));
        }
        if !cascade {
            let text = format!(
                "Invalid volume: volume {id} has {} snapshots: delete them first, or cascade.",
                snapshots.len()
            );
            return Err(Fault::bad(text));
        }
        let mut ids = Vec::new();
        for mut snapshot in snapshots {
            not_read_by_others(tx, "snapshot", &snapshot.id)?;
            not_backed_up_now(tx, &snapshot)?;
            snapshot.status = SnapshotMove::Delete
                .apply(snapshot.status)
                .map_err(|e| Fault::illegal("snapshot", &snapshot.id, &e))?;
            tx.put(&snapshot)?;
            ids.push(snapshot.id);
        }
        Ok(Some(ids))
    }

    /// Begins an operation on a volume that `plan` puts into its state.
    fn begin_on_volume(
        &self,
        caller: &Caller,
        id: &str,
        plan: impl FnOnce(&mut Tx<'_>, &mut Volume) -> Answer<(Op, Claim)>,
    ) -> Answer<Volume> {
        let volume = self.change(caller, |tx| {
            let mut volume: Volume = owned(tx, caller, id)?;
            let (op, reserved) = plan(tx, &mut volume)?;
            if busy::<Volume>(tx, id)? {
                return Err(Fault::conflict(format!(
                    "volume {id} has an operation under way: wait until it has ended"
                )));
            }
            volume.updated_us = Some(now_us());
            tx.put(&volume)?;
            let mut intent = intent(caller, &volume.project, Intent::key(Volume::KIND, id), op);
            intent.reserved = reserved;
            begin(tx, &intent)?;
            Ok(volume)
        })?;
        self.start(Intent::key(Volume::KIND, id));
        Ok(volume)
    }

    /// Makes a volume larger, also while it is attached if `online`.
    pub(crate) async fn extend_volume(&self, caller: &Caller, id: &str, size: u64, online: bool) -> Answer<()> {
        check_size(size).map_err(Fault::bad)?;
        let room = self.room().await?;
        let extended = self.begin_on_volume(caller, id, |tx, volume| {
            if volume.status == VolumeStatus::InUse && !online {
                let text = "Invalid volume: extending an attached volume takes microversion 3.42 or later.";
                return Err(Fault::bad(text));
            }
            if size <= volume.size {
                let text =
                    format!("the new size must be greater than the present one: {size} GiB, it has {}", volume.size);
                return Err(Fault::bad(text));
            }
            room.takes(size - volume.size)?;
            tx.check_volume_size(&volume.project, size)?;
            volume.status = VolumeMove::Extend.apply(volume.status).map_err(|e| illegal(volume, e))?;
            self.not_filling(id)?;
            not_copied_now(tx, id)?;
            let growth = Claim::growth(&volume.type_id, size - volume.size);
            Ok((Op::ExtendVolume { size }, growth))
        });
        extended.map(drop)
    }

    /// Sets a volume back to its latest snapshot, as the published interface has it, or, with `any`, to any of them: then it stays as large
    /// as it is.
    pub(crate) fn revert_volume(&self, caller: &Caller, id: &str, snapshot_id: &str, any: bool) -> Answer<()> {
        let reverted = self.begin_on_volume(caller, id, |tx, volume| {
            let mut snapshot: Snapshot = owned(tx, caller, snapshot_id)?;
            if snapshot.volume_id != id {
                return Err(Fault::bad(format!("snapshot {snapshot_id} is of another volume than {id}")));
            }
            let latest = tx.ids(&Snapshot::of_volume(id))?.into_iter().next();
            if !any && latest.as_deref() != Some(snapshot_id) {
                let text = "only the latest snapshot of a volume can be reverted to here: /cairn/v1 has others";
                return Err(Fault::bad(text));
            }
            if !any && snapshot.size != volume.size {
                let text = format!(
                    "the volume has {} GiB, its snapshot {}: it was extended since",
                    volume.size, snapshot.size
                );
                return Err(Fault::bad(text));
            }
            self.not_filling(id)?;
            not_copied_now(tx, id)?;
            let conflict = |fault: Fault| Fault::conflict(fault.message);
            volume.status = VolumeMove::Revert.apply(volume.status).map_err(|e| conflict(illegal(volume, e)))?;
            snapshot.status = SnapshotMove::Restore
                .apply(snapshot.status)
                .map_err(|e| conflict(Fault::illegal("snapshot", snapshot_id, &e)))?;
            tx.put(&snapshot)?;
            Ok((Op::RevertVolume { snapshot: snapshot_id.to_owned() }, Claim::none()))
        });
        reverted.map(drop)
    }

    /// Gives a volume another type.
    pub(crate) fn retype_volume(&self, caller: &Caller, id: &str, wanted: &str) -> Answer<()> {
        let retyped = self.begin_on_volume(caller, id, |tx, volume| {
            let kind = usable_type(tx, caller, Some(wanted), None)?;
            is_kept_here(&kind)?;
            if kind.id == volume.type_id {
                return Err(Fault::bad(format!("the volume is of type {} already", kind.name)));
            }
            if let Some(group) = volume.group_id.as_ref().map(|id| tx.get::<Group>(id)).transpose()?.flatten()
                && !group.volume_types.contains(&kind.id)
            {
                return Err(Fault::bad(format!("Invalid volume: its group {} has no volumes of that type.", group.id)));
            }
            volume.status = VolumeMove::Retype.apply(volume.status).map_err(|e| illegal(volume, e))?;
            let reserved = Claim::of_type(&kind.id, volume.size);
            Ok((Op::RetypeVolume { type_id: kind.id }, reserved))
        });
        retyped.map(drop)
    }

    /// Whether a server can boot from it.
    pub(crate) fn set_bootable(&self, caller: &Caller, id: &str, bootable: bool) -> Answer<()> {
        self.change_volume(caller, id, |volume| {
            volume.bootable = bootable;
            Ok(())
        })
        .map(drop)
    }

    /// Whether it takes writes when it is attached next. Whoever was told of it before has it no longer.
    pub(crate) async fn set_read_only(&self, caller: &Caller, id: &str, read_only: bool) -> Answer<()> {
        let tie = self.inner.ties.hold(id).await;
        let volume = self.change_volume(caller, id, |volume| {
            if volume.status != VolumeStatus::Available {
                let text =
                    format!("Invalid volume: its status is {}, and must be available to change this.", volume.status);
                return Err(Fault::bad(text));
            }
            volume.read_only = read_only;
            volume.exports.clear();
            Ok(())
        })?;
        self.end_ways(volume, tie).await
    }
}
