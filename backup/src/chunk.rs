//! Chunks: pieces of content by the name of their content, and the form in which they are stored.

use std::{borrow::Cow, fmt, ops::Deref};

use bytes::Bytes;
use cairn_engine::IoBuf;

use crate::error::{Result, corrupt};

/// Length of a chunk's name.
pub(crate) const ID_LEN: usize = 32;
/// Longest content of one chunk: a window of a volume, or a page of a map.
pub(crate) const LONGEST: usize = 4 << 20;

/// The name of a chunk: the BLAKE3 of its content, keyed if the repository is encrypted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId(pub [u8; ID_LEN]);

impl ChunkId {
    /// What stands where there is no chunk.
    pub(crate) const NONE: Self = Self([0; ID_LEN]);

    pub(crate) fn is_none(&self) -> bool {
        *self == Self::NONE
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}{:02x}{:02x}{:02x}…", self.0[0], self.0[1], self.0[2], self.0[3])
    }
}

/// How content is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Codec {
    Plain,
    Zstd,
}

impl Codec {
    pub(crate) fn to_byte(self) -> u8 {
        match self {
            Self::Plain => 0,
            Self::Zstd => 1,
        }
    }

    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Plain),
            1 => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// Content on its way into a pack: as it was read, or made of parts.
pub(crate) enum Content {
    Read(IoBuf),
    Made(Vec<u8>),
}

impl Content {
    /// The same, shared and never copied again.
    pub(crate) fn into_bytes(self) -> Bytes {
        struct Owner(IoBuf);
        impl AsRef<[u8]> for Owner {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        match self {
            Self::Read(bytes) => Bytes::from_owner(Owner(bytes)),
            Self::Made(mut bytes) => {
                // The compressor was given room for the worst case.
                bytes.shrink_to_fit();
                Bytes::from(bytes)
            }
        }
    }
}

impl Deref for Content {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Read(bytes) => bytes,
            Self::Made(bytes) => bytes,
        }
    }
}

/// Content in the form in which it takes less room. It was decoded again and compared before it is handed out.
pub(crate) fn compress(content: Content, level: i32) -> (Codec, Content) {
    if !looks_compressible(&content) {
        return (Codec::Plain, content);
    }
    // What saves less than an eighth is not worth the decoding.
    let packed = zstd::bulk::compress(&content, level).ok().filter(|p| p.len() <= content.len() - content.len() / 8);
    let again = |packed: &Vec<u8>| zstd::bulk::decompress(packed, content.len()).is_ok_and(|again| again == *content);
    match packed.filter(again) {
        Some(packed) => (Codec::Zstd, Content::Made(packed)),
        None => (Codec::Plain, content),
    }
}

/// Whether a sample of the bytes is far enough from even use of all values. Encrypted and already compressed data is not tried in full.
fn looks_compressible(content: &[u8]) -> bool {
    const SAMPLES: usize = 2048;
    if content.len() < SAMPLES * 2 {
        return true;
    }
    let mut counts = [0u32; 256];
    let step = content.len() / SAMPLES;
    // An odd stride, so that a pattern of words is not sampled at one of its bytes only.
    for byte in content.iter().step_by(step | 1) {
        counts[usize::from(*byte)] += 1;
    }
    let total: u32 = counts.iter().sum();
    // Sum of squares: total²/256 for even use; a little more for chance.
    let squares: u64 = counts.iter().map(|n| u64::from(*n) * u64::from(*n)).sum();
    let even = u64::from(total) * u64::from(total) / 256;
    squares > even + u64::from(total) + u64::from(total) / 4
}

/// The content of a stored chunk; `what` names it in errors.
pub(crate) fn decompress<'a>(
    codec: Codec,
    stored: Cow<'a, [u8]>,
    length: usize,
    what: &dyn fmt::Display,
) -> Result<Cow<'a, [u8]>> {
    if length > LONGEST {
        return Err(corrupt(format!("{what} says that it has {length} bytes, more than any chunk")));
    }
    let content = match codec {
        Codec::Plain => stored,
        Codec::Zstd => zstd::bulk::decompress(&stored, length)
            .map(Cow::Owned)
            .map_err(|e| corrupt(format!("{what} cannot be decompressed ({e})")))?,
    };
    if content.len() != length {
        return Err(corrupt(format!("{what} has {} bytes instead of {length}", content.len())));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize, seed: u8) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn what_compresses_is_compressed_and_what_does_not_is_left_alone() {
        let text = b"a disk is mostly the same again and again; ".repeat(5000);
        let (codec, packed) = compress(Content::Made(text.clone()), 3);
        assert_eq!(codec, Codec::Zstd);
        assert!(packed.len() < text.len() / 10);
        assert_eq!(&decompress(codec, Cow::Borrowed(&packed), text.len(), &"x").unwrap()[..], text);
        for len in [0, 1, 4096, 262_144] {
            let random = noise(len, 3);
            let (codec, stored) = compress(Content::Made(random.clone()), 3);
            assert_eq!((codec, &stored[..]), (Codec::Plain, &random[..]));
        }
        // Half of it compresses: it is worth trying.
        let half = [noise(131_072, 4), vec![7; 131_072]].concat();
        assert_eq!(compress(Content::Made(half), 3).0, Codec::Zstd);
    }

    #[test]
    fn wrong_lengths_and_broken_frames_are_told() {
        let (codec, packed) = compress(Content::Made(vec![7; 100_000]), 3);
        assert!(decompress(codec, Cow::Borrowed(&packed), 99_999, &"chunk").is_err());
        assert!(decompress(codec, Cow::Borrowed(&packed), LONGEST + 1, &"chunk").is_err());
        assert!(decompress(codec, Cow::Borrowed(&packed[..packed.len() - 1]), 100_000, &"chunk").is_err());
        assert!(
            decompress(Codec::Plain, Cow::Borrowed(&packed), 100_000, &"chunk")
                .unwrap_err()
                .to_string()
                .starts_with("chunk")
        );
    }
}
