//! Objects that somebody else put into a store: with all hashes right, and with what cannot be.

use std::sync::Arc;

use bytes::Bytes;
use cairn_backup::{ErrorKind, InitOptions, Repository, Secret};
use cairn_engine::{MIB, VolumeOptions};
use object_store::{ObjectStoreExt, memory::InMemory, path::Path};
use serde_json::{Value, json};

use crate::{
    faulty::{Fault, Faulty},
    reference::{get, names},
    world::{back_up, in_memory, open},
};

async fn put(store: &InMemory, kind: &str, name: &str, body: &Value) -> String {
    let body = serde_json::to_vec(body).unwrap();
    let head = format!("cairn-{kind} 1 {}\n", blake3::hash(&body).to_hex());
    let bytes = Bytes::from([head.as_bytes(), &body, b"\n"].concat());
    let hash = blake3::hash(&bytes).to_hex().to_string();
    let _done = store.put(&Path::from(name), bytes.into()).await.unwrap();
    hash
}

async fn body(store: &InMemory, name: &str) -> Value {
    let bytes = get(store, name).await;
    let at = bytes.iter().position(|byte| *byte == b'\n').unwrap();
    serde_json::from_slice(&bytes[at + 1..]).unwrap()
}

#[tokio::test]
async fn a_repository_does_not_choose_where_its_cache_is() {
    let (world, store, repository) = in_memory(None).await;
    drop(repository);
    // Its own files, in a directory called as that of sessions is.
    let victim = world.dir.path().join("victim");
    std::fs::create_dir_all(victim.join("sessions")).unwrap();
    std::fs::write(victim.join("sessions/precious"), "mine").unwrap();
    drop(world.pool.create_volume("v", MIB, VolumeOptions::default()).await.unwrap());
    let mut identity = body(&store, "repo.json").await;
    for uuid in [victim.to_str().unwrap(), "../victim", "", "0123456789abcdef0123456789abcde/", "."] {
        identity["uuid"] = json!(uuid);
        let _hash = put(&store, "repository", "repo.json", &identity).await;
        match open(&store, &world.location).await {
            Ok(repository) => drop(back_up(&repository, &world.pool, "v").await),
            Err(error) => {
                assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains("repo.json"), "{error}");
            }
        }
        assert_eq!(std::fs::read(victim.join("sessions/precious")).unwrap(), b"mine", "{uuid:?}");
        assert!(!victim.join("index-0").exists(), "{uuid:?}");
    }
}

#[tokio::test]
async fn records_that_name_more_packs_than_can_be_are_damage() {
    let ranges = [
        json!([{"first": 0, "last": u32::MAX}]),
        json!([{"first": 5, "last": 4}]),
        json!([{"first": 5, "last": 6}, {"first": 1, "last": 2}]),
        json!([{"first": 100_000_000, "last": 100_000_000}]),
        json!([{"first": 1, "last": 99_999_999}]),
    ];
    for range in ranges {
        let (world, store, repository) = in_memory(None).await;
        drop(repository);
        let packs = json!({ "somebody": range });
        let record = json!({"number": 1, "nonce": "n", "previous": "", "time_ms": 0, "session": "s", "change": "drop", "packs": packs});
        let _hash = put(&store, "record", "log/00000000000000000001", &record).await;
        let error = open(&store, &world.location).await.unwrap_err();
        assert!(
            error.kind() == ErrorKind::Corrupt && error.to_string().contains("log/00000000000000000001"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_record_of_a_backup_whose_map_cannot_be_its_own_is_told() {
    let (world, _store, repository) = in_memory(None).await;
    drop(world.pool.create_volume("v", MIB, VolumeOptions::default()).await.unwrap());
    let made = back_up(&repository, &world.pool, "v").await.unwrap();
    let text = repository.record(&made.id).await.unwrap();
    let _deleted =
        repository.delete(std::slice::from_ref(&made.id), false, false, &cairn_backup::Job::new()).await.unwrap();
    let forged = |size: u64, height: u32| {
        let mut value: Value = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
        value[1]["size"] = json!(size);
        value[1]["root"]["height"] = json!(height);
        let body = serde_json::to_string(&value).unwrap();
        format!("cairn-export 1 {}\n{body}\n", blake3::hash(body.as_bytes()).to_hex())
    };
    for (size, height) in [(MIB, 1), (MIB, u32::MAX), (u64::MAX, 0), (1 << 40, 0)] {
        let error = repository.import(&forged(size, height), &cairn_backup::Job::new()).await.unwrap_err();
        assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains(&made.id), "{error}");
    }
}

fn passphrase(text: &str) -> Option<Secret> {
    Some(Secret::Passphrase(text.to_owned()))
}

#[tokio::test]
async fn a_damaged_key_does_not_keep_the_others_from_opening() {
    let (world, store, repository) = in_memory(Some(Secret::Key([7; 32]))).await;
    repository.add_key(&Secret::Key([7; 32]), "second", &Secret::Key([8; 32])).await.unwrap();
    drop(repository);
    let keys = names(&*store, "keys").await;
    for damaged in &keys {
        let store = Arc::new(store.fork());
        let _done = store.put(&Path::from(damaged.as_str()), "rubbish".into()).await.unwrap();
        let mut opened = 0;
        for key in [[7; 32], [8; 32]] {
            let location = cairn_backup::Location { secret: Some(Secret::Key(key)), ..world.location.clone() };
            match open(&store, &location).await {
                Ok(repository) => {
                    opened += 1;
                    let label = repository.key_labels().await.unwrap().remove(0);
                    assert_eq!(repository.remove_key(&label).await.unwrap_err().kind(), ErrorKind::InUse, "the last");
                }
                Err(error) => assert!(error.to_string().contains(damaged.as_str()), "{error}"),
            }
        }
        assert_eq!(opened, 1);
    }
}

#[tokio::test]
async fn a_passphrase_of_a_making_that_was_cut_off_opens_nothing() {
    let (world, _, _) = in_memory(None).await;
    let store = Arc::new(InMemory::new());
    let at = |secret| cairn_backup::Location { secret, ..world.location.clone() };
    // The key is there, and what it is to be a key of is not.
    let faulty = Faulty::new(store.clone(), Fault::Crash { at: 2, lost: false });
    let made = Repository::init_with(faulty, &at(passphrase("a slip of the pen")), &InitOptions::default()).await;
    assert!(made.is_err() && names(&*store, "keys").await.len() == 1);
    let right = at(passphrase("correct horse"));
    let repository = Repository::init_with(store.clone(), &right, &InitOptions::default()).await.unwrap();
    assert_eq!(repository.key_labels().await.unwrap(), ["first"]);
    assert_eq!(repository.remove_key("first").await.unwrap_err().kind(), ErrorKind::InUse);
    drop(world.pool.create_volume("v", MIB, VolumeOptions::default()).await.unwrap());
    assert_eq!(open(&store, &at(passphrase("a slip of the pen"))).await.unwrap_err().kind(), ErrorKind::Key);
    drop(repository);
    let _made = back_up(&open(&store, &right).await.unwrap(), &world.pool, "v").await.unwrap();
}
