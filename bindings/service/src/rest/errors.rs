//! How refusals and failures are answered.

use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde_json::{Value, json};

use super::trail::Reason;
use crate::fault::{Fault, FaultKind};

impl FaultKind {
    fn named(self) -> (StatusCode, &'static str) {
        match self {
            Self::BadRequest => (StatusCode::BAD_REQUEST, "badRequest"),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "unauthorized"),
            Self::Forbidden => (StatusCode::FORBIDDEN, "forbidden"),
            Self::NotFound => (StatusCode::NOT_FOUND, "itemNotFound"),
            Self::BadMethod => (StatusCode::METHOD_NOT_ALLOWED, "badMethod"),
            Self::NotAcceptable => (StatusCode::NOT_ACCEPTABLE, "computeFault"),
            Self::Conflict => (StatusCode::CONFLICT, "conflictingRequest"),
            Self::OverLimit => (StatusCode::PAYLOAD_TOO_LARGE, "overLimit"),
            Self::TooMany => (StatusCode::TOO_MANY_REQUESTS, "overLimit"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "computeFault"),
            Self::Unsupported => (StatusCode::NOT_IMPLEMENTED, "notImplemented"),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "serviceUnavailable"),
        }
    }
}

/// The body of a refusal.
pub(crate) fn fault_body(fault: &Fault) -> (StatusCode, Value) {
    let (status, name) = fault.kind.named();
    let mut inner = json!({"code": status.as_u16(), "message": fault.message});
    if fault.kind == FaultKind::OverLimit
        && let Some(inner) = inner.as_object_mut()
    {
        drop(inner.insert("retryAfter".to_owned(), json!("0")));
    }
    let mut body = serde_json::Map::new();
    drop(body.insert(name.to_owned(), inner));
    (status, Value::Object(body))
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        if self.kind == FaultKind::Internal {
            tracing::error!(fault = %self.message, "a request failed");
        }
        let (status, body) = fault_body(&self);
        let mut response = (status, axum::Json(body)).into_response();
        drop(response.extensions_mut().insert(Reason(self.message.clone())));
        if self.kind == FaultKind::OverLimit {
            drop(response.headers_mut().insert(header::RETRY_AFTER, http::HeaderValue::from_static("0")));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_the_names_that_clients_know() {
        let (status, body) = fault_body(&Fault::new(FaultKind::OverLimit, "too much"));
        assert_eq!(status, 413);
        assert_eq!(body, json!({"overLimit": {"code": 413, "message": "too much", "retryAfter": "0"}}));
        let (_, body) = fault_body(&Fault::missing("Volume", "x"));
        assert_eq!(body, json!({"itemNotFound": {"code": 404, "message": "Volume x could not be found."}}));
        let response = Fault::new(FaultKind::OverLimit, "").into_response();
        assert_eq!(response.headers()[header::RETRY_AFTER], "0");
    }
}
