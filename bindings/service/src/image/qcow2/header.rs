//! The header of a qcow2 file, strictly.

use super::{MAGIC, refused, unsound};
use crate::{domain::GIB, fault::Answer};

/// Bytes of a file in which the header and its extensions are looked for.
pub(super) const HEAD: usize = 64 << 10;
/// Most bytes of the first table: a file with more is refused.
pub(super) const MOST_L1: u64 = 32 << 20;
/// The largest disk that any image may be.
const MOST_DISK: u64 = 65_536 * GIB;

const INCOMPATIBLE_DIRTY: u64 = 1;
const INCOMPATIBLE_CORRUPT: u64 = 2;
const INCOMPATIBLE_DATA_FILE: u64 = 4;
const INCOMPATIBLE_COMPRESSION: u64 = 8;
const INCOMPATIBLE_EXTENDED: u64 = 16;

const EXTENSION_END: u32 = 0;
const EXTENSION_ENCRYPTION: u32 = 0x0537_be77;
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;

/// How clusters are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    Deflate,
    Zstd,
}

/// What is needed of a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) cluster_bits: u32,
    /// Bytes of the disk.
    pub(super) size: u64,
    /// Where the first table is, and how many entries of it are needed.
    pub(super) l1: (u64, u64),
    pub(super) compression: Compression,
}

/// Fields of the file's head.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> Answer<[u8; N]> {
        let end = at.checked_add(N).ok_or_else(|| unsound("its header is out of range"))?;
        let bytes = self.0.get(at..end).and_then(|bytes| bytes.try_into().ok());
        bytes.ok_or_else(|| unsound("its header is cut off"))
    }

    fn u32(&self, at: usize) -> Answer<u32> {
        self.bytes(at).map(u32::from_be_bytes)
    }

    fn u64(&self, at: usize) -> Answer<u64> {
        self.bytes(at).map(u64::from_be_bytes)
    }
}

impl Header {
    pub(super) fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Entries of a second table.
    pub(super) fn entries(&self) -> u64 {
        self.cluster() / 8
    }

    /// Reads the first bytes of a file of `length` bytes.
    ///
    /// # Errors
    /// `BadRequest`, which says what is wrong.
    pub(super) fn parse(head: &[u8], length: u64) -> Answer<Self> {
        let fields = Fields(head);
        if fields.bytes::<4>(0)? != MAGIC {
            return Err(unsound("it does not begin as one: is it raw?"));
        }
        let version = fields.u32(4)?;
        if !matches!(version, 2 | 3) {
            return Err(refused(format!("it is of version {version}; 2 and 3 are known")));
        }
        if fields.u64(8)? != 0 || fields.u32(16)? != 0 {
            return Err(refused("it names a backing file; flatten it first (qemu-img convert)"));
        }
        if fields.u32(32)? != 0 {
            return Err(refused("it is encrypted"));
        }
        let compression = if version == 3 { newer(&fields)? } else { Compression::Deflate };
        let cluster_bits = fields.u32(20)?;
        if !(9..=21).contains(&cluster_bits) {
            return Err(unsound(format!("its clusters have 2^{cluster_bits} bytes")));
        }
        let size = fields.u64(24)?;
        if size == 0 || size > MOST_DISK {
            return Err(refused(format!("its disk has {size} bytes: 1 to {MOST_DISK} can be taken")));
        }
        let header = Self { version, cluster_bits, size, l1: (0, 0), compression };
        let needed = size.div_ceil(header.cluster()).div_ceil(header.entries());
        let (there, offset) = (u64::from(fields.u32(36)?), fields.u64(40)?);
        if there < needed {
            return Err(unsound(format!("its first table has {there} entries, and its disk needs {needed}")));
        }
        if needed * 8 > MOST_L1 {
            return Err(refused(format!(
                "its first table has {} bytes, more than {MOST_L1}: use larger clusters",
                needed * 8
            )));
        }
        let is_inside = offset.checked_add(needed * 8).is_some_and(|end| end <= length);
        if offset == 0 || !offset.is_multiple_of(header.cluster()) || !is_inside {
            return Err(unsound(format!("its first table would be at {offset}")));
        }
        Ok(Self { l1: (offset, needed), ..header })
    }
}

/// What version 3 adds.
fn newer(fields: &Fields<'_>) -> Answer<Compression> {
    let features = fields.u64(72)?;
    let refuse = |feature: u64, what: &str| match features & feature {
        0 => Ok(()),
        _ => Err(refused(what)),
    };
    refuse(INCOMPATIBLE_DATA_FILE, "its data is in another file; flatten it first (qemu-img convert)")?;
    refuse(INCOMPATIBLE_CORRUPT, "it is marked as corrupt; repair it first (qemu-img check -r)")?;
    refuse(INCOMPATIBLE_EXTENDED, "it has extended tables; convert it first (qemu-img convert)")?;
    // A dirty one has wrong counts of references, which nobody reads here.
    let known = INCOMPATIBLE_DIRTY | INCOMPATIBLE_COMPRESSION;
    if features & !known != 0 {
        return Err(refused(format!("it has features that are not known ({features:#x})")));
    }
    let length = fields.u32(100)?;
    if length < 104 || !length.is_multiple_of(8) {
        return Err(unsound(format!("its header has {length} bytes")));
    }
    let kind = if length > 104 { fields.bytes::<1>(104)? } else { [0] };
    let compression = match (features & INCOMPATIBLE_COMPRESSION != 0, kind) {
        (false, [0]) => Compression::Deflate,
        (true, [1]) => Compression::Zstd,
        (_, [kind]) => return Err(refused(format!("its compression {kind} is not known"))),
    };
    extensions(fields, length as usize)?;
    Ok(compression)
}

/// Extensions stand one after another, up to one that says that it is the last.
fn extensions(fields: &Fields<'_>, from: usize) -> Answer<()> {
    let mut at = from;
    // Whatever they say, each takes 8 bytes of a head that has an end.
    loop {
        let (kind, length) = (fields.u32(at)?, fields.u32(at.saturating_add(4))?);
        match kind {
            EXTENSION_END => return Ok(()),
            EXTENSION_ENCRYPTION => return Err(refused("it is encrypted")),
            EXTENSION_DATA_FILE => return Err(refused("it names a file for its data")),
            _ => {}
        }
        let length = usize::try_from(length).ok().and_then(|length| length.checked_next_multiple_of(8));
        let next = length.and_then(|length| at.checked_add(8)?.checked_add(length));
        at = next.ok_or_else(|| unsound("its header is out of range"))?;
    }
}
