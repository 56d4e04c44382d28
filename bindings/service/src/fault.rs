//! Refusals and failures of the block storage service, by what the client is told.

use std::fmt;

use cairn_engine::ErrorKind;

use crate::{
    Failure,
    domain::{Illegal, Over},
};

/// What the client is told, apart from the sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FaultKind {
    /// 400.
    BadRequest,
    /// 401.
    Unauthorized,
    /// 403.
    Forbidden,
    /// 404.
    NotFound,
    /// 405.
    BadMethod,
    /// 406.
    NotAcceptable,
    /// 409.
    Conflict,
    /// 413, with a moment after which to try again.
    OverLimit,
    /// 429, with a moment after which to try again.
    TooMany,
    /// 500. The sentence goes to the log; the client gets it too, since it never holds a secret.
    Internal,
    /// 501.
    Unsupported,
    /// 503.
    Unavailable,
}

/// A refusal or failure: its kind, and a sentence that names the thing and the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: FaultKind,
    pub(crate) message: String,
}

/// What a call of the block storage service answers.
pub(crate) type Answer<T> = Result<T, Fault>;

impl Fault {
    pub(crate) fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    pub(crate) fn bad(message: impl Into<String>) -> Self {
        Self::new(FaultKind::BadRequest, message)
    }

    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::new(FaultKind::Conflict, message)
    }

    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(FaultKind::Forbidden, message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(FaultKind::Internal, message)
    }

    pub(crate) fn missing(what: &str, id: &str) -> Self {
        let shown: String = id.chars().take(64).collect();
        Self::new(FaultKind::NotFound, format!("{what} {shown} could not be found."))
    }

    /// An illegal change, said of a thing.
    pub(crate) fn illegal(what: &str, id: &str, illegal: &Illegal) -> Self {
        Self::bad(format!("Invalid {what}: {what} {id} {illegal}."))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl From<Over> for Fault {
    fn from(over: Over) -> Self {
        Self::new(FaultKind::OverLimit, over.to_string())
    }
}

impl From<rocksdb::Error> for Fault {
    fn from(error: rocksdb::Error) -> Self {
        Self::internal(format!("the catalog failed: {error}"))
    }
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        let kind = match failure.kind {
            ErrorKind::NotFound => FaultKind::NotFound,
            ErrorKind::Exists | ErrorKind::Busy => FaultKind::Conflict,
            ErrorKind::NoSpace => FaultKind::OverLimit,
            ErrorKind::Invalid => FaultKind::BadRequest,
            ErrorKind::Unsupported => FaultKind::Unsupported,
            ErrorKind::Closed => FaultKind::Unavailable,
            _ => FaultKind::Internal,
        };
        Self::new(kind, failure.message)
    }
}

impl From<cairn_engine::Error> for Fault {
    fn from(error: cairn_engine::Error) -> Self {
        Failure::from(error).into()
    }
}

impl From<cairn_backup::Error> for Fault {
    fn from(error: cairn_backup::Error) -> Self {
        Failure::from(error).into()
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        let kind = match fault.kind {
            FaultKind::NotFound => ErrorKind::NotFound,
            FaultKind::Conflict => ErrorKind::Busy,
            FaultKind::OverLimit => ErrorKind::NoSpace,
            FaultKind::Unsupported => ErrorKind::Unsupported,
            FaultKind::Unavailable => ErrorKind::Closed,
            FaultKind::Internal => ErrorKind::Io,
            _ => ErrorKind::Invalid,
        };
        Self::new(kind, fault.message)
    }
}
