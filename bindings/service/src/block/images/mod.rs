//! Images: what users ask of them.
//!
//! Where an image's content is: the volume `image-ID` of the pool holds its disk, `image-file-ID` the bytes that were sent, where these are
//! not the disk (qcow2). Both are read from their snapshot `content`, which nothing writes to, and volumes are cloned from that of the disk.
//! No catalog names these volumes as volumes: users come to them through images alone.

mod act;
mod list;
mod read;
mod receive;
mod store;

#[cfg(test)]
pub(super) use act::GrantedFile;
pub(super) use act::image_target;
pub(crate) use list::newest_first;
pub(super) use receive::Feed;
pub(crate) use receive::Sending;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::PoisonError,
};

use super::{
    Block, Caller,
    views::{busy, not_read_by_others, owned},
    work::{begin, intent},
};
use crate::{
    catalog::{Image, Intent, Op, Record, Tx, Volume, now_us},
    domain::{
        Claim, Count, DiskFormat, GIB, ImageMove, ImageStatus, Move, QuotaKey, Resource, Role, VolumeMove,
        VolumeStatus, check_entries, new_id,
    },
    fault::{Answer, Fault, FaultKind},
};

/// Longest name, in characters.
const MAX_NAME: usize = 255;
/// Most tags of an image.
const MAX_TAGS: usize = 128;
/// Most bytes of an image's tags and properties together: lists show all of them.
const MAX_TOLD: usize = 64 << 10;
/// Images that one project may have sent, or made of volumes, at once.
const OF_PROJECT: usize = 4;
/// Most that `min_disk` (GiB) and `min_ram` (MiB) may be.
const MOST: u64 = i32::MAX as u64;

/// What of an image its owner says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ImageFields {
    pub(crate) name: Option<String>,
    pub(crate) public: bool,
    pub(crate) protected: bool,
    pub(crate) hidden: bool,
    pub(crate) tags: BTreeSet<String>,
    pub(crate) properties: BTreeMap<String, String>,
    pub(crate) min_disk: u64,
    pub(crate) min_ram: u64,
    pub(crate) format: Option<DiskFormat>,
    pub(crate) bare: bool,
}

impl ImageFields {
    /// Those of an image.
    pub(crate) fn of(image: &Image) -> Self {
        let image = image.clone();
        Self {
            name: image.name,
            public: image.public,
            protected: image.protected,
            hidden: image.hidden,
            tags: image.tags,
            properties: image.properties,
            min_disk: image.min_disk,
            min_ram: image.min_ram,
            format: image.format,
            bare: image.bare,
        }
    }

    fn put_into(self, image: &mut Image) {
        image.name = self.name;
        image.public = self.public;
        image.protected = self.protected;
        image.hidden = self.hidden;
        image.tags = self.tags;
        image.properties = self.properties;
        image.min_disk = self.min_disk;
        image.min_ram = self.min_ram;
        image.format = self.format;
        image.bare = self.bare;
    }

    /// Bytes of tags and properties.
    fn told(&self) -> usize {
        let properties = self.properties.iter().map(|(key, value)| key.len() + value.len());
        self.tags.iter().map(String::len).chain(properties).sum()
    }

    /// `had`: what there is of tags and properties already. Images of earlier versions may have more than they may get.
    fn check(&self, had: usize) -> Answer<()> {
        let is_text = |text: &str| text.chars().count() <= MAX_NAME && !text.chars().any(char::is_control);
        if !self.name.as_deref().is_none_or(is_text) {
            return Err(Fault::bad("the name has more than 255 characters, or a control character"));
        }
        if self.tags.len() > MAX_TAGS || self.tags.iter().any(|tag| tag.is_empty() || !is_text(tag)) {
            return Err(Fault::bad("an image has at most 128 tags of 1 to 255 characters"));
        }
        if self.min_disk > MOST || self.min_ram > MOST {
            return Err(Fault::bad(format!("min_disk and min_ram are at most {MOST}")));
        }
        check_entries(&self.properties).map_err(Fault::bad)?;
        let told = self.told();
        match told <= MAX_TOLD.max(had) {
            true => Ok(()),
            false => Err(Fault::new(
                FaultKind::OverLimit,
                format!(
                    "the tags and properties of an image have at most {MAX_TOLD} bytes together: {told} are too many"
                ),
            )),
        }
    }
}

/// An image of a volume that is wanted.
#[derive(Clone, Debug)]
pub(crate) struct NewImageOfVolume {
    pub(crate) name: String,
    pub(crate) format: DiskFormat,
    pub(crate) public: bool,
    pub(crate) protected: bool,
    /// Also of an attached volume.
    pub(crate) force: bool,
}

/// Whether an image is there for a caller.
pub(super) fn sees(caller: &Caller, image: &Image) -> bool {
    caller.sees(&image.project) || image.public
}

/// An image that the caller may read.
pub(super) fn readable(tx: &Tx<'_>, caller: &Caller, id: &str) -> Answer<Image> {
    match tx.get::<Image>(id)? {
        Some(image) if sees(caller, &image) => Ok(image),
        _ => Err(Fault::missing(Image::KIND.name, id)),
    }
}

/// An image that the caller may change.
fn writable(tx: &Tx<'_>, caller: &Caller, id: &str) -> Answer<Image> {
    let image = readable(tx, caller, id)?;
    match caller.sees(&image.project) && caller.role >= Role::Member {
        true => Ok(image),
        false => Err(Fault::forbidden("You are not permitted to modify this image: it is another project's.")),
    }
}

fn illegal(image: &Image, error: crate::domain::Illegal) -> Fault {
    let fault = Fault::illegal("image", &image.id, &error);
    Fault::conflict(fault.message)
}

fn may_publish(caller: &Caller) -> Answer<()> {
    match caller.is_admin() {
        true => Ok(()),
        false => Err(Fault::forbidden("You are not authorized to complete publicize_image action.")),
    }
}

/// Refuses to fill one more image of a project: others want the processors, too.
fn not_too_many(tx: &Tx<'_>, project: &str) -> Answer<()> {
    let fills = |one: &Intent| matches!(one.op, Op::ReceiveImage | Op::ImageOfVolume { .. });
    let filled = tx.all::<Intent>()?.into_iter().filter(|one| one.project == project && fills(one)).count();
    match filled < OF_PROJECT {
        true => Ok(()),
        false => Err(Fault::new(
            FaultKind::TooMany,
            format!(
                "a project has at most {OF_PROJECT} images sent or made of volumes at once: try again when one has ended"
            ),
        )),
    }
}

/// GiB that hold so many bytes.
pub(super) fn gib_of(bytes: u64) -> u64 {
    bytes.div_ceil(GIB)
}

/// A line of the quota of images: limit, and what is there.
pub(crate) type ImageQuota = BTreeMap<&'static str, (i64, Count)>;

impl Block {
    /// Records an image without content.
    pub(crate) fn create_image(&self, caller: &Caller, fields: ImageFields) -> Answer<Image> {
        fields.check(0)?;
        if fields.public {
            may_publish(caller)?;
        }
        self.change(caller, |tx| {
            let image = new_image(caller, &caller.project, fields);
            tx.reserve(&image.project, &Claim::image(0))?;
            tx.settle(&image.project, &Claim::image(0))?;
            tx.put(&image)?;
            Ok(image)
        })
    }

    /// Changes what its owner says of it.
    pub(crate) fn edit_image(
        &self,
        caller: &Caller,
        id: &str,
        change: impl FnOnce(&mut ImageFields) -> Answer<()>,
    ) -> Answer<Image> {
        self.change(caller, |tx| {
            let mut image = writable(tx, caller, id)?;
            let before = ImageFields::of(&image);
            let mut fields = before.clone();
            change(&mut fields)?;
            fields.check(before.told())?;
            if fields.public && !before.public {
                may_publish(caller)?;
            }
            let is_open = image.status == ImageStatus::Queued;
            if !is_open && (fields.format, fields.bare) != (before.format, before.bare) {
                return Err(Fault::forbidden("the formats of an image cannot be changed once it has content"));
            }
            if fields != before {
                fields.put_into(&mut image);
                image.updated_us = Some(now_us());
                tx.put(&image)?;
            }
            Ok(image)
        })
    }

    /// An image that the caller may read.
    pub(crate) fn image(&self, caller: &Caller, id: &str) -> Answer<Image> {
        readable(&self.inner.catalog.read(), caller, id)
    }

    /// Deletes an image and its content. Answers when it is gone.
    pub(crate) async fn delete_image(&self, caller: &Caller, id: &str) -> Answer<()> {
        let key = self.change(caller, |tx| {
            let mut image = writable(tx, caller, id)?;
            if image.protected {
                return Err(Fault::forbidden(format!("Image {id} is protected and cannot be deleted.")));
            }
            if busy::<Image>(tx, id)? {
                return Err(Fault::conflict(format!("image {id} has an operation under way: wait until it has ended")));
            }
            not_read_by_others(tx, "image", id)?;
            image.status = ImageMove::Delete.apply(image.status).map_err(|e| illegal(&image, e))?;
            tx.put(&image)?;
            let intent = intent(caller, &image.project, Intent::key(Image::KIND, id), Op::DeleteImage);
            begin(tx, &intent)?;
            Ok(intent.key)
        })?;
        self.start(key.clone());
        self.ended(&key).await;
        match self.inner.catalog.read().get::<Image>(id)? {
            None => Ok(()),
            Some(_) => Err(Fault::new(
                FaultKind::Unavailable,
                format!("image {id} could not be deleted yet: its messages tell why; try again"),
            )),
        }
    }

    /// Makes an image of a volume.
    pub(crate) async fn volume_to_image(
        &self,
        caller: &Caller,
        volume: &str,
        new: NewImageOfVolume,
    ) -> Answer<(Volume, Image)> {
        if new.public {
            may_publish(caller)?;
        }
        let size = self.find::<Volume>(caller, volume)?.size;
        self.image_fits(size * GIB)?;
        let room = self.room().await?;
        let made = self.change(caller, |tx| {
            let mut volume: Volume = owned(tx, caller, volume)?;
            room.takes(volume.size)?;
            if volume.status == VolumeStatus::InUse && !new.force {
                let text = format!("Invalid volume: volume {} is attached: its image takes force.", volume.id);
                return Err(Fault::bad(text));
            }
            if busy::<Volume>(tx, &volume.id)? {
                return Err(Fault::conflict(format!("volume {} has an operation under way", volume.id)));
            }
            volume.status =
                VolumeMove::Upload.apply(volume.status).map_err(|e| Fault::illegal("volume", &volume.id, &e))?;
            self.not_filling(&volume.id)?;
            volume.updated_us = Some(now_us());
            not_too_many(tx, &volume.project)?;
            let mut image = new_image(caller, &volume.project, fields_of_volume(&volume, new));
            ImageFields::of(&image).check(0)?;
            image.status = ImageMove::Fill.apply(image.status).map_err(|e| illegal(&image, e))?;
            tx.reserve(&image.project, &Claim::image(0))?;
            tx.settle(&image.project, &Claim::image(0))?;
            tx.put(&image)?;
            tx.put(&volume)?;
            let op = Op::ImageOfVolume { volume: volume.id.clone(), released: false };
            let mut intent = intent(caller, &image.project, Intent::key(Image::KIND, &image.id), op);
            intent.reserved = Claim::image_content(volume.size);
            begin(tx, &intent)?;
            Ok((volume, image))
        })?;
        self.start(Intent::key(Image::KIND, &made.1.id));
        Ok(made)
    }

    /// What a project may have of images, and has.
    pub(crate) fn image_quota(&self, caller: &Caller, project: &str) -> Answer<ImageQuota> {
        if !caller.sees(project) {
            return Err(Fault::forbidden("Policy doesn't allow to look at the quota of another project."));
        }
        let tx = self.inner.catalog.read();
        let line = |resource: Resource| {
            let key = QuotaKey::of(resource);
            Ok((resource.as_str(), (tx.limit(project, &key)?, tx.count(project, &key)?)))
        };
        Resource::OF_IMAGES.into_iter().map(line).collect()
    }

    /// Sets what a project may have of images; -1: no limit.
    pub(crate) fn set_image_quota(&self, caller: &Caller, project: &str, limits: &[(Resource, i64)]) -> Answer<()> {
        caller.require_admin("image_quota:update")?;
        if limits.iter().any(|(_, limit)| *limit < -1) {
            return Err(Fault::bad("a limit is -1 (none) or more"));
        }
        let limits: Vec<_> = limits.iter().map(|(resource, limit)| (QuotaKey::of(*resource), *limit)).collect();
        self.change(caller, |tx| tx.set_limits(Some(project), &limits))
    }

    /// Refuses what no image may be.
    fn image_fits(&self, bytes: u64) -> Answer<()> {
        let most = self.inner.settings.image_bytes;
        match bytes <= most {
            true => Ok(()),
            false => Err(Fault::new(
                FaultKind::OverLimit,
                format!("an image has at most {} GiB here (--image-limit): {bytes} bytes are too many", most / GIB),
            )),
        }
    }

    fn feeds(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, receive::Feed>> {
        self.inner.feeds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn new_image(caller: &Caller, project: &str, fields: ImageFields) -> Image {
    let mut image = Image {
        id: new_id(),
        project: project.to_owned(),
        user: caller.user.clone(),
        name: None,
        status: ImageStatus::Queued,
        public: false,
        protected: false,
        hidden: false,
        tags: BTreeSet::new(),
        properties: BTreeMap::new(),
        min_disk: 0,
        min_ram: 0,
        format: None,
        bare: false,
        content: None,
        created_us: now_us(),
        updated_us: None,
    };
    fields.put_into(&mut image);
    image
}

/// What volumes tell of their images beside properties.
const TOLD: [&str; 9] = [
    "image_id",
    "image_name",
    "checksum",
    "container_format",
    "disk_format",
    "min_disk",
    "min_ram",
    "size",
    "signature_verified",
];

/// An image of a volume that came from an image has what that one said of itself.
fn fields_of_volume(volume: &Volume, new: NewImageOfVolume) -> ImageFields {
    let said = |key: &str| volume.image.get(key).and_then(|text| text.parse().ok()).unwrap_or(0);
    let properties = volume.image.iter().filter(|(key, _)| !TOLD.contains(&key.as_str()));
    ImageFields {
        name: Some(new.name),
        public: new.public,
        protected: new.protected,
        properties: properties.map(|(key, value)| (key.clone(), value.clone())).collect(),
        min_disk: said("min_disk"),
        min_ram: said("min_ram"),
        format: Some(new.format),
        bare: true,
        ..ImageFields::default()
    }
}

/// What a volume tells of the image that it was made from.
pub(super) fn told_by_volumes(image: &Image) -> BTreeMap<String, String> {
    let mut told = image.properties.clone();
    let content = image.content.as_ref();
    let more = [
        ("image_id", Some(image.id.clone())),
        ("image_name", image.name.clone()),
        ("checksum", content.map(|content| content.md5.clone())),
        ("container_format", image.bare.then(|| "bare".to_owned())),
        ("disk_format", image.format.map(|format| format.to_string())),
        ("min_disk", Some(image.min_disk.to_string())),
        ("min_ram", Some(image.min_ram.to_string())),
        ("size", content.map(|content| content.size.to_string())),
    ];
    told.extend(more.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
    told
}

/// An image that a volume of `size` GiB can be made from.
pub(super) fn image_for_volume(tx: &Tx<'_>, caller: &Caller, id: &str, size: Option<u64>) -> Answer<Image> {
    let image = readable(tx, caller, id)?;
    let Some(content) = image.content.as_ref().filter(|_| image.status == ImageStatus::Active) else {
        return Err(Fault::bad(format!("Invalid image: its status is {}, and must be active.", image.status)));
    };
    let Some(size) = size else { return Err(Fault::bad("a volume of an image needs a size")) };
    let needed = gib_of(content.virtual_size);
    if size < needed {
        let text = format!("Invalid input: the image has {needed} GiB: a volume of {size} GiB cannot hold it.");
        return Err(Fault::bad(text));
    }
    if size < image.min_disk {
        let text = format!("Invalid input: the image wants {} GiB (min_disk), not {size}.", image.min_disk);
        return Err(Fault::bad(text));
    }
    Ok(image)
}
