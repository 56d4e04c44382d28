//! Volumes, snapshots, backups, attachments, and what is under way with them.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::{
    keys::Key,
    meters::Holding,
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
    /// The group that it is in.
    #[serde(default)]
    pub(crate) group_id: Option<String>,
    /// Limits of its own, which stand before those of its type; `group`: the engine's group in place of its project's.
    #[serde(default)]
    pub(crate) qos: BTreeMap<String, String>,
    /// Limits that it keeps of its type while it is attached: of QoS specs that say so, before they were changed.
    #[serde(default)]
    pub(crate) held: Option<BTreeMap<String, String>>,
    /// Under which names its consumers open it over NBD, while there are any.
    #[serde(default)]
    pub(crate) exports: Vec<Export>,
    pub(crate) created_us: u64,
    pub(crate) updated_us: Option<u64>,
}

/// A way to a volume over NBD.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Export {
    /// Whoever knows it may open the volume.
    pub(crate) name: String,
    pub(crate) read_only: bool,
}

impl std::fmt::Debug for Export {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Export")
    }
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

    /// Entries that lead to the volumes of a group.
    pub(crate) fn of_group(id: &str) -> Vec<u8> {
        Key::new("x").with("volume-group").with(id).bytes()
    }

    /// Entries that lead to the volumes of a project, newest first.
    pub(crate) fn of_project(project: &str) -> Vec<u8> {
        listed(Self::KIND, Some(project)).bytes()
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
pub(crate) fn listed(kind: Kind, project: Option<&str>) -> Key {
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
        let of_group = |id: &String| Key::new("x").with("volume-group").with(id).with(&self.id).bytes();
        entries.extend(self.group_id.iter().map(of_group));
        entries
    }

    fn owner(&self) -> Option<&str> {
        Some(&self.project)
    }

    fn holding(&self) -> Option<Holding> {
        let (id, project) = (self.id.clone(), self.project.clone());
        Some(Holding { kind: Self::KIND.tag, id, project, gib: self.size })
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
    /// The snapshot of a group that it is a part of.
    #[serde(default)]
    pub(crate) group_snapshot_id: Option<String>,
    pub(crate) created_us: u64,
    pub(crate) updated_us: Option<u64>,
}

impl Snapshot {
    /// Entries that lead to the snapshots of a volume.
    pub(crate) fn of_volume(volume: &str) -> Vec<u8> {
        Key::new("x").with("snapshot-volume").with(volume).bytes()
    }

    /// Entries that lead to the parts of a snapshot of a group.
    pub(crate) fn of_group_snapshot(id: &str) -> Vec<u8> {
        Key::new("x").with("snapshot-group_snapshot").with(id).bytes()
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
        let of = |id: &String| Key::new("x").with("snapshot-group_snapshot").with(id).with(&self.id).bytes();
        entries.extend(self.group_snapshot_id.iter().map(of));
        entries
    }

    fn owner(&self) -> Option<&str> {
        Some(&self.project)
    }

    fn holding(&self) -> Option<Holding> {
        let (id, project) = (self.id.clone(), self.project.clone());
        Some(Holding { kind: Self::KIND.tag, id, project, gib: self.size })
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

    fn owner(&self) -> Option<&str> {
        Some(&self.project)
    }

    fn holding(&self) -> Option<Holding> {
        let (id, project) = (self.id.clone(), self.project.clone());
        Some(Holding { kind: Self::KIND.tag, id, project, gib: self.size })
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

    fn owner(&self) -> Option<&str> {
        Some(&self.project)
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
    /// From a backup, usable at once, filled while it is used.
    BackupAtOnce(String),
    /// From an image.
    Image(String),
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
    /// Out of its chain: those that hang on it hang on what it hung on.
    MergeBackup,
    /// To a full one.
    PromoteBackup,
    /// With the volumes in it, and what each is made from.
    CreateGroup {
        members: Vec<(String, Source)>,
    },
    /// With the volumes in it.
    DeleteGroup {
        volumes: Vec<String>,
    },
    /// Snapshots of several volumes at one moment.
    CreateGroupSnapshot {
        snapshots: Vec<String>,
    },
    DeleteGroupSnapshot {
        snapshots: Vec<String>,
    },
    /// The bytes of an image, from a client that is sending them.
    ReceiveImage,
    /// An image of a volume.
    ImageOfVolume {
        volume: String,
        /// The volume is not needed any more, and is back in its state.
        #[serde(default)]
        released: bool,
    },
    DeleteImage,
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
    /// What the operation is known by, also when it has ended.
    #[serde(default)]
    pub(crate) task: String,
    /// Who asked for it, and by what name of it events tell.
    #[serde(default)]
    pub(crate) user: String,
    #[serde(default)]
    pub(crate) action: String,
    /// Somebody wishes that it is taken back.
    #[serde(default)]
    pub(crate) cancelled: bool,
    /// It is past the point from which it can be taken back.
    #[serde(default)]
    pub(crate) past: bool,
    /// Of a restore over a volume: snapshots for undoing that were there before it took its own. None: it has not begun, if it notes them.
    #[serde(default)]
    pub(crate) earlier: Option<Vec<String>>,
    /// Of a restore: it notes those. One of a version that did not may have begun: then all that there are count as its own.
    #[serde(default)]
    pub(crate) notes_undos: bool,
}

impl Intent {
    /// Its key, by the object.
    pub(crate) fn key(kind: Kind, id: &str) -> String {
        format!("{}/{id}", kind.tag)
    }

    /// The object's kind.
    pub(crate) fn kind(&self) -> &str {
        self.key.split_once('/').map_or("", |(kind, _)| kind)
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

    fn owner(&self) -> Option<&str> {
        Some(&self.project)
    }

    fn is_about_others() -> bool {
        true
    }
}
