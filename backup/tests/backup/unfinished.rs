//! What is left of jobs that nobody waits for any more.

use std::sync::Arc;

use cairn_backup::{ErrorKind, Job, Repository, RestoreOptions};
use cairn_engine::{IoBuf, MIB, OpenOptions, Pool, VolumeOptions};
use object_store::{ObjectStore, memory::InMemory};

use crate::{
    again::interrupted,
    faulty::{Fault, Faulty},
    world::{World, back_up, content, in_memory, noise, restored},
};

const SIZE: u64 = 80 * MIB;

async fn big() -> (World, Arc<InMemory>, Repository, String) {
    let (world, store, repository) = in_memory(None).await;
    let volume = world.pool.create_volume("big", SIZE, VolumeOptions::default()).await.unwrap();
    for at in 0..SIZE / MIB {
        volume.write(at * MIB, IoBuf::from(&noise(1 << 20, at)[..])).await.unwrap();
    }
    let made = back_up(&repository, &world.pool, "big").await.unwrap();
    (world, store, repository, made.id)
}

/// Restores until something was read, and then not any more.
async fn dropped(repository: &Repository, pool: &Pool, id: &str) {
    let job = Job::new();
    let options = RestoreOptions::default();
    let mut restore = Box::pin(repository.restore(id, pool, "half", &options, &job));
    loop {
        tokio::select! {
            done = &mut restore => panic!("too fast: {done:?}"),
            () = tokio::task::yield_now() => if job.progress().done > 0 { return },
        }
    }
}

/// Waits for what goes in the background, as long as it takes to ask for it very often.
async fn until_gone(pool: &Pool) {
    for _ in 0..1_000_000 {
        if pool.volume_info("half").await.is_err() && pool.snapshots(Some("big"), false).await.unwrap().is_empty() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("something was left behind");
}

#[tokio::test]
async fn a_restore_that_was_dropped_leaves_no_volume_behind() {
    let (world, _store, repository, id) = big().await;
    let own = world.pool.snapshots(Some("big"), false).await.unwrap().remove(0);
    world.pool.delete_snapshot(&format!("big@{}", own.name).parse().unwrap()).await.unwrap();
    dropped(&repository, &world.pool, &id).await;
    until_gone(&world.pool).await;
    assert_eq!(restored(&repository, &world.pool, &id).await.unwrap(), content(&world.pool, "big").await);
}

#[tokio::test]
async fn a_backup_that_was_dropped_leaves_no_snapshot_behind() {
    let (world, store, repository) = in_memory(None).await;
    let volume = world.pool.create_volume("big", SIZE, VolumeOptions::default()).await.unwrap();
    for at in 0..SIZE / MIB {
        volume.write(at * MIB, IoBuf::from(&noise(1 << 20, at)[..])).await.unwrap();
    }
    interrupted(&repository, &world, &store, &Job::new(), |_| true).await;
    until_gone(&world.pool).await;
}

#[tokio::test]
async fn nobody_can_use_a_volume_that_is_half_restored() {
    let (mut world, _store, repository, id) = big().await;
    let runtime = std::thread::spawn({
        let (pool, repository, id) = (world.pool.clone(), repository.clone(), id.clone());
        move || {
            // Its runtime ends with it, as a program does: nobody tidies up.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(dropped(&repository, &pool, &id));
        }
    });
    runtime.join().unwrap();
    world.pool.close().await.unwrap();
    world.pool = Pool::open(world.dir.path().join("pool.cairn"), OpenOptions::default()).await.unwrap();
    let pool = &world.pool;
    let error = pool.volume("half").await.err().unwrap();
    assert_eq!(error.kind(), cairn_engine::ErrorKind::Busy, "{error}");
    assert_eq!(back_up(&repository, pool, "half").await.unwrap_err().kind(), ErrorKind::InUse);
    // The same backup may go on to fill it.
    let filling = repository.resume_filling(&id, pool, "half", &Job::new()).await.unwrap();
    filling.run().await.unwrap();
    assert_eq!(content(pool, "half").await, content(pool, "big").await);
}

#[tokio::test]
async fn a_restore_that_fails_says_where_the_volume_is_whole() {
    let (world, store, repository, id) = big().await;
    drop(repository);
    let faulty = Faulty::new(store, Fault::None);
    let through: Arc<dyn ObjectStore> = faulty.clone();
    let repository = Repository::open_with(through, &world.location).await.unwrap();
    let other = world.pool.create_volume("other", SIZE, VolumeOptions::default()).await.unwrap();
    other.write(0, IoBuf::from(&noise(1 << 20, 99)[..])).await.unwrap();
    drop(other);
    let before = content(&world.pool, "other").await;
    faulty.set(Fault::Crash { at: 0, lost: false });
    let options = RestoreOptions { in_place: true, ..RestoreOptions::default() };
    let error = repository.restore(&id, &world.pool, "other", &options, &Job::new()).await.unwrap_err();
    assert!(!error.to_string().contains("before-restore"), "nothing was begun: {error}");
    faulty.set(Fault::None);
    let job = Job::new();
    job.cancel();
    let error = repository.restore(&id, &world.pool, "other", &options, &job).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    let undo = world.pool.snapshots(Some("other"), false).await.unwrap().remove(0).name;
    assert!(error.to_string().contains(&format!("other@{undo}")), "{error}");
    let _info = world.pool.revert("other", &undo, false).await.unwrap();
    assert_eq!(content(&world.pool, "other").await, before);
}
