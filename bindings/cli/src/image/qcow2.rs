//! qcow2 images, by the library imago.
//!
//! Invariant: an image is read by itself. A backing file or external data file that it names is opened only when the user
//! said that its maker may choose files of this machine to be read. A panic of the library over a damaged image ends in an
//! error of that image.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use cairn_engine::{Error, ErrorKind};
use cairn_service::Failure;
use futures_util::FutureExt;
use imago::{
    DenyImplicitOpenGate, FormatAccess, FormatCreateBuilder, FormatDriverBuilder, Mapping, Storage, StorageOpenOptions,
    file::File,
    format::gate::ImplicitOpenGate,
    qcow2::{Qcow2, Qcow2CreateBuilder},
};
use std::{fmt, future::Future, io, panic::AssertUnwindSafe, path::Path};

use super::{Piece, source::piece_length};

/// Largest disk that an image may claim to be: that of the largest volume. A header of a few bytes must not keep this
/// process busy with an endless disk of nothing.
const LARGEST_DISK: u64 = 64 * cairn_engine::TIB;

/// Longest chain of backing files that is followed.
const LONGEST_CHAIN: u32 = 64;

/// What the refusal of a reference says.
#[derive(Debug)]
struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

fn refused(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, Refused(text))
}

/// Decides over the files that an image names.
struct References {
    allowed: bool,
    /// How many more images may follow.
    left: u32,
}

impl ImplicitOpenGate<File> for References {
    async fn open_format<F: FormatDriverBuilder<File>>(&mut self, builder: F) -> io::Result<FormatAccess<File>> {
        let Some(left) = self.left.checked_sub(1) else {
            return Err(refused(format!("more than {LONGEST_CHAIN} backing files follow one another: is it a ring?")));
        };
        let next = Self { allowed: self.allowed, left };
        Ok(FormatAccess::new(Box::pin(builder.open(next)).await?))
    }

    async fn open_storage(&mut self, options: StorageOpenOptions) -> io::Result<File> {
        if !self.allowed {
            let name = options.get_filename().map_or_else(|| "another file".into(), |name| name.display().to_string());
            return Err(refused(format!(
                "the image refers to {name}, which would be read too; if you trust its maker with the files of this \
                 machine, say --format qcow2 --allow-backing"
            )));
        }
        // Never for writing, whatever the image may be open for.
        File::open(options.write(false)).await
    }
}

/// A qcow2 image that is read.
pub(crate) struct Qcow2Source {
    image: FormatAccess<File>,
    name: String,
    position: u64,
}

impl Qcow2Source {
    pub(super) async fn open(path: &Path, allow_references: bool) -> Result<Self, Failure> {
        let name = path.display().to_string();
        let gate = References { allowed: allow_references, left: LONGEST_CHAIN };
        let image = guarded(&name, async {
            let file = File::open(StorageOpenOptions::new().filename(path)).await?;
            Qcow2::<File>::builder(file).open(gate).await
        });
        let image = FormatAccess::new(image.await?);
        if image.size() > LARGEST_DISK {
            let text = format!("image {name} claims to be a disk of {} bytes, more than any volume has", image.size());
            return Err(Failure::new(ErrorKind::Invalid, text));
        }
        Ok(Self { image, name, position: 0 })
    }

    pub(super) fn size(&self) -> u64 {
        self.image.size()
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// The next piece that the image holds data for.
    pub(super) async fn next(&mut self) -> Result<Option<Piece>, Failure> {
        let size = self.image.size();
        while self.position < size {
            let offset = self.position;
            let (length, data) = guarded(&self.name, piece_at(&self.image, offset, size)).await?;
            self.position += length;
            if let Some(data) = data {
                return Ok(Some(Piece { offset, data: data.into() }));
            }
            // The library never waits; an image of many small holes must leave room for an interrupt.
            tokio::task::yield_now().await;
        }
        Ok(None)
    }
}

/// What is at `offset`: how long it is, and its data unless it reads as zeros.
async fn piece_at(image: &FormatAccess<File>, offset: u64, size: u64) -> io::Result<(u64, Option<Vec<u8>>)> {
    let (mapping, length) = image.get_mapping(offset, size - offset).await?;
    let length = length.min(size - offset);
    if length == 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("nothing is mapped at offset {offset}")));
    }
    if matches!(mapping, Mapping::Zero { .. }) {
        return Ok((length, None));
    }
    let mut data = vec![0; piece_length(offset, offset + length)];
    image.read(&mut data[..], offset).await?;
    Ok((data.len() as u64, Some(data)))
}

/// Runs what works on an image's bytes, and names the image in what goes wrong.
async fn guarded<T>(name: &str, work: impl Future<Output = io::Result<T>>) -> Result<T, Failure> {
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(outcome) => outcome.map_err(|error| failure(name, error)),
        Err(_) => Err(Failure::new(ErrorKind::Corrupt, format!("image {name} is damaged: reading it failed badly"))),
    }
}

fn failure(name: &str, error: io::Error) -> Failure {
    let kind = match error.kind() {
        _ if error.raw_os_error().is_some() => return Error::io(format!("image {name}"), error).into(),
        io::ErrorKind::PermissionDenied => ErrorKind::Invalid,
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof => ErrorKind::Corrupt,
        io::ErrorKind::Unsupported => ErrorKind::Unsupported,
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        _ => ErrorKind::Io,
    };
    Failure::new(kind, format!("image {name}: {error}"))
}

/// A qcow2 image that is written.
pub(super) struct Qcow2Sink {
    image: FormatAccess<File>,
    name: String,
}

impl Qcow2Sink {
    /// Makes an image of `size` bytes in an empty file.
    pub(super) async fn create(file: std::fs::File, name: String, size: u64) -> Result<Self, Failure> {
        let create = async {
            let builder: Qcow2CreateBuilder<File> = Qcow2CreateBuilder::new(File::try_from(file)?).size(size);
            builder.create_open(DenyImplicitOpenGate::default(), |file| Ok(Qcow2::builder(file).backing(None))).await
        };
        let image = create.await.map_err(|error| failure(&name, error))?;
        Ok(Self { image: FormatAccess::new(image), name })
    }

    pub(super) async fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), Failure> {
        self.image.write(data, offset).await.map_err(|error| failure(&self.name, error))
    }

    /// Writes out what the library still holds.
    pub(super) async fn finish(self) -> Result<(), Failure> {
        let finish = async {
            self.image.flush().await?;
            self.image.sync().await
        };
        finish.await.map_err(|error| failure(&self.name, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Source;

    async fn image_with(pieces: &[(u64, &[u8])], size: u64) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut sink = Qcow2Sink::create(file.reopen().unwrap(), "x".into(), size).await.unwrap();
        for (offset, data) in pieces {
            sink.write(*offset, data).await.unwrap();
        }
        sink.finish().await.unwrap();
        file
    }

    #[tokio::test]
    async fn what_was_written_is_read_and_holes_are_not() {
        let size = 1 << 30;
        let file = image_with(&[(4096, &[1; 4096]), ((1 << 29) + 512, &[2; 70_000])], size).await;
        let mut source = Source::open(file.path(), None, false).await.unwrap();
        assert_eq!((source.size(), source.format()), (Some(size), "qcow2"));
        let mut found = 0;
        let mut read = 0;
        while let Some(piece) = source.next().await.unwrap() {
            read += piece.data.len();
            for (place, byte) in (piece.offset..).zip(&piece.data) {
                let expected = match place {
                    4096..8192 => 1,
                    _ if ((1 << 29) + 512..(1 << 29) + 70_512).contains(&place) => 2,
                    _ => 0,
                };
                assert_eq!(*byte, expected, "at {place}");
                found += u32::from(*byte);
            }
        }
        assert_eq!(found, 4096 + 2 * 70_000);
        assert!(read <= 4 * 65_536, "{read} bytes for three clusters");
    }

    /// An image of version 2 whose header names a backing file.
    fn with_backing(name: &[u8]) -> tempfile::NamedTempFile {
        let mut bytes = vec![0u8; 4 * 65_536];
        bytes[..4].copy_from_slice(b"QFI\xfb");
        bytes[4..8].copy_from_slice(&2u32.to_be_bytes());
        bytes[8..16].copy_from_slice(&512u64.to_be_bytes());
        bytes[16..20].copy_from_slice(&(name.len() as u32).to_be_bytes());
        bytes[20..24].copy_from_slice(&16u32.to_be_bytes());
        bytes[24..32].copy_from_slice(&(1u64 << 20).to_be_bytes());
        bytes[36..40].copy_from_slice(&1u32.to_be_bytes());
        bytes[40..48].copy_from_slice(&(3u64 * 65_536).to_be_bytes());
        bytes[48..56].copy_from_slice(&65_536u64.to_be_bytes());
        bytes[56..60].copy_from_slice(&1u32.to_be_bytes());
        bytes[512..512 + name.len()].copy_from_slice(name);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    #[tokio::test]
    async fn a_backing_file_is_read_only_on_request() {
        let secret = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(secret.path(), vec![0x5a; 1 << 20]).unwrap();
        let image = with_backing(secret.path().to_str().unwrap().as_bytes());
        let failure = Source::open(image.path(), None, false).await.err().unwrap();
        assert_eq!(failure.kind, ErrorKind::Invalid);
        assert!(failure.message.contains("--allow-backing"), "{failure}");
        assert!(failure.message.contains(secret.path().to_str().unwrap()), "{failure}");
        let mut source = Source::open(image.path(), None, true).await.unwrap();
        let piece = source.next().await.unwrap().unwrap();
        assert!(piece.data.iter().all(|byte| *byte == 0x5a));
    }

    #[tokio::test]
    async fn a_ring_of_backing_files_ends() {
        let directory = tempfile::tempdir().unwrap();
        let ring = directory.path().join("ring");
        std::fs::copy(with_backing(b"ring").path(), &ring).unwrap();
        let failure = Source::open(&ring, None, true).await.err().unwrap();
        assert!(failure.message.contains("ring?"), "{failure}");
    }

    #[tokio::test]
    async fn damaged_images_end_in_errors() {
        let whole = std::fs::read(image_with(&[(0, &[1; 65_536])], 1 << 20).await.path()).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        // Every byte of the header in turn, and cut off at any cluster.
        for place in 0..104 {
            for value in [0x00, 0x7f, 0xff] {
                let mut bytes = whole.clone();
                bytes[place] = value;
                std::fs::write(file.path(), &bytes).unwrap();
                read_through(file.path()).await;
            }
        }
        for clusters in 0..whole.len() / 65_536 {
            std::fs::write(file.path(), &whole[..clusters * 65_536 + 100]).unwrap();
            read_through(file.path()).await;
        }
    }

    /// Reads what can be read of the first pieces; the only way to fail is to fail in good order.
    async fn read_through(path: &Path) {
        let Ok(mut source) = Source::open(path, Some(crate::args::ImageFormat::Qcow2), false).await else { return };
        for _ in 0..4 {
            match source.next().await {
                Ok(Some(piece)) => assert!(piece.data.len() <= crate::image::PIECE),
                Ok(None) | Err(_) => return,
            }
        }
    }
}
