//! The vhost-user protocol without any input or output: numbers, parsers and encoders over byte strings.
//!
//! Reference: the "Vhost-user Protocol" document of QEMU. Bodies are checked for their exact size and number of descriptors here, so that
//! what comes out of [`Message::parse`] has only values left to be wrong.

mod bytes;
mod message;
mod numbers;

pub(crate) use {
    message::{HEADER, Header, InflightInfo, MAX_FDS, Message, Region, RingAddresses, config_body, encode},
    numbers::*,
};

/// A message that breaks the protocol. Nothing behind it can be trusted to be what it seems: the connection ends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Violation(pub(crate) String);

impl<T: Into<String>> From<T> for Violation {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}
