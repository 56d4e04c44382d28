//! Inputs that fuzzing begins with, made by the encoders.

use std::collections::BTreeMap;

use crate::{
    chunk::{ChunkId, Content as Bytes},
    crypt::Keys,
    log::{
        packs::{PackName, Packs},
        record::{Backup, Change, Origin, Record, Root, Statistics},
    },
    map::page::{Content, LEAF, Leaf, empty_inner, encode_inner},
    pack::{Kind, Prepared, TAIL, Writer},
};

/// Target, name, bytes.
type Seed = (&'static str, &'static str, Vec<u8>);

/// All of them: target, name, bytes.
#[must_use]
pub fn seeds() -> Vec<Seed> {
    let mut seeds = record_seeds();
    seeds.extend(pack_seeds());
    seeds.extend(page_seeds());
    seeds
}

fn backup(id: &str, parent: Option<&str>) -> Backup {
    Backup {
        id: id.to_owned(),
        number: 0,
        origin: Origin {
            pool: "0123456789abcdef0123456789abcdef".to_owned(),
            volume: "db".to_owned(),
            volume_id: 7,
            snapshot: "cairn-backup-1".to_owned(),
            version: 12,
        },
        data_ms: 1_700_000_000_000,
        finished_ms: 1_700_000_001_000,
        size: 1 << 30,
        parent: parent.map(str::to_owned),
        reason: "it is the first backup of this volume".to_owned(),
        root: Root { page: "5a".repeat(32), height: 1 },
        statistics: Statistics { read: 4096, new: 4096, pages: 100, stored: 5000, millis: 12 },
        labels: BTreeMap::from([("why".to_owned(), "first".to_owned())]),
    }
}

fn packs(session: &str, numbers: &[u32]) -> Packs {
    numbers.iter().map(|number| PackName { session: session.to_owned(), number: *number }).collect()
}

fn log(changes: Vec<(&str, Change)>) -> Vec<u8> {
    let records = (1..).zip(changes).map(|(number, (session, change))| Record {
        number,
        nonce: format!("{number:064x}"),
        previous: String::new(),
        time_ms: 1_700_000_000_000,
        session: session.to_owned(),
        change,
    });
    records.map(|record| serde_json::to_vec(&record).unwrap_or_default()).collect::<Vec<_>>().join(&b'\n')
}

fn record_seeds() -> Vec<Seed> {
    let begin = |session| (session, Change::Begin { client: "host process 1".to_owned() });
    let commit =
        |id, parent, new: Packs, uses: Packs| Change::Commit { backup: Box::new(backup(id, parent)), new, uses };
    let none = Packs::default;
    let chain = || {
        vec![
            begin("s"),
            ("s", commit("a", None, packs("s", &[1, 2, 3]), none())),
            ("s", commit("b", Some("a"), packs("s", &[4]), packs("s", &[1]))),
            ("s", Change::End),
        ]
    };
    let with = |more: Vec<(&'static str, Change)>| log(chain().into_iter().chain(more).collect());
    let delete = |ids: &[&str]| Change::Delete { backups: ids.iter().map(|id| (*id).to_owned()).collect() };
    vec![
        ("backup_record", "chain", log(chain())),
        ("backup_record", "manifest", serde_json::to_vec(&backup("a", Some("b"))).unwrap_or_default()),
        (
            "backup_record",
            "merge_and_promote",
            with(vec![
                ("x", Change::Merge { backup: "a".to_owned() }),
                ("x", Change::Promote { backup: "b".to_owned() }),
            ]),
        ),
        ("backup_record", "delete_refused_and_done", with(vec![("x", delete(&["a"])), ("x", delete(&["b", "a"]))])),
        (
            "backup_record",
            "collection",
            with(vec![
                ("x", delete(&["b"])),
                ("x", Change::Condemn { packs: packs("s", &[4]), seen: 5 }),
                ("x", Change::Drop { packs: packs("s", &[4]) }),
            ]),
        ),
        (
            "backup_record",
            "rewriting_and_rescue",
            with(vec![
                begin("t"),
                ("t", Change::Repack { new: packs("t", &[1]), old: packs("s", &[2, 3]), seen: 5 }),
                ("t", commit("c", Some("b"), packs("t", &[2]), packs("s", &[3]))),
                ("t", Change::Drop { packs: packs("s", &[2]) }),
                ("t", Change::Damage { pack: "s/00000001".to_owned(), chunks: vec!["5a".repeat(32)] }),
            ]),
        ),
        (
            "backup_record",
            "taken_over",
            log(vec![
                begin("dead"),
                ("dead", Change::End),
                begin("s"),
                ("s", Change::Add { packs: packs("dead", &[1, 2]) }),
            ]),
        ),
    ]
}

fn footer(contents: &[&[u8]]) -> Vec<u8> {
    let keys = Keys::none();
    let mut writer = Writer::new("p".to_owned(), keys.clone());
    for content in contents {
        let made = Bytes::Made(content.to_vec());
        writer.add(Prepared::new(keys.name(content), Kind::Data, made, 3, &keys));
    }
    let (parts, entries) = writer.finish();
    let bytes = parts.concat();
    bytes[bytes.len() - TAIL - entries.len() * 48..bytes.len() - TAIL].to_vec()
}

fn pack_seeds() -> Vec<Seed> {
    let mut outside = footer(&[&[7; 4096]]);
    outside[32..36].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut unknown_codec = footer(&[&[7; 4096]]);
    unknown_codec[44] = 9;
    let whole = {
        let keys = Keys::none();
        let mut writer = Writer::new("p".to_owned(), keys.clone());
        writer.add(Prepared::new(keys.name(b"x"), Kind::Page, Bytes::Made(b"x".to_vec()), 3, &keys));
        writer.finish().0.concat()
    };
    vec![
        ("backup_pack", "one", footer(&[&[7; 4096]])),
        ("backup_pack", "three", footer(&[&[7; 4096], b"short", b""])),
        ("backup_pack", "many", footer(&[b"a".as_slice(); 40])),
        ("backup_pack", "outside", outside),
        ("backup_pack", "unknown_codec", unknown_codec),
        ("backup_pack", "whole_pack", whole),
    ]
}

fn page_seeds() -> Vec<Seed> {
    let data = |n: u8, first| Content::Data { chunk: ChunkId([n; 32]), first };
    let mut inner = empty_inner();
    inner[7] = ChunkId([7; 32]);
    let sparse = Leaf::empty().changed(&[(10, 20, data(3, 0)), (100, 1, Content::Zero), (16_000, 64, data(4, 60_000))]);
    let scattered: Vec<_> = (0..50).map(|n| (n * 300, 2, data(n as u8, n as u16))).collect();
    let mut beyond = Leaf::empty().changed(&[(10, 20, data(3, 0))]).encode();
    if let Some(last) = beyond.last_mut() {
        *last ^= 1;
    }
    vec![
        ("backup_page", "empty_leaf", Leaf::empty().encode()),
        ("backup_page", "sparse_leaf", sparse.encode()),
        ("backup_page", "scattered_leaf", Leaf::empty().changed(&scattered).encode()),
        ("backup_page", "full_leaf", Leaf::empty().changed(&[(0, LEAF, data(1, 0))]).encode()),
        ("backup_page", "inner", encode_inner(&inner)),
        ("backup_page", "wrong_length", beyond),
    ]
}
