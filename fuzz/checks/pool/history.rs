//! A pool's life as a list of moments: after each commit, the file as a crash would leave it, and what its volumes hold.

use super::disk::Disk;
use cairn_engine::{BLOCK_SIZE, GIB, IoBuf, MIB, OpenOptions, Pool, PoolOptions, StorageKind, Target, VolumeOptions};
use pollster::block_on;
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    path::PathBuf,
};

/// Content of a volume or snapshot: what each block that is no hole was filled with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) size: u64,
    pub(super) blocks: BTreeMap<u64, u64>,
}

/// All volumes and snapshots, by `volume` or `volume@snapshot`.
pub(super) type Contents = BTreeMap<String, Content>;

/// One moment.
pub(super) struct Moment {
    pub(super) disk: Disk,
    pub(super) contents: Contents,
}

pub(super) struct History {
    pub(super) moments: Vec<Moment>,
    /// Blocks that were ever written to, and their neighbours.
    pub(super) probes: BTreeSet<u64>,
}

/// The bytes of block `block` when it is filled with `with`.
pub(super) fn fill(with: u64, block: u64) -> Vec<u8> {
    [with.to_le_bytes(), block.to_le_bytes()].concat().repeat(BLOCK_SIZE / 16)
}

/// The bytes of a run of blocks.
pub(super) fn fill_run(with: u64, blocks: Range<u64>) -> IoBuf {
    IoBuf::from(&blocks.map(|block| fill(with, block)).collect::<Vec<_>>().concat()[..])
}

/// A pool that is being written to, and what it must hold.
struct Author {
    pool: Pool,
    path: PathBuf,
    contents: Contents,
    fills: u64,
    history: History,
}

impl History {
    /// Lives through everything that leaves traces of its own on the disk.
    pub(super) fn write() -> Self {
        let directory = crate::checks::scratch();
        let path = directory.path().join("pool");
        let options = PoolOptions::new().size(32 * MIB).open(OpenOptions::new().storage(StorageKind::Pread));
        let pool = block_on(Pool::create(&path, options)).expect("a pool can be made");
        let history = History { moments: Vec::new(), probes: BTreeSet::new() };
        let mut author = Author { pool, path, contents: Contents::new(), fills: 0, history };
        author.moment();
        author.live();
        block_on(author.pool.close()).expect("it closes");
        author.moment();
        author.history
    }
}

impl Author {
    fn live(&mut self) {
        self.create("db", GIB);
        self.write("db", 0..40);
        self.write("db", 300..310);
        self.write("db", 70_000..70_004);
        self.snapshot(&["db@one"]);
        self.write("db", 5..20);
        self.checkpoint();
        self.create("log", MIB);
        self.write("log", 0..64);
        self.snapshot(&["db@two", "log@two"]);
        self.clone_of("db@one", "copy");
        self.write("copy", 2..8);
        self.write("copy", 70_002..70_006);
        self.checkpoint();
        self.checkpoint();
        // The first 256 MiB are cut off as a subtree of their own.
        self.discard("copy", 0..65_536);
        self.discard("log", 10..30);
        self.delete("db@one");
        self.wait_deleted();
        self.write("db", 0..12);
        self.revert("db", "two");
        self.write("db", 400..420);
        self.rename("log", "diary");
        self.resize("diary", 2 * MIB);
        self.write("diary", 300..310);
        self.checkpoint();
        self.write("diary", 0..100);
        self.delete("diary@two");
        self.write("copy", 0..3);
    }

    /// What has been done is committed: a crash from here on loses none of it.
    fn moment(&mut self) {
        let disk = Disk::read(&self.path);
        self.history.moments.push(Moment { disk, contents: self.contents.clone() });
    }

    fn content(&mut self, name: &str) -> &mut Content {
        self.contents.get_mut(name).expect("the script names what exists")
    }

    fn create(&mut self, name: &str, size: u64) {
        drop(block_on(self.pool.create_volume(name, size, VolumeOptions::default())).expect("created"));
        let _new = self.contents.insert(name.to_owned(), Content { size, blocks: BTreeMap::new() });
        self.moment();
    }

    fn write(&mut self, name: &str, blocks: Range<u64>) {
        self.fills += 1;
        let with = self.fills;
        block_on(async {
            let volume = self.pool.volume(name).await?;
            volume.write(blocks.start * BLOCK_SIZE as u64, fill_run(with, blocks.clone())).await?;
            volume.flush().await
        })
        .expect("written");
        self.history.probes.extend(blocks.start.saturating_sub(1)..blocks.end + 1);
        self.content(name).blocks.extend(blocks.map(|block| (block, with)));
        self.moment();
    }

    fn discard(&mut self, name: &str, blocks: Range<u64>) {
        let unit = BLOCK_SIZE as u64;
        block_on(async {
            let volume = self.pool.volume(name).await?;
            volume.discard(blocks.start * unit, (blocks.end - blocks.start) * unit).await?;
            volume.flush().await
        })
        .expect("discarded");
        self.content(name).blocks.retain(|block, _| !blocks.contains(block));
        self.moment();
    }

    fn snapshot(&mut self, names: &[&str]) {
        let targets: Vec<Target> = names.iter().map(|name| name.parse().expect("a name")).collect();
        let _taken = block_on(self.pool.snapshot(&targets)).expect("taken");
        for target in targets {
            let frozen = self.contents[&target.volume].clone();
            let _new = self.contents.insert(target.to_string(), frozen);
        }
        self.moment();
    }

    fn clone_of(&mut self, snapshot: &str, name: &str) {
        let _made = block_on(self.pool.clone_volume(&snapshot.parse().expect("a name"), name, None)).expect("cloned");
        let content = self.contents[snapshot].clone();
        let _new = self.contents.insert(name.to_owned(), content);
        self.moment();
    }

    fn delete(&mut self, snapshot: &str) {
        block_on(self.pool.delete_snapshot(&snapshot.parse().expect("a name"))).expect("deleted");
        let _gone = self.contents.remove(snapshot);
        self.moment();
    }

    fn revert(&mut self, volume: &str, snapshot: &str) {
        let _reverted = block_on(self.pool.revert(volume, snapshot, false)).expect("reverted");
        let content = self.contents[&format!("{volume}@{snapshot}")].clone();
        let _old = self.contents.insert(volume.to_owned(), content);
        self.moment();
    }

    fn rename(&mut self, from: &str, to: &str) {
        let _renamed = block_on(self.pool.rename(from, to)).expect("renamed");
        let renamed = |name: &str| match name.strip_prefix(from) {
            Some(rest) if rest.is_empty() || rest.starts_with('@') => format!("{to}{rest}"),
            _ => name.to_owned(),
        };
        self.contents = std::mem::take(&mut self.contents).into_iter().map(|(n, c)| (renamed(&n), c)).collect();
        self.moment();
    }

    fn resize(&mut self, name: &str, size: u64) {
        let _resized = block_on(self.pool.resize(name, size)).expect("resized");
        self.content(name).size = size;
        self.moment();
    }

    fn checkpoint(&mut self) {
        block_on(self.pool.checkpoint()).expect("a checkpoint");
        self.moment();
    }

    fn wait_deleted(&mut self) {
        block_on(self.pool.wait_deleted()).expect("given back");
        self.moment();
    }
}
