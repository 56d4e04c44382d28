//! The command line: what can be said, and the help that explains it.

mod attach;
mod backup;
mod bench;
mod pool;
mod qos;
mod regroup;
mod serve;
mod snapshot;
mod top;
mod up;
mod volume;

use cairn_engine::{CacheMode, StorageKind, SyncMode};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

pub(crate) use self::{
    attach::{AttachArgs, DetachArgs},
    backup::{
        BackupCommand, CreateArgs, DeleteArgs, ExportBackupArgs, GcArgs, ImportRecordArgs, InfoArgs, InitArgs,
        KeyCommand, OneArgs, PruneArgs, RestoreArgs, SelectArgs, VerifyArgs,
    },
    bench::{BENCH_HELP, BenchArgs, VerifyWhat},
    pool::{CheckArgs, CreatePool, EventsArgs, PoolCommand, ScrubArgs},
    qos::{ClearArgs, QosCommand, SetArgs},
    regroup::RegroupArgs,
    serve::{ServeArgs, TlsPolicy},
    snapshot::{CloneArgs, DiffArgs, SnapshotCommand},
    top::{SortKey, TopArgs},
    up::UpArgs,
    volume::{CreateVolume, ExportArgs, ImageFormat, ImportArgs, VolumeCommand},
};
use crate::exit;

const EXAMPLES: &str = "Examples:
  export CAIRN_POOL=/srv/main.pool
  cairn pool create --size 64GiB
  cairn volume create db --size 10GiB
  cairn serve &
  cairn snapshot create db@before
  cairn snapshot diff db@before db
  cairn clone db@before db-test
  cairn backup create db --repo file:///srv/backups

While a pool is served, all commands go to its server, over the control socket beside the pool (POOL.ctl);
otherwise each opens the pool for itself. Sizes and offsets: 4096, 512MiB, 10GiB, 10G, 1.5TiB.
";

/// Volumes, snapshots and clones in one pool, served over NBD.
#[derive(Debug, Parser)]
#[command(name = "cairn", version, after_help = format!("{EXAMPLES}\n{}", exit::HELP), disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Args, Debug)]
pub(crate) struct Global {
    /// The pool: a file or a block device
    #[arg(long, env = "CAIRN_POOL", global = true, value_name = "PATH")]
    pub(crate) pool: Option<PathBuf>,
    /// Answer in JSON, on standard output; failures too, on standard error
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// How to reach the pool's file or device [default: uring, or pread where io_uring is not available]
    #[arg(long, global = true, value_name = "KIND")]
    pub(crate) storage: Option<Storage>,
    /// How long to wait for a pool that another command holds
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 10)]
    pub(crate) wait: u64,
}

/// Ways to reach the pool's file or device.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Storage {
    /// io_uring with direct I/O
    Uring,
    /// Plain system calls
    Pread,
}

impl From<Storage> for StorageKind {
    fn from(storage: Storage) -> Self {
        match storage {
            Storage::Uring => Self::Uring,
            Storage::Pread => Self::Pread,
        }
    }
}

/// When writes of a volume reach stable storage.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Sync {
    /// Every write, before it is acknowledged
    Always,
    /// With the next flush, as a disk with a write cache does
    Flush,
    /// In the background only: a crash loses the latest writes
    Never,
}

impl From<Sync> for SyncMode {
    fn from(sync: Sync) -> Self {
        match sync {
            Sync::Always => Self::Always,
            Sync::Flush => Self::Flush,
            Sync::Never => Self::Never,
        }
    }
}

/// From where writes of a volume are acknowledged.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Cache {
    /// When the device has them
    Direct,
    /// From memory, as a disk with a volatile cache does: a crash loses the latest writes that were not flushed
    Writeback,
}

impl From<Cache> for CacheMode {
    fn from(cache: Cache) -> Self {
        match cache {
            Cache::Direct => Self::Direct,
            Cache::Writeback => Self::Writeback,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create, look at, check, scrub or repair a pool
    #[command(subcommand)]
    Pool(PoolCommand),
    /// Create, list, change, delete, import or export volumes
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Take, list, delete or compare snapshots, or go back to one
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Make a volume that starts from a snapshot, at no cost and independent at once
    #[command(after_help = "Examples:
  cairn clone db@before db-test
  cairn clone db@before db-big --size 20GiB")]
    Clone(CloneArgs),
    /// Back up volumes, and look at, verify, delete and restore backups
    #[command(subcommand)]
    Backup(BackupCommand),
    /// Limit requests and bytes a second: of a volume, of a group of volumes, of the pool
    #[command(subcommand)]
    Qos(QosCommand),
    /// Move a volume's scattered data into its order, so that it is read sequentially again, while it is in use
    #[command(after_help = regroup::HELP)]
    Regroup(RegroupArgs),
    /// Serve the volumes and snapshots of the pool over NBD, and to virtual machines, until SIGTERM or SIGINT
    #[command(after_help = "Examples:
  cairn serve
  cairn serve --nbd unix:/run/main.sock --nbd tcp:127.0.0.1:10809
  cairn serve --nbd tcp:0.0.0.0:10809 --tls require --tls-cert cert.pem --tls-key key.pem --tls-ca ca.pem
  cairn serve --vhost-user /run/cairn/vhost

Clients name an export VOLUME or, read-only, VOLUME@SNAPSHOT:
  qemu-img info 'nbd+unix:///db?socket=/srv/main.pool.nbd'
  nbdinfo 'nbd://127.0.0.1/db@before'")]
    Serve(ServeArgs),
    /// Try it out as a platform's block storage: serve Block Storage v3 with a pool and backups of its own, until Ctrl-C
    #[command(
        after_help = "Everything is in one directory, and is found there again; what is missing is made. --pool and CAIRN_POOL mean nothing here.
Nobody is asked who they are, so it listens on this machine only. For service, start cairnd.

Examples:
  cairn up
  cairn up /srv/try --size 10GiB --listen 127.0.0.1:9000
  cairn --json up | jq -r .url"
    )]
    Up(UpArgs),
    /// Give a virtual machine a volume, or a snapshot for reading, as its disk: make its vhost-user-blk socket, and say how to use it
    #[command(
        after_help = "The pool must be served with --vhost-user. The socket serves one virtual machine at a time. It stays until \"cairn detach\",
also when the server is stopped or killed and started again: virtual machines that run meanwhile see a pause.

Examples:
  cairn serve --vhost-user /run/cairn/vhost &
  cairn attach db
  cairn attach db@before --queues 1
  cairn --json attach db | jq -r .socket"
    )]
    Attach(AttachArgs),
    /// Take a disk away again that was given with "cairn attach"
    #[command(after_help = "Examples:
  cairn detach db
  cairn detach db@before --force")]
    Detach(DetachArgs),
    /// Show whether the pool is served, where, and to whom
    #[command(after_help = "Examples:
  cairn status
  cairn --json status | jq .clients")]
    Status,
    /// Watch a served pool: what its volumes are asked for, how long that takes, and what holds it back
    #[command(
        after_help = "R/S and W/S are reads and writes a second, READ and WRITE their bytes a second. MEAN and P99 (what 99 % were done within, at
most twice too much) go from where a request was let go by the limits to its end. BUSY requests are under way, WAIT are kept
waiting by limits, or by other volumes. HELD BY names what held requests back, and the share of the interval for which it
kept a request waiting: \"volume:\", \"group:\" or \"pool:\" and the limit, or \"share\", the contention for the device.

Ends with q or Ctrl-C. Where standard output is no terminal, a table for each interval.

Examples:
  cairn top
  cairn top --interval 5 --sort latency
  cairn top --count 1
  cairn --json top --count 10 | jq .total.read.iops"
    )]
    Top(TopArgs),
    /// Measure a volume, a file or device, an NBD export, or a disk of a virtual machine, all with the same load
    #[command(after_help = BENCH_HELP)]
    Bench(BenchArgs),
    /// Stop the server of the pool, and wait until it has
    #[command(after_help = "Examples:
  cairn stop")]
    Stop,
    /// Print a completion script for a shell
    #[command(after_help = "Examples:
  cairn completions bash > /etc/bash_completion.d/cairn
  cairn completions zsh > ~/.zfunc/_cairn")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn leaves(command: &clap::Command, path: &str, found: &mut Vec<(String, clap::Command)>) {
        let path = format!("{path} {}", command.get_name());
        if !command.has_subcommands() {
            found.push((path.trim().to_owned(), command.clone()));
        }
        for sub in command.get_subcommands() {
            leaves(sub, &path, found);
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples_and_every_argument_an_explanation() {
        let mut found = Vec::new();
        leaves(&Cli::command(), "", &mut found);
        assert!(found.len() > 20, "{}", found.len());
        for (path, command) in found {
            let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(after.contains("Examples:") && after.contains(&path), "{path} has no example of itself");
            assert!(command.get_about().is_some(), "{path}");
            for arg in command.get_arguments() {
                assert!(arg.get_help().is_some(), "{path}: {} is not explained", arg.get_id());
            }
        }
    }

    #[test]
    fn every_example_is_a_command_line() {
        let mut found = Vec::new();
        leaves(&Cli::command(), "", &mut found);
        found.push(("cairn".into(), Cli::command()));
        for (path, command) in found {
            let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            for line in after.lines().filter_map(|line| line.strip_prefix("  cairn ")) {
                let line = line.split(['|', '>', '&']).next().unwrap_or_default();
                let words = ["cairn"].into_iter().chain(line.split_whitespace());
                if let Err(error) = Cli::try_parse_from(words) {
                    panic!("example of {path}: cairn {line}: {error}");
                }
            }
        }
    }
}
