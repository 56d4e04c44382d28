//! Messages of the server: appended to byte strings that the caller sends.

use super::numbers::{
    EXTENDED_REPLY_MAGIC, FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, INIT_PASSWD, OPTION_MAGIC, OPTION_REPLY_MAGIC,
    REPLY_BLOCK_STATUS, REPLY_BLOCK_STATUS_EXT, REPLY_ERROR, REPLY_FLAG_DONE, REPLY_NONE, REPLY_OFFSET_DATA,
    REPLY_OFFSET_HOLE, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC,
};

/// Longest text sent with an error, in bytes; the protocol allows 4,096.
const MAX_TEXT: usize = 1024;

/// Which replies were agreed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ReplyStyle {
    /// Simple replies only.
    #[default]
    Simple,
    /// Structured replies; simple ones still say "done" for anything but a read.
    Structured,
    /// 64-bit headers both ways; extended replies only.
    Extended,
}

/// What ties a reply to its request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestId {
    /// The client's cookie, opaque.
    pub cookie: u64,
    /// The request's offset, which extended replies repeat.
    pub offset: u64,
}

/// One extent of a block status reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Descriptor {
    /// Bytes; not zero.
    pub length: u64,
    /// Flags, as the context defines them.
    pub status: u32,
}

/// The start of `text` that fits into an error, cut between characters.
fn clipped(text: &str) -> &str {
    text.get(..text.floor_char_boundary(MAX_TEXT)).unwrap_or_default()
}

/// Messages while options are haggled over.
pub mod handshake {
    use super::{FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, INIT_PASSWD, OPTION_MAGIC, OPTION_REPLY_MAGIC, clipped};

    /// The first bytes on a connection.
    pub fn put_greeting(out: &mut Vec<u8>) {
        out.extend_from_slice(&INIT_PASSWD.to_be_bytes());
        out.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
        out.extend_from_slice(&(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES).to_be_bytes());
    }

    /// A reply to `option` whose data is the parts, one after the other.
    pub fn put_option_reply(out: &mut Vec<u8>, option: u32, reply: u32, parts: &[&[u8]]) {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        out.extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
        out.extend_from_slice(&option.to_be_bytes());
        out.extend_from_slice(&reply.to_be_bytes());
        out.extend_from_slice(&(length as u32).to_be_bytes());
        for part in parts {
            out.extend_from_slice(part);
        }
    }

    /// An error reply to `option` with its text.
    pub fn put_option_error(out: &mut Vec<u8>, option: u32, reply: u32, text: &str) {
        put_option_reply(out, option, reply, &[clipped(text).as_bytes()]);
    }

    /// The answer to `EXPORT_NAME`.
    pub fn put_export(out: &mut Vec<u8>, size: u64, flags: u16, zeroes: bool) {
        out.extend_from_slice(&size.to_be_bytes());
        out.extend_from_slice(&flags.to_be_bytes());
        if zeroes {
            out.extend_from_slice(&[0; 124]);
        }
    }
}

fn put_simple(out: &mut Vec<u8>, id: RequestId, errno: u32) {
    out.extend_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&errno.to_be_bytes());
    out.extend_from_slice(&id.cookie.to_be_bytes());
}

/// Header of a chunk in the structured or extended style; `length` bytes must follow.
pub fn put_chunk(out: &mut Vec<u8>, style: ReplyStyle, id: RequestId, flags: u16, chunk: u16, length: u32) {
    let extended = style == ReplyStyle::Extended;
    let magic = if extended { EXTENDED_REPLY_MAGIC } else { STRUCTURED_REPLY_MAGIC };
    out.extend_from_slice(&magic.to_be_bytes());
    out.extend_from_slice(&flags.to_be_bytes());
    out.extend_from_slice(&chunk.to_be_bytes());
    out.extend_from_slice(&id.cookie.to_be_bytes());
    if extended {
        out.extend_from_slice(&id.offset.to_be_bytes());
        out.extend_from_slice(&u64::from(length).to_be_bytes());
    } else {
        out.extend_from_slice(&length.to_be_bytes());
    }
}

/// The whole reply to a request that succeeded and has nothing to send. (For a read of zero bytes, `content` is set:
/// structured reads are never answered by simple replies.)
pub fn put_success(out: &mut Vec<u8>, style: ReplyStyle, id: RequestId, content: bool) {
    if style == ReplyStyle::Extended || (content && style == ReplyStyle::Structured) {
        put_chunk(out, style, id, REPLY_FLAG_DONE, REPLY_NONE, 0);
    } else {
        put_simple(out, id, 0);
    }
}

/// The whole reply to a request that failed; `errno` is not zero.
pub fn put_error(out: &mut Vec<u8>, style: ReplyStyle, id: RequestId, errno: u32, text: &str) {
    if style == ReplyStyle::Simple {
        return put_simple(out, id, errno);
    }
    let text = clipped(text);
    put_chunk(out, style, id, REPLY_FLAG_DONE, REPLY_ERROR, 6 + text.len() as u32);
    out.extend_from_slice(&errno.to_be_bytes());
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Everything of a read's reply that stands before its `length` bytes of data.
pub fn put_data_header(out: &mut Vec<u8>, style: ReplyStyle, id: RequestId, length: u32) {
    if style == ReplyStyle::Simple {
        return put_simple(out, id, 0);
    }
    put_chunk(out, style, id, REPLY_FLAG_DONE, REPLY_OFFSET_DATA, length.saturating_add(8));
    out.extend_from_slice(&id.offset.to_be_bytes());
}

/// The whole reply to a read whose `length` bytes are all zero, in the structured or extended style.
pub fn put_hole(out: &mut Vec<u8>, style: ReplyStyle, id: RequestId, length: u32) {
    put_chunk(out, style, id, REPLY_FLAG_DONE, REPLY_OFFSET_HOLE, 12);
    out.extend_from_slice(&id.offset.to_be_bytes());
    out.extend_from_slice(&length.to_be_bytes());
}

/// One context's chunk of a block status reply; `last` ends the reply. `extents` is not empty.
pub fn put_block_status(
    out: &mut Vec<u8>,
    style: ReplyStyle,
    id: RequestId,
    context: u32,
    extents: &[Descriptor],
    last: bool,
) {
    let flags = if last { REPLY_FLAG_DONE } else { 0 };
    let count = extents.len() as u32;
    if style == ReplyStyle::Extended {
        put_chunk(out, style, id, flags, REPLY_BLOCK_STATUS_EXT, 8 + count * 16);
        out.extend_from_slice(&context.to_be_bytes());
        out.extend_from_slice(&count.to_be_bytes());
        for extent in extents {
            out.extend_from_slice(&extent.length.to_be_bytes());
            out.extend_from_slice(&u64::from(extent.status).to_be_bytes());
        }
    } else {
        put_chunk(out, style, id, flags, REPLY_BLOCK_STATUS, 4 + count * 8);
        out.extend_from_slice(&context.to_be_bytes());
        for extent in extents {
            // A compact request asks for less than 4 GiB, and extents are cut to what was asked for.
            out.extend_from_slice(&(extent.length as u32).to_be_bytes());
            out.extend_from_slice(&extent.status.to_be_bytes());
        }
    }
}
