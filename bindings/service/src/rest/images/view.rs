//! Images as answers show them.

use serde_json::{Map, Value, json};

use crate::{catalog::Image, rest::moment};

/// What an image has beside its properties. No property is called so.
pub(super) const OWN: [&str; 26] = [
    "id",
    "name",
    "status",
    "visibility",
    "protected",
    "os_hidden",
    "tags",
    "container_format",
    "disk_format",
    "min_disk",
    "min_ram",
    "size",
    "virtual_size",
    "checksum",
    "os_hash_algo",
    "os_hash_value",
    "owner",
    "created_at",
    "updated_at",
    "self",
    "file",
    "schema",
    "locations",
    "direct_url",
    "stores",
    "deleted",
];

/// A moment, to the second.
fn second(us: u64) -> String {
    format!("{}Z", moment(us).split('.').next().unwrap_or_default())
}

pub(super) fn image(image: &Image) -> Value {
    let mut view: Map<String, Value> =
        image.properties.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    let content = image.content.as_ref();
    let own = [
        ("id", json!(image.id)),
        ("name", json!(image.name)),
        ("status", json!(image.status)),
        ("visibility", json!(visibility(image))),
        ("protected", json!(image.protected)),
        ("os_hidden", json!(image.hidden)),
        ("tags", json!(image.tags)),
        ("container_format", json!(image.bare.then_some("bare"))),
        ("disk_format", json!(image.format)),
        ("min_disk", json!(image.min_disk)),
        ("min_ram", json!(image.min_ram)),
        ("size", json!(content.map(|content| content.size))),
        ("virtual_size", json!(content.map(|content| content.virtual_size))),
        ("checksum", json!(content.map(|content| &content.md5))),
        ("os_hash_algo", json!(content.map(|_| "sha512"))),
        ("os_hash_value", json!(content.map(|content| &content.sha512))),
        ("owner", json!(image.project)),
        ("created_at", json!(second(image.created_us))),
        ("updated_at", json!(second(image.updated_us.unwrap_or(image.created_us)))),
        ("self", json!(format!("/v2/images/{}", image.id))),
        ("file", json!(format!("/v2/images/{}/file", image.id))),
        ("schema", json!("/v2/schemas/image")),
    ];
    view.extend(own.into_iter().map(|(key, value)| (key.to_owned(), value)));
    Value::Object(view)
}

pub(super) fn visibility(image: &Image) -> &'static str {
    if image.public { "public" } else { "private" }
}
