//! Disk images: read piece by piece without their holes, and written with them.
//!
//! Images are foreign bytes. What is read is bounded by the piece; an image never chooses what else is read (see
//! [`qcow2`]); a damaged one ends in an error.

mod qcow2;
mod sink;
mod source;

pub(crate) use self::{
    sink::{Destination, Sink},
    source::Source,
};

/// Most bytes of one piece. Pieces begin at multiples of it, but for those after a hole.
pub(crate) const PIECE: usize = 1 << 20;

/// Data at an offset of the disk, in bytes.
pub(crate) struct Piece {
    pub(crate) offset: u64,
    pub(crate) data: bytes::Bytes,
}

/// Smallest unit of a volume.
const SECTOR: u64 = cairn_engine::SECTOR;

/// Whether `data` holds zeros only.
fn is_zero(data: &[u8]) -> bool {
    // Zero first, and every byte equal to its neighbour: two plain memory comparisons, which run at memory speed.
    match data {
        [] => true,
        [first, ..] => *first == 0 && data.get(1..) == data.get(..data.len() - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_zero_everywhere() {
        assert!(is_zero(&[]) && is_zero(&[0]) && is_zero(&vec![0; PIECE]));
        for place in [0, 1, 511, PIECE / 2, PIECE - 1] {
            let mut data = vec![0; PIECE];
            data[place] = 1;
            assert!(!is_zero(&data), "{place}");
        }
        assert!(!is_zero(&[7; 3]));
    }
}
