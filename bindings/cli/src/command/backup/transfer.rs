//! Making and restoring backups: asked of whoever holds the pool.

use cairn_backup::{CreateOptions, Mode, Progress, RestoreOptions, Restored};
use cairn_engine::ErrorKind;
use cairn_service::{
    Failure,
    backup::{CreateBackup, FillingVolume, RestoreBackup},
};
use indicatif::ProgressBar;
use std::process::ExitCode;

use super::{super::interrupted, describe};
use crate::{
    args::{CreateArgs, Global, RestoreArgs},
    command::with_pool,
    exit,
    output::Output,
    progress,
    size::Bytes,
};

fn show(bar: &ProgressBar, progress: &Progress) {
    bar.set_length(progress.total);
    bar.set_position(progress.done);
}

pub(super) async fn create(global: &Global, args: CreateArgs, output: &Output) -> Result<(), Failure> {
    let request = CreateBackup {
        repository: args.repo.reference()?,
        options: CreateOptions {
            mode: if args.full { Mode::Full } else { Mode::Incremental },
            labels: args.labels(),
            parent: args.parent,
            snapshot: args.snapshot,
            ..CreateOptions::default()
        },
        volume: args.volume,
        limit: args.limit,
    };
    with_pool(global, output, async |session| {
        let bar = progress::transfer(output, format!("backing up {}", request.volume), 0);
        let backup = tokio::select! {
            backup = session.client().create_backup(&request, |p| show(&bar, &p)) => backup,
            failure = interrupted() => Err(failure.within("the backup was cancelled, and goes on from here when it is made again")),
        };
        bar.finish_and_clear();
        let backup = backup?;
        let (read, stored) = (Bytes(backup.statistics.read), Bytes(backup.statistics.stored));
        let text = format!(
            "backup {}: {}\nread {read}, stored {stored} in {} ms",
            describe::short(&backup),
            backup.reason,
            backup.statistics.millis
        );
        output.result(&backup, format!("{text}\nid {}", backup.id))
    })
    .await
}

pub(super) async fn restore(global: &Global, args: RestoreArgs, output: &Output) -> Result<ExitCode, Failure> {
    let request = RestoreBackup {
        repository: args.repo.reference()?,
        backup: args.id,
        volume: args.volume,
        options: RestoreOptions { in_place: args.in_place, force: args.force, salvage: args.salvage },
        limit: args.limit,
    };
    with_pool(global, output, async |session| {
        if args.instant {
            if !session.is_served() {
                let text = "nobody would fill the volume: serve the pool (cairn serve), or leave out --instant";
                return Err(Failure::new(ErrorKind::Invalid, text));
            }
            let filling = session.client().restore_instantly(&request).await?;
            output.result(&filling, usable(&filling))?;
            return Ok(ExitCode::SUCCESS);
        }
        let bar = progress::transfer(output, format!("restoring {}", request.volume), 0);
        let restored = tokio::select! {
            restored = session.client().restore_backup(&request, |p| show(&bar, &p)) => restored,
            failure = interrupted() => Err(failure.within("the restore was cancelled")),
        };
        bar.finish_and_clear();
        let restored = restored?;
        output.result(&restored, summary(&restored))?;
        Ok(if restored.holes.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(exit::CORRUPT) })
    })
    .await
}

fn usable(filling: &FillingVolume) -> String {
    format!(
        "volume {} can be used now, and is filled from backup {} in the background; see cairn status",
        filling.volume, filling.backup
    )
}

fn summary(restored: &Restored) -> String {
    let mut lines = vec![format!(
        "restored {} from backup {}: {} written, {} right already, {} cleared, in {} ms",
        restored.volume,
        restored.backup,
        Bytes(restored.written),
        Bytes(restored.unchanged),
        Bytes(restored.cleared),
        restored.millis
    )];
    if let Some(undo) = &restored.undo_snapshot {
        lines.push(format!("to go back: cairn snapshot revert {}@{undo}", restored.volume));
    }
    for hole in &restored.holes {
        lines.push(format!("not restored: {} bytes at offset {}: {}", hole.length, hole.offset, hole.cause));
    }
    lines.join("\n")
}
