//! Packs that do not hold what was put there: what is read back tells it, and nothing comes to rely on them.

use std::sync::{Arc, atomic::Ordering};

use cairn_backup::{CollectOptions, ErrorKind, Job, Repository, VerifyOptions};
use cairn_engine::{IoBuf, MIB, VolumeOptions};
use object_store::{ObjectStore, ObjectStoreExt, memory::InMemory, path::Path};

use crate::{
    faulty::{Fault, Faulty},
    reference::{get, names},
    world::{World, back_up, content, in_memory, noise, restored, write},
};

/// A volume of random bytes, and a repository through a store that fails as it is told to.
async fn volume(size: u64) -> (World, Arc<InMemory>, Arc<Faulty>, Repository) {
    let (world, store, repository) = in_memory(None).await;
    drop(repository);
    let faulty = Faulty::new(store.clone(), Fault::None);
    let through: Arc<dyn ObjectStore> = faulty.clone();
    let repository = Repository::open_with(through, &world.location).await.unwrap();
    let volume = world.pool.create_volume("v", size, VolumeOptions::default()).await.unwrap();
    for at in 0..size / MIB {
        volume.write(at * MIB, IoBuf::from(&noise(1 << 20, at)[..])).await.unwrap();
    }
    (world, store, faulty, repository)
}

#[tokio::test]
async fn a_collection_whose_new_pack_is_not_whole_deletes_nothing_that_is_needed() {
    // Of so many packs the first new one is read back while chunks of another old one are copied.
    let (world, _store, faulty, repository) = volume(160 * MIB).await;
    let first = back_up(&repository, &world.pool, "v").await.unwrap();
    for window in (0..640).step_by(5) {
        write(&world.pool, "v", window * 262_144, &noise(262_144, 1000 + window)).await;
    }
    let second = back_up(&repository, &world.pool, "v").await.unwrap();
    let _merged = repository.merge(&first.id).await.unwrap();
    faulty.set(Fault::Cut);
    let collected = repository.collect(&CollectOptions::default(), &Job::new()).await.unwrap();
    assert_eq!(faulty.faults.load(Ordering::SeqCst), 1, "no pack was written anew");
    let why = collected.rewriting_failed.clone().unwrap();
    assert!(why.contains("is not what was sent there"), "{why}");
    assert!(collected.rewritten_packs == 0 && collected.unreadable.is_empty(), "{collected:?}");
    let verified = repository.verify(&VerifyOptions::default(), &Job::new()).await.unwrap();
    assert!(verified.damaged.is_empty() && verified.ranges.is_empty(), "{verified:?}");
    let expected = content(&world.pool, "v").await;
    assert_eq!(restored(&repository, &world.pool, &second.id).await.unwrap(), expected);
    // The next one finds nothing in its way.
    let again = repository.collect(&CollectOptions::default(), &Job::new()).await.unwrap();
    assert!(again.rewriting_failed.is_none() && again.freed > 0, "{again:?}");
    assert_eq!(restored(&repository, &world.pool, &second.id).await.unwrap(), expected);
}

#[tokio::test]
async fn a_backup_does_not_rely_on_what_healing_failed_to_store() {
    let (world, store, faulty, repository) = volume(4 * MIB).await;
    let _first = back_up(&repository, &world.pool, "v").await.unwrap();
    let pack = names(&*store, "packs").await.remove(0);
    let mut bytes = get(&*store, &pack).await.to_vec();
    bytes[1000] ^= 1;
    let _done = store.put(&Path::from(pack), bytes.into()).await.unwrap();
    let verified = repository.verify(&VerifyOptions::default(), &Job::new()).await.unwrap();
    assert_eq!(verified.damaged.len(), 1);
    faulty.set(Fault::Cut);
    let error = back_up(&repository, &world.pool, "v").await.unwrap_err();
    assert_eq!((error.kind(), faulty.faults.load(Ordering::SeqCst)), (ErrorKind::Store, 1), "{error}");
    assert_eq!(repository.backups().await.unwrap().len(), 1);
    let made = back_up(&repository, &world.pool, "v").await.unwrap();
    assert!(made.parent.is_some(), "{}", made.reason);
    assert_eq!(restored(&repository, &world.pool, &made.id).await.unwrap(), content(&world.pool, "v").await);
}
