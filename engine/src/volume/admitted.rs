//! The way into a volume: a request waits until the limits let it go, and then it is carried out.
//!
//! Whoever takes requests from a queue (a socket, a guest's ring) asks with [`LocalVolume::admit`] before it takes one and its data, so that
//! what is held back waits there. For all others [`LocalVolume::read`] and its like do both.

use cairn_qos::{Kind, Request};

use super::{LocalVolume, Role};
use crate::{
    error::{Result, invalid},
    qos::Permit,
    storage::buffer::IoBuf,
};

/// A request that the limits have let go, to be carried out at once or in parts. It counts as under way until this is dropped.
pub struct Admitted {
    volume: LocalVolume,
    kind: Kind,
    /// Bytes that have not been carried out yet.
    left: u64,
    /// None for what is not limited: what a filler brings on behalf of users, who were admitted.
    permit: Option<Permit>,
}

impl LocalVolume {
    /// The same volume; what is read and written through this handle is background work. It goes by the limits of the pool and leaves the
    /// volume's alone, and yields to volumes that want the device.
    ///
    /// Of a volume that is filling, the filler's handle is not limited: what it brings is part of what users were admitted for. What it
    /// brings ahead of them should go through a handle of this kind.
    #[must_use]
    pub fn in_background(&self) -> Self {
        Self { background: true, ..self.clone() }
    }

    /// Waits until the limits of the volume, its group and the pool let a request of `bytes` bytes go, and until it is its turn. Who
    /// gives up drops the future: what waited was not used; of what could go in that very moment, the tokens are.
    pub async fn admit(&self, kind: Kind, bytes: u64) -> Admitted {
        let qos = &self.core().qos;
        let meter = match (&self.attachment.role, self.background) {
            (_, true) => Some(qos.background()),
            (Role::Filler, false) => None,
            _ => Some(&self.attachment.meter),
        };
        let permit = match meter {
            Some(meter) => Some(qos.admit(meter, Request { kind, bytes }).await),
            None => None,
        };
        Admitted { volume: self.clone(), kind, left: bytes, permit }
    }

    /// Reads `length` bytes at `offset`. Every block is verified; holes read as zeros.
    ///
    /// # Errors
    /// `Invalid` for a range that is unaligned or outside, `Corrupt` for a block that fails its checksum, `Io`.
    pub async fn read(&self, offset: u64, length: usize) -> Result<IoBuf> {
        self.check_range("read", offset, length as u64)?;
        self.admit(Kind::Read, length as u64).await.read(offset, length).await
    }

    /// Writes `data` at `offset`. Acknowledged when the device has it, or with `cache=writeback` when it is in memory and on its way; with `fua` (or
    /// `sync=always`), when it is committed.
    ///
    /// # Errors
    /// `Invalid`, `ReadOnly`, `NoSpace` (nothing was changed for the blocks that found no room), `Io`; with `cache=writeback` also what kept an
    /// earlier write, which had been acknowledged, from being carried out: until the volume is closed by all and opened again.
    pub async fn write(&self, offset: u64, data: IoBuf, fua: bool) -> Result<()> {
        let _volume = self.check_write("write", offset, data.len() as u64)?;
        self.admit(Kind::Write, data.len() as u64).await.write(offset, data, fua).await
    }

    /// Whole blocks within the range become holes, and their space comes free; partial blocks at its ends are left alone. While the
    /// volume fills, what it holds becomes zeros instead, and no space comes free.
    ///
    /// # Errors
    /// As [`LocalVolume::write`].
    pub async fn discard(&self, offset: u64, length: u64, fua: bool) -> Result<()> {
        let _volume = self.check_write("discard", offset, length)?;
        self.admit(Kind::Discard, length).await.discard(offset, length, fua).await
    }

    /// The range reads as zeros afterwards; whole blocks become holes, unless the volume fills.
    ///
    /// # Errors
    /// As [`LocalVolume::write`].
    pub async fn write_zeroes(&self, offset: u64, length: u64, fua: bool) -> Result<()> {
        let _volume = self.check_write("write of zeros", offset, length)?;
        self.admit(Kind::Discard, length).await.write_zeroes(offset, length, fua).await
    }

    /// Commits everything acknowledged before, through whatever handle; of volumes with `cache=writeback`, of this one alone.
    ///
    /// # Errors
    /// `ReadOnly` when the pool has stopped taking writes after a failure, `Io` for that failure itself.
    pub async fn flush(&self) -> Result<()> {
        // Free of all limits, but counted.
        let _admitted = self.admit(Kind::Flush, 0).await;
        self.flush_now().await
    }
}

impl Admitted {
    /// From now until it is carried out it waits for something else than the device (its data, from whoever sends that): others may go
    /// meanwhile.
    pub fn pause(&self) {
        if let Some(permit) = &self.permit {
            permit.leave();
        }
    }

    /// Uses a part of what was admitted.
    fn take(&mut self, kind: Kind, bytes: u64) -> Result<()> {
        // While the volume fills it may have to wait for a store: meanwhile it is not under way at the device.
        match &self.permit {
            Some(permit) if self.volume.is_gated() => permit.leave(),
            Some(permit) => permit.resume(),
            None => {}
        }
        if kind != self.kind || bytes > self.left {
            return Err(invalid(format!(
                "{}: a request was admitted as {:?} with {} bytes to go and is {kind:?} of {bytes}",
                self.volume.name(),
                self.kind,
                self.left
            )));
        }
        self.left -= bytes;
        Ok(())
    }

    /// Carries out what was admitted, or the next part of it, as a read.
    ///
    /// # Errors
    /// As [`LocalVolume::read`]; `Invalid` for another request than was admitted, or for more.
    pub async fn read(&mut self, offset: u64, length: usize) -> Result<IoBuf> {
        self.take(Kind::Read, length as u64)?;
        self.volume.read_now(offset, length, self.permit.as_ref()).await
    }

    /// Carries out what was admitted, or the next part of it, as a write.
    ///
    /// # Errors
    /// As [`LocalVolume::write`]; `Invalid` for another request than was admitted, or for more.
    pub async fn write(&mut self, offset: u64, data: IoBuf, fua: bool) -> Result<()> {
        self.take(Kind::Write, data.len() as u64)?;
        // What is acknowledged from memory is under way until its last part is in the tree.
        let mut none = None;
        let permit = if self.left == 0 { &mut self.permit } else { &mut none };
        self.volume.write_now(offset, data, fua, permit).await
    }

    /// Carries out what was admitted, or the next part of it, as a discard.
    ///
    /// # Errors
    /// As [`LocalVolume::discard`]; `Invalid` for another request than was admitted, or for more.
    pub async fn discard(&mut self, offset: u64, length: u64, fua: bool) -> Result<()> {
        self.take(Kind::Discard, length)?;
        self.volume.discard_now(offset, length, fua).await
    }

    /// Carries out, as zeroing, what was admitted, or the next part of it, as a discard.
    ///
    /// # Errors
    /// As [`LocalVolume::write_zeroes`]; `Invalid` for another request than was admitted, or for more.
    pub async fn write_zeroes(&mut self, offset: u64, length: u64, fua: bool) -> Result<()> {
        self.take(Kind::Discard, length)?;
        self.volume.write_zeroes_now(offset, length, fua).await
    }
}
