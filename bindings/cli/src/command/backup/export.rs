//! `cairn backup export`: a backup as a read-only NBD export, without restoring it. What clients read is kept in a pool of its own, which
//! goes at the end.

use cairn_backup::Job;
use cairn_engine::{MIB, Pool, PoolOptions};
use cairn_nbd::{Listen, Options, Server};
use cairn_service::Failure;
use serde::Serialize;

use super::{super::interrupted, describe};
use crate::{args::ExportBackupArgs, output::Output};

/// Name of the export: that of the volume may hold anything.
const EXPORT: &str = "backup";
/// Room for data beside that of the backup.
const SPARE: u64 = 256 * MIB;

/// What is offered, for programs.
#[derive(Serialize)]
struct Offered<'a> {
    ready: bool,
    backup: &'a str,
    size: u64,
    uri: String,
}

pub(super) async fn run(args: ExportBackupArgs, output: &Output) -> Result<(), Failure> {
    let repository = args.repo.reference()?.open().await?;
    let backup = repository.backup(&args.id).await?;
    let listen: Listen = match &args.nbd {
        Some(text) => text.parse()?,
        None => format!("unix:cairn-backup-{}.nbd", &backup.id[..12.min(backup.id.len())]).parse()?,
    };
    let scratch = args.scratch.clone().unwrap_or_else(std::env::temp_dir);
    let fail = |e| Failure::from(cairn_engine::Error::io(scratch.display().to_string(), e));
    let directory = tempfile::Builder::new().prefix("cairn-export-").tempdir_in(&scratch).map_err(fail)?;
    // Takes room in the file system only as clients read.
    let size = (backup.size + backup.size / 16 + SPARE).next_multiple_of(MIB);
    let pool = Pool::create(directory.path().join("pool.cairn"), PoolOptions::new().size(size)).await?;
    let offer = async {
        let filling = repository.restore_instantly(&backup.id, &pool, EXPORT, &Job::new()).await?;
        let options = Options { read_only: true, ..Options::default() };
        let server = Server::start(&pool, listen, options).await?;
        let offered = Offered { ready: true, backup: &backup.id, size: backup.size, uri: server.uri(EXPORT) };
        output.result(&offered, format!("backup {}\n{}\nready", describe::short(&backup), offered.uri))?;
        tokio::select! {
            () = filling.serve() => {}
            _ = interrupted() => {}
        }
        server.stop().await?;
        Ok(())
    };
    let outcome = offer.await;
    let closed = pool.close().await;
    outcome.and_then(|()| closed.map_err(Failure::from))
}
