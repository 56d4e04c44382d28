//! What is held in memory at once does not grow with what compression saved.

use std::sync::{Arc, atomic::Ordering};

use cairn_backup::Repository;
use cairn_engine::{IoBuf, MIB, VolumeOptions};
use object_store::ObjectStore;

use crate::{
    faulty::{Fault, Faulty},
    world::{back_up, content, in_memory, restored},
};

#[tokio::test]
async fn a_restore_brings_chunks_that_compress_well_in_several_requests() {
    let (world, store, repository) = in_memory(None).await;
    drop(repository);
    let size = 192 * MIB;
    let volume = world.pool.create_volume("v", size, VolumeOptions::default()).await.unwrap();
    for at in (0..size).step_by(262_144) {
        volume.write(at, IoBuf::from(&at.to_le_bytes().repeat(32_768)[..])).await.unwrap();
    }
    let faulty = Faulty::new(store, Fault::None);
    let through: Arc<dyn ObjectStore> = faulty.clone();
    let repository = Repository::open_with(through, &world.location).await.unwrap();
    let made = back_up(&repository, &world.pool, "v").await.unwrap();
    assert!(made.statistics.stored < MIB, "{:?}", made.statistics);
    let before = faulty.counts[0].load(Ordering::SeqCst);
    assert_eq!(restored(&repository, &world.pool, &made.id).await.unwrap(), content(&world.pool, "v").await);
    let requests = faulty.counts[0].load(Ordering::SeqCst) - before;
    assert!(requests >= size / (16 * MIB), "{requests} requests brought all of it");
}
