//! The protocol's numbers, under the names that its specification gives them (less the prefix `NBD_`).

/// First eight bytes that a server sends: `NBDMAGIC`.
pub const INIT_PASSWD: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`: the newstyle greeting, and the start of every option.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Start of every reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Start of a compact request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Start of an extended request.
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// Start of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Start of a structured reply chunk.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// Start of an extended reply chunk.
pub const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// Longest string that the protocol allows, in bytes.
pub const MAX_STRING: usize = 4096;
/// Longest option data that is looked at, in bytes; longer ones are read past and refused.
pub const MAX_OPTION_DATA: u32 = 64 * 1024;
/// A payload up to this size is never reason to hang up (2^25 bytes).
pub const MAX_PAYLOAD: u32 = 32 * 1024 * 1024;
/// Bytes of a compact request's header.
pub const REQUEST_SIZE: usize = 28;
/// Bytes of an extended request's header.
pub const EXTENDED_REQUEST_SIZE: usize = 32;
/// How many metadata contexts one connection can select.
pub const MAX_CONTEXTS: usize = 16;
/// How many queries one metadata request may hold.
pub const MAX_QUERIES: u32 = 256;

/// Handshake flag: fixed newstyle.
pub const FLAG_FIXED_NEWSTYLE: u16 = 1;
/// Handshake flag: no 124 zero bytes after `EXPORT_NAME`.
pub const FLAG_NO_ZEROES: u16 = 2;

/// Option: enter transmission, without error replies.
pub const OPT_EXPORT_NAME: u32 = 1;
/// Option: soft disconnect.
pub const OPT_ABORT: u32 = 2;
/// Option: list exports.
pub const OPT_LIST: u32 = 3;
/// Option: upgrade to TLS.
pub const OPT_STARTTLS: u32 = 5;
/// Option: describe an export.
pub const OPT_INFO: u32 = 6;
/// Option: enter transmission.
pub const OPT_GO: u32 = 7;
/// Option: structured replies.
pub const OPT_STRUCTURED_REPLY: u32 = 8;
/// Option: list metadata contexts.
pub const OPT_LIST_META_CONTEXT: u32 = 9;
/// Option: select metadata contexts.
pub const OPT_SET_META_CONTEXT: u32 = 10;
/// Option: 64-bit headers (extension `EXTENDED_HEADERS`).
pub const OPT_EXTENDED_HEADERS: u32 = 11;

/// Option reply: done.
pub const REP_ACK: u32 = 1;
/// Option reply: an export.
pub const REP_SERVER: u32 = 2;
/// Option reply: one item of information.
pub const REP_INFO: u32 = 3;
/// Option reply: a metadata context.
pub const REP_META_CONTEXT: u32 = 4;
/// Option error: option not known.
pub const REP_ERR_UNSUP: u32 = (1 << 31) + 1;
/// Option error: forbidden by how the server was started.
pub const REP_ERR_POLICY: u32 = (1 << 31) + 2;
/// Option error: the request is wrong.
pub const REP_ERR_INVALID: u32 = (1 << 31) + 3;
/// Option error: TLS first.
pub const REP_ERR_TLS_REQD: u32 = (1 << 31) + 5;
/// Option error: no such export.
pub const REP_ERR_UNKNOWN: u32 = (1 << 31) + 6;
/// Option error: the server is shutting down.
pub const REP_ERR_SHUTDOWN: u32 = (1 << 31) + 7;
/// Option error: more than the server handles.
pub const REP_ERR_TOO_BIG: u32 = (1 << 31) + 9;
/// Option error: extended headers are in force.
pub const REP_ERR_EXT_HEADER_REQD: u32 = (1 << 31) + 10;

/// Information item: size and transmission flags.
pub const INFO_EXPORT: u16 = 0;
/// Information item: canonical name.
pub const INFO_NAME: u16 = 1;
/// Information item: description for people.
pub const INFO_DESCRIPTION: u16 = 2;
/// Information item: minimum, preferred and largest request.
pub const INFO_BLOCK_SIZE: u16 = 3;

/// Transmission flag: always set.
pub const TRANSMIT_HAS_FLAGS: u16 = 1;
/// Transmission flag: no writes.
pub const TRANSMIT_READ_ONLY: u16 = 1 << 1;
/// Transmission flag: `FLUSH` works.
pub const TRANSMIT_FLUSH: u16 = 1 << 2;
/// Transmission flag: `FUA` works.
pub const TRANSMIT_FUA: u16 = 1 << 3;
/// Transmission flag: `TRIM` works.
pub const TRANSMIT_TRIM: u16 = 1 << 5;
/// Transmission flag: `WRITE_ZEROES` works.
pub const TRANSMIT_WRITE_ZEROES: u16 = 1 << 6;
/// Transmission flag: `DF` works.
pub const TRANSMIT_DF: u16 = 1 << 7;
/// Transmission flag: a flush on one connection covers all.
pub const TRANSMIT_MULTI_CONN: u16 = 1 << 8;
/// Transmission flag: `CACHE` works.
pub const TRANSMIT_CACHE: u16 = 1 << 10;
/// Transmission flag: `FAST_ZERO` works.
pub const TRANSMIT_FAST_ZERO: u16 = 1 << 11;
/// Transmission flag: `BLOCK_STATUS` takes a list of contexts.
pub const TRANSMIT_BLOCK_STATUS_PAYLOAD: u16 = 1 << 12;

/// Command: read.
pub const CMD_READ: u16 = 0;
/// Command: write.
pub const CMD_WRITE: u16 = 1;
/// Command: disconnect.
pub const CMD_DISC: u16 = 2;
/// Command: flush.
pub const CMD_FLUSH: u16 = 3;
/// Command: discard.
pub const CMD_TRIM: u16 = 4;
/// Command: prefetch.
pub const CMD_CACHE: u16 = 5;
/// Command: write zeros.
pub const CMD_WRITE_ZEROES: u16 = 6;
/// Command: block status.
pub const CMD_BLOCK_STATUS: u16 = 7;

/// Command flag: answer when it is on stable storage.
pub const CMD_FLAG_FUA: u16 = 1;
/// Command flag: zeros must stay provisioned.
pub const CMD_FLAG_NO_HOLE: u16 = 1 << 1;
/// Command flag: one content chunk only.
pub const CMD_FLAG_DF: u16 = 1 << 2;
/// Command flag: one extent only.
pub const CMD_FLAG_REQ_ONE: u16 = 1 << 3;
/// Command flag: zero only if that is fast.
pub const CMD_FLAG_FAST_ZERO: u16 = 1 << 4;
/// Command flag: the length counts a payload (extended headers only).
pub const CMD_FLAG_PAYLOAD_LEN: u16 = 1 << 5;

/// Chunk flag: the last chunk of a reply.
pub const REPLY_FLAG_DONE: u16 = 1;
/// Chunk: nothing (more) to say.
pub const REPLY_NONE: u16 = 0;
/// Chunk: data.
pub const REPLY_OFFSET_DATA: u16 = 1;
/// Chunk: zeros.
pub const REPLY_OFFSET_HOLE: u16 = 2;
/// Chunk: block status, 32-bit descriptors.
pub const REPLY_BLOCK_STATUS: u16 = 5;
/// Chunk: block status, 64-bit descriptors.
pub const REPLY_BLOCK_STATUS_EXT: u16 = 6;
/// Chunk: error with text.
pub const REPLY_ERROR: u16 = (1 << 15) + 1;

/// Error: not allowed (read-only).
pub const EPERM: u32 = 1;
/// Error: input/output.
pub const EIO: u32 = 5;
/// Error: the request is wrong.
pub const EINVAL: u32 = 22;
/// Error: no space, or beyond the end.
pub const ENOSPC: u32 = 28;
/// Error: too large for one request.
pub const EOVERFLOW: u32 = 75;
/// Error: not fast enough for `FAST_ZERO`.
pub const ENOTSUP: u32 = 95;
/// Error: the server is shutting down.
pub const ESHUTDOWN: u32 = 108;

/// `base:allocation`: the range is a hole.
pub const STATE_HOLE: u32 = 1;
/// `base:allocation`: the range reads as zeros.
pub const STATE_ZERO: u32 = 2;
/// `cairn:changed-since`: the range may differ from the snapshot's.
pub const STATE_CHANGED: u32 = 1;
