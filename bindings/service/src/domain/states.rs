//! The states of volumes, snapshots, backups and attachments, by the names that the interface has for them.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! states {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub(crate) enum $name { $(#[serde(rename = $text)] $variant),* }

        impl $name {
            /// All of them.
            #[cfg_attr(not(test), allow(dead_code, reason = "not every kind is looked up by name"))]
            pub(crate) const ALL: &[Self] = &[$(Self::$variant),*];

            /// Its name in the interface.
            pub(crate) fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }

            /// The state of this name.
            #[cfg_attr(not(test), allow(dead_code, reason = "not every kind is looked up by name"))]
            pub(crate) fn named(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|state| state.as_str() == text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

states! {
    /// Of a volume.
    VolumeStatus {
        Creating = "creating",
        Available = "available",
        Reserved = "reserved",
        Attaching = "attaching",
        InUse = "in-use",
        Detaching = "detaching",
        Extending = "extending",
        ErrorExtending = "error_extending",
        Uploading = "uploading",
        Downloading = "downloading",
        BackingUp = "backing-up",
        RestoringBackup = "restoring-backup",
        ErrorRestoring = "error_restoring",
        Reverting = "reverting",
        Retyping = "retyping",
        AwaitingTransfer = "awaiting-transfer",
        Maintenance = "maintenance",
        Managing = "managing",
        Deleting = "deleting",
        ErrorDeleting = "error_deleting",
        Error = "error",
    }
}

states! {
    /// Of a snapshot.
    SnapshotStatus {
        Creating = "creating",
        Available = "available",
        BackingUp = "backing-up",
        Restoring = "restoring",
        Deleting = "deleting",
        ErrorDeleting = "error_deleting",
        Error = "error",
    }
}

states! {
    /// Of a backup.
    BackupStatus {
        Creating = "creating",
        Available = "available",
        Restoring = "restoring",
        Deleting = "deleting",
        Error = "error",
    }
}

states! {
    /// Of an attachment.
    AttachmentStatus {
        Reserved = "reserved",
        Attaching = "attaching",
        Attached = "attached",
        Detaching = "detaching",
        Detached = "detached",
        ErrorAttaching = "error_attaching",
        ErrorDetaching = "error_detaching",
    }
}

states! {
    /// Of a group.
    GroupStatus {
        Creating = "creating",
        Available = "available",
        Deleting = "deleting",
        ErrorDeleting = "error_deleting",
        Error = "error",
    }
}

states! {
    /// Of a snapshot of a group.
    GroupSnapshotStatus {
        Creating = "creating",
        Available = "available",
        Deleting = "deleting",
        ErrorDeleting = "error_deleting",
        Error = "error",
    }
}

states! {
    /// Of an image.
    ImageStatus {
        Queued = "queued",
        Saving = "saving",
        Active = "active",
        Killed = "killed",
        PendingDelete = "pending_delete",
    }
}

states! {
    /// What the bytes of an image are.
    DiskFormat {
        Raw = "raw",
        Qcow2 = "qcow2",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_states() {
        for state in VolumeStatus::ALL {
            assert_eq!(VolumeStatus::named(state.as_str()), Some(*state));
            assert_eq!(serde_json::to_string(state).unwrap(), format!("\"{state}\""));
        }
        assert_eq!(VolumeStatus::ALL.len(), 21);
        assert_eq!(SnapshotStatus::named("deleted"), None);
        assert_eq!(ImageStatus::named("pending_delete"), Some(ImageStatus::PendingDelete));
        assert_eq!((DiskFormat::named("qcow2"), DiskFormat::named("vmdk")), (Some(DiskFormat::Qcow2), None));
        assert_eq!(BackupStatus::named("available"), Some(BackupStatus::Available));
        assert_eq!(AttachmentStatus::named("attached"), Some(AttachmentStatus::Attached));
    }
}
