//! The NBD protocol as bytes: parsers and the handshake.

use cairn_engine::{Error, ErrorKind, Target};
use cairn_nbd::{
    TlsMode,
    handshake::{Event, Exports, Handshake, Opened},
    protocol::{
        Command, MAX_PAYLOAD, ReplyStyle, Rules, check, parse_client_flags, parse_context_query, parse_export_name,
        parse_info_request, parse_meta_request, parse_option_header, parse_request, parse_status_filter,
    },
};

const SIZE: u64 = (1 << 30) + 512;

/// Every parser of the NBD protocol. A request that passes the check lies within the export.
pub(crate) fn nbd_protocol(input: &[u8]) -> bool {
    let mut understood = matches!(parse_client_flags(input), Ok(Some(_)))
        | matches!(parse_option_header(input), Ok(Some(_)))
        | parse_info_request(input).is_ok()
        | parse_meta_request(input).is_ok();
    let _parsed = parse_export_name(input);
    if let Ok(text) = std::str::from_utf8(input) {
        understood |= parse_context_query(text).is_ok();
        let _parsed = text.parse::<Target>();
    }
    for style in [ReplyStyle::Simple, ReplyStyle::Structured, ReplyStyle::Extended] {
        let extended = style == ReplyStyle::Extended;
        for (read_only, contexts) in [(false, true), (true, false)] {
            let rules = Rules { style, size: SIZE, read_only, max_request: MAX_PAYLOAD, contexts };
            let Ok(Some((request, size))) = parse_request(input, extended) else { continue };
            understood = true;
            assert!(size <= input.len());
            let offset = request.id.offset;
            let within = |length: u64| {
                assert!(offset.is_multiple_of(512) && length.is_multiple_of(512), "{request:?}");
                assert!(offset.checked_add(length).is_some_and(|end| end <= SIZE), "{request:?}");
            };
            match check(&request, &rules) {
                Ok(Command::Read { length, .. } | Command::Write { length, .. }) => {
                    assert!(length <= MAX_PAYLOAD, "{request:?}");
                    within(length.into());
                }
                Ok(
                    Command::Trim { length, .. }
                    | Command::WriteZeroes { length, .. }
                    | Command::Cache { length }
                    | Command::BlockStatus { length, .. },
                ) => within(length),
                Ok(Command::FilteredStatus { payload, .. }) => {
                    let rest = &input[size..];
                    if let Ok(filter) = parse_status_filter(&request, &rest[..rest.len().min(payload as usize)], &rules)
                    {
                        within(filter.length);
                    }
                }
                Ok(Command::Disconnect | Command::Flush) | Err(_) => {}
            }
        }
    }
    understood
}

/// Two exports, one of them a snapshot.
struct Two;

impl Exports for Two {
    type Export = ();
    type Base = ();

    fn list(&self) -> Result<Vec<(String, String)>, Error> {
        Ok(vec![("v".into(), "a volume".into()), ("v@s".into(), String::new())])
    }

    fn open(&self, name: &str) -> Result<Opened<()>, Error> {
        match name {
            "" | "v" => Ok(Opened {
                name: "v".into(),
                size: SIZE,
                read_only: false,
                description: "a volume".into(),
                export: (),
            }),
            "v@s" => {
                Ok(Opened { name: "v@s".into(), size: SIZE, read_only: true, description: String::new(), export: () })
            }
            _ => Err(Error::new(ErrorKind::NotFound, format!("no export {name:?}"))),
        }
    }

    fn snapshots(&self, _: &Opened<()>) -> Result<Vec<String>, Error> {
        Ok(vec!["s".into()])
    }

    fn base(&self, _: &Opened<()>, name: &str) -> Result<(), Error> {
        if name == "s" { Ok(()) } else { Err(Error::new(ErrorKind::NotFound, format!("no snapshot {name:?}"))) }
    }
}

/// A whole handshake. The first byte chooses how TLS is set and in what pieces the rest arrives. It makes progress with every
/// step, and its answers are bounded by what it was asked. Understood is one that comes to an end that the client asked for.
pub(crate) fn nbd_handshake(input: &[u8]) -> bool {
    let Some((choice, bytes)) = input.split_first() else { return false };
    let tls = [TlsMode::Off, TlsMode::Allow, TlsMode::Require][usize::from(choice % 3)];
    let piece = 1 + usize::from(choice / 3);
    let mut handshake = Handshake::new(Two, tls, MAX_PAYLOAD);
    let (mut from, mut to, mut out, mut steps) = (0, 0, Vec::new(), 0usize);
    handshake.greet(&mut out);
    loop {
        let step = handshake.advance(&bytes[from..to], &mut out);
        assert!(step.consumed <= to - from, "more consumed than was there");
        from += step.consumed;
        steps += 1;
        assert!(out.len() <= 1024 + 4096 * steps, "{} bytes of answer in {steps} steps", out.len());
        match step.event {
            Event::Continue => assert!(step.consumed > 0, "a step without progress"),
            Event::NeedInput if to == bytes.len() => return false,
            Event::NeedInput => to = (to + piece).min(bytes.len()),
            Event::StartTls => {
                assert!(tls != TlsMode::Off);
                handshake.encrypted();
            }
            Event::Enter(session) => {
                assert!(["v", "v@s"].contains(&session.export.name.as_str()));
                return true;
            }
            Event::Close(fault) => return fault.is_none(),
        }
    }
}
