//! Several programs at the same time on one repository.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use cairn_backup::{CollectOptions, ErrorKind, Job, Repository, VerifyOptions};
use cairn_engine::{MIB, Pool, VolumeOptions};

use crate::{
    reference::holds_exactly,
    world::{Random, back_up, content, in_memory, noise, open, restored, write},
};

const STEPS: u64 = 25;

type Acknowledged = Arc<Mutex<BTreeMap<String, blake3::Hash>>>;

/// Makes backups of a volume of its own, deletes and restores them.
async fn write_and_delete(repository: Repository, pool: Pool, volume: String, seed: u64, all: Acknowledged) {
    let mut random = Random::new(seed);
    let mut mine: Vec<(String, blake3::Hash)> = Vec::new();
    for _ in 0..STEPS {
        for _ in 0..3 {
            // The same content comes up in all volumes.
            let (at, what) = (random.below(11) * 262_144, random.below(6));
            write(&pool, &volume, at, &noise(262_144, what)).await;
        }
        let hash = content(&pool, &volume).await;
        match back_up(&repository, &pool, &volume).await {
            Ok(made) => mine.push((made.id, hash)),
            // Others took away what it counted on, again and again.
            Err(error) => assert_eq!(error.kind(), ErrorKind::InUse, "{error}"),
        }
        if mine.len() > 3 || random.one_in(3) {
            let i = random.below(mine.len().max(1) as u64) as usize;
            if let Some((id, _)) = mine.get(i).cloned() {
                let _merged = repository.merge(&id).await.unwrap();
                drop(mine.remove(i));
            }
        }
        if let Some((id, hash)) = random.pick(&mine) {
            let name = format!("{volume}-again");
            let options = cairn_backup::RestoreOptions::default();
            let _restored = repository.restore(id, &pool, &name, &options, &Job::new()).await.unwrap();
            assert_eq!(content(&pool, &name).await, *hash);
            let _gone = pool.delete_volume(&name, false).await.unwrap();
        }
    }
    assert!(!mine.is_empty());
    all.lock().unwrap().extend(mine);
}

/// Collects garbage and verifies, until the others are done.
async fn tidy(repository: Repository, seed: u64, over: Arc<AtomicBool>) -> u64 {
    let mut random = Random::new(seed);
    let mut deleted = 0;
    while !over.load(Ordering::Relaxed) {
        let options = CollectOptions { max_unused_percent: random.below(2) as u32 * 30, dry_run: false };
        match repository.collect(&options, &Job::new()).await {
            Ok(collected) => {
                assert_eq!((&collected.rewriting_failed, collected.unreadable), (&None, Vec::new()));
                deleted += collected.deleted_objects;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::InUse, "{error}"),
        }
        if random.one_in(3) {
            let verified = repository.verify(&VerifyOptions::default(), &Job::new()).await.unwrap();
            assert!(verified.is_whole() && verified.damaged.is_empty(), "{verified:?}");
        }
    }
    deleted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_programs_write_delete_restore_and_collect() {
    for seed in 0..3 {
        let (world, store, first) = in_memory(None).await;
        let second = open(&store, &world.cache("second")).await.unwrap();
        let all = Acknowledged::default();
        let over = Arc::new(AtomicBool::new(false));
        let mut writers = tokio::task::JoinSet::new();
        let mut collectors = tokio::task::JoinSet::new();
        for (i, repository) in [&first, &first, &second, &second].into_iter().enumerate() {
            let name = format!("v{i}");
            drop(world.pool.create_volume(&name, 3 * MIB, VolumeOptions::default()).await.unwrap());
            let seed = seed * 10 + i as u64;
            let writer = write_and_delete(repository.clone(), world.pool.clone(), name, seed, all.clone());
            let _handle = writers.spawn(writer);
            if i % 2 == 0 {
                let _handle = collectors.spawn(tidy(repository.clone(), seed, over.clone()));
            }
        }
        while let Some(done) = writers.join_next().await {
            done.unwrap();
        }
        over.store(true, Ordering::Relaxed);
        let mut deleted = 0;
        while let Some(done) = collectors.join_next().await {
            deleted += done.unwrap();
        }
        assert!(deleted > 0);
        let all = all.lock().unwrap().clone();
        for repository in [&first, &second, &open(&store, &world.cache("third")).await.unwrap()] {
            let there: Vec<String> = repository.backups().await.unwrap().into_iter().map(|b| b.id).collect();
            assert_eq!(there.len(), all.len());
            for (id, hash) in &all {
                assert_eq!(restored(repository, &world.pool, id).await.unwrap(), *hash);
            }
        }
        let options = CollectOptions { max_unused_percent: 0, dry_run: false };
        let _collected = first.collect(&options, &Job::new()).await.unwrap();
        holds_exactly(&*store, &second.backups().await.unwrap()).await;
        assert!(second.open_sessions().await.unwrap().is_empty());
        world.pool.close().await.unwrap();
    }
}
