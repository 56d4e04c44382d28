//! Messages of the front-end, and the replies to them.

use super::{Violation, bytes::Fields, numbers::*};
use crate::descriptors::Foreign;

/// Bytes of a header.
pub(crate) const HEADER: usize = 12;
/// Largest body that is taken. The largest message that has a meaning here (a configuration space) has 268 bytes.
const MAX_BODY: usize = 4096;
/// Descriptors that come with one message at most: those of a memory table.
pub(crate) const MAX_FDS: usize = 8;
/// Largest configuration space that the protocol carries, in bytes.
const MAX_CONFIG: u32 = 256;

/// What every message begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) request: u32,
    pub(crate) flags: u32,
    /// Bytes of the body.
    pub(crate) size: usize,
}

impl Header {
    pub(crate) fn parse(bytes: &[u8; HEADER]) -> Result<Self, Violation> {
        let mut fields = Fields::new(bytes);
        let (request, flags, size) = (fields.u32()?, fields.u32()?, fields.u32()? as usize);
        if flags & VERSION_MASK != VERSION {
            return Err(format!("message {request} is of protocol version {}, not 1", flags & VERSION_MASK).into());
        }
        if flags & REPLY != 0 {
            return Err(format!("message {request} is a reply that nobody asked for").into());
        }
        if size > MAX_BODY {
            return Err(format!("message {request} announces {size} bytes: {MAX_BODY} are the most").into());
        }
        Ok(Self { request, flags, size })
    }

    /// Whether the sender waits for an acknowledgement, if that was agreed on.
    pub(crate) fn needs_reply(self) -> bool {
        self.flags & NEED_REPLY != 0
    }

    /// A reply to this message.
    pub(crate) fn reply(self, body: &[u8]) -> Vec<u8> {
        encode(self.request, VERSION | REPLY, body)
    }
}

/// A message that the back-end sends on its own.
pub(crate) fn encode(request: u32, flags: u32, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + body.len());
    for word in [request, flags, body.len() as u32] {
        out.extend_from_slice(&word.to_ne_bytes());
    }
    out.extend_from_slice(body);
    out
}

/// A region of guest memory. Addresses and sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    /// Where it begins for the guest.
    pub(crate) guest: u64,
    pub(crate) size: u64,
    /// Where it begins in the front-end's address space, in which rings are given.
    pub(crate) user: u64,
    /// Where it begins in its file.
    pub(crate) offset: u64,
}

/// Where a ring is, in the front-end's address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RingAddresses {
    pub(crate) descriptors: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
}

/// Shape of an in-flight region. The front-ends differ in whether the message ends with four bytes of padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InflightInfo {
    pub(crate) size: u64,
    pub(crate) offset: u64,
    pub(crate) queues: u16,
    pub(crate) queue_size: u16,
    padded: bool,
}

impl InflightInfo {
    /// The same shape, of a region of `size` bytes at the start of its file.
    pub(crate) fn with_size(self, size: u64) -> Self {
        Self { size, offset: 0, ..self }
    }

    pub(crate) fn body(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(24);
        out.extend_from_slice(&self.size.to_ne_bytes());
        out.extend_from_slice(&self.offset.to_ne_bytes());
        out.extend_from_slice(&self.queues.to_ne_bytes());
        out.extend_from_slice(&self.queue_size.to_ne_bytes());
        out.resize(if self.padded { 24 } else { 20 }, 0);
        out
    }
}

/// A message of the front-end.
#[derive(Debug)]
pub(crate) enum Message {
    GetFeatures,
    SetFeatures(u64),
    SetOwner,
    ResetOwner,
    SetMemTable(Vec<(Region, Foreign)>),
    SetVringNum {
        index: u32,
        size: u32,
    },
    SetVringAddr {
        index: u32,
        addresses: RingAddresses,
    },
    SetVringBase {
        index: u32,
        base: u32,
    },
    GetVringBase {
        index: u32,
    },
    SetVringKick {
        index: u32,
        fd: Option<Foreign>,
    },
    SetVringCall {
        index: u32,
        fd: Option<Foreign>,
    },
    SetVringErr {
        index: u32,
        fd: Option<Foreign>,
    },
    GetProtocolFeatures,
    SetProtocolFeatures(u64),
    GetQueueNum,
    SetVringEnable {
        index: u32,
        enable: bool,
    },
    SetBackendReqFd(Foreign),
    /// The bytes are what the front-end holds itself: they say how long the reply is to be.
    GetConfig {
        offset: u32,
        size: u32,
    },
    SetConfig {
        offset: u32,
        bytes: Vec<u8>,
    },
    GetInflightFd(InflightInfo),
    SetInflightFd(InflightInfo, Foreign),
    ResetDevice,
    GetMaxMemSlots,
    AddMemReg(Region, Foreign),
    RemMemReg(Region),
    /// One that this back-end does not know.
    Unknown(u32),
}

impl Message {
    /// Reads a message's body and takes its descriptors.
    pub(crate) fn parse(request: u32, body: &[u8], fds: Vec<Foreign>) -> Result<Self, Violation> {
        let mut fields = Fields::new(body);
        let mut fds = Descriptors(fds);
        let message = read(request, &mut fields, &mut fds)
            .map_err(|Violation(why)| Violation(format!("message {request}: {why}")))?;
        if !matches!(message, Self::Unknown(_)) {
            fields.end().map_err(|Violation(why)| Violation(format!("message {request}: {why}")))?;
            if !fds.0.is_empty() && !matches!(message, Self::RemMemReg(_)) {
                return Err(format!("message {request}: {} descriptors more than it should have", fds.0.len()).into());
            }
        }
        Ok(message)
    }
}

/// The descriptors that came with a message, in order.
struct Descriptors(Vec<Foreign>);

impl Descriptors {
    fn take(&mut self) -> Result<Foreign, Violation> {
        if self.0.is_empty() { Err("a descriptor is missing".into()) } else { Ok(self.0.remove(0)) }
    }
}

fn read(request: u32, fields: &mut Fields<'_>, fds: &mut Descriptors) -> Result<Message, Violation> {
    Ok(match request {
        GET_FEATURES => Message::GetFeatures,
        SET_FEATURES => Message::SetFeatures(fields.u64()?),
        SET_OWNER => Message::SetOwner,
        RESET_OWNER => Message::ResetOwner,
        SET_MEM_TABLE => Message::SetMemTable(memory_table(fields, fds)?),
        SET_VRING_NUM => Message::SetVringNum { index: fields.u32()?, size: fields.u32()? },
        SET_VRING_ADDR => {
            let (index, _flags) = (fields.u32()?, fields.u32()?);
            let (descriptors, used, available) = (fields.u64()?, fields.u64()?, fields.u64()?);
            let _log = fields.u64()?;
            Message::SetVringAddr { index, addresses: RingAddresses { descriptors, available, used } }
        }
        SET_VRING_BASE => Message::SetVringBase { index: fields.u32()?, base: fields.u32()? },
        GET_VRING_BASE => {
            let (index, _num) = (fields.u32()?, fields.u32()?);
            Message::GetVringBase { index }
        }
        SET_VRING_KICK => {
            let (index, fd) = ring_descriptor(fields, fds)?;
            Message::SetVringKick { index, fd }
        }
        SET_VRING_CALL => {
            let (index, fd) = ring_descriptor(fields, fds)?;
            Message::SetVringCall { index, fd }
        }
        SET_VRING_ERR => {
            let (index, fd) = ring_descriptor(fields, fds)?;
            Message::SetVringErr { index, fd }
        }
        GET_PROTOCOL_FEATURES => Message::GetProtocolFeatures,
        SET_PROTOCOL_FEATURES => Message::SetProtocolFeatures(fields.u64()?),
        GET_QUEUE_NUM => Message::GetQueueNum,
        SET_VRING_ENABLE => Message::SetVringEnable { index: fields.u32()?, enable: fields.u32()? != 0 },
        SET_BACKEND_REQ_FD => Message::SetBackendReqFd(fds.take()?),
        GET_CONFIG => {
            let (offset, bytes) = config(fields)?;
            Message::GetConfig { offset, size: bytes.len() as u32 }
        }
        SET_CONFIG => {
            let (offset, bytes) = config(fields)?;
            Message::SetConfig { offset, bytes: bytes.to_vec() }
        }
        GET_INFLIGHT_FD => Message::GetInflightFd(inflight(fields)?),
        SET_INFLIGHT_FD => Message::SetInflightFd(inflight(fields)?, fds.take()?),
        RESET_DEVICE => Message::ResetDevice,
        GET_MAX_MEM_SLOTS => Message::GetMaxMemSlots,
        ADD_MEM_REG => Message::AddMemReg(single_region(fields)?, fds.take()?),
        REM_MEM_REG => Message::RemMemReg(single_region(fields)?),
        other => Message::Unknown(other),
    })
}

fn region(fields: &mut Fields<'_>) -> Result<Region, Violation> {
    Ok(Region { guest: fields.u64()?, size: fields.u64()?, user: fields.u64()?, offset: fields.u64()? })
}

fn single_region(fields: &mut Fields<'_>) -> Result<Region, Violation> {
    let _padding = fields.u64()?;
    region(fields)
}

fn memory_table(fields: &mut Fields<'_>, fds: &mut Descriptors) -> Result<Vec<(Region, Foreign)>, Violation> {
    let (count, _padding) = (fields.u32()?, fields.u32()?);
    if !(1..=MAX_FDS as u32).contains(&count) {
        return Err(format!("a memory table of {count} regions: 1 to {MAX_FDS} are possible").into());
    }
    let mut table = Vec::new();
    for _ in 0..count {
        table.push((region(fields)?, fds.take()?));
    }
    // Some front-ends send the whole array, used or not.
    if fields.is_array_rest((MAX_FDS - count as usize) * 32) {
        let _unused = fields.take((MAX_FDS - count as usize) * 32)?;
    }
    Ok(table)
}

fn ring_descriptor(fields: &mut Fields<'_>, fds: &mut Descriptors) -> Result<(u32, Option<Foreign>), Violation> {
    let word = fields.u64()?;
    let fd = if word & VRING_NO_FD == 0 { Some(fds.take()?) } else { None };
    Ok(((word & VRING_INDEX_MASK) as u32, fd))
}

fn config<'a>(fields: &mut Fields<'a>) -> Result<(u32, &'a [u8]), Violation> {
    let (offset, size, _flags) = (fields.u32()?, fields.u32()?, fields.u32()?);
    if size > MAX_CONFIG || offset > MAX_CONFIG - size {
        return Err(format!("{size} bytes at {offset} of a configuration space, which has {MAX_CONFIG} at most").into());
    }
    Ok((offset, fields.take(size as usize)?))
}

fn inflight(fields: &mut Fields<'_>) -> Result<InflightInfo, Violation> {
    let (size, offset) = (fields.u64()?, fields.u64()?);
    let (queues, queue_size) = (fields.u16()?, fields.u16()?);
    let padded = fields.is_array_rest(4);
    if padded {
        let _padding = fields.u32()?;
    }
    Ok(InflightInfo { size, offset, queues, queue_size, padded })
}

/// The body of a reply to a request about the configuration space.
pub(crate) fn config_body(offset: u32, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(12 + bytes.len());
    for word in [offset, bytes.len() as u32, 0] {
        out.extend_from_slice(&word.to_ne_bytes());
    }
    out.extend_from_slice(bytes);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustix::fs::{MemfdFlags, memfd_create};

    fn fds(n: usize) -> Vec<Foreign> {
        (0..n).map(|_| memfd_create("test", MemfdFlags::CLOEXEC).unwrap().into()).collect()
    }

    fn words(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    #[test]
    fn headers_say_what_is_wrong_with_them() {
        let header = |flags: u32, size: u32| {
            let mut bytes = [0; HEADER];
            for (field, word) in bytes.chunks_mut(4).zip([GET_FEATURES, flags, size]) {
                field.copy_from_slice(&word.to_ne_bytes());
            }
            Header::parse(&bytes)
        };
        assert_eq!(header(9, 8), Ok(Header { request: 1, flags: 9, size: 8 }));
        assert!(header(9, 8).unwrap().needs_reply());
        for (flags, size, why) in [(2, 0, "version 2"), (0, 0, "version 0"), (5, 0, "reply"), (1, 4097, "announces")] {
            let Violation(text) = header(flags, size).unwrap_err();
            assert!(text.contains(why), "{text}");
        }
        let reply = header(9, 8).unwrap().reply(&[7]);
        assert_eq!(reply, [&1u32.to_ne_bytes()[..], &5u32.to_ne_bytes(), &1u32.to_ne_bytes(), &[7]].concat());
    }

    #[test]
    fn bodies_must_have_their_exact_size_and_descriptors() {
        let region = words(&[0, 0x1000, 0x7000_0000, 0]);
        let table = |n: u64, regions: usize| [&words(&[n])[..], &region.repeat(regions)].concat();
        let single = [&words(&[0])[..], &region].concat();
        let config = [&words(&[60 << 32])[..], &[0; 64]].concat();
        let kick = words(&[3]);
        let cases: [(u32, &[u8], usize, bool); 24] = [
            (GET_FEATURES, &[], 0, true),
            (GET_FEATURES, &[0], 0, false),
            (GET_FEATURES, &[], 1, false),
            (SET_FEATURES, &[0; 8], 0, true),
            (SET_FEATURES, &[0; 7], 0, false),
            (SET_MEM_TABLE, &table(2, 2), 2, true),
            (SET_MEM_TABLE, &table(2, 8), 2, true),
            (SET_MEM_TABLE, &table(2, 2), 1, false),
            (SET_MEM_TABLE, &table(2, 2), 3, false),
            (SET_MEM_TABLE, &table(2, 3), 2, false),
            (SET_MEM_TABLE, &table(0, 0), 0, false),
            (SET_MEM_TABLE, &table(9, 9), 9, false),
            (SET_VRING_KICK, &kick, 1, true),
            (SET_VRING_KICK, &kick, 0, false),
            (SET_VRING_KICK, &words(&[3 | VRING_NO_FD]), 0, true),
            (SET_VRING_KICK, &words(&[3 | VRING_NO_FD]), 1, false),
            (ADD_MEM_REG, &single, 1, true),
            (ADD_MEM_REG, &single, 0, false),
            (REM_MEM_REG, &single, 1, true),
            (GET_CONFIG, &config[..71], 0, false),
            (GET_CONFIG, &config, 0, true),
            (GET_INFLIGHT_FD, &[0; 20], 0, true),
            (GET_INFLIGHT_FD, &[0; 24], 0, true),
            (GET_INFLIGHT_FD, &[0; 23], 0, false),
        ];
        for (i, (request, body, descriptors, good)) in cases.into_iter().enumerate() {
            let result = Message::parse(request, body, fds(descriptors));
            assert_eq!(result.is_ok(), good, "case {i}: {result:?}");
        }
        let Ok(Message::SetVringKick { index: 3, fd: Some(_) }) = Message::parse(SET_VRING_KICK, &kick, fds(1)) else {
            panic!("the ring's number is in the low byte");
        };
    }

    #[test]
    fn shapes_of_in_flight_regions_are_answered_as_they_were_asked() {
        for length in [20, 24] {
            let mut body = vec![0; length];
            body[16] = 2;
            body[18] = 128;
            let Ok(Message::GetInflightFd(info)) = Message::parse(GET_INFLIGHT_FD, &body, Vec::new()) else { panic!() };
            assert_eq!((info.queues, info.queue_size), (2, 128));
            let reply = info.with_size(4096).body();
            assert_eq!((reply.len(), &reply[..2], reply[18]), (length, &[0, 16][..], 128));
        }
    }

    proptest! {
        #[test]
        fn no_body_is_too_strange(request in 0u32..50, body in proptest::collection::vec(any::<u8>(), 0..400), n in 0usize..9) {
            if let Ok(Message::SetMemTable(table)) = Message::parse(request, &body, fds(n)) {
                prop_assert!((1..=MAX_FDS).contains(&table.len()));
            }
        }
    }
}
