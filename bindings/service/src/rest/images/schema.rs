//! What images look like, for clients that ask.

use axum::Json;
use serde_json::{Value, json};

use crate::rest::context::Context;

fn description() -> Value {
    let read_only = |kind: Value| json!({"type": kind, "readOnly": true});
    let maybe = |kind: &str| json!(["null", kind]);
    json!({
        "name": "image",
        "properties": {
            "id": {"type": "string", "readOnly": true, "pattern": "^([0-9a-fA-F]){8}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){12}$"},
            "name": {"type": maybe("string"), "maxLength": 255},
            "status": {"type": "string", "readOnly": true, "enum": ["queued", "saving", "active", "killed", "deleted", "pending_delete"]},
            "visibility": {"type": "string", "enum": ["public", "private"]},
            "protected": {"type": "boolean"},
            "os_hidden": {"type": "boolean"},
            "tags": {"type": "array", "items": {"type": "string", "maxLength": 255}},
            "container_format": {"type": maybe("string"), "enum": [null, "bare"]},
            "disk_format": {"type": maybe("string"), "enum": [null, "raw", "qcow2"]},
            "min_disk": {"type": "integer", "description": "GiB of a volume."},
            "min_ram": {"type": "integer", "description": "MiB of memory."},
            "size": read_only(maybe("integer")),
            "virtual_size": read_only(maybe("integer")),
            "checksum": read_only(maybe("string")),
            "os_hash_algo": read_only(maybe("string")),
            "os_hash_value": read_only(maybe("string")),
            "owner": read_only(maybe("string")),
            "created_at": read_only(json!("string")),
            "updated_at": read_only(json!("string")),
            "self": read_only(json!("string")),
            "file": read_only(json!("string")),
            "schema": read_only(json!("string")),
        },
        "additionalProperties": {"type": "string"},
        "links": [
            {"rel": "self", "href": "{self}"},
            {"rel": "enclosure", "href": "{file}"},
            {"rel": "describedby", "href": "{schema}"},
        ],
    })
}

/// `GET /v2/schemas/image`.
pub(super) async fn image(_context: Context) -> Json<Value> {
    Json(description())
}

/// `GET /v2/schemas/images`.
pub(super) async fn images(_context: Context) -> Json<Value> {
    Json(json!({
        "name": "images",
        "properties": {
            "images": {"type": "array", "items": description()},
            "first": {"type": "string"},
            "next": {"type": "string"},
            "schema": {"type": "string"},
        },
        "links": [
            {"rel": "first", "href": "{first}"},
            {"rel": "next", "href": "{next}"},
            {"rel": "describedby", "href": "{schema}"},
        ],
    }))
}
