//! Groups of volumes, their types, and snapshots of groups.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

use super::{
    keys::Key,
    objects::entries_of_lists,
    records::{Kind, Record},
    settings::Named,
};
use crate::domain::{GroupSnapshotStatus, GroupStatus};

/// A type of groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GroupType {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    pub(crate) public: bool,
    pub(crate) specs: BTreeMap<String, String>,
    pub(crate) created_us: u64,
}

impl Record for GroupType {
    const KIND: Kind = Kind { tag: "group_type", name: "Group type" };

    fn id(&self) -> &str {
        &self.id
    }

    fn entries(&self) -> Vec<Vec<u8>> {
        vec![Self::by_name(&self.name)]
    }
}

impl Named for GroupType {}

/// A group of volumes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Group {
    pub(crate) id: String,
    pub(crate) project: String,
    pub(crate) user: String,
    pub(crate) name: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) type_id: String,
    /// Types of the volumes that may be in it.
    pub(crate) volume_types: BTreeSet<String>,
    pub(crate) status: GroupStatus,
    pub(crate) group_snapshot_id: Option<String>,
    pub(crate) source_group_id: Option<String>,
    pub(crate) created_us: u64,
}

impl Group {
    /// Entries that lead to the groups of a type.
    pub(crate) fn of_type(id: &str) -> Vec<u8> {
        Key::new("x").with("group-type").with(id).bytes()
    }

    /// Entries that lead to the groups that may have volumes of a type.
    pub(crate) fn of_volume_type(id: &str) -> Vec<u8> {
        Key::new("x").with("group-volume-type").with(id).bytes()
    }
}

impl Record for Group {
    const KIND: Kind = Kind { tag: "group", name: "Group" };

    fn id(&self) -> &str {
        &self.id
    }

    fn entries(&self) -> Vec<Vec<u8>> {
        let mut entries = entries_of_lists(Self::KIND, &self.project, self.created_us, &self.id);
        entries.push(Key::new("x").with("group-type").with(&self.type_id).with(&self.id).bytes());
        let of = |id: &String| Key::new("x").with("group-volume-type").with(id).with(&self.id).bytes();
        entries.extend(self.volume_types.iter().map(of));
        entries
    }

    fn owner(&self) -> Option<&str> {
        Some(&self.project)
    }
}

/// Snapshots of the volumes of a group, of one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GroupSnapshot {
    pub(crate) id: String,
    pub(crate) project: String,
    pub(crate) user: String,
    pub(crate) name: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) group_id: String,
    pub(crate) type_id: String,
    pub(crate) status: GroupSnapshotStatus,
    pub(crate) created_us: u64,
}

impl GroupSnapshot {
    /// Entries that lead to the snapshots of a group.
    pub(crate) fn of_group(id: &str) -> Vec<u8> {
        Key::new("x").with("group_snapshot-group").with(id).bytes()
    }
}

impl Record for GroupSnapshot {
    const KIND: Kind = Kind { tag: "group_snapshot", name: "Group snapshot" };

    fn id(&self) -> &str {
        &self.id
    }

    fn entries(&self) -> Vec<Vec<u8>> {
        let mut entries = entries_of_lists(Self::KIND, &self.project, self.created_us, &self.id);
        let of = Key::new("x").with("group_snapshot-group").with(&self.group_id).newest_first(self.created_us);
        entries.push(of.with(&self.id).bytes());
        entries
    }

    fn owner(&self) -> Option<&str> {
        Some(&self.project)
    }
}

/// Limits of all volumes of a project together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProjectQos {
    /// The project.
    pub(crate) id: String,
    pub(crate) limits: BTreeMap<String, String>,
}

impl Record for ProjectQos {
    const KIND: Kind = Kind { tag: "project_qos", name: "Limits of project" };

    fn id(&self) -> &str {
        &self.id
    }

    fn entries(&self) -> Vec<Vec<u8>> {
        Vec::new()
    }

    fn owner(&self) -> Option<&str> {
        Some(&self.id)
    }
}
