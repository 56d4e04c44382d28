//! Errors: a kind that says what the caller can do, the context, and the source.

use std::{fmt, io, sync::Arc};

/// What went wrong, in terms of what the caller can do about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The named thing does not exist.
    NotFound,
    /// The name is taken.
    Exists,
    /// In use, or in a state that does not allow this now: try again, or detach first.
    Busy,
    /// The pool (or the file system under it) has no room: delete something or add space.
    NoSpace,
    /// Stored bytes do not match their checksum: restore from a backup; never returned as data.
    Corrupt,
    /// The pool or the volume takes no writes.
    ReadOnly,
    /// The request itself is wrong: its text says which rule it breaks.
    Invalid,
    /// The pool was made by a newer program: upgrade this one.
    Unsupported,
    /// The device or file answered with an error.
    Io,
    /// The pool was closed, or its reactor has stopped.
    Closed,
}

impl ErrorKind {
    /// Short stable name, as used in JSON answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not-found",
            Self::Exists => "exists",
            Self::Busy => "busy",
            Self::NoSpace => "no-space",
            Self::Corrupt => "corrupt",
            Self::ReadOnly => "read-only",
            Self::Invalid => "invalid",
            Self::Unsupported => "unsupported",
            Self::Io => "io",
            Self::Closed => "closed",
        }
    }
}

/// An error of the engine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Error {
    kind: ErrorKind,
    context: String,
    source: Option<Arc<io::Error>>,
}

/// Result of an engine operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind`; `context` names the thing and the remedy.
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), source: None }
    }

    /// An error that the operating system reported. "No space" keeps its own kind.
    pub fn io(context: impl Into<String>, source: io::Error) -> Self {
        let kind = match source.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => ErrorKind::NoSpace,
            Some(libc::ENOENT) => ErrorKind::NotFound,
            Some(libc::EROFS) => ErrorKind::ReadOnly,
            _ => ErrorKind::Io,
        };
        Self { kind, context: context.into(), source: Some(Arc::new(source)) }
    }

    /// What the caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The text without its source.
    #[must_use]
    pub fn context(&self) -> &str {
        &self.context
    }

    /// The same error with `outer` put in front of its text.
    #[must_use]
    pub fn within(mut self, outer: impl fmt::Display) -> Self {
        self.context = format!("{outer}: {}", self.context);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

macro_rules! constructors {
    ($($name:ident => $kind:ident),*) => {$(
        pub(crate) fn $name(context: impl Into<String>) -> Error {
            Error::new(ErrorKind::$kind, context)
        }
    )*};
}
constructors!(not_found => NotFound, exists => Exists, busy => Busy, no_space => NoSpace, corrupt => Corrupt,
    read_only => ReadOnly, invalid => Invalid, unsupported => Unsupported, closed => Closed);
