//! A log that has lost its last records, and ways on from there.

use cairn_backup::{CollectOptions, ErrorKind, Job};
use cairn_engine::{MIB, VolumeOptions};
use object_store::{ObjectStoreExt, memory::InMemory, path::Path};

use crate::{
    reference::names,
    world::{World, back_up, content, in_memory, noise, open, restored, write},
};

const WHOLE: CollectOptions = CollectOptions { max_unused_percent: 0, dry_run: false };

/// Takes away the newest records; those of a backup are its session's begin, itself, and the session's end.
async fn cut(store: &InMemory, records: usize) {
    let mut all = names(store, "log").await;
    for record in all.split_off(all.len() - records) {
        store.delete(&Path::from(record)).await.unwrap();
    }
}

async fn volume(world: &World) {
    drop(world.pool.create_volume("v", 4 * MIB, VolumeOptions::default()).await.unwrap());
    write(&world.pool, "v", 0, &noise(MIB as usize, 1)).await;
}

#[tokio::test]
async fn a_machine_that_has_seen_more_of_the_log_says_so() {
    for records in 1..=6 {
        let (world, store, repository) = in_memory(None).await;
        volume(&world).await;
        let _first = back_up(&repository, &world.pool, "v").await.unwrap();
        let _second = back_up(&repository, &world.pool, "v").await.unwrap();
        drop(repository);
        cut(&store, records).await;
        let error = open(&store, &world.location).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        let cache = world.dir.path().join("cache").display().to_string();
        assert!(error.to_string().contains("record 6 ") && error.to_string().contains(&cache), "{error}");
        // Its remedy.
        std::fs::remove_dir_all(cache).unwrap();
        let repository = open(&store, &world.location).await.unwrap();
        assert_eq!(repository.backups().await.unwrap().len(), [2, 1, 1, 1, 0, 0][records - 1]);
    }
}

#[tokio::test]
async fn a_log_that_went_on_from_an_older_state_is_another_one() {
    let (world, store, repository) = in_memory(None).await;
    volume(&world).await;
    let _first = back_up(&repository, &world.pool, "v").await.unwrap();
    let older = std::sync::Arc::new(store.fork());
    let second = back_up(&repository, &world.pool, "v").await.unwrap();
    drop(repository);
    let elsewhere = open(&older, &world.cache("elsewhere")).await.unwrap();
    let other = back_up(&elsewhere, &world.pool, "v").await.unwrap();
    assert_eq!(second.number, other.number);
    assert_eq!(open(&older, &world.location).await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(open(&store, &world.location).await.unwrap().backups().await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_program_that_runs_writes_nothing_behind_a_gap() {
    let (world, store, repository) = in_memory(None).await;
    volume(&world).await;
    let first = back_up(&repository, &world.pool, "v").await.unwrap();
    let _second = back_up(&repository, &world.pool, "v").await.unwrap();
    let hash = content(&world.pool, "v").await;
    cut(&store, 3).await;
    let error = back_up(&repository, &world.pool, "v").await.unwrap_err();
    assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains("record 6 "), "{error}");
    assert_eq!(repository.collect(&WHOLE, &Job::new()).await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(names(&*store, "log").await.len(), 3);
    let other = open(&store, &world.cache("other")).await.unwrap();
    assert_eq!(other.backups().await.unwrap().len(), 1);
    assert_eq!(restored(&other, &world.pool, &first.id).await.unwrap(), hash);
}

#[tokio::test]
async fn a_backup_is_listed_again_when_the_session_that_made_it_is_ended() {
    let (world, store, repository) = in_memory(None).await;
    volume(&world).await;
    let made = back_up(&repository, &world.pool, "v").await.unwrap();
    let hash = content(&world.pool, "v").await;
    drop(repository);
    // The commit and the end are lost: the session has begun, and goes on for all that the log says.
    cut(&store, 2).await;
    let repository = open(&store, &world.cache("other")).await.unwrap();
    let (again, failed) = repository.import_all(&Job::new()).await.unwrap();
    assert_eq!((again.len(), failed.len()), (0, 1));
    let session = repository.open_sessions().await.unwrap().into_keys().next().unwrap();
    let error = failed[0].1.to_string();
    assert!(error.contains(&session) && error.contains("--end-session"), "{error}");
    repository.end_session(&session).await.unwrap();
    let (again, failed) = repository.import_all(&Job::new()).await.unwrap();
    assert_eq!((again.len(), failed.len()), (1, 0), "{failed:?}");
    let _collected = repository.collect(&WHOLE, &Job::new()).await.unwrap();
    assert_eq!(restored(&repository, &world.pool, &made.id).await.unwrap(), hash);
}
