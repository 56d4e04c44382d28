//! `cairn pool create|info|check|events`.

use cairn_engine::{CheckReport, OpenOptions, Pool, PoolOptions, PoolStats, StorageKind};
use cairn_service::{Client, Failure, State, api};
use std::process::ExitCode;

use super::{describe, done, pool_of, with_pool};
use crate::{
    args::{CheckArgs, CreatePool, EventsArgs, Global, PoolCommand},
    exit,
    output::{Output, Side, Table},
    progress, session,
    size::Bytes,
};

pub(super) async fn run(global: &Global, command: PoolCommand, output: &Output) -> Result<ExitCode, Failure> {
    match command {
        PoolCommand::Create(args) => create(global, args, output).await.map(done),
        PoolCommand::Info => info(global, output).await.map(done),
        PoolCommand::Check(args) => check(global, args, output).await,
        PoolCommand::Events(args) => events(global, args, output).await.map(done),
    }
}

async fn create(global: &Global, args: CreatePool, output: &Output) -> Result<(), Failure> {
    let path = match args.path {
        Some(path) => path,
        None => pool_of(global)?,
    };
    let create = async |kind: StorageKind| {
        let mut options = PoolOptions::new().preallocate(args.preallocate).open(OpenOptions::new().storage(kind));
        if let Some(size) = args.size {
            options = options.size(size);
        }
        if let Some(size) = args.journal_size {
            options = options.journal_size(size);
        }
        Pool::create(&path, options).await
    };
    let asked = global.storage.map(StorageKind::from);
    let pool = session::with_storage(asked, &path, create, &|text| output.warn(text)).await?;
    let stats = Client::in_process(State::new(pool.clone())).stats().await;
    pool.close().await?;
    let stats: PoolStats = stats?;
    let text = format!(
        "created pool {}: {}, {} for data and metadata",
        path.display(),
        Bytes(stats.size),
        Bytes(stats.capacity)
    );
    output.result(&stats, text)
}

async fn info(global: &Global, output: &Output) -> Result<(), Failure> {
    with_pool(global, output, async |session| {
        let stats = session.client().stats().await?;
        output.result(&stats, describe::pool(&stats))
    })
    .await
}

async fn check(global: &Global, args: CheckArgs, output: &Output) -> Result<ExitCode, Failure> {
    with_pool(global, output, async |session| {
        let bar = progress::steps(output, "checking".into());
        let report = session.client().check(args.read_data, |done, total| {
            bar.set_length(total);
            bar.set_position(done);
        });
        let report = report.await;
        bar.finish_and_clear();
        let report = report?;
        output.result(&report, told(&report, args.read_data))?;
        Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::from(exit::CORRUPT) })
    })
    .await
}

fn told(report: &CheckReport, read_data: bool) -> String {
    let mut text = format!("{} versions, {} nodes, {} data blocks", report.versions, report.nodes, report.data_blocks);
    if read_data {
        text += &format!(", {} of them read and verified", report.data_verified);
    }
    if report.leaked_blocks > 0 {
        text += &format!("\n{} blocks are marked as used and nothing refers to them", report.leaked_blocks);
    }
    for problem in &report.problems {
        text += &format!("\nproblem: {problem}");
    }
    match report.problems.len() {
        0 => text + "\nclean",
        1 => text + "\n1 problem found",
        problems => text + &format!("\n{problems} problems found"),
    }
}

async fn events(global: &Global, args: EventsArgs, output: &Output) -> Result<(), Failure> {
    with_pool(global, output, async |session| {
        let events = session.client().events(args.since).await?;
        let mut table = Table::new(&[("NUMBER", Side::Right), ("EVENT", Side::Left)]);
        for numbered in &events {
            table.row([numbered.seq.to_string(), describe::event(&numbered.event)]);
        }
        output.result(&api::Events { events }, table)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_what_is_wrong() {
        let mut report = CheckReport { versions: 3, ..CheckReport::default() };
        assert!(told(&report, false).ends_with("\nclean"));
        report.problems.push("node 17 does not match its checksum".into());
        let text = told(&report, true);
        assert!(text.contains("\nproblem: node 17") && text.ends_with("\n1 problem found"), "{text}");
    }
}
