//! `cairn pool create|info|events`.

use cairn_engine::{OpenOptions, Pool, PoolOptions, PoolStats, StorageKind};
use cairn_service::{Client, Failure, State, api};
use std::process::ExitCode;

use super::{describe, done, pool_of, upkeep, with_pool};
use crate::{
    args::{CreatePool, EventsArgs, Global, PoolCommand},
    output::{Output, Side, Table},
    session,
    size::Bytes,
};

pub(super) async fn run(global: &Global, command: PoolCommand, output: &Output) -> Result<ExitCode, Failure> {
    match command {
        PoolCommand::Create(args) => create(global, args, output).await.map(done),
        PoolCommand::Info => info(global, output).await.map(done),
        PoolCommand::Check(args) if args.repair => upkeep::repair(global, args, output).await,
        PoolCommand::Check(args) => upkeep::check(global, args, output).await,
        PoolCommand::Scrub(args) => upkeep::scrub(global, args, output).await,
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
