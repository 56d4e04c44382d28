//! `cairn volume …`.

use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

use super::{Cache, Sync};
use crate::size;

#[derive(Debug, Subcommand)]
pub(crate) enum VolumeCommand {
    /// Create an empty volume
    #[command(after_help = "Examples:
  cairn volume create db --size 10GiB
  cairn volume create scratch --size 512MiB --sync never")]
    Create(CreateVolume),
    /// List the volumes
    #[command(after_help = "Examples:
  cairn volume list
  cairn volume list --exclusive")]
    List {
        /// Also work out what deleting each would free (reads metadata)
        #[arg(long)]
        exclusive: bool,
    },
    /// Show one volume
    #[command(after_help = "Examples:
  cairn volume info db
  cairn --json volume info db --exclusive")]
    Info {
        /// The volume
        name: String,
        /// Also work out what deleting it would free (reads metadata)
        #[arg(long)]
        exclusive: bool,
    },
    /// Grow a volume, also while it is in use
    #[command(after_help = "Examples:
  cairn volume resize db --size 20GiB")]
    Resize {
        /// The volume
        name: String,
        /// The new size; shrinking is refused
        #[arg(long, value_parser = size::parse)]
        size: u64,
    },
    /// Rename a volume; its snapshots go with it
    #[command(after_help = "Examples:
  cairn volume rename db db-old")]
    Rename {
        /// The volume
        name: String,
        /// Its new name
        new_name: String,
    },
    /// Change the options of a volume
    #[command(after_help = "Examples:
  cairn volume set db --sync always
  cairn volume set scratch --cache writeback")]
    Set {
        /// The volume
        name: String,
        /// When its writes reach stable storage
        #[arg(long, value_name = "WHEN", required_unless_present = "cache")]
        sync: Option<Sync>,
        /// From where its writes are acknowledged
        #[arg(long, value_name = "FROM")]
        cache: Option<Cache>,
    },
    /// Delete a volume; clones made from its snapshots live on
    #[command(after_help = "Examples:
  cairn volume delete db-test
  cairn volume delete db --cascade")]
    Delete {
        /// The volume
        name: String,
        /// With all its snapshots; without this a volume that has any is kept
        #[arg(long)]
        cascade: bool,
        /// Return only when the space has been given back (always so when the pool is not served)
        #[arg(long = "wait-space")]
        wait_space: bool,
    },
    /// Make a volume from a disk image
    #[command(after_help = "Examples:
  cairn volume import debian.qcow2 debian
  cairn volume import disk.raw db --size 20GiB
  zcat disk.raw.gz | cairn volume import - db --size 10GiB

Holes and zeros of the image take no space. An image that refers to other files (a backing file, an external data
file) is refused, because whoever made it chose which files of this machine would be read: see --allow-backing.")]
    Import(ImportArgs),
    /// Write a volume or snapshot into a disk image
    #[command(after_help = "Examples:
  cairn volume export db@before db.qcow2
  cairn volume export db db.raw --force
  cairn volume export db@before - | zstd > db.raw.zst

Holes stay holes. The image appears under its name only when it is complete. A volume of a served pool is exported
as it is at the start, by a snapshot that is deleted at the end.")]
    Export(ExportArgs),
}

#[derive(Args, Debug)]
pub(crate) struct CreateVolume {
    /// Its name: 1 to 128 characters without @, / and control characters
    pub(crate) name: String,
    /// Its size: 1 MiB to 64 TiB in steps of 512 bytes
    #[arg(long, value_parser = size::parse)]
    pub(crate) size: u64,
    /// When its writes reach stable storage
    #[arg(long, value_name = "WHEN", default_value = "flush")]
    pub(crate) sync: Sync,
    /// From where its writes are acknowledged
    #[arg(long, value_name = "FROM", default_value = "direct")]
    pub(crate) cache: Cache,
}

/// Formats of disk images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ImageFormat {
    /// The bytes of the disk as they are
    Raw,
    /// QEMU's format
    Qcow2,
}

#[derive(Args, Debug)]
pub(crate) struct ImportArgs {
    /// The image: a file, a device, or - for standard input
    pub(crate) file: PathBuf,
    /// Name of the new volume
    pub(crate) name: String,
    /// Format of the image; recognised by its first bytes when left out
    #[arg(long)]
    pub(crate) format: Option<ImageFormat>,
    /// Size of the volume, not below the image's; the image's when left out
    #[arg(long, value_parser = size::parse)]
    pub(crate) size: Option<u64>,
    /// When its writes reach stable storage
    #[arg(long, value_name = "WHEN", default_value = "flush")]
    pub(crate) sync: Sync,
    /// From where its writes are acknowledged
    #[arg(long, value_name = "FROM", default_value = "direct")]
    pub(crate) cache: Cache,
    /// Read the files that the image refers to as well: only for images whose maker you trust with this machine's files
    #[arg(long, requires = "format")]
    pub(crate) allow_backing: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    /// VOLUME or VOLUME@SNAPSHOT
    pub(crate) target: String,
    /// The image to write, or - for standard output (raw)
    pub(crate) file: PathBuf,
    /// Format of the image; qcow2 for names that end in .qcow2, otherwise raw
    #[arg(long)]
    pub(crate) format: Option<ImageFormat>,
    /// Replace a file that exists
    #[arg(long)]
    pub(crate) force: bool,
}
