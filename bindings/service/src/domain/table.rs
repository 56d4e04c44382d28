//! What leads from one state to another: one table for each kind of object, and nothing else changes a state.
//!
//! Invariant: every change of a state that users or tasks cause is a row here. Administrators may set a state by hand (`os-reset_status`),
//! which is no row: it is a statement about the record, and the engine's truth is not touched by it.

use std::fmt;

use super::states::{
    AttachmentStatus, BackupStatus, GroupSnapshotStatus, GroupStatus, ImageStatus, SnapshotStatus, VolumeStatus,
};

/// A change that the table does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Illegal {
    /// What was wanted, for people.
    pub(crate) wanted: &'static str,
    /// The state that it was in.
    pub(crate) from: &'static str,
    /// The states in which it would do.
    pub(crate) allowed: Vec<&'static str>,
}

impl fmt::Display for Illegal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status is {}, and must be {} to {}", self.from, self.allowed.join(" or "), self.wanted)
    }
}

/// One row: from any of these states to one of those.
pub(crate) struct Row<M: 'static, S: 'static> {
    name: M,
    wanted: &'static str,
    from: &'static [S],
    to: &'static [S],
}

/// A change of a state.
pub(crate) trait Move: Copy + PartialEq + Sized + 'static {
    /// What it changes.
    type State: Copy + PartialEq + Sized + 'static;
    /// The rows.
    const TABLE: &'static [Row<Self, Self::State>];
    /// The name of a state.
    fn name(state: Self::State) -> &'static str;

    /// Whether it may begin in `from`.
    #[cfg(test)]
    fn check(self, from: Self::State) -> Result<(), Illegal> {
        match Self::TABLE.iter().any(|row| row.name == self && row.from.contains(&from)) {
            true => Ok(()),
            false => Err(self.illegal(from)),
        }
    }

    /// The state that it leads to, where there is one only.
    ///
    /// # Errors
    /// [`Illegal`].
    fn apply(self, from: Self::State) -> Result<Self::State, Illegal> {
        let found = Self::TABLE.iter().find(|row| row.name == self && row.from.contains(&from));
        match found.map(|row| row.to) {
            Some([to]) => Ok(*to),
            _ => Err(self.illegal(from)),
        }
    }

    /// To a state that has to be said, because the row has several: back to what it was.
    ///
    /// # Errors
    /// [`Illegal`].
    fn apply_to(self, from: Self::State, to: Self::State) -> Result<Self::State, Illegal> {
        match Self::TABLE.iter().any(|row| row.name == self && row.from.contains(&from) && row.to.contains(&to)) {
            true => Ok(to),
            false => Err(self.illegal(from)),
        }
    }

    /// The refusal.
    fn illegal(self, from: Self::State) -> Illegal {
        let rows = || Self::TABLE.iter().filter(|row| row.name == self);
        Illegal {
            wanted: rows().next().map_or("do that", |row| row.wanted),
            from: Self::name(from),
            allowed: rows().flat_map(|row| row.from.iter().map(|state| Self::name(*state))).collect(),
        }
    }
}

macro_rules! table {
    ($(#[$doc:meta])* $moves:ident of $states:ident {
        $($(#[$what:meta])* $name:ident, $wanted:literal: [$($from:ident)|+] => [$($to:ident)|+];)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum $moves { $($(#[$what])* $name),* }

        impl Move for $moves {
            type State = $states;
            const TABLE: &'static [Row<Self, $states>] = &[$(Row {
                name: Self::$name,
                wanted: $wanted,
                from: &[$($states::$from),+],
                to: &[$($states::$to),+],
            }),*];

            fn name(state: $states) -> &'static str {
                state.as_str()
            }
        }
    };
}

table! {
    /// Changes of volumes.
    VolumeMove of VolumeStatus {
        Created, "be created": [Creating] => [Available];
        CreateFailed, "be created": [Creating] => [Error];
        /// Its image is being written into it.
        Download, "take an image": [Creating | Available | Error] => [Downloading];
        Downloaded, "take an image": [Downloading] => [Available];
        DownloadFailed, "take an image": [Downloading] => [Error];
        /// An attachment without a connector.
        Reserve, "be reserved": [Available | Downloading | Reserved] => [Reserved];
        /// The older way.
        BeginAttach, "be reserved": [Available | Downloading] => [Attaching];
        /// An attachment that got its connector.
        Attach, "be attached": [Available | Downloading | Reserved | Attaching] => [Attaching];
        Unreserve, "be unreserved": [Attaching | Reserved] => [Available | InUse];
        Attached, "be attached": [Available | Attaching | Reserved | InUse] => [InUse];
        /// Another attachment of a volume that says multiattach.
        AttachAgain, "be attached once more": [InUse] => [InUse];
        BeginDetach, "be detached": [InUse] => [Detaching];
        RollDetach, "stay attached": [Detaching] => [InUse];
        Detached, "be detached": [InUse | Detaching | Attaching | Reserved] => [Available | InUse | Reserved | Attaching];
        Extend, "be extended": [Available | InUse] => [Extending];
        Extended, "be extended": [Extending] => [Available | InUse];
        ExtendFailed, "be extended": [Extending] => [ErrorExtending];
        Retype, "be retyped": [Available | InUse] => [Retyping];
        Retyped, "be retyped": [Retyping] => [Available | InUse];
        Revert, "be reverted": [Available] => [Reverting];
        Reverted, "be reverted": [Reverting] => [Available];
        RevertFailed, "be reverted": [Reverting] => [Error];
        Upload, "become an image": [Available | InUse] => [Uploading];
        Uploaded, "become an image": [Uploading] => [Available | InUse];
        BackUp, "be backed up": [Available | InUse] => [BackingUp];
        BackedUp, "be backed up": [BackingUp] => [Available | InUse];
        Restore, "be restored": [Available] => [RestoringBackup];
        Restored, "be restored": [RestoringBackup] => [Available];
        RestoreFailed, "be restored": [RestoringBackup] => [ErrorRestoring];
        OfferTransfer, "be offered to another project": [Available] => [AwaitingTransfer];
        EndTransfer, "end its transfer": [AwaitingTransfer] => [Available];
        Manage, "be taken in": [Managing] => [Available | Error];
        Delete, "be deleted": [Available | Error | ErrorRestoring | ErrorExtending | ErrorDeleting] => [Deleting];
        /// By an administrator, whatever it is doing.
        ForceDelete, "be deleted": [Creating | Available | Reserved | Attaching | InUse | Detaching | ErrorExtending | ErrorRestoring
            | AwaitingTransfer | Maintenance | Managing | ErrorDeleting | Error] => [Deleting];
        DeleteFailed, "be deleted": [Deleting] => [ErrorDeleting];
    }
}

table! {
    /// Changes of snapshots.
    SnapshotMove of SnapshotStatus {
        Created, "be created": [Creating] => [Available];
        CreateFailed, "be created": [Creating] => [Error];
        BackUp, "be backed up": [Available] => [BackingUp];
        BackedUp, "be backed up": [BackingUp] => [Available];
        Restore, "be reverted to": [Available] => [Restoring];
        Restored, "be reverted to": [Restoring] => [Available];
        Delete, "be deleted": [Available | Error | ErrorDeleting] => [Deleting];
        /// By an administrator, whatever it is doing.
        ForceDelete, "be deleted": [Creating | Available | ErrorDeleting | Error] => [Deleting];
        DeleteFailed, "be deleted": [Deleting] => [ErrorDeleting];
    }
}

table! {
    /// Changes of backups.
    BackupMove of BackupStatus {
        Created, "be made": [Creating] => [Available];
        CreateFailed, "be made": [Creating] => [Error];
        Restore, "be restored": [Available] => [Restoring];
        Restored, "be restored": [Restoring] => [Available];
        Delete, "be deleted": [Available | Error] => [Deleting];
        /// By an administrator, whatever it is doing.
        ForceDelete, "be deleted": [Creating | Available | Restoring | Error] => [Deleting];
        DeleteFailed, "be deleted": [Deleting] => [Error];
    }
}

table! {
    /// Changes of attachments.
    AttachmentMove of AttachmentStatus {
        /// It got its connector.
        Connect, "be connected": [Reserved | Attaching | Attached] => [Attaching | Attached];
        Complete, "be completed": [Attaching | Reserved] => [Attached];
        ConnectFailed, "be connected": [Reserved | Attaching] => [ErrorAttaching];
        BeginDetach, "be detached": [Attached] => [Detaching];
        RollDetach, "stay attached": [Detaching] => [Attached];
        Detach, "be detached": [Reserved | Attaching | Attached | Detaching | ErrorAttaching | ErrorDetaching] => [Detached];
        DetachFailed, "be detached": [Detaching] => [ErrorDetaching];
    }
}

table! {
    /// Changes of groups.
    GroupMove of GroupStatus {
        Created, "be created": [Creating] => [Available];
        CreateFailed, "be created": [Creating] => [Error];
        Delete, "be deleted": [Available | Error | ErrorDeleting] => [Deleting];
        DeleteFailed, "be deleted": [Deleting] => [ErrorDeleting];
    }
}

table! {
    /// Changes of snapshots of groups.
    GroupSnapshotMove of GroupSnapshotStatus {
        Created, "be created": [Creating] => [Available];
        CreateFailed, "be created": [Creating] => [Error];
        Delete, "be deleted": [Available | Error | ErrorDeleting] => [Deleting];
        DeleteFailed, "be deleted": [Deleting] => [ErrorDeleting];
    }
}

table! {
    /// Changes of images.
    ImageMove of ImageStatus {
        /// From a client, or from a volume.
        Fill, "take its content": [Queued] => [Saving];
        Filled, "take its content": [Saving] => [Active];
        /// The upload failed, or was cut off: it can be tried again.
        UploadFailed, "take its content": [Saving] => [Queued];
        /// The volume could not be read.
        CopyFailed, "take its content": [Saving] => [Killed];
        Delete, "be deleted": [Queued | Active | Killed] => [PendingDelete];
        DeleteFailed, "be deleted": [PendingDelete] => [Killed];
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
