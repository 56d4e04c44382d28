//! One volume, full and incremental, there and back.

use cairn_backup::{CreateOptions, InitOptions, Job, Location, Mode, Repository, RestoreOptions, Secret};
use cairn_engine::{GIB, MIB, TIB, VolumeOptions};

use crate::world::{World, content, noise, restored, world, write};

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
        let fresh = Location { cache: Some(world.dir.path().join("other-cache")), ..location.clone() };
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

#[tokio::test]
async fn a_volume_that_grows_past_its_map_goes_on_incrementally() {
    let (world, repository) = world(None).await;
    let pool = &world.pool;
    let volume = pool.create_volume("db", 40 * MIB + 512, VolumeOptions::default()).await.unwrap();
    write(pool, "db", 0, &noise(1 << 20, 1)).await;
    write(pool, "db", 40 * MIB, &noise(512, 2)).await;
    let mut last = repository.create(pool, "db", &CreateOptions::default(), &Job::new()).await.unwrap();
    for (at, size) in [(63 * MIB, 65 * MIB), (15 * GIB, 17 * GIB + 1024), (5 * TIB, 6 * TIB)] {
        let _info = pool.resize("db", size).await.unwrap();
        write(pool, "db", at, &noise(8192, at)).await;
        let made = repository.create(pool, "db", &CreateOptions::default(), &Job::new()).await.unwrap();
        assert!(made.reason.contains("grew"), "{}", made.reason);
        assert_eq!((made.parent, made.statistics.read), (Some(last.id), 8192));
        last = repository.backup(&made.id).await.unwrap();
        assert_eq!(restored(&repository, pool, &last.id).await.unwrap(), content(pool, "db").await);
    }
    drop(volume);
}

#[tokio::test]
async fn two_repositories_of_one_volume_do_not_take_the_ground_from_each_other() {
    let (world, one) = world(None).await;
    let pool = &world.pool;
    drop(pool.create_volume("db", 8 * MIB, VolumeOptions::default()).await.unwrap());
    let url = format!("{}-other", world.location.url);
    let other = Repository::init(&Location { url, ..world.location.clone() }, &InitOptions::default()).await.unwrap();
    for round in 0..3 {
        write(pool, "db", 0, &noise(8192, round)).await;
        for repository in [&one, &other] {
            let made = repository.create(pool, "db", &CreateOptions::default(), &Job::new()).await.unwrap();
            assert_eq!(made.is_full(), round == 0, "{}", made.reason);
        }
    }
    assert_eq!(pool.snapshots(Some("db"), false).await.unwrap().len(), 2);
}
