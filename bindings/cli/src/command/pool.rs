//! `cairn pool create|info|events`.

use cairn_engine::{OpenOptions, Pool, PoolOptions, PoolStats, StorageKind};
use cairn_service::{Client, Failure, State, api};
use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use super::{describe, done, pool_of, upkeep, with_pool};
use crate::{
    args::{CreatePool, EventsArgs, Global, PoolCommand},
    output::{Output, Side, Table},
    progress, session,
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
    let path = match &args.path {
        Some(path) => path.clone(),
        None => pool_of(global)?,
    };
    let writing = Prewriting::begin(output, &args);
    let create = async |kind: StorageKind| {
        let mut options = PoolOptions::new().preallocate(args.preallocate).open(OpenOptions::new().storage(kind));
        if let Some(writing) = &writing {
            options = options.prewrite(writing.written.clone());
        }
        if let Some(size) = args.size {
            options = options.size(size);
        }
        if let Some(size) = args.journal_size {
            options = options.journal_size(size);
        }
        Pool::create(&path, options).await
    };
    let asked = global.storage.map(StorageKind::from);
    let made = session::with_storage(asked, &path, create, &|text| output.warn(text)).await;
    drop(writing);
    let pool = made?;
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

/// The bar over what a new pool's file is written with. In a thread of its own: the one that makes the pool does nothing else.
struct Prewriting {
    written: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Prewriting {
    fn begin(output: &Output, args: &CreatePool) -> Option<Self> {
        let bytes = args.size.filter(|_| args.prewrite)?;
        let (written, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let bar = progress::transfer(output, "writing all of it once".to_owned(), bytes);
        let (count, end) = (written.clone(), over.clone());
        let thread = std::thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                bar.set_position(count.load(Ordering::Relaxed));
                std::thread::park_timeout(Duration::from_millis(200));
            }
            bar.finish_and_clear();
        });
        Some(Self { written, over, thread: Some(thread) })
    }
}

impl Drop for Prewriting {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            drop(thread.join());
        }
    }
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
