//! A program that ends at any of its accesses to the store, and stores that answer errors now and then.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use cairn_backup::{CollectOptions, InitOptions, Job, Location, Repository, VerifyOptions};
use cairn_engine::{MIB, Pool, VolumeOptions};
use object_store::{ObjectStore, memory::InMemory};

use crate::{
    faulty::{Fault, Faulty},
    reference::holds_exactly,
    world::{World, back_up, content, in_memory, noise, open, restored, write},
};

const WHOLE: CollectOptions = CollectOptions { max_unused_percent: 0, dry_run: false };

/// What a program was told of its backups.
#[derive(Default)]
struct Told {
    /// Those that are there, or, if it was not told so, may be there.
    acknowledged: BTreeMap<String, blake3::Hash>,
    /// Contents that may be in a backup of which nothing was heard.
    tried: Vec<blake3::Hash>,
    /// Backups of which it is not known whether they are gone.
    going: Vec<String>,
}

impl Told {
    async fn create(&mut self, repository: &Repository, pool: &Pool, volume: &str) -> cairn_backup::Result<String> {
        let hash = content(pool, volume).await;
        self.tried.push(hash);
        let made = back_up(repository, pool, volume).await?;
        let _none = self.acknowledged.insert(made.id.clone(), hash);
        Ok(made.id)
    }

    async fn remove(&mut self, repository: &Repository, id: &str, merge: bool) -> cairn_backup::Result<()> {
        self.going.push(id.to_owned());
        match merge {
            true => drop(repository.merge(id).await?),
            false => drop(repository.delete(&[id.to_owned()], false, false, &Job::new()).await?),
        }
        let _was = self.acknowledged.remove(id);
        let _last = self.going.pop();
        Ok(())
    }

    async fn check(&self, repository: &Repository, pool: &Pool) {
        let there: Vec<String> = repository.backups().await.unwrap().into_iter().map(|b| b.id).collect();
        for id in self.acknowledged.keys().filter(|id| !self.going.contains(id)) {
            assert!(there.contains(id), "{id} was acknowledged and is gone");
        }
        for id in &there {
            let hash = restored(repository, pool, id).await.unwrap();
            match self.acknowledged.get(id) {
                Some(expected) => assert_eq!(hash, *expected),
                None => assert!(self.tried.contains(&hash), "{id} holds what no volume held"),
            }
        }
    }
}

async fn volumes(pool: &Pool) {
    for name in ["a", "b"] {
        drop(pool.create_volume(name, 3 * MIB, VolumeOptions::default()).await.unwrap());
        write(pool, name, 0, &noise(1 << 20, 1)).await;
        write(pool, name, 2 << 20, &noise(300 << 10, 2)).await;
    }
}

/// Everything that writes to a repository.
async fn scenario(repository: &Repository, pool: &Pool, told: &mut Told) -> cairn_backup::Result<()> {
    let full = told.create(repository, pool, "a").await?;
    write(pool, "a", 1 << 20, &noise(600 << 10, 3)).await;
    let middle = told.create(repository, pool, "a").await?;
    let other = told.create(repository, pool, "b").await?;
    write(pool, "a", 1 << 20, &noise(300 << 10, 4)).await;
    let tip = told.create(repository, pool, "a").await?;
    told.remove(repository, &other, false).await?;
    told.remove(repository, &middle, true).await?;
    let _collected = repository.collect(&WHOLE, &Job::new()).await?;
    write(pool, "b", 0, &noise(100 << 10, 5)).await;
    let _other = told.create(repository, pool, "b").await?;
    let _promoted = repository.promote(&tip).await?;
    told.remove(repository, &full, false).await?;
    let _collected = repository.collect(&WHOLE, &Job::new()).await?;
    Ok(())
}

/// Whether the scenario came to its end, and what was told until then.
async fn run(faulty: &Arc<Faulty>, location: &Location, pool: &Pool) -> (cairn_backup::Result<()>, Told) {
    let mut told = Told::default();
    let store: Arc<dyn ObjectStore> = faulty.clone();
    let outcome = async {
        let repository = Repository::open_with(store, location).await?;
        scenario(&repository, pool, &mut told).await
    };
    (outcome.await, told)
}

/// By a program that knows nothing but the objects: all is well, and goes on well.
async fn recovered(world: &World, store: &Arc<InMemory>, told: &mut Told, cache: &str) {
    let repository = open(store, &world.cache(cache)).await.unwrap();
    told.check(&repository, &world.pool).await;
    let _collected = repository.collect(&WHOLE, &Job::new()).await.unwrap();
    told.check(&repository, &world.pool).await;
    for session in repository.open_sessions().await.unwrap().keys() {
        repository.end_session(session).await.unwrap();
    }
    write(&world.pool, "a", 0, &noise(200 << 10, 6)).await;
    for volume in ["a", "b"] {
        let _id = told.create(&repository, &world.pool, volume).await.unwrap();
    }
    let _collected = repository.collect(&WHOLE, &Job::new()).await.unwrap();
    told.check(&repository, &world.pool).await;
    holds_exactly(&**store, &repository.backups().await.unwrap()).await;
    let verified = repository.verify(&VerifyOptions::default(), &Job::new()).await.unwrap();
    assert!(verified.is_whole() && verified.damaged.is_empty(), "{verified:?}");
}

async fn crash_everywhere(lost: bool) {
    let mut crashes = 0;
    for at in 1.. {
        let (world, store, repository) = in_memory(None).await;
        drop(repository);
        volumes(&world.pool).await;
        let faulty = Faulty::new(store.clone(), Fault::Crash { at, lost });
        let (outcome, mut told) = run(&faulty, &world.location, &world.pool).await;
        let is_over = faulty.changes() < at;
        assert!(outcome.is_ok() || !is_over, "{outcome:?}");
        // The next program has a cache of its own, or takes over what the first one left.
        recovered(&world, &store, &mut told, if at % 2 == 0 { "cache" } else { "after" }).await;
        faulty.land().await;
        recovered(&world, &store, &mut told, "later").await;
        world.pool.close().await.unwrap();
        if is_over {
            break;
        }
        crashes += 1;
    }
    assert!(crashes >= 40, "{crashes}");
}

#[tokio::test]
async fn a_program_that_ends_before_any_change_of_the_store_loses_nothing() {
    crash_everywhere(false).await;
}

#[tokio::test]
async fn a_program_that_ends_after_any_change_of_the_store_loses_nothing() {
    crash_everywhere(true).await;
}

#[tokio::test]
async fn a_repository_whose_making_was_cut_off_can_be_made_again_or_is_there() {
    for secret in [None, Some(cairn_backup::Secret::Key([7; 32]))] {
        for (at, lost) in (1..4).flat_map(|at| [(at, false), (at, true)]) {
            let (world, _, _) = in_memory(secret.clone()).await;
            let store = Arc::new(InMemory::new());
            let faulty = Faulty::new(store.clone(), Fault::Crash { at, lost });
            let first = Repository::init_with(faulty.clone(), &world.location, &InitOptions::default()).await;
            let again = Repository::init_with(store.clone(), &world.location, &InitOptions::default()).await;
            if first.is_ok() {
                assert!(faulty.changes() < at && again.is_err());
            }
            drop((first, again));
            let repository = open(&store, &world.cache("other")).await.unwrap();
            assert_eq!(repository.backups().await.unwrap(), []);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn errors_that_pass_are_not_noticed() {
    let faults = (3..14).flat_map(|every| {
        [Fault::Now { every, lost: false }, Fault::Now { every, lost: true }, Fault::Conflict { every }]
    });
    for fault in faults {
        let (world, store, repository) = in_memory(None).await;
        drop(repository);
        volumes(&world.pool).await;
        let faulty = Faulty::new(store.clone(), fault);
        let (outcome, mut told) = run(&faulty, &world.location, &world.pool).await;
        assert!(faulty.faults.load(Ordering::SeqCst) > 0);
        outcome.unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        recovered(&world, &store, &mut told, "after").await;
        world.pool.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_list_that_misses_what_was_put_while_it_was_made_is_no_gap_in_the_log() {
    let (world, store, repository) = in_memory(None).await;
    drop(repository);
    volumes(&world.pool).await;
    let faulty = Faulty::new(store.clone(), Fault::None);
    let mut told = Told::default();
    let repository = open(&store, &world.cache("writer")).await.unwrap();
    let reader: Arc<dyn ObjectStore> = faulty.clone();
    let reader = Repository::open_with(reader, &world.cache("reader")).await.unwrap();
    for volume in ["a", "b"] {
        let _id = told.create(&repository, &world.pool, volume).await.unwrap();
        faulty.set(Fault::ListsInMotion);
        assert_eq!(reader.backups().await.unwrap(), repository.backups().await.unwrap());
        faulty.set(Fault::None);
        told.check(&reader, &world.pool).await;
    }
}

#[tokio::test]
async fn a_store_without_room_for_packs_gets_rid_of_those_that_nobody_needs() {
    let (world, store, repository) = in_memory(None).await;
    drop(repository);
    volumes(&world.pool).await;
    let faulty = Faulty::new(store.clone(), Fault::None);
    let through: Arc<dyn ObjectStore> = faulty.clone();
    let repository = Repository::open_with(through, &world.location).await.unwrap();
    let mut told = Told::default();
    let first = told.create(&repository, &world.pool, "a").await.unwrap();
    write(&world.pool, "a", 0, &noise(900 << 10, 7)).await;
    let second = told.create(&repository, &world.pool, "a").await.unwrap();
    write(&world.pool, "a", 0, &noise(800 << 10, 8)).await;
    let _third = told.create(&repository, &world.pool, "a").await.unwrap();
    // Of the first pack a part is needed, of the second one next to nothing or nothing.
    told.remove(&repository, &first, true).await.unwrap();
    told.remove(&repository, &second, true).await.unwrap();
    write(&world.pool, "b", 0, &noise(1 << 20, 9)).await;
    let other = told.create(&repository, &world.pool, "b").await.unwrap();
    told.remove(&repository, &other, false).await.unwrap();
    faulty.set(Fault::Full);
    let collected = repository.collect(&WHOLE, &Job::new()).await.unwrap();
    assert!(collected.rewriting_failed.is_some() && collected.unneeded_packs > 0, "{collected:?}");
    assert_eq!(collected.deleted_objects, collected.unneeded_packs);
    told.check(&repository, &world.pool).await;
    faulty.set(Fault::None);
    let collected = repository.collect(&WHOLE, &Job::new()).await.unwrap();
    assert!(collected.rewriting_failed.is_none() && collected.rewritten_packs > 0, "{collected:?}");
    told.check(&repository, &world.pool).await;
    holds_exactly(&*store, &repository.backups().await.unwrap()).await;
}
