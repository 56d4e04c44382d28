//! The rules of the block storage service, without a catalog, an engine or a network: states and what leads from one to another, quotas,
//! names and sizes, versions of the interface.

mod quota;
mod role;
mod rules;
mod states;
mod table;
mod version;

pub(crate) use quota::{Claim, Count, DEFAULTS, Over, QuotaKey, Resource, admit};
pub(crate) use role::Role;
pub(crate) use rules::{
    GIB, check_description, check_entries, check_label, check_metadata, check_metadata_of, check_name, check_size,
    is_uuid, new_id,
};
pub(crate) use states::{
    AttachmentStatus, BackupStatus, DiskFormat, GroupSnapshotStatus, GroupStatus, ImageStatus, SnapshotStatus,
    VolumeStatus,
};
pub(crate) use table::{
    AttachmentMove, BackupMove, GroupMove, GroupSnapshotMove, Illegal, ImageMove, Move, SnapshotMove, VolumeMove,
};
pub(crate) use version::{Microversion, NEWEST, OLDEST, Refused};
