//! Snapshots of several volumes at one moment: of a group, or of volumes that are named.

use super::{
    Block, Caller, checked_description, checked_name,
    groups::{not_busy, volumes_of},
    snapshots::{can_be_frozen, not_backed_up_now},
    views::{not_read_by_others, owned},
    work::{begin, intent},
};
use crate::{
    catalog::{Group, GroupSnapshot, Intent, Op, Record, Snapshot, Tx, Volume, now_us},
    domain::{Claim, GroupSnapshotMove, GroupSnapshotStatus, GroupStatus, Move, SnapshotMove, SnapshotStatus, new_id},
    fault::{Answer, Fault},
};

/// A snapshot of a group that is wanted.
#[derive(Clone, Debug, Default)]
pub(crate) struct NewGroupSnapshot {
    pub(crate) group: String,
    pub(crate) name: Option<String>,
    pub(crate) description: Option<String>,
}

/// Most volumes of one snapshot of several.
const MOST: usize = 256;

/// The records of snapshots of several volumes, and what they need of the quota.
fn freeze(
    tx: &mut Tx<'_>,
    caller: &Caller,
    volumes: &[Volume],
    name: Option<&String>,
    group_snapshot: Option<&String>,
) -> Answer<(Vec<Snapshot>, Claim)> {
    let (mut snapshots, mut claim) = (Vec::new(), Claim::none());
    for volume in volumes {
        can_be_frozen(tx, volume, true)?;
        let snapshot = Snapshot {
            id: new_id(),
            project: volume.project.clone(),
            user: caller.user.clone(),
            volume_id: volume.id.clone(),
            type_id: volume.type_id.clone(),
            name: name.cloned(),
            description: None,
            metadata: std::collections::BTreeMap::new(),
            size: volume.size,
            status: SnapshotStatus::Creating,
            group_snapshot_id: group_snapshot.cloned(),
            created_us: now_us(),
            updated_us: None,
        };
        claim = claim.plus(&Claim::snapshot(&snapshot.type_id, snapshot.size));
        tx.put(&snapshot)?;
        snapshots.push(snapshot);
    }
    Ok((snapshots, claim))
}

impl Block {
    /// Takes a snapshot of all volumes of a group at one moment.
    pub(crate) fn create_group_snapshot(&self, caller: &Caller, new: NewGroupSnapshot) -> Answer<GroupSnapshot> {
        let (name, description) = (checked_name(new.name)?, checked_description(new.description)?);
        let taken = self.change(caller, |tx| {
            let group: Group = owned(tx, caller, &new.group)?;
            if group.status != GroupStatus::Available {
                return Err(Fault::bad(format!(
                    "Invalid group: its status is {}, and must be available.",
                    group.status
                )));
            }
            let volumes = volumes_of(tx, &group.id)?;
            if volumes.is_empty() {
                return Err(Fault::bad(format!("Invalid group: group {} has no volumes to be frozen.", group.id)));
            }
            let taken = GroupSnapshot {
                id: new_id(),
                project: group.project.clone(),
                user: caller.user.clone(),
                name,
                description,
                group_id: group.id,
                type_id: group.type_id,
                status: GroupSnapshotStatus::Creating,
                created_us: now_us(),
            };
            tx.put(&taken)?;
            volumes.iter().try_for_each(|volume| self.not_filling(&volume.id))?;
            let (snapshots, claim) = freeze(tx, caller, &volumes, taken.name.as_ref(), Some(&taken.id))?;
            begin_together(tx, caller, &taken.project, &taken.id, &snapshots, claim)?;
            Ok(taken)
        })?;
        self.start(Intent::key(GroupSnapshot::KIND, &taken.id));
        Ok(taken)
    }

    /// Takes snapshots of these volumes at one moment. They are snapshots like others then.
    pub(crate) fn freeze_volumes(
        &self,
        caller: &Caller,
        volumes: &[String],
        name: Option<String>,
    ) -> Answer<Vec<Snapshot>> {
        let name = checked_name(name)?;
        if volumes.is_empty() || volumes.len() > MOST {
            return Err(Fault::bad(format!("name 1 to {MOST} volumes")));
        }
        let mut sorted: Vec<&String> = volumes.iter().collect();
        sorted.sort_unstable();
        sorted.dedup();
        if sorted.len() != volumes.len() {
            return Err(Fault::bad("a volume is named twice"));
        }
        let id = new_id();
        let snapshots = self.change(caller, |tx| {
            let volumes = volumes.iter().map(|id| owned::<Volume>(tx, caller, id)).collect::<Answer<Vec<_>>>()?;
            let Some(project) = volumes.first().map(|volume| volume.project.clone()) else { return Ok(Vec::new()) };
            if volumes.iter().any(|volume| volume.project != project) {
                return Err(Fault::bad("the volumes are of several projects"));
            }
            volumes.iter().try_for_each(|volume| self.not_filling(&volume.id))?;
            let (snapshots, claim) = freeze(tx, caller, &volumes, name.as_ref(), None)?;
            begin_together(tx, caller, &project, &id, &snapshots, claim)?;
            Ok(snapshots)
        })?;
        self.start(Intent::key(GroupSnapshot::KIND, &id));
        Ok(snapshots)
    }

    /// Changes names.
    pub(crate) fn edit_group_snapshot(
        &self,
        caller: &Caller,
        id: &str,
        name: Option<Option<String>>,
        description: Option<Option<String>>,
    ) -> Answer<GroupSnapshot> {
        let (name, description) =
            (name.map(checked_name).transpose()?, description.map(checked_description).transpose()?);
        self.change(caller, |tx| {
            let mut taken: GroupSnapshot = owned(tx, caller, id)?;
            name.into_iter().for_each(|name| taken.name = name);
            description.into_iter().for_each(|text| taken.description = text);
            tx.put(&taken)?;
            Ok(taken)
        })
    }

    /// Deletes a snapshot of a group, with all its parts.
    pub(crate) fn delete_group_snapshot(&self, caller: &Caller, id: &str) -> Answer<()> {
        self.change(caller, |tx| {
            let mut taken: GroupSnapshot = owned(tx, caller, id)?;
            let moved = GroupSnapshotMove::Delete.apply(taken.status);
            taken.status = moved.map_err(|e| Fault::illegal("group snapshot", id, &e))?;
            not_busy::<GroupSnapshot>(tx, "group snapshot", id)?;
            let mut parts = Vec::new();
            for mut part in tx.found::<Snapshot>(&Snapshot::of_group_snapshot(id))? {
                not_busy::<Snapshot>(tx, "snapshot", &part.id)?;
                not_read_by_others(tx, "snapshot", &part.id)?;
                not_backed_up_now(tx, &part)?;
                let moved = SnapshotMove::Delete.apply(part.status);
                part.status = moved.map_err(|e| Fault::illegal("snapshot", &part.id, &e))?;
                tx.put(&part)?;
                parts.push(part.id);
            }
            tx.put(&taken)?;
            let op = Op::DeleteGroupSnapshot { snapshots: parts };
            begin(tx, &intent(caller, &taken.project, Intent::key(GroupSnapshot::KIND, id), op))
        })?;
        self.start(Intent::key(GroupSnapshot::KIND, id));
        Ok(())
    }

    /// An administrator sets its state by hand.
    pub(crate) fn reset_group_snapshot(&self, caller: &Caller, id: &str, status: &str) -> Answer<()> {
        caller.require_admin("group:reset_group_snapshot_status")?;
        let status = GroupSnapshotStatus::named(status).ok_or_else(|| super::reset::unknown(status))?;
        self.change(caller, |tx| {
            let mut taken: GroupSnapshot = owned(tx, caller, id)?;
            taken.status = status;
            tx.put(&taken)
        })
    }
}

fn begin_together(
    tx: &mut Tx<'_>,
    caller: &Caller,
    project: &str,
    id: &str,
    snapshots: &[Snapshot],
    claim: Claim,
) -> Answer<()> {
    let op = Op::CreateGroupSnapshot { snapshots: snapshots.iter().map(|snapshot| snapshot.id.clone()).collect() };
    let mut intent = intent(caller, project, Intent::key(GroupSnapshot::KIND, id), op);
    intent.reserved = claim;
    begin(tx, &intent)
}
