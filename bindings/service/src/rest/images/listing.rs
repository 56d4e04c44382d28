//! Lists of images.

use axum::extract::State;
use serde_json::{Value, json};
use std::{cmp::Ordering, collections::BTreeMap, ops::ControlFlow};

use super::view;
use crate::{
    block::newest_first,
    catalog::Image,
    fault::{Answer, Fault, FaultKind},
    rest::{
        Rest,
        context::Context,
        input::{Flag, Query},
        listing::{bytes_of, first_that_differs, once},
    },
};

/// Images of a page unless it is said, and at most.
const USUAL: usize = 25;
const MOST: usize = 1000;
/// Most bytes of a page's images as they are sent: of each image one may read up to some 400 KB, and whoever takes an answer slowly keeps it in
/// memory. An image that alone has more is sent all the same.
const MOST_BYTES: usize = 1 << 20;

/// Keys of a query that are no filters.
const PAGING: [&str; 6] = ["limit", "marker", "sort", "sort_key", "sort_dir", "tag"];

pub(super) async fn list(State(rest): State<Rest>, context: Context, Query(query): Query) -> Answer<axum::Json<Value>> {
    let (block, caller) = (&rest.block, &context.caller);
    let wanted = Wanted::of(&query)?;
    let limit = match query.get("limit") {
        None => USUAL,
        Some(text) => text.parse::<usize>().map_err(|_| Fault::bad("limit is a number, not below zero"))?.min(MOST),
    };
    let unknown = |fault: Fault| match fault.kind {
        FaultKind::NotFound => Fault::bad("the marker is none of the images of this list"),
        _ => fault,
    };
    let marker = query.get("marker").map(|id| block.image(caller, id).map_err(unknown)).transpose()?;
    let mut page = Page::new(limit);
    let keys = sort(&query)?;
    if keys.is_empty() {
        block.each_image(caller, marker.as_ref(), |image| match wanted.fits(&image) {
            true => page.take(&image),
            false => ControlFlow::Continue(()),
        })?;
    } else {
        let mut images = block.images(caller)?;
        images.retain(|image| wanted.fits(image));
        let order = |a: &Image, b: &Image| by_keys(&keys, a, b).then_with(|| newest_first(a, b));
        images.sort_by(order);
        // By its place, since it may not be among them any more.
        let from = marker.map_or(0, |marker| images.partition_point(|image| order(image, &marker).is_le()));
        let _end = images.iter().skip(from).try_for_each(|image| page.take(image));
    }
    Ok(axum::Json(page.answer(&query)))
}

/// A page, as it fills.
struct Page {
    limit: usize,
    bytes: usize,
    images: Vec<Value>,
    last: Option<String>,
    /// Whether there are more images behind it.
    more: bool,
}

impl Page {
    fn new(limit: usize) -> Self {
        Self { limit, bytes: 0, images: Vec::new(), last: None, more: false }
    }

    /// The next image of the list. Breaks when it has no place: then it is of the next page.
    fn take(&mut self, image: &Image) -> ControlFlow<()> {
        if self.images.len() >= self.limit {
            self.more = true;
            return ControlFlow::Break(());
        }
        let view = view::image(image);
        let bytes = self.bytes.saturating_add(bytes_of(&view));
        if bytes > MOST_BYTES && !self.images.is_empty() {
            self.more = true;
            return ControlFlow::Break(());
        }
        self.bytes = bytes;
        self.images.push(view);
        self.last = Some(image.id.clone());
        ControlFlow::Continue(())
    }

    fn answer(self, query: &BTreeMap<String, String>) -> Value {
        let link = |marker: Option<&str>| {
            let mut query = query.clone();
            drop(query.remove("marker"));
            marker.iter().for_each(|marker| drop(query.insert("marker".to_owned(), (*marker).to_owned())));
            let text = serde_urlencoded::to_string(query).unwrap_or_default();
            format!("/v2/images{}{text}", if text.is_empty() { "" } else { "?" })
        };
        let mut body = json!({"images": self.images, "first": link(None), "schema": "/v2/schemas/images"});
        if let (true, Some(last), Some(fields)) = (self.more, &self.last, body.as_object_mut()) {
            drop(fields.insert("next".to_owned(), json!(link(Some(last)))));
        }
        body
    }
}

/// Which images.
struct Wanted<'a> {
    hidden: bool,
    protected: Option<bool>,
    tag: Option<&'a String>,
    filters: Vec<Filter<'a>>,
}

impl<'a> Wanted<'a> {
    fn of(query: &'a BTreeMap<String, String>) -> Answer<Self> {
        let flag = |key: &str| query.get(key).map(|text| wanted_flag(key, text)).transpose();
        let filters = query.iter().filter_map(|(key, value)| Filter::of(key, value).transpose());
        Ok(Self {
            hidden: flag("os_hidden")?.unwrap_or(false),
            protected: flag("protected")?,
            tag: query.get("tag"),
            filters: filters.collect::<Answer<_>>()?,
        })
    }

    fn fits(&self, image: &Image) -> bool {
        image.hidden == self.hidden
            && self.protected.is_none_or(|wanted| image.protected == wanted)
            && self.tag.is_none_or(|tag| image.tags.contains(tag))
            && self.filters.iter().all(|filter| filter.fits(image))
    }
}

fn wanted_flag(key: &str, text: &str) -> Answer<bool> {
    Flag::parse(text).map(|flag| flag.0).ok_or_else(|| Fault::bad(format!("{key} is true or false")))
}

/// One condition.
enum Filter<'a> {
    /// The text of an attribute or property is one of these.
    Is(&'a str, Vec<String>),
    AtLeast(u64),
    AtMost(u64),
}

impl<'a> Filter<'a> {
    fn of(key: &'a str, value: &str) -> Answer<Option<Self>> {
        let number = || value.parse().map_err(|_| Fault::bad(format!("{key} is a number, not below zero")));
        Ok(match key {
            "size_min" => Some(Self::AtLeast(number()?)),
            "size_max" => Some(Self::AtMost(number()?)),
            "os_hidden" | "protected" => None,
            // Any: also those that lists show without being asked.
            "visibility" if value == "all" => None,
            "member_status" => None,
            _ if PAGING.contains(&key) => None,
            _ => Some(Self::Is(key, any_of(value))),
        })
    }

    fn fits(&self, image: &Image) -> bool {
        let size = image.content.as_ref().map(|content| content.size);
        let (key, wanted) = match self {
            Self::AtLeast(least) => return size.is_some_and(|size| size >= *least),
            Self::AtMost(most) => return size.is_some_and(|size| size <= *most),
            Self::Is(key, wanted) => (*key, wanted),
        };
        let is = |text: &str| wanted.iter().any(|one| one == text);
        match key {
            "visibility" => is(view::visibility(image)),
            "name" => is(image.name.as_deref().unwrap_or_default()),
            "status" => is(image.status.as_str()),
            "id" => is(&image.id),
            "owner" => is(&image.project),
            "container_format" => image.bare && is("bare"),
            "disk_format" => image.format.is_some_and(|format| is(format.as_str())),
            "checksum" => image.content.as_ref().is_some_and(|content| is(&content.md5)),
            "os_hash_value" => image.content.as_ref().is_some_and(|content| is(&content.sha512)),
            "min_disk" => is(&image.min_disk.to_string()),
            "min_ram" => is(&image.min_ram.to_string()),
            property => image.properties.get(property).is_some_and(|text| is(text)),
        }
    }
}

/// `x`, or `in:x,"y,z"`.
fn any_of(value: &str) -> Vec<String> {
    let Some(list) = value.strip_prefix("in:") else { return vec![value.to_owned()] };
    let (mut found, mut one, mut quoted) = (Vec::new(), String::new(), false);
    for letter in list.chars() {
        match letter {
            '"' => quoted = !quoted,
            ',' if !quoted => found.push(std::mem::take(&mut one)),
            other => one.push(other),
        }
    }
    found.push(one);
    found
}

type Compare = fn(&Image, &Image) -> Ordering;

/// A key to sort by, and whether it is descending.
type By = (Compare, bool);

/// `sort=name:asc,size:desc`, or the older pair. Without any, the newest come first.
fn sort(query: &BTreeMap<String, String>) -> Answer<Vec<By>> {
    let older = query.get("sort_key").map(|key| {
        let way = query.get("sort_dir").map_or("desc", String::as_str);
        format!("{key}:{way}")
    });
    let Some(text) = query.get("sort").cloned().or(older) else { return Ok(Vec::new()) };
    let (mut names, mut keys) = (Vec::new(), Vec::new());
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (key, way) = part.split_once(':').unwrap_or((part, "desc"));
        let descending = match way {
            "asc" => false,
            "desc" => true,
            _ => return Err(Fault::bad("the direction of a sort is asc or desc")),
        };
        let compare = by(key)?;
        once(names.contains(&key), key)?;
        names.push(key);
        keys.push((compare, descending));
    }
    Ok(keys)
}

fn by_keys(keys: &[By], a: &Image, b: &Image) -> Ordering {
    first_that_differs(keys.iter().map(|(compare, descending)| {
        let order = compare(a, b);
        if *descending { order.reverse() } else { order }
    }))
}

fn by(key: &str) -> Answer<Compare> {
    Ok(match key {
        "name" => |a, b| a.name.cmp(&b.name),
        "status" => |a, b| a.status.as_str().cmp(b.status.as_str()),
        "id" => |a, b| a.id.cmp(&b.id),
        "size" => |a, b| a.content.as_ref().map(|c| c.size).cmp(&b.content.as_ref().map(|c| c.size)),
        "created_at" => |a, b| a.created_us.cmp(&b.created_us),
        "updated_at" => |a, b| a.updated_us.unwrap_or(a.created_us).cmp(&b.updated_us.unwrap_or(b.created_us)),
        "disk_format" => |a, b| a.format.cmp(&b.format),
        "container_format" => |a, b| a.bare.cmp(&b.bare),
        _ => return Err(Fault::bad("that is not a key to sort by")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_may_have_several_values() {
        assert_eq!(any_of("x,y"), ["x,y"]);
        assert_eq!(any_of("in:x,\"y,z\",w"), ["x", "y,z", "w"]);
        assert_eq!(any_of("in:"), [""]);
    }

    #[test]
    fn each_key_to_sort_by_is_named_once() {
        let of =
            |key: &str, text: &str| sort(&BTreeMap::from([(key.to_owned(), text.to_owned())])).map(|keys| keys.len());
        assert_eq!(
            (of("sort", "name:asc,size,id:desc"), of("sort_key", "name"), of("limit", "1")),
            (Ok(3), Ok(1), Ok(0))
        );
        for twice in ["id,id", "name:asc,name:desc", &"size,".repeat(20_000)] {
            let fault = of("sort", twice).unwrap_err();
            assert!(fault.kind == FaultKind::BadRequest && fault.message.contains("twice"), "{fault}");
        }
        assert!(of("sort", "shoe_size").is_err() && of("sort", "name:up").is_err());
    }
}
