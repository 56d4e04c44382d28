//! What reads bytes of front-ends and guests, for fuzzers: each says whether it understood its input.

use crate::{
    blk::Request,
    descriptors::Foreign,
    memory::Memory,
    protocol::{HEADER, Header, Message, Region},
    ring::{Chain, InflightRegion},
};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::{os::fd::OwnedFd, rc::Rc, sync::Arc};
use vm_memory::GuestAddress;

/// Bytes of the guest that [`chain`] looks into.
const MEMORY: u64 = 64 << 10;
/// Descriptors of its ring.
const RING: u16 = 16;

fn file(size: u64) -> Option<OwnedFd> {
    let file = memfd_create("fuzzing", MemfdFlags::CLOEXEC).ok()?;
    ftruncate(&file, size).ok()?;
    Some(file)
}

/// A message, behind a byte that says how many descriptors come with it.
#[must_use]
pub fn message(input: &[u8]) -> bool {
    let Some((&count, rest)) = input.split_first() else { return false };
    let Some((head, body)) = rest.split_first_chunk::<HEADER>() else { return false };
    let Ok(header) = Header::parse(head) else { return false };
    let body = body.get(..header.size).unwrap_or(body);
    let files = (0..count % 9).filter_map(|_| file(4096).map(Foreign::from)).collect();
    match Message::parse(header.request, body, files) {
        Ok(Message::SetMemTable(table)) => Memory::map(table, &Arc::default()).is_ok(),
        Ok(Message::AddMemReg(region, file)) => Memory::default().with(region, file, &Arc::default()).is_ok(),
        Ok(Message::SetInflightFd(info, file)) => {
            InflightRegion::open(&file, info.offset, info.size, info.queues, info.queue_size, &Arc::default()).is_ok()
        }
        Ok(Message::Unknown(_)) | Err(_) => false,
        Ok(_) => true,
    }
}

/// A request, as a guest's memory: a head, then what the memory begins with, its descriptor table first.
#[must_use]
pub fn chain(input: &[u8]) -> bool {
    let Some((&head, content)) = input.split_first() else { return false };
    let region = Region { guest: 0, size: MEMORY, user: 0, offset: 0 };
    let Some(Ok(memory)) = file(MEMORY).map(|file| Memory::map(vec![(region, file.into())], &Arc::default())) else {
        return false;
    };
    let content = content.get(..MEMORY as usize).unwrap_or(content);
    if memory.write(GuestAddress(0), content).is_err() {
        return false;
    }
    let Ok(chain) = Chain::read(&memory, GuestAddress(0), RING, u16::from(head)) else { return false };
    let mut bytes = vec![0; chain.readable.min(MEMORY) as usize];
    let _copied = chain.copy_in(&memory, 0, &mut bytes);
    let Ok(request) = Request::read(&chain, &memory, 1 << 30) else { return false };
    let ranges = match &request {
        Request::Read(range) | Request::Write(range) => std::slice::from_ref(range),
        Request::Discard(ranges) | Request::WriteZeroes(ranges) => ranges,
        Request::Flush | Request::GetId | Request::Refused(_) => &[],
    };
    assert!(ranges.iter().all(|range| range.offset + range.length <= 1 << 30), "beyond the device: {request:?}");
    chain.copy_out(&memory, chain.writable - 1, &[0]).is_ok() && !matches!(request, Request::Refused(_))
}

/// An in-flight region that a front-end gives back, behind two bytes of the ring's used index.
#[must_use]
pub fn in_flight(input: &[u8]) -> bool {
    let Some((used, content)) = input.split_first_chunk() else { return false };
    let Ok((file, size)) = InflightRegion::create(1, RING) else { return false };
    let Ok(copy) = file.try_clone() else { return false };
    let content = content.get(..size as usize).unwrap_or(content);
    if rustix::io::pwrite(&copy, content, 0) != Ok(content.len()) {
        return false;
    }
    let Ok(region) = InflightRegion::open(&file.into(), 0, size, 1, RING, &Arc::default()) else { return false };
    let Some(mut books) = Rc::new(region).queue(0, RING) else { return false };
    let heads = books.recover(u16::from_ne_bytes(*used));
    assert!(heads.iter().all(|&head| head < RING), "heads beyond the ring: {heads:?}");
    !heads.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_sense_is_understood() {
        let features = [&[0][..], &[2, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0], &[0; 8]].concat();
        assert!(message(&features) && !message(&features[..12]));
        let region = [0, 0, 4096, 0x7000, 0].map(u64::to_ne_bytes).concat();
        let add = [&[1][..], &[37, 0, 0, 0, 1, 0, 0, 0, 40, 0, 0, 0], &region].concat();
        assert!(message(&add));
        let mut read = vec![0; 1024];
        for (at, entry) in [(0, (512u64, 16u32, 1u16, 1u16)), (1, (1024, 512, 3, 2)), (2, (2048, 1, 2, 0))] {
            let bytes =
                [&entry.0.to_le_bytes()[..], &entry.1.to_le_bytes(), &entry.2.to_le_bytes(), &entry.3.to_le_bytes()];
            read[1 + at * 16..17 + at * 16].copy_from_slice(&bytes.concat());
        }
        assert!(chain(&read));
        read[0] = 1;
        assert!(!chain(&read), "without its header");
        let mut books = vec![0; 2 + 16 + 16 * 16];
        (books[2 + 8], books[2 + 10], books[2 + 16 + 3 * 16]) = (1, 16, 1);
        assert!(in_flight(&books) && !in_flight(&books[..18]));
    }
}
