//! Chunks that several packs hold.

use cairn_backup::{CollectOptions, Job, Repository, VerifyOptions};
use cairn_engine::{IoBuf, MIB, VolumeOptions};
use object_store::{ObjectStoreExt, memory::InMemory, path::Path};

use crate::{
    again::interrupted,
    reference::{get, holds_exactly, names},
    world::{back_up, content, in_memory, noise, open, restored},
};

const WHOLE: CollectOptions = CollectOptions { max_unused_percent: 0, dry_run: false };

/// Changes a byte of the first chunk of a pack, of data.
async fn rot(store: &InMemory, pack: &str) {
    let mut bytes = get(store, pack).await.to_vec();
    bytes[1000] ^= 1;
    let _done = store.put(&Path::from(pack), bytes.into()).await.unwrap();
}

/// A backup whose data is in the store twice: once as its own, once as what a session left that died while it stored the same.
async fn twice() -> (crate::world::World, std::sync::Arc<InMemory>, Repository, String) {
    let (world, store, repository) = in_memory(None).await;
    drop(repository);
    let volume = world.pool.create_volume("big", 40 * MIB, VolumeOptions::default()).await.unwrap();
    for at in 0..40 {
        volume.write(at * MIB, IoBuf::from(&noise(1 << 20, at)[..])).await.unwrap();
    }
    let one = open(&store, &world.location).await.unwrap();
    interrupted(&one, &world, &store, &Job::new(), |_| true).await;
    let other = open(&store, &world.cache("other")).await.unwrap();
    let made = back_up(&other, &world.pool, "big").await.unwrap();
    // Takes the dead session over.
    drop(world.pool.create_volume("small", MIB, VolumeOptions::default()).await.unwrap());
    let _small = back_up(&one, &world.pool, "small").await.unwrap();
    (world, store, one, made.id)
}

#[tokio::test]
async fn a_collection_does_not_delete_the_copy_that_is_whole() {
    let (world, store, repository, id) = twice().await;
    // The copy that is kept by its name, whichever that is.
    let first = names(&*store, "packs").await.remove(0);
    rot(&store, &first).await;
    let expected = content(&world.pool, "big").await;
    assert_eq!(restored(&repository, &world.pool, &id).await.unwrap(), expected, "the other copy is read");
    let _collected = repository.collect(&WHOLE, &Job::new()).await.unwrap();
    assert_eq!(restored(&repository, &world.pool, &id).await.unwrap(), expected);
    let verified = repository.verify(&VerifyOptions::default(), &Job::new()).await.unwrap();
    assert!(verified.is_whole(), "{verified:?}");
    let _collected = repository.collect(&WHOLE, &Job::new()).await.unwrap();
    assert_eq!(restored(&repository, &world.pool, &id).await.unwrap(), expected);
}

#[tokio::test]
async fn a_collection_leaves_one_copy() {
    let (world, store, repository, id) = twice().await;
    let before = names(&*store, "packs").await.len();
    let _collected = repository.collect(&WHOLE, &Job::new()).await.unwrap();
    assert!(names(&*store, "packs").await.len() < before);
    holds_exactly(&*store, &repository.backups().await.unwrap()).await;
    assert_eq!(restored(&repository, &world.pool, &id).await.unwrap(), content(&world.pool, "big").await);
}
