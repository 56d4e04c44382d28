//! Bytes that describe themselves, in units of 512 bytes: a unit is what a device writes whole or not at all, and any request size is a multiple of it.
//!
//! | offset | size | field |
//! | --- | --- | --- |
//! | 0 | 4 | magic `CBV1` |
//! | 4 | 4 | CRC-32 of bytes 8 to 512 |
//! | 8 | 8 | offset of the unit in the target, in bytes |
//! | 16 | 8 | seed |
//! | 24 | 8 | run: another number in each run |
//! | 32 | 4 | generation: how often this run wrote the place, from 1 on |
//! | 36 | 4 | zeros |
//! | 40 | 472 | numbers that follow from seed, offset and generation |
//!
//! All integers are little-endian.

use crate::noise::spread;

/// Bytes of a unit.
pub(crate) const UNIT: usize = 512;
const MAGIC: [u8; 4] = *b"CBV1";
const BODY: usize = 40;

const _: () = assert!(BODY + 59 * 8 == UNIT);

/// What marks all units of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) seed: u64,
    pub(crate) run: u64,
}

/// What a unit must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// Written by this run, as the so-manieth time.
    Generation(u32),
    /// Not written by this run: whole if it describes itself at all.
    Anything,
}

/// What a unit was found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// What it must be.
    Expected,
    /// Bytes of others, where nothing was expected.
    Unknown,
    /// A unit whose bytes do not match its checksum.
    Damaged,
    /// No unit at all.
    Foreign,
    /// Whole, and written for another place.
    Misplaced { offset: u64 },
    /// Whole, and written by another run.
    OtherRun,
    /// Whole, and from another time.
    Generation { found: u32 },
}

fn u64_at(unit: &[u8; UNIT], at: usize) -> u64 {
    unit.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

fn u32_at(unit: &[u8; UNIT], at: usize) -> u32 {
    unit.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// Writes the units of a buffer that goes to `offset`.
pub(crate) fn write(buffer: &mut [u8], offset: u64, stamp: Stamp, generation: u32) {
    let (units, _) = buffer.as_chunks_mut::<UNIT>();
    for (number, unit) in units.iter_mut().enumerate() {
        let offset = offset + (number * UNIT) as u64;
        let (head, body) = unit.split_at_mut(BODY);
        let fields = [offset, stamp.seed, stamp.run, u64::from(generation)];
        for (to, field) in head.chunks_exact_mut(8).skip(1).zip(fields) {
            to.copy_from_slice(&field.to_le_bytes());
        }
        let mut state = stamp.seed ^ offset.rotate_left(20) ^ (u64::from(generation) << 48);
        for word in body.as_chunks_mut::<8>().0 {
            *word = spread(&mut state).to_le_bytes();
        }
        let crc = checksum(unit);
        let (magic, rest) = unit.split_at_mut(4);
        magic.copy_from_slice(&MAGIC);
        if let Some(field) = rest.first_chunk_mut() {
            *field = crc.to_le_bytes();
        }
    }
}

fn checksum(unit: &[u8; UNIT]) -> u32 {
    crc32fast::hash(unit.get(8..).unwrap_or_default())
}

/// What a unit at `offset` is.
pub(crate) fn judge(unit: &[u8; UNIT], offset: u64, stamp: Stamp, expected: Expected) -> Found {
    let known = matches!(expected, Expected::Generation(_));
    if !unit.starts_with(&MAGIC) {
        return if known { Found::Foreign } else { Found::Unknown };
    }
    if u32_at(unit, 4) != checksum(unit) {
        return Found::Damaged;
    }
    if u64_at(unit, 8) != offset {
        return Found::Misplaced { offset: u64_at(unit, 8) };
    }
    match expected {
        Expected::Anything => Found::Expected,
        Expected::Generation(_) if (u64_at(unit, 16), u64_at(unit, 24)) != (stamp.seed, stamp.run) => Found::OtherRun,
        Expected::Generation(generation) if u32_at(unit, 32) != generation => {
            Found::Generation { found: u32_at(unit, 32) }
        }
        Expected::Generation(_) => Found::Expected,
    }
}

/// The bytes of a buffer that was read at `offset`, unit by unit: its offset and what it is.
pub(crate) fn judge_all(
    buffer: &[u8],
    offset: u64,
    stamp: Stamp,
    expected: Expected,
) -> impl Iterator<Item = (u64, Found)> {
    let (units, _) = buffer.as_chunks::<UNIT>();
    units.iter().zip((offset..).step_by(UNIT)).map(move |(unit, offset)| (offset, judge(unit, offset, stamp, expected)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { seed: 5, run: 77 };

    fn units(offset: u64, generation: u32) -> Vec<u8> {
        let mut buffer = vec![0; 4096];
        write(&mut buffer, offset, STAMP, generation);
        buffer
    }

    fn found(buffer: &[u8], offset: u64, expected: Expected) -> Vec<Found> {
        judge_all(buffer, offset, STAMP, expected).map(|(_, found)| found).collect()
    }

    #[test]
    fn what_was_written_is_accepted() {
        let all = [Found::Expected; 8];
        assert_eq!(found(&units(8192, 3), 8192, Expected::Generation(3)), all);
        assert_eq!(found(&units(8192, 3), 8192, Expected::Anything), all);
        assert_eq!(found(&[7; 512], 0, Expected::Anything), [Found::Unknown]);
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let good = units(0, 1);
        for at in 0..UNIT {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                let first = found(&bad, 0, Expected::Generation(1))[0];
                let wanted = if at < 4 { Found::Foreign } else { Found::Damaged };
                assert_eq!(first, wanted, "byte {at}, bit {bit}");
            }
        }
    }

    #[test]
    fn lost_stale_misplaced_and_torn_writes_are_noticed() {
        let expected = Expected::Generation(2);
        assert_eq!(found(&[0; 4096], 0, expected), [Found::Foreign; 8], "lost, the first time");
        assert_eq!(found(&units(0, 1), 0, expected), [Found::Generation { found: 1 }; 8], "the last one lost");
        assert_eq!(found(&units(4096, 2), 0, expected)[0], Found::Misplaced { offset: 4096 });
        let mut torn = units(0, 2);
        torn[2048..].copy_from_slice(&units(0, 1)[2048..]);
        let both = found(&torn, 0, expected);
        assert_eq!((both[3], both[4]), (Found::Expected, Found::Generation { found: 1 }));
        let mut other = vec![0; 512];
        write(&mut other, 0, Stamp { run: 78, ..STAMP }, 2);
        assert_eq!(found(&other, 0, expected), [Found::OtherRun], "lost, over an earlier run's");
    }

    #[test]
    fn bytes_are_pinned() {
        let mut unit = [0; UNIT];
        write(&mut unit, 4096, Stamp { seed: 1, run: 2 }, 3);
        assert_eq!(&unit[..4], b"CBV1");
        assert_eq!(unit[8..40], [4096u64, 1, 2, 3].map(u64::to_le_bytes).concat());
        assert_eq!(crc32fast::hash(&unit), 0x8c18_fe70, "the whole unit");
    }
}
