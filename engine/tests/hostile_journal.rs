//! Openings of pools whose journal was written by somebody who means harm, or holds very many small groups.

use std::{
    fs::{File, OpenOptions as FileOptions},
    os::unix::fs::FileExt,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use cairn_engine::{GIB, IoBuf, MIB, OpenOptions, Pool, PoolOptions, StorageKind, VolumeOptions};
use pollster::block_on;

const BLOCK: usize = 4096;

struct Journal {
    file: File,
    uuid: [u8; 8],
    start: u64,
    blocks: u64,
    seq: u64,
    at: u64,
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

impl Journal {
    /// By the tables of `DESIGN.md`.
    fn of(path: &Path) -> Self {
        let file = FileOptions::new().read(true).write(true).open(path).unwrap();
        let mut best = vec![0; BLOCK];
        for slot in [0, 16] {
            let mut bytes = vec![0; BLOCK];
            file.read_exact_at(&mut bytes, slot * BLOCK as u64).unwrap();
            if &bytes[..8] == b"CAIRNPL1" && u64_at(&bytes, 32) > u64_at(&best, 32) {
                best = bytes;
            }
        }
        Self {
            file,
            uuid: best[16..24].try_into().unwrap(),
            start: u64_at(&best, 48),
            blocks: u64_at(&best, 56),
            seq: u64_at(&best, 88),
            at: u64_at(&best, 96),
        }
    }

    fn header(&self, seq: u64, record_bytes: u32, records: u32) -> Vec<u8> {
        let mut bytes = Vec::from(*b"CJG1\0\0\0\0");
        bytes.extend(self.uuid);
        bytes.extend(seq.to_le_bytes());
        bytes.extend(record_bytes.to_le_bytes());
        bytes.extend(records.to_le_bytes());
        bytes
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, (self.start + at) * BLOCK as u64).unwrap();
    }

    /// A whole group.
    fn group(&self, seq: u64, records: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = self.header(seq, body.len() as u32, records);
        bytes.extend(body);
        let crc = crc32fast::hash(&bytes);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes
    }
}

fn new_pool(size: u64, journal: u64) -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pool.cairn");
    block_on(async {
        let pool = Pool::create(&path, PoolOptions::new().size(size).journal_size(journal)).await.unwrap();
        let volume = pool.create_volume("v", 16 * MIB, VolumeOptions::default()).await.unwrap();
        volume.write(0, IoBuf::from(&[7; BLOCK][..])).await.unwrap();
        drop(volume);
        pool.close().await.unwrap();
    });
    (dir, path)
}

/// What is measured is the process's: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number in a file of `/proc/self`.
fn number(file: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/self/{file}")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// What an opening came to, and what it took.
#[derive(Debug)]
struct Opened {
    told: Result<(), String>,
    /// By how much the most memory that the process ever had has grown, in MiB.
    peak: u64,
    /// Bytes that were read, and system calls that read them.
    read: u64,
    calls: u64,
}

fn open(path: &Path) -> Opened {
    let measure = || (number("status", "VmHWM:") >> 10, number("io", "rchar: "), number("io", "syscr: "));
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = measure();
    let opened = block_on(Pool::open(path, OpenOptions::new().storage(StorageKind::Pread)));
    let after = measure();
    let told = opened.as_ref().map(drop).map_err(ToString::to_string);
    if let Ok(pool) = opened {
        block_on(pool.close()).unwrap();
    }
    let opened =
        Opened { told, peak: after.0.saturating_sub(before.0), read: after.1 - before.1, calls: after.2 - before.2 };
    println!("{opened:?}");
    opened
}

/// Each block of the ring is a group that reaches to the ring's end; all have right checksums.
#[test]
fn nested_groups_take_no_more_memory_than_the_ring() {
    let _alone = alone();
    let (_dir, path) = new_pool(32 * MIB, 4 * MIB);
    let journal = Journal::of(&path);
    let mut ring = vec![0u8; journal.blocks as usize * BLOCK];
    for at in (0..journal.blocks as usize).rev() {
        let body = ring[at * BLOCK + 32..].to_vec();
        let group = journal.group(journal.seq + 1 + at as u64, 1, &body);
        ring[at * BLOCK..].copy_from_slice(&group);
    }
    journal.write(0, &ring);
    assert!(open(&path).peak < 64);
}

/// Each block of the ring says that it begins a group that reaches to the ring's end; no checksum is right.
#[test]
fn heads_without_groups_are_not_read_to_the_end_each() {
    let _alone = alone();
    let (_dir, path) = new_pool(32 * MIB, 4 * MIB);
    let journal = Journal::of(&path);
    for at in 0..journal.blocks {
        let bytes = ((journal.blocks - at) as usize * BLOCK - 32) as u32;
        journal.write(at, &journal.header(journal.seq + 1, bytes, 1));
    }
    assert!(open(&path).read < 64 * MIB);
}

/// A ring full of the smallest groups, as many flushes leave it.
#[test]
fn many_small_groups_are_read_in_large_pieces() {
    let _alone = alone();
    let (_dir, path) = new_pool(4 * GIB, 64 * MIB);
    let journal = Journal::of(&path);
    for i in 0..8000 {
        let mut group = journal.group(journal.seq + i, 0, &[]);
        group.resize(BLOCK, 0);
        journal.write((journal.at + i) % journal.blocks, &group);
    }
    let opened = open(&path);
    assert_eq!(opened.told, Ok(()));
    assert!(opened.calls < 2000, "{} reads", opened.calls);
}

/// In a ring of more than 2 GiB, one bit makes the last group longer than what a system call reads. It is damage like any other there:
/// the group is dropped.
#[test]
fn a_last_group_that_says_it_has_gigabytes_is_dropped() {
    let _alone = alone();
    let (_dir, path) = new_pool(12 * GIB, 3 * GIB);
    let journal = Journal::of(&path);
    let mut group = journal.group(journal.seq, 0, &[]);
    group[27] ^= 0x80;
    journal.write(journal.at, &group);
    assert_eq!(open(&path).told, Ok(()));
}

/// Opens a pool of which the journal has one group, with one record.
fn with_record(body: &[u8]) -> Opened {
    let (_dir, path) = new_pool(64 * MIB, 4 * MIB);
    let journal = Journal::of(&path);
    journal.write(journal.at, &journal.group(journal.seq, 1, body));
    open(&path)
}

/// A `Write` names the blocks of one leaf, 256 at most.
#[test]
fn a_write_of_more_than_a_leaf_is_refused() {
    let _alone = alone();
    let mut body = vec![1];
    for field in [1u64, 0, 2000] {
        body.extend(field.to_le_bytes());
    }
    body.extend(100_000u32.to_le_bytes());
    body.extend(vec![0; 400_000]);
    let opened = with_record(&body);
    assert!(opened.peak < 64 && opened.told.is_err());
}

/// So does a `Hole`. This one would keep the opening busy for a tenth of a second; 2^33 blocks take a minute, 2^63 for ever.
#[test]
fn a_hole_of_more_than_a_leaf_is_refused() {
    let _alone = alone();
    let mut body = vec![2];
    for field in [1u64, 0, 1 << 24] {
        body.extend(field.to_le_bytes());
    }
    assert!(with_record(&body).told.is_err());
}
