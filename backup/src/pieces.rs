//! What becomes of a chunk on its way into a repository and back, for benches.
//!
//! Not part of the interface.

use std::borrow::Cow;

use crate::{
    chunk::{self, Codec, Content},
    crypt::Keys,
};

/// A chunk as it is stored, with its name.
pub struct Chunk {
    name: [u8; 32],
    codec: Codec,
    stored: Content,
    length: usize,
}

/// Compressed as hard as repositories do by default.
const LEVEL: i32 = 3;

impl Chunk {
    /// Names some content and puts it into the form in which it is stored.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        let name = name(content);
        let (codec, stored) = chunk::compress(Content::Made(content.to_vec()), LEVEL);
        Self { name, codec, stored, length: content.len() }
    }

    /// Bytes that it takes.
    #[must_use]
    pub fn stored(&self) -> usize {
        self.stored.len()
    }

    /// The content again, if it is what the name says.
    #[must_use]
    pub fn content(&self) -> Option<Vec<u8>> {
        let content = chunk::decompress(self.codec, Cow::Borrowed(&self.stored), self.length, &"chunk").ok()?;
        (name(&content) == self.name).then(|| content.into_owned())
    }
}

/// The name of some content.
#[must_use]
pub fn name(content: &[u8]) -> [u8; 32] {
    Keys::none().name(content).0
}
