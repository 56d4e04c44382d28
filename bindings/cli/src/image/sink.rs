//! Writing a disk image: raw into a file or to standard output, or qcow2.
//!
//! Invariant: an image stands under its name only when it is complete and on stable storage; until then it is a temporary
//! file beside it, which goes with this process.

use cairn_engine::{Error, ErrorKind};
use cairn_service::Failure;
use std::{
    fs::{self, File, Permissions},
    io::{self, Write},
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
};
use tempfile::NamedTempFile;

use super::{is_zero, qcow2::Qcow2Sink};
use crate::args::ImageFormat;

/// Where an image is to go, decided before anything is read.
pub(crate) enum Destination {
    File { path: PathBuf, format: ImageFormat, replace: bool },
    Stdout,
}

impl Destination {
    /// `-` is standard output. A file that exists needs `replace`.
    pub(crate) fn choose(path: &Path, format: Option<ImageFormat>, replace: bool) -> Result<Self, Failure> {
        if path == Path::new("-") {
            return match format {
                Some(ImageFormat::Qcow2) => Err(Failure::new(
                    ErrorKind::Invalid,
                    "a qcow2 image cannot be written to standard output, since it is not written in order: give a file",
                )),
                _ => Ok(Self::Stdout),
            };
        }
        let by_name = match path.extension() {
            Some(ending) if ending.eq_ignore_ascii_case("qcow2") => ImageFormat::Qcow2,
            _ => ImageFormat::Raw,
        };
        match fs::metadata(path) {
            Ok(found) if !found.is_file() => Err(Failure::new(
                ErrorKind::Invalid,
                format!("{} is no plain file: export to a file, or to - and redirect", path.display()),
            )),
            Ok(_) if !replace => Err(exists(path)),
            _ => Ok(Self::File { path: path.into(), format: format.unwrap_or(by_name), replace }),
        }
    }

    pub(crate) fn format(&self) -> &'static str {
        match self {
            Self::File { format: ImageFormat::Qcow2, .. } => "qcow2",
            _ => "raw",
        }
    }
}

fn exists(path: &Path) -> Failure {
    Failure::new(ErrorKind::Exists, format!("file {} exists: choose another name, or say --force", path.display()))
}

/// An image that is being written.
pub(crate) struct Sink {
    into: Into,
    size: u64,
}

enum Into {
    Raw(Target),
    Qcow2(Box<Qcow2Sink>, Target),
    Stdout { position: u64 },
}

/// A file under its temporary name, and what becomes of it.
struct Target {
    file: NamedTempFile,
    path: PathBuf,
    replace: bool,
}

impl Sink {
    /// Begins an image of a disk of `size` bytes.
    pub(crate) async fn create(destination: Destination, size: u64) -> Result<Self, Failure> {
        let (path, format, replace) = match destination {
            Destination::Stdout => return Ok(Self { into: Into::Stdout { position: 0 }, size }),
            Destination::File { path, format, replace } => (path, format, replace),
        };
        let fail = |error| Failure::from(Error::io(format!("file {}", path.display()), error));
        let file = tempfile::Builder::new()
            .prefix(".cairn-export-")
            // What the umask leaves of it, as for any new file.
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(directory_of(&path))
            .map_err(fail)?;
        let into = match format {
            ImageFormat::Raw => {
                file.as_file().set_len(size).map_err(fail)?;
                Into::Raw(Target { file, path, replace })
            }
            ImageFormat::Qcow2 => {
                let opened = file.reopen().map_err(fail)?;
                let image = Qcow2Sink::create(opened, path.display().to_string(), size).await?;
                Into::Qcow2(Box::new(image), Target { file, path, replace })
            }
        };
        Ok(Self { into, size })
    }

    /// Writes data at `offset`. Offsets only grow; what is left out reads as zeros.
    pub(crate) async fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), Failure> {
        if is_zero(data) {
            return Ok(());
        }
        match &mut self.into {
            Into::Raw(target) => target.file.as_file().write_all_at(data, offset).map_err(|error| target.fail(error)),
            Into::Qcow2(image, _) => image.write(offset, data).await,
            Into::Stdout { position } => {
                zeros_to_stdout(offset - *position)?;
                io::stdout().lock().write_all(data).map_err(stdout_failed)?;
                *position = offset + data.len() as u64;
                Ok(())
            }
        }
    }

    /// Completes the image and gives it its name.
    pub(crate) async fn finish(self) -> Result<(), Failure> {
        match self.into {
            Into::Raw(target) => target.keep(),
            Into::Qcow2(image, target) => {
                image.finish().await?;
                target.keep()
            }
            Into::Stdout { position } => {
                zeros_to_stdout(self.size - position)?;
                io::stdout().lock().flush().map_err(stdout_failed)
            }
        }
    }
}

impl Target {
    fn fail(&self, error: io::Error) -> Failure {
        Error::io(format!("file {}", self.path.display()), error).into()
    }

    fn keep(self) -> Result<(), Failure> {
        self.file.as_file().sync_all().map_err(|error| self.fail(error))?;
        let Self { file, path, replace } = self;
        let kept = if replace { file.persist(&path) } else { file.persist_noclobber(&path) };
        kept.map_err(|error| match error.error.kind() {
            io::ErrorKind::AlreadyExists => exists(&path),
            _ => Error::io(format!("file {}", path.display()), error.error).into(),
        })?;
        // The name, too, must survive a crash.
        let synced = File::open(directory_of(&path)).and_then(|directory| directory.sync_all());
        synced.map_err(|error| Error::io(format!("directory of {}", path.display()), error).into())
    }
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn stdout_failed(error: io::Error) -> Failure {
    Error::io("standard output", error).into()
}

fn zeros_to_stdout(mut length: u64) -> Result<(), Failure> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let mut out = io::stdout().lock();
    while length > 0 {
        let now = length.min(ZEROS.len() as u64);
        out.write_all(&ZEROS[..now as usize]).map_err(stdout_failed)?;
        length -= now;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[tokio::test]
    async fn an_image_has_its_name_only_when_complete() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk.raw");
        let mut sink = Sink::create(Destination::choose(&path, None, false).unwrap(), 64 << 20).await.unwrap();
        sink.write(4096, &[1; 4096]).await.unwrap();
        assert!(!path.exists());
        sink.write(1 << 20, &[0; 1 << 20]).await.unwrap();
        sink.finish().await.unwrap();
        let found = fs::metadata(&path).unwrap();
        assert_eq!(found.len(), 64 << 20);
        assert!(found.blocks() * 512 <= 128 << 10, "holes stay holes: {} bytes used", found.blocks() * 512);
        assert_eq!(fs::read(&path).unwrap()[4095..8193], [&[0][..], &[1; 4096], &[0]].concat()[..]);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn what_is_given_up_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk.qcow2");
        let mut sink = Sink::create(Destination::choose(&path, None, false).unwrap(), 1 << 20).await.unwrap();
        sink.write(0, &[1; 512]).await.unwrap();
        drop(sink);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn files_are_replaced_only_by_force() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        let late = Sink::create(Destination::choose(&path, None, false).unwrap(), 512).await.unwrap();
        fs::write(&path, "precious").unwrap();
        assert_eq!(Destination::choose(&path, None, false).err().unwrap().kind, ErrorKind::Exists);
        assert_eq!(late.finish().await.unwrap_err().kind, ErrorKind::Exists);
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        Sink::create(Destination::choose(&path, None, true).unwrap(), 512).await.unwrap().finish().await.unwrap();
        assert_eq!(fs::read(&path).unwrap(), [0; 512]);
        assert_eq!(Destination::choose(directory.path(), None, true).err().unwrap().kind, ErrorKind::Invalid);
        assert_eq!(Destination::choose(&path, Some(ImageFormat::Qcow2), true).unwrap().format(), "qcow2");
    }
}
