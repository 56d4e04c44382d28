//! A second reader of the format, plain and slow: what a store holds, and what backups refer to.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cairn_backup::Backup;
use futures_util::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, path::Path};

type Id = [u8; 32];

/// Names of objects that begin with a directory.
pub(crate) async fn names(store: &dyn ObjectStore, directory: &str) -> Vec<String> {
    let listed: Vec<_> = store.list(Some(&Path::from(directory))).try_collect().await.unwrap();
    let mut names: Vec<String> = listed.into_iter().map(|meta| meta.location.to_string()).collect();
    names.sort();
    names
}

pub(crate) async fn get(store: &dyn ObjectStore, name: &str) -> Bytes {
    store.get(&Path::from(name)).await.unwrap().bytes().await.unwrap()
}

fn number(bytes: &[u8]) -> usize {
    u32::from_le_bytes(bytes.try_into().unwrap()) as usize
}

/// Chunks of a pack that is not encrypted, decoded.
fn chunks(pack: &[u8]) -> Vec<(Id, Vec<u8>)> {
    let (rest, tail) = pack.split_at(pack.len() - 48);
    let footer = &rest[rest.len() - number(&tail[..4])..];
    let read = footer.chunks_exact(48).map(|entry| {
        let (offset, stored, length) = (number(&entry[32..36]), number(&entry[36..40]), number(&entry[40..44]));
        let stored = &pack[offset..offset + stored];
        let content = if entry[44] == 0 { stored.to_vec() } else { zstd::bulk::decompress(stored, length).unwrap() };
        let id: Id = entry[..32].try_into().unwrap();
        assert_eq!((content.len(), *blake3::hash(&content).as_bytes()), (length, id));
        (id, content)
    });
    read.collect()
}

fn ids(bytes: &[u8]) -> impl Iterator<Item = Id> {
    bytes.chunks_exact(32).map(|id| id.try_into().unwrap()).filter(|id| *id != [0; 32])
}

/// All that maps of backups lead to, pages and data.
fn referenced(backups: &[Backup], contents: &BTreeMap<Id, Vec<u8>>) -> BTreeSet<Id> {
    let mut found = BTreeSet::new();
    for backup in backups {
        let root: Vec<u8> =
            (0..32).map(|i| u8::from_str_radix(&backup.root.page[2 * i..2 * i + 2], 16).unwrap()).collect();
        let mut pages: Vec<Id> = ids(&root).collect();
        while let Some(id) = pages.pop() {
            if !found.insert(id) {
                continue;
            }
            let page = &contents[&id];
            match page[0] {
                b'I' => pages.extend(ids(&page[1..])),
                _ => {
                    let data: Vec<Id> = ids(&page[5..5 + 32 * number(&page[1..5])]).collect();
                    data.iter().for_each(|id| assert!(contents.contains_key(id)));
                    found.extend(data);
                }
            }
        }
    }
    found
}

/// The packs of a repository hold what its backups need, each chunk once, and nothing else.
pub(crate) async fn holds_exactly(store: &dyn ObjectStore, backups: &[Backup]) {
    let mut contents = BTreeMap::new();
    for name in names(store, "packs").await {
        for (id, content) in chunks(&get(store, &name).await) {
            assert!(contents.insert(id, content).is_none(), "a chunk is stored twice, also in {name}");
        }
    }
    let there: BTreeSet<Id> = contents.keys().copied().collect();
    let needed = referenced(backups, &contents);
    assert_eq!((there.len(), there.difference(&needed).count()), (needed.len(), 0));
}
