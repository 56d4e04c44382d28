//! Packs: objects of many chunks, written once.
//!
//! ```text
//! "CAIRNPK1" | stored chunks, one after the other | footer | tail
//! footer: 48 bytes a chunk: name 32, offset u32, stored u32, length u32, codec u8, kind u8, 2 zero bytes
//! tail:   stored length of the footer u32, chunks u32, BLAKE3 of the pack's name, a zero and the stored footer 32, "CAIRNPE1"
//! ```
//!
//! Little-endian. In an encrypted repository each chunk is sealed for its name, and the footer for the pack's; offsets and stored lengths are
//! those of the sealed form. A pack says itself what is in it, so an index of all packs can always be made anew.

use std::{borrow::Cow, fmt, mem};

use bytes::Bytes;

use crate::{
    chunk::{self, ChunkId, Codec, Content, ID_LEN},
    crypt::Keys,
    error::{Result, corrupt},
};

const HEAD: &[u8; 8] = b"CAIRNPK1";
const END: &[u8; 8] = b"CAIRNPE1";
const ENTRY: usize = 48;
/// Longest stored form of a chunk: plain, with nonce and tag.
const LONGEST: u64 = (chunk::LONGEST + 64) as u64;
/// A pack is full when it has come to this many bytes,
const FULL: usize = 32 << 20;
/// or to this many chunks: what is kept of each while a pack is written may be more than its bytes.
const MOST: usize = 65_536;
/// Longest stored footer, in bytes. Packs of earlier versions were closed by their bytes alone: 32 MiB of chunks of 12 bytes, the shortest
/// that anything compresses to.
const LONGEST_FOOTER: u32 = 128 << 20;
/// A stored chunk of more than so many bytes is a part of its own. Shorter ones are gathered: the buffers in which the engine hands them out
/// may be far longer than they are.
const ALONE: usize = 64 << 10;
/// So many bytes are gathered in one part.
const GATHERED: usize = 1 << 20;
/// Length of what stands at the very end.
pub(crate) const TAIL: usize = 4 + 4 + 32 + 8;

/// What a chunk is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Data,
    Page,
}

/// Where a chunk is within its pack, and how it is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) id: ChunkId,
    pub(crate) offset: u32,
    pub(crate) stored: u32,
    pub(crate) length: u32,
    pub(crate) codec: Codec,
    pub(crate) kind: Kind,
}

/// A chunk ready to be put into a pack: named, compressed, compared, sealed.
pub(crate) struct Prepared {
    pub(crate) id: ChunkId,
    pub(crate) kind: Kind,
    codec: Codec,
    pub(crate) length: u32,
    stored: Bytes,
}

impl Prepared {
    /// Content whose name is known already.
    pub(crate) fn new(id: ChunkId, kind: Kind, content: Content, level: i32, keys: &Keys) -> Self {
        let length = content.len() as u32;
        let (codec, plain) = chunk::compress(content, level);
        let stored = keys.seal_if_any(&plain, &id.0).map_or(plain, Content::Made);
        Self { id, kind, codec, length, stored: stored.into_bytes() }
    }
}

/// A pack that is being filled.
pub(crate) struct Writer {
    name: String,
    keys: Keys,
    /// One after the other: long ones as they were made, short ones copied together.
    parts: Vec<Bytes>,
    /// Short ones since the last part.
    gathered: Vec<u8>,
    length: usize,
    entries: Vec<Entry>,
}

/// What the tail says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Tail {
    /// Stored length of the footer, which stands right before the tail.
    pub(crate) footer: u32,
    chunks: u32,
    hash: [u8; 32],
}

/// Of a stored footer: with the name, so that no other pack is taken for this one.
fn hash(name: &str, footer: &[u8]) -> [u8; 32] {
    *blake3::Hasher::new().update(name.as_bytes()).update(&[0]).update(footer).finalize().as_bytes()
}

impl Writer {
    /// An empty pack of this name.
    pub(crate) fn new(name: String, keys: Keys) -> Self {
        Self { name, keys, parts: Vec::new(), gathered: HEAD.to_vec(), length: HEAD.len(), entries: Vec::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether nothing more should be added.
    pub(crate) fn is_full(&self) -> bool {
        self.length >= FULL || self.entries.len() >= MOST
    }

    pub(crate) fn add(&mut self, chunk: Prepared) {
        self.entries.push(Entry {
            id: chunk.id,
            offset: self.length as u32,
            stored: chunk.stored.len() as u32,
            length: chunk.length,
            codec: chunk.codec,
            kind: chunk.kind,
        });
        self.length += chunk.stored.len();
        if chunk.stored.len() > ALONE {
            self.close_part();
            self.parts.push(chunk.stored);
        } else {
            self.gathered.extend_from_slice(&chunk.stored);
            if self.gathered.len() >= GATHERED {
                self.close_part();
            }
        }
    }

    /// What was gathered becomes a part, of just the memory that it needs.
    fn close_part(&mut self) {
        if !self.gathered.is_empty() {
            self.parts.push(Bytes::from(mem::take(&mut self.gathered).into_boxed_slice()));
        }
    }

    /// The whole object, in parts, and what is in it.
    pub(crate) fn finish(mut self) -> (Vec<Bytes>, Vec<Entry>) {
        let mut footer = Vec::with_capacity(self.entries.len() * ENTRY + TAIL);
        for entry in &self.entries {
            footer.extend_from_slice(&entry.id.0);
            for number in [entry.offset, entry.stored, entry.length] {
                footer.extend_from_slice(&number.to_le_bytes());
            }
            let kind = match entry.kind {
                Kind::Data => 0,
                Kind::Page => 1,
            };
            footer.extend_from_slice(&[entry.codec.to_byte(), kind, 0, 0]);
        }
        let mut end = self.keys.seal(footer, self.name.as_bytes());
        let (hash, length) = (hash(&self.name, &end), end.len() as u32);
        end.extend_from_slice(&length.to_le_bytes());
        end.extend_from_slice(&(self.entries.len() as u32).to_le_bytes());
        end.extend_from_slice(&hash);
        end.extend_from_slice(END);
        self.close_part();
        self.parts.push(Bytes::from(end.into_boxed_slice()));
        (self.parts, self.entries)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn damaged(name: &str, why: impl fmt::Display) -> crate::Error {
    corrupt(format!("pack {name} is damaged: {why}"))
}

impl Tail {
    /// Reads the last [`TAIL`] bytes of a pack of `size` bytes.
    pub(crate) fn decode(name: &str, bytes: &[u8], size: u64) -> Result<Self> {
        let whole = bytes.len() == TAIL && bytes.ends_with(END);
        let fields = || Some((u32_at(bytes, 0)?, u32_at(bytes, 4)?, bytes.get(8..40)?.try_into().ok()?));
        let Some((footer, chunks, hash)) = whole.then(fields).flatten() else {
            return Err(damaged(name, "it does not end as a pack does"));
        };
        if footer > LONGEST_FOOTER || u64::from(footer) + (HEAD.len() + TAIL) as u64 > size {
            return Err(damaged(name, format_args!("its footer would have {footer} of its {size} bytes")));
        }
        Ok(Self { footer, chunks, hash })
    }

    /// Reads the footer of a pack of `size` bytes: what is in the pack.
    pub(crate) fn entries(&self, name: &str, stored: &[u8], size: u64, keys: &Keys) -> Result<Vec<Entry>> {
        if stored.len() != self.footer as usize || hash(name, stored) != self.hash {
            return Err(damaged(name, "its footer does not have the hash in its tail"));
        }
        let end = size - TAIL as u64 - u64::from(self.footer);
        let footer = keys
            .open(stored, name.as_bytes())
            .ok_or_else(|| damaged(name, "its footer was not sealed with the key of this repository"))?;
        let (entries, rest) = footer.as_chunks::<ENTRY>();
        if !rest.is_empty() || entries.len() != self.chunks as usize {
            return Err(damaged(name, "its footer is cut short"));
        }
        let decoded = entries.iter().map(|bytes| entry(bytes, end));
        decoded.collect::<Option<_>>().ok_or_else(|| damaged(name, "its footer names what cannot be"))
    }
}

fn entry(bytes: &[u8; ENTRY], end: u64) -> Option<Entry> {
    let entry = Entry {
        id: ChunkId(bytes[..ID_LEN].try_into().ok()?),
        offset: u32_at(bytes, 32)?,
        stored: u32_at(bytes, 36)?,
        length: u32_at(bytes, 40)?,
        codec: Codec::from_byte(bytes[44])?,
        kind: match bytes[45] {
            0 => Kind::Data,
            1 => Kind::Page,
            _ => return None,
        },
    };
    let (from, stored) = (u64::from(entry.offset), u64::from(entry.stored));
    // Places are added up in 32 bits elsewhere.
    let inside = from >= HEAD.len() as u64 && from + stored <= end.min(u32::MAX.into());
    let short = stored <= LONGEST && entry.length as usize <= chunk::LONGEST;
    (inside && short && bytes[46..] == [0, 0]).then_some(entry)
}

/// The content of one chunk from its stored bytes: opened, decoded, and compared with its name.
pub(crate) fn content<'a>(pack: &str, entry: &Entry, stored: &'a [u8], keys: &Keys) -> Result<Cow<'a, [u8]>> {
    let what = format!("chunk {} in pack {pack}", entry.id);
    if stored.len() != entry.stored as usize {
        return Err(corrupt(format!("{what} is cut short")));
    }
    let opened =
        keys.open(stored, &entry.id.0).ok_or_else(|| corrupt(format!("{what} is not what was sealed there")))?;
    let content = chunk::decompress(entry.codec, opened, entry.length as usize, &what)?;
    if keys.name(&content) != entry.id {
        return Err(corrupt(format!("{what} does not have the content that its name says")));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{allocated::allocated, crypt::new_master};

    fn prepared(content: &[u8], keys: &Keys) -> Prepared {
        Prepared::new(keys.name(content), Kind::Data, Content::Made(content.to_vec()), 3, keys)
    }

    fn read(name: &str, bytes: &[u8], keys: &Keys) -> Result<Vec<Vec<u8>>> {
        let size = bytes.len() as u64;
        let at = bytes.len().saturating_sub(TAIL);
        let tail = Tail::decode(name, &bytes[at..], size)?;
        let entries = tail.entries(name, &bytes[at - tail.footer as usize..at], size, keys)?;
        let stored = |e: &Entry| &bytes[e.offset as usize..(e.offset + e.stored) as usize];
        entries.iter().map(|e| content(name, e, stored(e), keys).map(Cow::into_owned)).collect()
    }

    #[test]
    fn a_footer_names_no_chunk_that_cannot_be() {
        let mut bytes = [0; ENTRY];
        let mut set = |offset: u32, stored: u32, length: u32, end: u64| {
            bytes[32..36].copy_from_slice(&offset.to_le_bytes());
            bytes[36..40].copy_from_slice(&stored.to_le_bytes());
            bytes[40..44].copy_from_slice(&length.to_le_bytes());
            entry(&bytes, end).is_some()
        };
        let huge = 1 << 40;
        assert!(set(8, 100, 4096, 108) && !set(8, 101, 4096, 108) && !set(7, 100, 4096, 108));
        assert!(set(u32::MAX - 100, 100, 4096, huge) && !set(u32::MAX - 100, 101, 4096, huge));
        assert!(!set(8, 1 << 30, 4096, huge) && !set(8, 100, 1 << 30, huge));
    }

    #[test]
    fn a_footer_longer_than_any_is_not_read() {
        let tail = |footer: u32| {
            let mut bytes = [0; TAIL];
            bytes[..4].copy_from_slice(&footer.to_le_bytes());
            bytes[TAIL - END.len()..].copy_from_slice(END);
            Tail::decode("s/1", &bytes, 1 << 40)
        };
        assert_eq!(tail(LONGEST_FOOTER).unwrap().footer, LONGEST_FOOTER);
        assert!(tail(LONGEST_FOOTER + 1).is_err());
    }

    fn noise(len: usize, seed: u64) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    /// Bytes that a full pack of such chunks takes: while it is filled, and done; and how many chunks it has.
    fn memory_of_a_pack(content: impl Fn(u64) -> Content) -> ([usize; 2], usize) {
        let keys = Keys::none();
        let before = allocated();
        let mut writer = Writer::new("s/1".to_owned(), keys.clone());
        for seed in 0.. {
            let content = content(seed);
            writer.add(Prepared::new(keys.name(&content), Kind::Data, content, 3, &keys));
            if writer.is_full() {
                break;
            }
        }
        let filled = allocated().wrapping_sub(before);
        let (parts, entries) = writer.finish();
        let done = allocated().wrapping_sub(before);
        drop(parts);
        ([filled, done], entries.len())
    }

    #[test]
    fn a_full_pack_takes_little_more_memory_than_its_bytes() {
        const MOST_MEMORY: usize = FULL + FULL / 4;
        // Reads of two blocks, as the engine hands them out; of a window; and what alternates.
        let reads: [fn(u64) -> usize; 4] =
            [|_| 8192, |_| 65_536, |_| 262_144, |seed| [4096, 69_632][seed as usize % 2]];
        for (number, len) in reads.into_iter().enumerate() {
            let read = |seed| Content::Read(cairn_engine::IoBuf::from(&noise(len(seed), seed)[..]));
            let (memory, _) = memory_of_a_pack(read);
            assert!(memory.into_iter().all(|bytes| bytes > FULL && bytes < MOST_MEMORY), "{number}: {memory:?}");
        }
        // Blocks of one value with a number in front, which compress to a few bytes.
        let tiny = |seed: u64| {
            let mut bytes = vec![0xe5; 4096];
            bytes[..8].copy_from_slice(&seed.to_le_bytes());
            Content::Made(bytes)
        };
        let (memory, chunks) = memory_of_a_pack(tiny);
        assert!(memory.into_iter().all(|bytes| bytes < FULL) && chunks == MOST, "{chunks} chunks in {memory:?}");
    }

    #[test]
    fn a_pack_says_what_is_in_it_and_every_changed_byte_is_noticed() {
        for keys in [Keys::none(), Keys::from_master(&new_master())] {
            let contents = [vec![7; 5000], b"short".to_vec(), Vec::new()];
            let mut writer = Writer::new("s/1".to_owned(), keys.clone());
            assert!(writer.is_empty());
            contents.iter().for_each(|content| writer.add(prepared(content, &keys)));
            let (parts, entries) = writer.finish();
            let bytes = parts.concat();
            assert_eq!(entries.len(), 3);
            assert_eq!(read("s/1", &bytes, &keys).unwrap(), contents);
            for at in HEAD.len()..bytes.len() {
                let mut changed = bytes.clone();
                changed[at] ^= 1;
                assert!(read("s/1", &changed, &keys).is_err(), "byte {at} of {}", bytes.len());
            }
            for cut in 0..bytes.len() {
                assert!(read("s/1", &bytes[..cut], &keys).is_err(), "cut at {cut}");
            }
            // One pack cannot be passed off as another.
            assert!(read("s/2", &bytes, &keys).is_err());
        }
    }
}
