//! Replies, simple and structured, out of a stream of bytes.
//!
//! The parser says where the next bytes belong; whoever reads the stream puts them there. So bytes of a read go from the socket to the buffer
//! of its slot, but for those that came along with a header.

use cairn_engine::{Error, ErrorKind, Result};

use super::protocol;

const SIMPLE: u32 = 0x6744_6698;
const STRUCTURED: u32 = 0x668e_33ef;

const DONE: u16 = 1;
const NONE: u16 = 0;
const OFFSET_DATA: u16 = 1;
const OFFSET_HOLE: u16 = 2;
const ERROR_BIT: u16 = 1 << 15;

/// Header of a simple reply, and how much of a structured one has to be there to tell them apart.
const SIMPLE_HEADER: usize = 16;
const STRUCTURED_HEADER: usize = 20;
/// Longest text of an error chunk, with what comes before it.
const MAX_TEXT: usize = 4096 + 64;

/// A request that waits for its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) is_read: bool,
    pub(super) offset: u64,
    pub(super) length: usize,
    /// Bytes of a read that have come, holes included.
    pub(super) came: usize,
    /// An error that a chunk told.
    pub(super) failed: u32,
}

/// What comes next in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// So many bytes are needed to go on.
    Need(usize),
    /// So many bytes were a header, and this is what it said.
    Event { used: usize, event: Event },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The next bytes belong to a slot's buffer, from a position on. `last`: the reply ends with them.
    Data { slot: usize, at: usize, length: usize, last: bool },
    /// A part of a slot's buffer is zeros.
    Hole { slot: usize, at: usize, length: usize, last: bool },
    /// A reply, or a chunk, without data.
    Plain { slot: usize, error: u32, last: bool },
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().ok_or_else(|| protocol("a short chunk"))
}

/// Looks at the bytes that begin with a header.
pub(super) fn next(bytes: &[u8], structured: bool, waiting: &[Option<Waiting>]) -> Result<Next> {
    if bytes.len() < SIMPLE_HEADER {
        return Ok(Next::Need(SIMPLE_HEADER));
    }
    match u32::from_be_bytes(field(bytes, 0)?) {
        SIMPLE => simple(bytes, structured, waiting),
        STRUCTURED if structured => chunk(bytes, waiting),
        magic => Err(protocol(format!("a reply begins with {magic:#010x}"))),
    }
}

fn find(waiting: &[Option<Waiting>], handle: u64) -> Result<(usize, Waiting)> {
    let slot = usize::try_from(handle).ok();
    let found = slot.and_then(|slot| Some((slot, (*waiting.get(slot)?)?)));
    found.ok_or_else(|| protocol(format!("a reply to request {handle}, which is not in flight")))
}

fn simple(bytes: &[u8], structured: bool, waiting: &[Option<Waiting>]) -> Result<Next> {
    let error = u32::from_be_bytes(field(bytes, 4)?);
    let (slot, request) = find(waiting, u64::from_be_bytes(field(bytes, 8)?))?;
    let event = match (request.is_read, error) {
        (true, _) if structured => {
            return Err(protocol("a simple reply to a read, though structured ones were agreed on"));
        }
        (true, 0) => Event::Data { slot, at: 0, length: request.length, last: true },
        _ => Event::Plain { slot, error, last: true },
    };
    Ok(Next::Event { used: SIMPLE_HEADER, event })
}

fn chunk(bytes: &[u8], waiting: &[Option<Waiting>]) -> Result<Next> {
    if bytes.len() < STRUCTURED_HEADER {
        return Ok(Next::Need(STRUCTURED_HEADER));
    }
    let last = u16::from_be_bytes(field(bytes, 4)?) & DONE != 0;
    let kind = u16::from_be_bytes(field(bytes, 6)?);
    let (slot, request) = find(waiting, u64::from_be_bytes(field(bytes, 8)?))?;
    let length = u32::from_be_bytes(field(bytes, 16)?) as usize;
    let body = match kind {
        OFFSET_DATA => 8,
        OFFSET_HOLE => 12,
        NONE => 0,
        kind if kind & ERROR_BIT != 0 && length <= MAX_TEXT => length,
        kind => return Err(protocol(format!("a chunk of kind {kind} and {length} bytes"))),
    };
    let used = STRUCTURED_HEADER + body;
    if length < body || (kind == OFFSET_HOLE || kind == NONE) && length != body {
        return Err(protocol(format!("a chunk of kind {kind} and {length} bytes")));
    }
    if bytes.len() < used {
        return Ok(Next::Need(used));
    }
    let event = match kind {
        OFFSET_DATA => {
            let at = within(request, u64::from_be_bytes(field(bytes, 20)?), length - body)?;
            Event::Data { slot, at, length: length - body, last }
        }
        OFFSET_HOLE => {
            let hole = u32::from_be_bytes(field(bytes, 28)?) as usize;
            let at = within(request, u64::from_be_bytes(field(bytes, 20)?), hole)?;
            Event::Hole { slot, at, length: hole, last }
        }
        NONE if !last => return Err(protocol("an empty chunk that is not the last")),
        NONE => Event::Plain { slot, error: 0, last },
        _ => Event::Plain { slot, error: u32::from_be_bytes(field(bytes, 20)?).max(1), last },
    };
    Ok(Next::Event { used, event })
}

/// Where bytes of the export lie in a read's buffer.
fn within(request: Waiting, offset: u64, length: usize) -> Result<usize> {
    let at = offset.checked_sub(request.offset).and_then(|at| usize::try_from(at).ok());
    match at {
        Some(at)
            if request.is_read && length > 0 && at.checked_add(length).is_some_and(|end| end <= request.length) =>
        {
            Ok(at)
        }
        _ => Err(protocol(format!("{length} bytes at {offset}, which were not asked for"))),
    }
}

/// What a request came to whose last chunk has been read.
pub(super) fn outcome(request: Waiting) -> Result<()> {
    match request {
        Waiting { failed: 0, is_read: true, came, length, .. } if came != length => {
            Err(protocol(format!("{came} bytes for a read of {length}")))
        }
        Waiting { failed: 0, .. } => Ok(()),
        Waiting { failed, .. } => Err(told(failed)),
    }
}

/// The error that a number of the protocol stands for: they are those of Linux.
fn told(number: u32) -> Error {
    match i32::try_from(number) {
        Ok(number) => Error::io("the server", std::io::Error::from_raw_os_error(number)),
        Err(_) => Error::new(ErrorKind::Io, format!("the server: error {number}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: Waiting = Waiting { is_read: true, offset: 4096, length: 8192, came: 0, failed: 0 };
    const WRITE: Waiting = Waiting { is_read: false, ..READ };

    fn reply(magic: u32, parts: &[&[u8]]) -> Vec<u8> {
        [&magic.to_be_bytes()[..], &parts.concat()].concat()
    }

    fn structured(flags: u16, kind: u16, handle: u64, body: &[&[u8]], length: u32) -> Vec<u8> {
        let head =
            [&flags.to_be_bytes()[..], &kind.to_be_bytes(), &handle.to_be_bytes(), &length.to_be_bytes()].concat();
        reply(STRUCTURED, &[&head, &body.concat()])
    }

    fn event(bytes: &[u8], structured: bool) -> Result<Event> {
        let waiting = [Some(READ), None, Some(WRITE)];
        for short in 0..bytes.len() {
            if let Next::Need(need) = next(&bytes[..short], structured, &waiting)? {
                assert!(need > short && need <= bytes.len(), "{need} at {short}");
            }
        }
        match next(bytes, structured, &waiting)? {
            Next::Event { used, event } => {
                assert_eq!(used, bytes.len());
                Ok(event)
            }
            Next::Need(need) => panic!("needs {need}"),
        }
    }

    #[test]
    fn simple_replies() {
        let ok = |handle: u64| reply(SIMPLE, &[&0u32.to_be_bytes(), &handle.to_be_bytes()]);
        assert_eq!(event(&ok(0), false).unwrap(), Event::Data { slot: 0, at: 0, length: 8192, last: true });
        assert_eq!(event(&ok(2), true).unwrap(), Event::Plain { slot: 2, error: 0, last: true });
        let bad = reply(SIMPLE, &[&5u32.to_be_bytes(), &0u64.to_be_bytes()]);
        assert_eq!(event(&bad, false).unwrap(), Event::Plain { slot: 0, error: 5, last: true });
        for handle in [1, 3, u64::MAX] {
            assert!(event(&ok(handle), false).unwrap_err().to_string().contains("not in flight"));
        }
        assert!(event(&ok(0), true).is_err());
        assert!(event(&reply(7, &[&[0; 12]]), true).is_err());
    }

    #[test]
    fn structured_replies() {
        let data = structured(1, OFFSET_DATA, 0, &[&8192u64.to_be_bytes()], 8 + 4096);
        assert_eq!(event(&data, true).unwrap(), Event::Data { slot: 0, at: 4096, length: 4096, last: true });
        let hole = structured(0, OFFSET_HOLE, 0, &[&4096u64.to_be_bytes(), &4096u32.to_be_bytes()], 12);
        assert_eq!(event(&hole, true).unwrap(), Event::Hole { slot: 0, at: 0, length: 4096, last: false });
        assert_eq!(
            event(&structured(1, NONE, 2, &[], 0), true).unwrap(),
            Event::Plain { slot: 2, error: 0, last: true }
        );
        let error = structured(1, ERROR_BIT + 1, 0, &[&28u32.to_be_bytes(), &2u16.to_be_bytes(), b"no"], 8);
        assert_eq!(event(&error, true).unwrap(), Event::Plain { slot: 0, error: 28, last: true });
    }

    #[test]
    fn chunks_outside_of_their_request_are_refused() {
        for (offset, length) in
            [(0u64, 4096u32), (4096, 8193), (12_288, 1), (8192, u32::MAX - 8), (4096, 0), (u64::MAX, 1)]
        {
            let chunk = structured(1, OFFSET_DATA, 0, &[&offset.to_be_bytes()], length + 8);
            assert!(event(&chunk, true).is_err(), "{offset} {length}");
        }
        let to_write = structured(1, OFFSET_DATA, 2, &[&4096u64.to_be_bytes()], 8 + 512);
        assert!(event(&to_write, true).is_err());
        for (kind, length) in
            [(OFFSET_DATA, 7), (OFFSET_HOLE, 13), (NONE, 1), (3, 0), (ERROR_BIT, 1 << 20), (ERROR_BIT, 2)]
        {
            let chunk = structured(1, kind, 0, &[&vec![0; 64.min(length as usize)]], length);
            assert!(event(&chunk, true).is_err(), "{kind} {length}");
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_comes_stays_within_its_request(
            magic in proptest::prelude::prop_oneof![
                proptest::prelude::Just(SIMPLE), proptest::prelude::Just(STRUCTURED), proptest::prelude::any::<u32>()
            ],
            kind in proptest::prelude::prop_oneof![0u16..4, proptest::prelude::any::<u16>()],
            handle in 0u64..4,
            length in proptest::prelude::prop_oneof![0u32..64, proptest::prelude::any::<u32>()],
            body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..80),
            agreed: bool,
        ) {
            let head = [&1u16.to_be_bytes()[..], &kind.to_be_bytes(), &handle.to_be_bytes(), &length.to_be_bytes()].concat();
            let bytes = reply(magic, &[&head, &body]);
            match next(&bytes, agreed, &[Some(READ), None, Some(WRITE)]) {
                Ok(Next::Need(need)) => assert!(need > bytes.len() && need <= STRUCTURED_HEADER + MAX_TEXT),
                Ok(Next::Event { used, event }) => {
                    assert!(used <= bytes.len());
                    if let Event::Data { slot, at, length, .. } | Event::Hole { slot, at, length, .. } = event {
                        assert!(slot == 0 && length > 0 && at + length <= READ.length);
                    }
                }
                Err(_) => {}
            }
        }
    }

    #[test]
    fn a_read_must_come_whole() {
        assert!(outcome(Waiting { came: 8192, ..READ }).is_ok());
        assert!(outcome(Waiting { came: 4096, ..READ }).unwrap_err().to_string().contains("4096 bytes"));
        assert_eq!(outcome(Waiting { failed: 28, ..WRITE }).unwrap_err().kind(), ErrorKind::NoSpace);
        assert!(outcome(WRITE).is_ok());
    }
}
