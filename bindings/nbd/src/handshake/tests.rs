use super::*;
use crate::protocol::{self, *};
use proptest::prelude::*;
use std::{cell::Cell, rc::Rc};

/// A server with a volume `db`, its snapshot `db@monday`, and a counter of what is held open.
#[derive(Clone, Default)]
struct Fake {
    open: Rc<Cell<i32>>,
}

#[derive(Debug)]
struct Held(Rc<Cell<i32>>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Fake {
    fn hold(&self) -> Held {
        self.open.set(self.open.get() + 1);
        Held(Rc::clone(&self.open))
    }
}

impl Exports for Fake {
    type Export = Held;
    type Base = (String, Held);

    fn list(&self) -> Result<Vec<(String, String)>, Error> {
        Ok(vec![("db".into(), "volume".into()), ("db@monday".into(), "snapshot".into())])
    }

    fn open(&self, name: &str) -> Result<Opened<Held>, Error> {
        let (name, read_only) = match name {
            "" | "db" => ("db", false),
            "db@monday" => ("db@monday", true),
            _ => return Err(Error::new(ErrorKind::NotFound, format!("no volume {name}"))),
        };
        Ok(Opened {
            name: name.into(),
            size: 1 << 30,
            read_only,
            description: "for people".into(),
            export: self.hold(),
        })
    }

    fn snapshots(&self, _: &Opened<Held>) -> Result<Vec<String>, Error> {
        Ok(vec!["monday".into(), "tuesday".into()])
    }

    fn base(&self, _: &Opened<Held>, name: &str) -> Result<(String, Held), Error> {
        match name {
            "monday" | "tuesday" | "db@monday" => Ok((name.into(), self.hold())),
            _ => Err(Error::new(ErrorKind::NotFound, "no such snapshot")),
        }
    }
}

type Agreed = Session<Held, (String, Held)>;

/// A client that sends options and reads replies.
struct Client {
    fake: Fake,
    handshake: Handshake<Fake>,
}

#[derive(Debug, PartialEq)]
struct Reply {
    option: u32,
    kind: u32,
    data: Vec<u8>,
}

fn option(option: u32, data: &[u8]) -> Vec<u8> {
    let mut out = OPTION_MAGIC.to_be_bytes().to_vec();
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&(data.len() as u32).to_be_bytes());
    out.extend_from_slice(data);
    out
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat()
}

fn info(name: &str, items: &[u16]) -> Vec<u8> {
    let mut out = string(name);
    out.extend_from_slice(&(items.len() as u16).to_be_bytes());
    items.iter().for_each(|item| out.extend_from_slice(&item.to_be_bytes()));
    out
}

fn meta(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut out = string(name);
    out.extend_from_slice(&(queries.len() as u32).to_be_bytes());
    queries.iter().for_each(|query| out.extend(string(query)));
    out
}

fn replies(mut bytes: &[u8]) -> Vec<Reply> {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        assert_eq!(bytes[..8], OPTION_REPLY_MAGIC.to_be_bytes());
        let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        let length = word(16) as usize;
        out.push(Reply { option: word(8), kind: word(12), data: bytes[20..20 + length].to_vec() });
        bytes = &bytes[20 + length..];
    }
    out
}

impl Client {
    fn new(tls: TlsMode) -> Self {
        Self::with_flags(tls, 3)
    }

    fn with_flags(tls: TlsMode, flags: u32) -> Self {
        let fake = Fake::default();
        let mut client = Self { handshake: Handshake::new(fake.clone(), tls, MAX_PAYLOAD), fake };
        assert!(matches!(client.send(&flags.to_be_bytes()).0, Event::NeedInput));
        client
    }

    /// Sends bytes until the server wants more or something happens; what it answered.
    fn send(&mut self, mut bytes: &[u8]) -> (Event<Held, (String, Held)>, Vec<u8>) {
        let mut out = Vec::new();
        loop {
            let step = self.handshake.advance(bytes, &mut out);
            bytes = &bytes[step.consumed..];
            if !matches!(step.event, Event::Continue) {
                return (step.event, out);
            }
        }
    }

    fn ask(&mut self, code: u32, data: &[u8]) -> Vec<Reply> {
        let (event, out) = self.send(&option(code, data));
        assert!(matches!(event, Event::NeedInput), "{event:?}");
        replies(&out)
    }

    fn kinds(&mut self, code: u32, data: &[u8]) -> Vec<u32> {
        self.ask(code, data).iter().map(|reply| reply.kind).collect()
    }

    fn go(&mut self, name: &str) -> (Box<Agreed>, Vec<Reply>) {
        let (event, out) = self.send(&option(OPT_GO, &info(name, &[])));
        let Event::Enter(session) = event else { panic!("{event:?}") };
        (session, replies(&out))
    }
}

fn flags(replies: &[Reply]) -> u16 {
    let export = replies.iter().find(|reply| reply.data.starts_with(&[0, 0])).unwrap();
    u16::from_be_bytes(export.data[10..12].try_into().unwrap())
}

#[test]
fn greeting_is_fixed_newstyle() {
    let mut out = Vec::new();
    Handshake::new(Fake::default(), TlsMode::Off, MAX_PAYLOAD).greet(&mut out);
    assert_eq!(out, b"NBDMAGICIHAVEOPT\0\x03");
}

#[test]
fn exports_are_listed_described_and_entered() {
    let mut client = Client::new(TlsMode::Off);
    let listed = client.ask(OPT_LIST, &[]);
    assert_eq!(listed[0].data, [&string("db")[..], b"volume"].concat());
    assert_eq!(listed.iter().map(|r| r.kind).collect::<Vec<_>>(), [REP_SERVER, REP_SERVER, REP_ACK]);

    let described = client.ask(OPT_INFO, &info("", &[INFO_DESCRIPTION, 77]));
    assert_eq!(described.last().unwrap().kind, REP_ACK);
    assert!(described.iter().any(|r| r.data == b"\0\x01db"), "the default export's own name");
    assert!(described.iter().any(|r| r.data == b"\0\x02for people"));
    let sizes =
        [&INFO_BLOCK_SIZE.to_be_bytes()[..], &512u32.to_be_bytes(), &4096u32.to_be_bytes(), &MAX_PAYLOAD.to_be_bytes()];
    assert!(described.iter().any(|r| r.data == sizes.concat()));
    assert_eq!(client.fake.open.get(), 0, "INFO leaves nothing open");

    let (session, replies) = client.go("db");
    assert_eq!((session.export.name.as_str(), session.style), ("db", ReplyStyle::Simple));
    let expected = TRANSMIT_HAS_FLAGS
        | TRANSMIT_FLUSH
        | TRANSMIT_FUA
        | TRANSMIT_TRIM
        | TRANSMIT_WRITE_ZEROES
        | TRANSMIT_MULTI_CONN
        | TRANSMIT_CACHE
        | TRANSMIT_FAST_ZERO;
    assert_eq!(flags(&replies), expected);
    drop(session);
    assert_eq!(client.fake.open.get(), 0);
}

#[test]
fn snapshots_are_read_only() {
    let mut client = Client::new(TlsMode::Off);
    assert_eq!(client.kinds(OPT_STRUCTURED_REPLY, &[]), [REP_ACK]);
    let (_, replies) = client.go("db@monday");
    let expected = TRANSMIT_HAS_FLAGS
        | TRANSMIT_READ_ONLY
        | TRANSMIT_FLUSH
        | TRANSMIT_FUA
        | TRANSMIT_DF
        | TRANSMIT_MULTI_CONN
        | TRANSMIT_CACHE;
    assert_eq!(flags(&replies), expected);
}

#[test]
fn unknown_and_malformed_options_are_answered_and_haggling_goes_on() {
    let mut client = Client::new(TlsMode::Off);
    assert_eq!(client.kinds(4, b"whatever"), [REP_ERR_UNSUP]);
    assert_eq!(client.kinds(u32::MAX, &[]), [REP_ERR_UNSUP]);
    assert_eq!(client.kinds(OPT_LIST, b"x"), [REP_ERR_INVALID]);
    assert_eq!(client.kinds(OPT_STRUCTURED_REPLY, b"x"), [REP_ERR_INVALID]);
    assert_eq!(client.kinds(OPT_GO, &[]), [REP_ERR_INVALID]);
    assert_eq!(client.kinds(OPT_INFO, &[0xff; 10]), [REP_ERR_INVALID]);
    let unknown = client.ask(OPT_GO, &info("nothing", &[]));
    assert_eq!((unknown[0].kind, &unknown[0].data[..]), (REP_ERR_UNKNOWN, &b"no volume nothing"[..]));
    assert_eq!(client.kinds(OPT_STARTTLS, &[]), [REP_ERR_POLICY]);
    let (event, out) = client.send(&option(OPT_ABORT, b"ignored"));
    assert!(matches!(event, Event::Close(None)) && replies(&out)[0].kind == REP_ACK);
}

#[test]
fn long_options_are_read_past_without_being_kept() {
    let mut client = Client::new(TlsMode::Off);
    let mut bytes = option(99, &[]);
    bytes[12..16].copy_from_slice(&100_000u32.to_be_bytes());
    let (_, out) = client.send(&bytes);
    assert_eq!(replies(&out)[0].kind, REP_ERR_TOO_BIG);
    assert!(matches!(client.send(&[0; 60_000]).0, Event::NeedInput));
    let mut rest = vec![0; 40_000];
    rest.extend(option(OPT_LIST, &[]));
    assert_eq!(replies(&client.send(&rest).1).len(), 3, "the next option is understood");
    bytes[12..16].copy_from_slice(&u32::MAX.to_be_bytes());
    assert!(matches!(client.send(&bytes).0, Event::Close(Some(_))));
}

#[test]
fn options_may_arrive_a_byte_at_a_time() {
    let mut client = Client::new(TlsMode::Off);
    let bytes = option(OPT_INFO, &info("db", &[INFO_NAME]));
    for end in 0..bytes.len() {
        let mut out = Vec::new();
        let step = client.handshake.advance(&bytes[..end], &mut out);
        assert!(step.consumed == 0 && out.is_empty() && matches!(step.event, Event::NeedInput));
    }
    assert_eq!(client.send(&bytes).1, client.send(&bytes).1);
}

#[test]
fn export_name_answers_or_closes() {
    for (flags, length) in [(3, 10), (1, 134), (0, 134), (2, 10)] {
        let mut client = Client::with_flags(TlsMode::Off, flags);
        let (event, out) = client.send(&option(OPT_EXPORT_NAME, b"db"));
        assert!(matches!(event, Event::Enter(_)), "flags {flags}");
        assert_eq!((out.len(), &out[..8]), (length, &(1u64 << 30).to_be_bytes()[..]));
    }
    let mut client = Client::new(TlsMode::Off);
    assert!(matches!(client.send(&option(OPT_EXPORT_NAME, b"nothing")).0, Event::Close(_)));
    assert_eq!(client.kinds(OPT_EXTENDED_HEADERS, &[]), [REP_ACK]);
    assert!(matches!(client.send(&option(OPT_EXPORT_NAME, b"db")).0, Event::Close(_)));
    let mut old = Client::with_flags(TlsMode::Off, 0);
    assert!(matches!(old.send(&option(OPT_LIST, &[])).0, Event::Close(_)));
}

#[test]
fn broken_magic_and_unknown_flags_close() {
    let mut client = Client::new(TlsMode::Off);
    assert!(matches!(client.send(b"GET / HTTP/1.1\r\n\r\n").0, Event::Close(_)));
    let mut handshake = Handshake::new(Fake::default(), TlsMode::Off, MAX_PAYLOAD);
    assert!(matches!(handshake.advance(&[0, 0, 0, 8], &mut Vec::new()).event, Event::Close(_)));
}

#[test]
fn required_tls_hides_everything_until_it_is_there() {
    let mut client = Client::new(TlsMode::Require);
    for code in [OPT_LIST, OPT_INFO, OPT_GO, OPT_STRUCTURED_REPLY, OPT_SET_META_CONTEXT, 4, 1234] {
        assert_eq!(client.kinds(code, &info("db", &[])), [REP_ERR_TLS_REQD], "option {code}");
    }
    assert!(matches!(client.send(&option(OPT_EXPORT_NAME, b"db")).0, Event::Close(_)));
    assert_eq!(client.kinds(OPT_STARTTLS, b"x"), [REP_ERR_INVALID]);
    let (event, out) = client.send(&option(OPT_STARTTLS, &[]));
    assert!(matches!(event, Event::StartTls) && replies(&out)[0].kind == REP_ACK);
    client.handshake.encrypted();
    assert_eq!(client.kinds(OPT_STARTTLS, &[]), [REP_ERR_INVALID]);
    assert_eq!(client.kinds(OPT_LIST, &[]).len(), 3);
}

#[test]
fn tls_forgets_what_was_agreed_in_clear() {
    let mut client = Client::new(TlsMode::Allow);
    assert_eq!(client.kinds(OPT_STRUCTURED_REPLY, &[]), [REP_ACK]);
    client.ask(OPT_SET_META_CONTEXT, &meta("db", &["base:allocation", "cairn:changed-since=monday"]));
    assert_eq!(client.fake.open.get(), 1, "the snapshot is held");
    assert!(matches!(client.send(&option(OPT_STARTTLS, &[])).0, Event::StartTls));
    client.handshake.encrypted();
    assert_eq!(client.fake.open.get(), 0);
    let (session, _) = client.go("db");
    assert!(session.style == ReplyStyle::Simple && session.contexts.is_empty());
}

#[test]
fn contexts_are_listed_by_query() {
    let mut client = Client::new(TlsMode::Off);
    assert_eq!(client.kinds(OPT_LIST_META_CONTEXT, &meta("db", &[])), [REP_ERR_INVALID], "structured replies first");
    client.ask(OPT_STRUCTURED_REPLY, &[]);
    let mut names = |queries: &[&str]| -> Vec<String> {
        let replies = client.ask(OPT_LIST_META_CONTEXT, &meta("db", queries));
        assert_eq!(replies.last().unwrap().kind, REP_ACK);
        let text = |r: &Reply| String::from_utf8(r.data[4..].to_vec()).unwrap();
        replies.iter().filter(|r| r.kind == REP_META_CONTEXT).map(text).collect()
    };
    assert_eq!(names(&[]), ["base:allocation", "cairn:changed-since="]);
    assert_eq!(names(&["base:", "base:allocation"]), ["base:allocation"]);
    assert_eq!(names(&["cairn:"]), ["cairn:changed-since=monday", "cairn:changed-since=tuesday"]);
    assert_eq!(names(&["cairn:changed-since=db@monday"]), ["cairn:changed-since=db@monday"]);
    assert!(names(&["cairn:changed-since=never", "qemu:", "base:x"]).is_empty());
    assert_eq!(client.kinds(OPT_LIST_META_CONTEXT, &meta("db", &["nocolon"])), [REP_ERR_INVALID]);
    assert_eq!(client.kinds(OPT_LIST_META_CONTEXT, &meta("nothing", &[])), [REP_ERR_UNKNOWN]);
}

#[test]
fn contexts_are_selected_for_their_export_only() {
    let mut client = Client::new(TlsMode::Off);
    client.ask(OPT_EXTENDED_HEADERS, &[]);
    assert_eq!(client.kinds(OPT_STRUCTURED_REPLY, &[]), [REP_ERR_EXT_HEADER_REQD]);
    let queries =
        ["base:allocation", "cairn:changed-since=monday", "base:allocation", "cairn:", "x:y", "cairn:changed-since=no"];
    let selected = client.ask(OPT_SET_META_CONTEXT, &meta("", &queries));
    assert_eq!(selected.iter().map(|r| r.kind).collect::<Vec<_>>(), [REP_META_CONTEXT, REP_META_CONTEXT, REP_ACK]);
    assert_eq!(selected[1].data, [&2u32.to_be_bytes()[..], b"cairn:changed-since=monday"].concat());
    let (session, replies) = client.go("db");
    assert_eq!(session.contexts.len(), 2);
    assert!(
        matches!(&session.contexts[1], Context { id: 2, kind: ContextKind::ChangedSince((name, _)) } if name == "monday")
    );
    assert!(flags(&replies) & TRANSMIT_BLOCK_STATUS_PAYLOAD != 0);

    let mut other = Client::new(TlsMode::Off);
    other.ask(OPT_STRUCTURED_REPLY, &[]);
    other.ask(OPT_SET_META_CONTEXT, &meta("db", &["base:allocation"]));
    assert!(other.go("db@monday").0.contexts.is_empty(), "selected for another export");

    let mut failed = Client::new(TlsMode::Off);
    failed.ask(OPT_STRUCTURED_REPLY, &[]);
    failed.ask(OPT_SET_META_CONTEXT, &meta("db", &["base:allocation"]));
    assert_eq!(failed.kinds(OPT_SET_META_CONTEXT, &meta("nothing", &["base:allocation"])), [REP_ERR_UNKNOWN]);
    assert!(failed.go("db").0.contexts.is_empty(), "a failed selection clears the one before");
}

#[test]
fn a_server_that_stops_says_so() {
    let mut client = Client::new(TlsMode::Off);
    client.handshake.shut_down();
    assert_eq!(client.kinds(OPT_GO, &info("db", &[])), [REP_ERR_SHUTDOWN]);
    assert!(matches!(client.send(&option(OPT_EXPORT_NAME, b"db")).0, Event::Close(_)));
}

proptest! {
    /// Whatever a client sends: no panic, replies that can be read, and nothing left open.
    #[test]
    fn arbitrary_clients(
        messages in proptest::collection::vec((0u32..14, proptest::collection::vec(any::<u8>(), 0..60), 0u8..4), 0..20),
        require: bool,
    ) {
        let mut client = Client::new(if require { TlsMode::Require } else { TlsMode::Allow });
        let fake = client.fake.clone();
        for (code, noise, shape) in messages {
            let data = match shape {
                0 => info("db", &[1, 2, 3]),
                1 => meta("db", &["base:allocation", "cairn:changed-since=tuesday"]),
                2 => Vec::new(),
                _ => noise,
            };
            let (event, out) = client.send(&option(code, &data));
            if code != OPT_EXPORT_NAME {
                prop_assert!(!replies(&out).is_empty());
            }
            match event {
                Event::NeedInput => {}
                Event::StartTls => client.handshake.encrypted(),
                _ => break,
            }
        }
        drop(client);
        prop_assert_eq!(fake.open.get(), 0);
    }

    #[test]
    fn arbitrary_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut handshake = Handshake::new(Fake::default(), TlsMode::Allow, protocol::MAX_PAYLOAD);
        let (mut at, mut out) = (0, Vec::new());
        loop {
            let step = handshake.advance(&bytes[at..], &mut out);
            at += step.consumed;
            prop_assert!(at <= bytes.len());
            if !matches!(step.event, Event::Continue) {
                break;
            }
        }
    }
}
