//! A cursor over received bytes: every step is checked, none panics.

use super::Violation;

const SHORT: Violation = Violation::Malformed("the message ends before its last field");

/// Reads fields from the front of a byte string.
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Violation> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(SHORT)?;
        self.rest = rest;
        Ok(*head)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Violation> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Violation> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Violation> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn take(&mut self, length: u32) -> Result<&'a [u8], Violation> {
        let length = usize::try_from(length).map_err(|_| SHORT)?;
        let (head, rest) = self.rest.split_at_checked(length).ok_or(SHORT)?;
        self.rest = rest;
        Ok(head)
    }

    /// A string with its 32-bit length before it.
    pub(super) fn string(&mut self) -> Result<&'a str, Violation> {
        let length = self.u32()?;
        let bytes = self.take(length)?;
        text(bytes)
    }

    /// How many bytes are left.
    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    /// Refuses bytes after the last field.
    pub(super) fn end(&self) -> Result<(), Violation> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Violation::Malformed("the message goes on after its last field"))
        }
    }
}

/// The protocol's string: UTF-8 without NUL, at most 4,096 bytes.
pub(super) fn text(bytes: &[u8]) -> Result<&str, Violation> {
    if bytes.len() > super::MAX_STRING {
        return Err(Violation::TooBig("a string is longer than the 4096 bytes that the protocol allows"));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err(Violation::Malformed("a string is not UTF-8 without NUL")),
    }
}
