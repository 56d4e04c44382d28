//! What is done next.

use fastrand::Rng;
use std::ops::Range;

use crate::model::SECTORS_PER_BLOCK;

/// A choice.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Read.
    Read(Range<u64>),
    /// Write a new tag.
    Write {
        /// Where.
        sectors: Range<u64>,
        /// With FUA.
        fua: bool,
    },
    /// Write zeros.
    Zero(Range<u64>),
    /// Discard.
    Trim(Range<u64>),
    /// Flush.
    Flush,
    /// Wait for one reply.
    Wait,
    /// Run a control command beside what is in flight.
    Control,
    /// Wait for everything, and read all of it.
    Quiet,
    /// Kill the server.
    Kill,
}

/// Draws a choice for a volume of so many sectors.
pub(super) fn step(rng: &mut Rng, sectors: u64, kills: bool) -> Step {
    match rng.u32(0..1000) {
        0..330 => Step::Write { sectors: range(rng, sectors), fua: rng.u32(0..12) == 0 },
        330..600 => Step::Read(range(rng, sectors)),
        600..670 => Step::Zero(range_or_large(rng, sectors)),
        670..740 => {
            // What a discard does to the part of a block at the end of the volume is left open.
            let per_block = SECTORS_PER_BLOCK as u64;
            Step::Trim(range_or_large(rng, sectors / per_block * per_block))
        }
        740..790 => Step::Flush,
        790..970 => Step::Wait,
        970..990 => Step::Control,
        990..996 => Step::Quiet,
        _ if kills => Step::Kill,
        _ => Step::Wait,
    }
}

/// A range for a read or write: often within a few blocks that everyone is after, often not aligned to blocks.
fn range(rng: &mut Rng, sectors: u64) -> Range<u64> {
    let length = match rng.u32(0..10) {
        0..4 => rng.u64(1..=8),
        4..7 => rng.u64(1..=16) * SECTORS_PER_BLOCK as u64,
        7..9 => rng.u64(1..=64),
        _ => rng.u64(1..=512),
    };
    place(rng, length, sectors)
}

/// The same, or whole MiB at once, so that whole nodes of the tree go.
fn range_or_large(rng: &mut Rng, sectors: u64) -> Range<u64> {
    match rng.u32(0..8) {
        0 => {
            let length = rng.u64(1..=6144);
            place(rng, length, sectors)
        }
        _ => range(rng, sectors),
    }
}

fn place(rng: &mut Rng, length: u64, sectors: u64) -> Range<u64> {
    let length = length.min(sectors);
    let last = sectors - length;
    let start = match rng.u32(0..10) {
        // The few blocks that everyone is after lie across a border of leaf nodes (1 MiB).
        0..5 => (2048 - 64 + rng.u64(0..128)).min(last),
        // At the end of the volume.
        5 => last,
        _ => rng.u64(0..=last),
    };
    // Half of all begin at a block.
    let start = if rng.bool() { start / SECTORS_PER_BLOCK as u64 * SECTORS_PER_BLOCK as u64 } else { start };
    start..start + length
}
