//! Garbage of the repository: what deleted backups alone needed goes by itself, some time after they were deleted, for many of them at once, since a
//! collection reads the maps of all backups that are left.

use std::{sync::atomic::Ordering, time::Duration};

use cairn_backup::{CollectOptions, Collected, Job};

use super::{Block, act_backup::owned};
use crate::{
    catalog::{Garbage, now_us},
    fault::Answer,
};

/// How often it is looked at whether there is something to collect, at most.
const LOOK: Duration = Duration::from_mins(1);

impl Block {
    /// Collects what was left behind, each `collect_every` at most, until the service stops.
    pub(crate) async fn collect_garbage(&self) {
        let settings = &self.inner.settings;
        if settings.collect_every.is_zero() || settings.repository.is_none() {
            return;
        }
        let mut tick = tokio::time::interval(settings.collect_every.min(LOOK));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let _at = tick.tick().await;
            match self.collect_if_due().await {
                Ok(None) => {}
                Ok(Some(collected)) => told(&collected),
                Err(fault) => {
                    tracing::error!(%fault, "garbage of the repository cannot be collected; tried again later");
                }
            }
        }
    }

    /// Nothing, when nothing was left behind, or the last attempt is too near.
    pub(super) async fn collect_if_due(&self) -> Answer<Option<Collected>> {
        let found = self.inner.catalog.read().garbage()?;
        let every = u64::try_from(self.inner.settings.collect_every.as_micros()).unwrap_or(u64::MAX);
        let age = now_us().checked_sub(found.tried_us);
        // A clock that was put back does not keep it from being collected.
        let is_near = age.is_some_and(|age| age < every);
        if found.left == 0 || is_near {
            return Ok(None);
        }
        self.collect(&Job::new()).await.map(Some)
    }

    /// Collects what is there now.
    pub(super) async fn collect(&self, job: &Job) -> Answer<Collected> {
        let write = |change: &dyn Fn(&mut Garbage)| {
            self.inner.catalog.write(|tx| {
                let mut garbage = tx.garbage()?;
                change(&mut garbage);
                tx.put(&garbage)
            })
        };
        // What is left behind from here on may come too late for this one.
        let before = self.inner.catalog.read().garbage()?.left;
        write(&|garbage| garbage.tried_us = now_us())?;
        let (repository, job) = (self.repository().await?, job.clone());
        let work = async move { repository.collect(&CollectOptions::default(), &job).await };
        let failed = |_: &cairn_backup::Error| {
            let _sum = self.inner.failed_collections.fetch_add(1, Ordering::Relaxed);
        };
        let collected = owned(work).await.inspect_err(failed)?;
        let _sum = self.inner.freed.fetch_add(collected.freed, Ordering::Relaxed);
        write(&|garbage| {
            garbage.left = garbage.left.saturating_sub(before);
            garbage.collected_us = now_us();
        })?;
        Ok(collected)
    }

    /// Bytes that collections have freed since the service began, and how many failed.
    pub(crate) fn collections(&self) -> (u64, u64) {
        (self.inner.freed.load(Ordering::Relaxed), self.inner.failed_collections.load(Ordering::Relaxed))
    }

    /// Something in the repository is not needed any more.
    pub(super) fn leave_garbage(&self) -> Answer<()> {
        self.inner.catalog.write(|tx| tx.leave_garbage())
    }
}

fn told(collected: &Collected) {
    let Collected { freed, unneeded_packs, rewritten_packs, .. } = collected;
    tracing::info!(freed, unneeded_packs, rewritten_packs, "garbage of the repository was collected");
    for (session, whose) in &collected.open_sessions {
        tracing::warn!(session, whose, "a session has not ended: its packs stay (cairn backup gc --end-session)");
    }
    for (pack, why) in &collected.unreadable {
        tracing::warn!(pack, why, "a pack of the repository cannot be read");
    }
    if let Some(why) = &collected.rewriting_failed {
        tracing::warn!(why, "packs of the repository could not be written anew");
    }
}
