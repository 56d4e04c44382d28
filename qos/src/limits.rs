//! What a volume, a group or a pool may do, as the platform says it: keys and numbers.

use std::{collections::BTreeMap, error, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::Nanos;

/// Bytes of a gigabyte as `_per_gb` counts it.
const GB: u64 = 1 << 30;
/// Longest burst in seconds: a day.
const LONGEST: u64 = 86_400;

/// One of the six limits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Key {
    /// Requests a second.
    TotalIops,
    /// Reads a second.
    ReadIops,
    /// Writes, discards and zeroings a second.
    WriteIops,
    /// Bytes a second, read or written.
    TotalBytes,
    /// Bytes read a second.
    ReadBytes,
    /// Bytes written a second.
    WriteBytes,
}

impl Key {
    /// All six.
    pub const ALL: [Self; 6] =
        [Self::TotalIops, Self::ReadIops, Self::WriteIops, Self::TotalBytes, Self::ReadBytes, Self::WriteBytes];

    /// Its name, as `total_iops_sec`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TotalIops => "total_iops_sec",
            Self::ReadIops => "read_iops_sec",
            Self::WriteIops => "write_iops_sec",
            Self::TotalBytes => "total_bytes_sec",
            Self::ReadBytes => "read_bytes_sec",
            Self::WriteBytes => "write_bytes_sec",
        }
    }

    /// Whether it counts bytes, not requests.
    #[must_use]
    pub const fn is_bytes(self) -> bool {
        matches!(self, Self::TotalBytes | Self::ReadBytes | Self::WriteBytes)
    }
}

/// A rule that some limits break.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Invalid(String);

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl error::Error for Invalid {}

fn invalid<T>(text: impl Into<String>) -> Result<T, Invalid> {
    Err(Invalid(text.into()))
}

/// Limits by their keys. Only sets that keep the rules can be made:
///
/// - a value is a whole number above zero; for bytes also with a unit (`64MiB`);
/// - a total excludes the read and the write limit of the same unit;
/// - `KEY_max` (the rate of a burst) is not below `KEY` and goes with `KEY` or `KEY_per_gb`;
/// - `KEY_max_length` (seconds of a burst, 1 unless said) goes with `KEY_max`;
/// - `KEY_per_gb` follows the volume's size and excludes `KEY`; `KEY_per_gb_min`, its floor, goes with it;
/// - `size_iops_sec`: a request of more bytes counts as several;
/// - `weight` (1 to 1000; 1 unless said) is the share when the pool is contended for, `reserve_iops_sec` what is kept for a volume even then.
///
/// ```
/// use cairn_qos::Limits;
/// let limits: Limits = "total_iops_sec=1000 total_iops_sec_max=3000 total_iops_sec_max_length=10 read_bytes_sec=64MiB".parse()?;
/// assert_eq!(limits.get("read_bytes_sec"), Some(64 << 20));
/// let wrong = "total_iops_sec=1000 read_iops_sec=500".parse::<Limits>().unwrap_err().to_string();
/// assert!(wrong.contains("total_iops_sec") && wrong.contains("read_iops_sec"));
/// # Ok::<_, cairn_qos::Invalid>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, u64>", into = "BTreeMap<String, u64>")]
pub struct Limits {
    values: BTreeMap<&'static str, u64>,
}

/// What a limit comes to for a volume of a certain size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Effective {
    /// Which limit.
    pub key: Key,
    /// Requests or bytes a second for good.
    pub rate: u64,
    /// Of a burst: its rate, and for how many seconds it lasts when nothing was used before.
    pub burst: Option<(u64, u64)>,
}

/// Every key there is, by its name.
fn known(name: &str) -> Option<&'static str> {
    Limits::KEYS.into_iter().find(|known| *known == name)
}

/// Whether a key's value is in bytes.
fn in_bytes(name: &str) -> bool {
    name == "size_iops_sec" || (name.contains("_bytes_sec") && !name.ends_with("_max_length"))
}

fn number(name: &'static str, text: &str) -> Result<u64, Invalid> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = match unit {
        "" => 1u64,
        "B" if in_bytes(name) => 1,
        "KiB" if in_bytes(name) => 1 << 10,
        "MiB" if in_bytes(name) => 1 << 20,
        "GiB" if in_bytes(name) => 1 << 30,
        "TiB" if in_bytes(name) => 1 << 40,
        _ if in_bytes(name) => {
            return invalid(format!("{name}={text}: a whole number of bytes above zero is needed, as 1048576 or 1MiB"));
        }
        _ => return invalid(format!("{name}={text}: a whole number above zero is needed")),
    };
    let value = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(factor));
    match value {
        Some(value) => Ok(value),
        None if digits.is_empty() => invalid(format!("{name}={text}: a whole number above zero is needed")),
        None => invalid(format!("{name}={text}: more than {} cannot be counted", u64::MAX)),
    }
}

impl Limits {
    /// The names of all keys. Their places are what is stored of them: new ones come behind, and none goes.
    pub const KEYS: [&str; 33] = [
        "total_iops_sec",
        "total_iops_sec_max",
        "total_iops_sec_max_length",
        "total_iops_sec_per_gb",
        "total_iops_sec_per_gb_min",
        "read_iops_sec",
        "read_iops_sec_max",
        "read_iops_sec_max_length",
        "read_iops_sec_per_gb",
        "read_iops_sec_per_gb_min",
        "write_iops_sec",
        "write_iops_sec_max",
        "write_iops_sec_max_length",
        "write_iops_sec_per_gb",
        "write_iops_sec_per_gb_min",
        "total_bytes_sec",
        "total_bytes_sec_max",
        "total_bytes_sec_max_length",
        "total_bytes_sec_per_gb",
        "total_bytes_sec_per_gb_min",
        "read_bytes_sec",
        "read_bytes_sec_max",
        "read_bytes_sec_max_length",
        "read_bytes_sec_per_gb",
        "read_bytes_sec_per_gb_min",
        "write_bytes_sec",
        "write_bytes_sec_max",
        "write_bytes_sec_max_length",
        "write_bytes_sec_per_gb",
        "write_bytes_sec_per_gb_min",
        "size_iops_sec",
        "weight",
        "reserve_iops_sec",
    ];

    /// None: everything is allowed.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Whether nothing is limited, weighted or reserved.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<u64> {
        self.values.get(name).copied()
    }

    /// Keys and values, in order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.values.iter().map(|(name, value)| (*name, *value))
    }

    /// The same with some keys changed or, without a value, taken out. All at once, so that the order of the changes is of no matter.
    ///
    /// # Errors
    /// A key is unknown, a value is none, or a rule is broken; the text names the keys.
    pub fn changed<'a>(&self, changes: impl IntoIterator<Item = (&'a str, Option<&'a str>)>) -> Result<Self, Invalid> {
        let mut values = self.values.clone();
        let mut seen: BTreeMap<&str, ()> = BTreeMap::new();
        for (name, text) in changes {
            let Some(name) = known(name) else {
                return invalid(format!(
                    "{name} is no key of QoS: they are {}_sec with _max, _max_length, _per_gb or _per_gb_min behind it, size_iops_sec, weight and reserve_iops_sec",
                    "{total,read,write}_{iops,bytes}"
                ));
            };
            if seen.insert(name, ()).is_some() {
                return invalid(format!("{name} is given twice"));
            }
            match text {
                Some(text) => drop(values.insert(name, number(name, text)?)),
                None => drop(values.remove(name)),
            }
        }
        Self::checked(values)
    }

    fn checked(values: BTreeMap<&'static str, u64>) -> Result<Self, Invalid> {
        let this = Self { values };
        for (name, value) in this.iter() {
            if value == 0 {
                return invalid(format!("{name}=0: it has to be above zero; to lift a limit take it out"));
            }
            if name.ends_with("_max_length") && value > LONGEST {
                return invalid(format!("{name}={value}: a burst lasts {LONGEST} seconds at most"));
            }
        }
        if this.get("weight").is_some_and(|weight| weight > 1000) {
            return invalid("weight: 1 to 1000");
        }
        for key in Key::ALL {
            this.check_key(key)?;
        }
        for unit in ["iops", "bytes"] {
            let set = |side: &str| {
                let plain = format!("{side}_{unit}_sec");
                [plain.clone(), format!("{plain}_per_gb")].into_iter().find(|name| this.get(name).is_some())
            };
            if let (Some(total), Some(side)) = (set("total"), set("read").or_else(|| set("write"))) {
                return invalid(format!("{total} and {side} exclude each other: a total, or reads and writes apart"));
            }
        }
        Ok(this)
    }

    fn check_key(&self, key: Key) -> Result<(), Invalid> {
        let name = key.name();
        let value = |suffix: &str| self.get(&format!("{name}{suffix}"));
        let (plain, max, per_gb) = (value(""), value("_max"), value("_per_gb"));
        if plain.is_some() && per_gb.is_some() {
            return invalid(format!("{name} and {name}_per_gb exclude each other: a fixed rate, or one by size"));
        }
        if max.is_some() && plain.or(per_gb).is_none() {
            return invalid(format!("{name}_max needs {name} or {name}_per_gb: a burst is above a rate"));
        }
        if let (Some(rate), Some(max)) = (plain, max)
            && max < rate
        {
            return invalid(format!("{name}_max={max} is below {name}={rate}: a burst is not slower than the rate"));
        }
        if value("_max_length").is_some() && max.is_none() {
            return invalid(format!("{name}_max_length needs {name}_max: it says how long that lasts"));
        }
        if value("_per_gb_min").is_some() && per_gb.is_none() {
            return invalid(format!("{name}_per_gb_min needs {name}_per_gb: it is its floor"));
        }
        if let (Some(floor), Some(max)) = (value("_per_gb_min"), max)
            && max < floor
        {
            return invalid(format!(
                "{name}_max={max} is below {name}_per_gb_min={floor}: a burst is not slower than the rate"
            ));
        }
        Ok(())
    }

    /// What the limits come to for a volume of so many bytes. A rate by size is not above the rate of its burst.
    #[must_use]
    pub fn effective(&self, size: u64) -> Vec<Effective> {
        let of = |key: Key| {
            let value = |suffix: &str| self.get(&format!("{}{suffix}", key.name()));
            let by_size = |per_gb: u64| {
                let rate = u128::from(per_gb) * u128::from(size) / u128::from(GB);
                u64::try_from(rate).unwrap_or(u64::MAX).max(value("_per_gb_min").unwrap_or(1))
            };
            let rate = value("").or_else(|| value("_per_gb").map(by_size))?;
            let max = value("_max");
            let rate = rate.min(max.unwrap_or(u64::MAX));
            let burst = max.filter(|max| *max > rate).map(|max| (max, value("_max_length").unwrap_or(1)));
            Some(Effective { key, rate, burst })
        };
        Key::ALL.into_iter().filter_map(of).collect()
    }

    /// As how many requests one of so many bytes counts.
    #[must_use]
    pub fn requests(&self, bytes: u64) -> u64 {
        self.get("size_iops_sec").map_or(1, |size| bytes.div_ceil(size).max(1))
    }

    /// Share when the pool is contended for.
    #[must_use]
    pub fn weight(&self) -> u64 {
        self.get("weight").unwrap_or(1)
    }

    /// Requests a second that are served before those of others, whatever the weights.
    #[must_use]
    pub fn reserved(&self) -> Option<u64> {
        self.get("reserve_iops_sec")
    }
}

impl FromStr for Limits {
    type Err = Invalid;

    /// `key=value`, separated by spaces or commas.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let words = text.split([' ', ',']).filter(|word| !word.is_empty());
        let pairs = words.map(|word| match word.split_once('=') {
            Some((key, value)) => Ok((key, Some(value))),
            None => invalid(format!("{word}: KEY=VALUE is needed")),
        });
        Self::none().changed(pairs.collect::<Result<Vec<_>, _>>()?)
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (name, value)) in self.iter().enumerate() {
            write!(f, "{}{name}={value}", if n == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

impl TryFrom<BTreeMap<String, u64>> for Limits {
    type Error = Invalid;

    fn try_from(map: BTreeMap<String, u64>) -> Result<Self, Invalid> {
        let texts: Vec<(String, String)> = map.into_iter().map(|(name, value)| (name, value.to_string())).collect();
        Self::none().changed(texts.iter().map(|(name, value)| (name.as_str(), Some(value.as_str()))))
    }
}

impl From<Limits> for BTreeMap<String, u64> {
    fn from(limits: Limits) -> Self {
        limits.iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// Seconds as the crate counts time.
pub(crate) const fn nanos(seconds: u64) -> Nanos {
    seconds.saturating_mul(crate::SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wrong(text: &str) -> String {
        text.parse::<Limits>().unwrap_err().to_string()
    }

    #[test]
    fn every_broken_rule_is_told_with_its_keys() {
        for (text, parts) in [
            ("bogus=1", &["bogus", "size_iops_sec"][..]),
            ("total_iops_sec", &["total_iops_sec", "KEY=VALUE"]),
            ("total_iops_sec=", &["total_iops_sec=", "whole number"]),
            ("total_iops_sec=-5", &["total_iops_sec=-5", "above zero"]),
            ("total_iops_sec=1.5", &["total_iops_sec=1.5"]),
            ("total_iops_sec=0", &["total_iops_sec=0", "take it out"]),
            ("total_iops_sec=5MiB", &["total_iops_sec=5MiB"]),
            ("read_bytes_sec=5MB", &["read_bytes_sec=5MB", "1MiB"]),
            ("read_bytes_sec=18446744073709551616", &["read_bytes_sec", "cannot be counted"]),
            ("read_bytes_sec=99999999TiB", &["read_bytes_sec", "cannot be counted"]),
            ("total_iops_sec=1 total_iops_sec=2", &["total_iops_sec", "twice"]),
            ("total_iops_sec=9 read_iops_sec=5", &["total_iops_sec", "read_iops_sec", "exclude"]),
            ("total_bytes_sec=9 write_bytes_sec=5", &["total_bytes_sec", "write_bytes_sec", "exclude"]),
            ("total_bytes_sec_per_gb=9 write_bytes_sec=5", &["total_bytes_sec_per_gb", "write_bytes_sec"]),
            ("total_iops_sec=9 total_iops_sec_max=8", &["total_iops_sec_max=8", "total_iops_sec=9"]),
            ("total_iops_sec_max=8", &["total_iops_sec_max needs"]),
            ("total_iops_sec=9 total_iops_sec_max_length=8", &["total_iops_sec_max_length needs"]),
            ("total_iops_sec=9 total_iops_sec_max=9 total_iops_sec_max_length=86401", &["86400 seconds"]),
            ("read_iops_sec=9 read_iops_sec_per_gb=8", &["read_iops_sec and read_iops_sec_per_gb"]),
            ("read_iops_sec=9 read_iops_sec_per_gb_min=8", &["read_iops_sec_per_gb_min needs"]),
            (
                "read_iops_sec_per_gb=1 read_iops_sec_per_gb_min=8 read_iops_sec_max=7",
                &["read_iops_sec_max=7", "min=8"],
            ),
            ("weight=1001", &["weight"]),
        ] {
            let said = wrong(text);
            assert!(parts.iter().all(|part| said.contains(part)), "{text}: {said}");
        }
    }

    #[test]
    fn rates_by_size_have_a_floor_and_a_ceiling() {
        let limits: Limits =
            "read_iops_sec_per_gb=50 read_iops_sec_per_gb_min=120 read_iops_sec_max=2000".parse().unwrap();
        let rate = |size: u64| limits.effective(size)[0];
        assert_eq!((rate(GB).rate, rate(GB).burst), (120, Some((2000, 1))));
        assert_eq!(rate(10 * GB).rate, 500);
        assert_eq!((rate(100 * GB).rate, rate(100 * GB).burst), (2000, None));
        assert_eq!(rate(u64::MAX).rate, 2000);
        let tiny: Limits = "total_bytes_sec_per_gb=1".parse().unwrap();
        assert_eq!((tiny.effective(0)[0].rate, tiny.effective(5 * GB)[0].rate), (1, 5));
    }

    #[test]
    fn large_requests_count_as_several() {
        let limits: Limits = "size_iops_sec=16KiB".parse().unwrap();
        assert_eq!([0, 1, 16384, 16385, 1 << 20].map(|bytes| limits.requests(bytes)), [1, 1, 1, 2, 64]);
        assert_eq!(Limits::none().requests(1 << 30), 1);
    }

    #[test]
    fn changes_are_all_or_nothing_and_in_any_order() {
        let limits: Limits = "total_iops_sec=100 total_iops_sec_max=200".parse().unwrap();
        let raised = limits.changed([("total_iops_sec", Some("500")), ("total_iops_sec_max", Some("600"))]).unwrap();
        assert_eq!(raised.to_string(), "total_iops_sec=500 total_iops_sec_max=600");
        assert!(limits.changed([("total_iops_sec", Some("500"))]).is_err());
        let split =
            limits.changed([("read_iops_sec", Some("5")), ("total_iops_sec", None), ("total_iops_sec_max", None)]);
        assert_eq!(split.unwrap().to_string(), "read_iops_sec=5");
    }

    proptest! {
        #[test]
        fn text_and_json_come_back_and_no_text_panics(
            iops in 1..u64::MAX / 2, extra in 0..1000u64, length in 1..LONGEST, bytes in 1..u64::MAX, any in "[a-z_=0-9 ,KMiB-]{0,60}"
        ) {
            let text = format!(
                "total_iops_sec={iops} total_iops_sec_max={} total_iops_sec_max_length={length} read_bytes_sec={bytes} weight=3",
                iops + extra
            );
            let limits: Limits = text.parse().unwrap();
            prop_assert_eq!(&limits.to_string().parse::<Limits>().unwrap(), &limits);
            let json = serde_json::to_string(&limits).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Limits>(&json).unwrap(), &limits);
            for effective in limits.effective(iops) {
                prop_assert!(effective.burst.is_none_or(|(max, _)| max > effective.rate));
            }
            let _any = any.parse::<Limits>();
        }
    }
}
