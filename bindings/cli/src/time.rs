//! Moments as people read them, ISO 8601 in UTC, whatever the locale; and spans of time.

/// `2026-11-21T04:33:00Z` for milliseconds since 1970.
pub(crate) fn iso_utc(ms: u64) -> String {
    let seconds = ms / 1000;
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", of_day / 3600, of_day / 60 % 60, of_day % 60)
}

/// Year, month and day of a day counted from 1970-01-01. Years are taken to begin in March, so that the leap day is last.
fn civil(days: u64) -> (u64, u64, u64) {
    const DAYS_IN_400_YEARS: u64 = 146_097;
    // 0000-03-01 lies 719,468 days before 1970-01-01.
    let days = days + 719_468;
    let (era, day_of_era) = (days / DAYS_IN_400_YEARS, days % DAYS_IN_400_YEARS);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Months from March on have 31, 30, 31, 30, 31 days, in turn.
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year_of_era + carry, month, day)
}

/// Now, in milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// `1.5 ms` for nanoseconds: three digits at most before minutes, then `2 min 5 s`, `3 h 20 min`.
pub(crate) fn span(nanos: u64) -> String {
    const SECOND: u64 = 1_000_000_000;
    if nanos >= 60 * SECOND {
        let seconds = nanos / SECOND;
        return match seconds {
            0..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
            _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        };
    }
    let (unit, name) = match nanos {
        0 => return "0".to_owned(),
        1..999_500 => (1_000, "µs"),
        999_500..999_500_000 => (1_000_000, "ms"),
        _ => (SECOND, "s"),
    };
    let value = nanos as f64 / unit as f64;
    let decimals = match value {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    let number = format!("{value:.decimals$}");
    let number = if decimals > 0 { number.trim_end_matches('0').trim_end_matches('.') } else { &number };
    format!("{number} {name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        assert_eq!(iso_utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(iso_utc(951_782_399_999), "2000-02-28T23:59:59Z");
        assert_eq!(iso_utc(951_782_400_000), "2000-02-29T00:00:00Z");
        assert_eq!(iso_utc(1_709_251_199_000), "2024-02-29T23:59:59Z");
        assert_eq!(iso_utc(1_709_251_200_000), "2024-03-01T00:00:00Z");
        assert_eq!(iso_utc(4_102_444_800_000), "2100-01-01T00:00:00Z");
        assert_eq!(iso_utc(1_795_235_580_000), "2026-11-21T04:33:00Z");
    }

    #[test]
    fn spans_have_three_digits() {
        for (nanos, text) in [
            (0, "0"),
            (2_000, "2 µs"),
            (999_499, "999 µs"),
            (999_500, "1 ms"),
            (1_024_000, "1.02 ms"),
            (99_960_000, "100 ms"),
            (1_500_000_000, "1.5 s"),
            (59_990_000_000, "60 s"),
            (125_000_000_000, "2 min 5 s"),
            (12_000_000_000_000, "3 h 20 min"),
        ] {
            assert_eq!(span(nanos), text, "{nanos}");
        }
    }

    #[test]
    fn every_day_of_four_centuries_follows_the_one_before() {
        let mut last = civil(0);
        for day in 1..146_097 {
            let next = civil(day);
            let same_month = next.0 == last.0 && next.1 == last.1 && next.2 == last.2 + 1;
            let new_month =
                next.2 == 1 && last.2 >= 28 && (next.1 == last.1 + 1 || next.1 == 1 && next.0 == last.0 + 1);
            assert!(same_month || new_month, "{last:?} then {next:?}");
            last = next;
        }
        assert_eq!(last, (2369, 12, 31));
    }
}
