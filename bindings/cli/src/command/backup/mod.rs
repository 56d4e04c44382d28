//! `cairn backup …`: what needs no pool is done here, on the repository; what needs one is asked of whoever holds it.

mod describe;
mod export;
mod transfer;
mod upkeep;

use cairn_backup::{Backup, InitOptions, Job, Repository};
use cairn_engine::ErrorKind;
use cairn_service::{Failure, backup};
use serde::Serialize;
use std::{fs, process::ExitCode, time::Duration};

use crate::{
    args::{BackupCommand, Global, ImportRecordArgs, InfoArgs, InitArgs, KeyCommand, OneArgs, SelectArgs},
    output::Output,
    progress,
};

/// Between two looks at how far a job is.
const LOOK: Duration = Duration::from_millis(200);

pub(super) async fn run(global: &Global, command: BackupCommand, output: &Output) -> Result<ExitCode, Failure> {
    let done = |()| ExitCode::SUCCESS;
    match command {
        BackupCommand::Init(args) => init(args, output).await.map(done),
        BackupCommand::Create(args) => transfer::create(global, args, output).await.map(done),
        BackupCommand::List(args) => list(args, output).await.map(done),
        BackupCommand::Chain(args) => chain(args, output).await.map(done),
        BackupCommand::Info(args) => info(args, output).await.map(done),
        BackupCommand::Import(args) => import(args, output).await,
        BackupCommand::Delete(args) => upkeep::delete(args, output).await.map(done),
        BackupCommand::Merge(args) => merge(args, output).await.map(done),
        BackupCommand::Promote(args) => promote(args, output).await.map(done),
        BackupCommand::Prune(args) => upkeep::prune(args, output).await.map(done),
        BackupCommand::Gc(args) => upkeep::collect(args, output).await.map(done),
        BackupCommand::Verify(args) => upkeep::verify(args, output).await,
        BackupCommand::Export(args) => export::run(args, output).await.map(done),
        BackupCommand::Restore(args) => transfer::restore(global, args, output).await,
        BackupCommand::Key(command) => key(command, output).await.map(done),
    }
}

async fn init(args: InitArgs, output: &Output) -> Result<(), Failure> {
    let options = InitOptions { level: args.level, key_label: args.key_label };
    let repository = Repository::init(&args.repo.reference()?.location()?, &options).await?;
    let identity = repository.identity();
    let kept = if identity.encrypted { "encrypted" } else { "not encrypted" };
    output.result(identity, format!("made repository {} at {}, {kept}", identity.uuid, repository.url()))
}

async fn selected(args: &SelectArgs) -> Result<Vec<Backup>, Failure> {
    let mut backups = args.repo.reference()?.open().await?.backups().await?;
    backups.retain(|backup| args.volume.as_ref().is_none_or(|name| *name == backup.origin.volume));
    Ok(backups)
}

/// Backups, for programs.
#[derive(Serialize)]
struct Backups<'a> {
    backups: &'a [Backup],
}

async fn list(args: SelectArgs, output: &Output) -> Result<(), Failure> {
    let backups = selected(&args).await?;
    output.result(&Backups { backups: &backups }, describe::table(&backups))
}

async fn chain(args: SelectArgs, output: &Output) -> Result<(), Failure> {
    let backups = selected(&args).await?;
    output.result(&Backups { backups: &backups }, describe::tree(&backups))
}

async fn info(args: InfoArgs, output: &Output) -> Result<(), Failure> {
    let repository = args.repo.reference()?.open().await?;
    if args.record {
        return output.raw(&repository.record(&args.id).await?);
    }
    let backup = repository.backup(&args.id).await?;
    output.result(&backup, describe::one(&backup))
}

/// What came of an import, for programs.
#[derive(Serialize)]
struct Imported {
    backups: Vec<Backup>,
    failed: Vec<(String, String)>,
}

async fn import(args: ImportRecordArgs, output: &Output) -> Result<ExitCode, Failure> {
    let repository = args.repo.reference()?.open().await?;
    let job = Job::new();
    let (backups, failed) = match &args.file {
        Some(path) => {
            let text = fs::read_to_string(path)
                .map_err(|e| cairn_engine::Error::io(path.display().to_string(), e))
                .map_err(Failure::from)?;
            (vec![repository.import(&text, &job).await?], Vec::new())
        }
        None => repository.import_all(&job).await?,
    };
    let failed: Vec<_> = failed.into_iter().map(|(id, error)| (id, error.to_string())).collect();
    let mut lines: Vec<String> =
        backups.iter().map(|backup| format!("listed again: {}", describe::short(backup))).collect();
    lines.extend(failed.iter().map(|(id, error)| format!("not listed: {id}: {error}")));
    if lines.is_empty() {
        lines.push("every record that the repository keeps is listed".to_owned());
    }
    let code = if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(crate::exit::CORRUPT) };
    output.result(&Imported { backups, failed }, lines.join("\n"))?;
    Ok(code)
}

async fn merge(args: OneArgs, output: &Output) -> Result<(), Failure> {
    let backup = args.repo.reference()?.open().await?.merge(&args.id).await?;
    output.result(&backup, format!("merged away: {}", describe::short(&backup)))
}

async fn promote(args: OneArgs, output: &Output) -> Result<(), Failure> {
    let backup = args.repo.reference()?.open().await?.promote(&args.id).await?;
    output.result(&backup, format!("a full backup from now on: {}", describe::short(&backup)))
}

/// Names of keys, for programs.
#[derive(Serialize)]
struct Keys {
    keys: Vec<String>,
}

async fn key(command: KeyCommand, output: &Output) -> Result<(), Failure> {
    let repository = match command {
        KeyCommand::List(args) => args.repo.reference()?.open().await?,
        KeyCommand::Add(args) => {
            let location = args.repo.reference()?.location()?;
            let repository = Repository::open(&location).await?;
            let new = match (&args.new_key_file, &args.new_passphrase_file) {
                (Some(path), _) => backup::key(path)?,
                (None, Some(path)) => backup::passphrase(path)?,
                (None, None) => return Err(Failure::new(ErrorKind::Invalid, "give the new key or passphrase")),
            };
            let text = "give the present key or passphrase: --key-file or --passphrase-file";
            let present = location.secret.ok_or_else(|| Failure::new(ErrorKind::Invalid, text))?;
            repository.add_key(&present, &args.label, &new).await?;
            repository
        }
        KeyCommand::Remove(args) => {
            let repository = args.repo.reference()?.open().await?;
            repository.remove_key(&args.label).await?;
            repository
        }
    };
    let keys = repository.key_labels().await?;
    let text = if keys.is_empty() { "not encrypted: no keys".to_owned() } else { keys.join("\n") };
    output.result(&Keys { keys }, text)
}

/// Shows how far a job is while work goes on.
async fn shown<T>(
    output: &Output,
    what: &str,
    job: &Job,
    bytes: bool,
    work: impl Future<Output = Result<T, cairn_backup::Error>>,
) -> Result<T, Failure> {
    let bar = match bytes {
        true => progress::transfer(output, what.to_owned(), 0),
        false => progress::steps(output, what.to_owned()),
    };
    let mut work = std::pin::pin!(work);
    let mut tick = tokio::time::interval(LOOK);
    let outcome = loop {
        tokio::select! {
            outcome = &mut work => break outcome.map_err(Failure::from),
            _ = tick.tick() => {
                let progress = job.progress();
                bar.set_length(progress.total);
                bar.set_position(progress.done);
            }
        }
    };
    bar.finish_and_clear();
    outcome
}
