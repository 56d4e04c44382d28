//! Deleting, pruning, collecting and verifying.

use cairn_backup::{CollectOptions, Job, Verdict, Verified, VerifyOptions};
use cairn_service::Failure;
use serde::Serialize;
use std::process::ExitCode;

use super::{describe, shown};
use crate::{
    args::{DeleteArgs, GcArgs, PruneArgs, VerifyArgs},
    exit,
    output::Output,
    size::Bytes,
};

pub(super) async fn delete(args: DeleteArgs, output: &Output) -> Result<(), Failure> {
    let repository = args.repo.reference()?.open().await?;
    let job = Job::new();
    let work = repository.delete(&args.ids, args.cascade, args.dry_run, &job);
    let deleted = shown(output, "reading maps", &job, false, work).await?;
    let word = if args.dry_run { "would delete" } else { "deleted" };
    let mut lines: Vec<String> = deleted.backups.iter().map(|id| format!("{word} {id}")).collect();
    lines.push(match args.dry_run {
        true => format!("{} would come free with the next garbage collection", Bytes(deleted.freed)),
        false => "what only they needed goes with the next garbage collection: cairn backup gc".to_owned(),
    });
    output.result(&deleted, lines.join("\n"))
}

/// Verdicts, for programs.
#[derive(Serialize)]
struct Pruned<'a> {
    dry_run: bool,
    backups: &'a [Verdict],
}

pub(super) async fn prune(args: PruneArgs, output: &Output) -> Result<(), Failure> {
    let repository = args.repo.reference()?.open().await?;
    let verdicts = repository.prune(&args.policy(), args.volume.as_deref(), args.dry_run).await?;
    let mut lines: Vec<String> = verdicts
        .iter()
        .map(|verdict| match (verdict.kept_by.is_empty(), args.dry_run) {
            (false, _) => format!("keep         {} ({})", describe::short(&verdict.backup), verdict.kept_by.join(", ")),
            (true, true) => format!("would merge  {}", describe::short(&verdict.backup)),
            (true, false) => format!("merged away  {}", describe::short(&verdict.backup)),
        })
        .collect();
    if lines.is_empty() {
        lines.push("no backups".to_owned());
    }
    output.result(&Pruned { dry_run: args.dry_run, backups: &verdicts }, lines.join("\n"))
}

pub(super) async fn collect(args: GcArgs, output: &Output) -> Result<(), Failure> {
    let repository = args.repo.reference()?.open().await?;
    if let Some(id) = &args.end_session {
        repository.end_session(id).await?;
    }
    let job = Job::new();
    let options = CollectOptions { max_unused_percent: args.max_unused, dry_run: args.dry_run };
    let collected = shown(output, "collecting", &job, false, repository.collect(&options, &job)).await?;
    let word = if args.dry_run { "would free" } else { "freed" };
    let mut lines = vec![format!(
        "{word} {}: {} packs that nothing needs, {} written anew; {} needed, {} unused and kept, {} objects deleted",
        Bytes(collected.freed),
        collected.unneeded_packs,
        collected.rewritten_packs,
        Bytes(collected.needed),
        Bytes(collected.unused),
        collected.deleted_objects
    )];
    lines.extend(collected.rewriting_failed.iter().map(|why| format!("no pack was written anew: {why}")));
    lines.extend(
        collected.unreadable.iter().map(|(pack, why)| format!("kept as it cannot be read: pack {pack}: {why}")),
    );
    lines.extend(collected.open_sessions.iter().map(|(id, who)| {
        format!("session {id} ({who}) has not ended: its packs stay. If its program is gone: cairn backup gc --end-session {id}")
    }));
    output.result(&collected, lines.join("\n"))
}

pub(super) async fn verify(args: VerifyArgs, output: &Output) -> Result<ExitCode, Failure> {
    let repository = args.repo.reference()?.open().await?;
    let job = Job::new();
    let options = VerifyOptions { backups: args.ids, percent: args.percent };
    let verified = shown(output, "verifying", &job, true, repository.verify(&options, &job)).await?;
    output.result(&verified, verdict(&verified))?;
    Ok(if verified.damaged.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(exit::CORRUPT) })
}

fn verdict(verified: &Verified) -> String {
    let mut lines =
        vec![format!("{} backups, {} chunks, {} read", verified.backups, verified.chunks, Bytes(verified.bytes))];
    for damaged in &verified.damaged {
        let other = if damaged.has_other_copy { " (another pack has it whole)" } else { "" };
        lines.push(format!("damaged: {}{other}", damaged.cause));
    }
    for range in &verified.ranges {
        lines.push(format!(
            "lost: backup {} of volume {}: {} bytes at offset {}",
            range.backup, range.volume, range.length, range.offset
        ));
    }
    lines.push(match (verified.damaged.is_empty(), verified.is_whole()) {
        (true, _) => "whole".to_owned(),
        (false, true) => "damaged, and nothing is lost: the next backup stores it again".to_owned(),
        (false, false) => {
            "damaged: the next backup of the volume stores what it still holds; restore --salvage brings all the rest"
                .to_owned()
        }
    });
    lines.join("\n")
}
