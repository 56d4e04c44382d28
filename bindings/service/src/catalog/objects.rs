//! Volumes, snapshots, backups, attachments, and what is under way with them.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::{
    keys::Key,
    records::{Kind, Record},
};
use crate::domain::{AttachmentStatus, BackupStatus, Claim, SnapshotStatus, VolumeStatus};

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Volume {
    pub(crate) id: String,
    pub(crate) project: String,
    pub(crate) user: String,
    pub(crate) name: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) metadata: BTreeMap<String, String>,
    /// GiB.
    pub(crate) size: u64,
    pub(crate) status: VolumeStatus,
    pub(crate) type_id: String,
    pub(crate) bootable: bool,
    pub(crate) read_only: bool,
    pub(crate) multiattach: bool,
    pub(crate) snapshot_id: Option<String>,
    pub(crate) source_volid: Option<String>,
    /// The backup that it was made from or restored from last.
    #[serde(default)]
    pub(crate) backup_id: Option<String>,
    /// What is known of the image that it came from.
    #[serde(default)]
    pub(crate) image: BTreeMap<String, String>,
    pub(crate) created_us: u64,
    pub(crate) updated_us: Option<u64>,
}

impl Volume {
    /// What it is called in the pool.
    pub(crate) fn engine_name(&self) -> String {
        engine_volume(&self.id)
    }

    /// Entries that lead to the volumes of a type.
    pub(crate) fn of_type(type_id: &str) -> Vec<u8> {
        Key::new("x").with("volume-type").with(type_id).bytes()
    }
}

/// What a volume is called in the pool.
pub(crate) fn engine_volume(id: &str) -> String {
    format!("volume-{id}")
}

/// What a snapshot is called in the pool, after its volume's name.
pub(crate) fn engine_snapshot(id: &str) -> String {
    format!("snapshot-{id}")
}

/// Entries of every kind that lists are made of: of one project, or of all.
pub(super) fn listed(kind: Kind, project: Option<&str>) -> Key {
    match project {
        Some(project) => Key::new("x").with(kind.tag).with("p").with(project),
        None => Key::new("x").with(kind.tag).with("a"),
    }
}

pub(super) fn entries_of_lists(kind: Kind, project: &str, created_us: u64, id: &str) -> Vec<Vec<u8>> {
    [Some(project), None].map(|of| listed(kind, of).newest_first(created_us).with(id).bytes()).into()
}

impl Record for Volume {
    const KIND: Kind = Kind { tag: "volume", name: "Volume" };

    fn id(&self) -> &str {
        &self.id
    }

    fn entries(&self) -> Vec<Vec<u8>> {
        let mut entries = entries_of_lists(Self::KIND, &self.project, self.created_us, &self.id);
        entries.push(Key::new("x").with("volume-type").with(&self.type_id).with(&self.id).bytes());
        entries
    }
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    pub(crate) id: String,
    pub(crate) project: String,
    pub(crate) user: String,
    pub(crate) volume_id: String,
    /// Of its volume when it was taken: what its quota is counted for.
    pub(crate) type_id: String,
    pub(crate) name: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) metadata: BTreeMap<String, String>,
    /// GiB.
    pub(crate) size: u64,
    pub(crate) status: SnapshotStatus,
    pub(crate) created_us: u64,
    pub(crate) updated_us: Option<u64>,
}

impl Snapshot {
    /// Entries that lead to the snapshots of a volume.
    pub(crate) fn of_volume(volume: &str) -> Vec<u8> {
        Key::new("x").with("snapshot-volume").with(volume).bytes()
    }
}

impl Record for Snapshot {
    const KIND: Kind = Kind { tag: "snapshot", name: "Snapshot" };

    fn id(&self) -> &str {
        &self.id
    }

    fn entries(&self) -> Vec<Vec<u8>> {
        let mut entries = entries_of_lists(Self::KIND, &self.project, self.created_us, &self.id);
        let of_volume = Key::new("x").with("snapshot-volume").with(&self.volume_id).newest_first(self.created_us);
        entries.push(of_volume.with(&self.id).bytes());
        entries
    }
}

/// A backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Backup {
    pub(crate) id: String,
    pub(crate) project: String,
    pub(crate) user: String,
    pub(crate) volume_id: String,
    pub(crate) snapshot_id: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) metadata: BTreeMap<String, String>,
    /// Of the volume, in GiB.
    pub(crate) size: u64,
    pub(crate) status: BackupStatus,
    pub(crate) fail_reason: Option<String>,
    /// Whether it was asked to be an incremental one, and became one.
    pub(crate) incremental: bool,
    /// The backup that it hangs on.
    pub(crate) parent_id: Option<String>,
    /// What the repository calls it, when it is there.
    pub(crate) stored_id: Option<String>,
    /// Of what moment its data are.
    pub(crate) data_us: u64,
    pub(crate) container: Option<String>,
    /// The volume that it is being restored to, or was restored to last.
    #[serde(default)]
    pub(crate) restored_to: Option<String>,
    pub(crate) created_us: u64,
    pub(crate) updated_us: Option<u64>,
}

impl Backup {
    /// Entries that lead to the backups of a volume.
    pub(crate) fn of_volume(volume: &str) -> Vec<u8> {
        Key::new("x").with("backup-volume").with(volume).bytes()
    }

    /// Entries that lead to the backups that hang on one.
    pub(crate) fn of_parent(id: &str) -> Vec<u8> {
        Key::new("x").with("backup-parent").with(id).bytes()
    }
}

impl Record for Backup {
    const KIND: Kind = Kind { tag: "backup", name: "Backup" };

    fn id(&self) -> &str {
        &self.id
    }

    fn entries(&self) -> Vec<Vec<u8>> {
        let mut entries = entries_of_lists(Self::KIND, &self.project, self.created_us, &self.id);
        let of_volume = Key::new("x").with("backup-volume").with(&self.volume_id).newest_first(self.created_us);
        entries.push(of_volume.with(&self.id).bytes());
        let of_parent = |id: &String| Key::new("x").with("backup-parent").with(id).with(&self.id).bytes();
        entries.extend(self.parent_id.iter().map(of_parent));
        entries
    }
}

/// A volume's tie to a consumer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attachment {
    pub(crate) id: String,
    pub(crate) project: String,
    pub(crate) user: String,
    pub(crate) volume_id: String,
    pub(crate) instance: Option<String>,
    pub(crate) status: AttachmentStatus,
    /// `rw` or `ro`.
    pub(crate) mode: String,
    pub(crate) connector: Option<serde_json::Value>,
    pub(crate) connection: Option<serde_json::Value>,
    pub(crate) mountpoint: Option<String>,
    pub(crate) host: Option<String>,
    pub(crate) attached_us: Option<u64>,
    pub(crate) created_us: u64,
}

impl Attachment {
    /// Entries that lead to the attachments of a volume.
    pub(crate) fn of_volume(volume: &str) -> Vec<u8> {
        Key::new("x").with("attachment-volume").with(volume).bytes()
    }
}

impl Record for Attachment {
    const KIND: Kind = Kind { tag: "attachment", name: "Attachment" };

    fn id(&self) -> &str {
        &self.id
    }

    fn entries(&self) -> Vec<Vec<u8>> {
        let mut entries = entries_of_lists(Self::KIND, &self.project, self.created_us, &self.id);
        entries.push(Key::new("x").with("attachment-volume").with(&self.volume_id).with(&self.id).bytes());
        entries
    }
}

/// Where the content of a new volume comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Source {
    /// From nowhere: all zeros.
    Empty,
    /// From a snapshot: of this volume, with this id.
    Snapshot {
        /// The volume.
        volume: String,
        /// The snapshot.
        snapshot: String,
    },
    /// From a volume as it is now.
    Volume(String),
    /// From a backup.
    Backup(String),
}

/// What is under way with an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "op")]
pub(crate) enum Op {
    CreateVolume {
        source: Source,
    },
    DeleteVolume,
    /// With the snapshots that have to go first.
    DeleteCascade {
        snapshots: Vec<String>,
    },
    ExtendVolume {
        size: u64,
    },
    RevertVolume {
        snapshot: String,
    },
    RetypeVolume {
        type_id: String,
    },
    CreateSnapshot,
    DeleteSnapshot,
    CreateBackup {
        full: bool,
    },
    /// Into a volume that is there, or one that was made for it.
    RestoreBackup {
        volume: String,
    },
    DeleteBackup,
}

/// An operation that was begun: recorded before the engine acts, gone with its outcome. One at a time for each object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Intent {
    /// Kind and id of the object, `volume/ID`.
    pub(crate) key: String,
    /// The object's project, whose quota is reserved.
    pub(crate) project: String,
    /// What.
    #[serde(flatten)]
    pub(crate) op: Op,
    /// What is promised to it until it ends.
    #[serde(default)]
    pub(crate) reserved: Claim,
    /// When it was recorded first.
    pub(crate) since_us: u64,
    /// The request that asked for it.
    #[serde(default)]
    pub(crate) request: String,
}

impl Intent {
    /// Its key, by the object.
    pub(crate) fn key(kind: Kind, id: &str) -> String {
        format!("{}/{id}", kind.tag)
    }

    /// The object's id.
    pub(crate) fn object(&self) -> &str {
        self.key.split_once('/').map_or("", |(_, id)| id)
    }
}

impl Record for Intent {
    const KIND: Kind = Kind { tag: "intent", name: "Operation" };

    fn id(&self) -> &str {
        &self.key
    }

    fn entries(&self) -> Vec<Vec<u8>> {
        Vec::new()
    }
}
