//! One volume, full and incremental, there and back.

#![allow(missing_docs, clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use cairn_backup::{CreateOptions, InitOptions, Job, Location, Mode, Repository, RestoreOptions, Secret};
use cairn_engine::{IoBuf, MIB, Pool, PoolOptions, VolumeOptions};
use tempfile::TempDir;

struct World {
    _dir: TempDir,
    location: Location,
    pool: Pool,
}

async fn world(secret: Option<Secret>) -> (World, Repository) {
    let dir = tempfile::tempdir_in(if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" }).unwrap();
    let path = |name: &str| -> PathBuf { dir.path().join(name) };
    let pool = Pool::create(path("pool.cairn"), PoolOptions::new().size(512 * MIB)).await.unwrap();
    let url = format!("file://{}", path("repository").display());
    let location = Location { url, secret, cache: Some(path("cache")), ..Location::default() };
    let repository = Repository::init(&location, &InitOptions::default()).await.unwrap();
    (World { _dir: dir, location, pool }, repository)
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

async fn write(pool: &Pool, volume: &str, offset: u64, content: &[u8]) {
    pool.volume(volume).await.unwrap().write(offset, IoBuf::from(content)).await.unwrap();
}

async fn content(pool: &Pool, volume: &str) -> blake3::Hash {
    let volume = pool.volume(volume).await.unwrap();
    let size = volume.size().await.unwrap();
    let mut hash = blake3::Hasher::new();
    for at in (0..size).step_by(1 << 20) {
        let _hasher = hash.update(&volume.read(at, (size - at).min(1 << 20) as usize).await.unwrap());
    }
    hash.finalize()
}

#[tokio::test]
async fn full_and_incremental_come_back_as_they_were() {
    for secret in [None, Some(Secret::Key([7; 32]))] {
        let (world, repository) = world(secret).await;
        let World { pool, location, .. } = &world;
        let volume = pool.create_volume("db", 200 * MIB + 512, VolumeOptions::default()).await.unwrap();
        for at in 0..40 {
            write(pool, "db", at * 3 * MIB, &noise(1 << 20, at)).await;
        }
        write(pool, "db", 200 * MIB, &noise(512, 99)).await;
        let job = Job::new();
        let options = CreateOptions::default();
        let full = repository.create(pool, "db", &options, &job).await.unwrap();
        assert!(full.is_full() && full.reason.contains("first backup"), "{}", full.reason);
        assert_eq!(job.progress().done, job.progress().total);
        let first = content(pool, "db").await;

        for at in 0..100 {
            write(pool, "db", at * 4096 * 37, &noise(4096, 1000 + at)).await;
        }
        volume.discard(30 * MIB, 20 * MIB).await.unwrap();
        write(pool, "db", 150 * MIB, &vec![0; 1 << 20]).await;
        let incremental = repository.create(pool, "db", &options, &Job::new()).await.unwrap();
        assert_eq!(incremental.parent.as_ref(), Some(&full.id), "{}", incremental.reason);
        let second = content(pool, "db").await;
        let stored = incremental.statistics;
        assert!(stored.read <= 2 << 20 && stored.new <= 101 * 4096, "{stored:?}");

        // Only the last snapshot stays.
        assert_eq!(pool.snapshots(Some("db"), false).await.unwrap().len(), 1);
        assert_eq!(repository.backups().await.unwrap().len(), 2);

        // By a repository that knows nothing but the objects.
        let fresh = Location { cache: Some(world._dir.path().join("other-cache")), ..location.clone() };
        drop(repository);
        let repository = Repository::open(&fresh).await.unwrap();
        for (backup, hash, name) in [(&full, first, "one"), (&incremental, second, "two")] {
            let restored = repository
                .restore(&backup.id[..12], pool, name, &RestoreOptions::default(), &Job::new())
                .await
                .unwrap();
            assert_eq!(content(pool, name).await, hash);
            assert_eq!(restored.holes, []);
        }
        // In place, back to the first: what differs is written, nothing else.
        drop(volume);
        let options = RestoreOptions { in_place: true, ..RestoreOptions::default() };
        let restored = repository.restore(&full.id, pool, "db", &options, &Job::new()).await.unwrap();
        assert_eq!(content(pool, "db").await, first);
        assert!(restored.written <= 22 << 20, "{restored:?}");
        let undo = restored.undo_snapshot.unwrap();
        let _info = pool.revert("db", &undo, false).await.unwrap();
        assert_eq!(content(pool, "db").await, second);
        pool.close().await.unwrap();
    }
}

#[tokio::test]
async fn full_backups_share_what_they_have_in_common() {
    let (world, repository) = world(None).await;
    let pool = &world.pool;
    let _volume = pool.create_volume("db", 64 * MIB, VolumeOptions::default()).await.unwrap();
    write(pool, "db", 0, &noise(8 << 20, 1)).await;
    let options = CreateOptions { mode: Mode::Full, ..CreateOptions::default() };
    let one = repository.create(pool, "db", &options, &Job::new()).await.unwrap();
    let two = repository.create(pool, "db", &options, &Job::new()).await.unwrap();
    assert_eq!((one.root, two.statistics.new, two.statistics.stored), (two.root.clone(), 0, 0));
    assert!(two.is_full() && two.reason.contains("asked for"));
}
