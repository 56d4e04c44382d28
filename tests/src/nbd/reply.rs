//! Replies, simple and structured, put together and checked.

use std::{
    collections::HashMap,
    io::{self, Read},
    sync::Mutex,
};

use super::{
    Socket,
    handshake::{take, wrong},
};

const SIMPLE: u32 = 0x6744_6698;
const STRUCTURED: u32 = 0x668e_33ef;
const DONE: u16 = 1;
const NONE: u16 = 0;
const OFFSET_DATA: u16 = 1;
const OFFSET_HOLE: u16 = 2;
const ERROR: u16 = (1 << 15) + 1;
const ERROR_OFFSET: u16 = (1 << 15) + 2;

/// How a request ended: what was read (nothing for others), or the protocol's error number.
pub type Outcome = Result<Vec<u8>, u32>;

/// What comes in on a connection.
#[derive(Debug)]
pub enum Incoming {
    /// The reply to a request.
    Reply(u64, Outcome),
    /// The connection has ended; requests without a reply stay without one.
    Ended,
    /// The server broke the protocol.
    Violation(String),
}

/// A request without its full reply.
pub(super) struct Expected {
    offset: u64,
    data: Vec<u8>,
    /// Bytes not received yet, as ranges of `data`.
    holes: Vec<(usize, usize)>,
    error: Option<u32>,
}

impl Expected {
    pub(super) fn nothing() -> Self {
        Self { offset: 0, data: Vec::new(), holes: Vec::new(), error: None }
    }

    pub(super) fn data(offset: u64, length: usize) -> Self {
        // Not zeros, so that bytes never received cannot pass for a hole.
        Self { offset, data: vec![0xdb; length], holes: vec![(0, length)], error: None }
    }

    /// The place in `data` of a chunk, which must not have come before.
    fn claim(&mut self, offset: u64, length: usize) -> io::Result<&mut [u8]> {
        let out_of_place =
            || wrong(format!("a chunk of {length} bytes at {offset} lies outside its request, or came twice"));
        let start =
            offset.checked_sub(self.offset).and_then(|start| usize::try_from(start).ok()).ok_or_else(out_of_place)?;
        let end = start.checked_add(length).ok_or_else(out_of_place)?;
        let place = self.holes.iter().position(|hole| hole.0 <= start && end <= hole.1).ok_or_else(out_of_place)?;
        let (from, to) = self.holes.swap_remove(place);
        self.holes.extend([(from, start), (end, to)].into_iter().filter(|(a, b)| a < b));
        Ok(&mut self.data[start..end])
    }

    fn outcome(self) -> io::Result<Outcome> {
        match self.error {
            Some(error) => Ok(Err(error)),
            None if self.holes.is_empty() => Ok(Ok(self.data)),
            None => Err(wrong(format!("a read at {} ended without its bytes {:?}", self.offset, self.holes))),
        }
    }
}

/// Delivers replies until the stream ends.
pub(super) fn read_replies(mut stream: Socket, expected: &Mutex<HashMap<u64, Expected>>, deliver: impl Fn(Incoming)) {
    loop {
        match read_one(&mut stream, expected) {
            Ok(Some((cookie, outcome))) => deliver(Incoming::Reply(cookie, outcome)),
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                deliver(Incoming::Violation(error.to_string()));
                return;
            }
            Err(_) => {
                deliver(Incoming::Ended);
                return;
            }
        }
    }
}

/// Reads one simple reply or one chunk; a reply when it is complete.
fn read_one(stream: &mut Socket, expected: &Mutex<HashMap<u64, Expected>>) -> io::Result<Option<(u64, Outcome)>> {
    match u32::from_be_bytes(take(stream)?) {
        SIMPLE => simple(stream, expected).map(Some),
        STRUCTURED => chunk(stream, expected),
        magic => Err(wrong(format!("a reply that starts with {magic:#x}"))),
    }
}

fn simple(stream: &mut Socket, expected: &Mutex<HashMap<u64, Expected>>) -> io::Result<(u64, Outcome)> {
    let error = u32::from_be_bytes(take(stream)?);
    let cookie = u64::from_be_bytes(take(stream)?);
    let mut request = claim(expected, cookie)?;
    if error != 0 {
        return Ok((cookie, Err(error)));
    }
    stream.read_exact(&mut request.data)?;
    Ok((cookie, Ok(request.data)))
}

fn chunk(stream: &mut Socket, expected: &Mutex<HashMap<u64, Expected>>) -> io::Result<Option<(u64, Outcome)>> {
    let flags = u16::from_be_bytes(take(stream)?);
    let kind = u16::from_be_bytes(take(stream)?);
    let cookie = u64::from_be_bytes(take(stream)?);
    let length = u32::from_be_bytes(take(stream)?) as usize;
    let mut request = claim(expected, cookie)?;
    match (kind, length) {
        (NONE, 0) if flags & DONE != 0 => {}
        (OFFSET_DATA, 9..) => {
            let offset = u64::from_be_bytes(take(stream)?);
            stream.read_exact(request.claim(offset, length - 8)?)?;
        }
        (OFFSET_HOLE, 12) => {
            let offset = u64::from_be_bytes(take(stream)?);
            let length = u32::from_be_bytes(take(stream)?);
            request.claim(offset, length as usize)?.fill(0);
        }
        (ERROR | ERROR_OFFSET, 6..=8192) => {
            let mut payload = vec![0; length];
            stream.read_exact(&mut payload)?;
            let error = u32::from_be_bytes([payload[0], payload[1], payload[2], payload[3]]);
            if error == 0 {
                return Err(wrong("an error chunk with the number 0".into()));
            }
            request.error = Some(error);
        }
        _ => return Err(wrong(format!("a chunk of kind {kind:#x}, flags {flags:#x}, {length} bytes"))),
    }
    if flags & DONE != 0 {
        return Ok(Some((cookie, request.outcome()?)));
    }
    expected.lock().expect("no holder panics").insert(cookie, request);
    Ok(None)
}

fn claim(expected: &Mutex<HashMap<u64, Expected>>, cookie: u64) -> io::Result<Expected> {
    let found = expected.lock().expect("no holder panics").remove(&cookie);
    found.ok_or_else(|| wrong(format!("a reply to {cookie:#x}, which is no request in flight")))
}
