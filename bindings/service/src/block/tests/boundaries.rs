//! The service ends at each boundary between two steps of an operation, and another one goes on.

use std::{fmt::Debug, time::Duration};

use super::world::{World, free, freeze_at};

/// How long an operation may take to come to a boundary or its end. Only a test that fails waits for it.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// An operation, what there is before, and what it comes to.
pub(super) trait Scenario: Copy + Debug {
    /// What there is before.
    type Before;

    async fn prepare(self, world: &World) -> Self::Before;
    /// Begins it. Answers the id of what it makes or changes.
    async fn begin(self, world: &World, before: &Self::Before) -> String;
    async fn check(self, world: &World, id: &str, before: &Self::Before);

    /// Boundaries of what `begin` does first, which are not this scenario's.
    fn skipped(self) -> usize {
        0
    }
}

/// Runs it with an end at this boundary; whether it came there.
async fn end_at<S: Scenario>(scenario: S, number: usize) -> bool {
    let mut world = World::new().await;
    let before = scenario.prepare(&world).await;
    let (hook, frozen) = freeze_at(number + scenario.skipped());
    world = world.restart(hook).await;
    let id = scenario.begin(&world, &before).await;
    let came = tokio::select! {
        () = frozen.notified() => true,
        () = world.block.settled() => false,
        () = tokio::time::sleep(PATIENCE) => panic!("{scenario:?} neither ends nor comes to boundary {number}"),
    };
    world = world.restart(free()).await;
    let resumed = world.block.resume().unwrap();
    world.block.settled().await;
    // After the last boundary nothing is left to do.
    assert!(resumed <= 1, "{scenario:?}");
    world.sound().await;
    scenario.check(&world, &id, &before).await;
    came
}

/// How many boundaries each has: written down, so that none is lost without anybody noticing.
pub(super) async fn ends_everywhere<S: Scenario>(scenario: S, boundaries: usize) {
    for number in 0..boundaries {
        assert!(end_at(scenario, number).await, "{scenario:?} has boundary {number}");
    }
    assert!(!end_at(scenario, boundaries).await, "{scenario:?} has no more than {boundaries} boundaries");
}

macro_rules! scenarios {
    ($($name:ident: $scenario:expr, $boundaries:literal;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            $crate::block::tests::boundaries::ends_everywhere($scenario, $boundaries).await;
        }
    )*};
}
pub(super) use scenarios;
