//! What a client asks of the pool as a whole.

use super::*;

impl Client {
    pub(super) async fn checkpoint(&self) -> Go {
        let step = self.begin(Effect::None);
        match self.pool().checkpoint().await {
            Ok(()) => {
                self.end(step, true);
                Go::On
            }
            Err(e) if self.stopped() => {
                self.expect_cause(&e);
                Go::Stop
            }
            Err(e) => {
                assert!(self.shared.habits.writeback && self.excused(&e, 0), "{e}");
                self.end(step, false);
                Go::On
            }
        }
    }

    pub(super) async fn check(&self) -> Go {
        let before = excuses(&self.shared.disk);
        match self.pool().check(self.below(2) == 0, |_, _| {}).await {
            Ok(report) if report.is_clean() => {}
            Ok(report) => {
                // A failed sync has lost data for good, and the pool has stopped over it.
                let excused = excuses(&self.shared.disk) > before || self.stopped();
                // A damaged piece of the free map that could not be rebuilt counts as in use, until a repair.
                let only_space = report.leaked_blocks > 0 && report.problems.len() == 1;
                let wasted = only_space && self.shared.disk.counters().damage_read > 0;
                assert!(excused || wasted, "check: {:#?}", report.problems);
            }
            Err(e) => assert!(e.kind() == ErrorKind::Busy || self.excused(&e, before), "check: {e}"),
        }
        Go::On
    }

    /// Begins a scrub, or does something about the one under way; sometimes waits for it.
    pub(super) async fn scrub(&self) -> Go {
        let before = excuses(&self.shared.disk);
        let pace = [Pace::unlimited(), Pace::bytes_per_second(MIB), Pace::default()][self.below(3) as usize];
        let began = match self.pool().start_scrub(pace) {
            Ok(_) => true,
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::Busy, "{e}");
                false
            }
        };
        let outcome = match self.below(4) {
            0 => self.pool().cancel_scrub().await,
            1 => self.pool().watch_scrub(|_| {}).await,
            2 => {
                // It may have ended by now.
                let _told = self.pool().set_scrub_pace(Pace::unlimited());
                return Go::On;
            }
            _ => return Go::On,
        };
        match outcome {
            Ok(outcome) if !began || outcome.report.is_clean() => {}
            Ok(outcome) => {
                let excused = excuses(&self.shared.disk) > before || self.stopped();
                assert!(excused, "scrub: {:#?}", outcome.report.damaged);
            }
            // Another client ended it, or it ended by itself.
            Err(e) => assert_eq!(e.kind(), ErrorKind::NotFound, "{e}"),
        }
        Go::On
    }

    /// Begins to regroup a volume, or does something about the one that is being regrouped; sometimes waits for it.
    pub(super) async fn regroup(&self) -> Go {
        let pace = [Pace::unlimited(), Pace::unlimited(), Pace::bytes_per_second(MIB)][self.below(3) as usize];
        let options = RegroupOptions { pace, dry_run: self.below(8) == 0 };
        if let Err(e) = self.pool().start_regroup(&self.pick(), options) {
            // Another one is under way, the volume fills, or the pool has stopped.
            assert!(e.kind() == ErrorKind::Busy || e.kind() == ErrorKind::ReadOnly && self.stopped(), "{e}");
        }
        let outcome = match self.below(4) {
            0 => self.pool().cancel_regroup().await,
            1 => self.pool().watch_regroup(|_| {}).await,
            2 => {
                // It may have ended by now.
                let _told = self.pool().set_regroup_pace(Pace::unlimited());
                return Go::On;
            }
            _ => return Go::On,
        };
        match outcome {
            Ok(outcome) => {
                // It may have begun long ago.
                let excused = excuses(&self.shared.disk) > began(&self.shared) || self.stopped();
                let sound = outcome.end != RegroupEnd::Failed && outcome.report.damaged_blocks == 0;
                assert!(sound || excused, "regroup: {outcome:#?}");
            }
            // Another client ended it, or it ended by itself.
            Err(e) => assert_eq!(e.kind(), ErrorKind::NotFound, "{e}"),
        }
        Go::On
    }

    pub(super) async fn wait_deleted(&self) -> Go {
        let before = excuses(&self.shared.disk);
        match self.pool().wait_deleted().await {
            Ok(()) => Go::On,
            Err(e) if self.stopped() => {
                self.expect_cause(&e);
                Go::Stop
            }
            Err(e) => {
                assert!(self.excused(&e, before), "{e}");
                Go::On
            }
        }
    }
}
