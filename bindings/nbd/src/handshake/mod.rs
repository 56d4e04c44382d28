//! The handshake as a state machine without input or output: bytes in, bytes and an event out.
//!
//! Invariants: one call of [`Handshake::advance`] handles at most one message; nothing negotiated before TLS survives
//! the upgrade; under `require` nothing but `STARTTLS` and `ABORT` is looked at before TLS; an option whose data is
//! longer than [`MAX_OPTION_DATA`] is never held in memory.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod contexts;
mod info;

#[cfg(test)]
mod tests;

use crate::{
    options::TlsMode,
    protocol::{
        MAX_OPTION_DATA, MAX_PAYLOAD, OPT_ABORT, OPT_EXPORT_NAME, OPT_EXTENDED_HEADERS, OPT_GO, OPT_INFO, OPT_LIST,
        OPT_LIST_META_CONTEXT, OPT_SET_META_CONTEXT, OPT_STARTTLS, OPT_STRUCTURED_REPLY, OptionHeader, REP_ACK,
        REP_ERR_EXT_HEADER_REQD, REP_ERR_INVALID, REP_ERR_POLICY, REP_ERR_SHUTDOWN, REP_ERR_TLS_REQD, REP_ERR_TOO_BIG,
        REP_ERR_UNKNOWN, REP_ERR_UNSUP, REP_SERVER, ReplyStyle, Violation,
        handshake::{put_greeting, put_option_error, put_option_reply},
        option::{CLIENT_FLAGS_SIZE, OPTION_HEADER_SIZE},
        parse_client_flags, parse_option_header,
    },
};
use cairn_engine::{Error, ErrorKind};

/// What the handshake needs to know of the server's exports.
pub trait Exports {
    /// An opened export; dropping it closes it.
    type Export;
    /// A snapshot that a metadata context compares with; held for as long as the context is.
    type Base;

    /// Every export: name and description.
    fn list(&self) -> Result<Vec<(String, String)>, Error>;
    /// Opens an export by name; the empty name is the default export.
    fn open(&self, name: &str) -> Result<Opened<Self::Export>, Error>;
    /// Names of the snapshots that `cairn:changed-since=` can name for this export.
    fn snapshots(&self, export: &Opened<Self::Export>) -> Result<Vec<String>, Error>;
    /// The snapshot that `cairn:changed-since=NAME` means for this export.
    fn base(&self, export: &Opened<Self::Export>, name: &str) -> Result<Self::Base, Error>;
}

/// An export that was found and opened.
#[derive(Debug)]
pub struct Opened<E> {
    /// Canonical name.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// Whether it takes no writes.
    pub read_only: bool,
    /// For people.
    pub description: String,
    /// The export.
    pub export: E,
}

/// A selected metadata context.
#[derive(Debug)]
pub struct Context<B> {
    /// Its id on this connection.
    pub id: u32,
    /// What it reports.
    pub kind: ContextKind<B>,
}

/// What a metadata context reports.
#[derive(Debug)]
pub enum ContextKind<B> {
    /// `base:allocation`.
    Allocation,
    /// `cairn:changed-since=...`.
    ChangedSince(B),
}

/// What was agreed on when transmission begins.
#[derive(Debug)]
pub struct Session<E, B> {
    /// The export.
    pub export: Opened<E>,
    /// Which headers and replies are used.
    pub style: ReplyStyle,
    /// The metadata contexts, in the order of their ids.
    pub contexts: Vec<Context<B>>,
}

/// What the caller does after a step.
#[derive(Debug)]
pub enum Event<E, B> {
    /// The next message is not complete: send what there is to send, and receive more.
    NeedInput,
    /// A message was handled: call again.
    Continue,
    /// Send what there is to send, then continue under TLS.
    StartTls,
    /// Send what there is to send, then serve requests.
    Enter(Box<Session<E, B>>),
    /// Send what there is to send, then close the connection. The text says why, if the client broke a rule.
    Close(Option<&'static str>),
}

/// The result of one step.
#[derive(Debug)]
pub struct Step<E, B> {
    /// How many bytes of the input are done with.
    pub consumed: usize,
    /// What to do next.
    pub event: Event<E, B>,
}

type StepOf<X> = Step<<X as Exports>::Export, <X as Exports>::Base>;
type EventOf<X> = Event<<X as Exports>::Export, <X as Exports>::Base>;

enum State {
    ClientFlags,
    Options,
    /// Reading past the data of an option that was too long.
    Skip(u32),
}

struct Selected<B> {
    export: String,
    contexts: Vec<Context<B>>,
}

/// One connection's handshake.
pub struct Handshake<X: Exports> {
    exports: X,
    tls: TlsMode,
    encrypted: bool,
    max_request: u32,
    state: State,
    fixed: bool,
    zeroes: bool,
    style: ReplyStyle,
    selected: Option<Selected<X::Base>>,
    shutdown: bool,
}

impl<X: Exports> Handshake<X> {
    /// A handshake that offers requests of up to `max_request` bytes.
    pub fn new(exports: X, tls: TlsMode, max_request: u32) -> Self {
        Self {
            exports,
            tls,
            encrypted: false,
            max_request,
            state: State::ClientFlags,
            fixed: false,
            zeroes: true,
            style: ReplyStyle::Simple,
            selected: None,
            shutdown: false,
        }
    }

    /// Appends the server's first message.
    pub fn greet(&self, out: &mut Vec<u8>) {
        put_greeting(out);
    }

    /// The TLS handshake succeeded: everything negotiated before is forgotten.
    pub fn encrypted(&mut self) {
        self.encrypted = true;
        self.style = ReplyStyle::Simple;
        self.selected = None;
    }

    /// From now on options are answered with "shutting down".
    pub fn shut_down(&mut self) {
        self.shutdown = true;
    }

    /// Handles the next message in `input`, appending replies to `out`.
    pub fn advance(&mut self, input: &[u8], out: &mut Vec<u8>) -> StepOf<X> {
        match self.state {
            State::ClientFlags => self.client_flags(input),
            State::Options => self.next_option(input, out),
            State::Skip(left) => {
                let consumed = input.len().min(left as usize);
                let left = left - consumed as u32;
                self.state = if left == 0 { State::Options } else { State::Skip(left) };
                Step { consumed, event: if left == 0 { Event::Continue } else { Event::NeedInput } }
            }
        }
    }

    fn client_flags(&mut self, input: &[u8]) -> StepOf<X> {
        match parse_client_flags(input) {
            Ok(None) => Step { consumed: 0, event: Event::NeedInput },
            Ok(Some(flags)) => {
                self.fixed = flags.fixed_newstyle;
                self.zeroes = !flags.no_zeroes;
                self.state = State::Options;
                Step { consumed: CLIENT_FLAGS_SIZE, event: Event::Continue }
            }
            Err(violation) => Step { consumed: input.len(), event: close(violation) },
        }
    }

    fn next_option(&mut self, input: &[u8], out: &mut Vec<u8>) -> StepOf<X> {
        let header = match parse_option_header(input) {
            Ok(Some(header)) => header,
            Ok(None) => return Step { consumed: 0, event: Event::NeedInput },
            Err(violation) => return Step { consumed: input.len(), event: close(violation) },
        };
        if header.length > MAX_OPTION_DATA {
            return self.too_long(header, out);
        }
        let rest = input.get(OPTION_HEADER_SIZE..).unwrap_or_default();
        let Some(data) = rest.get(..header.length as usize) else {
            return Step { consumed: 0, event: Event::NeedInput };
        };
        Step { consumed: OPTION_HEADER_SIZE + data.len(), event: self.handle(header.option, data, out) }
    }

    fn too_long(&mut self, header: OptionHeader, out: &mut Vec<u8>) -> StepOf<X> {
        if header.option == OPT_EXPORT_NAME || header.length > MAX_PAYLOAD || !self.fixed {
            return Step { consumed: 0, event: Event::Close(Some("an option's data is far too long")) };
        }
        if self.may_look(header.option) {
            put_option_error(out, header.option, REP_ERR_TOO_BIG, "option data is limited to 64 KiB");
        } else {
            put_option_error(out, header.option, REP_ERR_TLS_REQD, TLS_FIRST);
        }
        self.state = State::Skip(header.length);
        Step { consumed: OPTION_HEADER_SIZE, event: Event::Continue }
    }

    /// Whether an option is looked at in this state of TLS.
    fn may_look(&self, option: u32) -> bool {
        self.encrypted || self.tls != TlsMode::Require || matches!(option, OPT_STARTTLS | OPT_ABORT)
    }

    fn handle(&mut self, option: u32, data: &[u8], out: &mut Vec<u8>) -> EventOf<X> {
        if option == OPT_EXPORT_NAME {
            return self.export_name(data, out);
        }
        if !self.fixed {
            return Event::Close(Some("a client without fixed newstyle may only send EXPORT_NAME"));
        }
        if option == OPT_ABORT {
            put_option_reply(out, option, REP_ACK, &[]);
            return Event::Close(None);
        }
        if !self.may_look(option) {
            put_option_error(out, option, REP_ERR_TLS_REQD, TLS_FIRST);
            return Event::Continue;
        }
        if self.shutdown {
            put_option_error(out, option, REP_ERR_SHUTDOWN, "the server is shutting down");
            return Event::Continue;
        }
        match option {
            OPT_STARTTLS => return self.start_tls(data, out),
            OPT_GO => return self.go(data, out),
            OPT_INFO => self.info(data, out),
            OPT_LIST => self.list(data, out),
            OPT_STRUCTURED_REPLY => self.agree_on(ReplyStyle::Structured, option, data, out),
            OPT_EXTENDED_HEADERS => self.agree_on(ReplyStyle::Extended, option, data, out),
            OPT_LIST_META_CONTEXT => self.list_contexts(data, out),
            OPT_SET_META_CONTEXT => self.set_contexts(data, out),
            _ => put_option_error(out, option, REP_ERR_UNSUP, "this server does not know the option"),
        }
        Event::Continue
    }

    fn start_tls(&mut self, data: &[u8], out: &mut Vec<u8>) -> EventOf<X> {
        let (reply, text) = match (self.tls, self.encrypted, data.is_empty()) {
            (TlsMode::Off, ..) => (REP_ERR_POLICY, "this server was started without TLS"),
            (_, true, _) => (REP_ERR_INVALID, "TLS is already in use"),
            (_, _, false) => (REP_ERR_INVALID, "STARTTLS takes no data"),
            _ => {
                put_option_reply(out, OPT_STARTTLS, REP_ACK, &[]);
                return Event::StartTls;
            }
        };
        put_option_error(out, OPT_STARTTLS, reply, text);
        Event::Continue
    }

    fn agree_on(&mut self, style: ReplyStyle, option: u32, data: &[u8], out: &mut Vec<u8>) {
        if !data.is_empty() {
            return put_option_error(out, option, REP_ERR_INVALID, "the option takes no data");
        }
        if self.style == ReplyStyle::Extended && style == ReplyStyle::Structured {
            return put_option_error(out, option, REP_ERR_EXT_HEADER_REQD, "extended headers are already agreed on");
        }
        self.style = style;
        put_option_reply(out, option, REP_ACK, &[]);
    }

    fn list(&self, data: &[u8], out: &mut Vec<u8>) {
        if !data.is_empty() {
            return put_option_error(out, OPT_LIST, REP_ERR_INVALID, "LIST takes no data");
        }
        match self.exports.list() {
            Ok(exports) => {
                for (name, description) in exports {
                    let length = (name.len() as u32).to_be_bytes();
                    put_option_reply(out, OPT_LIST, REP_SERVER, &[&length, name.as_bytes(), description.as_bytes()]);
                }
                put_option_reply(out, OPT_LIST, REP_ACK, &[]);
            }
            Err(error) => put_error(out, OPT_LIST, &error),
        }
    }
}

const TLS_FIRST: &str = "this server requires TLS: send STARTTLS first";

fn close<E, B>(violation: Violation) -> Event<E, B> {
    let (Violation::Malformed(text) | Violation::TooBig(text)) = violation;
    Event::Close(Some(text))
}

/// Answers an option with what its parser found wrong.
fn put_violation(out: &mut Vec<u8>, option: u32, violation: Violation) {
    let reply = match violation {
        Violation::Malformed(_) => REP_ERR_INVALID,
        Violation::TooBig(_) => REP_ERR_TOO_BIG,
    };
    put_option_error(out, option, reply, &violation.to_string());
}

/// Answers an option with what the engine says.
fn put_error(out: &mut Vec<u8>, option: u32, error: &Error) {
    let reply = match error.kind() {
        // A name that breaks the rules for names is the name of no export.
        ErrorKind::NotFound | ErrorKind::Invalid => REP_ERR_UNKNOWN,
        ErrorKind::Closed => REP_ERR_SHUTDOWN,
        _ => REP_ERR_POLICY,
    };
    put_option_error(out, option, reply, &error.to_string());
}
