//! Moments as the interface writes them.

use serde_json::Value;
use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};

const FORMAT: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]");

/// `2026-11-22T07:00:00.000000`, in UTC.
pub(crate) fn moment(us: u64) -> String {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(us) * 1000).ok();
    at.and_then(|at| at.format(FORMAT).ok()).unwrap_or_default()
}

/// The same, or null.
pub(super) fn maybe(us: Option<u64>) -> Value {
    us.map_or(Value::Null, |us| Value::String(moment(us)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_in_utc() {
        assert_eq!(moment(0), "1970-01-01T00:00:00.000000");
        assert_eq!(moment(1_795_330_800_000_123), "2026-11-22T07:00:00.000123");
        assert_eq!(maybe(None), Value::Null);
    }
}
