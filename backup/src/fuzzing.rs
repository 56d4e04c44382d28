//! What must hold for any bytes that the parsers of a repository are given: one function for each fuzz target, and inputs to begin with.
//!
//! Not part of the interface. Each function panics when something does not hold, and says whether the input was understood, so that a
//! corpus that went stale is noticed.

mod seeds;

pub use seeds::seeds;

use crate::{
    crypt::Keys,
    envelope,
    log::{
        record::{Backup, Record},
        state::State,
    },
    map::page::{LEAF, Leaf, decode_inner, encode_inner},
    pack::{TAIL, Tail},
};

/// An object that holds a body, with the hash that belongs to it.
fn mended(kind: &str, body: &[u8]) -> Vec<u8> {
    let hash = blake3::hash(body).to_hex();
    [format!("cairn-{kind} {} {hash}\n", envelope::FORMAT).as_bytes(), body, b"\n"].concat()
}

/// Records, one a line: as an object, and one after the other as a log. What decodes is the same after encoding, and a state stays sound
/// whatever it is told.
pub fn backup_record(input: &[u8]) -> bool {
    let keys = Keys::none();
    drop(envelope::unwrap::<Record>("record", "x", "x", input, &keys));
    let mut state = State::default();
    let mut understood = false;
    for line in input.split(|byte| *byte == b'\n') {
        let read = |kind: &str| mended(kind, line);
        if let Ok(backup) = envelope::unwrap::<Backup>("manifest", "x", "x", &read("manifest"), &keys) {
            let again = envelope::wrap("manifest", "x", &backup, &keys);
            assert_eq!(envelope::unwrap::<Backup>("manifest", "x", "x", &again, &keys).ok(), Some(backup));
            understood = true;
        }
        let Ok(record) = envelope::unwrap::<Record>("record", "x", "x", &read("record"), &keys) else { continue };
        understood = true;
        let again = envelope::wrap("record", "x", &record, &keys);
        assert_eq!(envelope::unwrap::<Record>("record", "x", "x", &again, &keys).ok().as_ref(), Some(&record));
        let before = state.clone();
        if state.apply(&record, "hash").is_err() {
            assert_eq!(state, before, "a record that is refused changes nothing");
        }
        let written = serde_json::to_vec(&state).unwrap_or_default();
        assert_eq!(serde_json::from_slice::<State>(&written).ok().as_ref(), Some(&state), "as a checkpoint keeps it");
        assert!(state.is_sound());
    }
    understood
}

/// The footer of a pack: whatever it names lies within the pack.
pub fn backup_pack(input: &[u8]) -> bool {
    let keys = Keys::none();
    let mut tail = (input.len() as u32).to_le_bytes().to_vec();
    tail.extend_from_slice(&((input.len() / 48) as u32).to_le_bytes());
    tail.extend_from_slice(blake3::Hasher::new().update(b"p\0").update(input).finalize().as_bytes());
    tail.extend_from_slice(b"CAIRNPE1");
    let mut understood = false;
    for body in [0u64, 8, 5000, 40 << 20] {
        let size = body + (input.len() + TAIL) as u64;
        let Ok(tail) = Tail::decode("p", &tail, size) else { continue };
        let Ok(entries) = tail.entries("p", input, size, &keys) else { continue };
        understood |= !entries.is_empty();
        assert!(entries.iter().all(|e| u64::from(e.offset) + u64::from(e.stored) <= body), "outside");
    }
    if let Some(at) = input.len().checked_sub(TAIL) {
        drop(
            Tail::decode("p", &input[at..], input.len() as u64)
                .map(|tail| tail.entries("p", &input[..at], input.len() as u64, &keys)),
        );
    }
    understood
}

/// A page of a map: a leaf covers all of its blocks, and what decodes is the same after encoding.
pub fn backup_page(input: &[u8]) -> bool {
    let leaf = Leaf::decode(input);
    if let Ok(leaf) = &leaf {
        assert_eq!(leaf.runs.iter().map(|run| run.blocks).sum::<u32>(), LEAF);
        assert_eq!(Leaf::decode(&leaf.encode()).ok().as_ref(), Some(leaf), "after encoding");
        let cut = leaf.changed(&[(1, 2, crate::map::page::Content::Zero)]);
        assert!(leaf.differing(&cut).iter().all(|(at, count)| *at >= 1 && at + count <= 3));
    }
    let inner = decode_inner(input);
    if let Ok(inner) = &inner {
        assert_eq!(encode_inner(inner), input, "after encoding");
    }
    leaf.is_ok() || inner.is_ok()
}
