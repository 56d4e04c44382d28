//! The command `cairn`: pools, volumes, snapshots, clones, differences, import, export, and the server.
//!
//! Every command is a call of the control interface (`cairn-service`). Who answers depends on the pool: the server that
//! holds it, over its control socket, or this process, which then opens the pool for the one command. [`session`] decides.
//!
//! Order of the modules, each using only those before it: [`size`], `time`, `exit`, `args`, `output`, `session`, `image`,
//! `command`.

#![warn(unreachable_pub)]

mod args;
mod command;
mod exit;
mod image;
mod output;
mod progress;
pub mod session;
pub mod size;
mod time;

use cairn_service::Failure;
use clap::Parser;
use std::process::ExitCode;

use crate::{args::Cli, output::Output};

/// Parses the command line, runs it, reports; the answer is the process's exit code.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = Output::new(cli.global.json);
    // The daemon's requests run beside each other; a command is one thing after another.
    let runtime = match cli.command {
        args::Command::Up(_) => cairn_service::daemon::runtime(cairn_service::daemon::NICE),
        _ => tokio::runtime::Builder::new_current_thread().enable_all().build(),
    };
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            return output.fail(&cairn_engine::Error::io("cannot start the asynchronous runtime", error).into());
        }
    };
    let outcome: Result<ExitCode, Failure> = runtime.block_on(command::run(cli, &output));
    // A reader of standard input may be stuck in its system call: leave it behind.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => code,
        Err(failure) => output.fail(&failure),
    }
}

/// The command line as clap sees it, for documentation and completion.
#[must_use]
pub fn command_line() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// Whether words are a command line, without carrying it out; the first is the program's name.
///
/// # Errors
/// What the user would be told, help and version included.
pub fn accepts<W: Into<std::ffi::OsString> + Clone>(words: impl IntoIterator<Item = W>) -> Result<(), clap::Error> {
    Cli::try_parse_from(words).map(drop)
}
