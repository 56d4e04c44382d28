//! What is served here, for clients that look before they ask.

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use serde_json::{Value, json};

use super::Rest;
use crate::domain::{NEWEST, OLDEST};

fn version(url: &str) -> Value {
    json!({
        "id": "v3.0",
        "status": "CURRENT",
        "version": NEWEST.to_string(),
        "min_version": OLDEST.to_string(),
        "updated": "2026-11-22T00:00:00Z",
        "links": [{"rel": "self", "href": format!("{url}/v3/")}],
        "media-types": [{"base": "application/json", "type": "application/vnd.openstack.volume+json;version=3"}],
    })
}

/// `GET /`.
pub(super) async fn root(State(rest): State<Rest>) -> Response {
    (StatusCode::MULTIPLE_CHOICES, axum::Json(json!({"versions": [version(&rest.url)]}))).into_response()
}

/// `GET /v3/`.
pub(super) async fn v3(State(rest): State<Rest>) -> Response {
    axum::Json(json!({"versions": [version(&rest.url)]})).into_response()
}
