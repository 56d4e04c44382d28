//! Keys: parts divided by a zero byte, in an order that lists need.
//!
//! Invariant: no part, whatever a client put into it, holds the divider: zeros and ones within it are escaped. So no name leads into
//! another's range.

/// Divides parts.
const DIVIDER: u8 = 0;
/// Stands before an escaped byte.
const ESCAPE: u8 = 1;

/// What is being put together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key(Vec<u8>);

impl Key {
    /// A key that begins with what it is the key of.
    pub(crate) fn new(space: &'static str) -> Self {
        Self([space.as_bytes(), &[DIVIDER]].concat())
    }

    /// With one more part.
    #[must_use]
    pub(crate) fn with(mut self, part: &str) -> Self {
        for byte in part.bytes() {
            match byte {
                DIVIDER | ESCAPE => self.0.extend([ESCAPE, byte + 1]),
                _ => self.0.push(byte),
            }
        }
        self.0.push(DIVIDER);
        self
    }

    /// With a moment, so that later ones come first. Eight bytes, in which the divider may occur: nothing but an id comes after it.
    #[must_use]
    pub(crate) fn newest_first(mut self, moment: u64) -> Self {
        self.0.extend((!moment).to_be_bytes());
        self
    }

    /// With a moment, so that earlier ones come first. Eight bytes, likewise.
    #[must_use]
    pub(crate) fn oldest_first(self, moment: u64) -> Self {
        self.newest_first(!moment)
    }

    /// As it is stored; also what all keys begin with that have these parts first.
    pub(crate) fn bytes(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_part_leads_into_anothers_range() {
        let of = |a: &str, b: &str| Key::new("x").with(a).with(b).bytes();
        let pairs =
            [("a", "b"), ("a\0b", ""), ("a", "\0b"), ("a\u{1}", "b"), ("a\u{1}\u{1}", "b"), ("", "a\0b"), ("a\0", "b")];
        for (i, one) in pairs.iter().enumerate() {
            for other in &pairs[..i] {
                assert_ne!(of(one.0, one.1), of(other.0, other.1), "{one:?} {other:?}");
                let range = Key::new("x").with(one.0).bytes();
                assert_eq!(of(other.0, other.1).starts_with(&range), one.0 == other.0, "{one:?} {other:?}");
            }
        }
    }

    #[test]
    fn later_moments_come_first() {
        let at = |moment| Key::new("x").newest_first(moment).bytes();
        assert!(at(2) < at(1) && at(1) < at(0) && at(u64::MAX) < at(2));
        let at = |moment| Key::new("x").oldest_first(moment).bytes();
        assert!(at(0) < at(1) && at(1) < at(2) && at(2) < at(u64::MAX));
    }
}
