//! Whether what is read is what was written: bytes that describe themselves, and a record of what was written last.

pub(crate) mod ledger;
pub(crate) mod unit;
