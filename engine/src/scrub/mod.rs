//! Scrub: every block that the pool stands on is read and compared with its checksum, in the background of a working pool.
//!
//! Versions are walked one after the other, in small batches at a given pace; a block that this scrub has read already is not read
//! again, and a node under which everything was read is not entered again.
//!
//! Invariants:
//! - Every block that was in use when the scrub began, and still is when it ends, has been read. A block stands in the same place in
//!   every version that refers to it, and a version refers to it from its own beginning (or from before the scrub) until it lets go of it.
//!   So some version that holds it at the end held it when its walk passed that place; versions that appear meanwhile are walked too,
//!   unless they start as one that has been walked to its end ([`State::scrubbed`](crate::state::State)). What is written meanwhile may
//!   or may not be read.
//! - Blocks are held only while one batch is read, never while the scrub waits for its pace. So space comes back as it does without it.
//! - A walk looks at the tree as it is at each batch. What the user deletes meanwhile is no longer walked.

mod locate;
mod reader;
#[cfg(test)]
mod tests;

use crate::{
    admin::LocalPool,
    check::copies,
    core::Core,
    error::{Error, Result, busy, invalid, not_found},
    info::Event,
    units::BLOCK,
    upkeep::{Pace, ScrubOutcome, ScrubProgress, ScrubStatus},
};
pub(crate) use locate::Ranges;
use reader::Reader;

impl LocalPool {
    /// Begins to read and verify all data and all metadata of all versions, in the background. See [`LocalPool::scrub_status`].
    ///
    /// # Errors
    /// `Busy` when a scrub runs already, `Invalid` for a pace of nothing.
    pub fn start_scrub(&self, pace: Pace) -> Result<ScrubProgress> {
        check_pace(pace)?;
        let core = &self.core;
        let progress = {
            let mut scrub = core.scrub.borrow_mut();
            if let Some(running) = &scrub.running {
                let percent = running.done * 100 / running.total.max(1);
                return Err(busy(format!(
                    "scrub {} of this pool is under way ({percent} %): wait for it, change its pace, or cancel it",
                    running.number
                )));
            }
            scrub.count += 1;
            scrub.cancelled = false;
            let progress = ScrubProgress {
                number: scrub.count,
                done: 0,
                total: expected_bytes(core),
                rate: 0,
                pace,
                started_ms: core.reactor.unix_ms(),
                current: None,
                damaged_blocks: 0,
            };
            scrub.running = Some(progress.clone());
            progress
        };
        {
            let mut state = core.state.borrow_mut();
            state.scrubbed.clear();
            state.event(Event::ScrubStarted { total: progress.total });
        }
        core.reactor.spawn(Reader::new(core, pace).run()).detach();
        Ok(progress)
    }

    /// The same, and waits for its end; `progress` is told after each batch. When the future is dropped, the scrub goes on.
    ///
    /// # Errors
    /// As [`LocalPool::start_scrub`]. Damage is not an error: it is in the report.
    pub async fn scrub(&self, pace: Pace, progress: impl Fn(&ScrubProgress)) -> Result<ScrubOutcome> {
        let number = self.start_scrub(pace)?.number;
        self.ended(number, progress).await
    }

    /// Waits for the end of the scrub under way; `progress` is told after each batch.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn watch_scrub(&self, progress: impl Fn(&ScrubProgress)) -> Result<ScrubOutcome> {
        let number = self.running()?;
        self.ended(number, progress).await
    }

    /// The scrub under way, and how the last one ended.
    #[must_use]
    pub fn scrub_status(&self) -> ScrubStatus {
        let scrub = self.core.scrub.borrow();
        ScrubStatus { running: scrub.running.clone(), last: scrub.last.clone() }
    }

    /// Has the scrub under way go faster or slower from now on.
    ///
    /// # Errors
    /// `NotFound` when there is none, `Invalid` for a pace of nothing.
    pub fn set_scrub_pace(&self, pace: Pace) -> Result<ScrubProgress> {
        check_pace(pace)?;
        let _number = self.running()?;
        let told = self.core.scrub.borrow_mut().running.as_mut().map(|running| {
            running.pace = pace;
            running.clone()
        });
        self.core.signals.scrub.notify();
        told.ok_or_else(none_runs)
    }

    /// Ends the scrub under way, and waits for its end. What it had found is in the outcome.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn cancel_scrub(&self) -> Result<ScrubOutcome> {
        let number = self.running()?;
        self.core.scrub.borrow_mut().cancelled = true;
        self.core.signals.scrub.notify();
        self.ended(number, |_| {}).await
    }

    fn running(&self) -> Result<u64> {
        self.core.scrub.borrow().running.as_ref().map(|running| running.number).ok_or_else(none_runs)
    }

    async fn ended(&self, number: u64, progress: impl Fn(&ScrubProgress)) -> Result<ScrubOutcome> {
        loop {
            let signal = self.core.signals.scrub.notified();
            let status = self.scrub_status();
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
    not_found("no scrub of this pool is under way")
}

fn check_pace(pace: Pace) -> Result<()> {
    match pace.bytes_per_second {
        Some(0) => Err(invalid("a scrub of 0 bytes a second never ends: give a rate, or cancel the scrub")),
        _ => Ok(()),
    }
}

fn expected_bytes(core: &Core) -> u64 {
    let pieces = copies::pieces(core).len() as u64;
    (core.state.borrow().space.reach.count() + pieces + 4) * BLOCK
}
