//! Volumes of the pool that hold images, while they are written and read.

use cairn_engine::{IoBuf, MIB, Pool, Volume, VolumeOptions};

use crate::{
    fault::{Answer, Fault},
    image::{self, Source, qcow2},
};

/// By how much a volume grows that is being written: of no more than this is it larger than its content.
const STEP: u64 = 64 * MIB;
/// Zeros are looked for by so many bytes, those that the pool stores together.
const BLOCK: usize = 4096;
const SECTOR: usize = 512;

/// Size of the volume that holds so many bytes. A volume of whole GiB that holds the bytes holds it, too.
fn room(bytes: u64) -> u64 {
    bytes.max(1).next_multiple_of(STEP)
}

/// A volume that grows with what is written.
pub(super) struct Store {
    pool: Pool,
    volume: Volume,
    name: String,
    room: u64,
}

impl Store {
    pub(super) async fn create(pool: &Pool, name: &str, bytes: u64) -> Answer<Self> {
        let room = room(bytes);
        let volume = pool.create_volume(name, room, VolumeOptions::default()).await?;
        Ok(Self { pool: pool.clone(), volume, name: name.to_owned(), room })
    }

    /// Writes at a multiple of 512; zeros are left out. What is behind the end is zeros up to the next multiple of 512.
    pub(super) async fn write_at(&mut self, offset: u64, data: &[u8]) -> Answer<()> {
        let end = offset.checked_add(data.len() as u64).ok_or_else(|| Fault::bad("the image is too large"))?;
        if end > self.room {
            self.room = room(end);
            drop(self.pool.resize(&self.name, self.room).await?);
        }
        let mut at = 0;
        while let Some(rest) = data.get(at..).filter(|rest| !rest.is_empty()) {
            let zeros = blocks(rest, true);
            let some = blocks(rest.get(zeros..).unwrap_or_default(), false);
            if let Some(run) = rest.get(zeros..zeros + some).filter(|run| !run.is_empty()) {
                let mut buffer = IoBuf::zeroed(run.len().next_multiple_of(SECTOR));
                buffer.iter_mut().zip(run).for_each(|(to, from)| *to = *from);
                self.volume.write(offset + (at + zeros) as u64, buffer).await?;
            }
            at += zeros + some;
        }
        Ok(())
    }

    /// All that was written is durable when this returns. The volume is closed then.
    pub(super) async fn close(self) -> Answer<()> {
        Ok(self.volume.flush().await?)
    }
}

/// How many bytes come first in blocks that are all zeros, or are not.
fn blocks(data: &[u8], zero: bool) -> usize {
    let run = data.chunks(BLOCK).take_while(|block| image::is_zero(block) == zero);
    run.map(<[u8]>::len).sum()
}

impl qcow2::Target for Store {
    async fn write(&mut self, offset: u64, data: &[u8]) -> Answer<()> {
        self.write_at(offset, data).await
    }
}

/// The first bytes of a volume or snapshot.
pub(super) struct Stored {
    volume: Volume,
    /// Of the volume.
    size: u64,
    length: u64,
}

impl Stored {
    /// `target`: a volume, or `volume@snapshot`.
    pub(super) async fn open(pool: &Pool, target: &str, length: u64) -> Answer<Self> {
        let volume = pool.volume(target).await?;
        let size = volume.size().await?;
        Ok(Self { volume, size, length: length.min(size) })
    }

    /// So many bytes, fewer at the end, from a multiple of 512 on.
    pub(super) async fn piece(&self, offset: u64, most: usize) -> Answer<Vec<u8>> {
        let length = self.length.saturating_sub(offset).min(most as u64) as usize;
        let mut data = vec![0; length];
        self.read(offset, &mut data).await?;
        Ok(data)
    }

    pub(super) fn volume(&self) -> &Volume {
        &self.volume
    }
}

impl Source for Stored {
    fn length(&self) -> u64 {
        self.length
    }

    async fn read(&self, offset: u64, buffer: &mut [u8]) -> Answer<()> {
        buffer.fill(0);
        let end = offset.saturating_add(buffer.len() as u64).min(self.length);
        let from = offset / SECTOR as u64 * SECTOR as u64;
        let until = end.next_multiple_of(SECTOR as u64).min(self.size);
        if offset >= end {
            return Ok(());
        }
        let data = self.volume.read(from, (until - from) as usize).await?;
        let there = data.get((offset - from) as usize..(end - from) as usize).unwrap_or_default();
        buffer.iter_mut().zip(there).for_each(|(to, from)| *to = *from);
        Ok(())
    }
}
