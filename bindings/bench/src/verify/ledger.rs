//! What a job wrote last, place by place: what its reads must meet.
//!
//! Invariant: no two requests in flight touch the same place, so that what a read must meet is one thing. Jobs that verify work on slices of
//! their own for the same reason.

use std::ops::Range;

use crate::{
    bench::invalid,
    slice::Slice,
    verify::unit::{self, Expected, Found, Stamp},
};
use cairn_engine::Result;

/// Most places, over all jobs: four bytes and a bit of memory each.
pub(crate) const MAX_PLACES: u64 = 1 << 28;
/// Failures that are told one by one.
const TOLD: usize = 16;

/// What was found to be wrong, and how much was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    /// Bytes that were compared with what this run wrote, or with their own checksum.
    pub(crate) checked: u64,
    /// Bytes that this run did not write and that do not describe themselves.
    pub(crate) unknown: u64,
    /// Units that are wrong.
    pub(crate) failures: u64,
    /// The first of them, in words.
    pub(crate) told: Vec<String>,
}

impl Findings {
    /// Adds what another job found.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.checked += other.checked;
        self.unknown += other.unknown;
        self.failures += other.failures;
        let room = TOLD.saturating_sub(self.told.len());
        self.told.extend(other.told.iter().take(room).cloned());
    }
}

/// Generations of a slice's places.
pub(crate) struct Ledger {
    slice: Slice,
    stamp: Stamp,
    generations: Vec<u32>,
    busy: Vec<bool>,
    pub(crate) findings: Findings,
}

impl Ledger {
    /// A ledger for a slice of which this run has written nothing.
    ///
    /// # Errors
    /// `Invalid` when there are more places than memory is set aside for.
    pub(crate) fn new(slice: Slice, stamp: Stamp) -> Result<Self> {
        if slice.places > MAX_PLACES {
            return Err(invalid(format!(
                "verify keeps a number for each place, and size / bs = {} places are more than {MAX_PLACES}: lower size, or raise bs",
                slice.places
            )));
        }
        let places = slice.places as usize;
        let (generations, busy) = (vec![0; places], vec![false; places]);
        Ok(Self { slice, stamp, generations, busy, findings: Findings::default() })
    }

    fn places(&self, offset: u64, length: usize) -> Range<usize> {
        let first = (offset.saturating_sub(self.slice.offset) / self.slice.block) as usize;
        first..(first + length.div_ceil(self.slice.block as usize)).min(self.generations.len())
    }

    /// Takes the first place from `wanted` on, round the end, that no request in flight touches; none if all are touched.
    pub(crate) fn take_free(&self, wanted: u64) -> Option<u64> {
        let count = self.busy.len();
        let free = (0..count)
            .map(|step| (wanted as usize + step) % count)
            .find(|place| self.busy.get(*place) == Some(&false))?;
        Some(free as u64)
    }

    /// A request begins.
    pub(crate) fn begin(&mut self, offset: u64, length: usize) {
        self.mark(offset, length, true);
    }

    fn mark(&mut self, offset: u64, length: usize, value: bool) {
        let places = self.places(offset, length);
        self.busy.get_mut(places).unwrap_or_default().fill(value);
    }

    /// Makes the bytes of the next write.
    pub(crate) fn fill(&self, buffer: &mut [u8], offset: u64) {
        let block = self.slice.block;
        let places = self.places(offset, buffer.len());
        for ((part, place), offset) in
            buffer.chunks_mut(block as usize).zip(places).zip((offset..).step_by(block as usize))
        {
            let last = self.generations.get(place).copied().unwrap_or(0);
            unit::write(part, offset, self.stamp, next(last));
        }
    }

    /// A write has ended: reads must meet it from now on.
    pub(crate) fn written(&mut self, offset: u64, length: usize) {
        let places = self.places(offset, length);
        for generation in self.generations.get_mut(places).unwrap_or_default() {
            *generation = next(*generation);
        }
        self.mark(offset, length, false);
    }

    /// A read has ended; says whether it met what it must. `known_only`: places that this run did not write are not looked at.
    pub(crate) fn read(&mut self, buffer: &[u8], offset: u64, known_only: bool) -> bool {
        let block = self.slice.block;
        let before = self.findings.failures;
        let places = self.places(offset, buffer.len());
        for ((part, place), offset) in buffer.chunks(block as usize).zip(places).zip((offset..).step_by(block as usize))
        {
            let expected = match self.generations.get(place) {
                Some(0) | None if known_only => continue,
                Some(0) | None => Expected::Anything,
                Some(generation) => Expected::Generation(*generation),
            };
            for (offset, found) in unit::judge_all(part, offset, self.stamp, expected) {
                self.note(offset, expected, found);
            }
        }
        self.mark(offset, buffer.len(), false);
        self.findings.failures == before
    }

    fn note(&mut self, offset: u64, expected: Expected, found: Found) {
        let findings = &mut self.findings;
        match found {
            Found::Expected => findings.checked += unit::UNIT as u64,
            Found::Unknown => findings.unknown += unit::UNIT as u64,
            _ => {
                findings.checked += unit::UNIT as u64;
                findings.failures += 1;
                if findings.told.len() < TOLD {
                    findings.told.push(tell(offset, expected, found));
                }
            }
        }
    }

    /// Whether this run wrote anything in a range.
    pub(crate) fn knows(&self, offset: u64, length: usize) -> bool {
        let places = self.places(offset, length);
        self.generations.get(places).unwrap_or_default().iter().any(|generation| *generation > 0)
    }
}

/// Generations go round after four thousand million writes of a place, past the zero that stands for none.
fn next(generation: u32) -> u32 {
    generation.checked_add(1).unwrap_or(1)
}

fn tell(offset: u64, expected: Expected, found: Found) -> String {
    let wanted = match expected {
        Expected::Generation(generation) => format!("write {generation} of this run"),
        Expected::Anything => "a whole unit".to_owned(),
    };
    let found = match found {
        Found::Damaged => "bytes that do not match their checksum".to_owned(),
        Found::Foreign => "bytes that no verified run wrote".to_owned(),
        Found::Misplaced { offset } => format!("what was written to offset {offset}"),
        Found::OtherRun => "what another run wrote".to_owned(),
        Found::Generation { found } => format!("write {found}"),
        Found::Expected | Found::Unknown => "nothing wrong".to_owned(),
    };
    format!("offset {offset}: expected {wanted}, found {found}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Ledger {
        Ledger::new(Slice { offset: 8192, places: 4, block: 4096 }, Stamp { seed: 1, run: 2 }).unwrap()
    }

    fn write(ledger: &mut Ledger, disk: &mut [u8], offset: u64, length: usize) {
        ledger.begin(offset, length);
        let at = (offset - 8192) as usize;
        ledger.fill(&mut disk[at..at + length], offset);
        ledger.written(offset, length);
    }

    #[test]
    fn reads_must_meet_the_last_write() {
        let (mut ledger, mut disk) = (ledger(), vec![0; 16_384]);
        assert!(ledger.read(&disk, 8192, true) && ledger.findings == Findings::default());
        assert!(ledger.read(&disk, 8192, false), "nothing was written");
        assert_eq!((ledger.findings.unknown, ledger.findings.checked), (16_384, 0));
        write(&mut ledger, &mut disk, 8192, 16_384);
        assert!(ledger.read(&disk, 8192, false));
        let earlier = disk.clone();
        write(&mut ledger, &mut disk, 12_288, 4096);
        assert!(ledger.read(&disk, 8192, false) && ledger.read(&disk[4096..8192], 12_288, false));
        // The last write is lost: what was there before is still there.
        assert!(!ledger.read(&earlier, 8192, false));
        assert_eq!(ledger.findings.failures, 8);
        assert!(ledger.findings.told[0].contains("offset 12288: expected write 2 of this run, found write 1"));
        disk[5000] ^= 1;
        assert!(!ledger.read(&disk[4096..8192], 12_288, false));
        assert!(ledger.findings.told[8].contains("checksum"), "{:?}", ledger.findings.told);
    }

    #[test]
    fn places_in_flight_are_left_alone() {
        let mut ledger = ledger();
        ledger.begin(8192 + 4096, 8192);
        let free: Vec<_> = (0..4).map(|wanted| ledger.take_free(wanted)).collect();
        assert_eq!(free, [Some(0), Some(3), Some(3), Some(3)]);
        ledger.begin(8192, 4096);
        ledger.begin(8192 + 12_288, 4096);
        assert_eq!(ledger.take_free(2), None);
        ledger.written(8192 + 4096, 8192);
        assert_eq!(ledger.take_free(0), Some(1));
    }

    #[test]
    fn findings_merge_and_keep_the_first() {
        let mut all = Findings::default();
        for job in 0..3u64 {
            let told = (0..10).map(|number| format!("{job} {number}")).collect();
            all.merge(&Findings { checked: 1, unknown: 2, failures: 10, told });
        }
        assert_eq!((all.checked, all.unknown, all.failures, all.told.len()), (3, 6, 30, TOLD));
        assert_eq!(all.told[15], "1 5");
    }

    #[test]
    fn too_many_places_are_refused() {
        let slice = Slice { offset: 0, places: MAX_PLACES + 1, block: 512 };
        let error = Ledger::new(slice, Stamp { seed: 1, run: 2 }).err().unwrap();
        assert!(error.to_string().contains("lower size"), "{error}");
    }
}
