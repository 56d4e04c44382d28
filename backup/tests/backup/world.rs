//! Pools and repositories to test with, and what volumes hold.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use cairn_backup::{Backup, CreateOptions, InitOptions, Job, Location, Repository, RestoreOptions, Secret};
use cairn_engine::{ExtentKind, IoBuf, MIB, Pool, PoolOptions};
use object_store::{ObjectStore, memory::InMemory};
use tempfile::TempDir;

pub(crate) struct World {
    pub(crate) dir: TempDir,
    pub(crate) location: Location,
    pub(crate) pool: Pool,
}

impl World {
    /// A place for a cache that nobody has used.
    pub(crate) fn cache(&self, name: &str) -> Location {
        Location { cache: Some(self.dir.path().join(name)), ..self.location.clone() }
    }
}

async fn place(secret: Option<Secret>) -> World {
    let dir = tempfile::tempdir_in(if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" }).unwrap();
    let path = |name: &str| -> PathBuf { dir.path().join(name) };
    let pool = Pool::create(path("pool.cairn"), PoolOptions::new().size(512 * MIB)).await.unwrap();
    let url = format!("file://{}", path("repository").display());
    let location = Location { url, secret, cache: Some(path("cache")), ..Location::default() };
    World { dir, location, pool }
}

/// With a repository in a directory.
pub(crate) async fn world(secret: Option<Secret>) -> (World, Repository) {
    let world = place(secret).await;
    let repository = Repository::init(&world.location, &InitOptions::default()).await.unwrap();
    (world, repository)
}

/// With a repository in memory.
pub(crate) async fn in_memory(secret: Option<Secret>) -> (World, Arc<InMemory>, Repository) {
    let mut world = place(secret).await;
    world.location.url = "memory:".to_owned();
    let store = Arc::new(InMemory::new());
    let repository = Repository::init_with(store.clone(), &world.location, &InitOptions::default()).await.unwrap();
    (world, store, repository)
}

pub(crate) async fn open(store: &Arc<InMemory>, location: &Location) -> cairn_backup::Result<Repository> {
    let store: Arc<dyn ObjectStore> = store.clone();
    Repository::open_with(store, location).await
}

/// Numbers that follow from a seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        if all.is_empty() { None } else { all.get(self.below(all.len() as u64) as usize) }
    }
}

pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

pub(crate) async fn write(pool: &Pool, volume: &str, offset: u64, content: &[u8]) {
    pool.volume(volume).await.unwrap().write(offset, IoBuf::from(content)).await.unwrap();
}

/// A hash of the blocks of a volume that are not zeros, up to a byte.
pub(crate) async fn content_up_to(pool: &Pool, volume: &str, end: u64) -> blake3::Hash {
    let volume = pool.volume(volume).await.unwrap();
    let mut hash = blake3::Hasher::new();
    let size = volume.size().await.unwrap().min(end);
    let mut next = Some(0);
    while let Some(offset) = next.filter(|at| *at < size) {
        let page = volume.extents(offset, size - offset).await.unwrap();
        for extent in page.extents.iter().filter(|extent| extent.kind == ExtentKind::Data) {
            let end = (extent.offset + extent.length).min(size);
            let mut at = extent.offset;
            while at < end {
                let some = volume.read(at, (end - at).min(MIB) as usize).await.unwrap();
                for (block, bytes) in (at / 4096..).zip(some.chunks(4096)) {
                    let len = bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
                    if len > 0 {
                        let _hasher = hash.update(&block.to_le_bytes()).update(&bytes[..len]).update(&[0; 8]);
                    }
                }
                at += some.len() as u64;
            }
        }
        next = page.next;
    }
    hash.finalize()
}

pub(crate) async fn content(pool: &Pool, volume: &str) -> blake3::Hash {
    content_up_to(pool, volume, u64::MAX).await
}

pub(crate) async fn back_up(repository: &Repository, pool: &Pool, volume: &str) -> cairn_backup::Result<Backup> {
    repository.create(pool, volume, &CreateOptions::default(), &Job::new()).await
}

/// What a backup holds, by restoring it.
pub(crate) async fn restored(repository: &Repository, pool: &Pool, id: &str) -> cairn_backup::Result<blake3::Hash> {
    let name = format!("restored-{}", &id[..12]);
    let _restored = repository.restore(id, pool, &name, &RestoreOptions::default(), &Job::new()).await?;
    let hash = content(pool, &name).await;
    let _gone = pool.delete_volume(&name, false).await.unwrap();
    Ok(hash)
}
