//! Images given out.

use bytes::Bytes;
use futures_util::{Stream, stream};

use super::{readable, store::Stored};
use crate::{
    block::{Block, Caller},
    catalog::{Content, IMAGE_SNAPSHOT, Image, engine_image, engine_image_file},
    domain::{DiskFormat, ImageStatus},
    fault::{Answer, Fault},
};

/// Bytes in memory for each image that is being given out.
const PIECE: usize = 256 << 10;

/// An image that is being given out.
pub(crate) struct Download {
    pub(crate) content: Content,
    block: Block,
    id: String,
    target: String,
}

/// `volume@snapshot` that holds the bytes that were sent.
pub(super) fn bytes_of(image: &Image) -> String {
    let volume = match image.format {
        Some(DiskFormat::Qcow2) => engine_image_file(&image.id),
        _ => engine_image(&image.id),
    };
    format!("{volume}@{IMAGE_SNAPSHOT}")
}

impl Block {
    /// The bytes of an image; none if it has none yet.
    pub(crate) fn download(&self, caller: &Caller, id: &str) -> Answer<Option<Download>> {
        let image = readable(&self.inner.catalog.read(), caller, id)?;
        let content = image.content.clone().filter(|_| image.status == ImageStatus::Active);
        let (block, target) = (self.clone(), bytes_of(&image));
        Ok(content.map(|content| Download { content, block, id: image.id, target }))
    }
}

impl Download {
    fn still_there(&self) -> Answer<()> {
        match self.block.catalog().read().get::<Image>(&self.id)? {
            Some(image) if image.status == ImageStatus::Active => Ok(()),
            _ => Err(Fault::conflict(format!("image {} is being deleted", self.id))),
        }
    }

    /// The bytes. The snapshot is opened for each piece, and none is from the moment in which the image is to be deleted: so those who read keep
    /// nobody from that, whether they read slowly or many at once. Then it ends with an error.
    pub(crate) fn pieces(self) -> impl Stream<Item = Answer<Bytes>> + Send {
        stream::try_unfold((self, 0), |(this, offset)| async move {
            if offset >= this.content.size {
                return Ok::<_, Fault>(None);
            }
            this.still_there()?;
            let stored = Stored::open(this.block.pool(), &this.target, this.content.size).await?;
            let data = stored.piece(offset, PIECE).await?;
            if data.is_empty() {
                return Err(Fault::internal("an image is shorter than it should be"));
            }
            let next = offset + data.len() as u64;
            Ok(Some((Bytes::from(data), (this, next))))
        })
    }
}
