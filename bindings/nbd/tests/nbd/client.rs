//! A small NBD client over any stream. It panics where a server breaks the protocol.

use cairn_nbd::protocol::*;
use std::io::{ErrorKind, Read, Write};

pub(crate) trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

pub(crate) struct Client {
    stream: Box<dyn Stream>,
    pub(crate) style: ReplyStyle,
    pub(crate) size: u64,
    pub(crate) flags: u16,
    next: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct OptionReply {
    pub(crate) kind: u32,
    pub(crate) data: Vec<u8>,
}

/// The whole reply to one request.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) errno: u32,
    pub(crate) text: String,
    pub(crate) data: Vec<u8>,
    pub(crate) holes: usize,
    pub(crate) chunks: usize,
    pub(crate) status: Vec<(u32, Vec<(u64, u64)>)>,
}

pub(crate) fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat()
}

pub(crate) fn info(name: &str, items: &[u16]) -> Vec<u8> {
    let mut out = string(name);
    out.extend_from_slice(&(items.len() as u16).to_be_bytes());
    items.iter().for_each(|item| out.extend_from_slice(&item.to_be_bytes()));
    out
}

pub(crate) fn meta(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut out = string(name);
    out.extend_from_slice(&(queries.len() as u32).to_be_bytes());
    queries.iter().for_each(|query| out.extend(string(query)));
    out
}

pub(crate) fn option_bytes(code: u32, data: &[u8]) -> Vec<u8> {
    let mut out = OPTION_MAGIC.to_be_bytes().to_vec();
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(&(data.len() as u32).to_be_bytes());
    out.extend_from_slice(data);
    out
}

impl Client {
    pub(crate) fn new(mut stream: Box<dyn Stream>) -> Self {
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting, b"NBDMAGICIHAVEOPT\0\x03");
        stream.write_all(&[0, 0, 0, 3]).unwrap();
        Self::over(stream)
    }

    /// A client whose greeting is over (under TLS, it was exchanged before).
    pub(crate) fn over(stream: Box<dyn Stream>) -> Self {
        Self { stream, style: ReplyStyle::Simple, size: 0, flags: 0, next: 1 }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub(crate) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.stream.read_exact(&mut out).unwrap();
        out
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.bytes())
    }

    fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.bytes())
    }

    fn vec(&mut self, length: usize) -> Vec<u8> {
        let mut out = vec![0; length];
        self.stream.read_exact(&mut out).unwrap();
        out
    }

    /// Whether the server has closed the connection. What it sent before is passed over.
    pub(crate) fn is_closed(&mut self) -> bool {
        let mut rest = [0; 4096];
        loop {
            match self.stream.read(&mut rest) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::ConnectionReset => return true,
                Err(e) => panic!("neither closed nor anything else: {e}"),
            }
        }
    }

    pub(crate) fn option_reply(&mut self, code: u32) -> OptionReply {
        assert_eq!(self.u64(), OPTION_REPLY_MAGIC);
        assert_eq!(self.u32(), code);
        let (kind, length) = (self.u32(), self.u32());
        OptionReply { kind, data: self.vec(length as usize) }
    }

    /// Sends an option and reads its replies up to the last one.
    pub(crate) fn option(&mut self, code: u32, data: &[u8]) -> Vec<OptionReply> {
        self.send(&option_bytes(code, data));
        let mut replies = Vec::new();
        loop {
            replies.push(self.option_reply(code));
            let kind = replies.last().unwrap().kind;
            if kind == REP_ACK || kind >> 31 == 1 {
                return replies;
            }
        }
    }

    /// What the last reply to an option says.
    pub(crate) fn outcome(&mut self, code: u32, data: &[u8]) -> u32 {
        self.option(code, data).last().unwrap().kind
    }

    pub(crate) fn agree_on(mut self, style: ReplyStyle) -> Self {
        match style {
            ReplyStyle::Simple => {}
            ReplyStyle::Structured => assert_eq!(self.outcome(OPT_STRUCTURED_REPLY, &[]), REP_ACK),
            ReplyStyle::Extended => assert_eq!(self.outcome(OPT_EXTENDED_HEADERS, &[]), REP_ACK),
        }
        self.style = style;
        self
    }

    /// Selects contexts; their ids in the order of the queries.
    pub(crate) fn select(&mut self, export: &str, queries: &[&str]) -> Vec<u32> {
        let replies = self.option(OPT_SET_META_CONTEXT, &meta(export, queries));
        assert_eq!(replies.last().unwrap().kind, REP_ACK, "{replies:?}");
        let id = |r: &OptionReply| u32::from_be_bytes(r.data[..4].try_into().unwrap());
        replies.iter().filter(|r| r.kind == REP_META_CONTEXT).map(id).collect()
    }

    pub(crate) fn go(mut self, export: &str) -> Self {
        let replies = self.option(OPT_GO, &info(export, &[INFO_BLOCK_SIZE]));
        assert_eq!(replies.last().unwrap().kind, REP_ACK, "{replies:?}");
        let export = replies.iter().find(|r| r.data.len() == 12 && r.data.starts_with(&[0, 0])).unwrap();
        self.size = u64::from_be_bytes(export.data[2..10].try_into().unwrap());
        self.flags = u16::from_be_bytes(export.data[10..12].try_into().unwrap());
        self
    }

    /// A request's header (and payload) as bytes, and its cookie.
    pub(crate) fn request(
        &mut self,
        command: u16,
        flags: u16,
        offset: u64,
        length: u64,
        payload: &[u8],
    ) -> (Vec<u8>, u64) {
        let extended = self.style == ReplyStyle::Extended;
        let cookie = self.next;
        self.next += 1;
        let mut out = if extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC }.to_be_bytes().to_vec();
        let flags = if extended && !payload.is_empty() { flags | CMD_FLAG_PAYLOAD_LEN } else { flags };
        out.extend_from_slice(&flags.to_be_bytes());
        out.extend_from_slice(&command.to_be_bytes());
        out.extend_from_slice(&cookie.to_be_bytes());
        out.extend_from_slice(&offset.to_be_bytes());
        if extended {
            out.extend_from_slice(&length.to_be_bytes());
        } else {
            out.extend_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
        }
        out.extend_from_slice(payload);
        (out, cookie)
    }

    /// Sends a request and waits for its answer.
    pub(crate) fn call(&mut self, command: u16, flags: u16, offset: u64, length: u64, payload: &[u8]) -> Answer {
        let (bytes, cookie) = self.request(command, flags, offset, length, payload);
        self.send(&bytes);
        let (answered, answer) = self.answer(&|_| (offset, if command == CMD_READ { length } else { 0 }));
        assert_eq!(answered, cookie);
        answer
    }

    pub(crate) fn read(&mut self, offset: u64, length: u64) -> Vec<u8> {
        let answer = self.call(CMD_READ, 0, offset, length, &[]);
        assert_eq!((answer.errno, answer.data.len() as u64), (0, length), "{}", answer.text);
        answer.data
    }

    pub(crate) fn write(&mut self, flags: u16, offset: u64, data: &[u8]) {
        let answer = self.call(CMD_WRITE, flags, offset, data.len() as u64, data);
        assert_eq!(answer.errno, 0, "{}", answer.text);
    }

    pub(crate) fn ok(&mut self, command: u16, flags: u16, offset: u64, length: u64) {
        let answer = self.call(command, flags, offset, length, &[]);
        assert_eq!(answer.errno, 0, "{}", answer.text);
    }

    pub(crate) fn disconnect(mut self) {
        let (bytes, _) = self.request(CMD_DISC, 0, 0, 0, &[]);
        self.send(&bytes);
        assert!(self.is_closed());
    }

    /// Reads the next whole reply, whose chunks must stand together; `range` tells what a cookie's request was about (with
    /// length 0 for anything but a read).
    pub(crate) fn answer(&mut self, range: &dyn Fn(u64) -> (u64, u64)) -> (u64, Answer) {
        let mut answer = Answer::default();
        loop {
            let (cookie, done) = match (self.style, self.u32()) {
                (ReplyStyle::Simple | ReplyStyle::Structured, SIMPLE_REPLY_MAGIC) => {
                    answer.errno = self.u32();
                    let cookie = self.u64();
                    let length = if answer.errno == 0 { range(cookie).1 } else { 0 };
                    assert!(self.style == ReplyStyle::Simple || length == 0, "a simple reply to a structured read");
                    answer.data = self.vec(length as usize);
                    (cookie, true)
                }
                (ReplyStyle::Structured, STRUCTURED_REPLY_MAGIC) | (ReplyStyle::Extended, EXTENDED_REPLY_MAGIC) => {
                    self.chunk(&mut answer, range)
                }
                (style, magic) => panic!("magic {magic:#x} under {style:?}"),
            };
            if done {
                return (cookie, answer);
            }
        }
    }

    fn chunk(&mut self, answer: &mut Answer, range: &dyn Fn(u64) -> (u64, u64)) -> (u64, bool) {
        let [a, b, c, d] = self.bytes();
        let (flags, kind) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        let cookie = self.u64();
        let (offset, length) = range(cookie);
        let payload = if self.style == ReplyStyle::Extended {
            assert_eq!(self.u64(), offset, "extended replies repeat the offset");
            self.u64() as usize
        } else {
            self.u32() as usize
        };
        let body = self.vec(payload);
        let word = |at: usize| u32::from_be_bytes(body[at..at + 4].try_into().unwrap());
        let long = |at: usize| u64::from_be_bytes(body[at..at + 8].try_into().unwrap());
        answer.chunks += 1;
        match kind {
            REPLY_NONE => assert!(body.is_empty()),
            REPLY_OFFSET_DATA => {
                assert_eq!(long(0), offset);
                answer.data = body[8..].to_vec();
            }
            REPLY_OFFSET_HOLE => {
                assert_eq!((body.len(), long(0), u64::from(word(8))), (12, offset, length));
                answer.data = vec![0; length as usize];
                answer.holes += 1;
            }
            REPLY_ERROR => {
                answer.errno = word(0);
                assert_eq!(usize::from(u16::from_be_bytes([body[4], body[5]])), body.len() - 6);
                answer.text = String::from_utf8(body[6..].to_vec()).unwrap();
            }
            REPLY_BLOCK_STATUS => {
                assert_eq!(self.style, ReplyStyle::Structured);
                let extents = (4..body.len()).step_by(8).map(|at| (u64::from(word(at)), u64::from(word(at + 4))));
                answer.status.push((word(0), extents.collect()));
            }
            REPLY_BLOCK_STATUS_EXT => {
                assert_eq!(self.style, ReplyStyle::Extended);
                let extents: Vec<_> = (8..body.len()).step_by(16).map(|at| (long(at), long(at + 8))).collect();
                assert_eq!(word(4) as usize, extents.len());
                answer.status.push((word(0), extents));
            }
            other => panic!("chunk of type {other}"),
        }
        (cookie, flags & REPLY_FLAG_DONE != 0)
    }
}
