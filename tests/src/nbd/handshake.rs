//! Haggling over options, up to the choice of an export.

use std::io::{self, Read, Write};

const GREETING: &[u8; 16] = b"NBDMAGICIHAVEOPT";
const OPTION: &[u8; 8] = b"IHAVEOPT";
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const FIXED_NEWSTYLE: u16 = 1;
const NO_ZEROES: u16 = 2;

const GO: u32 = 7;
const STRUCTURED_REPLY: u32 = 8;

const ACK: u32 = 1;
const INFO: u32 = 3;
const INFO_EXPORT: u16 = 0;

/// What a client asks for.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Name of the export.
    pub export: String,
    /// Structured replies, or simple ones.
    pub structured: bool,
}

/// What the server told about the export.
#[derive(Clone, Copy, Debug)]
pub struct Export {
    /// Size in bytes.
    pub size: u64,
    /// Transmission flags.
    pub flags: u16,
}

impl Export {
    /// Whether it takes no writes.
    #[must_use]
    pub fn is_read_only(self) -> bool {
        self.flags & (1 << 1) != 0
    }

    /// Whether a flush on one connection covers all.
    #[must_use]
    pub fn is_multi_conn(self) -> bool {
        self.flags & (1 << 8) != 0
    }
}

/// Goes from the greeting into transmission.
///
/// # Errors
/// The stream ends, the server breaks the protocol, or it refuses, which its text then explains.
pub fn shake_hands(stream: &mut (impl Read + Write), wish: &Wish) -> io::Result<Export> {
    let greeting: [u8; 18] = take(stream)?;
    let (magic, flags) = greeting.split_at(16);
    let flags = u16::from_be_bytes([flags[0], flags[1]]);
    if magic != GREETING || flags & FIXED_NEWSTYLE == 0 {
        return Err(wrong(format!("greeting {greeting:02x?}")));
    }
    stream.write_all(&u32::from(FIXED_NEWSTYLE | (flags & NO_ZEROES)).to_be_bytes())?;
    if wish.structured {
        send_option(stream, STRUCTURED_REPLY, &[])?;
        let (kind, data) = option_reply(stream, STRUCTURED_REPLY)?;
        if kind != ACK {
            return Err(wrong(format!(
                "structured replies answered with {kind:#x}: {}",
                String::from_utf8_lossy(&data)
            )));
        }
    }
    let name = wish.export.as_bytes();
    let length = u32::try_from(name.len()).map_err(|_| wrong("a name of 4 GiB".into()))?;
    // No particular items of information are asked for.
    let request = [&length.to_be_bytes()[..], name, &0u16.to_be_bytes()].concat();
    send_option(stream, GO, &request)?;
    let mut export = None;
    loop {
        let (kind, data) = option_reply(stream, GO)?;
        match kind {
            ACK => return export.ok_or_else(|| wrong("GO without the export's size".into())),
            INFO => match data.split_first_chunk::<2>() {
                Some((item, rest)) if u16::from_be_bytes(*item) == INFO_EXPORT => export = Some(export_of(rest)?),
                Some(_) => {}
                None => return Err(wrong("an item of information without its type".into())),
            },
            _ => {
                let text = String::from_utf8_lossy(&data).into_owned();
                return Err(io::Error::new(
                    io::ErrorKind::ConnectionRefused,
                    format!("GO refused with {kind:#x}: {text}"),
                ));
            }
        }
    }
}

fn export_of(data: &[u8]) -> io::Result<Export> {
    match data.split_first_chunk::<8>() {
        Some((size, [high, low])) => {
            Ok(Export { size: u64::from_be_bytes(*size), flags: u16::from_be_bytes([*high, *low]) })
        }
        _ => Err(wrong(format!("information about the export of {} bytes", data.len()))),
    }
}

fn send_option(stream: &mut impl Write, option: u32, data: &[u8]) -> io::Result<()> {
    let length = u32::try_from(data.len()).map_err(|_| wrong("an option of 4 GiB".into()))?;
    stream.write_all(&[OPTION, &option.to_be_bytes()[..], &length.to_be_bytes(), data].concat())
}

fn option_reply(stream: &mut impl Read, option: u32) -> io::Result<(u32, Vec<u8>)> {
    let magic = u64::from_be_bytes(take(stream)?);
    let answered = u32::from_be_bytes(take(stream)?);
    let kind = u32::from_be_bytes(take(stream)?);
    let length = u32::from_be_bytes(take(stream)?);
    if magic != OPTION_REPLY || answered != option || length > 1 << 20 {
        return Err(wrong(format!("reply {magic:#x} to option {answered} (asked {option}) of {length} bytes")));
    }
    let mut data = vec![0; length as usize];
    stream.read_exact(&mut data)?;
    Ok((kind, data))
}

pub(super) fn take<const N: usize>(stream: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

pub(super) fn wrong(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}
