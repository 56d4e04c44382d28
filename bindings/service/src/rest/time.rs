//! Moments as the interface writes them.

use serde_json::Value;
use std::borrow::Cow;
use time::{
    Date, OffsetDateTime, PrimitiveDateTime, Time,
    format_description::{BorrowedFormatItem, well_known::Iso8601},
    macros::format_description,
};

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

/// A time of ISO 8601, as clients write it: a day alone begins it, without a zone it is in UTC, and between day and time there may be a
/// space, as Python writes it. Nanoseconds since 1970.
pub(super) fn parsed(text: &str) -> Option<i128> {
    let text = match (text.get(..10), text.get(10..11), text.get(11..)) {
        (Some(day), Some(" "), Some(time)) => Cow::Owned(format!("{day}T{time}")),
        _ => Cow::Borrowed(text),
    };
    let at = OffsetDateTime::parse(&text, &Iso8601::DEFAULT)
        .or_else(|_| PrimitiveDateTime::parse(&text, &Iso8601::DEFAULT).map(PrimitiveDateTime::assume_utc))
        .or_else(|_| Date::parse(&text, &Iso8601::DEFAULT).map(|day| day.with_time(Time::MIDNIGHT).assume_utc()));
    at.ok().map(OffsetDateTime::unix_timestamp_nanos)
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

    #[test]
    fn times_are_read_as_clients_write_them() {
        let ns = |us: u64| Some(i128::from(us) * 1000);
        let at = 1_795_330_800_000_000;
        for text in [
            "2026-11-22T07:00:00",
            "2026-11-22T07:00:00Z",
            "2026-11-22T07:00:00+00:00",
            "2026-11-22T12:30:00+05:30",
            "2026-11-22T12:30:00+0530",
            "2026-11-21T23:00:00-08:00",
            "2026-11-22T07:00:00.000000",
            "2026-11-22 07:00:00",
            "2026-11-22 08:00:00+01:00",
            "20261122T070000Z",
            "2026-11-22T07:00",
        ] {
            assert_eq!(parsed(text), ns(at), "{text}");
        }
        assert_eq!(parsed("2026-11-22"), ns(at - 7 * 3_600_000_000));
        assert_eq!(parsed(&moment(at + 123)), ns(at + 123));
        assert_eq!(parsed("1969-12-31T23:59:59Z"), Some(-1_000_000_000));
        assert_eq!(parsed("2026-11-22T07:00:00.000000001Z"), ns(at).map(|ns| ns + 1));
        for text in
            ["", "now", "123", "07:00:00", "T07:00:00Z", "2026-11-22T07:00:00 ", "2026-11-22  07:00:00", "22.11.2026"]
        {
            assert_eq!(parsed(text), None, "{text:?}");
        }
    }
}
