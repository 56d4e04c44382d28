//! Where a client's decisions come from: a seed, or bytes that a fuzzer chose.

use std::collections::VecDeque;

use cairn_engine::sim::Rng;

pub(crate) enum Choices {
    Seeded(Rng),
    /// Two bytes a decision; empty at the end.
    Bytes(VecDeque<u8>),
}

impl Choices {
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        match self {
            Self::Seeded(rng) => rng.below(n),
            Self::Bytes(bytes) => {
                let mut byte = || u64::from(bytes.pop_front().unwrap_or(0));
                let value = if n <= 256 { byte() } else { byte() | byte() << 8 | byte() << 16 };
                value % n.max(1)
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self::Bytes(bytes) if bytes.is_empty())
    }
}
