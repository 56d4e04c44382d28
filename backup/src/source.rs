//! What is backed up: a snapshot of a volume, and which of its blocks differ from another one's.

use cairn_engine::{ExtentKind, IoBuf, Pool, SnapshotInfo, Target, Volume};

use crate::{
    error::{Error, ErrorKind, Result},
    log::record::Backup,
    map::BLOCK,
};

/// Blocks of one chunk at most: 256 KiB.
pub(crate) const WINDOW: u64 = 64;
/// Pieces of one portion at most.
const PIECES: usize = 256;

/// Neighbouring blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    pub(crate) block: u64,
    pub(crate) count: u64,
    pub(crate) is_hole: bool,
}

/// What becomes one chunk, and the holes between.
pub(crate) type Portion = Vec<Piece>;

/// An engine's error in this crate's terms.
pub(crate) fn engine(error: &cairn_engine::Error) -> Error {
    let kind = match error.kind() {
        cairn_engine::ErrorKind::Invalid => ErrorKind::Invalid,
        cairn_engine::ErrorKind::NotFound => ErrorKind::NotFound,
        cairn_engine::ErrorKind::Exists => ErrorKind::Exists,
        cairn_engine::ErrorKind::Busy => ErrorKind::InUse,
        cairn_engine::ErrorKind::Corrupt => ErrorKind::Corrupt,
        _ => ErrorKind::Volume,
    };
    Error::new(kind, error.to_string())
}

/// A snapshot that is read.
#[derive(Clone)]
pub(crate) struct Source {
    pool: Pool,
    target: Target,
    volume: Volume,
    pub(crate) size: u64,
}

/// Whether a backup is one of this snapshot. Numbers of versions alone do not tell: a pool that was put back to an older state, or copied,
/// gives them to other snapshots.
pub(crate) fn is_of(backup: &Backup, snapshot: &SnapshotInfo) -> bool {
    let origin = &backup.origin;
    (origin.version, &origin.snapshot) == (snapshot.version.0, &snapshot.name)
        && (backup.data_ms, backup.size) == (snapshot.created_ms, snapshot.size)
}

impl Source {
    /// A snapshot, which can be neither deleted nor replaced from here on.
    pub(crate) async fn of(pool: &Pool, volume: &str, snapshot: &SnapshotInfo) -> Result<Self> {
        let target = Target { volume: volume.to_owned(), snapshot: Some(snapshot.name.clone()) };
        let source = Self::open(pool, target).await?;
        let all = pool.snapshots(Some(volume), false).await.map_err(|e| engine(&e))?;
        if all.iter().any(|s| s.version == snapshot.version && s.name == snapshot.name) {
            return Ok(source);
        }
        let text = format!("the snapshot {} was deleted meanwhile: run the backup again", source.target);
        Err(Error::new(ErrorKind::NotFound, text))
    }

    pub(crate) async fn open(pool: &Pool, target: Target) -> Result<Self> {
        let volume = pool.volume(&target.to_string()).await.map_err(|e| engine(&e))?.in_background();
        let size = volume.size().await.map_err(|e| engine(&e))?;
        Ok(Self { pool: pool.clone(), target, volume, size })
    }

    /// Content of neighbouring blocks; what the last one has beyond the end of the volume is zeros.
    pub(crate) async fn read(&self, block: u64, count: u64) -> Result<IoBuf> {
        let (offset, length) = (block * BLOCK, (count * BLOCK) as usize);
        let there = length.min(self.size.saturating_sub(offset) as usize);
        let read = self.volume.read(offset, there).await.map_err(|e| engine(&e))?;
        if there == length {
            return Ok(read);
        }
        let mut content = IoBuf::zeroed(length);
        content[..there].copy_from_slice(&read);
        Ok(content)
    }

    /// What differs from `base`; everything that is stored, without one.
    pub(crate) fn changes(&self, base: Option<&Self>) -> Changes {
        let aligned = base.is_none();
        Changes {
            source: self.clone(),
            base: base.cloned(),
            aligned,
            next: Some(0),
            portion: Vec::new(),
            blocks: 0,
            ready: Vec::new().into_iter(),
        }
    }
}

/// Portions of what differs, in order of blocks.
pub(crate) struct Changes {
    source: Source,
    base: Option<Source>,
    /// Each portion within one aligned window: then the same content comes to the same chunks, whenever it is read.
    aligned: bool,
    next: Option<u64>,
    portion: Portion,
    blocks: u64,
    ready: std::vec::IntoIter<Portion>,
}

impl Changes {
    pub(crate) async fn next(&mut self) -> Result<Option<Portion>> {
        loop {
            if let Some(portion) = self.ready.next() {
                return Ok(Some(portion));
            }
            let Some(offset) = self.next else {
                let last = std::mem::take(&mut self.portion);
                return Ok((!last.is_empty()).then_some(last));
            };
            let base = self.base.as_ref().map(|base| &base.target);
            let page = self.source.pool.diff(base, &self.source.target, offset);
            let page = page.await.map_err(|e| engine(&e))?;
            self.next = page.next;
            let mut ready = Vec::new();
            for extent in page.extents {
                let is_hole = extent.kind == ExtentKind::Hole;
                let (block, end) = (extent.offset / BLOCK, (extent.offset + extent.length).div_ceil(BLOCK));
                if !(is_hole && self.aligned) {
                    self.add(Piece { block, count: end - block, is_hole }, &mut ready);
                }
            }
            self.ready = ready.into_iter();
        }
    }

    fn add(&mut self, mut piece: Piece, ready: &mut Vec<Portion>) {
        if piece.is_hole {
            self.portion.push(piece);
            piece.count = 0;
        }
        while piece.count > 0 {
            let to_window = WINDOW - piece.block % WINDOW;
            let whole = to_window == WINDOW && piece.count >= WINDOW;
            let other_window =
                self.aligned && self.portion.last().is_some_and(|p| p.block / WINDOW != piece.block / WINDOW);
            if (whole && !self.portion.is_empty()) || other_window || self.portion.len() >= PIECES {
                self.close(ready);
                continue;
            }
            // Windows that changed as a whole are portions of their own, so that what was written again as it was is known again.
            let cut = self.aligned || piece.count >= to_window + WINDOW || whole;
            let room = if cut { to_window.min(WINDOW - self.blocks) } else { WINDOW - self.blocks };
            let count = piece.count.min(room);
            self.portion.push(Piece { count, ..piece });
            self.blocks += count;
            piece = Piece { block: piece.block + count, count: piece.count - count, ..piece };
            if self.blocks == WINDOW || (self.aligned && count == to_window) || whole {
                self.close(ready);
            }
        }
    }

    fn close(&mut self, ready: &mut Vec<Portion>) {
        self.blocks = 0;
        let portion = std::mem::take(&mut self.portion);
        if !portion.is_empty() {
            ready.push(portion);
        }
    }

    /// Bytes that will have to be read.
    pub(crate) async fn count(mut self) -> Result<u64> {
        let mut blocks = 0;
        while let Some(portion) = self.next().await? {
            blocks += portion.iter().filter(|piece| !piece.is_hole).map(|piece| piece.count).sum::<u64>();
        }
        Ok(blocks * BLOCK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_engine::{MIB, PoolOptions, VolumeOptions};
    use proptest::prelude::*;

    fn changes(aligned: bool) -> Changes {
        let made = pollster::block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let pool = Pool::create(dir.path().join("p"), PoolOptions::new().size(64 * MIB)).await.unwrap();
            drop(pool.create_volume("v", MIB, VolumeOptions::default()).await.unwrap());
            Source::open(&pool, "v".parse().unwrap()).await.unwrap()
        });
        Changes { aligned, ..made.changes(None) }
    }

    fn cut(aligned: bool, pieces: &[Piece]) -> Vec<Portion> {
        let (mut changes, mut ready) = (changes(aligned), Vec::new());
        pieces.iter().for_each(|piece| changes.add(*piece, &mut ready));
        changes.close(&mut ready);
        ready
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn portions_are_what_changed_in_order_and_fit_a_chunk(
            steps in prop::collection::vec((0..200u64, 1..300u64, prop::bool::weighted(0.2)), 1..30), aligned: bool
        ) {
            let mut at = 0;
            let mut pieces = Vec::new();
            for (gap, count, is_hole) in steps {
                if !(is_hole && aligned) {
                    pieces.push(Piece { block: at + gap, count, is_hole });
                }
                at += gap + count;
            }
            let portions = cut(aligned, &pieces);
            let blocks = |pieces: &[Piece]| -> Vec<(u64, bool)> {
                pieces.iter().flat_map(|p| (p.block..p.block + p.count).map(|b| (b, p.is_hole))).collect()
            };
            prop_assert_eq!(blocks(&portions.concat()), blocks(&pieces));
            for portion in &portions {
                let data: Vec<_> = portion.iter().filter(|p| !p.is_hole).collect();
                prop_assert!(data.iter().map(|p| p.count).sum::<u64>() <= WINDOW && !portion.is_empty());
                prop_assert!(!aligned || data.iter().all(|p| p.block / WINDOW == (p.block + p.count - 1) / WINDOW));
            }
            // A window that changed as a whole is a portion of its own.
            for window in 0..at / WINDOW {
                let piece = Piece { block: window * WINDOW, count: WINDOW, is_hole: false };
                let whole = pieces.iter().any(|p| !p.is_hole && p.block <= piece.block && p.block + p.count >= piece.block + WINDOW);
                prop_assert!(!whole || portions.contains(&vec![piece]));
            }
        }
    }
}
