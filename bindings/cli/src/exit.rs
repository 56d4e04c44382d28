//! Exit codes: what a script can tell from the outcome without reading it.

use cairn_engine::ErrorKind;
use std::process::ExitCode;

/// A check or a scrub ran and found problems.
pub(crate) const CORRUPT: u8 = 7;

/// The table that `cairn --help` shows; [`code`] must agree with it.
pub(crate) const HELP: &str = "Exit codes:
  0  done
  1  failed (input/output, connection lost, interrupted)
  2  wrong usage or a request that breaks a rule
  3  not found
  4  exists already
  5  busy: in use, or held by another process
  6  no space
  7  corrupt, or a check or scrub found problems
  8  read-only
  9  made by a newer program, or not supported here";

/// The exit code that goes with a kind of failure.
pub(crate) fn code(kind: ErrorKind) -> ExitCode {
    ExitCode::from(match kind {
        ErrorKind::Invalid => 2,
        ErrorKind::NotFound => 3,
        ErrorKind::Exists => 4,
        ErrorKind::Busy => 5,
        ErrorKind::NoSpace => 6,
        ErrorKind::Corrupt => CORRUPT,
        ErrorKind::ReadOnly => 8,
        ErrorKind::Unsupported => 9,
        _ => 1,
    })
}
