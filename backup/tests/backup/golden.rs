//! Repositories as earlier versions wrote them: each must be read by every later one, and gone on with.
//!
//! `CAIRN_GOLDEN=write cargo test -p cairn-backup --test backup golden` writes new ones, for a new format; those of older formats stay.

use std::{fs, io, path::PathBuf};

use cairn_backup::{
    Backup, CollectOptions, CreateOptions, InitOptions, Job, Location, Mode, Repository, RestoreOptions, Secret,
    VerifyOptions,
};
use cairn_engine::{MIB, Pool, VolumeOptions};
use serde::{Deserialize, Serialize};

use crate::world::{World, back_up, content, noise, restored, world, write};

/// A backup, and the hash of what it holds.
#[derive(PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Held {
    id: String,
    parent: Option<String>,
    size: u64,
    why: Option<String>,
    hash: String,
}

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn secret(name: &str) -> Option<Secret> {
    (name == "sealed").then(|| Secret::Passphrase("golden passphrase".to_owned()))
}

async fn held(repository: &Repository, pool: &Pool) -> Vec<Held> {
    let mut all = Vec::new();
    for Backup { id, parent, size, labels, .. } in repository.backups().await.unwrap() {
        let hash = restored(repository, pool, &id).await.unwrap().to_hex().to_string();
        all.push(Held { id, parent, size, why: labels.get("why").cloned(), hash });
    }
    all
}

/// Everything that a history can hold: chains, dedup, a size that grew, merged, promoted and deleted backups, a collection, a checkpoint of the log.
async fn history(world: &World, repository: &Repository) {
    let (pool, job) = (&world.pool, Job::new());
    drop(pool.create_volume("v", 2 * MIB + 1536, VolumeOptions::default()).await.unwrap());
    write(pool, "v", 0, &b"a line of text, and another\n".repeat(2341)[..64 << 10]).await;
    write(pool, "v", 128 << 10, &noise(64 << 10, 1)).await;
    write(pool, "v", 240 << 10, &[0; 16 << 10]).await;
    let labelled =
        CreateOptions { labels: [("why".to_owned(), "golden".to_owned())].into(), ..CreateOptions::default() };
    let _first = repository.create(pool, "v", &labelled, &job).await.unwrap();
    write(pool, "v", 4096, &noise(4096, 2)).await;
    let middle = back_up(repository, pool, "v").await.unwrap();
    pool.resize("v", 3 * MIB).await.unwrap();
    write(pool, "v", 3 * MIB - 4096, &noise(4096, 3)).await;
    pool.volume("v").await.unwrap().discard(128 << 10, 8192).await.unwrap();
    let grown = back_up(repository, pool, "v").await.unwrap();
    let _merged = repository.merge(&middle.id).await.unwrap();
    let _promoted = repository.promote(&grown.id).await.unwrap();
    drop(pool.create_volume("w", MIB, VolumeOptions::default()).await.unwrap());
    write(pool, "w", 0, &noise(64 << 10, 1)).await;
    write(pool, "w", 512 << 10, &noise(128 << 10, 4)).await;
    let gone = back_up(repository, pool, "w").await.unwrap();
    write(pool, "w", 0, &noise(4096, 5)).await;
    let full = CreateOptions { mode: Mode::Full, ..CreateOptions::default() };
    let _kept = repository.create(pool, "w", &full, &job).await.unwrap();
    let _deleted = repository.delete(&[gone.id], false, false, &job).await.unwrap();
    write(pool, "w", 640 << 10, &noise(64 << 10, 6)).await;
    let gone = repository.create(pool, "w", &full, &job).await.unwrap();
    let _deleted = repository.delete(&[gone.id], false, false, &job).await.unwrap();
    let all = CollectOptions { max_unused_percent: 0, dry_run: false };
    let _collected = repository.collect(&all, &job).await.unwrap();
    for i in 0..14 {
        write(pool, "v", i * 8192, &noise(512, 10 + i)).await;
        let _made = back_up(repository, pool, "v").await.unwrap();
    }
}

/// Makes a repository, and what it holds, in the directory of golden ones.
async fn make(name: &str) {
    let (world, repository) = world(secret(name)).await;
    history(&world, &repository).await;
    let held = held(&repository, &world.pool).await;
    fs::write(golden(&format!("{name}.json")), serde_json::to_string_pretty(&held).unwrap() + "\n").unwrap();
    let packed = zstd::Encoder::new(fs::File::create(golden(&format!("{name}.tar.zst"))).unwrap(), 19).unwrap();
    let mut tar = tar::Builder::new(packed);
    tar.append_dir_all(".", world.dir.path().join("repository")).unwrap();
    let _file = tar.into_inner().unwrap().finish().unwrap();
}

/// Unpacks a golden repository beside a new pool.
async fn unpack(name: &str) -> (World, Repository) {
    let (mut world, repository) = world(None).await;
    drop(repository);
    let directory = world.dir.path().join("golden");
    let packed = fs::File::open(golden(&format!("{name}.tar.zst"))).unwrap();
    tar::Archive::new(zstd::Decoder::new(io::BufReader::new(packed)).unwrap()).unpack(&directory).unwrap();
    world.location = Location {
        url: format!("file://{}", directory.display()),
        secret: secret(name),
        cache: Some(world.dir.path().join("golden-cache")),
        ..Location::default()
    };
    let repository = Repository::open(&world.location).await.unwrap();
    (world, repository)
}

#[tokio::test]
async fn golden_repositories_are_read_and_gone_on_with() {
    for name in ["plain", "sealed"] {
        if std::env::var("CAIRN_GOLDEN").is_ok_and(|how| how == "write") {
            make(name).await;
        }
        let (world, repository) = unpack(name).await;
        let (pool, job) = (&world.pool, Job::new());
        let expected: Vec<Held> =
            serde_json::from_str(&fs::read_to_string(golden(&format!("{name}.json"))).unwrap()).unwrap();
        assert_eq!(held(&repository, pool).await, expected, "{name}");
        let verified = repository.verify(&VerifyOptions::default(), &job).await.unwrap();
        assert!(verified.is_whole(), "{name}: {verified:?}");

        // The volume comes back, is backed up into the same chunks, and old backups go.
        let (first, last) = (expected.first().unwrap(), expected.last().unwrap());
        let _restored = repository.restore(&last.id, pool, "v", &RestoreOptions::default(), &job).await.unwrap();
        let again = back_up(&repository, pool, "v").await.unwrap();
        assert!(again.statistics.new < 600 << 10, "{name}: {:?}", again.statistics);
        let _deleted = repository.delete(std::slice::from_ref(&first.id), false, false, &job).await.unwrap();
        let all = CollectOptions { max_unused_percent: 0, dry_run: false };
        let _collected = repository.collect(&all, &job).await.unwrap();
        assert_eq!(restored(&repository, pool, &again.id).await.unwrap(), content(pool, "v").await, "{name}");
        assert_eq!(restored(&repository, pool, &last.id).await.unwrap().to_hex().as_str(), last.hash, "{name}");
    }
}

#[tokio::test]
async fn a_repository_of_a_newer_format_is_refused_by_name() {
    let (world, repository) = world(None).await;
    drop(repository);
    let path = world.dir.path().join("repository/repo.json");
    let text = fs::read_to_string(&path).unwrap();
    let newer = text.replacen("cairn-repository 1 ", "cairn-repository 2 ", 1);
    assert_ne!(newer, text, "{text}");
    fs::write(&path, newer).unwrap();
    let error = Repository::open(&world.location).await.unwrap_err().to_string();
    assert!(error.contains("repo.json has format 2") && error.contains("newer"), "{error}");
    // Nor is it overwritten.
    assert!(Repository::init(&world.location, &InitOptions::default()).await.is_err());
}
