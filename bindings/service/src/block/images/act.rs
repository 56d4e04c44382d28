//! What the pool does for images. Every action can be done again.

use bytes::Bytes;
use cairn_backup::Job;
use cairn_engine::{ErrorKind, ExtentKind, Target};
use std::{sync::atomic::Ordering, time::Duration};

use super::{
    gib_of,
    store::{Store, Stored},
};
use crate::{
    block::{Block, act::again, settle::back, work},
    catalog::{Content, IMAGE_SNAPSHOT, Image, Intent, Op, engine_image, engine_image_file, engine_volume},
    domain::{Claim, DiskFormat, VolumeMove},
    fault::{Answer, Fault},
    image::{Hashing, PIECE, is_zero, qcow2},
};

/// For how long a deletion waits for those who read the image at that moment.
const READERS: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);

/// The snapshot that an image is read and cloned from.
pub(in crate::block) fn image_target(id: &str) -> Target {
    Target { volume: engine_image(id), snapshot: Some(IMAGE_SNAPSHOT.to_owned()) }
}

/// The snapshot of a volume that an image is made through.
fn through(volume: &str, image: &str) -> Target {
    Target { volume: engine_volume(volume), snapshot: Some(format!("image-{image}")) }
}

impl Block {
    /// Makes what was written unchangeable.
    pub(super) async fn freeze_image(&self, id: &str, with_file: bool) -> Answer<()> {
        let file = Target { volume: engine_image_file(id), snapshot: Some(IMAGE_SNAPSHOT.to_owned()) };
        for target in [Some(image_target(id)), with_file.then_some(file)].into_iter().flatten() {
            again(self.inner.pool.snapshot(&[target]).await, ErrorKind::Exists)?;
        }
        self.step(work::IMAGE_FROZEN).await;
        Ok(())
    }

    /// Takes out of the pool what there is of an image.
    pub(in crate::block) async fn clean_image(&self, id: &str) -> Answer<()> {
        for name in [engine_image(id), engine_image_file(id)] {
            let since = tokio::time::Instant::now();
            loop {
                match self.inner.pool.delete_volume(&name, true).await {
                    // Somebody reads a piece of it.
                    Err(error) if error.kind() == ErrorKind::Busy && since.elapsed() < READERS => {
                        tokio::time::sleep(PAUSE).await;
                    }
                    outcome => break again(outcome, ErrorKind::NotFound)?,
                }
            }
        }
        Ok(())
    }

    pub(in crate::block) async fn remove_image(&self, id: &str) -> Answer<()> {
        self.clean_image(id).await?;
        self.step(work::IMAGE_GONE).await;
        Ok(())
    }

    /// An image of a volume as it is now, or was when this was begun first.
    /// Fails with nothing left in the pool, unless the service is about to end.
    pub(in crate::block) async fn image_of_volume(&self, intent: &Intent, volume: &str, job: &Job) -> Answer<Content> {
        let made = self.make_image_of(intent, volume, job).await;
        if made.is_err() && !self.inner.stopping.load(Ordering::SeqCst) {
            self.clean_image(intent.object()).await?;
        }
        made
    }

    async fn make_image_of(&self, intent: &Intent, volume: &str, job: &Job) -> Answer<Content> {
        let id = intent.object();
        let image: Image = self.inner.catalog.read().require(id)?;
        self.copy_volume(volume, id).await?;
        self.release_volume(intent)?;
        self.step(work::IMAGE_RELEASED).await;
        let info = self.inner.pool.volume_info(&engine_image(id)).await?;
        let disk = Stored::open(&self.inner.pool, &image_target(id).to_string(), info.size).await?;
        job.set_total(info.size);
        if image.format == Some(DiskFormat::Qcow2) {
            return self.pack(intent, id, &disk, info.size, job).await;
        }
        let (md5, sha512) = self.hashed(&intent.project, &disk, info.size, job).await?;
        self.pass(intent).await?;
        Ok(Content { size: info.size, virtual_size: info.size, md5, sha512, gib: gib_of(info.size) })
    }

    /// Through a snapshot that is there only meanwhile.
    async fn copy_volume(&self, volume: &str, id: &str) -> Answer<()> {
        let (pool, name, through) = (&self.inner.pool, engine_image(id), through(volume, id));
        let is_there = match pool.volume_info(&name).await {
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::NotFound => false,
            Err(error) => return Err(error.into()),
        };
        let copied = async {
            if !is_there {
                again(pool.snapshot(std::slice::from_ref(&through)).await, ErrorKind::Exists)?;
                self.step(work::SNAPSHOT_FOR_CLONE).await;
                again(pool.clone_volume(&through, &name, None).await, ErrorKind::Exists)?;
                self.step(work::CLONED).await;
            }
            again(pool.snapshot(&[image_target(id)]).await, ErrorKind::Exists)?;
            self.step(work::IMAGE_FROZEN).await;
            Ok(())
        };
        let copied: Answer<()> = copied.await;
        again(pool.delete_snapshot(&through).await, ErrorKind::NotFound)?;
        copied
    }

    /// Takes out what a copy was to be made through.
    pub(in crate::block) async fn forget_copy(&self, volume: &str, id: &str) -> Answer<()> {
        again(self.inner.pool.delete_snapshot(&through(volume, id)).await, ErrorKind::NotFound)
    }

    /// The volume is not needed any more.
    fn release_volume(&self, intent: &Intent) -> Answer<()> {
        self.inner.catalog.write(|tx| {
            let Some(mut now) = tx.get::<Intent>(&intent.key)? else { return Ok(()) };
            if let Op::ImageOfVolume { volume, released } = &mut now.op
                && !*released
            {
                *released = true;
                let volume = volume.clone();
                back(tx, &volume, VolumeMove::Uploaded)?;
            }
            tx.put(&now)
        })
    }

    /// Writes a disk as a qcow2 file.
    async fn pack(&self, intent: &Intent, id: &str, disk: &Stored, size: u64, job: &Job) -> Answer<Content> {
        let (pool, name) = (&self.inner.pool, engine_image_file(id));
        let file = GrantedFile::create(self, &intent.key, id, gib_of(size)).await?;
        job.set_total(size * 2);
        let mut writer = qcow2::Writer::new(file, size);
        let (mut at, mut written) = (0, 0);
        while at < size {
            job.check()?;
            let page = disk.volume().extents(at, size - at).await?;
            for extent in page.extents.iter().filter(|extent| extent.kind == ExtentKind::Data) {
                // Whole clusters; one that two extents are in is written with the first.
                let first = (extent.offset / CLUSTER * CLUSTER).max(written);
                let end = (extent.offset + extent.length).next_multiple_of(CLUSTER).min(size);
                written = written.max(end);
                self.pack_range(&mut writer, disk, first, end, job).await?;
            }
            let next = page.next.unwrap_or(size);
            job.advance(next - at);
            at = next;
        }
        let (file, length) = writer.finish().await?;
        file.close(length).await?;
        self.step(work::IMAGE_PACKED).await;
        self.freeze_image(id, true).await?;
        let file = Stored::open(pool, &format!("{name}@{IMAGE_SNAPSHOT}"), length).await?;
        let (md5, sha512) = self.hashed(&intent.project, &file, length, job).await?;
        self.pass(intent).await?;
        Ok(Content { size: length, virtual_size: size, md5, sha512, gib: gib_of(size) + gib_of(length) })
    }

    async fn pack_range(
        &self,
        writer: &mut qcow2::Writer<GrantedFile>,
        disk: &Stored,
        mut at: u64,
        end: u64,
        job: &Job,
    ) -> Answer<()> {
        while at < end {
            job.check()?;
            let length = (end - at).min(PIECE as u64);
            let data = disk.piece(at, length as usize).await?;
            for (offset, cluster) in (at..).step_by(CLUSTER as usize).zip(data.chunks(CLUSTER as usize)) {
                if !is_zero(cluster) {
                    writer.write(offset, cluster).await?;
                }
            }
            at += length;
        }
        Ok(())
    }

    /// Gives back what an operation was granted beyond so many GiB.
    fn keep_granted(&self, key: &str, gib: u64) -> Answer<()> {
        self.inner.catalog.write(|tx| {
            let mut intent: Intent = tx.require(key)?;
            let more = Claim::image_content(intent.reserved.image_gib().saturating_sub(gib));
            tx.cancel(&intent.project, &more)?;
            intent.reserved = Claim::image_content(intent.reserved.image_gib().min(gib));
            tx.put(&intent)
        })
    }

    /// The hashes of so many bytes. Where nothing is stored, nothing is read.
    async fn hashed(&self, project: &str, stored: &Stored, length: u64, job: &Job) -> Answer<(String, String)> {
        let zeros = Bytes::from(vec![0; PIECE]);
        let (mut hashing, mut at) = (Hashing::new(), 0);
        let size = stored.volume().size().await?;
        while at < length {
            let page = stored.volume().extents(at, size - at).await?;
            let next = page.next.unwrap_or(size);
            for extent in page.extents {
                let end = (extent.offset + extent.length).min(length);
                while at < end {
                    job.check()?;
                    let most = (end - at).min(PIECE as u64) as usize;
                    let (data, times) = match extent.kind {
                        // Some at once: there is nothing to wait for in between. Not many: others wait for this turn.
                        ExtentKind::Hole => (zeros.slice(..most), ((end - at) / PIECE as u64).clamp(1, ZEROS)),
                        ExtentKind::Data => (stored.piece(at, most).await?.into(), 1),
                    };
                    hashing = self.hash(project, hashing, data, times).await?;
                    job.advance(most as u64 * times);
                    at += most as u64 * times;
                }
            }
            // Extents cover all of what was asked for.
            if at < next.min(length) {
                return Err(Fault::internal("a list of extents has gaps"));
            }
        }
        Ok(hashing.end())
    }
}

/// The file of an image while it is written: each GiB of it is granted before there is anything in it.
pub(in crate::block) struct GrantedFile {
    block: Block,
    /// Of the operation.
    key: String,
    store: Store,
    /// GiB.
    granted: u64,
}

impl GrantedFile {
    /// `disk`: GiB that the operation has beside the file. A file that was begun before goes first, with what was granted for it.
    pub(in crate::block) async fn create(block: &Block, key: &str, id: &str, disk: u64) -> Answer<Self> {
        let (pool, name) = (&block.inner.pool, engine_image_file(id));
        again(pool.delete_volume(&name, true).await, ErrorKind::NotFound)?;
        block.keep_granted(key, disk)?;
        block.grant(key, 1).await?;
        let store = Store::create(pool, &name, 0).await?;
        Ok(Self { block: block.clone(), key: key.to_owned(), store, granted: 1 })
    }

    async fn grant_to(&mut self, end: u64) -> Answer<()> {
        while gib_of(end) > self.granted {
            self.block.grant(&self.key, 1).await?;
            self.granted += 1;
        }
        Ok(())
    }

    /// All of its `length` bytes are durable when this returns.
    async fn close(mut self, length: u64) -> Answer<()> {
        self.grant_to(length).await?;
        self.store.close().await
    }
}

impl qcow2::Target for GrantedFile {
    async fn write(&mut self, offset: u64, data: &[u8]) -> Answer<()> {
        self.grant_to(offset.saturating_add(data.len() as u64)).await?;
        self.store.write_at(offset, data).await
    }
}

/// Pieces of zeros that are hashed in one turn.
const ZEROS: u64 = 4;
/// Bytes of a cluster of the files that are written.
const CLUSTER: u64 = 64 << 10;
