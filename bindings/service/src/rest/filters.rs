//! What lists are narrowed by: one table for each kind of object ([`Listed::FILTERS`]), which its list goes by and `GET /resource_filters`
//! shows. So what is shown is what a list takes, and nothing else.
//!
//! Keys that are not in the table are refused from the edition on that has names of filters to choose from (3.31); before, they mean nothing. So do those
//! of the table that came with a later edition than the request's.

use serde_json::{Value, json};
use std::collections::BTreeMap;

use super::{
    comparisons::Comparisons,
    context::Context,
    dictionary,
    input::{Flag, Query},
    listing::Listed,
    types,
};
use crate::{
    catalog::{Attachment, Backup, Group, GroupSnapshot, Message, Snapshot, Volume},
    domain::Microversion,
    fault::{Answer, Fault},
};

/// Since when keys that are not known are refused, and there are the names of filters, filters by moments, and one for what counts against quotas.
const KNOWN_ALONE: u32 = 31;
const RESOURCE_FILTERS: u32 = 33;
const MOMENTS: u32 = 60;
const CONSUMES_QUOTA: u32 = 65;

/// A filter of a list: its key, and what of an object its value is held against.
pub(super) struct Filter<R> {
    key: &'static str,
    /// The edition that it came with.
    since: u32,
    by: By<R>,
}

enum By<R> {
    /// Exactly this text. An object that has none fits no text.
    Text(fn(&R) -> Option<&str>),
    /// A text with this one in it.
    Part(fn(&R) -> Option<&str>),
    Flag(fn(&R) -> bool),
    Number(fn(&R) -> u64),
    /// All of the pairs of a dictionary, written as JSON or as Python writes it.
    Pairs(fn(&R) -> &BTreeMap<String, String>),
    /// As [`Comparisons`] say it.
    Moment(fn(&R) -> Option<u64>),
    /// Where it is: everything is in the one zone there is.
    Zone,
}

/// Whether an object is wanted, by one filter of a request.
pub(super) type Test<'a, R> = Box<dyn Fn(&R) -> bool + 'a>;

/// Exactly this text.
pub(super) const fn text<R>(key: &'static str, of: fn(&R) -> Option<&str>) -> Filter<R> {
    Filter { key, since: 0, by: By::Text(of) }
}

/// By a part of a text: the key ends with `~`.
pub(super) const fn part<R>(key: &'static str, of: fn(&R) -> Option<&str>) -> Filter<R> {
    Filter { key, since: 0, by: By::Part(of) }
}

/// True or false, in each way that clients write it.
pub(super) const fn flag<R>(key: &'static str, of: fn(&R) -> bool) -> Filter<R> {
    Filter { key, since: 0, by: By::Flag(of) }
}

/// Exactly this number.
pub(super) const fn number<R>(key: &'static str, of: fn(&R) -> u64) -> Filter<R> {
    Filter { key, since: 0, by: By::Number(of) }
}

/// By all of some pairs.
pub(super) const fn pairs<R>(key: &'static str, of: fn(&R) -> &BTreeMap<String, String>) -> Filter<R> {
    Filter { key, since: 0, by: By::Pairs(of) }
}

/// Before, at or after a moment.
pub(super) const fn at<R>(key: &'static str, of: fn(&R) -> Option<u64>) -> Filter<R> {
    Filter { key, since: MOMENTS, by: By::Moment(of) }
}

/// By the zone.
pub(super) const fn zone<R>() -> Filter<R> {
    Filter { key: "availability_zone", since: 0, by: By::Zone }
}

/// Whether it counts against quotas: everything does here.
pub(super) const fn consumes_quota<R>() -> Filter<R> {
    Filter { key: "consumes_quota", since: CONSUMES_QUOTA, by: By::Flag(|_| true) }
}

/// A name as filters have it: one that is not there is empty.
pub(super) fn named(name: &Option<String>) -> Option<&str> {
    Some(name.as_deref().unwrap_or_default())
}

impl<R: 'static> Filter<R> {
    fn test<'a>(&self, value: &'a str, zone: &str) -> Answer<Test<'a, R>> {
        Ok(match self.by {
            By::Text(of) => Box::new(move |object| of(object) == Some(value)),
            By::Part(of) => Box::new(move |object| of(object).is_some_and(|text| text.contains(value))),
            By::Flag(of) => {
                let wanted = Flag::parse(value);
                Box::new(move |object| wanted == Some(Flag(of(object))))
            }
            By::Number(of) => {
                let wanted = value.parse::<u64>().ok();
                Box::new(move |object| wanted == Some(of(object)))
            }
            By::Pairs(of) => {
                let wrong = || Fault::bad(format!("the filter {} has to be a dictionary of texts", self.key));
                let wanted = dictionary::parsed(value).ok_or_else(wrong)?;
                Box::new(move |object| {
                    let has = of(object);
                    wanted.iter().all(|(key, value)| has.get(key) == Some(value))
                })
            }
            By::Moment(of) => {
                let wanted = Comparisons::parse(self.key, value)?;
                Box::new(move |object| wanted.fit(of(object)))
            }
            By::Zone => {
                let is_there = value == zone;
                Box::new(move |_| is_there)
            }
        })
    }
}

/// What a request's filters ask of the objects of a list.
///
/// # Errors
/// `BadRequest`, with the key, for one that is not known and for a value that cannot be read.
pub(super) fn asked<'a, R: Listed>(
    query: &'a BTreeMap<String, String>,
    version: Microversion,
    zone: &str,
) -> Answer<Vec<Test<'a, R>>> {
    let unknown = |key: &&String| !R::FILTERS.iter().any(|filter| filter.key == **key);
    if let Some(key) = query.keys().find(unknown).filter(|_| version.has(KNOWN_ALONE)) {
        let known = keys::<R>().join(", ");
        return Err(Fault::bad(format!("Invalid filters {key} are found in query options: there are {known}")));
    }
    let known = R::FILTERS.iter().filter(|filter| version.has(filter.since));
    known.filter_map(|filter| query.get(filter.key).map(|value| filter.test(value, zone))).collect()
}

fn keys<R: Listed>() -> Vec<&'static str> {
    R::FILTERS.iter().map(|filter| filter.key).collect()
}

/// The published names of what is listed, each with the keys that everybody may use.
fn by_resource() -> [(&'static str, Vec<&'static str>); 9] {
    [
        ("volume", keys::<Volume>()),
        ("snapshot", keys::<Snapshot>()),
        ("backup", keys::<Backup>()),
        ("group", keys::<Group>()),
        ("group_snapshot", keys::<GroupSnapshot>()),
        ("attachment", keys::<Attachment>()),
        ("message", keys::<Message>()),
        ("volume_type", vec![types::IS_PUBLIC]),
        // There is one.
        ("pool", Vec::new()),
    ]
}

/// `GET /resource_filters`: of one resource, or of all. As published, the same in all editions, also with keys that later ones have.
pub(super) async fn list(context: Context, Query(query): Query) -> Answer<axum::Json<Value>> {
    context.needs(RESOURCE_FILTERS)?;
    let wanted = query.get("resource").filter(|name| !name.is_empty());
    let shown = by_resource().into_iter().filter(|(name, _)| wanted.is_none_or(|wanted| wanted == name));
    let views = shown.map(|(resource, filters)| json!({"resource": resource, "filters": filters}));
    Ok(axum::Json(json!({"resource_filters": views.collect::<Vec<_>>()})))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{NEWEST, VolumeStatus},
        fault::FaultKind,
    };
    use std::collections::BTreeSet;

    fn message() -> Message {
        Message {
            id: "m".to_owned(),
            project: "p".to_owned(),
            request: "req-1".to_owned(),
            resource_type: "VOLUME".to_owned(),
            resource: "v".to_owned(),
            event: "e".to_owned(),
            text: "t".to_owned(),
            created_us: 0,
        }
    }

    fn volume() -> Volume {
        let pairs = [("a", "b"), ("c", "d")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        Volume {
            id: "v".to_owned(),
            project: "p".to_owned(),
            user: "u".to_owned(),
            name: Some("disk 1".to_owned()),
            description: Some("of the shop".to_owned()),
            metadata: pairs.into(),
            size: 3,
            status: VolumeStatus::Available,
            type_id: "t".to_owned(),
            bootable: true,
            read_only: false,
            multiattach: false,
            snapshot_id: Some("s".to_owned()),
            source_volid: None,
            backup_id: None,
            image: [("os".to_owned(), "it's".to_owned())].into(),
            group_id: Some("g".to_owned()),
            qos: BTreeMap::new(),
            held: None,
            exports: Vec::new(),
            created_us: 5_000_000,
            updated_us: Some(7_000_000),
        }
    }

    fn query(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn fits(volume: &Volume, pairs: &[(&str, &str)], version: u32) -> bool {
        asked::<Volume>(&query(pairs), Microversion(version), "nova").unwrap().iter().all(|test| test(volume))
    }

    #[test]
    fn each_filter_is_held_against_its_own() {
        let volume = volume();
        let cases = [
            ("name", "disk 1", "disk"),
            ("name~", "disk", "disc"),
            ("id", "v", "w"),
            ("status", "available", "in-use"),
            ("size", "3", "4"),
            ("size", "3", "three"),
            ("metadata", "{'a': 'b'}", "{'a': 'c'}"),
            ("metadata", "{\"a\": \"b\", \"c\": \"d\"}", "{'a': 'b', 'e': 'f'}"),
            ("glance_metadata", "{'os': \"it's\"}", "{'os': 'its'}"),
            ("availability_zone", "nova", "east"),
            ("bootable", "True", "0"),
            ("bootable", "1", "perhaps"),
            ("multiattach", "false", "true"),
            ("group_id", "g", ""),
            ("snapshot_id", "s", "t"),
            ("volume_type_id", "t", "s"),
            ("user_id", "u", "me"),
            ("description", "of the shop", "shop"),
            ("created_at", "gt:1970-01-01T00:00:04", "lt:1970-01-01T00:00:04"),
            ("updated_at", "eq:1970-01-01T00:00:07", "eq:1970-01-01T00:00:05"),
            ("consumes_quota", "true", "false"),
        ];
        for (key, right, wrong) in cases {
            assert!(fits(&volume, &[(key, right)], 71), "{key}={right}");
            assert!(!fits(&volume, &[(key, wrong)], 71), "{key}={wrong}");
        }
        let mut tried: BTreeSet<&str> = cases.iter().map(|(key, ..)| *key).collect();
        // There is nowhere to migrate to.
        assert!(!fits(&volume, &[("migration_status", "success")], 71) && tried.insert("migration_status"));
        assert_eq!(tried, keys::<Volume>().into_iter().collect());
        // All of them have to fit.
        let mut all: Vec<(&str, &str)> = cases.iter().map(|(key, right, _)| (*key, *right)).collect();
        assert!(fits(&volume, &all, 71));
        all.push(("status", "error"));
        assert!(!fits(&volume, &all, 71));
    }

    #[test]
    fn a_key_that_is_not_known_is_refused_where_there_are_names_to_choose_from() {
        let odd = query(&[("shoe_size", "44")]);
        assert_eq!(asked::<Volume>(&odd, Microversion(30), "nova").unwrap().len(), 0);
        for version in [31, 71] {
            let fault = asked::<Volume>(&odd, Microversion(version), "nova").map(drop).unwrap_err();
            assert_eq!(fault.kind, FaultKind::BadRequest);
            assert!(fault.message.contains("shoe_size") && fault.message.contains("bootable"), "{}", fault.message);
        }
    }

    #[test]
    fn what_is_not_there_fits_little() {
        let bare = Volume { name: None, description: None, group_id: None, updated_us: None, ..volume() };
        assert!(fits(&bare, &[("name", "")], 71), "no name is an empty one");
        for (key, value) in [("description", ""), ("group_id", ""), ("updated_at", "neq:1970-01-01T00:00:07")] {
            assert!(!fits(&bare, &[(key, value)], 71), "{key}={value}");
        }
    }

    #[test]
    fn what_came_later_means_nothing_before() {
        for (pair, came) in [
            (("created_at", "lt:1970-01-01T00:00:04"), 60),
            (("updated_at", "lt:1970-01-01T00:00:04"), 60),
            (("consumes_quota", "false"), 65),
        ] {
            assert!(fits(&volume(), &[pair], came - 1) && !fits(&volume(), &[pair], came), "{pair:?}");
        }
        assert!(fits(&volume(), &[("created_at", "nonsense")], 59));
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_its_key() {
        for (key, value) in [
            ("metadata", "{"),
            ("metadata", "[1]"),
            ("metadata", "{'a': 1}"),
            ("created_at", "nonsense"),
            ("updated_at", "gt:nonsense"),
        ] {
            let fault = asked::<Volume>(&query(&[(key, value)]), NEWEST, "nova").map(drop).unwrap_err();
            assert_eq!(fault.kind, FaultKind::BadRequest);
            assert!(fault.message.contains(key), "{}", fault.message);
        }
    }

    #[test]
    fn the_tables_are_those_of_the_lists() {
        let all = by_resource();
        for (resource, keys) in &all {
            let set: BTreeSet<_> = keys.iter().collect();
            assert_eq!(set.len(), keys.len(), "{resource} has a key twice");
        }
        let of = |name: &str| all.iter().find(|(resource, _)| *resource == name).map(|(_, keys)| keys.clone()).unwrap();
        assert_eq!(of("message"), ["resource_uuid", "resource_type", "event_id", "request_id", "message_level"]);
        for key in ["name", "name~", "status", "metadata", "created_at", "updated_at", "consumes_quota"] {
            assert!(of("volume").contains(&key), "{key}");
        }
        assert_eq!((of("volume_type"), of("pool")), (vec!["is_public"], Vec::new()));
        let is = |key: &str, value: &str| {
            asked::<Message>(&query(&[(key, value)]), NEWEST, "nova").unwrap().iter().all(|test| test(&message()))
        };
        for (key, value) in
            [("resource_uuid", "v"), ("resource_type", "VOLUME"), ("event_id", "e"), ("request_id", "req-1")]
        {
            assert!(is(key, value) && !is(key, "other"), "{key}");
        }
        assert!(is("message_level", "ERROR") && !is("message_level", "INFO"));
    }
}
