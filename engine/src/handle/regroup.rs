//! Regrouping, for any thread.

use super::Pool;
use crate::{
    error::Result,
    upkeep::{Pace, RegroupOptions, RegroupOutcome, RegroupProgress, RegroupStatus},
};

impl Pool {
    /// Moves a volume's scattered data into its logical order, in the background of a working pool, and waits for the end. The regroup goes
    /// on when the future is dropped; [`Pool::cancel_regroup`] ends it.
    ///
    /// Only what the volume alone refers to is moved: snapshots and clones keep what they share with it. It needs a few MiB of free space,
    /// and ends with `NoSpace` in its outcome when the pool is nearly full.
    ///
    /// ```
    /// use cairn_engine::{IoBuf, Pool, PoolOptions, RegroupEnd, RegroupOptions, VolumeOptions, MIB};
    /// # fn main() -> cairn_engine::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # pollster::block_on(async {
    /// let pool = Pool::create(dir.path().join("pool.cairn"), PoolOptions::new().size(64 * MIB)).await?;
    /// let volume = pool.create_volume("db", 8 * MIB, VolumeOptions::default()).await?;
    /// // Blocks arrive in another order than they are read in.
    /// for block in (0..256).rev() {
    ///     volume.write(block * 4096, IoBuf::from(&[7; 4096][..])).await?;
    /// }
    /// let outcome = pool.regroup("db", RegroupOptions::default()).await?;
    /// assert_eq!(outcome.end, RegroupEnd::Finished);
    /// assert_eq!((outcome.report.runs_before, outcome.report.runs_after), (256, 1));
    /// # drop(volume);
    /// pool.close().await
    /// # })
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [`LocalPool::regroup`](crate::LocalPool::regroup).
    pub async fn regroup(&self, volume: &str, options: RegroupOptions) -> Result<RegroupOutcome> {
        let volume = volume.to_owned();
        self.call(move |pool| async move { pool.regroup(&volume, options, |_| {}).await }).await
    }

    /// Begins a regroup, and does not wait for it.
    ///
    /// # Errors
    /// See [`LocalPool::start_regroup`](crate::LocalPool::start_regroup).
    pub async fn start_regroup(&self, volume: &str, options: RegroupOptions) -> Result<RegroupProgress> {
        let volume = volume.to_owned();
        self.call(move |pool| async move { pool.start_regroup(&volume, options) }).await
    }

    /// Waits for the end of the regroup under way; `progress` is told after each piece.
    ///
    /// # Errors
    /// See [`LocalPool::watch_regroup`](crate::LocalPool::watch_regroup).
    pub async fn watch_regroup(&self, progress: impl Fn(&RegroupProgress) + Send + 'static) -> Result<RegroupOutcome> {
        self.call_while_wanted(move |pool| async move { pool.watch_regroup(progress).await }).await
    }

    /// The regroup under way, and how the last one ended.
    ///
    /// # Errors
    /// `Closed`.
    pub async fn regroup_status(&self) -> Result<RegroupStatus> {
        self.call(|pool| async move { Ok(pool.regroup_status()) }).await
    }

    /// Has the regroup under way go faster or slower from now on.
    ///
    /// # Errors
    /// See [`LocalPool::set_regroup_pace`](crate::LocalPool::set_regroup_pace).
    pub async fn set_regroup_pace(&self, pace: Pace) -> Result<RegroupProgress> {
        self.call(move |pool| async move { pool.set_regroup_pace(pace) }).await
    }

    /// Ends the regroup under way, and waits for its end.
    ///
    /// # Errors
    /// See [`LocalPool::cancel_regroup`](crate::LocalPool::cancel_regroup).
    pub async fn cancel_regroup(&self) -> Result<RegroupOutcome> {
        self.call(|pool| async move { pool.cancel_regroup().await }).await
    }
}
