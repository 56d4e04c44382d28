//! Limits and statistics, for any thread.

use cairn_qos::Kind as RequestKind;

use super::{Pool, Volume};
use crate::{
    error::Result,
    stats::{QosInfo, QosTarget, VolumeStats},
};

/// Volumes whose statistics are read in one turn of the pool's thread: requests wait for some tens of microseconds meanwhile.
const STATS_AT_ONCE: usize = 32;

impl Pool {
    /// Changes limits, also while requests are under way: exact from the next one on, and durable when it returns. A key without a value is
    /// taken out.
    ///
    /// ```
    /// use cairn_engine::{Pool, PoolOptions, VolumeOptions, MIB};
    /// # fn main() -> cairn_engine::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # pollster::block_on(async {
    /// let pool = Pool::create(dir.path().join("pool.cairn"), PoolOptions::new().size(64 * MIB)).await?;
    /// pool.create_volume("db", 8 * MIB, VolumeOptions::default()).await?;
    /// let change = |key: &str, value: &str| (key.to_owned(), Some(value.to_owned()));
    /// let info = pool.set_qos(&"db".parse()?, &[change("total_iops_sec", "500"), change("group", "gold")]).await?;
    /// assert_eq!(info.rates["total_iops_sec"], 500);
    /// pool.set_qos(&"/gold".parse()?, &[change("total_bytes_sec", "100MiB")]).await?;
    /// assert_eq!(pool.qos(&"/gold".parse()?).await?.members, ["db"]);
    /// pool.close().await
    /// # })
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [`LocalPool::set_qos`](crate::LocalPool::set_qos).
    pub async fn set_qos(&self, target: &QosTarget, changes: &[(String, Option<String>)]) -> Result<QosInfo> {
        let (target, changes) = (target.clone(), changes.to_vec());
        self.call(move |pool| async move { pool.set_qos(&target, &changes).await }).await
    }

    /// The limits of one, and what is left of them.
    ///
    /// # Errors
    /// See [`LocalPool::qos`](crate::LocalPool::qos).
    pub async fn qos(&self, target: &QosTarget) -> Result<QosInfo> {
        let target = target.clone();
        self.call(move |pool| async move { pool.qos(&target) }).await
    }

    /// The pool, all groups, and all volumes that have limits or are in a group.
    ///
    /// # Errors
    /// `Closed`.
    pub async fn qos_list(&self) -> Result<Vec<QosInfo>> {
        self.call(|pool| async move { Ok(pool.qos_list()) }).await
    }

    /// Waits until background work that has read or written so many bytes may go on.
    /// See [`LocalPool::background_turn`](crate::LocalPool::background_turn).
    ///
    /// # Errors
    /// `Closed`.
    pub async fn background_turn(&self, kind: RequestKind, bytes: u64) -> Result<()> {
        self.call_while_wanted(move |pool| async move {
            pool.background_turn(kind, bytes).await;
            Ok(())
        })
        .await
    }

    /// What each volume was asked for since the pool was opened, by name; background work is the last. Requests go on meanwhile: each volume is
    /// as it was when its turn came, and one that gets another name in between may show twice or not at all.
    ///
    /// # Errors
    /// `Closed`.
    pub async fn volume_stats(&self) -> Result<Vec<VolumeStats>> {
        let mut all: Vec<VolumeStats> = Vec::new();
        loop {
            let after = all.last().map(|last| last.name.clone()).unwrap_or_default();
            let part = self.call(move |pool| async move { Ok(pool.volume_stats_after(&after, STATS_AT_ONCE)) }).await?;
            let is_last = part.len() < STATS_AT_ONCE;
            all.extend(part);
            if is_last {
                break;
            }
        }
        all.push(self.call(|pool| async move { Ok(pool.background_stats()) }).await?);
        Ok(all)
    }

    /// What one volume was asked for since the pool was opened.
    ///
    /// # Errors
    /// `NotFound`, `Closed`.
    pub async fn volume_stats_of(&self, name: &str) -> Result<VolumeStats> {
        let name = name.to_owned();
        self.call(move |pool| async move { pool.volume_stats_of(&name) }).await
    }
}

impl Volume {
    /// The same volume; what is read and written through this handle is background work.
    /// See [`LocalVolume::in_background`](crate::LocalVolume::in_background).
    #[must_use]
    pub fn in_background(&self) -> Self {
        Self { background: true, ..self.clone() }
    }
}
