//! On-disk structures: encoding, decoding, and nothing else.
//!
//! All integers are little-endian. Decoders take foreign bytes: they never panic, and every failure names what is wrong.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

pub(crate) mod bytes;
pub(crate) mod group;
pub(crate) mod node;
pub(crate) mod pointer;
pub(crate) mod record;
pub(crate) mod sheet;
pub(crate) mod superblock;

/// Version of the on-disk format that this program writes, and the newest it reads. 2 has sheets, and is 1 but for them: a pool of format 1
/// becomes one of format 2 with its next checkpoint.
pub(crate) const FORMAT: u32 = 2;
