//! Check, scrub and repair, for any thread.

use super::Pool;
use crate::{
    admin::LocalPool,
    error::Result,
    info::CheckReport,
    upkeep::{Pace, RepairPlan, RepairReport, ScrubOutcome, ScrubProgress, ScrubStatus},
};

impl Pool {
    /// Verifies the pool while it stays in use. Ends when the future is dropped.
    ///
    /// # Errors
    /// See [`LocalPool::check`].
    pub async fn check(&self, read_data: bool, progress: impl Fn(u64, u64) + Send + 'static) -> Result<CheckReport> {
        self.call_while_wanted(move |pool| async move { pool.check(read_data, progress).await }).await
    }

    /// Reads and verifies everything at a given pace, in the background of a working pool, and waits for the end. The scrub goes on when
    /// the future is dropped; [`Pool::cancel_scrub`] ends it.
    ///
    /// ```
    /// use cairn_engine::{IoBuf, Pace, Pool, PoolOptions, VolumeOptions, MIB};
    /// # fn main() -> cairn_engine::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # pollster::block_on(async {
    /// let pool = Pool::create(dir.path().join("pool.cairn"), PoolOptions::new().size(64 * MIB)).await?;
    /// let volume = pool.create_volume("db", 8 * MIB, VolumeOptions::default()).await?;
    /// volume.write(0, IoBuf::from(&[7; 8192][..])).await?;
    /// let outcome = pool.scrub(Pace::default()).await?;
    /// assert!(outcome.report.is_clean());
    /// assert_eq!(outcome.report.data_blocks, 2);
    /// # drop(volume);
    /// pool.close().await
    /// # })
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [`LocalPool::scrub`].
    pub async fn scrub(&self, pace: Pace) -> Result<ScrubOutcome> {
        self.call(move |pool| async move { pool.scrub(pace, |_| {}).await }).await
    }

    /// Begins a scrub, and does not wait for it.
    ///
    /// # Errors
    /// See [`LocalPool::start_scrub`].
    pub async fn start_scrub(&self, pace: Pace) -> Result<ScrubProgress> {
        self.call(move |pool| async move { pool.start_scrub(pace) }).await
    }

    /// Waits for the end of the scrub under way; `progress` is told after each batch.
    ///
    /// # Errors
    /// See [`LocalPool::watch_scrub`].
    pub async fn watch_scrub(&self, progress: impl Fn(&ScrubProgress) + Send + 'static) -> Result<ScrubOutcome> {
        self.call_while_wanted(move |pool| async move { pool.watch_scrub(progress).await }).await
    }

    /// The scrub under way, and how the last one ended.
    ///
    /// # Errors
    /// `Closed`.
    pub async fn scrub_status(&self) -> Result<ScrubStatus> {
        self.call(|pool| async move { Ok(pool.scrub_status()) }).await
    }

    /// Has the scrub under way go faster or slower from now on.
    ///
    /// # Errors
    /// See [`LocalPool::set_scrub_pace`].
    pub async fn set_scrub_pace(&self, pace: Pace) -> Result<ScrubProgress> {
        self.call(move |pool| async move { pool.set_scrub_pace(pace) }).await
    }

    /// Ends the scrub under way, and waits for its end.
    ///
    /// # Errors
    /// See [`LocalPool::cancel_scrub`].
    pub async fn cancel_scrub(&self) -> Result<ScrubOutcome> {
        self.call(|pool| async move { pool.cancel_scrub().await }).await
    }

    /// Says what a repair would do. Changes nothing. Ends when the future is dropped.
    ///
    /// # Errors
    /// See [`LocalPool::plan_repair`].
    pub async fn plan_repair(
        &self,
        read_data: bool,
        progress: impl Fn(u64, u64) + Send + 'static,
    ) -> Result<RepairPlan> {
        self.call_while_wanted(move |pool| async move { pool.plan_repair(read_data, progress).await }).await
    }

    /// Does what a plan says. Once begun it runs to its end.
    ///
    /// # Errors
    /// See [`LocalPool::repair`].
    pub async fn repair(
        &self,
        plan: &RepairPlan,
        progress: impl Fn(u64, u64) + Send + 'static,
    ) -> Result<RepairReport> {
        let plan = plan.clone();
        self.call(move |pool: LocalPool| async move { pool.repair(&plan, progress).await }).await
    }
}
