//! Carrying out a request. Payloads go through aligned buffers of the engine, a piece of a large request at a time.

use super::request::{HEADER, Range, Request, Status};
use crate::{
    device::Device,
    memory::{Fault, Memory},
    ring::Chain,
};
use cairn_engine::{Admitted, Error, ErrorKind, IoBuf, RequestKind};

/// Bytes of a request that are in memory at once.
pub(crate) const PIECE: u64 = 4 << 20;

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::Unsupported => Self::Unsupported,
            _ => Self::IoError,
        }
    }
}

/// Bytes that a request holds at a time: its buffer, and what was read of its chain.
pub(crate) fn cost(chain: &Chain, request: &Request) -> usize {
    let buffer = match request {
        Request::Read(range) | Request::Write(range) if range.length > 0 => {
            IoBuf::footprint(range.length.min(PIECE) as usize)
        }
        _ => 0,
    };
    buffer + chain.footprint()
}

/// What the limits of a volume are to be asked for. None for what they let go in any case.
pub(crate) fn limited(request: &Request) -> Option<(RequestKind, u64)> {
    let (kind, bytes) = match request {
        Request::Read(range) => (RequestKind::Read, range.length),
        Request::Write(range) => (RequestKind::Write, range.length),
        // One request, however many ranges it has: at most 64 of 4 GiB.
        Request::Discard(ranges) | Request::WriteZeroes(ranges) => {
            (RequestKind::Discard, ranges.iter().map(|range| range.length).sum())
        }
        Request::Flush | Request::GetId | Request::Refused(_) => return None,
    };
    (bytes > 0).then_some((kind, bytes))
}

/// Carries out a request that was admitted; what the driver is to be told.
pub(crate) async fn execute(
    device: &Device,
    memory: &Memory,
    chain: &Chain,
    request: &Request,
    admitted: Option<&mut Admitted>,
) -> Status {
    let result = match (request, admitted) {
        // The driver knows. Of a snapshot the engine would refuse it; a volume may be served in this way too.
        (Request::Write(_) | Request::Discard(_) | Request::WriteZeroes(_), _) if device.read_only => {
            Err(Status::IoError)
        }
        (Request::Read(range), Some(admitted)) => read(device, admitted, memory, chain, *range).await,
        (Request::Write(range), Some(admitted)) => write(device, admitted, memory, chain, *range).await,
        (Request::Discard(ranges), Some(admitted)) => discard(device, admitted, ranges).await,
        (Request::WriteZeroes(ranges), Some(admitted)) => write_zeroes(device, admitted, ranges).await,
        // Of no bytes.
        (Request::Read(_) | Request::Write(_) | Request::Discard(_) | Request::WriteZeroes(_), None) => Ok(()),
        (Request::Flush, _) => device.volume.flush().await.map_err(Status::from),
        (Request::GetId, _) => get_id(device, memory, chain),
        (Request::Refused(status), _) => Err(*status),
    };
    match result {
        Ok(()) => Status::Ok,
        Err(status) => status,
    }
}

async fn read(
    device: &Device,
    admitted: &mut Admitted,
    memory: &Memory,
    chain: &Chain,
    range: Range,
) -> Result<(), Status> {
    let mut done = 0;
    while done < range.length {
        let n = (range.length - done).min(PIECE);
        let data = admitted.read(range.offset + done, n as usize).await?;
        chain.copy_out(memory, done, &data)?;
        done += n;
    }
    device.record.read(range.length);
    Ok(())
}

async fn write(
    device: &Device,
    admitted: &mut Admitted,
    memory: &Memory,
    chain: &Chain,
    range: Range,
) -> Result<(), Status> {
    let mut done = 0;
    while done < range.length {
        let n = (range.length - done).min(PIECE);
        let mut data = IoBuf::with_len(n as usize);
        chain.copy_in(memory, HEADER + done, &mut data)?;
        // Zeros may have been copied of what nobody wrote.
        if !memory.is_whole() {
            return Err(Fault.into());
        }
        // A commit covers everything acknowledged before: that of the last piece covers all.
        let durable = device.writes_through() && done + n == range.length;
        admitted.write(range.offset + done, data, durable).await?;
        done += n;
    }
    device.record.wrote(range.length);
    Ok(())
}

fn get_id(device: &Device, memory: &Memory, chain: &Chain) -> Result<(), Status> {
    let room = usize::try_from(chain.writable - 1).unwrap_or(usize::MAX).min(device.serial.len());
    let serial = device.serial.get(..room).unwrap_or_default();
    chain.copy_out(memory, 0, serial).map_err(Status::from)
}

async fn discard(device: &Device, admitted: &mut Admitted, ranges: &[Range]) -> Result<(), Status> {
    for range in ranges.iter().filter(|range| range.length > 0) {
        admitted.discard(range.offset, range.length, false).await?;
    }
    settle(device).await
}

async fn write_zeroes(device: &Device, admitted: &mut Admitted, ranges: &[Range]) -> Result<(), Status> {
    for range in ranges.iter().filter(|range| range.length > 0) {
        admitted.write_zeroes(range.offset, range.length, false).await?;
    }
    settle(device).await
}

/// Has what was changed made durable, if the driver counts on that.
async fn settle(device: &Device) -> Result<(), Status> {
    if device.writes_through() { device.volume.flush().await.map_err(Status::from) } else { Ok(()) }
}
