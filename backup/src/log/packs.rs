//! Packs by name, kept as ranges: a session numbers its packs, so the packs of one backup are one range.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The last number that a pack's name has digits for.
const LAST: u32 = 99_999_999;

/// A name for a pack, never used again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PackName {
    pub(crate) session: String,
    pub(crate) number: u32,
}

impl PackName {
    /// The object's name.
    pub(crate) fn object(&self) -> String {
        format!("packs/{self}")
    }

    /// The pack of an object in a list.
    pub(crate) fn of_object(name: &str) -> Option<Self> {
        name.strip_prefix("packs/")?.parse().ok()
    }
}

impl fmt::Display for PackName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:08}", self.session, self.number)
    }
}

impl FromStr for PackName {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let (session, number) = text.split_once('/').ok_or(())?;
        let digits = number.len() == 8 && number.bytes().all(|b| b.is_ascii_digit());
        let number = if digits { number.parse().map_err(|_| ())? } else { return Err(()) };
        Ok(Self { session: session.to_owned(), number })
    }
}

/// Neighbouring packs of one session, with what is the same for all of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Span<T> {
    first: u32,
    last: u32,
    #[serde(flatten)]
    value: T,
}

/// Values by pack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct PackMap<T>(BTreeMap<String, Vec<Span<T>>>);

impl<T> Default for PackMap<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Clone + PartialEq> PackMap<T> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn len(&self) -> u64 {
        self.0.values().flatten().map(|span| u64::from(span.last - span.first) + 1).sum()
    }

    pub(crate) fn get(&self, pack: &PackName) -> Option<&T> {
        let spans = self.0.get(&pack.session)?;
        let span = spans.get(spans.partition_point(|span| span.last < pack.number))?;
        (span.first <= pack.number).then_some(&span.value)
    }

    pub(crate) fn contains(&self, pack: &PackName) -> bool {
        self.get(pack).is_some()
    }

    /// Sets one; neighbours with equal values become one range.
    pub(crate) fn set(&mut self, pack: &PackName, value: T) {
        self.remove(pack);
        let spans = self.0.entry(pack.session.clone()).or_default();
        let at = spans.partition_point(|span| span.last < pack.number);
        spans.insert(at, Span { first: pack.number, last: pack.number, value });
        for left in [at, at.wrapping_sub(1)] {
            let Some([a, b]) = spans.get(left..=left.wrapping_add(1)) else { continue };
            if a.last.checked_add(1) == Some(b.first) && a.value == b.value {
                spans[left].last = spans.remove(left + 1).last;
            }
        }
    }

    pub(crate) fn remove(&mut self, pack: &PackName) {
        let Some(spans) = self.0.get_mut(&pack.session) else { return };
        let at = spans.partition_point(|span| span.last < pack.number);
        let Some(span) = spans.get(at).filter(|span| span.first <= pack.number).cloned() else { return };
        let before = (span.first < pack.number).then(|| Span { last: pack.number - 1, ..span.clone() });
        let after = (span.last > pack.number).then(|| Span { first: pack.number + 1, ..span });
        drop(spans.splice(at..=at, before.into_iter().chain(after)));
        if spans.is_empty() {
            drop(self.0.remove(&pack.session));
        }
    }

    /// Changes what is said of each.
    pub(crate) fn change_all(&mut self, f: impl Fn(&mut T)) {
        for spans in self.0.values_mut() {
            spans.iter_mut().for_each(|span| f(&mut span.value));
            spans.dedup_by(|b, a| {
                let joins = a.last.checked_add(1) == Some(b.first) && a.value == b.value;
                if joins {
                    a.last = b.last;
                }
                joins
            });
        }
    }

    /// All of them, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (PackName, &T)> {
        self.0.iter().flat_map(|(session, spans)| {
            spans.iter().flat_map(move |span| {
                (span.first..=span.last).map(move |number| (PackName { session: session.clone(), number }, &span.value))
            })
        })
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = PackName> + '_ {
        self.iter().map(|(name, _)| name)
    }

    /// Whether these are not ranges that a file may hold, but no program wrote: not in order, over one another, or of no pack's numbers.
    pub(crate) fn is_sound(&self) -> bool {
        self.0.values().all(|spans| {
            let ordered = spans.windows(2).all(|pair| pair[0].last < pair[1].first);
            ordered && !spans.is_empty() && spans.iter().all(|span| span.first <= span.last && span.last <= LAST)
        })
    }
}

/// What a set of packs says of each: nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {}

/// A set of packs.
pub(crate) type Packs = PackMap<Member>;

impl Packs {
    pub(crate) fn insert(&mut self, pack: &PackName) {
        self.set(pack, Member {});
    }
}

impl FromIterator<PackName> for Packs {
    fn from_iter<I: IntoIterator<Item = PackName>>(packs: I) -> Self {
        let mut all = Self::default();
        packs.into_iter().for_each(|pack| all.insert(&pack));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(session: u8, number: u32) -> PackName {
        PackName { session: session.to_string(), number }
    }

    proptest! {
        #[test]
        fn holds_what_a_plain_map_holds(
            steps in prop::collection::vec((0..2u8, 0..30u32, prop::option::of(0..2u64)), 0..80)
        ) {
            let (mut map, mut model) = (PackMap::default(), BTreeMap::new());
            for (session, number, value) in steps {
                let name = name(session, number);
                match value {
                    Some(value) => {
                        map.set(&name, Value { value });
                        let _before = model.insert(name, value);
                    }
                    None => {
                        map.remove(&name);
                        let _before = model.remove(&name);
                    }
                }
                let found: BTreeMap<_, _> = map.iter().map(|(name, v)| (name, v.value)).collect();
                prop_assert_eq!(&found, &model);
                prop_assert!(map.is_sound());
                prop_assert_eq!(map.len(), model.len() as u64);
            }
            for number in 0..31 {
                prop_assert_eq!(map.get(&name(1, number)).map(|v| v.value), model.get(&name(1, number)).copied());
            }
            let text = serde_json::to_string(&map).unwrap();
            prop_assert_eq!(&serde_json::from_str::<PackMap<Value>>(&text).unwrap(), &map);
            map.change_all(|v| v.value = 7);
            prop_assert!(map.is_sound());
            let mut anew = PackMap::default();
            model.keys().for_each(|name| anew.set(name, Value { value: 7 }));
            prop_assert_eq!(map, anew);
        }
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Value {
        value: u64,
    }

    #[test]
    fn equal_neighbours_are_one_range() {
        let numbers = [5, 1, 2, 9, 3, 4, 2, 8, u32::MAX];
        let packs: Packs = numbers.iter().map(|n| name(7, *n)).collect();
        let text = serde_json::to_string(&packs).unwrap();
        assert_eq!(text, r#"{"7":[{"first":1,"last":5},{"first":8,"last":9},{"first":4294967295,"last":4294967295}]}"#);
    }

    #[test]
    fn a_packs_name_is_its_objects_name() {
        let name = PackName { session: "ab".to_owned(), number: 17 };
        assert_eq!(name.object(), "packs/ab/00000017");
        assert_eq!(PackName::of_object(&name.object()), Some(name));
        for wrong in ["packs/ab", "packs/ab/17", "log/ab/00000017", "packs/ab/0000001x", "packs/ab/+0000017"] {
            assert_eq!(PackName::of_object(wrong), None, "{wrong}");
        }
    }
}
