//! The commands: each a few calls of the control interface, and what it tells about them.

mod attach;
mod backup;
mod bench;
mod describe;
mod export;
mod import;
mod pool;
mod qos;
mod regroup;
mod serve;
mod snapshot;
mod status;
mod top;
mod up;
mod upkeep;
mod volume;

use cairn_engine::{ErrorKind, OpenOptions};
use cairn_service::Failure;
use clap::CommandFactory;
use std::{path::PathBuf, process::ExitCode, time::Duration};

use crate::{
    args::{Cli, Command, Global},
    output::Output,
    session::{Reach, Session},
};

/// Runs the command.
pub(crate) async fn run(cli: Cli, output: &Output) -> Result<ExitCode, Failure> {
    let Cli { global, command } = cli;
    match command {
        Command::Pool(command) => pool::run(&global, command, output).await,
        Command::Volume(command) => volume::run(&global, command, output).await.map(done),
        Command::Snapshot(command) => snapshot::run(&global, command, output).await.map(done),
        Command::Clone(args) => snapshot::clone(&global, args, output).await.map(done),
        Command::Backup(command) => backup::run(&global, command, output).await,
        Command::Qos(command) => qos::run(&global, command, output).await.map(done),
        Command::Up(args) => up::run(&global, args, output).await.map(done),
        Command::Regroup(args) => regroup::run(&global, args, output).await,
        Command::Serve(args) => serve::run(&global, args, output).await.map(done),
        Command::Attach(args) => attach::attach(&global, args, output).await.map(done),
        Command::Detach(args) => attach::detach(&global, args, output).await.map(done),
        Command::Status => status::status(&global, output).await.map(done),
        Command::Top(args) => top::run(&global, args, output).await.map(done),
        Command::Bench(args) => bench::run(&global, args, output).await,
        Command::Stop => status::stop(&global, output).await.map(done),
        Command::Completions { shell } => completions(shell, output).map(done),
    }
}

fn done((): ()) -> ExitCode {
    ExitCode::SUCCESS
}

fn completions(shell: clap_complete::Shell, output: &Output) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "cairn", &mut script);
    output.raw(&String::from_utf8_lossy(&script))
}

/// The pool that the command is about.
fn pool_of(global: &Global) -> Result<PathBuf, Failure> {
    global
        .pool
        .clone()
        .ok_or_else(|| Failure::new(ErrorKind::Invalid, "no pool is named: give --pool PATH or set CAIRN_POOL"))
}

fn reach(global: &Global) -> Result<Reach, Failure> {
    Ok(Reach {
        pool: pool_of(global)?,
        storage: global.storage.map(Into::into),
        wait: Duration::from_secs(global.wait),
    })
}

/// Runs `work` on the pool, and lets go of it whatever came of the work.
async fn with_pool<T>(
    global: &Global,
    output: &Output,
    work: impl AsyncFnOnce(&Session) -> Result<T, Failure>,
) -> Result<T, Failure> {
    with_pool_as(global, output, OpenOptions::new(), work).await
}

/// The same; a pool that nobody serves is opened in this way.
async fn with_pool_as<T>(
    global: &Global,
    output: &Output,
    options: OpenOptions,
    work: impl AsyncFnOnce(&Session) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let session = Session::open(&reach(global)?, options, |text| output.warn(text)).await?;
    let outcome = work(&session).await;
    let closed = session.close().await;
    // The first failure explains the second.
    outcome.and_then(|value| closed.map(|()| value))
}

/// Ends with the first SIGINT or SIGTERM: for commands that have something to put away.
async fn interrupted() -> Failure {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        // Without handlers the signals end the process, as they do by default.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Failure::new(ErrorKind::Closed, "interrupted")
}
