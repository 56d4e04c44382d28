//! The transmission phase: a stream of requests to a real server, in any pieces, against what the protocol's own rules say of each.

use super::{VOLUME, nameless_pool, volume_and_snapshot};
use cairn_engine::{MIB, Pool};
use cairn_nbd::{
    Listen, Options, Server,
    protocol::{
        CMD_DISC, Command, EINVAL, EIO, EXTENDED_REPLY_MAGIC, MAX_PAYLOAD, OPT_EXPORT_NAME, OPT_EXTENDED_HEADERS,
        OPT_GO, OPT_SET_META_CONTEXT, OPT_STRUCTURED_REPLY, OPTION_MAGIC, OPTION_REPLY_MAGIC, REP_ACK,
        REPLY_BLOCK_STATUS, REPLY_BLOCK_STATUS_EXT, REPLY_ERROR, REPLY_FLAG_DONE, REPLY_NONE, REPLY_OFFSET_DATA,
        REPLY_OFFSET_HOLE, ReplyStyle, Rules, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, check, parse_request,
        parse_status_filter,
    },
};
use pollster::block_on;
use rustix::net::SendFlags;
use std::{
    cell::OnceCell,
    io::{self, Read},
    net::Shutdown,
    os::unix::net::UnixStream,
    thread,
};
use tempfile::TempDir;

/// Both contexts that are selected: allocation, and changes since the snapshot.
const CONTEXTS: [&str; 2] = ["base:allocation", "cairn:changed-since=s"];

struct Site {
    _pool: Pool,
    _server: Server,
    directory: TempDir,
}

thread_local! {
    static SITE: OnceCell<Site> = const { OnceCell::new() };
}

/// How a request must end.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// With so many bytes of data or zeros.
    Read(u64),
    /// With the extents of so many contexts, for so many bytes at most.
    Status(usize, u64),
    /// With nothing but that it is done.
    Done,
    Refused(u32),
}

/// The first byte chooses what is agreed on before, the second the pieces in which the rest is sent: requests, whose cookies are replaced
/// by their numbers.
pub(crate) fn nbd_transmission(input: &[u8]) -> bool {
    let &[choice, pieces, ref stream @ ..] = input else { return false };
    let style = [ReplyStyle::Simple, ReplyStyle::Structured, ReplyStyle::Extended][usize::from(choice % 3)];
    let (read_only, contexts) = (choice & 4 != 0, choice & 8 != 0 && style != ReplyStyle::Simple);
    let rules = Rules { style, size: VOLUME, read_only, max_request: MAX_PAYLOAD, contexts };
    let mut stream = stream.to_vec();
    let expected = number_requests(&mut stream, &rules);

    let mut socket = SITE.with(|site| {
        let path = site.get_or_init(Site::new).directory.path().join("nbd");
        UnixStream::connect(path).expect("the server listens")
    });
    shake_hands(&mut socket, &rules).expect("the handshake is a good one");
    let piece = if pieces == 0 { usize::MAX } else { 1 + (usize::from(pieces) - 1) * 7 };
    let answers = thread::scope(|scope| {
        let sender = socket.try_clone().expect("a second descriptor");
        scope.spawn(move || {
            for piece in stream.chunks(piece) {
                if send(&sender, piece).is_err() {
                    break;
                }
            }
            drop(sender.shutdown(Shutdown::Write));
        });
        receive_all(&mut socket)
    });
    let mut found: Vec<Option<End>> = expected.iter().map(|_| None).collect();
    let mut answers = Answers { rest: &answers, rules };
    while !answers.rest.is_empty() {
        let (number, end) = answers.next(&expected);
        let old = found[number].replace(end);
        assert_eq!(old, None, "request {number} is answered twice");
    }
    for (number, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let fits = match (found, expected) {
            (Some(End::Status(contexts, covered)), End::Status(all, most)) => contexts == all && covered <= most,
            (found, expected) => found.as_ref() == Some(expected),
        };
        assert!(fits, "request {number}: {found:?}, not {expected:?}");
    }
    expected.iter().any(|end| !matches!(end, End::Refused(_)))
}

/// Goes through a stream as a server must: gives each request its number as its cookie, and says how it must end.
fn number_requests(stream: &mut [u8], rules: &Rules) -> Vec<End> {
    let extended = rules.style == ReplyStyle::Extended;
    let (mut at, mut ends) = (0, Vec::new());
    while let Ok(Some((request, size))) = parse_request(&stream[at..], extended) {
        let payload = request.payload(extended);
        if payload > MAX_PAYLOAD.into() || request.command == CMD_DISC && check(&request, rules).is_ok() {
            break;
        }
        stream[at + 8..at + 16].copy_from_slice(&(ends.len() as u64).to_be_bytes());
        at += size;
        let payload = stream.get(at..at + payload as usize).ok_or(stream.len());
        at = payload.map_or_else(|end| end, |payload| at + payload.len());
        ends.push(match (check(&request, rules), payload) {
            (Err(refusal), _) => End::Refused(refusal.errno),
            (Ok(Command::Write { .. } | Command::FilteredStatus { .. }), Err(_)) => End::Refused(EIO),
            (Ok(Command::Read { length: 0, .. }), _) if rules.style != ReplyStyle::Simple => End::Done,
            (Ok(Command::Read { length, .. }), _) => End::Read(length.into()),
            (Ok(Command::BlockStatus { length, .. }), _) => End::Status(CONTEXTS.len(), length),
            (Ok(Command::FilteredStatus { .. }), Ok(payload)) => match parse_status_filter(&request, payload, rules) {
                Ok(filter) if filter.ids.iter().all(|id| (1..=CONTEXTS.len() as u32).contains(id)) => {
                    End::Status(filter.ids.len(), filter.length)
                }
                Ok(_) => End::Refused(EINVAL),
                Err(refusal) => End::Refused(refusal.errno),
            },
            (Ok(_), _) => End::Done,
        });
    }
    ends
}

impl Site {
    fn new() -> Self {
        let pool = nameless_pool(64 * MIB);
        volume_and_snapshot(&pool).expect("there is room");
        let directory = tempfile::tempdir().expect("a directory for a socket");
        let listen = Listen::Unix(directory.path().join("nbd"));
        let server = block_on(Server::start(&pool, listen, Options::default())).expect("it listens");
        Self { _pool: pool, _server: server, directory }
    }
}

fn send(socket: &UnixStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        // Without a signal when the server has closed: a fuzzer's process does not ignore it.
        bytes = &bytes[rustix::net::send(socket, bytes, SendFlags::NOSIGNAL)?..];
    }
    Ok(())
}

/// Everything up to the end. A server that closes with requests unread resets the connection, after its answers.
fn receive_all(socket: &mut UnixStream) -> Vec<u8> {
    let mut all = Vec::new();
    match socket.read_to_end(&mut all) {
        Err(e) if e.kind() != io::ErrorKind::ConnectionReset => panic!("{e}"),
        _ => all,
    }
}

fn option(option: u32, data: &[u8]) -> Vec<u8> {
    let parts = [&OPTION_MAGIC.to_be_bytes()[..], &option.to_be_bytes(), &(data.len() as u32).to_be_bytes(), data];
    parts.concat()
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes(), text.as_bytes()].concat()
}

fn shake_hands(socket: &mut UnixStream, rules: &Rules) -> io::Result<()> {
    let name = if rules.read_only { "v@s" } else { "v" };
    let mut out = vec![0, 0, 0, 3];
    let mut options = Vec::new();
    match rules.style {
        ReplyStyle::Simple => {}
        ReplyStyle::Structured => options.push(option(OPT_STRUCTURED_REPLY, &[])),
        ReplyStyle::Extended => options.push(option(OPT_EXTENDED_HEADERS, &[])),
    }
    if rules.contexts {
        let queries = CONTEXTS.map(text).concat();
        let count = (CONTEXTS.len() as u32).to_be_bytes();
        options.push(option(OPT_SET_META_CONTEXT, &[&text(name)[..], &count, &queries].concat()));
    }
    if rules.style == ReplyStyle::Simple {
        out.extend(option(OPT_EXPORT_NAME, name.as_bytes()));
    } else {
        options.push(option(OPT_GO, &[&text(name)[..], &[0, 0]].concat()));
    }
    out.extend(options.concat());
    send(socket, &out)?;
    let mut greeting = [0; 18];
    socket.read_exact(&mut greeting)?;
    if rules.style == ReplyStyle::Simple {
        return socket.read_exact(&mut [0; 10]);
    }
    let mut acknowledged = 0;
    while acknowledged < options.len() {
        let mut head = [0; 20];
        socket.read_exact(&mut head)?;
        let mut head = Fields(&head);
        assert_eq!(head.u64(), OPTION_REPLY_MAGIC);
        let (option, kind, length) = (head.u32(), head.u32(), head.u32());
        assert!(kind < 1 << 31, "option {option} is refused: {kind:#x}");
        acknowledged += usize::from(kind == REP_ACK);
        socket.read_exact(&mut vec![0; length as usize])?;
    }
    Ok(())
}

/// Big-endian fields of what the server sent; that they are there is part of the check.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at_checked(length).expect("a reply is whole");
        self.0 = rest;
        head
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(*self.take(2).first_chunk().expect("two bytes"))
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(*self.take(4).first_chunk().expect("four bytes"))
    }

    fn u64(&mut self) -> u64 {
        u64::from_be_bytes(*self.take(8).first_chunk().expect("eight bytes"))
    }
}

struct Answers<'a> {
    rest: &'a [u8],
    rules: Rules,
}

impl Answers<'_> {
    /// The next whole answer: to which request, and what it says.
    fn next(&mut self, expected: &[End]) -> (usize, End) {
        let mut fields = Fields(self.rest);
        let simple = fields.u32() == SIMPLE_REPLY_MAGIC;
        let answer = if simple { self.simple(expected) } else { self.chunks() };
        assert!(answer.0 < expected.len(), "an answer to request {}, which was not made", answer.0);
        answer
    }

    fn simple(&mut self, expected: &[End]) -> (usize, End) {
        assert_ne!(self.rules.style, ReplyStyle::Extended, "a simple reply");
        let mut fields = Fields(&self.rest[4..]);
        let (errno, number) = (fields.u32(), fields.u64() as usize);
        let end = match expected.get(number) {
            _ if errno != 0 => End::Refused(errno),
            Some(End::Read(length)) => {
                assert_eq!(self.rules.style, ReplyStyle::Simple, "data in a simple reply");
                End::Read(fields.take(*length as usize).len() as u64)
            }
            _ => End::Done,
        };
        self.rest = fields.0;
        (number, end)
    }

    /// Chunks of one answer stand together, since this server sends whole answers.
    fn chunks(&mut self) -> (usize, End) {
        let (mut number, mut contexts, mut most) = (None, 0, 0);
        loop {
            let mut fields = Fields(self.rest);
            let extended = self.rules.style == ReplyStyle::Extended;
            assert_ne!(self.rules.style, ReplyStyle::Simple, "a chunk");
            assert_eq!(fields.u32(), if extended { EXTENDED_REPLY_MAGIC } else { STRUCTURED_REPLY_MAGIC });
            let (flags, kind, cookie) = (fields.u16(), fields.u16(), fields.u64() as usize);
            assert_eq!(*number.get_or_insert(cookie), cookie, "chunks of two answers are mixed");
            let offset = if extended { fields.u64() } else { 0 };
            let length = if extended { fields.u64() as usize } else { fields.u32() as usize };
            let mut body = Fields(fields.take(length));
            self.rest = fields.0;
            let end = match kind {
                REPLY_NONE => End::Done,
                REPLY_OFFSET_DATA => {
                    let at = body.u64();
                    assert!(!extended || at == offset, "data of {at}, asked for {offset}");
                    End::Read(body.0.len() as u64)
                }
                REPLY_OFFSET_HOLE => {
                    let _at = body.u64();
                    End::Read(body.u32().into())
                }
                REPLY_BLOCK_STATUS | REPLY_BLOCK_STATUS_EXT => {
                    assert_eq!(kind == REPLY_BLOCK_STATUS_EXT, extended);
                    contexts += 1;
                    most = extents(&mut body, extended).max(most);
                    End::Status(contexts, most)
                }
                REPLY_ERROR => End::Refused(body.u32()),
                kind => panic!("chunk {kind:#x}"),
            };
            if flags & REPLY_FLAG_DONE != 0 {
                return (cookie, end);
            }
        }
    }
}

/// Bytes that the extents of one context cover.
fn extents(body: &mut Fields<'_>, extended: bool) -> u64 {
    let context = body.u32();
    assert!((1..=CONTEXTS.len() as u32).contains(&context), "context {context}");
    let count = if extended { body.u32() as usize } else { body.0.len() / 8 };
    assert!(count > 0, "no extents");
    let lengths: Vec<u64> = (0..count)
        .map(|_| {
            let (length, status) =
                if extended { (body.u64(), body.u64()) } else { (body.u32().into(), body.u32().into()) };
            assert!(length > 0 && status < 4, "{length} bytes of status {status}");
            length
        })
        .collect();
    assert!(body.0.is_empty(), "bytes behind the extents");
    lengths.iter().sum()
}
