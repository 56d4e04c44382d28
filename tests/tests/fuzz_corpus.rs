//! Every input kept for the fuzz targets, through what the targets check: findings stay mended without a fuzzer.

#[path = "../../fuzz/checks.rs"]
mod checks;

use std::{fs, panic, path::Path};

/// Runs a check on each file of its corpus; a panic names the file.
fn replay(target: &str, check: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let mut files: Vec<_> = fs::read_dir(&corpus)
        .expect("each target has a corpus")
        .map(|entry| entry.expect("it can be listed").path())
        .collect();
    files.sort();
    assert!(files.len() > 10, "the corpus of {target} holds only {} inputs", files.len());
    for file in files {
        let bytes = fs::read(&file).expect("an input can be read");
        // Also as a message that ends early, at every place.
        for end in 0..=bytes.len() {
            let outcome = panic::catch_unwind(|| check(&bytes[..end]));
            assert!(outcome.is_ok(), "{}, the first {end} bytes", file.display());
        }
    }
}

#[test]
fn nbd_protocol() {
    replay("nbd_protocol", checks::nbd_protocol);
}

#[test]
fn nbd_handshake() {
    replay("nbd_handshake", checks::nbd_handshake);
}

#[test]
fn names_and_sizes() {
    replay("names_and_sizes", checks::names_and_sizes);
}
