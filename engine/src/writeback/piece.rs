//! What writes are cut into: blocks of one leaf, all data or all zeros.

use std::rc::Rc;

use crate::{
    format::node::FANOUT,
    storage::{Part, buffer::IoBuf},
    units::BLOCK_SIZE,
};

/// What an entry has in its blocks.
pub(crate) enum Content {
    Data(Part),
    Zeros,
}

/// Blocks of one leaf, all data or all zeros.
pub(crate) struct Piece {
    pub(crate) block: u64,
    pub(crate) count: u64,
    pub(crate) content: Content,
}

impl Piece {
    /// Blocks of data.
    pub(crate) fn data_blocks(&self) -> u64 {
        match self.content {
            Content::Data(_) => self.count,
            Content::Zeros => 0,
        }
    }

    pub(crate) fn end(&self) -> u64 {
        self.block + self.count
    }

    /// The bytes of one of its blocks; none: zeros.
    pub(crate) fn bytes(&self, block: u64) -> Option<&[u8]> {
        let at = (block - self.block) as usize * BLOCK_SIZE;
        match &self.content {
            Content::Data(part) => part.bytes().get(at..at + BLOCK_SIZE),
            Content::Zeros => None,
        }
    }
}

/// Cuts whole blocks into pieces.
pub(crate) fn pieces_of(block: u64, data: &Rc<IoBuf>, is_zero: impl Fn(&[u8]) -> bool) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::with_capacity(1);
    for (i, bytes) in data.chunks_exact(BLOCK_SIZE).enumerate() {
        let (at, zero) = (block + i as u64, is_zero(bytes));
        let range = i * BLOCK_SIZE..(i + 1) * BLOCK_SIZE;
        let same_leaf = !at.is_multiple_of(FANOUT as u64);
        match pieces.last_mut().filter(|_| same_leaf) {
            Some(Piece { count, content: Content::Data(part), .. }) if !zero => {
                *count += 1;
                part.range.end = range.end;
            }
            Some(Piece { count, content: Content::Zeros, .. }) if zero => *count += 1,
            _ => {
                let content = if zero { Content::Zeros } else { Content::Data(Part { buf: data.clone(), range }) };
                pieces.push(Piece { block: at, count: 1, content });
            }
        }
    }
    pieces
}
