//! What the pool may still promise to volumes, beside all quotas.
//!
//! Invariant: the sizes of all volumes, of those that are being made or extended too, never come to more than what may be promised, however
//! many ask at once. Who asks holds [`Room`] until what they take is recorded.

use cairn_engine::ErrorKind;
use tokio::sync::MutexGuard;

use super::Block;
use crate::{
    catalog::{Intent, Op, engine_image, engine_image_file},
    domain::GIB,
    fault::{Answer, Fault, FaultKind},
};

/// What may still be promised; to one request at a time.
pub(super) struct Room<'a> {
    /// Bytes.
    promised: u64,
    allowed: u64,
    _one: MutexGuard<'a, ()>,
}

/// GiB of volumes and images that an operation makes or makes larger: they may not be in the pool yet.
fn on_its_way(intent: &Intent) -> u64 {
    match intent.op {
        Op::CreateVolume { .. } | Op::ExtendVolume { .. } | Op::RestoreBackup { .. } | Op::CreateGroup { .. } => {
            intent.reserved.gib()
        }
        Op::ReceiveImage | Op::ImageOfVolume { .. } => intent.reserved.image_gib(),
        _ => 0,
    }
}

impl Block {
    pub(super) async fn room(&self) -> Answer<Room<'_>> {
        let one = self.inner.promising.lock().await;
        // First what is under way, then what is there. What ends in between counts twice, and nothing is left out.
        let intents = self.inner.catalog.read().all::<Intent>()?;
        let under_way: u64 = intents.iter().map(on_its_way).sum();
        // Images take long: what there is of them already is a part of what they are to be.
        let mut in_part = 0_u64;
        let images = intents.iter().filter(|one| matches!(one.op, Op::ReceiveImage | Op::ImageOfVolume { .. }));
        for name in images.flat_map(|one| [engine_image(one.object()), engine_image_file(one.object())]) {
            match self.inner.pool.volume_info(&name).await {
                Ok(info) => in_part = in_part.saturating_add(info.size),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        let stats = self.inner.pool.stats().await?;
        let allowed = (stats.capacity as f64 * self.inner.settings.over_subscription) as u64;
        Ok(Room {
            promised: stats.logical.saturating_sub(in_part).saturating_add(under_way.saturating_mul(GIB)),
            allowed,
            _one: one,
        })
    }
}

impl Room<'_> {
    /// Whether so many GiB more may be promised.
    pub(super) fn takes(&self, gib: u64) -> Answer<()> {
        if self.promised.saturating_add(gib.saturating_mul(GIB)) <= self.allowed {
            return Ok(());
        }
        Err(Fault::new(
            FaultKind::OverLimit,
            format!(
                "the pool cannot take {gib} GiB more: {} GiB are promised of {} GiB that may be; extend the pool or delete volumes",
                self.promised / GIB,
                self.allowed / GIB
            ),
        ))
    }
}
