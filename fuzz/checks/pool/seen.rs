//! What an open pool shows.

use super::{disk::ZEROS, history::fill, open, options};
use cairn_engine::{BLOCK, BLOCK_SIZE, LocalPool, LocalVolume, Target};
use pollster::block_on;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// What stands in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Block {
    Hole,
    Filled(u64),
    Unreadable,
}

pub(super) struct Seen {
    /// Size and probed blocks of each volume and snapshot.
    pub(super) targets: BTreeMap<String, (u64, BTreeMap<u64, Block>)>,
    /// A check with all data found nothing wrong.
    pub(super) clean: bool,
    pub(super) problems: Vec<String>,
}

/// Opens a pool for reading, and looks at everything in it.
pub(super) fn look(path: &Path, probes: &BTreeSet<u64>) -> Option<Seen> {
    let pool = open(path, options().read_only(true))?;
    let probes = probes.clone();
    let seen = block_on(pool.run(move |local| async move { see(&local, &probes).await })).expect("the reactor lives");
    block_on(pool.close()).expect("nothing is left to do");
    Some(seen)
}

async fn see(pool: &LocalPool, probes: &BTreeSet<u64>) -> Seen {
    let report = pool.check(true, |done, total| assert!(done <= total)).await.expect("a check finds an end");
    let volumes = pool.list_volumes();
    let snapshots = pool.list_snapshots(None).expect("all of them");
    let names = volumes.iter().map(|v| v.name.clone());
    let mut seen = Seen { targets: BTreeMap::new(), clean: report.is_clean(), problems: report.problems };
    for name in names.chain(snapshots.iter().map(|s| format!("{}@{}", s.volume, s.name))) {
        let target: Target = name.parse().expect("names are names");
        let volume = pool.open(&target).expect("what is listed can be opened");
        walk(pool, &target, volume.size()).await;
        let blocks = read(&volume, probes).await;
        let readable = blocks.values().all(|block| *block != Block::Unreadable);
        assert!(readable || !seen.clean, "a check found nothing, and {name} cannot be read");
        let _new = seen.targets.insert(name, (volume.size(), blocks));
    }
    // These walk trees in their own ways; damage makes them fail, and nothing else.
    let _walked = (pool.volumes(true).await.is_ok(), pool.snapshots(None, true).await.is_ok());
    let _told = (pool.stats(), pool.events(0));
    seen
}

/// Walks a difference to its end: every page goes on from the last.
async fn walk(pool: &LocalPool, target: &Target, size: u64) {
    let mut at = 0;
    while let Ok(page) = pool.diff(None, target, at).await {
        assert!(page.extents.iter().all(|e| e.offset >= at && e.offset + e.length <= size), "{page:?}");
        match page.next {
            Some(next) => assert!(std::mem::replace(&mut at, next) < next, "{page:?}"),
            None => break,
        }
    }
}

/// Reads the probed blocks, each alone where several at once cannot be read.
async fn read(volume: &LocalVolume, probes: &BTreeSet<u64>) -> BTreeMap<u64, Block> {
    let mut blocks = BTreeMap::new();
    let inside: Vec<u64> = probes.iter().copied().filter(|block| (block + 1) * BLOCK <= volume.size()).collect();
    for run in inside.chunk_by(|a, b| a + 1 == *b) {
        match volume.read(run[0] * BLOCK, run.len() * BLOCK_SIZE).await {
            Ok(bytes) => {
                let found = run.iter().zip(bytes.chunks(BLOCK_SIZE));
                blocks.extend(found.map(|(&block, bytes)| (block, recognise(bytes, block))));
            }
            Err(_) => {
                for &block in run {
                    let found = volume.read(block * BLOCK, BLOCK_SIZE).await;
                    let found = found.map_or(Block::Unreadable, |bytes| recognise(&bytes, block));
                    let _new = blocks.insert(block, found);
                }
            }
        }
    }
    blocks
}

fn recognise(bytes: &[u8], block: u64) -> Block {
    if bytes == ZEROS {
        return Block::Hole;
    }
    let with = bytes.first_chunk().map_or(0, |first| u64::from_le_bytes(*first));
    assert!(bytes == fill(with, block), "block {block} was read without an error, and nobody ever wrote that");
    Block::Filled(with)
}
