//! What incremental backups and restores in place go on from: never the wrong thing, whatever became of the pool.

use std::path::PathBuf;

use cairn_backup::{Backup, CreateOptions, Job, Repository, RestoreOptions};
use cairn_engine::{MIB, OpenOptions, Pool, Target, VolumeOptions};

use crate::{
    reference::names,
    world::{World, back_up, content, in_memory, noise, restored, world, write},
};

fn at(volume: &str, snapshot: &str) -> Target {
    Target { volume: volume.to_owned(), snapshot: Some(snapshot.to_owned()) }
}

async fn in_place(repository: &Repository, pool: &Pool, id: &str, volume: &str) {
    let options = RestoreOptions { in_place: true, ..RestoreOptions::default() };
    let _restored = repository.restore(id, pool, volume, &options, &Job::new()).await.unwrap();
}

/// A pool with one backup that was put back to how it was before a second one.
async fn put_back() -> (World, Repository, Backup, (Backup, blake3::Hash)) {
    let (mut world, repository) = world(None).await;
    let (path, copy): (PathBuf, PathBuf) = (world.dir.path().join("pool.cairn"), world.dir.path().join("copy"));
    drop(world.pool.create_volume("v", 64 * MIB, VolumeOptions::default()).await.unwrap());
    write(&world.pool, "v", 0, &noise(8192, 1)).await;
    let first = back_up(&repository, &world.pool, "v").await.unwrap();
    world.pool.close().await.unwrap();
    let _bytes = std::fs::copy(&path, &copy).unwrap();
    world.pool = Pool::open(&path, OpenOptions::default()).await.unwrap();
    write(&world.pool, "v", 50 * MIB, &noise(8192, 2)).await;
    let second = back_up(&repository, &world.pool, "v").await.unwrap();
    let hash = content(&world.pool, "v").await;
    world.pool.close().await.unwrap();
    std::fs::rename(&copy, &path).unwrap();
    world.pool = Pool::open(&path, OpenOptions::default()).await.unwrap();
    (world, repository, first, (second, hash))
}

#[tokio::test]
async fn a_pool_that_was_put_back_gives_numbers_of_versions_anew() {
    let (world, repository, first, (second, _)) = put_back().await;
    write(&world.pool, "v", 20 * MIB, &noise(8192, 3)).await;
    let third = back_up(&repository, &world.pool, "v").await.unwrap();
    assert_eq!(third.origin.version, second.origin.version, "else this shows nothing");
    assert_eq!(restored(&repository, &world.pool, &third.id).await.unwrap(), content(&world.pool, "v").await);
    assert_eq!(third.parent, Some(first.id), "{}", third.reason);
}

#[tokio::test]
async fn a_restore_in_place_is_not_fooled_by_a_pool_that_was_put_back() {
    let (world, repository, _, (second, hash)) = put_back().await;
    let taken = world.pool.snapshot(&[at("v", "of-a-user")]).await.unwrap();
    assert_eq!(taken[0].version.0, second.origin.version, "else this shows nothing");
    in_place(&repository, &world.pool, &second.id, "v").await;
    assert_eq!(content(&world.pool, "v").await, hash);
}

#[tokio::test]
async fn a_restore_in_place_brings_what_a_smaller_volume_had_lost() {
    let (world, repository) = world(None).await;
    let pool = &world.pool;
    drop(pool.create_volume("v", 4 * MIB + 512, VolumeOptions::default()).await.unwrap());
    write(pool, "v", 4 * MIB, &noise(512, 1)).await;
    let _small = pool.snapshot(&[at("v", "small")]).await.unwrap();
    let _info = pool.resize("v", 9 * MIB + 1024).await.unwrap();
    write(pool, "v", 4 * MIB + 512, &noise(9000 / 512 * 512, 2)).await;
    write(pool, "v", 7 * MIB, &noise(8192, 3)).await;
    write(pool, "v", 9 * MIB, &noise(1024, 4)).await;
    let made = back_up(&repository, pool, "v").await.unwrap();
    let expected = content(pool, "v").await;
    for grown in [None, Some(6 * MIB), Some(9 * MIB + 1024), Some(12 * MIB)] {
        let _info = pool.revert("v", "small", false).await.unwrap();
        if let Some(size) = grown {
            let _info = pool.resize("v", size).await.unwrap();
        }
        in_place(&repository, pool, &made.id, "v").await;
        assert_eq!(content(pool, "v").await, expected, "{grown:?}");
    }
}

#[tokio::test]
async fn a_volume_that_went_back_and_grew_again_is_backed_up_as_it_is() {
    let (world, repository) = world(None).await;
    let pool = &world.pool;
    drop(pool.create_volume("v", 4 * MIB + 512, VolumeOptions::default()).await.unwrap());
    write(pool, "v", MIB, &noise(8192, 1)).await;
    let _small = pool.snapshot(&[at("v", "small")]).await.unwrap();
    let _info = pool.resize("v", 90 * MIB).await.unwrap();
    write(pool, "v", 4 * MIB, &noise(8192, 2)).await;
    write(pool, "v", 80 * MIB, &noise(8192, 3)).await;
    let _large = back_up(&repository, pool, "v").await.unwrap();
    for (size, expected) in [(None, "bytes in backup"), (Some(90 * MIB), "goes on"), (Some(95 * MIB), "grew")] {
        let _info = pool.revert("v", "small", false).await.unwrap();
        if let Some(size) = size {
            let _info = pool.resize("v", size).await.unwrap();
        }
        write(pool, "v", 2 * MIB, &noise(4096, 4)).await;
        let made = back_up(&repository, pool, "v").await.unwrap();
        assert!(made.reason.contains(expected), "{}", made.reason);
        assert_eq!(restored(&repository, pool, &made.id).await.unwrap(), content(pool, "v").await, "{size:?}");
    }
}

#[tokio::test]
async fn an_incremental_goes_on_from_an_older_backup_if_the_newest_has_no_snapshot_any_more() {
    let (world, repository) = world(None).await;
    let pool = &world.pool;
    drop(pool.create_volume("v", 8 * MIB, VolumeOptions::default()).await.unwrap());
    write(pool, "v", 0, &noise(MIB as usize, 1)).await;
    let first = back_up(&repository, pool, "v").await.unwrap();
    write(pool, "v", 2 * MIB, &noise(4096, 2)).await;
    let _taken = pool.snapshot(&[at("v", "mine")]).await.unwrap();
    let options = CreateOptions { snapshot: Some("mine".to_owned()), ..CreateOptions::default() };
    let second = repository.create(pool, "v", &options, &Job::new()).await.unwrap();
    assert_eq!(second.parent, Some(first.id.clone()));
    pool.delete_snapshot(&at("v", "mine")).await.unwrap();
    // Another one of that name is not the one that was backed up.
    write(pool, "v", 3 * MIB, &noise(4096, 3)).await;
    let _taken = pool.snapshot(&[at("v", "mine")]).await.unwrap();
    write(pool, "v", 4 * MIB, &noise(4096, 4)).await;
    let third = back_up(&repository, pool, "v").await.unwrap();
    assert_eq!((third.parent, third.statistics.read), (Some(first.id), 3 * 4096), "{}", third.reason);
    assert_eq!(restored(&repository, pool, &third.id).await.unwrap(), content(pool, "v").await);
    let named = CreateOptions { parent: Some(second.id), ..CreateOptions::default() };
    let full = repository.create(pool, "v", &named, &Job::new()).await.unwrap();
    assert!(full.is_full() && full.reason.contains("v@mine") && full.reason.contains("gone"), "{}", full.reason);
}

#[tokio::test]
async fn a_volume_of_a_name_that_another_one_had_is_another_one() {
    let (world, repository) = world(None).await;
    let pool = &world.pool;
    for round in 0..2 {
        drop(pool.create_volume("v", 8 * MIB, VolumeOptions::default()).await.unwrap());
        write(pool, "v", round * MIB, &noise(8192, round)).await;
        let made = back_up(&repository, pool, "v").await.unwrap();
        assert!(made.is_full() && made.reason.contains("first"), "{}", made.reason);
        assert_eq!(restored(&repository, pool, &made.id).await.unwrap(), content(pool, "v").await);
        let _info = pool.rename("v", "w").await.unwrap();
        write(pool, "w", 4 * MIB, &noise(8192, round)).await;
        let next = back_up(&repository, pool, "w").await.unwrap();
        assert_eq!(next.parent, Some(made.id));
        assert_eq!(restored(&repository, pool, &next.id).await.unwrap(), content(pool, "w").await);
        let _gone = pool.delete_volume("w", true).await.unwrap();
    }
}

#[tokio::test]
async fn a_backup_that_is_overtaken_keeps_its_ground() {
    let (world, store, repository) = in_memory(None).await;
    let pool = &world.pool;
    drop(pool.create_volume("big", 80 * MIB, VolumeOptions::default()).await.unwrap());
    write(pool, "big", 0, &noise(4096, 1)).await;
    let first = back_up(&repository, pool, "big").await.unwrap();
    for at in 1..50 {
        write(pool, "big", at * MIB, &noise(MIB as usize, at)).await;
    }
    let before = content(pool, "big").await;
    let (options, job, packs) = (CreateOptions::default(), Job::new(), names(&*store, "packs").await.len());
    let mut slow = Box::pin(repository.create(pool, "big", &options, &job));
    while names(&*store, "packs").await.len() == packs {
        tokio::select! {
            made = &mut slow => panic!("too fast: {made:?}"),
            () = tokio::task::yield_now() => {}
        }
    }
    write(pool, "big", 70 * MIB, &noise(4096, 2)).await;
    let fast = back_up(&repository, pool, "big").await.unwrap();
    let slow = slow.await.unwrap();
    assert_eq!((&slow.parent, &fast.parent), (&Some(first.id.clone()), &Some(first.id)));
    assert_eq!(restored(&repository, pool, &slow.id).await.unwrap(), before);
    let now = content(pool, "big").await;
    assert_eq!(restored(&repository, pool, &fast.id).await.unwrap(), now);
    let last = back_up(&repository, pool, "big").await.unwrap();
    assert_eq!(restored(&repository, pool, &last.id).await.unwrap(), now);
    assert_eq!(pool.snapshots(Some("big"), false).await.unwrap().len(), 1);
}
