//! Groups: volumes that are frozen, copied and deleted together.
//!
//! Invariant: volumes of a group are of its project and of one of its volume types.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Block, Caller, checked_description, checked_name,
    group_types::usable_group_type,
    types::{is_kept_here, usable_type},
    views::{busy, not_read_by_others, owned},
    volumes::illegal,
    work::{begin, intent},
};
use crate::{
    catalog::{Attachment, Group, GroupSnapshot, Intent, Op, Record, Snapshot, Source, Tx, Volume, now_us},
    domain::{
        Claim, GroupMove, GroupSnapshotStatus, GroupStatus, Move, SnapshotStatus, VolumeMove, VolumeStatus, new_id,
    },
    fault::{Answer, Fault},
};

/// A group that is wanted.
#[derive(Clone, Debug, Default)]
pub(crate) struct NewGroup {
    pub(crate) name: Option<String>,
    pub(crate) description: Option<String>,
    /// Name or id.
    pub(crate) group_type: String,
    /// Names or ids.
    pub(crate) volume_types: Vec<String>,
    pub(crate) zone: Option<String>,
}

/// What a new group is made from.
#[derive(Clone, Debug)]
pub(crate) enum GroupSource {
    Snapshot(String),
    Group(String),
}

/// A change of a group. What is left out stays.
#[derive(Clone, Debug, Default)]
pub(crate) struct GroupEdit {
    pub(crate) name: Option<Option<String>>,
    pub(crate) description: Option<Option<String>>,
    pub(crate) add: Vec<String>,
    pub(crate) remove: Vec<String>,
}

/// Whether a volume of this project and type can be in a group.
pub(super) fn takes_volume_of(group: &Group, project: &str, type_id: &str) -> Answer<()> {
    if group.status != GroupStatus::Available {
        return Err(Fault::bad(format!(
            "Invalid group: group {} is {}, and must be available.",
            group.id, group.status
        )));
    }
    if group.project != project {
        return Err(Fault::bad(format!("group {} is of another project than the volume", group.id)));
    }
    match group.volume_types.contains(type_id) {
        true => Ok(()),
        false => Err(Fault::bad(format!("the volume's type is none of those of group {}", group.id))),
    }
}

pub(super) fn volumes_of(tx: &Tx<'_>, group: &str) -> Answer<Vec<Volume>> {
    let mut volumes = tx.found::<Volume>(&Volume::of_group(group))?;
    volumes.sort_by(|a, b| a.created_us.cmp(&b.created_us).then_with(|| a.id.cmp(&b.id)));
    Ok(volumes)
}

pub(super) fn not_busy<R: Record>(tx: &Tx<'_>, what: &str, id: &str) -> Answer<()> {
    match busy::<R>(tx, id)? {
        true => Err(Fault::conflict(format!("{what} {id} has an operation under way"))),
        false => Ok(()),
    }
}

impl Block {
    /// Makes a group without volumes. Nothing of it is in the pool, so it is there at once.
    pub(crate) fn create_group(&self, caller: &Caller, new: NewGroup) -> Answer<Group> {
        let (name, description) = (checked_name(new.name)?, checked_description(new.description)?);
        if let Some(zone) = new.zone.as_ref().filter(|zone| **zone != self.inner.settings.zone) {
            return Err(Fault::bad(format!("Availability zone '{zone}' is invalid.")));
        }
        if new.volume_types.is_empty() {
            return Err(Fault::bad("volume_types must be provided to create a group: at least one"));
        }
        self.change(caller, |tx| {
            let kind = usable_group_type(tx, caller, &new.group_type)?;
            let types = new.volume_types.iter().map(|wanted| Ok(usable_type(tx, caller, Some(wanted), None)?.id));
            let group = Group {
                id: new_id(),
                project: caller.project.clone(),
                user: caller.user.clone(),
                name,
                description,
                type_id: kind.id,
                volume_types: types.collect::<Answer<BTreeSet<String>>>()?,
                status: GroupStatus::Available,
                group_snapshot_id: None,
                source_group_id: None,
                created_us: now_us(),
            };
            tx.reserve(&group.project, &Claim::group())?;
            tx.settle(&group.project, &Claim::group())?;
            tx.put(&group)?;
            Ok(group)
        })
    }

    /// Makes a group with copies of the volumes of another one, as they are now or as they were.
    pub(crate) async fn create_group_from(
        &self,
        caller: &Caller,
        name: Option<String>,
        description: Option<String>,
        source: &GroupSource,
    ) -> Answer<Group> {
        let (name, description) = (checked_name(name)?, checked_description(description)?);
        let room = self.room().await?;
        let group = self.change(caller, |tx| {
            let (from, sources) = members_of(tx, caller, source)?;
            for (volume, _) in sources.iter().filter(|(_, source)| matches!(source, Source::Volume(_))) {
                self.not_filling(&volume.id)?;
            }
            room.takes(sources.iter().map(|(volume, _)| volume.size).sum())?;
            let (group_snapshot_id, source_group_id) = match source {
                GroupSource::Snapshot(id) => (Some(id.clone()), None),
                GroupSource::Group(id) => (None, Some(id.clone())),
            };
            let group = Group {
                id: new_id(),
                project: caller.project.clone(),
                user: caller.user.clone(),
                name,
                description,
                status: GroupStatus::Creating,
                group_snapshot_id,
                source_group_id,
                created_us: now_us(),
                ..from
            };
            let mut claim = Claim::group();
            let mut members = Vec::new();
            tx.put(&group)?;
            for (like, source) in sources {
                // As of any new volume: its type may have become another back-end's, or not be this project's any more.
                is_kept_here(&usable_type(tx, caller, Some(&like.type_id), None)?)?;
                tx.check_volume_size(&caller.project, like.size)?;
                let volume = copy_of(caller, &group, like, &source);
                claim = claim.plus(&Claim::volume(&volume.type_id, volume.size));
                members.push((volume.id.clone(), source));
                tx.put(&volume)?;
            }
            let key = Intent::key(Group::KIND, &group.id);
            let mut intent = intent(caller, &group.project, key, Op::CreateGroup { members });
            intent.reserved = claim;
            begin(tx, &intent)?;
            Ok(group)
        })?;
        self.start(Intent::key(Group::KIND, &group.id));
        Ok(group)
    }

    /// Changes names, and which volumes are in it.
    pub(crate) fn edit_group(&self, caller: &Caller, id: &str, edit: GroupEdit) -> Answer<()> {
        let (name, description) =
            (edit.name.map(checked_name).transpose()?, edit.description.map(checked_description).transpose()?);
        self.change(caller, |tx| {
            let mut group: Group = owned(tx, caller, id)?;
            if group.status != GroupStatus::Available {
                return Err(Fault::bad(format!(
                    "Invalid group: its status is {}, and must be available.",
                    group.status
                )));
            }
            not_busy::<Group>(tx, "group", id)?;
            name.into_iter().for_each(|name| group.name = name);
            description.into_iter().for_each(|text| group.description = text);
            tx.put(&group)?;
            for volume in &edit.remove {
                let mut volume: Volume = owned(tx, caller, volume)?;
                if volume.group_id.as_deref() != Some(id) {
                    return Err(Fault::bad(format!("volume {} is not in group {id}", volume.id)));
                }
                volume.group_id = None;
                tx.put(&volume)?;
            }
            for volume in &edit.add {
                let mut volume: Volume = owned(tx, caller, volume)?;
                if let Some(other) = &volume.group_id {
                    return Err(Fault::bad(format!("volume {} is in group {other} already", volume.id)));
                }
                if !matches!(volume.status, VolumeStatus::Available | VolumeStatus::InUse) {
                    let (id, status) = (&volume.id, volume.status);
                    let text = format!("Invalid volume: volume {id} is {status}, and must be available or in-use.");
                    return Err(Fault::bad(text));
                }
                takes_volume_of(&group, &volume.project, &volume.type_id)?;
                volume.group_id = Some(id.to_owned());
                tx.put(&volume)?;
            }
            Ok(())
        })
    }

    /// Deletes a group; one that has volumes only with them.
    pub(crate) fn delete_group(&self, caller: &Caller, id: &str, with_volumes: bool) -> Answer<()> {
        self.change(caller, |tx| {
            let mut group: Group = owned(tx, caller, id)?;
            group.status = GroupMove::Delete.apply(group.status).map_err(|e| Fault::illegal("group", id, &e))?;
            not_busy::<Group>(tx, "group", id)?;
            not_read_by_others(tx, "group", id)?;
            if tx.any(&GroupSnapshot::of_group(id))? {
                return Err(Fault::bad(format!("Invalid group: group {id} has group snapshots: delete them first.")));
            }
            let mut volumes = Vec::new();
            for mut volume in volumes_of(tx, id)? {
                if !with_volumes {
                    let text = format!(
                        "Invalid group: group {id} is not empty: take its volumes out, or delete them with it."
                    );
                    return Err(Fault::bad(text));
                }
                not_busy::<Volume>(tx, "volume", &volume.id)?;
                not_read_by_others(tx, "volume", &volume.id)?;
                if tx.any(&Attachment::of_volume(&volume.id))? {
                    return Err(Fault::bad(format!(
                        "Invalid volume: volume {} is attached: detach it first.",
                        volume.id
                    )));
                }
                let _no_snapshots = self.snapshots_to_go(tx, caller, &volume.id, false)?;
                volume.status = VolumeMove::Delete.apply(volume.status).map_err(|e| illegal(&volume, e))?;
                tx.put(&volume)?;
                volumes.push(volume.id);
            }
            tx.put(&group)?;
            begin(tx, &intent(caller, &group.project, Intent::key(Group::KIND, id), Op::DeleteGroup { volumes }))
        })?;
        self.start(Intent::key(Group::KIND, id));
        Ok(())
    }

    /// The volumes in a group, the oldest first.
    pub(crate) fn volumes_in(&self, group: &str) -> Answer<Vec<Volume>> {
        volumes_of(&self.inner.catalog.read(), group)
    }

    /// An administrator sets its state by hand.
    pub(crate) fn reset_group(&self, caller: &Caller, id: &str, status: &str) -> Answer<()> {
        caller.require_admin("group:reset_status")?;
        let status = GroupStatus::named(status).ok_or_else(|| super::reset::unknown(status))?;
        self.change(caller, |tx| {
            let mut group: Group = owned(tx, caller, id)?;
            group.status = status;
            tx.put(&group)
        })
    }
}

/// What the volumes of a new group are like, and what each is made from; and the group that it is like.
fn members_of(tx: &Tx<'_>, caller: &Caller, source: &GroupSource) -> Answer<(Group, Vec<(Volume, Source)>)> {
    let (group, members) = match source {
        GroupSource::Snapshot(id) => {
            let taken: GroupSnapshot = owned(tx, caller, id)?;
            if taken.status != GroupSnapshotStatus::Available {
                let text = format!("Invalid group snapshot: its status is {}, and must be available.", taken.status);
                return Err(Fault::bad(text));
            }
            not_busy::<GroupSnapshot>(tx, "group snapshot", id)?;
            let mut members = Vec::new();
            for snapshot in tx.found::<Snapshot>(&Snapshot::of_group_snapshot(id))? {
                if snapshot.status != SnapshotStatus::Available {
                    let text =
                        format!("Invalid snapshot: {} is {}, and must be available.", snapshot.id, snapshot.status);
                    return Err(Fault::bad(text));
                }
                // As it was then. The volume may have left the group since, and be of a type that the group does not have.
                let mut like: Volume = tx.require(&snapshot.volume_id)?;
                if like.project != taken.project {
                    like = unsaid(like);
                }
                like.size = snapshot.size;
                like.type_id = snapshot.type_id;
                members.push((like, Source::Snapshot { volume: snapshot.volume_id, snapshot: snapshot.id }));
            }
            (tx.require::<Group>(&taken.group_id)?, members)
        }
        GroupSource::Group(id) => {
            let group: Group = owned(tx, caller, id)?;
            if group.status != GroupStatus::Available {
                return Err(Fault::bad(format!(
                    "Invalid group: its status is {}, and must be available.",
                    group.status
                )));
            }
            let mut members = Vec::new();
            for volume in volumes_of(tx, id)? {
                super::snapshots::can_be_frozen(tx, &volume, true)?;
                let source = Source::Volume(volume.id.clone());
                members.push((volume, source));
            }
            (group, members)
        }
    };
    match members.is_empty() {
        true => Err(Fault::bad("the source has no volumes: make an empty group instead")),
        false => Ok((group, members)),
    }
}

/// A volume that was handed over since: what its project says of it is not for others.
fn unsaid(volume: Volume) -> Volume {
    Volume {
        name: None,
        description: None,
        metadata: BTreeMap::new(),
        bootable: false,
        multiattach: false,
        image: BTreeMap::new(),
        ..volume
    }
}

fn copy_of(caller: &Caller, group: &Group, like: Volume, source: &Source) -> Volume {
    let (snapshot_id, source_volid) = match source {
        Source::Snapshot { snapshot, .. } => (Some(snapshot.clone()), None),
        Source::Volume(id) => (None, Some(id.clone())),
        _ => (None, None),
    };
    Volume {
        id: new_id(),
        project: caller.project.clone(),
        user: caller.user.clone(),
        status: VolumeStatus::Creating,
        read_only: false,
        snapshot_id,
        source_volid,
        backup_id: None,
        group_id: Some(group.id.clone()),
        qos: BTreeMap::new(),
        held: None,
        exports: Vec::new(),
        created_us: now_us(),
        updated_us: None,
        ..like
    }
}
