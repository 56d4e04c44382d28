//! Reading a body's fields one after the other.

use super::Violation;

/// What is left of a body.
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn new(body: &'a [u8]) -> Self {
        Self(body)
    }

    pub(super) fn take(&mut self, n: usize) -> Result<&'a [u8], Violation> {
        let (head, rest) = self.0.split_at_checked(n).ok_or("a message is shorter than what it should hold")?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Violation> {
        let (head, rest) = self.0.split_first_chunk().ok_or("a message is shorter than what it should hold")?;
        self.0 = rest;
        Ok(*head)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Violation> {
        self.array().map(u16::from_ne_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Violation> {
        self.array().map(u32::from_ne_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Violation> {
        self.array().map(u64::from_ne_bytes)
    }

    /// Whether exactly `n` bytes are left, and some.
    pub(super) fn is_array_rest(&self, n: usize) -> bool {
        n > 0 && self.0.len() == n
    }

    pub(super) fn end(self) -> Result<(), Violation> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(format!("{} bytes more than a message should have", self.0.len()).into())
        }
    }
}
