//! Pages of lists: in the order of the index when nothing else is asked for, so that a page costs what it shows.

use std::{cmp::Ordering, ops::ControlFlow};

use super::{objects::listed, records::Record, tx::Tx};
use crate::fault::{Answer, Fault};

/// An order of objects.
pub(crate) type Order<'a, R> = &'a dyn Fn(&R, &R) -> Ordering;

/// Which part of a list.
pub(crate) struct Paging<'a, R> {
    /// Of this project; of all when left out.
    pub(crate) project: Option<&'a str>,
    /// At most so many.
    pub(crate) limit: usize,
    /// So many of those that fit are passed over first.
    pub(crate) offset: usize,
    /// Only those after the object with this id.
    pub(crate) marker: Option<&'a str>,
    /// Another order than newest first.
    pub(crate) order: Option<Order<'a, R>>,
    /// Also how many fit in all.
    pub(crate) count: bool,
}

/// A part of a list.
pub(crate) struct Page<R> {
    /// The objects.
    pub(crate) items: Vec<R>,
    /// Whether there are more after them.
    pub(crate) more: bool,
    /// How many fit in all, when that was asked for.
    pub(crate) total: Option<usize>,
}

impl Tx<'_> {
    /// A page of the objects that `fits` lets through.
    pub(crate) fn page<R: Record>(&self, paging: &Paging<'_, R>, fits: impl Fn(&R) -> bool) -> Answer<Page<R>> {
        let marker = paging.marker.map(|id| self.get::<R>(id)).transpose()?;
        if let (Some(None), Some(id)) = (&marker, paging.marker) {
            return Err(Fault::missing(R::KIND.name, id));
        }
        let prefix = listed(R::KIND, paging.project).bytes();
        if let Some(order) = paging.order {
            return self.sorted_page(paging, order, marker.flatten().as_ref(), &prefix, fits);
        }
        let total = match paging.count {
            true => Some(self.count_fitting(&prefix, &fits)?),
            false => None,
        };
        let after =
            marker.flatten().and_then(|object| object.entries().into_iter().find(|entry| entry.starts_with(&prefix)));
        let (mut items, mut passed, mut more) = (Vec::new(), 0, false);
        self.scan(&prefix, after.as_deref(), |_, id| {
            let Some(object) = self.get::<R>(&String::from_utf8_lossy(id))? else {
                return Ok(ControlFlow::Continue(()));
            };
            if !fits(&object) {
                return Ok(ControlFlow::Continue(()));
            }
            if passed < paging.offset {
                passed += 1;
                return Ok(ControlFlow::Continue(()));
            }
            if items.len() >= paging.limit {
                more = true;
                return Ok(ControlFlow::Break(()));
            }
            items.push(object);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(Page { items, more, total })
    }

    /// Hands out the objects of a list, of a project or of all, newest first, until `take` breaks: those that come after a moment and an id,
    /// whether they are of the list or not.
    pub(crate) fn walk<R: Record>(
        &self,
        project: Option<&str>,
        after: Option<(u64, &str)>,
        mut take: impl FnMut(R) -> ControlFlow<()>,
    ) -> Answer<()> {
        let list = listed(R::KIND, project);
        let after = after.map(|(moment, id)| list.clone().newest_first(moment).with(id).bytes());
        self.scan(&list.bytes(), after.as_deref(), |_, id| match self.get::<R>(&String::from_utf8_lossy(id))? {
            Some(object) => Ok(take(object)),
            None => Ok(ControlFlow::Continue(())),
        })
    }

    fn count_fitting<R: Record>(&self, prefix: &[u8], fits: &impl Fn(&R) -> bool) -> Answer<usize> {
        let mut total = 0;
        self.each_of(&self.ids(prefix)?, |_, object| total += usize::from(fits(&object)))?;
        Ok(total)
    }

    fn sorted_page<R: Record>(
        &self,
        paging: &Paging<'_, R>,
        order: Order<'_, R>,
        marker: Option<&R>,
        prefix: &[u8],
        fits: impl Fn(&R) -> bool,
    ) -> Answer<Page<R>> {
        let order = |a: &R, b: &R| order(a, b).then_with(|| a.id().cmp(b.id()));
        let mut all: Vec<R> = self.found::<R>(prefix)?.into_iter().filter(|object| fits(object)).collect();
        all.sort_by(order);
        let total = paging.count.then_some(all.len());
        // By its place, since it may not be among them any more: its state has changed.
        let first = marker.map_or(0, |marker| all.partition_point(|object| order(object, marker).is_le()));
        let from = first.saturating_add(paging.offset).min(all.len());
        let mut items = all.split_off(from);
        let more = items.len() > paging.limit;
        items.truncate(paging.limit);
        Ok(Page { items, more, total })
    }
}
