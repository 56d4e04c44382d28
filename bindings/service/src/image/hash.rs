//! What clients compare bytes by.

use std::fmt::Write;

use aws_lc_rs::digest::{Context, SHA512};
use md5::{Digest, Md5};

/// MD5 and SHA-512 of bytes that come one after another.
#[derive(Clone)]
pub(crate) struct Hashing {
    md5: Md5,
    sha512: Context,
}

impl Hashing {
    pub(crate) fn new() -> Self {
        Self { md5: Md5::new(), sha512: Context::new(&SHA512) }
    }

    pub(crate) fn add(&mut self, data: &[u8]) {
        self.md5.update(data);
        self.sha512.update(data);
    }

    /// Both, in hexadecimal digits.
    pub(crate) fn end(self) -> (String, String) {
        (hex(&self.md5.finalize()), hex(self.sha512.finish().as_ref()))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a text cannot fail.
        let _done = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_everybody() {
        let mut hashing = Hashing::new();
        hashing.add(b"a");
        hashing.add(b"bc");
        let (md5, sha512) = hashing.end();
        assert_eq!(md5, "900150983cd24fb0d6963f7d28e17f72");
        assert!(sha512.starts_with("ddaf35a193617abacc417349ae204131") && sha512.len() == 128, "{sha512}");
    }
}
