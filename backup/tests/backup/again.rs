//! Backups that do not come to their end, and are run again.

use std::sync::{Arc, atomic::Ordering};

use cairn_backup::{CollectOptions, CreateOptions, ErrorKind, Job, Repository};
use cairn_engine::{MIB, VolumeOptions};
use object_store::{ObjectStore, memory::InMemory};

use crate::{
    faulty::{Fault, Faulty},
    reference::{holds_exactly, names},
    world::{World, back_up, content, in_memory, noise, open, restored},
};

/// Of a volume of which a pack and a half is to be stored.
const SIZE: u64 = 80 * MIB;

async fn big() -> (World, Arc<InMemory>) {
    let (world, store, repository) = in_memory(None).await;
    drop(repository);
    let volume = world.pool.create_volume("big", SIZE, VolumeOptions::default()).await.unwrap();
    for at in 0..SIZE / MIB {
        volume.write(at * MIB, cairn_engine::IoBuf::from(&noise(1 << 20, at)[..])).await.unwrap();
    }
    (world, store)
}

/// Runs a backup until its first pack is there, then `end`s it in some way.
pub(crate) async fn interrupted<E>(repository: &Repository, world: &World, store: &InMemory, job: &Job, end: E)
where
    E: FnOnce(&Job) -> bool,
{
    let (repository, options) = (repository.clone(), CreateOptions::default());
    let mut made = Box::pin(repository.create(&world.pool, "big", &options, job));
    let mut end = Some(end);
    loop {
        tokio::select! {
            made = &mut made => {
                assert_eq!(made.unwrap_err().kind(), ErrorKind::Cancelled);
                return;
            }
            () = tokio::task::yield_now() => {
                if end.is_some() && !names(store, "packs").await.is_empty() && end.take().unwrap()(job) {
                    return;
                }
            }
        }
    }
}

async fn goes_on(repository: &Repository, world: &World, store: &InMemory) {
    let before: u64 = 32 << 20;
    let made = back_up(repository, &world.pool, "big").await.unwrap();
    assert!(made.statistics.new <= SIZE - before, "{:?}", made.statistics);
    assert_eq!(restored(repository, &world.pool, &made.id).await.unwrap(), content(&world.pool, "big").await);
    assert!(repository.open_sessions().await.unwrap().is_empty());
    let whole = CollectOptions { max_unused_percent: 0, dry_run: false };
    let _collected = repository.collect(&whole, &Job::new()).await.unwrap();
    holds_exactly(store, &[made]).await;
}

#[tokio::test]
async fn what_a_cancelled_backup_stored_is_not_stored_again() {
    let (world, store) = big().await;
    let repository = open(&store, &world.location).await.unwrap();
    let cancel = |job: &Job| {
        job.cancel();
        false
    };
    interrupted(&repository, &world, &store, &Job::new(), cancel).await;
    assert_eq!(repository.backups().await.unwrap(), []);
    assert!(repository.open_sessions().await.unwrap().is_empty());
    assert_eq!(world.pool.snapshots(Some("big"), false).await.unwrap().len(), 0);
    goes_on(&repository, &world, &store).await;
}

#[tokio::test]
async fn a_backup_that_was_dropped_is_taken_over_by_the_next_of_its_program() {
    let (world, store) = big().await;
    let repository = open(&store, &world.location).await.unwrap();
    interrupted(&repository, &world, &store, &Job::new(), |_| true).await;
    assert_eq!(repository.open_sessions().await.unwrap().len(), 1);
    goes_on(&repository, &world, &store).await;
}

#[tokio::test]
async fn a_backup_whose_program_died_is_taken_over_by_the_next_program() {
    let (world, store) = big().await;
    let repository = open(&store, &world.location).await.unwrap();
    interrupted(&repository, &world, &store, &Job::new(), |_| true).await;
    drop(repository);
    let repository = open(&store, &world.location).await.unwrap();
    goes_on(&repository, &world, &store).await;
}

#[tokio::test]
async fn what_was_stored_before_a_record_could_not_be_written_is_not_stored_again() {
    let (world, store) = big().await;
    let faulty = Faulty::new(store.clone(), Fault::None);
    let through: Arc<dyn ObjectStore> = faulty.clone();
    let repository = Repository::open_with(through, &world.location).await.unwrap();
    // The commit is the change after the session's begin and its packs.
    let packs = 3;
    faulty.set(Fault::Once { at: faulty.counts[1].load(Ordering::SeqCst) + 2 + packs });
    assert_eq!(back_up(&repository, &world.pool, "big").await.unwrap_err().kind(), ErrorKind::Store);
    assert_eq!(names(&*store, "packs").await.len() as u64, packs);
    let made = back_up(&repository, &world.pool, "big").await.unwrap();
    assert_eq!((made.statistics.new, made.statistics.stored), (0, 0));
    assert_eq!(restored(&repository, &world.pool, &made.id).await.unwrap(), content(&world.pool, "big").await);
}
