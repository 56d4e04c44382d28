//! Features and configuration space.

use super::{F_EVENT_INDEX, F_FLUSH, MAX_DISCARD_RANGES, MAX_RANGE_SECTORS, SECTOR};

const F_SEG_MAX: u64 = 1 << 2;
const F_GEOMETRY: u64 = 1 << 4;
const F_RO: u64 = 1 << 5;
const F_BLK_SIZE: u64 = 1 << 6;
const F_TOPOLOGY: u64 = 1 << 10;
const F_CONFIG_WCE: u64 = 1 << 11;
const F_MQ: u64 = 1 << 12;
const F_DISCARD: u64 = 1 << 13;
const F_WRITE_ZEROES: u64 = 1 << 14;
const F_INDIRECT: u64 = 1 << 28;
const F_VERSION_1: u64 = 1 << 32;

/// Bytes of the configuration space; what is asked for behind it reads as zeros.
const CONFIG_SIZE: usize = 60;
/// Where the driver switches between write-back and write-through.
pub(crate) const WRITEBACK: u32 = 32;

/// Data segments of a request: what fits into a ring of 128 beside header and status. More are accepted, but not asked for.
const SEGMENTS: u32 = 126;

/// What the device offers.
pub(crate) fn features(read_only: bool) -> u64 {
    let both = F_VERSION_1
        | F_INDIRECT
        | F_EVENT_INDEX
        | F_SEG_MAX
        | F_GEOMETRY
        | F_BLK_SIZE
        | F_FLUSH
        | F_TOPOLOGY
        | F_CONFIG_WCE
        | F_MQ;
    both | if read_only { F_RO } else { F_DISCARD | F_WRITE_ZEROES }
}

/// The configuration space of a device of `size` bytes.
pub(crate) fn config_space(size: u64, queues: u16, writeback: bool) -> [u8; CONFIG_SIZE] {
    let sectors = size / SECTOR;
    // Heads and sectors a track as every disk claims them; the cylinders are what old firmware computes with.
    let cylinders = (sectors / (16 * 63)).min(u64::from(u16::MAX)) as u16;
    let mut out = [0; CONFIG_SIZE];
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        if let Some(field) = out.get_mut(at..at + bytes.len()) {
            field.copy_from_slice(bytes);
        }
        at += bytes.len();
    };
    put(&sectors.to_le_bytes());
    put(&0u32.to_le_bytes()); // size_max: any
    put(&SEGMENTS.to_le_bytes());
    put(&cylinders.to_le_bytes());
    put(&[16, 63]); // heads, sectors
    put(&512u32.to_le_bytes()); // blk_size
    put(&[3, 0]); // a physical block is 2^3 logical ones, the first begins at 0
    put(&8u16.to_le_bytes()); // min_io_size in logical blocks: one physical block
    put(&0u32.to_le_bytes()); // opt_io_size: none
    put(&[u8::from(writeback), 0]);
    put(&queues.to_le_bytes());
    put(&MAX_RANGE_SECTORS.to_le_bytes()); // max_discard_sectors
    put(&MAX_DISCARD_RANGES.to_le_bytes());
    put(&8u32.to_le_bytes()); // discard_sector_alignment: one physical block
    put(&MAX_RANGE_SECTORS.to_le_bytes()); // max_write_zeroes_sectors
    put(&MAX_DISCARD_RANGES.to_le_bytes());
    put(&[1, 0, 0, 0]); // write_zeroes_may_unmap
    out
}

/// What the device answers when it is asked for its serial number: the name, or as much of a long one as fits before a hash of all of it.
pub(crate) fn serial(name: &str) -> [u8; 20] {
    let mut out = [0; 20];
    let short = name.len() <= out.len();
    let kept = name.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|&end| end <= 11).last().unwrap_or(0);
    let text =
        if short { name.to_owned() } else { format!("{}-{:08x}", name.get(..kept).unwrap_or_default(), hash(name)) };
    for (to, from) in out.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    out
}

/// FNV-1a.
fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_space_has_each_field_in_its_place() {
        let space = config_space(3 << 30, 4, true);
        let u16_at = |at: usize| u16::from_le_bytes(space[at..at + 2].try_into().unwrap());
        let u32_at = |at: usize| u32::from_le_bytes(space[at..at + 4].try_into().unwrap());
        assert_eq!(u64::from_le_bytes(space[..8].try_into().unwrap()), 6 << 20);
        assert_eq!((u32_at(12), u16_at(16), space[18], space[19]), (126, 6241, 16, 63));
        assert_eq!((u32_at(20), space[24], u16_at(26), u32_at(28)), (512, 3, 8, 0));
        assert_eq!((space[WRITEBACK as usize], u16_at(34)), (1, 4));
        assert_eq!((u32_at(36), u32_at(40), u32_at(44)), (8 << 20, 64, 8));
        assert_eq!((u32_at(48), u32_at(52), space[56]), (8 << 20, 64, 1));
        assert_eq!(config_space(64 << 40, 1, false)[16..18], [255, 255]);
        assert_eq!(config_space(0, 1, false)[WRITEBACK as usize], 0);
    }

    #[test]
    fn snapshots_offer_nothing_that_writes() {
        assert_eq!(features(true) & (F_RO | F_DISCARD | F_WRITE_ZEROES), F_RO);
        assert_eq!(features(false) & (F_RO | F_DISCARD | F_WRITE_ZEROES), F_DISCARD | F_WRITE_ZEROES);
    }

    #[test]
    fn serial_numbers_tell_names_apart() {
        assert_eq!(&serial("db")[..4], b"db\0\0");
        assert_eq!(&serial("exactly-twenty-bytes"), b"exactly-twenty-bytes");
        let (one, two) = (serial("a-name-of-more-than-twenty-1"), serial("a-name-of-more-than-twenty-2"));
        assert!(one != two && one.starts_with(b"a-name-of-m-") && one.is_ascii());
        assert!(std::str::from_utf8(&serial("ääääääääääää")).is_ok());
    }
}
