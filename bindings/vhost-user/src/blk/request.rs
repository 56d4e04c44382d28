//! What a descriptor chain asks for.

use super::{MAX_DISCARD_RANGES, MAX_RANGE_SECTORS, SECTOR};
use crate::{
    memory::{Fault, Memory},
    ring::{Chain, Malformed},
};

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

/// Bytes of a request's header; what it gives to write begins behind it.
pub(super) const HEADER: u64 = 16;
/// Bytes of one range of a discard or a write of zeros.
const RANGE: u64 = 16;
/// Flag of a range: zeros may be stored as holes. (They always are.)
const UNMAP: u32 = 1;

/// What the device says about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Status {
    Ok = 0,
    /// The request failed.
    IoError = 1,
    /// The device does not do this.
    Unsupported = 2,
}

impl From<Fault> for Status {
    fn from(Fault: Fault) -> Self {
        Self::IoError
    }
}

/// A range of the device, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// A request that makes sense: its ranges are within the device.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Read(Range),
    Write(Range),
    Flush,
    GetId,
    Discard(Vec<Range>),
    WriteZeroes(Vec<Range>),
    /// To be answered at once.
    Refused(Status),
}

impl Request {
    /// Reads the header of a chain, and the ranges if it has some. `size` is the device's in bytes.
    pub(crate) fn read(chain: &Chain, memory: &Memory, size: u64) -> Result<Self, Malformed> {
        if chain.readable < HEADER {
            return Err(Malformed("a request has no whole header"));
        }
        if chain.writable == 0 {
            return Err(Malformed("a request has no room for its status"));
        }
        let mut header = [0; HEADER as usize];
        chain
            .copy_in(memory, 0, &mut header)
            .map_err(|Fault| Malformed("a header is outside of the guest's memory"))?;
        let (words, sector) = header.split_at(8);
        let kind = word(words, 0);
        let sector = u64::from(word(sector, 0)) | u64::from(word(sector, 4)) << 32;
        Ok(match kind {
            IN => range(sector, chain.writable - 1, size).map_or(Self::Refused(Status::IoError), Self::Read),
            OUT => range(sector, chain.readable - HEADER, size).map_or(Self::Refused(Status::IoError), Self::Write),
            FLUSH => Self::Flush,
            GET_ID => Self::GetId,
            DISCARD => ranges(chain, memory, size, 0).map_or_else(Self::Refused, Self::Discard),
            WRITE_ZEROES => ranges(chain, memory, size, UNMAP).map_or_else(Self::Refused, Self::WriteZeroes),
            _ => Self::Refused(Status::Unsupported),
        })
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |word| u32::from_le_bytes(*word))
}

fn range(sector: u64, length: u64, size: u64) -> Option<Range> {
    let offset = sector.checked_mul(SECTOR)?;
    let end = offset.checked_add(length)?;
    (length.is_multiple_of(SECTOR) && end <= size).then_some(Range { offset, length })
}

/// The ranges of a discard or of a write of zeros, with no flags but `allowed`.
fn ranges(chain: &Chain, memory: &Memory, size: u64, allowed: u32) -> Result<Vec<Range>, Status> {
    let bytes = chain.readable - HEADER;
    if bytes == 0 || !bytes.is_multiple_of(RANGE) || bytes / RANGE > u64::from(MAX_DISCARD_RANGES) {
        return Err(Status::IoError);
    }
    let mut copy = vec![0; bytes as usize];
    chain.copy_in(memory, HEADER, &mut copy)?;
    copy.chunks_exact(RANGE as usize)
        .map(|entry| {
            let (sectors, flags) = (word(entry, 8), word(entry, 12));
            if flags & !allowed != 0 {
                return Err(Status::Unsupported);
            }
            if sectors > MAX_RANGE_SECTORS {
                return Err(Status::IoError);
            }
            let sector = u64::from(word(entry, 0)) | u64::from(word(entry, 4)) << 32;
            range(sector, u64::from(sectors) * SECTOR, size).ok_or(Status::IoError)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::tests::memory;
    use vm_memory::GuestAddress;

    const SIZE: u64 = 1 << 20;

    /// A request with these bytes behind its header, and `room` bytes to write.
    fn read(kind: u32, sector: u64, behind: &[u8], room: u32) -> Result<Request, Malformed> {
        let memory = memory(0x10000);
        let mut bytes = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes(), behind].concat();
        // A header in two parts: any layout is allowed.
        let parts = [(0x2000u64, 9u32, 1u16, 1u16), (0x3000, bytes.len() as u32 - 9, 1, 2), (0x4000, room, 2, 0)];
        let tail = bytes.split_off(9);
        memory.write(GuestAddress(0x2000), &bytes).unwrap();
        memory.write(GuestAddress(0x3000), &tail).unwrap();
        for (i, (address, length, flags, next)) in parts.into_iter().enumerate() {
            let entry =
                [&address.to_le_bytes()[..], &length.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()].concat();
            memory.write(GuestAddress(i as u64 * 16), &entry).unwrap();
        }
        let chain = Chain::read(&memory, GuestAddress(0), 4, 0).unwrap();
        Request::read(&chain, &memory, SIZE)
    }

    fn entry(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
        [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
    }

    #[test]
    fn requests_are_what_the_specification_says() {
        let good = [
            (read(IN, 8, &[], 513), Request::Read(Range { offset: 4096, length: 512 })),
            (read(IN, 2048, &[], 1), Request::Read(Range { offset: SIZE, length: 0 })),
            (read(OUT, 2047, &[0; 512], 1), Request::Write(Range { offset: SIZE - 512, length: 512 })),
            (read(FLUSH, 0, &[], 1), Request::Flush),
            (read(GET_ID, 0, &[], 21), Request::GetId),
            (
                read(DISCARD, 0, &[entry(0, 8, 0), entry(2040, 8, 0)].concat(), 1),
                Request::Discard(vec![Range { offset: 0, length: 4096 }, Range { offset: SIZE - 4096, length: 4096 }]),
            ),
            (
                read(WRITE_ZEROES, 0, &entry(8, 1, UNMAP), 1),
                Request::WriteZeroes(vec![Range { offset: 4096, length: 512 }]),
            ),
        ];
        for (got, expected) in good {
            assert_eq!(got, Ok(expected));
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_told() {
        let refused = [
            (read(IN, 8, &[], 512), Status::IoError),
            (read(IN, 2048, &[], 513), Status::IoError),
            (read(IN, u64::MAX / 512 + 1, &[], 513), Status::IoError),
            (read(IN, u64::MAX / 512, &[], 513), Status::IoError),
            (read(OUT, 2048, &[0; 512], 1), Status::IoError),
            (read(OUT, 0, &[0; 100], 1), Status::IoError),
            (read(14, 0, &entry(0, 8, 0), 1), Status::Unsupported),
            (read(DISCARD, 0, &entry(0, 8, UNMAP), 1), Status::Unsupported),
            (read(WRITE_ZEROES, 0, &entry(0, 8, 2), 1), Status::Unsupported),
            (read(DISCARD, 0, &[], 1), Status::IoError),
            (read(DISCARD, 0, &[0; 17], 1), Status::IoError),
            (read(DISCARD, 0, &entry(0, 8, 0).repeat(65), 1), Status::IoError),
            (read(DISCARD, 0, &entry(2041, 8, 0), 1), Status::IoError),
            (read(DISCARD, 0, &entry(0, MAX_RANGE_SECTORS + 1, 0), 1), Status::IoError),
        ];
        for (i, (got, expected)) in refused.into_iter().enumerate() {
            assert_eq!(got, Ok(Request::Refused(expected)), "case {i}");
        }
        assert!(read(FLUSH, 0, &[], 0).is_err(), "nowhere to put the status");
    }
}
