//! Rules of the engine that a test may have broken, one at a time, to prove that the tests would notice.
//!
//! Without the feature `sim` each question is a constant `false`, and nothing of this is in the program.

/// A rule that is broken while a test runs. Each is one line of code that is left out or done wrongly.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(not(feature = "sim"), allow(dead_code, unreachable_pub))]
pub enum Sabotage {
    /// A commit is answered without `fdatasync`.
    SkipCommitSync,
    /// A flush is answered without a commit.
    AckFlushEarly,
    /// The superblock is switched before what it refers to is durable.
    SkipCheckpointSync,
    /// The journal's tail moves when a checkpoint begins, not when it is durable.
    MoveTailEarly,
    /// A checkpoint overwrites the superblock copies of the one before.
    SameSuperblockSlots,
    /// A piece of the free map is rewritten in place.
    MapInPlace,
    /// Released data is free at once, without waiting for commits.
    FreeDataEarly,
    /// Released data is free after the group that released it, not after one more.
    FreeDataOneGroupEarly,
    /// Released blocks are reused while reads of them are in flight.
    IgnoreReads,
    /// A replaced node is free before a checkpoint without it is durable.
    FreeNodesEarly,
    /// The last group counts although its data never arrived.
    ReplayIncompleteGroup,
    /// A group's own checksum is not looked at.
    IgnoreGroupCrc,
    /// A gap in the journal is taken for its end.
    IgnoreGap,
    /// Data is returned without a look at its checksum.
    IgnoreDataCrc,
    /// Nodes are used without a look at their checksum.
    IgnoreNodeCrc,
    /// A superblock is used without a look at its checksum.
    IgnoreSuperblockCrc,
    /// A write is in the tree, but not in the journal.
    ForgetWriteRecord,
    /// A discard is in the tree, but not in the journal.
    ForgetHoleRecord,
    /// Limits are set, but not in the journal.
    ForgetSheetRecord,
    /// Limits are set, but the next checkpoint writes their page without them.
    ForgetSheetPage,
    /// A snapshot does not raise the epoch.
    KeepEpoch,
    /// A version owns what was born in its parent's epoch.
    OwnParents,
    /// Deletion does not look at one of the children.
    DropChild,
    /// A version with two children is deleted as if it had one.
    DissolveBranch,
    /// During a dissolving walk, the child's floor does not change.
    OneFloor,
    /// A step of deletion says that it came further than it did.
    SkipLeaf,
    /// Sub-block writes take no lock and do not look whether their block has changed.
    StaleMerge,
    /// A failed data write is acknowledged.
    AckFailedWrite,
    /// A failed `fdatasync` is forgotten.
    ForgetSyncError,
    /// The difference of two versions leaves out what a leaf's last pointer says.
    DiffSkipsLast,
    /// A discarded subtree is forgotten instead of freed.
    LeakSubtree,
    /// New data may use up the reserve.
    NoReserve,
    /// Users of a volume that is filling do not wait for what they touch.
    PassTheGate,
    /// Zeros of users make holes while the volume fills.
    HolesWhileFilling,
    /// A filler's write goes over what is there by now.
    FillOver,
    /// What was acknowledged from memory enters the tree in another order.
    DrainOutOfOrder,
    /// What goes around a backlog does not wait until it is empty.
    PassBacklog,
    /// A flush does not wait for the backlog.
    FlushPastBacklog,
    /// Reads do not look into the backlog.
    ReadPastBacklog,
    /// What was acknowledged from memory and cannot be written is forgotten.
    ForgetUnwritten,
    /// A regroup does not look again before it replaces what it has moved.
    RegroupBlindly,
    /// A regroup moves what others share.
    RegroupShared,
    /// A regroup moves data without a look at its checksum.
    RegroupUnverified,
}

#[cfg(feature = "sim")]
mod switch {
    use std::cell::Cell;

    use super::Sabotage;

    thread_local! {
        static BROKEN: Cell<Option<Sabotage>> = const { Cell::new(None) };
    }

    impl Sabotage {
        /// All of them.
        pub const ALL: [Self; 43] = {
            use Sabotage::*;
            [
                SkipCommitSync,
                AckFlushEarly,
                SkipCheckpointSync,
                MoveTailEarly,
                SameSuperblockSlots,
                MapInPlace,
                FreeDataEarly,
                FreeDataOneGroupEarly,
                IgnoreReads,
                FreeNodesEarly,
                ReplayIncompleteGroup,
                IgnoreGroupCrc,
                IgnoreGap,
                IgnoreDataCrc,
                IgnoreNodeCrc,
                IgnoreSuperblockCrc,
                ForgetWriteRecord,
                ForgetHoleRecord,
                ForgetSheetRecord,
                ForgetSheetPage,
                KeepEpoch,
                OwnParents,
                DropChild,
                DissolveBranch,
                OneFloor,
                SkipLeaf,
                StaleMerge,
                AckFailedWrite,
                ForgetSyncError,
                DiffSkipsLast,
                LeakSubtree,
                NoReserve,
                PassTheGate,
                HolesWhileFilling,
                FillOver,
                DrainOutOfOrder,
                PassBacklog,
                FlushPastBacklog,
                ReadPastBacklog,
                ForgetUnwritten,
                RegroupBlindly,
                RegroupShared,
                RegroupUnverified,
            ]
        };
    }

    /// Breaks a rule for everything that this thread runs from here on; `None` breaks none.
    pub fn sabotage(rule: Option<Sabotage>) {
        BROKEN.set(rule);
    }

    pub(crate) fn broken(rule: Sabotage) -> bool {
        BROKEN.get() == Some(rule)
    }

    /// Whether `test` fails when the rule is broken.
    #[cfg(all(test, not(miri)))]
    pub(crate) fn notices(rule: Sabotage, test: impl FnOnce() + std::panic::UnwindSafe) -> bool {
        sabotage(Some(rule));
        let result = std::panic::catch_unwind(test);
        sabotage(None);
        result.is_err()
    }
}

#[cfg(feature = "sim")]
pub(crate) use switch::broken;
#[cfg(all(test, feature = "sim", not(miri)))]
pub(crate) use switch::notices;
#[cfg(feature = "sim")]
pub use switch::sabotage;

/// Whether a test has this rule broken.
#[cfg(not(feature = "sim"))]
#[inline(always)]
pub(crate) const fn broken(_rule: Sabotage) -> bool {
    false
}
