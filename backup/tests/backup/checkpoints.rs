//! Checkpoints of the log: a cache, which may be missing, damaged or another repository's.

use std::sync::Arc;

use cairn_backup::{Backup, ErrorKind};
use cairn_engine::{MIB, VolumeOptions};
use object_store::{ObjectStoreExt, PutPayload, memory::InMemory, path::Path};

use crate::{
    reference::{get, names},
    world::{World, back_up, in_memory, noise, open, write},
};

/// A repository with a log of more than one checkpoint.
async fn long(seed: u64) -> (World, Arc<InMemory>, Vec<Backup>) {
    let (world, store, repository) = in_memory(None).await;
    drop(world.pool.create_volume("v", MIB, VolumeOptions::default()).await.unwrap());
    for i in 0..45 {
        write(&world.pool, "v", 0, &noise(4096, seed + i)).await;
        let _made = back_up(&repository, &world.pool, "v").await.unwrap();
    }
    let backups = repository.backups().await.unwrap();
    (world, store, backups)
}

#[tokio::test]
async fn a_checkpoint_that_does_not_fit_the_log_is_left_aside() {
    let ((world, store, backups), (_other_world, other, _)) = (long(0).await, long(1000).await);
    let checkpoints = names(&*store, "log-checkpoints").await;
    assert_eq!((checkpoints.len(), &checkpoints), (2, &names(&*other, "log-checkpoints").await));
    let mut caches = 0;
    for checkpoint in &checkpoints {
        let bytes = get(&*store, checkpoint).await.to_vec();
        let mut flipped = bytes.clone();
        flipped[bytes.len() / 2] ^= 1;
        let foreign = get(&*other, checkpoint).await.to_vec();
        let another = get(&*store, &checkpoints[usize::from(*checkpoint == checkpoints[0])]).await.to_vec();
        for wrong in [Some(flipped), Some(bytes[..100].to_vec()), Some(Vec::new()), Some(foreign), Some(another), None]
        {
            let store = Arc::new(store.fork());
            let path = Path::from(checkpoint.as_str());
            match wrong {
                Some(wrong) => drop(store.put(&path, PutPayload::from(wrong)).await.unwrap()),
                None => store.delete(&path).await.unwrap(),
            }
            caches += 1;
            let repository = open(&store, &world.cache(&format!("cache-{caches}"))).await.unwrap();
            assert_eq!(repository.backups().await.unwrap(), backups);
            let _made = back_up(&repository, &world.pool, "v").await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_log_that_is_shorter_than_its_checkpoint_is_told() {
    let (world, store, _) = long(0).await;
    let newest = names(&*store, "log-checkpoints").await.pop().unwrap().replace("log-checkpoints", "log");
    for record in names(&*store, "log").await.into_iter().filter(|name| *name >= newest) {
        store.delete(&Path::from(record)).await.unwrap();
    }
    let error = open(&store, &world.cache("other")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("record 128 ") && error.to_string().contains("log-checkpoints/0"), "{error}");
    // What is left after its remedy is what the records say.
    store.delete(&Path::from(newest.replace("log", "log-checkpoints"))).await.unwrap();
    let repository = open(&store, &world.cache("other")).await.unwrap();
    assert_eq!(repository.backups().await.unwrap().len(), 42);
}

#[tokio::test]
async fn old_checkpoints_go() {
    let (world, store, _) = long(0).await;
    let repository = open(&store, &world.location).await.unwrap();
    for i in 0..45 {
        write(&world.pool, "v", 0, &noise(4096, 100 + i)).await;
        let _made = back_up(&repository, &world.pool, "v").await.unwrap();
    }
    let numbers = |names: Vec<String>| names.iter().map(|n| n[16..].parse::<u64>().unwrap()).collect::<Vec<_>>();
    assert_eq!(numbers(names(&*store, "log-checkpoints").await), [192, 256]);
    assert_eq!(open(&store, &world.cache("other")).await.unwrap().backups().await.unwrap().len(), 90);
}
