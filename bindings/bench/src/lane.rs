//! What targets differ in: how a job hands a request over, and how it learns of its end.
//!
//! A lane has as many slots as requests may be in flight, each with a buffer. The one loop of [`drive`](crate::drive) uses all lanes.

use std::time::{Duration, Instant};

use cairn_engine::Result;

/// What a request does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Read,
    Write,
    Flush,
}

impl Kind {
    pub(crate) const COUNT: usize = 3;

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
        }
    }
}

/// A request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ask {
    pub(crate) kind: Kind,
    /// First byte; 0 for a flush.
    pub(crate) offset: u64,
    /// Bytes; 0 for a flush.
    pub(crate) length: usize,
}

/// A request that has ended.
pub(crate) struct Done {
    pub(crate) slot: usize,
    pub(crate) outcome: Result<()>,
}

/// Buffers and requests in flight of a lane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Slots.
    pub(crate) depth: usize,
    /// Bytes of the longest request.
    pub(crate) block: usize,
}

/// How long a lane waits when nothing ends and nothing is due: then the loop looks whether it is to stop.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// A job's way to its target.
pub(crate) trait Lane {
    /// Whether a slot's buffer still holds what was written from it when the request has ended.
    const KEEPS: bool;

    /// The buffer of a slot without a request, of [`Shape::block`] bytes.
    fn buffer(&mut self, slot: usize) -> &mut [u8];

    /// The bytes that a slot's read has brought, at least as many as were asked for.
    fn answer(&mut self, slot: usize) -> &[u8] {
        self.buffer(slot)
    }

    /// Hands over a request for a free slot. It may be held back until [`wait`](Self::wait), to go with others.
    ///
    /// # Errors
    /// The target is gone or takes no such request.
    fn submit(&mut self, slot: usize, ask: Ask) -> Result<()>;

    /// Sends what was held back, and waits until a request has ended, until the moment given, or for a [`TICK`]. A moment in the past: does
    /// not wait. Lanes on threads of their own block in it.
    ///
    /// # Errors
    /// The target is gone. What went wrong with one request is told with that.
    async fn wait(&mut self, until: Option<Instant>, done: &mut Vec<Done>) -> Result<()>;
}
