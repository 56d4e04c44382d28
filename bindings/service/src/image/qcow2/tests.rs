//! Against qemu-img, and against damage.

use pollster::block_on;
use proptest::prelude::*;
use std::{
    path::Path,
    process::{Command, Stdio},
};

use super::{Disk, Step, Target, Writer};
use crate::{
    fault::{Answer, Fault, FaultKind},
    image::Source,
};
use std::sync::atomic::{AtomicU64, Ordering};

fn qemu(arguments: &[&str]) {
    let output = Command::new("qemu-img").args(arguments).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The disk that is in a file.
fn read(file: &[u8]) -> Answer<Vec<u8>> {
    block_on(async {
        let mut disk = Disk::open(file).await?;
        let mut whole = vec![0; disk.size() as usize];
        let mut last = 0;
        loop {
            let piece = match disk.step().await? {
                Step::Data(piece) => piece,
                Step::Zeros => continue,
                Step::End => break,
            };
            assert!(piece.offset >= last && piece.data.len() <= 2 << 20, "in order, bounded");
            last = piece.offset + piece.data.len() as u64;
            whole[piece.offset as usize..last as usize].copy_from_slice(&piece.data);
        }
        assert_eq!(disk.position(), disk.size());
        Ok(whole)
    })
}

struct Memory(Vec<u8>);

impl Target for Memory {
    async fn write(&mut self, offset: u64, data: &[u8]) -> Answer<()> {
        let end = offset as usize + data.len();
        self.0.resize(self.0.len().max(end), 0);
        self.0[offset as usize..end].copy_from_slice(data);
        Ok(())
    }
}

/// A disk of some data at some places.
fn model(size: usize, pieces: &[(usize, usize, u8)]) -> Vec<u8> {
    let mut disk = vec![0; size];
    for (offset, length, seed) in pieces {
        let from = offset % size;
        let to = (from + length).min(size);
        for (n, byte) in disk[from..to].iter_mut().enumerate() {
            // Compresses a bit, and is nowhere the same.
            *byte = seed.wrapping_add((n / 7) as u8).wrapping_mul(*seed | 1);
        }
    }
    disk
}

fn pieces() -> impl Strategy<Value = Vec<(usize, usize, u8)>> {
    prop::collection::vec((0..4_usize << 20, 1..300_000_usize, 1..255_u8), 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_qemu_img_writes_is_read(
        size in (1..8000_usize).prop_map(|sectors| sectors * 512),
        pieces in pieces(),
        bits in 9..=21_u32,
        old in any::<bool>(),
        how in 0..3,
    ) {
        let directory = tempfile::tempdir().unwrap();
        let (raw, file) = (directory.path().join("raw"), directory.path().join("file"));
        let disk = model(size, &pieces);
        std::fs::write(&raw, &disk).unwrap();
        let mut options = format!("cluster_size={}", 1_u64 << bits);
        options += if old { ",compat=0.10" } else { ",compat=1.1,lazy_refcounts=on" };
        let zstd = how == 2 && !old;
        options += if zstd { ",compression_type=zstd" } else { "" };
        let mut arguments = vec!["convert", "-f", "raw", "-O", "qcow2", "-o", &options];
        if how > 0 {
            arguments.push("-c");
        }
        arguments.extend([text(&raw), text(&file)]);
        qemu(&arguments);
        prop_assert!(read(&std::fs::read(&file).unwrap()).unwrap() == disk);
    }

    #[test]
    fn what_is_written_qemu_img_finds_sound(size in (1..8000_usize).prop_map(|sectors| sectors * 512), pieces in pieces()) {
        let directory = tempfile::tempdir().unwrap();
        let (raw, file) = (directory.path().join("raw"), directory.path().join("file"));
        let disk = model(size, &pieces);
        let (memory, length) = block_on(async {
            let mut writer = Writer::new(Memory(Vec::new()), size as u64);
            for (n, part) in disk.chunks(128 << 10).enumerate().filter(|(_, part)| !crate::image::is_zero(part)) {
                writer.write((n * (128 << 10)) as u64, part).await?;
            }
            writer.finish().await
        }).unwrap();
        prop_assert_eq!(memory.0.len() as u64, length);
        prop_assert!(read(&memory.0).unwrap() == disk);
        std::fs::write(&file, &memory.0).unwrap();
        qemu(&["check", "-f", "qcow2", text(&file)]);
        qemu(&["convert", "-f", "qcow2", "-O", "raw", text(&file), text(&raw)]);
        prop_assert!(std::fs::read(&raw).unwrap() == disk);
    }

    #[test]
    fn changed_bytes_end_in_good_order(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8), cut in any::<Option<prop::sample::Index>>()) {
        let mut file = sample();
        for (place, value) in &changes {
            // Where most of the structure is.
            let at = place.index(file.len().min(5 << 16));
            file[at] = *value;
        }
        if let Some(cut) = cut {
            file.truncate(cut.index(file.len()));
        }
        look(&file);
    }
}

/// A small file with everything in it.
fn sample() -> Vec<u8> {
    block_on(async {
        let mut writer = Writer::new(Memory(Vec::new()), 4 << 20);
        writer.write(0, &[1; 70_000]).await.unwrap();
        writer.write(1 << 20, &[2; 65_536]).await.unwrap();
        writer.finish().await.unwrap().0.0
    })
}

/// Some of it is read: it is refused, or goes on.
fn look(file: &[u8]) {
    let refused = |fault: &Fault| assert_eq!(fault.kind, FaultKind::BadRequest, "{fault}");
    block_on(async {
        match Disk::open(file).await {
            Err(fault) => refused(&fault),
            Ok(mut disk) => {
                for _ in 0..64 {
                    match disk.step().await {
                        Err(fault) => return refused(&fault),
                        Ok(Step::End) => return,
                        Ok(Step::Zeros) => {}
                        Ok(Step::Data(piece)) => assert!(piece.data.len() <= 2 << 20),
                    }
                }
            }
        }
    });
}

#[test]
fn every_byte_of_the_header_may_be_wrong() {
    let whole = sample();
    for place in 0..120 {
        for value in [0x00, 0x01, 0x7f, 0x80, 0xff] {
            let mut file = whole.clone();
            file[place] = value;
            look(&file);
        }
    }
    (0..whole.len()).step_by(4099).for_each(|end| look(&whole[..end]));
}

/// The words of a refusal.
fn refusal(file: &[u8]) -> String {
    let fault = read(file).unwrap_err();
    assert_eq!(fault.kind, FaultKind::BadRequest);
    fault.message
}

#[test]
fn what_leads_to_other_files_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("secret");
    std::fs::write(&secret, vec![7; 1 << 20]).unwrap();
    let file = directory.path().join("file");
    let made = |options: &[&str]| {
        qemu(&[&["create", "-q", "-f", "qcow2"][..], options, &[text(&file), "1M"]].concat());
        std::fs::read(&file).unwrap()
    };
    assert!(refusal(&made(&["-b", text(&secret), "-F", "raw"])).contains("backing file"));
    let data = format!("data_file={}", text(&directory.path().join("data")));
    assert!(refusal(&made(&["-o", &data])).contains("another file"));
    assert!(refusal(&made(&["-o", "extended_l2=on"])).contains("extended"));
    let mut corrupt = sample();
    corrupt[79] = 2;
    assert!(refusal(&corrupt).contains("corrupt"));
    corrupt[79] = 0x40;
    assert!(refusal(&corrupt).contains("not known"));
    // An extension that names a file, without the feature that says so.
    let mut named = sample();
    named[104..112].copy_from_slice(&[0x44, 0x41, 0x54, 0x41, 0, 0, 0, 8]);
    assert!(refusal(&named).contains("names a file"));
    assert!(refusal(b"nothing").contains("begin as one"));
}

#[test]
fn tables_of_one_cluster_for_all_are_bounded_by_the_disk() {
    // Each entry leads to the same data: what is read is the disk, and no more.
    let mut file = sample();
    let l1 = u64::from_be_bytes(file[40..48].try_into().unwrap()) as usize;
    let l2 = (u64::from_be_bytes(file[l1..l1 + 8].try_into().unwrap()) & super::OFFSET_BITS) as usize;
    let first: [u8; 8] = file[l2..l2 + 8].try_into().unwrap();
    (0..64).for_each(|n| file[l2 + n * 8..l2 + n * 8 + 8].copy_from_slice(&first));
    assert_eq!(read(&file).unwrap(), vec![1; 4 << 20]);
    // A disk that its first table is too small for, and one that is too large for anybody.
    file[24..32].copy_from_slice(&(1_u64 << 40).to_be_bytes());
    assert!(refusal(&file).contains("first table"));
    file[24..32].copy_from_slice(&u64::MAX.to_be_bytes());
    assert!(refusal(&file).contains("can be taken"));
}

/// Counts what is read.
struct Counted<'a> {
    file: &'a [u8],
    reads: &'a AtomicU64,
    bytes: &'a AtomicU64,
}

impl Source for Counted<'_> {
    fn length(&self) -> u64 {
        self.file.len() as u64
    }

    async fn read(&self, offset: u64, buffer: &mut [u8]) -> Answer<()> {
        let _reads = self.reads.fetch_add(1, Ordering::Relaxed);
        let _bytes = self.bytes.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        self.file.read(offset, buffer).await
    }
}

/// A file of version 3 whose disk of `size` bytes is zeros: one second table for all entries of the first, and one cluster for all of its own;
/// compressed, if so.
pub(crate) fn all_of_one(bits: u32, size: u64, compressed: bool) -> Vec<u8> {
    let cluster = 1_usize << bits;
    let l1 = usize::try_from(size.div_ceil((cluster * cluster / 8) as u64)).unwrap();
    let at_l2 = (cluster.max(512) + l1 * 8).next_multiple_of(cluster);
    let at_data = at_l2 + cluster;
    let mut file = vec![0; at_data];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb\0\0\0\x03");
    put(20, &bits.to_be_bytes());
    put(24, &size.to_be_bytes());
    put(36, &u32::try_from(l1).unwrap().to_be_bytes());
    put(40, &(cluster as u64).to_be_bytes());
    put(96, &[0, 0, 0, 4, 0, 0, 0, 104]);
    (0..l1).for_each(|n| put(cluster + n * 8, &(at_l2 as u64).to_be_bytes()));
    let zeros = vec![0; cluster];
    let data = if compressed { miniz_oxide::deflate::compress_to_vec(&zeros, 6) } else { zeros };
    let sectors = (data.len().div_ceil(512) as u64) << (62 - (bits - 8));
    let entry = if compressed { 1 << 62 | sectors | at_data as u64 } else { at_data as u64 };
    (0..cluster / 8).for_each(|n| put(at_l2 + n * 8, &entry.to_be_bytes()));
    file.extend(data);
    file
}

#[test]
fn a_step_ends_soon_whatever_the_file_says() {
    // Terabytes of zeros that are stored, or unpacked, or not there; the first one has clusters as small as there are.
    let small = all_of_one(9, 128 << 30, false);
    let mut holes = small.clone();
    holes[512..512 + (32 << 20)].fill(0);
    for file in [small, holes, all_of_one(21, 1 << 40, false), all_of_one(21, 1 << 40, true)] {
        let (reads, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        block_on(async {
            let mut disk = Disk::open(Counted { file: &file, reads: &reads, bytes: &bytes }).await.unwrap();
            assert!(bytes.load(Ordering::Relaxed) <= 1 << 20, "no more than a part of the tables is kept");
            let mut last = 0;
            for _ in 0..20 {
                reads.store(0, Ordering::Relaxed);
                bytes.store(0, Ordering::Relaxed);
                assert_eq!(disk.step().await.unwrap(), Step::Zeros);
                // A second table, a cluster, and what was read of them before the bound was met.
                let (reads, bytes) = (reads.load(Ordering::Relaxed), bytes.load(Ordering::Relaxed));
                assert!(reads <= 600 && bytes <= 8 << 20, "{reads} {bytes}");
                assert!(disk.position() > last);
                last = disk.position();
            }
        });
    }
}
