//! What its owner says of an image: in a body, or in a list of changes to what was said before.

use serde::Deserialize;
use serde_json::Value;

use super::view::OWN;
use crate::{
    block::ImageFields,
    domain::DiskFormat,
    fault::{Answer, Fault, FaultKind},
    rest::input::Number,
};

/// A change: `{"op": "replace", "path": "/name", "value": "x"}`.
#[derive(Deserialize)]
pub(super) struct Change {
    op: String,
    path: String,
    #[serde(default)]
    value: Value,
}

/// Names that properties may not begin with: they mean something to other services.
const RESERVED: [&str; 1] = ["os_glance_"];

pub(super) fn apply(fields: &mut ImageFields, change: Change) -> Answer<()> {
    let key = change.path.strip_prefix('/').unwrap_or(&change.path);
    if key.is_empty() || key.contains('/') {
        return Err(Fault::bad(format!("{:?} does not name an attribute of an image", short(&change.path))));
    }
    let key = key.replace("~1", "/").replace("~0", "~");
    match change.op.as_str() {
        "add" => set(fields, &key, change.value),
        "replace" if OWN.contains(&key.as_str()) || fields.properties.contains_key(&key) => {
            set(fields, &key, change.value)
        }
        "remove" if OWN.contains(&key.as_str()) => Err(Fault::forbidden(format!("Property {key} may not be removed."))),
        "remove" => fields.properties.remove(&key).map(drop).ok_or_else(|| none(&key)),
        "replace" => Err(none(&key)),
        other => Err(Fault::bad(format!("{:?} is none of add, replace and remove", short(other)))),
    }
}

fn none(key: &str) -> Fault {
    Fault::conflict(format!("Property {} does not exist.", short(key)))
}

fn short(text: &str) -> String {
    text.chars().take(64).collect()
}

fn text(key: &str, value: Value) -> Answer<Option<String>> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        _ => Err(Fault::bad(format!("{} has to be a text", short(key)))),
    }
}

fn flag(key: &str, value: &Value) -> Answer<bool> {
    value.as_bool().ok_or_else(|| Fault::bad(format!("{key} is true or false")))
}

fn number(key: &str, value: Value) -> Answer<u64> {
    let number = serde_json::from_value::<Number>(value).ok().and_then(|number| u64::try_from(number.0).ok());
    number.ok_or_else(|| Fault::bad(format!("{key} is a number, not below zero")))
}

/// Sets an attribute.
pub(super) fn set(fields: &mut ImageFields, key: &str, value: Value) -> Answer<()> {
    match key {
        "name" => fields.name = text(key, value)?,
        "visibility" => fields.public = is_public(&value)?,
        "protected" => fields.protected = flag(key, &value)?,
        "os_hidden" => fields.hidden = flag(key, &value)?,
        "min_disk" => fields.min_disk = number(key, value)?,
        "min_ram" => fields.min_ram = number(key, value)?,
        "tags" => fields.tags = serde_json::from_value(value).map_err(|_| Fault::bad("tags is a list of texts"))?,
        "disk_format" => fields.format = text(key, value)?.map(|name| format(&name)).transpose()?,
        "container_format" => fields.bare = text(key, value)?.map(|name| is_bare(&name)).transpose()?.unwrap_or(false),
        _ if OWN.contains(&key) => {
            return Err(Fault::forbidden(format!("Attribute '{key}' is read-only.")));
        }
        _ if RESERVED.iter().any(|reserved| key.starts_with(reserved)) => {
            return Err(Fault::forbidden(format!("Attribute '{}' is reserved.", short(key))));
        }
        _ => {
            let value = text(key, value)?.ok_or_else(|| Fault::bad(format!("{} has to be a text", short(key))))?;
            drop(fields.properties.insert(key.to_owned(), value));
        }
    }
    Ok(())
}

fn is_public(value: &Value) -> Answer<bool> {
    match value.as_str() {
        Some("public") => Ok(true),
        Some("private") => Ok(false),
        Some("shared" | "community") => Err(Fault::bad("images are private or public here: none is shared with some")),
        _ => Err(Fault::bad("visibility is private or public")),
    }
}

/// A format by its name.
pub(in crate::rest) fn format(name: &str) -> Answer<DiskFormat> {
    let known = DiskFormat::named(name);
    known
        .ok_or_else(|| Fault::bad(format!("Invalid disk format '{}' for image: raw and qcow2 are known.", short(name))))
}

/// The one container.
pub(in crate::rest) fn is_bare(name: &str) -> Answer<bool> {
    match name {
        "bare" => Ok(true),
        _ => Err(Fault::new(
            FaultKind::BadRequest,
            format!("Invalid container format '{}' for image: bare is known.", short(name)),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn changed(fields: &mut ImageFields, op: &str, path: &str, value: Value) -> Answer<()> {
        apply(fields, Change { op: op.to_owned(), path: path.to_owned(), value })
    }

    #[test]
    fn attributes_are_added_replaced_and_removed() {
        let mut fields = ImageFields::default();
        changed(&mut fields, "replace", "/name", json!("x")).unwrap();
        changed(&mut fields, "add", "/os~1distro", json!("y")).unwrap();
        changed(&mut fields, "add", "/tags", json!(["b", "a", "b"])).unwrap();
        changed(&mut fields, "replace", "/min_disk", json!(3)).unwrap();
        assert_eq!((fields.name.as_deref(), fields.min_disk, fields.tags.len()), (Some("x"), 3, 2));
        assert_eq!(fields.properties.get("os/distro").map(String::as_str), Some("y"));
        changed(&mut fields, "remove", "/os~1distro", Value::Null).unwrap();
        let kind = |outcome: Answer<()>| outcome.unwrap_err().kind;
        assert_eq!(kind(changed(&mut fields, "remove", "/os~1distro", Value::Null)), FaultKind::Conflict);
        assert_eq!(kind(changed(&mut fields, "replace", "/none", json!("x"))), FaultKind::Conflict);
        for path in ["/id", "/status", "/checksum", "/owner", "/size", "/locations", "/os_glance_import"] {
            assert_eq!(kind(changed(&mut fields, "add", path, json!("x"))), FaultKind::Forbidden, "{path}");
        }
        assert_eq!(kind(changed(&mut fields, "remove", "/name", Value::Null)), FaultKind::Forbidden);
        for (op, path, value) in [
            ("add", "/a/b", json!("x")),
            ("add", "/", json!("x")),
            ("move", "/name", json!("x")),
            ("add", "/visibility", json!("shared")),
            ("add", "/disk_format", json!("vmdk")),
            ("add", "/container_format", json!("ovf")),
            ("add", "/min_ram", json!(-1)),
            ("add", "/protected", json!("yes")),
            ("add", "/property", json!({"a": 1})),
        ] {
            assert_eq!(kind(changed(&mut fields, op, path, value)), FaultKind::BadRequest, "{op} {path}");
        }
    }
}
