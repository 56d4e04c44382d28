//! Transfers: a volume goes from one project to another. Whoever has its key may take it, once.

use super::{
    Block, Caller, checked_name,
    types::usable_type,
    views::{busy, not_copied_now, not_read_by_others, owned},
    volumes::illegal,
};
use crate::{
    catalog::{Attachment, Backup, Intent, Op, Record, Snapshot, Transfer, Tx, Volume, now_us},
    domain::{Claim, Move, VolumeMove, new_id},
    fault::{Answer, Fault},
    secrets,
};

impl Block {
    /// Offers a volume. Answers the transfer, and its key, which is shown this once.
    pub(crate) fn create_transfer(
        &self,
        caller: &Caller,
        volume: &str,
        name: Option<String>,
        no_snapshots: bool,
    ) -> Answer<(Transfer, String)> {
        let name = checked_name(name)?;
        // Letters and digits, which no shell and no command line takes for anything else: 122 random bits.
        let (id, key) = (new_id(), new_id().replace('-', ""));
        let transfer = self.change(caller, |tx| {
            let mut found: Volume = owned(tx, caller, volume)?;
            if busy::<Volume>(tx, volume)? {
                return Err(Fault::conflict(format!("volume {volume} has an operation under way")));
            }
            // An administrator may have called it available.
            if tx.any(&Attachment::of_volume(volume))? {
                return Err(Fault::bad("Invalid volume: it has attachments: detach it first."));
            }
            if let Some(group) = &found.group_id {
                return Err(Fault::bad(format!(
                    "Invalid volume: it is in group {group}: take it out of the group first."
                )));
            }
            no_part_of_a_group(tx, &found)?;
            if !no_snapshots {
                drop(snapshots_at_rest(tx, &found)?);
            }
            let transfer = Transfer {
                key_hash: secrets::transfer_digest(&id, &key),
                id,
                project: found.project.clone(),
                volume_id: volume.to_owned(),
                name,
                no_snapshots,
                created_us: now_us(),
            };
            found.status = VolumeMove::OfferTransfer.apply(found.status).map_err(|e| illegal(&found, e))?;
            not_copied_now(tx, volume)?;
            no_backup_under_way(tx, &found)?;
            self.not_filling(volume)?;
            // Whoever has it now keeps no way to it, also if the service ends before they are cut off.
            found.exports.clear();
            tx.put(&found)?;
            tx.put(&transfer)?;
            Ok(transfer)
        })?;
        Ok((transfer, key))
    }

    /// Takes an offer back.
    pub(crate) fn delete_transfer(&self, caller: &Caller, id: &str) -> Answer<()> {
        self.change(caller, |tx| {
            let transfer: Transfer = owned(tx, caller, id)?;
            if let Some(mut volume) = tx.get::<Volume>(&transfer.volume_id)? {
                volume.status = VolumeMove::EndTransfer.apply(volume.status).unwrap_or(volume.status);
                tx.put(&volume)?;
            }
            tx.remove::<Transfer>(id)
        })
    }

    /// An offer, for whoever has its key. Any project that knows the id may try: it costs one look at the catalog, and holds up neither its
    /// writer nor anybody else.
    pub(crate) fn offered(&self, id: &str, key: &str) -> Answer<Transfer> {
        let transfer: Transfer = self.inner.catalog.read().require(id)?;
        if !secrets::is_transfer_digest(&transfer.key_hash) {
            let text = format!("transfer {id} was offered by an earlier version: delete it, and offer the volume anew");
            return Err(Fault::conflict(text));
        }
        if !secrets::same(&secrets::transfer_digest(id, key), &transfer.key_hash) {
            return Err(Fault::bad(format!("Invalid auth key: Attempt to transfer {id} with invalid auth key.")));
        }
        Ok(transfer)
    }

    /// Takes an offer up: the volume belongs to the caller's project, with what it holds of its quota.
    pub(crate) fn accept_transfer(&self, caller: &Caller, id: &str, key: &str) -> Answer<Transfer> {
        drop(self.offered(id, key)?);
        self.change(caller, |tx| {
            let transfer: Transfer = tx.require(id)?;
            let mut volume: Volume = tx.require(&transfer.volume_id)?;
            let _kind = usable_type(tx, caller, Some(&volume.type_id), None)?;
            volume.status = VolumeMove::EndTransfer.apply(volume.status).map_err(|e| illegal(&volume, e))?;
            no_part_of_a_group(tx, &volume)?;
            no_backup_under_way(tx, &volume)?;
            // Offers of versions that let it be offered all the same.
            self.not_filling(&volume.id)?;
            let mut claim = Claim::volume(&volume.type_id, volume.size);
            let snapshots = if transfer.no_snapshots { Vec::new() } else { snapshots_at_rest(tx, &volume)? };
            for snapshot in &snapshots {
                claim = claim.plus(&Claim::snapshot(&snapshot.type_id, snapshot.size));
            }
            tx.check_volume_size(&caller.project, volume.size)?;
            tx.hand_over(&volume.project, &caller.project, &claim)?;
            for mut snapshot in snapshots {
                caller.project.clone_into(&mut snapshot.project);
                caller.user.clone_into(&mut snapshot.user);
                tx.put(&snapshot)?;
            }
            caller.project.clone_into(&mut volume.project);
            caller.user.clone_into(&mut volume.user);
            volume.updated_us = Some(now_us());
            tx.put(&volume)?;
            tx.remove::<Transfer>(id)?;
            Ok(transfer)
        })
    }
}

/// A snapshot of a group is one thing, of one project: its parts are deleted and copied together.
fn no_part_of_a_group(tx: &Tx<'_>, volume: &Volume) -> Answer<()> {
    let snapshots = tx.found::<Snapshot>(&Snapshot::of_volume(&volume.id))?;
    for snapshot in snapshots.iter().filter(|snapshot| snapshot.project == volume.project) {
        if let Some(all) = &snapshot.group_snapshot_id {
            let text = format!(
                "snapshot {} of the volume is a part of group snapshot {all}: delete that one first",
                snapshot.id
            );
            return Err(Fault::conflict(text));
        }
    }
    Ok(())
}

/// A backup reads snapshots until it is recorded as stored, and keeps what it has read: all of that is of the project that asked for it.
fn no_backup_under_way(tx: &Tx<'_>, volume: &Volume) -> Answer<()> {
    for backup in tx.found::<Backup>(&Backup::of_volume(&volume.id))? {
        let under_way = tx.get::<Intent>(&Intent::key(Backup::KIND, &backup.id))?;
        if !under_way.is_some_and(|intent| matches!(intent.op, Op::CreateBackup { .. })) {
            continue;
        }
        // Who had the volume before may back up what was left behind.
        let snapshot = backup.snapshot_id.as_ref().map(|id| tx.get::<Snapshot>(id)).transpose()?.flatten();
        if backup.project == volume.project || snapshot.is_some_and(|snapshot| snapshot.project == volume.project) {
            let text = format!(
                "backup {} of volume {}, or of one of its snapshots, is being made: wait until it is there",
                backup.id, volume.id
            );
            return Err(Fault::conflict(text));
        }
    }
    Ok(())
}

/// The snapshots that go with a volume: those of its project. Others were left behind by an earlier transfer. What an operation under way makes
/// or deletes is counted for the project that asked for it, so that has to have ended.
fn snapshots_at_rest(tx: &Tx<'_>, volume: &Volume) -> Answer<Vec<Snapshot>> {
    let mut snapshots = tx.found::<Snapshot>(&Snapshot::of_volume(&volume.id))?;
    snapshots.retain(|snapshot| snapshot.project == volume.project);
    for snapshot in &snapshots {
        if busy::<Snapshot>(tx, &snapshot.id)? {
            return Err(Fault::conflict(format!(
                "snapshot {} of the volume has an operation under way: wait until that has ended",
                snapshot.id
            )));
        }
        not_read_by_others(tx, "snapshot", &snapshot.id)?;
    }
    Ok(snapshots)
}
