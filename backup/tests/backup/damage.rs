//! Damage to each object of a repository: what is wrong is told by name, wrong bytes are never restored, the rest comes back, and the next
//! backup heals what it can.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use bytes::Bytes;
use cairn_backup::{
    CollectOptions, DamagedRange, ErrorKind, Hole, Job, Location, Repository, RestoreOptions, Secret, VerifyOptions,
};
use cairn_engine::{MIB, Pool, VolumeOptions};
use object_store::{ObjectStoreExt, PutPayload, memory::InMemory, path::Path as ObjectPath};

use crate::{
    reference::{get, names},
    world::{World, back_up, in_memory, noise, open, restored, write},
};

const SIZE: u64 = 3 * MIB + 512;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Damage {
    Deleted,
    Cut(usize),
    Flipped(usize),
    Replaced,
}

/// A repository of three backups, and what they hold.
struct Sound {
    world: World,
    store: Arc<InMemory>,
    contents: BTreeMap<String, Vec<u8>>,
    secret: Option<Secret>,
}

async fn read(pool: &Pool, volume: &str) -> Vec<u8> {
    pool.volume(volume).await.unwrap().read(0, SIZE as usize).await.unwrap().to_vec()
}

async fn sound(secret: Option<Secret>) -> Sound {
    let (world, store, repository) = in_memory(secret.clone()).await;
    let pool = &world.pool;
    for volume in ["a", "b"] {
        drop(pool.create_volume(volume, SIZE, VolumeOptions::default()).await.unwrap());
        write(pool, volume, 0, &noise(1 << 20, 1)).await;
    }
    write(pool, "a", 2 * MIB, &noise(512 << 10, 2)).await;
    write(pool, "b", 2 * MIB, &noise(700 << 10, 3)).await;
    write(pool, "a", 3 * MIB, &[7; 512]).await;
    let mut contents = BTreeMap::new();
    for (volume, change) in [("a", None), ("a", Some(4)), ("b", None)] {
        if let Some(seed) = change {
            write(pool, volume, MIB - 8192, &noise(80 << 10, seed)).await;
        }
        let made = back_up(&repository, pool, volume).await.unwrap();
        let _none = contents.insert(made.id, read(pool, volume).await);
    }
    Sound { world, store, contents, secret }
}

async fn put(store: &InMemory, name: &str, bytes: Bytes) {
    let _done = store.put(&ObjectPath::from(name), PutPayload::from_bytes(bytes)).await.unwrap();
}

async fn damage(store: &InMemory, name: &str, damage: Damage) {
    let bytes = get(store, name).await;
    match damage {
        Damage::Deleted => store.delete(&ObjectPath::from(name)).await.unwrap(),
        Damage::Cut(length) => put(store, name, bytes.slice(..length)).await,
        Damage::Flipped(at) => {
            let mut bytes = bytes.to_vec();
            bytes[at] ^= 0x10;
            put(store, name, bytes.into()).await;
        }
        Damage::Replaced => {
            let directory = name.split('/').next().unwrap();
            let other = names(store, directory).await.into_iter().find(|other| other != name);
            if let Some(other) = other {
                put(store, name, get(store, &other).await).await;
            }
        }
    }
}

fn damages(length: usize) -> Vec<Damage> {
    let mut all =
        vec![Damage::Deleted, Damage::Replaced, Damage::Cut(0), Damage::Cut(length / 2), Damage::Cut(length - 1)];
    let places = [4, 100, length / 4, length / 2, length * 3 / 4, length.saturating_sub(60), length - 20, length - 1];
    all.extend(places.into_iter().filter(|at| *at < length).map(Damage::Flipped));
    all
}

fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_directory(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// What each backup yields: nothing but the truth; the holes where it yields nothing.
async fn salvaged(
    repository: &Repository,
    pool: &Pool,
    contents: &BTreeMap<String, Vec<u8>>,
) -> BTreeMap<String, Vec<Hole>> {
    let mut all = BTreeMap::new();
    for (id, content) in contents {
        let options = RestoreOptions { salvage: true, ..RestoreOptions::default() };
        let restored = repository.restore(id, pool, "salvaged", &options, &Job::new()).await.unwrap();
        let mut expected = content.clone();
        for hole in &restored.holes {
            expected[hole.offset as usize..(hole.offset + hole.length) as usize].fill(0);
        }
        assert!(read(pool, "salvaged").await == expected, "wrong bytes were restored from {id}");
        let _gone = pool.delete_volume("salvaged", false).await.unwrap();
        // Without salvage it comes whole or not at all.
        let whole = repository.restore(id, pool, "whole", &RestoreOptions::default(), &Job::new()).await;
        match whole {
            Ok(_) => {
                assert_eq!((&restored.holes, read(pool, "whole").await == *content), (&Vec::new(), true));
                let _gone = pool.delete_volume("whole", false).await.unwrap();
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
                assert!(!restored.holes.is_empty() && error.to_string().contains(id), "{error}");
                assert!(pool.volume_info("whole").await.is_err());
            }
        }
        let _none = all.insert(id.clone(), restored.holes);
    }
    all
}

fn covered<'a>(parts: impl Iterator<Item = (&'a u64, &'a u64)>) -> Vec<bool> {
    let mut blocks = vec![false; SIZE.div_ceil(4096) as usize];
    for (offset, length) in parts {
        blocks[(offset / 4096) as usize..(offset + length).div_ceil(4096) as usize].fill(true);
    }
    blocks
}

fn of_holes(holes: &[Hole]) -> Vec<bool> {
    covered(holes.iter().map(|hole| (&hole.offset, &hole.length)))
}

fn of_ranges(ranges: &[DamagedRange], id: &str) -> Vec<bool> {
    covered(ranges.iter().filter(|range| range.backup == id).map(|range| (&range.offset, &range.length)))
}

/// What an open repository with one damaged object does. Whether something was lost.
async fn use_damaged(sound: &Sound, repository: &Repository, object: &str) -> bool {
    let (pool, contents) = (&sound.world.pool, &sound.contents);
    let job = Job::new();
    let there: Vec<String> = repository.backups().await.unwrap().into_iter().map(|b| b.id).collect();
    assert!(there.len() == 3 && there.iter().all(|id| contents.contains_key(id)));
    let holes = salvaged(repository, pool, contents).await;
    let is_whole = holes.values().all(Vec::is_empty);
    let verified = repository.verify(&VerifyOptions::default(), &job).await.unwrap();
    assert_eq!(verified.is_whole(), is_whole, "{verified:?}");
    for (id, holes) in &holes {
        assert_eq!(of_holes(holes), of_ranges(&verified.ranges, id), "{holes:?} {verified:?}");
    }
    if !is_whole {
        let pack = object.strip_prefix("packs/").unwrap_or(object);
        assert!(format!("{verified:?}").contains(pack), "{pack} is not named: {verified:?}");
    }
    let collected = repository.collect(&CollectOptions { max_unused_percent: 0, dry_run: false }, &job).await.map(drop);
    assert!(collected.as_ref().err().is_none_or(|error| error.kind() == ErrorKind::Corrupt), "{collected:?}");
    assert_eq!(
        salvaged(repository, pool, contents).await.into_values().map(|h| of_holes(&h)).collect::<Vec<_>>(),
        holes.values().map(|h| of_holes(h)).collect::<Vec<_>>(),
        "garbage collection changed what is left"
    );
    // The volumes hold what they held: what is backed up now is whole.
    for volume in ["a", "b"] {
        let made = back_up(repository, pool, volume).await.unwrap();
        let mut healed = BTreeMap::new();
        let _none = healed.insert(made.id.clone(), read(pool, volume).await);
        assert!(salvaged(repository, pool, &healed).await.values().all(Vec::is_empty), "{}", made.reason);
        let options = VerifyOptions { backups: vec![made.id.clone()], ..VerifyOptions::default() };
        let verified = repository.verify(&options, &job).await.unwrap();
        assert!(verified.is_whole(), "{verified:?}");
        // What it hangs on was healed with it.
        if let Some(parent) = made.parent {
            assert!(restored(repository, pool, &parent).await.is_ok(), "{}", made.reason);
        }
    }
    !is_whole
}

/// Every damage to every object of some directories. How many of them lost something.
async fn everything(sound: &Sound, directories: &[&str], cached: bool) -> u32 {
    let World { dir, location, .. } = &sound.world;
    let mut lost = 0;
    let mut objects = Vec::new();
    for directory in directories {
        objects.extend(names(&*sound.store, directory).await);
    }
    assert!(objects.len() >= directories.len());
    for object in objects {
        for how in damages(get(&*sound.store, &object).await.len()) {
            let store = Arc::new(sound.store.fork());
            damage(&store, &object, how).await;
            let cache = dir.path().join("other");
            if cached {
                copy_directory(&dir.path().join("cache"), &cache);
            }
            let location = Location { cache: Some(cache.clone()), ..location.clone() };
            let shown = Shown(format!("{object} {how:?}, with cache: {cached}, encrypted: {}", sound.secret.is_some()));
            match open(&store, &location).await {
                Ok(repository) => lost += u32::from(use_damaged(sound, &repository, &object).await),
                Err(error) => {
                    let kinds = [ErrorKind::Corrupt, ErrorKind::NotFound, ErrorKind::Key];
                    assert!(kinds.contains(&error.kind()) && !object.starts_with("packs"), "{error}");
                    let number = object.trim_start_matches("log/").trim_start_matches('0');
                    let named =
                        error.to_string().contains(&object) || error.to_string().contains(&format!("record {number} "));
                    assert!(named || error.kind() != ErrorKind::Corrupt, "{error}");
                    lost += 1;
                }
            }
            drop(shown);
            drop(std::fs::remove_dir_all(&cache));
        }
    }
    lost
}

/// Says where a panic was.
struct Shown(String);

impl Drop for Shown {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("with {}", self.0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn packs_without_encryption() {
    let sound = sound(None).await;
    assert!(everything(&sound, &["packs"], true).await > 20);
    assert!(everything(&sound, &["packs"], false).await > 20);
}

#[tokio::test(start_paused = true)]
async fn packs_with_encryption() {
    let sound = sound(Some(Secret::Key([7; 32]))).await;
    assert!(everything(&sound, &["packs"], true).await > 20);
    assert!(everything(&sound, &["packs"], false).await > 20);
}

#[tokio::test(start_paused = true)]
async fn all_but_packs() {
    for secret in [None, Some(Secret::Key([7; 32]))] {
        let sound = sound(secret).await;
        assert!(everything(&sound, &["repo.json", "log", "manifests"], false).await > 50);
        if sound.secret.is_some() {
            assert!(everything(&sound, &["keys"], false).await > 5);
        }
    }
}

#[tokio::test]
async fn a_wrong_key_no_key_and_a_newer_format_are_told() {
    let sound = sound(Some(Secret::Passphrase("correct horse".to_owned()))).await;
    let with = |secret| Location { secret, ..sound.world.cache("other") };
    for secret in [None, Some(Secret::Key([1; 32])), Some(Secret::Passphrase("wrong horse".to_owned()))] {
        assert_eq!(open(&sound.store, &with(secret)).await.unwrap_err().kind(), ErrorKind::Key);
    }
    let repository = open(&sound.store, &sound.world.location).await.unwrap();
    assert_eq!(repository.backups().await.unwrap().len(), 3);
    for object in ["repo.json", "log/00000000000000000003"] {
        let store = Arc::new(sound.store.fork());
        let bytes = get(&*store, object).await.to_vec();
        let at = bytes.iter().position(|byte| *byte == b' ').unwrap() + 1;
        let newer = [&bytes[..at], b"2", &bytes[at + 1..]].concat();
        put(&store, object, newer.into()).await;
        let error = open(&store, &sound.world.cache("another")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains(object) && error.to_string().contains("format 2"), "{error}");
    }
}
