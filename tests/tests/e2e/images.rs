//! Disk images for tests, and import and export of them.

use cairn_tests::{fixture::TempPool, tool::run};
use fastrand::Rng;

/// One mebibyte.
pub(crate) const MIB: usize = 1 << 20;

/// A disk of `mib` MiB in which every other piece of 64 KiB, by chance, is zeros.
pub(crate) fn disk(seed: u64, mib: usize) -> Vec<u8> {
    let mut rng = Rng::with_seed(seed);
    let mut disk = vec![0; mib * MIB];
    for piece in disk.chunks_mut(64 << 10) {
        if rng.bool() {
            rng.fill(piece);
        }
    }
    disk
}

/// Bytes of a disk in pieces of 4 KiB that are not all zeros: what a volume must store of it.
pub(crate) fn stored(disk: &[u8]) -> u64 {
    disk.chunks(4096).filter(|block| block.iter().any(|byte| *byte != 0)).count() as u64 * 4096
}

/// Fails at the first byte that differs, without printing megabytes.
#[track_caller]
pub(crate) fn assert_same(found: &[u8], expected: &[u8], what: &str) {
    assert_eq!(found.len(), expected.len(), "length of {what}");
    if let Some(at) = found.iter().zip(expected).position(|(a, b)| a != b) {
        panic!("{what}: byte {at} is {:#04x}, should be {:#04x}", found[at], expected[at]);
    }
}

#[test]
fn raw_images_go_in_and_come_out_sparse() {
    let pool = TempPool::create("256MiB");
    let disk = disk(1, 32);
    let file = pool.file_with("disk.raw", &disk);
    pool.cairn(["volume", "import", &file, "d"]);
    let info = pool.json(["volume", "info", "d"]);
    assert_eq!(info["size"], disk.len(), "{info}");
    assert_eq!(info["allocated"], stored(&disk), "zeros take no space: {info}");
    pool.cairn(["volume", "export", "d", &pool.file_text("out.raw")]);
    assert_same(&pool.read_file("out.raw"), &disk, "the exported image");
    let used = std::os::unix::fs::MetadataExt::blocks(&pool.file("out.raw").metadata().unwrap()) * 512;
    assert!(used <= stored(&disk) + MIB as u64, "holes stay holes: {used} bytes used");
    assert_eq!(pool.refused(["volume", "export", "d", &pool.file_text("out.raw")]).0, "exists");
    pool.assert_clean();
}

#[test]
fn qcow2_images_go_in_and_come_out() {
    let pool = TempPool::create("256MiB");
    let disk = disk(2, 24);
    let raw = pool.file_with("disk.raw", &disk);
    for (name, options) in [("plain", "compat=1.1"), ("old", "compat=0.10"), ("small", "cluster_size=4k")] {
        let (image, out) = (pool.file_text(name), pool.file_text(&format!("{name}.qcow2")));
        run("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", "-o", options, &raw, &image]).ok();
        pool.cairn(["volume", "import", &image, name]);
        pool.cairn(["volume", "export", name, &out]);
        run("qemu-img", ["compare", "-f", "raw", "-F", "qcow2", &raw, &out]).ok();
        run("qemu-img", ["check", "-f", "qcow2", &out]).ok();
    }
    pool.assert_clean();
}

#[test]
fn images_that_name_other_files_are_refused() {
    let pool = TempPool::create("64MiB");
    let secret = pool.file_with("secret", &vec![7; MIB]);
    let image = pool.file_text("image.qcow2");
    run("qemu-img", ["create", "-f", "qcow2", "-F", "raw", "-b", &secret, &image]).ok();
    let (kind, message) = pool.refused(["volume", "import", &image, "v"]);
    assert!(message.contains("secret") || message.contains("--allow-backing"), "{kind}: {message}");
    assert_eq!(pool.json(["volume", "list"])["volumes"].as_array().map(Vec::len), Some(0), "nothing is left behind");
}

#[test]
fn a_failed_import_leaves_nothing() {
    let pool = TempPool::create("64MiB");
    let file = pool.file_with("disk.raw", &vec![0x5a; 96 * MIB]);
    let used = pool.used_when_empty();
    let (kind, message) = pool.refused(["volume", "import", &file, "big"]);
    assert_eq!(kind, "no-space", "{message}");
    assert_eq!(pool.json(["volume", "list"])["volumes"].as_array().map(Vec::len), Some(0));
    assert_eq!(pool.stat("used"), used, "its space came back");
    pool.assert_clean();
}
