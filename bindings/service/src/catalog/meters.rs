//! Metering: for how long somebody held how many GiB, and how much I/O went to and from them.
//!
//! Invariants:
//! - An open interval is there exactly for each object that holds space. It is opened, closed and opened anew by [`Tx::put`] and
//!   [`Tx::remove`], in the transaction that changes the project or the size, so intervals of an object neither overlap nor leave gaps.
//! - Counted I/O is added together with the counters that it was read from, so that none is counted twice, whenever the process ends.

use serde::{Deserialize, Serialize};

use super::{
    numbered::{Dated, Keep, Kept, Numbered, about},
    objects::entries_of_lists,
    records::{Kind, Record, now_us},
    tx::Tx,
};
use crate::fault::Answer;

/// What holds space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holding {
    /// `volume`, `snapshot`, `backup`, `image`.
    pub(crate) kind: &'static str,
    pub(crate) id: String,
    pub(crate) project: String,
    pub(crate) gib: u64,
}

impl Holding {
    pub(crate) fn key(&self) -> String {
        format!("{}/{}", self.kind, self.id)
    }
}

/// Requests and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Io {
    pub(crate) read_requests: u64,
    pub(crate) read_bytes: u64,
    pub(crate) write_requests: u64,
    pub(crate) write_bytes: u64,
    /// Discards, and writes of zeros.
    pub(crate) discard_requests: u64,
    pub(crate) discard_bytes: u64,
    pub(crate) flush_requests: u64,
}

impl Io {
    fn numbers(&self) -> [u64; 7] {
        [
            self.read_requests,
            self.read_bytes,
            self.write_requests,
            self.write_bytes,
            self.discard_requests,
            self.discard_bytes,
            self.flush_requests,
        ]
    }

    fn of(
        [read_requests, read_bytes, write_requests, write_bytes, discard_requests, discard_bytes, flush_requests]: [u64; 7],
    ) -> Self {
        Self { read_requests, read_bytes, write_requests, write_bytes, discard_requests, discard_bytes, flush_requests }
    }

    fn with(self, other: Self, each: impl Fn(u64, u64) -> u64) -> Self {
        let (a, b) = (self.numbers(), other.numbers());
        Self::of(std::array::from_fn(|i| each(a.get(i).copied().unwrap_or(0), b.get(i).copied().unwrap_or(0))))
    }

    /// What came since an earlier look at the same counters; all, if they have begun anew.
    pub(crate) fn since(self, earlier: Self) -> Self {
        match self.numbers().iter().zip(earlier.numbers()).all(|(now, before)| *now >= before) {
            true => self.with(earlier, |now, before| now - before),
            false => self,
        }
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        self.with(other, u64::saturating_add)
    }

    pub(crate) fn is_none(self) -> bool {
        self == Self::default()
    }
}

/// Counters as they were read: of one volume, since one opening of the pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// The opening.
    pub(crate) opening: String,
    /// The engine's number of the volume.
    pub(crate) volume: u64,
    pub(crate) io: Io,
}

/// An interval that has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OpenMeter {
    /// Kind and id of the object.
    pub(crate) key: String,
    pub(crate) project: String,
    pub(crate) gib: u64,
    pub(crate) since_us: u64,
    /// So far in this interval.
    pub(crate) io: Io,
    /// The counters up to which that was counted.
    #[serde(default)]
    pub(crate) seen: Seen,
}

impl Record for OpenMeter {
    const KIND: Kind = Kind { tag: "metered", name: "Open interval" };

    fn id(&self) -> &str {
        &self.key
    }

    fn entries(&self) -> Vec<Vec<u8>> {
        Vec::new()
    }

    fn is_about_others() -> bool {
        true
    }
}

/// An interval that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meter {
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) object: String,
    pub(crate) project: String,
    pub(crate) gib: u64,
    pub(crate) from_us: u64,
    pub(crate) until_us: u64,
    pub(crate) io: Io,
}

impl Record for Meter {
    const KIND: Kind = Kind { tag: "meter", name: "Metering" };

    fn id(&self) -> &str {
        &self.id
    }

    fn entries(&self) -> Vec<Vec<u8>> {
        let mut entries = entries_of_lists(Self::KIND, &self.project, self.until_us, &self.id);
        entries.push(about(Self::KIND, &self.object).newest_first(self.until_us).with(&self.id).bytes());
        entries
    }

    fn is_about_others() -> bool {
        true
    }
}

impl Dated for Meter {
    fn moment(&self) -> u64 {
        self.until_us
    }
}

impl Numbered for Meter {
    fn number(&mut self, id: String) {
        self.id = id;
    }

    fn keep(kept: &Kept) -> Keep {
        kept.meters
    }
}

impl Tx<'_> {
    /// What holds space has changed: the interval of before ends, another one begins.
    pub(super) fn meter(&mut self, before: Option<Holding>, after: Option<Holding>) -> Answer<()> {
        if before == after {
            return Ok(());
        }
        let now = now_us();
        let mut seen = Seen::default();
        if let Some(open) = before.map(|holding| self.get::<OpenMeter>(&holding.key())).transpose()?.flatten() {
            seen = open.seen.clone();
            self.remove::<OpenMeter>(&open.key)?;
            self.close_meter(open, now)?;
        }
        match after {
            Some(holding) => self.open_meter(&holding, now, seen),
            None => Ok(()),
        }
    }

    /// Begins an interval.
    pub(crate) fn open_meter(&mut self, holding: &Holding, since_us: u64, seen: Seen) -> Answer<()> {
        let (key, project, gib) = (holding.key(), holding.project.clone(), holding.gib);
        self.put(&OpenMeter { key, project, gib, since_us, io: Io::default(), seen })
    }

    /// Ends an interval, and begins the next one at the same moment. Nothing if it has begun later.
    pub(crate) fn roll_meter(&mut self, key: &str, at_us: u64) -> Answer<()> {
        let Some(open) = self.get::<OpenMeter>(key)?.filter(|open| open.since_us < at_us) else { return Ok(()) };
        self.put(&OpenMeter { since_us: at_us, io: Io::default(), ..open.clone() })?;
        self.close_meter(open, at_us)
    }

    /// Counts I/O up to these counters.
    pub(crate) fn count_io(&mut self, key: &str, now: Seen) -> Answer<()> {
        let Some(mut open) = self.get::<OpenMeter>(key)? else { return Ok(()) };
        let same = open.seen.opening == now.opening && open.seen.volume == now.volume;
        let before = if same { open.seen.io } else { Io::default() };
        open.io = open.io.plus(now.io.since(before));
        open.seen = now;
        self.put(&open)
    }

    fn close_meter(&mut self, open: OpenMeter, until_us: u64) -> Answer<()> {
        let until_us = until_us.max(open.since_us);
        if until_us == open.since_us && open.io.is_none() {
            return Ok(());
        }
        let (kind, object) = open.key.split_once('/').unwrap_or(("", &open.key));
        let closed = Meter {
            id: String::new(),
            kind: kind.to_owned(),
            object: object.to_owned(),
            project: open.project.clone(),
            gib: open.gib,
            from_us: open.since_us,
            until_us,
            io: open.io,
        };
        self.append(closed).map(drop)
    }
}
