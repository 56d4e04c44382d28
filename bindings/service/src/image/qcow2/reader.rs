//! A qcow2 file, read from the beginning of its disk to the end.
//!
//! Kept in memory: a part of the first table, one second table, one piece. Work is bounded by the size of the disk, which the caller bounds:
//! tables may point anywhere into the file, also twice to the same place, but to nowhere else. That may be hours of work for a small file, so
//! each step ends soon, whether it found data or not: the caller looks then whether to go on.

use super::{
    COPIED, OFFSET_BITS,
    header::{Compression, HEAD, Header},
    unsound,
};
use crate::{
    fault::Answer,
    image::{PIECE, Source, is_zero},
};

/// An entry of a second table: its cluster is compressed.
const COMPRESSED: u64 = 1 << 62;
/// An entry of a second table, from version 3 on: its cluster is zeros, whatever else it says.
const ZERO: u64 = 1;
/// Largest window that a zstd frame may ask memory for, as a power of two: that of the largest cluster.
const ZSTD_WINDOW: u32 = 21;

/// Bytes of the first table that are kept.
const WINDOW: u64 = 64 << 10;
/// What each read, and each entry of a table, counts for at least in a step, in bytes.
const READ: usize = 4096;
const ENTRY: usize = 64;

/// Where a cluster's data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Nowhere: it is zeros.
    Hole,
    At(u64),
    /// Compressed: so many bytes at most.
    Packed {
        at: u64,
        most: u64,
    },
}

/// The disk that is in a file.
#[derive(Debug)]
pub(crate) struct Disk<S> {
    source: S,
    header: Header,
    l1: Vec<u8>,
    /// The first entry of the first table that `l1` has.
    l1_from: u64,
    l2: Vec<u8>,
    /// The entry of the first table that `l2` is of.
    open: Option<u64>,
    /// The next cluster.
    next: u64,
}

/// Data of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) offset: u64,
    pub(crate) data: Vec<u8>,
}

/// What a step came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Data that is not zeros: at most [`PIECE`] bytes, or one cluster.
    Data(Piece),
    /// Nothing but zeros, so far.
    Zeros,
    /// That was all.
    End,
}

/// An entry of a table.
fn entry(table: &[u8], index: u64) -> Answer<u64> {
    let at = usize::try_from(index).ok().and_then(|index| index.checked_mul(8));
    let bytes = at.and_then(|at| table.get(at..)?.first_chunk::<8>());
    bytes.map(|bytes| u64::from_be_bytes(*bytes)).ok_or_else(|| unsound("a table is too short"))
}

impl<S: Source> Disk<S> {
    /// Opens a file.
    ///
    /// # Errors
    /// `BadRequest`, which says what is wrong; whatever reading fails with.
    pub(crate) async fn open(source: S) -> Answer<Self> {
        let length = source.length();
        let mut head = vec![0; HEAD.min(usize::try_from(length).unwrap_or(HEAD))];
        source.read(0, &mut head).await?;
        let header = Header::parse(&head, length)?;
        Ok(Self { source, header, l1: Vec::new(), l1_from: 0, l2: Vec::new(), open: None, next: 0 })
    }

    /// Bytes of the disk.
    pub(crate) fn size(&self) -> u64 {
        self.header.size
    }

    /// How far it has been read.
    pub(crate) fn position(&self) -> u64 {
        (self.next * self.header.cluster()).min(self.header.size)
    }

    /// Looks at some more of the disk: reads and unpacks about [`PIECE`] bytes, or what one cluster takes.
    pub(crate) async fn step(&mut self) -> Answer<Step> {
        let clusters = self.header.size.div_ceil(self.header.cluster());
        let mut spent = 0;
        while self.next < clusters {
            if spent >= PIECE {
                return Ok(Step::Zeros);
            }
            let first = self.next;
            spent += ENTRY;
            if !self.is_open(first) {
                if !self.open_table(first).await? {
                    let entries = self.header.entries();
                    self.next = (first / entries + 1) * entries;
                    continue;
                }
                spent += READ.max(self.l2.len());
            }
            let place = self.place(first)?;
            self.next += 1;
            let data = match place {
                Place::Hole => continue,
                Place::At(at) => self.run(first, at, clusters).await?,
                Place::Packed { at, most } => self.unpacked(at, most).await?,
            };
            spent += READ.max(data.len());
            if let Some(piece) = self.piece(first, data) {
                return Ok(Step::Data(piece));
            }
        }
        Ok(Step::End)
    }

    /// What lies within the disk, unless it is zeros.
    fn piece(&self, cluster: u64, mut data: Vec<u8>) -> Option<Piece> {
        let offset = cluster * self.header.cluster();
        let left = self.header.size.saturating_sub(offset);
        data.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        (!is_zero(&data)).then_some(Piece { offset, data })
    }

    /// Whether the second table that a cluster is in is the one that is kept.
    fn is_open(&self, cluster: u64) -> bool {
        self.open == Some(cluster / self.header.entries())
    }

    /// An entry of the first table.
    async fn l1_entry(&mut self, index: u64) -> Answer<u64> {
        let (offset, entries) = self.header.l1;
        let is_kept = index >= self.l1_from && (index - self.l1_from) * 8 < self.l1.len() as u64;
        if !is_kept {
            let some = entries.saturating_sub(index).min(WINDOW / 8);
            self.l1.clear();
            self.l1.resize(usize::try_from(some * 8).unwrap_or(0), 0);
            self.l1_from = index;
            self.source.read(offset + index * 8, &mut self.l1).await?;
        }
        entry(&self.l1, index - self.l1_from)
    }

    /// Reads the second table that a cluster is in; whether there is one.
    async fn open_table(&mut self, cluster: u64) -> Answer<bool> {
        let index = cluster / self.header.entries();
        let found = self.l1_entry(index).await?;
        let (offset, size) = (found & OFFSET_BITS, self.header.cluster());
        if found & !(OFFSET_BITS | COPIED) != 0 {
            return Err(unsound(format!("entry {index} of its first table is {found:#x}")));
        }
        if offset == 0 {
            return Ok(false);
        }
        let is_inside = offset.checked_add(size).is_some_and(|end| end <= self.source.length());
        if !offset.is_multiple_of(size) || !is_inside {
            return Err(unsound(format!("a second table would be at {offset}")));
        }
        self.open = None;
        self.l2.resize(usize::try_from(size).unwrap_or(0), 0);
        self.source.read(offset, &mut self.l2).await?;
        self.open = Some(index);
        Ok(true)
    }

    /// Where a cluster of the open table is.
    fn place(&self, cluster: u64) -> Answer<Place> {
        let found = entry(&self.l2, cluster % self.header.entries())?;
        let size = self.header.cluster();
        let wrong = || unsound(format!("the entry of cluster {cluster} is {found:#x}"));
        if found & COMPRESSED != 0 {
            let split = 62 - (self.header.cluster_bits - 8);
            let (at, sectors) = (found & ((1 << split) - 1), (found & !(COPIED | COMPRESSED)) >> split);
            if found & COPIED != 0 || at >= self.source.length() {
                return Err(wrong());
            }
            // What is not smaller than its cluster is not compressed; the count is of sectors that are touched.
            let most = ((sectors + 1) * 512 - at % 512).min(size + 512);
            return Ok(Place::Packed { at, most: most.min(self.source.length() - at) });
        }
        let zero = if self.header.version >= 3 { ZERO } else { 0 };
        let offset = found & OFFSET_BITS;
        if found & !(OFFSET_BITS | COPIED | zero) != 0
            || !offset.is_multiple_of(size)
            || offset != 0 && offset >= self.source.length()
        {
            return Err(wrong());
        }
        Ok(if offset == 0 || found & zero != 0 { Place::Hole } else { Place::At(offset) })
    }

    /// Reads a cluster, and those after it that follow it in the file too.
    async fn run(&mut self, first: u64, at: u64, clusters: u64) -> Answer<Vec<u8>> {
        let size = self.header.cluster();
        let most = (PIECE as u64 / size).max(1);
        let table_end = (first / self.header.entries() + 1) * self.header.entries();
        let end = clusters.min(table_end).min(first + most);
        let mut count = 1;
        while first + count < end && self.place(first + count)? == Place::At(at + count * size) {
            count += 1;
        }
        self.next = first + count;
        let mut data = vec![0; usize::try_from(count * size).unwrap_or(0)];
        self.source.read(at, &mut data).await?;
        Ok(data)
    }

    async fn unpacked(&self, at: u64, most: u64) -> Answer<Vec<u8>> {
        let mut packed = vec![0; usize::try_from(most).unwrap_or(0)];
        self.source.read(at, &mut packed).await?;
        let mut data = vec![0; usize::try_from(self.header.cluster()).unwrap_or(0)];
        let is_whole = match self.header.compression {
            Compression::Deflate => inflate(&packed, &mut data),
            Compression::Zstd => decompress(&packed, &mut data),
        };
        match is_whole {
            true => Ok(data),
            false => Err(unsound(format!("the compressed data at {at} is damaged"))),
        }
    }
}

/// Whether the packed bytes fill all of `data`. More may stand behind them.
fn inflate(packed: &[u8], data: &mut [u8]) -> bool {
    use miniz_oxide::inflate::{
        TINFLStatus,
        core::{DecompressorOxide, decompress, inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF},
    };
    let mut state = DecompressorOxide::new();
    let (status, _, written) = decompress(&mut state, packed, data, 0, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF);
    matches!(status, TINFLStatus::Done | TINFLStatus::HasMoreOutput) && written == data.len()
}

fn decompress(packed: &[u8], data: &mut [u8]) -> bool {
    use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

    let Ok(mut decoder) = Decoder::new() else { return false };
    if decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW)).is_err() {
        return false;
    }
    let length = data.len();
    let (mut from, mut to) = (InBuffer::around(packed), OutBuffer::around(data));
    loop {
        let before = (from.pos(), to.pos());
        let Ok(hint) = decoder.run(&mut from, &mut to) else { return false };
        if to.pos() == length {
            return true;
        }
        // A frame that ends too early, or bytes that lead nowhere.
        if hint == 0 || (from.pos(), to.pos()) == before {
            return false;
        }
    }
}
