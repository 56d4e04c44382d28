//! Microversions: which edition of the interface a request speaks.

use std::fmt;

/// An edition: `3.minor`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Microversion(pub(crate) u32);

/// What a request without the header speaks.
pub(crate) const OLDEST: Microversion = Microversion(0);
/// The newest that is known here.
pub(crate) const NEWEST: Microversion = Microversion(71);

/// A header that asks for what there is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It cannot be read: 400.
    Malformed(String),
    /// It names an edition that is not served: 406.
    OutOfRange(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(text) => {
                write!(f, "API version {text:?} is not of the form \"volume 3.N\" or \"volume latest\"")
            }
            Self::OutOfRange(text) => write!(f, "API version {text} is not served: {OLDEST} to {NEWEST} are"),
        }
    }
}

impl fmt::Display for Microversion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "3.{}", self.0)
    }
}

impl Microversion {
    /// From the values of the header `OpenStack-API-Version`, which may name other services too. None: the oldest.
    ///
    /// # Errors
    /// [`Refused`].
    pub(crate) fn of_headers<'a>(values: impl IntoIterator<Item = &'a str>) -> Result<Self, Refused> {
        for part in values.into_iter().flat_map(|value| value.split(',')) {
            let mut words = part.split_ascii_whitespace();
            if !matches!(words.next(), Some("volume" | "block-storage")) {
                continue;
            }
            return match (words.next(), words.next()) {
                (Some("latest"), None) => Ok(NEWEST),
                (Some(number), None) => Self::parse(number),
                _ => Err(Refused::Malformed(part.trim().to_owned())),
            };
        }
        Ok(OLDEST)
    }

    fn parse(text: &str) -> Result<Self, Refused> {
        let number = |digits: &str| match digits.bytes().all(|byte| byte.is_ascii_digit()) {
            true => digits.parse::<u32>().ok(),
            false => None,
        };
        let parts = text.split_once('.').and_then(|(major, minor)| Some((number(major)?, number(minor)?)));
        match parts {
            None => Err(Refused::Malformed(text.to_owned())),
            Some((3, minor)) if minor <= NEWEST.0 => Ok(Self(minor)),
            Some(_) => Err(Refused::OutOfRange(text.to_owned())),
        }
    }

    /// Whether it has what came with `3.minor`.
    pub(crate) fn has(self, minor: u32) -> bool {
        self.0 >= minor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_name_an_edition() {
        let of = |values: &[&str]| Microversion::of_headers(values.iter().copied());
        assert_eq!(of(&[]), Ok(OLDEST));
        assert_eq!(of(&["compute 2.50"]), Ok(OLDEST));
        assert_eq!(of(&["volume 3.0"]), Ok(Microversion(0)));
        assert_eq!(of(&["volume 3.71"]), Ok(NEWEST));
        assert_eq!(of(&["volume latest"]), Ok(NEWEST));
        assert_eq!(of(&["compute 2.1, volume 3.27"]), Ok(Microversion(27)));
        assert_eq!(of(&["compute 2.1", "block-storage 3.5"]), Ok(Microversion(5)));
        for text in ["volume 3.72", "volume 2.0", "volume 4.0", "volume 3.4294967295"] {
            assert!(matches!(of(&[text]), Err(Refused::OutOfRange(_))), "{text}");
        }
        for text in [
            "volume",
            "volume 3",
            "volume three",
            "volume 3.-1",
            "volume 3.+1",
            "volume 3.1 2",
            "volume 3.",
            "volume .1",
        ] {
            assert!(matches!(of(&[text]), Err(Refused::Malformed(_))), "{text}: {:?}", of(&[text]));
        }
        assert!(NEWEST.has(71) && !OLDEST.has(1));
        assert_eq!(NEWEST.to_string(), "3.71");
    }
}
