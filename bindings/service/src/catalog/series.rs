//! Audit events in series: of each project one of what was done, and one of what was refused before anything was begun.
//!
//! Invariants:
//! - All that was done has a bound, and all that was refused has another. When there are too many, the longest series of that kind loses its
//!   oldest. So whoever is refused over and over takes nothing away of what was done, nor of what others were refused; and a project that
//!   does very much loses its own past first.
//! - The counts of the series are those of their events, and the totals those of the series.

use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BinaryHeap},
    ops::ControlFlow,
};

use super::{
    events::{Class, Event},
    keys::Key,
    numbered::{Kept, Numbers, id_of, number_of, numbers_key},
    records::{Kind, Record, decode, now_us},
    tx::Tx,
};
use crate::fault::Answer;

/// A series that has events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Series {
    project: String,
    count: u64,
    /// The last one that has gone: those that are there are after it, and nobody looks for them among what was deleted.
    gone: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Totals {
    /// The number of the next event.
    next: u64,
    done: u64,
    refused: u64,
}

impl Totals {
    fn of(&mut self, class: Class) -> &mut u64 {
        match class {
            Class::Done => &mut self.done,
            Class::Refused => &mut self.refused,
        }
    }

    fn less(&mut self, class: Class, gone: u64) {
        let total = self.of(class);
        *total = total.saturating_sub(gone);
    }
}

const SERIES: Kind = Kind { tag: "event-series", name: "Series of events" };
const TOTALS: Kind = Kind { tag: "event-totals", name: "Totals of events" };
/// Old ones of a series that go with each new one of it, so that no request pays for all of them.
const AT_ONCE: u64 = 4;
/// So many more than are to be kept there may be, so that the longest series is not looked for each time.
const SLACK: u64 = 64;
/// At most so many go at once because they are too many.
const MOST_AT_ONCE: u64 = 2 * SLACK;

fn all_series(class: Class) -> Key {
    Key::new("s").with(SERIES.tag).with(class.tag())
}

fn series_key(class: Class, project: &str) -> Vec<u8> {
    all_series(class).with(project).bytes()
}

fn totals_key() -> Vec<u8> {
    Key::new("s").with(TOTALS.tag).bytes()
}

/// How many of a class are kept.
fn most(class: Class, kept: &Kept) -> u64 {
    match class {
        Class::Done => kept.events.count,
        Class::Refused => (kept.events.count / 4).max(1),
    }
}

impl Tx<'_> {
    /// Writes an event under the next number. Some that are not to be kept any longer go.
    pub(crate) fn append_event(&mut self, mut event: Event) -> Answer<Event> {
        let mut totals = self.totals()?;
        let class = event.class();
        event.id = id_of(totals.next);
        totals.next += 1;
        self.put(&event)?;
        let mut series = self.series(class, &event.project)?;
        series.count += 1;
        *totals.of(class) += 1;
        self.set_value(series_key(class, &event.project), Some(&series))?;
        let oldest = self.oldest_kept();
        let gone = self.shorten(class, &event.project, AT_ONCE, |event| event.created_us < oldest)?;
        totals.less(class, gone);
        let _gone = self.make_room(class, &mut totals)?;
        self.set_value(totals_key(), Some(&totals))?;
        Ok(event)
    }

    /// Takes out up to some `limit` of events that are not to be kept any longer. Answers how many.
    pub(crate) fn expire_events(&mut self, limit: u64) -> Answer<u64> {
        let (mut totals, oldest, mut all) = (self.totals()?, self.oldest_kept(), 0);
        for class in Class::ALL {
            for series in self.all_of_class(class)? {
                let left = limit.saturating_sub(all);
                let gone = self.shorten(class, &series.project, left, |event| event.created_us < oldest)?;
                totals.less(class, gone);
                all += gone;
            }
            all += self.make_room(class, &mut totals)?;
        }
        if all > 0 {
            self.set_value(totals_key(), Some(&totals))?;
        }
        Ok(all)
    }

    /// Puts events that an earlier version has written into their series. There may be series already: such a version came after this one.
    pub(super) fn adopt_events(&mut self) -> Answer<()> {
        let numbers = numbers_key(Event::KIND);
        let Some(Numbers { next, .. }) = self.value(TOTALS, &numbers)? else { return Ok(()) };
        for range in [Event::all_series().bytes(), Key::new("s").with(SERIES.tag).bytes()] {
            let mut known = Vec::new();
            self.scan(&range, None, |key, _| {
                known.push(key.to_vec());
                Ok(ControlFlow::Continue(()))
            })?;
            known.into_iter().for_each(|key| self.set_raw(key, None));
        }
        // It may have counted from the beginning.
        let mut totals = Totals { next: next.max(self.totals()?.next), ..Totals::default() };
        let mut counts: BTreeMap<(Class, String), u64> = BTreeMap::new();
        for event in self.all::<Event>()? {
            totals.next = totals.next.max(number_of(&event.id).map_or(0, |number| number.saturating_add(1)));
            let class = event.class();
            self.set_raw(event.in_series(), Some(event.id.clone().into_bytes()));
            *totals.of(class) += 1;
            *counts.entry((class, event.project)).or_default() += 1;
        }
        for ((class, project), count) in counts {
            let series = Series { project, count, gone: None };
            self.set_value(series_key(class, &series.project), Some(&series))?;
        }
        self.set_value(totals_key(), Some(&totals))?;
        self.set_raw(numbers, None);
        Ok(())
    }

    fn totals(&self) -> Answer<Totals> {
        Ok(self.value(TOTALS, &totals_key())?.unwrap_or_default())
    }

    fn series(&self, class: Class, project: &str) -> Answer<Series> {
        let found = self.value(SERIES, &series_key(class, project))?;
        Ok(found.unwrap_or_else(|| Series { project: project.to_owned(), count: 0, gone: None }))
    }

    fn all_of_class(&self, class: Class) -> Answer<Vec<Series>> {
        let mut all = Vec::new();
        self.scan(&all_series(class).bytes(), None, |_, value| {
            all.push(decode::<Series>(SERIES.name, value)?);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(all)
    }

    /// Events of before this moment are not kept.
    fn oldest_kept(&self) -> u64 {
        now_us().saturating_sub(self.kept().events.age_us)
    }

    /// Takes the oldest out of a series, up to `limit`, while `goes` says so. Answers how many.
    fn shorten(&mut self, class: Class, project: &str, limit: u64, goes: impl Fn(&Event) -> bool) -> Answer<u64> {
        let mut series = self.series(class, project)?;
        let range = Event::series(class, project);
        let after = series.gone.as_ref().map(|id| range.clone().with(id).bytes());
        let mut ids = Vec::new();
        self.scan(&range.bytes(), after.as_deref(), |_, id| {
            if ids.len() as u64 >= limit {
                return Ok(ControlFlow::Break(()));
            }
            ids.push(String::from_utf8_lossy(id).into_owned());
            Ok(ControlFlow::Continue(()))
        })?;
        let mut gone = 0;
        for id in ids {
            if self.get::<Event>(&id)?.is_some_and(|event| !goes(&event)) {
                break;
            }
            self.remove::<Event>(&id)?;
            series.gone = Some(id);
            gone += 1;
        }
        if gone > 0 {
            series.count = series.count.saturating_sub(gone);
            self.set_value(series_key(class, project), Some(&series).filter(|series| series.count > 0))?;
        }
        Ok(gone)
    }

    /// When a class has too many, its longest series lose their oldest. Answers how many went.
    fn make_room(&mut self, class: Class, totals: &mut Totals) -> Answer<u64> {
        let most = most(class, self.kept());
        let excess = totals.of(class).saturating_sub(most);
        if excess <= SLACK.min(most / 16) {
            return Ok(0);
        }
        let all = self.all_of_class(class)?;
        // Each time from the one that is the longest then.
        let mut by_length: BinaryHeap<(u64, usize)> = all.iter().map(|series| series.count).zip(0..).collect();
        let mut less = vec![0; all.len()];
        for _ in 0..excess.min(MOST_AT_ONCE) {
            let Some(mut longest) = by_length.peek_mut() else { break };
            longest.0 = longest.0.saturating_sub(1);
            less.get_mut(longest.1).into_iter().for_each(|less: &mut u64| *less += 1);
        }
        let mut gone = 0;
        for (series, less) in all.iter().zip(less).filter(|(_, less)| *less > 0) {
            gone += self.shorten(class, &series.project, less, |_| true)?;
        }
        totals.less(class, gone);
        Ok(gone)
    }

    /// What is wrong with the counts of events.
    pub(super) fn check_events(&self) -> Answer<Vec<String>> {
        let (mut counts, mut last): (BTreeMap<(Class, String), u64>, _) = (BTreeMap::new(), None);
        for event in self.all::<Event>()? {
            *counts.entry((event.class(), event.project)).or_default() += 1;
            last = Some(event.id);
        }
        let mut totals = self.totals()?;
        let mut problems = Vec::new();
        for class in Class::ALL {
            let is: BTreeMap<String, u64> =
                self.all_of_class(class)?.into_iter().map(|series| (series.project, series.count)).collect();
            let of_class = counts.iter().filter(|((of, _), _)| *of == class);
            let should: BTreeMap<String, u64> =
                of_class.map(|((_, project), count)| (project.clone(), *count)).collect();
            let sum: u64 = should.values().sum();
            if is != should || *totals.of(class) != sum {
                problems.push(format!("events {class:?}: {is:?}, {totals:?}, should be {should:?}, {sum}"));
            }
        }
        if last.as_ref().is_some_and(|last| *last >= id_of(totals.next)) {
            problems.push(format!("event {last:?} is not before the next one of {totals:?}"));
        }
        Ok(problems)
    }
}
