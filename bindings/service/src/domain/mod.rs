//! The rules of the block storage service, without a catalog, an engine or a network: states and what leads from one to another, quotas,
//! names and sizes, versions of the interface.

mod quota;
mod rules;
mod states;
mod table;
mod version;

pub(crate) use quota::{Claim, Count, DEFAULTS, Over, QuotaKey, Resource, admit};
pub(crate) use rules::{GIB, check_description, check_metadata, check_name, check_size, is_uuid, new_id};
pub(crate) use states::{AttachmentStatus, BackupStatus, SnapshotStatus, VolumeStatus};
pub(crate) use table::{AttachmentMove, BackupMove, Illegal, Move, SnapshotMove, VolumeMove};
pub(crate) use version::{Microversion, NEWEST, OLDEST, Refused};
