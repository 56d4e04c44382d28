//! qcow2: disks in files, with their holes.
//!
//! - [`Disk`] reads. What it does not know exactly it refuses: backing files, data files, encryption and extended tables before all.
//! - [`Writer`] writes version 3, clusters of 64 KiB, none compressed.

mod header;
mod reader;
mod writer;

#[cfg(test)]
pub(crate) mod tests;

#[cfg(feature = "fuzzing")]
pub(crate) use reader::Piece;
pub(crate) use reader::{Disk, Step};
pub(crate) use writer::{Target, Writer};

use crate::fault::Fault;

/// First bytes of such a file.
const MAGIC: [u8; 4] = *b"QFI\xfb";
/// Offsets in entries of tables.
const OFFSET_BITS: u64 = 0x00ff_ffff_ffff_fe00;
/// In entries of tables: the cluster is used once.
const COPIED: u64 = 1 << 63;

/// Whether a file begins as qcow2 does.
pub(crate) fn is_qcow2(head: &[u8]) -> bool {
    head.starts_with(&MAGIC)
}

fn unsound(what: impl std::fmt::Display) -> Fault {
    Fault::bad(format!("the data is not a sound qcow2 image: {what}"))
}

fn refused(what: impl std::fmt::Display) -> Fault {
    Fault::bad(format!("the qcow2 image cannot be taken: {what}"))
}
