//! Requests of the transmission phase: headers, and the rules that a request must keep before the engine sees it.

use super::{
    ReplyStyle, Violation,
    bytes::Cursor,
    numbers::{
        CMD_BLOCK_STATUS, CMD_CACHE, CMD_DISC, CMD_FLAG_DF, CMD_FLAG_FAST_ZERO, CMD_FLAG_FUA, CMD_FLAG_NO_HOLE,
        CMD_FLAG_PAYLOAD_LEN, CMD_FLAG_REQ_ONE, CMD_FLUSH, CMD_READ, CMD_TRIM, CMD_WRITE, CMD_WRITE_ZEROES, EINVAL,
        ENOSPC, ENOTSUP, EOVERFLOW, EPERM, EXTENDED_REQUEST_MAGIC, EXTENDED_REQUEST_SIZE, MAX_CONTEXTS, REQUEST_MAGIC,
        REQUEST_SIZE,
    },
    reply::RequestId,
};
use cairn_engine::{BLOCK, SECTOR};
use std::borrow::Cow;

/// A request's header as it came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// Command flags (`CMD_FLAG_*`).
    pub flags: u16,
    /// Command (`CMD_*`).
    pub command: u16,
    /// What the reply must carry.
    pub id: RequestId,
    /// Bytes of the export that it concerns, or of its payload.
    pub length: u64,
}

/// The next request's header, with the bytes that it takes; `None` when it is not complete yet.
///
/// # Errors
/// The magic number is wrong: the stream has lost its place, and the connection must be closed.
pub fn parse_request(bytes: &[u8], extended: bool) -> Result<Option<(Request, usize)>, Violation> {
    let (size, magic) =
        if extended { (EXTENDED_REQUEST_SIZE, EXTENDED_REQUEST_MAGIC) } else { (REQUEST_SIZE, REQUEST_MAGIC) };
    let Some(head) = bytes.get(..size) else { return Ok(None) };
    let mut cursor = Cursor::new(head);
    if cursor.u32()? != magic {
        return Err(Violation::Malformed("a request does not start with its magic number"));
    }
    let (flags, command) = (cursor.u16()?, cursor.u16()?);
    let id = RequestId { cookie: cursor.u64()?, offset: cursor.u64()? };
    let length = if extended { cursor.u64()? } else { u64::from(cursor.u32()?) };
    Ok(Some((Request { flags, command, id, length }, size)))
}

impl Request {
    /// Bytes of payload that follow the header.
    ///
    /// A write has its payload under extended headers, too, whatever its flags say: QEMU up to 10.0 at least leaves out
    /// `PAYLOAD_LEN`, and a client that keeps to the protocol always sets it.
    #[must_use]
    pub fn payload(&self, extended: bool) -> u64 {
        let follows = self.command == CMD_WRITE || (extended && self.flags & CMD_FLAG_PAYLOAD_LEN != 0);
        if follows { self.length } else { 0 }
    }
}

/// What requests on a connection are measured by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// Which replies, and so which headers, were agreed on.
    pub style: ReplyStyle,
    /// Current size of the export in bytes.
    pub size: u64,
    /// Whether the export takes no writes.
    pub read_only: bool,
    /// Largest read or write in bytes.
    pub max_request: u32,
    /// Whether a metadata context was selected.
    pub contexts: bool,
}

/// A request that keeps the rules. Offsets and lengths are multiples of 512 within the export.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Read; with `whole`, as one chunk.
    Read {
        /// Bytes, at most the largest request.
        length: u32,
        /// The client wants a single chunk.
        whole: bool,
    },
    /// Write the payload.
    Write {
        /// Bytes, at most the largest request.
        length: u32,
        /// Answer once it is committed.
        fua: bool,
    },
    /// Close the connection when everything before is answered.
    Disconnect,
    /// Commit everything acknowledged before.
    Flush,
    /// Discard.
    Trim {
        /// Bytes.
        length: u64,
        /// Answer once it is committed.
        fua: bool,
    },
    /// Write zeros.
    WriteZeroes {
        /// Bytes.
        length: u64,
        /// Answer once it is committed.
        fua: bool,
    },
    /// Load the map of a range into memory.
    Cache {
        /// Bytes.
        length: u64,
    },
    /// Report the range's extents in the selected contexts.
    BlockStatus {
        /// Bytes; not zero.
        length: u64,
        /// One extent only.
        one: bool,
    },
    /// The same for some of the contexts: [`parse_status_filter`] reads which from the payload.
    FilteredStatus {
        /// Bytes of the payload.
        payload: u32,
        /// One extent only.
        one: bool,
    },
}

/// Why a request is not carried out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The protocol's error number.
    pub errno: u32,
    /// What is wrong, for people.
    pub text: Cow<'static, str>,
}

fn refuse<T>(errno: u32, text: impl Into<Cow<'static, str>>) -> Result<T, Refusal> {
    Err(Refusal { errno, text: text.into() })
}

/// Decides whether a request keeps the rules.
///
/// # Errors
/// The error to answer with; the payload, if there is one, must still be read past.
pub fn check(request: &Request, rules: &Rules) -> Result<Command, Refusal> {
    let extended = rules.style == ReplyStyle::Extended;
    let allowed = CMD_FLAG_FUA
        | match request.command {
            CMD_READ if rules.style != ReplyStyle::Simple => CMD_FLAG_DF,
            CMD_WRITE if extended => CMD_FLAG_PAYLOAD_LEN,
            CMD_BLOCK_STATUS if extended => CMD_FLAG_REQ_ONE | CMD_FLAG_PAYLOAD_LEN,
            CMD_BLOCK_STATUS => CMD_FLAG_REQ_ONE,
            CMD_WRITE_ZEROES => CMD_FLAG_NO_HOLE | CMD_FLAG_FAST_ZERO,
            CMD_DISC => return Ok(Command::Disconnect),
            CMD_READ | CMD_WRITE | CMD_FLUSH | CMD_TRIM | CMD_CACHE => 0,
            unknown => return refuse(EINVAL, format!("command {unknown} is not one of this server's")),
        };
    if request.flags & !allowed != 0 {
        return refuse(
            EINVAL,
            format!("command flags {:#06x} do not belong to this command", request.flags & !allowed),
        );
    }
    if rules.read_only && matches!(request.command, CMD_WRITE | CMD_TRIM | CMD_WRITE_ZEROES) {
        return refuse(EPERM, "the export is read-only: write to the volume, or clone the snapshot");
    }
    let (length, fua) = (request.length, request.flags & CMD_FLAG_FUA != 0);
    let one = request.flags & CMD_FLAG_REQ_ONE != 0;
    match request.command {
        CMD_READ => {
            let length =
                payload_length(length, rules, if rules.style == ReplyStyle::Simple { EINVAL } else { EOVERFLOW })?;
            range(request, rules, EINVAL)?;
            Ok(Command::Read { length, whole: request.flags & CMD_FLAG_DF != 0 })
        }
        CMD_WRITE => {
            let length = payload_length(length, rules, EINVAL)?;
            range(request, rules, ENOSPC)?;
            Ok(Command::Write { length, fua })
        }
        CMD_FLUSH if request.id.offset != 0 || length != 0 => refuse(EINVAL, "a flush has no offset and no length"),
        CMD_FLUSH => Ok(Command::Flush),
        CMD_TRIM => range(request, rules, EINVAL).map(|()| Command::Trim { length, fua }),
        CMD_CACHE => range(request, rules, EINVAL).map(|()| Command::Cache { length }),
        CMD_WRITE_ZEROES => {
            range(request, rules, ENOSPC)?;
            if request.flags & CMD_FLAG_FAST_ZERO != 0 && length != 0 && !holds_block(request.id.offset, length) {
                return refuse(ENOTSUP, "the range holds no whole 4 KiB block: zeroing it is not faster than writing");
            }
            Ok(Command::WriteZeroes { length, fua })
        }
        _ if !rules.contexts => refuse(EINVAL, "no metadata context was selected: send SET_META_CONTEXT before GO"),
        _ if request.flags & CMD_FLAG_PAYLOAD_LEN != 0 => {
            filter_size(length).map(|payload| Command::FilteredStatus { payload, one })
        }
        _ => status(request, length, one, rules),
    }
}

fn status(request: &Request, length: u64, one: bool, rules: &Rules) -> Result<Command, Refusal> {
    if length == 0 {
        return refuse(EINVAL, "block status of zero bytes");
    }
    range(&Request { length, ..*request }, rules, EINVAL)?;
    Ok(Command::BlockStatus { length, one })
}

fn payload_length(length: u64, rules: &Rules, errno: u32) -> Result<u32, Refusal> {
    match u32::try_from(length) {
        Ok(length) if length <= rules.max_request => Ok(length),
        _ => refuse(errno, format!("{length} bytes in one request; this server takes {} at most", rules.max_request)),
    }
}

fn range(request: &Request, rules: &Rules, beyond: u32) -> Result<(), Refusal> {
    let (offset, length) = (request.id.offset, request.length);
    if !offset.is_multiple_of(SECTOR) || !length.is_multiple_of(SECTOR) {
        return refuse(
            EINVAL,
            format!("offset {offset} or length {length} is not a multiple of {SECTOR}, the minimum block size"),
        );
    }
    match offset.checked_add(length) {
        Some(end) if end <= rules.size => Ok(()),
        _ => refuse(beyond, format!("{length} bytes from {offset} end beyond the export's {} bytes", rules.size)),
    }
}

fn holds_block(offset: u64, length: u64) -> bool {
    // `range` has shown that the sum does not overflow; saturating keeps this true for any caller.
    let (first, end) = (offset.div_ceil(BLOCK), offset.saturating_add(length) / BLOCK);
    first < end
}

fn filter_size(length: u64) -> Result<u32, Refusal> {
    let most = 8 + 4 * MAX_CONTEXTS as u64;
    match u32::try_from(length) {
        Ok(payload) if (12..=most).contains(&length) && length.is_multiple_of(4) => Ok(payload),
        _ => refuse(
            EINVAL,
            format!("a block status payload of {length} bytes: it must name 1 to {MAX_CONTEXTS} contexts"),
        ),
    }
}

/// Payload of a filtered block status: the range's length, and the contexts to report.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StatusFilter {
    /// Bytes of the export; checked against the rules.
    pub length: u64,
    /// Context ids, each once.
    pub ids: Vec<u32>,
}

/// Reads the payload of a [`Command::FilteredStatus`] and checks the range that it names.
///
/// # Errors
/// The error to answer with.
pub fn parse_status_filter(request: &Request, payload: &[u8], rules: &Rules) -> Result<StatusFilter, Refusal> {
    filter_size(payload.len() as u64)?;
    let fields = |payload| {
        let mut cursor = Cursor::new(payload);
        let length = cursor.u64()?;
        let ids = (0..cursor.left() / 4).map(|_| cursor.u32()).collect::<Result<Vec<_>, _>>()?;
        Ok::<_, Violation>((length, ids))
    };
    let (length, ids) = fields(payload).map_err(|v| Refusal { errno: EINVAL, text: v.to_string().into() })?;
    let mut sorted = ids.clone();
    sorted.sort_unstable();
    sorted.dedup();
    if sorted.len() != ids.len() {
        return refuse(EINVAL, "a block status payload names a context twice");
    }
    status(request, length, false, rules)?;
    Ok(StatusFilter { length, ids })
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
