//! Volumes that are filled from a backup while clients use them. What the backup has follows from whose volume it is, so a restore goes on after
//! any crash with nothing in mind; to its clients the volume has that content from the start.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    future::Future,
    ops::Range,
    pin::Pin,
    rc::{Rc, Weak},
    time::Duration,
};

use cairn_engine::{
    BLOCK, Error, ErrorKind, ExtentKind, Filler, IoBuf, LocalPool, LocalVolume, Reactor, Result, SECTOR, Target,
    sim::Rng,
};

use crate::{
    model::{Content, PER_BLOCK, fill},
    verify::family_of,
};

/// Tags of backups; those of clients are smaller.
const BACKUP: u64 = 0xbac << 52;

/// Runs of blocks that the backup has: at the start, across the border of two leaves, and at the volume's end.
fn runs(size: u64) -> Vec<Range<u64>> {
    let blocks = size.div_ceil(BLOCK);
    let all: BTreeSet<u64> = (0..96).filter(|b| b % 3 != 2).chain(250..260).chain(blocks - 3..blocks).collect();
    let mut runs: Vec<Range<u64>> = Vec::new();
    for block in all.into_iter().filter(|b| *b < blocks) {
        match runs.last_mut() {
            Some(last) if last.end == block => last.end += 1,
            _ => runs.push(block..block + 1),
        }
    }
    runs
}

fn tag(family: usize, block: u64) -> u64 {
    BACKUP | (family as u64) << 40 | block
}

/// What a volume that is restored holds from the start.
pub(crate) fn content(family: usize, size: u64) -> Content {
    let mut content = Content::default();
    for block in runs(size).into_iter().flatten() {
        for sector in block * PER_BLOCK..((block + 1) * PER_BLOCK).min(size / SECTOR) {
            content.set(sector, tag(family, block));
        }
    }
    content
}

/// The volumes that are filling, and whose they are.
fn filling(pool: &LocalPool) -> Vec<(String, usize)> {
    let all = pool.list_volumes().into_iter().filter(|v| v.options.filling);
    all.filter_map(|v| family_of(&v.name).map(|family| (v.name, family))).collect()
}

pub(crate) fn is_filling(pool: &LocalPool, volume: &str) -> bool {
    filling(pool).iter().any(|(name, _)| name == volume)
}

/// Reads sectors of a volume that is filling without bringing anything: a hole stands for what the backup has.
pub(crate) async fn read(inner: &LocalVolume, family: usize, first: u64, count: u64) -> Result<Vec<u8>> {
    let (offset, length) = (first * SECTOR, count * SECTOR);
    // Before the data: what is brought in between is what stands here.
    let holes = holes(inner, offset, length).await?;
    let mut data = inner.read(offset, length as usize).await?.to_vec();
    let content = content(family, inner.size());
    for sector in holes.into_iter().flat_map(|hole| hole.start / SECTOR..hole.end / SECTOR) {
        let at = ((sector - first) * SECTOR) as usize;
        fill(&mut data[at..at + SECTOR as usize], sector, content.get(sector));
    }
    Ok(data)
}

async fn holes(inner: &LocalVolume, offset: u64, length: u64) -> Result<Vec<Range<u64>>> {
    let (mut holes, mut next) = (Vec::new(), Some(offset));
    while let Some(at) = next.filter(|at| *at < offset + length) {
        let page = inner.extents(at, offset + length - at).await?;
        let found = page.extents.iter().filter(|e| e.kind == ExtentKind::Hole);
        holes.extend(found.map(|e| e.offset..e.offset + e.length));
        next = page.next;
    }
    Ok(holes)
}

/// A backup, from which it takes some time or other to bring something.
struct Backup {
    family: usize,
    reactor: Reactor,
    rng: RefCell<Rng>,
}

impl Backup {
    fn new(pool: &LocalPool, family: usize) -> Rc<Self> {
        Rc::new(Self { family, reactor: pool.reactor().clone(), rng: RefCell::new(Rng::new(family as u64)) })
    }

    /// Writes what the backup has into the holes of a range. Nothing says what else is being brought at the same time.
    async fn bring(&self, inner: &LocalVolume, range: Range<u64>) -> Result<()> {
        let size = inner.size();
        for run in runs(size) {
            let (start, end) = ((run.start * BLOCK).max(range.start), (run.end * BLOCK).min(range.end).min(size));
            if start >= end {
                continue;
            }
            for hole in holes(inner, start, end - start).await? {
                let wait = self.rng.borrow_mut().below(500);
                self.reactor.sleep(Duration::from_micros(wait)).await;
                let mut buf = IoBuf::with_len((hole.end - hole.start) as usize);
                for (sector, bytes) in (hole.start / SECTOR..).zip(buf.chunks_exact_mut(SECTOR as usize)) {
                    fill(bytes, sector, tag(self.family, sector / PER_BLOCK));
                }
                inner.write(hole.start, buf, false).await?;
            }
        }
        Ok(())
    }
}

/// Brings what users ask for. The pool keeps it, so it must not keep the pool.
struct Restore {
    inner: Weak<LocalVolume>,
    backup: Rc<Backup>,
}

impl Filler for Restore {
    fn fill(&self, offset: u64, length: u64) -> Pin<Box<dyn Future<Output = Result<()>>>> {
        let (inner, backup) = (self.inner.upgrade(), self.backup.clone());
        Box::pin(async move {
            let Some(inner) = inner else { return Err(Error::new(ErrorKind::Busy, "the restore has ended")) };
            backup.bring(&inner, offset..offset + length).await
        })
    }
}

/// Starts a restore, or starts it again: what the one before was doing goes on to its end.
pub(crate) fn start(pool: &LocalPool, volume: &str, pause: Duration) {
    let Some((_, family)) = filling(pool).into_iter().find(|(name, _)| name == volume) else { return };
    let Ok(inner) = pool.open_to_fill(volume) else { return };
    let inner = Rc::new(inner);
    let backup = Backup::new(pool, family);
    let restore = Rc::new(Restore { inner: Rc::downgrade(&inner), backup: backup.clone() });
    let registered = Rc::downgrade(&restore);
    let taken = pool.set_filler(volume, None).and_then(|()| pool.set_filler(volume, Some(restore)));
    assert!(taken.is_ok(), "{volume}: {taken:?}");
    let id = pool.list_volumes().into_iter().find(|v| v.name == volume).map(|v| v.id);
    let restored = pool.clone();
    let background = async move {
        let mut left: Vec<_> = runs(inner.size());
        left.reverse();
        // Whoever takes its place, deletes the volume or finds it full drops it.
        while registered.strong_count() > 0 {
            restored.reactor().sleep(pause).await;
            let brought = match left.last() {
                Some(run) => backup.bring(&inner, run.start * BLOCK..run.end * BLOCK).await,
                None => match restored.list_volumes().into_iter().find(|v| Some(v.id) == id) {
                    Some(volume) => restored.filled(&volume.name).await.map(drop),
                    None => return,
                },
            };
            match brought {
                Ok(()) => drop(left.pop()),
                Err(_) => restored.reactor().sleep(Duration::from_millis(20)).await,
            }
        }
    };
    pool.reactor().spawn(background).detach();
}

/// Starts the restores of all volumes that are filling.
pub(crate) fn start_all(pool: &LocalPool, pause: Duration) {
    filling(pool).iter().for_each(|(volume, _)| start(pool, volume, pause));
}

/// Ends all restores, and waits until nothing of them is left.
pub(crate) async fn stop_all(pool: &LocalPool) -> std::result::Result<(), String> {
    for (volume, _) in filling(pool) {
        pool.set_filler(&volume, None).map_err(|e| format!("stopping a restore: {e}"))?;
    }
    for _ in 0..1000 {
        if pool.list_volumes().iter().all(|v| v.attached == 0) {
            return Ok(());
        }
        pool.reactor().sleep(Duration::from_millis(100)).await;
    }
    Err("a restore that was stopped does not end".to_owned())
}

/// Brings all that is missing, as users do and as the restore does, and ends the filling.
pub(crate) async fn finish_all(pool: &LocalPool) -> Result<()> {
    for (volume, family) in filling(pool) {
        let inner = Rc::new(pool.open_to_fill(&volume)?);
        let backup = Backup::new(pool, family);
        let restore = Restore { inner: Rc::downgrade(&inner), backup: backup.clone() };
        pool.set_filler(&volume, Some(Rc::new(restore)))?;
        let user = pool.open(&Target { volume: volume.clone(), snapshot: None })?;
        let size = user.size();
        for run in runs(size).into_iter().step_by(2) {
            let (start, end) = (run.start * BLOCK, (run.end * BLOCK).min(size));
            let _read = user.read(start, (end - start) as usize).await?;
        }
        backup.bring(&inner, 0..size).await?;
        let _info = pool.filled(&volume).await?;
    }
    Ok(())
}
