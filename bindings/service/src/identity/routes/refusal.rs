//! Refusals, in the form that clients of Keystone know.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use serde_json::{Value, json};

use crate::fault::{Fault, FaultKind};

/// After how many seconds somebody who failed too often may try again.
const PAUSE: &str = "10";

pub(super) struct Refusal(Fault);

/// What a route answers.
pub(super) type Reply<T> = Result<T, Refusal>;

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self(fault)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let message = self.0.message.clone();
        let kind = self.0.kind;
        // Status, log and headers are those of all refusals.
        let mut response = self.0.into_response();
        let status = response.status();
        let title = status.canonical_reason().unwrap_or_default();
        let body: Value = json!({"error": {"code": status.as_u16(), "title": title, "message": message}});
        let text = axum::Json(body).into_response();
        drop(response.headers_mut().remove(header::CONTENT_LENGTH));
        *response.body_mut() = text.into_body();
        if kind == FaultKind::TooMany {
            drop(response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(PAUSE)));
        }
        response
    }
}
