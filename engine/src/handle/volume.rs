//! Handles to open volumes and snapshots.

use std::{future::Future, sync::Arc};

use super::{Inner, Kept, kept};
use crate::{
    error::{Result, closed},
    info::{ExtentPage, SnapshotInfo, VolumeInfo},
    names::Target,
    storage::buffer::IoBuf,
    volume::LocalVolume,
};

/// What a [`Volume`] handle stands for. The volume goes before the pool, which may close with it.
pub(super) struct Handle {
    pub(super) kept: Kept,
    pub(super) pool: Arc<Inner>,
    pub(super) name: String,
    pub(super) read_only: bool,
}

/// An open volume or snapshot, for any thread. Clones share it; the last one to go detaches. See [`LocalVolume`] for what each call
/// does and returns.
#[derive(Clone)]
pub struct Volume {
    pub(super) inner: Arc<Handle>,
    pub(super) background: bool,
}

impl Volume {
    async fn call<T, F>(&self, f: impl FnOnce(LocalVolume) -> F + Send + 'static) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + 'static,
    {
        let (id, background) = (self.inner.kept.id, self.background);
        let volume = move || kept(id).map(|volume| if background { volume.in_background() } else { volume });
        self.inner.pool.run(move |_| async move { f(volume()?).await }).await?
    }

    /// The name under which it was opened.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Whether it is a snapshot (or its pool open for reading only).
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.inner.read_only
    }

    /// Present size in bytes.
    ///
    /// # Errors
    /// `Closed`.
    pub async fn size(&self) -> Result<u64> {
        self.call(|v| async move { Ok(v.size()) }).await
    }

    /// Reads `length` bytes at `offset` (multiples of 512).
    ///
    /// # Errors
    /// See [`LocalVolume::read`].
    pub async fn read(&self, offset: u64, length: usize) -> Result<IoBuf> {
        self.call(move |v| async move { v.read(offset, length).await }).await
    }

    /// Writes `data` at `offset` (multiples of 512); durable after the next flush.
    ///
    /// # Errors
    /// See [`LocalVolume::write`].
    pub async fn write(&self, offset: u64, data: IoBuf) -> Result<()> {
        self.call(move |v| async move { v.write(offset, data, false).await }).await
    }

    /// Writes `data` at `offset`; durable when it returns.
    ///
    /// # Errors
    /// See [`LocalVolume::write`].
    pub async fn write_fua(&self, offset: u64, data: IoBuf) -> Result<()> {
        self.call(move |v| async move { v.write(offset, data, true).await }).await
    }

    /// Makes everything acknowledged before durable.
    ///
    /// # Errors
    /// See [`LocalVolume::flush`].
    pub async fn flush(&self) -> Result<()> {
        self.call(|v| async move { v.flush().await }).await
    }

    /// Turns whole blocks within a range into holes.
    ///
    /// # Errors
    /// See [`LocalVolume::discard`].
    pub async fn discard(&self, offset: u64, length: u64) -> Result<()> {
        self.call(move |v| async move { v.discard(offset, length, false).await }).await
    }

    /// Makes a range read as zeros.
    ///
    /// # Errors
    /// See [`LocalVolume::write_zeroes`].
    pub async fn write_zeroes(&self, offset: u64, length: u64) -> Result<()> {
        self.call(move |v| async move { v.write_zeroes(offset, length, false).await }).await
    }

    /// A page of what a range holds.
    ///
    /// # Errors
    /// See [`LocalVolume::extents`].
    pub async fn extents(&self, offset: u64, length: u64) -> Result<ExtentPage> {
        self.call(move |v| async move { v.extents(offset, length).await }).await
    }

    /// This volume, which was opened to be filled, holds all of its content.
    ///
    /// # Errors
    /// See [`LocalPool::filled`](crate::LocalPool::filled).
    pub async fn filled(&self) -> Result<VolumeInfo> {
        let id = self.inner.kept.id;
        let full =
            self.inner.pool.run(move |pool| async move { pool.finish_filling(kept(id)?.filled_through()?).await });
        full.await?
    }

    /// Takes a snapshot of this volume.
    ///
    /// # Errors
    /// See [`LocalPool::snapshot`](crate::LocalPool::snapshot).
    pub async fn snapshot(&self, name: &str) -> Result<SnapshotInfo> {
        let (id, snapshot) = (self.inner.kept.id, name.to_owned());
        let taken = self.inner.pool.run(move |pool| async move {
            let volume = kept(id)?.present_name()?;
            pool.snapshot(&[Target { volume, snapshot: Some(snapshot) }]).await
        });
        taken.await??.pop().ok_or_else(|| closed("the snapshot was deleted at once"))
    }
}
