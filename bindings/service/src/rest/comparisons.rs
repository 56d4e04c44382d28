//! Moments as filters name them: `gt:2026-11-22T07:00:00`, several divided by commas.

use std::cmp::Ordering;

use super::time::parsed;
use crate::fault::{Answer, Fault};

/// Comparisons of one filter. Each is made for each object of a list.
const MOST: usize = 16;

/// Operators, with what a moment has to be that they let through.
const OPERATORS: [(&str, &[Ordering]); 6] = [
    ("gt", &[Ordering::Greater]),
    ("gte", &[Ordering::Greater, Ordering::Equal]),
    ("eq", &[Ordering::Equal]),
    ("neq", &[Ordering::Less, Ordering::Greater]),
    ("lt", &[Ordering::Less]),
    ("lte", &[Ordering::Less, Ordering::Equal]),
];

/// What a moment has to be, all of it.
#[derive(Debug)]
pub(super) struct Comparisons(Vec<(&'static [Ordering], i128)>);

impl Comparisons {
    /// Reads them.
    ///
    /// # Errors
    /// `BadRequest`, with the key.
    pub(super) fn parse(key: &str, text: &str) -> Answer<Self> {
        let one = |part: &str| {
            let (name, moment) = part.split_once(':').unwrap_or((part, ""));
            let operator = OPERATORS.iter().find(|(operator, _)| *operator == name).ok_or_else(|| {
                Fault::bad(format!(
                    "Invalid {key} operator {name:?}: gt, gte, eq, neq, lt or lte, a colon, and a time of ISO 8601"
                ))
            })?;
            let at = parsed(moment).ok_or_else(|| {
                Fault::bad(format!("Invalid {key} value {moment:?}: a time of ISO 8601, as 2026-11-22T07:00:00+01:00"))
            })?;
            Ok((operator.1, at))
        };
        let parts: Vec<&str> = text.split(',').take(MOST + 1).collect();
        if parts.len() > MOST {
            return Err(Fault::bad(format!(
                "{key} has more than {MOST} comparisons: two of them say between which moments"
            )));
        }
        parts.into_iter().map(one).collect::<Answer<_>>().map(Self)
    }

    /// Whether a moment, in microseconds since 1970, is what all of them want. What has none never is, not even unequal.
    pub(super) fn fit(&self, moment: Option<u64>) -> bool {
        let Some(us) = moment else { return false };
        let at = i128::from(us) * 1000;
        self.0.iter().all(|(orders, wanted)| orders.contains(&at.cmp(wanted)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fault::FaultKind, rest::moment};

    #[test]
    fn each_operator_lets_its_own_through() {
        let (before, at, after) = (1_795_330_799_999_999, 1_795_330_800_000_000, 1_795_330_800_000_001);
        for (operator, through) in [
            ("gt", [false, false, true]),
            ("gte", [false, true, true]),
            ("eq", [false, true, false]),
            ("neq", [true, false, true]),
            ("lt", [true, false, false]),
            ("lte", [true, true, false]),
        ] {
            // The same moment, as several people write it.
            for time in ["2026-11-22T07:00:00", "2026-11-22T08:00:00+01:00", "2026-11-22 07:00:00Z", &moment(at)] {
                let wanted = Comparisons::parse("created_at", &format!("{operator}:{time}")).unwrap();
                let fit = [before, at, after].map(|us| wanted.fit(Some(us)));
                assert_eq!(fit, through, "{operator}:{time}");
                assert!(!wanted.fit(None), "{operator}: what has no time");
            }
        }
    }

    #[test]
    fn several_have_to_fit_together() {
        let second = |n: u64| Some(n * 1_000_000);
        let of = |text: &str| Comparisons::parse("created_at", text).unwrap();
        let range = of("gte:1970-01-01T00:00:02,lt:1970-01-01T00:00:05,neq:1970-01-01T00:00:03");
        let fit: Vec<u64> = (0..10).filter(|n| range.fit(second(*n))).collect();
        assert_eq!(fit, [2, 4]);
        let never = of("lt:1970-01-01T00:00:02,gt:1970-01-01T00:00:05");
        assert!((0..10).all(|n| !never.fit(second(n))));
        let twice = of("gt:1970-01-01T00:00:02,gt:1970-01-01T00:00:05");
        assert_eq!((0..10).filter(|n| twice.fit(second(*n))).count(), 4);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, says) in [
            ("", "operator"),
            ("123", "operator"),
            ("2026-11-22T07:00:00", "operator"),
            ("GT:2026-11-22T07:00:00", "operator"),
            ("ne:2026-11-22T07:00:00", "operator"),
            (" gt:2026-11-22T07:00:00", "operator"),
            ("gt:2026-11-22T07:00:00,", "operator"),
            ("gt:2026-11-22T07:00:00,2026-11-22T07:00:00", "operator"),
            ("gt", "value"),
            ("gt:", "value"),
            ("gt:123", "value"),
            ("gt:yesterday", "value"),
            ("gt:2026-13-22T07:00:00", "value"),
            ("gt:2026-11-22T25:00:00", "value"),
            ("gt:2026-11-22T07:00:00+99:00", "value"),
            // A plus that was not encoded is a space.
            ("gt:2026-11-22T07:00:00 01:00", "value"),
            ("gt:2026-11-22T07:00:00;lt:2026-11-22T08:00:00", "value"),
            ("gt:é2026-11-22", "value"),
        ] {
            let fault = Comparisons::parse("updated_at", text).map(drop).unwrap_err();
            assert_eq!(fault.kind, FaultKind::BadRequest, "{text:?}");
            assert!(fault.message.contains("updated_at") && fault.message.contains(says), "{text:?}: {fault}");
        }
    }
}
