//! What goes with volumes: types, which of them are defaults, QoS specs, transfers, messages.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

use super::{
    keys::Key,
    objects::entries_of_lists,
    records::{Kind, Record},
};

/// What has a name that is unique within its kind.
pub(crate) trait Named: Record {
    /// The entry that leads to the one of this name.
    fn by_name(name: &str) -> Vec<u8> {
        Key::new("n").with(Self::KIND.tag).with(name).bytes()
    }
}

/// A type of volumes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VolumeType {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    pub(crate) public: bool,
    pub(crate) extra_specs: BTreeMap<String, String>,
    pub(crate) qos_id: Option<String>,
    /// Projects that may use it when it is not public.
    pub(crate) projects: BTreeSet<String>,
    pub(crate) created_us: u64,
}

impl VolumeType {
    /// Entries that lead to the types that are associated with QoS specs.
    pub(crate) fn of_qos(id: &str) -> Vec<u8> {
        Key::new("x").with("type-qos").with(id).bytes()
    }
}

impl Record for VolumeType {
    const KIND: Kind = Kind { tag: "type", name: "Volume type" };

    fn id(&self) -> &str {
        &self.id
    }

    fn entries(&self) -> Vec<Vec<u8>> {
        let mut entries = vec![Self::by_name(&self.name)];
        entries.extend(self.qos_id.iter().map(|q| Key::new("x").with("type-qos").with(q).with(&self.id).bytes()));
        entries
    }
}

impl Named for VolumeType {}

/// The type of a project's volumes that name none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DefaultType {
    pub(crate) project: String,
    pub(crate) type_id: String,
}

impl DefaultType {
    /// Entries that lead to the projects whose default a type is.
    pub(crate) fn of_type(id: &str) -> Vec<u8> {
        Key::new("x").with("default_type-type").with(id).bytes()
    }
}

impl Record for DefaultType {
    const KIND: Kind = Kind { tag: "default_type", name: "Default type" };

    fn id(&self) -> &str {
        &self.project
    }

    fn entries(&self) -> Vec<Vec<u8>> {
        vec![Key::new("x").with("default_type-type").with(&self.type_id).with(&self.project).bytes()]
    }

    fn owner(&self) -> Option<&str> {
        Some(&self.project)
    }
}

/// Who enforces QoS specs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Consumer {
    #[serde(rename = "front-end")]
    FrontEnd,
    #[serde(rename = "back-end")]
    BackEnd,
    #[serde(rename = "both")]
    Both,
}

impl Consumer {
    /// Its name in the interface.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::FrontEnd => "front-end",
            Self::BackEnd => "back-end",
            Self::Both => "both",
        }
    }

    /// The one of this name.
    pub(crate) fn named(text: &str) -> Option<Self> {
        [Self::FrontEnd, Self::BackEnd, Self::Both].into_iter().find(|consumer| consumer.as_str() == text)
    }

    /// Whether the engine enforces them.
    pub(crate) fn is_ours(self) -> bool {
        self != Self::FrontEnd
    }
}

/// Limits that types of volumes refer to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct QosSpec {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) consumer: Consumer,
    pub(crate) specs: BTreeMap<String, String>,
    pub(crate) created_us: u64,
}

impl Record for QosSpec {
    const KIND: Kind = Kind { tag: "qos", name: "QoS specs" };

    fn id(&self) -> &str {
        &self.id
    }

    fn entries(&self) -> Vec<Vec<u8>> {
        vec![Self::by_name(&self.name)]
    }
}

impl Named for QosSpec {}

/// A volume that is offered to another project. Its key is shown once; what is kept cannot be turned back into it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Transfer {
    pub(crate) id: String,
    pub(crate) project: String,
    pub(crate) volume_id: String,
    pub(crate) name: Option<String>,
    /// Whether its snapshots stay behind.
    pub(crate) no_snapshots: bool,
    /// [`transfer_digest`](crate::secrets::transfer_digest) of its key.
    pub(crate) key_hash: String,
    pub(crate) created_us: u64,
}

impl Transfer {
    /// The entry that leads to the transfer of a volume.
    pub(crate) fn of_volume(volume: &str) -> Vec<u8> {
        Key::new("x").with("transfer-volume").with(volume).bytes()
    }
}

impl Record for Transfer {
    const KIND: Kind = Kind { tag: "transfer", name: "Transfer" };

    fn id(&self) -> &str {
        &self.id
    }

    fn entries(&self) -> Vec<Vec<u8>> {
        let mut entries = entries_of_lists(Self::KIND, &self.project, self.created_us, &self.id);
        entries.push(Self::of_volume(&self.volume_id));
        entries
    }

    fn owner(&self) -> Option<&str> {
        Some(&self.project)
    }
}

/// Why something that a user asked for failed afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Message {
    pub(crate) id: String,
    pub(crate) project: String,
    pub(crate) request: String,
    /// `VOLUME`, `VOLUME_SNAPSHOT`, `VOLUME_BACKUP`.
    pub(crate) resource_type: String,
    pub(crate) resource: String,
    pub(crate) event: String,
    pub(crate) text: String,
    pub(crate) created_us: u64,
}

impl Record for Message {
    const KIND: Kind = Kind { tag: "message", name: "Message" };

    fn id(&self) -> &str {
        &self.id
    }

    fn entries(&self) -> Vec<Vec<u8>> {
        entries_of_lists(Self::KIND, &self.project, self.created_us, &self.id)
    }

    fn owner(&self) -> Option<&str> {
        Some(&self.project)
    }
}
