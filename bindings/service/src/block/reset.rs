//! Administrators set states by hand. The engine's truth is not touched by it, and no quota.

use super::{Block, Caller, connect::to_its_end, views::owned};
use crate::{
    catalog::{Attachment, Backup, Snapshot, Volume, now_us},
    domain::{AttachmentStatus, BackupStatus, SnapshotStatus, VolumeStatus},
    fault::{Answer, Fault},
};

pub(super) fn unknown(status: &str) -> Fault {
    let shown: String = status.chars().take(64).collect();
    Fault::bad(format!("Invalid status: {shown:?} is none that can be set."))
}

impl Block {
    /// `os-reset_status` of a volume: its state, or that of its attachments.
    pub(crate) async fn reset_volume(
        &self,
        caller: &Caller,
        id: &str,
        status: Option<&str>,
        attach_status: Option<&str>,
    ) -> Answer<()> {
        caller.require_admin("volume_extension:volume_admin_actions:reset_status")?;
        let named = |text: &str| VolumeStatus::named(text).ok_or_else(|| unknown(text));
        let status = status.map(named).transpose()?;
        if status.is_none() && attach_status.is_none() {
            return Err(Fault::bad("name a status, an attach_status or a migration_status"));
        }
        // Names go in the same transaction: whoever comes next never gets those of a consumer that is still there.
        let tie = match attach_status {
            Some("detached") => Some(self.inner.ties.hold(id).await),
            _ => None,
        };
        let mut waited = false;
        let volume = self.change(caller, |tx| {
            let mut volume: Volume = owned(tx, caller, id)?;
            match attach_status {
                Some("detached") => {
                    volume.exports.clear();
                    waited = volume.held.take().is_some();
                    for attachment in tx.ids(&Attachment::of_volume(id))? {
                        tx.remove::<Attachment>(&attachment)?;
                    }
                }
                Some("attached") => {
                    for mut attachment in tx.found::<Attachment>(&Attachment::of_volume(id))? {
                        attachment.status = AttachmentStatus::Attached;
                        tx.put(&attachment)?;
                    }
                }
                Some(other) => return Err(unknown(other)),
                None => {}
            }
            if let Some(status) = status {
                if status == VolumeStatus::InUse && !tx.any(&Attachment::of_volume(id))? {
                    return Err(Fault::bad("Invalid status: a volume without an attachment cannot be in-use."));
                }
                volume.status = status;
            }
            volume.updated_us = Some(now_us());
            tx.put(&volume)?;
            Ok(volume)
        })?;
        let Some(tie) = tie else { return Ok(()) };
        let block = self.clone();
        // Both, also when the client has left; the limits first, since the ways may fail.
        to_its_end(async move {
            let _tie = tie;
            if waited {
                block.stop_waiting(&volume.id).await;
            }
            block.disconnect(&volume).await
        })
        .await
    }

    /// `os-reset_status` and `os-update_snapshot_status` of a snapshot.
    pub(crate) fn reset_snapshot(&self, caller: &Caller, id: &str, status: &str) -> Answer<()> {
        caller.require_admin("volume_extension:snapshot_admin_actions:reset_status")?;
        let status = SnapshotStatus::named(status).ok_or_else(|| unknown(status))?;
        self.change(caller, |tx| {
            let mut snapshot: Snapshot = owned(tx, caller, id)?;
            snapshot.status = status;
            snapshot.updated_us = Some(now_us());
            tx.put(&snapshot)
        })
    }

    /// `os-reset_status` of a backup: `available`, if it is stored, or `error`.
    pub(crate) fn reset_backup(&self, caller: &Caller, id: &str, status: &str) -> Answer<()> {
        caller.require_admin("volume_extension:backup_admin_actions:reset_status")?;
        let wanted = BackupStatus::named(status).filter(|s| matches!(s, BackupStatus::Available | BackupStatus::Error));
        let wanted = wanted.ok_or_else(|| unknown(status))?;
        self.change(caller, |tx| {
            let mut backup: Backup = owned(tx, caller, id)?;
            if wanted == BackupStatus::Available && backup.stored_id.is_none() {
                return Err(Fault::bad("Invalid status: the backup is not stored, and cannot be available."));
            }
            backup.status = wanted;
            backup.updated_us = Some(now_us());
            tx.put(&backup)
        })
    }
}
