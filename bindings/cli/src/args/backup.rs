//! `cairn backup …`.

use cairn_backup::{CollectOptions, Policy};
use cairn_service::{Failure, backup::RepositoryRef};
use clap::{ArgGroup, Args, Subcommand};
use std::{collections::BTreeMap, env, path::PathBuf};

use crate::size;

#[derive(Debug, Subcommand)]
pub(crate) enum BackupCommand {
    /// Make a repository
    #[command(after_help = "Examples:
  cairn backup init --repo file:///srv/backups
  cairn backup init --repo s3://bucket/cairn --option aws_endpoint=http://127.0.0.1:9000
  openssl rand -hex 32 > /etc/cairn/backup.key
  cairn backup init --repo /srv/backups --key-file /etc/cairn/backup.key")]
    Init(InitArgs),
    /// Back up a volume, which may be in use meanwhile
    #[command(after_help = "Examples:
  cairn backup create db --repo file:///srv/backups
  cairn backup create db --full --label reason=upgrade
  cairn --json backup create db --limit 50MiB | jq .id

The first backup of a volume is full. Later ones read and store what changed since the one before, and the answer says which kind was made and why.")]
    Create(CreateArgs),
    /// List backups
    #[command(after_help = "Examples:
  cairn backup list --repo file:///srv/backups
  cairn backup list --volume db")]
    List(SelectArgs),
    /// Show which backups hang on which
    #[command(after_help = "Examples:
  cairn backup chain --repo file:///srv/backups
  cairn backup chain --volume db")]
    Chain(SelectArgs),
    /// Show one backup, or print its record for another repository or catalogue
    #[command(after_help = "Examples:
  cairn backup info 3f2a
  cairn backup info 3f2a --record > db-monday.record")]
    Info(InfoArgs),
    /// List a backup again that its repository holds but does not know of any more
    #[command(after_help = "Examples:
  cairn backup import db-monday.record --repo file:///srv/backups
  cairn backup import --all")]
    Import(ImportRecordArgs),
    /// Delete backups; those that others hang on only together with these
    #[command(after_help = "Examples:
  cairn backup delete 3f2a
  cairn backup delete 3f2a --cascade --dry-run")]
    Delete(DeleteArgs),
    /// Take a backup out of its chain without moving data; what hung on it loses nothing
    #[command(after_help = "Examples:
  cairn backup merge 3f2a")]
    Merge(OneArgs),
    /// Make an incremental backup a full one without moving data
    #[command(after_help = "Examples:
  cairn backup promote 3f2a")]
    Promote(OneArgs),
    /// Keep backups by a policy and merge the others away
    #[command(after_help = "Examples:
  cairn backup prune --keep-last 7 --keep-weekly 5 --dry-run
  cairn backup prune --keep-daily 14 --keep-monthly 12 --volume db")]
    Prune(PruneArgs),
    /// Give back the space of what no backup needs
    #[command(after_help = "Examples:
  cairn backup gc
  cairn backup gc --max-unused 0 --dry-run
  cairn backup gc --end-session 0123456789abcdef0123456789abcdef")]
    Gc(GcArgs),
    /// Read and compare backups without restoring them
    #[command(after_help = "Examples:
  cairn backup verify
  cairn backup verify 3f2a 77b0
  cairn backup verify --percent 5")]
    Verify(VerifyArgs),
    /// Offer a backup over NBD, read-only, until SIGTERM or SIGINT
    #[command(after_help = "Examples:
  cairn backup export 3f2a
  cairn backup export 3f2a --nbd tcp:127.0.0.1:10810")]
    Export(ExportBackupArgs),
    /// Restore a backup: into a new volume, over one that is there, or usable at once
    #[command(after_help = "Examples:
  cairn backup restore 3f2a db-restored
  cairn backup restore 3f2a db --in-place
  cairn backup restore 3f2a db-now --instant
  cairn backup restore 3f2a db-rest --salvage")]
    Restore(RestoreArgs),
    /// List, add or remove the keys of an encrypted repository
    #[command(subcommand)]
    Key(KeyCommand),
}

/// The repository, and what opens it.
#[derive(Args, Debug)]
pub(crate) struct Repo {
    /// The repository: file:///DIRECTORY, s3://BUCKET/PREFIX, gs://…, az://…, or a directory's path
    #[arg(long, env = "CAIRN_REPO", value_name = "URL")]
    pub(crate) repo: Option<String>,
    /// An option of the store, as aws_endpoint=http://127.0.0.1:9000; those of the environment (AWS_…, GOOGLE_…, AZURE_…) count too
    #[arg(long = "option", value_parser = pair, value_name = "NAME=VALUE")]
    pub(crate) options: Vec<(String, String)>,
    /// File whose first line is the passphrase
    #[arg(long, env = "CAIRN_PASSPHRASE_FILE", value_name = "PATH", conflicts_with = "key_file")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// File with the key, 64 hexadecimal digits
    #[arg(long, env = "CAIRN_KEY_FILE", value_name = "PATH")]
    pub(crate) key_file: Option<PathBuf>,
    /// Directory for caches [default: the user's]
    #[arg(long, env = "CAIRN_BACKUP_CACHE", value_name = "PATH")]
    pub(crate) cache: Option<PathBuf>,
}

impl Repo {
    /// As a server can use it: paths are absolute, and what this environment says is said.
    pub(crate) fn reference(&self) -> Result<RepositoryRef, Failure> {
        let text = "no repository is named: give --repo URL or set CAIRN_REPO";
        let url = self.repo.clone().ok_or_else(|| Failure::new(cairn_engine::ErrorKind::Invalid, text))?;
        let absolute = |path: &Option<PathBuf>| match path {
            Some(path) => std::path::absolute(path).map(Some),
            None => Ok(None),
        };
        let fail = |e| Failure::from(cairn_engine::Error::io("working directory", e));
        let is_store_option = |key: &String| ["AWS_", "GOOGLE_", "AZURE_"].iter().any(|prefix| key.starts_with(prefix));
        let from_environment = env::vars().filter(|(key, _)| is_store_option(key));
        let from_environment = from_environment.map(|(key, value)| (key.to_ascii_lowercase(), value));
        let url = match url.contains("://") {
            true => url,
            false => std::path::absolute(&url).map_err(fail)?.display().to_string(),
        };
        Ok(RepositoryRef {
            url,
            options: from_environment.chain(self.options.iter().cloned()).collect(),
            passphrase_file: absolute(&self.passphrase_file).map_err(fail)?,
            key_file: absolute(&self.key_file).map_err(fail)?,
            cache: absolute(&self.cache).map_err(fail)?,
        })
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not NAME=VALUE"))?;
    match name.is_empty() {
        true => Err(format!("{text:?} has no name")),
        false => Ok((name.to_owned(), value.to_owned())),
    }
}

#[derive(Args, Debug)]
pub(crate) struct InitArgs {
    #[command(flatten)]
    pub(crate) repo: Repo,
    /// Level of compression (zstd), 1 to 19
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..=19))]
    pub(crate) level: i32,
    /// Name of the first key, if one is given
    #[arg(long, default_value = "first", value_name = "NAME")]
    pub(crate) key_label: String,
}

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("mode").args(["full", "incremental"]))]
pub(crate) struct CreateArgs {
    /// The volume
    pub(crate) volume: String,
    #[command(flatten)]
    pub(crate) repo: Repo,
    /// Read and store everything, and begin a new chain
    #[arg(long)]
    pub(crate) full: bool,
    /// Read and store what changed, if there is something to go on from (the default)
    #[arg(long)]
    pub(crate) incremental: bool,
    /// The backup to hang on [default: the newest of the volume]
    #[arg(long, value_name = "ID", conflicts_with = "full")]
    pub(crate) parent: Option<String>,
    /// A snapshot of the volume to back up [default: a new one, kept for the next backup]
    #[arg(long, value_name = "NAME")]
    pub(crate) snapshot: Option<String>,
    /// What to remember with it
    #[arg(long = "label", value_parser = pair, value_name = "NAME=VALUE")]
    pub(crate) labels: Vec<(String, String)>,
    /// Bytes to send to the repository in a second at most
    #[arg(long, value_parser = rate, value_name = "SIZE")]
    pub(crate) limit: Option<u64>,
}

impl CreateArgs {
    pub(crate) fn labels(&self) -> BTreeMap<String, String> {
        self.labels.iter().cloned().collect()
    }
}

fn rate(text: &str) -> Result<u64, String> {
    match size::parse(text) {
        Ok(0) => Err("a rate of nothing never ends: give a size".to_owned()),
        Ok(bytes) => Ok(bytes),
        Err(error) => Err(error.to_string()),
    }
}

#[derive(Args, Debug)]
pub(crate) struct SelectArgs {
    #[command(flatten)]
    pub(crate) repo: Repo,
    /// Only those of volumes of this name
    #[arg(long, value_name = "NAME")]
    pub(crate) volume: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct OneArgs {
    /// The backup's id, or how it begins
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) repo: Repo,
}

#[derive(Args, Debug)]
pub(crate) struct InfoArgs {
    /// The backup's id, or how it begins
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) repo: Repo,
    /// Print the record that `import` takes
    #[arg(long)]
    pub(crate) record: bool,
}

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("what").args(["file", "all"]).required(true))]
pub(crate) struct ImportRecordArgs {
    /// A record that `info --record` printed
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) repo: Repo,
    /// All records that the repository keeps copies of
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Args, Debug)]
pub(crate) struct DeleteArgs {
    /// Ids of backups, or how they begin
    #[arg(required = true)]
    pub(crate) ids: Vec<String>,
    #[command(flatten)]
    pub(crate) repo: Repo,
    /// Also all that hang on them
    #[arg(long)]
    pub(crate) cascade: bool,
    /// Only say what would go, and how much would come free
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Args, Debug)]
pub(crate) struct PruneArgs {
    #[command(flatten)]
    pub(crate) repo: Repo,
    /// Only those of volumes of this name
    #[arg(long, value_name = "NAME")]
    pub(crate) volume: Option<String>,
    /// Keep so many of the newest
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) keep_last: u32,
    /// Keep the newest of each of so many hours that have one
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) keep_hourly: u32,
    /// The same by days (UTC)
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) keep_daily: u32,
    /// The same by ISO weeks
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) keep_weekly: u32,
    /// The same by months
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) keep_monthly: u32,
    /// The same by years
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) keep_yearly: u32,
    /// Only say what would become of each
    #[arg(long)]
    pub(crate) dry_run: bool,
}

impl PruneArgs {
    pub(crate) fn policy(&self) -> Policy {
        Policy {
            last: self.keep_last,
            hourly: self.keep_hourly,
            daily: self.keep_daily,
            weekly: self.keep_weekly,
            monthly: self.keep_monthly,
            yearly: self.keep_yearly,
        }
    }
}

#[derive(Args, Debug)]
pub(crate) struct GcArgs {
    #[command(flatten)]
    pub(crate) repo: Repo,
    /// Write a pack anew when more than so many percent of it are not needed
    #[arg(long, default_value_t = CollectOptions::default().max_unused_percent, value_name = "PERCENT",
        value_parser = clap::value_parser!(u32).range(0..=100))]
    pub(crate) max_unused: u32,
    /// Only say what would go
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// First end a session whose program is gone for certain: what it left behind goes
    #[arg(long, value_name = "ID", conflicts_with = "dry_run")]
    pub(crate) end_session: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct VerifyArgs {
    /// Ids of backups, or how they begin [default: all]
    pub(crate) ids: Vec<String>,
    #[command(flatten)]
    pub(crate) repo: Repo,
    /// So many of a hundred chunks, others each time
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) percent: u32,
}

#[derive(Args, Debug)]
pub(crate) struct ExportBackupArgs {
    /// The backup's id, or how it begins
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) repo: Repo,
    /// Where to listen: unix:PATH or tcp:HOST:PORT [default: a socket in the present directory]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) nbd: Option<String>,
    /// Directory for what was read, which goes at the end [default: that for temporary files]
    #[arg(long, value_name = "PATH")]
    pub(crate) scratch: Option<PathBuf>,
}

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("how").args(["in_place", "instant"]))]
pub(crate) struct RestoreArgs {
    /// The backup's id, or how it begins
    pub(crate) id: String,
    /// The volume
    pub(crate) volume: String,
    #[command(flatten)]
    pub(crate) repo: Repo,
    /// Over a volume that is there: writes what differs, after taking a snapshot for going back
    #[arg(long)]
    pub(crate) in_place: bool,
    /// In place, also while the volume is open elsewhere
    #[arg(long, requires = "in_place")]
    pub(crate) force: bool,
    /// The volume is usable at once, and is filled in the background; needs a served pool
    #[arg(long)]
    pub(crate) instant: bool,
    /// Leave out what is damaged, and list it
    #[arg(long, conflicts_with = "instant")]
    pub(crate) salvage: bool,
    /// Bytes to read from the repository in a second at most
    #[arg(long, value_parser = rate, value_name = "SIZE")]
    pub(crate) limit: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// List the names of keys
    #[command(after_help = "Examples:
  cairn backup key list --repo file:///srv/backups --key-file old.key")]
    List(KeyListArgs),
    /// Add a key or passphrase; the present one opens the repository
    #[command(after_help = "Examples:
  cairn backup key add second --key-file old.key --new-key-file new.key
  cairn backup key add people --key-file old.key --new-passphrase-file words")]
    Add(KeyAddArgs),
    /// Remove a key: it opens the repository no more
    #[command(after_help = "Examples:
  cairn backup key remove first --key-file new.key")]
    Remove(KeyRemoveArgs),
}

#[derive(Args, Debug)]
pub(crate) struct KeyListArgs {
    #[command(flatten)]
    pub(crate) repo: Repo,
}

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("new").args(["new_key_file", "new_passphrase_file"]).required(true))]
pub(crate) struct KeyAddArgs {
    /// Name of the new key
    pub(crate) label: String,
    #[command(flatten)]
    pub(crate) repo: Repo,
    /// File with the new key, 64 hexadecimal digits
    #[arg(long, value_name = "PATH")]
    pub(crate) new_key_file: Option<PathBuf>,
    /// File whose first line is the new passphrase
    #[arg(long, value_name = "PATH")]
    pub(crate) new_passphrase_file: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct KeyRemoveArgs {
    /// Name of the key
    pub(crate) label: String,
    #[command(flatten)]
    pub(crate) repo: Repo,
}
