//! Records that only grow in number, as metering records. Each has the next number of its kind as its id; the oldest go when there are more than
//! are to be kept, or when they are older than is to be kept. (Audit events are kept in [`super::series`], and listed here.)
//!
//! Invariant: the numbers from `first` up to `next` are there, and no others, so counting takes no pass over them.

use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;

use super::{
    keys::Key,
    objects::listed,
    records::{Kind, Record, now_us},
    tx::Tx,
};
use crate::fault::{Answer, Fault};

/// How much is kept of each kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keep {
    /// At most so many.
    pub(crate) count: u64,
    /// At most so old, in microseconds.
    pub(crate) age_us: u64,
}

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept {
    /// Of audit events that tell of what was done; of what was refused, a quarter as many.
    pub(crate) events: Keep,
    /// Of metering records.
    pub(crate) meters: Keep,
}

impl Default for Kept {
    fn default() -> Self {
        let day = 86_400 * 1_000_000;
        Self { events: Keep { count: 100_000, age_us: 90 * day }, meters: Keep { count: 1_000_000, age_us: 400 * day } }
    }
}

/// A record of a moment.
pub(crate) trait Dated: Record {
    /// The moment by which it is listed, and grows old.
    fn moment(&self) -> u64;
}

/// A record with a number.
pub(crate) trait Numbered: Dated {
    /// Gives it its id.
    fn number(&mut self, id: String);
    /// What of this kind is kept.
    fn keep(kept: &Kept) -> Keep;
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Numbers {
    first: u64,
    pub(super) next: u64,
}

const NUMBERS: Kind = Kind { tag: "numbers", name: "Numbers" };
/// Old ones that go with each new one, so that no request pays for all of them.
const AT_ONCE: u64 = 4;

pub(super) fn numbers_key(kind: Kind) -> Vec<u8> {
    Key::new("s").with(NUMBERS.tag).with(kind.tag).bytes()
}

pub(super) fn id_of(number: u64) -> String {
    format!("{number:016x}")
}

/// The number that an id is made of.
pub(super) fn number_of(id: &str) -> Option<u64> {
    u64::from_str_radix(id, 16).ok()
}

/// Entries that lead to the numbered records about one object, newest first.
pub(super) fn about(kind: Kind, object: &str) -> Key {
    Key::new("x").with(kind.tag).with("o").with(object)
}

/// Which of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Window<'a> {
    /// Of this project; of all when left out.
    pub(crate) project: Option<&'a str>,
    /// About this object.
    pub(crate) object: Option<&'a str>,
    /// Not before this moment.
    pub(crate) from_us: Option<u64>,
    /// Only those after this place, which a page before has told.
    pub(crate) marker: Option<&'a str>,
    /// At most so many.
    pub(crate) limit: usize,
}

/// A part of the list, newest first.
pub(crate) struct Part<N> {
    pub(crate) items: Vec<N>,
    /// Where to go on; nothing: that was all.
    pub(crate) next: Option<String>,
}

/// Where a record stands in the list: also when it is gone.
fn place(moment: u64, id: &str) -> String {
    format!("{moment:016x}{id}")
}

fn placed(marker: &str) -> Answer<(u64, &str)> {
    let wrong = || Fault::bad("the marker is none that a page before has told");
    let (moment, id) = marker.split_at_checked(16).ok_or_else(wrong)?;
    Ok((u64::from_str_radix(moment, 16).map_err(|_| wrong())?, id))
}

impl Tx<'_> {
    /// Writes a record under the next number. Some that are not to be kept any longer go.
    pub(crate) fn append<N: Numbered>(&mut self, mut record: N) -> Answer<N> {
        let mut numbers = self.numbers::<N>()?;
        record.number(id_of(numbers.next));
        numbers.next += 1;
        self.put(&record)?;
        let _gone = self.drop_old::<N>(&mut numbers, AT_ONCE)?;
        self.set_value(numbers_key(N::KIND), Some(&numbers))?;
        Ok(record)
    }

    /// Takes out up to `limit` that are not to be kept any longer. Answers how many.
    pub(crate) fn expire<N: Numbered>(&mut self, limit: u64) -> Answer<u64> {
        let mut numbers = self.numbers::<N>()?;
        let gone = self.drop_old::<N>(&mut numbers, limit)?;
        if gone > 0 {
            self.set_value(numbers_key(N::KIND), Some(&numbers))?;
        }
        Ok(gone)
    }

    fn numbers<N: Numbered>(&self) -> Answer<Numbers> {
        Ok(self.value(NUMBERS, &numbers_key(N::KIND))?.unwrap_or_default())
    }

    fn drop_old<N: Numbered>(&mut self, numbers: &mut Numbers, limit: u64) -> Answer<u64> {
        let keep = N::keep(self.kept());
        let oldest = now_us().saturating_sub(keep.age_us);
        let mut gone = 0;
        while gone < limit && numbers.first < numbers.next {
            let id = id_of(numbers.first);
            let too_many = numbers.next - numbers.first > keep.count;
            if !too_many && self.get::<N>(&id)?.is_some_and(|record| record.moment() >= oldest) {
                break;
            }
            self.remove::<N>(&id)?;
            numbers.first += 1;
            gone += 1;
        }
        Ok(gone)
    }

    /// The records of a window that `fits` lets through, newest first.
    pub(crate) fn window<N: Dated>(&self, window: &Window<'_>, fits: impl Fn(&N) -> bool) -> Answer<Part<N>> {
        let range = match window.object {
            Some(object) => about(N::KIND, object),
            None => listed(N::KIND, window.project),
        };
        let after = window.marker.map(placed).transpose()?;
        let after = after.map(|(moment, id)| range.clone().newest_first(moment).with(id).bytes());
        let (mut items, mut next): (Vec<N>, _) = (Vec::new(), None);
        self.scan(&range.bytes(), after.as_deref(), |_, id| {
            let Some(record) = self.get::<N>(&String::from_utf8_lossy(id))? else {
                return Ok(ControlFlow::Continue(()));
            };
            if window.from_us.is_some_and(|from| record.moment() < from) {
                return Ok(ControlFlow::Break(()));
            }
            if fits(&record) {
                if items.len() >= window.limit {
                    next = items.last().map(|last| place(last.moment(), last.id()));
                    return Ok(ControlFlow::Break(()));
                }
                items.push(record);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(Part { items, next })
    }

    /// What is wrong with the numbers of a kind.
    pub(super) fn check_numbers<N: Numbered>(&self) -> Answer<Option<String>> {
        let numbers = self.numbers::<N>()?;
        let ids: Vec<String> = self.all::<N>()?.iter().map(|record| record.id().to_owned()).collect();
        let wanted: Vec<String> = (numbers.first..numbers.next).map(id_of).collect();
        Ok((ids != wanted).then(|| format!("{} records are not those of {numbers:?}", N::KIND.name)))
    }
}
