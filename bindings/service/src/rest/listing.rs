//! Lists: which part, in which order, of whom; and the link to the next part.

use serde::Serialize;
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};
use std::{cmp::Ordering, collections::BTreeMap, io};

use super::{
    context::Context,
    filters::{self, Filter},
    input::Flag,
};
use crate::{
    block::Block,
    catalog::{Page, Paging, Record},
    domain::Microversion,
    fault::{Answer, Fault},
    priority::let_others,
};

/// Most objects of one page.
const MAX_LIMIT: usize = 1000;
/// Most bytes of a page's objects as they are sent, so that nobody keeps much memory by taking an answer slowly. One that alone has more is
/// sent all the same. A thousand volumes without metadata have some 1.5 MiB.
const MOST_BYTES: usize = 4 << 20;

/// What a list's query says of paging; the rest are filters.
pub(super) struct Listing {
    query: BTreeMap<String, String>,
    filters: BTreeMap<String, String>,
    /// The project whose objects are wanted.
    named: Option<String>,
    version: Microversion,
    limit: usize,
    offset: usize,
    marker: Option<String>,
    sort: Vec<(String, bool)>,
    everybody: bool,
    count: bool,
}

/// A page of a list as it is sent.
pub(super) type Collection = BTreeMap<String, Part>;

/// What stands in it under one name.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Part {
    Objects(Vec<Box<RawValue>>),
    Other(Value),
}

/// What an object can be sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sortable<'a> {
    /// Numbers and moments.
    Number(u64),
    /// Texts.
    Text(&'a str),
}

impl<'a> Sortable<'a> {
    pub(super) fn text(text: &'a str) -> Option<Self> {
        Some(Self::Text(text))
    }
}

/// An object that is listed.
pub(super) trait Listed: Record + 'static {
    /// What its lists can be narrowed by.
    const FILTERS: &'static [Filter<Self>];

    /// What it can be sorted by under this name.
    fn sortable(&self, key: &str) -> Option<Sortable<'_>>;
}

fn number(query: &BTreeMap<String, String>, key: &str) -> Answer<Option<usize>> {
    let wrong = |text: &String| Fault::bad(format!("{key} is {text:?}: a number, not below zero"));
    query.get(key).map(|text| text.parse::<usize>().map_err(|_| wrong(text))).transpose()
}

impl Listing {
    pub(super) fn of(context: &Context, query: BTreeMap<String, String>) -> Answer<Self> {
        // The last is what groups are shown with.
        const PAGING: [&str; 9] =
            ["limit", "offset", "marker", "sort", "sort_key", "sort_dir", "all_tenants", "with_count", "list_volume"];
        let flag = |key: &str| query.get(key).and_then(|text| Flag::parse(text)).is_some_and(|flag| flag.0);
        let filters = query.iter().filter(|(key, _)| !PAGING.contains(&key.as_str()));
        let mut filters: BTreeMap<String, String> = filters.map(|(key, value)| (key.clone(), value.clone())).collect();
        // The older word.
        if let Some(name) = filters.remove("display_name") {
            let _named = filters.entry("name".to_owned()).or_insert(name);
        }
        let (project, tenant) = (filters.remove("project_id"), filters.remove("tenant_id"));
        Ok(Self {
            // Others' projects are there for administrators alone, too.
            named: project.or(tenant).filter(|_| context.caller.is_admin()),
            filters,
            version: context.version,
            limit: number(&query, "limit")?.unwrap_or(MAX_LIMIT).min(MAX_LIMIT),
            offset: number(&query, "offset")?.unwrap_or(0),
            marker: query.get("marker").cloned(),
            sort: sort(&query)?,
            // Others' objects are there for administrators alone; for all others the word means nothing.
            everybody: flag("all_tenants") && context.caller.is_admin(),
            count: flag("with_count") && context.version.has(45),
            query,
        })
    }

    /// The page of what the filters let through, in the wanted order.
    pub(super) fn page<R: Listed>(&self, block: &Block, context: &Context) -> Answer<Page<R>> {
        let tests = filters::asked::<R>(&self.filters, self.version, &block.settings().zone)?;
        let by = |a: &R, b: &R| {
            let_others();
            let orders = self.sort.iter().map(|(key, descending)| {
                let order = a.sortable(key).cmp(&b.sortable(key));
                if *descending { order.reverse() } else { order }
            });
            first_that_differs(orders)
        };
        let is_usual = matches!(self.sort.as_slice(), [(key, true)] if key == "created_at");
        let own = context.caller.project.as_str();
        let is_elsewhere = !self.everybody && self.named.as_ref().is_some_and(|named| named != own);
        let paging = Paging {
            project: if self.everybody { self.named.as_deref() } else { Some(own) },
            limit: self.limit,
            offset: self.offset,
            marker: self.marker.as_deref(),
            order: if is_usual { None } else { Some(&by) },
            count: self.count,
        };
        block.catalog().read().page(&paging, |object| !is_elsewhere && tests.iter().all(|test| test(object)))
    }

    /// The answer: the objects under the collection's name, a link to the next page, and how many there are in all. `items` are those of the
    /// page, one for each; what is more than an answer may have comes with the next page.
    pub(super) fn answer<R: Record>(
        &self,
        context: &Context,
        name: &str,
        page: &Page<R>,
        items: Vec<Value>,
    ) -> Answer<Collection> {
        let mut body = Collection::new();
        let all = items.len();
        let items = that_fit(items, MOST_BYTES)?;
        let fit = items.len();
        let more = page.more || fit < all;
        drop(body.insert(name.to_owned(), Part::Objects(items)));
        let last = fit.checked_sub(1).and_then(|last| page.items.get(last));
        if let (true, Some(last)) = (more && self.limit > 0, last) {
            let mut query: BTreeMap<&str, &str> =
                self.query.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
            let _old = query.remove("offset");
            let _old = query.insert("marker", last.id());
            let query = serde_urlencoded::to_string(query).unwrap_or_default();
            let href = format!("{}{}?{query}", context.url, context.path);
            drop(body.insert(format!("{name}_links"), Part::Other(json!([{"rel": "next", "href": href}]))));
        }
        if let Some(total) = page.total {
            drop(body.insert("count".to_owned(), Part::Other(json!(total))));
        }
        Ok(body)
    }
}

/// The order by several keys. Those behind the first one that differs are not looked at.
pub(super) fn first_that_differs(mut orders: impl Iterator<Item = Ordering>) -> Ordering {
    orders.find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

/// How many bytes a value has as it is sent.
pub(super) fn bytes_of(value: &Value) -> usize {
    struct Count(usize);

    impl io::Write for Count {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            self.0 += data.len();
            Ok(data.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let mut count = Count(0);
    // Counting cannot fail.
    let _done = serde_json::to_writer(&mut count, value);
    count.0
}

/// Those of the first ones that have so many bytes at most together, as they are sent; at least one. Made one by one, so that others can go on
/// between them.
fn that_fit(items: Vec<Value>, most: usize) -> Answer<Vec<Box<RawValue>>> {
    let (mut bytes, mut fit) = (0_usize, Vec::with_capacity(items.len()));
    for item in items {
        let_others();
        let item = to_raw_value(&item).map_err(|e| Fault::internal(format!("an object has no form: {e}")))?;
        bytes = bytes.saturating_add(item.get().len());
        if bytes > most && !fit.is_empty() {
            break;
        }
        fit.push(item);
    }
    Ok(fit)
}

/// Refuses a key that is there already: all of them are looked at for each pair of objects.
pub(super) fn once(is_there: bool, key: &str) -> Answer<()> {
    match is_there {
        true => Err(Fault::bad(format!("{key:?} is named twice as a key to sort by: name it once"))),
        false => Ok(()),
    }
}

/// What lists can be sorted by.
const KEYS: [&str; 11] = [
    "id",
    "name",
    "display_name",
    "status",
    "size",
    "created_at",
    "updated_at",
    "bootable",
    "availability_zone",
    "host",
    "volume_id",
];

/// `sort=name:asc,size:desc`, or the older pair.
fn sort(query: &BTreeMap<String, String>) -> Answer<Vec<(String, bool)>> {
    let direction = |text: &str| match text {
        "asc" => Ok(false),
        "desc" | "" => Ok(true),
        other => Err(Fault::bad(format!("the direction of a sort is asc or desc, not {other:?}"))),
    };
    let mut found: Vec<(String, bool)> = Vec::new();
    let mut add = |key: &str, way: &str| {
        if !KEYS.contains(&key) {
            return Err(Fault::bad(format!("{key:?} is not a key to sort by")));
        }
        once(found.iter().any(|(other, _)| other == key), key)?;
        found.push((key.to_owned(), direction(way)?));
        Ok(())
    };
    if let Some(text) = query.get("sort") {
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (key, way) = part.split_once(':').unwrap_or((part, ""));
            add(key.trim(), way.trim())?;
        }
    } else if let Some(key) = query.get("sort_key") {
        add(key, query.get("sort_dir").map_or("", String::as_str))?;
    }
    if found.is_empty() {
        found.push(("created_at".to_owned(), true));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::FaultKind;

    #[test]
    fn orders_are_named_in_two_ways() {
        let of = |pairs: &[(&str, &str)]| {
            sort(&pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
        };
        assert_eq!(of(&[]).unwrap(), [("created_at".to_owned(), true)]);
        assert_eq!(of(&[("sort", "name:asc,size")]).unwrap(), [("name".to_owned(), false), ("size".to_owned(), true)]);
        assert_eq!(of(&[("sort_key", "id"), ("sort_dir", "asc")]).unwrap(), [("id".to_owned(), false)]);
        assert!(of(&[("sort", "name:up")]).is_err() && of(&[("sort", "shoe_size")]).is_err());
        // Each key once, so that there are no more than objects have.
        for twice in ["id,id", "id:asc, id:desc", "name,size,id,name"] {
            let fault = of(&[("sort", twice)]).unwrap_err();
            assert!(fault.kind == FaultKind::BadRequest && fault.message.contains("twice"), "{twice}: {fault}");
        }
        let many = "id,".repeat(20_000);
        assert!(of(&[("sort", &many)]).unwrap_err().message.len() < 100);
    }

    #[test]
    fn what_comes_behind_a_difference_is_not_looked_at() {
        let mut seen = 0;
        let orders = [Ordering::Equal, Ordering::Less, Ordering::Greater].into_iter().inspect(|_| seen += 1);
        assert_eq!((first_that_differs(orders), seen), (Ordering::Less, 2));
        assert_eq!(first_that_differs(std::iter::empty()), Ordering::Equal);
    }

    #[test]
    fn a_page_has_so_many_bytes_and_something() {
        let item = json!({"name": "\n\"é"});
        let one = item.to_string().len();
        assert_eq!(bytes_of(&item), one);
        let items = vec![item.clone(); 5];
        let fit = |most: usize| that_fit(items.clone(), most).unwrap().len();
        assert_eq!((fit(5 * one), fit(5 * one - 1), fit(2 * one), fit(0)), (5, 4, 2, 1));
        assert!(that_fit(Vec::new(), 0).unwrap().is_empty());
        let sent = Collection::from([("n".to_owned(), Part::Objects(that_fit(vec![item.clone()], one).unwrap()))]);
        assert_eq!(serde_json::to_value(&sent).unwrap(), json!({"n": [item]}));
    }
}
