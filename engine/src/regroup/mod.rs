//! Regroup: what was written to a volume in any order is moved, in the background, to where it lies in the order of the volume, so that it
//! is read sequentially again.
//!
//! A move is an overwrite of blocks by their own content: they are written to new places, and these enter the tree by the step, and with the
//! record, of any write. Invariants:
//! - Only what the volume alone refers to is moved ([`Floor::owns`](crate::versions::Floor)); what snapshots and clones share stays.
//! - A moved block replaces what the tree has only if that is the very pointer that was read, and still owned, looked at in the step that
//!   replaces it. The old block is held from the look to that step, so that it cannot have become another one under the same pointer.
//! - What is moved was compared with its checksum, and that checksum goes with it.
//! - The hold ends before anything but the device is waited for.

mod measure;
mod mover;
mod piece;

use crate::{
    admin::LocalPool,
    error::{Error, Result, busy, invalid, not_found},
    info::Event,
    upkeep::{Pace, RegroupOptions, RegroupOutcome, RegroupProgress, RegroupStatus},
};
use mover::Mover;

impl LocalPool {
    /// Begins to move a volume's scattered data into its logical order, in the background. See [`LocalPool::regroup_status`].
    ///
    /// # Errors
    /// `Busy` when a regroup runs already, while the volume fills, and during a repair; `NotFound`; `Invalid` for a pace of nothing;
    /// `ReadOnly`, unless it is a dry run.
    pub fn start_regroup(&self, volume: &str, options: RegroupOptions) -> Result<RegroupProgress> {
        check_pace(options.pace)?;
        let core = &self.core;
        if !options.dry_run {
            core.writable()?;
            self.not_repairing()?;
        }
        let (id, size) = {
            let state = core.state.borrow();
            let version = state.lineage.require_volume(volume)?;
            version.not_filling("regroup it")?;
            (version.volume, version.size)
        };
        let progress = {
            let mut regroup = core.regroup.borrow_mut();
            if let Some(running) = &regroup.running {
                return Err(busy(format!(
                    "regroup {} of this pool, of volume {:?}, is under way ({} %): wait for it, or cancel it",
                    running.number,
                    running.volume,
                    (u128::from(running.done) * 100 / u128::from(running.total.max(1)))
                )));
            }
            regroup.count += 1;
            regroup.cancelled = false;
            let progress = RegroupProgress {
                number: regroup.count,
                volume: volume.to_owned(),
                done: 0,
                total: size,
                moved: 0,
                pace: options.pace,
                dry_run: options.dry_run,
                started_ms: core.reactor.unix_ms(),
                damaged_blocks: 0,
            };
            regroup.running = Some(progress.clone());
            progress
        };
        core.state.borrow_mut().event(Event::RegroupStarted { volume: volume.to_owned() });
        // In a task of its own: it hangs on nobody who waits for it.
        core.reactor.spawn(Mover::new(core, id, options.dry_run).run()).detach();
        Ok(progress)
    }

    /// The same, and waits for its end; `progress` is told after each piece. When the future is dropped, the regroup goes on.
    ///
    /// # Errors
    /// As [`LocalPool::start_regroup`]. What ends it early is no error: it is in the outcome, as damage is.
    pub async fn regroup(
        &self,
        volume: &str,
        options: RegroupOptions,
        progress: impl Fn(&RegroupProgress),
    ) -> Result<RegroupOutcome> {
        let number = self.start_regroup(volume, options)?.number;
        self.regrouped(number, progress).await
    }

    /// Waits for the end of the regroup under way; `progress` is told after each piece.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn watch_regroup(&self, progress: impl Fn(&RegroupProgress)) -> Result<RegroupOutcome> {
        let number = self.regroup_under_way()?;
        self.regrouped(number, progress).await
    }

    /// The regroup under way, and how the last one ended.
    #[must_use]
    pub fn regroup_status(&self) -> RegroupStatus {
        let regroup = self.core.regroup.borrow();
        RegroupStatus { running: regroup.running.clone(), last: regroup.last.clone() }
    }

    /// Has the regroup under way go faster or slower from now on.
    ///
    /// # Errors
    /// `NotFound` when there is none, `Invalid` for a pace of nothing.
    pub fn set_regroup_pace(&self, pace: Pace) -> Result<RegroupProgress> {
        check_pace(pace)?;
        let told = self.core.regroup.borrow_mut().running.as_mut().map(|running| {
            running.pace = pace;
            running.clone()
        });
        self.core.signals.regroup.notify();
        told.ok_or_else(none_runs)
    }

    /// Ends the regroup under way, and waits for its end. What it has moved stays moved.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn cancel_regroup(&self) -> Result<RegroupOutcome> {
        let number = self.regroup_under_way()?;
        self.core.regroup.borrow_mut().cancelled = true;
        self.core.signals.regroup.notify();
        self.regrouped(number, |_| {}).await
    }

    fn regroup_under_way(&self) -> Result<u64> {
        self.core.regroup.borrow().running.as_ref().map(|running| running.number).ok_or_else(none_runs)
    }

    async fn regrouped(&self, number: u64, progress: impl Fn(&RegroupProgress)) -> Result<RegroupOutcome> {
        loop {
            let signal = self.core.signals.regroup.notified();
            let status = self.regroup_status();
            match (status.running.filter(|r| r.number == number), status.last.filter(|l| l.number >= number)) {
                (Some(running), _) => progress(&running),
                // A later one has ended too: then this one's outcome is gone, and that one's is newer.
                (None, Some(outcome)) => return Ok(outcome),
                (None, None) => return Err(none_runs()),
            }
            signal.await;
        }
    }
}

fn none_runs() -> Error {
    not_found("no regroup of this pool is under way")
}

fn check_pace(pace: Pace) -> Result<()> {
    match pace.bytes_per_second {
        Some(0) => Err(invalid("a regroup of 0 bytes a second never ends: give a rate, or cancel the regroup")),
        _ => Ok(()),
    }
}
