//! What the published interface lacks: chains of backups, volumes that can be used at once, and reverts to any snapshot.

use std::collections::BTreeSet;

use super::{
    Block, Caller, NewVolume,
    backups::not_a_base_now,
    tasks::fill_task,
    views::{busy, not_read_by_others, owned},
    work::{begin, intent},
};
use crate::{
    catalog::{Backup, Intent, Op, Record, Volume, engine_volume, now_us},
    domain::{BackupMove, BackupStatus, Move},
    fault::{Answer, Fault},
};

impl Block {
    /// Takes a backup out of its chain: those that hang on it lose nothing, and hang on what it hung on. It is gone then.
    pub(crate) fn merge_backup(&self, caller: &Caller, id: &str) -> Answer<Backup> {
        let backup = self.change(caller, |tx| {
            let mut backup: Backup = owned(tx, caller, id)?;
            backup.status = BackupMove::Delete.apply(backup.status).map_err(|e| Fault::illegal("backup", id, &e))?;
            if busy::<Backup>(tx, id)? {
                return Err(Fault::conflict(format!("backup {id} has an operation under way")));
            }
            not_read_by_others(tx, "backup", id)?;
            self.not_filled_from(&backup)?;
            not_a_base_now(tx, &backup)?;
            for child in tx.ids(&Backup::of_parent(id))? {
                if busy::<Backup>(tx, &child)? {
                    return Err(Fault::conflict(format!(
                        "backup {child}, which hangs on it, has an operation under way"
                    )));
                }
            }
            backup.updated_us = Some(now_us());
            tx.put(&backup)?;
            begin(tx, &intent(caller, &backup.project, Intent::key(Backup::KIND, id), Op::MergeBackup))?;
            Ok(backup)
        })?;
        self.start(Intent::key(Backup::KIND, id));
        Ok(backup)
    }

    /// Makes an incremental backup a full one. Those that hang on it stay with it.
    pub(crate) fn promote_backup(&self, caller: &Caller, id: &str) -> Answer<Backup> {
        let backup = self.change(caller, |tx| {
            let backup: Backup = owned(tx, caller, id)?;
            if backup.status != BackupStatus::Available {
                let text = format!("Invalid backup: its status is {}, and must be available.", backup.status);
                return Err(Fault::bad(text));
            }
            if !backup.incremental {
                return Err(Fault::bad(format!("backup {id} is a full one already")));
            }
            if busy::<Backup>(tx, id)? {
                return Err(Fault::conflict(format!("backup {id} has an operation under way")));
            }
            begin(tx, &intent(caller, &backup.project, Intent::key(Backup::KIND, id), Op::PromoteBackup))?;
            Ok(backup)
        })?;
        self.start(Intent::key(Backup::KIND, id));
        Ok(backup)
    }

    /// A new volume from a backup that can be used at once, and is filled meanwhile. It has the backup's size.
    pub(crate) async fn restore_at_once(
        &self,
        caller: &Caller,
        backup: &str,
        name: Option<String>,
        volume_type: Option<String>,
    ) -> Answer<Volume> {
        let new =
            NewVolume { name, volume_type, backup: Some(backup.to_owned()), at_once: true, ..NewVolume::default() };
        self.create_volume(caller, new).await
    }

    /// Refuses what a volume that is still being filled cannot bear. The engine would, too, but later: as a failure.
    pub(super) fn not_filling(&self, volume: &str) -> Answer<()> {
        match self.inner.fillings.fills_volume(&engine_volume(volume)) {
            true => Err(Fault::conflict(format!(
                "volume {volume} is still being filled from a backup: wait until task {} has ended",
                fill_task(volume)
            ))),
            false => Ok(()),
        }
    }

    /// Refuses what would take the content away from a volume that is being filled. In one transaction with [`not_read_by_others`]: a filling
    /// that begins is an operation under way until it is listed.
    pub(super) fn not_filled_from(&self, backup: &Backup) -> Answer<()> {
        match backup.stored_id.as_ref().is_some_and(|stored| self.inner.fillings.reads(stored)) {
            true => Err(Fault::conflict(format!(
                "a volume is being filled from backup {}: wait until it is full",
                backup.id
            ))),
            false => Ok(()),
        }
    }

    /// The chain of a backup: what it hangs on, the full one first, then itself, then all that hang on it, the oldest first.
    pub(crate) fn chain(&self, caller: &Caller, id: &str) -> Answer<Vec<Backup>> {
        let tx = self.inner.catalog.read();
        let backup: Backup = owned(&tx, caller, id)?;
        let mut chain = vec![backup.clone()];
        // Each once: a record that came from elsewhere may have said anything.
        let mut seen = BTreeSet::from([id.to_owned()]);
        let mut next = backup.parent_id;
        while let Some(id) = next.take().filter(|id| seen.insert(id.clone())) {
            let Some(parent) = tx.get::<Backup>(&id)? else { break };
            next = parent.parent_id.clone();
            chain.insert(0, parent);
        }
        let mut open = vec![id.to_owned()];
        let mut below = Vec::new();
        while let Some(id) = open.pop() {
            for child in tx.found::<Backup>(&Backup::of_parent(&id))? {
                if seen.insert(child.id.clone()) {
                    open.push(child.id.clone());
                    below.push(child);
                }
            }
        }
        below.sort_by(|a, b| a.created_us.cmp(&b.created_us).then_with(|| a.id.cmp(&b.id)));
        chain.extend(below);
        chain.retain(|backup| caller.sees(&backup.project));
        Ok(chain)
    }
}
