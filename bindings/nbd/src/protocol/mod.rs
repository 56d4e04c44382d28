//! The NBD protocol as bytes: numbers, parsers and encoders, without any input or output.
//!
//! Invariants: nothing here panics, whatever the bytes; nothing allocates by a length that was not checked against
//! the bytes at hand; every integer on the wire is big-endian. All of it can be fuzzed by calling the `parse_*`
//! functions and [`check`] directly.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod bytes;
pub(crate) mod context;
mod numbers;
pub(crate) mod option;
mod reply;
mod request;

pub use self::{
    context::{ContextQuery, parse_context_query},
    numbers::*,
    option::{
        ClientFlags, InfoRequest, MetaRequest, OptionHeader, parse_client_flags, parse_export_name, parse_info_request,
        parse_meta_request, parse_option_header,
    },
    reply::{
        Descriptor, ReplyStyle, RequestId, handshake, put_block_status, put_chunk, put_data_header, put_error,
        put_hole, put_success,
    },
    request::{Command, Refusal, Request, Rules, StatusFilter, check, parse_request, parse_status_filter},
};

use std::fmt;

/// What is wrong with a message, in words for the peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Violation {
    /// The message breaks the protocol's grammar.
    Malformed(&'static str),
    /// The message is well formed and asks for more than this server handles at once.
    TooBig(&'static str),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(text) | Self::TooBig(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Violation {}
