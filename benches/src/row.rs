//! The rows of a comparison: what is done to each target.

use cairn_engine::{KIB, MIB};

use crate::stored::show;

/// What a request does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Random writes.
    RandomWrite,
    /// Random reads.
    RandomRead,
    /// Sequential writes.
    Write,
    /// Sequential reads.
    Read,
}

/// The state that a target must be in before the row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Before {
    /// Nothing was ever written.
    Fresh,
    /// All was written sequentially.
    Written,
    /// All was written, then most of it again, block by block, in any order.
    Scattered,
    /// The same, and then it was regrouped, where there is such a thing.
    Regrouped,
    /// All was written, then a snapshot was taken.
    Snapshot,
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Name in the table.
    pub name: &'static str,
    /// What is done.
    pub kind: Kind,
    /// State before.
    pub before: Before,
    /// Bytes of a request.
    pub block: u64,
    /// Requests in flight.
    pub depth: u32,
    /// Whether each write is followed by a flush.
    pub fsync: bool,
}

const fn row(name: &'static str, kind: Kind, before: Before, block: u64, depth: u32) -> Row {
    Row { name, kind, before, block, depth, fsync: false }
}

/// The rows of the table, in the order in which they are run on a target.
pub const ROWS: [Row; 10] = [
    row("4K randwrite fresh QD32", Kind::RandomWrite, Before::Fresh, 4 * KIB, 32),
    row("1M write QD8", Kind::Write, Before::Fresh, MIB, 8),
    row("1M read QD8", Kind::Read, Before::Written, MIB, 8),
    row("4K randread QD32", Kind::RandomRead, Before::Written, 4 * KIB, 32),
    row("4K randread QD1", Kind::RandomRead, Before::Written, 4 * KIB, 1),
    row("4K randwrite allocated QD32", Kind::RandomWrite, Before::Written, 4 * KIB, 32),
    row("1M read QD8 overwritten at random", Kind::Read, Before::Scattered, MIB, 8),
    row("1M read QD8 regrouped", Kind::Read, Before::Regrouped, MIB, 8),
    row("4K randwrite after a snapshot QD32", Kind::RandomWrite, Before::Snapshot, 4 * KIB, 32),
    Row { fsync: true, ..row("4K write + fsync QD1", Kind::RandomWrite, Before::Written, 4 * KIB, 1) },
];

impl Row {
    /// A rate for people: requests or bytes a second.
    #[must_use]
    pub fn show(&self, per_second: f64) -> String {
        show(self.block, per_second)
    }
}
