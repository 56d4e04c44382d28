//! Transactions: reads see what the transaction itself has written.

use rocksdb::{DB, DBRawIterator, Direction, IteratorMode};
use std::{collections::BTreeMap, iter::Peekable, ops::ControlFlow};

use super::{
    numbered::Kept,
    records::{Kind, Record, all_of, decode, encode, key_of},
};
use crate::fault::{Answer, Fault};

/// Changes by key; no value: the key goes.
pub(super) type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// What a transaction is about: for whoever tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) kind: &'static str,
    pub(crate) id: String,
    pub(crate) project: Option<String>,
}

/// A transaction, or, without changes, a view.
pub(crate) struct Tx<'a> {
    db: &'a DB,
    changes: Changes,
    kept: Kept,
    touched: Vec<Subject>,
    begun: bool,
}

impl<'a> Tx<'a> {
    pub(super) fn new(db: &'a DB, kept: Kept) -> Self {
        Self { db, changes: BTreeMap::new(), kept, touched: Vec::new(), begun: false }
    }

    pub(super) fn kept(&self) -> &Kept {
        &self.kept
    }

    /// What was changed, in order: objects that somebody acts on, not what tells of them.
    pub(crate) fn touched(&self) -> &[Subject] {
        &self.touched
    }

    /// Whether anything is changed.
    pub(crate) fn is_view(&self) -> bool {
        self.changes.is_empty()
    }

    /// It begins an operation: whoever tells of that tells when it ends.
    pub(crate) fn begins(&mut self) {
        self.begun = true;
    }

    /// Whether it begins an operation.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun
    }

    fn touch<R: Record>(&mut self, object: &R) {
        if !R::is_about_others() {
            let (id, project) = (object.id().to_owned(), object.owner().map(str::to_owned));
            self.touched.push(Subject { kind: R::KIND.tag, id, project });
        }
    }

    /// What is changed is this, though it is no object.
    pub(super) fn touch_quota(&mut self, project: &str) {
        let (id, project) = (project.to_owned(), Some(project.to_owned()));
        self.touched.push(Subject { kind: "quota", id, project });
    }

    pub(super) fn into_changes(self) -> Changes {
        self.changes
    }

    // ---- objects ----

    /// An object, if it is there.
    pub(crate) fn get<R: Record>(&self, id: &str) -> Answer<Option<R>> {
        self.raw(&key_of(R::KIND, id))?.map(|bytes| decode(R::KIND.name, &bytes)).transpose()
    }

    /// An object.
    pub(crate) fn require<R: Record>(&self, id: &str) -> Answer<R> {
        self.get(id)?.ok_or_else(|| Fault::missing(R::KIND.name, id))
    }

    /// Writes an object, with what leads to it.
    pub(crate) fn put<R: Record>(&mut self, object: &R) -> Answer<()> {
        let old = self.get::<R>(object.id())?;
        self.meter(old.as_ref().and_then(R::holding), object.holding())?;
        self.touch(object);
        let (before, after) = (old.map(|old| old.entries()).unwrap_or_default(), object.entries());
        for gone in before.iter().filter(|entry| !after.contains(entry)) {
            self.set_raw(gone.clone(), None);
        }
        for new in after.into_iter().filter(|entry| !before.contains(entry)) {
            self.set_raw(new, Some(object.id().as_bytes().to_vec()));
        }
        self.set_raw(key_of(R::KIND, object.id()), Some(encode(object)?));
        Ok(())
    }

    /// Takes an object out, with what leads to it.
    pub(crate) fn remove<R: Record>(&mut self, id: &str) -> Answer<()> {
        let Some(old) = self.get::<R>(id)? else { return Ok(()) };
        self.meter(old.holding(), None)?;
        self.touch(&old);
        old.entries().into_iter().for_each(|entry| self.set_raw(entry, None));
        self.set_raw(key_of(R::KIND, id), None);
        Ok(())
    }

    /// All objects of a kind, by id.
    pub(crate) fn all<R: Record>(&self) -> Answer<Vec<R>> {
        let mut found = Vec::new();
        self.scan(&all_of(R::KIND), None, |_, value| {
            found.push(decode(R::KIND.name, value)?);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(found)
    }

    /// Ids that the entries with this beginning lead to, in the order of the entries.
    pub(crate) fn ids(&self, prefix: &[u8]) -> Answer<Vec<String>> {
        let mut found = Vec::new();
        self.scan(prefix, None, |_, value| {
            found.push(String::from_utf8_lossy(value).into_owned());
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(found)
    }

    /// The same, but at most so many of them.
    pub(crate) fn first_ids(&self, prefix: &[u8], most: usize) -> Answer<Vec<String>> {
        let mut found = Vec::new();
        self.scan(prefix, None, |_, value| {
            if found.len() >= most {
                return Ok(ControlFlow::Break(()));
            }
            found.push(String::from_utf8_lossy(value).into_owned());
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(found)
    }

    /// Objects that the entries with this beginning lead to, in the order of the entries.
    pub(crate) fn found<R: Record>(&self, prefix: &[u8]) -> Answer<Vec<R>> {
        let ids = self.ids(prefix)?;
        let mut found: Vec<Option<R>> = ids.iter().map(|_| None).collect();
        self.each_of(&ids, |place, object| {
            if let Some(slot) = found.get_mut(place) {
                *slot = Some(object);
            }
        })?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Calls `each` with those of these objects that are there, and with their places among the ids, in any order. It is one pass from the first to the
    /// last: where one of them follows the other, as most objects of a large project do, it costs a fraction of asking for each.
    pub(super) fn each_of<R: Record>(&self, ids: &[String], mut each: impl FnMut(usize, R)) -> Answer<()> {
        if !self.changes.is_empty() {
            for (place, id) in ids.iter().enumerate() {
                if let Some(object) = self.get(id)? {
                    each(place, object);
                }
            }
            return Ok(());
        }
        let mut keys: Vec<_> = ids.iter().enumerate().map(|(place, id)| (key_of(R::KIND, id), place)).collect();
        keys.sort_unstable();
        let mut stored = self.db.raw_iterator();
        let is_before = |stored: &DBRawIterator<'_>, key: &[u8]| stored.key().is_none_or(|at| at < key);
        for (key, place) in keys {
            // It stands where an earlier key is, or would be: nothing lies between that place and the next one.
            if stored.valid() && is_before(&stored, &key) {
                stored.next();
            }
            if is_before(&stored, &key) {
                stored.seek(&key);
            }
            if let (Some(at), Some(value)) = (stored.key(), stored.value())
                && at == key
            {
                each(place, decode(R::KIND.name, value)?);
            }
        }
        Ok(stored.status()?)
    }

    /// Whether any entry begins so.
    pub(crate) fn any(&self, prefix: &[u8]) -> Answer<bool> {
        let mut any = false;
        self.scan(prefix, None, |_, _| {
            any = true;
            Ok(ControlFlow::Break(()))
        })?;
        Ok(any)
    }

    // ---- plain keys ----

    pub(super) fn value<T: serde::de::DeserializeOwned>(&self, kind: Kind, key: &[u8]) -> Answer<Option<T>> {
        self.raw(key)?.map(|bytes| decode(kind.name, &bytes)).transpose()
    }

    pub(super) fn set_value<T: serde::Serialize>(&mut self, key: Vec<u8>, value: Option<&T>) -> Answer<()> {
        let value = value.map(encode).transpose()?;
        self.set_raw(key, value);
        Ok(())
    }

    fn raw(&self, key: &[u8]) -> Answer<Option<Vec<u8>>> {
        match self.changes.get(key) {
            Some(value) => Ok(value.clone()),
            None => Ok(self.db.get(key)?),
        }
    }

    pub(super) fn set_raw(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        drop(self.changes.insert(key, value));
    }

    /// Calls `each` with every key that begins so, from `after` on (itself left out), in order, until it breaks.
    pub(super) fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        mut each: impl FnMut(&[u8], &[u8]) -> Answer<ControlFlow<()>>,
    ) -> Answer<()> {
        let first = after.unwrap_or(prefix);
        let is_wanted = |key: &[u8]| key.starts_with(prefix) && after.is_none_or(|after| key > after);
        let stored = self.db.iterator(IteratorMode::From(first, Direction::Forward));
        let mut stored =
            stored.take_while(|item| item.as_ref().map_or(true, |(key, _)| key.starts_with(prefix))).peekable();
        let mut changed =
            self.changes.range(first.to_vec()..).take_while(|(key, _)| key.starts_with(prefix)).peekable();
        loop {
            let next = match (peek_key(&mut stored)?, changed.peek()) {
                (None, None) => return Ok(()),
                (Some(key), Some((other, _))) if key.as_slice() < other.as_slice() => Next::Stored,
                (Some(key), Some((other, _))) if key == **other => {
                    drop(stored.next());
                    Next::Changed
                }
                (Some(_), None) => Next::Stored,
                _ => Next::Changed,
            };
            let flow = match next {
                Next::Stored => match stored.next().transpose()? {
                    Some((key, value)) if is_wanted(&key) => each(&key, &value)?,
                    _ => ControlFlow::Continue(()),
                },
                Next::Changed => match changed.next() {
                    Some((key, Some(value))) if is_wanted(key) => each(key, value)?,
                    _ => ControlFlow::Continue(()),
                },
            };
            if flow.is_break() {
                return Ok(());
            }
        }
    }
}

enum Next {
    Stored,
    Changed,
}

type Pair = (Box<[u8]>, Box<[u8]>);

fn peek_key(stored: &mut Peekable<impl Iterator<Item = Result<Pair, rocksdb::Error>>>) -> Answer<Option<Vec<u8>>> {
    match stored.peek() {
        None => Ok(None),
        Some(Ok((key, _))) => Ok(Some(key.to_vec())),
        Some(Err(error)) => Err(error.clone().into()),
    }
}
