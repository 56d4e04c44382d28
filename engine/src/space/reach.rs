//! The map of blocks that versions and their metadata refer to: what a checkpoint persists.
//!
//! It is kept as 4 KiB pieces behind `Rc`: a checkpoint or a check clones the list and has the map as it was, while changes
//! copy only the pieces they touch. `changed` names the pieces that differ from what was persisted last.

use std::{collections::BTreeSet, rc::Rc};

use super::bitmap::Run;
use crate::units::BLOCK_SIZE;

/// Blocks that one piece covers.
pub(crate) const PIECE_BLOCKS: u64 = BLOCK_SIZE as u64 * 8;
const WORDS: usize = BLOCK_SIZE / 8;

pub(crate) type Piece = [u64; WORDS];

#[derive(Clone)]
pub(crate) struct Reach {
    pieces: Vec<Rc<Piece>>,
    changed: BTreeSet<u64>,
    count: u64,
}

impl Reach {
    pub(crate) fn new(total: u64) -> Self {
        let empty = Rc::new([0; WORDS]);
        Self { pieces: vec![empty; total.div_ceil(PIECE_BLOCKS) as usize], changed: BTreeSet::new(), count: 0 }
    }

    /// Blocks in use.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn contains(&self, block: u64) -> bool {
        let at = (block % PIECE_BLOCKS) as usize;
        self.pieces.get((block / PIECE_BLOCKS) as usize).is_some_and(|p| p[at / 64] >> (at % 64) & 1 != 0)
    }

    /// Adds a run; returns how many of its blocks were not there before.
    pub(crate) fn add(&mut self, run: Run) -> u64 {
        let n = self.change(run, |word, mask| {
            let fresh = mask & !*word;
            *word |= mask;
            fresh.count_ones()
        });
        self.count += n;
        n
    }

    /// Removes a run; returns how many of its blocks were there before.
    pub(crate) fn remove(&mut self, run: Run) -> u64 {
        let n = self.change(run, |word, mask| {
            let gone = mask & *word;
            *word &= !mask;
            gone.count_ones()
        });
        self.count -= n;
        n
    }

    fn change(&mut self, run: Run, f: impl Fn(&mut u64, u64) -> u32) -> u64 {
        let mut at = run.start;
        let mut total = 0;
        while at < run.end() {
            let piece = at / PIECE_BLOCKS;
            let words = Rc::make_mut(&mut self.pieces[piece as usize]);
            let _new = self.changed.insert(piece);
            let piece_end = run.end().min((piece + 1) * PIECE_BLOCKS);
            while at < piece_end {
                let bit = at % 64;
                let n = (64 - bit).min(piece_end - at);
                let mask = if n == 64 { u64::MAX } else { ((1 << n) - 1) << bit };
                total += u64::from(f(&mut words[(at % PIECE_BLOCKS / 64) as usize], mask));
                at += n;
            }
        }
        total
    }

    /// A piece has to be persisted again, though it has not changed.
    pub(crate) fn touch(&mut self, index: u64) {
        let _new = self.changed.insert(index);
    }

    /// Forgets which pieces changed and says which they were.
    pub(crate) fn take_changed(&mut self) -> BTreeSet<u64> {
        std::mem::take(&mut self.changed)
    }

    pub(crate) fn piece(&self, index: u64) -> &Piece {
        &self.pieces[index as usize]
    }

    /// Makes a piece what it is in `other`.
    pub(crate) fn replace(&mut self, index: u64, other: &Self) {
        let ones = |p: &Piece| p.iter().map(|w| u64::from(w.count_ones())).sum::<u64>();
        let slot = &mut self.pieces[index as usize];
        self.count = self.count - ones(slot) + ones(other.piece(index));
        slot.clone_from(&other.pieces[index as usize]);
        let _new = self.changed.insert(index);
    }

    /// Takes a piece as read from the pool; only for opening.
    pub(crate) fn load(&mut self, index: u64, bytes: &[u8]) {
        let piece = Rc::make_mut(&mut self.pieces[index as usize]);
        for (word, chunk) in piece.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*chunk);
        }
        self.count += piece.iter().map(|w| u64::from(w.count_ones())).sum::<u64>();
    }

    /// Calls `f` for each run of blocks in use.
    pub(crate) fn for_runs(&self, f: impl FnMut(Run)) {
        self.runs_of(|_, _, word| word, f);
    }

    /// Runs of blocks that are here and not in `other`.
    pub(crate) fn without(&self, other: &Self) -> Vec<Run> {
        let mut runs = Vec::new();
        let rest = |piece: usize, at: usize, word: u64| word & !other.pieces.get(piece).map_or(0, |p| p[at]);
        self.runs_of(rest, |run| runs.push(run));
        runs
    }

    /// Runs of set bits in the words that `take` leaves of each (given its piece and its place there).
    fn runs_of(&self, take: impl Fn(usize, usize, u64) -> u64, mut f: impl FnMut(Run)) {
        let mut open: Option<Run> = None;
        for (index, piece) in self.pieces.iter().enumerate() {
            for (w, &word) in piece.iter().enumerate() {
                let mut rest = take(index, w, word);
                let base = index as u64 * PIECE_BLOCKS + w as u64 * 64;
                while rest != 0 {
                    let start = u64::from(rest.trailing_zeros());
                    let len = u64::from((!(rest >> start)).trailing_zeros()).min(64 - start);
                    rest &= if start + len == 64 { 0 } else { u64::MAX << (start + len) };
                    let run = Run { start: base + start, len };
                    match &mut open {
                        Some(o) if o.end() == run.start => o.len += run.len,
                        _ => {
                            if let Some(o) = open.replace(run) {
                                f(o);
                            }
                        }
                    }
                }
            }
        }
        if let Some(o) = open {
            f(o);
        }
    }
}

/// A piece as it stands on disk.
pub(crate) fn piece_bytes(piece: &Piece, out: &mut [u8]) {
    for (word, chunk) in piece.iter().zip(out.as_chunks_mut::<8>().0) {
        *chunk = word.to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_copies_and_runs() {
        let mut map = Reach::new(PIECE_BLOCKS * 2 + 5);
        assert_eq!(map.add(Run { start: 10, len: 100 }), 100);
        assert_eq!(map.add(Run { start: 100, len: 20 }), 10);
        assert_eq!(map.add(Run { start: PIECE_BLOCKS - 3, len: 6 }), 6);
        let old = map.clone();
        assert_eq!(map.remove(Run { start: 0, len: 50 }), 40);
        assert_eq!((old.count(), map.count()), (116, 76));
        assert!(old.contains(10) && !map.contains(10));
        let mut runs = Vec::new();
        map.for_runs(|r| runs.push((r.start, r.len)));
        assert_eq!(runs, [(50, 70), (PIECE_BLOCKS - 3, 6)]);
        let gone: Vec<_> = old.without(&map).iter().map(|r| (r.start, r.len)).collect();
        assert_eq!((gone, map.without(&old)), (vec![(10, 40)], vec![]));
        assert_eq!(map.take_changed().into_iter().collect::<Vec<_>>(), [0, 1]);
        let mut bytes = vec![0; BLOCK_SIZE];
        piece_bytes(map.piece(0), &mut bytes);
        let mut loaded = Reach::new(PIECE_BLOCKS);
        loaded.load(0, &bytes);
        assert_eq!(loaded.count(), 73);
    }
}
