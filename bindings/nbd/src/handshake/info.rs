//! `INFO`, `GO` and `EXPORT_NAME`: describing an export, and entering transmission.

use super::{Event, EventOf, Exports, Handshake, Opened, Session, put_error, put_violation};
use crate::{
    options::TlsMode,
    protocol::{
        INFO_BLOCK_SIZE, INFO_DESCRIPTION, INFO_EXPORT, INFO_NAME, InfoRequest, OPT_GO, OPT_INFO, REP_ACK, REP_INFO,
        ReplyStyle, TRANSMIT_BLOCK_STATUS_PAYLOAD, TRANSMIT_CACHE, TRANSMIT_DF, TRANSMIT_FAST_ZERO, TRANSMIT_FLUSH,
        TRANSMIT_FUA, TRANSMIT_HAS_FLAGS, TRANSMIT_MULTI_CONN, TRANSMIT_READ_ONLY, TRANSMIT_TRIM,
        TRANSMIT_WRITE_ZEROES, handshake::put_export, handshake::put_option_reply, parse_export_name,
        parse_info_request,
    },
};
use cairn_engine::{BLOCK_SIZE, SECTOR};

impl<X: Exports> Handshake<X> {
    pub(super) fn info(&mut self, data: &[u8], out: &mut Vec<u8>) {
        if let Some(opened) = self.describe(OPT_INFO, data, out) {
            drop(opened);
            put_option_reply(out, OPT_INFO, REP_ACK, &[]);
        }
    }

    pub(super) fn go(&mut self, data: &[u8], out: &mut Vec<u8>) -> EventOf<X> {
        match self.describe(OPT_GO, data, out) {
            Some(opened) => {
                put_option_reply(out, OPT_GO, REP_ACK, &[]);
                self.enter(opened)
            }
            None => Event::Continue,
        }
    }

    /// `EXPORT_NAME` cannot report an error: what it cannot have closes the connection.
    pub(super) fn export_name(&mut self, data: &[u8], out: &mut Vec<u8>) -> EventOf<X> {
        if self.tls == TlsMode::Require && !self.encrypted {
            return Event::Close(Some("EXPORT_NAME before TLS, which this server requires"));
        }
        if self.style == ReplyStyle::Extended {
            return Event::Close(Some("EXPORT_NAME after EXTENDED_HEADERS: use GO"));
        }
        let opened =
            parse_export_name(data).ok().filter(|_| !self.shutdown).and_then(|name| self.exports.open(name).ok());
        let Some(opened) = opened else { return Event::Close(Some("EXPORT_NAME for an export that cannot be had")) };
        put_export(out, opened.size, self.transmission_flags(&opened), self.zeroes);
        self.enter(opened)
    }

    fn enter(&mut self, export: Opened<X::Export>) -> EventOf<X> {
        let contexts = match self.selected.take() {
            Some(selected) if selected.export == export.name => selected.contexts,
            _ => Vec::new(),
        };
        Event::Enter(Box::new(Session { export, style: self.style, contexts }))
    }

    /// Sends the items of information of an export, or the error.
    fn describe(&mut self, option: u32, data: &[u8], out: &mut Vec<u8>) -> Option<Opened<X::Export>> {
        let InfoRequest { name, items } = match parse_info_request(data) {
            Ok(request) => request,
            Err(violation) => {
                put_violation(out, option, violation);
                return None;
            }
        };
        let opened = match self.exports.open(name) {
            Ok(opened) => opened,
            Err(error) => {
                put_error(out, option, &error);
                return None;
            }
        };
        let mut item = |kind: u16, parts: &[&[u8]]| {
            let kind = kind.to_be_bytes();
            let parts: Vec<&[u8]> = std::iter::once(&kind[..]).chain(parts.iter().copied()).collect();
            put_option_reply(out, option, REP_INFO, &parts);
        };
        item(INFO_EXPORT, &[&opened.size.to_be_bytes(), &self.transmission_flags(&opened).to_be_bytes()]);
        // Sent unasked: a client that ignores it gets an error for each request that is not aligned.
        let sizes = [SECTOR as u32, BLOCK_SIZE as u32, self.max_request].map(u32::to_be_bytes);
        item(INFO_BLOCK_SIZE, &[sizes.as_flattened()]);
        if items.contains(&INFO_NAME) || name != opened.name {
            item(INFO_NAME, &[opened.name.as_bytes()]);
        }
        if items.contains(&INFO_DESCRIPTION) {
            item(INFO_DESCRIPTION, &[opened.description.as_bytes()]);
        }
        Some(opened)
    }

    fn transmission_flags(&self, export: &Opened<X::Export>) -> u16 {
        let selected = self.selected.as_ref().is_some_and(|s| s.export == export.name && !s.contexts.is_empty());
        TRANSMIT_HAS_FLAGS
            | TRANSMIT_FLUSH
            | TRANSMIT_FUA
            | TRANSMIT_MULTI_CONN
            | TRANSMIT_CACHE
            | if export.read_only {
                TRANSMIT_READ_ONLY
            } else {
                TRANSMIT_TRIM | TRANSMIT_WRITE_ZEROES | TRANSMIT_FAST_ZERO
            }
            | if self.style == ReplyStyle::Simple { 0 } else { TRANSMIT_DF }
            | if selected && self.style == ReplyStyle::Extended { TRANSMIT_BLOCK_STATUS_PAYLOAD } else { 0 }
    }
}
