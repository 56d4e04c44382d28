//! Reading a disk image: raw from a file, a device or standard input, or qcow2.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use bytes::Bytes;
use cairn_engine::{Error, ErrorKind};
use cairn_service::Failure;
use rustix::{
    fs::{SeekFrom, seek},
    io::Errno,
};
use std::{
    fs::File,
    io::{self, Read, Seek},
    os::unix::fs::{FileExt, FileTypeExt},
    path::Path,
};

use super::{PIECE, Piece, SECTOR, is_zero, qcow2::Qcow2Source};
use crate::args::ImageFormat;

/// First bytes of a qcow2 image.
const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";

/// A disk image that is read from its beginning to its end, without its holes and zeros.
pub(crate) enum Source {
    Raw(RawSource),
    Stream(StreamSource),
    Qcow2(Box<Qcow2Source>),
}

impl Source {
    /// Opens an image; `-` is standard input. `allow_references` lets a qcow2 image name further files to read.
    pub(crate) async fn open(
        path: &Path,
        format: Option<ImageFormat>,
        allow_references: bool,
    ) -> Result<Self, Failure> {
        if path == Path::new("-") {
            return match format {
                Some(ImageFormat::Qcow2) => Err(Failure::new(
                    ErrorKind::Invalid,
                    "a qcow2 image cannot be read from standard input, since it is not read in order: give a file",
                )),
                _ => Ok(Self::Stream(StreamSource { position: 0 })),
            };
        }
        let (file, size) = open_disk(path)?;
        let format = match format {
            Some(format) => format,
            None => recognise(&file).map_err(|error| Error::io(format!("image {}", path.display()), error))?,
        };
        match format {
            ImageFormat::Qcow2 => Ok(Self::Qcow2(Box::new(Qcow2Source::open(path, allow_references).await?))),
            ImageFormat::Raw => {
                Ok(Self::Raw(RawSource { file, name: path.display().to_string(), size, position: 0, can_seek: true }))
            }
        }
    }

    /// Bytes of the disk; unknown for a stream.
    pub(crate) fn size(&self) -> Option<u64> {
        match self {
            Self::Raw(raw) => Some(raw.size),
            Self::Stream(_) => None,
            Self::Qcow2(qcow2) => Some(qcow2.size()),
        }
    }

    pub(crate) fn format(&self) -> &'static str {
        match self {
            Self::Raw(_) | Self::Stream(_) => "raw",
            Self::Qcow2(_) => "qcow2",
        }
    }

    /// How far it has been read.
    pub(crate) fn position(&self) -> u64 {
        match self {
            Self::Raw(raw) => raw.position,
            Self::Stream(stream) => stream.position,
            Self::Qcow2(qcow2) => qcow2.position(),
        }
    }

    /// The next piece that holds something, in whole sectors (the last one filled up with zeros); `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Piece>, Failure> {
        loop {
            let piece = match self {
                Self::Raw(raw) => raw.next(),
                Self::Stream(stream) => stream.next().await,
                Self::Qcow2(qcow2) => qcow2.next().await,
            }?;
            match piece {
                Some(piece) if is_zero(&piece.data) => {}
                Some(Piece { offset, data }) => return Ok(Some(Piece { offset, data: whole_sectors(data) })),
                None => return Ok(None),
            }
        }
    }
}

/// A regular file or a block device, and its size.
fn open_disk(path: &Path) -> Result<(File, u64), Failure> {
    let fail = |error| Failure::from(Error::io(format!("image {}", path.display()), error));
    // Looked at before it is opened, since opening a pipe would wait for its other end.
    let kind = std::fs::metadata(path).map_err(fail)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        let text = format!("image {} is neither a file nor a block device; for a pipe use -", path.display());
        return Err(Failure::new(ErrorKind::Invalid, text));
    }
    let mut file = File::open(path).map_err(fail)?;
    let size = file.seek(io::SeekFrom::End(0)).map_err(fail)?;
    Ok((file, size))
}

fn recognise(file: &File) -> io::Result<ImageFormat> {
    let mut magic = [0; 4];
    match file.read_exact_at(&mut magic, 0) {
        Ok(()) if magic == QCOW2_MAGIC => Ok(ImageFormat::Qcow2),
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
        _ => Ok(ImageFormat::Raw),
    }
}

fn whole_sectors(data: Bytes) -> Bytes {
    if (data.len() as u64).is_multiple_of(SECTOR) {
        return data;
    }
    let mut padded = data.to_vec();
    padded.resize(padded.len().next_multiple_of(SECTOR as usize), 0);
    padded.into()
}

/// Length of the piece at `position`: up to the next multiple of [`PIECE`], or to `end`.
pub(super) fn piece_length(position: u64, end: u64) -> usize {
    let boundary = (position / PIECE as u64 + 1).saturating_mul(PIECE as u64);
    (boundary.min(end) - position) as usize
}

/// A raw image that can be read anywhere.
pub(crate) struct RawSource {
    file: File,
    name: String,
    size: u64,
    position: u64,
    can_seek: bool,
}

impl RawSource {
    fn next(&mut self) -> Result<Option<Piece>, Failure> {
        let fail = |name: &str, error| Failure::from(Error::io(format!("image {name}"), error));
        let Some((start, end)) = self.next_data().map_err(|error| fail(&self.name, error))? else {
            self.position = self.size;
            return Ok(None);
        };
        let mut data = vec![0; piece_length(start, end)];
        self.file.read_exact_at(&mut data, start).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                Failure::new(ErrorKind::Io, format!("image {} became shorter while it was read", self.name))
            }
            _ => fail(&self.name, error),
        })?;
        self.position = start + data.len() as u64;
        Ok(Some(Piece { offset: start, data: data.into() }))
    }

    /// The next range that the file system holds data for, from its sector on; `None` behind the last.
    fn next_data(&mut self) -> io::Result<Option<(u64, u64)>> {
        if self.position >= self.size {
            return Ok(None);
        }
        if !self.can_seek {
            return Ok(Some((self.position, self.size)));
        }
        let data = match seek(&self.file, SeekFrom::Data(self.position)) {
            Ok(data) => data,
            Err(Errno::NXIO) => return Ok(None),
            // Devices and some file systems do not tell.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                self.can_seek = false;
                return Ok(Some((self.position, self.size)));
            }
            Err(error) => return Err(error.into()),
        };
        // Whole blocks keep the volume's own writes whole; what is read too much is zeros.
        const BLOCK: u64 = cairn_engine::BLOCK;
        let hole = seek(&self.file, SeekFrom::Hole(data))?;
        let start = (data / BLOCK * BLOCK).max(self.position);
        let end = hole.next_multiple_of(BLOCK).min(self.size);
        Ok((start < end).then_some((start, end)))
    }
}

/// A raw image from standard input.
pub(crate) struct StreamSource {
    position: u64,
}

impl StreamSource {
    async fn next(&mut self) -> Result<Option<Piece>, Failure> {
        // On a thread of its own: the other end may take its time, and an interrupt must still be heard.
        let read = tokio::task::spawn_blocking(|| {
            let mut data = Vec::with_capacity(PIECE);
            io::stdin().lock().take(PIECE as u64).read_to_end(&mut data).map(|_| data)
        });
        let data = read.await.map_err(|_| Failure::new(ErrorKind::Io, "reading standard input was cut off"))?;
        let data = data.map_err(|error| Error::io("standard input", error))?;
        let offset = self.position;
        self.position += data.len() as u64;
        Ok((!data.is_empty()).then(|| Piece { offset, data: data.into() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    async fn read_all(source: &mut Source) -> Vec<(u64, Vec<u8>)> {
        let mut pieces = Vec::new();
        while let Some(piece) = source.next().await.unwrap() {
            assert!(piece.data.len() <= PIECE && piece.data.len() % 512 == 0 && piece.offset % 512 == 0);
            pieces.push((piece.offset, piece.data.to_vec()));
        }
        pieces
    }

    #[tokio::test]
    async fn holes_and_zeros_are_left_out_and_nothing_else() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let size = 8 * PIECE as u64 + 700;
        file.as_file().set_len(size).unwrap();
        let mut model = vec![0u8; size as usize];
        for (offset, length) in [(5000, 10), (PIECE - 1, 2), (3 * PIECE, PIECE + 5000), (8 * PIECE + 600, 100)] {
            model[offset..offset + length].fill(0xa5);
            file.as_file().write_all_at(&model[offset..offset + length], offset as u64).unwrap();
        }
        // Written zeros are data to the file system, but not to a volume.
        file.as_file().write_all_at(&vec![0; PIECE], 6 * PIECE as u64).unwrap();
        let mut source = Source::open(file.path(), None, false).await.unwrap();
        assert_eq!((source.size(), source.format()), (Some(size), "raw"));
        let mut read = vec![0u8; size.next_multiple_of(512) as usize];
        let mut last = 0;
        let mut total = 0;
        for (offset, data) in read_all(&mut source).await {
            assert!(offset >= last, "in order, without overlap");
            last = offset + data.len() as u64;
            total += data.len();
            read[offset as usize..last as usize].copy_from_slice(&data);
        }
        assert_eq!(read[..size as usize], model[..]);
        assert!(total <= 4 * PIECE, "{total} bytes read of which 1.01 MiB are not zero");
        assert_eq!(source.position(), size);
    }

    #[tokio::test]
    async fn the_first_bytes_tell_the_format() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(recognise(file.as_file()).unwrap(), ImageFormat::Raw);
        file.write_all(&QCOW2_MAGIC).unwrap();
        assert_eq!(recognise(file.as_file()).unwrap(), ImageFormat::Qcow2);
        let failure = Source::open(file.path(), None, false).await.err().unwrap();
        assert!(failure.message.contains(&file.path().display().to_string()), "{failure}");
        // The same bytes are a fine raw disk to somebody who says so.
        assert!(Source::open(file.path(), Some(ImageFormat::Raw), false).await.is_ok());
    }

    #[tokio::test]
    async fn what_is_no_disk_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let failure = Source::open(directory.path(), None, false).await.err().unwrap();
        assert_eq!(failure.kind, ErrorKind::Invalid);
        let failure = Source::open(&directory.path().join("none"), None, false).await.err().unwrap();
        assert_eq!(failure.kind, ErrorKind::NotFound);
        let failure = Source::open(Path::new("-"), Some(ImageFormat::Qcow2), false).await.err().unwrap();
        assert_eq!(failure.kind, ErrorKind::Invalid);
    }
}
