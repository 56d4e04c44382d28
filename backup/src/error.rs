//! What can go wrong with a repository: each error names the object and, where there is one, the remedy.

use std::fmt;

/// Kinds of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A name, URL, number or option is wrong.
    Invalid,
    /// The object, backup or volume is not there.
    NotFound,
    /// It is there already.
    Exists,
    /// Stored bytes are not what they should be.
    Corrupt,
    /// Made by a newer format.
    Unsupported,
    /// The key or passphrase does not fit this repository, or there is none.
    Key,
    /// Others depend on it: they are named.
    InUse,
    /// It was cancelled.
    Cancelled,
    /// The store answered an error, or does not answer; or the cache beside it failed.
    Store,
    /// The pool or the volume failed.
    Volume,
}

/// An error: its kind, and a sentence for people.
#[derive(Clone, Debug)]
pub struct Error {
    kind: ErrorKind,
    text: String,
}

/// What a fallible operation of this crate answers.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of this kind.
    #[must_use]
    pub fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }

    /// What kind it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The same, said of something larger: `what: …`.
    #[must_use]
    pub fn within(self, what: impl fmt::Display) -> Self {
        Self { kind: self.kind, text: format!("{what}: {}", self.text) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Error {}

pub(crate) fn invalid(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, text)
}

pub(crate) fn corrupt(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, text)
}
