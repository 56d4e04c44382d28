//! Images: bytes that volumes are made from.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

use super::{
    keys::Key,
    meters::Holding,
    objects::entries_of_lists,
    records::{Kind, Record},
};
use crate::domain::{DiskFormat, ImageStatus};

/// An image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Image {
    pub(crate) id: String,
    pub(crate) project: String,
    pub(crate) user: String,
    pub(crate) name: Option<String>,
    pub(crate) status: ImageStatus,
    /// Everybody may read it.
    pub(crate) public: bool,
    /// It cannot be deleted.
    pub(crate) protected: bool,
    /// Lists leave it out unless they are asked for such.
    pub(crate) hidden: bool,
    pub(crate) tags: BTreeSet<String>,
    pub(crate) properties: BTreeMap<String, String>,
    /// GiB that a volume of it has at least.
    pub(crate) min_disk: u64,
    /// MiB of memory that a machine of it has at least.
    pub(crate) min_ram: u64,
    pub(crate) format: Option<DiskFormat>,
    /// Whether its container was said, which is always `bare`.
    pub(crate) bare: bool,
    /// What it holds, once it is active.
    pub(crate) content: Option<Content>,
    pub(crate) created_us: u64,
    pub(crate) updated_us: Option<u64>,
}

/// What an active image holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Content {
    /// Bytes that were sent, and are given out again.
    pub(crate) size: u64,
    /// Bytes of the disk that they are.
    pub(crate) virtual_size: u64,
    /// MD5 of the bytes.
    pub(crate) md5: String,
    /// SHA-512 of the bytes.
    pub(crate) sha512: String,
    /// What the project's quota is charged with, in GiB.
    pub(crate) gib: u64,
}

/// The snapshot that images are read and cloned from.
pub(crate) const IMAGE_SNAPSHOT: &str = "content";

/// The volume of the pool that holds the disk of an image.
pub(crate) fn engine_image(id: &str) -> String {
    format!("image-{id}")
}

/// The volume of the pool that holds the bytes of an image, where these are not the disk.
pub(crate) fn engine_image_file(id: &str) -> String {
    format!("image-file-{id}")
}

impl Image {
    /// What the quota is charged with for its content.
    pub(crate) fn gib(&self) -> u64 {
        self.content.as_ref().map_or(0, |content| content.gib)
    }

    /// Entries that lead to the images that everybody may read.
    pub(crate) fn for_everybody() -> Vec<u8> {
        Key::new("x").with("image-public").bytes()
    }
}

impl Record for Image {
    const KIND: Kind = Kind { tag: "image", name: "Image" };

    fn id(&self) -> &str {
        &self.id
    }

    fn entries(&self) -> Vec<Vec<u8>> {
        let mut entries = entries_of_lists(Self::KIND, &self.project, self.created_us, &self.id);
        if self.public {
            entries.push(Key::new("x").with("image-public").with(&self.id).bytes());
        }
        entries
    }

    fn owner(&self) -> Option<&str> {
        Some(&self.project)
    }

    fn holding(&self) -> Option<Holding> {
        let (id, project, gib) = (self.id.clone(), self.project.clone(), self.gib());
        (gib > 0).then_some(Holding { kind: Self::KIND.tag, id, project, gib })
    }
}
