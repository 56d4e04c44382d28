//! Lists: which part, in which order, of whom; and the link to the next part.

use serde_json::{Value, json};
use std::{cmp::Ordering, collections::BTreeMap};

use super::{context::Context, input::Flag};
use crate::{
    block::Block,
    catalog::{Page, Paging, Record},
    fault::{Answer, Fault},
};

/// Most objects of one page.
const MAX_LIMIT: usize = 1000;

/// What a list's query says of paging; the rest are filters.
pub(super) struct Listing {
    query: BTreeMap<String, String>,
    filters: BTreeMap<String, String>,
    limit: usize,
    offset: usize,
    marker: Option<String>,
    sort: Vec<(String, bool)>,
    everybody: bool,
    count: bool,
}

/// What an object can be sorted by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sortable {
    /// Numbers and moments.
    Number(u64),
    /// Texts.
    Text(String),
}

/// An object that is listed.
pub(super) trait Listed: Record {
    /// What it can be sorted by under this name.
    fn sortable(&self, key: &str) -> Option<Sortable>;
}

fn number(query: &BTreeMap<String, String>, key: &str) -> Answer<Option<usize>> {
    let wrong = |text: &String| Fault::bad(format!("{key} is {text:?}: a number, not below zero"));
    query.get(key).map(|text| text.parse::<usize>().map_err(|_| wrong(text))).transpose()
}

impl Listing {
    pub(super) fn of(context: &Context, query: BTreeMap<String, String>) -> Answer<Self> {
        const PAGING: [&str; 8] =
            ["limit", "offset", "marker", "sort", "sort_key", "sort_dir", "all_tenants", "with_count"];
        let flag = |key: &str| query.get(key).and_then(|text| Flag::parse(text)).is_some_and(|flag| flag.0);
        let filters = query.iter().filter(|(key, _)| !PAGING.contains(&key.as_str()));
        Ok(Self {
            filters: filters.map(|(key, value)| (key.clone(), value.clone())).collect(),
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

    /// A filter's value.
    pub(super) fn filter(&self, key: &str) -> Option<&str> {
        self.filters.get(key).map(String::as_str)
    }

    /// Whether a filter, if given, is this value.
    pub(super) fn is(&self, key: &str, value: &str) -> bool {
        self.filter(key).is_none_or(|wanted| wanted == value)
    }

    /// Whether a filter, if given, is this value, if there is one.
    pub(super) fn is_maybe(&self, key: &str, value: Option<&str>) -> bool {
        self.filter(key).is_none_or(|wanted| Some(wanted) == value)
    }

    /// By name: exactly, or, with `~`, in part.
    pub(super) fn is_named(&self, name: Option<&str>) -> bool {
        let name = name.unwrap_or_default();
        self.is("name", name)
            && self.is("display_name", name)
            && self.filter("name~").is_none_or(|part| name.contains(part))
    }

    /// By metadata: all of the pairs of a dictionary, written as JSON or as Python writes it.
    pub(super) fn has_metadata(&self, metadata: &BTreeMap<String, String>) -> Answer<bool> {
        let Some(text) = self.filter("metadata") else { return Ok(true) };
        let parsed = serde_json::from_str(text).or_else(|_| serde_json::from_str(&text.replace('\'', "\"")));
        let wanted: BTreeMap<String, String> =
            parsed.map_err(|_| Fault::bad("the filter metadata has to be a dictionary of texts"))?;
        Ok(wanted.iter().all(|(key, value)| metadata.get(key) == Some(value)))
    }

    /// The page, in the wanted order.
    pub(super) fn page<R: Listed>(
        &self,
        block: &Block,
        context: &Context,
        fits: impl Fn(&R) -> bool,
    ) -> Answer<Page<R>> {
        let by = |a: &R, b: &R| {
            self.sort.iter().fold(Ordering::Equal, |order, (key, descending)| {
                let next = a.sortable(key).cmp(&b.sortable(key));
                order.then(if *descending { next.reverse() } else { next })
            })
        };
        let is_usual = matches!(self.sort.as_slice(), [(key, true)] if key == "created_at");
        let of_project = (!self.everybody).then_some(context.caller.project.as_str());
        let of_named = self.filter("project_id").or_else(|| self.filter("tenant_id")).filter(|_| self.everybody);
        let paging = Paging {
            project: of_project.or(of_named),
            limit: self.limit,
            offset: self.offset,
            marker: self.marker.as_deref(),
            order: if is_usual { None } else { Some(&by) },
            count: self.count,
        };
        block.catalog().read().page(&paging, fits)
    }

    /// The answer: the objects under the collection's name, a link to the next page, and how many there are in all.
    pub(super) fn answer<R: Record>(&self, context: &Context, name: &str, page: &Page<R>, items: Vec<Value>) -> Value {
        let mut body = serde_json::Map::new();
        drop(body.insert(name.to_owned(), Value::Array(items)));
        if let (true, Some(last)) = (page.more && self.limit > 0, page.items.last()) {
            let mut query: BTreeMap<&str, &str> =
                self.query.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
            let _old = query.remove("offset");
            let _old = query.insert("marker", last.id());
            let query = serde_urlencoded::to_string(query).unwrap_or_default();
            let href = format!("{}{}?{query}", context.url, context.path);
            drop(body.insert(format!("{name}_links"), json!([{"rel": "next", "href": href}])));
        }
        if let Some(total) = page.total {
            drop(body.insert("count".to_owned(), json!(total)));
        }
        Value::Object(body)
    }
}

/// `sort=name:asc,size:desc`, or the older pair.
fn sort(query: &BTreeMap<String, String>) -> Answer<Vec<(String, bool)>> {
    let direction = |text: &str| match text {
        "asc" => Ok(false),
        "desc" | "" => Ok(true),
        other => Err(Fault::bad(format!("the direction of a sort is asc or desc, not {other:?}"))),
    };
    let mut found = Vec::new();
    if let Some(text) = query.get("sort") {
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (key, way) = part.split_once(':').unwrap_or((part, ""));
            found.push((key.trim().to_owned(), direction(way.trim())?));
        }
    } else if let Some(key) = query.get("sort_key") {
        found.push((key.clone(), direction(query.get("sort_dir").map_or("", String::as_str))?));
    }
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
    if let Some((key, _)) = found.iter().find(|(key, _)| !KEYS.contains(&key.as_str())) {
        return Err(Fault::bad(format!("{key:?} is not a key to sort by")));
    }
    if found.is_empty() {
        found.push(("created_at".to_owned(), true));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_named_in_two_ways() {
        let of = |pairs: &[(&str, &str)]| {
            sort(&pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
        };
        assert_eq!(of(&[]).unwrap(), [("created_at".to_owned(), true)]);
        assert_eq!(of(&[("sort", "name:asc,size")]).unwrap(), [("name".to_owned(), false), ("size".to_owned(), true)]);
        assert_eq!(of(&[("sort_key", "id"), ("sort_dir", "asc")]).unwrap(), [("id".to_owned(), false)]);
        assert!(of(&[("sort", "name:up")]).is_err() && of(&[("sort", "shoe_size")]).is_err());
    }
}
