//! Pages of a map, and their form as chunks.
//!
//! A leaf covers [`LEAF`] blocks of 4 KiB with runs in order; an inner page names [`FANOUT`] pages below it.
//!
//! ```text
//! leaf:  "L", names u32, the names (32 bytes each), then runs: kind u8, blocks u16 (0: 16,384), and for data: name u32, first block u16
//! inner: "I", 256 names; all zeros: nothing but unallocated below
//! ```

use crate::{
    chunk::{ChunkId, ID_LEN},
    error::{Result, corrupt},
};

/// Blocks that a leaf covers: 64 MiB.
pub(crate) const LEAF: u32 = 16_384;
/// Pages below an inner page.
pub(crate) const FANOUT: usize = 256;

/// What some neighbouring blocks hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Content {
    /// Nothing was ever stored there, or it was discarded: reads as zeros.
    Unallocated,
    /// Stored zeros.
    Zero,
    /// Blocks of a chunk, from this one on.
    Data { chunk: ChunkId, first: u16 },
}

/// Neighbouring blocks of one content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Run {
    pub(crate) blocks: u32,
    pub(crate) content: Content,
}

/// A leaf: runs in order that cover it whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Leaf {
    pub(crate) runs: Vec<Run>,
}

impl Content {
    /// The same, `blocks` further on.
    pub(crate) fn after(self, blocks: u32) -> Self {
        match self {
            Self::Data { chunk, first } => Self::Data { chunk, first: first.wrapping_add(blocks as u16) },
            other => other,
        }
    }
}

impl Leaf {
    pub(crate) fn empty() -> Self {
        Self { runs: vec![Run { blocks: LEAF, content: Content::Unallocated }] }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.runs.iter().all(|run| run.content == Content::Unallocated)
    }

    /// The leaf after some changes: each gives the blocks from a place on, so many of them, another content. In order, none over another.
    pub(crate) fn changed(&self, changes: &[(u32, u32, Content)]) -> Self {
        let mut new = Builder::default();
        let mut old = Remaining { runs: self.runs.iter(), left: None };
        let mut at = 0;
        for &(start, blocks, content) in changes {
            debug_assert!(start >= at && blocks > 0 && start + blocks <= LEAF);
            old.take(start - at, |run| new.push(run));
            old.take(blocks, drop);
            new.push(Run { blocks, content });
            at = start + blocks;
        }
        old.take(LEAF - at, |run| new.push(run));
        Self { runs: new.runs }
    }

    /// Where two leaves differ: first blocks and counts.
    pub(crate) fn differing(&self, other: &Self) -> Vec<(u32, u32)> {
        let mut ours = Remaining { runs: self.runs.iter(), left: None };
        let mut theirs = Remaining { runs: other.runs.iter(), left: None };
        let (mut at, mut found) = (0, Vec::new());
        while let (Some(a), Some(b)) = (ours.peek(), theirs.peek()) {
            let blocks = a.blocks.min(b.blocks);
            ours.take(blocks, drop);
            theirs.take(blocks, drop);
            if a.content != b.content {
                found.push((at, blocks));
            }
            at += blocks;
        }
        found
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut names: Vec<ChunkId> = Vec::new();
        let mut known = std::collections::HashMap::new();
        let mut runs = Vec::with_capacity(self.runs.len() * 9);
        for run in &self.runs {
            let (kind, data) = match run.content {
                Content::Unallocated => (0, None),
                Content::Zero => (1, None),
                Content::Data { chunk, first } => (2, Some((chunk, first))),
            };
            runs.push(kind);
            runs.extend_from_slice(&((run.blocks % LEAF) as u16).to_le_bytes());
            if let Some((chunk, first)) = data {
                let name = *known.entry(chunk).or_insert_with(|| {
                    names.push(chunk);
                    names.len() as u32 - 1
                });
                runs.extend_from_slice(&name.to_le_bytes());
                runs.extend_from_slice(&first.to_le_bytes());
            }
        }
        let mut bytes = vec![b'L'];
        bytes.extend_from_slice(&(names.len() as u32).to_le_bytes());
        names.iter().for_each(|name| bytes.extend_from_slice(&name.0));
        bytes.extend_from_slice(&runs);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        Self::parse(bytes).ok_or_else(|| corrupt("a leaf of a map is not one"))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(b"L")?;
        let (count, rest) = rest.split_first_chunk::<4>()?;
        let count = u32::from_le_bytes(*count) as usize;
        let (names, mut rest) = rest.split_at_checked(count.checked_mul(ID_LEN)?)?;
        let names: Vec<ChunkId> = names.as_chunks::<ID_LEN>().0.iter().map(|name| ChunkId(*name)).collect();
        let (mut runs, mut covered) = (Vec::new(), 0);
        while !rest.is_empty() {
            let (head, after) = rest.split_first_chunk::<3>()?;
            rest = after;
            let blocks = match u32::from(u16::from_le_bytes([head[1], head[2]])) {
                0 => LEAF,
                blocks => blocks,
            };
            let content = match head[0] {
                0 => Content::Unallocated,
                1 => Content::Zero,
                2 => {
                    let (place, after) = rest.split_first_chunk::<6>()?;
                    rest = after;
                    let name = u32::from_le_bytes([place[0], place[1], place[2], place[3]]) as usize;
                    let first = u16::from_le_bytes([place[4], place[5]]);
                    // The last block of the run has to have a number too.
                    let _last = u32::from(u16::MAX).checked_sub(u32::from(first) + blocks - 1)?;
                    Content::Data { chunk: *names.get(name)?, first }
                }
                _ => return None,
            };
            covered += blocks;
            runs.push(Run { blocks, content });
            if covered > LEAF {
                return None;
            }
        }
        (covered == LEAF).then_some(Self { runs })
    }
}

/// Runs in order; what goes on where the last one ended becomes part of it.
#[derive(Default)]
struct Builder {
    runs: Vec<Run>,
}

impl Builder {
    fn push(&mut self, run: Run) {
        match self.runs.last_mut() {
            Some(Run { blocks, content }) if content.after(*blocks) == run.content => *blocks += run.blocks,
            _ => self.runs.push(run),
        }
    }
}

/// What is left of some runs.
struct Remaining<'a> {
    runs: std::slice::Iter<'a, Run>,
    left: Option<Run>,
}

impl Remaining<'_> {
    fn peek(&mut self) -> Option<Run> {
        self.left = self.left.take().or_else(|| self.runs.next().copied());
        self.left
    }

    fn take(&mut self, mut blocks: u32, mut f: impl FnMut(Run)) {
        while blocks > 0 {
            let Some(run) = self.left.take().or_else(|| self.runs.next().copied()) else { return };
            let taken = run.blocks.min(blocks);
            f(Run { blocks: taken, ..run });
            blocks -= taken;
            if taken < run.blocks {
                self.left = Some(Run { blocks: run.blocks - taken, content: run.content.after(taken) });
            }
        }
    }
}

/// An inner page: the pages below it.
pub(crate) type Inner = Box<[ChunkId; FANOUT]>;

pub(crate) fn empty_inner() -> Inner {
    Box::new([ChunkId::NONE; FANOUT])
}

pub(crate) fn encode_inner(page: &Inner) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + FANOUT * ID_LEN);
    bytes.push(b'I');
    page.iter().for_each(|name| bytes.extend_from_slice(&name.0));
    bytes
}

pub(crate) fn decode_inner(bytes: &[u8]) -> Result<Inner> {
    let parse = || {
        let (names, []) = bytes.strip_prefix(b"I")?.as_chunks::<ID_LEN>() else { return None };
        let mut page = empty_inner();
        if names.len() != FANOUT {
            return None;
        }
        page.iter_mut().zip(names).for_each(|(slot, name)| *slot = ChunkId(*name));
        Some(page)
    };
    parse().ok_or_else(|| corrupt("a page of a map is not one"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn content(number: u8) -> Content {
        match number {
            0 => Content::Unallocated,
            1 => Content::Zero,
            n => Content::Data { chunk: ChunkId([n; ID_LEN]), first: u16::from(n) * 3 },
        }
    }

    /// What each block holds, one by one.
    fn blocks(leaf: &Leaf) -> Vec<Content> {
        let of = |run: &Run| (0..run.blocks).map(|i| run.content.after(i)).collect::<Vec<_>>();
        leaf.runs.iter().flat_map(of).collect()
    }

    proptest! {
        #[test]
        fn runs_hold_what_was_set(rounds in prop::collection::vec(prop::collection::vec((0..LEAF, 1..400u32, 0..6u8), 0..40), 1..4)) {
            let mut leaf = Leaf::empty();
            let mut model = vec![Content::Unallocated; LEAF as usize];
            for mut changes in rounds {
                changes.sort_unstable();
                let mut end = 0;
                let mut sound = Vec::new();
                for (at, count, number) in changes {
                    let (at, stop) = (at.max(end), (at + count).min(LEAF));
                    if stop > at {
                        sound.push((at, stop - at, content(number)));
                        (at..stop).for_each(|b| model[b as usize] = content(number).after(b - at));
                        end = stop;
                    }
                }
                let before = leaf.clone();
                leaf = leaf.changed(&sound);
                let mut differs = vec![false; LEAF as usize];
                for (at, count) in before.differing(&leaf) {
                    differs[at as usize..(at + count) as usize].fill(true);
                }
                let (old, new) = (blocks(&before), blocks(&leaf));
                prop_assert!((0..LEAF as usize).all(|b| differs[b] == (old[b] != new[b])));
                prop_assert_eq!(blocks(&leaf), model.clone());
                prop_assert!(leaf.runs.windows(2).all(|w| w[0].content.after(w[0].blocks) != w[1].content));
            }
            prop_assert_eq!(leaf.is_empty(), model.iter().all(|c| *c == Content::Unallocated));
            prop_assert_eq!(Leaf::decode(&leaf.encode()).unwrap(), leaf);
        }

        #[test]
        fn bytes_that_are_no_leaf_are_refused(at in 0..200usize, byte: u8) {
            let leaf = Leaf::empty().changed(&[(10, 20, content(3)), (100, 1, content(1))]);
            let mut bytes = leaf.encode();
            let at = at % bytes.len();
            bytes[at] = byte;
            // A leaf that is one covers all of its blocks.
            if let Ok(leaf) = Leaf::decode(&bytes) {
                prop_assert_eq!(leaf.runs.iter().map(|run| run.blocks).sum::<u32>(), LEAF);
            }
        }
    }

    #[test]
    fn inner_pages_go_there_and_back() {
        let mut page = empty_inner();
        page[7] = ChunkId([7; ID_LEN]);
        let bytes = encode_inner(&page);
        assert_eq!(decode_inner(&bytes).unwrap(), page);
        assert!(decode_inner(&bytes[1..]).is_err() && decode_inner(&bytes[..bytes.len() - 32]).is_err());
        assert!(Leaf::decode(&bytes).is_err() && decode_inner(&Leaf::empty().encode()).is_err());
    }
}
