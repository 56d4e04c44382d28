//! The OpenAPI description.

use std::sync::OnceLock;

use axum::response::{IntoResponse, Response};
use http::header;
use serde_json::{Value, json};
use utoipa::OpenApi;

/// What the document begins with.
#[derive(OpenApi)]
#[openapi(info(
    title = "Cairn",
    description = "What Block Storage v3 lacks: differences, lineage, instant restores, chains, limits as they are, events and metering."
))]
pub(super) struct Description;

/// How each answer looks that is a refusal or failure, and how a request says who asks: the same for all operations.
fn completed() -> Value {
    let mut document = serde_json::to_value(super::described().1).unwrap_or_default();
    let refusal = json!({
        "description": "A refusal or failure, by its name.",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}},
    });
    let schema = json!({
        "type": "object",
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": {
            "type": "object",
            "required": ["code", "message"],
            "properties": {
                "code": {"type": "integer", "description": "The status."},
                "message": {"type": "string", "description": "Names the thing and the remedy."},
                "retryAfter": {"type": "string", "description": "Seconds."},
            },
        },
    });
    if let Some(components) = document.get_mut("components").and_then(Value::as_object_mut) {
        drop(components.insert("responses".to_owned(), json!({"Refusal": refusal})));
        let token = json!({"type": "apiKey", "in": "header", "name": "X-Auth-Token"});
        drop(components.insert("securitySchemes".to_owned(), json!({"token": token})));
        if let Some(schemas) = components.get_mut("schemas").and_then(Value::as_object_mut) {
            drop(schemas.insert("Refusal".to_owned(), schema));
        }
    }
    let paths = document.get_mut("paths").and_then(Value::as_object_mut);
    for operation in paths.into_iter().flat_map(|paths| paths.values_mut()).filter_map(Value::as_object_mut) {
        for said in operation.values_mut().filter_map(|said| said.get_mut("responses")).filter_map(Value::as_object_mut)
        {
            drop(said.insert("default".to_owned(), json!({"$ref": "#/components/responses/Refusal"})));
        }
    }
    if let Some(document) = document.as_object_mut() {
        drop(document.insert("security".to_owned(), json!([{"token": []}])));
    }
    document
}

/// This description.
#[utoipa::path(get, path = "/cairn/v1/openapi.json", tag = "service", security(()),
    responses((status = 200, description = "An OpenAPI description of all routes.", body = Object)))]
pub(super) async fn show() -> Response {
    static TEXT: OnceLock<String> = OnceLock::new();
    let text = TEXT.get_or_init(|| completed().to_string());
    ([(header::CONTENT_TYPE, "application/json")], text.as_str()).into_response()
}
