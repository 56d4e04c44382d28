//! What a job has made in a pool and not finished goes again, also when nobody waits for the job any more.

use std::time::Duration;

use cairn_engine::{ErrorKind, Pool, Target, VersionId, VolumeId, VolumeInfo};

/// Tries while reads and writes that are under way hold it open, and what is between two.
const TRIES: u32 = 50;
const WAIT: Duration = Duration::from_millis(100);

enum What {
    /// A volume that is filling: never one that somebody uses.
    Volume {
        name: String,
        id: VolumeId,
    },
    Snapshot {
        target: Target,
        version: VersionId,
    },
}

/// Goes when this is dropped.
pub(crate) struct Unfinished {
    pool: Pool,
    what: Option<What>,
}

impl Unfinished {
    pub(crate) fn volume(pool: &Pool, info: &VolumeInfo) -> Self {
        Self { pool: pool.clone(), what: Some(What::Volume { name: info.name.clone(), id: info.id }) }
    }

    pub(crate) fn snapshot(pool: &Pool, target: Target, version: VersionId) -> Self {
        Self { pool: pool.clone(), what: Some(What::Snapshot { target, version }) }
    }

    /// It stays.
    pub(crate) fn finished(mut self) {
        self.what = None;
    }

    /// It goes now.
    pub(crate) async fn remove(mut self) {
        if let Some(what) = &self.what {
            what.remove(&self.pool).await;
        }
        self.what = None;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // At the end of the program it stays: a volume that is filling is of no use to anybody, a snapshot goes with the next backup.
        if let (Some(what), Ok(runtime)) = (self.what.take(), tokio::runtime::Handle::try_current()) {
            let pool = self.pool.clone();
            let _task = runtime.spawn(async move { what.remove(&pool).await });
        }
    }
}

impl What {
    async fn remove(&self, pool: &Pool) {
        for _ in 0..TRIES {
            match self.try_remove(pool).await {
                Err(error) if error.kind() == ErrorKind::Busy => tokio::time::sleep(WAIT).await,
                _ => return,
            }
        }
    }

    /// By its number: the name may have gone to another one.
    async fn try_remove(&self, pool: &Pool) -> cairn_engine::Result<()> {
        match self {
            Self::Volume { name, id } => {
                let info = pool.volume_info(name).await?;
                if info.id == *id && info.options.filling {
                    let _gone = pool.delete_volume(name, false).await?;
                }
            }
            Self::Snapshot { target, version } => {
                let all = pool.snapshots(Some(&target.volume), false).await?;
                if all.iter().any(|s| s.version == *version && Some(&s.name) == target.snapshot.as_ref()) {
                    pool.delete_snapshot(target).await?;
                }
            }
        }
        Ok(())
    }
}
