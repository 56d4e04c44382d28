//! Failures: an engine kind and a sentence, and how they travel over HTTP.
//!
//! Invariant: a failure keeps its kind on the way from the engine through JSON to the caller, whichever way it was called.

use axum::{
    extract::rejection::{BytesRejection, JsonRejection, PathRejection, QueryRejection},
    response::{IntoResponse, Response},
};
use cairn_engine::ErrorKind;
use http::StatusCode;
use std::fmt;

use crate::api::{ErrorAnswer, ErrorBody};

/// Why a call failed: what the caller can do about it, and a sentence that names the thing and the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What the caller can do about it.
    pub kind: ErrorKind,
    /// The sentence.
    pub message: String,
    /// For the few answers whose HTTP status says more than the kind.
    status: Option<StatusCode>,
}

const KINDS: [ErrorKind; 10] = [
    ErrorKind::NotFound,
    ErrorKind::Exists,
    ErrorKind::Busy,
    ErrorKind::NoSpace,
    ErrorKind::Corrupt,
    ErrorKind::ReadOnly,
    ErrorKind::Invalid,
    ErrorKind::Unsupported,
    ErrorKind::Io,
    ErrorKind::Closed,
];

impl Failure {
    /// A failure of `kind`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), status: None }
    }

    /// The same failure with `outer` put in front of its sentence.
    #[must_use]
    pub fn within(mut self, outer: impl fmt::Display) -> Self {
        self.message = format!("{outer}: {}", self.message);
        self
    }

    /// A request that breaks a rule.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    pub(crate) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }

    /// How it travels.
    #[must_use]
    pub fn body(&self) -> ErrorBody {
        ErrorBody { kind: self.kind.as_str().to_owned(), message: self.message.clone() }
    }

    /// The HTTP status that goes with it.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status.unwrap_or(match self.kind {
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Exists => StatusCode::CONFLICT,
            ErrorKind::Busy => StatusCode::LOCKED,
            ErrorKind::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
            ErrorKind::ReadOnly => StatusCode::FORBIDDEN,
            ErrorKind::Invalid => StatusCode::BAD_REQUEST,
            ErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
            ErrorKind::Closed => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        })
    }
}

impl From<ErrorBody> for Failure {
    /// A kind that this program does not know reads as an I/O failure: nothing can be said about it but its sentence.
    fn from(body: ErrorBody) -> Self {
        let kind = KINDS.into_iter().find(|kind| kind.as_str() == body.kind).unwrap_or(ErrorKind::Io);
        Self::new(kind, body.message)
    }
}

impl From<cairn_engine::Error> for Failure {
    fn from(error: cairn_engine::Error) -> Self {
        Self::new(error.kind(), error.to_string())
    }
}

impl From<cairn_backup::Error> for Failure {
    fn from(error: cairn_backup::Error) -> Self {
        use cairn_backup::ErrorKind as Kind;
        let kind = match error.kind() {
            Kind::Invalid | Kind::Key => ErrorKind::Invalid,
            Kind::NotFound => ErrorKind::NotFound,
            Kind::Exists => ErrorKind::Exists,
            Kind::InUse => ErrorKind::Busy,
            Kind::Corrupt => ErrorKind::Corrupt,
            Kind::Unsupported => ErrorKind::Unsupported,
            Kind::Cancelled => ErrorKind::Closed,
            _ => ErrorKind::Io,
        };
        Self::new(kind, error.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.status(), axum::Json(ErrorAnswer { error: self.body() })).into_response()
    }
}

macro_rules! from_rejections {
    ($($rejection:ty),*) => {$(
        impl From<$rejection> for Failure {
            fn from(rejection: $rejection) -> Self {
                Self::invalid(rejection.body_text()).with_status(rejection.status())
            }
        }
    )*};
}
from_rejections!(BytesRejection, JsonRejection, PathRejection, QueryRejection);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_the_wire() {
        for kind in KINDS {
            let failure = Failure::new(kind, "x");
            assert_eq!(Failure::from(failure.body()).kind, kind);
            assert!(failure.status().is_client_error() || failure.status().is_server_error());
        }
    }

    #[test]
    fn an_unknown_kind_keeps_its_sentence() {
        let failure = Failure::from(ErrorBody { kind: "from-the-future".into(), message: "why".into() });
        assert_eq!((failure.kind, failure.to_string().as_str()), (ErrorKind::Io, "why"));
    }
}
